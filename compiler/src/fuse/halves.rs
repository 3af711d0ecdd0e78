//! Lower triangular matrices of a chunk by halves, for matrix units: of blocks of twice so many rows, what the second half has of the first
//! is one product, level after level. Only in the smallest blocks of an inverse does a row wait for those before.
//!
//! Between the halves stands an anchor: reads decay from it on, keys up to it, so that the product of both is the decay from key to read.
//! Every factor is a product of the steps' own decays over a span between the two, as it would be row after row: nothing is divided.

use super::expr::{Expr, KAxis, View, ViewStep};
use super::factors::times;
use super::kernel::Reduction;
use super::nest::{Axes, Builder, Item};
use super::product::TILE;
use super::scores::BLOCK;
use braid_dsl::model::{Binary, Elem, Reduce};

/// One level: blocks of two halves. An axis is missing where it has one index.
#[derive(Clone, Copy, Debug)]
pub struct Level {
    /// Rows of a half.
    pub(super) half: usize,
    /// Counts the blocks.
    pub(super) block: Option<KAxis>,
    /// Counts rows of a half.
    pub(super) row: Option<KAxis>,
    /// Counts its columns.
    pub(super) column: Option<KAxis>,
    /// Counts what is summed over.
    pub(super) inner: Option<KAxis>,
}

/// The two halves of a block.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Half {
    /// Of earlier rows.
    First,
    /// Of later ones.
    Second,
}

/// How the rows of a chunk are halved.
#[derive(Clone, Debug)]
pub struct Halves {
    /// From halves of one row to the two of the chunk.
    pub(super) levels: Vec<Level>,
    /// Counts two halves.
    pub(super) pair: KAxis,
    /// Count the tiles of a block on the diagonal along rows and columns, and then a tile's own rows and columns.
    pub(super) tiles: [KAxis; 4],
}

impl Halves {
    /// For chunks of so many rows, if they are a power of two; the axes are added.
    pub fn of(axes: &mut Axes, rows: usize) -> Option<Halves> {
        if rows < 2 || !rows.is_power_of_two() {
            return None;
        }
        let mut axis = |size: usize| (size > 1).then(|| axes.unnamed(size));
        let mut level = |half: usize| {
            let [block, row, column, inner] = [rows / (2 * half), half, half, half].map(&mut axis);
            Level { half, block, row, column, inner }
        };
        let levels = (0..rows.ilog2()).map(|log| level(1 << log)).collect();
        Some(Halves {
            levels,
            pair: axes.unnamed(2),
            tiles: [BLOCK / TILE, BLOCK / TILE, TILE, TILE].map(|size| axes.unnamed(size)),
        })
    }

    /// Blocks of so many rows and the columns of the same rows: both are counted from the block's first one on. A chunk of one block is counted
    /// by its own axes: of rows, of columns, and of what is summed over.
    pub(super) fn diagonal(&self, rows: usize, (row, column, inner): (KAxis, KAxis, KAxis)) -> Level {
        let of = |half: usize| self.levels.iter().find(|level| level.half == half);
        match (of(rows), of(rows / 2)) {
            (Some(whole), Some(half)) => Level { half: rows / 2, block: half.block, ..*whole },
            _ => Level { half: rows / 2, block: None, row: Some(row), column: Some(column), inner: Some(inner) },
        }
    }

    /// Counts pairs of rows.
    fn pairs(&self) -> Option<KAxis> {
        self.levels[0].block
    }
}

impl Level {
    /// One half of every block of a view's indices along `axis`, counted by `by`.
    fn part(&self, view: &View, axis: KAxis, by: Option<KAxis>, half: Half) -> View {
        let stride = view.stride(axis);
        let mut strides: Vec<(KAxis, usize)> = view.strides.iter().copied().filter(|(own, _)| *own != axis).collect();
        let mut add = |axis: Option<KAxis>, stride: usize| {
            let Some(axis) = axis else { return };
            match strides.iter_mut().find(|(own, _)| *own == axis) {
                Some((_, own)) => *own += stride,
                None => strides.push((axis, stride)),
            }
        };
        add(self.block, 2 * self.half * stride);
        add(by, stride);
        strides.sort();
        let offset = view.offset + if half == Half::Second { self.half * stride } else { 0 };
        View { offset, strides, ..view.clone() }
    }

