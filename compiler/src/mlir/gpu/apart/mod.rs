//! Steps of calls of many rows as launches of their own (sm_90a): one thread asks the copy engine for matrices, far ahead, and two groups of
//! four warps multiply what has come. A block walks tiles; while it ends one, what the next one needs is on its way.
//!
//! In the walk of steps (walk.rs) a step is a function among others, of whose registers and shared memory a multiprocessor holds
//! two blocks, and the assembler lets no product of matrices run while another one begins. Here it has all of both.
//!
//! What is multiplied are bfloat16 numbers in swizzled lines: a launch before rounds rows (rows.rs), or what multiplied before has left its
//! results so; caches are kept so.

mod attend;
mod decode;
mod finish;
mod pipeline;
mod product;
mod queries;
mod rows;
mod sorts;

use super::row_words;
use crate::forms::TILE;
use crate::fuse::kernel::{Attention, Code};
use crate::mlir::common::device::WARP;
use crate::mlir::common::site::Setting;
use crate::mlir::common::{Cmp, Emitter, KernelArgs, Ty, Val};
use crate::plan::{self, Choice, NUMBERS, Plan};
use pipeline::Pipeline;
pub use product::Group;
use sorts::Lists;
pub use sorts::SORTING_THREADS;

/// Warps that work together.
const GROUP: usize = 4;
/// Groups that multiply.
const GROUPS: usize = 2;
/// Rows of a group.
const ROWS: usize = 64;
/// Threads of a block: the first group asks, the others multiply.
pub const THREADS: usize = (1 + GROUPS) * GROUP * WARP;
/// Bytes of a line that is copied at once.
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
/// Bytes of a map.
const MAP: usize = 128;
/// Both groups' rows are a tile's.
const _: () = assert!(GROUPS * ROWS == plan::TILE_ROWS);

/// Positions of a stage of attention: fewer where a head has so many numbers that their sums take half of a thread's registers.
pub fn positions(code: &Attention) -> usize {
    // Rings have whole stages.
    if code.key.max(code.value) > 2 * NUMBERS { TILE / 2 } else { TILE }
}

/// One of a plan's launches of their own.
pub struct Launch<'p> {
    /// What it does.
    pub what: What<'p>,
    number: usize,
    hands: bool,
}

/// What a launch of its own does.
pub enum What<'p> {
    /// Products of the same rows.
    Products(Group<'p>),
    /// An attention.
    Attention(&'p Attention),
}

impl<'p> Launch<'p> {
    /// All launches of a plan, in its order.
    pub fn all(plan: &'p Plan) -> Vec<Launch<'p>> {
        let launch = |(number, own): (usize, &'p plan::Apart)| {
            let what = match &own.what {
                plan::What::Products(products) => What::Products(Group::of(plan, products, 8 * row_words(plan))?),
                plan::What::Attention(function) => match &plan.functions[*function].code {
                    Code::Attention(code) => What::Attention(code),
                    _ => return None,
                },
            };
            Some(Launch { what, number, hands: own.hands })
        };
        plan.apart.iter().enumerate().filter_map(launch).collect()
    }

    /// What its entries' names begin with.
    pub fn name(&self) -> String {
        match self.what {
            What::Products(_) => format!("products_{}", self.number),
            What::Attention(_) => format!("attention_{}", self.number),
        }
    }

    /// Whether the launch before leaves its rows, in calls that have it.
    pub fn is_handed(&self) -> bool {
        matches!(&self.what, What::Products(group) if group.products.handed)
    }

    /// Dynamic shared memory of a block that rounds, if there is something to round.
    pub fn rounding_bytes(&self) -> Option<usize> {
        if let What::Products(group) = &self.what { Some(rows::shared_bytes(group)) } else { None }
    }

    /// How rows choose their weights, if they do.
    fn choice(&self) -> Option<Choice> {
        if let What::Products(group) = &self.what { group.products.choice } else { None }
    }

    /// The same, and dynamic shared memory of the block that sorts.
    pub fn sorting(&self) -> Option<(Choice, usize)> {
        self.choice().map(|choice| (choice, sorts::shared_bytes(choice)))
    }

    /// Dynamic shared memory of a block that multiplies.
    pub fn shared_bytes(&self) -> usize {
        match &self.what {
            What::Products(group) => group.shared_bytes(),
            What::Attention(code) => attend::shared_bytes(code),
        }
    }

    /// Numbers of a row that it hands on.
    pub fn handed_numbers(&self) -> Option<usize> {
        let numbers = match &self.what {
            What::Products(group) => group.codes().last().map(|code| code.sizes[3]),
            What::Attention(code) => Some(code.groups * code.per * code.value),
        };
        numbers.filter(|_| self.hands)
    }

    /// The lists that an entry is told, if rows choose their weights.
    fn lists<'c>(&self, e: &Emitter<'c>, args: KernelArgs<'c>, told: Option<&Val<'c>>) -> Option<Lists<'c>> {
        Some(Lists::of(e, self.choice()?, args.call, *told?))
    }

    /// Emits its entries: `NAME_rounds` if there is something to round, and `NAME_apart` that multiplies; where rows choose their weights, `NAME_sorts`.
    pub fn emit(&self, e: &Emitter, setting: Setting) {
        let entry = |kind: &str| format!("{}_{kind}", self.name());
        let choice = self.choice();
        // What is told beside the rest, and where it stands.
        let pointers = |count: usize| vec![Ty::PTR; count + usize::from(choice.is_some())];
        let rounding = (ROUNDING_THREADS, ROUNDING_BLOCKS);
        if let What::Products(group) = &self.what {
            if choice.is_some() {
                e.device_entry(&entry("sorts"), (SORTING_THREADS, 1), &[Ty::PTR; 3], |values| {
                    let [call, words, lists] = *values else { return };
                    sorts::sort(e, group, setting, args(e, call, words), lists);
                });
            }
            e.device_entry(&entry("rounds"), rounding, &pointers(3), |values| {
                let [call, words, to, ..] = *values else { return };
                let args = args(e, call, words);
                rows::round(e, group, setting, args, (e.device_memory(to), self.lists(e, args, values.get(3))));
            });
        }
        e.device_entry(&entry("apart"), (THREADS, 1), &pointers(4), |values| {
            let [call, words, maps, next, ..] = *values else { return };
            let (args, next) = (args(e, call, words), self.hands.then(|| Next::of(e, next)));
            match &self.what {
                What::Products(group) => group.emit(e, setting, (args, self.lists(e, args, values.get(4))), (maps, next)),
                What::Attention(code) => attend::emit(e, code, setting, args, (maps, next)),
            }
        });
    }
}

/// Where results go, rounded, if the call has a launch that takes them; they are stored otherwise.
#[derive(Clone, Copy)]
struct Next<'c> {
    rows: Val<'c>,
    taken: Val<'c>,
}

impl<'c> Next<'c> {
    fn of(e: &Emitter<'c>, rows: Val<'c>) -> Next<'c> {
        Next { rows: e.device_memory(rows), taken: e.is_there(rows) }
    }

    /// The place of a row of so many numbers.
    fn row(self, e: &Emitter<'c>, row: Val<'c>, numbers: usize) -> Next<'c> {
        Next { rows: e.element(self.rows, row, 2 * numbers), ..self }
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
