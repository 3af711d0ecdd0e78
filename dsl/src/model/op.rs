//! The operations of a model: a closed, small set over named axes.

use super::{Attend, AxisId, ParamId, Recur};

/// Pointwise functions of one operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names are the functions")]
pub enum Unary {
    Neg,
    Exp,
    Log,
    Sqrt,
    Rsqrt,
    Sigmoid,
    Tanh,
    Softplus,
    Erf,
    Sin,
    Cos,
    Abs,
    Floor,
    /// To the nearest whole number, halves to the even one.
    Round,
    Not,
}

/// Pointwise functions of two operands; operands broadcast over the union of their axes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names are the functions")]
pub enum Binary {
    Add,
    Sub,
    Mul,
    Div,
    Pow,
    Min,
    Max,
    Rem,
    Lt,
    Le,
    Gt,
    Ge,
    Eq,
    Ne,
    And,
    Or,
}

/// How a reduction combines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names are the functions")]
pub enum Reduce {
    Sum,
    Max,
    Min,
}

/// What of a sequence an op that knows all of its rows looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Held {
    /// All of it: it comes in one call.
    Sequence,
    /// What its first call holds. Behind that there is nothing to be known.
    Prompt,
}

/// The op set. Pointwise ops broadcast by axis name. `t` below stands for the sequence axis.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    // ---- leaves -------------------------------------------------------------------------------------------------
    /// The `n`-th input of the model (token ids: Int `[t]`); a row for each position.
    Input(usize),
    /// A parameter (no sequence axis).
    Param(ParamId),
    /// A number; no axes. `Int` constants hold integral values, `Bool` 0 or 1.
    Const(f64),
    /// 0, 1, 2 … along a fixed axis; Int.
    Index(AxisId),
    /// Absolute position along the sequence axis; Int `[t]`.
    Position(AxisId),
    /// How many positions the sequence has, or its prompt (0 behind it); Int `[t]`, the same at each.
    Length(AxisId, Held),
    // ---- pointwise ----------------------------------------------------------------------------------------------
    /// `f(x)`.
    Unary(Unary),
    /// `f(a, b)`.
    Binary(Binary),
    /// `select(condition, a, b)`.
    Select,
    /// Int or Bool to Float.
    ToFloat,
    // ---- reductions ---------------------------------------------------------------------------------------------
    /// Over the named axes of one operand.
    Reduce(Reduce, Vec<AxisId>),
    /// `sum[axes] a * b`: recognised by the graph builder from `Reduce(Sum)` of `Mul`, never made by the front end.
    Contract(Vec<AxisId>),
    // ---- views: the same numbers under other axes ---------------------------------------------------------------
    /// `x[from as to]`.
    Rename(AxisId, AxisId),
    /// `x[axis: start .. start + size(to) as to]`.
    Slice {
        /// The axis that is cut.
        axis: AxisId,
        /// First index kept.
        start: usize,
        /// The axis that results (may equal `axis` if nothing is cut).
        to: AxisId,
    },
    /// `x[axis: i]`: one index of a fixed axis; the axis goes.
    Pick {
        /// The axis that goes.
        axis: AxisId,
        /// The index kept.
        index: usize,
    },
    /// `x[axis as (a, b, …)]`, `a` slowest.
    Split(AxisId, Vec<AxisId>),
    /// `x[(a, b, …) as axis]`, `a` slowest.
    Merge(Vec<AxisId>, AxisId),
    /// `concat[a, b, … as axis](x, y, …)`: operand `i` has axis `a_i`; all other axes broadcast.
    Concat(Vec<AxisId>, AxisId),
    // ---- data dependent -----------------------------------------------------------------------------------------
    /// `table[axis: ids]`: operands `table, ids`. Result axes: those of `table` less `axis`, and those of `ids`
    /// (axes in both are matched, not repeated).
    Gather(AxisId),
    /// `top[axis as into](x, n)`: Int, indices of the `size(into)` largest along `axis`, falling; ties to the lower index.
    Top {
        /// The axis that is searched.
        axis: AxisId,
        /// The axis that counts the results.
        into: AxisId,
    },
    /// `solve[rows, columns](A, b)`: operands `A, b`; the `x` along `columns` with `sum[columns] A x = b` along `rows`. Both axes have one
    /// size; `b` has `rows` and not `columns`. All other axes broadcast. A singular `A` gives numbers that are not finite.
    Solve {
        /// The axis that counts equations.
        rows: AxisId,
        /// The axis that counts unknowns.
        columns: AxisId,
    },
    // ---- along the sequence -------------------------------------------------------------------------------------
    /// `shift(x, n)`: the value `n` positions earlier, zero before the start.
    Shift(usize),
    /// `x[t: n]`: operands `x, n`, where `n` is Int `[t]`. At each position the row of `x` at position `n`, zero where there is none.
    Fetch(AxisId, Held),
    /// `nth_largest[t](x, n)`: the `count`-th largest of all rows, for each element of a row; minus infinity where there are fewer. The same at each
    /// position.
    Largest {
        /// The sequence axis.
        seq: AxisId,
        /// Which one.
        count: usize,
        /// Of which rows.
        held: Held,
    },
    /// `convolve[width](x, w)`: `y_t = sum_j w[j] x_{t - (W-1) + j}`, causal, zero before the start; other axes pointwise.
    Conv(AxisId),
    /// A recurrence; operands are its captures. Its results are read by [`Op::Result`].
    Recur(Box<Recur>),
    /// Attention; operands `q, k`, `v` if it weighs values, and then the captures of its bodies.
    Attend(Box<Attend>),
    /// The `n`-th output of a `Recur` operand.
    Result(usize),
    // ---- leaves that stand only in a body -----------------------------------------------------------------------
    /// The `n`-th capture. In `Recur`: operand `n` at this step (its sequence axis is gone). In `Attend`: operand
    /// [`Attend::operands`]` + n`.
    Capture(usize),
    /// In `Recur`: state `n` as the step begins.
    State(usize),
    /// In `Attend`'s score: the dot product; axes are `q`'s and `k`'s less contracted and sequence axes.
    Score,
    /// In `Attend`: absolute position of the query; Int, no axes.
    QueryPosition,
    /// In `Attend`: absolute position of the key; Int, no axes.
    KeyPosition,
    /// In `Attend`'s `keep`: whether a position lies in the block of `block` positions of one of the ids along `slot`; operands `ids, position`.
    /// Ids below zero are none. The ids are what an `Attend` with [`Gives::Best`] gave, at most one a block.
    Chosen {
        /// The axis that counts the ids.
        slot: AxisId,
        /// Positions of a block.
        block: usize,
    },
    // ---- made by the compiler's `forms` stage only --------------------------------------------------------------
    /// Keeps only the rows whose outputs the caller wants.
    Wanted,
    /// Products of the operand's rows over a span of a chunk: `row` counts the chunk's rows.
    Products {
        /// The axis of the rows.
        row: AxisId,
        /// Which rows are multiplied.
        over: Rows,
    },
    /// `sum[over] x[row] y[column] f[column + 1] … f[row]`; 0 where the column is ahead of the row. Operands `x`, `y`, `f`, all over `row`.
    Scores {
        /// The axis of the rows.
        row: AxisId,
        /// The axis that stands for the rows of `y`.
        column: AxisId,
        /// Axes that are summed over; `f` varies along them.
        over: Vec<AxisId>,
        /// The row's own factor and the row's own `y` are left out.
        strict: bool,
    },
    /// The rows of `P = B + M P`, one after the other: operands `M` (over `row` and `column`, read below the diagonal only) and `B`.
    Substitute {
        /// The axis of the rows.
        row: AxisId,
        /// The axis that stands for the rows under the sum.
        column: AxisId,
        /// Several unknowns a row: their axis in `B` and the result, and the one that stands for it under the sum.
        rank: Option<(AxisId, AxisId)>,
    },
}

/// Rows that [`Op::Products`] multiplies; an empty product is 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rows {
    /// From the first to the row itself.
    Upto,
    /// From the first to the row before.
    Before,
    /// From the row after to the last.
    After,
    /// From the row after that of the given axis to the row itself; 0 where that axis is ahead of the row.
    Between(AxisId),
    /// From the row after that of the given axis to the row before; 0 where that axis is not behind the row.
    Inside(AxisId),
}
