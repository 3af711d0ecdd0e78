//! Kernels whose blocks hold one row after the other: the next one is asked for ahead of the sums of the one at hand, or, where a row takes all the
//! room there is, all of it at once.

use super::far::Slots;
use super::held::{Group, Held};
use super::{THREADS, nest};
use crate::fuse::expr::View;
use crate::fuse::kernel::{Nests, Rows, Walk};
use crate::mlir::common::site::{Site, for_each};
use crate::mlir::common::{Cmp, Val};
use crate::plan::by_warps;

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

/// Whether each task is a row with sums over it; without any a row may be cut into tasks.
fn has_rows(code: &Nests) -> bool {
    let mut stmts = code.nests.iter().flat_map(|nest| &nest.stmts);
    matches!(code.walk, Walk::Rows(Rows::All | Rows::Wanted)) && stmts.any(|stmt| stmt.reduce.is_some())
}

impl<'n> Held<'n> {
    /// The nests of a kernel as such. `groups`: whether shared memory is large; `many`: whether calls have many rows.
    pub fn of_kernel(code: &'n Nests, groups: bool, many: bool) -> Option<Held<'n>> {
        let by_warps = many && by_warps(code);
        Held::of_short_rows(code).or_else(|| Held::of_long_rows(code, groups).filter(|_| many)).filter(|_| !by_warps)
    }

    /// Those whose rows are short enough to have the next one on its way.
    fn of_short_rows(code: &'n Nests) -> Option<Held<'n>> {
        let held = Held::of(code).filter(|_| has_rows(code))?;
        let rows: usize = held.reads.iter().filter(|view| held.is_of_row(view)).map(|view| held.bytes_of(view)).sum();
        let short = held.groups() <= GROUPS && held.kept() + held.groups() * rows <= KEPT;
        short.then_some(held)
    }

    /// Those of longer rows, a part of which may lie in shared memory.
    pub fn of_long_rows(code: &'n Nests, groups: bool) -> Option<Held<'n>> {
        if !groups || !has_rows(code) || Held::of_short_rows(code).is_some() {
            return None;
        }
        let mut held = Held::of_any(code)?;
        held.far = Some(Slots::of(&held)?);
        Some(held)
    }

    /// Makes the block's rows of a kernel.
    pub fn emit_rows(&self, site: &mut Site<'_, '_>) {
        let wanted = self.code.walk == Walk::Rows(Rows::Wanted);
        match self.far {
            Some(_) => self.emit_long(site, wanted),
            None => self.emit_short(site, wanted),
        }
    }

    /// All of a row is asked for at once.
    fn emit_long(&self, site: &mut Site<'_, '_>, wanted: bool) {
        let (e, args) = (site.e, site.args);
        let groups = self.groups_of(site);
        for_each(e, args.begin, args.end, e.blocks(), |row| {
            site.set_row(row, wanted);
            let asked = self.ask(site, &groups, |_| true);
            e.close_copies();
            // Others may still be at the sums of the row before.
            e.sync();
            e.wait_copies(0);
            let sums = e.offset_by(e.shared_memory(), nest::sums_at(self.code));
            self.make(site, (groups.clone(), &asked), sums, &|_, _| {});
        });
    }

    /// The next row is asked for ahead of the sums of the one at hand.
    fn emit_short<'c>(&self, site: &mut Site<'_, 'c>, wanted: bool) {
        let (e, args) = (site.e, site.args);
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
