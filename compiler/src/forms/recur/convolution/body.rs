//! The tables of a convolution, and a chunk's body that uses them.

use super::matrix::{Block, Matrix, Mixing, Names};
use super::nodes::{Nodes, typed};
use super::tables::Powers;
use super::tangent::Step;
use super::{Axes, Pieces, Table};
use crate::forms::recur::chunk::maker::Maker;
use crate::forms::recur::chunk::{Chunk, capture_type, terms};
use crate::graph::NodeId;
use braid_dsl::model::{AxisId, Binary, Elem, Op, Type, ValueId};
use std::collections::HashMap;

/// A chunk, and the nodes that its recurrence gets as further operands.
pub(super) struct Made {
    pub(super) chunk: Chunk,
    pub(super) tables: Vec<NodeId>,
}

/// What is known of an input: its value in the chunk, one for each row, and what is written of it into each state.
pub(super) struct Input {
    pub(super) factors: Vec<ValueId>,
    pub(super) value: ValueId,
    pub(super) written: Vec<Block>,
}

/// A work in progress.
pub(super) struct Work<'a, 'g> {
    pub(super) step: &'a Step<'a>,
    pub(super) mixing: &'a Mixing,
    pub(super) nodes: Nodes<'g>,
    pub(super) maker: Maker<'a>,
    pub(super) axes: Axes,
    pub(super) rows: usize,
    pub(super) powers: Powers,
    pub(super) inputs: Vec<Input>,
    pub(super) tables: Vec<NodeId>,
    pub(super) told: Vec<Table>,
    /// What states behind a piece, and reads, are sums of.
    pub(super) sums: Vec<String>,
    /// Inputs by pieces and their columns.
    pub(super) split: Vec<ValueId>,
    /// States as each piece begins.
    pub(super) begun: Vec<ValueId>,
    /// Outputs, and values that they are made of, by the step's values.
    pub(super) outputs: HashMap<ValueId, ValueId>,
    /// What is read of states, for all rows.
    pub(super) reads: Vec<ValueId>,
}

/// Makes tables and body.
pub(super) fn make(
    mut nodes: Nodes,
    step: &Step,
    mixing: &Mixing,
    transition: Matrix,
    (axes, count, rows): (Axes, usize, usize),
) -> Result<Made, String> {
    let powers = typed(Powers::of(transition, rows, &mut nodes, mixing))?;
    let all = nodes.graph.axes.clone();
    let captured = |arg: &NodeId| capture_type(nodes.graph.ty(*arg), step.recur.seq, axes.row);
    let maker = Maker::new(&all, step.recur, step.args.iter().map(captured).collect());
    let mut work = Work {
        step,
        mixing,
        nodes,
        maker,
        axes,
        rows,
        powers,
        inputs: vec![],
        tables: vec![],
        told: vec![],
        sums: vec![],
        split: vec![],
        begun: vec![],
        outputs: HashMap::new(),
        reads: vec![],
    };
    work.find_inputs()?;
    let next = work.walk(count)?;
    let outputs = step.recur.outputs.iter().map(|id| work.output(*id)).collect::<Result<Vec<_>, _>>()?;
    Ok(work.finished(next, outputs, count))
}

impl Work<'_, '_> {
    /// What a value of the step has that no state is in: products of numbers and factors.
    pub(super) fn free(&mut self, id: ValueId) -> Result<Vec<(f64, Vec<ValueId>)>, String> {
        let (after, firsts) = (HashMap::new(), HashMap::new());
        let (recur, stateful) = (self.step.recur, self.step.stateful);
        let mut terms =
            terms::Terms { maker: &mut self.maker, recur, stateful, after, stops: false, blind: true, firsts: &firsts };
        let form = terms.form(id).ok_or("an operation on its states is not linear")?;
        Ok(form.free)
    }

    fn find_inputs(&mut self) -> Result<(), String> {
        for (state, next) in self.step.recur.next.iter().enumerate() {
            for (number, factors) in self.free(*next)? {
                let (mut timed, plain): (Vec<ValueId>, Vec<ValueId>) =
                    factors.into_iter().partition(|id| self.maker.carries(*id, &[self.axes.row]));
                timed.sort();
                let mut by = self.nodes.constant(number, Elem::Float);
                for factor in plain {
                    let factor = self.node_of(factor)?;
                    by = typed(self.nodes.mul(by, factor))?;
                }
                let at = self.input(timed);
                let known = self.inputs[at].written[state];
                self.inputs[at].written[state] = typed(self.nodes.plus(known, Some(by)))?;
            }
        }
        for input in &self.inputs {
            let meets = |axis: &Names| self.maker.carries(input.value, &[axis.own]);
            let written = input.written.iter().enumerate().filter(|(_, block)| block.is_some());
            if written.map(|(state, _)| &self.mixing.mixed[state]).any(|axes| axes.iter().any(meets)) {
                return Err("what is written varies along axes that the update sums over".into());
            }
        }
        Ok(())
    }

