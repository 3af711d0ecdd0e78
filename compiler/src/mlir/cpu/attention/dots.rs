//! Dot products of queries with sixteen keys, one key a lane.

use super::walk::Keys;
use super::{Head, Work};
use crate::forms::BLOCK;
use crate::fuse::kernel::COLUMN;
use crate::mlir::common::{Elem, Ty, Val};

/// Keys whose sums are under way at once where their channels lie side by side, if a register holds so many lanes; half of them, if it holds fewer.
const ROWS: usize = 8;

impl<'c> Work<'_, 'c> {
    /// Dot products of some heads with blocks of keys; lanes are positions.
    pub(super) fn dots(&self, keys: &[Keys<'c>], heads: &[Head<'c>]) -> Vec<Vec<Val<'c>>> {
        let by_row = |keys: &Keys<'c>| keys.channels.offsets.is_some() && keys.channels.stride == 4;
        if self.code.views.query.stride(COLUMN) != 1 || !keys.iter().all(by_row) {
            return self.column_dots(keys, heads);
        }
        let of_block = |keys: &Keys<'c>| {
            let places = self.places_of(*keys);
            heads.iter().map(|head| self.row_dots(&places, *head)).collect()
        };
        keys.iter().map(of_block).collect()
    }

    /// A channel of all keys at a time.
    fn column_dots(&self, keys: &[Keys<'c>], heads: &[Head<'c>]) -> Vec<Vec<Val<'c>>> {
        let e = self.e;
        let key = self.code.key;
        let all = keys.len() * heads.len();
        // Few sums walk several elements at once, so that enough are under way.
        let together = [4, 2].into_iter().find(|n| all * n <= 8 && key.is_multiple_of(*n)).unwrap_or(1);
        let start = vec![e.float(Ty::f32(BLOCK), 0.0); all * together];
        let sums = e.for_loop(e.i64(0), e.i64(key), e.i64(together), &start, |k, sums| {
            let mut sums = sums.to_vec();
            for (part, sums) in sums.chunks_mut(all).enumerate() {
                let k = e.add(k, e.i64(part));
                let columns: Vec<Val> = keys.iter().map(|keys| keys.channels.load(e, k, Ty::f32(BLOCK))).collect();
                // Head by head, so that one query at a time takes a register.
                for (h, head) in heads.iter().enumerate() {
                    let query = e.splat(e.load(e.element(head.query, k, head.step), Ty::F32), BLOCK);
                    for (block, column) in columns.iter().enumerate() {
                        let sum = &mut sums[block * heads.len() + h];
                        *sum = e.fma(query, *column, *sum);
                    }
                }
            }
            sums
        });
        let total = |at: usize| (1..together).fold(sums[at], |sum, part| e.add(sum, sums[part * all + at]));
        (0..keys.len()).map(|block| (0..heads.len()).map(|h| total(block * heads.len() + h)).collect()).collect()
    }

    /// Where each key's channels begin.
    fn places_of(&self, keys: Keys<'c>) -> Vec<Val<'c>> {
        let e = self.e;
        let offsets = keys.channels.offsets.unwrap_or(e.int(Ty::vector(Elem::I64, BLOCK), 0));
        (0..BLOCK).map(|lane| e.offset(keys.channels.base, e.extract(offsets, lane))).collect()
    }

    /// Sixteen channels of a key at a time.
    fn row_dots(&self, places: &[Val<'c>], head: Head<'c>) -> Val<'c> {
        let e = self.e;
        let at_once = if self.setting.lanes < BLOCK { ROWS / 2 } else { ROWS };
        let mut parts: Vec<Val> = places.chunks(at_once).map(|rows| e.reduce_add_each(&self.row_sums(rows, head))).collect();
        while parts.len() > 1 {
            let lanes: Vec<i64> = (0..2 * parts[0].lanes() as i64).collect();
            parts = parts.chunks(2).map(|two| e.shuffle(two[0], two[1], &lanes)).collect();
        }
        parts[0]
    }

    fn row_sums(&self, rows: &[Val<'c>], head: Head<'c>) -> Vec<Val<'c>> {
        let e = self.e;
        let (whole, left) = (self.code.key / BLOCK * BLOCK, self.code.key % BLOCK);
        let start = vec![e.float(Ty::f32(BLOCK), 0.0); rows.len()];
        let sums = e.for_loop(e.i64(0), e.i64(whole), e.i64(BLOCK), &start, |k, sums| {
            let load = |place: Val<'c>| e.load(e.element(place, k, 4), Ty::f32(BLOCK));
            let query = load(head.query);
            rows.iter().zip(sums).map(|(row, sum)| e.fma(query, load(*row), *sum)).collect()
        });
        if left == 0 {
            return sums;
        }
        let mask = e.mask(BLOCK, e.i64(left));
        let load = |place: Val<'c>| e.load_masked(e.offset_by(place, whole * 4), mask, Ty::f32(BLOCK));
        let query = load(head.query);
        rows.iter().zip(sums).map(|(row, sum)| e.fma(query, load(*row), sum)).collect()
    }
}
