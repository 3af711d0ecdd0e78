//! A graph as text: one line a node, in the order of computation.

use super::Graph;
use braid_dsl::model::{Axis, AxisId, Body, Elem, Gives, Held, Op, Param, Rows, Scope, ScopeId, Size, Type, Value};
use std::fmt::Write;

impl std::fmt::Display for Graph {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        writeln!(f, "graph {}", self.name)?;
        for node in self.order() {
            let args: Vec<String> = self.args(node).iter().map(|a| a.to_string()).collect();
            let op = op_text(self.op(node), &self.axes, &self.params, &args);
            let ty = type_text(self.ty(node), &self.axes);
            let scope = scope_path(&self.scopes, self.node(node).scope);
            let note = if scope.is_empty() { String::new() } else { format!("  // {scope}") };
            writeln!(f, "  {node} = {op} : {ty}{note}")?;
            if let Op::Recur(recur) = self.op(node) {
                let states: Vec<String> = recur
                    .states
                    .iter()
                    .map(|s| format!("{}: {} from {}", s.name, axes_text(&s.axes, &self.axes), number_text(s.init)))
                    .collect();
                writeln!(f, "      state {}", states.join(", "))?;
                f.write_str(&body_text(&recur.body, &self.axes, &self.params))?;
                let ids =
                    |list: &[braid_dsl::model::ValueId]| list.iter().map(|v| format!("${}", v.0)).collect::<Vec<_>>().join(", ");
                writeln!(f, "      next {} outputs {}", ids(&recur.next), ids(&recur.outputs))?;
            }
            if let Op::Attend(attend) = self.op(node) {
                let score = if attend.plain { "weight" } else { "score" };
                for (name, body, result) in
                    [("keep", &attend.keep, attend.keep_result), (score, &attend.score, attend.score_result)]
                {
                    writeln!(f, "      {name} ${}", result.0)?;
                    f.write_str(&body_text(body, &self.axes, &self.params))?;
                }
                if !attend.apart.is_empty() {
                    writeln!(f, "      by distance: captures {:?}", attend.apart)?;
                }
                if !attend.keyed.is_empty() {
                    writeln!(f, "      of the key: captures {:?}", attend.keyed)?;
                }
            }
        }
        writeln!(f, "  return {}", self.output())
    }
}

/// Names of axes in brackets.
pub fn axes_text(list: &[AxisId], axes: &[Axis]) -> String {
    let names: Vec<String> = list.iter().map(|a| axes[a.0 as usize].name.clone()).collect();
    format!("[{}]", names.join(", "))
}

/// A type as in the language, with sizes.
pub fn type_text(ty: &Type, axes: &[Axis]) -> String {
    let elem = match ty.elem {
        Elem::Float => "float",
        Elem::Int => "int",
        Elem::Bool => "bool",
    };
    let named = ty.axes.iter().map(|a| match axes[a.0 as usize].size {
        Size::Fixed(n) => format!("{}={n}", axes[a.0 as usize].name),
        Size::Seq => axes[a.0 as usize].name.clone(),
    });
    format!("{elem} [{}]", named.collect::<Vec<_>>().join(", "))
}

/// A number, short and exact.
pub fn number_text(value: f64) -> String {
    format!("{value}")
}

/// The dotted path of an instance; empty for the model.
pub fn scope_path(scopes: &[Scope], scope: ScopeId) -> String {
    let mut parts = Vec::new();
    let mut at = Some(scope);
    while let Some(id) = at {
        let scope = &scopes[id.0 as usize];
        if scope.parent.is_some() {
            parts.push(scope.name.clone());
        }
        at = scope.parent;
    }
    parts.reverse();
    parts.join(".")
}

/// A body, one line a value.
pub fn body_text(body: &Body, axes: &[Axis], params: &[Param]) -> String {
    let mut out = String::new();
    for (at, value) in body.values.iter().enumerate() {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "      ${at} = {} : {}", value_text(value, axes, params), type_text(&value.ty, axes));
    }
    out
}

fn value_text(value: &Value, axes: &[Axis], params: &[Param]) -> String {
    let args: Vec<String> = value.args.iter().map(|a| format!("${}", a.0)).collect();
    op_text(&value.op, axes, params, &args)
}

/// What stands for all of a sequence.
fn held_name(held: Held, axis: String) -> String {
    match held {
        Held::Sequence => axis,
        Held::Prompt => format!("prompt of {axis}"),
    }
}