    /// What the second halves' rows have of the first halves' columns.
    pub(super) fn between(&self, view: &View, (row, column): (KAxis, KAxis), by: (Option<KAxis>, Option<KAxis>)) -> View {
        self.part(&self.part(view, row, by.0, Half::Second), column, by.1, Half::First)
    }

    /// Where the factor of a half stands among those of pairs of rows: with its first one.
    fn of_pairs(&self, left: &View, pairs: KAxis, half: Half) -> View {
        Level { half: self.half / 2, ..*self }.part(left, pairs, None, half)
    }

    /// The same of one half alone.
    pub(super) fn inside(
        &self,
        view: &View,
        (row, column): (KAxis, KAxis),
        by: (Option<KAxis>, Option<KAxis>),
        half: Half,
    ) -> View {
        self.part(&self.part(view, row, by.0, half), column, by.1, half)
    }
}

/// The axis that counts the columns of an identity matrix.
fn identity(expr: &Expr, row: KAxis) -> Option<KAxis> {
    let Expr::Select(_, parts) = expr else { return None };
    let [Expr::Binary(Binary::Eq, _, a, b), yes, no] = &**parts else { return None };
    let (Expr::Index(a), Expr::Index(b)) = (&**a, &**b) else { return None };
    let whole = *yes == Expr::number(1.0) && *no == Expr::number(0.0) && a != b;
    [(a, b), (b, a)].into_iter().find(|(own, _)| whole && **own == row).map(|(_, other)| *other)
}

pub(super) fn load(view: &View) -> Expr {
    Expr::Load(view.clone(), Elem::Float)
}

/// What is read by a chunk's rows.
pub(super) struct Scored<'e> {
    /// What rows read by.
    pub x: &'e Expr,
    /// Keys.
    pub y: &'e Expr,
    /// What is left of a key behind each row.
    pub factor: &'e Expr,
    /// Axes that are summed over.
    pub over: Vec<KAxis>,
    /// A row does not see its own key, and its factor comes behind the read.
    pub strict: bool,
}

/// Copies that decay from level to level.
struct Copies {
    /// What rows read by, from the half's first row on.
    reads: View,
    /// Keys, up to the half's last row.
    keys: View,
    /// The factor of a whole half, over pairs of rows.
    left: Option<View>,
}

