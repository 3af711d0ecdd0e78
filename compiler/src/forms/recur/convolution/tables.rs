//! Tables of a step's powers over the rows of a piece, by doubling: `w` rows and the matrix to the `w` make `2 w` rows.

use super::matrix::{Block, Matrix, Mixing};
use super::nodes::Nodes;
use crate::graph::NodeId;
use braid_dsl::model::{AxisId, Binary, Elem, Op};

/// What a power of the matrix makes of rows.
type Made<'a> = &'a dyn Fn(&Matrix, &[Block], &mut Nodes) -> Option<Vec<Block>>;

/// Powers of a transition: to the 1, 2, 4 … up to the rows of a piece.
pub struct Powers {
    list: Vec<Matrix>,
}

impl Powers {
    /// All that tables of so many rows need.
    pub fn of(step: Matrix, rows: usize, nodes: &mut Nodes, mixing: &Mixing) -> Option<Powers> {
        let mut list = vec![step];
        while 1 << list.len() <= rows {
            let last = &list[list.len() - 1];
            let next = last.times(last, nodes, mixing)?;
            list.push(next);
        }
        Some(Powers { list })
    }

    /// The transition of so many rows.
    pub fn to(&self, rows: usize, nodes: &mut Nodes, mixing: &Mixing) -> Option<Matrix> {
        let set = (0..self.list.len()).filter(|bit| rows >> bit & 1 == 1);
        let mut total: Option<Matrix> = None;
        for bit in set {
            total = Some(match total {
                Some(total) => total.times(&self.list[bit], nodes, mixing)?,
                None => self.list[bit].clone(),
            });
        }
        total
    }

    /// What reads see of the states that entered: at row `i` along `to` that of the matrix to the `i`.
    pub fn seen(&self, reads: &[Block], to: (AxisId, usize), nodes: &mut Nodes, mixing: &Mixing) -> Option<Vec<Block>> {
        self.doubled(reads, to, false, nodes, &|power, rows, nodes| power.read_by(rows, nodes, mixing))
    }

    /// What is left at the end of a piece of what row `j` along `to` wrote: the matrix to the number of rows behind it.
    pub fn left(&self, written: &[Block], to: (AxisId, usize), nodes: &mut Nodes, mixing: &Mixing) -> Option<Vec<Block>> {
        self.doubled(written, to, true, nodes, &|power, rows, nodes| power.applied(rows, nodes, mixing))
    }

    /// `falling`: higher powers come first.
    fn doubled(
        &self,
        first: &[Block],
        (to, rows): (AxisId, usize),
        falling: bool,
        nodes: &mut Nodes,
        made: Made,
    ) -> Option<Vec<Block>> {
        let mut at = axis(nodes, 1);
        let mut table = first.iter().map(|x| each(*x, |x| nodes.along(x, at))).collect::<Option<Vec<Block>>>()?;
        let mut count = 1;
        for power in &self.list {
            if count >= rows {
                break;
            }
            let more = made(power, &table, nodes)?;
            let twice = axis(nodes, 2 * count);
            let joined = table.iter().zip(&more).map(|(low, high)| joined(nodes, (*low, *high), (at, twice), falling));
            table = joined.collect::<Option<Vec<Block>>>()?;
            (at, count) = (twice, 2 * count);
        }
        let start = if falling { count - rows } else { 0 };
        table.iter().map(|x| each(*x, |x| nodes.op(Op::Slice { axis: at, start, to }, &[x]))).collect()
    }
}

/// The axis of so many rows of a table.
fn axis(nodes: &mut Nodes, rows: usize) -> AxisId {
    nodes.axis(&format!("d{rows}'"), rows)
}

fn each(x: Block, mut made: impl FnMut(NodeId) -> Option<NodeId>) -> Option<Block> {
    match x {
        Some(x) => made(x).map(Some),
        None => Some(None),
    }
}

/// Rows behind rows; the second ones first if `falling`.
fn joined(nodes: &mut Nodes, (low, high): (Block, Block), (part, whole): (AxisId, AxisId), falling: bool) -> Option<Block> {
    if low.or(high).is_none() {
        return Some(None);
    }
    let mut parts = vec![];
    for x in if falling { [high, low] } else { [low, high] } {
        let zero = nodes.constant(0.0, Elem::Float);
        parts.push(nodes.along(x.unwrap_or(zero), part)?);
    }
    Some(Some(nodes.op(Op::Concat(vec![part; 2], whole), &parts)?))
}

/// `kernel[row - column - 1]` where the column is behind the row, else zero.
pub fn toeplitz(kernel: NodeId, along: AxisId, (row, column): (AxisId, AxisId), nodes: &mut Nodes) -> Option<NodeId> {
    let (i, j) = (nodes.op(Op::Index(row), &[])?, nodes.op(Op::Index(column), &[])?);
    let [one, zero] = [1.0, 0.0].map(|number| nodes.constant(number, Elem::Int));
    let back = nodes.op(Op::Binary(Binary::Sub), &[i, j])?;
    let back = nodes.op(Op::Binary(Binary::Sub), &[back, one])?;
    let back = nodes.op(Op::Binary(Binary::Max), &[back, zero])?;
    let seen = nodes.op(Op::Gather(along), &[kernel, back])?;
    let behind = nodes.op(Op::Binary(Binary::Lt), &[j, i])?;
    let none = nodes.constant(0.0, Elem::Float);
    nodes.op(Op::Select, &[behind, seen, none])
}
