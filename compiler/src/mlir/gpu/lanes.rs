//! Walks of recurrences whose threads keep the states in registers. A channel's elements are dealt to a team of lanes of one warp; what
//! rows bring is copied to shared memory a batch of rows ahead; a few rows at a time are worked through without a stop, and their sums
//! over a team are added up together. Single steps (once.rs) have teams across warps, and nothing in shared memory but sums.

use super::lane_rows::{Known, Rows};
use super::team::Teams;
use super::wide::beside;
use super::{STEP_ROWS, THREADS};
use crate::fuse::expr::{KAxis, TensorId, View};
use crate::fuse::kernel::{Base, Nests};
use crate::fuse::lanes::{Lanes, QUAD, Slot};
use crate::mlir::common::device::WARP;
use crate::mlir::common::expr::value;
use crate::mlir::common::site::Site;
use crate::mlir::common::{Cmp, Emitter, Ty, Val};

/// Fewest rows of a sequence that are worth a walk of this kind: a call of many rows has them.
pub const FEWEST: usize = STEP_ROWS + 1;
/// Threads of a block that have channels, as a rule; all of them copy, and make what comes ahead. If all had channels, each had half as many elements,
/// for which it would still load all that a row brings to the channel.
const WORKERS: usize = THREADS / 2;
/// Most elements of one state that a thread keeps.
const MOST_EACH: usize = 32;
/// Most numbers that a thread keeps and loads for a step that comes alone: a few more than it has registers, as not all are there at once.
const MOST_ALONE: usize = 128;
/// Batches that have places in shared memory, of which one is worked through while the others come, and rows of a batch: the first that
/// fit. Whatever a batch has, copying it and meeting for it takes as long as some twenty rows of little work.
const BATCHES: [(usize, usize); 7] = [(4, 128), (4, 64), (4, 32), (4, 16), (4, 8), (2, 16), (2, 8)];
/// Most shared bytes of them, on `sm_90a` and elsewhere.
const MOST_BYTES: [usize; 2] = [72 * 1024, 44 * 1024];
/// Elements times rows that are worked through without a stop.
const AT_ONCE: usize = 32;

/// How a block does it.
#[derive(Clone, Copy, Debug)]
pub struct Form {
    /// Threads that share a channel, a power of two; in a warp they stand as far apart as they can.
    pub team: usize,
    /// Instead: they are in as many warps, all of whose lanes have channels that lie side by side.
    pub across: bool,
    /// Elements of a channel that a lane has.
    pub each: usize,
    /// How many of them lie side by side.
    pub side: usize,
    /// Rows that are worked through without a stop.
    together: usize,
    /// Places of batches, a power of two.
    places: usize,
    /// Rows of a batch.
    batch: usize,
}

impl Form {
    fn of(lanes: &Lanes, groups: bool) -> Option<Form> {
        let (width, elements) = (lanes.cut.1, lanes.inner.map_or(1, |(_, size)| size));
        if !width.is_power_of_two() || width > THREADS {
            return None;
        }
        let teams = || (0..=WARP.ilog2()).rev().map(|log| 1 << log);
        let of = |threads| teams().find(|team| team * width <= threads && elements.is_multiple_of(*team));
        let few = of(WORKERS).filter(|team| elements / team <= MOST_EACH);
        let team = few.or_else(|| of(THREADS))?;
        let each = elements / team;
        let side = [4, 2].into_iter().find(|side| each.is_multiple_of(*side)).unwrap_or(1);
        let together = [8, 4].into_iter().find(|rows| rows * each <= AT_ONCE).unwrap_or(2);
        let most = MOST_BYTES[usize::from(!groups)];
        let fits = |(places, batch): &(usize, usize)| 4 * places * batch * lanes.pitch() <= most;
        let (places, batch) = BATCHES.into_iter().find(fits)?;
        (each <= MOST_EACH).then_some(Form { team, across: false, each, side, together, places, batch })
    }

    /// Of steps that come alone: elements of a thread come at once, and go; there are no batches.
    pub fn alone(lanes: &Lanes) -> Option<Form> {
        let (width, (_, elements)) = (lanes.cut.1, lanes.inner?);
        let team = THREADS.checked_div(width).filter(|team| team * width == THREADS && width.is_multiple_of(WARP))?;
        let each = elements / team;
        let inner = |slot: &&Slot| slot.axes.iter().any(|(axis, _)| lanes.inner.is_some_and(|(own, _)| own == *axis));
        // States, those that are on their way, and what the row brings to each element.
        let numbers = each * (2 * lanes.states.len() + lanes.slots.iter().filter(inner).count());
        let fits = each * team == elements && numbers <= MOST_ALONE && lanes.channels.is_multiple_of(width);
        let side = [4, 2].into_iter().find(|side| each.is_multiple_of(*side)).unwrap_or(1);
        fits.then_some(Form { team, across: true, each, side, together: 1, places: 1, batch: 1 })
    }

