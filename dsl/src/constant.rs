//! Arithmetic on compile-time values.

use std::fmt::Write as _;

use crate::model::{Binary, Constant, Constant::*, Unary};

/// A compile-time result, or one sentence that says why there is none.
pub type Computed = Result<Constant, String>;

/// The name of a constant's type.
pub fn type_name(value: &Constant) -> &'static str {
    match value {
        Int(_) => "int",
        Float(_) => "float",
        Bool(_) => "bool",
        Text(_) => "string",
        List(_) => "list",
    }
}

/// A constant as the language writes it.
pub fn render(value: &Constant) -> String {
    match value {
        Int(v) => v.to_string(),
        Float(v) if v.is_infinite() => if *v > 0.0 { "inf" } else { "-inf" }.into(),
        Float(v) => float_text(*v),
        Bool(v) => v.to_string(),
        Text(v) => {
            let mut out = String::from("\"");
            for c in v.chars() {
                match c {
                    '"' | '\\' => {
                        let _ = write!(out, "\\{c}");
                    }
                    '\n' => out.push_str("\\n"),
                    '\t' => out.push_str("\\t"),
                    other => out.push(other),
                }
            }
            out + "\""
        }
        List(items) => format!("[{}]", items.iter().map(render).collect::<Vec<_>>().join(", ")),
    }
}

fn float_text(value: f64) -> String {
    let magnitude = value.abs();
    if value != 0.0 && !(1e-4..1e7).contains(&magnitude) { format!("{value:e}") } else { format!("{value:?}") }
}

/// The number in a constant.
pub fn number(value: &Constant) -> Option<f64> {
    match value {
        Int(v) => Some(*v as f64),
        Float(v) => Some(*v),
        _ => None,
    }
}

/// Equality; a whole number equals the same real number.
pub fn equal(a: &Constant, b: &Constant) -> bool {
    match (a, b) {
        (List(a), List(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal(a, b)),
        _ => match (number(a), number(b)) {
            (Some(a), Some(b)) => a == b,
            _ => a == b,
        },
    }
}

/// `a op b`.
pub fn binary(op: Binary, a: &Constant, b: &Constant) -> Computed {
    match (op, a, b) {
        (Binary::Eq, ..) => Ok(Bool(equal(a, b))),
        (Binary::Ne, ..) => Ok(Bool(!equal(a, b))),
        (Binary::And, Bool(a), Bool(b)) => Ok(Bool(*a && *b)),
        (Binary::Or, Bool(a), Bool(b)) => Ok(Bool(*a || *b)),
        (Binary::Add, Text(a), Text(b)) => Ok(Text(format!("{a}{b}"))),
        (Binary::Add, List(a), List(b)) => Ok(List(a.iter().chain(b).cloned().collect())),
        (_, Int(a), Int(b)) => int_binary(op, *a, *b),
        _ => match (number(a), number(b)) {
            (Some(x), Some(y)) => float_binary(op, x, y),
            _ => Err(format!("{} does not work on {} and {}", word(op), type_name(a), type_name(b))),
        },
    }
}

fn int_binary(op: Binary, a: i64, b: i64) -> Computed {
    let overflow = || format!("{a} {} {b} is too large", word(op));
    let value = match op {
        Binary::Add => a.checked_add(b),
        Binary::Sub => a.checked_sub(b),
        Binary::Mul => a.checked_mul(b),
        Binary::Div if b == 0 => return Err("division by zero".into()),
        Binary::Div if a.checked_rem(b) == Some(0) => a.checked_div(b),
        Binary::Div => return Ok(Float(a as f64 / b as f64)),
        Binary::Rem if b == 0 => return Err("division by zero".into()),
        Binary::Rem => a.checked_rem_euclid(b),
        Binary::Pow if b >= 0 => u32::try_from(b).ok().and_then(|b| a.checked_pow(b)),
        Binary::Min => Some(a.min(b)),
        Binary::Max => Some(a.max(b)),
        _ => return float_binary(op, a as f64, b as f64),
    };
    value.map(Int).ok_or_else(overflow)
}

fn float_binary(op: Binary, a: f64, b: f64) -> Computed {
    let value = match op {
        Binary::Add => a + b,
        Binary::Sub => a - b,
        Binary::Mul => a * b,
        Binary::Div | Binary::Rem if b == 0.0 => return Err("division by zero".into()),
        Binary::Div => a / b,
        Binary::Rem => a.rem_euclid(b),
        Binary::Pow => a.powf(b),
        Binary::Min => a.min(b),
        Binary::Max => a.max(b),
        Binary::Lt => return Ok(Bool(a < b)),
        Binary::Le => return Ok(Bool(a <= b)),
        Binary::Gt => return Ok(Bool(a > b)),
        Binary::Ge => return Ok(Bool(a >= b)),
        _ => return Err(format!("{} does not work on numbers", word(op))),
    };
    if value.is_nan() { Err(format!("{a} {} {b} is not a number", word(op))) } else { Ok(Float(value)) }
}

/// The operator's sign.
pub fn word(op: Binary) -> &'static str {
    match op {
        Binary::Add => "+",
        Binary::Sub => "-",
        Binary::Mul => "*",
        Binary::Div => "/",
        Binary::Pow => "^",
        Binary::Min => "min",
        Binary::Max => "max",
        Binary::Rem => "%",
        Binary::Lt => "<",
        Binary::Le => "<=",
        Binary::Gt => ">",
        Binary::Ge => ">=",
        Binary::Eq => "==",
        Binary::Ne => "!=",
        Binary::And => "&&",
        Binary::Or => "||",
    }
}

