//! Kernels with a skeleton of their own: matrix products, convolutions and shifts, searches; attention (attend.rs) and recurrences (recurrence.rs).

use super::anchor::Product;
use super::build::{Draft, Fuser};
use super::expr::{Expr, KAxis, TensorId, View};
use super::group::{Owner, flat_stride};
use super::kernel::*;
use super::layout::renamed_param;
use super::nest::{Item, What};
use super::{Kernel, Operand, PackedParam};
use crate::error::Error;
use crate::graph::NodeId;
use braid_dsl::model::{AxisId, Elem, Op};
use braid_runtime::artifact::{Dtype, Layout};

impl Fuser<'_> {
    /// The kernels of a skeleton and its epilogue.
    pub(super) fn skeleton(&mut self, owner: Owner, members: &[NodeId]) -> Result<Vec<Kernel>, Error> {
        let first = members[0];
        if let Some(product) = self.anchors.products.get(&first).cloned() {
            return Ok(vec![self.matmul(owner, members, &product)?]);
        }
        let one = match self.forms.graph.node(first).op.clone() {
            Op::Conv(width) => self.along(owner, members, Some(width)),
            Op::Shift(_) => self.along(owner, members, None),
            Op::Top { axis, into } => self.top(owner, first, axis, into),
            Op::Fetch(..) => self.fetch(owner, first),
            Op::Largest { count, .. } => self.largest(owner, first, count),
            Op::Attend(attend) => self.attention(owner, first, &attend),
            Op::Recur(recur) => return super::recurrence::build(self, owner, members, &recur),
            op => Err(Error::limit(format!("`{op:?}` has no skeleton"))),
        };
        Ok(vec![one?])
    }

    fn matmul(&mut self, owner: Owner, members: &[NodeId], product: &Product) -> Result<Kernel, Error> {
        let mut draft = Draft::new(owner.rows);
        draft.tensor(tile());
        let lists = [product.columns.clone(), product.inner.clone(), product.batch.clone()];
        let left = self.flat(&mut draft, product.left, &[vec![], product.inner.clone(), product.batch.clone()])?;
        let left = View { strides: merged(left.strides, &[(DEPTH, 1)]), ..left };
        let dtype = self.matrix_dtype(product)?;
        let (batch, k, n) = (product.param_batch.clone(), product.param_depth.clone(), product.param_columns.clone());
        let layout = match dtype.quantised() && self.options.blocks > 0 {
            true => Layout::Columns { batch, k, n },
            false => Layout::Panels { batch, k, n, width: self.options.width },
        };
        let packed = self.packed(PackedParam { param: product.param, layout, dtype });
        let operand = draft.operand(Operand::Packed(packed));
        let store = match dtype {
            Dtype::F32 => Store::F32,
            Dtype::Bf16 => Store::Bf16,
            _ => Store::Panels(dtype),
        };
        let weights = draft.tensor(Tensor { base: Base::Weights, operand, row: 0, store, through_wanted: false });
        let chosen = match product.ids {
            Some(ids) => {
                let view = self.flat(&mut draft, ids, &[vec![], product.inner.clone(), vec![]])?;
                let param = &self.forms.graph.params[product.param.0 as usize];
                Some((view, self.count(&[param.axes[product.param_batch[0]]])))
            }
            None => None,
        };
        let exit = *members.last().unwrap_or(&members[0]);
        let epilogue = self.epilogue(&mut draft, exit, members, &lists)?;
        let out = self.flat_out(&mut draft, exit, &lists)?;
        let batch = if chosen.is_some() { 1 } else { self.count(&product.batch) };
        let sizes = [self.count(&product.inner), batch, self.count(&product.depth), self.count(&product.columns)];
        let tensors = draft.tensors.clone();
        let width = self.options.width;
        let code = Matmul {
            rows: owner.rows,
            sizes,
            width,
            tensors,
            left,
            weights,
            out,
            epilogue,
            chosen,
            prologue: None,
            ready: false,
        };
        Ok(draft.finish(Code::Matmul(code), members.to_vec()))
    }

    /// The value of the epilogue's last node over the skeleton's own axes.
    fn epilogue(&mut self, draft: &mut Draft, node: NodeId, members: &[NodeId], lists: &[Vec<AxisId>; 3]) -> Result<Expr, Error> {
        if node == members[0] {
            return Ok(Expr::Load(View { tensor: TensorId(0), offset: 0, strides: vec![(COLUMN, 1)] }, Elem::Float));
        }
        let graph = &self.forms.graph;
        let this = graph.node(node).clone();
        if let Op::Const(value) = this.op {
            return Ok(Expr::Const(value.to_bits(), this.ty.elem));
        }
        if !members.contains(&node) {
            return Ok(Expr::Load(self.flat(draft, node, lists)?, this.ty.elem));
        }
        let args = graph.args(node);
        let mut parts = args.iter().map(|a| self.epilogue(draft, *a, members, lists)).collect::<Result<Vec<_>, _>>()?;
        Ok(match this.op {
            Op::Unary(f) => Expr::Unary(f, Box::new(parts.remove(0))),
            Op::ToFloat => Expr::ToFloat(Box::new(parts.remove(0))),
            Op::Binary(f) => {
                let (a, b) = (parts.remove(0), parts.remove(0));
                Expr::Binary(f, a.elem(), Box::new(a), Box::new(b))
            }
            _ => {
                let [c, a, b] = [parts.remove(0), parts.remove(0), parts.remove(0)];
                Expr::Select(this.ty.elem, Box::new([c, a, b]))
            }
        })
    }

    /// A node that is read, as a view over the skeleton's axes (columns, inner rows, batch).
    pub(super) fn flat(&mut self, draft: &mut Draft, node: NodeId, lists: &[Vec<AxisId>; 3]) -> Result<View, Error> {
        let Expr::Load(view, _) = self.outside(draft, node, false)? else {
            return Err(Error::limit("a skeleton that reads an index"));
        };
        self.flattened(node, view, lists)
    }

    pub(super) fn flat_out(&mut self, draft: &mut Draft, node: NodeId, lists: &[Vec<AxisId>; 3]) -> Result<View, Error> {
        let view = self.write(draft, node);
        self.flattened(node, view, lists)
    }

    fn flattened(&self, node: NodeId, view: View, lists: &[Vec<AxisId>; 3]) -> Result<View, Error> {
        let placed = &self.anchors.layouts.place(node).view;
        let mut strides = Vec::new();
        for (axes, to) in lists.iter().zip([COLUMN, INNER, BATCH]) {
            match flat_stride(&self.anchors, placed, axes) {
                Some(0) => {}
                Some(stride) => strides.push((to, stride)),
                None => return Err(Error::limit("a skeleton whose operand lies in another order")),
            }
        }
        Ok(View { strides: merged(strides, &[]), ..view })
    }

    fn along(&mut self, owner: Owner, members: &[NodeId], width: Option<AxisId>) -> Result<Kernel, Error> {
        let node = members[0];
        let args = self.forms.graph.args(node);
        let mut draft = Draft::new(owner.rows);
        draft.tensor(tile());
        let order = self.anchors.layouts.order(node).to_vec();
        let lists = [order.clone(), vec![], vec![]];
        let input = self.flat(&mut draft, args[0], &lists)?;
        let channels = self.count(&order);
        if channels > 1 && input.stride(COLUMN) != 1 {
            return Err(Error::limit("a convolution whose channels are not side by side"));
        }
        let taps = match (width, &self.forms.graph.node(node).op) {
            (Some(axis), _) => self.count(&[axis]),
            (None, Op::Shift(by)) => by + 1,
            _ => unreachable!("a shift has no width axis"),
        };
        let weights = match width {
            Some(axis) => Some(self.taps(&mut draft, args[1], axis, &order)?),
            None => None,
        };
        let state = draft.operand(Operand::State(self.forms.carried[&node][0].index()));
        let state = draft.tensor(Tensor { base: Base::State, operand: state, row: 0, store: Store::F32, through_wanted: false });
        let exit = *members.last().unwrap_or(&node);
        let epilogue = self.epilogue(&mut draft, exit, members, &lists)?;
        let out = self.flat_out(&mut draft, exit, &lists)?;
        let code = Along { taps, channels, tensors: draft.tensors.clone(), input, weights, state, out, epilogue };
        Ok(draft.finish(Code::Along(code), members.to_vec()))
    }

    /// The weights of a convolution, tap by tap.
    fn taps(&mut self, draft: &mut Draft, node: NodeId, width: AxisId, order: &[AxisId]) -> Result<TensorId, Error> {
        let Some((param, names)) = renamed_param(&self.forms.graph, node) else {
            return Err(Error::limit("a convolution whose weights are computed"));
        };
        let tap_major = [&[width][..], order].concat();
        if names.len() != tap_major.len() {
            return Err(Error::limit("a convolution whose weights do not vary along every channel axis"));
        }
        // The parameter's own axes, in the order of taps and channels.
        let own = &self.forms.graph.params[param.0 as usize].axes;
        let order: Vec<AxisId> = tap_major.iter().filter_map(|a| names.iter().position(|n| n == a)).map(|at| own[at]).collect();
        let mut tensor = self.dense_param(draft, param, &order);
        if tensor.store != Store::F32 {
            let layout = Layout::Dense(order.iter().filter_map(|a| own.iter().position(|o| o == a)).collect());
            let packed = self.packed(PackedParam { param, layout, dtype: Dtype::F32 });
            tensor.operand = draft.operand(Operand::Packed(packed));
            tensor.store = Store::F32;
        }
        Ok(draft.tensor(tensor))
    }

    fn top(&mut self, owner: Owner, node: NodeId, axis: AxisId, into: AxisId) -> Result<Kernel, Error> {
        let arg = self.forms.graph.args(node)[0];
        let mut draft = Draft::new(owner.rows);
        let outer: Vec<AxisId> = self.anchors.layouts.order(node).iter().copied().filter(|a| *a != into).collect();
        let input = self.flat(&mut draft, arg, &[vec![axis], outer.clone(), vec![]])?;
        let out = self.flat_out(&mut draft, node, &[vec![into], outer.clone(), vec![]])?;
        let (outer, size, count) = (self.count(&outer), self.count(&[axis]), self.count(&[into]));
        let code = Top { rows: owner.rows, outer, size, count, tensors: draft.tensors.clone(), input, out };
        Ok(draft.finish(Code::Top(code), vec![node]))
    }

    fn largest(&mut self, owner: Owner, node: NodeId, count: usize) -> Result<Kernel, Error> {
        if self.options.blocks > 0 {
            return Err(Error::limit("the largest of all rows of a sequence on a GPU"));
        }
        let arg = self.forms.graph.args(node)[0];
        let mut draft = Draft::new(owner.rows);
        let order = self.anchors.layouts.order(node).to_vec();
        let lists = [order.clone(), vec![], vec![]];
        let (input, out) = (self.flat(&mut draft, arg, &lists)?, self.flat_out(&mut draft, node, &lists)?);
        let code = Largest { columns: self.count(&order), count, tensors: draft.tensors.clone(), input, out };
        Ok(draft.finish(Code::Largest(code), vec![node]))
    }

    /// Rows of a value that is there as a whole, each where it is asked for.
    fn fetch(&mut self, owner: Owner, node: NodeId) -> Result<Kernel, Error> {
        let args = self.forms.graph.args(node);
        let mut draft = Draft::new(owner.rows);
        let (value, at) = (self.outside(&mut draft, args[0], false)?, self.outside(&mut draft, args[1], false)?);
        let what = match value {
            Expr::Load(view, elem) if draft.tensors[view.tensor.0].row > 0 => Expr::Row { view, at: Box::new(at), elem },
            _ => return Err(Error::limit("rows of an index")),
        };
        let (axes, elem) = self.typed(&mut draft, node);
        let stores = vec![self.write(&mut draft, node)];
        let item = Item { what: What::Given(what), axes, elem, stores };
        Ok(self.nests(draft, &[item], Walk::Rows(owner.rows), vec![node]))
    }
}

/// The accumulators of a tile, as tensor 0.
fn tile() -> Tensor {
    Tensor { base: Base::Tile, operand: 0, row: 0, store: Store::F32, through_wanted: false }
}

fn merged(mut strides: Vec<(KAxis, usize)>, more: &[(KAxis, usize)]) -> Vec<(KAxis, usize)> {
    strides.extend_from_slice(more);
    strides.sort();
    strides
}
