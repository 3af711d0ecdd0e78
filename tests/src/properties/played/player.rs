//! Kernels of recurrences as data, played in double precision.

use crate::reference::ops::{binary, unary};
use braid_compiler::forms::StateDecl;
use braid_compiler::fuse::expr::{Expr, KAxis, View};
use braid_compiler::fuse::kernel::{Base, Code, Nest, Nests, Part, Reduction, Staged, Stmt, Walk};
use braid_compiler::fuse::{Fused, Kernel, Operand};
use braid_compiler::graph::{Graph, NodeId};
use braid_dsl::model::{Op, Reduce};
use std::collections::HashMap;

/// How what a GPU leaves open goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Manner {
    /// Copies arrive when they are waited for, elements are done from the last to the first.
    pub(super) late: bool,
}

/// The memory of one sequence.
pub(super) struct Memory {
    pub(super) buffers: Vec<Vec<f64>>,
    pub(super) states: Vec<Vec<f64>>,
}

/// A number for an element of a node's value, between 0 and 1.
fn made_up(node: u32, at: usize) -> f64 {
    let mixed = (u64::from(node) << 32 | at as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    0.05 + 0.9 * ((mixed >> 40) as f64 / (1u64 << 24) as f64)
}

impl Memory {
    pub(super) fn new(fused: &Fused, rows: usize) -> Memory {
        let whole = |elements: usize, of: &dyn Fn(usize) -> f64| (0..elements).map(of).collect::<Vec<f64>>();
        // A value that crosses between the kernels of a recurrence has no number until one of them writes it.
        let crosses = |at: usize| fused.forms.carried.contains_key(&fused.buffers[at].node);
        let buffer = |at: usize| {
            let own = &fused.buffers[at];
            let number = |n| if crosses(at) { f64::NAN } else { of_node(&fused.forms.graph, own.node, n) };
            whole(rows * own.elements, &number)
        };
        let states = fused.forms.states.iter().enumerate();
        let state = |(at, state): (usize, &StateDecl)| {
            let elements = state.axes.iter().filter_map(|axis| fused.forms.graph.size(*axis)).product();
            whole(elements, &|n| made_up(1000 + at as u32, n))
        };
        Memory { buffers: (0..fused.buffers.len()).map(buffer).collect(), states: states.map(state).collect() }
    }
}

/// A number of a value that is not played: made up, but for what is made of one number of another.
fn of_node(graph: &Graph, node: NodeId, n: usize) -> f64 {
    match graph.op(node) {
        Op::Unary(f) => unary(*f, of_node(graph, graph.args(node)[0], n)),
        _ => made_up(node.0, n),
    }
}

/// Bytes of a number of scratch: the least that one takes.
const UNIT: usize = 2;

/// One task of a kernel.
struct Task<'a> {
    code: &'a Nests,
    operands: &'a [Operand],
    memory: &'a mut Memory,
    scratch: Vec<f64>,
    index: HashMap<KAxis, usize>,
    row: usize,
    /// The axis that is cut into blocks, and the indices of this one.
    block: Option<(KAxis, std::ops::Range<usize>)>,
    manner: Manner,
    /// Which of its places each copy has now, in numbers from the first on.
    places: HashMap<usize, usize>,
}

pub(super) fn play(kernel: &Kernel, memory: &mut Memory, rows: usize, manner: Manner) {
    let Code::Nests(code) = &kernel.code else { return };
    let Walk::Segments { grid, blocked, part } = &code.walk else { return };
    let blocks = |axis: &KAxis| match blocked {
        Some((cut, width)) if cut == axis => code.sizes[axis.0].div_ceil(*width),
        _ => code.sizes[axis.0],
    };
    let tasks: usize = grid.iter().map(blocks).product();
    for task in 0..tasks {
        let (mut rest, mut index, mut block) = (task, HashMap::new(), None);
        for axis in grid.iter().rev() {
            let (place, size) = (rest % blocks(axis), code.sizes[axis.0]);
            rest /= blocks(axis);
            match blocked {
                Some((cut, width)) if cut == axis => block = Some((*axis, place * width..(place * width + width).min(size))),
                _ => drop(index.insert(*axis, place)),
            }
        }
        let scratch = vec![f64::NAN; code.scratch / UNIT];
        Task { code, operands: &kernel.operands, memory, scratch, index, row: 0, block, manner, places: HashMap::new() }
            .walk(*part, rows);
    }
}

