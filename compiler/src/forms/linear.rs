//! Comparisons of positions as linear forms.

use braid_dsl::model::{Binary, Body, Op, Unary, ValueId};

/// `query·q + key·k + constant`, or with the start of the key's block of `start` positions in the key's place, or that of the query's block
/// of `own` positions in the query's.
#[derive(Clone, Copy)]
pub(super) struct Linear {
    pub(super) query: i64,
    pub(super) key: i64,
    pub(super) start: i64,
    pub(super) own: i64,
    pub(super) constant: i64,
}

impl Linear {
    const ZERO: Linear = Linear { query: 0, key: 0, start: 0, own: 0, constant: 0 };

    pub(super) fn minus(self, other: Linear) -> Linear {
        Linear {
            query: self.query - other.query,
            key: self.key - other.key,
            start: self.start - other.start,
            own: self.own - other.own,
            constant: self.constant.saturating_sub(other.constant),
        }
    }
    pub(super) fn plus(self, constant: i64) -> Linear {
        Linear { constant: self.constant.saturating_add(constant), ..self }
    }
    pub(super) fn negated(self) -> Linear {
        Linear::ZERO.minus(self)
    }
}

pub(super) fn linear(body: &Body, id: ValueId) -> Option<Linear> {
    let value = &body.values[id.0 as usize];
    let arg = |n: usize| linear(body, value.args[n]);
    match &value.op {
        Op::QueryPosition => Some(Linear { query: 1, ..Linear::ZERO }),
        Op::KeyPosition => Some(Linear { key: 1, ..Linear::ZERO }),
        Op::Const(c) if c.fract() == 0.0 && c.abs() < 1e15 => Some(Linear::ZERO.plus(*c as i64)),
        Op::ToFloat => arg(0),
        Op::Unary(Unary::Neg) => Some(arg(0)?.negated()),
        Op::Binary(Binary::Sub) => match block_start(body, value.args[0], value.args[1]) {
            Some((Op::KeyPosition, start)) => Some(Linear { start, ..Linear::ZERO }),
            Some((_, own)) => Some(Linear { own, ..Linear::ZERO }),
            None => Some(arg(0)?.minus(arg(1)?)),
        },
        Op::Binary(Binary::Add) => Some(arg(0)?.minus(arg(1)?.negated())),
        _ => None,
    }
}

/// `key - key % n`, or the same of the query: where its block of `n` positions begins.
fn block_start(body: &Body, of: ValueId, rest: ValueId) -> Option<(Op, i64)> {
    let [of, rest] = [of, rest].map(|id| &body.values[id.0 as usize]);
    if !matches!(of.op, Op::KeyPosition | Op::QueryPosition) {
        return None;
    }
    match (&rest.op, &rest.args[..]) {
        (Op::Binary(Binary::Rem), [same, n]) if body.values[same.0 as usize].op == of.op => match body.values[n.0 as usize].op {
            Op::Const(n) if n >= 1.0 && n.fract() == 0.0 && n < 1e9 => Some((of.op.clone(), n as i64)),
            _ => None,
        },
        _ => None,
    }
}

/// `difference op 0` as `form < 0` over whole numbers.
pub(super) fn less(op: Binary, difference: Linear) -> Option<Linear> {
    Some(match op {
        Binary::Lt => difference,
        Binary::Le => difference.plus(-1),
        Binary::Gt => difference.negated(),
        Binary::Ge => difference.negated().plus(-1),
        _ => return None,
    })
}

/// The comparison that holds where this one does not.
pub(super) fn negated(op: Binary) -> Option<Binary> {
    Some(match op {
        Binary::Lt => Binary::Ge,
        Binary::Le => Binary::Gt,
        Binary::Gt => Binary::Le,
        Binary::Ge => Binary::Lt,
        _ => return None,
    })
}
