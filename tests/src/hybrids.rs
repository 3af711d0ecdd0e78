//! Hybrid models of the library: parts of them against golden operators, the whole as native code, in one call and in pieces, against the evaluator.

use crate::inspecting::reported_is_allocated;
use crate::properties::compiled::{Compiled, agree, feed, made_up, together};
use crate::recurrences::case::Case;
use crate::recurrences::golden::Golden;
use crate::snapshots;
use braid_compiler::forms::Chunks;

/// A model of the library with some arguments.
fn spec(name: &str, arguments: &str) -> String {
    format!("use models.{name}\nmodel tested = {name}(vocab: 40, {arguments})\n")
}

/// The evaluator, native code with chunks, and native code in pieces agree.
#[track_caller]
fn runs(name: &str, arguments: &str) {
    let compiled = Compiled::in_chunks(&spec(name, arguments), Chunks::Rows(8));
    let tokens: Vec<i32> = (0..53).map(|at| (at * at + at / 3) % 40).collect();
    let ahead = compiled.session(1, 1).manifest().ahead;
    let wanted: Vec<f64> = behind_rows(&compiled, ahead, &tokens, 40).into_iter().map(f64::from).collect();
    agree("whole", &compiled.whole(&tokens), &wanted, 1e-4).unwrap_or_else(|error| panic!("{name}({arguments}): {error}"));
    let mut session = compiled.session(1, 1);
    let parts = [&tokens[..21], &tokens[21..22], &tokens[22..23], &tokens[23..]];
    let found: Vec<f32> = parts.iter().flat_map(|part| feed(&mut session, 0, part)).collect();
    agree("in parts", &found, &wanted, 1e-4).unwrap_or_else(|error| panic!("{name}({arguments}): {error}"));
}

#[test]
fn states_and_windows_in_turn() {
    runs("samba", "window: 9");
    assert_eq!(
        reported_is_allocated(&spec("samba", "window: 9"), 1 << 10),
        reported_is_allocated(&spec("samba", "window: 9"), 1 << 15)
    );
}

/// One memory of keys and values that several layers read.
#[test]
fn a_cache_for_several_layers() {
    let golden = Golden::open("yoco");
    let mut weights: Vec<(String, Vec<f64>)> = vec![];
    let mut add = |path: String, from: &str| weights.push((path, golden.all(&format!("in.{from}")).to_vec()));
    for layer in ["s0", "c0", "c1"] {
        let mixer = if layer == "s0" { "mixer." } else { "" };
        let mut of = |path: String, name: &str| add(format!("{layer}.{path}"), &format!("{layer}.{name}"));
        [("wq", "Wq"), ("wo", "Wo")].iter().for_each(|(path, name)| of(format!("{mixer}{path}"), name));
        [("wg", "Wg"), ("wu", "Wu"), ("wd", "Wd")].iter().for_each(|(path, name)| of(format!("ffn.{path}"), name));
    }
    [("s0.mixer.wk", "s0.Wk"), ("s0.mixer.wv", "s0.Wv"), ("memory.wk", "WK"), ("memory.wv", "WV")]
        .iter()
        .for_each(|(path, name)| add((*path).into(), name));
    let norms = ["s0.norm1", "s0.norm2", "memory.norm", "c0.norm1", "c0.norm2", "c1.norm1", "c1.norm2"];
    weights.extend(norms.map(|norm| (format!("{norm}.w"), vec![1.0; 32])));
    let text = "dim groups = 4
  dim k = 8
  s0 = normed_layer(mixer: attention(heads: 4, k: 8, window: 7, rope: rotary()), hidden: 40, eps: 1e-6)
  memory = written_once(groups: groups, k: k, eps: 1e-6)
  c0 = reads_memory(heads: 4, hidden: 40, eps: 1e-6)
  c1 = reads_memory(heads: 4, hidden: 40, eps: 1e-6)
  near = s0(x)
  (keys, values) = memory(near)
  y = c1(c0(near, keys, values), keys, values)";
    let outputs = "y[d] keys=K[groups, k] values=V[groups, k]";
    Case { golden: "yoco", columns: "x[d]", head: "use models.yoco\n", text, outputs, weights, ..Case::default() }.check();
    runs("yoco", "near: 2, far: 3");
    runs("yoco", "mixer: attention(heads: 4, groups: 2, k: 16, window: 6, rope: rotary())");
    let bytes = |far: usize| reported_is_allocated(&spec("yoco", &format!("far: {far}")), 1 << 15);
    assert_eq!(bytes(1), bytes(4), "layers that read a cache have none");
    let work = snapshots::run(&spec("yoco", "near: 2, far: 4"), "plan");
    let plan = work.plan().expect("a plan");
    let stores = plan.steps.iter().filter(|step| plan.functions[step.function].stores_keys).count();
    assert_eq!(stores, 1, "a cache is written once, whoever reads it");
}

