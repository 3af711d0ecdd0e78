//! A chunk's equations as people write them: one line for each matrix.

use super::Chunk;
use crate::graph::{number_text, op_text, shape};
use braid_dsl::model::{Axis, AxisId, Binary, Op, Param, Recur, Rows, Unary, Value, ValueId};

/// What a line that has no name yet is called inside of itself.
const OWN: &str = "?";

/// How equations of one chunk are written.
struct Writer<'a> {
    axes: &'a [Axis],
    params: &'a [Param],
    chunk: &'a Chunk,
    recur: &'a Recur,
    /// What captures are called.
    captures: &'a [(String, bool)],
    /// Names of values that have a line of their own.
    names: Vec<Option<String>>,
}

/// The lines of a chunk's equations, in the order of computation.
pub fn lines(axes: &[Axis], params: &[Param], recur: &Recur, captures: &[(String, bool)], chunk: &Chunk) -> Vec<String> {
    let names = vec![None; chunk.body.values.len()];
    let mut writer = Writer { axes, params, chunk, recur, captures, names };
    let mut lines = vec![];
    let walked = if chunk.pieces.is_some() { 0 } else { chunk.body.values.len() };
    if let Some(pieces) = &chunk.pieces {
        let inputs = pieces.inputs.iter().enumerate();
        lines.extend(inputs.map(|(at, id)| format!("u{} = {}", at + 1, writer.text(*id, false))));
        lines.extend(pieces.sums.iter().cloned());
        pieces.reads.iter().enumerate().for_each(|(at, id)| writer.names[id.0 as usize] = Some(format!("y{}", at + 1)));
    }
    for at in 0..walked {
        let id = ValueId(at as u32);
        let uses = chunk.body.values.iter().flat_map(|v| &v.args).filter(|arg| **arg == id).count();
        let value = &chunk.body.values[at];
        let matrix = matches!(
            value.op,
            Op::Contract(_) | Op::Reduce(..) | Op::Scores { .. } | Op::Substitute { .. } | Op::Concat(..) | Op::Products { .. }
        );
        let repeated = uses > 1 && !value.args.is_empty() && !writer.is_view(value) && writer.constant(id).is_none();
        if matrix || repeated {
            lines.push(writer.line(id));
        }
    }
    for (n, id) in chunk.outputs.iter().enumerate() {
        lines.push(format!("output {n} = {}", writer.text(*id, false)));
    }
    for (state, id) in recur.states.iter().zip(&chunk.next).filter(|_| chunk.pieces.is_none()) {
        lines.push(format!("{}' = {}", state.name, writer.text(*id, false)));
    }
    lines
}

