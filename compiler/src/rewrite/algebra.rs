//! Identities of arithmetic and logic.

use super::{New, Rule, Values};
use braid_dsl::model::{Binary, Elem, Op, Unary};

/// The family.
pub const RULES: &[Rule] = &[
    Rule { name: "x * 1 == x", apply: |v, id| same(v, id, Binary::Mul, 1.0, true) },
    Rule { name: "x + 0 == x", apply: |v, id| same(v, id, Binary::Add, 0.0, true) },
    Rule { name: "x - 0 == x", apply: |v, id| same(v, id, Binary::Sub, 0.0, false) },
    Rule { name: "x / 1 == x", apply: |v, id| same(v, id, Binary::Div, 1.0, false) },
    Rule { name: "x ^ 1 == x", apply: |v, id| same(v, id, Binary::Pow, 1.0, false) },
    Rule { name: "-(-x) == x", apply: |v, id| undone(v, id, Unary::Neg, Unary::Neg) },
    Rule { name: "!(!x) == x", apply: |v, id| undone(v, id, Unary::Not, Unary::Not) },
    Rule { name: "exp(log x) == x", apply: |v, id| undone(v, id, Unary::Exp, Unary::Log) },
    Rule { name: "log(exp x) == x", apply: |v, id| undone(v, id, Unary::Log, Unary::Exp) },
    Rule { name: "x * -1 == -x", apply: minus_one },
    Rule { name: "0 - x == -x", apply: zero_minus },
    Rule { name: "x + -y == x - y", apply: plus_minus },
    Rule { name: "x - -y == x + y", apply: minus_minus },
    Rule { name: "x / c == x * (1 / c)", apply: by_constant },
    Rule { name: "x ^ 2 == x * x, and the like", apply: power },
    Rule { name: "1 / sqrt x == rsqrt x", apply: one_over_root },
    Rule { name: "(x * b) * c == x * (b * c)", apply: constants_meet },
    Rule { name: "x & true == x, x | false == x", apply: logic },
    Rule { name: "select(c, x, x) == x", apply: select },
    Rule { name: "float of a float == it", apply: to_float },
];

fn binary(v: &dyn Values, id: usize, f: Binary) -> Option<(usize, usize)> {
    let args = v.args(id);
    (*v.op(id) == Op::Binary(f)).then(|| (args[0], args[1]))
}

fn unary(v: &dyn Values, id: usize, f: Unary) -> Option<usize> {
    (*v.op(id) == Op::Unary(f)).then(|| v.args(id)[0])
}

fn make(f: Binary, a: New, b: New) -> Option<New> {
    Some(New::Make(Op::Binary(f), vec![a, b]))
}

fn same(v: &dyn Values, id: usize, f: Binary, neutral: f64, commutes: bool) -> Option<New> {
    let (a, b) = binary(v, id, f)?;
    if v.number(b) == Some(neutral) {
        return Some(New::Old(a));
    }
    (commutes && v.number(a) == Some(neutral)).then_some(New::Old(b))
}

fn undone(v: &dyn Values, id: usize, outer: Unary, inner: Unary) -> Option<New> {
    unary(v, unary(v, id, outer)?, inner).map(New::Old)
}

/// The operand that is not the constant, and the constant.
fn with_number(v: &dyn Values, id: usize) -> Option<(usize, f64)> {
    let (a, b) = binary(v, id, Binary::Mul)?;
    v.number(b).map(|number| (a, number)).or_else(|| v.number(a).map(|number| (b, number)))
}

fn minus_one(v: &dyn Values, id: usize) -> Option<New> {
    let (x, number) = with_number(v, id)?;
    (number == -1.0).then(|| New::Make(Op::Unary(Unary::Neg), vec![New::Old(x)]))
}

fn zero_minus(v: &dyn Values, id: usize) -> Option<New> {
    let (a, b) = binary(v, id, Binary::Sub)?;
    (v.number(a) == Some(0.0)).then(|| New::Make(Op::Unary(Unary::Neg), vec![New::Old(b)]))
}

fn plus_minus(v: &dyn Values, id: usize) -> Option<New> {
    let (a, b) = binary(v, id, Binary::Add)?;
    let of = |x, y| make(Binary::Sub, New::Old(x), New::Old(y));
    unary(v, b, Unary::Neg).and_then(|b| of(a, b)).or_else(|| unary(v, a, Unary::Neg).and_then(|a| of(b, a)))
}

fn minus_minus(v: &dyn Values, id: usize) -> Option<New> {
    let (a, b) = binary(v, id, Binary::Sub)?;
    make(Binary::Add, New::Old(a), New::Old(unary(v, b, Unary::Neg)?))
}

fn by_constant(v: &dyn Values, id: usize) -> Option<New> {
    let (a, b) = binary(v, id, Binary::Div)?;
    let number = 1.0 / v.number(b)?;
    // The reciprocal of a tiny number would overflow in single precision.
    let usable = (number as f32).is_normal() && v.number(a).is_none();
    (usable && v.ty(a).elem == Elem::Float).then(|| make(Binary::Mul, New::Old(a), New::Number(number, Elem::Float)))?
}

fn power(v: &dyn Values, id: usize) -> Option<New> {
    let (x, power) = binary(v, id, Binary::Pow)?;
    let one = |f| Some(New::Make(Op::Unary(f), vec![New::Old(x)]));
    match v.number(power)? {
        2.0 => make(Binary::Mul, New::Old(x), New::Old(x)),
        0.5 => one(Unary::Sqrt),
        -0.5 => one(Unary::Rsqrt),
        -1.0 => make(Binary::Div, New::Number(1.0, Elem::Float), New::Old(x)),
        _ => None,
    }
}

fn one_over_root(v: &dyn Values, id: usize) -> Option<New> {
    let (a, b) = binary(v, id, Binary::Div)?;
    let x = unary(v, b, Unary::Sqrt)?;
    (v.number(a) == Some(1.0)).then(|| New::Make(Op::Unary(Unary::Rsqrt), vec![New::Old(x)]))
}

fn constants_meet(v: &dyn Values, id: usize) -> Option<New> {
    let (inner, outer) = with_number(v, id)?;
    let (x, number) = with_number(v, inner)?;
    // An inner product that others read would be computed twice.
    let number = v.has_one_user(inner).then_some(New::Number(number * outer, v.ty(id).elem))?;
    make(Binary::Mul, New::Old(x), number)
}

fn logic(v: &dyn Values, id: usize) -> Option<New> {
    same(v, id, Binary::And, 1.0, true).or_else(|| same(v, id, Binary::Or, 0.0, true))
}

fn select(v: &dyn Values, id: usize) -> Option<New> {
    let args = v.args(id);
    let is_same = matches!(v.op(id), Op::Select) && args[1] == args[2];
    is_same.then(|| New::Old(args[1]))
}

fn to_float(v: &dyn Values, id: usize) -> Option<New> {
    let x = *v.args(id).first()?;
    (matches!(v.op(id), Op::ToFloat) && v.ty(x).elem == Elem::Float).then_some(New::Old(x))
}
