//! Steps that are launches of their own in calls of many rows, on GPUs whose matrix units multiply for groups of four warps: products of the
//! same rows side by side, and attention.
//!
//! Products of the same rows read them together, and share the chip's multiprocessors; one whose epilogue reads the results of the one
//! before, each where its own stands (a gate), has tiles with columns of both, so that these results need not be stored. Rows that are made for
//! products alone (prologue.rs) are made where they are rounded, and results that only the next launch multiplies are handed on rounded.
//!
//! Where rows choose their weights, a launch before sorts all choices by what was chosen: tiles have neighbours of that order.

use super::joined::has_rows_of;
use super::tiling::{Tiling, is_for_units, rows_for_all};
use super::{MOST_ROWS, Order, Plan, STEP_ROWS, Step};
use crate::fuse::expr::{KAxis, TensorId, View};
use crate::fuse::kernel::{Attention, BATCH, Base, COLUMN, Code, DEPTH, INNER, Matmul, Rows, Store};
use crate::fuse::{Kernel, Operand};
use std::ops::Range;

/// Numbers of a line that is copied at once.
pub const NUMBERS: usize = 64;
/// Rows of a tile.
pub const TILE_ROWS: usize = 128;
/// Columns of a box of weights.
pub const BOX: usize = 128;
/// Most rows of a sequence, on average, that an attention does row by row: it reads keys and values for each, where tiles would be of little else
/// than rows that are not there.
pub const FEW_ROWS: usize = 8;
/// Most choices of a row: there are so many rounded rows for each row of a call.
const MOST_CHOICES: usize = 16;

/// A launch of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Apart {
    /// What it does.
    pub what: What,
    /// Least rows of a call.
    pub from: usize,
    /// Which of two places its rows have; those that it hands on have the other one, an attention's this one.
    pub place: usize,
    /// Whether the results of its last step are not stored but are, rounded, the rows of the next launch, in calls that have it.
    pub hands: bool,
}

/// What a launch of its own does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// Products of the same rows.
    Products(Products),
    /// The function of an attention.
    Attention(usize),
}

/// Products of the same rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Products {
    /// In the order of their steps.
    pub members: Vec<Member>,
    /// Their tiles: of one box of weights, or of two.
    pub tiling: Tiling,
    /// Whether the launch before leaves their rows, in calls that have it.
    pub handed: bool,
    /// Whether rows choose their weights.
    pub choice: Option<Choice>,
}

/// How rows choose their weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Choices of a row.
    pub count: usize,
    /// How many there are to choose from.
    pub elements: usize,
}

/// A product, or two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The function of the first.
    pub function: usize,
    /// The one that reads the first one's results.
    pub second: Option<Second>,
    /// Columns of each.
    pub columns: usize,
}

/// A product whose epilogue reads the results of the one before, each where its own stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Second {
    /// Its function.
    pub function: usize,
    /// How it reads them.
    pub reads: Vec<View>,
    /// Whether others read them, too.
    pub shared: bool,
}

impl Member {
    /// Its functions, one for each step.
    pub fn functions(&self) -> impl Iterator<Item = usize> {
        std::iter::once(self.function).chain(self.second.iter().map(|second| second.function))
    }

    /// Columns of a tile that each of its functions has.
    pub fn tile_columns(&self, tiling: Tiling) -> usize {
        if self.second.is_some() { BOX } else { tiling.columns }
    }

    /// Tiles side by side.
    pub fn across(&self, tiling: Tiling) -> usize {
        self.columns.div_ceil(self.tile_columns(tiling))
    }
}

impl Products {
    /// Their functions, one for each step.
    pub fn functions(&self) -> impl Iterator<Item = usize> {
        self.members.iter().flat_map(Member::functions)
    }

    /// Tiles side by side.
    pub fn across(&self) -> usize {
        self.members.iter().map(|member| member.across(self.tiling)).sum()
    }

