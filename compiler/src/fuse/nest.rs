//! From a list of pointwise, view and reduction items to loop nests: what is computed in place, what is stored.

use super::expr::{Expr, KAxis, TensorId, View, ViewStep};
use super::halves::Halves;
use super::kernel::{Base, Reduction, Stmt, Store, Tensor};
use super::rows::{Pending, Running};
use braid_dsl::model::{Binary, Elem, Op, Reduce, Rows, Unary};

/// One value of the list.
#[derive(Clone, Debug)]
pub struct Item {
    /// How it comes about.
    pub what: What,
    /// Axes of the value.
    pub axes: Vec<KAxis>,
    /// What an element is.
    pub elem: Elem,
    /// Where it must end up, beside its uses in the list.
    pub stores: Vec<View>,
}

/// How an item comes about.
#[derive(Clone, Debug)]
pub enum What {
    /// It is there.
    Given(Expr),
    /// An op applied to earlier items; axes of the op are translated by [`Axes`].
    Apply(Op, Vec<usize>),
}

/// Stands for axes that only a kernel has.
const UNNAMED: braid_dsl::model::AxisId = braid_dsl::model::AxisId(u32::MAX);

/// The axes of one kernel.
#[derive(Clone, Debug, Default)]
pub struct Axes {
    /// The model's axis behind each.
    pub ids: Vec<braid_dsl::model::AxisId>,
    /// Their sizes.
    pub sizes: Vec<usize>,
    /// Where each stands in storage: lower is slower.
    pub ranks: Vec<usize>,
}

impl Axes {
    /// The kernel's axis for the model's axis `id`, added if it is new.
    pub fn intern(&mut self, id: braid_dsl::model::AxisId, size: usize, rank: usize) -> KAxis {
        if let Some(at) = self.ids.iter().position(|i| *i == id) {
            return KAxis(at);
        }
        self.ids.push(id);
        self.sizes.push(size);
        self.ranks.push(rank);
        KAxis(self.ids.len() - 1)
    }

    /// An axis that the model does not have, slower than all others.
    pub fn unnamed(&mut self, size: usize) -> KAxis {
        self.ids.push(UNNAMED);
        self.sizes.push(size);
        self.ranks.push(0);
        KAxis(self.ids.len() - 1)
    }

    /// The kernel's axis for the model's axis `id`, which is there.
    pub fn find(&self, id: braid_dsl::model::AxisId) -> KAxis {
        KAxis(self.ids.iter().position(|i| *i == id).expect("axes of ops are interned with their values"))
    }

    /// Row-major view of `tensor` in storage order; axes in `without` take no room.
    pub fn dense(&self, tensor: TensorId, axes: &[KAxis], without: &[KAxis]) -> (View, usize) {
        let mut order: Vec<KAxis> = axes.iter().copied().filter(|a| !without.contains(a)).collect();
        order.sort_by_key(|a| (self.ranks[a.0], a.0));
        let mut stride = 1;
        let mut strides = Vec::new();
        for axis in order.iter().rev() {
            strides.push((*axis, stride));
            stride *= self.sizes[axis.0];
        }
        strides.sort();
        (View { tensor, offset: 0, strides }, stride)
    }
}

/// Makes statements from items.
pub struct Builder<'a> {
    /// The kernel's axes.
    pub axes: &'a Axes,
    /// Axes that are one index for a whole task.
    pub grid: &'a [KAxis],
    /// Tensors so far; temporaries are added.
    pub tensors: &'a mut Vec<Tensor>,
    /// Scratch bytes so far.
    pub scratch: &'a mut usize,
    /// Statements so far.
    pub stmts: Vec<Stmt>,
    /// What costs at most so much is computed again at every use.
    pub repeatable: usize,
    /// Sums that wait to be added onto something, by item.
    pub pending: Vec<Pending>,
    /// Products over rows that are there already.
    pub running: Vec<Running>,
    /// How triangular matrices of a chunk's rows go by halves; none: row after row.
    pub halves: Option<Halves>,
    /// Whether products of powers over rows are powers of sums.
    pub exponents: bool,
}

/// Cheap enough to compute again at every use.
const REPEATABLE: usize = 3;

