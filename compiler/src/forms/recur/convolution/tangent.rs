//! What a step makes of a change of its states: the step's own equations without what it adds.
//!
//! A step that is linear in its states with coefficients of parameters alone is applied to whatever stands for the states: to one, where
//! elements do not meet, or to a unit matrix, whose second axis then counts what enters.

use super::nodes::{Nodes, typed};
use crate::graph::{NodeId, op_text};
use braid_dsl::model::{Binary, Elem, Op, Recur, Reduce, Unary, ValueId};
use std::collections::HashMap;

/// A step, and what is known of its captures.
pub struct Step<'a> {
    /// The recurrence.
    pub recur: &'a Recur,
    /// Its operands.
    pub args: &'a [NodeId],
    /// Which values a state is in.
    pub stateful: &'a [bool],
    /// Which values differ from row to row, whatever the states are.
    pub timed: &'a [bool],
}

/// Applies a step to what stands for its states.
pub struct Tangent<'a, 'n, 'g> {
    step: &'a Step<'a>,
    nodes: &'n mut Nodes<'g>,
    /// What stands for each state; none: zero.
    states: Vec<Option<NodeId>>,
    memo: HashMap<ValueId, Option<NodeId>>,
}

impl<'a, 'n, 'g> Tangent<'a, 'n, 'g> {
    /// A step of these states.
    pub fn new(step: &'a Step<'a>, nodes: &'n mut Nodes<'g>, states: Vec<Option<NodeId>>) -> Tangent<'a, 'n, 'g> {
        Tangent { step, nodes, states, memo: HashMap::new() }
    }

    /// What becomes of a value; none: zero.
    ///
    /// # Errors
    /// The operation that is not linear, or whose coefficients differ from row to row, in words.
    pub fn of(&mut self, id: ValueId) -> Result<Option<NodeId>, String> {
        if !self.step.stateful[id.0 as usize] {
            return Ok(None);
        }
        if let Some(known) = self.memo.get(&id) {
            return Ok(*known);
        }
        let found = self.made(id)?;
        self.memo.insert(id, found);
        Ok(found)
    }

    fn made(&mut self, id: ValueId) -> Result<Option<NodeId>, String> {
        let step = self.step;
        let value = &step.recur.body.values[id.0 as usize];
        let args = &value.args;
        let moved = |arg: ValueId| step.stateful[arg.0 as usize];
        match &value.op {
            Op::State(n) => Ok(self.states[*n]),
            Op::ToFloat => self.of(args[0]),
            Op::Unary(Unary::Neg) => {
                let x = self.of(args[0])?;
                self.each(x, |nodes, x| nodes.op(Op::Unary(Unary::Neg), &[x]))
            }
            Op::Binary(Binary::Add) => {
                let (a, b) = (self.of(args[0])?, self.of(args[1])?);
                typed(self.nodes.plus(a, b))
            }
            Op::Binary(Binary::Sub) => {
                let (a, b) = (self.of(args[0])?, self.of(args[1])?);
                let b = self.each(b, |nodes, x| nodes.op(Op::Unary(Unary::Neg), &[x]))?;
                typed(self.nodes.plus(a, b))
            }
            Op::Binary(Binary::Mul) => self.product(args[0], args[1], &[]),
            Op::Contract(over) => self.product(args[0], args[1], over),
            Op::Binary(Binary::Div) if !moved(args[1]) => {
                let (x, by) = (self.of(args[0])?, self.plain(args[1])?);
                self.each(x, |nodes, x| nodes.op(Op::Binary(Binary::Div), &[x, by]))
            }
            Op::Select if !moved(args[0]) => {
                let (yes, no, condition) = (self.of(args[1])?, self.of(args[2])?, self.plain(args[0])?);
                let zero = self.nodes.constant(0.0, Elem::Float);
                if yes.or(no).is_none() {
                    return Ok(None);
                }
                typed(self.nodes.op(Op::Select, &[condition, yes.unwrap_or(zero), no.unwrap_or(zero)])).map(Some)
            }
            Op::Reduce(Reduce::Sum, over) => {
                let x = self.of(args[0])?;
                self.each(x, |nodes, x| nodes.sum(x, over))
            }
            Op::Rename(from, to) => {
                let x = self.of(args[0])?;
                self.each(x, |nodes, x| nodes.renamed(x, &[(*from, *to)]))
            }
            op => Err(format!("`{}` of a state is not linear", op_text(op, &self.nodes.graph.axes, &[], &[]))),
        }
    }

    fn each(
        &mut self,
        x: Option<NodeId>,
        made: impl FnOnce(&mut Nodes<'g>, NodeId) -> Option<NodeId>,
    ) -> Result<Option<NodeId>, String> {
        let Some(x) = x else { return Ok(None) };
        typed(made(self.nodes, x)).map(Some)
    }

    fn product(&mut self, a: ValueId, b: ValueId, over: &[braid_dsl::model::AxisId]) -> Result<Option<NodeId>, String> {
        let (x, by) = match (self.step.stateful[a.0 as usize], self.step.stateful[b.0 as usize]) {
            (true, true) => return Err("it multiplies two reads".into()),
            (true, false) => (a, b),
            _ => (b, a),
        };
        let (x, by) = (self.of(x)?, self.plain(by)?);
        self.each(x, |nodes, x| nodes.contract(x, by, over))
    }

    /// A value that neither a state nor a row is in.
    pub fn plain(&mut self, id: ValueId) -> Result<NodeId, String> {
        let (step, value) = (self.step, &self.step.recur.body.values[id.0 as usize]);
        if step.timed[id.0 as usize] || step.stateful[id.0 as usize] {
            return Err("a coefficient of a state differs from row to row".into());
        }
        match &value.op {
            Op::Capture(n) => Ok(step.args[*n]),
            Op::Const(number) => Ok(self.nodes.constant(*number, value.ty.elem)),
            op => {
                let args = value.args.iter().map(|arg| self.plain(*arg)).collect::<Result<Vec<_>, _>>()?;
                self.nodes.op(op.clone(), &args).ok_or_else(|| "a coefficient has no type outside of its step".into())
            }
        }
    }
}
