//! What a kernel computes for one element: loads through strided views, pointwise functions, indices.

use braid_dsl::model::{Binary, Elem, Unary};

/// An axis of one kernel: an index into its list of sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KAxis(pub usize);

/// A tensor of one kernel: an index into its list of [`super::Tensor`]s.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TensorId(pub usize);

/// Some elements of a tensor: element `offset + Σ stride·index`, in elements, of the row at hand. Axes not listed broadcast.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct View {
    /// Which tensor.
    pub tensor: TensorId,
    /// First element.
    pub offset: usize,
    /// Strides, sorted by axis.
    pub strides: Vec<(KAxis, usize)>,
}

impl View {
    /// The stride along `axis`, 0 where it broadcasts.
    pub fn stride(&self, axis: KAxis) -> usize {
        self.strides.iter().find(|(a, _)| *a == axis).map_or(0, |(_, s)| *s)
    }

    /// The same elements with another axis in the place of `from`.
    pub fn renamed(&self, from: KAxis, to: KAxis) -> View {
        let rename = |(axis, stride): &(KAxis, usize)| (if *axis == from { to } else { *axis }, *stride);
        let mut strides: Vec<(KAxis, usize)> = self.strides.iter().map(rename).collect();
        strides.sort();
        View { strides, ..self.clone() }
    }

    /// The view with its rows along the first of `rows`, and which of these axes they run along here; none: it has no rows.
    pub fn by_row(&self, rows: &[KAxis]) -> (View, Option<KAxis>) {
        let axis = rows.iter().copied().find(|axis| self.stride(*axis) > 0);
        (axis.map_or(self.clone(), |axis| self.renamed(axis, rows[0])), axis)
    }

    /// The same elements after the substitution `step` of one axis; `None` if no strides can say it.
    pub fn transformed(&self, step: &ViewStep, sizes: &[usize]) -> Option<View> {
        let mut view = self.clone();
        let mut take = |axis: KAxis| {
            let at = view.strides.iter().position(|(a, _)| *a == axis);
            at.map(|at| view.strides.remove(at).1)
        };
        let mut added = Vec::new();
        let mut offset = 0;
        match step {
            ViewStep::Slice { axis, start, to } => {
                if let Some(stride) = take(*axis) {
                    offset = start * stride;
                    added.push((*to, stride));
                }
            }
            ViewStep::Pick { axis, index } => offset = index * take(*axis).unwrap_or(0),
            ViewStep::Split { axis, into } => {
                if let Some(mut stride) = take(*axis) {
                    for part in into.iter().rev() {
                        added.push((*part, stride));
                        stride *= sizes[part.0];
                    }
                }
            }
            ViewStep::Merge { axes, into } => {
                let strides: Vec<usize> = axes.iter().map(|a| take(*a).unwrap_or(0)).collect();
                let dense = (1..axes.len()).all(|i| strides[i - 1] == strides[i] * sizes[axes[i].0]);
                if !dense {
                    return None;
                }
                added.push((*into, *strides.last()?));
            }
        }
        view.offset += offset;
        view.strides.extend(added.into_iter().filter(|(_, s)| *s != 0));
        view.strides.sort();
        Some(view)
    }
}

/// One substitution of axes; reads an input's axes, makes an output's.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ViewStep {
    /// Index `i` of `to` is index `start + i` of `axis` (a rename where nothing is cut).
    Slice {
        /// Input axis.
        axis: KAxis,
        /// First index.
        start: usize,
        /// Output axis.
        to: KAxis,
    },
    /// A fixed index of `axis`.
    Pick {
        /// Input axis.
        axis: KAxis,
        /// The index.
        index: usize,
    },
    /// `axis` counted by several, the first slowest.
    Split {
        /// Input axis.
        axis: KAxis,
        /// Output axes.
        into: Vec<KAxis>,
    },
    /// Several axes counted by one.
    Merge {
        /// Input axes, the first slowest.
        axes: Vec<KAxis>,
        /// Output axis.
        into: KAxis,
    },
}

