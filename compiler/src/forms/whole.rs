//! Where a `keep` predicate holds for many queries and keys at once: there nobody needs to ask it.

use super::linear::{less, linear, negated};
use braid_dsl::model::{Attend, Binary, Body, Op, Unary, ValueId};

/// `query · query's position + key · key's position + constant`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    /// Factor of the query's position.
    pub query: i64,
    /// Factor of the key's position.
    pub key: i64,
    /// What is added.
    pub constant: i64,
}

/// What is known of a predicate for many queries and keys at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whole {
    /// It holds for all.
    Always,
    /// It holds where this is below zero.
    Below(Form),
    /// It holds where both do.
    Both(Box<[Whole; 2]>),
    /// It holds where one of them does.
    Either(Box<[Whole; 2]>),
}

/// Where the `keep` of an attention holds, as far as comparisons of positions tell: where this does not say so, it may hold too. None: that has
/// to be asked for each query and key.
pub fn whole(attend: &Attend) -> Option<Whole> {
    holds(&attend.keep, attend.keep_result)
}

fn holds(body: &Body, id: ValueId) -> Option<Whole> {
    let value = &body.values[id.0 as usize];
    let arg = |n: usize| holds(body, value.args[n]);
    match &value.op {
        Op::Const(truth) => (*truth != 0.0).then_some(Whole::Always),
        Op::Binary(Binary::And) => Some(Whole::Both(Box::new([arg(0)?, arg(1)?]))),
        Op::Binary(Binary::Or) => match (arg(0), arg(1)) {
            (Some(a), Some(b)) => Some(Whole::Either(Box::new([a, b]))),
            (one, other) => one.or(other),
        },
        Op::Binary(op) => holds_compared(body, *op, [value.args[0], value.args[1]]),
        Op::Unary(Unary::Not) => match &body.values[value.args[0].0 as usize] {
            inner if matches!(inner.op, Op::Binary(_)) => {
                let Op::Binary(op) = inner.op else { return None };
                holds_compared(body, negated(op)?, [inner.args[0], inner.args[1]])
            }
            _ => None,
        },
        _ => None,
    }
}

fn holds_compared(body: &Body, op: Binary, [a, b]: [ValueId; 2]) -> Option<Whole> {
    let form = less(op, linear(body, a)?.minus(linear(body, b)?))?;
    let plain = form.start == 0 && form.own == 0 && form.constant.abs() < 1 << 30;
    plain.then_some(Whole::Below(Form { query: form.query, key: form.key, constant: form.constant }))
}
