//! Which steps of a GPU wait for all blocks, and what lies between two waits.

use super::chunks::GATED;
use super::{built, compiled, folder, planned, planned_in};
use crate::build::imported;
use braid_compiler::fuse::Operand;
use braid_compiler::fuse::kernel::{Code, Rows};
use braid_compiler::plan::{Function, Order, Per, Step};
use braid_runtime::artifact::{Dtype, Launch};
use std::path::Path;

/// Steps that touch the same memory wait: what one writes and a later one reads or writes has a wait, or an order, in between.
#[test]
fn later_steps_wait() {
    let (_, manifest) = compiled("llama", "cuda:sm_90a", Dtype::F32);
    let device = manifest.device.expect("a GPU's manifest");
    let waits = device.steps.iter().filter(|step| step.wait).count();
    let follows = device.steps.iter().filter(|step| step.follows).count();
    // Of three layers: norm (but the first), queries with keys and values, rotation (and what a call of one row does in its place, as ahead of the
    // first layer), cache,
    // attention, projection, norm, gate (and up, which follows it), down; then the last norm and the head. In a call of one row queries, keys and
    // values are one step.
    assert_eq!((device.steps.len(), waits, follows), (38 + 4 + 3, 3 * 9 - 1 + 2, 3));
    assert_eq!(waits_of(&device.steps, 2), waits);
    // A call of one row makes norms where they are multiplied: no step of their own, and no wait. Rotation and cache are the business of the
    // block that attends. The last layer's second norm also makes the wanted rows that are added later, and stays a step.
    let alone = device.needed(1);
    let follows = alone.iter().filter(|step| step.follows).count();
    assert_eq!((waits_of(&alone, 1), follows), (3 * 5 + 1, 3));
}

/// How often blocks wait in a step of decoding, of the models of docs/benchmarks.md: products of the row with their convolutions, what a recurrence needs
/// with it, its results; attention with what it needs, its results; a router, what it chose, experts and their sum.
#[test]
fn few_steps_of_one_row_wait() {
    // Of a recurrence, of one whose coefficients are products of its rows, of attention, of a dense block, of experts.
    let [recurrent, selective, attending, dense, experts] = [3, 5, 3, 2, 6];
    for (name, waits) in [
        ("llama", 24 * (attending + dense) + 2),
        ("mamba2", 48 * recurrent + 1),
        ("granite", 28 * recurrent + 4 * attending + 32 * dense + 2),
        ("jamba", 21 * selective + 3 * attending + 24 * dense + 2),
        // The row's products are with those that wait for the experts before.
        ("qwen3next", 9 * (recurrent - 1) + 3 * attending + 12 * experts),
    ] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("benches/gpu/{name}.braid"));
        let plan = planned_in(&std::fs::read_to_string(path).expect("text"), Dtype::Bf16);
        let alone = plan.steps.iter().filter(|step| step.tasks.least <= 1 && step.alone == Order::Wait);
        assert_eq!(alone.count(), waits, "{name}");
    }
}

/// How often blocks wait in a call of so many rows: a step without tasks leaves its wait to the next one that has some.
fn waits_of(steps: &[Launch], rows: usize) -> usize {
    let mut owed = false;
    let waits = steps.iter().filter(|step| {
        owed |= step.wait;
        rows >= step.least && step.most.is_none_or(|most| rows <= most) && std::mem::take(&mut owed)
    });
    waits.count()
}

/// `y` is laid where `a` was, which other blocks may still read when one of them is through with the first product.
pub(super) const REUSE: &str = "model m(d: dim = 64, e: dim = 64, vocab: dim = 80)(tokens: [t]) -> [t, vocab] {
  param embed: [vocab, d]   param w1, w2: [d, e]   param w3: [e, vocab]   param s: [d]
  x = embed[vocab: tokens]
  a = x * s
  b = x / (1.0 + sum[d] x * x)
  g = sigmoid(sum[d] a * w1)
  y = (sum[d] b * w2) * g
  z = shift(y, 1)
  return sum[e] (y + z) * w3
}";

