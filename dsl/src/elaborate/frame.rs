//! What names mean while a block is instantiated.

use std::collections::HashMap;

use super::{Elab, SEQ, Stop, T};
use crate::ast::{AxisList, Block, Ident, Item};
use crate::diagnostic::{Code, Diagnostic, did_you_mean};
use crate::model::{AxisId, Constant, ScopeId};
use crate::resolve::ModuleId;
use crate::span::Span;

/// What an expression can be while a model is instantiated.
#[derive(Clone, Debug)]
pub enum V<'p> {
    /// Known now.
    Const(Constant),
    /// A size and the axis that it counts.
    Dim(usize, AxisId),
    /// Any number of axes, where a policy is applied.
    Dims(Vec<AxisId>),
    /// Known when the model runs.
    Tensor(T),
    /// A block with some of its arguments.
    Block(Box<BlockValue<'p>>),
    /// Several results.
    Tuple(Vec<V<'p>>),
    /// The result of something wrong, reported already: its users are silent.
    Poison,
}

/// A block with some of its compile-time arguments.
#[derive(Clone, Debug)]
pub struct BlockValue<'p> {
    /// Where it is declared.
    pub module: ModuleId,
    /// What it says.
    pub block: &'p Block,
    /// Arguments by name; later ones win.
    pub cargs: Vec<(String, V<'p>)>,
    /// Axes in brackets, for its first dims.
    pub axes: Vec<AxisId>,
    /// The path of a shared instance.
    pub fixed: Option<String>,
}

/// Where a name comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A compile-time parameter.
    Parameter,
    /// An assignment.
    Local,
}

/// The names of one instance.
#[derive(Clone)]
pub struct Frame<'p> {
    /// The module whose items are visible.
    pub module: ModuleId,
    /// The instance.
    pub scope: ScopeId,
    /// Its dotted path; empty for the model.
    pub path: String,
    /// Values by name.
    pub vars: HashMap<String, (V<'p>, Origin)>,
    /// Declared parameters by name.
    pub params: HashMap<String, (&'p AxisList, Span)>,
    /// What `t` means: the sequence that the block is called along.
    pub seq: AxisId,
    /// Axes that pass through `..`.
    pub rest: Vec<AxisId>,
    /// Axes that the caller brings, under whatever name.
    pub foreign: Vec<AxisId>,
    /// Parameters of this instance are chosen by these ids.
    pub routes: Vec<(AxisId, T)>,
    /// What was returned.
    pub returned: Option<Vec<V<'p>>>,
    /// Names that a running recurrence assigns, in order.
    pub assigned: Option<Vec<String>>,
}

impl<'p> Frame<'p> {
    /// A frame without names.
    pub fn new(module: ModuleId, scope: ScopeId, path: String) -> Self {
        Frame {
            module,
            scope,
            path,
            vars: HashMap::new(),
            params: HashMap::new(),
            seq: SEQ,
            rest: Vec::new(),
            foreign: Vec::new(),
            routes: Vec::new(),
            returned: None,
            assigned: None,
        }
    }

    /// Binds a name.
    pub fn bind(&mut self, name: &str, value: V<'p>, origin: Origin) {
        self.vars.insert(name.to_owned(), (value, origin));
    }

    /// The value of a name.
    pub fn get(&self, name: &str) -> Option<&V<'p>> {
        self.vars.get(name).map(|(v, _)| v)
    }

    /// `path.name`.
    pub fn below(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }
}

