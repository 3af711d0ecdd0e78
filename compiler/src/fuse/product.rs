//! Sums of products of two matrices inside a chunk, which a GPU's matrix units do.

use super::expr::{Expr, KAxis, TensorId, View};
use super::kernel::{Base, Nest, Reduction, Stmt, Store, Tensor};
use braid_dsl::model::{Binary, Reduce};

/// Rows and columns of a fragment, and the depth of one instruction.
pub const FRAGMENT: [usize; 3] = [16, 8, 8];

/// Rows, and columns, of a tile of pairs that a warp makes at once, where each pair has a sum of its own: as many as share what is loaded.
pub const TILE: usize = 4;

/// A statement that sums products of two matrices.
pub struct Product<'n> {
    /// The statement.
    pub stmt: &'n Stmt,
    /// The matrix whose rows are those of the result.
    pub left: &'n View,
    /// The one whose columns are.
    pub right: &'n View,
    /// Rows, columns, depth.
    pub axes: [KAxis; 3],
    /// Their sizes.
    pub sizes: [usize; 3],
    /// The axis along which there are several such products, and how many.
    pub several: Option<(KAxis, usize)>,
}

/// Most products that are done side by side.
pub const SEVERAL: usize = 8;

impl<'n> Product<'n> {
    /// The product that a nest is, if it is one whose sizes fragments divide. `cut`: the axis of which a task walks so many indices.
    pub fn of(nest: &'n Nest, tensors: &[Tensor], sizes: &[usize], cut: Option<(KAxis, usize)>) -> Option<Product<'n>> {
        let [stmt] = &nest.stmts[..] else { return None };
        let reduction =
            stmt.reduce.as_ref().filter(|_| stmt.ordered.is_none() && stmt.below.is_none() && stmt.system.is_none())?;
        let (Reduce::Sum, [depth]) = (reduction.how, &reduction.over[..]) else { return None };
        let Expr::Binary(Binary::Mul, _, a, b) = &stmt.expr else { return None };
        let (Expr::Load(a, _), Expr::Load(b, _)) = (&**a, &**b) else { return None };
        let is_float = |view: &View| matches!(tensors[view.tensor.0].store, Store::F32 | Store::Bf16);
        let walked = |axis: &KAxis| nest.parallel.contains(axis) || nest.vector == Some(*axis);
        let own =
            |view: &View| view.strides.iter().map(|(axis, _)| *axis).filter(|a| a != depth && walked(a)).collect::<Vec<_>>();
        let (mut left, mut right, mut result) = (own(a), own(b), own(&stmt.target));
        let several = left.iter().copied().find(|axis| right.contains(axis)).map(|axis| (axis, sizes[axis.0]));
        if let Some((axis, count)) = several {
            let fits = result.contains(&axis) && count.is_power_of_two() && count <= SEVERAL;
            if !fits || cut.is_some_and(|(cut, _)| cut == axis) {
                return None;
            }
            [&mut left, &mut right, &mut result].into_iter().for_each(|axes| axes.retain(|own| *own != axis));
        }
        let ([x], [y]) = (&left[..], &right[..]) else { return None };
        let whole = result.len() == 2 && result.contains(x) && result.contains(y) && x != y;
        let deep = a.stride(*depth) > 0 && b.stride(*depth) > 0;
        if !whole || !deep || ![a, b, &stmt.target].into_iter().all(is_float) {
            return None;
        }
        // The last block is a whole one, too.
        let even = cut.is_none_or(|(axis, width)| !result.contains(&axis) || sizes[axis.0].is_multiple_of(width));
        let size = |axis: KAxis| cut.filter(|(own, _)| *own == axis).map_or(sizes[axis.0], |(_, width)| width);
        let made = |left, right, axes: [KAxis; 3]| Product { stmt, left, right, axes, sizes: axes.map(size), several };
        let fits = |product: &Product| even && product.sizes.iter().zip(FRAGMENT).all(|(size, by)| size.is_multiple_of(by));
        [made(a, b, [*x, *y, *depth]), made(b, a, [*y, *x, *depth])].into_iter().find(fits)
    }
}

/// Whether nothing but products reads a tensor, as a factor, and what hands it on rounded.
pub fn is_factor(tensor: TensorId, nests: &[Nest], tensors: &[Tensor], sizes: &[usize], cut: Option<(KAxis, usize)>) -> bool {
    let of_stmt = |stmt: &Stmt| stmt.reads().filter(|view| view.tensor == tensor).count();
    let reads = |nest: &Nest| nest.stmts.iter().map(of_stmt).sum::<usize>();
    let as_factor = |nest: &Nest| {
        let product = Product::of(nest, tensors, sizes, cut);
        product.is_some_and(|own| [own.left, own.right].into_iter().filter(|view| view.tensor == tensor).count() == reads(nest))
    };
    let handed_on = |stmt: &Stmt| {
        let is_copy = matches!(&stmt.expr, Expr::Load(..)) && stmt.reduce.is_none() && stmt.ordered.is_none();
        is_copy && tensors[stmt.target.tensor.0].store == Store::Bf16
    };
    let passes = |nest: &Nest| nest.stmts.iter().filter(|stmt| of_stmt(stmt) > 0).all(handed_on);
    let readers: Vec<&Nest> = nests.iter().filter(|nest| reads(nest) > 0).collect();
    readers.iter().any(|nest| as_factor(nest)) && readers.iter().all(|nest| as_factor(nest) || passes(nest))
}

/// Lets products hand their sums on to the statement behind them, if nobody else reads these; to one each.
pub fn fuse_epilogues(nests: Vec<Nest>, tensors: &[Tensor], sizes: &[usize], cut: Option<(KAxis, usize)>) -> Vec<Nest> {
    let uses = |total: &View| nests.iter().flat_map(|nest| &nest.stmts).filter(|stmt| stmt.touches(total.tensor)).count();
    let mut made: Vec<Nest> = vec![];
    for nest in &nests {
        let before = made.last().and_then(|last| Product::of(last, tensors, sizes, cut));
        // What lies outside of scratch may be read by other kernels.
        let own = |total: &View| matches!(tensors[total.tensor.0].base, Base::Scratch(_)) || nest.stmts[0].target == *total;
        let alone = |total: &View| uses(total) == 2 && own(total);
        let free = before.filter(|product| alone(&product.stmt.target) && product.receives(nest)).is_some();
        match (made.last_mut().filter(|_| free), &nest.stmts[..]) {
            (Some(last), [element]) => {
                let stmt = &mut last.stmts[0];
                let total = std::mem::replace(&mut stmt.target, element.target.clone());
                stmt.space.extend(&element.space);
                stmt.space.sort();
                stmt.space.dedup();
                let epilogue = Some(Box::new((total, element.expr.clone())));
                stmt.reduce = stmt.reduce.take().map(|reduction| Reduction { epilogue, ..reduction });
            }
            _ => made.push(nest.clone()),
        }
    }
    stored_beside(made, tensors, sizes, cut)
}

/// Lets products store what later nests make of each of their elements alone: no thread waits for others, nor reads what another made.
fn stored_beside(mut nests: Vec<Nest>, tensors: &[Tensor], sizes: &[usize], cut: Option<(KAxis, usize)>) -> Vec<Nest> {
    let mut at = 0;
    while at < nests.len() {
        let mut later = at + 1;
        while later < nests.len() {
            let (before, behind) = nests.split_at(later);
            let own = Product::of(&before[at], tensors, sizes, cut);
            let found: Option<Vec<(View, Expr)>> =
                own.and_then(|own| behind[0].stmts.iter().map(|stmt| own.beside(stmt, &before[at..], sizes)).collect());
            match found {
                Some(found) => {
                    nests.remove(later);
                    let stmt = &mut nests[at].stmts[0];
                    stmt.space.extend(found.iter().flat_map(|(view, _)| view.strides.iter().map(|(axis, _)| *axis)));
                    stmt.space.sort();
                    stmt.space.dedup();
                    stmt.reduce.iter_mut().for_each(|own| own.beside.extend(found.iter().cloned()));
                }
                None => later += 1,
            }
        }
        at += 1;
    }
    nests
}

impl<'n> Product<'n> {
    /// The same with its factors in the places of each other, if fragments divide it so.
    pub fn turned(self) -> Option<Product<'n>> {
        let ([x, y, depth], [rows, columns, deep]) = (self.axes, self.sizes);
        let fits = columns.is_multiple_of(FRAGMENT[0]) && rows.is_multiple_of(FRAGMENT[1]);
        fits.then_some(Product { left: self.right, right: self.left, axes: [y, x, depth], sizes: [columns, rows, deep], ..self })
    }

