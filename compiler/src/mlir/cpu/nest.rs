//! Kernels of nests: loops over a row's axes, row by row or along each sequence.

use super::pairs::Pairs;
use super::solve;
use crate::fuse::expr::{Expr, KAxis, View};
use crate::fuse::kernel::{Nest, Nests, Reduction, Rows, Stmt, Walk};
use crate::mlir::common::expr::{store, value};
use crate::mlir::common::segment::{own_block, place_in_grid, rows};
use crate::mlir::common::site::{Setting, Site, for_each, scratch};
use crate::mlir::common::{Cmp, Elem, Emitter, KernelArgs, Ty, Val};
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
                all(&mut site, code, setting);
            }),
            Walk::Segments { .. } => {
                for_each(e, args.begin, args.end, e.i64(1), |task| segment(&mut site, code, task, (args, setting)));
            }
        }
    });
}

fn all(site: &mut Site, code: &Nests, setting: Setting) {
    for nest in &code.nests {
        Loops { code, nest, pairs: None }.run(site, setting);
    }
}

/// One sequence, one place of the grid: step by step, or chunk by chunk.
fn segment<'c>(site: &mut Site<'_, 'c>, code: &Nests, task: Val<'c>, (args, setting): (KernelArgs<'c>, Setting)) {
    let Walk::Segments { grid, blocked, part } = &code.walk else { return };
    let e = site.e;
    let rest = place_in_grid(site, grid, *blocked, (&code.sizes, task));
    let block_mask = blocked.and_then(|(axis, width)| {
        let size = code.sizes[axis.0];
        let left = e.sub(e.i64(size), site.index[&axis]);
        (!size.is_multiple_of(width)).then(|| e.mask(width, left))
    });
    if let (Some((axis, _)), true) = (blocked, code.staging.shared) {
        let first = site.index[axis];
        own_block(site, code, (*axis, first), &|place| scratch(e, args, setting, place));
    }
    let own = e.segment(args.call, rest);
    site.set_slot(own.slot);
    let (first, end, step) = rows(e, *part, own);
    let run = |site: &mut Site<'_, 'c>, nests: &[Nest]| {
        for nest in nests {
            let in_block = blocked.is_some() && nest.vector == blocked.map(|(axis, _)| axis);
            site.mask = if in_block { block_mask } else { None };
            Loops { code, nest, pairs: None }.run(site, setting);
        }
    };
    let walk = |site: &mut Site<'_, 'c>| {
        run(site, &code.staging.before);
        for_each(e, first, end, e.i64(step), |row| {
            site.set_row(row, false);
            run(site, &code.nests);
        });
    };
    match code.staging.before.is_empty() {
        true => walk(site),
        false => e.if_then(e.cmp(Cmp::Lt, first, end), || walk(site)),
    }
}

struct Loops<'n, 'c> {
    code: &'n Nests,
    nest: &'n Nest,
    /// The factors of a product that is done by pairs.
    pairs: Option<Pairs<'c>>,
}

