//! How a kernel's work is cut into tasks.

use super::{Per, Tasks, Tiles, tiling};
use crate::fuse::Kernel;
use crate::fuse::expr::View;
use crate::fuse::kernel::{Along, Attention, CHUNKS_AT_ONCE, COLUMN, Code, Matmul, Nest, Nests, Part, Rows, Stmt, Store, Walk};
use crate::target::Target;

/// Channels of a convolution that one task does on a CPU, in hardware vectors.
pub const VECTORS_A_TASK: usize = 4;
/// Threads of a block of a GPU, which does a task.
pub const THREADS: usize = 256;
/// Blocks of a GPU that are to have work in a step of decoding: what the larger chips of the last years hold.
pub const BLOCKS: usize = 256;
/// Most rows of a call that counts as a step of decoding on a GPU.
pub const STEP_ROWS: usize = 16;
/// Elements of a row that one task does on a GPU, where each can be done alone.
pub const PIECE: usize = 4 * THREADS;
/// Columns of a matrix product that the warps of a block do at once.
pub const COLUMNS_AT_ONCE: usize = 8;
/// Pieces of a sequence that a convolution does side by side on a GPU.
pub const ALONG_PIECES: usize = 64;
/// The widest window of a convolution that is done in pieces.
pub const MOST_TAPS_IN_PIECES: usize = 32;
/// Rows that the warps of a block do at once, where each is little work.
pub const ROWS_OF_A_BLOCK: usize = 8;
/// Most elements of a statement, and most bytes of scratch, of a row that a warp does.
const MOST_OF_A_WARP: usize = 1024;
const MOST_SCRATCH: usize = 4 << 10;
/// Most columns that one task does on a GPU.
const MOST_COLUMNS: usize = 128;

fn per(rows: Rows) -> Per {
    match rows {
        Rows::Once => Per::Once,
        Rows::Source | Rows::All => Per::Row,
        Rows::Wanted => Per::Wanted,
    }
}

/// The tasks of a kernel; of attention, those of the part that stores keys or of the one that reads them.
pub fn tasks(kernel: &Kernel, stores_keys: bool, target: &Target) -> Tasks {
    let rows = Tasks {
        per: per(kernel.rows),
        times: 1,
        by: 1,
        factor: 1,
        cost: 1,
        least: kernel.least,
        most: usize::MAX,
        tiles: [None; 2],
    };
    match &kernel.code {
        Code::Nests(nests) => {
            let cost = nests.nests.iter().map(|n| nest_cost(n, &nests.sizes)).sum::<usize>().max(1);
            match &nests.walk {
                Walk::Rows(_) if target.gpu.is_some() => {
                    let tiles = [by_warps(nests).then(|| rows_of_warps(rows.per)), None];
                    Tasks { factor: nests.pieces(PIECE), cost, tiles, ..rows }
                }
                Walk::Rows(_) => Tasks { cost, ..rows },
                Walk::Segments { grid, blocked, part } => {
                    let blocks = |axis| match blocked {
                        Some((cut, width)) if *cut == axis => nests.sizes[axis.0].div_ceil(*width),
                        _ => nests.sizes[axis.0],
                    };
                    let factor: usize = grid.iter().map(|a| blocks(*a)).product();
                    let (least, side) = match part {
                        Part::Intra(rows) => (*rows, CHUNKS_AT_ONCE),
                        Part::Chunks(rows) | Part::Batches(rows) => (*rows, 1),
                        Part::All | Part::Rest(_) | Part::Ahead(_) | Part::Behind(_) => (0, 1),
                    };
                    let factor = factor * side;
                    let per = if least > 0 && target.gpu.is_some() { Per::Long } else { Per::Segment };
                    Tasks { per, factor, cost: cost / factor + 1, least, ..rows }
                }
            }
        }
        Code::Matmul(product) if target.gpu.is_some() => device_product(product, rows),
        Code::Matmul(product) => {
            let [inner, batch, depth, columns] = product.sizes;
            let panels = columns.div_ceil(product.width);
            match product.chosen {
                Some(_) => Tasks { factor: panels, per: Per::Once, cost: inner * depth * product.width, ..rows },
                None => Tasks {
                    times: inner,
                    by: target.schedule.task_rows,
                    factor: batch * panels,
                    cost: depth * product.width,
                    ..rows
                },
            }
        }
        Code::Along(along) => {
            let block = if target.gpu.is_some() { THREADS } else { target.lanes() * VECTORS_A_TASK };
            let factor = along.channels.div_ceil(block);
            let side_by_side = along.channels.div_ceil(block * channels_in_pieces(along));
            let pieces = Tiles { per: Per::Long, times: 1, from: STEP_ROWS + 1, by: 1, factor: side_by_side * ALONG_PIECES };
            let tiles = [(target.gpu.is_some() && along_in_pieces(along)).then_some(pieces), None];
            Tasks { per: Per::Segment, factor, cost: block * along.taps, tiles, ..rows }
        }
        Code::Largest(largest) => {
            let factor = largest.columns.div_ceil(target.lanes());
            Tasks { per: Per::Segment, factor, cost: 64 * target.lanes() * largest.count, ..rows }
        }
        Code::Top(top) => {
            let tiles = [(target.gpu.is_some() && top.outer == 1).then(|| rows_of_warps(rows.per)), None];
            Tasks { cost: top.outer * top.size * top.count, tiles, ..rows }
        }
        Code::Attention(attention) => attention_tasks(attention, stores_keys, rows, target),
    }
}

