//! Functions that ask for what a step is about to look at of what sequences keep, while blocks wait for what the step needs of other steps: what
//! lies in the device's memory is then in the second-level cache.

use super::THREADS;
use crate::fuse::expr::{KAxis, View};
use crate::fuse::kernel::{Base, Code, Nests, Part, Stmt, Walk};
use crate::mlir::common::Emitter;
use crate::mlir::common::segment::place_in_grid;
use crate::mlir::common::site::{Setting, Site, for_each};
use crate::plan::Function;

/// Bytes of a cache line.
pub const LINE: usize = 128;
/// Most lines that a task asks for of a state.
const MOST: usize = 1024;

/// The name of the function that asks for a step's; none: there is nothing to ask for.
pub fn name(function: &Function) -> Option<String> {
    let asks = match &function.code {
        Code::Attention(_) => function.alone.is_some(),
        Code::Nests(nests) => !kept(nests).is_empty(),
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
                for_each(e, e.to_i64(e.thread()), e.i64(count), e.i64(THREADS), |number| {
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
