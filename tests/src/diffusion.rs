//! Masked diffusion: bidirectional models against reference logits, and the texts that they fill, token for token after every pass.

use crate::build::{Built, build, imported};
use crate::properties::compiled::{Compiled, same};
use crate::reference::checkpoint::Checkpoint;
use braid_runtime::artifact::{Dtype, Unmask};
use braid_runtime::progress::Hidden;
use braid_runtime::sample::Sampling;
use braid_runtime::session::{Session, Settings, Wanted};
use braid_runtime::unmask::{Chooser, Fill, fill, slots};
use braid_runtime::verify::{Golden, compare};
use braid_runtime::{Artifact, Weights};
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("goldens").join(name)
}

fn tiny() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/tiny-diffusion/weights")
}

/// A compiled checkpoint with its weights, and the folder that the library needs as long.
fn loaded(checkpoint: &Path) -> (Arc<Artifact>, Arc<Weights>, tempfile::TempDir) {
    let (spec, map) = imported(&checkpoint.join("config.json"));
    let Built { artifact, folder } = build(&spec, &map, "cpu", Dtype::F32);
    let weights = Weights::open(&artifact.manifest, checkpoint.to_str().unwrap(), 2, &Hidden).unwrap();
    (Arc::new(artifact), Arc::new(weights), folder)
}

fn session(artifact: &Arc<Artifact>, weights: &Arc<Weights>, capacity: usize, slots: usize) -> Session {
    Session::new(artifact.clone(), weights.clone(), Settings { threads: 2, capacity, slots }).unwrap()
}

fn ids(golden: &Checkpoint, name: &str) -> Vec<i32> {
    golden.tensor(name).unwrap_or_else(|| panic!("no {name}")).1.iter().map(|id| *id as i32).collect()
}

/// The text after every pass.
fn passes(session: &mut Session, task: &Fill) -> Vec<Vec<i32>> {
    let mut all = Vec::new();
    fill(session, task, |text| {
        all.push(text.to_vec());
        Ok(())
    })
    .unwrap();
    all
}

fn masked(prompt: &[i32], mask: i32, more: usize) -> Vec<i32> {
    [prompt, &vec![mask; more]].concat()
}

#[test]
fn llada_has_the_golden_logits() {
    let (artifact, weights, _folder) = loaded(&folder("llada"));
    assert_eq!(artifact.manifest.first_rows, None);
    let report = compare(artifact, weights, &folder("llada/golden.safetensors"), 2).unwrap();
    assert!(report.max_abs() <= 8.17e-5, "logits are {:e} off", report.max_abs());
}

#[test]
fn llada_fills_as_the_reference_sampler_does() {
    let golden = Checkpoint::open(&folder("llada/golden.safetensors"));
    let (artifact, weights, _folder) = loaded(&folder("llada"));
    let how = Unmask { block: 8, steps: 4, ..artifact.manifest.unmask.clone().unwrap() };
    let (prompts, steps) = (ids(&golden, "prompt_ids"), ids(&golden, "sampler_tokens"));
    for row in 0..2 {
        let text = masked(&prompts[row * 13..][..13], how.mask, 24);
        let task = Fill { text, how: how.clone(), sampling: Sampling::default(), stop: vec![] };
        let found = passes(&mut session(&artifact, &weights, 37, 1), &task);
        let wanted: Vec<Vec<i32>> = (0..12).map(|step| steps[(step * 2 + row) * 37..][..37].to_vec()).collect();
        assert_eq!(found, wanted, "row {row}");
    }
}

#[test]
fn the_trained_example_has_the_golden_logits_and_texts() {
    let golden = Checkpoint::open(&folder("tiny-diffusion/golden.safetensors"));
    let (artifact, weights, _folder) = loaded(&tiny());
    let how = artifact.manifest.unmask.clone().unwrap();
    let tokens = ids(&golden, "masked.input_ids");
    let mut whole = session(&artifact, &weights, 256, 1);
    let logits = whole.replace(0, 0, &tokens, Wanted::All).unwrap();
    let wanted = golden.tensor("masked.logits").unwrap().1;
    let worst = logits.iter().zip(wanted).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max);
    assert!(worst <= 2e-4, "logits are {worst:e} off");
    let text = std::fs::read_to_string(folder("tiny-diffusion/golden.json")).unwrap();
    let told: serde_json::Value = serde_json::from_str(&text).unwrap();
    for (number, sampler) in told["sampler"].as_array().unwrap().iter().enumerate() {
        let count = |name: &str| sampler[name].as_u64().unwrap() as usize;
        let how = Unmask { block: count("block_length"), steps: count("steps_per_block"), ..how.clone() };
        let text = masked(&ids(&golden, &format!("sampler{number}.prompt_ids")), how.mask, count("gen_length"));
        let repetition = sampler["repetition_penalty"].as_f64().unwrap() as f32;
        let task = Fill { text, how, sampling: Sampling { repetition, ..Sampling::default() }, stop: vec![] };
        let found = fill(&mut whole, &task, |_| Ok(())).unwrap();
        assert_eq!(found.text, ids(&golden, &format!("sampler{number}.output_ids")), "sampler {number}");
    }
}

