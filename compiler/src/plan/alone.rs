//! The steps of a call of one row: where blocks would wait for what little one of them does, each does it itself.

use super::heads::Cut;
use super::tasks::nest_cost;
use super::{Alone, Per, Places, Plan, Step, Tasks, is_shared_by_blocks};
use crate::fuse::kernel::{Along, Attention, COLUMN, Code, Rows, Walk};
use crate::fuse::{Fused, Kernel, Operand};

/// Most work of a step that every block does, in additions.
const COST: usize = 4096;
/// Most numbers that such a step makes.
const NUMBERS: usize = 1024;

/// Kernels behind one that blocks may do for themselves for which what that reads and makes stays: else they would wait for each other all
/// the same, to overwrite it.
const STAYS: usize = 8;

/// At which kernels buffers are to have their places, beside those that touch them: what convolutions make has one from the products on with which they
/// may go.
pub(super) fn lasting(fused: &Fused) -> impl Iterator<Item = (usize, usize)> + '_ {
    let maker = |read: &usize| fused.kernels.iter().position(|kernel| kernel.writes.contains(read));
    let tails = fused.kernels.iter().filter(|kernel| matches!(kernel.code, Code::Along(_)));
    let early = tails.filter_map(move |kernel| {
        let first = kernel.reads.iter().filter_map(maker).min()?.saturating_sub(STAYS);
        Some(kernel.writes.iter().map(move |buffer| (*buffer, first)))
    });
    early.flatten().chain(staying(fused))
}

/// Until which kernel buffers stay.
fn staying(fused: &Fused) -> impl Iterator<Item = (usize, usize)> + '_ {
    let small = |kernel: &Kernel| match &kernel.code {
        Code::Nests(nests) => nests.nests.iter().map(|nest| nest_cost(nest, &nests.sizes)).sum::<usize>() <= COST,
        Code::Top(_) | Code::Along(_) => true,
        _ => false,
    };
    let makers = fused.kernels.iter().enumerate().filter(move |(_, kernel)| kernel.rows == Rows::All && small(kernel));
    let last = fused.kernels.len().saturating_sub(1);
    makers.flat_map(move |(at, kernel)| {
        kernel.reads.iter().chain(&kernel.writes).map(move |buffer| (*buffer, (at + STAYS).min(last)))
    })
}

/// Gives steps that calls of one row do in another way a second one.
pub(super) fn add(plan: &mut Plan, cuts: &[Cut]) {
    for mut step in std::mem::take(&mut plan.steps) {
        let stores = plan.functions[step.function].stores_keys;
        let kernel = plan.fused.kernels[step.kernel()].clone();
        let cut = cuts.iter().any(|cut| cut.maker == step.kernel());
        let joined = step.kernels.len() > 1;
        let own = if step.tasks.least > 1 || cut || joined { None } else { own_step(plan, &step, &kernel) };
        match (&kernel.code, stores) {
            (Code::Attention(code), true) if stores_alone(code) => step.tasks.least = 2,
            (Code::Attention(code), false) if stores_alone(code) && has_store(plan, step.kernel()) => {
                step.function = plan.function(&kernel.code, false, Some(Alone::At(vec![])));
            }
            _ if cut || own.is_some() => step.tasks.least = step.tasks.least.max(2),
            _ => {}
        }
        if !stores {
            let made =
                cuts.iter().filter(|cut| cut.user == step.kernel()).map(|cut| cut_step(plan, cut, &step)).collect::<Vec<_>>();
            plan.steps.extend(made);
        }
        plan.steps.push(step);
        plan.steps.extend(own);
    }
}

/// Whether a call of one row stores a key where it is looked at: by all tasks that have its head.
fn stores_alone(code: &Attention) -> bool {
    let plain = code.best == 0 && code.chosen.is_none() && code.keyed.is_empty() && code.value > 0;
    plain && !code.has_lone_rows() && code.tally.is_none()
}

/// Whether a step before stores the kernel's keys in each call.
fn has_store(plan: &Plan, kernel: usize) -> bool {
    plan.steps.iter().any(|step| step.kernel() == kernel && plan.functions[step.function].stores_keys)
}

