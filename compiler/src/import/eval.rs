//! Evaluates the expressions of an import rule over a configuration.

use super::syntax::{Expr, parse};
use super::value::Value;
use std::cell::RefCell;

/// What names mean: loop variables first, then the rule's `let`s, then the configuration's keys.
pub struct Scope<'a> {
    config: &'a Value,
    lets: &'a [(String, String)],
    /// Loop variables, and the lets being evaluated (whose own name then means the configuration's key).
    frames: RefCell<Vec<(String, Option<Value>)>>,
}

impl<'a> Scope<'a> {
    /// A scope over a configuration and named expressions.
    pub fn new(config: &'a Value, lets: &'a [(String, String)]) -> Self {
        Scope { config, lets, frames: RefCell::new(Vec::new()) }
    }

    /// The value of an expression.
    pub fn eval(&self, text: &str) -> Result<Value, String> {
        self.value(&parse(text)?)
    }

    fn value(&self, expr: &Expr) -> Result<Value, String> {
        match expr {
            Expr::Number(text) => number(text),
            Expr::Text(text) => Ok(Value::Text(text.clone())),
            Expr::Name(name) => self.name(name),
            Expr::Member(of, name) => Ok(self.value(of)?.member(name)),
            Expr::Item(of, at) => Ok(item(self.value(of)?, &self.value(at)?)),
            Expr::Call(name, args) => call(name, self.values(args)?),
            Expr::Block(name, args) => {
                let args = args.iter().map(|(key, arg)| Ok((key.clone(), known(self.value(arg)?)?)));
                Ok(Value::Block(name.clone(), args.collect::<Result<_, String>>()?))
            }
            Expr::Unary(op, of) => unary(*op, self.value(of)?),
            Expr::Binary("??", left, right) => match self.value(left)? {
                Value::Missing(_) => self.value(right),
                found => Ok(found),
            },
            Expr::Binary("||", left, right) => {
                if truth(self.value(left)?)? {
                    Ok(Value::Bool(true))
                } else {
                    self.value(right)
                }
            }
            Expr::Binary("&&", left, right) => {
                if truth(self.value(left)?)? {
                    self.value(right)
                } else {
                    Ok(Value::Bool(false))
                }
            }
            Expr::Binary(op, left, right) => binary(op, self.value(left)?, self.value(right)?),
            Expr::If(condition, yes, no) => self.value(if truth(self.value(condition)?)? { yes } else { no }),
            Expr::Match(of, arms) => self.choose(known(self.value(of)?)?, arms),
            Expr::List(items) => Ok(Value::List(self.values(items)?)),
            Expr::Each(body, name, over, only) => self.each(body, name, over, only.as_deref()),
        }
    }

    fn values(&self, exprs: &[Expr]) -> Result<Vec<Value>, String> {
        exprs.iter().map(|expr| self.value(expr)).collect()
    }

    fn name(&self, name: &str) -> Result<Value, String> {
        match name {
            "true" | "false" => return Ok(Value::Bool(name == "true")),
            "none" => return Ok(Value::None),
            "inf" => return Ok(Value::Float(f64::INFINITY)),
            _ => {}
        }
        let frame = self.frames.borrow().iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.clone());
        match (frame, self.lets.iter().find(|(key, _)| key == name)) {
            (Some(Some(value)), _) => Ok(value),
            (None, Some((_, text))) => self.within(name, None, || self.eval(text)),
            _ => Ok(self.config.member(name)),
        }
    }

    /// Evaluates with one more name in scope.
    fn within<T>(&self, name: &str, value: Option<Value>, inner: impl FnOnce() -> T) -> T {
        self.frames.borrow_mut().push((name.to_string(), value));
        let out = inner();
        self.frames.borrow_mut().pop();
        out
    }

    fn choose(&self, of: Value, arms: &[(Vec<Expr>, Expr)]) -> Result<Value, String> {
        for (patterns, body) in arms {
            if patterns.is_empty() || self.values(patterns)?.contains(&of) {
                return self.value(body);
            }
        }
        Err(format!("{} is none of the values that the rule knows", of.text()))
    }

    fn each(&self, body: &Expr, name: &str, over: &Expr, only: Option<&Expr>) -> Result<Value, String> {
        let Value::List(items) = known(self.value(over)?)? else { return Err(format!("`for {name} in` asks for a list")) };
        let mut out = Vec::new();
        for item in items {
            let kept =
                self.within(name, Some(item), || match only.map(|only| truth(self.value(only)?)).unwrap_or(Ok(true))? {
                    true => self.value(body).map(Some),
                    false => Ok(None),
                })?;
            out.extend(kept);
        }
        Ok(Value::List(out))
    }
}

/// The value, or an error that names the key which the configuration lacks.
pub fn known(value: Value) -> Result<Value, String> {
    match value {
        Value::Missing(path) => Err(format!("the configuration has no `{path}`")),
        found => Ok(found),
    }
}

/// The truth value.
pub fn truth(value: Value) -> Result<bool, String> {
    match known(value)? {
        Value::Bool(b) => Ok(b),
        other => Err(format!("{} is not true or false", other.text())),
    }
}

