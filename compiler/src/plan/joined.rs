//! Products of the same row one after the other, whose weights lie one behind the other: in calls of few rows they are one product, whose
//! columns blocks share. What a block does once for a product (its part of the columns, the rows, the walk's next step) it does once for all
//! of them. In a call of one row a convolution whose channels are a product's columns goes with it: the thread that has the sum has all that the
//! channel needs.

use super::alone::{has_columns, operands_of_convolution};
use super::order::Touched;
use super::tasks::is_shared_by_blocks;
use super::{Alone, Order, Plan, STEP_ROWS, Step, column_bytes};
use crate::fuse::kernel::{Along, Base, Code, Matmul, Rows, Store};
use std::ops::{Range, RangeInclusive};

/// Most words of such a step.
const WORDS: usize = 96;
/// How many steps behind products their convolutions are looked for.
const BEHIND: usize = 16;

/// A product of such a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joint {
    /// Its function.
    pub function: usize,
    /// How many words it has; those of its convolution stand behind them.
    pub words: usize,
    /// The convolution of its columns: a function, and how many words that has. The last two say how many columns of the step stand before the
    /// channels, and how many there are.
    pub tail: Option<(usize, usize)>,
}

/// A convolution that goes with a product of a run: which product, and which step.
type Tail = (usize, usize);

/// Gives calls of one row a step for each run of such products, ahead of them, and calls of several.
pub(super) fn add(plan: &mut Plan) {
    let mut at = 0;
    while at < plan.steps.len() {
        let run = at..at + together(plan, at);
        at = run.end.max(at + 1);
        let tails = tails(plan, run.clone());
        if run.len() > 1 || !tails.is_empty() {
            let one = join(plan, run.clone(), &tails, 0..=1);
            let several = gains_by_rows(plan, run.clone()).then(|| join(plan, run.clone(), &[], 2..=STEP_ROWS));
            let least = if several.is_some() { STEP_ROWS + 1 } else { 2 };
            run.clone().for_each(|step| plan.steps[step].tasks.least = least);
            tails.iter().for_each(|(_, step)| plan.steps[*step].tasks.least = 2);
            let joint: Vec<Step> = std::iter::once(one).chain(several).collect();
            at += joint.len();
            plan.steps.splice(run.start..run.start, joint);
        }
    }
}

/// Whether several rows gain where a run is one step: of products of which blocks make something else of each row.
fn gains_by_rows(plan: &Plan, run: Range<usize>) -> bool {
    let first = product(plan, &plan.steps[run.start]);
    run.len() > 1 && first.is_some_and(|code| code.tensors[code.weights.0].store != Store::F32)
}

/// What the steps of runs need in calls of several rows: one waits if one of its products does. The steps of the products, which such calls do not
/// have, leave their waits to whoever comes behind them.
pub(super) fn mark(plan: &mut Plan) {
    for at in 0..plan.steps.len() {
        if !matches!(plan.functions[plan.steps[at].function].alone, Some(Alone::Rows(_))) {
            continue;
        }
        let members = &plan.steps[at].kernels;
        let of_many = |step: &&Step| step.tasks.most > STEP_ROWS && members.contains(&step.kernel());
        let free = plan.steps.iter().filter(of_many).all(|step| step.order == Order::Free);
        plan.steps[at].order = if free { Order::Free } else { Order::Wait };
    }
}

/// The step of a run, in calls of so many rows.
fn join(plan: &mut Plan, run: Range<usize>, tails: &[Tail], rows: RangeInclusive<usize>) -> Step {
    let steps = plan.steps[run].to_vec();
    let widths: Vec<usize> = steps.iter().map(|step| product(plan, step).map_or(0, |code| code.sizes[3])).collect();
    let (mut words, mut kernels): (Vec<i64>, Vec<usize>) = (vec![], steps.iter().map(|step| step.kernel()).collect());
    let mut member = |at: usize| {
        let own = &steps[at];
        words.extend(&own.words);
        let tail = tails.iter().find(|(product, _)| *product == at).map(|(_, step)| &plan.steps[*step]);
        let tail = tail.map(|step| {
            words.extend(&step.words);
            words.extend([widths[..at].iter().sum::<usize>() as i64, widths.iter().sum::<usize>() as i64]);
            kernels.push(step.kernel());
            (step.function, step.words.len() + 2)
        });
        Joint { function: own.function, words: own.words.len(), tail }
    };
    let members = (0..steps.len()).map(&mut member).collect();
    let first = steps[0].clone();
    let code = plan.functions[first.function].code.clone();
    let alone = if *rows.end() > 1 { Alone::Rows(members) } else { Alone::Joined(members) };
    let function = plan.function(&code, false, Some(alone));
    let mut tasks = first.tasks;
    (tasks.least, tasks.most, tasks.tiles) = (*rows.start(), *rows.end(), [None; 2]);
    Step { function, words, tasks, kernels, ..first }
}

