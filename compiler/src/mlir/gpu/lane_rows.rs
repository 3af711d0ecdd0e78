//! A few rows of a walk in registers, worked through by a thread without a stop.

use super::lanes::{Own, Walk};
use super::team::{combine, deal};
use super::wide::{beside, stored};
use crate::fuse::expr::View;
use crate::fuse::kernel::Stmt;
use crate::fuse::lanes::Slot;
use crate::mlir::common::device::WARP;
use crate::mlir::common::expr::value;
use crate::mlir::common::site::Site;
use crate::mlir::common::{Cmp, Val};
use braid_dsl::model::Reduce;

/// What a thread knows under the views by which expressions load it: one value, or one for each of its elements.
#[derive(Clone, Default)]
pub struct Known<'c>(Vec<(View, Vec<Val<'c>>)>);

impl<'c> Known<'c> {
    /// What is known from now on.
    pub fn put(&mut self, view: &View, values: Vec<Val<'c>>) {
        self.0.retain(|(own, _)| own != view);
        self.0.push((view.clone(), values));
    }

    fn put_one(&mut self, view: &View, (at, of): (usize, usize), made: Val<'c>) {
        match self.0.iter_mut().find(|(own, values)| own == view && values.len() == of) {
            Some((_, values)) => values[at] = made,
            None => self.put(view, vec![made; of]),
        }
    }

    /// As a site takes it, for element `at`.
    fn at(&self, at: usize) -> Vec<(View, Val<'c>)> {
        self.0.iter().map(|(view, values)| (view.clone(), values[at.min(values.len() - 1)])).collect()
    }

    fn take(&self, view: &View) -> Vec<Val<'c>> {
        self.0.iter().find(|(own, _)| own == view).map_or(vec![], |(_, values)| values.clone())
    }
}

/// A few rows that are worked through without a stop.
pub struct Rows<'o, 'w, 'c> {
    /// Whose.
    pub own: &'o Own<'w, 'c>,
    /// What is the same in all rows.
    pub fixed: &'o Known<'c>,
    /// The first row.
    pub at: Val<'c>,
    /// Where it lies in its batch.
    pub place: Val<'c>,
    /// How many there are.
    pub count: usize,
}

/// What is written behind some rows.
struct Put<'c> {
    place: Val<'c>,
    value: Val<'c>,
    /// Whether each lane of a team writes, or the first alone.
    all: bool,
}

