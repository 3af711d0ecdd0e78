//! Sums of which there is one for each pair of a row and a column behind it, where what is summed is no product of two matrices: a warp has
//! tiles of some rows and some columns, whose lanes each load neighbours along what is summed, and make what a row, or a column, has, once.

use super::WARPS;
use super::nest::Loops;
use super::team::{across_lanes, deal};
use super::wide::{beside, lies_in_order};
use crate::fuse::expr::{Expr, KAxis, TensorId, View};
use crate::fuse::kernel::{Below, Nest, Nests, Stmt};
use crate::fuse::product::TILE;
use crate::mlir::common::device::WARP;
use crate::mlir::common::expr::{store, value};
use crate::mlir::common::site::{Site, for_each};
use crate::mlir::common::{Cmp, Emitter, Val};
use braid_dsl::model::{Elem, Reduce};

/// A nest of such sums.
pub struct Pairs<'n> {
    stmt: &'n Stmt,
    below: Below,
    /// Count rows and columns of a tile: those of the triangle, or others, of which the triangle's count the tiles.
    tile: [KAxis; 2],
    /// Axes of which there is a triangle for each index, and how many.
    triangles: Vec<(KAxis, usize)>,
    /// What is summed over.
    along: KAxis,
    /// Neighbours that a lane has at once, and how often.
    side: usize,
    turns: usize,
    /// Tiles along a side of a triangle.
    tiles: usize,
    /// What is summed, with stand-ins for what a row or a column has, and that.
    body: Expr,
    parts: [Vec<(View, Expr)>; 2],
}

/// Numbers of a row or a column: of each view, or stand-in, of a lane's neighbours.
type Known<'c> = Vec<(View, Vec<Val<'c>>)>;

impl<'n> Pairs<'n> {
    /// The nest as one of these; `axes`: those that threads are dealt to, with how many indices each has.
    pub fn of(code: &Nests, nest: &'n Nest, axes: &[(KAxis, usize)]) -> Option<Pairs<'n>> {
        let [stmt] = &nest.stmts[..] else { return None };
        let below = stmt.below.filter(|_| stmt.ordered.is_none())?;
        let reduction =
            stmt.reduce.as_ref().filter(|own| own.how == Reduce::Sum && own.start.is_none() && own.epilogue.is_none())?;
        let [along] = reduction.over[..] else { return None };
        let size = |axis: KAxis| axes.iter().find(|(own, _)| *own == axis).map(|(_, size)| *size);
        let (rows, columns, depth) = (size(below.by)?, size(below.axis)?, code.sizes[along.0]);
        let side = [4, 2, 1].into_iter().find(|side| depth.is_multiple_of(side * WARP))?;
        // An axis of a tile's own: nothing varies along it that does not along the tiles.
        let within = |tiles: KAxis| {
            let own = |axis: KAxis| stmt.reads().filter(|view| view.stride(axis) > 0).all(|view| view.stride(tiles) > 0);
            let fits = |(axis, size): &&(KAxis, usize)| *size == TILE && ![below.by, below.axis].contains(axis) && own(*axis);
            axes.iter().find(fits).map(|(axis, _)| *axis)
        };
        let (tile, tiles) = match (within(below.by), within(below.axis)) {
            (Some(i), Some(j)) if !below.inclusive => ([i, j], rows),
            _ => ([below.by, below.axis], rows / TILE),
        };
        let whole = tile[0] != below.by || rows.is_multiple_of(TILE);
        let fits = rows == columns && whole && tiles > 0 && stmt.expr.elem() == Elem::Float && reduction.beside.is_empty();
        let known = [below.by, below.axis, tile[0], tile[1]];
        let triangles = axes.iter().copied().filter(|(axis, _)| !known.contains(axis)).collect();
        let mut parts = [vec![], vec![]];
        let body = parted(&stmt.expr, tile, &mut parts);
        let turns = depth / (side * WARP);
        fits.then_some(Pairs { stmt, below, tile, triangles, along, side, turns, tiles, body, parts })
    }

    /// Whether the triangle's axes count tiles.
    fn of_tiles(&self) -> bool {
        self.tile[0] != self.below.by
    }

    /// Emits them.
    pub fn emit<'c>(&self, loops: &Loops<'_, 'c>, site: &mut Site<'_, 'c>) {
        let e = site.e;
        let warp = e.to_i64(e.shift_right(e.thread(), i64::from(WARP.ilog2())));
        let count: usize = self.triangles.iter().map(|(_, size)| size).product();
        let each = if self.of_tiles() { self.tiles * (self.tiles - 1) / 2 } else { self.tiles * (self.tiles + 1) / 2 };
        for_each(e, warp, e.i64(count * each), e.i64(WARPS), |number| {
            loops.place(site, &self.triangles, (e.div(number, e.i64(each)), count, true));
            let [row, column] = self.tile_of(e, e.rem(number, e.i64(each)));
            let begin = if self.of_tiles() {
                site.index.insert(self.below.by, row);
                site.index.insert(self.below.axis, column);
                [e.i64(0); 2]
            } else {
                [row, column].map(|tile| e.mul(tile, e.i64(TILE)))
            };
            let sums = self.sums(site, begin);
            self.store(site, begin, &sums);
        });
    }