impl<'a> Builder<'a> {
    /// A builder for statements that are done row by row.
    pub fn new(axes: &'a Axes, grid: &'a [KAxis], tensors: &'a mut Vec<Tensor>, scratch: &'a mut usize) -> Builder<'a> {
        Builder {
            axes,
            grid,
            tensors,
            scratch,
            stmts: vec![],
            repeatable: REPEATABLE,
            pending: vec![],
            running: vec![],
            halves: None,
            exponents: false,
        }
    }
}

impl Builder<'_> {
    /// Statements that compute all stores of `items`.
    pub fn run(mut self, items: &[Item]) -> Vec<Stmt> {
        let mut exprs: Vec<Expr> = Vec::with_capacity(items.len());
        for (at, item) in items.iter().enumerate() {
            let expr = match &item.what {
                What::Given(expr) => expr.clone(),
                What::Apply(op, args) => self.apply(at, op, args, items, &mut exprs),
            };
            let expr = match (self.is_stored(&expr, item), self.wants_store(at, &expr, items)) {
                (false, true) => self.store(item, &expr),
                _ => expr,
            };
            exprs.push(expr);
        }
        self.stmts
    }

    /// Whether `expr` already reads what was stored for `item` (reductions and concatenations store at once).
    fn is_stored(&self, expr: &Expr, item: &Item) -> bool {
        let (Expr::Load(view, _), What::Apply(op, _)) = (expr, &item.what) else { return false };
        let made_here =
            matches!(op, Op::Reduce(..) | Op::Contract(_) | Op::Concat(..) | Op::Binary(Binary::Add) | Op::Substitute { .. });
        made_here && self.stmts.iter().any(|s| s.target.tensor == view.tensor)
    }

    fn wants_store(&self, at: usize, expr: &Expr, items: &[Item]) -> bool {
        if !items[at].stores.is_empty() {
            return true;
        }
        let uses: Vec<&Item> = items.iter().filter(|i| matches!(&i.what, What::Apply(_, args) if args.contains(&at))).collect();
        let cost = expr.cost();
        // Indices are at hand everywhere.
        let of_indices = cost <= REPEATABLE && expr.views().is_empty();
        if uses.is_empty() || cost == 0 || of_indices {
            return false;
        }
        let spread = uses.iter().any(|user| self.walked(user, items).iter().any(|a| !items[at].axes.contains(a)));
        if self.exponents {
            // A power is made where it is needed, its exponent once.
            let products = matches!(&items[at].what, What::Apply(Op::Products { .. }, _));
            let between =
                matches!(&items[at].what, What::Apply(Op::Products { over: Rows::Between(_) | Rows::Inside(_), .. }, _));
            let power = products && (between || !self.spreads(at, items)) && self.exponent(&items[at], items).is_some();
            if power || self.is_power_alone(at, items) {
                return false;
            }
            if self.is_exponent(at, items) {
                return true;
            }
        }
        (uses.len() > 1 || spread) && cost > self.repeatable
    }

    /// Whether anything walks axes that an item lacks, other names of its own aside.
    fn spreads(&self, at: usize, items: &[Item]) -> bool {
        let users = items.iter().enumerate().filter(|(_, item)| matches!(&item.what, What::Apply(_, args) if args.contains(&at)));
        users.into_iter().any(|(user, item)| match &item.what {
            What::Apply(Op::Rename(..), _) => self.spreads(user, items),
            _ => self.walked(item, items).iter().any(|axis| !items[at].axes.contains(axis)),
        })
    }

    /// The axes that computing `item` walks.
    fn walked(&self, item: &Item, items: &[Item]) -> Vec<KAxis> {
        match &item.what {
            What::Apply(Op::Reduce(..) | Op::Contract(_) | Op::Substitute { .. } | Op::Scores { .. }, args) => {
                args.iter().flat_map(|a| items[*a].axes.iter().copied()).collect()
            }
            _ => item.axes.clone(),
        }
    }

    fn apply(&mut self, at: usize, op: &Op, args: &[usize], items: &[Item], exprs: &mut [Expr]) -> Expr {
        let item = &items[at];
        if let Some(expr) = self.along_rows(at, op, args, items, exprs) {
            return expr;
        }
        match op {
            Op::Unary(f) => Expr::Unary(*f, Box::new(exprs[args[0]].clone())),
            Op::ToFloat => Expr::ToFloat(Box::new(exprs[args[0]].clone())),
            Op::Binary(f) => {
                let (a, b) = (exprs[args[0]].clone(), exprs[args[1]].clone());
                power(*f, &a, &b).unwrap_or_else(|| Expr::Binary(*f, a.elem(), Box::new(a), Box::new(b)))
            }
            Op::Select => {
                Expr::Select(item.elem, Box::new([exprs[args[0]].clone(), exprs[args[1]].clone(), exprs[args[2]].clone()]))
            }
            Op::Reduce(how, over) => {
                let over = over.iter().map(|a| self.axes.find(*a)).collect();
                self.reduce(item, *how, over, exprs[args[0]].clone())
            }
            Op::Contract(over) => {
                let over = over.iter().map(|a| self.axes.find(*a)).collect();
                let (a, b) = (exprs[args[0]].clone(), exprs[args[1]].clone());
                let product = Expr::Binary(Binary::Mul, Elem::Float, Box::new(a), Box::new(b));
                self.reduce(item, Reduce::Sum, over, product)
            }
            Op::Solve { rows, columns } => {
                let axes = (self.axes.find(*rows), self.axes.find(*columns));
                self.solve(axes, [0, 1].map(|n: usize| (&items[args[n]], &exprs[args[n]])))
            }
            Op::Concat(from, into) => self.concat(item, from, *into, args, exprs),
            Op::Gather(axis) => {
                let axis = self.axes.find(*axis);
                let Expr::Load(view, elem) = self.loaded(args[0], items, exprs) else { unreachable!("stored above") };
                let stride = view.stride(axis);
                let strides = view.strides.iter().copied().filter(|(a, _)| *a != axis).collect();
                Expr::Gather { view: View { strides, ..view }, stride, index: Box::new(exprs[args[1]].clone()), elem }
            }
            _ => self.viewed(op, args[0], items, exprs),
        }
    }

    fn viewed(&mut self, op: &Op, arg: usize, items: &[Item], exprs: &mut [Expr]) -> Expr {
        let find = |a: &braid_dsl::model::AxisId| self.axes.find(*a);
        let step = match op {
            Op::Rename(from, to) => ViewStep::Slice { axis: find(from), start: 0, to: find(to) },
            Op::Slice { axis, start, to } => ViewStep::Slice { axis: find(axis), start: *start, to: find(to) },
            Op::Pick { axis, index } => ViewStep::Pick { axis: find(axis), index: *index },
            Op::Split(axis, into) => ViewStep::Split { axis: find(axis), into: into.iter().map(find).collect() },
            Op::Merge(axes, into) => ViewStep::Merge { axes: axes.iter().map(find).collect(), into: find(into) },
            _ => unreachable!("`{op:?}` is not computed by nests"),
        };
        if let Some(expr) = exprs[arg].transformed(&step, &self.axes.sizes) {
            return expr;
        }
        // Only a merge fails: lay the operand down with the merged axes side by side, then it succeeds.
        let order = match &step {
            ViewStep::Merge { axes, .. } => axes.clone(),
            _ => vec![],
        };
        let stored = self.store_in_order(&items[arg], &exprs[arg], &order);
        stored.transformed(&step, &self.axes.sizes).expect("a dense operand can be viewed")
    }

    /// The item as something stored.
    fn loaded(&mut self, at: usize, items: &[Item], exprs: &mut [Expr]) -> Expr {
        if !matches!(exprs[at], Expr::Load(..)) {
            let expr = exprs[at].clone();
            exprs[at] = self.store_in_order(&items[at], &expr, &[]);
        }
        exprs[at].clone()
    }

    fn reduce(&mut self, item: &Item, how: Reduce, over: Vec<KAxis>, expr: Expr) -> Expr {
        let target = self.target(item);
        // An axis that the operand does not carry multiplies a sum by its size.
        let missing: usize = over.iter().filter(|a| !expr.axes().contains(a)).map(|a| self.axes.sizes[a.0]).product();
        let over: Vec<KAxis> = over.into_iter().filter(|a| expr.axes().contains(a)).collect();
        let expr = match (how, missing) {
            (Reduce::Sum, 2..) => Expr::Binary(Binary::Mul, Elem::Float, Box::new(expr), Box::new(Expr::number(missing as f64))),
            _ => expr,
        };
        self.push(target.clone(), expr, (!over.is_empty()).then_some(Reduction::plain(how, over)));
        self.copies(item, &target);
        Expr::Load(target, item.elem)
    }

    fn concat(
        &mut self,
        item: &Item,
        from: &[braid_dsl::model::AxisId],
        into: braid_dsl::model::AxisId,
        args: &[usize],
        exprs: &[Expr],
    ) -> Expr {
        let target = self.target(item);
        let into = self.axes.find(into);
        let mut start = 0;
        for (part, arg) in from.iter().zip(args) {
            let part = self.axes.find(*part);
            let step = ViewStep::Slice { axis: into, start, to: part };
            let place = target.transformed(&step, &self.axes.sizes).expect("a slice is a view");
            self.push(place, exprs[*arg].clone(), None);
            start += self.axes.sizes[part.0];
        }
        self.copies(item, &target);
        Expr::Load(target, item.elem)
    }

    fn store(&mut self, item: &Item, expr: &Expr) -> Expr {
        let target = self.target(item);
        self.push(target.clone(), expr.clone(), None);
        self.copies(item, &target);
        Expr::Load(target, item.elem)
    }

    /// Into a temporary whose axes `order` lie side by side, innermost.
    pub(super) fn store_in_order(&mut self, item: &Item, expr: &Expr, order: &[KAxis]) -> Expr {
        let tensor = self.temporary(item.elem);
        let rest: Vec<KAxis> = item.axes.iter().copied().filter(|a| !order.contains(a)).collect();
        let mut strides = Vec::new();
        let mut stride = 1;
        for axis in order.iter().rev() {
            strides.push((*axis, stride));
            stride *= self.axes.sizes[axis.0];
        }
        let (outer, count) = self.axes.dense(tensor, &rest, self.grid);
        strides.extend(outer.strides.iter().map(|(a, s)| (*a, s * stride)));
        strides.sort();
        self.claim(count * stride);
        let target = View { tensor, offset: 0, strides };
        self.push(target.clone(), expr.clone(), None);
        Expr::Load(target, item.elem)
    }

    /// The first place where the item is wanted, or a temporary.
    pub(super) fn target(&mut self, item: &Item) -> View {
        if let Some(view) = item.stores.first() {
            return view.clone();
        }
        let tensor = self.temporary(item.elem);
        let (view, count) = self.axes.dense(tensor, &item.axes, self.grid);
        self.claim(count);
        view
    }

    pub(super) fn temporary(&mut self, elem: Elem) -> TensorId {
        self.tensors.push(Tensor {
            base: Base::Scratch(*self.scratch),
            operand: 0,
            row: 0,
            store: store_of(elem),
            through_wanted: false,
        });
        TensorId(self.tensors.len() - 1)
    }

    pub(super) fn claim(&mut self, elements: usize) {
        *self.scratch += (elements * 4).next_multiple_of(braid_runtime::artifact::ALIGN);
    }

    pub(super) fn copies(&mut self, item: &Item, from: &View) {
        for place in item.stores.iter().skip(1) {
            self.push(place.clone(), Expr::Load(from.clone(), item.elem), None);
        }
    }

    pub(super) fn push(&mut self, target: View, expr: Expr, reduce: Option<Reduction>) {
        self.stmts.push(Stmt { reduce, ..Stmt::plain(target, expr) });
    }
}

/// How values of a type are stored.
pub fn store_of(elem: Elem) -> Store {
    match elem {
        Elem::Float => Store::F32,
        Elem::Int | Elem::Bool => Store::I32,
    }
}

/// Powers that need no logarithm.
fn power(op: Binary, base: &Expr, exponent: &Expr) -> Option<Expr> {
    let (Binary::Pow, Expr::Const(bits, _)) = (op, exponent) else { return None };
    let value = f64::from_bits(*bits);
    let repeat = base.cost() <= REPEATABLE;
    let times = |a: Expr, b: Expr| Expr::Binary(Binary::Mul, Elem::Float, Box::new(a), Box::new(b));
    match value {
        1.0 => Some(base.clone()),
        2.0 if repeat => Some(times(base.clone(), base.clone())),
        3.0 if repeat => Some(times(times(base.clone(), base.clone()), base.clone())),
        0.5 => Some(Expr::Unary(Unary::Sqrt, Box::new(base.clone()))),
        -0.5 => Some(Expr::Unary(Unary::Rsqrt, Box::new(base.clone()))),
        _ => None,
    }
}
