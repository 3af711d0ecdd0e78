//! Elements that a thread does side by side: it loads and stores 16 bytes at once where they lie so.

use super::THREADS;
use crate::fuse::expr::{Expr, KAxis, View};
use crate::fuse::kernel::{Base, COLUMN, Nest, Nests, Stmt, Store, Tensor};
use crate::mlir::common::expr::value;
use crate::mlir::common::site::Site;
use crate::mlir::common::{Elem, Emitter, Ty, Val};

/// Elements of a thread that lie side by side.
pub const SIDE: usize = 4;

/// Whether what a view reads or writes of neighbouring columns lies in whole fours; a number for all columns lies anywhere.
pub fn lies_in_fours(tensor: &Tensor, view: &View) -> bool {
    let strides = view.strides.iter().all(|(axis, stride)| match *axis == COLUMN {
        true => *stride <= 1,
        false => stride.is_multiple_of(SIDE),
    });
    let along = view.strides.iter().any(|(axis, stride)| *axis == COLUMN && *stride == 1);
    let stored = !matches!(tensor.store, Store::Panels(_));
    strides && (!along || stored && tensor.row.is_multiple_of(SIDE) && view.offset.is_multiple_of(SIDE))
}

/// Whether a view's numbers lie side by side along an axis, so many from multiples of as many on.
pub fn lies_in_order(tensor: &Tensor, view: &View, (axis, side): (KAxis, usize)) -> bool {
    let whole = |elements: usize| elements.is_multiple_of(side);
    let others = view.strides.iter().all(|(own, stride)| *own == axis || whole(*stride));
    let known = matches!(tensor.base, Base::Arena | Base::Scratch(_) | Base::Weights | Base::Tile)
        && !matches!(tensor.store, Store::Panels(_));
    known && view.stride(axis) == 1 && others && whole(view.offset) && whole(tensor.row)
}

/// Numbers that lie side by side from an address on that is aligned to all of them.
pub fn beside<'c>(e: &Emitter<'c>, store: Store, place: Val<'c>, count: usize) -> Vec<Val<'c>> {
    let all = match store {
        Store::Bf16 => e.load_bf16_aligned(place, count),
        _ => e.load_aligned(place, Ty::f32(count)),
    };
    (0..count).map(|at| e.extract(all, at)).collect()
}

/// Numbers of a view's neighbouring columns, from a multiple of as many on, at the site's other indices.
pub fn numbers<'c>(site: &mut Site<'_, 'c>, view: &View, column: Val<'c>, count: usize) -> Vec<Val<'c>> {
    let e = site.e;
    let fours = view.stride(COLUMN) == 1 && lies_in_fours(site.tensor(view), view);
    let at_once = [SIDE, 2].into_iter().find(|own| fours && count.is_multiple_of(*own)).unwrap_or(1);
    let mut part = |at: usize| {
        site.index.insert(COLUMN, e.add(column, e.i64(at)));
        beside(e, site.store_of(view), site.address(view), at_once)
    };
    (0..count).step_by(at_once).flat_map(&mut part).collect()
}

/// The numbers of a view that are known: those side by side.
type Known<'c> = Vec<(View, Vec<Val<'c>>)>;

/// A nest whose elements go by [`SIDE`] along an axis.
#[derive(Clone, Copy)]
pub struct Wide<'n> {
    code: &'n Nests,
    nest: &'n Nest,
    axis: KAxis,
}

