//! Tiles whose contracted axis is cut into parts, on the interpreter: blocks leave their parts for each other, call after call.

use super::goldens::{Code, off, tokens, told};
use braid_compiler::forms::Chunks;
use braid_runtime::artifact::Dtype;

/// Rows are looked up in a table of bfloat16 numbers, so that tiles do not round them: each is what it is alone. Three blocks do one tile in three
/// parts, and two tiles in one each; five do one in four, as parts have some depth, and two in two each.
#[test]
fn parts_of_tiles() {
    let spec = "model m(vocab: dim = 48, d: dim = 1032, g: dim = 50)(tokens: [t]) -> [t, g] {
  param embed: [vocab, d]   param w: [d, g]
  return sum[d] embed[vocab: tokens] * w
}";
    let ids = tokens(70, 48);
    for target in ["cuda:sm_90a", "cuda:sm_80"] {
        let code = Code::of(spec, "", "random:1", (target, Dtype::Bf16), Chunks::Auto);
        let device = code.manifest.device.as_ref().expect("a GPU's manifest");
        assert!(device.steps.iter().any(|step| step.tiles.first().is_some_and(|tiles| tiles.factor == 256)), "{target}");
        let mut alone = code.model(1, 1);
        let alone: Vec<f32> = ids.iter().flat_map(|id| told(alone.call(&[&[*id]], true))).collect();
        for (blocks, calls) in [(3, &[17, 64, 70][..]), (5, &[70, 30])] {
            let mut model = code.model(2, 70).with_blocks(blocks);
            for rows in calls.iter().copied() {
                let made = told(model.call(&[&ids[..rows - 5], &ids[rows - 5..rows]], true));
                let (off, peak) = off(&made, &alone[..50 * rows]);
                println!("{target}, {blocks} blocks, {rows} rows: {off:.2e} of {peak:.2e}");
                assert!(off <= 1e-5 * peak, "{target}, {blocks} blocks, {rows} rows: {off:e} of {peak:e}");
            }
        }
    }
}
