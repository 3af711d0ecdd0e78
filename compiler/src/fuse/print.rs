//! Fused kernels as text.

use super::expr::{Expr, KAxis, View};
use super::kernel::{Base, Chosen, Code, Matmul, Nest, Nests, Part, Reduction, Rows, Stmt, Store, Tensor, Walk};
use super::{Fused, Kernel, Operand};
use crate::forms::{Beside, Reach};
use std::fmt::Write;

/// Deterministic text of all kernels.
pub fn print(fused: &Fused) -> String {
    let mut out = String::new();
    for (at, kernel) in fused.kernels.iter().enumerate() {
        let nodes: Vec<String> = kernel.nodes.iter().map(|n| n.to_string()).collect();
        // Writing to a String cannot fail.
        let _ = writeln!(out, "kernel {at} {} computes {}{}", rows(kernel.rows), nodes.join(" "), narrow(fused, kernel));
        out.push_str(&body(fused, kernel));
    }
    out
}

/// What a kernel leaves in bfloat16.
fn narrow(fused: &Fused, kernel: &Kernel) -> String {
    let buffers = kernel.writes.iter().map(|at| &fused.buffers[*at]).filter(|buffer| buffer.store == Store::Bf16);
    let mut nodes: Vec<String> = buffers.map(|buffer| buffer.node.to_string()).collect();
    nodes.dedup();
    if nodes.is_empty() { String::new() } else { format!(", in bf16 {}", nodes.join(" ")) }
}

fn rows(rows: Rows) -> &'static str {
    match rows {
        Rows::Once => "once, from the weights,",
        Rows::Source => "over all rows of the source",
        Rows::All => "over all rows",
        Rows::Wanted => "over wanted rows",
    }
}

fn body(fused: &Fused, kernel: &Kernel) -> String {
    match &kernel.code {
        Code::Nests(nests) => nests_text(fused, kernel, nests),
        Code::Matmul(product) => matmul_text(&Names { fused, kernel, tensors: &product.tensors }, product),
        Code::Along(along) => {
            let names = Names { fused, kernel, tensors: &along.tensors };
            let what = match along.weights {
                Some(weights) => format!("convolution with {}", names.tensor(weights.0)),
                None => "shift".to_owned(),
            };
            format!(
                "  {what} of {} over {} positions\n  {} = {}\n",
                names.view(&along.input),
                along.taps,
                names.view(&along.out),
                names.expr(&along.epilogue)
            )
        }
        Code::Top(top) => {
            let names = Names { fused, kernel, tensors: &top.tensors };
            let (out, input) = (names.view(&top.out), names.view(&top.input));
            format!("  {out} = top {} of {} in {input}, {} times a row\n", top.count, top.size, top.outer)
        }
        Code::Largest(largest) => {
            let names = Names { fused, kernel, tensors: &largest.tensors };
            let (out, input) = (names.view(&largest.out), names.view(&largest.input));
            format!("  {out} = largest {} of all rows of {input}, {} channels\n", largest.count, largest.columns)
        }
        Code::Attention(a) => {
            let names = Names { fused, kernel, tensors: &a.tensors };
            let views = &a.views;
            let [out, query, keys, values] = [&views.out, &views.query, &views.keys, &views.values].map(|view| names.view(view));
            let (what, values, size) = match (a.best, a.value) {
                _ if let Some(tally) = a.tally => (format!("tally of the last {}", tally.queries), String::new(), String::new()),
                (0, 0) => ("total weight".to_string(), String::new(), String::new()),
                (0, size) => ("attention".to_string(), format!(", values {values}"), format!(", values of {size}")),
                (best, _) => (format!("best {best}"), String::new(), String::new()),
            };
            format!(
                "  {out} = {what} of queries {query}, keys {keys}{values}\n  {} groups x {} heads, keys of {}{size}, {}{}\n",
                a.groups,
                a.per,
                a.key,
                cache(&a.reach),
                a.chosen.map_or(String::new(), |chosen| chosen_text(&chosen))
            )
        }
    }
}

fn chosen_text(chosen: &Chosen) -> String {
    let blocks = if chosen.block == 1 { String::new() } else { format!(" blocks of {}", chosen.block) };
    let beside = match chosen.beside {
        Beside::Nothing => String::new(),
        Beside::Near { window, first } => format!(", beside the last {window} and the first {first}"),
        Beside::Anything => ", beside any".into(),
    };
    format!(", of {} chosen{blocks}{beside}", chosen.count)
}