    /// Row and column of a tile on or below the diagonal, or below it, by its number.
    fn tile_of<'c>(&self, e: &Emitter<'c>, number: Val<'c>) -> [Val<'c>; 2] {
        // Rows of tiles that have any, and how many there are ahead.
        let (first, ahead): (usize, &dyn Fn(usize) -> usize) =
            if self.of_tiles() { (1, &|row| row * (row - 1) / 2) } else { (0, &|row| row * (row + 1) / 2) };
        let begun = (first + 1..self.tiles).map(|row| (row, e.cmp(Cmp::Ge, number, e.i64(ahead(row)))));
        let (row, before) = begun.fold((e.i64(first), e.i64(0)), |(own, before), (row, begun)| {
            (e.select(begun, e.i64(row), own), e.select(begun, e.i64(ahead(row)), before))
        });
        [row, e.sub(number, before)]
    }

    /// A lane's part of the sums of a tile, rows first.
    fn sums<'c>(&self, site: &mut Site<'_, 'c>, begin: [Val<'c>; 2]) -> Vec<Val<'c>> {
        let e = site.e;
        let lane = e.to_i64(e.and(e.thread(), e.i32(WARP as i32 - 1)));
        let own = e.mul(lane, e.i64(self.side));
        let zeros = vec![e.f32(0.0); TILE * TILE];
        if self.turns == 1 {
            return self.turn(site, begin, own, &zeros);
        }
        e.for_loop(e.i64(0), e.i64(self.turns * self.side * WARP), e.i64(self.side * WARP), &zeros, |first, sums| {
            self.turn(site, begin, e.add(first, own), sums)
        })
    }

    /// Adds what a lane has of some neighbours along what is summed.
    fn turn<'c>(&self, site: &mut Site<'_, 'c>, begin: [Val<'c>; 2], first: Val<'c>, sums: &[Val<'c>]) -> Vec<Val<'c>> {
        let e = site.e;
        let of = |site: &mut Site<'_, 'c>, side: usize| -> Vec<Known<'c>> {
            (0..TILE)
                .map(|at| {
                    site.index.insert(self.tile[side], e.add(begin[side], e.i64(at)));
                    self.parts_of(site, &self.parts[side], first)
                })
                .collect()
        };
        let (rows, columns) = (of(site, 0), of(site, 1));
        let mut made = sums.to_vec();
        for (at, sum) in made.iter_mut().enumerate() {
            let (r, c) = (at / TILE, at % TILE);
            if self.is_above(r, c) {
                continue;
            }
            site.index.insert(self.tile[0], e.add(begin[0], e.i64(r)));
            site.index.insert(self.tile[1], e.add(begin[1], e.i64(c)));
            for n in 0..self.side {
                site.index.insert(self.along, e.add(first, e.i64(n)));
                site.fresh = rows[r].iter().chain(&columns[c]).map(|(view, all)| (view.clone(), all[n])).collect();
                *sum = e.add(*sum, value(site, &self.body));
            }
        }
        site.fresh.clear();
        made
    }

    /// Whether a pair of the only tile is not summed.
    fn is_above(&self, row: usize, column: usize) -> bool {
        let only = self.tiles == 1 && !self.of_tiles();
        only && if self.below.inclusive { column > row } else { column >= row }
    }

    /// What a row or a column has, at the site's indices.
    fn parts_of<'c>(&self, site: &mut Site<'_, 'c>, parts: &[(View, Expr)], first: Val<'c>) -> Known<'c> {
        let e = site.e;
        let mut loaded: Known = vec![];
        for view in parts.iter().flat_map(|(_, expr)| expr.views()) {
            if !loaded.iter().any(|(own, _)| own == view) {
                loaded.push((view.clone(), self.neighbours(site, view, first)));
            }
        }
        let one = |(stand_in, expr): &(View, Expr)| {
            let lane = |n: usize| {
                site.index.insert(self.along, e.add(first, e.i64(n)));
                site.fresh = loaded.iter().map(|(view, all)| (view.clone(), all[n])).collect();
                value(site, expr)
            };
            (stand_in.clone(), (0..self.side).map(lane).collect())
        };
        let made = parts.iter().map(one).collect();
        site.fresh.clear();
        made
    }

    /// What a view has of a lane's neighbours.
    fn neighbours<'c>(&self, site: &mut Site<'_, 'c>, view: &View, first: Val<'c>) -> Vec<Val<'c>> {
        let e = site.e;
        let load = |site: &Site<'_, 'c>, count| beside(e, site.store_of(view), site.address(view), count);
        site.index.insert(self.along, first);
        match view.stride(self.along) {
            0 => vec![load(site, 1)[0]; self.side],
            1 if lies_in_order(site.tensor(view), view, (self.along, self.side)) => load(site, self.side),
            _ => {
                let one = |n: usize| {
                    site.index.insert(self.along, e.add(first, e.i64(n)));
                    load(site, 1)[0]
                };
                (0..self.side).map(one).collect()
            }
        }
    }

    /// Lanes add up what they have, and store one sum each.
    fn store<'c>(&self, site: &mut Site<'_, 'c>, begin: [Val<'c>; 2], sums: &[Val<'c>]) {
        let e = site.e;
        let lane = e.and(e.thread(), e.i32(WARP as i32 - 1));
        let (sum, apart) = deal(e, lane, sums);
        let sum = across_lanes(e, Reduce::Sum, sum, apart);
        let which = e.to_i64(e.shift_right(lane, i64::from(apart.ilog2())));
        let [row, column] = [e.div(which, e.i64(TILE)), e.rem(which, e.i64(TILE))];
        let [row, column] = [e.add(begin[0], row), e.add(begin[1], column)];
        site.index.insert(self.tile[0], row);
        site.index.insert(self.tile[1], column);
        let mut stores = e.cmp(Cmp::Eq, e.and(lane, e.i32(apart as i32 - 1)), e.i32(0));
        if !self.of_tiles() {
            let how = if self.below.inclusive { Cmp::Le } else { Cmp::Lt };
            stores = e.and(stores, e.cmp(how, column, row));
        }
        e.if_then(stores, || store(site, &self.stmt.target, sum));
    }
}

