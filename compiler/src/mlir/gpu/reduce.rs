//! Sums of a nest: threads share the parts of a result, or each makes results of its own.

use super::nest::{Loops, Put, WIDE_AHEAD, both, guarded, sums_at};
use super::team::{Teams, combine, member_of};
use super::wide::{self, SIDE, Wide};
use crate::fuse::expr::KAxis;
use crate::fuse::kernel::{Reduction, Stmt};
use crate::mlir::common::expr::{store, value};
use crate::mlir::common::site::{Site, for_each};
use crate::mlir::common::{Cmp, Emitter, Ty, Val};
use braid_dsl::model::{self, Reduce};

/// Parts of a sum that are loaded together.
const PARTS_AHEAD: usize = 8;

impl<'c> Loops<'_, 'c> {
    /// Sums: each team of threads walks the parts of one result.
    pub(super) fn sums(&self, site: &mut Site<'_, 'c>, axes: &[(KAxis, usize)], results: usize, teams: Teams) {
        let e = site.e;
        let totals: Vec<(&Stmt, &Reduction)> = self.nest.stmts.iter().filter_map(|s| Some((s, s.reduce.as_ref()?))).collect();
        let (team, member) = teams.place(e);
        let memory = e.offset_by(e.shared_memory(), self.shared + sums_at(self.code));
        for_each(e, e.i64(0), e.i64(results), e.i64(teams.count()), |base| {
            let whole = results.is_multiple_of(teams.count());
            let alive = self.place(site, axes, (e.add(base, team), results, whole));
            let starts: Vec<Val> = totals.iter().map(|(stmt, reduction)| identity(e, stmt, reduction.how)).collect();
            let own = match alive {
                None => self.parts(site, &totals, &starts, member, teams),
                Some(alive) => e.if_else(alive, || self.parts(site, &totals, &starts, member, teams), || starts.clone()),
            };
            let first = e.cmp(Cmp::Eq, member, e.i64(0));
            let mut made = Vec::new();
            for ((_, reduction), own) in totals.iter().zip(own) {
                made.push(teams.reduce(e, reduction.how, own, memory));
            }
            let stores = if teams.size == 1 { alive } else { both(e, alive, Some(first)) };
            guarded(e, stores, || {
                for ((stmt, reduction), made) in totals.iter().zip(made) {
                    let made = match &reduction.start {
                        Some(start) => e.add(value(site, start), made),
                        None => made,
                    };
                    store(site, &stmt.target, made);
                }
            });
        });
    }

    /// Sums of which each thread makes some that lie side by side.
    pub(super) fn wide_sums(&self, site: &mut Site<'_, 'c>, axes: &[(KAxis, usize)], results: usize, wide: &Wide<'_>) {
        let (e, groups) = (site.e, results / SIDE);
        let thread = e.to_i64(member_of(e, self.crew));
        for_each(e, e.i64(0), e.i64(groups), e.i64(self.crew), |base| {
            let whole = groups.is_multiple_of(self.crew);
            // Past the last ones these are made again, and not stored.
            let alive = self.place_side(site, axes, (e.add(base, thread), groups, whole), SIDE);
            let made = self.wide_parts(site, wide);
            guarded(e, alive, || {
                for (stmt, lanes) in self.nest.stmts.iter().zip(made.chunks(SIDE)) {
                    e.store_aligned(site.address(&stmt.target), wide::side_by_side(e, site.store_of(&stmt.target), lanes));
                }
            });
        });
    }

    /// All parts of a thread's sums, a few at once; the sums of a statement lie side by side.
    fn wide_parts(&self, site: &mut Site<'_, 'c>, wide: &Wide<'_>) -> Vec<Val<'c>> {
        let e = site.e;
        let axes: Vec<(KAxis, usize)> = self.nest.reduced.iter().map(|axis| (*axis, self.code.sizes[axis.0])).collect();
        let parts = axes.iter().map(|(_, size)| size).product::<usize>();
        let ahead = (1..=PARTS_AHEAD).rev().find(|ahead| parts.is_multiple_of(*ahead)).unwrap_or(1);
        let hows: Vec<Reduce> = self.nest.stmts.iter().filter_map(|stmt| Some(stmt.reduce.as_ref()?.how)).collect();
        let starts: Vec<Val> = self.nest.stmts.iter().zip(&hows).flat_map(|(s, how)| [identity(e, s, *how); SIDE]).collect();
        e.for_loop(e.i64(0), e.i64(parts), e.i64(ahead), &starts, |base, totals| {
            let one = |part: usize| {
                self.place(site, &axes, (e.add(base, e.i64(part)), parts, true));
                wide.statements(site).into_iter().flat_map(|(.., lanes)| lanes).collect::<Vec<Val>>()
            };
            let made: Vec<Vec<Val>> = (0..ahead).map(one).collect();
            let all = |totals: Vec<Val<'c>>, own: Vec<Val<'c>>| -> Vec<Val<'c>> {
                let each = totals.into_iter().zip(own).enumerate();
                each.map(|(at, (total, own))| combine(e, hows[at / SIDE], total, own)).collect()
            };
            made.into_iter().fold(totals.to_vec(), all)
        })
    }

    /// One thread's share of the parts, a few at once.
    fn parts(
        &self,
        site: &mut Site<'_, 'c>,
        sums: &[(&Stmt, &Reduction)],
        starts: &[Val<'c>],
        member: Val<'c>,
        teams: Teams,
    ) -> Vec<Val<'c>> {
        let e = site.e;
        let axes: Vec<(KAxis, usize)> = self.nest.reduced.iter().map(|axis| (*axis, self.code.sizes[axis.0])).collect();
        let parts = axes.iter().map(|(_, size)| size).product::<usize>();
        let wide = Wide::of_parts(self.code, self.nest, (&axes, teams.size));
        let (side, most) = if wide.is_some() { (SIDE, WIDE_AHEAD) } else { (1, PARTS_AHEAD) };
        let parts = parts / side;
        let ahead = parts.div_ceil(teams.size).clamp(1, most);
        let step = ahead * teams.size;
        e.for_loop(e.i64(0), e.i64(parts), e.i64(step), starts, |base, totals| {
            let mut made = Vec::new();
            for part in 0..ahead {
                let number = e.add(base, e.add(member, e.i64(part * teams.size)));
                let alive = self.place_side(site, &axes, (number, parts, parts.is_multiple_of(step)), side);
                let (values, stores) = self.values(site, wide.as_ref());
                made.push((alive, values, stores));
            }
            let mut totals = totals.to_vec();
            for (alive, values, stores) in made {
                for ((total, (stmt, reduction)), values) in totals.iter_mut().zip(sums).zip(values) {
                    for value in values {
                        let value = alive.map_or(value, |alive| e.select(alive, value, identity(e, stmt, reduction.how)));
                        *total = combine(e, reduction.how, *total, value);
                    }
                }
                guarded(e, alive, || stores.into_iter().for_each(|put| put.done(e)));
            }
            totals
        })
    }

    /// What is summed at the site's indices, some for each sum, and what is stored beside.
    fn values(&self, site: &mut Site<'_, 'c>, wide: Option<&Wide<'_>>) -> (Vec<Vec<Val<'c>>>, Vec<Put<'c>>) {
        if let Some(wide) = wide {
            return (wide.statements(site).into_iter().map(|(.., lanes)| lanes).collect(), vec![]);
        }
        let mut values = vec![];
        let stores = self.statements(site, &mut values);
        (values.into_iter().map(|value| vec![value]).collect(), stores)
    }
}

/// What a total starts with.
pub(super) fn identity<'c>(e: &Emitter<'c>, stmt: &Stmt, how: Reduce) -> Val<'c> {
    match (stmt.expr.elem() == model::Elem::Float, how) {
        (true, Reduce::Sum) => e.float(Ty::F32, 0.0),
        (true, Reduce::Max) => e.float(Ty::F32, f64::NEG_INFINITY),
        (true, Reduce::Min) => e.float(Ty::F32, f64::INFINITY),
        (false, Reduce::Sum) => e.i32(0),
        (false, Reduce::Max) => e.i32(i32::MIN),
        (false, Reduce::Min) => e.i32(i32::MAX),
    }
}
