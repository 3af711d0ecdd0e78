//! Integers of rows, which a step of its own makes once for all blocks of the product that multiplies them (slots.rs), in the place of the rows.
//!
//! A row lies in fours of groups: the integers of each, as the matrix units take them, then the four scales. So a lane of the product loads its eight
//! numbers of a group at once, and half of the bytes that these take in single precision.

use super::held::{EIGHT, Held};
use super::nest;
use super::parts::Parts;
use super::row;
use super::several;
use super::slots::{self, LANES};
use super::wide::side_by_side;
use super::{Streams, THREADS};
use crate::fuse::kernel::{DEPTH, Matmul, Store};
use crate::mlir::common::copies::COPY;
use crate::mlir::common::device::WARP;
use crate::mlir::common::site::{Setting, Site, for_each};
use crate::mlir::common::{Cmp, Emitter, KernelArgs, Ty, Val};
use crate::plan::MOST_READY;
use braid_runtime::artifact::GROUP;

/// Groups whose scales stand together.
const FOUR: usize = 4;
/// Bytes of the integers of a group.
const WORDS: usize = 2 * GROUP;
/// Bytes of four groups.
const FOURS: usize = FOUR * (WORDS + 4);

/// Where the integers of a group of a row that begins at `row` are, and its scale; `group`: `i32`.
pub fn places<'c>(e: &Emitter<'c>, row: Val<'c>, group: Val<'c>) -> [Val<'c>; 2] {
    let (four, within) = (e.shift_right(group, i64::from(FOUR.ilog2())), e.and(group, e.i32(FOUR as i32 - 1)));
    let four = e.element(row, e.to_i64(four), FOURS);
    let within = e.to_i64(within);
    [e.element(four, within, WORDS), e.element(e.offset_by(four, FOUR * WORDS), within, 4)]
}

/// Shared memory that making rows needs; bytes.
pub fn shared_bytes(code: &Matmul) -> usize {
    code.prologue.as_ref().map_or(0, |prologue| nest::shared_bytes(&prologue.nests))
}

/// Emits the kernel: a task is a row of the call. Where the units do not take the product's rows, these stay as they are.
pub fn emit(e: &Emitter, name: &str, code: &Matmul, setting: Setting, streams: Streams) {
    e.kernel(name, |args| {
        let mut site = Site::new(e, args, &code.tensors, setting);
        site.index.insert(DEPTH, e.i64(0));
        for_each(e, args.begin, args.end, e.blocks(), |number| {
            site.set_product_row(code, number);
            let row = site.address(&code.left);
            let ready = streams.of_several(code).and(several::parts(code)).map(|parts| Ready { e, parts, row });
            make(e, code, args, (number, row), ready);
        });
    });
}

/// Makes row `number` at `row`, if that is the product's business, and integers of it.
fn make<'c>(
    e: &Emitter<'c>,
    code: &Matmul,
    args: KernelArgs<'c>,
    (number, row): (Val<'c>, Val<'c>),
    ready: Option<Ready<'_, 'c>>,
) {
    if let Some(prologue) = &code.prologue {
        let mut site = row::site(e, prologue, (row, 0), args, (number, false));
        // Threads may still be at what the row before needed.
        e.sync();
        if let (Some(ready), Some(held)) = (ready, Held::of(&prologue.nests)) {
            let sums = e.offset_by(e.shared_memory(), nest::sums_at(&prologue.nests));
            return held.emit(&mut site, sums, &|first, eight| ready.put_made(first, eight));
        }
        nest::row(&mut site, &prologue.nests, 0);
        e.sync();
    }
    if let Some(ready) = ready {
        ready.all(code.sizes[2]);
    }
}

/// A row of which integers are made.
#[derive(Clone, Copy)]
struct Ready<'k, 'c> {
    e: &'k Emitter<'c>,
    parts: Parts,
    row: Val<'c>,
}

impl<'c> Ready<'_, 'c> {
    /// Integers of a row of so many numbers, which stands there.
    fn all(self, depth: usize) {
        let (e, count) = (self.e, depth / EIGHT);
        let own = |at: usize| {
            let number = e.add(e.thread(), e.i32((at * THREADS) as i32));
            let alive = e.cmp(Cmp::Lt, number, e.i32(count as i32));
            // Past the end the last ones are read again.
            let from = e.element(self.row, e.to_i64(e.min(number, e.i32(count as i32 - 1))), 4 * EIGHT);
            (number, alive, [0, COPY].map(|by| e.load_aligned(e.offset_by(from, by), Ty::f32(4))))
        };
        let loaded: Vec<_> = (0..count.div_ceil(THREADS)).map(own).collect();
        // Integers take the place of numbers that other threads read.
        e.sync();
        for (number, alive, fours) in loaded {
            self.put((number, alive), fours);
        }
    }

    /// Integers of eight numbers that a thread has made, the first of which is number `first` of the row.
    fn put_made(self, first: Val<'c>, eight: &[Val<'c>]) {
        let e = self.e;
        let number = e.to_i32(e.div(first, e.i64(EIGHT)));
        let fours = [0, EIGHT / 2].map(|at| side_by_side(e, Store::F32, &eight[at..at + EIGHT / 2]));
        // Past the end all lanes have the last eight again.
        let lane = e.and(e.thread(), e.i32((WARP - LANES) as i32));
        let of = |at: usize| e.of_lane(number, e.add(lane, e.i32(at as i32)));
        let alive = e.cmp(Cmp::Ne, of(0), of(1));
        self.put((number, alive), fours);
    }

    /// Integers of a thread's eight numbers, of which it is number `number`; the others of its group are those of its neighbours.
    fn put(self, (number, alive): (Val<'c>, Val<'c>), fours: [Val<'c>; 2]) {
        let e = self.e;
        let (words, scale) = slots::integers(e, self.parts, fours);
        let (group, within) = (e.shift_right(number, i64::from(LANES.ilog2())), e.and(number, e.i32(LANES as i32 - 1)));
        let [place, of_scale] = places(e, self.row, group);
        e.if_then(alive, || {
            let all = words.iter().enumerate().fold(e.poison(Ty::i32(4)), |all, (at, word)| e.insert(all, at, *word));
            e.store_aligned(e.element(place, e.to_i64(within), COPY), all);
            e.if_then(e.cmp(Cmp::Eq, within, e.i32(0)), || e.store(of_scale, scale));
        });
    }
}

/// Four groups are at least what they are made of, and threads have all numbers of a row at once.
const _: () = assert!(FOURS <= 4 * FOUR * GROUP && MOST_READY / EIGHT / THREADS <= 8);
