//! What crosses between a GPU's kernels in bfloat16, and what does not: read off what makes and what reads it.

use crate::gpu::planned_in;
use braid_compiler::fuse::kernel::Store;
use braid_compiler::fuse::{Buffer, Fused};
use braid_dsl::model::Op;
use braid_runtime::artifact::Dtype;

/// A block of a state space model: products, a convolution, a recurrence with a decay, a gate and a norm; the sum over layers goes past it.
pub const BLOCK: &str =
    "model m(vocab: dim = 32, d: dim = 64, c: dim = 128, n: dim = 64, w: dim = 4)(tokens: [t]) -> [t, vocab] {
  param embed, head: [vocab, d]   param wx, wz: [d, c]   param wb, wq: [d, n]   param wa: [d, c]
  param taps: [w, c]   param wo: [c, d]
  h = embed[vocab: tokens]
  x = silu(convolve[w](sum[d] wx * h, taps))
  b = sum[d] wb * h
  q = sum[d] wq * h
  a = sigmoid(sum[d] wa * h)
  recur S: [c, n] over t {
    S = a * S + b * x
    o = sum[n] q * S
  }
  y = o * silu(sum[d] wz * h)
  g = y / sqrt(mean[c](y * y) + 1e-5)
  r = h + sum[c] wo * g
  generate autoregressive
  return sum[d] head * r
}";

/// Numbers of a row of what is stored so, fewest first; what crosses between the kernels of one recurrence is left out.
fn stored(spec: &str, dtype: Dtype, store: Store) -> Vec<usize> {
    let Fused { buffers, forms, .. } = &planned_in(spec, dtype).fused;
    let inside = |buffer: &Buffer| matches!(forms.graph.op(buffer.node), Op::Recur(_));
    let of = buffers.iter().filter(|buffer| buffer.store == store && !buffer.output && !inside(buffer));
    let mut rows: Vec<usize> = of.map(|buffer| buffer.elements).collect();
    rows.sort_unstable();
    rows
}

#[test]
fn sums_over_layers_and_decays_are_exact() {
    assert_eq!(
        stored(BLOCK, Dtype::Bf16, Store::Bf16),
        [64, 64, 128, 128, 128, 128],
        "b, q; what is convolved, that, o, the gate"
    );
    assert_eq!(
        stored(BLOCK, Dtype::Bf16, Store::F32),
        [64, 64, 64, 128, 128],
        "h, r and its wanted rows; the decay, what is multiplied"
    );
    assert_eq!(stored(BLOCK, Dtype::F32, Store::Bf16), [0; 0], "a model in single precision");
}

/// What multiplies a state, however it is written, and what stands in an exponent.
#[test]
fn what_errors_grow_in_is_exact() {
    let narrow = |from: &str, to: &str| {
        assert!(BLOCK.contains(from));
        stored(&BLOCK.replace(from, to), Dtype::Bf16, Store::Bf16).len()
    };
    // `b` is a key of the delta rule: what is read with it is taken off the state.
    assert_eq!(narrow("S = a * S + b * x", "S = a * S + b * (x - sum[n] b * S)"), 5);
    // The convolved value is an exponent.
    assert_eq!(narrow("S = a * S + b * x", "S = exp(-x) * S + b * x"), 5);
    assert_eq!(narrow("S = a * S + b * x", "S = S / (1 + a) + b * x"), 6);
    // A product reads the recurrence's result as it is.
    assert_eq!(narrow("return sum[d] head * r", "return sum[d] head * (r + sum[c] wo * o)"), 5);
}
