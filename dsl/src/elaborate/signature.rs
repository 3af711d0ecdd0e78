//! Whether a block is called as it declares: inputs, compile-time arguments, results.

use super::frame::{Frame, V};
use super::{Done, Elab, T};
use crate::ast::{CParam, CType, Input};
use crate::constant;
use crate::diagnostic::{Code, Diagnostic};
use crate::model::{AxisId, Constant, Elem};
use crate::span::Span;

impl<'p> Elab<'p> {
    /// Finds the dims that an input's axes decide; the rest passes through.
    pub(super) fn match_input(
        &mut self,
        frame: &mut Frame<'p>,
        block: &'p crate::ast::Block,
        input: &'p Input,
        t: T,
        given: &mut [Option<V<'p>>],
        span: Span,
    ) -> Done<()> {
        let ty = self.seen(t);
        let mut left: Vec<AxisId> = ty.axes.clone();
        let mut open: Vec<usize> = Vec::new();
        for name in &input.ty.axes.names {
            if name.name == "t" {
                // A block walks the sequence that it is called with.
                if let Some(seq) = self.seq_of(&ty.axes) {
                    frame.seq = seq;
                }
                left.retain(|a| *a != frame.seq);
                continue;
            }
            if let Some(Some(V::Dims(several))) = block.params.iter().position(|p| p.name.name == name.name).map(|at| &given[at])
            {
                left.retain(|a| !several.contains(a));
                continue;
            }
            let is_dim = block.params.iter().any(|p| p.name.name == name.name && p.ty == CType::Dim);
            if name.name == "s" && !is_dim {
                let Some(source) = self.source else { return self.no_source(block, span) };
                if !left.contains(&source) {
                    return self.no_axis(block, input, &ty.axes, span);
                }
                left.retain(|a| *a != source);
                continue;
            }
            let Some(at) = block.params.iter().position(|p| p.name.name == name.name && p.ty == CType::Dim) else {
                let message = format!("axis `{}` of an input is not a dim of the block", name.name);
                return self.fail(Code::UnknownAxis, name.span, message);
            };
            let found = match &given[at] {
                Some(V::Dim(_, axis)) => left.iter().copied().find(|a| a == axis),
                Some(v) => {
                    let size = Self::known(v).and_then(|c| if let Constant::Int(n) = c { Some(n as usize) } else { None });
                    let fits = |a: &&AxisId| size == Some(self.size(**a)) && !self.is_seq(**a);
                    left.iter().find(|a| fits(a) && self.axis_name(**a) == name.name).or_else(|| left.iter().find(fits)).copied()
                }
                None => left.iter().copied().find(|a| self.axis_name(*a) == name.name),
            };
            match found {
                Some(axis) => {
                    left.retain(|a| *a != axis);
                    given[at] = Some(V::Dim(self.size(axis), axis));
                }
                None if given[at].is_none() => open.push(at),
                None => return self.no_axis(block, input, &ty.axes, span),
            }
        }
        // Axes of ids are no axes of the value proper: an expert's input carries them along.
        let passing: Vec<AxisId> =
            self.routes.iter().flat_map(|(_, ids)| self.ty(*ids).axes).filter(|a| !self.is_seq(*a)).collect();
        let inferable: Vec<AxisId> = left.iter().copied().filter(|a| !self.is_seq(*a) && !passing.contains(a)).collect();
        match (open.as_slice(), inferable.as_slice()) {
            ([], _) => {}
            ([at], [axis]) => {
                left.retain(|a| a != axis);
                given[*at] = Some(V::Dim(self.size(*axis), *axis));
            }
            _ => return self.no_axis(block, input, &ty.axes, span),
        }
        let extra = left.iter().any(|a| !passing.contains(a));
        if input.ty.axes.rest.is_none() && extra {
            return self.no_axis(block, input, &ty.axes, span);
        }
        for axis in left {
            if !frame.rest.contains(&axis) {
                frame.rest.push(axis);
            }
        }
        Ok(())
    }

    fn no_source<R>(&mut self, block: &'p crate::ast::Block, span: Span) -> Done<R> {
        let message = format!("`{}` reads a source, and the model has none", block.name.name);
        let error = Diagnostic::new(Code::AxisMismatch, span, message);
        Err(self.error(error.hint("give the model an input along the axis `s`: `source: [s, d]`")))
    }

    fn no_axis<R>(&mut self, block: &'p crate::ast::Block, input: &'p Input, axes: &[AxisId], span: Span) -> Done<R> {
        let mut wanted: Vec<&str> = input.ty.axes.names.iter().map(|n| n.name.as_str()).collect();
        if let Some(at) = input.ty.axes.rest {
            wanted.insert(at, "..");
        }
        let message = format!("`{}` takes `{}: [{}]`", block.name.name, input.name.name, wanted.join(", "));
        let error = Diagnostic::new(Code::AxisMismatch, span, message);
        let error = error.label(format!("is given {}", self.axes_text(axes))).at(input.ty.span, "declared here");
        Err(self.error(
            error.hint(format!("say which axis is meant: `{}[axis](…)` or `{}(dim: axis)(…)`", block.name.name, block.name.name)),
        ))
    }

    pub(super) fn check_input(&mut self, frame: &Frame<'p>, input: &'p Input, t: T, span: Span) -> Done<()> {
        let ty = self.seen(t);
        let wants_seq = input.ty.axes.names.iter().any(|n| n.name == "t");
        if wants_seq && self.seq_of(&ty.axes).is_none() && self.levels.len() == 1 {
            let message = format!("`{}` needs the sequence axis `t`", input.name.name);
            return self.fail(Code::AxisMismatch, span, message);
        }
        let _ = frame;
        match input.ty.elem {
            Some(elem) if elem != ty.elem => {
                let message = format!("`{}` is {:?}, not {:?}", input.name.name, elem, ty.elem).to_lowercase();
                self.fail(Code::Type, span, message)
            }
            _ => Ok(()),
        }
    }

    pub(super) fn check_outputs(
        &mut self,
        frame: &Frame<'p>,
        block: &'p crate::ast::Block,
        values: Vec<V<'p>>,
    ) -> Done<Vec<V<'p>>> {
        if block.outputs.is_empty() {
            return Ok(values);
        }
        if block.outputs.len() != values.len() {
            let message = format!("`{}` declares {} results and returns {}", block.name.name, block.outputs.len(), values.len());
            return self.fail(Code::Arity, block.name.span, message);
        }
        let mut made = Vec::new();
        for (output, v) in block.outputs.iter().zip(values) {
            let t = self.tensor(&v, Some(Elem::Float), output.span, frame.scope)?;
            let mut wanted = self.axes_of(frame, &output.axes, false)?;
            let got = self.seen(t).axes;
            for axis in &frame.rest {
                // Axes of ids come out beside the declared ones.
                if output.axes.rest.is_none() && got.contains(axis) && !wanted.contains(axis) {
                    wanted.push(*axis);
                }
            }
            let routed: Vec<AxisId> = frame.routes.iter().flat_map(|(_, ids)| self.ty(*ids).axes).collect();
            let same = wanted.iter().all(|a| got.contains(a) || self.is_seq(*a) && self.levels.len() > 1)
                && got.iter().all(|a| wanted.contains(a) || routed.contains(a));
            if !same {
                let message = format!(
                    "`{}` declares the result {} but returns {}",
                    block.name.name,
                    self.axes_text(&wanted),
                    self.axes_text(&got)
                );
                let error = Diagnostic::new(Code::AxisMismatch, output.span, message);
                return Err(self.error(error.label("declared here")));
            }
            made.push(V::Tensor(t));
        }
        Ok(made)
    }