impl Writer<'_> {
    fn value(&self, id: ValueId) -> &Value {
        &self.chunk.body.values[id.0 as usize]
    }

    fn is_view(&self, value: &Value) -> bool {
        matches!(value.op, Op::Rename(..) | Op::Pick { .. } | Op::ToFloat)
    }

    /// The number that a value is everywhere: padding of axes counts nothing.
    fn constant(&self, id: ValueId) -> Option<f64> {
        let value = self.value(id);
        let arg = |n: usize| self.constant(value.args[n]);
        match &value.op {
            Op::Const(number) => Some(*number),
            Op::Binary(Binary::Mul) if arg(0) == Some(0.0) || arg(1) == Some(0.0) => Some(0.0),
            _ => None,
        }
    }

    /// Gives a value a line and a name.
    fn line(&mut self, id: ValueId) -> String {
        let right = self.text(id, false);
        let value = self.value(id);
        let letter = match &value.op {
            Op::Products { .. } => 'D',
            Op::Scores { .. } => 'A',
            Op::Substitute { .. } => 'P',
            _ if value.ty.axes.contains(&self.chunk.column) && value.ty.axes.contains(&self.chunk.row) => 'A',
            Op::Contract(_) => 'R',
            _ => 'x',
        };
        let name = self.fresh(letter);
        let axes: Vec<&str> = value.ty.axes.iter().map(|axis| self.axis(*axis)).collect();
        let left = format!("{name}[{}]", axes.join(", "));
        self.names[id.0 as usize] = Some(name.clone());
        match &self.value(id).op {
            Op::Substitute { .. } => {
                let right = right.replace(OWN, &name);
                format!("{left} = {right}    (unit triangular, by substitution)")
            }
            _ => format!("{left} = {right}"),
        }
    }

    /// The next name with that letter.
    fn fresh(&self, letter: char) -> String {
        let count = self.names.iter().flatten().filter(|name| name.starts_with(letter)).count();
        format!("{letter}{}", count + 1)
    }

    fn axis(&self, axis: AxisId) -> &str {
        match axis {
            _ if axis == self.chunk.row => "i",
            _ if axis == self.chunk.column => "j",
            _ => self.axes[axis.0 as usize].name.trim_end_matches('\''),
        }
    }

    fn list(&self, axes: &[AxisId]) -> String {
        axes.iter().map(|axis| self.axis(*axis)).collect::<Vec<_>>().join(", ")
    }

    /// A value as text; in brackets if it is to be a factor.
    fn text(&self, id: ValueId, factor: bool) -> String {
        if let Some(name) = &self.names[id.0 as usize] {
            return name.clone();
        }
        let value = self.value(id);
        let arg = |n: usize| self.text(value.args[n], true);
        let closed = |text: String| if factor { format!("({text})") } else { text };
        match &value.op {
            Op::Capture(n) => self.captures[*n].0.clone(),
            Op::State(n) => self.recur.states[*n].name.clone(),
            Op::Const(number) => number_text(*number),
            Op::Index(axis) => self.axis(*axis).into(),
            Op::Binary(Binary::Add) if self.constant(value.args[1]) == Some(0.0) => self.text(value.args[0], factor),
            Op::Binary(Binary::Add) => {
                closed(format!("{} + {}", self.text(value.args[0], false), self.text(value.args[1], false)))
            }
            Op::Binary(Binary::Sub) => closed(format!("{} - {}", self.text(value.args[0], false), arg(1))),
            Op::Binary(Binary::Mul) => format!("{} {}", arg(0), arg(1)),
            Op::Binary(Binary::Div) => format!("{} / {}", arg(0), arg(1)),
            Op::Binary(Binary::Le) => format!("{} <= {}", arg(0), arg(1)),
            Op::Binary(Binary::Lt) => format!("{} < {}", arg(0), arg(1)),
            Op::Binary(Binary::Pow) => closed(format!("{} ^ {}", arg(0), arg(1))),
            Op::Unary(Unary::Neg) => closed(format!("-{}", arg(0))),
            Op::ToFloat => self.text(value.args[0], factor),
            Op::Contract(over) => closed(format!("sum[{}] {} {}", self.list(over), arg(0), arg(1))),
            Op::Reduce(_, over) => closed(format!("sum[{}] {}", self.list(over), arg(0))),
            Op::Rename(_, to) if *to == self.chunk.column => at(arg(0), "j"),
            Op::Rename(from, to) => at(arg(0), &format!("{} as {}", self.axis(*from), self.axis(*to))),
            Op::Pick { axis, index } => at(arg(0), &format!("{} = {index}", self.axis(*axis))),
            Op::Products { over, .. } => format!("prod[{}] {}", span(*over), at(arg(0), "s")),
            Op::Concat(_, along) => {
                let args: Vec<String> = value.args.iter().map(|arg| self.text(*arg, false)).collect();
                format!("({}) along {}", args.join(", "), self.axis(*along))
            }
            Op::Scores { over, strict, .. } => {
                let last = if *strict { "<" } else { "<=" };
                let (x, y, f) = (at(arg(0), "i"), at(arg(1), "j"), at(arg(2), "s"));
                closed(format!("sum[{}] {x} {y} prod[j < s {last} i] {f}", self.list(over)))
            }
            Op::Substitute { rank, .. } => {
                let over = rank.map_or(String::new(), |(_, under)| format!(", {}", self.axis(under)));
                let own = rank.map_or("j".into(), |(_, under)| format!("j, {}", self.axis(under)));
                format!("{} + sum[j < i{over}] {} {OWN}[{own}]", self.text(value.args[1], false), arg(0))
            }
            op => {
                let args: Vec<String> = value.args.iter().map(|arg| self.text(*arg, false)).collect();
                op_text(op, self.axes, self.params, &args)
            }
        }
    }
}

/// A factor at an index; in brackets if it is a product.
fn at(text: String, index: &str) -> String {
    let bare = text.starts_with('(') || !text.contains([' ', '/']) || is_indexed(&text);
    if bare { format!("{text}[{index}]") } else { format!("({text})[{index}]") }
}

/// Whether all that has spaces in it is one name's index.
fn is_indexed(text: &str) -> bool {
    text.split_once('[').is_some_and(|(name, rest)| !name.contains(' ') && rest.find(']') == Some(rest.len() - 1))
}

fn span(over: Rows) -> &'static str {
    match over {
        Rows::Upto => "s <= i",
        Rows::Before => "s < i",
        Rows::After => "s > i",
        Rows::Between(_) => "j < s <= i",
        Rows::Inside(_) => "j < s < i",
    }
}

/// The fixed size of axes, multiplied.
pub fn size(axes: &[Axis], list: &[AxisId]) -> usize {
    list.iter().filter_map(|axis| shape::size(axes, *axis)).product()
}
