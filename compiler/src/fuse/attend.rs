//! Attention: weighing values, adding weights up, choosing keys; over all keys or over those that were chosen.

use super::Kernel;
use super::Operand;
use super::anchor::attention_axes;
use super::attention::Tally;
use super::build::{Draft, Fuser};
use super::group::Owner;
use super::kernel::{Attention, AttentionViews, BATCH, Chosen, Code, Store};
use crate::error::Error;
use crate::forms::Choice;
use crate::graph::NodeId;
use braid_dsl::model::{Attend, AxisId, Body, Elem, Gives, Op, Value};
use braid_runtime::artifact::Dtype;

/// Most parts that the positions of attention are cut into.
const MOST_SPLITS: usize = 32;

impl Fuser<'_> {
    /// The kernel of an attention.
    pub(super) fn attention(&mut self, owner: Owner, node: NodeId, attend: &Attend) -> Result<Kernel, Error> {
        let graph = &self.forms.graph;
        let args = graph.args(node);
        let [groups, per, key, last] = attention_axes(graph, &args, attend);
        let choice = Choice::of(attend).map_err(Error::limit)?;
        let mut draft = Draft::new(owner.rows);
        let lists =
            |last: &[AxisId], with_per: bool| [last.to_vec(), groups.clone(), if with_per { per.clone() } else { vec![] }];
        let query = self.flat(&mut draft, args[0], &lists(&key, true))?;
        let keys = self.flat(&mut draft, args[1], &lists(&key, false))?;
        let weighs = attend.gives == Gives::Values;
        let values = if weighs { self.flat(&mut draft, args[2], &lists(&last, false))? } else { keys.clone() };
        let out = self.flat_out(&mut draft, node, &lists(&last, true))?;
        let mut captures = Vec::new();
        let tables = tables(attend)?;
        for (n, arg) in args[attend.operands()..].iter().enumerate() {
            let slots = choice.iter().filter(|choice| choice.ids == n).map(|choice| choice.slot);
            let rows = tables.iter().filter(|(table, _)| *table == n).map(|(_, axis)| *axis);
            captures.push(self.flat(&mut draft, *arg, &lists(&slots.chain(rows).collect::<Vec<_>>(), true))?);
        }
        let tables = tables.iter().map(|(n, axis)| (*n, self.count(&[*axis]))).collect();
        let keyed = |n: &usize| (*n, if captures[*n].stride(BATCH) > 0 { self.count(&per) } else { 1 });
        let keyed = attend.keyed.iter().map(keyed).collect();
        let caches = draft.operands.len();
        for state in self.forms.carried.get(&node).into_iter().flatten() {
            draft.operands.push(Operand::State(state.index()));
            draft.operands.push(Operand::StatePerPosition(state.index()));
        }
        let (reach, range) = (self.forms.reach(node), self.forms.range(node));
        self.attention_limits(node, attend, [&groups, &per], choice.is_some())?;
        if self.options.blocks > 0 {
            draft.operands.push(Operand::Workspace);
        }
        let chosen = choice.map(|Choice { ids, slot, block, beside }| {
            let by_head = captures[ids].stride(BATCH) > 0;
            Chosen { ids, count: self.count(&[slot]), block, beside, by_head }
        });
        let own = &self.forms.graph.node(node).ty.axes;
        let joined = per.iter().all(|axis| !own.contains(axis));
        let best = if let Gives::Best(slot) = attend.gives { self.count(&[slot]) } else { 0 };
        let tally = match attend.gives {
            Gives::Tally { queries, apart } => Some(Tally { queries, apart }),
            _ => None,
        };
        let value = if weighs { self.count(&last) } else { 0 };
        let (groups, per, key) = (self.count(&groups), self.count(&per), self.count(&key));
        let (tensors, attend) = (draft.tensors.clone(), attend.clone());
        let views = AttentionViews { query, keys, values, out, captures };
        let mut code = Attention {
            groups,
            per,
            key,
            value,
            best,
            joined,
            tally,
            chosen,
            reach,
            range,
            keyed,
            apart: attend.apart.clone(),
            tables,
            attend,
            views,
            tensors,
            caches,
            splits: 1,
            rounded: self.options.blocks > 0 && self.options.dtype != Dtype::F32,
            kept: None,
        };
        code.kept = (self.options.blocks > 0).then_some(if code.rounded { Store::Bf16 } else { Store::F32 });
        code.splits = (self.options.blocks * code.heads_of_a_block() / (groups * per)).clamp(1, MOST_SPLITS);
        Ok(draft.finish(Code::Attention(code), vec![node]))
    }

    /// What is not lowered yet.
    fn attention_limits(&self, node: NodeId, attend: &Attend, heads: [&[AxisId]; 2], chosen: bool) -> Result<(), Error> {
        let reach = self.forms.reach(node);
        if self.options.blocks > 0 {
            if matches!(attend.gives, Gives::Tally { .. }) || !attend.apart.is_empty() {
                return Err(Error::limit("what the last queries of a prompt give, or values by distance, on a GPU"));
            }
            if attend.plain || !attend.keyed.is_empty() {
                return Err(Error::limit("attention by weights, or by values at the key's position, on a GPU"));
            }
            if attend.gives != Gives::Values || chosen || reach.every() > 1 {
                return Err(Error::limit(
                    "choosing keys by a score, and attention to chosen keys or to one key of each block, on a GPU",
                ));
            }
        }
        if chosen && reach.every() > 1 {
            return Err(Error::limit("attention to chosen keys of which one of each block is stored"));
        }
        let [groups, per] = heads;
        let own = &self.forms.graph.node(node).ty.axes;
        let kept = |axes: &[AxisId]| axes.iter().filter(|axis| own.contains(axis)).count();
        if kept(groups) < groups.len() || (kept(per) > 0 && kept(per) < per.len()) {
            return Err(Error::limit("a choice whose score joins heads of the keys, or some heads of the queries"));
        }
        let joins = |body: &Body| {
            let all = |over: &[AxisId]| per.iter().all(|axis| over.contains(axis)) && over.iter().all(|axis| per.contains(axis));
            body.values.iter().all(|value| match &value.op {
                Op::Reduce(_, over) | Op::Contract(over) => all(over) && kept(per) == 0 && attend.gives != Gives::Values,
                _ => true,
            })
        };
        if [&attend.score, &attend.keep].iter().any(|body| !body.values.iter().all(is_lowered)) {
            return Err(Error::limit("a view, an index or a choice made inside of an attention, and not before it"));
        }
        match joins(&attend.score) && joins(&attend.keep) {
            true => Ok(()),
            false => Err(Error::limit("a sum inside of an attention that is not over all heads of a choice's queries")),
        }
    }
}

