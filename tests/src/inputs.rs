//! Inputs beside token ids: native code, in one call and in pieces, against the evaluator; what is wrong with them.

use crate::properties::compiled::{Compiled, agree, feed, made_up};
use crate::reference::Reference;
use crate::reference::tensor::Tensor;
use braid_compiler::graph::Graph;
use braid_compiler::import::bind::WeightMap;
use braid_dsl::model::{Binary, Op};
use braid_runtime::artifact;
use braid_runtime::session::{Inputs, Session, Values, Wanted};

/// Token ids, a row of numbers, a matrix and a mark for each position, of a model with a state and a cache.
const MIXED: &str = "model mixed(d: dim = 12, k: dim = 4, rows: dim = 3, cols: dim = 5, places: dim = 7, vocab: dim = 11)(
  picture: [t, rows, cols], tokens: [t], mark: int [t], sound: [t, d], kinds: int [t, rows],
) -> [t, vocab] {
  param embed: [places, d]   param wp: [d, rows, cols]   param wq, wk: [k, d]   param head: [vocab, d]   param we: [vocab, rows]
  x = embed[places: tokens] + sum[rows, cols] picture * wp
  x = select(mark == 1, sound, x)
  recur h: [d] over t {
    h = 0.5 * h + sound
    y = h
  }
  x = x + y + attend[k](sum[d] x * wq, sum[d] sound * wk, x)
  generate autoregressive
  return sum[d] x * head + sum[rows] float(kinds) * we
}
";
const ROWS: usize = 37;

fn numbers(name: &str, count: usize) -> Vec<f32> {
    made_up(name, &[count])
}

fn whole(name: &str, count: usize, below: i32) -> Vec<i32> {
    numbers(name, count).iter().map(|x| ((x * 1000.0) as i32).rem_euclid(below)).collect()
}

/// What the model is given, as the runtime takes it and as the evaluator does.
fn given(compiled: &Compiled) -> (Inputs, Vec<Vec<f64>>) {
    let (picture, sound) = (numbers("picture", ROWS * 15), numbers("sound", ROWS * 12));
    let (tokens, mark, kinds) = (whole("tokens", ROWS, 7), whole("mark", ROWS, 2), whole("kinds", ROWS * 3, 4));
    let session = compiled.session(1, 1);
    let mut inputs = Inputs::default();
    for (name, values) in [
        ("picture", Values::Floats(&picture)),
        ("sound", Values::Floats(&sound)),
        ("mark", Values::Ints(&mark)),
        ("kinds", Values::Ints(&kinds)),
    ] {
        inputs.set(session.manifest(), name, values).unwrap();
    }
    let floats = |list: &[f32]| list.iter().map(|x| f64::from(*x)).collect::<Vec<_>>();
    let ints = |list: &[i32]| list.iter().map(|x| f64::from(*x)).collect::<Vec<_>>();
    (inputs, vec![floats(&picture), ints(&tokens), ints(&mark), floats(&sound), ints(&kinds)])
}

/// The evaluator's outputs for all rows at once.
fn evaluated(compiled: &Compiled, spec: &str, given: &[Vec<f64>], rows: usize) -> Vec<f64> {
    let graph = Graph::build(&crate::build::model(spec));
    let tensors = graph.inputs.iter().zip(given).map(|((_, ty), data)| {
        let shape = ty.axes.iter().map(|axis| graph.size(*axis).unwrap_or(rows)).collect();
        Tensor { axes: ty.axes.clone(), shape, data: data.clone() }
    });
    Reference::new(&graph, |path| compiled.numbers(path)).run_inputs(&tensors.collect::<Vec<_>>()).data
}

fn fed(session: &mut Session, tokens: &[i32], cuts: &[usize]) -> Vec<f32> {
    let (mut all, mut at) = (Vec::new(), 0);
    for cut in cuts.iter().copied().chain([tokens.len()]) {
        session.prefill(0, &tokens[at..cut], Wanted::All, |_, logits| all.extend_from_slice(logits)).unwrap();
        at = cut;
    }
    all
}