/// The value of one element.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Expr {
    /// An element of a tensor; `elem` is what the value is (a Bool is stored as an integer).
    Load(View, Elem),
    /// Element `index` along an axis of stride `stride` past `view`.
    Gather {
        /// Where index 0 is.
        view: View,
        /// Elements from one index to the next.
        stride: usize,
        /// Which; an Int.
        index: Box<Expr>,
        /// What the value is.
        elem: Elem,
    },
    /// The same element of another row of the sequence, zero where there is none.
    Row {
        /// The element, in any row.
        view: View,
        /// Which row; an Int that does not vary along axes.
        at: Box<Expr>,
        /// What the value is.
        elem: Elem,
    },
    /// Bits of an `f64`, and what the value is.
    Const(u64, Elem),
    /// The index along an axis; Int.
    Index(KAxis),
    /// The position of the row; Int.
    Position,
    /// How many rows its sequence has; Int.
    Length,
    /// A pointwise function.
    Unary(Unary, Box<Expr>),
    /// A pointwise function of two operands of type `Elem`.
    Binary(Binary, Elem, Box<Expr>, Box<Expr>),
    /// Condition, then, else; of type `Elem`.
    Select(Elem, Box<[Expr; 3]>),
    /// Int or Bool to Float.
    ToFloat(Box<Expr>),
}

impl Expr {
    /// A real constant.
    pub fn number(value: f64) -> Expr {
        Expr::Const(value.to_bits(), Elem::Float)
    }

    /// What the value is.
    pub fn elem(&self) -> Elem {
        match self {
            Expr::Load(_, elem)
            | Expr::Const(_, elem)
            | Expr::Gather { elem, .. }
            | Expr::Row { elem, .. }
            | Expr::Select(elem, _) => *elem,
            Expr::Index(_) | Expr::Position | Expr::Length => Elem::Int,
            Expr::Unary(Unary::Not, _) => Elem::Bool,
            Expr::Unary(_, of) => of.elem(),
            Expr::Binary(op, elem, ..) => match is_predicate(*op) {
                true => Elem::Bool,
                false => *elem,
            },
            Expr::ToFloat(_) => Elem::Float,
        }
    }

    /// The operands.
    pub fn children(&self) -> Vec<&Expr> {
        match self {
            Expr::Load(..) | Expr::Const(..) | Expr::Index(_) | Expr::Position | Expr::Length => vec![],
            Expr::Gather { index: at, .. } | Expr::Row { at, .. } => vec![at],
            Expr::Unary(_, of) | Expr::ToFloat(of) => vec![of],
            Expr::Binary(_, _, a, b) => vec![a, b],
            Expr::Select(_, parts) => parts.iter().collect(),
        }
    }

    /// Calls `visit` for this expression and everything in it.
    pub fn walk<'a>(&'a self, visit: &mut dyn FnMut(&'a Expr)) {
        visit(self);
        for child in self.children() {
            child.walk(visit);
        }
    }

