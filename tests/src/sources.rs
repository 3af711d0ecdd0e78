//! Two sequences in one model: an encoder of a source and a decoder that attends to it, against the evaluator: in any cut, beside sequences with
//! other sources, taken back and restored; rows of a source in the place of tokens.

use crate::properties::compiled::{Compiled, agree, made_up, same};
use crate::reference::Reference;
use crate::reference::tensor::Tensor;
use braid_compiler::graph::Graph;
use braid_runtime::artifact::{self, Truncate};
use braid_runtime::session::{Feed, Inputs, Session, Values, Wanted};

/// The encoder looks both ways, remembers, convolves and attends; the decoder does so too, and sees the source in two layers.
const BOTH: &str = "block encoder(d: dim, channels: dim)(sound: [t, channels]) -> [t, d] {
  dim width = 3
  param w: [d, channels]   param conv: [d, width]
  x = convolve[width](sum[channels] sound * w, conv)
  back = reversed(x)
  recur h: [d] over t {
    h = 0.7 * h + back
    y = h
  }
  x = x + reversed(y) + 0.1 * ahead(x, 2) * float(length[t])
  attn = attention(heads: 2, k: 4, causal: false)
  near = attention(heads: 2, k: 4, window: 3)
  return x + attn(rmsnorm(x)) + near(x)
}

model both(d: dim = 12, channels: dim = 5, vocab: dim = 9)(tokens: [t], sound: [s, channels]) -> [t, vocab] {
  param embed: [vocab, d]   param slope: [d]
  memory = encoder(d: d)(sound)
  x = embed[vocab: tokens]
  repeat i in 0..2 {
    attn = attention(heads: 2, k: 4)
    cross = cross_attention(heads: 3, k: 4, bias: true)
    x = x + attn(rmsnorm(x))
    x = x + cross(rmsnorm(x), memory)
  }
  near = attend[d](x, memory, memory) { keep: key <= query   score: 0.2 * s - 0.1 * float(query - key) }
  recur h: [d] over t {
    h = 0.5 * h + near
    y = h
  }
  generate autoregressive
  return sum[d] (x + y) * embed
}
";

fn sound(number: usize, rows: usize) -> Vec<f32> {
    made_up(&format!("sound {number}"), &[rows * 5])
}

fn text(number: usize, count: usize) -> Vec<i32> {
    made_up(&format!("text {number}"), &[count]).iter().map(|x| ((x * 1e4) as i32).rem_euclid(9)).collect()
}

fn give(session: &mut Session, slot: usize, name: &str, numbers: &[f32]) {
    let mut inputs = Inputs::default();
    inputs.set(session.manifest(), name, Values::Floats(numbers)).unwrap();
    session.give(slot, inputs).unwrap();
}

/// What the evaluator says of a text and its source, cut after so many tokens.
fn evaluated(compiled: &Compiled, spec: &str, tokens: &[i32], (channels, sound): (usize, &[f32]), cut: usize) -> Vec<f64> {
    let graph = Graph::build(&crate::build::model(spec));
    let mut reference = Reference::new(&graph, |path| compiled.numbers(path));
    let parts = [&tokens[..cut], &tokens[cut..]];
    let run = |part: &&[i32]| {
        let source = sound.iter().map(|x| f64::from(*x)).collect();
        let ids = part.iter().map(|id| f64::from(*id)).collect();
        let tensors = graph.inputs.iter().map(|(_, ty)| match graph.of_source(ty) {
            true => Tensor { axes: ty.axes.clone(), shape: vec![sound.len() / channels, channels], data: Vec::clone(&source) },
            false => Tensor { axes: ty.axes.clone(), shape: vec![part.len()], data: Vec::clone(&ids) },
        });
        reference.run_inputs(&tensors.collect::<Vec<_>>()).data
    };
    parts.iter().filter(|part| !part.is_empty()).flat_map(run).collect()
}

fn fed(session: &mut Session, slot: usize, tokens: &[i32], cuts: &[usize]) -> Vec<f32> {
    let (mut all, mut at) = (Vec::new(), 0);
    for cut in cuts.iter().copied().chain([tokens.len()]) {
        session.prefill(slot, &tokens[at..cut], Wanted::All, |_, logits| all.extend_from_slice(logits)).unwrap();
        at = cut;
    }
    all
}

