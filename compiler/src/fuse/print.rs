//! Fused kernels as text.

use super::expr::{Expr, KAxis, View};
use super::kernel::{Base, Code, Nest, Nests, Stmt, Tensor, Walk};
use super::{Fused, Kernel, Operand};
use std::fmt::Write;

/// Deterministic text of all kernels.
pub fn print(fused: &Fused) -> String {
    let mut out = String::new();
    for (at, kernel) in fused.kernels.iter().enumerate() {
        let nodes: Vec<String> = kernel.nodes.iter().map(|n| n.to_string()).collect();
        // Writing to a String cannot fail.
        let _ = writeln!(out, "kernel {at} over {:?} rows computes {}", kernel.rows, nodes.join(" "));
        out.push_str(&body(fused, kernel));
    }
    out
}

fn body(fused: &Fused, kernel: &Kernel) -> String {
    match &kernel.code {
        Code::Nests(nests) => nests_text(fused, kernel, nests),
        Code::Matmul(product) => {
            let [inner, batch, depth, columns] = product.sizes;
            let chosen = match &product.chosen {
                Some((_, of)) => format!(", each row chooses one of {of}"),
                None => String::new(),
            };
            let names = Names { fused, kernel, tensors: &product.tensors };
            format!(
                "  matmul [rows x {inner}, {depth}] x [{depth}, {columns}], batch {batch}{chosen}\n  {} = {}\n",
                names.view(&product.out),
                names.expr(&product.epilogue)
            )
        }
        Code::Along(along) => {
            let names = Names { fused, kernel, tensors: &along.tensors };
            let what = if along.weights.is_some() { "convolution" } else { "shift" };
            let taps = along.taps;
            format!(
                "  {what} of {} over {taps} positions\n  {} = {}\n",
                names.view(&along.input),
                names.view(&along.out),
                names.expr(&along.epilogue)
            )
        }
        Code::Top(top) => format!("  top {} of {}, {} times a row\n", top.count, top.size, top.outer),
        Code::Attention(a) => format!(
            "  attention: {} groups x {} heads, keys of {}, values of {}, cache {:?}\n",
            a.groups, a.per, a.key, a.value, a.reach
        ),
    }
}

fn nests_text(fused: &Fused, kernel: &Kernel, nests: &Nests) -> String {
    let names = Names { fused, kernel, tensors: &nests.tensors };
    let mut out = String::new();
    if let Walk::Segments { grid, blocked } = &nests.walk {
        let _ = writeln!(out, "  along each sequence, grid {} blocked {blocked:?}", axes(grid, &nests.sizes));
    }
    for nest in &nests.nests {
        let _ = writeln!(out, "  for {}:", loops(nest, &nests.sizes));
        for stmt in &nest.stmts {
            let _ = writeln!(out, "    {}", statement(&names, stmt));
        }
    }
    out
}

fn loops(nest: &Nest, sizes: &[usize]) -> String {
    let vector = match nest.vector {
        Some(axis) => format!(" vector a{} by {}", axis.0, nest.lanes),
        None => String::new(),
    };
    format!("{} reduce {}{vector}", axes(&nest.parallel, sizes), axes(&nest.reduced, sizes))
}

fn axes(list: &[KAxis], sizes: &[usize]) -> String {
    let parts: Vec<String> = list.iter().map(|a| format!("a{}<{}", a.0, sizes[a.0])).collect();
    format!("[{}]", parts.join(", "))
}

fn statement(names: &Names, stmt: &Stmt) -> String {
    let value = names.expr(&stmt.expr);
    match &stmt.reduce {
        Some((how, _)) => format!("{} = {how:?} {value}", names.view(&stmt.target)),
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
        let mut parts: Vec<String> = view.strides.iter().map(|(a, s)| format!("a{}*{s}", a.0)).collect();
        if view.offset > 0 {
            parts.insert(0, view.offset.to_string());
        }
        format!("{}[{}]", self.tensor(view.tensor.0), parts.join(" + "))
    }

    fn expr(&self, expr: &Expr) -> String {
        match expr {
            Expr::Load(view, _) => self.view(view),
            Expr::Gather { view, stride, index, .. } => {
                format!("{}[+ {} * {stride}]", self.view(view), self.expr(index))
            }
            Expr::Const(bits, _) => crate::graph::number_text(f64::from_bits(*bits)),
            Expr::Index(axis) => format!("a{}", axis.0),
            Expr::Position => "position".into(),
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
    }
}