    /// Whether `next` starts with the sums and nobody else needs them: of the nests before, and those behind both.
    pub fn is_begun_by(&self, next: &Product, before: &[Nest], behind: &[Nest]) -> bool {
        let target = &self.stmt.target;
        let plain = self.stmt.reduce.as_ref().is_some_and(|own| own.epilogue.is_none() && own.beside.is_empty());
        let same = self.axes[..2] == next.axes[..2] && self.sizes[..2] == next.sizes[..2];
        let alone = self.several.is_none() && next.several.is_none();
        let start = next.stmt.reduce.as_ref().and_then(|own| own.start.as_ref());
        let uses = |views: Vec<&View>| views.into_iter().filter(|view| view.tensor == target.tensor).all(|view| view == target);
        let starts = start.is_some_and(|start| start.views().contains(&target) && uses(start.views()));
        let factor = [next.left, next.right].iter().any(|view| view.tensor == target.tensor);
        let beside = next.stmt.beside().any(|(view, _)| view.tensor == target.tensor);
        let over = next.stmt.target == *target;
        let touched = |nests: &[Nest]| nests.iter().flat_map(|nest| &nest.stmts).any(|stmt| stmt.touches(target.tensor));
        let free = over || next.stmt.target.tensor != target.tensor && !touched(behind) && !touched(before);
        plain && same && alone && starts && !factor && !beside && free
    }