    /// The input that is a product of these factors.
    fn input(&mut self, factors: Vec<ValueId>) -> usize {
        self.inputs.iter().position(|input| input.factors == factors).unwrap_or_else(|| {
            let product = self.maker.product(1.0, &factors);
            let value = self.along(product, &[self.axes.row]);
            let written = vec![None; self.step.recur.states.len()];
            self.inputs.push(Input { factors, value, written });
            self.inputs.len() - 1
        })
    }

    /// A value of the body that is the same in all rows, as a node.
    pub(super) fn node_of(&mut self, id: ValueId) -> Result<NodeId, String> {
        let value = self.maker.value(id).clone();
        match value.op {
            Op::Capture(n) => Ok(self.step.args[n]),
            Op::Const(number) => Ok(self.nodes.constant(number, value.ty.elem)),
            op => {
                let args = value.args.iter().map(|arg| self.node_of(*arg)).collect::<Result<Vec<_>, _>>()?;
                typed(self.nodes.op(op, &args))
            }
        }
    }

    /// A value that varies along axes, if only by name.
    pub(super) fn along(&mut self, x: ValueId, axes: &[AxisId]) -> ValueId {
        axes.iter().fold(x, |x, axis| {
            if self.maker.carries(x, &[*axis]) {
                return x;
            }
            let index = self.maker.op(Op::Index(*axis), &[]);
            let (index, zero) = (self.maker.op(Op::ToFloat, &[index]), self.maker.number(0.0));
            let zeros = self.maker.op(Op::Binary(Binary::Mul), &[index, zero]);
            self.maker.op(Op::Binary(Binary::Add), &[x, zeros])
        })
    }

    /// A table as a value of the body.
    pub(super) fn table(&mut self, node: NodeId, name: String, meaning: String) -> ValueId {
        let at = self.tables.iter().position(|known| *known == node).unwrap_or_else(|| {
            self.nodes.graph.call(node, &name);
            self.tables.push(node);
            self.told.push(Table { name, meaning });
            self.tables.len() - 1
        });
        let ty = Type { elem: Elem::Float, axes: self.nodes.graph.ty(node).axes.clone() };
        self.maker.capture(self.step.args.len() + at, ty)
    }

    pub(super) fn state(&self, n: usize) -> &str {
        &self.step.recur.states[n].name
    }

    pub(super) fn primed(&mut self, x: ValueId, axes: &[Names]) -> ValueId {
        axes.iter().fold(x, |x, axis| self.maker.rename(x, axis.own, axis.primed))
    }

    /// The states as each piece begins; gives those that leave the chunk.
    fn walk(&mut self, count: usize) -> Result<Vec<ValueId>, String> {
        let Axes { row, piece, column, unit, .. } = self.axes;
        let inputs: Vec<ValueId> = self.inputs.iter().map(|input| input.value).collect();
        for x in inputs {
            let x = self.maker.op(Op::Split(row, vec![piece, column]), &[x]);
            // Laid down once: every product reads all of it.
            self.split.push(self.maker.op(Op::Concat(vec![column], column), &[x]));
        }
        let states = 0..self.step.recur.states.len();
        let mut told = vec![vec![]; states.len()];
        let power = typed(self.powers.to(self.rows, &mut self.nodes, self.mixing))?;
        let power = self.captured(&power, &mut told);
        let added = self.written(&mut told)?;
        for (n, parts) in told.into_iter().enumerate() {
            let line = format!("{}[c + 1] = {}", self.state(n), joined(parts));
            self.sums.push(line);
        }
        // They are laid side by side along an axis of their own.
        let mut now: Vec<ValueId> = vec![];
        for n in states.clone() {
            let old = self.maker.op(Op::State(n), &[]);
            now.push(self.along(old, &[unit]));
        }
        let mut begun: Vec<Vec<ValueId>> = vec![vec![]; now.len()];
        for at in 0..count {
            begun.iter_mut().zip(&now).for_each(|(list, state)| list.push(*state));
            now = states.clone().map(|n| self.next(n, &now, (&power, added[n], at))).collect();
        }
        for list in begun {
            self.begun.push(self.maker.op(Op::Concat(vec![unit; count], piece), &list));
        }
        Ok(now.into_iter().map(|x| self.maker.op(Op::Pick { axis: unit, index: 0 }, &[x])).collect())
    }

