//! Recurrences as their papers write them, against golden results of each operator.

mod blocks;
pub mod case;
mod delta;
pub mod golden;
mod linear_attention;
mod linear_rnn;
mod mixing;
mod rounded;
mod run;
mod rwkv;
mod state_space;
mod table;
mod xlstm;

use braid_compiler::graph::Graph;
use braid_dsl::model::Op;
use case::Case;

/// Every name that a step assigns can be read afterwards; what is not read costs nothing.
#[test]
fn what_nothing_reads_is_not_computed() {
    let text = "model m(d: dim = 4, places: dim = 8)(tokens: [t]) -> [t, d] {
  param embed: [places, d]   param w: [d]
  x = embed[places: tokens]
  unused = x * w
  recur h: [d] over t {
    before = h * unused
    h = 0.5 * h + x
    y = h
    more = y * before
  }
  return y
}
";
    let graph = Graph::build(&crate::build::model(text));
    let recurrences: Vec<_> = graph.order().into_iter().filter(|id| matches!(graph.op(*id), Op::Recur(_))).collect();
    let [id] = recurrences[..] else { panic!("{} recurrences", recurrences.len()) };
    let Op::Recur(recur) = graph.op(id) else { unreachable!("filtered") };
    assert_eq!((recur.outputs.len(), graph.args(id).len()), (1, 1));
    let param = |name: &str| if name == "embed" { (0..32).map(f64::from).collect() } else { vec![1.0; 4] };
    let found = crate::reference::Reference::new(&graph, param).run(&[1, 2]);
    assert_eq!(found.data, [4.0, 5.0, 6.0, 7.0, 10.0, 11.5, 13.0, 14.5]);
}
