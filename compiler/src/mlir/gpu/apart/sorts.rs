//! Choices in the order of what was chosen, so that rows which chose the same stand together. One block counts how often everything was
//! chosen, sums that up to where the choices of each begin, cuts them into tiles, and gives every choice a place. Which of those that
//! chose the same comes first depends on the run, but no result does: a row of a tile is multiplied as any other.

use super::product::Group;
use crate::fuse::kernel::{BATCH, Matmul};
use crate::mlir::common::device::WARP;
use crate::mlir::common::site::{Setting, Site, for_each};
use crate::mlir::common::{Cmp, Emitter, Field, KernelArgs, Ty, Val};
use crate::mlir::gpu::grouped::summed;
use crate::plan::{Choice, TILE_ROWS};
use braid_runtime::artifact::Chosen;

/// Threads of the block.
pub const SORTING_THREADS: usize = 1024;
/// Choices that a thread looks at together.
const EACH: usize = 4;
/// Bytes of a number.
const NUMBER: usize = 4;

/// Shared memory of the block: a number for everything that there is to choose.
pub fn shared_bytes(choice: Choice) -> usize {
    NUMBER * choice.elements
}

/// The lists of sorted choices; `Chosen::lists` of the runtime says where they lie.
#[derive(Clone, Copy)]
pub struct Lists<'c> {
    all: Val<'c>,
    tiles: Val<'c>,
    order: Val<'c>,
    places: Val<'c>,
    /// How many choices there are; 64-bit.
    pub choices: Val<'c>,
}

impl<'c> Lists<'c> {
    /// The lists of a call, from an address on.
    pub fn of(e: &Emitter<'c>, choice: Choice, call: Val<'c>, lists: Val<'c>) -> Self {
        let all = e.device_memory(lists);
        let choices = e.mul(e.call_field(call, Field::Rows), e.i64(choice.count));
        let rows = e.i64(TILE_ROWS);
        let down = e.add(e.div(e.add(choices, e.i64(TILE_ROWS - 1)), rows), e.i64(choice.elements));
        let tiles = e.offset_by(all, Chosen::TILE);
        let order = e.element(tiles, down, Chosen::TILE);
        Lists { all, tiles, order, places: e.element(order, choices, NUMBER), choices }
    }

    /// How many tiles there are; 32-bit.
    pub fn count(&self, e: &Emitter<'c>) -> Val<'c> {
        e.load(self.all, Ty::I32)
    }

    /// What a tile's choices chose, the first tile of that, and where its choices begin and end; the tile's number and all of these
    /// are 32-bit.
    pub fn tile(&self, e: &Emitter<'c>, number: Val<'c>) -> [Val<'c>; 4] {
        let own = e.load_aligned(e.element(self.tiles, e.to_i64(number), Chosen::TILE), Ty::i32(4));
        [0, 1, 2, 3].map(|at| e.extract(own, at))
    }

    /// The choice at a place of the order; both 64-bit.
    pub fn choice(&self, e: &Emitter<'c>, place: Val<'c>) -> Val<'c> {
        e.to_i64(e.load(e.element(self.order, place, NUMBER), Ty::I32))
    }

    /// The place of a choice in the order; both 64-bit.
    pub fn place(&self, e: &Emitter<'c>, choice: Val<'c>) -> Val<'c> {
        e.to_i64(e.load(e.element(self.places, choice, NUMBER), Ty::I32))
    }
}

/// Sorts the choices of the rows of a launch's products.
pub fn sort<'c>(e: &Emitter<'c>, group: &Group, setting: Setting, args: KernelArgs<'c>, lists: Val<'c>) {
    let (code, Some(choice)) = (group.first(), group.products.choice) else { return };
    let mut site = Site::new(e, args, &code.tensors, setting);
    site.index.insert(BATCH, e.i64(0));
    let lists = Lists::of(e, choice, args.call, lists);
    let mut sorting = Sorting { e, code, choice, lists, site };
    sorting.count();
    sorting.cut();
    sorting.deal();
}

/// One block's work.
struct Sorting<'k, 'c> {
    e: &'k Emitter<'c>,
    code: &'k Matmul,
    choice: Choice,
    lists: Lists<'c>,
    site: Site<'k, 'c>,
}

