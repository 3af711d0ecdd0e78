//! What the kernels of a call do, for those who measure them: operations and bytes, counted from the equations.

use serde::{Deserialize, Serialize};

/// One kernel of a call.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Work {
    /// The function that does it; equal layers share functions.
    pub function: String,
    /// The part of the model, as `inspect` names it: `layers.3.attn`.
    pub part: String,
    /// What it computes: the ops that were fused.
    pub ops: String,
    /// Whether it does the rows whose results are wanted, instead of all.
    pub wanted: bool,
    /// Additions, multiplications and other functions of numbers.
    pub flops: Amount,
    /// Bytes that have to come from or go to memory at least once.
    pub bytes: Amount,
    /// Bytes that each row looks up, in tables or in the weights of experts …
    pub looked_up: usize,
    /// … and how many there are: more rows look up the same ones again.
    pub table: usize,
    /// Most positions that a row sees; 0: all before it.
    pub reach: usize,
}

/// `once + row · rows + key · keys`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amount {
    /// In each call.
    pub once: usize,
    /// For each row.
    pub row: usize,
    /// Operations: for each row and position that it sees. Bytes: for each position that any row sees.
    pub key: usize,
}

impl Work {
    /// Operations and bytes of a call of so many rows, behind `position` others; of `wanted` of them results are wanted.
    pub fn of(&self, position: usize, rows: usize, wanted: usize) -> (f64, f64) {
        let rows = if self.wanted { wanted } else { rows };
        let seen = |last: usize| if self.reach == 0 { last } else { last.min(self.reach) };
        let pairs: usize = if self.flops.key == 0 { 0 } else { (1..=rows).map(|row| seen(position + row)).sum() };
        let flops = self.flops.once as f64 + self.flops.row as f64 * rows as f64 + self.flops.key as f64 * pairs as f64;
        let keys = if self.reach == 0 { position + rows } else { (position + rows).min(self.reach + rows) };
        let bytes = self.bytes.once as f64 + self.bytes.row as f64 * rows as f64 + self.bytes.key as f64 * keys as f64;
        let bytes = bytes + (self.looked_up as f64 * rows as f64).min(self.table as f64);
        if rows == 0 { (0.0, 0.0) } else { (flops, bytes) }
    }
}