/// The captures that are looked up in, each with the axis of its rows.
fn tables(attend: &Attend) -> Result<Vec<(usize, AxisId)>, Error> {
    let mut found = Vec::new();
    for body in [&attend.keep, &attend.score] {
        for value in &body.values {
            let Op::Gather(axis) = &value.op else { continue };
            let Op::Capture(n) = body.values[value.args[0].0 as usize].op else {
                return Err(Error::limit("attention that looks up in a table which is made inside of it"));
            };
            if attend.keyed.contains(&n) || found.iter().any(|(table, other)| *table == n && other != axis) {
                return Err(Error::limit("attention that looks up in a table of each key, or along two axes of one table"));
            }
            found.push((n, *axis));
        }
    }
    found.sort_unstable();
    found.dedup();
    let alone = |n: usize| [&attend.keep, &attend.score].iter().all(|body| looked_up_only(body, n));
    match found.iter().all(|(n, _)| alone(*n)) {
        true => Ok(found),
        false => Err(Error::limit("attention that uses a whole table in which it looks up rows")),
    }
}

/// Whether nothing of a body reads a capture but look-ups.
fn looked_up_only(body: &Body, capture: usize) -> bool {
    let reads = |at: usize| body.values[at].op == Op::Capture(capture);
    body.values.iter().all(|value| {
        let others = if matches!(value.op, Op::Gather(_)) { &value.args[1..] } else { &value.args[..] };
        others.iter().all(|arg| !reads(arg.0 as usize))
    })
}

/// Whether the kernels have a form for a value of `keep` or `score`.
fn is_lowered(value: &Value) -> bool {
    match value.op {
        Op::Const(_) | Op::Capture(_) | Op::Score | Op::QueryPosition | Op::KeyPosition | Op::Chosen { .. } => true,
        Op::Unary(_) | Op::Binary(_) | Op::Select | Op::ToFloat | Op::Gather(_) => true,
        Op::Reduce(..) | Op::Contract(_) => value.ty.elem == Elem::Float,
        _ => false,
    }
}