impl<'c> Sorting<'_, 'c> {
    /// Where what is counted of a chosen element stands.
    fn counter(&self, element: Val<'c>) -> Val<'c> {
        self.e.element(self.e.shared_memory(), element, NUMBER)
    }

    /// Counts how often each was chosen.
    fn count(&mut self) {
        let e = self.e;
        for_each(e, e.to_i64(e.thread()), e.i64(self.choice.elements), e.i64(SORTING_THREADS), |element| {
            e.store(self.counter(element), e.i32(0));
        });
        e.sync();
        self.each(|sorting, _, element| {
            sorting.next(element);
        });
        e.sync();
    }

    /// Counts one more of an element; gives how many there were.
    fn next(&self, element: Val<'c>) -> Val<'c> {
        self.e.count_shared(self.counter(element), self.e.i32(1))
    }

    /// Does `body` for every choice of the thread, with its number and what was chosen.
    fn each(&mut self, body: impl Fn(&Self, Val<'c>, Val<'c>)) {
        let (e, choices) = (self.e, self.lists.choices);
        let last = e.sub(choices, e.i64(1));
        let step = e.i64(EACH * SORTING_THREADS);
        for_each(e, e.to_i64(e.thread()), choices, step, |first| {
            let numbers: Vec<Val> = (0..EACH).map(|at| e.add(first, e.i64(at * SORTING_THREADS))).collect();
            let chosen: Vec<Val> = numbers.iter().map(|number| self.chosen(e.min(*number, last))).collect();
            for (number, element) in numbers.into_iter().zip(chosen) {
                e.if_then(e.cmp(Cmp::Le, number, last), || body(self, number, element));
            }
        });
    }

    /// What a choice chose, if that is there to choose, and what is next to it otherwise.
    fn chosen(&mut self, number: Val<'c>) -> Val<'c> {
        let e = self.e;
        let Some((ids, elements)) = &self.code.chosen else { return e.i64(0) };
        self.site.set_product_row(self.code, number);
        let id = e.load(self.site.address(ids), Ty::I32);
        e.to_i64(e.max(e.min(id, e.i32(*elements as i32 - 1)), e.i32(0)))
    }

    /// A warp makes tiles of what was counted, and leaves where the choices of each element begin.
    fn cut(&self) {
        let e = self.e;
        e.if_then(e.cmp(Cmp::Lt, e.thread(), e.i32(WARP as i32)), || {
            let (lane, elements) = (e.thread(), e.i32(self.choice.elements as i32));
            let last = e.sub(elements, e.i32(1));
            let ends = e.for_loop(e.i32(0), elements, e.i32(WARP as i32), &[e.i32(0); 2], |first, before| {
                let element = e.add(first, lane);
                let counter = self.counter(e.to_i64(e.min(element, last)));
                let there = e.cmp(Cmp::Le, element, last);
                let count = e.select(there, e.load(counter, Ty::I32), e.i32(0));
                let down = e.div(e.add(count, e.i32(TILE_ROWS as i32 - 1)), e.i32(TILE_ROWS as i32));
                let upto = [count, down].map(|own| summed(e, lane, own));
                let [start, tile] = [0, 1].map(|at| e.add(before[at], e.sub(upto[at], [count, down][at])));
                e.if_then(there, || {
                    e.store(counter, start);
                    self.tiles(element, (tile, down), (start, e.add(start, count)));
                });
                let whole = upto.map(|own| e.of_lane(own, e.i32(WARP as i32 - 1)));
                vec![e.add(before[0], whole[0]), e.add(before[1], whole[1])]
            });
            e.if_then(e.cmp(Cmp::Eq, lane, e.i32(0)), || e.store(self.lists.all, ends[1]));
        });
        e.sync();
    }

    /// Writes what is known of an element's tiles.
    fn tiles(&self, element: Val<'c>, (first, down): (Val<'c>, Val<'c>), (start, end): (Val<'c>, Val<'c>)) {
        let e = self.e;
        let known = [element, first, start, end].into_iter().enumerate();
        let own = known.fold(e.poison(Ty::i32(4)), |own, (at, number)| e.insert(own, at, number));
        for_each(e, first, e.add(first, down), e.i32(1), |tile| {
            e.store_aligned(e.element(self.lists.tiles, e.to_i64(tile), Chosen::TILE), own);
        });
    }

    /// Gives every choice its place.
    fn deal(&mut self) {
        self.each(|sorting, number, element| {
            let (e, lists) = (sorting.e, sorting.lists);
            let place = sorting.next(element);
            e.store(e.element(lists.order, e.to_i64(place), NUMBER), e.to_i32(number));
            e.store(e.element(lists.places, number, NUMBER), place);
        });
    }
}