/// Whether the warps of a GPU do rows of their own in a call of many rows: each is little work.
pub fn by_warps(nests: &Nests) -> bool {
    let small = |stmt: &Stmt| {
        let elements: usize = stmt.space.iter().map(|axis| nests.sizes[axis.0]).product();
        elements <= MOST_OF_A_WARP && stmt.ordered.is_none() && stmt.system.is_none()
    };
    let rows = matches!(nests.walk, Walk::Rows(Rows::All | Rows::Wanted));
    rows && nests.scratch <= MOST_SCRATCH && nests.nests.iter().flat_map(|nest| &nest.stmts).all(small)
}

/// A row for each warp of a block.
fn rows_of_warps(per: Per) -> Tiles {
    Tiles { per, times: 1, from: STEP_ROWS + 1, by: ROWS_OF_A_BLOCK, factor: 1 }
}

/// Whether a GPU does pieces of a sequence side by side in calls in which one may have more than [`STEP_ROWS`] rows.
pub fn along_in_pieces(along: &Along) -> bool {
    along.taps <= MOST_TAPS_IN_PIECES
}

/// Channels of a thread there: two where all that it reads and writes lies in pairs.
pub fn channels_in_pieces(along: &Along) -> usize {
    let pairs = |view: &View| {
        let even = |number: usize| number.is_multiple_of(2);
        let tensor = along.tensors[view.tensor.0];
        view.strides.is_empty() || view.strides == [(COLUMN, 1)] && even(view.offset) && even(tensor.row)
    };
    let all = [&along.input, &along.out].into_iter().chain(along.epilogue.views()).all(pairs);
    if all && along.channels.is_multiple_of(2) && along.epilogue.is_plain() { 2 } else { 1 }
}

pub(super) fn nest_cost(nest: &Nest, sizes: &[usize]) -> usize {
    nest.stmts.iter().map(|s| (s.expr.cost() + 1) * s.space.iter().map(|a| sizes[a.0]).product::<usize>()).sum()
}

fn attention_tasks(attention: &Attention, stores_keys: bool, rows: Tasks, target: &Target) -> Tasks {
    let on_gpu = target.gpu.is_some();
    let tiles = [tiling::attention_tiles(attention, stores_keys, rows.per).filter(|_| on_gpu), None];
    if stores_keys {
        return Tasks { cost: attention.groups * attention.key * 4, tiles, ..rows };
    }
    if let Some(tally) = attention.tally {
        let cost = tally.queries * attention.key * 64;
        return Tasks { per: Per::Segment, factor: attention.groups * attention.per, cost, ..rows };
    }
    let heads = heads(attention, target);
    let cost = heads * (attention.key + attention.value) * 64;
    Tasks { factor: attention.groups * attention.per / heads * attention.splits, cost, tiles, ..rows }
}

/// Heads of attention that one task does together.
fn heads(attention: &Attention, target: &Target) -> usize {
    if target.gpu.is_some() { attention.heads_of_a_block() } else { attention.heads_of_a_task() }
}

/// Every block has a share of the columns, for all rows; or a task is a batch element and some columns, or a row where each chooses
/// its weights, or a tile.
fn device_product(product: &Matmul, rows: Tasks) -> Tasks {
    let [inner, batch, _, columns] = product.sizes;
    let blocks = columns.div_ceil(columns_of_a_task(product));
    match product.chosen {
        Some(_) => Tasks { times: inner, factor: blocks, tiles: tiling::chosen_tiles(product, rows.per), ..rows },
        None if is_shared_by_blocks(product) => Tasks { per: Per::Block, tiles: tiling::tiles(product, rows.per), ..rows },
        None => Tasks { per: Per::Once, factor: batch * blocks, tiles: tiling::tiles(product, rows.per), ..rows },
    }
}

/// Whether the blocks of a GPU share the columns of a product evenly.
pub fn is_shared_by_blocks(product: &Matmul) -> bool {
    product.chosen.is_none() && product.sizes[1] == 1
}

/// Columns of a product that one task does on a GPU: so many that every block has a task in a step of decoding.
pub fn columns_of_a_task(product: &Matmul) -> usize {
    let [inner, batch, _, columns] = product.sizes;
    let lists = if product.chosen.is_some() { inner } else { batch };
    (columns * lists / BLOCKS).next_multiple_of(COLUMNS_AT_ONCE).clamp(COLUMNS_AT_ONCE, MOST_COLUMNS)
}

/// Bytes of a column of a product's weights.
pub fn column_bytes(product: &Matmul) -> usize {
    let (store, depth) = (product.tensors[product.weights.0].store, product.sizes[2]);
    match store {
        Store::Panels(dtype) => dtype.part().map_or(0, |part| part.column_bytes(depth)),
        _ => depth * store.bytes(),
    }
}
