//! Evaluates the expressions of an import rule over a configuration.

use super::value::Value;
use braid_dsl::ast::{Arg, Arm, BinOp, Comprehension, Expr, ExprKind, IndexItem, UnOp};
use braid_dsl::constant;
use braid_dsl::model::{Binary, Constant, Unary};
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
        self.value(&braid_dsl::parse_expression(text).map_err(|error| format!("{} in `{text}`", error.message))?)
    }

    fn value(&self, expr: &Expr) -> Result<Value, String> {
        match &expr.kind {
            ExprKind::Int(n) => Ok(Value::Of(Constant::Int(*n))),
            ExprKind::Float(x, _) => Ok(Value::Of(Constant::Float(*x))),
            ExprKind::Text(text) => Ok(Value::Of(Constant::Text(text.clone()))),
            ExprKind::Name(name) => self.name(name),
            ExprKind::Paren(inner) => self.value(inner),
            ExprKind::Field(of, name) => Ok(self.value(of)?.member(&name.name)),
            ExprKind::Unary(op, of) => apply(&[self.value(of)?], |args| constant::unary(unary(*op), &args[0])),
            ExprKind::Binary(op, left, right) => self.binary(*op, left, right),
            ExprKind::If(branches, otherwise) => {
                for (condition, yes) in branches {
                    if truth(self.value(condition)?)? {
                        return self.value(yes);
                    }
                }
                self.value(otherwise)
            }
            ExprKind::Match(of, arms) => self.choose(self.constant(of)?, arms),
            ExprKind::List(items) => {
                let items = items.iter().map(|item| self.constant(item)).collect::<Result<_, _>>()?;
                Ok(Value::Of(Constant::List(items)))
            }
            ExprKind::Comprehension(each) => self.each(each),
            ExprKind::Index(of, items) => match items.as_slice() {
                [IndexItem::Plain(at)] => item(self.value(of)?, self.constant(at)?),
                _ => Err("`[…]` takes one number".to_string()),
            },
            ExprKind::Call(callee, args) => match &callee.kind {
                ExprKind::Name(name) => self.call(name, args),
                _ => Err("only a name can be called".to_string()),
            },
            ExprKind::Reduce(..) | ExprKind::Attend(_) | ExprKind::Route(_) => Err("a rule computes no tensors".to_string()),
        }
    }

    /// A number, truth value, text or list.
    fn constant(&self, expr: &Expr) -> Result<Constant, String> {
        match known(self.value(expr)?)? {
            Value::Of(constant) => Ok(constant),
            other => Err(format!("{} is not a number, truth value, text or list", other.text())),
        }
    }

    fn name(&self, name: &str) -> Result<Value, String> {
        if name == "none" {
            return Ok(Value::None);
        }
        if let Some(constant) = constant::named(name) {
            return Ok(Value::Of(constant));
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

    fn binary(&self, op: BinOp, left: &Expr, right: &Expr) -> Result<Value, String> {
        let first = self.value(left)?;
        let done = |b: bool| Ok(Value::Of(Constant::Bool(b)));
        match op {
            BinOp::Else if matches!(first, Value::Missing(_)) => self.value(right),
            BinOp::Else => Ok(first),
            BinOp::Op(Binary::Or) => {
                if truth(first)? {
                    done(true)
                } else {
                    self.value(right)
                }
            }
            BinOp::Op(Binary::And) => {
                if truth(first)? {
                    self.value(right)
                } else {
                    done(false)
                }
            }
            BinOp::Op(op) => apply(&[first, self.value(right)?], |args| constant::binary(op, &args[0], &args[1])),
        }
    }

    fn choose(&self, of: Constant, arms: &[Arm]) -> Result<Value, String> {
        for arm in arms {
            let mut patterns = arm.patterns.iter().map(|pattern| self.constant(pattern));
            if arm.patterns.is_empty() || patterns.any(|pattern| pattern.is_ok_and(|p| constant::equal(&p, &of))) {
                return self.value(&arm.value);
            }
        }
        Err(format!("{} is none of the values that the rule knows", constant::render(&of)))
    }

    fn each(&self, each: &Comprehension) -> Result<Value, String> {
        let Constant::List(items) = self.constant(&each.list)? else {
            return Err(format!("`for {} in` asks for a list", each.var.name));
        };
        let mut out = Vec::new();
        for item in items {
            let kept = self.within(&each.var.name, Some(Value::Of(item)), || {
                let keep = each.cond.as_ref().map_or(Ok(true), |cond| truth(self.value(cond)?))?;
                keep.then(|| self.constant(&each.value)).transpose()
            })?;
            out.extend(kept);
        }
        Ok(Value::Of(Constant::List(out)))
    }

    /// A function of constants, or a block with arguments.
    fn call(&self, name: &str, args: &[Arg]) -> Result<Value, String> {
        if args.iter().all(|arg| arg.name.is_some()) {
            let named = args.iter().filter_map(|arg| Some((arg.name.as_ref()?.name.clone(), &arg.value)));
            let members = named.map(|(key, arg)| Ok((key, known(self.value(arg)?)?)));
            return Ok(Value::Block(name.to_string(), members.collect::<Result<_, String>>()?));
        }
        let values = args.iter().map(|arg| self.value(&arg.value)).collect::<Result<Vec<_>, _>>()?;
        // A configuration lists what it counts as members too: names of classes.
        if let ("len", [Value::Object(members)]) = (name, &values[..]) {
            return Ok(Value::Of(Constant::Int(members.len() as i64)));
        }
        apply(&values, |args| function(name, args))
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
        Value::Of(Constant::Bool(b)) => Ok(b),
        other => Err(format!("{} is not true or false", other.text())),
    }
}

/// Applies a function of constants; an argument that is missing makes the result missing.
fn apply(args: &[Value], f: impl FnOnce(&[Constant]) -> Result<Constant, String>) -> Result<Value, String> {
    let mut constants = Vec::new();
    for arg in args {
        match arg {
            Value::Missing(path) => return Ok(Value::Missing(path.clone())),
            Value::Of(constant) => constants.push(constant.clone()),
            other => return Err(format!("{} is not a number, truth value, text or list", other.text())),
        }
    }
    f(&constants).map(Value::Of)
}

fn unary(op: UnOp) -> Unary {
    match op {
        UnOp::Neg => Unary::Neg,
        UnOp::Not => Unary::Not,
    }
}

fn item(of: Value, at: Constant) -> Result<Value, String> {
    apply(&[of], |list| constant::element(&list[0], &at))
}

/// The language's functions of constants, and two that only configurations need.
fn function(name: &str, args: &[Constant]) -> Result<Constant, String> {
    match (name, args) {
        ("float", [one]) => {
            constant::number(one).map(Constant::Float).ok_or_else(|| format!("{} is not a number", constant::render(one)))
        }
        ("floor", [one]) => constant::unary(Unary::Floor, one).map(whole),
        ("min", [Constant::List(items)]) => least(items).ok_or_else(|| "`min` of no numbers".to_string()),
        _ => match constant::function(name, args) {
            Some(result) => result,
            None => constant::unary_named(name)
                .filter(|_| args.len() == 1)
                .map_or_else(|| Err(format!("there is no function `{name}` for this")), |op| constant::unary(op, &args[0])),
        },
    }
}

fn whole(value: Constant) -> Constant {
    match value {
        Constant::Float(x) if x.abs() < 9e15 => Constant::Int(x as i64),
        other => other,
    }
}

fn least(items: &[Constant]) -> Option<Constant> {
    let key = |item: &Constant| constant::number(item).unwrap_or(f64::INFINITY);
    items.iter().min_by(|a, b| key(a).total_cmp(&key(b))).cloned()
}
