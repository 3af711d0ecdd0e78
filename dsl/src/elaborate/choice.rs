//! Keys that were chosen by a score: `chosen[slot](ids, n)` in the `keep` of an attention, and how many a `choose` takes; tallies of what queries
//! give to keys.

use super::frame::{Frame, V};
use super::{Done, Elab, T};
use crate::ast::{Arg, Attend as Text, BinOp, Expr, ExprKind, IndexItem};
use crate::diagnostic::{Code, Diagnostic};
use crate::model::{AxisId, Binary, Body, Elem, Gives, Held, Op, Type, ValueId};
use crate::span::Span;

impl<'p> Elab<'p> {
    /// What an attention gives, by the number of its operands, and how many of these are tensors.
    pub(super) fn gives(&mut self, frame: &mut Frame<'p>, text: &'p Text, span: Span) -> Done<(Gives, usize)> {
        if text.tally {
            return self.tally(frame, text, span);
        }
        match (&text.slot, text.args.as_slice()) {
            (None, [_, _, _]) => Ok((Gives::Values, 3)),
            (None, [_, _]) => Ok((Gives::Total, 2)),
            (None, _) => self.fail(Code::Arity, span, "attention takes queries, keys and values"),
            (Some(slot), [_, _, n]) => {
                let count = self.count(frame, &n.value)?;
                if count == 0 {
                    return self.fail(Code::AxisMismatch, n.value.span, "0 keys cannot be chosen");
                }
                Ok((Gives::Best(self.target(frame, slot, count)?), 2))
            }
            (Some(_), _) => {
                self.fail(Code::Arity, span, "a choice takes queries, keys and how many: `choose[k as slot](q, k, 4)`")
            }
        }
    }

    /// `tally[k](q, keys, n) { … by: query - key }`.
    fn tally(&mut self, frame: &mut Frame<'p>, text: &'p Text, span: Span) -> Done<(Gives, usize)> {
        let [_, _, n] = text.args.as_slice() else {
            return self.fail(
                Code::Arity,
                span,
                "a tally takes queries, keys and how many of the last queries: `tally[k](q, keys, 64)`",
            );
        };
        let queries = self.count(frame, &n.value)?;
        if queries == 0 {
            return self.fail(Code::AxisMismatch, n.value.span, "0 queries give nothing to any key");
        }
        let is = |expr: &Expr, name: &str| matches!(&expr.kind, ExprKind::Name(own) if own == name);
        let apart = match text.clauses.iter().find(|(name, _)| name.name == "by").map(|(_, by)| by) {
            None => false,
            Some(by) if is(by, "key") => false,
            Some(by) => match &by.kind {
                ExprKind::Binary(BinOp::Op(Binary::Sub), a, b) if is(a, "query") && is(b, "key") => true,
                _ => return self.fail(Code::Misplaced, by.span, "a tally is `by: key` or `by: query - key`"),
            },
        };
        Ok((Gives::Tally { queries, apart }, 2))
    }

