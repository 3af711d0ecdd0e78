//! Quantised weights: products on every level against single precision, with numbers that the storage holds without loss; and what
//! rounding costs a trained model.

use crate::build::{self, Built};
use crate::properties::compiled::{Compiled, feed, made_up};
use braid_compiler::forms::Chunks;
use braid_compiler::target::Target;
use braid_runtime::artifact::{Dtype, Layout, missing_feature};
use braid_runtime::checkpoint::fp8;
use half::{bf16, f16};

/// Products of every kind: a plain one of odd sizes, one with a batch axis, a mixture of experts, and results that are wanted.
const SPEC: &str = "
model m(d: dim = 200, heads: dim = 4, k: dim = 96, vocab: dim = 150)(tokens: [t]) -> [t, vocab] {
  dim j = k
  param embed: [vocab, d]   param up: [heads, k, d]   param mixed: [heads, j, k]   param down: [d, heads, j]
  param head: [vocab, d]
  x = embed[vocab: tokens]
  x = x + sum[heads, j] (sum[k] (sum[d] x * up) * mixed) * down
  ffn = moe(experts: 4, active: 2, expert: swiglu(hidden: 96))
  x = x + ffn(rmsnorm(x))
  return sum[d] rmsnorm(x) * head
}
";

/// The levels that this machine has.
pub fn targets() -> impl Iterator<Item = &'static str> {
    let all = ["cpu:x86-64-v3", "cpu:x86-64-v4", "cpu:x86-64-v4+vnni"];
    all.into_iter().filter(|name| missing_feature(&Target::parse(name).expect("a target").features).is_none())
}

/// Made-up numbers that `dtype` holds without loss: groups of 32 along the last axis of what is large.
pub fn on_grid(dtype: Dtype) -> impl Fn(&str, &[usize]) -> Vec<f32> {
    move |path, shape| {
        let numbers = made_up(path, shape);
        let small = path.ends_with("embed") || shape.iter().product::<usize>() < 16384;
        stored_as(if small { Dtype::Bf16 } else { dtype }, numbers, shape)
    }
}

/// Numbers of that storage near some others.
pub fn stored_as(dtype: Dtype, mut numbers: Vec<f32>, shape: &[usize]) -> Vec<f32> {
    if !dtype.quantised() {
        numbers.iter_mut().for_each(|x| *x = bf16::from_f32(*x).to_f32());
        return numbers;
    }
    let row = shape.last().copied().unwrap_or(1);
    numbers.chunks_mut(row).flat_map(|row| row.chunks_mut(32)).for_each(|group| {
        let extreme = group.iter().fold(0f32, |most, x| if x.abs() > most.abs() { *x } else { most });
        if dtype == Dtype::Fp8 {
            // The largest one stands for 448, and the scale is one of half precision, 256 times as large.
            let scale = f16::from_f32(256.0 * extreme.abs() / fp8::LARGEST).to_f32() / 256.0;
            group.iter_mut().for_each(|x| *x = scale * fp8::number(fp8::nearest(*x / scale)));
            return;
        }
        let (low, high) = (group.iter().copied().fold(0.0, f32::min), group.iter().copied().fold(0.0, f32::max));
        let (scale, offset, range) = match dtype {
            Dtype::Int8 => (extreme / 127.0, 0.0, -127.0..=127.0),
            Dtype::Int4 => (extreme / -8.0, 0.0, -8.0..=7.0),
            _ => ((high - low) / 15.0, low, 0.0..=15.0),
        };
        let (scale, offset) = (f16::from_f32(scale).to_f32(), f16::from_f32(offset).to_f32());
        let round = |x: f32| ((x - offset) / scale).round().clamp(*range.start(), *range.end());
        group.iter_mut().for_each(|x| *x = scale * round(*x) + offset);
    });
    numbers
}

/// Ids of a text.
pub fn tokens(count: usize) -> Vec<i32> {
    (0..count).map(|at| (at * at * 7 + at * 3) as i32 % 150).collect()
}

/// The norm of the difference as a part of the norm.
pub fn relative(found: &[f32], wanted: &[f64]) -> f64 {
    assert_eq!(found.len(), wanted.len());
    let norm = |numbers: &mut dyn Iterator<Item = f64>| numbers.map(|x| x * x).sum::<f64>().sqrt();
    norm(&mut found.iter().zip(wanted).map(|(a, b)| f64::from(*a) - b)) / norm(&mut wanted.iter().copied())
}

#[test]
fn products_are_those_of_the_stored_numbers() {
    for dtype in [Dtype::Int8, Dtype::Fp8, Dtype::Int4, Dtype::Int4z] {
        for target in targets() {
            let compiled = Compiled::stored(SPEC, Chunks::Auto, (target, dtype), on_grid(dtype));
            let ids = tokens(113);
            let off = relative(&compiled.whole(&ids), &compiled.evaluated(&ids));
            println!("{dtype:?} {target}: {off:.2e}");
            assert!(off < 1e-4, "{dtype:?} for {target}: {off:e} of the norm off");
        }
    }
}

