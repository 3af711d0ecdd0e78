//! Sums of products of two matrices inside a chunk, which a GPU's matrix units do.

use super::expr::{Expr, KAxis, TensorId, View};
use super::kernel::{Base, Nest, Reduction, Stmt, Store, Tensor};
use braid_dsl::model::{Binary, Reduce};

/// Rows and columns of a fragment, and the depth of one instruction.
pub const FRAGMENT: [usize; 3] = [16, 8, 8];

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

/// Whether nothing but products reads a tensor, as a factor.
pub fn is_factor(tensor: TensorId, nests: &[Nest], tensors: &[Tensor], sizes: &[usize], cut: Option<(KAxis, usize)>) -> bool {
    let reads = |nest: &Nest| nest.stmts.iter().flat_map(Stmt::reads).filter(|view| view.tensor == tensor).count();
    let as_factor = |nest: &Nest| {
        let product = Product::of(nest, tensors, sizes, cut);
        product.is_some_and(|own| [own.left, own.right].into_iter().filter(|view| view.tensor == tensor).count() == reads(nest))
    };
    let mut readers = nests.iter().filter(|nest| reads(nest) > 0).peekable();
    readers.peek().is_some() && readers.all(as_factor)
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
    made
}

impl Product<'_> {
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