    /// `chosen[slot](ids, n)`: whether the key lies in the block of `n` positions of a chosen one.
    pub(super) fn chosen(&mut self, frame: &mut Frame<'p>, items: &'p [IndexItem], args: &'p [Arg], span: Span) -> Done<V<'p>> {
        let ([_], [ids, n]) = (items, args) else {
            return self.fail(Code::Arity, span, "write `chosen[slot](ids, n)`: what `choose` gave, and how long a block is");
        };
        let Some((query, key)) = self.levels[self.depth()].positions else {
            let error = Diagnostic::new(Code::Misplaced, span, "`chosen` says which keys a query may see");
            return Err(self.error(error.hint("it stands in the `keep` of an attention")));
        };
        let slot = self.plain_axes(frame, items, span)?[0];
        let block = self.count(frame, &n.value)?;
        let t = self.tensor_of(frame, &ids.value, Some(Elem::Int))?;
        let (every, at) = self.chosen_among(t, slot, ids.value.span)?;
        if block == 0 || every % block != 0 {
            let places = if every == 1 { "all positions".to_owned() } else { format!("positions with `key % {every} == {at}`") };
            let message = format!("blocks of {block} do not fit a choice among {places}");
            let error = Diagnostic::new(Code::AxisMismatch, n.value.span, message).label("at most one of a block may be chosen");
            return Err(self.error(
                error.hint(format!("let one position stand for a block: `choose … {{ keep: … && ends({}) }}`", block.max(1))),
            ));
        }
        let ids = self.at_position(t, (query, frame.seq, Held::Sequence), span, frame.scope)?;
        let mut axes = self.ty(ids).axes;
        axes.retain(|axis| *axis != slot);
        let ty = Type { elem: Elem::Bool, axes };
        self.apply(Op::Chosen { slot, block }, &[ids, key], ty, span, frame.scope).map(V::Tensor)
    }

    /// Among which positions ids were chosen, each at most once along `slot`: the places where `key % n == r`. Whole blocks may be taken
    /// from them; -1, none, then stays below zero. Places that a `top` gave, times `n`, were chosen among those where `key % n == 0`.
    fn chosen_among(&mut self, ids: T, slot: AxisId, span: Span) -> Done<(usize, usize)> {
        let mut at = (ids.level == 0).then_some((ids.id, slot));
        let (mut moved, mut times) = (0, 1);
        while let Some((id, axis)) = at {
            let values = &self.levels[0].values;
            let value = &values[id.0 as usize];
            let number = |n: usize| match values[value.args[n].0 as usize].op {
                Op::Const(by) if by.fract() == 0.0 && by.abs() < 1e9 => Some(by as i64),
                _ => None,
            };
            let varies = |n: usize| values[value.args[n].0 as usize].ty.axes.contains(&axis);
            let mut arg = 0;
            let known = match &value.op {
                Op::Attend(attend) if attend.gives == Gives::Best(axis) => match attend.every() {
                    (every, at) if moved % (times * every) == 0 => return Ok((times * every, times * at)),
                    _ => None,
                },
                Op::Top { into, .. } if *into == axis && moved % times == 0 => return Ok((times, 0)),
                Op::Binary(Binary::Sub) => number(1).filter(|by| *by >= 0).map(|by| {
                    moved += times * by as usize;
                    axis
                }),
                Op::Binary(Binary::Mul) => {
                    arg = usize::from(number(0).is_some());
                    number(1 - arg).filter(|by| *by > 0).and_then(|by| times.checked_mul(by as usize)).map(|by| {
                        times = by;
                        axis
                    })
                }
                // -1 in the place of some.
                Op::Select => {
                    let none = |n: usize| number(n).is_some_and(|by| by < 0);
                    arg = if none(1) { 2 } else { 1 };
                    (none(1) || none(2)).then_some(axis)
                }
                Op::Gather(over) if *over != axis && !varies(1) => Some(axis),
                Op::Rename(from, to) if *to == axis => Some(*from),
                Op::Slice { axis: from, to, .. } if *to == axis => Some(*from),
                Op::Rename(..) | Op::Slice { .. } | Op::Pick { .. } => Some(axis),
                Op::Split(_, parts) if !parts.contains(&axis) => Some(axis),
                Op::Merge(_, to) if *to != axis => Some(axis),
                _ => None,
            };
            at = known.map(|axis| (value.args[arg], axis));
        }
        let error = Diagnostic::new(Code::Type, span, "these are not the positions that a `choose` gave");
        Err(self.error(error.hint("name what `choose[… as slot](…)` gives before the attention, and write that name here")))
    }

    /// An error where a choice does not simply let keys in: under anything but `&&` and `||`, or in a score.
    pub(super) fn check_choices(&mut self, (keep, result): (&Body, ValueId), score: &Body) -> Done<()> {
        let mut open = vec![result];
        let mut joined = vec![false; keep.values.len()];
        while let Some(id) = open.pop() {
            let value = &keep.values[id.0 as usize];
            joined[id.0 as usize] = true;
            if matches!(value.op, Op::Binary(Binary::And | Binary::Or)) {
                open.extend(&value.args);
            }
        }
        let is_choice = |value: &&crate::model::Value| matches!(value.op, Op::Chosen { .. });
        let hidden = keep.values.iter().zip(&joined).filter(|(_, joined)| !**joined).map(|(value, _)| value);
        match hidden.chain(&score.values).find(is_choice).map(|value| value.span) {
            None => Ok(()),
            Some(span) => {
                let error = Diagnostic::new(Code::Misplaced, span, "`chosen` lets keys in, and is joined by `&&` and `||` only");
                Err(self.error(error.hint("it stands in `keep`, without `!` or a comparison around it")))
            }
        }
    }

    /// The type of what an attention gives. `scored`: the axes of its scores; `values`: those of its values.
    pub(super) fn given_type(
        &mut self,
        (gives, seq): (Gives, AxisId),
        (scored, values): (&[AxisId], &[AxisId]),
        (keep, score): (&[AxisId], &[AxisId]),
        span: Span,
    ) -> Done<Type> {
        let float = |axes| Ok(Type { elem: Elem::Float, axes });
        match gives {
            Gives::Values => {
                let axes = self.union(&[&[seq], scored].concat(), values, span)?;
                float(axes)
            }
            Gives::Total | Gives::Tally { .. } => float([&[seq], scored].concat()),
            Gives::Best(slot) => {
                let axes = self.union(&[&[seq], score].concat(), keep, span)?;
                Ok(Type { elem: Elem::Int, axes: [&axes[..], &[slot]].concat() })
            }
        }
    }
}