#[test]
fn a_decoder_sees_its_source_in_any_cut() {
    let compiled = Compiled::new(BOTH);
    let (tokens, sound) = (text(0, 41), sound(0, 23));
    let wanted = evaluated(&compiled, BOTH, &tokens, (5, &sound), 0);
    agree(
        "evaluated in two parts",
        &evaluated(&compiled, BOTH, &tokens, (5, &sound), 17).iter().map(|x| *x as f32).collect::<Vec<_>>(),
        &wanted,
        1e-6,
    )
    .unwrap();
    let mut session = compiled.session(2, 1);
    give(&mut session, 0, "sound", &sound);
    for cuts in [vec![], vec![1], vec![20, 21, 22], (1..41).collect()] {
        session.reset(0).unwrap();
        agree(&format!("cut at {cuts:?}"), &fed(&mut session, 0, &tokens, &cuts), &wanted, 1e-5).unwrap();
    }
}

/// Sources of one position, of some, and longer than the text; each sequence at its own place, all in one call.
#[test]
fn sequences_with_sources_of_their_own() {
    let compiled = Compiled::new(BOTH);
    let cases = [(1, 9), (64, 30), (17, 24)];
    let wanted: Vec<Vec<f64>> = cases
        .iter()
        .enumerate()
        .map(|(n, (rows, count))| evaluated(&compiled, BOTH, &text(n, *count), (5, &sound(n, *rows)), 0))
        .collect();
    let mut session = compiled.session(2, 3);
    let texts: Vec<Vec<i32>> = cases.iter().enumerate().map(|(n, (_, count))| text(n, *count)).collect();
    let mut found = vec![vec![]; 3];
    cases.iter().enumerate().for_each(|(n, (rows, _))| give(&mut session, n, "sound", &sound(n, *rows)));
    let lengths = [[4, 5, 0], [1, 28, 1], [9, 1, 14]];
    let mut at = [0; 3];
    for call in 0..3 {
        let slots: Vec<usize> = (0..3).filter(|slot| lengths[*slot][call] > 0).collect();
        let part = |slot: usize| &texts[slot][at[slot]..at[slot] + lengths[slot][call]];
        let feeds: Vec<Feed> = slots.iter().map(|slot| Feed::new(*slot, part(*slot), Wanted::All)).collect();
        let mut rest = session.forward(&feeds).unwrap();
        for slot in slots {
            let (own, others) = rest.split_at(lengths[slot][call] * 9);
            found[slot].extend_from_slice(own);
            rest = others;
            at[slot] += lengths[slot][call];
        }
    }
    for slot in 0..3 {
        agree(&format!("sequence {slot}"), &found[slot], &wanted[slot], 1e-5).unwrap();
    }
}

/// A step of decoding reads the weights of the decoder alone.
#[test]
fn a_step_reads_no_weights_of_the_encoder() {
    let compiled = Compiled::new(BOTH);
    let session = compiled.session(1, 1);
    let manifest = session.manifest();
    let encoder = manifest.packed.iter().filter(|packed| {
        let path = &manifest.params[packed.param].path;
        path.starts_with("encoder")
            || [".wk", ".wv", ".bk", ".bv"].iter().any(|end| path.starts_with("cross") && path.ends_with(end))
    });
    assert!(manifest.token_weights_bytes + encoder.map(|packed| packed.bytes).sum::<usize>() <= manifest.weights_bytes);
}

/// `inspect` counts what works on the source in the prefill, and not in the next token.
#[test]
fn the_source_is_counted_once() {
    let report = braid_compiler::inspect::inspect(&crate::build::model(BOTH));
    let json = braid_compiler::inspect::json(&report);
    let layers = json["layers"].as_array().expect("layers");
    let flops = |layer: &serde_json::Value| layer["flops_per_token"].as_u64().expect("a number");
    let encoder = layers.iter().find(|layer| layer["path"] == "encoder").expect("the encoder");
    assert_eq!((flops(encoder), &encoder["active_parameters"]), (0, &serde_json::json!(0)));
    assert!(encoder["flops_per_source_position"].as_u64() > Some(500));
    let one = json["totals"][0].clone();
    let (next, all) = (one["decode_flops"].as_u64().expect("a number"), one["prefill_flops"].as_u64().expect("a number"));
    assert!(all > next * 1024 / 2 && next < report.root.part.cost.at(1024) + 1);
}

