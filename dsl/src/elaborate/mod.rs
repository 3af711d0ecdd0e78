//! From the tree to the checked model: instantiates the model's blocks with concrete sizes and records every tensor operation.
//!
//! frame.rs knows names; inputs.rs says what a model is given, output.rs what it gives beside its result; stmt.rs runs statements (generate.rs that which says how tokens are made), expr.rs evaluates expressions, call.rs instantiates blocks and functions (signature.rs holds them to what they declare),
//! tensor.rs appends operations, grad/ differentiates, recurrence.rs does recurrences,
//! policy.rs what stands in for an attention to all keys, stand_in.rs for a block, region.rs attention, routing and what else has structure; choice.rs keys that were chosen by a score,
//! random.rs tables that a seed decides, store.rs how parameters are stored.

mod bounds;
mod call;
mod causal;
mod choice;
mod expr;
mod frame;
mod generate;
mod grad;
mod hygiene;
mod index;
mod inputs;
mod output;
mod policy;
mod random;
mod recurrence;
mod region;
mod signature;
mod solve;
mod stand_in;
mod stmt;
mod store;
mod tensor;

use std::collections::HashMap;

use crate::ast::{Block, Item};
use crate::diagnostic::{Code, Diagnostic};
use crate::model::{Axis, AxisId, Constant, Generate, Model, Param, ParamId, Scope, ScopeId, Size, ValueId};
use crate::resolve::{ModuleId, Program};
use crate::span::Span;

use frame::{BlockValue, Frame, V};
use policy::Site;
use stand_in::StandIn;
use tensor::Level;

/// The sequence axis of every model; a source has another one.
pub const SEQ: AxisId = AxisId(0);
/// How deep blocks and functions may call each other.
const DEPTH: usize = 96;
/// How many steps an elaboration may take.
const MOST_STEPS: u64 = 4_000_000;
/// How many operations a model may have.
const MOST_VALUES: usize = 4_000_000;

/// What a finished tensor is called: its level of nesting and its place there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct T {
    level: usize,
    id: ValueId,
}

/// Elaboration stops here; the error is recorded already.
#[derive(Clone, Copy, Debug)]
pub struct Stop;

/// A result, or an error that is recorded already.
pub type Done<R> = Result<R, Stop>;

