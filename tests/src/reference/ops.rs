//! Ops that need nothing but their operands.

use super::tensor::{Dim, Tensor, contract, gather, map1, map2, reduce, select, top, union, walk};
use braid_compiler::graph::shape;
use braid_dsl::model::{Axis, AxisId, Binary, Op, Reduce, Rows, Unary};

/// The value of an op that is neither a leaf nor carries a state. Panics on others: a test's own mistake.
pub fn apply(axes: &[Axis], op: &Op, args: &[&Tensor]) -> Tensor {
    let size = |axis: &AxisId| shape::size(axes, *axis).expect("a fixed axis");
    match op {
        Op::Unary(f) => map1(&args[0].dims(), args[0], |x| unary(*f, x)),
        Op::Binary(f) => map2(args[0], args[1], |a, b| binary(*f, a, b)),
        Op::Select => select(args[0], args[1], args[2]),
        Op::ToFloat | Op::Wanted => args[0].clone(),
        Op::Reduce(Reduce::Sum, over) => reduce(args[0], over, 0.0, |a, b| a + b),
        Op::Reduce(Reduce::Max, over) => reduce(args[0], over, f64::NEG_INFINITY, f64::max),
        Op::Reduce(Reduce::Min, over) => reduce(args[0], over, f64::INFINITY, f64::min),
        Op::Contract(over) => contract(args[0], args[1], over),
        Op::Rename(from, to) => args[0].clone().renamed(*from, *to),
        Op::Slice { axis, start, to } => args[0].sliced(*axis, *start, size(to)).renamed(*axis, *to),
        Op::Pick { axis, index } => args[0].picked(*axis, *index),
        Op::Split(axis, parts) => split(args[0], *axis, &parts.iter().map(|p| (*p, size(p))).collect::<Vec<_>>()),
        Op::Merge(parts, axis) => merge(args[0], parts, (*axis, size(axis))),
        Op::Concat(parts, axis) => concat(args, parts, (*axis, size(axis))),
        Op::Gather(axis) => gather(args[0], args[1], *axis),
        Op::Chosen { slot, block } => chosen(args[0], args[1], *slot, *block),
        Op::Solve { rows, columns } => solve(args[0], args[1], *rows, *columns),
        Op::Top { axis, into } => top(args[0], *axis, (*into, size(into))),
        Op::Products { row, over } => products(args[0], *row, *over),
        Op::Scores { row, column, over, strict } => {
            let span = if *strict { Rows::Inside(*column) } else { Rows::Between(*column) };
            let key = args[1].clone().renamed(*row, *column);
            let product = map2(&map2(args[0], &key, |a, b| a * b), &products(args[2], *row, span), |a, b| a * b);
            reduce(&product, over, 0.0, |a, b| a + b)
        }
        Op::Substitute { row, column, rank } => substitute(args[0], args[1], *row, *column, *rank),
        other => panic!("{other:?} is not a plain op"),
    }
}

/// A pointwise function of one number.
pub fn unary(f: Unary, x: f64) -> f64 {
    match f {
        Unary::Neg => -x,
        Unary::Exp => x.exp(),
        Unary::Log => x.ln(),
        Unary::Sqrt => x.sqrt(),
        Unary::Rsqrt => 1.0 / x.sqrt(),
        Unary::Sigmoid => 1.0 / (1.0 + (-x).exp()),
        Unary::Tanh => x.tanh(),
        Unary::Softplus => x.max(0.0) + (-x.abs()).exp().ln_1p(),
        Unary::Erf => erf(x),
        Unary::Sin => x.sin(),
        Unary::Cos => x.cos(),
        Unary::Abs => x.abs(),
        Unary::Floor => x.floor(),
        Unary::Round => x.round_ties_even(),
        Unary::Not => truth(x == 0.0),
    }
}

/// A pointwise function of two numbers; truths are 0 and 1.
pub fn binary(f: Binary, a: f64, b: f64) -> f64 {
    match f {
        Binary::Add => a + b,
        Binary::Sub => a - b,
        Binary::Mul => a * b,
        Binary::Div => a / b,
        Binary::Pow => a.powf(b),
        Binary::Min => a.min(b),
        Binary::Max => a.max(b),
        Binary::Rem => a % b,
        Binary::Lt => truth(a < b),
        Binary::Le => truth(a <= b),
        Binary::Gt => truth(a > b),
        Binary::Ge => truth(a >= b),
        Binary::Eq => truth(a == b),
        Binary::Ne => truth(a != b),
        Binary::And => truth(a != 0.0 && b != 0.0),
        Binary::Or => truth(a != 0.0 || b != 0.0),
    }
}

