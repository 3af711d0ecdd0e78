//! Policies: blocks that stand in for an attention to all keys. A policy is given the queries, keys and values of the attention, and may ask
//! for its score; it is named in the attention's `policy:`, or from outside for the whole model.

use std::collections::HashMap;

use super::frame::{BlockValue, Frame, V};
use super::{Done, Elab, SEQ, T};
use crate::ast::{Arg, Attend as Text, Expr, Ident, Item};
use crate::diagnostic::{Code, Diagnostic};
use crate::model::{AxisId, Elem, Op, ScopeId, ValueId};
use crate::resolve::ModuleId;
use crate::span::Span;

/// An attention whose policy is being instantiated.
pub struct Site<'p> {
    /// The names at its place.
    frame: Frame<'p>,
    /// Its score; none: the dot product.
    score: Option<&'p Expr>,
}

impl<'p> Elab<'p> {
    /// Evaluates the policy that was named for the whole model.
    pub(super) fn read_policy(&mut self) -> Done<()> {
        let program = self.program;
        let Some(module) = program.policy else { return Ok(()) };
        let Some(Item::Alias(named)) = program.modules[module].file.items.first() else { return Ok(()) };
        self.named_policy(module, &named.base, &named.args)
    }

    /// Takes a policy for the whole model, as a module names it, or what stands in for a block.
    pub(super) fn named_policy(&mut self, module: ModuleId, base: &'p Ident, args: &'p [Arg]) -> Done<()> {
        let Some((home, block)) = self.block_item(module, &base.name) else {
            let known = self.policies(module);
            let error = Diagnostic::new(Code::UnknownName, base.span, format!("there is no policy `{}`", base.name));
            let near = crate::diagnostic::did_you_mean(&base.name, known.iter().copied());
            return Err(self.error(error.hint(near.unwrap_or_else(|| format!("known are {}", known.join(", "))))));
        };
        let mut frame = Frame::new(module, ScopeId(0), String::new());
        let mut cargs = Vec::new();
        for arg in args {
            let value = self.value(&mut frame, &arg.value)?;
            let taken = arg.name.as_ref().filter(|name| block.params.iter().any(|p| p.name.name == name.name));
            let Some(name) = taken else {
                let known: Vec<&str> = block.params.iter().filter(|p| p.default.is_some()).map(|p| &p.name.name[..]).collect();
                let error = Diagnostic::new(Code::UnknownArgument, arg.value.span, "this is no argument of the policy");
                let hint = format!("those of `{}` are {}; write `name: value`", block.name.name, known.join(", "));
                return Err(self.error(error.hint(hint)));
            };
            cargs.push((name.name.clone(), value));
        }
        let value = BlockValue { module: home, block, cargs, axes: vec![], fixed: None };
        match super::stand_in::stands_in(block) {
            true => self.named_stand_in(value, base.span),
            false => {
                self.policy = Some((value, base.span));
                Ok(())
            }
        }
    }