fn number(text: &str) -> Result<Value, String> {
    let whole = text.parse().map(Value::Int);
    whole.or_else(|_| text.parse().map(Value::Float)).map_err(|_| format!("`{text}` is not a number"))
}

fn item(of: Value, at: &Value) -> Value {
    match (of, at) {
        (Value::List(items), Value::Int(n)) => {
            usize::try_from(*n).ok().and_then(|n| items.get(n).cloned()).unwrap_or(Value::Missing(format!("[{n}]")))
        }
        (Value::Missing(path), _) => Value::Missing(path),
        (_, at) => Value::Missing(format!("[{}]", at.text())),
    }
}

fn unary(op: char, of: Value) -> Result<Value, String> {
    match (op, of) {
        (_, missing @ Value::Missing(_)) => Ok(missing),
        ('-', Value::Int(n)) => Ok(Value::Int(-n)),
        ('-', Value::Float(x)) => Ok(Value::Float(-x)),
        ('!', Value::Bool(b)) => Ok(Value::Bool(!b)),
        (op, of) => Err(format!("`{op}` does not apply to {}", of.text())),
    }
}

fn binary(op: &str, left: Value, right: Value) -> Result<Value, String> {
    if let (Value::Missing(path), _) | (_, Value::Missing(path)) = (&left, &right) {
        return Ok(Value::Missing(path.clone()));
    }
    match (op, &left, &right) {
        ("==", _, _) => return Ok(Value::Bool(equal(&left, &right))),
        ("!=", _, _) => return Ok(Value::Bool(!equal(&left, &right))),
        ("+", Value::List(a), Value::List(b)) => return Ok(Value::List([a.as_slice(), b].concat())),
        (_, Value::Int(a), Value::Int(b)) => {
            if let Some(found) = whole(op, *a, *b) {
                return Ok(found);
            }
        }
        _ => {}
    }
    match (left.number(), right.number()) {
        (Some(a), Some(b)) => real(op, a, b).ok_or_else(|| format!("`{op}` is not known")),
        _ => Err(format!("`{op}` does not apply to {} and {}", left.text(), right.text())),
    }
}

fn equal(left: &Value, right: &Value) -> bool {
    match (left.number(), right.number()) {
        (Some(a), Some(b)) => a == b,
        _ => left == right,
    }
}

/// Arithmetic that stays whole; `/` only where it divides.
fn whole(op: &str, a: i64, b: i64) -> Option<Value> {
    let n = match op {
        "+" => a.checked_add(b),
        "-" => a.checked_sub(b),
        "*" => a.checked_mul(b),
        "/" if b != 0 && a % b == 0 => a.checked_div(b),
        "%" if b != 0 => a.checked_rem_euclid(b),
        _ => None,
    };
    n.map(Value::Int)
}

fn real(op: &str, a: f64, b: f64) -> Option<Value> {
    Some(match op {
        "+" => Value::Float(a + b),
        "-" => Value::Float(a - b),
        "*" => Value::Float(a * b),
        "/" => Value::Float(a / b),
        "%" => Value::Float(a.rem_euclid(b)),
        "<" => Value::Bool(a < b),
        "<=" => Value::Bool(a <= b),
        ">" => Value::Bool(a > b),
        ">=" => Value::Bool(a >= b),
        _ => return None,
    })
}

/// The functions of rules. An argument that is missing makes the result missing.
fn call(name: &str, args: Vec<Value>) -> Result<Value, String> {
    if let Some(missing) = args.iter().find(|arg| matches!(arg, Value::Missing(_))) {
        return Ok(missing.clone());
    }
    let first = args.first().and_then(Value::number);
    match (name, args.as_slice(), first) {
        ("float", [_], Some(x)) => Ok(Value::Float(x)),
        ("int" | "floor", [_], Some(x)) => Ok(Value::Int(x.floor() as i64)),
        ("ceil", [_], Some(x)) => Ok(Value::Int(x.ceil() as i64)),
        ("log", [_], Some(x)) => Ok(Value::Float(x.ln())),
        ("round_up", [Value::Int(a), Value::Int(b)], _) if *b > 0 => Ok(Value::Int((a + b - 1) / b * b)),
        ("range", [Value::Int(n)], _) => Ok(Value::List((0..*n).map(Value::Int).collect())),
        ("len", [Value::List(items)], _) => Ok(Value::Int(items.len() as i64)),
        ("contains", [Value::List(items), of], _) => Ok(Value::Bool(items.iter().any(|item| equal(item, of)))),
        ("chars", [Value::Text(text)], _) => Ok(Value::List(text.chars().map(|c| Value::Text(c.to_string())).collect())),
        ("min", [Value::List(items)], _) => items
            .iter()
            .min_by(|a, b| a.number().unwrap_or(0.0).total_cmp(&b.number().unwrap_or(0.0)))
            .cloned()
            .ok_or("min of nothing".into()),
        (name, [], _) => Ok(Value::Block(name.to_string(), Vec::new())),
        _ => Err(format!("`{name}` does not apply to ({})", args.iter().map(Value::text).collect::<Vec<_>>().join(", "))),
    }
}
