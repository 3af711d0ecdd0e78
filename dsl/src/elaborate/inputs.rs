//! What a model is given: token ids, and numbers of any kind for each position.

use super::frame::{Frame, Origin, V};
use super::{Done, Elab, SEQ};
use crate::ast::{Block, CType, Ident, Input};
use crate::diagnostic::{Code, Diagnostic, did_you_mean};
use crate::model::{Axis, AxisId, Elem, Op, ScopeId, Size, Type};

/// Tensors, and names with types, in order.
type Inputs<'p> = (Vec<V<'p>>, Vec<(String, Type)>);

impl<'p> Elab<'p> {
    /// The inputs of a model as tensors and by name. The dims that they need are evaluated here, and added to `given`.
    pub(super) fn inputs(
        &mut self,
        frame: &mut Frame<'p>,
        block: &'p Block,
        given: &mut Vec<(String, V<'p>)>,
    ) -> Done<Inputs<'p>> {
        let (mut tensors, mut inputs) = (Vec::new(), Vec::new());
        self.sizes(frame, block, given)?;
        let types: Vec<Done<Type>> = block.inputs.iter().map(|input| self.input(frame, block, input)).collect();
        for (n, (input, ty)) in block.inputs.iter().zip(types).enumerate() {
            let ty = ty?;
            let id = self.push(Op::Input(n), vec![], ty.clone(), input.name.span, ScopeId(0));
            inputs.push((input.name.name.clone(), ty));
            tensors.push(V::Tensor(id));
        }
        Ok((tensors, inputs))
    }

    fn input(&mut self, frame: &Frame<'p>, block: &'p Block, input: &'p Input) -> Done<Type> {
        let names = &input.ty.axes.names;
        let axes = names.iter().map(|name| self.input_axis(frame, block, name)).collect::<Done<Vec<AxisId>>>()?;
        if input.ty.axes.rest.is_some() || axes.iter().filter(|axis| self.is_seq(**axis)).count() != 1 {
            let error =
                Diagnostic::new(Code::Type, input.ty.span, "an input of a model has the axis `t`, or that of its source, `s`");
            return Err(self.error(error.hint("give it a row for each position: `[t]`, or `[t, d]` with a dim of the model")));
        }
        if let Some(at) = (1..axes.len()).find(|at| axes[..*at].contains(&axes[*at])) {
            return self.fail(Code::AxisMismatch, names[at].span, format!("axis `{}` stands twice in the list", names[at].name));
        }
        match input.ty.elem.unwrap_or(if axes.len() == 1 { Elem::Int } else { Elem::Float }) {
            Elem::Bool => {
                let error = Diagnostic::new(Code::Type, input.ty.span, "an input of a model is `int` or `float`");
                Err(self.error(error.hint("take an `int` and compare it: `flag == 1`")))
            }
            elem => Ok(Type { elem, axes }),
        }
    }

    fn input_axis(&mut self, frame: &Frame<'p>, block: &'p Block, name: &Ident) -> Done<AxisId> {
        match frame.get(&name.name) {
            Some(V::Dim(_, axis)) => Ok(*axis),
            None if name.name == "t" => Ok(SEQ),
            None if name.name == "s" => Ok(self.source_axis()),
            _ => {
                let dims = block.params.iter().filter(|param| param.ty == CType::Dim).map(|param| param.name.name.as_str());
                let hint = did_you_mean(&name.name, dims);
                let message = format!("axis `{}` of an input is not a dim of the model", name.name);
                let error = Diagnostic::new(Code::UnknownAxis, name.span, message);
                Err(self.error(error.maybe_hint(hint)))
            }
        }
    }

    /// The axis of the second sequence.
    fn source_axis(&mut self) -> AxisId {
        *self.source.get_or_insert_with(|| {
            self.axes.push(Axis { name: "s".into(), size: Size::Seq });
            AxisId(self.axes.len() as u32 - 1)
        })
    }

    /// Evaluates the dims that inputs have as axes, and what stands before them.
    fn sizes(&mut self, frame: &mut Frame<'p>, block: &'p Block, given: &mut Vec<(String, V<'p>)>) -> Done<()> {
        let needed = |name: &str| block.inputs.iter().any(|input| input.ty.axes.names.iter().any(|axis| axis.name == name));
        let last = block.params.iter().rposition(|param| param.ty == CType::Dim && needed(&param.name.name));
        for param in block.params.iter().take(last.map_or(0, |last| last + 1)) {
            let name = &param.name.name;
            let value = match (given.iter().rev().find(|(key, _)| key == name), &param.default) {
                (Some((_, value)), _) => value.clone(),
                (None, Some(default)) => self.value(frame, default)?,
                (None, None) if needed(name) => {
                    let message = format!("`{}` needs `{name}`", block.name.name);
                    let error = Diagnostic::new(Code::MissingArgument, param.span, message);
                    return Err(self.error(error.label("no default").hint(format!("give it: `{}({name}: …)`", block.name.name))));
                }
                // That it is missing is told where the model is instantiated.
                (None, None) => {
                    frame.bind(name, V::Poison, Origin::Parameter);
                    continue;
                }
            };
            let value = self.checked(frame, param, value, param.span)?;
            if param.ty == CType::Dim {
                given.push((name.clone(), value.clone()));
            }
            frame.bind(name, value, Origin::Parameter);
        }
        Ok(())
    }
}