/// Softmax heads with a window, Mamba beside them, and learned tokens in front.
#[test]
fn heads_beside_a_state_space_behind_learned_tokens() {
    let text = "use models.hymba
model m(
  places: dim = 100, memories: dim = 3, d: dim = 40, groups: dim = 3, k: dim = 16, n: dim = 8, rank: dim = 48,
)(tokens: [t]) -> [t, d] {
  param rows: [places, d]   param memory: [memories, d]
  x = select(position[t] < memories, memory[memories: min(position[t], memories - 1)], rows[places: tokens])
  none = 0.0 * position[t] * index[groups] * index[k]
  mix = heads_beside_states(heads: 3, n: n, rank: rank, window: 10, memories: 3, rope: identity())
  (y, keys, values) = mix(x, none, none)
  generate autoregressive(ahead: memories)
  return y
}
";
    let golden = Golden::open("hymba");
    let names = [
        ("wq", "W_q"),
        ("wk", "W_k"),
        ("wv", "W_v"),
        ("wu", "Wu"),
        ("wz", "Wz"),
        ("conv", "conv"),
        ("wdt", "Wdt"),
        ("dt_bias", "dt_bias"),
        ("wb", "WB"),
        ("wc", "WC"),
        ("a_log", "A_log"),
        ("skip", "D"),
        ("wo", "Wo"),
        ("norm_a", "g1"),
        ("norm_b", "g2"),
        ("beta_a", "b1"),
        ("beta_b", "b2"),
    ];
    let numbers = |path: &str, _: &[usize]| {
        let all = |name: &str| golden.all(name).iter().map(|x| *x as f32).collect::<Vec<f32>>();
        match path.strip_prefix("mix.") {
            None if path == "memory" => all("in.meta"),
            None => all("in.x"),
            // The golden's time steps have no low rank.
            Some("wr") => (0..48 * 48).map(|at| if at / 48 == at % 48 { 1.0 } else { 0.0 }).collect(),
            Some(path) => all(&format!("in.{}", names.iter().find(|(name, _)| *name == path).expect("a weight").1)),
        }
    };
    let compiled = Compiled::with(text, Chunks::Auto, numbers);
    for sequence in 0..2 {
        let text: Vec<i32> = (50 * sequence..50 + 50 * sequence).collect();
        let wanted = golden.sequence("out.y", sequence as usize);
        agree("evaluated", &behind_rows(&compiled, 3, &text, 40), wanted, 1e-5).unwrap_or_else(|error| panic!("{error}"));
        agree("whole", &compiled.whole(&text), wanted, 1e-5).unwrap_or_else(|error| panic!("{error}"));
        let mut session = compiled.session(1, 1);
        let parts: Vec<f32> = [&text[..7], &text[7..8], &text[8..]].iter().flat_map(|part| feed(&mut session, 0, part)).collect();
        agree("in parts", &parts, wanted, 1e-5).unwrap_or_else(|error| panic!("{error}"));
    }
}

/// What the evaluator gives of a text behind so many rows of a model's own, of results with so many numbers.
fn behind_rows(compiled: &Compiled, ahead: usize, text: &[i32], width: usize) -> Vec<f32> {
    let all = [&vec![0; ahead], text].concat();
    compiled.evaluated(&all).into_iter().skip(ahead * width).map(|x| x as f32).collect()
}