#[test]
fn inputs_of_every_kind_in_any_cut() {
    let compiled = Compiled::new(MIXED);
    let (inputs, given) = given(&compiled);
    let wanted = evaluated(&compiled, MIXED, &given, ROWS);
    let tokens = whole("tokens", ROWS, 7);
    for cuts in [vec![], vec![1], vec![20, 21, 22], (1..ROWS).collect()] {
        let mut session = compiled.session(2, 2);
        session.give(0, inputs.clone()).unwrap();
        agree(&format!("cut at {cuts:?}"), &fed(&mut session, &tokens, &cuts), &wanted, 1e-5).unwrap();
    }
}

/// A slot that goes back reads the inputs of the positions that it comes to again, and zeros behind the last of them.
#[test]
fn inputs_stay_with_their_positions() {
    let compiled = Compiled::new(MIXED);
    let (inputs, _) = given(&compiled);
    let tokens = whole("tokens", ROWS, 7);
    let mut session = compiled.session(1, 1);
    session.give(0, inputs.clone()).unwrap();
    // How many rows a call has decides how its products are cut, and so the last bits: the cuts are the same everywhere.
    let first = fed(&mut session, &tokens, &[20]);
    let behind = session.step(&[(0, 3)]).unwrap().to_vec();
    session.reset(0).unwrap();
    session.prefill(0, &tokens[..20], Wanted::None, |_, _| ()).unwrap();
    let snapshot = session.snapshot(0).unwrap();
    let rest = fed(&mut session, &tokens[20..], &[]);
    assert!(first[20 * 11..] == rest[..], "cut where a snapshot is taken");
    session.restore(0, &snapshot).unwrap();
    assert!(rest == fed(&mut session, &tokens[20..], &[]), "fed again");
    let mut longer = inputs;
    let sound = [numbers("sound", ROWS * 12), vec![0.0; 12]].concat();
    longer.set(session.manifest(), "sound", Values::Floats(&sound)).unwrap();
    session.give(0, longer).unwrap();
    assert!(behind == session.step(&[(0, 3)]).unwrap(), "zeros behind the last row");
}

#[test]
fn what_is_wrong_with_inputs_is_said() {
    let session = Compiled::new(MIXED).session(1, 1);
    let manifest = session.manifest();
    let mut inputs = Inputs::default();
    let mut said = |name: &str, values: Values| inputs.set(manifest, name, values).unwrap_err().to_string();
    let missing = said("pictures", Values::Floats(&[1.0]));
    assert!(missing.contains("reads no input `pictures`") && missing.contains("picture [t, rows=3, cols=5]"), "{missing}");
    assert!(said("picture", Values::Ints(&[1; 15])).contains("`picture` is float and is given int"));
    assert!(said("mark", Values::Floats(&[1.0])).contains("`mark` is int and is given float"));
    assert!(said("picture", Values::Floats(&[1.0; 16])).contains("rows of 15 numbers and is given 16"));
    let header = artifact::header(manifest);
    assert!(
        header.contains("BRAID_INPUTS INT64_C(4)") && header.contains("/* picture [t, rows=3, cols=5] */ {\"picture\", 1, 15, ")
    );
}