impl Task<'_> {
    fn walk(&mut self, part: Part, rows: usize) {
        let starts: Vec<usize> = match part {
            Part::All => (0..rows).collect(),
            Part::Rest(size) | Part::Behind(size) => (rows / size * size..rows).collect(),
            // Played sequences begin where a mini-batch does.
            Part::Ahead(_) => vec![],
            Part::Chunks(size) | Part::Intra(size) | Part::Batches(size) => (0..rows / size).map(|chunk| chunk * size).collect(),
        };
        let Some(first) = starts.first() else { return };
        let code = self.code;
        let staged: Vec<&Staged> = code.staging.staged.iter().collect();
        let walks = matches!(part, Part::Chunks(_));
        if walks && code.staging.places > 1 {
            return self.walk_ahead(&starts);
        }
        let mut under_way: Vec<(&Staged, usize)> = vec![];
        if walks {
            staged.iter().for_each(|own| self.begin(own, *first, &mut under_way));
        }
        code.staging.before.iter().for_each(|nest| self.nest(nest));
        for (turn, row) in starts.iter().enumerate() {
            if !walks {
                staged.iter().for_each(|own| self.begin(own, *row, &mut under_way));
            }
            for (at, nest) in code.nests.iter().enumerate() {
                under_way.retain(|(own, row)| {
                    let waits = own.used[0] == at;
                    if waits {
                        self.copy(own, *row);
                    }
                    !waits
                });
                self.row = *row;
                self.nest(nest);
                let next = starts[(turn + 1).min(starts.len() - 1)];
                let free = staged.iter().filter(|own| walks && own.used[1] == at);
                free.for_each(|own| self.begin(own, next, &mut under_way));
            }
        }
        code.staging.after.iter().for_each(|nest| self.nest(nest));
    }

    /// Copies that go several chunks ahead arrive when a turn begins, at the earliest when they are begun.
    fn walk_ahead(&mut self, starts: &[usize]) {
        let code = self.code;
        let places = code.staging.places;
        let mut under_way: Vec<usize> = vec![];
        (0..places - 1).for_each(|turn| self.copy_turn(turn, starts, &mut under_way));
        code.staging.before.iter().for_each(|nest| self.nest(nest));
        for (turn, row) in starts.iter().enumerate() {
            under_way.retain(|own| *own != turn || self.arrive(*own, starts));
            self.copy_turn(turn + places - 1, starts, &mut under_way);
            self.stand(turn);
            self.row = *row;
            code.nests.iter().for_each(|nest| self.nest(nest));
        }
        code.staging.after.iter().for_each(|nest| self.nest(nest));
    }

    fn copy_turn(&mut self, turn: usize, starts: &[usize], under_way: &mut Vec<usize>) {
        match self.manner.late {
            true => under_way.push(turn),
            false => drop(self.arrive(turn, starts)),
        }
    }

    /// What a turn reads comes, behind the last turn what that one reads; nothing is left to come.
    fn arrive(&mut self, turn: usize, starts: &[usize]) -> bool {
        self.stand(turn);
        let code = self.code;
        code.staging.staged.iter().for_each(|own| self.copy(own, starts[turn.min(starts.len() - 1)]));
        false
    }

    fn stand(&mut self, turn: usize) {
        let places = self.code.staging.places;
        self.places = self.code.staging.staged.iter().map(|own| (own.to.tensor.0, turn % places * own.apart)).collect();
    }

    fn begin<'s>(&mut self, own: &'s Staged, row: usize, under_way: &mut Vec<(&'s Staged, usize)>) {
        match self.manner.late {
            true => under_way.push((own, row)),
            false => self.copy(own, row),
        }
    }

    fn copy(&mut self, own: &Staged, row: usize) {
        self.row = row;
        let axes: Vec<KAxis> = own.axes.iter().flatten().copied().collect();
        self.each(&axes, &mut |task| {
            let number = task.load(&own.from);
            task.store(&own.to, number);
        });
    }

    /// The indices of an axis that the task walks.
    fn range(&self, axis: KAxis) -> std::ops::Range<usize> {
        self.block.clone().filter(|(cut, _)| *cut == axis).map_or(0..self.code.sizes[axis.0], |(_, range)| range)
    }

    /// Calls `body` at all indices along some axes.
    fn each(&mut self, axes: &[KAxis], body: &mut dyn FnMut(&mut Self)) {
        let Some((axis, rest)) = axes.split_first() else { return body(self) };
        let range = self.range(*axis);
        let order: Vec<usize> = if self.manner.late { range.rev().collect() } else { range.collect() };
        for at in order {
            self.index.insert(*axis, at);
            self.each(rest, body);
        }
    }

    fn nest(&mut self, nest: &Nest) {
        let cut = self.block.as_ref().map(|(axis, _)| *axis).filter(|axis| nest.vector == Some(*axis));
        let parallel: Vec<KAxis> = nest.parallel.iter().copied().chain(cut).collect();
        let Some(order) = nest.stmts[0].ordered else { return self.elements(nest, &parallel) };
        let others: Vec<KAxis> = parallel.into_iter().filter(|axis| *axis != order.axis).collect();
        let size = self.code.sizes[order.axis.0];
        for at in 0..size {
            self.index.insert(order.axis, if order.falling { size - 1 - at } else { at });
            self.elements(nest, &others);
        }
    }

    fn elements(&mut self, nest: &Nest, axes: &[KAxis]) {
        self.each(axes, &mut |task| {
            if !task.is_below(nest, axes) {
                return;
            }
            let sums = nest.stmts.iter().filter(|stmt| stmt.reduce.is_some()).count();
            let mut totals: Vec<Option<f64>> = vec![None; sums];
            task.each(&nest.reduced, &mut |task| {
                if !task.is_below(nest, &nest.reduced) {
                    return;
                }
                let mut at = 0;
                for stmt in &nest.stmts {
                    let number = task.value(&stmt.expr);
                    match &stmt.reduce {
                        None => task.store(&stmt.target, number),
                        Some(reduction) => {
                            totals[at] = Some(totals[at].map_or(number, |total| combined(reduction.how, total, number)));
                            at += 1;
                        }
                    }
                }
            });
            let stmts = nest.stmts.iter().filter_map(|stmt| Some((stmt, stmt.reduce.as_ref()?)));
            for ((stmt, reduction), total) in stmts.zip(totals) {
                task.total(stmt, reduction, total.unwrap_or(0.0));
            }
        });
    }

    fn total(&mut self, stmt: &Stmt, reduction: &Reduction, total: f64) {
        let total = reduction.start.as_ref().map_or(0.0, |start| self.value(start)) + total;
        let made = match reduction.epilogue.as_deref() {
            None => total,
            Some((sum, expr)) => self.value_with(expr, &|view| (view == sum).then_some(total)),
        };
        self.store(&stmt.target, made);
        for (view, expr) in stmt.beside() {
            let also = self.value_with(expr, &|own| (*own == stmt.target).then_some(made));
            self.store(view, also);
        }
    }

    fn is_below(&self, nest: &Nest, walked: &[KAxis]) -> bool {
        nest.stmts[0].below.is_none_or(|below| {
            let (own, by) = (self.index.get(&below.axis), self.index.get(&below.by));
            !walked.contains(&below.axis) || if below.inclusive { own <= by } else { own < by }
        })
    }

    /// The element of a view at the task's indices.
    fn place(&mut self, view: &View) -> &mut f64 {
        let tensor = self.code.tensors[view.tensor.0];
        let mut at = view.offset as i64;
        for (axis, stride) in &view.strides {
            at += (self.index[axis] * stride) as i64;
            // Temporaries have room for the task's block alone.
            if let (Some((cut, range)), Base::Scratch(_)) = (&self.block, tensor.base)
                && cut == axis
            {
                at -= (range.start * stride) as i64;
            }
        }
        let at = at as usize;
        match (tensor.base, tensor.base.has_operand().then(|| self.operands[tensor.operand])) {
            (Base::Scratch(bytes), _) => {
                let place = self.places.get(&view.tensor.0).copied().unwrap_or(0);
                &mut self.scratch[bytes / UNIT + (place + at) * tensor.store.bytes() / UNIT]
            }
            (_, Some(Operand::Buffer(buffer))) => &mut self.memory.buffers[buffer][self.row * tensor.row + at],
            (_, Some(Operand::State(state))) => &mut self.memory.states[state][at],
            other => panic!("{other:?} is not played"),
        }
    }

    fn load(&mut self, view: &View) -> f64 {
        *self.place(view)
    }

    fn store(&mut self, view: &View, number: f64) {
        *self.place(view) = number;
    }

    fn value(&mut self, expr: &Expr) -> f64 {
        self.value_with(expr, &|_| None)
    }

    /// The value where some views are known.
    fn value_with(&mut self, expr: &Expr, known: &dyn Fn(&View) -> Option<f64>) -> f64 {
        match expr {
            Expr::Load(view, _) => known(view).unwrap_or_else(|| self.load(view)),
            Expr::Const(bits, _) => f64::from_bits(*bits),
            Expr::Index(axis) => self.index[axis] as f64,
            Expr::Unary(f, x) => unary(*f, self.value_with(x, known)),
            Expr::Binary(f, _, a, b) => binary(*f, self.value_with(a, known), self.value_with(b, known)),
            Expr::Select(_, parts) => {
                let [condition, yes, no] = &**parts;
                let chosen = if self.value_with(condition, known) != 0.0 { yes } else { no };
                self.value_with(chosen, known)
            }
            Expr::ToFloat(x) => self.value_with(x, known),
            other => panic!("{other:?} is not played"),
        }
    }
}

fn combined(how: Reduce, a: f64, b: f64) -> f64 {
    match how {
        Reduce::Sum => a + b,
        Reduce::Max => a.max(b),
        Reduce::Min => a.min(b),
    }
}