#[test]
fn a_pass_keeps_the_most_probable_candidates() {
    let golden = Checkpoint::open(&folder("ops/low_confidence_remasking.safetensors"));
    let (logits, wanted) = (golden.tensor("in.logits").unwrap().1, ids(&golden, "out.tokens"));
    let how = Unmask { mask: 50, block: 16, steps: 5, random: false, never: vec![], guidance: 0.0 };
    for row in 0..2 {
        let mut block = vec![50; 16];
        let mut chooser = Chooser::new(&how, Sampling::default(), &block).unwrap();
        for (step, count) in [4, 3, 3, 3, 3].into_iter().enumerate() {
            let at = (step * 2 + row) * 16;
            let step_logits: Vec<f32> = logits[at * 51..][..16 * 51].iter().map(|x| *x as f32).collect();
            chooser.choose(&block, &step_logits, count).unwrap().into_iter().for_each(|(place, token)| block[place] = token);
            assert_eq!(block, wanted[at..][..16], "row {row}, step {step}");
        }
    }
}

/// Fixed tokens between masks stay; random remasking and a temperature repeat with their seed; a stop token ends the text after its block.
#[test]
fn fixed_tokens_seeds_and_stops() {
    let (artifact, weights, _folder) = loaded(&folder("llada"));
    let how = Unmask { block: 8, steps: 3, random: true, ..artifact.manifest.unmask.clone().unwrap() };
    let mut text = masked(&[5, 6, 7], how.mask, 21);
    (text[10], text[11], text[20]) = (9, 8, 3);
    let task = |seed, stop| {
        let sampling = Sampling { temperature: 1.0, seed, ..Sampling::default() };
        Fill { text: text.clone(), how: how.clone(), sampling, stop }
    };
    let mut session = session(&artifact, &weights, 24, 1);
    let all = passes(&mut session, &task(1, vec![]));
    assert_eq!(all.len(), 9);
    let last = &all[8];
    assert!(!last.contains(&how.mask) && (last[10], last[11], last[20]) == (9, 8, 3) && last[..3] == [5, 6, 7]);
    assert_eq!(passes(&mut session, &task(1, vec![])), all, "a seed repeats");
    assert_ne!(passes(&mut session, &task(2, vec![])), all);
    let stopped = fill(&mut session, &task(1, vec![last[4]]), |_| Ok(())).unwrap();
    assert_eq!((stopped.passes, &stopped.text[..11]), (3, &last[..11]));
    assert_eq!(stopped.text[12], how.mask);
}

/// Guidance of strength w takes `(1 + w) logits - w` logits without the prompt.
#[test]
fn guidance_compares_with_a_masked_prompt() {
    let (artifact, weights, _folder) = loaded(&folder("llada"));
    let how = Unmask { block: 6, steps: 1, guidance: 1.5, ..artifact.manifest.unmask.clone().unwrap() };
    let text = masked(&[5, 6, 7, 90], how.mask, 6);
    let mut one = session(&artifact, &weights, 10, 1);
    let own = one.replace(0, 0, &text, Wanted::Span(4, 10)).unwrap().to_vec();
    let bare = one.replace(0, 0, &[how.mask; 10], Wanted::Span(4, 10)).unwrap().to_vec();
    let guided: Vec<f32> = own.iter().zip(&bare).map(|(own, bare)| bare + 2.5 * (own - bare)).collect();
    let mut chooser = Chooser::new(&how, Sampling::default(), &text).unwrap();
    let mut wanted = text.clone();
    chooser.choose(&text[4..], &guided, 6).unwrap().into_iter().for_each(|(place, token)| wanted[4 + place] = token);
    let task = Fill { text, how: how.clone(), sampling: Sampling::default(), stop: vec![] };
    let found = fill(&mut session(&artifact, &weights, 10, slots(&how)), &task, |_| Ok(())).unwrap();
    assert_eq!(found.text, wanted);
}

const BLOCKS: &str = "use models.diffusion\n\nmodel m = diffusion_transformer(layers: 3, d: 24, vocab: 40, heads: 3, k: 8, hidden: 32, span: 6, mask: 39)\n";