#[test]
fn sources_of_inputs_fit_the_model() {
    let model = crate::build::model(MIXED);
    let said = |text: &str| {
        let map = WeightMap::parse(&format!("params: {{}}\ninputs:\n  {text}\n")).unwrap();
        map.sources(&model).map_err(|error| error.to_string())
    };
    let good = said("picture: { tensor: pixels, axes: \"(y rows) (x cols)\", rows: \"y x\" }").unwrap();
    assert_eq!(good[0].1.dims, [["y", "rows"], ["x", "cols"]]);
    for (text, what) in [
        ("pictures: { tensor: p, axes: rows cols, rows: y }", "no such input"),
        ("picture: { tensor: p, axes: rows y, rows: y }", "`cols` does not stand there once"),
        ("picture: { tensor: p, axes: rows cols, rows: y }", "`y` does not stand there once"),
        ("picture: { tensor: p, axes: rows cols y z, rows: y }", "neither the input's nor in `rows`"),
        ("picture: { tensor: p, axes: rows 1, rows: y }", "only names stand there"),
    ] {
        let error = said(text).unwrap_err();
        assert!(error.contains(what) && error.contains("input `pict"), "{text}: {error}");
    }
}

/// Positions that are looked up in a table end where it does, and so do those of a source.
#[test]
fn positions_stay_in_their_table() {
    let compiled = Compiled::new(
        "model m(d: dim = 4, places: dim = 6, rows: dim = 3, vocab: dim = 9)(tokens: [t], sound: [s, d]) -> [t, vocab] {
  param embed: [vocab, d]   param place: [places, d]   param seat: [rows, d]
  memory = sound + seat[rows: position[s]]
  x = embed[vocab: tokens] + place[places: position[t]]
  x = x + attend[d](x, memory, memory)
  generate autoregressive
  return sum[d] x * embed
}
",
    );
    let mut session = compiled.session(1, 1);
    let give = |session: &mut Session, rows: usize| {
        let mut inputs = Inputs::default();
        inputs.set(session.manifest(), "sound", Values::Floats(&vec![0.5; rows * 4])).unwrap();
        session.give(0, inputs).unwrap();
        session.reset(0).unwrap();
    };
    give(&mut session, 4);
    let said = session.step(&[(0, 1)]).unwrap_err().to_string();
    assert!(said.contains("4 positions, of a model that looks its positions up in a table of 3"), "{said}");
    give(&mut session, 3);
    assert_eq!(session.room(0).unwrap(), 6);
    session.prefill(0, &[1; 6], Wanted::None, |_, _| ()).unwrap();
    assert_eq!(session.room(0).unwrap(), 0);
    let said = session.step(&[(0, 1)]).unwrap_err().to_string();
    assert!(said.contains("7 positions, of a model that looks its positions up in a table of 6"), "{said}");
}

/// What a model computes an index from may lie outside of the table, on both sides, in equations and in recurrences: it is the nearest row, and
/// nothing beside the table is read. What cannot leave it is looked up as it is.
#[test]
fn computed_indices_stay_inside_of_their_table() {
    let compiled = Compiled::new(
        "model m(d: dim = 8, rows: dim = 5, place: dim = 3, vocab: dim = 20)(tokens: [t]) -> [t, vocab] {
  param embed: [vocab, d]   param w: [rows, d]   param p: [place, d]
  x = embed[vocab: tokens] + w[rows: 2 * position[t] - 3] + w[rows: tokens - 7] + p[place: position[t] % 3]
  recur S: [d] over t {
    S = 0.5 * S + w[rows: 4 - position[t]] + p[place: min(tokens, 2)]
    o = S
  }
  generate autoregressive
  return sum[d] (x + o) * embed
}
",
    );
    let tokens: Vec<i32> = (0..14).map(|at| (at * 7) % 20).collect();
    let table = |name: &str| compiled.numbers(name);
    let (embed, w, p) = (table("embed"), table("w"), table("p"));
    let row = |table: &[f64], at: i64| {
        let last = table.len() as i64 / 8 - 1;
        table[(at.clamp(0, last) * 8) as usize..][..8].to_vec()
    };
    let mut state = [0.0; 8];
    let mut wanted = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        let (at, token) = (at as i64, i64::from(*token));
        let parts = [row(&embed, token), row(&w, 2 * at - 3), row(&w, token - 7), row(&p, at % 3)];
        let (falls, few) = (row(&w, 4 - at), row(&p, token.min(2)));
        (0..8).for_each(|c| state[c] = 0.5 * state[c] + falls[c] + few[c]);
        let x: Vec<f64> = (0..8).map(|c| state[c] + parts.iter().map(|part| part[c]).sum::<f64>()).collect();
        wanted.extend(embed.chunks(8).map(|e| e.iter().zip(&x).map(|(a, b)| a * b).sum::<f64>()));
    }
    for cut in [14, 1, 5] {
        let mut session = compiled.session(1, 1);
        let found: Vec<f32> = tokens.chunks(cut).flat_map(|part| feed(&mut session, 0, part)).collect();
        agree("nearest rows", &found, &wanted, 1e-5).unwrap_or_else(|error| panic!("{error}"));
    }
}

