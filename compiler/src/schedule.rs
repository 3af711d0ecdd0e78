//! How matrix products are cut into tiles and tasks: numbers that change how fast code is, and nothing else.

use serde::{Deserialize, Serialize};

use crate::error::Error;

/// The numbers, from the description of a target or from `braid tune`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// Most rows of a tile.
    pub tile_rows: usize,
    /// Vectors of a weight panel.
    pub panel_vectors: usize,
    /// Rows that a task does with a panel.
    pub task_rows: usize,
    /// How many bytes ahead of their use weights are asked for; 0: never.
    pub ahead: usize,
}

/// Registers that a tile needs beside its sums and a panel's row of weights: what the weights are multiplied by.
const BESIDE: usize = 1;

impl Schedule {
    /// Of a GPU, which cuts products in its own way.
    pub const GPU: Schedule = Schedule { tile_rows: 1, panel_vectors: 1, task_rows: 1, ahead: 0 };

    /// Whether code can be made with these numbers for so many registers.
    ///
    /// # Errors
    /// Which number is out of range.
    pub fn check(&self, registers: usize) -> Result<(), Error> {
        let Schedule { tile_rows, panel_vectors, task_rows, ahead } = *self;
        if ![1, 2, 4].contains(&panel_vectors) {
            return Err(Error::user(format!("`panel_vectors: {panel_vectors}` is none of 1, 2 and 4")));
        }
        if tile_rows == 0 || (tile_rows + 1) * panel_vectors + BESIDE > registers {
            return Err(Error::user(format!(
                "a tile of {tile_rows} rows and {panel_vectors} vectors does not fit {registers} registers"
            )));
        }
        if !(tile_rows..=4096).contains(&task_rows) {
            return Err(Error::user(format!("`task_rows: {task_rows}` is not from {tile_rows} (a tile) to 4096")));
        }
        if ahead > 1 << 20 || !ahead.is_multiple_of(64) {
            return Err(Error::user(format!("`ahead: {ahead}` is no multiple of 64 below a mebibyte")));
        }
        Ok(())
    }

    /// Other schedules to try, in groups: those of a group differ from this one in the same number.
    pub fn neighbours(&self, registers: usize) -> Vec<Vec<Schedule>> {
        let tiles = [1, 2, 4].into_iter().flat_map(|panel_vectors| {
            let most = (registers - BESIDE) / panel_vectors - 1;
            [most, most * 4 / 5, most / 2].map(|tile_rows| Schedule { tile_rows, panel_vectors, ..*self })
        });
        let tasks = [2, 4, 8, 16, 32].map(|tiles| Schedule { task_rows: tiles * self.tile_rows, ..*self });
        let aheads = [0, 1024, 2048, 4096, 8192].map(|ahead| Schedule { ahead, ..*self });
        let groups = [tiles.collect::<Vec<_>>(), tasks.to_vec(), aheads.to_vec()];
        let fits = |group: Vec<Schedule>| {
            let mut group: Vec<_> = group.into_iter().filter(|s| s != self && s.check(registers).is_ok()).collect();
            group.dedup();
            group
        };
        groups.into_iter().map(fits).collect()
    }
}
