//! Views of views, and views that show nothing new.

use super::{New, Rule, Values};
use crate::graph::shape;
use braid_dsl::model::{AxisId, Op};

/// The family.
pub const RULES: &[Rule] = &[
    Rule { name: "x[a as a] == x", apply: nothing },
    Rule { name: "x[a as b][b as c] == x[a as c]", apply: renamed_twice },
    Rule { name: "x[a as (b, c)][(b, c) as a] == x, and back", apply: undone },
    Rule { name: "x[a: i.. as b][b: j.. as c] == x[a: i + j.. as c]", apply: sliced_twice },
    Rule { name: "x[a: i.. as b][b: j] == x[a: i + j]", apply: picked_slice },
    Rule { name: "a part of concat(x, y) that lies in x == that part of x", apply: part_of_concat },
    Rule { name: "reduce[] x == x", apply: over_nothing },
];

fn length(v: &dyn Values, axis: AxisId) -> Option<usize> {
    shape::size(v.axes(), axis)
}

fn only(v: &dyn Values, id: usize) -> usize {
    v.args(id)[0]
}

fn nothing(v: &dyn Values, id: usize) -> Option<New> {
    let is_same = match v.op(id) {
        Op::Rename(from, to) => from == to,
        Op::Slice { axis, to, .. } => axis == to,
        Op::Split(from, to) | Op::Merge(to, from) => to[..] == [*from],
        _ => false,
    };
    is_same.then(|| New::Old(only(v, id)))
}

fn renamed_twice(v: &dyn Values, id: usize) -> Option<New> {
    let Op::Rename(between, to) = v.op(id) else { return None };
    let inner = only(v, id);
    let Op::Rename(from, middle) = v.op(inner) else { return None };
    let x = New::Old(only(v, inner));
    match middle == between {
        true if from == to => Some(x),
        true => Some(New::Make(Op::Rename(*from, *to), vec![x])),
        false => None,
    }
}

fn undone(v: &dyn Values, id: usize) -> Option<New> {
    let x = *v.args(id).first()?;
    let is_same = match (v.op(id), v.op(x)) {
        (Op::Merge(parts, whole), Op::Split(from, to)) | (Op::Split(whole, parts), Op::Merge(to, from)) => {
            parts == to && whole == from
        }
        _ => false,
    };
    is_same.then(|| New::Old(only(v, x)))
}

fn sliced_twice(v: &dyn Values, id: usize) -> Option<New> {
    let Op::Slice { axis: between, start, to } = v.op(id) else { return None };
    let inner = only(v, id);
    let Op::Slice { axis, start: first, to: middle } = v.op(inner) else { return None };
    let slice = Op::Slice { axis: *axis, start: first + start, to: *to };
    (middle == between).then(|| New::Make(slice, vec![New::Old(only(v, inner))]))
}

fn picked_slice(v: &dyn Values, id: usize) -> Option<New> {
    let Op::Pick { axis: between, index } = v.op(id) else { return None };
    let inner = only(v, id);
    let Op::Slice { axis, start, to } = v.op(inner) else { return None };
    let pick = Op::Pick { axis: *axis, index: start + index };
    (to == between).then(|| New::Make(pick, vec![New::Old(only(v, inner))]))
}

fn part_of_concat(v: &dyn Values, id: usize) -> Option<New> {
    let (axis, start, count) = match v.op(id) {
        Op::Slice { axis, start, to } => (*axis, *start, length(v, *to)?),
        Op::Pick { axis, index } => (*axis, *index, 1),
        _ => return None,
    };
    let whole = only(v, id);
    let Op::Concat(parts, to) = v.op(whole) else { return None };
    let mut begin = 0;
    for (part, x) in parts.iter().zip(v.args(whole)) {
        let size = length(v, *part)?;
        if *to == axis && begin <= start && start + count <= begin + size {
            let op = match v.op(id) {
                Op::Slice { to, .. } if count == size => Op::Rename(*part, *to),
                Op::Slice { to, .. } => Op::Slice { axis: *part, start: start - begin, to: *to },
                _ => Op::Pick { axis: *part, index: start - begin },
            };
            return Some(New::Make(op, vec![New::Old(x)]));
        }
        begin += size;
    }
    None
}

fn over_nothing(v: &dyn Values, id: usize) -> Option<New> {
    let is_empty = matches!(v.op(id), Op::Reduce(_, over) if over.is_empty());
    is_empty.then(|| New::Old(only(v, id)))
}
