//! Calls of one row as code for a GPU, on the interpreter: rows that blocks make for themselves, and what goes with their products.

use super::chunks::body;
use super::goldens::{Code, calls_on_a_processor, off, tokens, told};
use super::memory::{number, put};
use super::{Grid, Machine, Module};
use crate::apart::built_of;
use crate::narrow::BLOCK;
use braid_compiler::forms::Chunks;
use braid_runtime::artifact::{Call, Dtype};
use half::bf16;
use std::mem::offset_of;

/// A norm with two sums, of fewer numbers than threads have at once, and a gated one of more than that, and of no whole turns; all rows count.
const NORMS: &str = "model m(vocab: dim = 32, d: dim = 264, c: dim = 2304)(tokens: [t]) -> [t, vocab] {
  param embed, head: [vocab, d]   param wx, wz: [d, c]   param wo: [c, d]   param gain, bias: [d]   param inner: [c]
  x = embed[vocab: tokens]
  recur before: [d] over t {
    before = before / 2 + x
    h = before
  }
  m = h - mean[d](h)
  n = m / sqrt(mean[d](m * m) + 0.00001) * gain + bias
  y = (sum[d] wx * n) * silu(sum[d] wz * n)
  g = y / sqrt(mean[c](y * y) + 0.00001) * inner
  r = h + sum[c] wo * g
  recur behind: [d] over t {
    behind = behind / 2 + r
    o = behind
  }
  generate autoregressive
  return sum[d] head * o
}";

/// Some tokens, each in a call of its own, behind a prompt; against a processor in single precision.
fn steps(spec: &str, kind: (&str, Dtype), most: f64) -> String {
    let ids = tokens(7, 32);
    let calls: Vec<&[i32]> = [&ids[..3]].into_iter().chain(ids[3..].chunks(1)).collect();
    called(spec, &calls, kind, most)
}

/// Calls of one sequence, against a processor in single precision; gives the code.
fn called(spec: &str, calls: &[&[i32]], (target, dtype): (&str, Dtype), most: f64) -> String {
    let code = Code::of(spec, "", "random:1", (target, dtype), Chunks::Off);
    let mut model = code.model(1, calls.iter().map(|ids| ids.len()).max().unwrap_or(1));
    let made: Vec<f32> = calls.iter().flat_map(|ids| told(model.call(&[ids], true))).collect();
    let feeds: Vec<[&[i32]; 1]> = calls.iter().map(|ids| [*ids]).collect();
    let feeds: Vec<&[&[i32]]> = feeds.iter().map(|feed| &feed[..]).collect();
    let (off, peak) = off(&made, &calls_on_a_processor(spec, Dtype::F32, &feeds));
    assert!(off <= most * peak, "{target} {dtype:?}: {off:e} of {peak:e} in {spec}");
    code.ptx
}

/// What makes a row holds it in registers from its sums on, and leaves its halves at once.
#[test]
fn rows_in_registers() {
    for target in ["cuda:sm_90a", "cuda:sm_80"] {
        let ptx = steps(NORMS, (target, Dtype::Bf16), 1e-2);
        assert!(!ptx.contains("prepare_halves"), "{target}: rows are halved where they are made");
        steps(NORMS, (target, Dtype::F32), 1e-5);
    }
}

