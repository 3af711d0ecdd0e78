//! How a product of many rows is cut into tiles for the matrix units of a GPU.

use super::tasks::{BLOCKS, STEP_ROWS};
use super::{Per, Tiles};
use crate::forms::BLOCK;
use crate::fuse::kernel::{Attention, Matmul, Store};

/// The shape of a tile of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tiling {
    /// Rows, a power of two.
    pub rows: usize,
    /// Columns.
    pub columns: usize,
}

/// The shapes that there are: one for few rows or columns, and one that reads each operand less often.
const TILINGS: [Tiling; 2] = [Tiling { rows: 64, columns: 64 }, Tiling { rows: 128, columns: 128 }];

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

/// The shapes for a product, each with the least number of its rows (inner ones counted); none if its numbers are of single precision or
/// cannot be copied by sixteen bytes, or if each row chooses its weights.
pub fn tilings(product: &Matmul) -> Vec<(Tiling, usize)> {
    let store = |tensor: usize| product.tensors[tensor].store;
    let rounded =
        matches!(store(product.weights.0), Store::Bf16 | Store::Panels(_)) && store(product.left.tensor.0) == Store::F32;
    if !rounded || product.chosen.is_some() || !product.is_aligned(NUMBERS) {
        return vec![];
    }
    let [small, large] = TILINGS;
    // Large tiles as soon as there is one for most blocks.
    let rows = (BLOCKS * 3 / 4).div_ceil(large.factor(product)).saturating_sub(1) * large.rows + 1;
    vec![(small, STEP_ROWS + 1), (large, rows.max(STEP_ROWS + 1))]
}

/// The shape of tiles of a product whose rows choose their weights, and the least number of rows of a call that is done so. A task has
/// the rows that chose one batch element, and some columns.
pub fn chosen_tiling(product: &Matmul) -> Option<(Tiling, usize)> {
    let same = Matmul { chosen: None, ..product.clone() };
    let (tiling, _) = *tilings(&same).first()?;
    product.chosen.as_ref().map(|_| (tiling, 2 * STEP_ROWS))
}

/// The same as numbers of tasks.
pub(super) fn chosen_tiles(product: &Matmul, per: Per) -> [Option<Tiles>; 2] {
    let of = |(tiling, from): (Tiling, usize)| {
        let (_, elements) = product.chosen.as_ref()?;
        // Whatever the rows chose: their number makes no more tasks.
        Some(Tiles {
            per,
            times: 1,
            from,
            by: braid_runtime::artifact::Tiles::ALL,
            factor: elements * product.sizes[3].div_ceil(tiling.columns),
        })
    };
    [chosen_tiling(product).filter(|_| per == Per::Row).and_then(of), None]
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

/// The tiles of attention, or of what stores its keys; none if it cannot be done so.
pub fn attention_tiles(attention: &Attention, stores_keys: bool, per: Per) -> Option<Tiles> {
    let tiles = match stores_keys {
        true => Tiles { per, times: 1, from: STEP_ROWS + 1, by: BLOCK, factor: attention.groups },
        false => Tiles { per, times: 1, from: MANY_QUERIES, by: QUERIES, factor: attention.groups * attention.per },
    };
    (per == Per::Row && (stores_keys || attention.is_tiled())).then_some(tiles)
}
