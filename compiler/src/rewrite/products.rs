//! Sums of products: which factors are multiplied first, and which after the sum.
//!
//! A product of many factors is multiplied in the order of the text, which may make an outer product of all axes before the sum
//! takes most of them away. The factors are dealt to the two sides of a contraction so that what is multiplied beforehand is
//! smallest, and factors that the sum does not touch are multiplied after it where that is less.

use super::{New, Rule, Values};
use crate::graph::shape;
use braid_dsl::model::{AxisId, Binary, Op, Reduce};

/// The family.
pub const RULES: &[Rule] = &[Rule { name: "sum[k] (a * b) * c == sum[k] a * (b * c), or (sum[k] a * b) * c", apply: arranged }];

/// A new arrangement must cost less than this part of the old one: what is well written stays as it is.
const WORTH: f64 = 0.75;
/// More factors than this are left as they are written.
const MOST: usize = 6;

/// One way to compute a sum of a product.
struct Way {
    /// The factors of the two sides, each multiplied from the left.
    sides: [Vec<usize>; 2],
    /// Factors after the sum.
    after: Vec<usize>,
    /// Elements that are multiplied before and after.
    cost: f64,
}

fn arranged(v: &dyn Values, id: usize) -> Option<New> {
    let (over, sides) = match v.op(id) {
        Op::Contract(over) => (over.clone(), v.args(id)),
        Op::Reduce(Reduce::Sum, over) => (over.clone(), v.args(id)),
        _ => return None,
    };
    if over.iter().any(|axis| shape::is_seq(v.axes(), *axis)) {
        return None;
    }
    let mut factors = vec![];
    let mut now = 0.0;
    sides.iter().for_each(|side| flatten(v, *side, &mut factors, &mut now));
    if !(2..=MOST).contains(&factors.len()) || factors.iter().any(|f| v.ty(*f).elem != v.ty(id).elem) {
        return None;
    }
    let result = elements(v, &v.ty(id).axes);
    if sides.len() == 1 {
        // Reducing a product writes it down first.
        now += elements(v, &v.ty(sides[0]).axes);
    }
    let best = ways(v, &over, &factors, result).into_iter().min_by(|a, b| a.cost.total_cmp(&b.cost))?;
    (best.cost < now * WORTH).then(|| best.built(over))
}

/// The factors of a product, through products that nothing else reads; adds up what is multiplied.
fn flatten(v: &dyn Values, id: usize, factors: &mut Vec<usize>, cost: &mut f64) {
    if *v.op(id) == Op::Binary(Binary::Mul) && v.has_one_user(id) {
        *cost += elements(v, &v.ty(id).axes);
        v.args(id).into_iter().for_each(|arg| flatten(v, arg, factors, cost));
    } else {
        factors.push(id);
    }
}

/// Elements of a row. A product of parameters counts as much as one of rows: it would take the place of stored weights.
fn elements(v: &dyn Values, axes: &[AxisId]) -> f64 {
    axes.iter().filter_map(|axis| shape::size(v.axes(), *axis)).map(|n| n as f64).product()
}

/// All ways to deal the factors that make a contraction.
fn ways(v: &dyn Values, over: &[AxisId], factors: &[usize], result: f64) -> Vec<Way> {
    let touched = |f: &usize| v.ty(*f).axes.iter().any(|axis| over.contains(axis));
    let mut found = vec![];
    // Each factor goes to one side, the other, or (if the sum does not touch it) behind.
    for deal in 0..3usize.pow(factors.len() as u32) {
        let place = |n: usize| deal / 3usize.pow(n as u32) % 3;
        if factors.iter().enumerate().any(|(n, f)| place(n) == 2 && touched(f)) {
            continue;
        }
        let of = |which: usize| -> Vec<usize> {
            factors.iter().enumerate().filter(|(n, _)| place(*n) == which).map(|(_, f)| *f).collect()
        };
        let (sides, after) = ([sorted(v, of(0)), sorted(v, of(1))], of(2));
        let carries = |side: &Vec<usize>| over.iter().all(|axis| side.iter().any(|f| v.ty(*f).axes.contains(axis)));
        // The first factor is dealt to the first side, or every way would be found twice.
        if place(0) != 1 && sides.iter().all(carries) && !sides[1].is_empty() && !sides[0].is_empty() {
            // Factors behind the sum are met by axes that the sum alone may lack.
            let cost = sides.iter().map(|side| multiplied(v, side)).sum::<f64>() + after.len() as f64 * result;
            found.push(Way { sides, after, cost });
        }
    }
    found
}

/// Smallest first, so that small factors meet before they meet a large one; equal sizes in the order of the text.
fn sorted(v: &dyn Values, mut side: Vec<usize>) -> Vec<usize> {
    side.sort_by(|a, b| elements(v, &v.ty(*a).axes).total_cmp(&elements(v, &v.ty(*b).axes)));
    side
}

/// Elements of all products on the way.
fn multiplied(v: &dyn Values, side: &[usize]) -> f64 {
    let mut axes: Vec<AxisId> = vec![];
    let mut cost = 0.0;
    for (n, factor) in side.iter().enumerate() {
        axes = shape::union(&axes, &v.ty(*factor).axes);
        cost += if n > 0 { elements(v, &axes) } else { 0.0 };
    }
    cost
}

impl Way {
    fn built(self, over: Vec<AxisId>) -> New {
        let times = |a: New, b: New| New::Make(Op::Binary(Binary::Mul), vec![a, b]);
        let product = |side: Vec<usize>| side.into_iter().map(New::Old).reduce(times);
        let sides = self.sides.into_iter().filter_map(product).collect();
        self.after.into_iter().map(New::Old).fold(New::Make(Op::Contract(over), sides), times)
    }
}
