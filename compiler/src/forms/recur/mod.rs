//! What kind of memory a recurrence is: decides how its whole-sequence form can be computed.
//!
//! The update is normalised to `S' = A S + B` by linearity analysis (linear.rs) over sums of products in a normal form (poly.rs);
//! the class is read off the axes that the coefficients of `A` carry and off what they depend on (classify.rs). Names and the way the
//! equations are written play no part. `explain` tells the derivation (explain.rs).

mod axes;
mod called;
pub mod chunk;
mod classify;
pub mod convolution;
mod explain;
mod groups;
mod linear;
mod poly;
mod range;
mod solve;
mod split;
#[cfg(test)]
mod tests;

pub use axes::{contracted_axes, value_axis};
pub use chunk::chunked;
pub use explain::{equations, explain, title};
pub use linear::Obstacle;
pub use split::split;

use crate::graph::{Graph, NodeId};
use braid_dsl::model::{AxisId, Op, Recur};

/// The classes of all states of one recurrence.
#[derive(Clone, Debug, PartialEq)]
pub struct Class {
    /// Groups of states, each after those that it is fed by. States of one group depend on one another.
    pub groups: Vec<Group>,
}

/// States that are updated together.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// Places in the recurrence's list of states.
    pub states: Vec<usize>,
    /// How the old state enters the new one.
    pub transition: Transition,
    /// Reads that the update adds to a decay, if any.
    pub corrections: Option<Corrections>,
    /// Whether the transition is the same at every step.
    pub invariant: bool,
    /// Whether all of update and reads are the same at every step and linear in the input: a convolution.
    pub convolution: bool,
    /// The running maximum that keeps the exponentials of the update from overflowing, if any: a state of this recurrence or of the
    /// one before it.
    pub stabilised_by: Option<String>,
    /// States of earlier groups that it is made of.
    pub fed_by: Vec<usize>,
    /// When outputs and later groups read it.
    pub reads: Reads,
    /// The normal form of the update, one text a state.
    pub equations: Vec<String>,
}

/// `A` of `S' = A S + B`, without corrections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transition {
    /// `A` is 0: the new state does not see the old one.
    Replace,
    /// `A` is 1: nothing is forgotten.
    Keep,
    /// One decay for all that one read sees.
    Scalar,
    /// A decay that varies along these axes of the state, and not along all.
    Diagonal(Vec<AxisId>),
    /// A decay for every element.
    ElementWise,
    /// A full matrix over these axes.
    Dense(Vec<AxisId>),
    /// The value of another state as the present mini-batch of so many rows began.
    Held(usize),
    /// `m' = max(m + a, b)`.
    RunningMax,
    /// Real and imaginary part of one complex decay.
    Complex,
    /// Several states, each linear in the others.
    Coupled,
    /// Not linear: only step by step.
    NonLinear(Obstacle),
}

/// `Σ_r b_r (a_r · S)`: what an update adds after reading the state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Corrections {
    /// How many products.
    pub rank: usize,
    /// The axes of the state that the reads contract.
    pub axes: Vec<AxisId>,
    /// What they read.
    pub read: Read,
}

/// Which state a correction reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// There is no decay that varies: both are the same.
    Plain,
    /// The state after its decay.
    Decayed,
    /// The state as the step begins.
    Undecayed,
}

/// When a state is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reads {
    /// As the step begins.
    pub before: bool,
    /// After the update.
    pub after: bool,
}

/// Classifies a recurrence of a graph.
pub fn classify(graph: &Graph, node: NodeId) -> Option<Class> {
    let Op::Recur(recur) = graph.op(node) else { return None };
    Some({
        let held = chunk::held(graph, node, recur);
        classify::classify(&graph.axes, &graph.params, recur, &captures(graph, node), (maxima(graph, node), held))
    })
}

/// What the running maxima of earlier recurrences are called here, before and after each step.
fn maxima(graph: &Graph, node: NodeId) -> Vec<(String, String)> {
    let mut found = vec![];
    for arg in graph.args(node) {
        let Op::Result(_) = graph.op(arg) else { continue };
        let before = graph.args(arg)[0];
        let (Op::Recur(recur), Some(class)) = (graph.op(before), classify(graph, before)) else { continue };
        for group in class.groups.iter().filter(|group| group.transition == Transition::RunningMax) {
            let name = &recur.states[group.states[0]].name;
            found.push((name.clone(), format!("{name}'")));
        }
    }
    found.dedup();
    found
}

/// What captures are called, and whether they differ from step to step.
fn captures(graph: &Graph, node: NodeId) -> Vec<(String, bool)> {
    let named = |arg: NodeId| match graph.op(arg) {
        Op::Param(id) => graph.params[id.0 as usize].path.clone(),
        Op::Result(n) => of_state(graph, graph.args(arg)[0], *n).unwrap_or_else(|| arg.to_string()),
        _ => arg.to_string(),
    };
    graph.args(node).into_iter().map(|arg| (named(arg), graph.has_seq(graph.ty(arg)))).collect()
}

/// The state that an output of another recurrence is, primed if after the update.
fn of_state(graph: &Graph, recurrence: NodeId, output: usize) -> Option<String> {
    let Op::Recur(recur) = graph.op(recurrence) else { return None };
    let id = recur.outputs.get(output)?;
    match recur.body.values[id.0 as usize].op {
        Op::State(n) => Some(recur.states[n].name.clone()),
        _ => recur.next.iter().position(|next| next == id).map(|n| format!("{}'", recur.states[n].name)),
    }
}

/// The names of a recurrence's states.
fn names(recur: &Recur, states: &[usize]) -> String {
    let names: Vec<String> = states.iter().map(|n| format!("`{}`", recur.states[*n].name)).collect();
    names.join(", ")
}