impl<'p> Elab<'p> {
    /// The axis that a name means.
    pub(super) fn axis_of(&mut self, frame: &Frame<'p>, name: &Ident) -> Result<AxisId, Stop> {
        match frame.get(&name.name) {
            Some(V::Dim(_, axis)) => Ok(*axis),
            Some(V::Dims(axes)) if axes.len() == 1 => Ok(axes[0]),
            Some(V::Dims(axes)) => {
                let message = format!("`{}` stands for {} axes here: {}", name.name, axes.len(), self.axes_text(axes));
                self.fail(Code::UnknownAxis, name.span, message)
            }
            Some(V::Poison) => Err(Stop),
            _ if name.name == "t" => Ok(frame.seq),
            None if name.name == "s" && self.source.is_some() => Ok(self.source.unwrap_or(SEQ)),
            Some(_) => self.fail(Code::UnknownAxis, name.span, format!("`{}` is not an axis", name.name)),
            None => {
                let dims = frame.vars.iter().filter(|(_, (v, _))| matches!(v, V::Dim(..))).map(|(n, _)| n.as_str());
                let hint = did_you_mean(&name.name, dims.chain(["t"]));
                let error = Diagnostic::new(Code::UnknownAxis, name.span, format!("there is no axis `{}` here", name.name));
                Err(self.error(error.label("not declared as a dim").maybe_hint(hint)))
            }
        }
    }

    /// The axes that names mean; one that stands for several, or none, gives all of them.
    pub(super) fn spread_axes(&mut self, frame: &Frame<'p>, names: &[Ident]) -> Result<Vec<AxisId>, Stop> {
        let mut axes = Vec::new();
        for name in names {
            match frame.get(&name.name) {
                Some(V::Dims(several)) => axes.extend(several),
                _ => axes.push(self.axis_of(frame, name)?),
            }
        }
        Ok(axes)
    }

    /// The axes of a declared list; `..` stands for the axes that pass through (without `t` if `param`).
    pub(super) fn axes_of(&mut self, frame: &Frame<'p>, list: &AxisList, param: bool) -> Result<Vec<AxisId>, Stop> {
        let mut axes = Vec::new();
        for (n, name) in list.names.iter().enumerate() {
            if list.rest == Some(n) {
                axes.extend(frame.rest.iter().copied().filter(|a| !param || !self.is_seq(*a)));
            }
            for axis in self.spread_axes(frame, std::slice::from_ref(name))? {
                if axes.contains(&axis) {
                    return self.fail(Code::AxisMismatch, name.span, format!("axis `{}` stands twice in the list", name.name));
                }
                axes.push(axis);
            }
        }
        if list.rest == Some(list.names.len()) {
            axes.extend(frame.rest.iter().copied().filter(|a| !param || !self.is_seq(*a)));
        }
        Ok(axes)
    }

    /// Declares a local axis. One that clashes with an axis that passes through gets a suffix.
    pub(super) fn fresh_axis(&mut self, frame: &Frame<'p>, name: &str, size: usize) -> AxisId {
        let mut own = name.to_owned();
        let mut n = 0;
        while frame.rest.iter().chain(&frame.foreign).any(|a| self.axis_name(*a) == own) {
            n += 1;
            own = format!("{name}'{n}");
        }
        self.axis(&own, size)
    }

    /// An error for a name that nothing declares.
    pub(super) fn unknown<R>(&mut self, module: ModuleId, name: &str, span: Span) -> Result<R, Stop> {
        self.unknown_among(module, &[], name, span)
    }

    /// The same where a block's own names are known too.
    pub(super) fn unknown_among<R>(&mut self, module: ModuleId, own: &[String], name: &str, span: Span) -> Result<R, Stop> {
        let program = self.program;
        let known = program.visible(module).chain(super::expr::BUILTINS.iter().copied());
        let hint = did_you_mean(name, own.iter().map(String::as_str).chain(known));
        let error = Diagnostic::new(Code::UnknownName, span, format!("unknown name `{name}`"));
        Err(self.error(error.label("nothing of this name is declared or imported here").maybe_hint(hint)))
    }

    /// The block item of a name.
    pub(super) fn block_item(&self, module: ModuleId, name: &str) -> Option<(ModuleId, &'p Block)> {
        match self.program.lookup(module, name)? {
            (at, Item::Block(block)) if !block.is_model => Some((at, block)),
            _ => None,
        }
    }
}