    /// The largest parts that `wanted` holds of.
    pub fn largest<'a>(&'a self, wanted: &dyn Fn(&Expr) -> bool, found: &mut Vec<&'a Expr>) {
        match wanted(self) {
            true => found.push(self),
            false => self.children().into_iter().for_each(|child| child.largest(wanted, found)),
        }
    }

    /// Every view that is read.
    pub fn views(&self) -> Vec<&View> {
        let mut views = Vec::new();
        self.walk(&mut |e| match e {
            Expr::Load(view, _) | Expr::Gather { view, .. } | Expr::Row { view, .. } => views.push(view),
            _ => {}
        });
        views
    }

    /// Whether nothing of it is looked up by computed numbers, and all is made of what one row has.
    pub fn is_plain(&self) -> bool {
        let mut plain = true;
        self.walk(&mut |e| plain &= !matches!(e, Expr::Gather { .. } | Expr::Row { .. }));
        plain
    }

    /// Calls `change` for every view.
    pub fn views_mut(&mut self, change: &mut dyn FnMut(&mut View)) {
        match self {
            Expr::Load(view, _) => change(view),
            Expr::Gather { view, index: at, .. } | Expr::Row { view, at, .. } => {
                change(view);
                at.views_mut(change);
            }
            Expr::Const(..) | Expr::Index(_) | Expr::Position | Expr::Length => {}
            Expr::Unary(_, of) | Expr::ToFloat(of) => of.views_mut(change),
            Expr::Binary(_, _, a, b) => {
                a.views_mut(change);
                b.views_mut(change);
            }
            Expr::Select(_, parts) => parts.iter_mut().for_each(|part| part.views_mut(change)),
        }
    }

    /// Axes that the value varies along.
    pub fn axes(&self) -> Vec<KAxis> {
        let mut axes = Vec::new();
        self.walk(&mut |e| match e {
            Expr::Load(view, _) | Expr::Gather { view, .. } | Expr::Row { view, .. } => {
                axes.extend(view.strides.iter().map(|(a, _)| *a))
            }
            Expr::Index(axis) => axes.push(*axis),
            _ => {}
        });
        axes.sort();
        axes.dedup();
        axes
    }

    /// Rough cost of one element in additions; a transcendental function counts ten.
    pub fn cost(&self) -> usize {
        let own = match self {
            Expr::Load(..) | Expr::Const(..) | Expr::Index(_) | Expr::Position | Expr::Length => 0,
            Expr::Gather { .. } | Expr::Row { .. } => 2,
            Expr::Unary(Unary::Neg | Unary::Abs | Unary::Not, _) | Expr::ToFloat(_) | Expr::Select(..) => 1,
            Expr::Unary(..) => 10,
            Expr::Binary(Binary::Pow, ..) => 20,
            Expr::Binary(Binary::Div | Binary::Rem, ..) => 4,
            Expr::Binary(..) => 1,
        };
        own + self.children().into_iter().map(Expr::cost).sum::<usize>()
    }

    /// The same value after the substitution `step`; `None` if a view cannot say it.
    pub fn transformed(&self, step: &ViewStep, sizes: &[usize]) -> Option<Expr> {
        let go = |e: &Expr| e.transformed(step, sizes).map(Box::new);
        Some(match self {
            Expr::Load(view, elem) => Expr::Load(view.transformed(step, sizes)?, *elem),
            Expr::Gather { view, stride, index, elem } => {
                Expr::Gather { view: view.transformed(step, sizes)?, stride: *stride, index: go(index)?, elem: *elem }
            }
            Expr::Row { view, at, elem } => Expr::Row { view: view.transformed(step, sizes)?, at: go(at)?, elem: *elem },
            Expr::Const(..) | Expr::Position | Expr::Length => self.clone(),
            Expr::Index(axis) => index_after(*axis, step, sizes)?,
            Expr::Unary(op, of) => Expr::Unary(*op, go(of)?),
            Expr::ToFloat(of) => Expr::ToFloat(go(of)?),
            Expr::Binary(op, elem, a, b) => Expr::Binary(*op, *elem, go(a)?, go(b)?),
            Expr::Select(elem, parts) => {
                let [c, a, b] = &**parts;
                Expr::Select(*elem, Box::new([*go(c)?, *go(a)?, *go(b)?]))
            }
        })
    }
}

/// Whether a binary op yields a truth value.
pub fn is_predicate(op: Binary) -> bool {
    use Binary::*;
    matches!(op, Lt | Le | Gt | Ge | Eq | Ne | And | Or)
}

fn int(value: usize) -> Expr {
    Expr::Const((value as f64).to_bits(), Elem::Int)
}

fn binary_int(op: Binary, a: Expr, b: Expr) -> Expr {
    Expr::Binary(op, Elem::Int, Box::new(a), Box::new(b))
}

/// `Index(axis)` after `step` replaced the axis.
fn index_after(axis: KAxis, step: &ViewStep, sizes: &[usize]) -> Option<Expr> {
    match step {
        ViewStep::Slice { axis: from, start, to } if *from == axis => Some(match start {
            0 => Expr::Index(*to),
            _ => binary_int(Binary::Add, Expr::Index(*to), int(*start)),
        }),
        ViewStep::Pick { axis: from, index } if *from == axis => Some(int(*index)),
        ViewStep::Split { axis: from, into } if *from == axis => {
            let mut parts = into.iter();
            let first = Expr::Index(*parts.next()?);
            Some(parts.fold(first, |sum, part| {
                binary_int(Binary::Add, binary_int(Binary::Mul, sum, int(sizes[part.0])), Expr::Index(*part))
            }))
        }
        // An index of one of the merged axes would need a division: the caller stores the value instead.
        ViewStep::Merge { axes, .. } if axes.contains(&axis) => None,
        _ => Some(Expr::Index(axis)),
    }
}