    /// Least rows of a call. As a rule rows choose everything that there is, and tiles are of one choice.
    fn from(&self) -> usize {
        let down = self.choice.map_or(1, |choice| choice.elements.min(TILE_ROWS * choice.count));
        rows_for_all(self.across() * down, TILE_ROWS)
    }
}

impl Apart {
    /// How many steps it does.
    pub fn steps(&self) -> usize {
        if let What::Products(products) = &self.what { products.functions().count() } else { 1 }
    }
}

/// Whether attention can be one: heads in whole lines, and a cache in which every position has its place.
fn attends(code: &Attention) -> bool {
    let lines = [code.key, code.value].iter().all(|size| [1, 2, 4].contains(&(size / NUMBERS)) && size.is_multiple_of(NUMBERS));
    lines && code.is_packed()
}

/// Whether a product can be part of one.
fn multiplies(product: &Matmul) -> bool {
    let [inner, elements, ..] = product.sizes;
    let rounded = product.tensors[product.weights.0].store == Store::Bf16;
    let most = if product.chosen.is_some() { MOST_CHOICES } else { 1 };
    rounded && product.rows == Rows::All && inner <= most && elements == 1 && is_for_units(product)
}

/// How the rows of a product choose its weights, if they do.
fn choice(product: &Matmul) -> Option<Choice> {
    let (_, elements) = product.chosen.as_ref()?;
    Some(Choice { count: product.sizes[0], elements: *elements })
}

/// Where choices are, and how they are read.
type Choices<'k> = (Choice, Base, Option<Operand>, [usize; 2], &'k [(KAxis, usize)]);

/// By which the rows of a product choose its weights.
fn choices(kernel: &Kernel) -> Option<Choices<'_>> {
    let Code::Matmul(product) = &kernel.code else { return None };
    let (ids, _) = product.chosen.as_ref()?;
    let tensor = product.tensors[ids.tensor.0];
    let operand = tensor.base.has_operand().then(|| kernel.operands[tensor.operand]);
    Some((choice(product)?, tensor.base, operand, [tensor.row, ids.offset], &ids.strides))
}

/// A launch, and its steps.
struct Found {
    steps: Range<usize>,
    apart: Apart,
}

/// Finds the launches of a plan whose steps are in order.
pub(super) fn find(plan: &mut Plan) {
    let mut all: Vec<Found> = Vec::new();
    let mut at = 0;
    while at < plan.steps.len() {
        let found = attention(plan, at).or_else(|| products(plan, at));
        at = found.as_ref().map_or(at + 1, |found| found.steps.end);
        all.extend(found.filter(|found| found.apart.from <= MOST_ROWS));
    }
    hand_on(plan, &mut all);
    let until: Vec<Option<usize>> = plan.steps.iter().map(|step| until(plan, &all, step)).collect();
    plan.steps.iter_mut().zip(until).for_each(|(step, until)| step.until = until);
    for Found { steps, apart } in all {
        let known = plan.apart.iter().position(|known| *known == apart);
        let own = known.unwrap_or_else(|| {
            plan.apart.push(apart);
            plan.apart.len() - 1
        });
        plan.steps[steps.start].apart = Some(own);
    }
}

fn attention(plan: &Plan, at: usize) -> Option<Found> {
    let step = &plan.steps[at];
    let function = &plan.functions[step.function];
    let Code::Attention(code) = &function.code else { return None };
    let from = rows_for_all(code.groups * code.per, TILE_ROWS);
    let apart = Apart { what: What::Attention(step.function), from, place: 0, hands: false };
    (!function.stores_keys && attends(code)).then_some(Found { steps: at..at + 1, apart })
}

fn product<'p>(plan: &'p Plan, step: &Step) -> Option<&'p Matmul> {
    match &plan.functions[step.function].code {
        Code::Matmul(product) if multiplies(product) && step.tasks.most > STEP_ROWS => Some(product),
        _ => None,
    }
}

