//! Kernels of nests: loops over a row's axes, row by row or along each sequence.

use super::address::{Setting, Site, for_each};
use super::expr::{store, value};
use super::solve;
use crate::fuse::expr::KAxis;
use crate::fuse::kernel::{Nest, Nests, Rows, Stmt, Walk};
use crate::mlir::common::{Elem, Emitter, KernelArgs, Ty, Val};
use braid_dsl::model::Reduce;

/// Emits the kernel.
pub fn emit(e: &Emitter, name: &str, code: &Nests, setting: Setting) {
    e.kernel(name, |args| {
        let mut site = Site::new(e, args, &code.tensors, setting);
        match &code.walk {
            Walk::Rows(rows) => for_each(e, args.begin, args.end, e.i64(1), |task| {
                if *rows != Rows::Once {
                    site.set_row(task, *rows == Rows::Wanted);
                }
                all(&mut site, code);
            }),
            Walk::Segments { grid, blocked } => {
                for_each(e, args.begin, args.end, e.i64(1), |task| segment(&mut site, code, grid, *blocked, task, args));
            }
        }
    });
}

fn all(site: &mut Site, code: &Nests) {
    for nest in &code.nests {
        Loops { code, nest }.run(site);
    }
}

/// One sequence, one place of the grid: step by step.
fn segment<'c>(
    site: &mut Site<'_, 'c>,
    code: &Nests,
    grid: &[KAxis],
    blocked: Option<(KAxis, usize)>,
    task: Val<'c>,
    args: KernelArgs<'c>,
) {
    let e = site.e;
    let mut rest = task;
    for axis in grid.iter().rev() {
        let width = blocked.filter(|(cut, _)| cut == axis).map_or(1, |(_, width)| width);
        let count = e.i64(code.sizes[axis.0].div_ceil(width));
        let place = e.rem(rest, count);
        rest = e.div(rest, count);
        site.index.insert(*axis, e.mul(place, e.i64(width)));
    }
    if let Some((axis, width)) = blocked {
        let size = code.sizes[axis.0];
        let left = e.sub(e.i64(size), site.index[&axis]);
        site.mask = (!size.is_multiple_of(width)).then(|| e.mask(width, left));
    }
    let block_mask = site.mask;
    let own = e.segment(args.call, rest);
    site.set_slot(own.slot);
    let first = own.row;
    let end = e.add(first, own.rows);
    for_each(e, first, end, e.i64(1), |row| {
        site.set_row(row, false);
        site.mask = block_mask;
        for nest in &code.nests {
            let in_block = blocked.is_some() && nest.vector == blocked.map(|(axis, _)| axis);
            site.mask = if in_block { block_mask } else { None };
            Loops { code, nest }.run(site);
        }
    });
}

struct Loops<'n> {
    code: &'n Nests,
    nest: &'n Nest,
}

