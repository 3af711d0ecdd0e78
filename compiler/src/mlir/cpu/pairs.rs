//! Products inside chunks by pairs of bfloat16 numbers: both factors are rounded and laid in pairs along what is summed over, once for
//! each time that the product is done; sums are of single precision. Only where the model's weights are rounded as well.

use crate::fuse::expr::{KAxis, View};
use crate::fuse::kernel::{Nest, Nests, Store, Walk};
use crate::fuse::product::Product;
use crate::mlir::common::site::{Setting, Site, for_each, scratch};
use crate::mlir::common::{Elem, Ty, Val};
use braid_runtime::artifact::ALIGN;

/// A product whose factors lie in pairs.
pub struct Pairs<'c> {
    /// The factor that vectors run along, as words `[depth / 2, columns]`, and the other one.
    right: Val<'c>,
    left: Val<'c>,
    shape: Shape,
    lanes: usize,
}

/// The axes and sizes of a product that can be done so.
#[derive(Clone, Copy)]
struct Shape {
    rows: KAxis,
    columns: KAxis,
    depth: KAxis,
    sizes: [usize; 3],
    /// Whether a task has one block of the columns, from the index at hand on.
    block: bool,
    /// Whether the left factor's numbers lie side by side along the depth: its words are `[rows, depth / 2]` then, else `[depth / 2, rows]`.
    along: bool,
}

impl Shape {
    /// Of a nest with vectors of hardware's `lanes`, and its factors: left, right.
    fn of<'n>(code: &Nests, nest: &'n Nest, lanes: usize) -> Option<(Shape, [&'n View; 2])> {
        let Walk::Segments { blocked, .. } = &code.walk else { return None };
        let (Some(columns), Some((rows, _))) = (nest.vector, nest.tile) else { return None };
        let product =
            Product::of(nest, &code.tensors, &code.sizes, None).filter(|own| code.staging.rounded && own.several.is_none())?;
        let product = if product.axes[1] == columns { product } else { product.turned()? };
        let block = blocked.filter(|(axis, _)| nest.stmts[0].space.contains(axis));
        let side_by_side = product.left.stride(product.axes[2]) == 1;
        let plain = |view: &View| code.tensors[view.tensor.0].store == Store::F32;
        let [m, all, depth] = product.sizes;
        let n = block.map_or(all, |(_, width)| width);
        let fits = product.axes[..2] == [rows, columns]
            && product.right.stride(columns) == 1
            && (side_by_side || product.left.stride(rows) == 1)
            && [m, n, depth].iter().all(|size| size.is_multiple_of(lanes / 2))
            && block.is_none_or(|(axis, _)| axis == columns)
            && all.is_multiple_of(n)
            && n.is_multiple_of(nest.lanes)
            && nest.lanes.is_multiple_of(lanes)
            && plain(product.left)
            && plain(product.right);
        let shape =
            Shape { rows, columns, depth: product.axes[2], sizes: [m, n, depth], block: block.is_some(), along: side_by_side };
        fits.then_some((shape, [product.left, product.right]))
    }

    /// Bytes of the right factor's words.
    fn right_bytes(&self) -> usize {
        (2 * self.sizes[1] * self.sizes[2]).next_multiple_of(ALIGN)
    }

    /// Bytes of all words.
    fn bytes(&self) -> usize {
        self.right_bytes() + (2 * self.sizes[0] * self.sizes[2]).next_multiple_of(ALIGN)
    }
}

/// Where the words of a kernel's products begin in its scratch.
fn begin(code: &Nests) -> usize {
    code.scratch.next_multiple_of(ALIGN)
}

/// Scratch bytes of a kernel with the words of the product that needs most.
pub fn scratch_bytes(code: &Nests, setting: Setting) -> usize {
    let of = |nest: &Nest| Shape::of(code, nest, setting.lanes).map(|(shape, _)| shape.bytes());
    code.nests.iter().filter_map(of).max().map_or(code.scratch, |words| begin(code) + words)
}

