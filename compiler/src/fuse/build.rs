//! Writes kernels: translates nodes to items, items to statements, statements to nests.

use super::anchor::Anchors;
use super::expr::{Expr, KAxis, TensorId, View};
use super::group::{Groups, Owner, is_leaf};
use super::kernel::{Base, Code, Nests, Rows, Staging, Stmt, Store, Tensor, Walk};
use super::nest::{Axes, Builder, Item, What, store_of};
use super::{Buffer, Fused, Kernel, Operand, Options, PackedParam, loops, narrow, scratch};
use crate::error::Error;
use crate::forms::{Forms, StateKind};
use crate::graph::NodeId;
use braid_dsl::model::{AxisId, Elem, Op, ParamId};
use braid_runtime::artifact::{Dtype, Layout};
use std::collections::{HashMap, HashSet};

/// Parameters of at least so many elements are stored in the artifact's weight type; smaller ones in f32.
pub(super) const LARGE: usize = 16 * 1024;

/// Builds the kernels of one model.
pub struct Fuser<'a> {
    pub(super) forms: &'a Forms,
    pub(super) options: Options,
    pub(super) anchors: Anchors,
    groups: Groups,
    pub(super) fused: Fused,
    buffer_of: HashMap<NodeId, usize>,
    /// Roots that are stored in bfloat16.
    narrow: HashSet<NodeId>,
}

/// One kernel while it is written.
#[derive(Clone)]
pub struct Draft {
    /// Its axes.
    pub axes: Axes,
    /// Its tensors.
    pub tensors: Vec<Tensor>,
    /// Its operand words.
    pub operands: Vec<Operand>,
    /// Scratch bytes.
    pub scratch: usize,
    /// Which rows it walks.
    pub rows: Rows,
    /// Buffers read and written.
    pub reads: Vec<usize>,
    /// See `reads`.
    pub writes: Vec<usize>,
}

impl Draft {
    /// An empty kernel.
    pub fn new(rows: Rows) -> Draft {
        Draft { axes: Axes::default(), tensors: vec![], operands: vec![], scratch: 0, rows, reads: vec![], writes: vec![] }
    }

    /// The kernel.
    pub fn finish(self, code: Code, nodes: Vec<NodeId>) -> Kernel {
        Kernel { code, operands: self.operands, rows: self.rows, least: 0, nodes, reads: self.reads, writes: self.writes }
    }

    /// A kernel of some of its statements: with all tensors, but only the operands and buffers that these touch.
    pub fn of(&self, stmts: &[Stmt]) -> Draft {
        let mut own = Draft::new(self.rows);
        own.tensors = self.tensors.clone();
        let touch = |own: &mut Draft, tensor: TensorId, writes: bool| {
            let Tensor { base, operand, .. } = self.tensors[tensor.0];
            if !base.has_operand() {
                return;
            }
            let word = self.operands[operand];
            own.tensors[tensor.0].operand = own.operand(word);
            let Operand::Buffer(at) = word else { return };
            let list = if writes { &mut own.writes } else { &mut own.reads };
            if !list.contains(&at) {
                list.push(at);
            }
        };
        for stmt in stmts {
            stmt.reads().for_each(|view| touch(&mut own, view.tensor, false));
            touch(&mut own, stmt.target.tensor, true);
        }
        // What is not touched has no operand.
        let touched =
            |tensor: &Tensor, at: usize| stmts.iter().any(|stmt| stmt.touches(TensorId(at))) || !tensor.base.has_operand();
        for at in 0..own.tensors.len() {
            if !touched(&own.tensors[at], at) {
                own.tensors[at] = Tensor { base: Base::Scratch(0), operand: 0, ..own.tensors[at] };
            }
        }
        own
    }

    /// Adds an operand word unless it is there.
    pub fn operand(&mut self, operand: Operand) -> usize {
        self.operands.iter().position(|o| *o == operand).unwrap_or_else(|| {
            self.operands.push(operand);
            self.operands.len() - 1
        })
    }

    /// Adds a tensor unless it is there.
    pub fn tensor(&mut self, tensor: Tensor) -> TensorId {
        TensorId(self.tensors.iter().position(|t| *t == tensor).unwrap_or_else(|| {
            self.tensors.push(tensor);
            self.tensors.len() - 1
        }))
    }
}

