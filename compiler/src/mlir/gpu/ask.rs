//! Functions that ask for what a step is about to look at of what sequences keep, and of weights that no ring brings, while blocks wait for what the
//! step needs of other steps: what lies in the device's memory is then in the second-level cache.

use super::matmul::{self, Chosen};
use super::{THREADS, along, joined};
use crate::fuse::expr::{KAxis, View};
use crate::fuse::kernel::{Along, Base, Code, Matmul, Nests, Part, Prologue, Stmt, Walk};
use crate::mlir::common::copies::COPY;
use crate::mlir::common::device::WARP;
use crate::mlir::common::segment::place_in_grid;
use crate::mlir::common::site::{Setting, Site, for_each};
use crate::mlir::common::{Cmp, Emitter, KernelArgs, Val};
use crate::plan::{Alone, Function, Plan, column_bytes};

/// Threads of a block that ask: all but the first warp, which watches for other blocks.
pub const ASKING: usize = THREADS - WARP;

/// The thread's number among those that ask; `i32`.
pub fn asking<'c>(e: &Emitter<'c>) -> Val<'c> {
    e.sub(e.thread(), e.i32(WARP as i32))
}

/// The block asks for so many bytes (`i64`) from an address on. Where there is a copy engine, and both are `whole` copies, one thread does: many requests
/// would be in the way of what the block loads next.
pub fn ask_for<'c>(e: &Emitter<'c>, from: Val<'c>, bytes: Val<'c>, whole: bool) {
    if e.has_groups() && whole {
        let first = e.and(e.cmp(Cmp::Eq, asking(e), e.i32(0)), e.cmp(Cmp::Gt, bytes, e.i64(0)));
        return e.if_then(first, || e.prefetch_bulk(from, e.to_i32(bytes)));
    }
    for_each(e, e.mul(e.to_i64(asking(e)), e.i64(LINE)), bytes, e.i64(ASKING * LINE), |at| e.prefetch_far(e.offset(from, at)));
}

/// Bytes of a cache line.
pub const LINE: usize = 128;
/// Most lines that a task asks for of a state.
const MOST: usize = 1024;

/// The name of the function that asks for a step's; none: there is nothing to ask for.
pub fn name(function: &Function) -> Option<String> {
    let asks = match &function.code {
        Code::Attention(_) => function.alone.is_some(),
        Code::Nests(nests) => !kept(nests).is_empty(),
        Code::Matmul(_) if matches!(function.alone, Some(Alone::Rows(_) | Alone::Ready)) => false,
        Code::Matmul(_) if joined::has_tails(function) => true,
        Code::Matmul(product) => {
            is_chosen(product) || product.prologue.as_ref().is_some_and(|prologue| !vectors(prologue).is_empty())
        }
        Code::Along(_) => function.alone.is_some(),
        _ => false,
    };
    asks.then(|| format!("{}_ahead", function.name))
}

/// Of each state that a walk of single steps reads, a view: the numbers that side by side lie along its first axis here, and the others.
fn kept(nests: &Nests) -> Vec<&View> {
    let Walk::Segments { part: Part::All | Part::Rest(_), .. } = &nests.walk else { return vec![] };
    let mut views: Vec<&View> = Vec::new();
    for view in nests.nests.iter().flat_map(|nest| &nest.stmts).flat_map(Stmt::reads) {
        let is_state = nests.tensors[view.tensor.0].base == Base::State;
        if is_state && views.iter().all(|other| other.tensor != view.tensor) && !lines(nests, view).is_empty() {
            views.push(view);
        }
    }
    views
}

/// The axes that a task walks of a view, with how many indices each has, and how many are a line: none if these are too many, or if no numbers
/// lie side by side.
fn lines(nests: &Nests, view: &View) -> Vec<(KAxis, usize, usize)> {
    let Walk::Segments { grid, blocked, .. } = &nests.walk else { return vec![] };
    let width = |axis: KAxis| match blocked {
        Some((cut, width)) if *cut == axis => *width,
        _ if grid.contains(&axis) => 1,
        _ => nests.sizes[axis.0],
    };
    let of = |(axis, stride): &(KAxis, usize)| (*axis, width(*axis), if *stride == 1 { LINE / 4 } else { 1 });
    let axes: Vec<_> = view.strides.iter().map(of).filter(|(_, size, _)| *size > 1).collect();
    let count: usize = axes.iter().map(|(_, size, each)| size.div_ceil(*each)).product();
    let fits = count <= MOST && axes.iter().any(|(_, size, each)| *each > 1 && *size >= 8);
    if fits { axes } else { vec![] }
}

