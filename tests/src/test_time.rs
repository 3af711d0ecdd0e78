//! Memories that learn while they read: gradients of inner losses, mini-batches, and the mixers of the library that are made of them.

mod gradients;
mod mixers;
mod mlp;
mod solve;

use crate::build::model;
use crate::reference::Reference;
use braid_compiler::forms::recur;
use braid_compiler::graph::Graph;
use braid_dsl::model::Op;

/// The graph of a spec.
fn graph(text: &str) -> Graph {
    Graph::build(&model(text))
}

/// All outputs for tokens 0, 1, …; axes in the order of their names.
fn outputs(graph: &Graph, rows: usize, params: impl Fn(&str) -> Vec<f64>) -> Vec<f64> {
    let output = Reference::new(graph, params).run(&(0..rows as i64).collect::<Vec<_>>());
    let mut axes = output.axes.clone();
    // The sequence first.
    axes.sort_by_key(|axis| (graph.size(*axis).is_some(), graph.axis(*axis).name.clone()));
    output.ordered(&axes).data
}

/// The lines of the only recurrence's explanation that give its classes.
fn classes(graph: &Graph) -> Vec<String> {
    let node = graph.order().into_iter().find(|id| matches!(graph.op(*id), Op::Recur(_))).expect("a recurrence");
    let text = recur::explain(graph, node, None);
    text.lines().filter_map(|line| line.trim().strip_prefix("class: ")).map(str::to_owned).collect()
}

/// Numbers without a pattern, the same at every call.
fn numbers(count: usize, seed: u64) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as f64 / f64::from(1u32 << 30) - 1.0
    };
    (0..count).map(next).collect()
}

/// The largest difference of two lists of one length.
fn distance(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len(), "lengths");
    a.iter().zip(b).map(|(x, y)| (x - y).abs()).fold(0.0, f64::max)
}

#[test]
fn a_mini_batch_begins_where_its_length_divides_the_position() {
    let graph = graph(
        "model test(places: dim = 11, k: dim = 2)(tokens: [t]) -> [t, k] {\n  param table: [places, k]   param first: [k]\n  x = table[places: \
         tokens]\n  recur S: [k] = first, S_start: [k] over t every 4 {\n    S = start(S) + x\n    S_start = S_start + 1.0\n    hidden = 3.0 * \
         S\n    o = start(S) + 10.0 * S_start\n  }\n  return o\n}\n",
    );
    let Some(Op::Recur(recur)) = graph.order().into_iter().map(|id| graph.op(id).clone()).find(|op| matches!(op, Op::Recur(_)))
    else {
        panic!("a recurrence");
    };
    let names: Vec<&str> = recur.states.iter().map(|state| state.name.as_str()).collect();
    assert_eq!((names, recur.outputs.len()), (vec!["S", "S_start", "S_start_"], 1), "a name read inside only is no output");
    let table = numbers(22, 8);
    let found = outputs(&graph, 11, |path| if path == "table" { table.clone() } else { vec![5.0, 7.0] });
    let (mut now, mut start, mut wanted) = ([5.0, 7.0], [0.0; 2], vec![]);
    for at in 0..11 {
        if at % 4 == 0 {
            start = now;
        }
        now = [start[0] + table[2 * at], start[1] + table[2 * at + 1]];
        wanted.extend(start.map(|x| x + 10.0 * (at + 1) as f64));
    }
    assert!(distance(&found, &wanted) < 1e-12, "{found:?}\n{wanted:?}");
}
