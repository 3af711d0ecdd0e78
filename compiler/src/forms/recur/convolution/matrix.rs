//! A step's transition as a matrix of blocks, one for each pair of states, and its powers.
//!
//! Axes along which elements of states meet (*mixed*) stand twice in a block: as the state's own, and primed for what enters. Along the
//! others a block is diagonal and has them once, if it varies at all.

use super::nodes::{Nodes, typed};
use super::tangent::{Step, Tangent};
use crate::graph::NodeId;
use braid_dsl::model::{AxisId, Binary, Elem, Op};
use std::collections::BTreeSet;

/// A block; none: zero.
pub type Block = Option<NodeId>;

/// An axis under its own name, primed, and between two factors of a product.
#[derive(Clone, Copy, Debug)]
pub struct Names {
    /// As in the text.
    pub own: AxisId,
    /// What enters.
    pub primed: AxisId,
    /// Under sums.
    pub between: AxisId,
}

/// The axes of each state that products sum over.
pub struct Mixing {
    /// All axes with their names.
    pub names: Vec<Names>,
    /// Of each state those that its elements meet along.
    pub mixed: Vec<Vec<Names>>,
    /// Of each state those that reads sum over, and `mixed`.
    pub read: Vec<Vec<Names>>,
}

impl Mixing {
    /// Looks at what updates and outputs do with the states' axes.
    pub fn of(nodes: &mut Nodes, step: &Step) -> Mixing {
        let recur = step.recur;
        let (updates, all) = (met(step, &recur.next), met(step, &[&recur.next[..], &recur.outputs].concat()));
        let own: BTreeSet<AxisId> = recur.states.iter().flat_map(|state| state.axes.iter().copied()).collect();
        let names: Vec<Names> = own
            .into_iter()
            .filter(|axis| all.contains(axis))
            .map(|own| {
                let (name, size) = (nodes.graph.axis(own).name.clone(), nodes.graph.size(own).unwrap_or(1));
                Names { own, primed: nodes.axis(&format!("{name}'"), size), between: nodes.axis(&format!("{name}''"), size) }
            })
            .collect();
        let of = |met: &BTreeSet<AxisId>| -> Vec<Vec<Names>> {
            let own = |axes: &[AxisId]| {
                names.iter().copied().filter(|name| axes.contains(&name.own) && met.contains(&name.own)).collect()
            };
            recur.states.iter().map(|state| own(&state.axes)).collect()
        };
        let (mixed, read) = (of(&updates), of(&all));
        Mixing { names, mixed, read }
    }

    /// What enters a state: one where nothing meets, and a unit matrix along the given axes.
    pub fn unit(nodes: &mut Nodes, along: &[Names]) -> Option<NodeId> {
        let [one, zero] = [1.0, 0.0].map(|number| nodes.constant(number, Elem::Float));
        along.iter().try_fold(one, |all, axis| {
            let (a, b) = (nodes.op(Op::Index(axis.own), &[])?, nodes.op(Op::Index(axis.primed), &[])?);
            let meets = nodes.op(Op::Binary(Binary::Eq), &[a, b])?;
            nodes.op(Op::Select, &[meets, all, zero])
        })
    }
}

/// Axes that values which a state is in are summed over, or renamed along.
fn met(step: &Step, results: &[braid_dsl::model::ValueId]) -> BTreeSet<AxisId> {
    let body = &step.recur.body;
    let needed = super::super::chunk::cost::needed(body, results);
    let values = body.values.iter().enumerate().filter(|(at, _)| needed[*at] && step.stateful[*at]);
    let axes = values.map(|(_, value)| match &value.op {
        Op::Contract(over) | Op::Reduce(_, over) => over.clone(),
        Op::Rename(from, to) => vec![*from, *to],
        _ => vec![],
    });
    axes.flatten().collect()
}

/// A matrix of blocks: by the state that results, and the one that enters.
#[derive(Clone)]
pub struct Matrix(pub Vec<Vec<Block>>);