fn matmul_text(names: &Names, product: &Matmul) -> String {
    let [inner, batch, depth, columns] = product.sizes;
    let inner = if inner == 1 { String::new() } else { format!(" x {inner}") };
    let batch = if batch == 1 { String::new() } else { format!(", batch {batch}") };
    let chosen = match &product.chosen {
        Some((ids, of)) => format!(", each row chooses one of {of} by {}", names.view(ids)),
        None => String::new(),
    };
    format!(
        "  matmul {} [rows{inner}, {depth}] x {} [{depth}, {columns}]{batch}{chosen}\n  {} = {}\n",
        names.view(&product.left),
        names.tensor(product.weights.0),
        names.view(&product.out),
        names.expr(&product.epilogue)
    )
}

fn cache(reach: &Reach) -> String {
    match reach {
        Reach::Full => "cache of every position".to_owned(),
        Reach::Every { every } => format!("cache of the last of every {every} positions"),
        Reach::Window { rows, window } => format!("cache ring of {rows} rows for a window of {window}"),
        Reach::SinksAndWindow { first, rows, window } => {
            format!("cache of the first {first} and a ring, {rows} rows, for a window of {window}")
        }
    }
}

fn nests_text(fused: &Fused, kernel: &Kernel, nests: &Nests) -> String {
    let names = Names { fused, kernel, tensors: &nests.tensors };
    let mut out = String::new();
    if let Walk::Segments { grid, blocked, part } = &nests.walk {
        let vector = blocked.map_or(String::new(), |(axis, lanes)| at_once(axis, lanes));
        let part = match part {
            Part::All => String::new(),
            Part::Intra(rows) => format!(" in chunks of {rows} rows side by side"),
            Part::Chunks(rows) => format!(" in chunks of {rows} rows"),
            Part::Rest(rows) => format!(" after its chunks of {rows} rows"),
            Part::Ahead(rows) => format!(" ahead of its mini-batches of {rows} rows"),
            Part::Batches(rows) => format!(" in mini-batches of {rows} rows"),
            Part::Behind(rows) => format!(" after its mini-batches of {rows} rows"),
        };
        let _ = writeln!(out, "  along each sequence{part}, tasks {}{vector}", axes(grid, &nests.sizes));
    }
    for staged in &nests.staging.staged {
        let _ = writeln!(out, "  each chunk's {} comes to {}", names.view(&staged.from), names.view(&staged.to));
    }
    for stmt in nests.staging.before.iter().flat_map(|nest| &nest.stmts) {
        let back = if nests.staging.after.is_empty() { "" } else { ", and back after the last" };
        let _ = writeln!(out, "  before the first chunk {}{back}", statement(&names, stmt));
    }
    for nest in &nests.nests {
        let _ = writeln!(out, "  {}:", loops(nest, &nests.sizes));
        for stmt in &nest.stmts {
            let _ = writeln!(out, "    {}", statement(&names, stmt));
        }
    }
    out
}

fn loops(nest: &Nest, sizes: &[usize]) -> String {
    let mut parts = Vec::new();
    if let Some(order) = nest.stmts[0].ordered {
        parts.push(format!("a{} {}", order.axis.0, if order.falling { "falling" } else { "in order" }));
    }
    if let Some(below) = nest.stmts[0].below {
        parts.push(format!("a{} {} a{}", below.axis.0, if below.inclusive { "<=" } else { "<" }, below.by.0));
    }
    if !nest.parallel.is_empty() {
        parts.push(format!("for {}", axes(&nest.parallel, sizes)));
    }
    if !nest.reduced.is_empty() {
        parts.push(format!("reduce {}", axes(&nest.reduced, sizes)));
    }
    if parts.is_empty() {
        parts.push("once".to_owned());
    }
    let vector = nest.vector.map_or(String::new(), |axis| at_once(axis, nest.lanes));
    let tile = nest.tile.map_or(String::new(), |(axis, count)| at_once(axis, count));
    parts.join(", ") + &vector + &tile
}

/// How many indices of an axis a vector takes.
fn at_once(axis: KAxis, lanes: usize) -> String {
    format!(", {lanes} of a{} at once", axis.0)
}

