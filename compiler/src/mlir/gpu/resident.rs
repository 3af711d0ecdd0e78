//! A state that a walk over chunks keeps in registers: each warp has the same fragments of it in every chunk, leaves what it is, and adds what a
//! product brings. What reads it reads a rounded copy in shared memory, which is there when a chunk begins.

use super::units::{Spot, Units};
use super::{THREADS, WARPS};
use crate::fuse::expr::{Expr, KAxis, View};
use crate::fuse::kernel::{Base, Nest, Nests, Part, Stmt, Store, Walk};
use crate::fuse::product::Product;
use crate::mlir::common::device::WARP;
use crate::mlir::common::site::Site;
use crate::mlir::common::{Cmp, Ty, Val};

/// Most numbers of the state that a lane has.
const MOST: usize = 64;

/// Numbers in bfloat16 that are copied at once.
const PIECE: usize = 8;

/// A walk of one such state.
pub struct Resident<'n> {
    /// What it changes by, one behind the other, of the same share.
    updates: Vec<Units<'n>>,
    /// Where the state is as a chunk begins: near, and for later kernels.
    near: Vec<&'n View>,
    left: Vec<&'n View>,
    /// What does not need the state itself, ahead of the update and behind it.
    others: [Vec<Other<'n>>; 2],
}

/// A nest, and how many warps it keeps busy.
#[derive(Clone, Copy)]
struct Other<'n> {
    nest: &'n Nest,
    warps: usize,
}

impl<'n> Resident<'n> {
    /// The walk of `code`, if it is one: copies of a state, nests without it, and a product that updates it element by element. `cut`: the axis
    /// of which a task walks a block, and how wide that is.
    pub fn of(code: &'n Nests, cut: Option<(KAxis, usize)>) -> Option<Resident<'n>> {
        let product = |nest: &'n Nest| Product::of(nest, &code.tensors, &code.sizes, cut);
        let units = |product| Units { product, tensors: &code.tensors, staging: &code.staging };
        let found =
            code.nests.iter().enumerate().filter_map(|(at, nest)| Some((at, product(nest).filter(|own| updates(code, own))?)));
        let found: Vec<(usize, Product)> = found.collect();
        let ((first, own), (last, _)) = (found.first()?, found.last()?);
        let (first, last, axes) = (*first, *last, [own.axes[0], own.axes[1]]);
        let same = |own: &Product| own.axes[..2] == axes && own.stmt.target == found[0].1.stmt.target;
        if last - first + 1 != found.len() || !found.iter().all(|(_, own)| same(own)) {
            return None;
        }
        // What is left lies along the other axis than the cut.
        let turns = cut.is_some_and(|(cut, _)| axes[1] == cut);
        let turned = || (first..=last).map(|at| product(&code.nests[at])?.turned()).collect::<Option<Vec<Product>>>();
        let own = turns.then(turned).flatten().unwrap_or_else(|| found.into_iter().map(|(_, own)| own).collect());
        let updates: Vec<Units> = own.into_iter().map(units).collect();
        let mut made = Resident { updates, near: vec![], left: vec![], others: [vec![], vec![]] };
        for (at, nest) in code.nests.iter().enumerate().filter(|(at, _)| !(first..=last).contains(at)) {
            let touches = nest.stmts.iter().any(|stmt| stmt.touches(made.state().tensor));
            match &nest.stmts[..] {
                _ if !touches => {
                    let warps = product(nest).map_or(WARPS, |product| units(product).warps());
                    made.others[usize::from(at > last)].push(Other { nest, warps });
                }
                [stmt] if at < first => {
                    let to = made.copy(code, stmt)?;
                    let near = matches!(code.tensors[to.tensor.0].base, Base::Scratch(_));
                    if near { made.near.push(to) } else { made.left.push(to) }
                }
                _ => return None,
            }
        }
        let share = made.update().share();
        let lies_near = code.staging.shared && matches!(code.tensors[made.state().tensor.0].base, Base::Scratch(_));
        (lies_near && share.numbers() <= MOST && share.count() == WARPS).then_some(made)
    }

    /// The first update: all share the state as it does.
    fn update(&self) -> &Units<'n> {
        &self.updates[0]
    }

