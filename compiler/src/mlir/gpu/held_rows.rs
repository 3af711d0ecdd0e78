//! Kernels whose blocks hold one row after the other: the next one is asked for ahead of the sums of the one at hand, or, where a row takes all the
//! room there is, all of it at once.

use super::far::Slots;
use super::held::{Group, Held};
use super::{THREADS, nest};
use crate::fuse::expr::View;
use crate::fuse::kernel::{Nests, Rows, Walk};
use crate::mlir::common::site::{Site, for_each};
use crate::mlir::common::{Cmp, Val};

/// Most bytes that a thread keeps of the rows of a kernel: of the row at hand, of the next one, and of what all rows need; and most groups.
const KEPT: usize = 256;
const GROUPS: usize = 4;

/// Where the places of groups that are not in registers begin in shared memory, behind the sums.
pub fn far_at(code: &Nests) -> usize {
    nest::sums_at(code) + 4 * THREADS
}

/// Shared memory of a block, in calls of many rows, if rows are not all in registers.
pub fn shared_bytes(code: &Nests, groups: bool) -> usize {
    Held::of_long_rows(code, groups).map_or(0, |held| far_at(code) + held.far.map_or(0, |slots| slots.bytes()))
}

/// Whether a sum is over all of a row, which is one task then.
fn has_sums(code: &Nests) -> bool {
    code.nests.iter().flat_map(|nest| &nest.stmts).any(|stmt| stmt.reduce.is_some())
}

impl<'n> Held<'n> {
    /// The nests of a kernel as such, if its rows have sums and are short enough to have the next one on its way.
    pub fn of_rows(code: &'n Nests) -> Option<Held<'n>> {
        let held = Held::of(code)?;
        let rows: usize = held.reads.iter().filter(|view| held.is_of_row(view)).map(|view| held.bytes_of(view)).sum();
        let short = held.groups() <= GROUPS && held.kept() + held.groups() * rows <= KEPT;
        (has_sums(code) && short).then_some(held)
    }

    /// The nests of a kernel of longer rows, a part of which may lie in shared memory, in calls of many rows. `groups`: whether there is so much of it.
    pub fn of_long_rows(code: &'n Nests, groups: bool) -> Option<Held<'n>> {
        if !groups || !matches!(code.walk, Walk::Rows(Rows::All | Rows::Wanted)) || Held::of_rows(code).is_some() {
            return None;
        }
        let mut held = Held::of_any(code).filter(|_| has_sums(code))?;
        held.far = Some(Slots::of(&held)?);
        Some(held)
    }

    /// Makes the block's rows of a kernel.
    pub fn emit_rows(&self, site: &mut Site<'_, '_>, rows: Rows) {
        match self.far {
            Some(_) => self.emit_long(site, rows),
            None => self.emit_short(site, rows),
        }
    }

    fn emit_long(&self, site: &mut Site<'_, '_>, rows: Rows) {
        let (e, args) = (site.e, site.args);
        let groups = self.groups_of(site);
        for_each(e, args.begin, args.end, e.blocks(), |row| {
            site.set_row(row, rows == Rows::Wanted);
            let asked = self.ask(site, &groups, |_| true);
            e.close_copies();
            // Others may still be at the sums of the row before.
            e.sync();
            e.wait_copies(0);
            let sums = e.offset_by(e.shared_memory(), nest::sums_at(self.code));
            self.make(site, (groups.clone(), &asked), sums, &|_, _| {});
        });
    }

    fn emit_short<'c>(&self, site: &mut Site<'_, 'c>, rows: Rows) {
        let (e, args, wanted) = (site.e, site.args, rows == Rows::Wanted);
        let ask = |site: &mut Site<'_, 'c>, groups: &[Group<'c>], row: Val<'c>| {
            site.set_row(row, wanted);
            self.ask(site, groups, |view| self.is_of_row(view))
        };
        e.if_then(e.cmp(Cmp::Lt, args.begin, args.end), || {
            let groups = self.groups_of(site);
            let first = ask(site, &groups, args.begin);
            let same = self.ask(site, &groups, |view| !self.is_of_row(view));
            e.for_loop(args.begin, args.end, e.blocks(), &first, |row, asked| {
                let next = e.add(row, e.blocks());
                // Behind the last one, that is asked for again.
                let ahead = ask(site, &groups, e.select(e.cmp(Cmp::Lt, next, args.end), next, row));
                site.set_row(row, wanted);
                // Others may still be at the sums of the row before.
                e.sync();
                let sums = e.offset_by(e.shared_memory(), nest::sums_at(self.code));
                self.make(site, (groups.clone(), &self.in_order(&same, asked)), sums, &|_, _| {});
                ahead
            });
        });
    }

    /// What is asked for of all groups, of what is the same in all rows and of what is not, in the order of [`Held::ask`] of both.
    fn in_order<'c>(&self, same: &[Val<'c>], of_row: &[Val<'c>]) -> Vec<Val<'c>> {
        let (mut same, mut of_row) = (same.iter(), of_row.iter());
        let next = |view: &&View| if self.is_of_row(view) { of_row.next() } else { same.next() };
        (0..self.groups()).flat_map(|_| &self.reads).filter_map(next).copied().collect()
    }
}
