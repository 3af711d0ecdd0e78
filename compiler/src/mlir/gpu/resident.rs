//! A state that a walk over chunks keeps in registers: each warp has the same fragments of it in every chunk, adds what a product brings, and
//! leaves what it was as the chunk began.

use super::WARPS;
use super::units::{Spot, Units};
use crate::fuse::expr::{Expr, KAxis, View};
use crate::fuse::kernel::{Base, Nest, Nests, Stmt, Walk};
use crate::fuse::product::Product;
use crate::mlir::common::device::WARP;
use crate::mlir::common::site::Site;
use crate::mlir::common::{Ty, Val};

/// A walk of one such state.
pub struct Resident<'n> {
    update: Units<'n>,
    /// Where it is left as each chunk begins.
    left: Vec<&'n View>,
}

impl<'n> Resident<'n> {
    /// The walk of `code`, if it is one: nothing but copies of a state, and then a product that updates it element by element. `cut`: the axis
    /// of which a task walks a block, and how wide that is.
    pub fn of(code: &'n Nests, cut: Option<(KAxis, usize)>) -> Option<Resident<'n>> {
        let Walk::Segments { grid, .. } = &code.walk else { return None };
        let (update, copies) = code.nests.split_last()?;
        let product = Product::of(update, &code.tensors, &code.sizes, cut).filter(|product| product.several.is_none())?;
        let state = &product.stmt.target;
        let tensor = &code.tensors[state.tensor.0];
        let factors = [product.left, product.right].iter().any(|view| view.tensor == state.tensor);
        let plain = product.stmt.reduce.as_ref().is_some_and(|own| own.epilogue.is_none());
        let own = product.stmt.reads().filter(|view| view.tensor == state.tensor).all(|view| view == state);
        let copied = |stmt: &'n Stmt| {
            let is_copy =
                matches!(&stmt.expr, Expr::Load(view, _) if view == state) && stmt.reduce.is_none() && stmt.ordered.is_none();
            let whole = product.axes[..2].iter().all(|axis| stmt.target.stride(*axis) > 0);
            let whole = whole && stmt.space.iter().all(|axis| product.axes[..2].contains(axis) || grid.contains(axis));
            (is_copy && whole && stmt.target.tensor != state.tensor).then_some(&stmt.target)
        };
        let left: Option<Vec<&View>> = copies.iter().flat_map(|nest: &Nest| &nest.stmts).map(copied).collect();
        let update = Units { product, tensors: &code.tensors, staging: &code.staging };
        let lies_near = code.staging.shared && matches!(tensor.base, Base::Scratch(_));
        (lies_near && !factors && plain && own && update.share().count() == WARPS).then_some(Resident { update, left: left? })
    }

    /// Where the warp's share is; `first`: where the task's indices of an axis begin.
    pub fn spot<'c>(&self, site: &Site<'_, 'c>, first: &impl Fn(KAxis) -> Option<Val<'c>>) -> Spot<'c> {
        let e = site.e;
        let warp = e.shift_right(e.thread(), i64::from(WARP.ilog2()));
        self.update.spot(e, &self.update.share(), warp, first)
    }

    /// The lane's numbers of the state, from where it lies.
    pub fn begin<'c>(&self, site: &mut Site<'_, 'c>, spot: &Spot<'c>) -> Vec<Val<'c>> {
        self.update.each(site, spot, &mut |site, _| site.e.load(site.address(self.state()), Ty::F32))
    }

    /// The numbers behind a chunk.
    pub fn turn<'c>(&self, site: &mut Site<'_, 'c>, spot: &Spot<'c>, numbers: &[Val<'c>]) -> Vec<Val<'c>> {
        self.left.iter().for_each(|place| self.update.store(site, spot, place, numbers));
        let sums = self.update.sums_at(site, spot);
        self.update.each(site, spot, &mut |site, at| {
            site.fresh.push((self.state().clone(), numbers[at]));
            let made = self.update.made(site, sums[at]);
            site.fresh.clear();
            made
        })
    }

    /// Puts the numbers back where the state lies.
    pub fn end<'c>(&self, site: &mut Site<'_, 'c>, spot: &Spot<'c>, numbers: &[Val<'c>]) {
        self.update.store(site, spot, self.state(), numbers);
    }

    fn state(&self) -> &View {
        &self.update.product.stmt.target
    }
}