/// Norms that are kernels of their own, of rows of which some threads have two groups, others one: a block asks for its next row ahead of the sums of
/// the one at hand. Numbers cross in single precision and in bfloat16; more rows than blocks, one row, and rows of which some are wanted.
#[test]
fn kernels_of_rows_in_registers() {
    let spec = "model m(vocab: dim = 32, d: dim = 2312, width: dim = 2)(tokens: [t]) -> [t, vocab] {
  param embed, head: [vocab, d]   param taps: [d, width]   param gain, bias: [d]
  x = convolve[width](embed[vocab: tokens], taps)
  m = x - mean[d](x)
  n = m / sqrt(mean[d](m * m) + 0.00001) * gain + bias
  u = convolve[width](n, taps)
  generate autoregressive
  return sum[d] head * (u / sqrt(mean[d](u * u) + 0.1))
}";
    let ids = tokens(9, 32);
    let calls: [&[i32]; 4] = [&ids[..7], &ids[7..8], &ids[8..9], &ids[..2]];
    for (target, dtype, most) in
        [("cuda:sm_90a", Dtype::Bf16, 1e-2), ("cuda:sm_90a", Dtype::F32, 1e-5), ("cuda:sm_80", Dtype::F32, 1e-5)]
    {
        let ptx = called(spec, &calls, (target, dtype), most);
        // From the first sum to the second one a row stays where it is: it is asked for ahead of the loop and in it, and so are gain and bias.
        let loads = body(&ptx, "rows_1").matches("ld.global").count();
        assert_eq!(loads, 4 * 4, "{target} {dtype:?}: a group of numbers in single precision is two loads");
    }
}

/// Rows of calls of many that are longer than what registers hold beside the next one: threads have up to eight groups there, and some of them one
/// more in shared memory, what is made of it in its place. Numbers cross in single precision, where quotients are exact, and in bfloat16; several rows
/// of a block. Rows of a gate, which has no sums, are cut into tasks as ever.
#[test]
fn rows_in_registers_and_shared_memory() {
    let spec = "model m(vocab: dim = 32, d: dim = LONG, width: dim = 2)(tokens: [t]) -> [t, vocab] {
  param embed, head: [vocab, d]   param taps: [d, width]
  x = convolve[width](8.0 * embed[vocab: tokens], taps)
  u = convolve[width](MADE, taps)
  recur behind: [d] over t {
    behind = behind / 2 + u
    o = behind
  }
  generate autoregressive
  return sum[d] head * o
}";
    let gate = "recur before: [d] over t {
    before = before / 2 + x
    y = before
  }
  u = convolve[width](silu(y), taps)";
    let softmax = spec.replace("MADE", "softmax[d](x)");
    let gated = spec.replace("u = convolve[width](MADE, taps)", gate);
    let ids = tokens(25, 32);
    let calls: [&[i32]; 3] = [&ids[..18], &ids[18..20], &ids[20..]];
    for (long, groups, far) in [("16736", 8, 1), ("10248", 6, 0)] {
        for (dtype, most) in [(Dtype::Bf16, 1e-2), (Dtype::F32, 1e-5)] {
            let ptx = called(&softmax.replace("LONG", long), &calls, ("cuda:sm_90a", dtype), most);
            let rows = body(&ptx, "rows_1_many");
            let count = |text: &str| rows.matches(text).count();
            // A group of numbers in single precision is two loads or copies, and nothing else is read.
            assert_eq!((count("ld.global"), count("cp.async.cg")), (2 * groups, 2 * far), "{long}, {dtype:?}");
            assert_eq!((count("div.full") > 0, count("div.rn") > 0), (dtype == Dtype::Bf16, dtype == Dtype::F32), "{long}");
        }
    }
    let ptx = called(&gated.replace("LONG", "16736"), &calls, ("cuda:sm_90a", Dtype::F32), 1e-5);
    assert!(ptx.contains(".func rows_1(") && !ptx.contains(".func rows_1_many("), "a gate of its own");
}

/// A convolution is done by the thread that has the sum of its channel, whose state it moves on; also where the sum crosses in bfloat16.
#[test]
fn convolutions_behind_their_products() {
    for target in ["cuda:sm_90a", "cuda:sm_80"] {
        for (dtype, most) in [(Dtype::F32, 1e-5), (Dtype::Bf16, 2e-2)] {
            let ptx = steps(BLOCK, (target, dtype), most);
            assert!(ptx.contains("_tail_") && !ptx.contains("own_channels"), "{target} {dtype:?}: no step of its own");
        }
    }
}