/// The block behind a model, where it is declared, and the arguments that its aliases give.
type Base<'p> = (ModuleId, &'p Block, Vec<(String, V<'p>)>);

/// Everything that is being built.
pub struct Elab<'p> {
    program: &'p Program,
    errors: Vec<Diagnostic>,
    axes: Vec<Axis>,
    params: Vec<Param>,
    param_ids: HashMap<String, (ParamId, ValueId)>,
    scopes: Vec<Scope>,
    levels: Vec<Level>,
    names: Vec<(ValueId, String)>,
    routes: Vec<(AxisId, T)>,
    instances: HashMap<String, usize>,
    repeats: HashMap<String, usize>,
    trail: Vec<String>,
    generate: Option<(Generate, Span)>,
    /// Positions that stand ahead of every text.
    ahead: usize,
    /// What blocks declare beside the model's result.
    outputs: Vec<(String, T)>,
    /// The axis of a second sequence, if the model is given one.
    source: Option<AxisId>,
    steps: u64,
    /// What every attention to all keys becomes, and where that is said.
    policy: Option<(BlockValue<'p>, Span)>,
    /// What the instances of a block become, and where that is said.
    stand_in: Option<(StandIn<'p>, Span)>,
    /// Whether an instance is being made inside of what stands in for one.
    standing: bool,
    /// How many attentions or instances did.
    governed: usize,
    /// The attentions whose policies are being instantiated.
    sites: Vec<Site<'p>>,
    /// What is said of how parameters are stored.
    stores: Vec<store::Rule>,
}

/// Instantiates the last model of the root file. `overrides` take the place of its compile-time arguments.
pub fn elaborate(program: &Program, overrides: &[(String, Constant)]) -> Result<Model, Vec<Diagnostic>> {
    let root = program.root;
    let items = program.modules.get(root).map(|m| m.file.items.as_slice()).unwrap_or_default();
    let is_model = |item: &&Item| matches!(item, Item::Alias(_)) || matches!(item, Item::Block(b) if b.is_model);
    let Some(item) = items.iter().rev().find(is_model) else {
        let error = Diagnostic::new(Code::NoModel, Span::default(), "the file declares no model");
        return Err(vec![error.hint("declare one: `model name(…)(tokens: [t]) -> [t, vocab] { … }`")]);
    };
    let mut elab = Elab::new(program);
    if elab.read_policy().is_err() {
        return Err(elab.errors);
    }
    let model = elab.model(root, item, overrides);
    match (model, elab.errors.is_empty()) {
        (Ok(model), true) => Ok(model),
        _ => Err(elab.errors),
    }
}

impl<'p> Elab<'p> {
    fn new(program: &'p Program) -> Self {
        Elab {
            program,
            errors: Vec::new(),
            axes: vec![Axis { name: "t".into(), size: Size::Seq }],
            params: Vec::new(),
            param_ids: HashMap::new(),
            scopes: Vec::new(),
            levels: vec![Level::model()],
            names: Vec::new(),
            routes: Vec::new(),
            instances: HashMap::new(),
            repeats: HashMap::new(),
            trail: Vec::new(),
            generate: None,
            ahead: 0,
            outputs: Vec::new(),
            source: None,
            steps: 0,
            policy: None,
            stand_in: None,
            standing: false,
            governed: 0,
            sites: Vec::new(),
            stores: Vec::new(),
        }
    }

    /// Counts one step of work, so that functions that double themselves come to an end.
    fn count_step(&mut self, span: Span) -> Done<()> {
        self.steps += 1;
        match self.steps {
            0..MOST_STEPS => Ok(()),
            MOST_STEPS => self.fail(Code::TooLarge, span, "this model takes too long to elaborate"),
            _ => Err(Stop),
        }
    }

    /// Records an error with the trail of instantiations.
    fn error(&mut self, mut error: Diagnostic) -> Stop {
        error.notes.extend(self.trail.iter().rev().take(8).cloned());
        let known = self.errors.iter().any(|e| e.span == error.span && e.message == error.message);
        if !known {
            self.errors.push(error);
        }
        Stop
    }

    fn fail<R>(&mut self, code: Code, span: Span, message: impl Into<String>) -> Done<R> {
        Err(self.error(Diagnostic::new(code, span, message)))
    }

    /// The axis of that name and size.
    fn axis(&mut self, name: &str, size: usize) -> AxisId {
        let axis = Axis { name: name.into(), size: Size::Fixed(size) };
        let at = self.axes.iter().position(|a| *a == axis).unwrap_or_else(|| {
            self.axes.push(axis);
            self.axes.len() - 1
        });
        AxisId(at as u32)
    }

    /// Whether an axis is a sequence.
    fn is_seq(&self, axis: AxisId) -> bool {
        axis == SEQ || Some(axis) == self.source
    }

    /// The sequence among some axes.
    fn seq_of(&self, axes: &[AxisId]) -> Option<AxisId> {
        axes.iter().copied().find(|axis| self.is_seq(*axis))
    }

    fn axis_name(&self, axis: AxisId) -> &str {
        &self.axes[axis.0 as usize].name
    }

    fn size(&self, axis: AxisId) -> usize {
        match self.axes[axis.0 as usize].size {
            Size::Fixed(n) => n,
            Size::Seq => 0,
        }
    }

    /// `[t, d=64]`.
    fn axes_text(&self, axes: &[AxisId]) -> String {
        let name = |a: &AxisId| match self.axes[a.0 as usize].size {
            Size::Fixed(n) => format!("{}={n}", self.axis_name(*a)),
            Size::Seq => self.axis_name(*a).to_owned(),
        };
        format!("[{}]", axes.iter().map(name).collect::<Vec<_>>().join(", "))
    }

    /// The block behind a model item, and the arguments that its aliases give, the outermost last.
    fn base(&mut self, module: ModuleId, item: &'p Item) -> Done<Base<'p>> {
        let (mut module, mut item) = (module, item);
        let mut layers: Vec<Vec<(String, V<'p>)>> = Vec::new();
        for _ in 0..DEPTH {
            match item {
                Item::Block(block) => {
                    layers.reverse();
                    return Ok((module, block, layers.concat()));
                }
                Item::Alias(alias) => {
                    if let (Some((policy, args)), true) = (&alias.policy, self.policy.is_none() && self.stand_in.is_none()) {
                        self.named_policy(module, policy, args)?;
                    }
                    let mut frame = Frame::new(module, ScopeId(0), String::new());
                    let mut given = Vec::new();
                    for arg in &alias.args {
                        let value = self.value(&mut frame, &arg.value)?;
                        let Some(name) = &arg.name else {
                            let error = Diagnostic::new(Code::Arity, arg.value.span, "arguments of a model are named");
                            return Err(self.error(error.hint("write `name: value`")));
                        };
                        given.push((name.name.clone(), value));
                    }
                    self.alias_stores(&mut frame, layers.len(), &alias.stores)?;
                    layers.push(given);
                    let program = self.program;
                    match program.lookup(module, &alias.base.name) {
                        Some((at, found @ (Item::Block(_) | Item::Alias(_)))) => (module, item) = (at, found),
                        _ => return self.unknown(module, &alias.base.name, alias.base.span),
                    }
                }
                other => return self.fail(Code::NoModel, other.span(), "this is not a model"),
            }
        }
        self.fail(Code::Recursion, item.span(), "this model is made from itself")
    }

    fn model(&mut self, module: ModuleId, item: &'p Item, overrides: &[(String, Constant)]) -> Done<Model> {
        let name = item.name().map(|n| n.name.clone()).unwrap_or_default();
        self.scopes.push(Scope { parent: None, name: name.clone(), block: name.clone() });
        let (module, block, mut given) = self.base(module, item)?;
        for (key, value) in overrides {
            if !block.params.iter().any(|p| p.name.name == *key) {
                let known = block.params.iter().map(|p| p.name.name.as_str());
                let hint = crate::diagnostic::did_you_mean(key, known);
                let error =
                    Diagnostic::new(Code::UnknownArgument, block.name.span, format!("the model has no parameter `{key}`"));
                return Err(self.error(error.maybe_hint(hint)));
            }
            given.push((key.clone(), V::Const(value.clone())));
        }
        let mut frame = Frame::new(module, ScopeId(0), String::new());
        let (tensors, inputs) = self.inputs(&mut frame, block, &mut given)?;
        let value = BlockValue { module, block, cargs: given, axes: vec![], fixed: None };
        let result = self.instantiate(&mut frame, &value, tensors, ScopeId(0), String::new(), block.name.span)?;
        let mut constants = Vec::new();
        for (name, value) in result.constants {
            constants.push((name, value));
        }
        let output = match result.values.as_slice() {
            [V::Tensor(t)] => *t,
            _ => return self.fail(Code::Arity, block.span, "a model returns one tensor"),
        };
        let (joined, outputs) = self.joined(output, block.span)?;
        self.policy_was_used()?;
        self.settle_storage()?;
        let generate = self.generate.take().map_or(Generate::None, |(how, _)| how);
        let values = std::mem::take(&mut self.levels[0].values);
        if generate == Generate::Autoregressive {
            self.errors.extend(causal::check(&values, &self.scopes));
        }
        let doc = match item {
            Item::Alias(a) if !a.doc.is_empty() => a.doc.clone(),
            _ => block.doc.clone(),
        };
        Ok(Model {
            name,
            doc,
            axes: self.axes.clone(),
            params: self.params.clone(),
            scopes: self.scopes.clone(),
            values,
            inputs,
            output: output.id,
            outputs,
            joined,
            generate,
            ahead: self.ahead,
            constants,
            names: std::mem::take(&mut self.names),
        })
    }
}