    /// The names of the policies that a module sees.
    fn policies(&self, module: usize) -> Vec<&'p str> {
        let program = self.program;
        let is_policy = |name: &&str| self.block_item(module, name).is_some_and(|(_, block)| governs(block));
        let mut known: Vec<&str> = program.visible(module).filter(is_policy).collect();
        known.sort_unstable();
        known.dedup();
        known
    }

    /// The policy of an attention, if it has one: its own, or the model's if it looks back at everything (`past`).
    pub(super) fn policy_of(
        &mut self,
        frame: &mut Frame<'p>,
        attend: &'p Text,
        past: bool,
        span: Span,
    ) -> Done<Option<BlockValue<'p>>> {
        let clause = |name: &str| attend.clauses.iter().find(|(n, _)| n.name == name).map(|(_, e)| e);
        let (policy, place) = match (clause("policy"), &self.policy) {
            (Some(expr), _) => match self.value(frame, expr)? {
                V::Block(block) => (*block, expr.span),
                _ => return self.fail(Code::Type, expr.span, "`policy` names a block, such as `heavy_hitters(budget: 256)`"),
            },
            (None, Some((policy, place))) if past && self.sites.is_empty() => (policy.clone(), *place),
            _ => return Ok(None),
        };
        if !governs(policy.block) {
            let message = format!("`{}` is no policy", policy.block.name.name);
            let error = Diagnostic::new(Code::Type, place, message).at(policy.block.name.span, "declared here");
            let hint = "a policy takes `q: [t, heads, per, k]`, `keys: [t, heads, k]` and `values: [t, heads, v]` with `heads`, `per`, `v: dims`";
            return Err(self.error(error.hint(hint)));
        }
        if let Some(clause) = clause("weight").or(clause("sink")).filter(|_| past) {
            return self.fail(
                Code::Misplaced,
                clause.span,
                "a policy stands in for a softmax of scores, without `weight` and `sink`",
            );
        }
        if !past || !self.sites.is_empty() {
            let error = Diagnostic::new(
                Code::Misplaced,
                span,
                "a policy is for attention that looks back at everything: `keep: causal()`",
            );
            return Err(self.error(error.at(place, "named here").hint("a policy says itself which keys are seen")));
        }
        Ok(Some(policy))
    }

    /// The result of an attention under a policy.
    pub(super) fn govern(
        &mut self,
        frame: &mut Frame<'p>,
        mut policy: BlockValue<'p>,
        attend: &'p Text,
        (tensors, contract): (&[T], &[AxisId]),
        span: Span,
    ) -> Done<V<'p>> {
        let ([q, key, value], [k]) = (tensors, contract) else {
            return self.fail(Code::Misplaced, span, "a policy is for attention whose dot product runs over one axis");
        };
        let of = |this: &mut Self, t: T| -> Vec<AxisId> {
            this.seen(t).axes.into_iter().filter(|axis| !this.is_seq(*axis) && axis != k).collect()
        };
        let (of_q, of_key) = (of(self, *q), of(self, *key));
        let of_value: Vec<AxisId> = self.seen(*value).axes.into_iter().filter(|axis| !self.is_seq(*axis)).collect();
        let shared = |axis: &AxisId| of_key.contains(axis) || of_value.contains(axis) && of_q.contains(axis);
        let mut heads = of_key.clone();
        heads.extend(of_q.iter().filter(|axis| !of_key.contains(axis) && shared(axis)));
        let per = of_q.iter().copied().filter(|axis| !heads.contains(axis)).collect();
        let v = of_value.iter().copied().filter(|axis| !heads.contains(axis)).collect();
        let bound = [("heads", V::Dims(heads)), ("per", V::Dims(per)), ("v", V::Dims(v)), ("k", V::Dim(self.size(*k), *k))];
        policy.cargs.extend(bound.map(|(name, axes)| (name.to_owned(), axes)));
        let score = attend.clauses.iter().find(|(n, _)| n.name == "score").map(|(_, e)| e);
        self.governed += 1;
        self.sites.push(Site { frame: frame.clone(), score });
        let inputs = [*q, *key, *value].map(V::Tensor).to_vec();
        let result = self.apply_block(frame, policy, None, inputs, span);
        self.sites.pop();
        result
    }

    /// An error if a policy was named for the model and found nothing to stand in for.
    pub(super) fn policy_was_used(&mut self) -> Done<()> {
        self.stand_in_was_used()?;
        match &self.policy {
            Some((policy, span)) if self.governed == 0 => {
                let message = format!("the model has no cache for the policy `{}`", policy.block.name.name);
                let error = Diagnostic::new(Code::Misplaced, *span, message).label("applied to nothing");
                let hint = "a policy stands in for attention that looks back at everything (`keep: causal()`), not for windows, chosen keys or recurrences";
                Err(self.error(error.hint(hint)))
            }
            _ => Ok(()),
        }
    }

    /// `scored(s, query, key)`: what the attention makes of a dot product, where the query and the key stand at those positions.
    pub(super) fn scored(&mut self, frame: &mut Frame<'p>, args: &'p [Arg], span: Span) -> Done<V<'p>> {
        let Some(site) = self.sites.last() else { return self.no_site("scored", span) };
        let (mut outer, score) = (site.frame.clone(), site.score);
        let [s, query, key] = args else {
            return self.fail(Code::Arity, span, "write `scored(s, query, key)`: a dot product and two positions");
        };
        if self.depth() == 0 {
            let error = Diagnostic::new(Code::Misplaced, span, "`scored` stands in a `score` or in a recurrence");
            return Err(self.error(error.hint("elsewhere there are no pairs of positions")));
        }
        let s = self.tensor_of(frame, &s.value, Some(Elem::Float))?;
        let query = self.tensor_of(frame, &query.value, None)?;
        let key = self.tensor_of(frame, &key.value, None)?;
        let Some(score) = score else { return Ok(V::Tensor(s)) };
        outer.bind("s", V::Tensor(s), super::frame::Origin::Parameter);
        let level = self.depth();
        let before = self.levels[level].positions.replace((query, key));
        let scored = self.tensor_of(&mut outer, score, Some(Elem::Float));
        self.levels[level].positions = before;
        scored.map(V::Tensor)
    }

    /// `placed(x, n)`: the queries or keys as the attention's block would have made them at position `n`.
    pub(super) fn placed(&mut self, frame: &mut Frame<'p>, args: &'p [Arg], span: Span) -> Done<V<'p>> {
        let Some(scope) = self.sites.last().map(|site| site.frame.scope) else { return self.no_site("placed", span) };
        let [x, n] = args else {
            return self.fail(Code::Arity, span, "write `placed(x, n)`: queries or keys, and positions");
        };
        self.row_wise(span, "placed")?;
        let x = self.tensor_of(frame, &x.value, Some(Elem::Float))?;
        let to = self.tensor_of(frame, &n.value, Some(Elem::Int))?;
        if self.seen(to).elem != Elem::Int || self.seen(to).axes != [SEQ] {
            return self.fail(Code::Type, n.value.span, "a position for each row is needed: an int [t]");
        }
        let id = self.moved(x.id, to.id, scope, &mut HashMap::new(), span)?;
        Ok(V::Tensor(T { level: 0, id }))
    }

    /// A value of the model with `to` in the place of the position, wherever the instance `scope` reads that.
    fn moved(
        &mut self,
        id: ValueId,
        to: ValueId,
        scope: ScopeId,
        made: &mut HashMap<ValueId, ValueId>,
        span: Span,
    ) -> Done<ValueId> {
        if let Some(known) = made.get(&id) {
            return Ok(*known);
        }
        let value = self.levels[0].values[id.0 as usize].clone();
        let new = if !self.lies_in(value.scope, scope) {
            id
        } else if value.op == Op::Position(SEQ) {
            to
        } else {
            let args = value.args.iter().map(|arg| self.moved(*arg, to, scope, made, span)).collect::<Done<Vec<_>>>()?;
            if args == value.args {
                id
            } else if matches!(
                value.op,
                Op::Largest { .. } | Op::Shift(_) | Op::Fetch(..) | Op::Conv(_) | Op::Recur(_) | Op::Attend(_) | Op::Result(_)
            ) {
                return self.fail(Code::Misplaced, span, "what depends on other positions cannot be placed at one");
            } else {
                self.push_at(0, value.op, args, value.ty, value.span, value.scope).id
            }
        };
        made.insert(id, new);
        Ok(new)
    }

    /// Whether an instance is another one or inside of it.
    fn lies_in(&self, inner: ScopeId, outer: ScopeId) -> bool {
        let mut at = Some(inner);
        while let Some(scope) = at {
            if scope == outer {
                return true;
            }
            at = self.scopes[scope.0 as usize].parent;
        }
        false
    }

    fn no_site<R>(&mut self, name: &str, span: Span) -> Done<R> {
        let error = Diagnostic::new(Code::Misplaced, span, format!("`{name}` asks the attention that a policy stands in for"));
        Err(self.error(error.hint("it stands in a policy, which is named in `policy:` of an attention or by `--policy`")))
    }
}

/// Whether a block has the form of a policy.
fn governs(block: &crate::ast::Block) -> bool {
    use crate::ast::CType;
    let is = |name: &str, ty: CType| block.params.iter().any(|p| p.name.name == name && p.ty == ty);
    !block.is_model && block.inputs.len() == 3 && is("k", CType::Dim) && ["heads", "per", "v"].iter().all(|n| is(n, CType::Dims))
}
