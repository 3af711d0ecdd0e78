//! `generate …`: how the outputs of a model become more inputs.

use super::frame::Frame;
use super::{Done, Elab};
use crate::ast::{Arg, Expr, Ident};
use crate::diagnostic::{Code, Diagnostic};
use crate::model::{Constant, Generate, Remask, Unmask};

/// Most positions ahead of a text.
const MOST_AHEAD: usize = 1 << 16;

impl<'p> Elab<'p> {
    /// The statement.
    pub(super) fn generates(&mut self, frame: &mut Frame<'p>, how: &'p Ident, args: &'p [Arg]) -> Done<()> {
        let way = match how.name.as_str() {
            "autoregressive" => {
                self.ahead = self.rows_ahead(frame, args)?;
                Generate::Autoregressive
            }
            "masked_diffusion" => Generate::Unmask(self.unmask(frame, how, args)?),
            other => {
                let error = Diagnostic::new(Code::UnknownName, how.span, format!("there is no way `{other}` to generate"));
                let hint = "write `generate autoregressive` or `generate masked_diffusion(mask: …)`";
                return Err(self.error(error.hint(hint)));
            }
        };
        self.generate = Some((way, how.span));
        Ok(())
    }

    /// `autoregressive(ahead: n)`
    fn rows_ahead(&mut self, frame: &mut Frame<'p>, args: &'p [Arg]) -> Done<usize> {
        let is_ahead = |arg: &Arg| arg.name.as_ref().is_some_and(|name| name.name == "ahead");
        match args {
            [] => Ok(0),
            [arg] if is_ahead(arg) => match self.count(frame, &arg.value)? {
                many if many > MOST_AHEAD => {
                    self.fail(Code::TooLarge, arg.value.span, format!("more than {MOST_AHEAD} positions ahead of a text"))
                }
                few => Ok(few),
            },
            [arg, ..] => {
                let error =
                    Diagnostic::new(Code::Arity, arg.value.span, "`generate autoregressive` takes `ahead` and nothing else");
                Err(self
                    .error(error.hint(
                        "write `generate autoregressive(ahead: n)`: n positions of the model's own stand before each text",
                    )))
            }
        }
    }

    fn unmask(&mut self, frame: &mut Frame<'p>, how: &'p Ident, args: &'p [Arg]) -> Done<Unmask> {
        let (mut mask, mut steps) = (None, None);
        let mut made = Unmask { mask: 0, block: 32, steps: 0, remask: Remask::LowConfidence, never: vec![], guidance: 0.0 };
        for arg in args {
            let Some(name) = &arg.name else {
                return self.fail(Code::Arity, arg.value.span, "arguments of `masked_diffusion` are named: `mask: 1`");
            };
            match name.name.as_str() {
                "mask" => mask = Some(self.count(frame, &arg.value)?),
                "span" => made.block = self.positive(frame, &arg.value)?,
                "steps" => steps = Some(self.positive(frame, &arg.value)?),
                "never" => made.never = self.ids(frame, &arg.value)?,
                "guidance" => made.guidance = self.strength(frame, &arg.value)?,
                "remask" => made.remask = self.remask(frame, &arg.value)?,
                other => {
                    let error = Diagnostic::new(
                        Code::UnknownArgument,
                        name.span,
                        format!("`masked_diffusion` has no argument `{other}`"),
                    );
                    return Err(self.error(error.hint("they are `mask`, `span`, `steps`, `remask`, `never` and `guidance`")));
                }
            }
        }
        let Some(mask) = mask else {
            let error = Diagnostic::new(Code::MissingArgument, how.span, "`masked_diffusion` needs the id of the mask token");
            return Err(self.error(error.hint("write `generate masked_diffusion(mask: …)`")));
        };
        Ok(Unmask { mask, steps: steps.unwrap_or(made.block), ..made })
    }

    fn positive(&mut self, frame: &mut Frame<'p>, expr: &'p Expr) -> Done<usize> {
        match self.count(frame, expr)? {
            0 => self.fail(Code::Type, expr.span, "a number of at least 1 is needed"),
            n => Ok(n),
        }
    }

    fn ids(&mut self, frame: &mut Frame<'p>, expr: &'p Expr) -> Done<Vec<usize>> {
        match self.constant(frame, expr)? {
            Constant::List(list) => list.iter().map(|id| self.as_count(id, expr.span)).collect(),
            _ => self.fail(Code::Type, expr.span, "a list of token ids is needed: `[1, 2]`"),
        }
    }

    fn strength(&mut self, frame: &mut Frame<'p>, expr: &'p Expr) -> Done<f64> {
        let value = self.constant(frame, expr)?;
        match crate::constant::number(&value) {
            Some(number) if number.is_finite() && number >= 0.0 => Ok(number),
            _ => self.fail(Code::Type, expr.span, "guidance is a number that is not negative"),
        }
    }

    fn remask(&mut self, frame: &mut Frame<'p>, expr: &'p Expr) -> Done<Remask> {
        match self.constant(frame, expr)? {
            Constant::Text(text) if text == "low_confidence" => Ok(Remask::LowConfidence),
            Constant::Text(text) if text == "random" => Ok(Remask::Random),
            _ => self.fail(Code::Type, expr.span, "remasking is \"low_confidence\" or \"random\""),
        }
    }
}