    fn state(&self) -> &'n View {
        &self.update().product.stmt.target
    }

    /// Where a statement leaves the state.
    fn copy(&self, code: &Nests, stmt: &'n Stmt) -> Option<&'n View> {
        let Walk::Segments { grid, part: Part::Chunks(_), .. } = &code.walk else { return None };
        let (state, axes) = (self.state(), &self.update().product.axes[..2]);
        let is_copy =
            matches!(&stmt.expr, Expr::Load(view, _) if view == state) && stmt.reduce.is_none() && stmt.ordered.is_none();
        let whole = axes.iter().all(|axis| stmt.target.stride(*axis) > 0);
        let whole = whole && stmt.space.iter().all(|axis| axes.contains(axis) || grid.contains(axis));
        (is_copy && whole && stmt.target.tensor != state.tensor).then_some(&stmt.target)
    }

    /// From which warp on warps have nothing to do as a chunk begins; none: all have.
    pub fn idle(&self) -> Option<usize> {
        self.others[0].first().map(|other| other.warps).filter(|warps| *warps < WARPS)
    }

    /// Where the warp's share is; `first`: where the task's indices of an axis begin.
    pub fn spot<'c>(&self, site: &Site<'_, 'c>, first: &impl Fn(KAxis) -> Option<Val<'c>>) -> Spot<'c> {
        let e = site.e;
        let warp = e.shift_right(e.thread(), i64::from(WARP.ilog2()));
        self.update().spot(e, &self.update().share(), warp, first)
    }

    /// The lane's numbers of the state, from where it lies.
    pub fn begin<'c>(&self, site: &mut Site<'_, 'c>, spot: &Spot<'c>) -> Vec<Val<'c>> {
        let numbers = self.update().each(site, spot, &mut |site, _| site.e.load(site.address(self.state()), Ty::F32));
        self.near.iter().for_each(|place| self.update().store(site, spot, place, &numbers));
        numbers
    }

    /// The numbers behind a chunk, at whose beginning threads have met. `first`: where the task's indices of an axis begin; `other`: does a nest
    /// that does not need the state; `copies`: begins copies for later chunks.
    pub fn turn<'c>(
        &self,
        site: &mut Site<'_, 'c>,
        (spot, first, numbers): (&Spot<'c>, &impl Fn(KAxis) -> Option<Val<'c>>, &[Val<'c>]),
        other: &dyn Fn(&mut Site<'_, 'c>, &Nest),
        copies: &dyn Fn(&mut Site<'_, 'c>),
    ) -> Vec<Val<'c>> {
        let aside = self.idle().zip(self.aside(site));
        if self.idle().is_none() {
            copies(site);
        }
        if aside.is_none() {
            self.left.iter().for_each(|place| self.update().store(site, spot, place, numbers));
        }
        for (at, own) in self.others[0].iter().enumerate() {
            other(site, own.nest);
            if at == 0 && self.idle().is_some() {
                if let Some((crew, near)) = aside {
                    self.leave(site, near, (crew, first(self.update().product.axes[0])));
                }
                copies(site);
            }
            site.e.sync();
        }
        let made = self.updates.iter().fold(numbers.to_vec(), |numbers, update| {
            let sums = update.sums_at(site, spot);
            update.each(site, spot, &mut |site, at| {
                site.fresh.push((self.state().clone(), numbers[at]));
                let made = update.made(site, sums[at]);
                site.fresh.clear();
                made
            })
        });
        for own in &self.others[1] {
            site.e.sync();
            other(site, own.nest);
        }
        self.near.iter().for_each(|place| self.update().store(site, spot, place, &made));
        made
    }

    /// The near copy, if it is what is left, and all of it goes by whole pieces.
    fn aside(&self, site: &Site<'_, '_>) -> Option<&'n View> {
        let near = *self.near.first()?;
        let fits = |view: &View| site.store_of(view) == Store::Bf16 && self.update().lies_by(site, view, PIECE);
        let whole = self.update().product.sizes[1].is_multiple_of(PIECE);
        (whole && fits(near) && self.left.iter().all(|place| fits(place))).then_some(near)
    }

    /// Warps from `crew` on leave the state from its near copy; `begin`: where the task's rows of it begin, unless at 0.
    fn leave<'c>(&self, site: &mut Site<'_, 'c>, near: &View, (crew, begin): (usize, Option<Val<'c>>)) {
        let e = site.e;
        let [rows, columns, _] = self.update().product.axes;
        let [count, each, _] = self.update().product.sizes;
        let (pieces, threads) = (count * each / PIECE, THREADS - crew * WARP);
        let own = e.sub(e.thread(), e.i32((crew * WARP) as i32));
        let mut one = |number: Val<'c>| {
            let row = e.to_i64(e.div(number, e.i32((each / PIECE) as i32)));
            site.index.insert(rows, begin.map_or(row, |begin| e.add(begin, row)));
            let column = e.mul(e.rem(number, e.i32((each / PIECE) as i32)), e.i32(PIECE as i32));
            site.index.insert(columns, e.to_i64(column));
            let all = e.load_aligned(site.address(near), Ty::i32(PIECE / 2));
            self.left.iter().for_each(|place| e.store_aligned(site.address(place), all));
        };
        // The warps before it read the state meanwhile.
        e.if_then(e.cmp(Cmp::Ge, own, e.i32(0)), || {
            for turn in 0..pieces.div_ceil(threads) {
                let number = e.add(own, e.i32((turn * threads) as i32));
                if (turn + 1) * threads <= pieces {
                    one(number);
                } else {
                    e.if_then(e.cmp(Cmp::Lt, number, e.i32(pieces as i32)), || one(number));
                }
            }
        });
    }

    /// Puts the numbers back where the state lies.
    pub fn end<'c>(&self, site: &mut Site<'_, 'c>, spot: &Spot<'c>, numbers: &[Val<'c>]) {
        self.update().store(site, spot, self.state(), numbers);
    }
}

/// Whether a product updates a state that a task has brought, element by element.
fn updates(code: &Nests, product: &Product) -> bool {
    let state = &product.stmt.target;
    let plain = product.stmt.reduce.as_ref().is_some_and(|own| own.epilogue.is_none() && own.beside.is_empty());
    let own = product.stmt.reads().all(|view| view.tensor != state.tensor || view == state);
    let factors = [product.left, product.right].iter().any(|view| view.tensor == state.tensor);
    let brought = code.staging.before.iter().flat_map(|nest| &nest.stmts).any(|stmt| stmt.target.tensor == state.tensor);
    plain && own && !factors && brought && product.several.is_none()
}