    /// Channels of a warp.
    pub fn channels(self) -> usize {
        if self.across { WARP } else { WARP / self.team }
    }

    /// The teams of a form whose threads are in several warps.
    pub fn across(self) -> Option<Teams> {
        self.across.then_some(Teams { threads: THREADS, size: self.team, together: false })
    }
}

/// A walk of this kind.
pub struct Walk {
    /// The recurrence.
    pub lanes: Lanes,
    /// How a block does it.
    pub form: Form,
    /// Tensors in the device's memory that rows write.
    pub leaves: Vec<TensorId>,
}

impl Walk {
    /// The walk of a kernel that has one; `groups`: for a GPU whose matrix units work for groups of four warps.
    pub fn of(code: &Nests, groups: bool) -> Option<Walk> {
        let lanes = Lanes::of(code)?;
        let form = Form::of(&lanes, groups)?;
        Some(Walk::new(code, lanes, form))
    }

    /// The walk of a kernel in some form.
    pub fn new(code: &Nests, lanes: Lanes, form: Form) -> Walk {
        let targets = lanes.steps.iter().flatten().map(|stmt| stmt.target.tensor);
        let leaves = targets.filter(|id| !matches!(code.tensors[id.0].base, Base::State | Base::Scratch(_))).collect();
        Walk { lanes, form, leaves }
    }

    /// Shared bytes of a block.
    pub fn shared_bytes(&self) -> usize {
        self.form.places * self.form.batch * self.row_bytes()
    }

    /// Shared bytes of a row.
    pub fn row_bytes(&self) -> usize {
        4 * self.lanes.pitch()
    }

    /// Walks the rows `from` to `to` of the site's sequence, for the channels from `first` on.
    pub fn emit<'c>(&self, site: &mut Site<'_, 'c>, first: Val<'c>, (from, to): (Val<'c>, Val<'c>)) {
        let Walk { lanes, form, .. } = self;
        let e = site.e;
        let own = Own::new(self, site, (first, to));
        for place in 0..form.places - 1 {
            own.copy(site, e.add(from, e.i64(place * form.batch)), e.i64(place));
        }
        own.stand(site);
        let states = own.states(site);
        let fixed = own.fixed(site);
        let end = e.for_loop(from, to, e.i64(form.batch), &states, |row, states| {
            e.wait_copies(form.places - 2);
            e.sync();
            let turn = e.div(e.sub(row, from), e.i64(form.batch));
            let place = own.batch(turn);
            if !lanes.ahead.is_empty() {
                own.make(site, row, place);
                e.sync();
            }
            let ahead = e.add(row, e.i64((form.places - 1) * form.batch));
            own.copy(site, ahead, e.add(turn, e.i64(form.places - 1)));
            own.stand(site);
            let end = e.min(e.add(row, e.i64(form.batch)), to);
            let whole = e.mul(e.div(e.sub(end, row), e.i64(form.together)), e.i64(form.together));
            let whole = e.add(row, whole);
            let mut rows = |(from, to): (Val<'c>, Val<'c>), count: usize, states: &[Val<'c>]| {
                e.for_loop(from, to, e.i64(count), states, |at, states| {
                    let place = e.offset(place, e.mul(e.sub(at, row), e.i64(self.row_bytes())));
                    Rows { own: &own, fixed: &fixed, at, place, count }.emit(site, states)
                })
            };
            let walked = || {
                let states = rows((row, whole), form.together, states);
                rows((whole, end), 1, &states)
            };
            e.if_else(own.busy, walked, || states.to_vec())
        });
        e.wait_copies(0);
        own.stand(site);
        own.leave(site, &end);
    }
}

/// The thread's place in its block.
pub(super) struct Own<'w, 'c> {
    /// The walk.
    pub walk: &'w Walk,
    /// Appends operations.
    pub e: &'w Emitter<'c>,
    /// The first channel of the task, and past the last row.
    first: Val<'c>,
    to: Val<'c>,
    /// The lane, `i32`.
    pub lane: Val<'c>,
    /// The number of its channel in the task.
    pub channel: Val<'c>,
    /// Its own number in its team.
    pub member: Val<'c>,
    /// Whether a lane of the warp has a channel.
    busy: Val<'c>,
    /// Whether this one has.
    pub alive: Val<'c>,
    /// Whether it is the first of its team too.
    pub leads: Val<'c>,
}

