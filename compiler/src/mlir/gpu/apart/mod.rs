//! Steps of calls of many rows as launches of their own (sm_90a): one thread asks the copy engine for matrices, far ahead, and two groups of
//! four warps multiply what has come. A block walks tiles; while it ends one, what the next one needs is on its way.
//!
//! In the walk of steps (walk.rs) a step is a function among others, of whose registers and shared memory a multiprocessor holds
//! two blocks, and the assembler lets no product of matrices run while another one begins. Here it has all of both.
//!
//! What is multiplied are bfloat16 numbers in swizzled lines: a launch before rounds rows (product.rs) or caches (caches.rs).

pub mod attend;
mod caches;
mod finish;
mod pipeline;
pub mod product;

use crate::fuse::kernel::Code;
use crate::mlir::common::device::WARP;
use crate::mlir::common::site::Setting;
use crate::mlir::common::{Cmp, Emitter, KernelArgs, Ty, Val};
use crate::plan::Function;
pub use caches::POSITIONS;
use pipeline::Pipeline;
use product::Apart;

/// Warps that work together.
const GROUP: usize = 4;
/// Groups that multiply.
const GROUPS: usize = 2;
/// Rows of a group.
const ROWS: usize = 64;
/// Threads of a block: the first group asks, the others multiply.
pub const THREADS: usize = (1 + GROUPS) * GROUP * WARP;
/// Numbers of a line, and its bytes.
pub const NUMBERS: usize = 64;
const LINE: usize = 2 * NUMBERS;
/// Numbers that one instruction takes.
const AT_ONCE: usize = 16;
/// Registers of a thread that asks, and of one that multiplies.
const REGISTERS: [usize; 2] = [40, 232];
/// What the matrix units want operands to be aligned to, in bytes.
const ALIGNED: usize = 1024;
/// Threads of a block that rounds.
pub const ROUNDING_THREADS: usize = 256;
/// Blocks of them on a multiprocessor.
pub const ROUNDING_BLOCKS: usize = 4;

/// Emits the entries of a function whose steps are launches of their own: `NAME_rounds`, and `NAME_apart` that multiplies.
pub fn emit(e: &Emitter, function: &Function, setting: Setting) {
    let (rounds, apart) = (format!("{}_rounds", function.name), format!("{}_apart", function.name));
    let (rounding, multiplying) = ((ROUNDING_THREADS, ROUNDING_BLOCKS), (THREADS, 1));
    match &function.code {
        Code::Matmul(product) => {
            let Some(own) = Apart::of(product, e.has_groups()) else { return };
            e.device_entry(&rounds, rounding, &[Ty::PTR; 3], |values| {
                let [call, words, to] = *values else { return };
                product::round(e, product, setting, args(e, call, words), e.device_memory(to));
            });
            e.device_entry(&apart, multiplying, &[Ty::PTR; 4], |values| {
                let [call, words, rows, weights] = *values else { return };
                own.emit(e, product, setting, args(e, call, words), [rows, weights]);
            });
        }
        Code::Attention(attention) if !function.stores_keys && attend::is_apart(attention, e.has_groups()) => {
            e.device_entry(&rounds, rounding, &[Ty::PTR; 4], |values| {
                let [call, words, keys, own] = *values else { return };
                caches::round(e, attention, [call, words, keys, own]);
            });
            e.device_entry(&apart, multiplying, &[Ty::PTR; 4], |values| {
                let [call, words, keys, own] = *values else { return };
                attend::emit(e, attention, setting, [call, words, keys, own]);
            });
        }
        _ => {}
    }
}

fn args<'c>(e: &Emitter<'c>, call: Val<'c>, words: Val<'c>) -> KernelArgs<'c> {
    let nothing = e.i64(0);
    KernelArgs { call: e.device_memory(call), operands: e.device_memory(words), begin: nothing, end: nothing, thread: nothing }
}

/// What a block's threads do: one of them asks, and each group that multiplies does `multiply` with its number.
fn roles<'c>(e: &Emitter<'c>, pipeline: &Pipeline<'_, 'c>, ask: impl FnOnce(), multiply: impl FnOnce(Val<'c>)) {
    let thread = e.thread();
    e.if_then(e.cmp(Cmp::Eq, thread, e.i32(0)), || pipeline.prepare(GROUPS * GROUP));
    e.sync();
    // The same in all lanes, which the assembler sees this way alone.
    let group = e.of_lane(e.shift_right(thread, i64::from((GROUP * WARP).ilog2())), e.i32(0));
    let [few, many] = REGISTERS;
    e.if_then(e.cmp(Cmp::Eq, group, e.i32(0)), || {
        e.give_registers(few);
        e.if_then(e.cmp(Cmp::Eq, thread, e.i32(0)), ask);
    });
    e.if_then(e.cmp(Cmp::Ne, group, e.i32(0)), || {
        e.take_registers(many);
        multiply(e.sub(group, e.i32(1)));
    });
}
