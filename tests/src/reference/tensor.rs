//! Dense tensors over named axes, and the few loops that everything else is made of.

use braid_dsl::model::AxisId;

/// Numbers over named axes, row-major in the order of `axes`. Ints and Bools are held as numbers too.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Distinct axes.
    pub axes: Vec<AxisId>,
    /// Their sizes.
    pub shape: Vec<usize>,
    /// The numbers.
    pub data: Vec<f64>,
}

/// An axis and its size.
pub type Dim = (AxisId, usize);

impl Tensor {
    /// One number everywhere.
    pub fn filled(dims: &[Dim], value: f64) -> Tensor {
        let (axes, shape): (Vec<_>, Vec<usize>) = dims.iter().copied().unzip();
        let data = vec![value; shape.iter().product()];
        Tensor { axes, shape, data }
    }

    /// A number without axes.
    pub fn scalar(value: f64) -> Tensor {
        Tensor::filled(&[], value)
    }

    /// `first`, `first + 1` … along one axis.
    pub fn count(axis: AxisId, size: usize, first: usize) -> Tensor {
        Tensor { axes: vec![axis], shape: vec![size], data: (first..first + size).map(|i| i as f64).collect() }
    }

    /// Axes with sizes.
    pub fn dims(&self) -> Vec<Dim> {
        self.axes.iter().copied().zip(self.shape.iter().copied()).collect()
    }

    /// The size of an axis, if it is there.
    pub fn size(&self, axis: AxisId) -> Option<usize> {
        self.axes.iter().position(|a| *a == axis).map(|at| self.shape[at])
    }

    /// How far apart neighbours along `axis` are; 0 where the tensor does not vary.
    pub fn stride(&self, axis: AxisId) -> usize {
        self.axes.iter().position(|a| *a == axis).map_or(0, |at| self.shape[at + 1..].iter().product())
    }

    fn strides(&self, dims: &[Dim]) -> Vec<usize> {
        dims.iter().map(|(axis, _)| self.stride(*axis)).collect()
    }

    /// The same numbers with the axes in another order.
    pub fn ordered(&self, axes: &[AxisId]) -> Tensor {
        if self.axes == axes {
            return self.clone();
        }
        let dims: Vec<Dim> = axes.iter().map(|axis| (*axis, self.size(*axis).expect("an axis of the tensor"))).collect();
        map1(&dims, self, |x| x)
    }

    /// Another name for an axis.
    pub fn renamed(mut self, from: AxisId, to: AxisId) -> Tensor {
        self.axes.iter_mut().filter(|axis| **axis == from).for_each(|axis| *axis = to);
        self
    }

    /// `size` indices of an axis from `start`.
    pub fn sliced(&self, axis: AxisId, start: usize, size: usize) -> Tensor {
        let dims: Vec<Dim> = self.dims().into_iter().map(|(a, n)| (a, if a == axis { size } else { n })).collect();
        let first = start * self.stride(axis);
        let mut out = Tensor::filled(&dims, 0.0);
        walk(&out.shape, [&self.strides(&dims)], |at, [from]| out.data[at] = self.data[first + from]);
        out
    }

    /// One index of an axis, which goes.
    pub fn picked(&self, axis: AxisId, index: usize) -> Tensor {
        let mut out = self.sliced(axis, index, 1);
        out.shape.remove(out.axes.iter().position(|a| *a == axis).expect("an axis of the tensor"));
        out.axes.retain(|a| *a != axis);
        out
    }

    /// Writes `part` at `start` of an axis.
    pub fn put(&mut self, part: &Tensor, axis: AxisId, start: usize) {
        let size = part.size(axis).unwrap_or(1);
        let dims: Vec<Dim> = self.dims().into_iter().map(|(a, n)| (a, if a == axis { size } else { n })).collect();
        let shape: Vec<usize> = dims.iter().map(|d| d.1).collect();
        let first = start * self.stride(axis);
        let places = self.strides(&dims);
        walk(&shape, [&places, &part.strides(&dims)], |_, [to, from]| self.data[first + to] = part.data[from]);
    }

    /// `self`, then `next` along an axis that both have.
    pub fn joined(&self, next: &Tensor, axis: AxisId) -> Tensor {
        let (first, second) = (self.size(axis).unwrap_or(0), next.size(axis).unwrap_or(0));
        let dims: Vec<Dim> = next.dims().into_iter().map(|(a, n)| (a, if a == axis { first + second } else { n })).collect();
        let mut out = Tensor::filled(&dims, 0.0);
        out.put(self, axis, 0);
        out.put(next, axis, first);
        out
    }
}

/// Visits all indices of `shape` in order: the running number and each operand's offset.
pub fn walk<const N: usize>(shape: &[usize], strides: [&[usize]; N], mut visit: impl FnMut(usize, [usize; N])) {
    let Some((&inner, outer)) = shape.split_last() else { return visit(0, [0; N]) };
    if shape.contains(&0) {
        return;
    }
    let steps = strides.map(|list| list[outer.len()]);
    let (mut index, mut offsets, mut number) = (vec![0; outer.len()], [0; N], 0);
    loop {
        let mut at = offsets;
        for _ in 0..inner {
            visit(number, at);
            number += 1;
            (0..N).for_each(|n| at[n] += steps[n]);
        }
        let Some(turned) = (0..outer.len()).rev().find(|&axis| index[axis] + 1 < outer[axis]) else { return };
        for axis in turned + 1..outer.len() {
            (0..N).for_each(|n| offsets[n] -= index[axis] * strides[n][axis]);
            index[axis] = 0;
        }
        index[turned] += 1;
        (0..N).for_each(|n| offsets[n] += strides[n][turned]);
    }
}

