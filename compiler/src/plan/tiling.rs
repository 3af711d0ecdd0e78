//! How a product of many rows is cut into tiles for the matrix units of a GPU.

use super::tasks::{BLOCKS, STEP_ROWS};
use super::{Per, Tiles};
use crate::forms::BLOCK;
use crate::fuse::kernel::{Attention, Matmul, Rows, Store};

/// The shape of a tile of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tiling {
    /// Rows, a power of two.
    pub rows: usize,
    /// Columns.
    pub columns: usize,
}

/// The shape for few rows or columns.
pub const SMALL: Tiling = Tiling { rows: 64, columns: 64 };
/// The shapes that there are: that one, and one that reads each operand less often.
const TILINGS: [Tiling; 2] = [SMALL, Tiling { rows: 128, columns: 128 }];

/// Rows of a tile of attention.
pub const QUERIES: usize = 64;
/// Rows of a call from which on attention is done in tiles.
const MANY_QUERIES: usize = 48;

/// Numbers of the contracted axis that are copied at once.
const NUMBERS: usize = 8;

impl Tiling {
    /// Tiles side by side, of all batch elements.
    fn factor(self, product: &Matmul) -> usize {
        product.sizes[1] * product.sizes[3].div_ceil(self.columns)
    }
}

/// Whether the matrix units do a product of many rows: its weights are rounded or quantised, and its numbers can be copied by sixteen
/// bytes.
pub(super) fn is_for_units(product: &Matmul) -> bool {
    let store = |tensor: usize| product.tensors[tensor].store;
    let rounded = matches!(store(product.weights.0), Store::Bf16 | Store::Panels(_));
    rounded && store(product.left.tensor.0) == Store::F32 && product.is_aligned(NUMBERS)
}

/// The shapes for a product, each with the least number of its rows (inner ones counted); none if it is not for the matrix units, or if
/// each row chooses its weights.
pub fn tilings(product: &Matmul) -> Vec<(Tiling, usize)> {
    if !is_for_units(product) || product.chosen.is_some() {
        return vec![];
    }
    let [small, large] = TILINGS;
    // Large tiles as soon as there is one for most blocks.
    let rows = (BLOCKS * 3 / 4).div_ceil(large.factor(product)).saturating_sub(1) * large.rows + 1;
    vec![(small, STEP_ROWS + 1), (large, rows.max(STEP_ROWS + 1))]
}

/// From how many rows on there is a tile of `rows` for every second multiprocessor, where there are so many tiles side by side; more than one
/// tile's.
pub(super) fn rows_for_all(across: usize, rows: usize) -> usize {
    ((BLOCKS / 4).div_ceil(across.max(1)).saturating_sub(1) * rows + 1).max(rows + 1)
}

/// The same as numbers of tasks.
pub(super) fn tiles(product: &Matmul, per: Per) -> [Option<Tiles>; 2] {
    let mut tiles = [None; 2];
    if per == Per::Once {
        return tiles;
    }
    for (place, (tiling, from)) in tiles.iter_mut().zip(tilings(product)) {
        *place = Some(Tiles { per, times: product.sizes[0], from, by: tiling.rows, factor: tiling.factor(product) });
    }
    tiles
}

/// The shape of tiles of a product whose rows choose their weights, and the least number of rows of a call that is done so. A task has
/// the rows that chose one batch element, and some columns. None where the rows are not those of the call: of these there may be few
/// in a call of many.
pub fn chosen_tiling(product: &Matmul) -> Option<(Tiling, usize)> {
    let fits = product.chosen.is_some() && product.rows == Rows::All && is_for_units(product);
    fits.then_some((TILINGS[0], 2 * STEP_ROWS))
}

/// The same as numbers of tasks.
pub(super) fn chosen_tiles(product: &Matmul, per: Per) -> [Option<Tiles>; 2] {
    let of = |(tiling, from): (Tiling, usize)| {
        let (_, elements) = product.chosen.as_ref()?;
        // Whatever the rows chose: their number makes no more tasks.
        let factor = elements * product.sizes[3].div_ceil(tiling.columns);
        Some(Tiles { per, times: 1, from, by: braid_runtime::artifact::Tiles::ALL, factor })
    };
    [chosen_tiling(product).and_then(of), None]
}

/// The tiles of attention, or of what stores its keys; none if it cannot be done so.
pub fn attention_tiles(attention: &Attention, stores_keys: bool, per: Per) -> Option<Tiles> {
    let tiles = match stores_keys {
        true => Tiles { per, times: 1, from: STEP_ROWS + 1, by: BLOCK, factor: attention.groups },
        false => Tiles { per, times: 1, from: MANY_QUERIES, by: QUERIES, factor: attention.groups * attention.per },
    };
    (per == Per::Row && (stores_keys || attention.is_tiled())).then_some(tiles)
}
