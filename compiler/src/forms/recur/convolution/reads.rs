//! What outputs see: of the states as a piece begins, of the rows before in the piece, and of their own row.

use super::Axes;
use super::body::{Work, joined};
use super::matrix::{Block, Mixing, Names};
use super::nodes::typed;
use super::tables::toeplitz;
use super::tangent::Tangent;
use braid_dsl::model::{AxisId, Elem, Op, ValueId};

impl Work<'_, '_> {
    /// An output for all rows.
    pub(super) fn output(&mut self, id: ValueId) -> Result<ValueId, String> {
        if !self.step.stateful[id.0 as usize] {
            return Ok(self.maker.lift(id));
        }
        if let Some(known) = self.outputs.get(&id) {
            return Ok(*known);
        }
        let made = match self.gains(id) {
            Ok(gains) => self.read(id, &gains)?,
            Err(why) => {
                let value = self.step.recur.body.values[id.0 as usize].clone();
                if matches!(value.op, Op::State(_)) || value.args.is_empty() {
                    return Err(why);
                }
                let args = value.args.iter().map(|arg| self.output(*arg)).collect::<Result<Vec<_>, _>>()?;
                self.maker.applied(&value, &args)
            }
        };
        self.outputs.insert(id, made);
        Ok(made)
    }

    /// What a value sees of each state as the step begins.
    fn gains(&mut self, id: ValueId) -> Result<Vec<Block>, String> {
        let count = self.step.recur.states.len();
        let mut gains = vec![];
        for state in 0..count {
            let mut states = vec![None; count];
            states[state] = Some(typed(Mixing::unit(&mut self.nodes, &self.mixing.read[state]))?);
            gains.push(Tangent::new(self.step, &mut self.nodes, states).of(id)?);
        }
        Ok(gains)
    }

    /// A read for all rows: of the states as each piece began, of what the rows before wrote, and of its own row.
    fn read(&mut self, id: ValueId, gains: &[Block]) -> Result<ValueId, String> {
        let Axes { row, piece, inside, .. } = self.axes;
        let read = self.reads.len() + 1;
        let mut parts = vec![];
        let seen = typed(self.powers.seen(gains, (inside, self.rows), &mut self.nodes, self.mixing))?;
        let mut total = None;
        for (state, table) in seen.iter().enumerate() {
            let (Some(table), begun) = (*table, self.begun[state]) else { continue };
            let axes = self.mixing.read[state].clone();
            let name = format!("seen{read}_{}", self.state(state));
            parts.push(format!("{}{name} {}[c]", self.sum_text(&axes), self.state(state)));
            let meaning = format!("G A^p, what row p sees of `{}` as its piece begins", self.state(state));
            let (table, begun) = (self.table(table, name, meaning), self.primed(begun, &axes));
            let over: Vec<AxisId> = axes.iter().map(|axis| axis.primed).collect();
            let part = self.maker.contract(table, begun, &over);
            total = Some(self.maker.plus(total, part));
        }
        for at in 0..self.inputs.len() {
            if let Some(part) = self.convolved(at, &seen, (read, &mut parts))? {
                total = Some(self.maker.plus(total, part));
            }
        }
        let total = total.unwrap_or_else(|| self.maker.number(0.0));
        let total = self.along(total, &[piece, inside]);
        let mut total = self.maker.op(Op::Merge(vec![piece, inside], row), &[total]);
        self.reads.push(total);
        self.sums.push(format!("y{read}[c, p] = {}", joined(parts)));
        for (at, (number, factors)) in self.free(id)?.into_iter().enumerate() {
            let (mut timed, plain): (Vec<ValueId>, Vec<ValueId>) =
                factors.into_iter().partition(|id| self.maker.carries(*id, &[self.axes.row]));
            timed.extend(self.known(plain, format!("own{read}_{}", at + 1))?);
            let part = self.maker.product(number, &timed);
            total = self.maker.plus(Some(total), part);
        }
        Ok(total)
    }

    /// Factors that are the same in all rows: what has to be computed is, once.
    fn known(&mut self, factors: Vec<ValueId>, name: String) -> Result<Vec<ValueId>, String> {
        if factors.iter().all(|id| matches!(self.maker.value(*id).op, Op::Capture(_) | Op::Const(_))) {
            return Ok(factors);
        }
        let mut product = self.nodes.constant(1.0, Elem::Float);
        for factor in factors {
            let factor = self.node_of(factor)?;
            product = typed(self.nodes.mul(product, factor))?;
        }
        Ok(vec![self.table(product, name, "what a row sees of its own input".into())])
    }

    /// What a read sees of an input in the rows before, in the same piece.
    fn convolved(
        &mut self,
        at: usize,
        seen: &[Block],
        (read, parts): (usize, &mut Vec<String>),
    ) -> Result<Option<ValueId>, String> {
        let Axes { inside, column, .. } = self.axes;
        let (input, written) = (self.inputs[at].value, self.inputs[at].written.clone());
        let (mut kernel, mut kept) = (None, vec![]);
        for (state, (seen, written)) in seen.iter().zip(written).enumerate() {
            let (Some(seen), Some(written)) = (*seen, written) else { continue };
            let (own, summed): (Vec<Names>, Vec<Names>) =
                self.mixing.read[state].iter().partition(|axis| self.maker.carries(input, &[axis.own]));
            let names: Vec<(AxisId, AxisId)> = self.mixing.read[state].iter().map(|axis| (axis.own, axis.primed)).collect();
            let over: Vec<AxisId> = summed.iter().map(|axis| axis.primed).collect();
            let written = typed(self.nodes.renamed(written, &names))?;
            let part = typed(self.nodes.contract(seen, written, &over))?;
            // States whose reads differ in what is summed have kernels of their own axes; those they share are one.
            let same = kept.iter().map(|axis: &Names| axis.own).eq(own.iter().map(|axis| axis.own));
            if kernel.is_some() && !same {
                return Err("reads of its states sum over different axes of an input".into());
            }
            (kernel, kept) = (typed(self.nodes.plus(kernel, Some(part)))?, own);
        }
        let Some(kernel) = kernel.filter(|_| self.rows > 1) else { return Ok(None) };
        let along = self.nodes.axis(&format!("d{}'", self.rows), self.rows);
        let kernel = typed(self.nodes.renamed(kernel, &[(inside, along)]))?;
        let matrix = typed(toeplitz(kernel, along, (inside, column), &mut self.nodes))?;
        let name = format!("kernel{read}_{}", at + 1);
        let summed = self.sum_text(&kept).replace("sum[", "sum[j, ");
        let summed = if summed.is_empty() { "sum[j] ".into() } else { summed };
        parts.push(format!("{summed}{name} u{}[c, j]", at + 1));
        let meaning = "K[p - j] = G A^(p - 1 - j) B, what row p sees of what row j before it wrote".to_string();
        let matrix = self.table(matrix, name, meaning);
        let over: Vec<AxisId> = [column].into_iter().chain(kept.iter().map(|axis| axis.primed)).collect();
        let input = self.primed(self.split[at], &kept);
        Ok(Some(self.maker.contract(matrix, input, &over)))
    }
}