impl<'c> Rows<'_, '_, 'c> {
    /// All rows; the new states.
    pub fn emit(&self, site: &mut Site<'_, 'c>, states: &[Val<'c>]) -> Vec<Val<'c>> {
        let (e, lanes) = (self.own.e, &self.own.walk.lanes);
        let mut states = states.to_vec();
        let mut puts: Vec<Put> = vec![];
        let mut sums: Vec<(&Stmt, Vec<Val>)> = vec![];
        for row in 0..self.count {
            site.set_row(e.add(self.at, e.i64(row)), false);
            let mut known = self.known(site, row, &states);
            for group in &lanes.steps {
                self.group(site, group, &mut known, (&mut puts, &mut sums));
            }
            states = lanes.states.iter().flat_map(|view| known.take(view)).collect();
        }
        for (stmt, sums) in &sums {
            self.dealt(site, stmt, sums);
        }
        let (each, first): (Vec<Put>, Vec<Put>) = puts.into_iter().partition(|put| put.all);
        for (who, puts) in [(self.own.alive, each), (self.own.leads, first)] {
            if !puts.is_empty() {
                e.if_then(who, || puts.iter().for_each(|put| e.store(put.place, put.value)));
            }
        }
        states
    }

    /// What the thread knows as a row begins.
    fn known(&self, site: &mut Site<'_, 'c>, row: usize, states: &[Val<'c>]) -> Known<'c> {
        let lanes = &self.own.walk.lanes;
        let mut known = self.fixed.clone();
        let mut rest = states;
        for view in &lanes.states {
            let (own, others) = rest.split_at(self.own.count_of(view));
            known.put(view, own.to_vec());
            rest = others;
        }
        match self.own.walk.form.across {
            // The row comes alone: nothing of it lies in shared memory, and each thread makes its own of what no state is needed for.
            true => {
                lanes.slots.iter().filter(|slot| !slot.made).for_each(|slot| known.put(&slot.view, self.own.load(site, slot)));
                for stmt in &lanes.ahead {
                    let made = self.each(site, (self.own.count_of(&stmt.target), &known), |site| value(site, &stmt.expr));
                    known.put(&stmt.target, made);
                }
            }
            false => lanes.slots.iter().for_each(|slot| known.put(&slot.view, self.slot(slot, row))),
        }
        for power in &lanes.powers {
            let count = if power.inner { self.own.walk.form.each } else { 1 };
            let made = self.each(site, (count, &known), |site| self.own.e.power_of_two_of(value(site, &power.exponent)));
            known.put(&power.view, made);
        }
        known
    }

    /// Makes a value for each of the thread's elements, or one.
    fn each(
        &self,
        site: &mut Site<'_, 'c>,
        (count, known): (usize, &Known<'c>),
        make: impl Fn(&mut Site<'_, 'c>) -> Val<'c>,
    ) -> Vec<Val<'c>> {
        let one = |at| {
            self.own.stand_at(site, at);
            site.fresh = known.at(at);
            make(site)
        };
        (0..count).map(one).collect()
    }

    /// The thread's numbers of a slot.
    fn slot(&self, slot: &Slot, row: usize) -> Vec<Val<'c>> {
        let (own, Walk { lanes, form, .. }) = (self.own, self.own.walk);
        let (e, bytes) = (own.e, slot.store.bytes());
        let channel = e.mul(e.min(own.channel, e.i64(lanes.cut.1 - 1)), e.i64(bytes * slot.stride(lanes.cut.0)));
        let place = e.offset_by(e.offset(self.place, channel), row * own.walk.row_bytes() + 4 * slot.at);
        let Some(stride) = lanes.inner.map(|(axis, _)| slot.stride(axis)).filter(|stride| *stride > 0) else {
            return beside(e, slot.store, place, 1);
        };
        let place = e.offset(place, e.mul(own.member, e.i64(bytes * stride * form.side)));
        let together = stride == 1 && slot.stride(lanes.cut.0).is_multiple_of(form.side);
        let at_once = if together { form.side } else { 1 };
        let mut numbers = vec![];
        for turn in 0..form.each / form.side {
            let place = e.offset_by(place, bytes * stride * turn * form.side * form.team);
            let parts = (0..form.side).step_by(at_once);
            numbers.extend(parts.flat_map(|at| beside(e, slot.store, e.offset_by(place, bytes * stride * at), at_once)));
        }
        numbers
    }

    /// Statements of a row that stand in one nest, for the thread's elements.
    fn group<'s>(
        &self,
        site: &mut Site<'_, 'c>,
        group: &'s [Stmt],
        known: &mut Known<'c>,
        (puts, sums): (&mut Vec<Put<'c>>, &mut Vec<(&'s Stmt, Vec<Val<'c>>)>),
    ) {
        let (own, lanes) = (self.own, &self.own.walk.lanes);
        let e = own.e;
        let inner = group.iter().any(|stmt| lanes.is_inner(stmt));
        let count = if inner { own.walk.form.each } else { 1 };
        let mut totals: Vec<Option<Val>> = vec![None; group.len()];
        own.stand(site);
        for at in 0..count {
            own.stand_at(site, at);
            for (stmt, total) in group.iter().zip(&mut totals) {
                site.fresh = known.at(at);
                let made = value(site, &stmt.expr);
                if let Some(reduction) = &stmt.reduce {
                    *total = Some(total.map_or(made, |total| combine(e, reduction.how, total, made)));
                    continue;
                }
                known.put_one(&stmt.target, (at, count), made);
                if self.leaves(&stmt.target) {
                    puts.push(Put { place: site.address(&stmt.target), value: stored(site, &stmt.target, made), all: inner });
                }
            }
        }
        own.stand(site);
        for (stmt, total) in group.iter().zip(totals) {
            let (Some(reduction), Some(total)) = (&stmt.reduce, total) else { continue };
            let later = reduction.how == Reduce::Sum && reduction.start.is_none() && !lanes.is_read(stmt);
            let teams = own.walk.form.across();
            if later && own.walk.form.team > 1 && teams.is_none() {
                match sums.iter_mut().find(|(other, _)| std::ptr::eq(*other, stmt)) {
                    Some((_, sums)) => sums.push(total),
                    None => sums.push((stmt, vec![total])),
                }
                continue;
            }
            let shuffled = |total| {
                let bits = self.bits(WARP, own.walk.form.channels()).into_iter();
                bits.fold(total, |total, by| combine(e, reduction.how, total, e.exchange(total, by)))
            };
            let mut total = match teams {
                Some(teams) => teams.reduce(e, reduction.how, total, e.shared_memory()),
                None => shuffled(total),
            };
            if let Some(start) = &reduction.start {
                site.fresh = known.at(0);
                total = e.add(value(site, start), total);
            }
            known.put(&stmt.target, vec![total]);
            if self.leaves(&stmt.target) {
                puts.push(Put { place: site.address(&stmt.target), value: stored(site, &stmt.target, total), all: false });
            }
        }
        site.fresh.clear();
    }

    /// Bits of a lane's number below `from`, down to `to`.
    fn bits(&self, from: usize, to: usize) -> Vec<usize> {
        (0..WARP.ilog2()).rev().map(|bit| 1 << bit).filter(|bit| *bit < from && *bit >= to).collect()
    }

    /// Whether a value goes to the device's memory in each row.
    fn leaves(&self, target: &View) -> bool {
        self.own.walk.leaves.contains(&target.tensor)
    }

    /// Adds up sums of some rows over teams, of which each lane gets a row's, and writes them.
    fn dealt(&self, site: &mut Site<'_, 'c>, stmt: &Stmt, sums: &[Val<'c>]) {
        let own = self.own;
        let (e, form) = (own.e, own.walk.form);
        own.stand(site);
        for (turn, sums) in sums.chunks(form.team).enumerate() {
            let (mut sum, by) = deal(e, own.lane, sums);
            for by in self.bits(by, form.channels()) {
                sum = e.add(sum, e.exchange(sum, by));
            }
            // So many lanes have the same row.
            let same = form.team / sums.len();
            let row = e.add(e.i64(turn * form.team), e.shift_right(own.member, i64::from(same.ilog2())));
            site.set_row(e.add(self.at, row), false);
            let place = site.address(&stmt.target);
            let first = e.cmp(Cmp::Eq, e.and(own.member, e.i64(same - 1)), e.i64(0));
            let sum = stored(site, &stmt.target, sum);
            e.if_then(e.and(own.alive, first), || e.store(place, sum));
        }
    }
}