impl<'c> Pairs<'c> {
    /// Lays the factors of a nest in pairs, if it is such a product.
    pub fn of(site: &mut Site<'_, 'c>, code: &Nests, nest: &Nest, setting: Setting) -> Option<Pairs<'c>> {
        let lanes = setting.lanes;
        let (shape, [left, right]) = Shape::of(code, nest, lanes)?;
        let at = |offset| scratch(site.e, site.args, setting, begin(code) + offset);
        let pairs = Pairs { right: at(0), left: at(shape.right_bytes()), shape, lanes };
        let [rows, columns, depth] = shape.sizes;
        pairs.woven(site, right, pairs.right, (shape.columns, columns, depth));
        match shape.along {
            true => pairs.along(site, left, pairs.left, (rows, depth)),
            false => pairs.woven(site, left, pairs.left, (shape.rows, rows, depth)),
        }
        Some(pairs)
    }

    /// Two rows of the depth become one of words: neighbours along `axis` lie side by side.
    fn woven(&self, site: &mut Site<'_, 'c>, view: &View, words: Val<'c>, (axis, size, depth): (KAxis, usize, usize)) {
        let (e, step) = (site.e, if size.is_multiple_of(self.lanes) { self.lanes } else { self.lanes / 2 });
        let next = 4 * view.stride(self.shape.depth);
        // A block's place among the columns stays as it is.
        let begin = site.index.get(&axis).copied().filter(|_| self.shape.block && axis == self.shape.columns);
        let order: Vec<i64> = (0..step as i64).flat_map(|lane| [lane, step as i64 + lane]).collect();
        for_each(e, e.i64(0), e.i64(depth / 2), e.i64(1), |pair| {
            site.index.insert(self.shape.depth, e.mul(pair, e.i64(2)));
            for_each(e, e.i64(0), e.i64(size), e.i64(step), |at| {
                site.index.insert(axis, begin.map_or(at, |begin| e.add(begin, at)));
                let place = site.address(view);
                let [low, high] = [place, e.offset_by(place, next)].map(|place| e.load(place, Ty::f32(step)));
                let both = e.both_bf16(low, high);
                let number = e.add(e.mul(pair, e.i64(size)), at);
                e.store(e.element(words, number, 4), e.shuffle(both, both, &order));
            });
        });
        if let Some(begin) = begin {
            site.index.insert(axis, begin);
        }
    }

    /// Numbers that lie side by side along the depth are pairs already.
    fn along(&self, site: &mut Site<'_, 'c>, view: &View, words: Val<'c>, (rows, depth): (usize, usize)) {
        let e = site.e;
        let half = if depth.is_multiple_of(2 * self.lanes) { self.lanes } else { self.lanes / 4 };
        for_each(e, e.i64(0), e.i64(rows), e.i64(1), |row| {
            site.index.insert(self.shape.rows, row);
            for_each(e, e.i64(0), e.i64(depth), e.i64(2 * half), |at| {
                site.index.insert(self.shape.depth, at);
                let place = site.address(view);
                let [low, high] = [place, e.offset_by(place, 4 * half)].map(|place| e.load(place, Ty::f32(half)));
                let numbers = e.both_bf16(low, high);
                e.store(e.element(words, e.add(e.mul(row, e.i64(depth)), at), 2), numbers);
            });
        });
    }

    /// Adds up a tile: of `count` rows from the one at hand on, and as many columns as each sum of `starts` has lanes.
    pub fn accumulate(&self, site: &Site<'_, 'c>, starts: Vec<Val<'c>>, count: usize) -> Vec<Val<'c>> {
        let (e, lanes) = (site.e, self.lanes);
        let [rows, columns, depth] = self.shape.sizes;
        let vectors = starts[0].lanes() / lanes;
        let parts: Vec<Val> = starts.iter().flat_map(|sum| (0..vectors).map(|v| e.slice(*sum, v * lanes, lanes))).collect();
        let row = site.index[&self.shape.rows];
        let column = if self.shape.block { e.i64(0) } else { site.index[&self.shape.columns] };
        let parts = e.for_loop(e.i64(0), e.i64(depth / 2), e.i64(1), &parts, |pair, sums| {
            let place = e.element(self.right, e.add(e.mul(pair, e.i64(columns)), column), 4);
            let right = |v: usize| e.load(e.offset_by(place, 4 * lanes * v), Ty::vector(Elem::Bf16, 2 * lanes));
            let right: Vec<Val> = (0..vectors).map(right).collect();
            let mut made = vec![];
            for i in 0..count {
                let row = e.add(row, e.i64(i));
                let number = match self.shape.along {
                    true => e.add(e.mul(row, e.i64(depth / 2)), pair),
                    false => e.add(e.mul(pair, e.i64(rows)), row),
                };
                let left = e.load_word(e.element(self.left, number, 4), Elem::Bf16, lanes);
                made.extend(right.iter().enumerate().map(|(v, right)| e.dot_bf16(sums[i * vectors + v], *right, left)));
            }
            made
        });
        parts.chunks(vectors).map(|parts| e.joined(parts)).collect()
    }
}
