//! Single steps of recurrences, as decoding has them: all of a task's states come to its threads' registers at once, and those of the block's next
//! task meanwhile. Such a step reads and writes states, and does little else.

use super::STEP_ROWS;
use super::lane_rows::Rows;
use super::lanes::{Form, Own, Walk};
use super::team::Teams;
use super::wide::beside;
use crate::fuse::expr::KAxis;
use crate::fuse::kernel::{Nests, Part, Walk as Kind};
use crate::fuse::lanes::{Lanes, Slot};
use crate::mlir::common::segment::{place_in_grid, rows};
use crate::mlir::common::site::Site;
use crate::mlir::common::{Cmp, Emitter, Field, KernelArgs, Val};
use crate::plan::BLOCKS;

/// A kernel whose steps are done so in calls in which all sequences have one row.
pub struct Once<'n> {
    code: &'n Nests,
    grid: &'n [KAxis],
    part: Part,
    walk: Walk,
}

/// Channels that are done as one task where there are many: what they read lies in longer pieces, side by side.
const WIDE: usize = 64;

impl<'n> Once<'n> {
    /// The kernel, if it is one: the elements of channels side by side lie side by side, and all are dealt to the block's threads. `many`: for
    /// code of calls of more than [`STEP_ROWS`] rows alone. In one of one row a block's tasks have to be those of the step before.
    pub fn of(code: &'n Nests, many: bool) -> Option<Once<'n>> {
        let Kind::Segments { grid, blocked: Some((axis, width)), .. } = &code.walk else { return None };
        let tasks: usize = grid.iter().map(|own| code.sizes[own.0] / if own == axis { WIDE } else { 1 }).product();
        let enough = many && tasks * (STEP_ROWS + 1) >= BLOCKS && WIDE.is_multiple_of(*width);
        let wide = enough.then(|| Once::of_width(code, WIDE)).flatten();
        wide.or_else(|| Once::of_width(code, *width))
    }

    /// The same where a task has so many channels.
    fn of_width(code: &'n Nests, width: usize) -> Option<Once<'n>> {
        let Kind::Segments { grid, part: part @ (Part::All | Part::Rest(_)), .. } = &code.walk else { return None };
        let lanes = Lanes::of_width(code, width)?;
        let form = Form::alone(&lanes)?;
        let dense = lanes.states.iter().all(|view| view.stride(lanes.cut.0) == 1);
        dense.then(|| Once { code, grid, part: *part, walk: Walk::new(code, lanes, form) })
    }

    /// The axis of which a task has a block, and how wide that is.
    fn cut(&self) -> (KAxis, usize) {
        self.walk.lanes.cut
    }

    /// Shared bytes of a block: what its threads have of a sum.
    pub fn shared_bytes(&self) -> usize {
        self.walk.form.across().map_or(0, Teams::shared_bytes)
    }

    /// Does the call if it is one of these, and gives whether it is.
    pub fn emit<'c>(&self, site: &mut Site<'_, 'c>, args: KernelArgs<'c>) -> Val<'c> {
        let e = site.e;
        let [rows, segments] = [Field::Rows, Field::Segments].map(|field| e.call_field(args.call, field));
        let single = e.cmp(Cmp::Eq, rows, segments);
        let places = self.grid.iter().map(|axis| self.code.sizes[axis.0] / if *axis == self.cut().0 { self.cut().1 } else { 1 });
        let end = e.mul(segments, e.i64(places.product::<usize>()));
        let some = e.and(single, e.cmp(Cmp::Lt, args.begin, end));
        e.if_then(some, || self.tasks(site, KernelArgs { end, ..args }));
        single
    }

    /// The block's tasks.
    fn tasks<'c>(&self, site: &mut Site<'_, 'c>, args: KernelArgs<'c>) {
        let e = site.e;
        let first = self.segment(site, args, args.begin);
        let next = self.segment(site, args, self.behind(e, args, args.begin));
        let states = self.come(site, (args.begin, first));
        let start: Vec<Val> = first.into_iter().chain(next).chain(states).collect();
        e.for_loop(args.begin, args.end, e.blocks(), &start, |task, carried| {
            let [slot, row, next, after, states @ ..] = carried else { return carried.to_vec() };
            let following = self.behind(e, args, task);
            let later = self.segment(site, args, self.behind(e, args, following));
            let more = e.cmp(Cmp::Ne, following, task);
            let come = || self.come(site, (following, [*next, *after]));
            let coming = e.if_else(more, come, || states.to_vec());
            self.task(site, (task, [*slot, *row]), states);
            [*next, *after].into_iter().chain(later).chain(coming).collect()
        });
    }

    /// The block's task behind one; the last one again.
    fn behind<'c>(&self, e: &Emitter<'c>, args: KernelArgs<'c>, task: Val<'c>) -> Val<'c> {
        let next = e.add(task, e.blocks());
        e.select(e.cmp(Cmp::Lt, next, args.end), next, task)
    }

    /// Whose states a task has, and its row.
    fn segment<'c>(&self, site: &mut Site<'_, 'c>, args: KernelArgs<'c>, task: Val<'c>) -> [Val<'c>; 2] {
        let sequence = place_in_grid(site, self.grid, Some(self.cut()), (&self.code.sizes, task));
        let own = site.e.segment(args.call, sequence);
        [own.slot, rows(site.e, self.part, own).0]
    }

    /// Stands at a task.
    fn stand<'s, 'k: 's, 'c>(&'s self, site: &mut Site<'k, 'c>, (task, [slot, row]): Task<'c>) -> Own<'s, 'c> {
        let e = site.e;
        place_in_grid(site, self.grid, Some(self.cut()), (&self.code.sizes, task));
        let first = site.index[&self.cut().0];
        site.set_slot(slot);
        site.set_row(row, false);
        let own = Own::new(&self.walk, site, (first, e.add(row, e.i64(1))));
        own.stand(site);
        own
    }

    /// The thread's elements of a task's states.
    fn come<'c>(&self, site: &mut Site<'_, 'c>, task: Task<'c>) -> Vec<Val<'c>> {
        self.stand(site, task).states(site)
    }

    fn task<'c>(&self, site: &mut Site<'_, 'c>, task: Task<'c>, states: &[Val<'c>]) {
        let e = site.e;
        let own = self.stand(site, task);
        let fixed = own.fixed(site);
        let made = Rows { own: &own, fixed: &fixed, at: task.1[1], place: e.shared_memory(), count: 1 }.emit(site, states);
        own.stand(site);
        own.leave(site, &made);
    }
}

/// The number of a task, whose states it has, and its row.
type Task<'c> = (Val<'c>, [Val<'c>; 2]);

impl<'c> Own<'_, 'c> {
    /// The thread's numbers of a slot at the site's row, from where it comes from.
    pub fn load(&self, site: &mut Site<'_, 'c>, slot: &Slot) -> Vec<Val<'c>> {
        let (e, form) = (self.e, self.walk.form);
        let count = self.count_of(&slot.view);
        let together = slot.wide && slot.axes.first().map(|(axis, _)| *axis) == self.walk.lanes.inner.map(|(axis, _)| axis);
        let at_once = if together && count > 1 { form.side } else { 1 };
        let piece = |at: usize| {
            self.stand_at(site, at);
            beside(e, slot.store, site.address(&slot.view), at_once)
        };
        (0..count).step_by(at_once).flat_map(piece).collect()
    }
}
