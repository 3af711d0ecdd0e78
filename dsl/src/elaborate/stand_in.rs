//! What stands in for a block: a block that takes one input and is given the other as its `expert`. It is named from outside for the whole
//! model, and every instance of the other becomes one of it, under the same name.

use super::frame::{BlockValue, Frame, V};
use super::{Done, Elab};
use crate::ast::{Block, CType};
use crate::diagnostic::{Code, Diagnostic};
use crate::model::ScopeId;
use crate::span::Span;

/// What instances of a block become.
pub struct StandIn<'p> {
    /// The block that stands in.
    value: BlockValue<'p>,
    /// The one that it stands in for.
    of: &'p Block,
}

/// The parameter that takes the other block.
const OF: &str = "expert";

/// Whether a block can stand in for another one.
pub fn stands_in(block: &Block) -> bool {
    block.inputs.len() == 1 && block.params.iter().any(|param| param.name.name == OF && param.ty == CType::Block)
}

impl<'p> Elab<'p> {
    /// Takes what stands in, and finds out for what.
    pub(super) fn named_stand_in(&mut self, value: BlockValue<'p>, span: Span) -> Done<()> {
        let given = value.cargs.iter().rev().find(|(name, _)| name == OF).map(|(_, given)| given.clone());
        let default = value.block.params.iter().find(|param| param.name.name == OF).and_then(|param| param.default.as_ref());
        let of = match (given, default) {
            (Some(given), _) => given,
            (None, Some(default)) => {
                let mut frame = Frame::new(value.module, ScopeId(0), String::new());
                self.value(&mut frame, default)?
            }
            (None, None) => {
                let message = format!("`{}` stands in for a block, and none is named", value.block.name.name);
                let error = Diagnostic::new(Code::MissingArgument, span, message);
                return Err(self.error(error.hint("name it: `expert: mlp`")));
            }
        };
        let V::Block(of) = of else { return self.fail(Code::Type, span, "`expert` names a block, such as `mlp`") };
        self.stand_in = Some((StandIn { value, of: of.block }, span));
        Ok(())
    }

    /// What a block becomes, and whether that is another one. What a router chooses already stays as it is.
    pub(super) fn stood_in(&mut self, value: BlockValue<'p>) -> (BlockValue<'p>, bool) {
        match &self.stand_in {
            Some((stand_in, _)) if std::ptr::eq(stand_in.of, value.block) && !self.standing && self.routes.is_empty() => {
                let mut made = stand_in.value.clone();
                let takes = |name: &str| made.block.params.iter().any(|param| param.name.name == name);
                let own: Vec<_> = value.cargs.iter().filter(|(name, _)| takes(name)).cloned().collect();
                made.cargs.splice(0..0, own);
                made.fixed.clone_from(&value.fixed);
                made.cargs.push((OF.to_owned(), V::Block(Box::new(BlockValue { fixed: None, ..value }))));
                self.governed += 1;
                (made, true)
            }
            _ => (value, false),
        }
    }

    /// An error if there was nothing to stand in for.
    pub(super) fn stand_in_was_used(&mut self) -> Done<()> {
        match &self.stand_in {
            Some((stand_in, span)) if self.governed == 0 => {
                let message = format!(
                    "the model has no `{}` that `{}` could stand in for",
                    stand_in.of.name.name, stand_in.value.block.name.name
                );
                let error = Diagnostic::new(Code::Misplaced, *span, message).label("stands in for nothing");
                Err(self.error(error.hint("name the block of its feed-forward parts: `expert: mlp`")))
            }
            _ => Ok(()),
        }
    }
}