/// Steps between two waits leave alone what the others of them touch; only what follows reads what was just written.
#[test]
fn steps_side_by_side_touch_other_memory() {
    let mut texts = vec![("reuse".to_owned(), REUSE.to_owned())];
    for name in ["llama", "jamba", "mixtral", "gated_deltanet", "gemma2", "rwkv7", "zamba"] {
        texts.push((name.to_owned(), imported(&folder(name).join("config.json")).0));
    }
    for (name, text) in texts {
        let plan = planned(&text);
        let range = |at: &usize| {
            let buffer = &plan.fused.buffers[*at];
            let first = plan.memory.buffers[*at];
            (buffer.output, first, first + buffer.elements * buffer.store.bytes())
        };
        let in_arena = |at: &&usize| plan.fused.buffers[**at].rows != Rows::Once;
        let meet = |a: &[usize], b: &[usize]| {
            let overlap = |x: (bool, usize, usize), y: (bool, usize, usize)| x.0 == y.0 && x.1 < y.2 && y.1 < x.2;
            a.iter().filter(in_arena).any(|a| b.iter().filter(in_arena).any(|b| overlap(range(a), range(b))))
        };
        for one_row in [false, true] {
            let has = |step: &&Step| if one_row { step.tasks.least <= 1 } else { step.tasks.most > 1 };
            let order = |step: &Step| if one_row { step.alone } else { step.order };
            let steps: Vec<&Step> = plan.steps.iter().filter(has).collect();
            for (at, step) in steps.iter().enumerate() {
                let begin = (0..=at).rev().find(|n| order(steps[*n]) == Order::Wait).unwrap_or(0);
                let kernels = |step: &Step| step.kernels.iter().map(|at| &plan.fused.kernels[*at]).collect::<Vec<_>>();
                let others =
                    (begin..at).flat_map(|before| kernels(steps[before]).into_iter().map(move |kernel| (before, kernel)));
                let pairs =
                    others.flat_map(|(before, earlier)| kernels(step).into_iter().map(move |later| (before, earlier, later)));
                for (before, earlier, later) in pairs {
                    // Of one row products make rows that are nowhere in memory.
                    let row = match &earlier.code {
                        Code::Matmul(product) if one_row && product.prologue.is_some() => {
                            earlier.operands.get(product.tensors[product.left.tensor.0].operand)
                        }
                        _ => None,
                    };
                    let is_read = |at: &&usize| row != Some(&Operand::Buffer(**at));
                    let reads: Vec<usize> = earlier.reads.iter().filter(is_read).copied().collect();
                    assert!(!meet(&later.writes, &reads), "{name}: step {at} overwrites what step {before} reads");
                    assert!(!meet(&later.writes, &earlier.writes), "{name}: step {at} overwrites what step {before} writes");
                    let dealt = (before + 1..=at).all(|n| order(steps[n]) == Order::Follow);
                    // What every block makes for itself, and its own columns: those of products that are joined a convolution alone knows.
                    let function = &plan.functions[steps[before].function];
                    let whole = function.places().is_some() && matches!(function.code, Code::Nests(_) | Code::Top(_));
                    let shared = [step, &steps[before]].iter().all(|step| step.tasks.per == Per::Block);
                    let columns = matches!(function.code, Code::Matmul(_))
                        && match &later.code {
                            Code::Matmul(product) => {
                                let prologue = product.prologue.as_ref().map_or(&[][..], |own| &later.reads[own.reads..]);
                                steps[before].kernels.len() == 1 && !meet(prologue, &earlier.writes)
                            }
                            code => matches!(code, Code::Along(_)),
                        };
                    let own = one_row && (whole && steps[before].tasks.per == Per::Block || shared && columns);
                    let reads = meet(&later.reads, &earlier.writes);
                    assert!(dealt || own || !reads, "{name}: step {at} reads what step {before} writes");
                }
            }
        }
    }
}

/// Where tiles are cut into parts, which blocks leave for each other, all blocks meet ahead of the step and behind it.
#[test]
fn blocks_meet_around_parts_of_tiles() {
    let mut cut = vec![];
    for name in ["llama", "mamba2", "granite", "jamba", "qwen3next"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("benches/gpu/{name}.braid"));
        let plan = planned_in(&std::fs::read_to_string(path).expect("text"), Dtype::Bf16);
        let steps: Vec<&Step> = plan.steps.iter().filter(|step| step.tasks.most > 1).collect();
        for (at, step) in steps.iter().enumerate() {
            let Function { parts, code, .. } = &plan.functions[step.function];
            let (Code::Matmul(product), 2..) = (code, *parts) else { continue };
            let meets = |at: usize| steps.get(at).is_none_or(|step| step.order == Order::Wait);
            assert!(meets(at) && meets(at + 1), "{name}: step {at}");
            let tiles = product.sizes[3].div_ceil(64);
            assert_eq!(step.tasks.tiles[0].map(|tiles| tiles.factor), Some(tiles * parts), "{name}: step {at}");
            assert!(tiles * parts <= 256, "{name}: a block has one part at most");
            cut.push(name);
        }
    }
    // Of each layer of the first what goes back from attention, and from its gate.
    assert_eq!(cut.iter().filter(|name| **name == "llama").count(), 2 * 24);
    cut.dedup();
    assert_eq!(cut.len(), 5);
}

/// Calls of few rows have tables without the steps that they have no work for; whoever comes behind one of these waits in its place.
#[test]
fn few_rows_have_tables_of_their_own() {
    let (_, manifest) = built(GATED, "", "cuda:sm_90a", Dtype::Bf16);
    let device = manifest.device.expect("a GPU's manifest");
    for rows in [1, device.step_rows] {
        let needed = device.needed(rows);
        assert!(needed.len() + 2 <= device.steps.len(), "chunks have no work");
        assert!(needed.iter().all(|step| step.least <= rows && step.most.is_none_or(|most| rows <= most)));
        if rows > 1 {
            assert_eq!(waits_of(&needed, rows), waits_of(&device.steps, rows));
        }
    }
    assert_eq!(device.needed(usize::MAX), device.steps.iter().filter(|step| step.most.is_none()).cloned().collect::<Vec<_>>());
}