/// Products that whole numbers of 32 bits cannot hold begin anew, below zero too: the row is still one of the table's.
#[test]
fn indices_that_begin_anew_stay_inside_of_their_table() {
    let compiled = Compiled::new(
        "model m(d: dim = 8, rows: dim = 5, vocab: dim = 20)(tokens: [t]) -> [t, vocab] {
  param embed: [vocab, d]   param w: [rows, d]
  x = embed[vocab: tokens] + w[rows: (position[t] * 1000003 * 1001) % rows] + w[rows: min(position[t] * 1000003 + 2147000000, 4)]
  recur S: [d] over t {
    S = 0.5 * S + w[rows: (position[t] * 1000003 * 1001) % 5]
    o = S
  }
  generate autoregressive
  return sum[d] (x + o) * embed
}
",
    );
    let tokens: Vec<i32> = (0..14).map(|at| (at * 7) % 20).collect();
    let (embed, w) = (compiled.numbers("embed"), compiled.numbers("w"));
    let row = |table: &[f64], at: i32| table[at.clamp(0, table.len() as i32 / 8 - 1) as usize * 8..][..8].to_vec();
    let mut state = [0.0; 8];
    let mut wanted = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        let product = (at as i32).wrapping_mul(1_000_003);
        let (far, sum) = (product.wrapping_mul(1001) % 5, product.wrapping_add(2_147_000_000).min(4));
        let parts = [row(&embed, *token), row(&w, far), row(&w, sum)];
        (0..8).for_each(|c| state[c] = 0.5 * state[c] + parts[1][c]);
        let x: Vec<f64> = (0..8).map(|c| state[c] + parts.iter().map(|part| part[c]).sum::<f64>()).collect();
        wanted.extend(embed.chunks(8).map(|e| e.iter().zip(&x).map(|(a, b)| a * b).sum::<f64>()));
    }
    for cut in [14, 1] {
        let mut session = compiled.session(1, 1);
        let found: Vec<f32> = tokens.chunks(cut).flat_map(|part| feed(&mut session, 0, part)).collect();
        agree("nearest rows", &found, &wanted, 1e-5).unwrap_or_else(|error| panic!("{error}"));
    }
}

/// How far an index may reach is found once for each value that it is made of, however often that is used.
#[test]
fn an_index_of_many_sums_is_bounded_soon() {
    let sums: String = (0..40).map(|n| format!("  i{} = i{n} + i{n}\n", n + 1)).collect();
    let text = format!(
        "model m(d: dim = 8, rows: dim = 5, vocab: dim = 20)(tokens: [t]) -> [t, vocab] {{\n  param embed: [vocab, d]   param w: [rows, d]\n  \
         i0 = position[t] % 2\n{sums}  x = embed[vocab: tokens] + w[rows: i40] + w[rows: i1]\n  generate autoregressive\n  return sum[d] x * \
         embed\n}}\n"
    );
    let model = crate::build::model(&text);
    let clamps = model.values.iter().filter(|value| matches!(value.op, Op::Binary(Binary::Min | Binary::Max))).count();
    // Both for what may have begun anew, none for what stays below two.
    assert_eq!(clamps, 2);
}