impl<'a> Fuser<'a> {
    /// Decides grouping and storage.
    pub fn new(forms: &'a Forms, options: Options) -> Fuser<'a> {
        let anchors = Anchors::find(&forms.graph);
        let groups = Groups::find(&forms.graph, &anchors);
        let notes = groups.notes.clone();
        let fused = Fused { forms: forms.clone(), kernels: vec![], buffers: vec![], packed: vec![], notes };
        let rounds = options.blocks > 0 && options.dtype != Dtype::F32;
        let narrow = if rounds { narrow::find(forms, &anchors, &groups) } else { HashSet::new() };
        Fuser { forms, options, anchors, groups, fused, buffer_of: HashMap::new(), narrow }
    }

    /// All kernels.
    pub fn run(mut self) -> Result<Fused, Error> {
        for (owner, members) in std::mem::take(&mut self.groups.members) {
            match owner.rowwise {
                true => self.rowwise(owner, &members)?.into_iter().for_each(|kernel| self.fused.kernels.push(kernel)),
                false => {
                    let kernels = self.skeleton(owner, &members)?;
                    self.fused.kernels.extend(kernels);
                }
            };
        }
        let graph = &self.forms.graph;
        let encoded = graph.order().into_iter().any(|node| graph.of_source(graph.ty(node)));
        if encoded && self.options.blocks > 0 {
            return Err(Error::limit("a second sequence on a GPU"));
        }
        self.check_storage()?;
        self.order_states();
        Ok(self.fused)
    }

    /// States as the kernels store them, which is what an artifact tells: until here their axes are in declared order.
    fn order_states(&mut self) {
        let layouts = &self.anchors.layouts;
        for state in &mut self.fused.forms.states {
            match state.kind {
                StateKind::Recurrence => state.axes.sort_by_key(|axis| (layouts.ranks[axis.0 as usize], *axis)),
                StateKind::Convolution | StateKind::Shift => state.axes = layouts.order(state.node).to_vec(),
                StateKind::Keys | StateKind::Values | StateKind::Positions => {}
            }
        }
    }

    fn rowwise(&mut self, owner: Owner, members: &[NodeId]) -> Result<Option<Kernel>, Error> {
        let wanted: Vec<NodeId> = members.iter().copied().filter(|n| self.groups.stored.contains(n)).collect();
        if wanted.is_empty() {
            return Ok(None);
        }
        let graph = &self.forms.graph;
        let mut needed: Vec<NodeId> = wanted.clone();
        let mut open = wanted.clone();
        while let Some(node) = open.pop() {
            for arg in graph.args(node) {
                let inside = self.groups.owners.get(&arg) == Some(&owner) && !matches!(graph.node(node).op, Op::Wanted);
                if inside && !needed.contains(&arg) {
                    needed.push(arg);
                    open.push(arg);
                }
            }
        }
        let nodes: Vec<NodeId> = members.iter().copied().filter(|n| needed.contains(n)).collect();
        let mut draft = Draft::new(owner.rows);
        let mut items = Items::default();
        for node in &nodes {
            self.item(&mut draft, &mut items, *node, &nodes)?;
        }
        let walk = Walk::Rows(owner.rows);
        Ok(Some(self.nests(draft, &items.list, walk, nodes)))
    }

    /// Adds a node of the kernel, and what it reads from outside, to the items.
    fn item(&mut self, draft: &mut Draft, items: &mut Items, node: NodeId, inside: &[NodeId]) -> Result<(), Error> {
        let graph = &self.forms.graph;
        let this = graph.node(node).clone();
        let what = match &this.op {
            Op::Wanted => What::Given(self.outside(draft, graph.args(node)[0], true)?),
            op => {
                let mut args = Vec::new();
                for arg in graph.args(node) {
                    if !items.at.contains_key(&arg) {
                        debug_assert!(!inside.contains(&arg), "operands come first");
                        let expr = self.outside(draft, arg, false)?;
                        let (axes, elem) = self.typed(draft, arg);
                        items.push(arg, Item { what: What::Given(expr), axes, elem, stores: vec![] });
                    }
                    args.push(items.at[&arg]);
                }
                self.intern_op(draft, op);
                What::Apply(op.clone(), args)
            }
        };
        let (axes, elem) = self.typed(draft, node);
        let stores = match self.groups.stored.contains(&node) {
            true => vec![self.write(draft, node)],
            false => vec![],
        };
        items.push(node, Item { what, axes, elem, stores });
        Ok(())
    }

    /// Axes (without the sequence) and element type of a node in a kernel.
    pub(super) fn typed(&self, draft: &mut Draft, node: NodeId) -> (Vec<KAxis>, Elem) {
        let ty = &self.forms.graph.node(node).ty;
        let axes = self.anchors.layouts.sorted(ty);
        (axes.into_iter().map(|a| self.axis(draft, a)).collect(), ty.elem)
    }

    /// The kernel's axis for a model's axis.
    pub(super) fn axis(&self, draft: &mut Draft, axis: AxisId) -> KAxis {
        let layouts = &self.anchors.layouts;
        draft.axes.intern(axis, layouts.sizes[axis.0 as usize], layouts.ranks[axis.0 as usize])
    }

    /// Makes all axes that an op names known to the kernel.
    pub(super) fn intern_op(&self, draft: &mut Draft, op: &Op) {
        let named: Vec<AxisId> = match op {
            Op::Reduce(_, axes) | Op::Contract(axes) => axes.clone(),
            Op::Rename(a, b) | Op::Solve { rows: a, columns: b } => vec![*a, *b],
            Op::Slice { axis, to, .. } => vec![*axis, *to],
            Op::Pick { axis, .. } | Op::Gather(axis) | Op::Index(axis) => vec![*axis],
            Op::Split(axis, parts) | Op::Merge(parts, axis) | Op::Concat(parts, axis) => [&parts[..], &[*axis]].concat(),
            _ => vec![],
        };
        for axis in named {
            self.axis(draft, axis);
        }
    }

    /// The value of a node that another kernel computed, or of a leaf.
    pub(super) fn outside(&mut self, draft: &mut Draft, node: NodeId, through_wanted: bool) -> Result<Expr, Error> {
        let graph = &self.forms.graph;
        let elem = graph.node(node).ty.elem;
        match &graph.node(node).op {
            Op::Const(value) => return Ok(Expr::Const(value.to_bits(), elem)),
            Op::Index(axis) => return Ok(Expr::Index(self.axis(draft, *axis))),
            Op::Position(_) => return Ok(Expr::Position),
            Op::Length(..) => return Ok(Expr::Length),
            _ => {}
        }
        let place = self.anchors.layouts.place(node).clone();
        let root = graph.node(place.root);
        let tensor = match &root.op {
            Op::Const(value) => return Ok(Expr::Const(value.to_bits(), elem)),
            Op::Input(n) if graph.token_input() == Some(*n) => {
                Tensor { base: Base::Tokens, operand: 0, row: 1, store: Store::I32, through_wanted }
            }
            Op::Param(id) => {
                let order = self.anchors.layouts.order(place.root).to_vec();
                self.dense_param(draft, *id, &order)
            }
            op if is_leaf(op) && !matches!(op, Op::Input(_)) => return Err(Error::limit("a view of an index")),
            _ => self.read(draft, place.root, through_wanted),
        };
        let tensor = draft.tensor(tensor);
        Ok(Expr::Load(self.local(draft, &place.view, tensor), elem))
    }

    /// A view over the model's axes as one over the kernel's.
    pub(super) fn local(&self, draft: &mut Draft, view: &View, tensor: TensorId) -> View {
        let mut strides: Vec<(KAxis, usize)> =
            view.strides.iter().map(|(a, s)| (self.axis(draft, AxisId(a.0 as u32)), *s)).collect();
        strides.sort();
        View { tensor, offset: view.offset, strides }
    }

    /// A parameter in row-major order.
    pub(super) fn dense_param(&mut self, draft: &mut Draft, id: ParamId, order: &[AxisId]) -> Tensor {
        let graph = &self.forms.graph;
        let own = &graph.params[id.0 as usize].axes;
        let layout = Layout::Dense(order.iter().filter_map(|a| own.iter().position(|o| o == a)).collect());
        let elements: usize = own.iter().map(|a| self.anchors.layouts.sizes[a.0 as usize]).product();
        // Of a table that is looked up in, a call reads some rows: there is little to gain from integers.
        let large = if self.dtype_of(id) == Dtype::F32 { Dtype::F32 } else { Dtype::Bf16 };
        let dtype = if elements >= LARGE && own.len() > 1 { large } else { Dtype::F32 };
        let operand = draft.operand(Operand::Packed(self.packed(PackedParam { param: id, layout, dtype })));
        let store = if dtype == Dtype::F32 { Store::F32 } else { Store::Bf16 };
        Tensor { base: Base::Weights, operand, row: 0, store, through_wanted: false }
    }

    /// The place of a packed parameter in the list of all.
    pub(super) fn packed(&mut self, packed: PackedParam) -> usize {
        self.fused.packed.iter().position(|p| *p == packed).unwrap_or_else(|| {
            self.fused.packed.push(packed);
            self.fused.packed.len() - 1
        })
    }

    fn buffer(&mut self, root: NodeId) -> usize {
        if let Some(known) = self.buffer_of.get(&root) {
            return *known;
        }
        let graph = &self.forms.graph;
        let ty = &graph.node(root).ty;
        let output = self.anchors.layouts.place(graph.output()).root == root;
        let rows = self.anchors.rows[&root];
        let elements = self.anchors.layouts.elements(ty);
        let store = if self.narrow.contains(&root) { Store::Bf16 } else { store_of(ty.elem) };
        self.fused.buffers.push(Buffer { node: root, rows, elements, store, output });
        self.buffer_of.insert(root, self.fused.buffers.len() - 1);
        self.fused.buffers.len() - 1
    }

    /// A buffer for what crosses between the kernels of one node, of so many numbers a row.
    pub(super) fn spill(&mut self, node: NodeId, elements: usize, store: Store) -> usize {
        self.fused.buffers.push(Buffer { node, rows: Rows::All, elements, store, output: false });
        self.fused.buffers.len() - 1
    }

    fn tensor_of(&mut self, draft: &mut Draft, root: NodeId, through_wanted: bool) -> (usize, Tensor) {
        let at = self.buffer(root);
        let buffer = &self.fused.buffers[at];
        let (base, row) = match (buffer.output, buffer.rows) {
            (true, _) => (Base::Output, buffer.elements),
            (_, Rows::Once) => (Base::Prepared, 0),
            _ => (Base::Arena, buffer.elements),
        };
        let store = buffer.store;
        let operand = if base.has_operand() { draft.operand(Operand::Buffer(at)) } else { 0 };
        (at, Tensor { base, operand, row, store, through_wanted })
    }

    /// A stored value as a tensor to read.
    pub(super) fn read(&mut self, draft: &mut Draft, root: NodeId, through_wanted: bool) -> Tensor {
        let (at, tensor) = self.tensor_of(draft, root, through_wanted);
        if !draft.reads.contains(&at) {
            draft.reads.push(at);
        }
        tensor
    }

    /// Where a node's value is to be written.
    pub(super) fn write(&mut self, draft: &mut Draft, node: NodeId) -> View {
        let (at, tensor) = self.tensor_of(draft, node, false);
        if !draft.writes.contains(&at) {
            draft.writes.push(at);
        }
        let tensor = draft.tensor(tensor);
        let view = self.anchors.layouts.place(node).view.clone();
        self.local(draft, &view, tensor)
    }

    pub(super) fn nests(&mut self, mut draft: Draft, items: &[Item], walk: Walk, nodes: Vec<NodeId>) -> Kernel {
        let axes = std::mem::take(&mut draft.axes);
        let builder = Builder::new(&axes, &[], &mut draft.tensors, &mut draft.scratch);
        let stmts = builder.run(items);
        let mut nests = loops::nests(stmts, &loops::Setting::rows(&axes.sizes, self.options.lanes));
        let (mut tensors, mut bytes) = (draft.tensors.clone(), draft.scratch);
        if walk == Walk::Rows(Rows::Once) && self.options.blocks == 0 {
            // Tables are large, and so is what they are made of: it has room only for as long as it is needed.
            bytes = scratch::place(&mut nests, &mut tensors, &axes.sizes, None, (&[], false));
        }
        let code = Nests { walk, sizes: axes.sizes, tensors, nests, scratch: bytes, staging: Staging::default() };
        draft.finish(Code::Nests(code), nodes)
    }

    /// Sizes of a list of axes, multiplied.
    pub(super) fn count(&self, axes: &[AxisId]) -> usize {
        axes.iter().map(|a| self.anchors.layouts.sizes[a.0 as usize]).product()
    }
}

/// Items and the nodes that they stand for.
#[derive(Default)]
pub struct Items {
    /// In order.
    pub list: Vec<Item>,
    /// Where a node is.
    pub at: HashMap<NodeId, usize>,
}

impl Items {
    fn push(&mut self, node: NodeId, item: Item) {
        self.at.insert(node, self.list.len());
        self.list.push(item);
    }
}