fn truth(is: bool) -> f64 {
    if is { 1.0 } else { 0.0 }
}

/// At each row of `at` the row of `x` of that number, zeros where there is none, or where nothing is `held` any more.
pub fn fetch(x: &Tensor, at: &Tensor, axis: AxisId, held: bool) -> Tensor {
    let rows = x.size(axis).expect("rows");
    let row = |at: &f64| match held && *at >= 0.0 && *at < rows as f64 {
        true => x.sliced(axis, *at as usize, 1),
        false => map1(&x.sliced(axis, 0, 1).dims(), &x.sliced(axis, 0, 1), |_| 0.0),
    };
    let mut found = at.data.iter().map(row);
    let first = found.next().expect("a row");
    found.fold(first, |all, next| all.joined(&next, axis))
}

/// The `count`-th largest of all rows, at each of them; minus infinity where there are fewer, or where nothing is `held` any more.
pub fn largest(x: &Tensor, axis: AxisId, count: usize, held: bool) -> Tensor {
    let rows = x.size(axis).expect("rows");
    let all: Vec<Tensor> = (0..rows).map(|row| x.picked(axis, row)).collect();
    let mut found = all[0].clone();
    for (at, found) in found.data.iter_mut().enumerate() {
        let mut column: Vec<f64> = all.iter().map(|row| row.data[at]).collect();
        column.sort_by(|a, b| b.total_cmp(a));
        *found = column.get(count - 1).copied().filter(|_| held).unwrap_or(f64::NEG_INFINITY);
    }
    map2(&found, &Tensor::filled(&[(axis, rows)], 0.0), |x, _| x)
}

/// `2/sqrt(pi) e^(-x²) Σ 2^n x^(2n+1) / (2n+1)!!`: all terms have one sign, so nothing cancels.
fn erf(x: f64) -> f64 {
    if x.abs() > 6.0 || x.is_nan() {
        return if x.is_nan() { x } else { x.signum() };
    }
    let (mut term, mut sum, mut n) = (x, 0.0, 1.0);
    while f64::abs(term) > 1e-18 * f64::abs(sum) && n < 1000.0 {
        sum += term;
        term *= 2.0 * x * x / (2.0 * n + 1.0);
        n += 1.0;
    }
    sum * (-x * x).exp() * std::f64::consts::FRAC_2_SQRT_PI
}

/// Whether a position lies in a block of one of the ids.
fn chosen(ids: &Tensor, position: &Tensor, slot: AxisId, block: usize) -> Tensor {
    let of = |x: f64| (x / block as f64).floor();
    let one = |at: usize| map2(&ids.picked(slot, at), position, |id, p| truth(id >= 0.0 && of(id) == of(p)));
    (1..ids.size(slot).expect("the axis of the ids")).fold(one(0), |all, at| map2(&all, &one(at), f64::max))
}

fn split(x: &Tensor, axis: AxisId, parts: &[Dim]) -> Tensor {
    let dims: Vec<Dim> = x.dims().into_iter().flat_map(|dim| if dim.0 == axis { parts.to_vec() } else { vec![dim] }).collect();
    let (axes, shape) = dims.into_iter().unzip();
    Tensor { axes, shape, data: x.data.clone() }
}

fn merge(x: &Tensor, parts: &[AxisId], to: Dim) -> Tensor {
    let rest: Vec<AxisId> = x.axes.iter().copied().filter(|axis| !parts.contains(axis)).collect();
    let x = x.ordered(&[rest.clone(), parts.to_vec()].concat());
    let shape = [x.shape[..rest.len()].to_vec(), vec![to.1]].concat();
    Tensor { axes: [rest, vec![to.0]].concat(), shape, data: x.data }
}

fn concat(args: &[&Tensor], parts: &[AxisId], to: Dim) -> Tensor {
    let renamed: Vec<Tensor> = args.iter().zip(parts).map(|(x, axis)| (*x).clone().renamed(*axis, to.0)).collect();
    let all = union(&renamed.iter().collect::<Vec<_>>());
    let dims: Vec<Dim> = all.into_iter().map(|dim| if dim.0 == to.0 { to } else { dim }).collect();
    let (mut out, mut start) = (Tensor::filled(&dims, 0.0), 0);
    for part in &renamed {
        out.put(part, to.0, start);
        start += part.size(to.0).expect("the axis of the parts");
    }
    out
}