/// A slot that is reset takes another source; one that is restored has that of then; what is made of the source stays when a text is cut.
#[test]
fn sources_stay_with_their_sequences() {
    let compiled = Compiled::new(BOTH);
    let (tokens, first, second) = (text(3, 30), sound(3, 40), sound(4, 11));
    let wanted = [&first, &second].map(|sound| evaluated(&compiled, BOTH, &tokens, (5, sound), 0));
    let mut session = compiled.session(1, 2);
    give(&mut session, 0, "sound", &first);
    agree("the first source", &fed(&mut session, 0, &tokens, &[12]), &wanted[0], 1e-5).unwrap();
    session.reset(0).unwrap();
    let head = fed(&mut session, 0, &tokens[..12], &[]);
    let snapshot = session.snapshot(0).unwrap();
    session.reset(0).unwrap();
    give(&mut session, 0, "sound", &second);
    agree("another source", &fed(&mut session, 0, &tokens, &[]), &wanted[1], 1e-5).unwrap();
    session.restore(1, &snapshot).unwrap();
    let both = [head, fed(&mut session, 1, &tokens[12..], &[])].concat();
    agree("restored elsewhere", &both, &wanted[0], 1e-5).unwrap();
    session.restore(0, &snapshot).unwrap();
    assert!(both[12 * 9..] == fed(&mut session, 0, &tokens[12..], &[])[..], "restored over a shorter source");

    let spec = BOTH.replace("recur h: [d] over t {\n    h = 0.5 * h + near\n    y = h\n  }\n  generate", "y = near\n  generate");
    let compiled = Compiled::new(&spec);
    let mut session = compiled.session(1, 1);
    let states = &session.manifest().states;
    assert!(states.iter().all(|state| matches!(state.truncate, Truncate::Keep | Truncate::Rows)), "{states:?}");
    assert_eq!(states.iter().filter(|state| state.truncate == Truncate::Keep).count(), 17);
    assert!(artifact::header(session.manifest()).contains("BRAID_KEEP, 0, 0"));
    give(&mut session, 0, "sound", &first);
    let whole = fed(&mut session, 0, &tokens, &[]);
    session.truncate(0, 7).unwrap();
    same("cut and fed again", &fed(&mut session, 0, &tokens[7..], &[]), &whole[7 * 9..], 1e-6).unwrap();
}

#[test]
fn what_a_source_lacks_is_said() {
    let compiled = Compiled::new(BOTH);
    let mut session = compiled.session(1, 1);
    let said = |session: &mut Session| session.step(&[(0, 1)]).unwrap_err().to_string();
    assert!(said(&mut session).contains("without a source: `sound [s, channels=5]` has no rows"));
    give(&mut session, 0, "sound", &sound(0, 257));
    assert!(said(&mut session).contains("257 positions are needed, but the caches hold 256"));
    give(&mut session, 0, "sound", &sound(0, 256));
    session.step(&[(0, 1)]).unwrap();
}

/// A picture's features in a text: the n-th mark is the n-th row of what an encoder made.
#[test]
fn features_in_the_place_of_tokens() {
    let spec = "model described(d: dim = 8, patch: dim = 6, vocab: dim = 9)(tokens: [t], picture: [s, patch]) -> [t, vocab] {
  param embed: [vocab, d]   param w: [d, patch]
  eyes = attention(heads: 2, k: 4, causal: false)
  seen = eyes(sum[patch] picture * w)
  place = placed_features(mark: 4)
  x = place(embed[vocab: tokens], tokens, seen)
  attn = attention(heads: 2, k: 4)
  generate autoregressive
  return sum[d] (x + attn(x)) * embed
}
";
    let compiled = Compiled::new(spec);
    let picture = made_up("picture", &[20 * 6]);
    // Marks at some places, more than there are rows.
    let tokens: Vec<i32> = (0..50).map(|at| if at % 2 == 1 || at == 20 { 4 } else { at % 9 }).collect();
    let mut session = compiled.session(2, 1);
    give(&mut session, 0, "picture", &picture);
    let wanted = evaluated(&compiled, spec, &tokens, (6, &picture), 0);
    for cuts in [vec![], vec![3, 24], (1..50).collect()] {
        session.reset(0).unwrap();
        agree(&format!("cut at {cuts:?}"), &fed(&mut session, 0, &tokens, &cuts), &wanted, 1e-5).unwrap();
    }
    // By hand: without attention a mark's logits are those of its row, and a mark without a row has none.
    let plain = spec.replace("(x + attn(x))", "x").replace("eyes(sum[patch] picture * w)", "sum[patch] picture * w");
    let compiled = Compiled::new(&plain);
    let (w, embed) = (compiled.numbers("w"), compiled.numbers("embed"));
    let mut number = 0;
    let row = |token: &i32| -> Vec<f64> {
        let of = |i: usize| (0..6).map(|p| f64::from(picture[number * 6 + p]) * w[i * 6 + p]).sum::<f64>();
        let x: Vec<f64> = match token {
            4 if number < 20 => (0..8).map(of).collect(),
            4 => vec![0.0; 8],
            token => embed[*token as usize * 8..][..8].to_vec(),
        };
        number += usize::from(*token == 4);
        (0..9).map(|n| (0..8).map(|i| x[i] * embed[n * 8 + i]).sum()).collect()
    };
    let wanted: Vec<f64> = tokens.iter().flat_map(row).collect();
    let mut session = compiled.session(1, 1);
    give(&mut session, 0, "picture", &picture);
    agree("by hand", &fed(&mut session, 0, &tokens, &[]), &wanted, 1e-5).unwrap();
}

