//! Keeps a block's own axes apart from those that its caller brings.

use super::frame::{Frame, V};
use super::{Done, Elab};
use crate::ast::{Block, CType, Ident};
use crate::diagnostic::{Code, Diagnostic, did_you_mean};
use crate::model::{AxisId, Op, Type};
use crate::span::Span;

/// A block's own axes, each with what the caller calls it.
pub type Back = Vec<(AxisId, AxisId)>;

impl<'p> Elab<'p> {
    /// Two dims that the caller gave one axis: the one that no input has becomes an axis of the block's own, renamed in the results.
    pub(super) fn part_dims(&mut self, frame: &mut Frame<'p>, block: &'p Block, given: &mut [Option<V<'p>>]) -> Back {
        // A dim that is given for an `int` is a number.
        let dims = || block.params.iter().enumerate().filter(|(_, p)| p.ty == CType::Dim);
        let axis_of = |v: &Option<V<'p>>| if let Some(V::Dim(_, axis)) = v { Some(*axis) } else { None };
        frame.foreign.extend(dims().filter_map(|(n, _)| axis_of(&given[n])));
        frame
            .foreign
            .extend(given.iter().flatten().filter_map(|v| if let V::Dims(axes) = v { Some(axes) } else { None }).flatten());
        let of_input = |name: &str| block.inputs.iter().any(|i| i.ty.axes.names.iter().any(|n| n.name == name));
        let mut taken: Vec<AxisId> =
            dims().filter(|(_, p)| of_input(&p.name.name)).filter_map(|(n, _)| axis_of(&given[n])).collect();
        let mut back = Vec::new();
        for (n, param) in dims() {
            let Some(V::Dim(size, axis)) = given[n] else { continue };
            if of_input(&param.name.name) {
                continue;
            }
            if taken.contains(&axis) {
                let own = self.fresh_axis(frame, &param.name.name, size);
                given[n] = Some(V::Dim(size, own));
                back.push((own, axis));
            } else {
                taken.push(axis);
            }
        }
        back
    }

    /// Results under the caller's names; a suffix that kept axes apart inside goes if nothing clashes outside.
    pub(super) fn hand_back(&mut self, frame: &Frame<'p>, values: Vec<V<'p>>, back: &Back, span: Span) -> Vec<V<'p>> {
        let mut out = Vec::new();
        for value in values {
            let V::Tensor(mut t) = value else {
                out.push(value);
                continue;
            };
            for axis in self.seen(t).axes {
                let own = !frame.foreign.contains(&axis) && !frame.rest.contains(&axis);
                let to = match back.iter().find(|(from, _)| *from == axis) {
                    Some((_, to)) => *to,
                    None if own && !self.is_seq(axis) && self.axis_name(axis).contains('\'') => {
                        let plain = self.axis_name(axis).split('\'').next().unwrap_or_default().to_owned();
                        self.axis(&plain, self.size(axis))
                    }
                    None => continue,
                };
                let ty = self.seen(t);
                if ty.axes.iter().any(|a| self.axis_name(*a) == self.axis_name(to)) {
                    continue;
                }
                let axes = ty.axes.iter().map(|a| if *a == axis { to } else { *a }).collect();
                let id = self.here(t);
                t = self.push(Op::Rename(axis, to), vec![id], Type { elem: ty.elem, axes }, span, frame.scope);
            }
            out.push(V::Tensor(t));
        }
        out
    }

    /// The axis that a name means in brackets before an operand: a dim in scope, or an axis that the operand has.
    pub(super) fn axis_in(&mut self, frame: &Frame<'p>, name: &Ident, ty: &Type) -> Done<AxisId> {
        let known = frame.get(&name.name).is_some() || name.name == "t";
        if let (false, Some(axis)) = (known, ty.axes.iter().find(|a| self.axis_name(**a) == name.name)) {
            return Ok(*axis);
        }
        if known {
            return self.axis_of(frame, name);
        }
        let names: Vec<String> = ty.axes.iter().map(|a| self.axis_name(*a).to_owned()).collect();
        let error = Diagnostic::new(Code::UnknownAxis, name.span, format!("there is no axis `{}` here", name.name));
        let label = format!("the operand has {}", self.axes_text(&ty.axes));
        Err(self.error(error.label(label).maybe_hint(did_you_mean(&name.name, names.iter().map(String::as_str)))))
    }
}