impl<'n> Wide<'n> {
    /// The nest as one of these; `axes`: those that threads are dealt to, the last one fastest, with how many indices each has in a task.
    pub fn of(code: &'n Nests, nest: &'n Nest, axes: &[(KAxis, usize)]) -> Option<Wide<'n>> {
        let (axis, size) = *axes.last()?;
        let made = Wide { code, nest, axis };
        let results: usize = axes.iter().map(|(_, size)| size).product();
        // Blocks begin at multiples, and every thread has something.
        let fits = size.is_multiple_of(SIDE) && code.sizes[axis.0].is_multiple_of(size) && results >= SIDE * THREADS;
        let alone = nest.stmts.iter().all(|stmt| stmt.reduce.is_none() && stmt.ordered.is_none() && stmt.below.is_none());
        (fits && alone && nest.stmts.iter().all(|stmt| made.lies_so(&stmt.target))).then_some(made)
    }

    /// A nest of sums as one of these, each of which a thread makes alone.
    pub fn of_sums(code: &'n Nests, nest: &'n Nest, axes: &[(KAxis, usize)]) -> Option<Wide<'n>> {
        let (axis, size) = *axes.last()?;
        let made = Wide { code, nest, axis };
        let results: usize = axes.iter().map(|(_, size)| size).product();
        let fits = size.is_multiple_of(SIDE) && code.sizes[axis.0] == size && results >= SIDE * THREADS;
        let plain = |stmt: &Stmt| {
            let whole = stmt.reduce.as_ref().is_some_and(|own| own.start.is_none() && own.epilogue.is_none());
            whole && stmt.ordered.is_none() && stmt.below.is_none() && made.lies_so(&stmt.target)
        };
        (fits && nest.stmts.iter().all(plain)).then_some(made)
    }

    /// A nest of sums as one of these, each of which a team of so many threads makes of parts that lie side by side.
    pub fn of_parts(code: &'n Nests, nest: &'n Nest, (axes, team): (&[(KAxis, usize)], usize)) -> Option<Wide<'n>> {
        let (axis, size) = *axes.last()?;
        let made = Wide { code, nest, axis };
        let parts: usize = axes.iter().map(|(_, size)| size).product();
        let sums = nest.stmts.iter().all(|stmt| stmt.reduce.is_some() && stmt.ordered.is_none() && stmt.below.is_none());
        let fits = size.is_multiple_of(SIDE) && parts >= SIDE * team && made.loads() > 0;
        (fits && sums).then_some(made)
    }

    /// Whether elements of a view lie side by side along the axis, from multiples of [`SIDE`] on.
    fn lies_so(&self, view: &View) -> bool {
        self.code.tensors.get(view.tensor.0).is_some_and(|tensor| lies_in_order(tensor, view, (self.axis, SIDE)))
    }

    /// How often the statements load what lies side by side.
    pub fn loads(&self) -> usize {
        let views = self.nest.stmts.iter().flat_map(|stmt| stmt.expr.views());
        views.filter(|view| self.lies_so(view)).count()
    }

    /// The statements at the site's indices, of which that along the axis is a multiple of [`SIDE`]: where each one's numbers go, how they are
    /// stored there, and these.
    pub fn statements<'c>(&self, site: &mut Site<'_, 'c>) -> Vec<(Val<'c>, Store, Vec<Val<'c>>)> {
        let e = site.e;
        let (mut known, mut made): (Known, Vec<(Val, Store, Vec<Val>)>) = (vec![], vec![]);
        let first = site.index[&self.axis];
        for stmt in &self.nest.stmts {
            self.load(site, &stmt.expr, &mut known);
            let lane = |lane: usize, site: &mut Site<'_, 'c>| {
                site.index.insert(self.axis, e.add(first, e.i64(lane)));
                site.fresh = known.iter().map(|(view, lanes)| (view.clone(), lanes[lane])).collect();
                value(site, &stmt.expr)
            };
            let lanes: Vec<Val> = (0..SIDE).map(|at| lane(at, site)).collect();
            site.index.insert(self.axis, first);
            made.push((site.address(&stmt.target), site.store_of(&stmt.target), lanes.clone()));
            known.retain(|(view, _)| view.tensor != stmt.target.tensor);
            known.push((stmt.target.clone(), lanes));
        }
        site.fresh.clear();
        made
    }

    /// Begins to load what an expression reads side by side.
    fn load<'c>(&self, site: &Site<'_, 'c>, expr: &Expr, known: &mut Known<'c>) {
        let e = site.e;
        let mut views = vec![];
        expr.walk(&mut |part| {
            if let Expr::Load(view, braid_dsl::model::Elem::Float) = part {
                views.push(view);
            }
        });
        for view in views {
            if !self.lies_so(view) || known.iter().any(|(own, _)| own == view) {
                continue;
            }
            known.push((view.clone(), beside(e, site.store_of(view), site.address(view), SIDE)));
        }
    }
}

/// A number as a view's tensor stores it.
pub fn stored<'c>(site: &Site<'_, 'c>, view: &View, made: Val<'c>) -> Val<'c> {
    let narrow = site.store_of(view) == Store::Bf16 && made.elem() == Elem::F32;
    if narrow { site.e.convert(made, Elem::Bf16) } else { made }
}

/// Numbers as they are stored side by side.
pub fn side_by_side<'c>(e: &Emitter<'c>, store: Store, lanes: &[Val<'c>]) -> Val<'c> {
    if store == Store::Bf16 {
        let pairs = lanes.chunks_exact(2).map(|pair| e.pack_bf16(pair[0], pair[1]));
        return pairs.enumerate().fold(e.poison(Ty::i32(lanes.len() / 2)), |all, (at, pair)| e.insert(all, at, pair));
    }
    let bits = |lane: &Val<'c>| if lane.elem() == Elem::I1 { e.select(*lane, e.i32(1), e.i32(0)) } else { *lane };
    let lanes: Vec<Val> = lanes.iter().map(bits).collect();
    let all = e.poison(Ty::vector(lanes[0].elem(), lanes.len()));
    lanes.into_iter().enumerate().fold(all, |all, (at, lane)| e.insert(all, at, lane))
}