/// An op applied to named operands.
pub fn op_text(op: &Op, axes: &[Axis], params: &[Param], args: &[String]) -> String {
    let name = |a: &AxisId| axes[a.0 as usize].name.clone();
    let names = |list: &[AxisId]| list.iter().map(name).collect::<Vec<_>>().join(", ");
    let lower = |text: String| text.to_lowercase();
    let call = |head: String| format!("{head}({})", args.join(", "));
    match op {
        Op::Input(n) => format!("input {n}"),
        Op::Param(id) => {
            let Param { path, stored, .. } = &params[id.0 as usize];
            format!("param {path}{}", stored.map_or(String::new(), |stored| format!(" as {}", stored.storage.name())))
        }
        Op::Const(value) => number_text(*value),
        Op::Index(axis) => format!("index[{}]", name(axis)),
        Op::Position(axis) => format!("position[{}]", name(axis)),
        Op::Length(axis, held) => format!("length[{}]", held_name(*held, name(axis))),
        Op::Unary(f) => call(lower(format!("{f:?}"))),
        Op::Binary(f) => call(lower(format!("{f:?}"))),
        Op::Select => call("select".into()),
        Op::ToFloat => call("float".into()),
        Op::Reduce(how, over) => call(format!("{}[{}]", lower(format!("{how:?}")), names(over))),
        Op::Contract(over) => call(format!("contract[{}]", names(over))),
        Op::Rename(from, to) => call(format!("rename[{} as {}]", name(from), name(to))),
        Op::Slice { axis, start, to } => call(format!("slice[{}: {start}.. as {}]", name(axis), name(to))),
        Op::Pick { axis, index } => call(format!("pick[{}: {index}]", name(axis))),
        Op::Split(axis, parts) => call(format!("split[{} as ({})]", name(axis), names(parts))),
        Op::Merge(parts, axis) => call(format!("merge[({}) as {}]", names(parts), name(axis))),
        Op::Concat(parts, axis) => call(format!("concat[{} as {}]", names(parts), name(axis))),
        Op::Gather(axis) => call(format!("gather[{}]", name(axis))),
        Op::Top { axis, into } => call(format!("top[{} as {}]", name(axis), name(into))),
        Op::Solve { rows, columns } => call(format!("solve[{}, {}]", name(rows), name(columns))),
        Op::Fetch(axis, held) => call(format!("fetch[{}]", held_name(*held, name(axis)))),
        Op::Largest { seq, count, held } => call(format!("largest {count} [{}]", held_name(*held, name(seq)))),
        Op::Shift(by) => call(format!("shift {by} ")),
        Op::Conv(width) => call(format!("convolve[{}]", name(width))),
        Op::Recur(_) => call("recur".into()),
        Op::Attend(attend) => call(match attend.gives {
            Gives::Values => format!("attend[{}]", names(&attend.contract)),
            Gives::Total => format!("total[{}]", names(&attend.contract)),
            Gives::Best(slot) => format!("choose[{} as {}]", names(&attend.contract), name(&slot)),
            Gives::Tally { queries, apart } => {
                let by = if apart { "distances" } else { "keys" };
                format!("tally[{}; {queries} queries, by {by}]", names(&attend.contract))
            }
        }),
        Op::Chosen { slot, block } => call(format!("chosen[{}; blocks of {block}]", name(slot))),
        Op::Result(n) => call(format!("result {n} ")),
        Op::Capture(n) => format!("capture {n}"),
        Op::State(n) => format!("state {n}"),
        Op::Score => "score".into(),
        Op::QueryPosition => "query".into(),
        Op::KeyPosition => "key".into(),
        Op::Wanted => call("wanted".into()),
        Op::Products { row, over } => call(match over {
            Rows::Upto => format!("products[..{}]", name(row)),
            Rows::Before => format!("products[before {}]", name(row)),
            Rows::After => format!("products[after {}]", name(row)),
            Rows::Between(column) => format!("products[{}..{}]", name(column), name(row)),
            Rows::Inside(column) => format!("products[{}..before {}]", name(column), name(row)),
        }),
        Op::Scores { row, column, over, strict } => {
            let until = if *strict { "before " } else { "" };
            call(format!("scores[{}; {}..{until}{}]", names(over), name(column), name(row)))
        }
        Op::Substitute { row, column, .. } => call(format!("substitute[{} < {}]", name(column), name(row))),
    }
}