impl Loops<'_> {
    fn run(&self, site: &mut Site) {
        if let Some(system) = &self.nest.stmts[0].system {
            return solve::emit(site, &self.nest.parallel, &self.code.sizes, (&self.nest.stmts[0], system, self.nest.lanes));
        }
        site.vector = self.nest.vector;
        site.lanes = self.nest.lanes;
        self.parallel(site, &self.nest.parallel);
        site.vector = None;
        site.lanes = 1;
        site.mask = None;
    }

    fn parallel(&self, site: &mut Site, axes: &[KAxis]) {
        let Some((axis, inner)) = axes.split_first() else { return self.reduced(site) };
        let e = site.e;
        if site.vector != Some(*axis) {
            let size = e.i64(self.code.sizes[axis.0]);
            for_each(e, e.i64(0), size, e.i64(1), |at| {
                site.index.insert(*axis, at);
                self.parallel(site, inner);
            });
            return;
        }
        let (full, left) = self.blocks(*axis);
        if full > 0 {
            for_each(e, e.i64(0), e.i64(full), e.i64(site.lanes), |at| {
                site.index.insert(*axis, at);
                site.mask = None;
                self.parallel(site, inner);
            });
        }
        if left > 0 {
            site.index.insert(*axis, e.i64(full));
            site.mask = Some(e.mask(site.lanes, e.i64(left)));
            self.parallel(site, inner);
            site.mask = None;
        }
    }

    /// Elements in whole vectors, and elements left.
    fn blocks(&self, axis: KAxis) -> (usize, usize) {
        let size = self.code.sizes[axis.0];
        (size / self.nest.lanes * self.nest.lanes, size % self.nest.lanes)
    }

    /// The reduced loops, or the statements alone.
    fn reduced(&self, site: &mut Site) {
        let totals: Vec<&Stmt> = self.nest.stmts.iter().filter(|s| s.reduce.is_some()).collect();
        let start: Vec<Val> = totals.iter().map(|s| self.identity(site, s)).collect();
        let mask = site.mask;
        let ends = self.accumulate(site, &self.nest.reduced, start);
        site.mask = mask;
        site.fresh.clear();
        let across = self.nest.vector.is_some_and(|v| self.nest.reduced.contains(&v));
        for (stmt, total) in totals.iter().zip(ends) {
            let Some((how, _)) = &stmt.reduce else { continue };
            let total = if across { across_lanes(site.e, *how, total) } else { total };
            let vector = site.vector;
            if across {
                site.vector = None;
            }
            store(site, &stmt.target, total);
            site.vector = vector;
        }
    }

    fn accumulate<'c>(&self, site: &mut Site<'_, 'c>, axes: &[KAxis], totals: Vec<Val<'c>>) -> Vec<Val<'c>> {
        let Some((axis, inner)) = axes.split_first() else { return self.statements(site, totals) };
        let e = site.e;
        if site.vector != Some(*axis) {
            let size = e.i64(self.code.sizes[axis.0]);
            return e.for_loop(e.i64(0), size, e.i64(1), &totals, |at, totals| {
                site.index.insert(*axis, at);
                self.accumulate(site, inner, totals.to_vec())
            });
        }
        let (full, left) = self.blocks(*axis);
        let mut totals = totals;
        if full > 0 {
            totals = e.for_loop(e.i64(0), e.i64(full), e.i64(site.lanes), &totals, |at, totals| {
                site.index.insert(*axis, at);
                site.mask = None;
                self.accumulate(site, inner, totals.to_vec())
            });
        }
        if left > 0 {
            site.index.insert(*axis, e.i64(full));
            site.mask = Some(e.mask(site.lanes, e.i64(left)));
            totals = self.accumulate(site, inner, totals);
            site.mask = None;
        }
        totals
    }

    fn statements<'c>(&self, site: &mut Site<'_, 'c>, mut totals: Vec<Val<'c>>) -> Vec<Val<'c>> {
        let e = site.e;
        site.fresh.clear();
        let mut at = 0;
        for stmt in &self.nest.stmts {
            let made = value(site, &stmt.expr);
            let Some((how, _)) = &stmt.reduce else {
                store(site, &stmt.target, made);
                site.fresh.retain(|(v, _)| v.tensor != stmt.target.tensor);
                site.fresh.push((stmt.target.clone(), made));
                continue;
            };
            let made = e.splat(made, totals[at].lanes());
            let across = self.nest.vector.is_some_and(|v| self.nest.reduced.contains(&v));
            let made = match site.mask {
                Some(mask) if across => e.select(mask, made, self.identity(site, stmt)),
                _ => made,
            };
            totals[at] = combine(e, *how, totals[at], made);
            at += 1;
        }
        site.fresh.clear();
        totals
    }

    /// What a total starts with; a vector wherever the nest has one.
    fn identity<'c>(&self, site: &Site<'_, 'c>, stmt: &Stmt) -> Val<'c> {
        let is_float = stmt.expr.elem() == braid_dsl::model::Elem::Float;
        let how = stmt.reduce.as_ref().map_or(Reduce::Sum, |(how, _)| *how);
        let float = match how {
            Reduce::Sum => 0.0,
            Reduce::Max => f64::NEG_INFINITY,
            Reduce::Min => f64::INFINITY,
        };
        let int = match how {
            Reduce::Sum => 0,
            Reduce::Max => i64::from(i32::MIN),
            Reduce::Min => i64::from(i32::MAX),
        };
        let lanes = if self.nest.vector.is_some() { self.nest.lanes } else { 1 };
        match is_float {
            true => site.e.float(Ty::f32(lanes), float),
            false => site.e.int(Ty::vector(Elem::I32, lanes), int),
        }
    }
}

fn combine<'c>(e: &Emitter<'c>, how: Reduce, a: Val<'c>, b: Val<'c>) -> Val<'c> {
    match how {
        Reduce::Sum => e.add(a, b),
        Reduce::Max => e.max(a, b),
        Reduce::Min => e.min(a, b),
    }
}

fn across_lanes<'c>(e: &Emitter<'c>, how: Reduce, total: Val<'c>) -> Val<'c> {
    match how {
        Reduce::Sum => e.reduce_add(total),
        Reduce::Max => e.reduce_max(total),
        Reduce::Min => e.reduce_min(total),
    }
}