    /// A compile-time argument as the parameter's type.
    pub(super) fn checked(&mut self, frame: &Frame<'p>, param: &'p CParam, v: V<'p>, span: Span) -> Done<V<'p>> {
        let fits = match (&param.ty, &v) {
            (CType::Dim, V::Dim(..)) => return Ok(v),
            (CType::Dim, V::Const(c)) => {
                let size = self.as_count(c, span)?;
                if size == 0 {
                    return self.fail(Code::Type, span, format!("dim `{}` would have size 0", param.name.name));
                }
                let axis = self.fresh_axis(frame, &param.name.name, size);
                return Ok(V::Dim(size, axis));
            }
            (CType::Dims, V::Dims(_)) => return Ok(v),
            (CType::Int, V::Dim(n, _)) => return Ok(V::Const(Constant::Int(*n as i64))),
            (CType::Float, V::Dim(n, _)) => return Ok(V::Const(Constant::Float(*n as f64))),
            (CType::Float, V::Const(Constant::Int(n))) => return Ok(V::Const(Constant::Float(*n as f64))),
            (CType::Int, V::Const(Constant::Float(x))) if x.fract() == 0.0 => return Ok(V::Const(Constant::Int(*x as i64))),
            (CType::Block, V::Block(_)) => true,
            (CType::Int, V::Const(Constant::Int(_))) => true,
            (CType::Float, V::Const(Constant::Float(_))) => true,
            (CType::Bool, V::Const(Constant::Bool(_))) => true,
            (CType::String, V::Const(Constant::Text(_))) => true,
            (CType::Ints | CType::Floats | CType::Bools | CType::Strings, V::Const(Constant::List(items))) => {
                items.iter().all(|item| of_type(param.ty, item))
            }
            _ => false,
        };
        if fits {
            return Ok(v);
        }
        let got = match &v {
            V::Const(c) => constant::render(c),
            V::Dim(n, _) => n.to_string(),
            V::Tensor(_) => "a tensor".into(),
            V::Block(b) => format!("block `{}`", b.block.name.name),
            V::Dims(axes) => self.axes_text(axes),
            V::Tuple(_) | V::Poison => "several values".into(),
        };
        let ty = format!("{:?}", param.ty).to_lowercase();
        let error = Diagnostic::new(Code::Type, span, format!("`{}` is a {ty}, not {got}", param.name.name));
        Err(self.error(error.at(param.span, "declared here")))
    }
}

/// Whether an item fits a list of that type.
fn of_type(list: CType, item: &Constant) -> bool {
    match item {
        Constant::Int(_) => matches!(list, CType::Ints | CType::Floats),
        Constant::Float(_) => list == CType::Floats,
        Constant::Bool(_) => list == CType::Bools,
        Constant::Text(_) => list == CType::Strings,
        Constant::List(_) => false,
    }
}