impl<'c> Loops<'_, 'c> {
    fn run(mut self, site: &mut Site<'_, 'c>, setting: Setting) {
        if let Some(system) = &self.nest.stmts[0].system {
            return solve::emit(site, &self.nest.parallel, &self.code.sizes, (&self.nest.stmts[0], system, self.nest.lanes));
        }
        self.pairs = Pairs::of(site, self.code, self.nest, setting);
        site.vector = self.nest.vector;
        site.lanes = self.nest.lanes;
        self.parallel(site, &self.nest.parallel, 1);
        site.vector = None;
        site.lanes = 1;
        site.mask = None;
    }

    /// The parallel loops; `rows`: how many indices of the tile's axis are done at once.
    fn parallel(&self, site: &mut Site<'_, 'c>, axes: &[KAxis], rows: usize) {
        let Some((axis, inner)) = axes.split_first() else { return self.reduced(site, rows) };
        let e = site.e;
        let size = self.code.sizes[axis.0];
        if let Some((_, count)) = self.nest.tile.filter(|(tiled, _)| tiled == axis) {
            let whole = size / count * count;
            // What is left is one smaller tile, or single rows where a tree of pairs adds up.
            let left = if self.across() { 1 } else { size - whole };
            for (from, to, rows) in [(0, whole, count), (whole, size, left)] {
                if from < to {
                    for_each(e, e.i64(from), e.i64(to), e.i64(rows), |at| {
                        site.index.insert(*axis, at);
                        self.parallel(site, inner, rows);
                    });
                }
            }
            return;
        }
        if site.vector != Some(*axis) {
            let falling = self.nest.stmts[0].ordered.is_some_and(|order| order.axis == *axis && order.falling);
            let end = self.end(site, *axis);
            for_each(e, e.i64(0), end, e.i64(1), |at| {
                let at = if falling { e.sub(e.i64(size - 1), at) } else { at };
                site.index.insert(*axis, at);
                self.parallel(site, inner, rows);
            });
            return;
        }
        let (full, left) = self.blocks(*axis);
        if full > 0 {
            for_each(e, e.i64(0), e.i64(full), e.i64(site.lanes), |at| {
                site.index.insert(*axis, at);
                site.mask = None;
                self.parallel(site, inner, rows);
            });
        }
        if left > 0 {
            site.index.insert(*axis, e.i64(full));
            site.mask = Some(e.mask(site.lanes, e.i64(left)));
            self.parallel(site, inner, rows);
            site.mask = None;
        }
    }

    /// Past the last index of a loop.
    fn end(&self, site: &Site<'_, 'c>, axis: KAxis) -> Val<'c> {
        let e = site.e;
        match self.nest.stmts[0].below.filter(|below| below.axis == axis) {
            Some(below) => e.add(site.index[&below.by], e.i64(usize::from(below.inclusive))),
            None => e.i64(self.code.sizes[axis.0]),
        }
    }

    /// Elements in whole vectors, and elements left.
    fn blocks(&self, axis: KAxis) -> (usize, usize) {
        let size = self.code.sizes[axis.0];
        (size / self.nest.lanes * self.nest.lanes, size % self.nest.lanes)
    }

    /// Whether vectors run along what is summed.
    fn across(&self) -> bool {
        self.nest.vector.is_some_and(|v| self.nest.reduced.contains(&v))
    }

    /// The statements with a total.
    fn totals(&self) -> Vec<(&Stmt, &Reduction)> {
        self.nest.stmts.iter().filter_map(|s| Some((s, s.reduce.as_ref()?))).collect()
    }

    /// Goes to one row of a tile.
    fn at_row(&self, site: &mut Site<'_, 'c>, first: Option<Val<'c>>, row: usize) {
        if let (Some((axis, _)), Some(first)) = (self.nest.tile, first) {
            let e = site.e;
            site.index.insert(axis, e.add(first, e.i64(row)));
        }
    }

    /// The reduced loops, or the statements alone.
    fn reduced(&self, site: &mut Site<'_, 'c>, rows: usize) {
        let totals = self.totals();
        let first = self.nest.tile.and_then(|(axis, _)| site.index.get(&axis).copied());
        let mut starts: Vec<Val<'c>> = vec![];
        for row in 0..rows {
            self.at_row(site, first, row);
            for (stmt, reduction) in &totals {
                starts.push(match &reduction.start {
                    Some(start) if !self.across() => {
                        let start = value(site, start);
                        site.e.splat(start, if self.nest.vector.is_some() { self.nest.lanes } else { 1 })
                    }
                    _ => self.identity(site, stmt),
                });
            }
        }
        let mask = site.mask;
        self.at_row(site, first, 0);
        self.hold(site);
        let ends = match &self.pairs {
            Some(pairs) => pairs.accumulate(site, starts, rows),
            None => self.accumulate(site, &self.nest.reduced, starts, (first, rows)),
        };
        site.mask = mask;
        site.fresh.clear();
        site.held.clear();
        if self.across() {
            return self.store_across(site, &totals, &ends, (first, rows));
        }
        for row in 0..rows {
            self.at_row(site, first, row);
            for ((stmt, _), total) in totals.iter().zip(&ends[row * totals.len()..]) {
                store(site, &stmt.target, *total);
            }
        }
    }

    /// Makes what the reduced loops do not change ahead of them: what is stored there might lie where it is read, as far as LLVM knows.
    fn hold(&self, site: &mut Site<'_, 'c>) {
        if self.pairs.is_some() || self.nest.reduced.is_empty() {
            return;
        }
        let tile = self.nest.tile.map(|(axis, _)| axis);
        let changes = |axis: &KAxis| self.nest.reduced.contains(axis) || tile == Some(*axis);
        let written = |view: &&View| self.nest.stmts.iter().any(|stmt| stmt.writes(view.tensor));
        let stays = |expr: &Expr| !expr.axes().iter().any(changes) && !expr.views().iter().any(written);
        let mut found = vec![];
        self.nest.stmts.iter().for_each(|stmt| stmt.expr.largest(&stays, &mut found));
        for expr in found.into_iter().filter(|expr| !expr.views().is_empty()) {
            let made = value(site, expr);
            site.held.push((expr.clone(), made));
        }
    }

    /// Totals that are spread over the lanes: one by one, or those of a tile side by side.
    fn store_across(
        &self,
        site: &mut Site<'_, 'c>,
        totals: &[(&Stmt, &Reduction)],
        ends: &[Val<'c>],
        (first, rows): (Option<Val<'c>>, usize),
    ) {
        let (e, vector, lanes, mask) = (site.e, site.vector, site.lanes, site.mask);
        self.at_row(site, first, 0);
        site.mask = None;
        let tiled = self.nest.tile.filter(|_| rows > 1);
        (site.vector, site.lanes) = (tiled.map(|(axis, _)| axis), rows);
        for (at, (stmt, reduction)) in totals.iter().enumerate() {
            let total = match rows {
                1 => across_lanes(e, reduction.how, ends[at]),
                _ => e.reduce_add_each(ends),
            };
            let total = match &reduction.start {
                Some(start) => e.add(value(site, start), total),
                None => total,
            };
            store(site, &stmt.target, total);
        }
        (site.vector, site.lanes, site.mask) = (vector, lanes, mask);
    }

    fn accumulate(
        &self,
        site: &mut Site<'_, 'c>,
        axes: &[KAxis],
        totals: Vec<Val<'c>>,
        tile: (Option<Val<'c>>, usize),
    ) -> Vec<Val<'c>> {
        let Some((axis, inner)) = axes.split_first() else { return self.statements(site, totals, tile) };
        let e = site.e;
        if site.vector != Some(*axis) {
            let end = self.end(site, *axis);
            return e.for_loop(e.i64(0), end, e.i64(1), &totals, |at, totals| {
                site.index.insert(*axis, at);
                self.accumulate(site, inner, totals.to_vec(), tile)
            });
        }
        let (full, left) = self.blocks(*axis);
        let mut totals = totals;
        if full > 0 {
            totals = e.for_loop(e.i64(0), e.i64(full), e.i64(site.lanes), &totals, |at, totals| {
                site.index.insert(*axis, at);
                site.mask = None;
                self.accumulate(site, inner, totals.to_vec(), tile)
            });
        }
        if left > 0 {
            site.index.insert(*axis, e.i64(full));
            site.mask = Some(e.mask(site.lanes, e.i64(left)));
            totals = self.accumulate(site, inner, totals, tile);
            site.mask = None;
        }
        totals
    }

    fn statements(
        &self,
        site: &mut Site<'_, 'c>,
        mut totals: Vec<Val<'c>>,
        (first, rows): (Option<Val<'c>>, usize),
    ) -> Vec<Val<'c>> {
        let e = site.e;
        let mut at = 0;
        for row in 0..rows {
            self.at_row(site, first, row);
            site.fresh.clear();
            for stmt in &self.nest.stmts {
                let made = value(site, &stmt.expr);
                let Some(reduction) = &stmt.reduce else {
                    store(site, &stmt.target, made);
                    site.fresh.retain(|(v, _)| v.tensor != stmt.target.tensor);
                    site.fresh.push((stmt.target.clone(), made));
                    continue;
                };
                let made = e.splat(made, totals[at].lanes());
                let made = match site.mask {
                    Some(mask) if self.across() => e.select(mask, made, self.identity(site, stmt)),
                    _ => made,
                };
                totals[at] = combine(e, reduction.how, totals[at], made);
                at += 1;
            }
        }
        site.fresh.clear();
        totals
    }

    /// What a total starts with; a vector wherever the nest has one.
    fn identity(&self, site: &Site<'_, 'c>, stmt: &Stmt) -> Val<'c> {
        let is_float = stmt.expr.elem() == braid_dsl::model::Elem::Float;
        let how = stmt.reduce.as_ref().map_or(Reduce::Sum, |reduction| reduction.how);
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