/// The convolutions of a run's columns that need nothing else, and touch nothing that other blocks may be at meanwhile.
fn tails(plan: &Plan, run: Range<usize>) -> Vec<Tail> {
    let kernel = |step: usize| &plan.fused.kernels[plan.steps[step].kernel()];
    let touched = |step: usize| Touched::alone(plan, kernel(step));
    let (mut found, mut words): (Vec<Tail>, usize) = (vec![], plan.steps[run.clone()].iter().map(|step| step.words.len()).sum());
    for at in run.end..plan.steps.len().min(run.end + BEHIND) {
        let step = &plan.steps[at];
        let Code::Along(along) = &plan.functions[step.function].code else { continue };
        let Some(product) = run.clone().position(|product| has_columns(kernel(product), kernel(at), along)) else { continue };
        let own = touched(at);
        // Other blocks may be at any product of the run meanwhile, and at convolutions.
        let products = run.clone().map(touched).all(|other| !other.is_overwritten(&own));
        let apart =
            products && found.iter().map(|(_, step)| touched(*step)).all(|other| !other.clashes(&own) && !own.clashes(&other));
        let fits = kernel(at).rows == Rows::All && step.words.len() == operands_of_convolution(along) && step.tasks.least <= 1;
        let all = words + step.words.len() + 2;
        if fits && apart && reads_weights_alone(along) && all <= WORDS && found.iter().all(|(other, _)| *other != product) {
            found.push((product, at));
            words = all;
        }
    }
    found
}

/// Whether a convolution reads nothing of the call but its input.
fn reads_weights_alone(along: &Along) -> bool {
    let is_steady = |base: Base| matches!(base, Base::Weights | Base::Prepared | Base::Tile);
    along.epilogue.views().into_iter().all(|view| is_steady(along.tensors[view.tensor.0].base))
}

/// A step's product, if it is one whose weights are asked for before the step.
fn product<'p>(plan: &'p Plan, step: &Step) -> Option<&'p Matmul> {
    let Code::Matmul(code) = &plan.functions[step.function].code else { return None };
    let wide = 16 / code.tensors[code.weights.0].store.bytes().max(1);
    let streams = is_shared_by_blocks(code) && code.sizes[0] == 1 && code.is_aligned(wide);
    (streams && code.rows == Rows::All && step.tasks.least <= 1).then_some(code)
}

/// How many steps from `first` on are such a run.
fn together(plan: &Plan, first: usize) -> usize {
    let Some(code) = plan.steps.get(first).and_then(|step| product(plan, step)) else { return 0 };
    let touched: Vec<Touched> = plan.steps[first..]
        .iter()
        .take_while(|step| product(plan, step).is_some() && has_rows_of(plan, step, &plan.steps[first]))
        .map(|step| Touched::alone(plan, &plan.fused.kernels[step.kernel()]))
        .collect();
    // Who needs another one's results has the same columns as that one.
    let clash = |a: usize, b: usize| touched[a].clashes(&touched[b]) || touched[b].clashes(&touched[a]);
    let is_apart = |at: usize| (0..touched.len()).all(|other| other == at || !clash(at, other));
    let (mut count, mut words) = (0, 0);
    let mut behind = weights(code, &plan.steps[first]);
    for (at, step) in plan.steps[first..first + touched.len()].iter().enumerate() {
        let Some(code) = product(plan, step) else { break };
        words += step.words.len();
        if !is_apart(at) || weights(code, step) != behind || words > WORDS {
            break;
        }
        behind += (code.sizes[3] * column_bytes(code)) as i64;
        count += 1;
    }
    count
}

/// Where a step's weights begin.
fn weights(code: &Matmul, step: &Step) -> i64 {
    step.words[code.tensors[code.weights.0].operand]
}

/// Whether both steps are products of the same rows, with weights stored in the same way.
pub(super) fn has_rows_of(plan: &Plan, step: &Step, before: &Step) -> bool {
    let rows = |step: &Step| match &plan.functions[step.function].code {
        Code::Matmul(product) => {
            let tensor = product.tensors[product.left.tensor.0];
            let view = (product.left.offset, product.left.strides.clone(), product.sizes[2], product.rows);
            let store = product.tensors[product.weights.0].store;
            Some((tensor.base, tensor.row, step.words[tensor.operand], view, store))
        }
        _ => None,
    };
    rows(step).is_some_and(|own| rows(before) == Some(own))
}