    /// What a later statement stores of each element alone, if it may be done at once: of the nests from the product's own one on, none up to the
    /// statement makes anything that it reads but the element, or touches what it writes.
    fn beside(&self, stmt: &Stmt, nests: &[Nest], sizes: &[usize]) -> Option<(View, Expr)> {
        let plain = stmt.reduce.is_none() && stmt.ordered.is_none() && stmt.system.is_none() && stmt.below.is_none();
        let target = &self.stmt.target;
        let mut first = stmt.reads().filter(|view| view.tensor == target.tensor);
        let seen = first.next().filter(|_| plain && self.several.is_none())?;
        let (mut view, mut expr) = (stmt.target.clone(), stmt.expr.clone());
        // Rows may have another name there.
        let other = seen.strides.iter().find(|(axis, _)| target.stride(*axis) == 0).map(|(axis, _)| *axis);
        if let Some(other) = other {
            let own = self.axes[..2].iter().copied().find(|axis| target.stride(*axis) > 0 && seen.stride(*axis) == 0)?;
            let known = stmt.target.stride(own) > 0 || stmt.space.contains(&own) || sizes[own.0] != sizes[other.0];
            if known || expr.axes().contains(&own) {
                return None;
            }
            view = view.renamed(other, own);
            expr.views_mut(&mut |view| *view = view.renamed(other, own));
        }
        let mut indices = false;
        expr.walk(&mut |part| indices |= !matches!(part, Expr::Load(..) | Expr::Const(..) | Expr::Unary(..) | Expr::Binary(..)));
        let made = |stmt: &Stmt| !stmt.writes(target.tensor) || std::ptr::eq(stmt, self.stmt);
        let all = || nests.iter().flat_map(|nest| &nest.stmts);
        let last = all().all(made);
        let written = |other: &View| all().any(|own| own.writes(other.tensor));
        let alone = expr.views().into_iter().all(|own| if own.tensor == target.tensor { own == target } else { !written(own) });
        let whole = self.axes[..2].iter().all(|axis| view.stride(*axis) > 0);
        let free = !all().any(|own| own.touches(view.tensor)) && view.tensor != target.tensor;
        (!indices && last && alone && whole && free).then_some((view, expr))
    }

    /// Whether a nest is one statement that does something to each of its sums, of which none is handed on yet.
    fn receives(&self, nest: &Nest) -> bool {
        let [stmt] = &nest.stmts[..] else { return false };
        let total = &self.stmt.target;
        let open = self.stmt.reduce.as_ref().is_some_and(|reduction| reduction.epilogue.is_none());
        let element = stmt.reduce.is_none() && stmt.ordered.is_none() && stmt.system.is_none() && stmt.below.is_none();
        let walked = |axis: &&KAxis| nest.parallel.contains(axis) || nest.vector == Some(**axis);
        // All that are walked, sorted.
        let axes: Vec<KAxis> = stmt.space.iter().filter(walked).copied().collect();
        let mut own: Vec<KAxis> = [self.axes[0], self.axes[1]].into_iter().chain(self.several.map(|(axis, _)| axis)).collect();
        own.sort();
        let mut read = stmt.reads().filter(|view| view.tensor == total.tensor).peekable();
        open && element && axes == own && read.peek().is_some() && read.all(|view| view == total)
    }
}