/// `f(a)` for the functions that tensors have too.
pub fn unary(op: Unary, value: &Constant) -> Computed {
    if let (Unary::Not, Bool(v)) = (op, value) {
        return Ok(Bool(!v));
    }
    if let Int(v) = value {
        match op {
            Unary::Neg => return v.checked_neg().map(Int).ok_or_else(|| format!("-{v} is too large")),
            Unary::Abs => return v.checked_abs().map(Int).ok_or_else(|| format!("|{v}| is too large")),
            Unary::Floor | Unary::Round => return Ok(Int(*v)),
            _ => {}
        }
    }
    let Some(x) = number(value) else { return Err(format!("{op:?} does not work on a {}", type_name(value))) };
    let result = match op {
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
        Unary::Erf | Unary::Not => return Err(format!("{op:?} does not work on a compile-time {}", type_name(value))),
    };
    if result.is_nan() { Err(format!("{op:?} of {x} is not a number")) } else { Ok(Float(result)) }
}

/// Names of the functions that only compile-time values have.
pub const FUNCTIONS: &[&str] = &["len", "ceil", "round_up", "int", "contains", "range", "chars"];

/// A function that only compile-time values have; `None` if there is none of that name.
pub fn function(name: &str, args: &[Constant]) -> Option<Computed> {
    let result = match (name, args) {
        ("len", [List(v)]) => Ok(Int(v.len() as i64)),
        ("len", [Text(v)]) => Ok(Int(v.chars().count() as i64)),
        ("contains", [List(list), v]) => Ok(Bool(list.iter().any(|x| equal(x, v)))),
        ("contains", [Text(text), Text(v)]) => Ok(Bool(text.contains(v.as_str()))),
        ("ceil", [v]) => rounded(v, f64::ceil),
        ("int", [v]) => rounded(v, f64::trunc),
        ("round_up", [Int(x), Int(n)]) if *n > 0 => {
            let sum = x.checked_add(n - 1).ok_or_else(|| "the number is too large".to_owned());
            sum.map(|s| Int(s.div_euclid(*n) * n))
        }
        ("range", [Int(n)]) if *n <= 1 << 20 => Ok(List((0..*n).map(Int).collect())),
        ("chars", [Text(v)]) => Ok(List(v.chars().map(|c| Text(c.to_string())).collect())),
        _ if FUNCTIONS.contains(&name) => {
            let types: Vec<_> = args.iter().map(type_name).collect();
            Err(format!("`{name}` does not take ({})", types.join(", ")))
        }
        _ => return None,
    };
    Some(result)
}

fn rounded(value: &Constant, f: impl Fn(f64) -> f64) -> Computed {
    match value {
        Int(v) => Ok(Int(*v)),
        Float(v) if f(*v).abs() < 9e15 => Ok(Int(f(*v) as i64)),
        Bool(v) => Ok(Int(i64::from(*v))),
        other => Err(format!("{} has no whole number", render(other))),
    }
}

/// `list[i]`.
pub fn element(list: &Constant, at: &Constant) -> Computed {
    match (list, at) {
        (List(items), Int(i)) => usize::try_from(*i)
            .ok()
            .and_then(|i| items.get(i))
            .cloned()
            .ok_or_else(|| format!("index {i} is outside the list of {}", items.len())),
        _ => Err(format!("a {} cannot be indexed by a {}", type_name(list), type_name(at))),
    }
}

/// The pointwise function of that name.
pub fn unary_named(name: &str) -> Option<Unary> {
    Some(match name {
        "exp" => Unary::Exp,
        "log" => Unary::Log,
        "sqrt" => Unary::Sqrt,
        "rsqrt" => Unary::Rsqrt,
        "sigmoid" => Unary::Sigmoid,
        "tanh" => Unary::Tanh,
        "softplus" => Unary::Softplus,
        "erf" => Unary::Erf,
        "sin" => Unary::Sin,
        "cos" => Unary::Cos,
        "abs" => Unary::Abs,
        "floor" => Unary::Floor,
        "round" => Unary::Round,
        _ => return None,
    })
}

/// The constants that have a name.
pub fn named(name: &str) -> Option<Constant> {
    Some(match name {
        "true" => Bool(true),
        "false" => Bool(false),
        "inf" => Float(f64::INFINITY),
        "pi" => Float(std::f64::consts::PI),
        _ => return None,
    })
}