    /// What each piece adds to each state.
    fn written(&mut self, told: &mut [Vec<String>]) -> Result<Vec<Option<ValueId>>, String> {
        let mut total = vec![None; self.step.recur.states.len()];
        for at in 0..self.inputs.len() {
            let written = self.inputs[at].written.clone();
            let to = (self.axes.column, self.rows);
            let left = typed(self.powers.left(&written, to, &mut self.nodes, self.mixing))?;
            for (state, table) in left.into_iter().enumerate() {
                let Some(table) = table else { continue };
                let name = format!("left{}_{}", at + 1, self.state(state));
                told[state].push(format!("sum[j] {name} u{}[c, j]", at + 1));
                let meaning = format!("A^({} - j) B, what is left in `{}` of what row j wrote", self.rows - 1, self.state(state));
                let table = self.table(table, name, meaning);
                let part = self.maker.contract(table, self.split[at], &[self.axes.column]);
                total[state] = Some(self.maker.plus(total[state], part));
            }
        }
        Ok(total)
    }

    /// The blocks of the power of a whole piece, as values.
    fn captured(&mut self, power: &Matrix, told: &mut [Vec<String>]) -> Vec<Vec<Option<ValueId>>> {
        let count = power.0.len();
        let mut found = vec![vec![None; count]; count];
        for (to, line) in power.0.iter().enumerate() {
            for (from, block) in line.iter().enumerate() {
                let Some(node) = *block else { continue };
                let name = format!("power_{}_{}", self.state(to), self.state(from));
                let sum = self.sum_text(&self.mixing.mixed[from]);
                found[to][from] = Some(match *self.nodes.graph.op(node) {
                    Op::Const(number) => {
                        told[to].push(format!("{number} {sum}{}[c]", self.state(from)));
                        self.maker.number(number)
                    }
                    _ => {
                        told[to].push(format!("{sum}{name} {}[c]", self.state(from)));
                        let [to, from] = [to, from].map(|n| self.state(n));
                        let meaning = format!("A^{}, what is left of `{from}` in `{to}` behind a piece", self.rows);
                        self.table(node, name, meaning)
                    }
                });
            }
        }
        found
    }

    /// How a sum over axes is written.
    pub(super) fn sum_text(&self, axes: &[Names]) -> String {
        let names: Vec<&str> = axes.iter().map(|axis| self.nodes.graph.axis(axis.own).name.as_str()).collect();
        if names.is_empty() { String::new() } else { format!("sum[{}] ", names.join(", ")) }
    }

    /// A state behind a piece.
    fn next(
        &mut self,
        state: usize,
        now: &[ValueId],
        (power, added, at): (&[Vec<Option<ValueId>>], Option<ValueId>, usize),
    ) -> ValueId {
        let mut total = None;
        for (from, block) in power[state].iter().enumerate() {
            let Some(block) = block else { continue };
            let mixed = self.mixing.mixed[from].clone();
            let over: Vec<AxisId> = mixed.iter().map(|axis| axis.primed).collect();
            let old = self.primed(now[from], &mixed);
            let part = self.maker.contract(*block, old, &over);
            total = Some(self.maker.plus(total, part));
        }
        if let Some(added) = added {
            let part = match self.maker.carries(added, &[self.axes.piece]) {
                true => self.maker.op(Op::Pick { axis: self.axes.piece, index: at }, &[added]),
                false => added,
            };
            total = Some(self.maker.plus(total, part));
        }
        let total = total.unwrap_or_else(|| self.maker.number(0.0));
        let axes = [&self.step.recur.states[state].axes[..], &[self.axes.unit]].concat();
        self.along(total, &axes)
    }

    fn finished(mut self, next: Vec<ValueId>, outputs: Vec<ValueId>, count: usize) -> Made {
        let Axes { row, piece, inside, column, unit } = self.axes;
        let numbers = |node: &NodeId| self.nodes.graph.row_elements(self.nodes.graph.ty(*node));
        let table = self.tables.iter().map(numbers).sum();
        let inputs = self.inputs.iter().map(|input| input.value).collect();
        let (tables, sums, reads) = (self.told, self.sums, std::mem::take(&mut self.reads));
        let mut pieces = Pieces { count, rows: self.rows, table, tables, sums, inputs, reads };
        let primed = self.mixing.names.iter().map(|axis| axis.primed);
        let stacks = [piece, inside, unit].into_iter().chain(primed).collect();
        let (rows, mut next, mut outputs) = (count * self.rows, next, outputs);
        let told = pieces.inputs.iter_mut().chain(&mut pieces.reads);
        let mut results: Vec<&mut ValueId> = next.iter_mut().chain(&mut outputs).chain(told).collect();
        let body = crate::graph::body::cleaned(&self.maker.finish(), &self.nodes.graph.axes, &mut results);
        let (aligned, third, pieces) = (false, None, Some(pieces));
        Made { chunk: Chunk { rows, aligned, row, column, third, stacks, pieces, body, next, outputs }, tables: self.tables }
    }
}

/// A sum as text.
pub(super) fn joined(parts: Vec<String>) -> String {
    if parts.is_empty() { "0".into() } else { parts.join(" + ") }
}
