//! A GPU's kernels of recurrences as data, played in double precision: parting a chunk, placing its temporaries and copying its rows ahead
//! must change no number. What a GPU leaves open is tried both ways: copies that arrive at once or when they are waited for, elements first
//! to last or last to first.

mod player;

use super::holds;
use super::recurrences::{DECAYS, of_sizes};
use crate::build;
use braid_compiler::forms::{self, Chunks, Decaying};
use braid_compiler::fuse::kernel::{Code, Nest, Nests, Part, Walk};
use braid_compiler::fuse::product::Product;
use braid_compiler::fuse::{self, Fused, Kernel};
use braid_compiler::graph::Graph;
use braid_compiler::target::Target;
use braid_compiler::{artifact, rewrite};
use braid_runtime::artifact::Dtype;
use player::{Manner, Memory, play};
use proptest::prelude::*;
use std::collections::HashMap;

/// The kernels of a spec for a GPU.
fn fused(text: &str, chunks: Chunks, target: &Target) -> Fused {
    let graph = rewrite::apply(&Graph::build(&build::model(text)));
    fuse::fuse(&forms::derive(&graph, chunks, forms::MAX_ROWS), artifact::options(target, Dtype::Bf16)).expect("kernels")
}

/// What all recurrences of a sequence leave: results by node, and states.
fn played(fused: &Fused, rows: usize, manner: Manner) -> (HashMap<u32, Vec<f64>>, Vec<Vec<f64>>) {
    let mut memory = Memory::new(fused, rows);
    let mut results = HashMap::new();
    for kernel in &fused.kernels {
        play(kernel, &mut memory, rows, manner);
    }
    let walks = |kernel: &&Kernel| matches!(&kernel.code, Code::Nests(Nests { walk: Walk::Segments { .. }, .. }));
    for at in fused.kernels.iter().filter(walks).flat_map(|kernel| &kernel.writes) {
        let node = fused.buffers[*at].node;
        if !fused.forms.carried.contains_key(&node) {
            results.insert(node.0, memory.buffers[*at].clone());
        }
    }
    (results, memory.states)
}

fn far(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let largest = b.iter().fold(1.0, |most: f64, x| most.max(x.abs()));
    a.iter()
        .zip(b)
        .map(|(a, b)| (a - b).abs() / largest)
        .fold(0.0, |most, far| if far.is_nan() { f64::NAN } else { far.max(most) })
}

#[test]
fn chunks_of_a_gpu_are_its_steps() {
    are_its_steps(DECAYS, 48);
}

/// Decays at and near the ends of what gates give, of numbers between 0 and 1: of a head, and of each of its keys.
const ENDS: &[&str] = &[
    "exp(-1000.0)",
    "exp(-1000.0 * f)",
    "exp(-1000.0 * g)",
    "sigmoid(180.0 * g - 90.0)",
    "exp(-exp(20.0 * g))",
    "select(g > 0.5, exp(-1000.0 * f), sigmoid(90.0))",
    "(1.0 - g * g)",
];

/// Nothing overflows on the way from half to half, and what is forgotten stays so.
#[test]
fn gates_of_a_gpu_at_their_ends_are_safe() {
    are_its_steps(ENDS, 24);
}

fn are_its_steps(decays: &'static [&'static str], cases: u32) {
    let size = || prop::sample::select(vec![3usize, 8, 16, 20, 32, 40]);
    let sizes = (1usize..3, size(), size());
    let targets = prop::sample::select(vec!["cuda:sm_90a", "cuda:sm_80"]);
    let chunks = prop::sample::select(vec![5usize, 16, 32]);
    let (played_chunks, products) = (std::cell::Cell::new(0), std::cell::Cell::new(0));
    holds(cases, (of_sizes(decays, sizes), 1usize..80, chunks, targets), |(recurrence, length, rows, target)| {
        let (text, target) = (recurrence.text(), Target::parse(target).expect("a target"));
        let steps = fused(&text, Chunks::Off, &target);
        let parted = fused(&text, Chunks::Matrices { rows, solving: rows, decaying: Decaying::Halves }, &target);
        for kernel in &parted.kernels {
            let Code::Nests(code) = &kernel.code else { continue };
            let Walk::Segments { part: Part::Chunks(_) | Part::Intra(_), blocked, .. } = code.walk else { continue };
            played_chunks.set(played_chunks.get() + 1);
            let is_product = |nest: &&Nest| Product::of(nest, &code.tensors, &code.sizes, blocked).is_some();
            products.set(products.get() + code.nests.iter().filter(is_product).count());
        }
        let (wanted, states) = played(&steps, length, Manner { late: false });
        for late in [false, true] {
            let (found, left) = played(&parted, length, Manner { late });
            prop_assert_eq!(found.len(), wanted.len());
            for (node, numbers) in &wanted {
                prop_assert!(far(&found[node], numbers) < 1e-9, "results of %{node} are {:e} off", far(&found[node], numbers));
            }
            for (found, wanted) in left.iter().zip(&states) {
                prop_assert!(far(found, wanted) < 1e-9, "a state is {:e} off", far(found, wanted));
            }
        }
        Ok(())
    });
    let (kernels, products) = (played_chunks.get(), products.get());
    assert!(kernels > cases && products > cases as usize, "{kernels} kernels, {products} products");
}