/// Blocks in the caches give what the evaluator gives for the whole text, and a call begins where a block does.
#[test]
fn finished_blocks_stay_in_the_caches() {
    let compiled = Compiled::new(BLOCKS);
    let text: Vec<i32> = (0..40).map(|at| (at * at + 5) % 39).collect();
    let wanted = compiled.evaluated(&text);
    crate::properties::compiled::agree("whole", &compiled.whole(&text), &wanted, 1e-5).unwrap();
    let mut session = compiled.session(2, 1);
    let first = session.replace(0, 0, &text[..24], Wanted::All).unwrap().to_vec();
    session.replace(0, 24, &[3; 6], Wanted::None).unwrap();
    let rest = session.replace(0, 24, &text[24..], Wanted::All).unwrap();
    same("in parts", &[&first[..], rest].concat(), &compiled.whole(&text), 1e-6).unwrap();
    let error = session.forward(&[braid_runtime::Feed::new(0, &text[..3], Wanted::All)]).unwrap_err().to_string();
    assert!(error.contains("blocks of 6 positions"), "{error}");
}

/// Filling with finished blocks in the caches chooses what filling with the whole text in each pass does.
#[test]
fn block_diffusion_with_caches_is_that_without() {
    let compiled = Compiled::new(BLOCKS);
    let how = Unmask { mask: 39, block: 6, steps: 3, random: false, never: vec![], guidance: 0.0 };
    // Known tokens stand between the masks: masks in like surroundings would be chosen in an order that rounding decides.
    let mut text = masked(&(0..8).collect::<Vec<_>>(), 39, 20);
    (8..28).step_by(2).for_each(|at| text[at] = (7 * at as i32 + 3) % 39);
    let task = Fill { text: text.clone(), how: how.clone(), sampling: Sampling::default(), stop: vec![] };
    let found = passes(&mut compiled.session(2, 1), &task);
    let (mut plain, mut all) = (text.clone(), Vec::new());
    let mut chooser = Chooser::new(&how, Sampling::default(), &text).unwrap();
    for begin in (6..text.len()).step_by(6) {
        let end = (begin + 6).min(text.len());
        for step in 0..3 {
            let count = plain[begin..end].iter().filter(|token| **token == 39).count().div_ceil(3 - step);
            let logits = &compiled.whole(&plain)[begin * 40..end * 40];
            let chosen = chooser.choose(&plain[begin..end], logits, count).unwrap();
            chosen.into_iter().for_each(|(place, token)| plain[begin + place] = token);
            all.extend((count > 0).then(|| plain.clone()));
        }
    }
    assert_eq!(found, all);
}

/// The first positions of a prefix model see each other; then it goes on token by token.
#[test]
fn a_prefix_comes_in_one_call() {
    let compiled = Compiled::new(
        "model m(d: dim = 16, heads: dim = 2, k: dim = 8, vocab: dim = 30)(tokens: [t]) -> [t, vocab] {\n  param embed: [vocab, d]   param wq, wk, \
         wv: [heads, k, d]   param wo: [d, heads, k]\n  x = embed[vocab: tokens]\n  o = attend[k](sum[d] x * wq, sum[d] x * wk, sum[d] x * wv) { \
         keep: prefix(5) }\n  generate autoregressive\n  return sum[d] (x + (sum[heads, k] o * wo)) * embed\n}\n",
    );
    let text: Vec<i32> = (0..20).map(|at| (at * 7 + 3) % 30).collect();
    let wanted = compiled.evaluated(&text);
    let mut session = compiled.session(1, 1);
    assert!(session.prefill(0, &text[..4], Wanted::All, |_, _| ()).unwrap_err().to_string().contains("first 5 positions"));
    let mut found = crate::properties::compiled::feed(&mut session, 0, &text[..7]);
    text[7..].iter().for_each(|token| found.extend_from_slice(session.step(&[(0, *token)]).unwrap()));
    crate::properties::compiled::agree("a prefix", &found, &wanted, 1e-5).unwrap();
}

/// A bidirectional sequence that was cut would see too little.
#[test]
fn a_bidirectional_sequence_is_not_cut() {
    let (artifact, weights, _folder) = loaded(&folder("llada"));
    let mut session = session(&artifact, &weights, 600, 1);
    session.prefill(0, &[4; 500], Wanted::Last, |_, _| ()).unwrap();
    let error = session.step(&[(0, 4)]).unwrap_err().to_string();
    assert!(error.contains("all see each other"), "{error}");
    assert!(Golden::open(&folder("llada/golden.safetensors"), &artifact.manifest).unwrap().decoding.is_empty());
}