/// Sums of a group are exact, so rows do not depend on how many others there are, nor on threads.
#[test]
fn rows_are_the_same_in_any_company() {
    let compiled = Compiled::stored(SPEC, Chunks::Auto, ("cpu", Dtype::Int4z), on_grid(Dtype::F32));
    let ids = tokens(40);
    let whole = compiled.whole(&ids);
    let mut session = compiled.session(3, 1);
    let steps: Vec<f32> = ids.iter().flat_map(|id| feed(&mut session, 0, &[*id])).collect();
    assert!(whole == steps, "steps differ from the whole");
}

#[test]
fn bfloat16_products_round_their_left_operands_only() {
    let name = "cpu:x86-64-v4+vnni+bf16";
    if missing_feature(&Target::parse(name).expect("a target").features).is_some() {
        return;
    }
    let compiled = Compiled::stored(SPEC, Chunks::Auto, (name, Dtype::Bf16), on_grid(Dtype::Bf16));
    let ids = tokens(113);
    let off = relative(&compiled.whole(&ids), &compiled.evaluated(&ids));
    println!("{off:.2e}");
    assert!(off < 1e-2, "{off:e} of the norm off");
    assert!(off > 1e-4, "nothing was rounded: is the instruction used?");
}

/// Rows of eight bits: those that hold their numbers without loss lose nothing, others little.
#[test]
fn rows_of_eight_bits() {
    let name = "cpu:x86-64-v4+vnni+bytes";
    if missing_feature(&Target::parse(name).expect("a target").features).is_some() {
        return;
    }
    // Rows of a table whose largest number in each group is 127. Of seven groups each is prepared alone, of 19 most with others.
    let spec = |d: usize| {
        format!(
            "model m(d: dim = {d}, vocab: dim = 150)(tokens: [t]) -> [t, vocab] {{
  param embed: [vocab, d]   param head: [vocab, d]
  return sum[d] embed[vocab: tokens] * head
}}
"
        )
    };
    for (d, dtype) in [200, 600].into_iter().flat_map(|d| [Dtype::Int8, Dtype::Int4, Dtype::Int4z].map(|dtype| (d, dtype))) {
        let whole_numbers = |path: &str, shape: &[usize]| {
            let numbers = made_up(path, shape);
            match path {
                "embed" => {
                    numbers.iter().enumerate().map(|(at, x)| if at % d % 32 == 5 { 127.0 } else { (x * 90.0).round() }).collect()
                }
                _ => stored_as(dtype, numbers, shape),
            }
        };
        let exact = Compiled::stored(&spec(d), Chunks::Auto, (name, dtype), whole_numbers);
        let rounded = Compiled::stored(SPEC, Chunks::Auto, (name, dtype), on_grid(dtype));
        let ids = tokens(113);
        let off = [&exact, &rounded].map(|compiled| relative(&compiled.whole(&ids), &compiled.evaluated(&ids)));
        println!("{dtype:?}: {:.2e}, {:.2e}", off[0], off[1]);
        assert!(off[0] < 1e-6, "{dtype:?}: {:e} of the norm off, with nothing to round", off[0]);
        assert!(off[1] < 2e-2, "{dtype:?}: {:e} of the norm off", off[1]);
        assert!(off[1] > 1e-3, "{dtype:?}: nothing was rounded: are the instructions used?");
    }
}

/// Matrices are quantised; tables, routers and vectors are not.
#[test]
fn what_is_small_keeps_its_precision() {
    let Built { artifact, .. } = build::build(SPEC, "", "cpu", Dtype::Int4);
    let manifest = &artifact.manifest;
    for packed in &manifest.packed {
        let path = &manifest.params[packed.param].path;
        let wanted = match path.rsplit('.').next() {
            Some("embed" | "wr") => Dtype::Bf16,
            Some("up" | "mixed" | "down" | "head" | "wg" | "wu" | "wd") => Dtype::Int4,
            _ => Dtype::F32,
        };
        assert_eq!(packed.dtype.plain(), wanted, "{path}");
    }
}

/// A token's row of a table is read in one piece, whatever order the axes were declared in.
#[test]
fn rows_of_a_table_lie_side_by_side() {
    let Built { artifact, .. } = build::build(SPEC, "", "cpu", Dtype::Bf16);
    let manifest = &artifact.manifest;
    let table = manifest.packed.iter().find(|packed| manifest.params[packed.param].path == "embed").expect("a table");
    assert_eq!(table.layout, Layout::Dense(vec![0, 1]));
}
