//! Nothing of a model that generates token by token may look ahead.

use super::SEQ;
use crate::diagnostic::{Code, Diagnostic};
use crate::model::{Binary, Body, Gives, Held, Op, Scope, ScopeId, Unary, Value, ValueId};

/// An error for each attention whose `keep` does not imply `key <= query`, or `key < n` for some number, and for whatever else knows more of
/// the sequence than what is before.
pub fn check(values: &[Value], scopes: &[Scope]) -> Vec<Diagnostic> {
    let mut errors: Vec<Diagnostic> = Vec::new();
    for value in values {
        if let Op::Fetch(SEQ, Held::Sequence)
        | Op::Length(SEQ, Held::Sequence)
        | Op::Largest { seq: SEQ, held: Held::Sequence, .. } = value.op
        {
            let message = "an autoregressive model knows neither the length of its text nor what stands at any position";
            let error = Diagnostic::new(Code::NonCausal, value.span, message);
            let error = in_block(error, scopes, value.scope);
            errors.push(error.hint("look back by `shift(x, n)` or attention, look around in its prompt (`x[prompt: n]`, `length[prompt]`), or drop `generate autoregressive`"));
        }
        // A source is there as a whole, and so is a prompt.
        let Op::Attend(attend) = &value.op else { continue };
        let tallies = matches!(attend.gives, Gives::Tally { .. });
        if attend.keys != SEQ
            || tallies
            || implies(&attend.keep, attend.keep_result)
            || errors.iter().any(|e| e.span == value.span)
        {
            continue;
        }
        let message = "non-causal attention in an autoregressive model: a query would see later keys";
        let error = Diagnostic::new(Code::NonCausal, value.span, message);
        errors.push(
            in_block(error, scopes, value.scope)
                .label("`keep` does not imply `key <= query`")
                .hint("add `causal() &` to `keep`, or drop `generate autoregressive`"),
        );
    }
    errors
}

/// An error with the instance that it happens in, if that is not the model itself.
fn in_block(error: Diagnostic, scopes: &[Scope], scope: ScopeId) -> Diagnostic {
    let of = |id: ScopeId| scopes.get(id.0 as usize);
    let (Some(own), mut path, mut at) = (of(scope), Vec::new(), Some(scope)) else { return error };
    while let Some(scope) = at.and_then(of).filter(|scope| scope.parent.is_some()) {
        path.push(scope.name.as_str());
        at = scope.parent;
    }
    path.reverse();
    let known = own.block != "repeat" && !path.is_empty();
    if known { error.note(format!("in `{}`, called as `{}`", own.block, path.join("."))) } else { error }
}

/// Whether a `keep` lets a query see itself and whatever is before, and no more.
pub fn sees_all_before(body: &Body, result: ValueId) -> bool {
    let value = &body.values[result.0 as usize];
    let is = |n: usize, op: Op| value.args.get(n).is_some_and(|id| body.values[id.0 as usize].op == op);
    match value.op {
        Op::Binary(Binary::Le) => is(0, Op::KeyPosition) && is(1, Op::QueryPosition),
        Op::Binary(Binary::Ge) => is(0, Op::QueryPosition) && is(1, Op::KeyPosition),
        _ => false,
    }
}

fn implies(body: &Body, id: ValueId) -> bool {
    let value = &body.values[id.0 as usize];
    let of = |n: usize| implies(body, value.args[n]);
    match &value.op {
        Op::Binary(Binary::And) => of(0) || of(1),
        Op::Binary(Binary::Or) => of(0) && of(1),
        Op::Const(c) => *c == 0.0,
        Op::Binary(op) => {
            let (Some(a), Some(b)) = (linear(body, value.args[0]), linear(body, value.args[1])) else { return false };
            let d = [a[0] - b[0], a[1] - b[1], a[2] - b[2], a[3] - b[3]];
            // As `form < 0` over whole numbers, where form = query·d0 + key·d1 + d2 + (start of the query's block)·d3.
            let form = match op {
                Binary::Lt => d,
                Binary::Le => [d[0], d[1], d[2] - 1.0, d[3]],
                Binary::Gt => d.map(|x| -x),
                Binary::Ge => [-d[0], -d[1], -d[2] - 1.0, -d[3]],
                Binary::Eq => return d[0] == -d[1] && d[0].abs() == 1.0 && d[2] * d[0] <= 0.0 && d[3] == 0.0,
                _ => return false,
            };
            // The query's block starts at or before the query.
            let form = if form[3] == -1.0 && form[0] == 0.0 { [-1.0, form[1], form[2], 0.0] } else { form };
            if form[3] != 0.0 {
                return false;
            }
            // The first keys of a sequence are there from the first call on.
            let prefix = form[0] == 0.0 && form[1] == 1.0;
            prefix || (form[0] == -1.0 && form[1] == 1.0 && form[2] >= -1.0)
        }
        _ => false,
    }
}

/// `[query, key, 1, start of the query's block]` coefficients; the blocks of one form have one length.
fn linear(body: &Body, id: ValueId) -> Option<[f64; 4]> {
    let value = &body.values[id.0 as usize];
    let arg = |n: usize| linear(body, value.args[n]);
    let join = |a: [f64; 4], b: [f64; 4], sign: f64| std::array::from_fn(|n| a[n] + sign * b[n]);
    match &value.op {
        Op::QueryPosition => Some([1.0, 0.0, 0.0, 0.0]),
        Op::KeyPosition => Some([0.0, 1.0, 0.0, 0.0]),
        Op::Const(c) => Some([0.0, 0.0, *c, 0.0]),
        Op::ToFloat => arg(0),
        Op::Unary(Unary::Neg) => Some(join([0.0; 4], arg(0)?, -1.0)),
        Op::Binary(Binary::Add) => Some(join(arg(0)?, arg(1)?, 1.0)),
        Op::Binary(Binary::Sub) if starts_block(body, value) => Some([0.0, 0.0, 0.0, 1.0]),
        Op::Binary(Binary::Sub) => Some(join(arg(0)?, arg(1)?, -1.0)),
        _ => None,
    }
}

/// `query - query % n`.
fn starts_block(body: &Body, value: &Value) -> bool {
    let of = |id: ValueId| &body.values[id.0 as usize];
    let rest = of(value.args[1]);
    rest.op == Op::Binary(Binary::Rem)
        && of(value.args[0]).op == Op::QueryPosition
        && of(rest.args[0]).op == Op::QueryPosition
        && matches!(of(rest.args[1]).op, Op::Const(n) if n >= 1.0)
}