impl<'w, 'c> Own<'w, 'c> {
    pub fn new(walk: &'w Walk, site: &Site<'w, 'c>, (first, to): (Val<'c>, Val<'c>)) -> Self {
        let e = site.e;
        let (channels, width, all) = (walk.form.channels(), walk.lanes.cut.1, walk.lanes.channels);
        let lane = e.and(e.thread(), e.i32(WARP as i32 - 1));
        let own = |of: Val<'c>, count: usize| {
            let within = e.to_i64(e.and(of, e.i32(count as i32 - 1)));
            (within, e.to_i64(e.shift_right(of, i64::from(count.ilog2()))))
        };
        let (begin, (channel, member)) = match walk.form.across {
            true => (e.i64(0), own(e.thread(), width)),
            false => {
                let begin = e.mul(e.to_i64(e.shift_right(e.thread(), i64::from(WARP.ilog2()))), e.i64(channels));
                let (within, member) = own(lane, channels);
                (begin, (e.add(begin, within), member))
            }
        };
        let there = |channel: Val<'c>| {
            let inside = e.cmp(Cmp::Lt, channel, e.i64(width));
            e.and(inside, e.cmp(Cmp::Lt, e.add(first, channel), e.i64(all)))
        };
        let (busy, alive) = (there(begin), there(channel));
        let leads = e.and(alive, e.cmp(Cmp::Eq, member, e.i64(0)));
        Own { walk, e, first, to, lane, channel, member, busy, alive, leads }
    }

    /// The thread's channel, or the last one.
    fn own_channel(&self) -> Val<'c> {
        let (e, Lanes { cut, channels, .. }) = (self.e, &self.walk.lanes);
        let within = e.min(self.channel, e.i64(cut.1 - 1));
        e.min(e.add(self.first, within), e.i64(channels - 1))
    }

    /// Which element of a channel the lane's element `at` is.
    fn element(&self, at: usize) -> Val<'c> {
        let (e, Form { team, side, .. }) = (self.e, self.walk.form);
        let first = e.mul(self.member, e.i64(side));
        e.add(first, e.i64(at / side * side * team + at % side))
    }

    /// Sets the site's indices to the thread's channel and its first element.
    pub fn stand(&self, site: &mut Site<'_, 'c>) {
        site.index.insert(self.walk.lanes.cut.0, self.own_channel());
        self.stand_at(site, 0);
    }

    /// The same, and to its element `at`.
    pub fn stand_at(&self, site: &mut Site<'_, 'c>, at: usize) {
        if let Some((axis, _)) = self.walk.lanes.inner {
            site.index.insert(axis, self.element(at));
        }
    }

    /// How many values a thread has of what varies along some axes.
    fn count(&self, axes: &[KAxis]) -> usize {
        match self.walk.lanes.inner {
            Some((axis, _)) if axes.contains(&axis) => self.walk.form.each,
            _ => 1,
        }
    }

    /// How many values a thread has of a view.
    pub fn count_of(&self, view: &View) -> usize {
        self.count(&view.strides.iter().map(|(axis, _)| *axis).collect::<Vec<_>>())
    }

    /// The thread's elements of all states, one state after the other.
    pub fn states(&self, site: &mut Site<'_, 'c>) -> Vec<Val<'c>> {
        let mut states = vec![];
        for view in &self.walk.lanes.states {
            for at in 0..self.count_of(view) {
                self.stand_at(site, at);
                states.push(self.e.load(site.address(view), Ty::F32));
            }
        }
        states
    }

    /// Writes them back.
    pub fn leave(&self, site: &mut Site<'_, 'c>, states: &[Val<'c>]) {
        let mut places = vec![];
        for view in &self.walk.lanes.states {
            for at in 0..self.count_of(view) {
                self.stand_at(site, at);
                places.push(site.address(view));
            }
        }
        let put = || places.iter().zip(states).for_each(|(place, state)| self.e.store(*place, *state));
        self.e.if_then(self.alive, put);
    }

    /// What is the same in all rows.
    pub fn fixed(&self, site: &mut Site<'_, 'c>) -> Known<'c> {
        let mut known = Known::default();
        for (view, expr) in &self.walk.lanes.fixed {
            let count = self.count(&expr.axes());
            let one = |at| {
                self.stand_at(site, at);
                value(site, expr)
            };
            known.put(view, (0..count).map(one).collect());
        }
        known
    }

    /// Where a batch lies, of which so many were before.
    fn batch(&self, turn: Val<'c>) -> Val<'c> {
        let (e, bytes) = (self.e, self.walk.form.batch * self.walk.row_bytes());
        e.offset(e.shared_memory(), e.mul(e.and(turn, e.i64(self.walk.form.places - 1)), e.i64(bytes)))
    }

    /// Begins to copy the batch of rows from `row` on; behind the last row that is copied again.
    fn copy(&self, site: &mut Site<'_, 'c>, row: Val<'c>, turn: Val<'c>) {
        let place = self.batch(turn);
        for slot in self.walk.lanes.slots.iter().filter(|slot| !slot.made) {
            self.each(site, slot, slot.at_once(), (row, place), |site, part| {
                let from = site.address(&slot.view);
                match slot.wide {
                    true => self.e.begin_copy(part.to, from, self.e.i32(4 * QUAD as i32)),
                    false => self.e.begin_small_copy(part.to, from),
                }
            });
        }
        self.e.close_copies();
    }

    /// Makes what a batch's rows need that no state is needed for.
    fn make(&self, site: &mut Site<'_, 'c>, row: Val<'c>, place: Val<'c>) {
        for (n, stmt) in self.walk.lanes.ahead.iter().enumerate() {
            let slots = &self.walk.lanes.slots;
            let Some(slot) = slots.iter().find(|slot| slot.view == stmt.target) else { continue };
            // What another one made.
            let reads = stmt.expr.views();
            if self.walk.lanes.ahead[..n].iter().any(|other| reads.contains(&&other.target)) {
                self.e.sync();
            }
            self.each(site, slot, 1, (row, place), |site, part| {
                site.fresh = reads.iter().filter_map(|view| Some(((*view).clone(), self.of_part(view, place, &part)?))).collect();
                let made = value(site, &stmt.expr);
                site.fresh.clear();
                self.e.store(part.to, made);
            });
        }
    }

    /// What a row of the batch has of a view at the indices of a part, if it lies there.
    fn of_part(&self, view: &View, place: Val<'c>, part: &SlotPart<'c>) -> Option<Val<'c>> {
        let e = self.e;
        let slot = self.walk.lanes.slots.iter().find(|slot| slot.view == *view)?;
        let line = e.offset(place, e.add(e.mul(part.line, e.i64(self.walk.row_bytes())), e.i64(4 * slot.at)));
        let bytes = slot.store.bytes();
        let at = |place, (axis, index): &(KAxis, Val<'c>)| e.offset(place, e.mul(*index, e.i64(bytes * slot.stride(*axis))));
        Some(beside(e, slot.store, part.indices.iter().fold(line, at), 1)[0])
    }

    /// Calls `body` for the parts of a slot of so many numbers in all rows of a batch, dealt to the block's threads: with the site at the
    /// part's row and indices.
    fn each(
        &self,
        site: &mut Site<'_, 'c>,
        slot: &Slot,
        numbers: usize,
        (row, place): (Val<'c>, Val<'c>),
        mut body: impl FnMut(&mut Site<'_, 'c>, SlotPart<'c>),
    ) {
        let e = self.e;
        let parts = slot.numbers() / numbers;
        let count = self.walk.form.batch * parts;
        for turn in 0..count.div_ceil(THREADS) {
            let number = e.add(e.thread(), e.i32((turn * THREADS) as i32));
            let mut one = || {
                let (line, part) = (e.div(number, e.i32(parts as i32)), e.rem(number, e.i32(parts as i32)));
                let line = e.to_i64(line);
                let own = e.min(e.add(row, line), e.sub(self.to, e.i64(1)));
                site.set_row(own, false);
                let (mut rest, mut indices) = (e.mul(part, e.i32(numbers as i32)), vec![]);
                for (axis, size) in &slot.axes {
                    let index = e.to_i64(e.rem(rest, e.i32(*size as i32)));
                    rest = e.div(rest, e.i32(*size as i32));
                    site.index.insert(*axis, self.inside(*axis, index, numbers));
                    indices.push((*axis, index));
                }
                let within = e.add(e.mul(line, e.i64(self.walk.row_bytes())), e.i64(4 * slot.at));
                let within = e.add(within, e.mul(e.to_i64(part), e.i64(slot.store.bytes() * numbers)));
                body(site, SlotPart { to: e.offset(place, within), line, indices });
            };
            if (turn + 1) * THREADS <= count { one() } else { e.if_then(e.cmp(Cmp::Lt, number, e.i32(count as i32)), one) }
        }
    }

    /// An index within the task as one of the axis, of `numbers` that are there.
    fn inside(&self, axis: KAxis, index: Val<'c>, numbers: usize) -> Val<'c> {
        let (e, Lanes { cut, channels, .. }) = (self.e, &self.walk.lanes);
        if axis != cut.0 {
            return index;
        }
        e.min(e.add(self.first, index), e.i64(channels - numbers))
    }
}

/// Some numbers of a slot in a row of a batch.
struct SlotPart<'c> {
    /// Where they lie in shared memory.
    to: Val<'c>,
    /// Which row of the batch.
    line: Val<'c>,
    /// The first one's index along each axis of the slot, counted within the task.
    indices: Vec<(KAxis, Val<'c>)>,
}
