//! Kernels to MLIR for GPUs: one file for each skeleton, and one entry (walk.rs) that does all steps of a call in one launch.
//!
//! A function does its tasks from `begin` on, every `blocks` of them, with all threads of its block: a task is what a CPU's thread
//! would do, or a part of it. Expressions are those of CPU kernels with one lane; what is different is who does which element.

mod along;
mod attention;
mod dot;
mod matmul;
mod nest;
mod stream;
mod team;
mod top;
mod walk;

use crate::error::Error;
use crate::fuse::kernel::{Code, Nests};
use crate::mlir::common::Emitter;
use crate::mlir::common::site::Setting;
use crate::plan::{Function, Plan};

pub use crate::plan::{STEP_ROWS, THREADS};

/// Blocks that one multiprocessor holds.
pub const BLOCKS: usize = 2;
/// Most scratch bytes of a kernel of nests that lie in shared memory; more lies in the device's.
const SHARED_SCRATCH: usize = 48 * 1024;

/// Dynamic shared memory that a block needs for any kernel of a plan, in bytes.
pub fn shared_bytes(plan: &Plan) -> usize {
    let own = |function: &Function| match &function.code {
        Code::Nests(nests) => nest::shared_bytes(nests),
        Code::Matmul(product) => matmul::shared_bytes(product),
        Code::Attention(attention) => attention::shared_bytes(attention),
        Code::Along(_) | Code::Top(_) => 0,
    };
    plan.functions.iter().map(own).max().unwrap_or(0).next_multiple_of(braid_runtime::artifact::ALIGN)
}

/// Scratch in the device's memory that each block needs, in bytes.
pub fn scratch_bytes(plan: &Plan) -> usize {
    let own = |function: &Function| match &function.code {
        Code::Nests(nests) if !is_shared(nests) => nests.scratch,
        _ => 0,
    };
    plan.functions.iter().map(own).max().unwrap_or(0).next_multiple_of(braid_runtime::artifact::ALIGN)
}

fn is_shared(nests: &Nests) -> bool {
    nests.scratch <= SHARED_SCRATCH
}

/// Emits all functions of a plan and the entries.
///
/// # Errors
/// A kernel that has no form for GPUs yet.
pub fn emit(e: &Emitter, plan: &Plan) -> Result<(), Error> {
    let scratch = scratch_bytes(plan);
    for function in &plan.functions {
        emit_function(e, function, scratch)?;
    }
    walk::emit(e, plan);
    Ok(())
}

fn emit_function(e: &Emitter, function: &Function, scratch: usize) -> Result<(), Error> {
    let setting = Setting { lanes: 1, scratch, tile_rows: 1, shared: true, vnni: false };
    let name = &function.name;
    match &function.code {
        Code::Nests(nests) => nest::emit(e, name, nests, Setting { shared: is_shared(nests), ..setting }),
        Code::Matmul(product) => matmul::emit(e, name, product, setting),
        Code::Along(along) => along::emit(e, name, along, setting),
        Code::Top(top) => top::emit(e, name, top, setting),
        Code::Attention(attention) => attention::emit(e, name, attention, function.stores_keys, setting),
    }
    Ok(())
}