/// The axes of all operands, each once.
pub fn union(tensors: &[&Tensor]) -> Vec<Dim> {
    let mut all: Vec<Dim> = vec![];
    for dim in tensors.iter().flat_map(|tensor| tensor.dims()) {
        if !all.iter().any(|known| known.0 == dim.0) {
            all.push(dim);
        }
    }
    all
}

/// `f` of every element.
pub fn map1(dims: &[Dim], x: &Tensor, f: impl Fn(f64) -> f64) -> Tensor {
    let mut out = Tensor::filled(dims, 0.0);
    walk(&out.shape, [&x.strides(dims)], |at, [x_at]| out.data[at] = f(x.data[x_at]));
    out
}

/// `f` of two operands that broadcast.
pub fn map2(a: &Tensor, b: &Tensor, f: impl Fn(f64, f64) -> f64) -> Tensor {
    let dims = union(&[a, b]);
    let mut out = Tensor::filled(&dims, 0.0);
    let strides = [a.strides(&dims), b.strides(&dims)];
    walk(&out.shape, [&strides[0], &strides[1]], |at, [i, j]| out.data[at] = f(a.data[i], b.data[j]));
    out
}

/// `c ? a : b`, broadcast.
pub fn select(c: &Tensor, a: &Tensor, b: &Tensor) -> Tensor {
    let dims = union(&[c, a, b]);
    let mut out = Tensor::filled(&dims, 0.0);
    let strides = [c.strides(&dims), a.strides(&dims), b.strides(&dims)];
    walk(&out.shape, [&strides[0], &strides[1], &strides[2]], |at, [k, i, j]| {
        out.data[at] = if c.data[k] != 0.0 { a.data[i] } else { b.data[j] };
    });
    out
}

/// Offsets of all indices over `dims` for each operand.
fn offsets<const N: usize>(dims: &[Dim], tensors: [&Tensor; N]) -> Vec<[usize; N]> {
    let shape: Vec<usize> = dims.iter().map(|d| d.1).collect();
    let strides = tensors.map(|tensor| tensor.strides(dims));
    let mut found = Vec::with_capacity(shape.iter().product());
    walk(&shape, strides.each_ref().map(|list| list.as_slice()), |_, at| found.push(at));
    found
}

/// Folds the axes `over` away.
pub fn reduce(x: &Tensor, over: &[AxisId], start: f64, f: impl Fn(f64, f64) -> f64) -> Tensor {
    let (gone, kept): (Vec<Dim>, Vec<Dim>) = x.dims().into_iter().partition(|dim| over.contains(&dim.0));
    let inner = offsets(&gone, [x]);
    let mut out = Tensor::filled(&kept, 0.0);
    walk(&out.shape, [&x.strides(&kept)], |at, [i]| {
        out.data[at] = inner.iter().fold(start, |sum, [k]| f(sum, x.data[i + k]));
    });
    out
}

/// `sum[over] a * b`.
pub fn contract(a: &Tensor, b: &Tensor, over: &[AxisId]) -> Tensor {
    let (gone, kept): (Vec<Dim>, Vec<Dim>) = union(&[a, b]).into_iter().partition(|dim| over.contains(&dim.0));
    let inner = offsets(&gone, [a, b]);
    let mut out = Tensor::filled(&kept, 0.0);
    let strides = [a.strides(&kept), b.strides(&kept)];
    walk(&out.shape, [&strides[0], &strides[1]], |at, [i, j]| {
        out.data[at] = inner.iter().map(|[k, l]| a.data[i + k] * b.data[j + l]).sum();
    });
    out
}

/// `table[axis: ids]`; axes in both are matched.
pub fn gather(table: &Tensor, ids: &Tensor, axis: AxisId) -> Tensor {
    let step = table.stride(axis);
    let bound = table.size(axis).expect("the axis that is gathered");
    let dims: Vec<Dim> = union(&[ids, table]).into_iter().filter(|dim| dim.0 != axis || ids.axes.contains(&axis)).collect();
    let own: Vec<usize> = dims.iter().map(|dim| if dim.0 == axis { 0 } else { table.stride(dim.0) }).collect();
    let mut out = Tensor::filled(&dims, 0.0);
    walk(&out.shape, [&own, &ids.strides(&dims)], |at, [i, j]| {
        let index = ids.data[j] as usize;
        assert!(index < bound, "index {index} of an axis of {bound}");
        out.data[at] = table.data[i + index * step];
    });
    out
}

/// Indices of the `count` largest along `axis`, falling, ties to the lower index.
pub fn top(x: &Tensor, axis: AxisId, into: Dim) -> Tensor {
    let (size, step) = (x.size(axis).expect("the axis that is searched"), x.stride(axis));
    let rest: Vec<Dim> = x.dims().into_iter().filter(|dim| dim.0 != axis).collect();
    let mut out = Tensor::filled(&[rest.clone(), vec![into]].concat(), 0.0);
    let shape: Vec<usize> = rest.iter().map(|dim| dim.1).collect();
    walk(&shape, [&x.strides(&rest)], |at, [i]| {
        let mut indices: Vec<usize> = (0..size).collect();
        indices.sort_by(|a, b| x.data[i + b * step].total_cmp(&x.data[i + a * step]));
        (0..into.1).for_each(|n| out.data[at * into.1 + n] = indices[n] as f64);
    });
    out
}