/// A cut kernel's step, which has the tasks of the one that it is cut for.
fn cut_step(plan: &mut Plan, cut: &Cut, user: &Step) -> Step {
    let function = plan.function(&Code::Nests(cut.nests.clone()), false, Some(Alone::At(cut.places.clone())));
    let tasks = Tasks { least: 0, most: 1, tiles: [None; 2], ..user.tasks };
    Step { function, words: plan.words(cut.maker), tasks, cut_for: Some(cut.user), kernels: vec![cut.maker], ..user.clone() }
}

/// A step that every block does, or for its own share.
fn own_step(plan: &mut Plan, step: &Step, kernel: &Kernel) -> Option<Step> {
    let words = match &kernel.code {
        Code::Nests(_) | Code::Top(_) => is_small(plan, kernel, step.tasks.cost).then(Vec::new),
        Code::Along(along) if step.words.len() == operands_of_convolution(along) => {
            columns_of_products(plan, step, kernel, along).map(Vec::from)
        }
        _ => None,
    }?;
    let function = plan.function(&kernel.code, false, Some(Alone::At(Places::new())));
    let own = Tasks { per: Per::Block, times: 1, by: 1, factor: 1, least: 0, most: 1, tiles: [None; 2], ..step.tasks };
    Some(Step { function, tasks: own, words: step.words.iter().copied().chain(words).collect(), ..step.clone() })
}

/// Whether a kernel makes a few numbers of nothing but buffers and weights: several blocks may make the same.
fn is_small(plan: &Plan, kernel: &Kernel, cost: usize) -> bool {
    let buffers = &plan.fused.buffers;
    let by_rows = match &kernel.code {
        Code::Nests(nests) => nests.walk == Walk::Rows(Rows::All),
        Code::Top(top) => top.rows == Rows::All,
        _ => false,
    };
    let steady = kernel.operands.iter().all(|operand| matches!(operand, Operand::Buffer(_) | Operand::Packed(_)));
    let numbers: usize = kernel.writes.iter().map(|write| buffers[*write].elements).sum();
    let kept = kernel.writes.iter().all(|write| !buffers[*write].output && !kernel.reads.contains(write));
    kernel.rows == Rows::All && by_rows && steady && kept && numbers <= NUMBERS && cost <= COST
}

/// Whether a convolution's channels are all columns of a product that blocks share, made since the last row: a block then has what it needs.
/// Gives the number of columns before them, and that of all, where products are joined.
fn columns_of_products(plan: &Plan, step: &Step, kernel: &Kernel, along: &Along) -> Option<[i64; 2]> {
    let of_one_row =
        plan.steps.iter().rev().take_while(|before| before.kernel() < step.kernel()).filter(|before| before.tasks.least <= 1);
    let found = of_one_row.take(16).find_map(|before| {
        let width = |at: &usize| match &plan.fused.kernels[*at].code {
            Code::Matmul(product) => product.sizes[3],
            _ => 0,
        };
        let at = before.kernels.iter().position(|at| has_columns(&plan.fused.kernels[*at], kernel, along))?;
        let widths = || before.kernels.iter().map(width);
        Some([widths().take(at).sum::<usize>() as i64, widths().sum::<usize>() as i64])
    });
    found.filter(|_| kernel.rows == Rows::All)
}

/// Words of a convolution's operands; behind them stand those that say which channels are a block's.
pub fn operands_of_convolution(along: &Along) -> usize {
    let own = along.tensors.iter().filter(|tensor| tensor.base.has_operand());
    own.map(|tensor| tensor.operand + 1).max().unwrap_or(0)
}

/// Whether channel by channel a convolution reads what a product that blocks share makes column by column.
pub(super) fn has_columns(product: &Kernel, kernel: &Kernel, along: &Along) -> bool {
    let Code::Matmul(code) = &product.code else { return false };
    let (made, read) = (&along.tensors[along.input.tensor.0], &code.tensors[code.out.tensor.0]);
    let same = kernel.operands.get(made.operand) == product.operands.get(read.operand) && made.base == read.base;
    let straight = |strides: &[_]| *strides == [(COLUMN, 1)];
    let whole = along.channels == code.sizes[3] && code.sizes[0] == 1 && code.out.offset == along.input.offset;
    let again =
        along.epilogue.views().into_iter().any(|view| along.tensors[view.tensor.0].operand == made.operand && view.tensor.0 > 0);
    let bound = !again && made.base.has_operand() && code.rows == Rows::All && is_shared_by_blocks(code);
    same && bound && whole && straight(&code.out.strides) && straight(&along.input.strides)
}