/// An expression with stand-ins for its largest parts that vary along one axis alone, and these parts.
fn parted(expr: &Expr, tile: [KAxis; 2], parts: &mut [Vec<(View, Expr)>; 2]) -> Expr {
    let axes = expr.axes();
    let [rows, columns] = tile.map(|axis| axes.contains(&axis));
    match expr {
        Expr::Const(..) => expr.clone(),
        _ if !(rows && columns) => {
            let own = usize::from(columns);
            let count = parts[0].len() + parts[1].len();
            let known = parts[own].iter().find(|(_, known)| known == expr).map(|(view, _)| view.clone());
            let view = known.unwrap_or_else(|| {
                let view = View { tensor: TensorId(usize::MAX - count), offset: 0, strides: vec![] };
                parts[own].push((view.clone(), expr.clone()));
                view
            });
            Expr::Load(view, expr.elem())
        }
        Expr::Unary(op, of) => Expr::Unary(*op, Box::new(parted(of, tile, parts))),
        Expr::ToFloat(of) => Expr::ToFloat(Box::new(parted(of, tile, parts))),
        Expr::Binary(op, elem, a, b) => {
            let [a, b] = [a, b].map(|part| Box::new(parted(part, tile, parts)));
            Expr::Binary(*op, *elem, a, b)
        }
        Expr::Select(elem, three) => Expr::Select(*elem, Box::new([0, 1, 2].map(|part| parted(&three[part], tile, parts)))),
        _ => expr.clone(),
    }
}