/// The products from a step on that have its rows and need nothing of each other but what a tile has.
fn products(plan: &Plan, first: usize) -> Option<Found> {
    let mut members: Vec<Member> = Vec::new();
    let mut end = first;
    while let Some(step) = plan.steps.get(end) {
        let Some(code) = product(plan, step) else { break };
        let fits = end == first || step.order != Order::Wait && has_rows_and_choices_of(plan, step, &plan.steps[first]);
        let second = (end > first && step.order == Order::Follow).then(|| second(plan, &plan.steps[end - 1], step));
        match (second, members.last_mut()) {
            _ if !fits => break,
            (None, _) => members.push(Member { function: step.function, second: None, columns: code.sizes[3] }),
            (Some(second), Some(before)) if before.second.is_none() => before.second = Some(second),
            _ => break,
        }
        end += 1;
    }
    let columns: usize = members.iter().map(|member| member.columns).sum();
    let choice = product(plan, &plan.steps[first]).and_then(choice);
    let products = Products { tiling: tiling(&members), members, handed: false, choice };
    let from = products.from();
    let apart = Apart { what: What::Products(products), from, place: 0, hands: false };
    (columns >= BOX).then_some(Found { steps: first..end, apart })
}

/// Tiles of two boxes, unless many of their columns were past the last.
fn tiling(members: &[Member]) -> Tiling {
    let wide = Tiling { rows: TILE_ROWS, columns: 2 * BOX };
    let columns: usize = members.iter().map(|member| member.columns).sum();
    let tiled: usize = members.iter().map(|member| member.across(wide) * member.tile_columns(wide)).sum();
    let fits = 5 * columns >= 4 * tiled || members.iter().any(|member| member.second.is_some());
    if fits { wide } else { Tiling { columns: BOX, ..wide } }
}

/// The later of two products, whose epilogue reads the results of the earlier one.
fn second(plan: &Plan, earlier: &Step, later: &Step) -> Second {
    let [first, second] = [earlier, later].map(|step| &plan.fused.kernels[step.kernel()]);
    let made: Vec<Operand> = first.writes.iter().map(|buffer| Operand::Buffer(*buffer)).collect();
    let mut reads: Vec<View> = Vec::new();
    if let Code::Matmul(product) = &second.code {
        let is_made = |tensor: TensorId| {
            let tensor = product.tensors[tensor.0];
            tensor.base.has_operand() && made.contains(&second.operands[tensor.operand])
        };
        for view in product.epilogue.views().into_iter().filter(|view| is_made(view.tensor)) {
            if !reads.contains(view) {
                reads.push(view.clone());
            }
        }
    }
    let others = plan.fused.kernels.iter().enumerate().filter(|(at, _)| *at != later.kernel());
    let shared = others.into_iter().any(|(_, kernel)| kernel.reads.iter().any(|buffer| first.writes.contains(buffer)));
    let shared = shared || first.writes.iter().any(|buffer| plan.fused.buffers[*buffer].output);
    Second { function: later.function, reads, shared }
}

/// Whether both steps are products of the same rows, with the same choices.
fn has_rows_and_choices_of(plan: &Plan, step: &Step, before: &Step) -> bool {
    let kernel = |step: &Step| &plan.fused.kernels[step.kernel()];
    has_rows_of(plan, step, before) && choices(kernel(step)) == choices(kernel(before))
}

/// Lets launches hand rows on to those that follow, and places all rows.
fn hand_on(plan: &Plan, all: &mut [Found]) {
    for at in 1..all.len() {
        let (before, behind) = all.split_at_mut(at);
        let (giver, taker) = (&mut before[at - 1], &mut behind[0]);
        let given = is_given(plan, giver, taker);
        let What::Products(products) = &mut taker.apart.what else { continue };
        (giver.apart.hands, products.handed) = (given, given);
        if given {
            let attends = matches!(giver.apart.what, What::Attention(_));
            taker.apart.place = if attends { giver.apart.place } else { 1 - giver.apart.place };
        }
    }
}

