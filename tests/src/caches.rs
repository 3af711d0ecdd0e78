//! Caches far behind their window: tokens one by one, in memory that does not grow, against the evaluator, which keeps no cache and masks.

use crate::inspecting::reported_is_allocated;
use crate::properties::compiled::{Compiled, agree, feed};
use braid_runtime::session::Settings;

const WINDOW: usize = 8;
const LENGTH: usize = 10 * WINDOW + 7;

fn spec(mixer: &str) -> String {
    format!(
        "model m(d: dim = 12, vocab: dim = 20)(tokens: [t]) -> [t, vocab] {{\n  param embed: [vocab, d]\n  x = embed[vocab: tokens]\n  mixer = {mixer}\n  \
         generate autoregressive\n  return sum[d] (x + mixer(x)) * embed\n}}\n"
    )
}

/// Steps give the evaluator's rows; bytes of a slot are those that are reported, of which so many grow with a position.
fn decodes(mixer: &str, grows: usize) {
    let compiled = Compiled::new(&spec(mixer));
    let tokens: Vec<i32> = (0..LENGTH as i32).map(|at| (at * at + at / 7) % 20).collect();
    let wanted = compiled.evaluated(&tokens);
    // Caches that do not grow need no room for the text.
    let capacity = if grows == 0 { 1 } else { LENGTH };
    let mut session = compiled.sized(Settings { threads: 1, capacity, slots: 1 });
    let found: Vec<f32> = tokens.iter().flat_map(|token| feed(&mut session, 0, std::slice::from_ref(token))).collect();
    agree(mixer, &found, &wanted, 1e-5).unwrap_or_else(|error| panic!("{error}"));
    let bytes = |context: usize| reported_is_allocated(&spec(mixer), context);
    assert_eq!(bytes(10 * LENGTH) - bytes(LENGTH), 9 * LENGTH * grows, "{mixer}");
    assert_eq!(session.manifest().state_position_bytes == 0, grows == 0, "{mixer}");
}

#[test]
fn a_window_and_sinks_in_constant_memory() {
    decodes("attention(heads: 4, groups: 2, k: 4, window: 8)", 0);
    decodes("attention(heads: 4, groups: 2, k: 4, window: 8, sinks: 2, rope: rotary())", 0);
}

/// Of a position the latent and the turned key are kept, for all heads, and nothing of a head.
#[test]
fn a_latent_row_a_position() {
    decodes("latent_attention(heads: 3, latent: 6, nope: 4, k: 4, v: 5)", 4 * (6 + 4 + 6));
}

/// The same latents in a window: what is kept no longer grows.
#[test]
fn latents_in_a_window() {
    let mixer = "windowed_latents(heads: 3, latent: 6, k: 4)";
    let head = "block windowed_latents(d: dim, heads: dim, latent: dim, k: dim)(x: [t, d]) -> [t, d] {
  param wc: [latent, d]   param wq: [heads, k, d]   param wk: [heads, k, latent]   param wo: [d, heads, latent]
  c = sum[d] x * wc
  q = sum[k] (sum[d] x * wq) * wk
  o = attend[latent](q, c, c) { keep: causal() && within(8)   score: s * k ^ -0.5 }
  return sum[heads, latent] o * wo
}
";
    let spec = format!("{head}{}", spec(mixer));
    let compiled = Compiled::new(&spec);
    let tokens: Vec<i32> = (0..LENGTH as i32).map(|at| (at * 3 + at / 5) % 20).collect();
    let mut session = compiled.sized(Settings { threads: 1, capacity: 1, slots: 1 });
    let found: Vec<f32> = tokens.iter().flat_map(|token| feed(&mut session, 0, std::slice::from_ref(token))).collect();
    agree(mixer, &found, &compiled.evaluated(&tokens), 1e-5).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(reported_is_allocated(&spec, LENGTH), reported_is_allocated(&spec, 10 * LENGTH));
}
