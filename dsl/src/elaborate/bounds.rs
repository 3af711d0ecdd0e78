//! Indices inside of the axis that they choose from: what may lie outside becomes the nearest place.

use super::{Done, Elab, T};
use crate::model::{AxisId, Binary, Elem, Gives, Op, ScopeId, Type, Unary, ValueId};
use crate::span::Span;
use std::collections::HashMap;

/// How far back an index is looked at.
const DEPTH: usize = 64;
/// The whole numbers of 32 bits: what may be any number.
const ANY: [f64; 2] = [i32::MIN as f64, i32::MAX as f64];

/// What is known of values, by level.
type Ranges = HashMap<(usize, ValueId), [f64; 2]>;

impl Elab<'_> {
    /// An index of a table's axis that lies inside of it. Inputs and positions are left as they are where they are the index itself: whoever runs
    /// the model checks them before a call.
    pub(super) fn inside(&mut self, table: T, axis: AxisId, ids: T, span: Span, scope: ScopeId) -> Done<T> {
        let checked = table.level == 0 && ids.level == 0 && matches!(self.at(ids).op, Op::Input(_) | Op::Position(_));
        let pairs = self.levels[table.level.max(ids.level)].positions.is_some();
        if checked || pairs {
            return Ok(ids);
        }
        let last = self.size(axis) as f64 - 1.0;
        let [least, most] = self.range(ids, DEPTH, &mut HashMap::new());
        let mut ids = ids;
        for (outside, f, bound) in [(most > last, Binary::Min, last), (least < 0.0, Binary::Max, 0.0)] {
            if outside {
                let bound = self.push(Op::Const(bound), vec![], Type { elem: Elem::Int, axes: vec![] }, span, scope);
                ids = self.binary(f, ids, bound, span, scope)?;
            }
        }
        Ok(ids)
    }

    /// The least and the largest number that a tensor of whole numbers may hold.
    fn range(&self, t: T, depth: usize, known: &mut Ranges) -> [f64; 2] {
        if depth == 0 {
            return ANY;
        }
        if let Some(range) = known.get(&(t.level, t.id)) {
            return *range;
        }
        let [least, most] = self.range_of(t, depth, known);
        // A sum or product may leave the whole numbers of 32 bits, and then be any of them.
        let range = if least >= ANY[0] && most <= ANY[1] { [least, most] } else { ANY };
        known.insert((t.level, t.id), range);
        range
    }

    fn range_of(&self, t: T, depth: usize, known: &mut Ranges) -> [f64; 2] {
        let value = self.at(t);
        let mut arg = |n: usize| self.range(T { id: value.args[n], ..t }, depth - 1, known);
        let negated = |[least, most]: [f64; 2]| [-most, -least];
        match &value.op {
            Op::Const(number) => [*number, *number],
            Op::Index(axis) => [0.0, self.size(*axis) as f64 - 1.0],
            Op::Top { axis, .. } => [0.0, self.size(*axis) as f64 - 1.0],
            Op::Position(_) | Op::Length(..) => [0.0, ANY[1]],
            Op::Attend(attend) if matches!(attend.gives, Gives::Best(_)) => [-1.0, ANY[1]],
            Op::Capture(n) => self.range(self.levels[t.level].captures[*n], depth - 1, known),
            Op::Unary(Unary::Neg) => negated(arg(0)),
            Op::Binary(f) => between(*f, arg(0), arg(1)),
            Op::Select => joined(arg(1), arg(2)),
            Op::Shift(_) | Op::Fetch(..) => joined(arg(0), [0.0, 0.0]),
            Op::Concat(..) => (0..value.args.len()).map(arg).reduce(joined).unwrap_or(ANY),
            Op::Rename(..) | Op::Slice { .. } | Op::Pick { .. } | Op::Split(..) | Op::Merge(..) | Op::Gather(_) => arg(0),
            _ => ANY,
        }
    }
}

fn joined(a: [f64; 2], b: [f64; 2]) -> [f64; 2] {
    [a[0].min(b[0]), a[1].max(b[1])]
}

fn between(f: Binary, a: [f64; 2], b: [f64; 2]) -> [f64; 2] {
    match f {
        Binary::Add => [a[0] + b[0], a[1] + b[1]],
        Binary::Sub => [a[0] - b[1], a[1] - b[0]],
        Binary::Min => [a[0].min(b[0]), a[1].min(b[1])],
        Binary::Max => [a[0].max(b[0]), a[1].max(b[1])],
        Binary::Mul => {
            let all = [a[0] * b[0], a[0] * b[1], a[1] * b[0], a[1] * b[1]];
            all.into_iter().fold([f64::INFINITY, f64::NEG_INFINITY], |[least, most], x| [least.min(x), most.max(x)])
        }
        // The sign is that of what is divided.
        Binary::Rem if b[0] >= 1.0 => [if a[0] < 0.0 { 1.0 - b[1] } else { 0.0 }, a[1].clamp(0.0, b[1] - 1.0)],
        _ => ANY,
    }
}
