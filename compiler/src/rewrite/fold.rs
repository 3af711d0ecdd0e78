//! Operations on constants, done while compiling.

use super::{New, Rule, Values};
use braid_dsl::model::{Binary, Op, Unary};

/// The family.
pub const RULES: &[Rule] = &[
    Rule { name: "f(constant) is a constant", apply: one },
    Rule { name: "f(constant, constant) is a constant", apply: two },
    Rule { name: "select(true, x, y) == x", apply: select },
    Rule { name: "float(constant) is a constant", apply: to_float },
];

fn one(v: &dyn Values, id: usize) -> Option<New> {
    let Op::Unary(f) = v.op(id) else { return None };
    let x = v.number(v.args(id)[0])?;
    finite(v, id, unary(*f, x)?)
}

fn two(v: &dyn Values, id: usize) -> Option<New> {
    let Op::Binary(f) = v.op(id) else { return None };
    let args = v.args(id);
    finite(v, id, binary(*f, v.number(args[0])?, v.number(args[1])?))
}

/// Numbers that are none stay where they arise.
fn finite(v: &dyn Values, id: usize, number: f64) -> Option<New> {
    (!number.is_nan()).then(|| New::Number(number, v.ty(id).elem))
}

fn select(v: &dyn Values, id: usize) -> Option<New> {
    let args = v.args(id);
    let condition = matches!(v.op(id), Op::Select).then(|| v.number(args[0]))??;
    Some(New::Old(if condition != 0.0 { args[1] } else { args[2] }))
}

fn to_float(v: &dyn Values, id: usize) -> Option<New> {
    let x = matches!(v.op(id), Op::ToFloat).then(|| v.number(v.args(id)[0]))??;
    finite(v, id, x)
}

fn unary(f: Unary, x: f64) -> Option<f64> {
    Some(match f {
        Unary::Neg => -x,
        Unary::Exp => x.exp(),
        Unary::Log => x.ln(),
        Unary::Sqrt => x.sqrt(),
        Unary::Rsqrt => 1.0 / x.sqrt(),
        Unary::Sigmoid => 1.0 / (1.0 + (-x).exp()),
        Unary::Tanh => x.tanh(),
        Unary::Softplus => x.max(0.0) + (-x.abs()).exp().ln_1p(),
        Unary::Sin => x.sin(),
        Unary::Cos => x.cos(),
        Unary::Abs => x.abs(),
        Unary::Floor => x.floor(),
        Unary::Round => x.round_ties_even(),
        Unary::Not => truth(x == 0.0),
        // There is none in the standard library.
        Unary::Erf => return None,
    })
}

fn binary(f: Binary, a: f64, b: f64) -> f64 {
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