impl Builder<'_> {
    /// `sum[over] x[row] y[column] prod[column < s <= row] factor[s]`, or up to the row ahead.
    pub(super) fn scores_by_halves(
        &mut self,
        halves: &Halves,
        item: &Item,
        (row, column): (KAxis, KAxis),
        scored: &Scored,
    ) -> Expr {
        let Scored { x, y, factor, over, strict } = scored;
        let target = self.target(item);
        self.push(target.clone(), Expr::number(0.0), None);
        if !strict {
            let stride = target.stride(row) + target.stride(column);
            let others = target.strides.iter().copied().filter(|(axis, _)| *axis != row && *axis != column);
            let mut strides: Vec<(KAxis, usize)> = others.chain([(row, stride)]).collect();
            strides.sort();
            self.dots(View { strides, ..target.clone() }, times((*x).clone(), (*y).clone()), over);
        }
        let copies = self.copies_that_decay(row, (halves, scored));
        let levels = &halves.levels;
        for (at, level) in levels.iter().enumerate() {
            let reads = level.part(&copies.reads, row, level.row, Half::Second);
            let keys = level.part(&copies.keys, row, level.column, Half::First);
            let place = level.between(&target, (row, column), (level.row, level.column));
            self.dots(place, times(load(&reads), load(&keys)), over);
            if at + 1 < levels.len() {
                self.decay((halves, at, row), &copies, factor);
            }
        }
        self.copies(item, &target);
        Expr::Load(target, Elem::Float)
    }

    /// A sum.
    pub(super) fn dots(&mut self, target: View, expr: Expr, over: &[KAxis]) {
        let (own, expr) = self.summed(&expr, over);
        self.push(target, expr, (!own.is_empty()).then(|| Reduction::plain(Reduce::Sum, own)));
    }

    /// The axes that a sum's value varies along, and the value: along an axis that nothing varies along it is a multiple.
    pub(super) fn summed(&self, expr: &Expr, over: &[KAxis]) -> (Vec<KAxis>, Expr) {
        let axes = expr.axes();
        let (own, missing): (Vec<KAxis>, Vec<KAxis>) = over.iter().partition(|axis| axes.contains(axis));
        let count: usize = missing.iter().map(|axis| self.axes.sizes[axis.0]).product();
        (own, if count > 1 { times(expr.clone(), Expr::number(count as f64)) } else { expr.clone() })
    }

    fn copies_that_decay(&mut self, row: KAxis, (halves, scored): (&Halves, &Scored)) -> Copies {
        let Scored { x, y, factor, strict, .. } = scored;
        let place = |builder: &mut Self, of: &Expr, without: Option<KAxis>, with: Option<KAxis>| {
            let all = of.axes().into_iter().chain(factor.axes()).chain([row]).filter(|axis| Some(*axis) != without).chain(with);
            let mut axes: Vec<KAxis> = all.collect();
            axes.sort();
            axes.dedup();
            let tensor = builder.temporary(Elem::Float);
            let (view, elements) = builder.axes.dense(tensor, &axes, builder.grid);
            builder.claim(elements);
            view
        };
        let (reads, keys) = (place(self, x, None, None), place(self, y, None, None));
        // The two halves of the chunk have no use for it.
        let pairs = halves.pairs().filter(|_| halves.levels.len() > 2);
        let left = pairs.map(|pairs| place(self, factor, Some(row), Some(pairs)));
        let begun = if *strict { (*x).clone() } else { times((*x).clone(), (*factor).clone()) };
        self.push(reads.clone(), begun, None);
        self.push(keys.clone(), (*y).clone(), None);
        Copies { reads, keys, left }
    }

    /// From one level to the next: reads of second halves decay over the first ones, keys of first halves over the second ones, and a whole
    /// half is now both.
    fn decay(&mut self, (halves, at, row): (&Halves, usize, KAxis), copies: &Copies, factor: &Expr) {
        let level = halves.levels[at];
        let [first, second] = [Half::First, Half::Second].map(|half| self.of_half((halves, at, row), half, copies, factor));
        let reads = level.part(&copies.reads, row, level.row, Half::Second);
        let keys = level.part(&copies.keys, row, level.row, Half::First);
        self.push(reads.clone(), times(load(&reads), first.clone()), None);
        self.push(keys.clone(), times(load(&keys), second.clone()), None);
        if let (Some(left), Some(pairs), true) = (&copies.left, halves.pairs(), at + 2 < halves.levels.len()) {
            let whole = if at == 0 { left.clone() } else { level.of_pairs(left, pairs, Half::First) };
            self.push(whole, times(first, second), None);
        }
    }

    /// The factor of a whole half.
    fn of_half(&self, (halves, at, row): (&Halves, usize, KAxis), half: Half, copies: &Copies, factor: &Expr) -> Expr {
        if let (Some(left), Some(pairs), 1..) = (&copies.left, halves.pairs(), at) {
            return load(&halves.levels[at].of_pairs(left, pairs, half));
        }
        self.half_of(halves, (factor, row), (halves.pairs(), None), half)
    }

    /// One half of every block of a value's rows: blocks counted by the first axis, the rows of a half by the second.
    pub(super) fn half_of(
        &self,
        halves: &Halves,
        (expr, row): (&Expr, KAxis),
        (block, by): (Option<KAxis>, Option<KAxis>),
        half: Half,
    ) -> Expr {
        let into = block.into_iter().chain([halves.pair]).chain(by).collect();
        let index = usize::from(half == Half::Second);
        let steps = [ViewStep::Split { axis: row, into }, ViewStep::Pick { axis: halves.pair, index }];
        let one = |expr: Expr, step: &ViewStep| expr.transformed(step, &self.axes.sizes).expect("rows can be counted by halves");
        steps.iter().fold(expr.clone(), one)
    }

    /// `P = (I - M)⁻¹ known`, which is the inverse itself where the identity is known.
    pub(super) fn substitute_by_halves(
        &mut self,
        halves: &Halves,
        item: &Item,
        (row, column): (KAxis, KAxis),
        [matrix, known]: [(&Item, &Expr); 2],
    ) -> Expr {
        let of = self.in_place(matrix);
        if let Some(third) = identity(known.1, row) {
            let target = self.target(item);
            self.inverse_by_halves(halves, (row, column, third), &of, &target);
            self.copies(item, &target);
            return Expr::Load(target, Elem::Float);
        }
        let tensor = self.temporary(Elem::Float);
        let (inverse, elements) = self.axes.dense(tensor, &matrix.0.axes, self.grid);
        self.claim(elements);
        self.inverse_by_halves(halves, (row, column, column), &of, &inverse);
        let known = self.in_place(known).renamed(row, column);
        let target = self.target(item);
        self.dots(target.clone(), times(load(&inverse), load(&known)), &[column]);
        self.copies(item, &target);
        Expr::Load(target, Elem::Float)
    }

    /// Where a value lies, which is laid down if it lies nowhere.
    fn in_place(&mut self, (item, expr): (&Item, &Expr)) -> View {
        match expr {
            Expr::Load(view, _) => view.clone(),
            _ => match self.store_in_order(item, expr, &[]) {
                Expr::Load(view, _) => view,
                _ => unreachable!("what is stored is loaded"),
            },
        }
    }

    /// `(I - M)⁻¹` for a strictly lower triangular matrix, into `target` over rows and `third`.
    fn inverse_by_halves(&mut self, halves: &Halves, (row, column, third): (KAxis, KAxis, KAxis), matrix: &View, target: &View) {
        let meets = Expr::Binary(Binary::Eq, Elem::Int, Box::new(Expr::Index(row)), Box::new(Expr::Index(third)));
        let unit = Expr::Select(Elem::Float, Box::new([meets, Expr::number(1.0), Expr::number(0.0)]));
        self.push(target.clone(), unit, None);
        self.blocks_by_substitution(halves, (row, column, third), matrix, target);
        for level in halves.levels.iter().filter(|level| level.half >= BLOCK) {
            let Level { row: i, column: j, inner: Some(inner), .. } = *level else { continue };
            let place = level.between(target, (row, third), (i, j));
            let own = level.between(matrix, (row, column), (i, Some(inner)));
            let first = level.inside(target, (row, third), (Some(inner), j), Half::First);
            let second = level.inside(target, (row, third), (i, Some(inner)), Half::Second);
            let tensor = self.temporary(Elem::Float);
            let mut axes: Vec<KAxis> = place.strides.iter().chain(&own.strides).map(|(axis, _)| *axis).collect();
            axes.retain(|axis| *axis != inner);
            axes.sort();
            axes.dedup();
            let (half, elements) = self.axes.dense(tensor, &axes, self.grid);
            self.claim(elements);
            self.dots(half.clone(), times(load(&own), load(&first)), &[inner]);
            let half = i.map_or(half.clone(), |i| half.renamed(i, inner));
            self.dots(place, times(load(&second), load(&half)), &[inner]);
        }
    }

    /// The same of blocks on the diagonal, row after row: `target` holds the identity.
    fn blocks_by_substitution(
        &mut self,
        halves: &Halves,
        (row, column, third): (KAxis, KAxis, KAxis),
        matrix: &View,
        target: &View,
    ) {
        let own = halves.diagonal(BLOCK, (row, third, column));
        let (Some(i), Some(inner)) = (own.row, own.inner) else { return };
        let place = own.inside(target, (row, third), (Some(i), own.column), Half::First);
        let earlier = own.inside(target, (row, third), (Some(inner), own.column), Half::First);
        let of = own.inside(matrix, (row, column), (Some(i), Some(inner)), Half::First);
        let reduction = Reduction { start: Some(load(&place)), ..Reduction::plain(Reduce::Sum, vec![inner]) };
        self.push(place, times(load(&of), load(&earlier)), Some(reduction));
        self.in_order(i, false, Some((inner, false)));
    }
}