/// Whether the last results of one launch are the rows of the next one and nothing else.
fn is_given(plan: &Plan, giver: &Found, taker: &Found) -> bool {
    let kernel = |step: usize| &plan.fused.kernels[plan.steps[step].kernel()];
    let (last, first) = (kernel(giver.steps.end - 1), kernel(taker.steps.start));
    let ([buffer], Code::Matmul(product)) = (&last.writes[..], &first.code) else { return false };
    let made = &plan.fused.buffers[*buffer];
    let ([inner, _, depth, _], left) = (product.sizes, &product.left);
    let tensor = product.tensors[left.tensor.0];
    // Each choice has a row of its own.
    let steps = [(DEPTH, 1), (INNER, depth)];
    let whole = left.offset == 0 && left.strides.iter().all(|stride| steps.contains(stride)) && choices(last) == choices(first);
    let is_it = tensor.base.has_operand() && first.operands[tensor.operand] == Operand::Buffer(*buffer);
    let read = is_it && made.elements == inner * depth;
    let readers = plan.fused.kernels.iter().enumerate().filter(|(_, kernel)| kernel.reads.contains(buffer));
    let takes = |at: usize| taker.steps.clone().any(|step| plan.steps[step].kernel() == at);
    let only = readers.into_iter().all(|(at, kernel)| takes(at) && reads_as_rows(kernel, *buffer));
    let plain = made.store == Store::F32 && !made.output && last.rows == Rows::All && product.prologue.is_none();
    whole && read && only && plain && writes_whole_rows(&last.code)
}

/// Whether a product reads a buffer as its rows alone.
fn reads_as_rows(kernel: &Kernel, buffer: usize) -> bool {
    let Code::Matmul(product) = &kernel.code else { return false };
    let is_it = |tensor: usize| {
        let own = product.tensors[tensor];
        own.base.has_operand() && kernel.operands[own.operand] == Operand::Buffer(buffer)
    };
    (0..product.tensors.len()).all(|tensor| is_it(tensor) == (tensor == product.left.tensor.0))
}

/// Whether results lie one behind the other.
fn writes_whole_rows(code: &Code) -> bool {
    let is_whole = |out: &View, stride_of: &dyn Fn(KAxis) -> Option<usize>| {
        out.offset == 0 && out.strides.iter().all(|(axis, stride)| stride_of(*axis).is_none_or(|own| own == *stride))
    };
    match code {
        // There is one index along all other axes.
        Code::Matmul(product) => is_whole(&product.out, &|axis| match axis {
            COLUMN => Some(1),
            INNER if product.sizes[0] > 1 => Some(product.sizes[3]),
            _ => None,
        }),
        Code::Attention(code) => is_whole(&code.views.out, &|axis| match axis {
            COLUMN => Some(1),
            BATCH => Some(code.value),
            _ => Some(code.per * code.value),
        }),
        _ => false,
    }
}

/// From how many rows on a step that makes rows for products is not needed, as their launches make them.
fn until(plan: &Plan, all: &[Found], step: &Step) -> Option<usize> {
    let kernel = &plan.fused.kernels[step.kernel()];
    let ([buffer], true) = (&kernel.writes[..], kernel.least > 1) else { return None };
    let of = |reader: usize| {
        let makes = matches!(&plan.fused.kernels[reader].code, Code::Matmul(product) if product.prologue.is_some());
        let own = all.iter().find(|found| found.steps.clone().any(|at| plan.steps[at].kernel() == reader))?;
        makes.then_some(own.apart.from)
    };
    let readers = plan.fused.kernels.iter().enumerate().filter(|(_, other)| other.reads.contains(buffer)).map(|(at, _)| of(at));
    readers.collect::<Option<Vec<usize>>>()?.into_iter().max()
}