/// The golden logits of a whole text, one token after the other, both sequences in one session.
#[test]
fn a_golden_decoder_step_by_step() {
    use crate::build::{Built, build, imported};
    use braid_runtime::artifact::Dtype;
    use braid_runtime::progress::Hidden;
    use braid_runtime::session::Settings;
    use braid_runtime::verify::Golden;
    use braid_runtime::weights::Weights;
    use std::sync::Arc;
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("goldens/whisper");
    let (spec, map) = imported(&folder.join("config.json"));
    let Built { artifact, folder: _scratch } = build(&spec, &map, "cpu", Dtype::F32);
    let golden = Golden::open(&folder.join("golden.safetensors"), &artifact.manifest).unwrap();
    let weights = Weights::open(&artifact.manifest, folder.to_str().unwrap(), 2, &Hidden).unwrap();
    let settings = Settings { threads: 2, capacity: 32, slots: 2 };
    let mut session = Session::new(Arc::new(artifact), Arc::new(weights), settings).unwrap();
    assert_eq!(golden.whole.len(), 2);
    for (slot, whole) in golden.whole.iter().enumerate() {
        session.give(slot, whole.inputs.clone()).unwrap();
    }
    let mut worst = 0.0f32;
    for at in 0..golden.whole[0].ids.len() {
        let tokens: Vec<(usize, i32)> = golden.whole.iter().map(|whole| whole.ids[at]).enumerate().collect();
        let found = session.step(&tokens).unwrap();
        for (slot, whole) in golden.whole.iter().enumerate() {
            let pairs = found[slot * 293..][..293].iter().zip(&whole.logits[at * 293..][..293]);
            worst = pairs.fold(worst, |worst, (a, b)| worst.max((a - b).abs()));
        }
    }
    println!("off by {worst:.2e}");
    assert!(worst < 9.33e-5, "{worst:e} is beyond the golden's tolerance");
}

/// A picture's rows stand in a text whose masks are filled: each pass keeps the most probable candidates of what the evaluator says of picture and text.
#[test]
fn a_text_about_a_picture_is_filled() {
    use braid_runtime::sample::Sampling;
    use braid_runtime::unmask::{Fill, fill};
    let spec = "use models.vision_diffusion
model m = vision_diffusion(
  layers: 2, d: 16, vocab: 23, heads: 2, k: 8, hidden: 24, eyes: 1, seen: 12, seen_heads: 2, seen_k: 6, patch: 10, places: 9, mark: 1, mask: 22,
)
";
    let compiled = Compiled::new(spec);
    let mut session = compiled.session(2, 1);
    for picture in [made_up("a cat", &[9 * 10]), made_up("a dog", &[7 * 10])] {
        let rows = picture.len() / 10;
        give(&mut session, 0, "picture", &picture);
        session.reset(0).unwrap();
        let prompt = [vec![3], vec![1; rows], vec![7, 9]].concat();
        let mut text = [&prompt[..], &[22; 12]].concat();
        let how = braid_runtime::artifact::Unmask { block: 12, steps: 5, ..session.manifest().unmask.clone().unwrap() };
        // Blocks are counted from the first mask on.
        let task = Fill { text: text.clone(), how, sampling: Sampling::default(), stop: vec![] };
        let mut passes = Vec::new();
        fill(&mut session, &task, |text| {
            passes.push(text.to_vec());
            Ok(())
        })
        .unwrap();
        assert_eq!(passes.len(), 5);
        for (pass, found) in passes.iter().enumerate() {
            let logits = evaluated(&compiled, spec, &text, (10, &picture), 0);
            let candidate = |place: usize| {
                let row = &logits[place * 23..][..22];
                let best = (0..22).fold(0, |best, id| if row[id] > row[best] { id } else { best });
                let total: f64 = logits[place * 23..][..23].iter().map(|x| (x - row[best]).exp()).sum();
                (1.0 / total, place, best as i32)
            };
            let mut open: Vec<_> = (0..text.len()).filter(|place| text[*place] == 22).map(candidate).collect();
            open.sort_by(|a, b| b.0.total_cmp(&a.0));
            let count = open.len().div_ceil(5 - pass);
            open[..count].iter().for_each(|(_, place, token)| text[*place] = *token);
            assert_eq!(*found, text, "pass {pass}");
        }
    }
}