fn axes(list: &[KAxis], sizes: &[usize]) -> String {
    let parts: Vec<String> = list.iter().map(|a| format!("a{}<{}", a.0, sizes[a.0])).collect();
    parts.join(", ")
}

fn statement(names: &Names, stmt: &Stmt) -> String {
    let value = names.expr(&stmt.expr);
    if let Some(system) = &stmt.system {
        return format!(
            "solve {} equations with {} right sides: {value} x = {}",
            system.size,
            system.sides,
            names.view(&stmt.target)
        );
    }
    match &stmt.reduce {
        Some(Reduction { how, start, epilogue, .. }) => {
            let start = start.as_ref().map_or(String::new(), |start| names.expr(start) + " + ");
            let how = format!("{how:?}").to_lowercase();
            let own = match epilogue.as_deref() {
                Some((total, expr)) => {
                    let (total, target, expr) = (names.view(total), names.view(&stmt.target), names.expr(expr));
                    format!("{total} = {start}{how} {value}, not stored; {target} = {expr}")
                }
                None => format!("{} = {start}{how} {value}", names.view(&stmt.target)),
            };
            let beside = stmt.beside().map(|(view, expr)| format!("; {} = {}", names.view(view), names.expr(expr)));
            own + &beside.collect::<String>()
        }
        None => format!("{} = {value}", names.view(&stmt.target)),
    }
}

struct Names<'a> {
    fused: &'a Fused,
    kernel: &'a Kernel,
    tensors: &'a [Tensor],
}

impl Names<'_> {
    fn tensor(&self, at: usize) -> String {
        let tensor = &self.tensors[at];
        match tensor.base {
            Base::Scratch(offset) => format!("tmp{offset}"),
            Base::Tile => "tile".into(),
            Base::Tokens => "tokens".into(),
            Base::Output => "output".into(),
            _ => match self.kernel.operands[tensor.operand] {
                Operand::State(at) => format!("state({})", self.fused.forms.states[at].name),
                operand => operand_name(self.fused, operand),
            },
        }
    }

    fn view(&self, view: &View) -> String {
        self.element(view, None)
    }

    /// A view's element; a gathered one is `moved` by an index times a stride.
    fn element(&self, view: &View, moved: Option<String>) -> String {
        let offset = (view.offset > 0).then(|| view.offset.to_string());
        let axes = view.strides.iter().map(|(a, stride)| strided(format!("a{}", a.0), *stride));
        let parts: Vec<String> = offset.into_iter().chain(axes).chain(moved).collect();
        format!("{}[{}]", self.tensor(view.tensor.0), parts.join(" + "))
    }

    fn expr(&self, expr: &Expr) -> String {
        match expr {
            Expr::Load(view, _) => self.view(view),
            Expr::Gather { view, stride, index, .. } => self.element(view, Some(strided(self.expr(index), *stride))),
            Expr::Const(bits, _) => crate::graph::number_text(f64::from_bits(*bits)),
            Expr::Index(axis) => format!("a{}", axis.0),
            Expr::Row { view, at, .. } => format!("{} in row {}", self.view(view), self.expr(at)),
            Expr::Position => "position".into(),
            Expr::Length => "length".into(),
            Expr::Unary(op, of) => format!("{}({})", format!("{op:?}").to_lowercase(), self.expr(of)),
            Expr::ToFloat(of) => format!("float({})", self.expr(of)),
            Expr::Binary(op, _, a, b) => {
                format!("{}({}, {})", format!("{op:?}").to_lowercase(), self.expr(a), self.expr(b))
            }
            Expr::Select(_, parts) => {
                format!("select({}, {}, {})", self.expr(&parts[0]), self.expr(&parts[1]), self.expr(&parts[2]))
            }
        }
    }
}

/// The words that a kernel is called with, for printing.
pub fn operand_name(fused: &Fused, operand: Operand) -> String {
    match operand {
        Operand::Buffer(at) => format!("{}", fused.buffers[at].node),
        Operand::Packed(at) => fused.forms.graph.params[fused.packed[at].param.0 as usize].path.clone(),
        Operand::State(at) => fused.forms.states[at].name.clone(),
        Operand::StatePerPosition(at) => format!("{}/position", fused.forms.states[at].name),
        Operand::Workspace => "workspace".to_owned(),
    }
}

/// An index times its stride.
fn strided(index: String, stride: usize) -> String {
    if stride == 1 { index } else { format!("{index}*{stride}") }
}