/// Rows of the model's own stand ahead of every text, whoever feeds it and however: several sequences at a time, anew, taken back, from copies and files.
#[test]
fn rows_ahead_of_every_text() {
    use braid_runtime::session::{Keep, Settings, Wanted};
    let compiled = Compiled::new(&spec("hymba", "window: 9, memories: 3"));
    assert_eq!(compiled.session(1, 1).manifest().ahead, 3);
    let text = |first: i32| -> Vec<i32> { (0..40).map(|at| (at * first + at / 3) % 40).collect() };
    let wanted = |text: &[i32]| -> Vec<f64> { behind_rows(&compiled, 3, text, 40).into_iter().map(f64::from).collect() };
    let is =
        |what: &str, found: &[f32], wanted: &[f64]| agree(what, found, wanted, 1e-4).unwrap_or_else(|error| panic!("{error}"));
    let (one, two) = (text(7), text(11));
    let (of_one, of_two) = (wanted(&one), wanted(&two));
    let mut session = compiled.sized(Settings { threads: 1, capacity: 40, slots: 2 });
    // Two begin together, by one token each; the first is given with its rows.
    let both = together(&mut session, &[(0, &one[..1]), (1, &two[..1])]);
    is("the first of one", &both[0], &of_one[..40]);
    is("the first of two", &both[1], &of_two[..40]);
    assert_eq!((session.position(0).unwrap(), session.room(0).unwrap()), (4, 48 - 4));
    is("the rest of two", &feed(&mut session, 1, &two[1..]), &of_two[40..]);
    assert_eq!(session.room(1).unwrap(), 48 - 43);
    // A copy goes on as the other does.
    let kept = session.snapshot(0).unwrap();
    is("the rest of one", &feed(&mut session, 0, &one[1..]), &of_one[40..]);
    session.restore(1, &kept).unwrap();
    is("a copy", &feed(&mut session, 1, &one[1..]), &of_one[40..]);
    // Anew, with a history; back to the middle, and to the very beginning.
    session.reset(0).unwrap();
    session.keep_history(0, Keep { every: 8, most: 4 }).unwrap();
    two.chunks(9).for_each(|part| drop(feed(&mut session, 0, part)));
    session.rollback(0, 3 + 20).unwrap();
    is("taken back", &feed(&mut session, 0, &two[20..]), &of_two[800..]);
    session.rollback(0, 3).unwrap();
    is("taken back to the rows", &feed(&mut session, 0, &one), &of_one);
    session.rollback(0, 0).unwrap();
    is("taken back to nothing", &feed(&mut session, 0, &two), &of_two);
    // A file knows the text.
    let path = compiled.path("a.state");
    session.save(0, &path, &two, &[]).unwrap();
    assert_eq!(session.load(1, &path).unwrap().ids, two);
    let error = session.prefill(1, &[0; 6], Wanted::Last, |_, _| {}).unwrap_err().to_string();
    assert!(error.contains("49 positions are needed"), "{error}");
}

/// Layers that read the keys of the one before have no cache.
#[test]
fn layers_that_share_keys_behind_learned_tokens() {
    runs("hymba", "window: 9, memories: 3");
    runs("hymba", "layers: 3, sharing: 1, whole: [1], window: 5, memories: 2");
    let bytes = |layers: usize, sharing: usize| {
        let arguments = format!("layers: {layers}, sharing: {sharing}, window: 9");
        reported_is_allocated(&spec("hymba", &arguments), 1 << 12)
    };
    let (one, two, own) = (bytes(1, 1), bytes(2, 2), bytes(2, 1));
    let states = 4 * (4 * 16 * 16 + 4 * 16 * 3);
    assert_eq!(two - one, states, "a layer that shares adds states and the rows of a convolution only");
    assert!(own > two);
}

/// Two shared blocks in turn, each use through an adapter of its own.
#[test]
fn shared_blocks_with_an_adapter_for_each_use() {
    runs("zamba2", "layers: 4, memory_at: [0, 2, 3]");
    let model = crate::build::model(&spec("zamba2", "layers: 4, memory_at: [0, 2, 3]"));
    let count = |part: &str| model.params.iter().filter(|param| param.path.contains(part)).count();
    assert_eq!((count("look_"), count("network_"), count("adapt.")), (2 * 6, 2 * 3, 3 * 3));
}