impl Matrix {
    /// The transition of one step.
    ///
    /// # Errors
    /// What is not linear, or not the same in every step.
    pub fn of_step(nodes: &mut Nodes, step: &Step, mixing: &Mixing) -> Result<Matrix, String> {
        let count = step.recur.states.len();
        let mut blocks = vec![vec![None; count]; count];
        for entering in 0..count {
            let mut states = vec![None; count];
            states[entering] = Some(typed(Mixing::unit(nodes, &mixing.mixed[entering]))?);
            let mut tangent = Tangent::new(step, nodes, states);
            for (result, row) in blocks.iter_mut().enumerate() {
                row[entering] = tangent.of(step.recur.next[result])?;
            }
        }
        Ok(Matrix(blocks))
    }

    /// `self other`: first `other`, then `self`.
    pub fn times(&self, other: &Matrix, nodes: &mut Nodes, mixing: &Mixing) -> Option<Matrix> {
        let count = self.0.len();
        let mut blocks = vec![vec![None; count]; count];
        for (row, line) in blocks.iter_mut().enumerate() {
            for (entering, block) in line.iter_mut().enumerate() {
                for by in 0..count {
                    let (Some(a), Some(b)) = (self.0[row][by], other.0[by][entering]) else { continue };
                    *block = Some(added(nodes, *block, ([a, b], &[]), &mixing.mixed[by])?);
                }
            }
        }
        Some(Matrix(blocks))
    }

    /// What the matrix makes of values of the states, along whatever axis.
    pub fn applied(&self, values: &[Block], nodes: &mut Nodes, mixing: &Mixing) -> Option<Vec<Block>> {
        let mut made = vec![None; values.len()];
        for (row, total) in made.iter_mut().enumerate() {
            for (by, value) in values.iter().enumerate() {
                let (Some(a), Some(b)) = (self.0[row][by], *value) else { continue };
                *total = Some(added(nodes, *total, ([a, b], &[]), &mixing.mixed[by])?);
            }
        }
        Some(made)
    }

    /// What reads make of the matrix: `reads` have the axes of each state primed.
    pub fn read_by(&self, reads: &[Block], nodes: &mut Nodes, mixing: &Mixing) -> Option<Vec<Block>> {
        let mut made = vec![None; reads.len()];
        for (entering, total) in made.iter_mut().enumerate() {
            for (by, read) in reads.iter().enumerate() {
                let (Some(a), Some(b)) = (*read, self.0[by][entering]) else { continue };
                // What a read sums over and nothing meets along is an index of the block's diagonal, as far as the state has it.
                let meets = |axis: &&Names| mixing.mixed[by].iter().any(|mixed| mixed.own == axis.own);
                let diagonal: Vec<Names> = mixing.read[by].iter().filter(|axis| !meets(axis)).copied().collect();
                let names: Vec<(AxisId, AxisId)> = diagonal.iter().map(|axis| (axis.own, axis.primed)).collect();
                let lacks = |axis: &&Names| mixing.read[entering].iter().all(|own| own.own != axis.own);
                let summed: Vec<AxisId> = diagonal.iter().filter(lacks).map(|axis| axis.primed).collect();
                let b = nodes.renamed(b, &names)?;
                *total = Some(added(nodes, *total, ([a, b], &summed), &mixing.mixed[by])?);
            }
        }
        Some(made)
    }
}

/// `total + sum[what meets, summed] a b`, where `a` has the axes of a state primed and `b` as its own.
fn added(nodes: &mut Nodes, total: Block, ([a, b], summed): ([NodeId; 2], &[AxisId]), mixed: &[Names]) -> Option<NodeId> {
    let left: Vec<(AxisId, AxisId)> = mixed.iter().map(|axis| (axis.primed, axis.between)).collect();
    let right: Vec<(AxisId, AxisId)> = mixed.iter().map(|axis| (axis.own, axis.between)).collect();
    let over: Vec<AxisId> = mixed.iter().map(|axis| axis.between).chain(summed.iter().copied()).collect();
    let (a, b) = (nodes.renamed(a, &left)?, nodes.renamed(b, &right)?);
    let product = nodes.contract(a, b, &over)?;
    nodes.plus(total, Some(product))?
}
