//! Kernels to MLIR for CPUs: one file for each skeleton, one short loop that calls them.

mod along;
mod attention;
mod bytes;
mod dot;
mod driver;
mod largest;
mod matmul;
mod nest;
mod pairs;
pub(super) mod solve;
mod top;

use crate::fuse::kernel::{Code, Store};
use crate::mlir::common::Emitter;
use crate::plan::{Function, Plan};
use std::collections::HashSet;

pub use crate::mlir::common::site::Setting;

/// Scratch bytes that a thread needs for any kernel of a plan.
pub fn scratch_bytes(plan: &Plan, setting: Setting) -> usize {
    let own = |function: &Function| match &function.code {
        Code::Nests(nests) => pairs::scratch_bytes(nests, setting),
        Code::Matmul(product) => matmul::scratch_bytes(product, setting),
        Code::Attention(attention) => attention::scratch_bytes(attention),
        Code::Along(_) | Code::Top(_) | Code::Largest(_) => 0,
    };
    plan.functions.iter().map(own).max().unwrap_or(0).next_multiple_of(braid_runtime::artifact::ALIGN)
}

/// Emits all functions of a plan; `entries`: what the names of those that the runtime calls end with.
pub fn emit(e: &Emitter, plan: &Plan, setting: Setting, entries: &str) {
    let mut made: HashSet<(Store, usize)> = HashSet::new();
    for function in &plan.functions {
        if let Code::Matmul(product) = &function.code
            && made.insert((product.tensors[product.weights.0].store, product.width))
        {
            matmul::Tiles::new(product, setting).emit(e, setting);
        }
        emit_function(e, function, setting);
    }
    driver::emit(e, plan, entries);
}

/// Emits one function on its own, for tests and measurements.
pub fn emit_alone(e: &Emitter, function: &Function, setting: Setting) {
    if let Code::Matmul(product) = &function.code {
        matmul::Tiles::new(product, setting).emit(e, setting);
    }
    emit_function(e, function, setting);
}

/// Emits one function.
fn emit_function(e: &Emitter, function: &Function, setting: Setting) {
    let name = &function.name;
    match &function.code {
        Code::Nests(nests) => nest::emit(e, name, nests, setting),
        Code::Matmul(product) => matmul::emit(e, name, product, setting),
        Code::Along(along) => along::emit(e, name, along, setting),
        Code::Top(top) => top::emit(e, name, top, setting),
        Code::Largest(largest) => largest::emit(e, name, largest, setting),
        Code::Attention(attention) => attention::emit(e, name, attention, function.stores_keys, setting),
    }
}