/// What the making of a row reads of weights.
fn vectors(prologue: &Prologue) -> Vec<&View> {
    let nests = &prologue.nests;
    let is_weight = |view: &&View| nests.tensors[view.tensor.0].base == Base::Weights;
    let mut views: Vec<&View> = Vec::new();
    for view in nests.nests.iter().flat_map(|nest| &nest.stmts).flat_map(Stmt::reads).filter(is_weight) {
        if !views.contains(&view) {
            views.push(view);
        }
    }
    views
}

/// Whether rows choose a product's weights.
pub fn is_chosen(product: &Matmul) -> bool {
    product.chosen.is_some() && matmul::is_read_alone(product)
}

/// Emits what asks for the weights that were chosen, for those that the making of a row reads, and for what convolutions of the product's columns need.
pub fn emit_weights(e: &Emitter, name: &str, (plan, function): (&Plan, &Function), product: &Matmul, setting: Setting) {
    e.kernel(name, |args| {
        if let Some(Alone::Joined(members)) = &function.alone {
            joined::ask(e, (plan, members), setting, args);
        }
        if is_chosen(product) {
            chosen(e, product, setting, args);
        }
        product.prologue.iter().for_each(|prologue| of_row(e, prologue, setting, args));
    });
}

/// Asks for what the row's choices multiply, task by task: what was chosen must stand there.
fn chosen<'c>(e: &Emitter<'c>, product: &Matmul, setting: Setting, args: KernelArgs<'c>) {
    let mut site = Site::new(e, args, &product.tensors, setting);
    for_each(e, args.begin, args.end, e.blocks(), |task| {
        let Chosen { element, first, end, .. } = matmul::chosen_by_task(&mut site, product, task);
        let bytes = column_bytes(product);
        let from = matmul::weights_of(&site, product, element, first);
        ask_for(e, from, e.mul(e.sub(end, first), e.i64(bytes)), bytes.is_multiple_of(COPY));
    });
}

/// Asks for the weights that the making of a row reads: each block for some lines, for all blocks.
fn of_row<'c>(e: &Emitter<'c>, prologue: &Prologue, setting: Setting, args: KernelArgs<'c>) {
    let nests = &prologue.nests;
    let mut site = Site::new(e, args, &nests.tensors, setting);
    site.index = (0..nests.sizes.len()).map(|axis| (KAxis(axis), e.i64(0))).collect();
    for view in vectors(prologue) {
        let last: usize = view.strides.iter().map(|(axis, stride)| (nests.sizes[axis.0] - 1) * stride).sum();
        let lines = ((last + 1) * site.store_of(view).bytes()).div_ceil(LINE);
        let own = e.add(e.block_number(), e.mul(e.to_i64(asking(e)), e.blocks()));
        e.if_then(e.cmp(Cmp::Lt, own, e.i64(lines)), || e.prefetch_far(e.element(site.address(view), own, LINE)));
    }
}

/// Emits what asks for the weights and the state of a block's share of a convolution's channels.
pub fn emit_channels(e: &Emitter, name: &str, code: &Along, setting: Setting) {
    e.kernel(name, |args| along::ask(e, code, setting, args));
}

/// Emits what asks for the states of a walk's tasks.
pub fn emit(e: &Emitter, name: &str, code: &Nests, setting: Setting) {
    e.kernel(name, |args| {
        let Walk::Segments { grid, blocked, .. } = &code.walk else { return };
        let mut site = Site::new(e, args, &code.tensors, setting);
        for_each(e, args.begin, args.end, e.blocks(), |task| {
            let rest = place_in_grid(&mut site, grid, *blocked, (&code.sizes, task));
            let slot = e.segment(args.call, rest).slot;
            site.set_slot(slot);
            let places = site.index.clone();
            for view in kept(code) {
                let axes = lines(code, view);
                let count: usize = axes.iter().map(|(_, size, each)| size.div_ceil(*each)).product();
                for_each(e, e.to_i64(asking(e)), e.i64(count), e.i64(ASKING), |number| {
                    let mut rest = e.to_i32(number);
                    for (axis, size, each) in axes.iter().rev() {
                        let turns = e.i32(size.div_ceil(*each) as i32);
                        let within = e.mul(e.to_i64(e.rem(rest, turns)), e.i64(*each));
                        rest = e.div(rest, turns);
                        let own = places.get(axis).map_or(within, |first| e.add(*first, within));
                        // The last block of an axis may be shorter.
                        site.index.insert(*axis, e.min(own, e.i64(code.sizes[axis.0] - 1)));
                    }
                    e.prefetch_far(site.address(view));
                });
                site.index.clone_from(&places);
            }
        });
    });
}
