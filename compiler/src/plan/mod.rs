//! Kernels to a program: each function once, each call with its offsets, every byte of memory placed.
//!
//! memory.rs places buffers in one arena whose offsets are in bytes *per row of capacity*, states in a slot, weights in a blob;
//! verify.rs checks that nothing alive overlaps; print.rs shows it.

mod memory;
mod print;
mod verify;

use crate::fuse::kernel::{Code, Part, Rows, Walk};
use crate::fuse::{Fused, Kernel};
use memory::Memory;

pub use print::print;
pub use verify::verify;

/// What the number of tasks of a call depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i64)]
pub enum Per {
    /// Nothing.
    Once = 0,
    /// Rows of the call.
    Row = 1,
    /// Wanted rows.
    Wanted = 2,
    /// Sequences of the call.
    Segment = 3,
}

/// `factor · ⌈count · times / by⌉` tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tasks {
    /// What is counted.
    pub per: Per,
    /// See the type.
    pub times: usize,
    /// See the type.
    pub by: usize,
    /// See the type.
    pub factor: usize,
    /// Rough work of one task, in additions; calls with little work stay on one thread.
    pub cost: usize,
    /// Calls of fewer rows have no task.
    pub least: usize,
}

/// Rows of a matrix product that one task does.
pub const ROWS_A_TASK: usize = 96;
/// Channels of a convolution that one task does, in hardware vectors.
pub const VECTORS_A_TASK: usize = 4;

/// One function of the artifact. Attention is two: it stores the call's keys and values before any row reads them.
#[derive(Clone, Debug, PartialEq)]
pub struct Function {
    /// Its name, the same in every stage.
    pub name: String,
    /// What it does.
    pub code: Code,
    /// Whether it is the storing part of attention.
    pub stores_keys: bool,
}

/// One call of a function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Index into [`Plan::functions`].
    pub function: usize,
    /// The kernel of the fused stage that it does.
    pub kernel: usize,
    /// Operand words.
    pub words: Vec<i64>,
    /// How many tasks.
    pub tasks: Tasks,
}

/// A whole program.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What is executed.
    pub fused: Fused,
    /// Each function once.
    pub functions: Vec<Function>,
    /// Done once, when weights are loaded.
    pub prepare: Vec<Step>,
    /// Done in every call.
    pub steps: Vec<Step>,
    /// Where everything lies.
    pub memory: Memory,
}

/// Plans the calls of a fused model. `lanes`: elements of a hardware vector.
pub fn plan(fused: &Fused, lanes: usize) -> Plan {
    let memory = Memory::place(fused);
    let mut plan = Plan { fused: fused.clone(), functions: vec![], prepare: vec![], steps: vec![], memory };
    for (at, kernel) in fused.kernels.iter().enumerate() {
        let words: Vec<i64> = kernel.operands.iter().map(|o| plan.memory.word(*o)).collect();
        let parts: &[bool] = if matches!(kernel.code, Code::Attention(_)) { &[true, false] } else { &[false] };
        for stores_keys in parts {
            let function = plan.function(&kernel.code, *stores_keys);
            let tasks = tasks(kernel, *stores_keys, lanes);
            let step = Step { function, kernel: at, words: words.clone(), tasks };
            match kernel.rows {
                Rows::Once => plan.prepare.push(step),
                _ => plan.steps.push(step),
            }
        }
    }
    plan
}

impl Plan {
    fn function(&mut self, code: &Code, stores_keys: bool) -> usize {
        let same = |f: &Function| f.stores_keys == stores_keys && f.code == *code;
        if let Some(known) = self.functions.iter().position(same) {
            return known;
        }
        let kind = kind(code, stores_keys);
        let count = self.functions.iter().filter(|f| f.name.rsplit_once('_').is_some_and(|(k, _)| k == kind)).count();
        self.functions.push(Function { name: format!("{kind}_{count}"), code: code.clone(), stores_keys });
        self.functions.len() - 1
    }
}

fn kind(code: &Code, stores_keys: bool) -> &'static str {
    match code {
        Code::Nests(nests) => match nests.walk {
            Walk::Rows(_) => "rows",
            Walk::Segments { part: Part::Chunks(_), .. } => "chunks",
            Walk::Segments { .. } => "recurrence",
        },
        Code::Matmul(product) if product.chosen.is_some() => "chosen_matmul",
        Code::Matmul(_) => "matmul",
        Code::Along(along) if along.weights.is_some() => "convolution",
        Code::Along(_) => "shift",
        Code::Top(_) => "top",
        Code::Attention(_) if stores_keys => "store_keys",
        Code::Attention(_) => "attention",
    }
}

fn per(rows: Rows) -> Per {
    match rows {
        Rows::Once => Per::Once,
        Rows::All => Per::Row,
        Rows::Wanted => Per::Wanted,
    }
}

fn tasks(kernel: &Kernel, stores_keys: bool, lanes: usize) -> Tasks {
    let rows = Tasks { per: per(kernel.rows), times: 1, by: 1, factor: 1, cost: 1, least: 0 };
    match &kernel.code {
        Code::Nests(nests) => {
            let cost = nests.nests.iter().map(|n| nest_cost(n, &nests.sizes)).sum::<usize>().max(1);
            match &nests.walk {
                Walk::Rows(_) => Tasks { cost, ..rows },
                Walk::Segments { grid, blocked, part } => {
                    let blocks = |axis| match blocked {
                        Some((cut, width)) if *cut == axis => nests.sizes[axis.0].div_ceil(*width),
                        _ => nests.sizes[axis.0],
                    };
                    let factor = grid.iter().map(|a| blocks(*a)).product();
                    let least = if let Part::Chunks(rows) = part { *rows } else { 0 };
                    Tasks { per: Per::Segment, factor, cost: cost / factor + 1, least, ..rows }
                }
            }
        }
        Code::Matmul(product) => {
            let [inner, batch, depth, columns] = product.sizes;
            let panels = columns.div_ceil(product.width);
            match product.chosen {
                Some(_) => Tasks { factor: panels, per: Per::Once, cost: inner * depth * product.width, ..rows },
                None => Tasks { times: inner, by: ROWS_A_TASK, factor: batch * panels, cost: depth * product.width, ..rows },
            }
        }
        Code::Along(along) => {
            let block = lanes * VECTORS_A_TASK;
            Tasks { per: Per::Segment, factor: along.channels.div_ceil(block), cost: block * along.taps, ..rows }
        }
        Code::Top(top) => Tasks { cost: top.outer * top.size * top.count, ..rows },
        Code::Attention(attention) if stores_keys => Tasks { cost: attention.groups * attention.key * 4, ..rows },
        Code::Attention(attention) => {
            let heads = attention.heads_at_once();
            let cost = heads * (attention.key + attention.value) * 64;
            Tasks { factor: attention.groups * attention.per / heads, cost, ..rows }
        }
    }
}

fn nest_cost(nest: &crate::fuse::kernel::Nest, sizes: &[usize]) -> usize {
    nest.stmts.iter().map(|s| (s.expr.cost() + 1) * s.space.iter().map(|a| sizes[a.0]).product::<usize>()).sum()
}