/// The parts of these models beside those of others whose golden files they agree with: the same numbers stand for parameters of one name.
#[test]
fn parts_are_those_of_other_models() {
    let result = |text: &str| {
        let spec = format!(
            "use models.zamba2\nuse models.zamba\nuse models.falcon_h1\nmodel m(d: dim = 16, hidden: dim = 12, vocab: dim = 40)(tokens: [t]) -> [t, d] {{\n  \
             param embed: [vocab, d]\n  x = embed[vocab: tokens]\n  {text}\n  generate autoregressive\n  return y\n}}\n"
        );
        let by_name = |path: &str, shape: &[usize]| made_up(path.rsplit('.').next().expect("a name"), shape);
        let tokens: Vec<i32> = (0..30).map(|at| (at * at + at / 3) % 40).collect();
        Compiled::with(&spec, Chunks::Auto, by_name).whole(&tokens)
    };
    let same = |what: &str, one: &str, other: &str| {
        let wanted: Vec<f64> = result(other).into_iter().map(f64::from).collect();
        agree(what, &result(one), &wanted, 1e-5).unwrap();
    };
    let dense = "f = swiglu(hidden: 12, act: \"gelu\")";
    let none = "none = 0.0 * position[t] * index[hidden]";
    let plain = format!("{none}\n  f = shared_network(hidden: hidden)\n  y = f(x, none, none)");
    same("nothing is added", &plain, &format!("{dense}\n  y = f(x)"));
    let look = "look = shared_look(heads: 4, groups: 2, k: 8, rope: identity())";
    let memory = "memory = global_memory(heads: 4, groups: 2, k: 8, hidden: 12)";
    let origin = "origin = rms[d](x * x, 1e-6)";
    let [one, other] = [format!("{look}\n  {dense}\n  y = f(look(x, origin))"), format!("{memory}\n  y = memory(x, origin)")];
    same("two inputs", &format!("{origin}\n  {one}"), &format!("{origin}\n  {other}"));
    same(
        "a scale",
        "f = scaled_network(hidden: 12, gate_scale: 1.0, down_scale: 2.5)\n  y = f(x)",
        "f = swiglu(hidden: 12)\n  y = 2.5 * f(x)",
    );
}

#[test]
fn attention_and_a_state_space_side_by_side() {
    runs("falcon_h1", "layers: 2");
    let scales =
        "key_scale: 0.6, attention_in: 0.9, attention_out: 1.2, ssm_in: 1.1, ssm_out: 0.7, gate_scale: 0.8, down_scale: 1.3";
    runs("falcon_h1", &format!("layers: 2, ssm_norm: true, ssm_groups: 2, embed_scale: 2.0, head_scale: 0.5, {scales}"));
}

#[test]
fn delta_attention_with_latent_attention() {
    runs("kimi_linear", "");
    runs("kimi_linear", "layers: 3, every: 2, dense: 0, scale: 2.4");
}

/// A denoiser whose layers scan both ways in the stead of attention (DiffuSSM; Yan et al. 2023, arXiv:2311.18257): by the evaluator.
#[test]
fn a_denoiser_that_scans_both_ways() {
    use crate::reference::Reference;
    use crate::reference::tensor::Tensor;
    use braid_compiler::graph::Graph;
    use braid_runtime::session::{Inputs, Values, Wanted};
    let scan = "mamba2(heads: 2, p: 12, n: 6)";
    let spec = format!(
        "use models.dit\nmodel tested = dit(layers: 2, d: 24, heads: 3, hidden: 40, channels: 10, out: 14, places: 20, \
         mixer: both_ways(forward: {scan}, backward: {scan}))\n"
    );
    let compiled = Compiled::new(&spec);
    let rows = 17;
    let given = [("latents", made_up("latents", &[rows * 10])), ("condition", made_up("condition", &[rows * 24]))];
    let mut session = compiled.session(2, 1);
    let mut inputs = Inputs::default();
    given.iter().for_each(|(name, numbers)| inputs.set(session.manifest(), name, Values::Floats(numbers)).expect("an input"));
    session.give(0, inputs).expect("a slot");
    let mut found = vec![];
    session.prefill(0, &vec![0; rows], Wanted::All, |_, logits| found.extend_from_slice(logits)).expect("rows");
    let graph = Graph::build(&crate::build::model(&spec));
    let tensors = graph.inputs.iter().zip(&given).map(|((_, ty), (_, data))| {
        let shape = ty.axes.iter().map(|axis| graph.size(*axis).unwrap_or(rows)).collect();
        Tensor { axes: ty.axes.clone(), shape, data: data.iter().map(|x| f64::from(*x)).collect() }
    });
    let wanted = Reference::new(&graph, |path| compiled.numbers(path)).run_inputs(&tensors.collect::<Vec<_>>()).data;
    agree("a denoiser", &found, &wanted, 1e-4).unwrap();
}
