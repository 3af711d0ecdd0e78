//! Rules of a well-formed graph:
//! - the type of every node follows from its op and its operands
//! - a result names an output of the recurrence that it reads
//! - every recurrence gives its states back with their own axes
//! - what generates tokens has a sequence of rows as its output

use super::{Graph, NodeId, shape};
use braid_dsl::model::{Generate, Op, Type};

/// A broken rule and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The node.
    pub node: NodeId,
    /// What is wrong.
    pub what: String,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "{}: {}", self.node, self.what)
    }
}

/// Something whose rules were checked; the only way to get one is [`Verified::check`].
#[derive(Clone, Debug)]
pub struct Verified<T>(T);

impl<T> std::ops::Deref for Verified<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}

/// What can be checked.
pub trait Check {
    /// All broken rules.
    fn faults(&self) -> Vec<Fault>;
}

impl<T: Check> Verified<T> {
    /// The value, if no rule is broken.
    ///
    /// # Errors
    /// The broken rules.
    pub fn check(value: T) -> Result<Verified<T>, Vec<Fault>> {
        match value.faults() {
            faults if faults.is_empty() => Ok(Verified(value)),
            faults => Err(faults),
        }
    }

    /// The value, to change; it has to be checked again.
    pub fn into_inner(self) -> T {
        self.0
    }
}

type Rule = fn(&Graph, NodeId) -> Result<(), String>;

const RULES: &[Rule] = &[typed, named_result, states_return, rows_out];

impl Check for Graph {
    fn faults(&self) -> Vec<Fault> {
        let found = self
            .order()
            .into_iter()
            .flat_map(|node| RULES.iter().filter_map(move |rule| rule(self, node).err().map(|what| Fault { node, what })));
        found.collect()
    }
}

fn typed(graph: &Graph, node: NodeId) -> Result<(), String> {
    if matches!(graph.op(node), Op::Result(_) | Op::Const(_)) {
        return Ok(());
    }
    let inputs: Vec<Type> = graph.inputs.iter().map(|(_, ty)| ty.clone()).collect();
    let params: Vec<_> = graph.params.iter().map(|p| p.axes.clone()).collect();
    let env = shape::Env { axes: &graph.axes, inputs: &inputs, params: &params, ..shape::Env::default() };
    let args = graph.args(node);
    let types: Vec<&Type> = args.iter().map(|a| graph.ty(*a)).collect();
    let ty = shape::infer(&env, graph.op(node), &types)?;
    let is_tuple = matches!(graph.op(node), Op::Recur(_));
    match is_tuple || shape::same(&ty, graph.ty(node)) {
        true => Ok(()),
        false => Err(format!("its type is {:?} but follows to be {ty:?}", graph.ty(node))),
    }
}

fn named_result(graph: &Graph, node: NodeId) -> Result<(), String> {
    let Op::Result(n) = graph.op(node) else { return Ok(()) };
    match graph.op(graph.args(node)[0]) {
        Op::Recur(recur) if *n < recur.outputs.len() => Ok(()),
        _ => Err(format!("there is no output {n}")),
    }
}

fn states_return(graph: &Graph, node: NodeId) -> Result<(), String> {
    let Op::Recur(recur) = graph.op(node) else { return Ok(()) };
    for (state, next) in recur.states.iter().zip(&recur.next) {
        let after = recur.body.values.get(next.0 as usize).ok_or("a state has no next value")?;
        if !shape::same_axes(&after.ty.axes, &state.axes) {
            return Err(format!("state `{}` changes its axes", state.name));
        }
    }
    Ok(())
}

fn rows_out(graph: &Graph, node: NodeId) -> Result<(), String> {
    let generates = graph.generate == Generate::Autoregressive && node == graph.output();
    match generates && !graph.has_seq(graph.ty(node)) {
        true => Err("the output has no row for a position".into()),
        false => Ok(()),
    }
}