/// One that reads more of the row than its weights is a step of its own, whose channels the block has just multiplied.
#[test]
fn convolutions_that_read_other_products() {
    let gated = BLOCK.replace(
        "  x = silu(convolve[w](sum[d] wx * h, taps))",
        "  u = sum[d] wz * h\n  x = silu(convolve[w](sum[d] wx * h, taps)) * u",
    );
    assert_ne!(gated, BLOCK);
    for (target, dtype, most) in [("cuda:sm_90a", Dtype::F32, 1e-5), ("cuda:sm_80", Dtype::Bf16, 2e-2)] {
        let ptx = steps(&gated, (target, dtype), most);
        assert!(!ptx.contains("_tail_") && ptx.contains(".func own_channels"), "{target} {dtype:?}: a step of its own");
    }
}

/// Numbers of a row, rows of a call, and those that the arena has room for.
const WIDTH: usize = 320;
const ROWS: usize = 5;
const CAPACITY: usize = 8;

/// Rows of a prompt's products are made and rounded in one pass: a norm of made-up numbers.
#[test]
fn rows_are_rounded_where_they_are_made() {
    let spec = NORMS.replace("d: dim = 264, c: dim = 2304", "d: dim = 320, c: dim = 8192");
    let (ptx, manifest) = built_of(&spec, "cuda:sm_90a", Dtype::Bf16);
    let device = manifest.device.as_ref().expect("a GPU's manifest");
    let step = device.steps.iter().find(|step| step.apart.is_some()).expect("a launch of its own");
    let apart = &device.apart[step.apart.expect("one")];
    let mut machine = Machine::new(Module::parse(&ptx).expect("PTX"));
    // Numbers of the arena and of the weights, wherever they are looked for.
    let number_at = |at: usize| ((at * 37 % 101) as f32 - 50.0) / 16.0;
    let arena: Vec<u8> = (0..manifest.arena_row_bytes * CAPACITY / 4).flat_map(|at| number_at(at).to_le_bytes()).collect();
    let weights: Vec<u8> = (0..manifest.weights_bytes / 4).flat_map(|_| 1.5f32.to_le_bytes()).collect();
    let [arena, weights, to] = [arena, weights, vec![0; 2 * ROWS * WIDTH]].map(|bytes| machine.memory.add(bytes));
    let words = machine.memory.add(step.words.iter().flat_map(|word| word.to_le_bytes()).collect());
    let mut call = vec![0; size_of::<Call>()];
    let fields = [
        (offset_of!(Call, rows), ROWS as u64),
        (offset_of!(Call, rows_capacity), CAPACITY as u64),
        (offset_of!(Call, arena), arena),
        (offset_of!(Call, weights), weights),
    ];
    fields.into_iter().for_each(|(at, field)| put(&mut call[at..at + 8], field));
    let call = machine.memory.add(call);
    let round = apart.round.expect("rows are rounded");
    let grid = Grid { blocks: 3, threads: round.threads, shared: round.shared_bytes };
    machine.launch(&format!("{}_rounds", apart.name), &[call, words, to], grid).unwrap_or_else(|error| panic!("{error}"));
    let made = machine.memory.at(to, 2 * ROWS * WIDTH).expect("what was written");
    let made: Vec<f32> = made.chunks_exact(2).map(|own| bf16::from_bits(number(own) as u16).to_f32()).collect();
    // The row that is normed is one of those that the words name.
    let off_from = |word: &i64| {
        let rows = (0..ROWS).flat_map(|row| {
            let first = (*word as usize * CAPACITY) / 4 + row * WIDTH;
            let x: Vec<f32> = (0..WIDTH).map(|at| number_at(first + at)).collect();
            let mean = x.iter().sum::<f32>() / WIDTH as f32;
            let scale = (x.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>() / WIDTH as f32 + 1e-5).sqrt();
            x.into_iter().map(move |x| (x - mean) / scale * 1.5 + 1.5).collect::<Vec<f32>>()
        });
        rows.zip(&made).fold(0f32, |most, (right, made)| most.max((right - made).abs()))
    };
    let room = (manifest.arena_row_bytes - 4 * WIDTH) as i64;
    let least = step.words.iter().filter(|word| (0..=room).contains(*word)).map(off_from).fold(f32::MAX, f32::min);
    assert!(least <= 0.02, "a row is {least} off");
}