/// Each row's product is multiplied out anew.
fn products(x: &Tensor, row: AxisId, over: Rows) -> Tensor {
    let rows = x.size(row).expect("the axis of the rows");
    let one = |_: f64| 1.0;
    let ones = map1(&x.picked(row, 0).dims(), &x.picked(row, 0), one);
    let of = |from: usize, to: usize| (from..to).fold(ones.clone(), |all, at| map2(&all, &x.picked(row, at), |a, b| a * b));
    let dims: Vec<Dim> = ones.dims();
    match over {
        Rows::Upto | Rows::Before | Rows::After => {
            let mut out = Tensor::filled(&[vec![(row, rows)], dims].concat(), 0.0);
            (0..rows).for_each(|i| {
                let product = match over {
                    Rows::Upto => of(0, i + 1),
                    Rows::Before => of(0, i),
                    _ => of(i + 1, rows),
                };
                out.put(&product, row, i);
            });
            out
        }
        Rows::Between(column) | Rows::Inside(column) => {
            let strict = usize::from(matches!(over, Rows::Inside(_)));
            let mut out = Tensor::filled(&[vec![(row, rows), (column, rows)], dims.clone()].concat(), 0.0);
            for i in 0..rows {
                let mut line = Tensor::filled(&[vec![(column, rows)], dims.clone()].concat(), 0.0);
                (0..rows).filter(|j| j + strict <= i).for_each(|j| line.put(&of(j + 1, i + 1 - strict), column, j));
                out.put(&line, row, i);
            }
            out
        }
    }
}

fn substitute(m: &Tensor, b: &Tensor, row: AxisId, column: AxisId, rank: Option<(AxisId, AxisId)>) -> Tensor {
    let rows = m.size(row).expect("the axis of the rows");
    let all: Vec<Dim> = union(&[b, m]).into_iter().filter(|d| d.0 != column && rank.is_none_or(|(_, r)| r != d.0)).collect();
    let mut out = Tensor::filled(&all, 0.0);
    for i in 0..rows {
        let mut line = map2(&b.picked(row, i), &Tensor::filled(&out.picked(row, 0).dims(), 0.0), |x, _| x);
        for j in 0..i {
            let known = out.picked(row, j);
            let known = rank.map_or(known.clone(), |(own, summed)| known.renamed(own, summed));
            let over: Vec<AxisId> = rank.iter().map(|(_, summed)| *summed).collect();
            let part = contract(&m.picked(row, i).picked(column, j), &known, &over);
            line = map2(&line, &part, |a, b| a + b);
        }
        out.put(&line, row, i);
    }
    out
}

/// `x` with `sum[columns] a x = b`, by Gaussian elimination with row pivots.
fn solve(a: &Tensor, b: &Tensor, rows: AxisId, columns: AxisId) -> Tensor {
    let n = a.size(rows).expect("the axis of the equations");
    let outer: Vec<Dim> = union(&[a, b]).into_iter().filter(|dim| dim.0 != rows && dim.0 != columns).collect();
    let mut out = Tensor::filled(&[outer.clone(), vec![(columns, n)]].concat(), 0.0);
    let shape: Vec<usize> = outer.iter().map(|dim| dim.1).collect();
    let strides = |x: &Tensor| outer.iter().map(|dim| x.stride(dim.0)).collect::<Vec<_>>();
    walk(&shape, [&strides(a), &strides(b)], |at, [i, j]| {
        let row = |r: usize| -> Vec<f64> {
            let own = (0..n).map(|c| a.data[i + r * a.stride(rows) + c * a.stride(columns)]);
            own.chain([b.data[j + r * b.stride(rows)]]).collect()
        };
        out.data[at * n..(at + 1) * n].copy_from_slice(&eliminated((0..n).map(row).collect()));
    });
    out
}

/// The solution of rows of coefficients and right side.
fn eliminated(mut system: Vec<Vec<f64>>) -> Vec<f64> {
    let n = system.len();
    for p in 0..n {
        let pivot = (p..n).max_by(|a, b| system[*a][p].abs().total_cmp(&system[*b][p].abs())).expect("a row");
        system.swap(p, pivot);
        let lead = system[p].clone();
        for row in &mut system[p + 1..] {
            let by = row[p] / lead[p];
            row.iter_mut().zip(&lead).for_each(|(x, y)| *x -= by * y);
        }
    }
    let mut x = vec![0.0; n];
    for r in (0..n).rev() {
        let known: f64 = (r + 1..n).map(|c| system[r][c] * x[c]).sum();
        x[r] = (system[r][n] - known) / system[r][r];
    }
    x
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn erf_of_known_points() {
        for (x, y) in [(0.0, 0.0), (0.5, 0.5204998778130465), (1.0, 0.8427007929497149), (-2.0, -0.9953222650189527), (7.0, 1.0)]
        {
            assert!((erf(x) - y).abs() < 1e-15, "erf {x} = {}", erf(x));
        }
    }
}
