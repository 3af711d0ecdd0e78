//! Queries that look at the same chosen blocks: tasks of one group side by side, rows and heads, are a tile. Blocks go by in order, and whoever
//! chose one looks at it together with the others, so that its keys and values come once from afar; maxima, sums of weights and weighted values
//! of every query wait in scratch meanwhile.

use super::runs::Run;
use super::walk::{Keys, Task};
use super::{Head, Work, own_scratch_bytes, padded};
use crate::forms::BLOCK;
use crate::fuse::attention::MOST_BLOCKS;
use crate::fuse::kernel::{Attention, BATCH, COLUMN, Chosen, INNER};
use crate::mlir::common::site::{for_each, scratch};
use crate::mlir::common::{Cmp, Elem, Ty, Val};

/// Heads that look together.
pub const HEADS: usize = 4;
/// Bytes that the weighted values of a tile may take: a part of a second-level cache.
const ROOM: usize = 128 * 1024;
/// Fewer tasks do not wait for each other.
const LEAST: usize = 16;

/// Tasks of a tile.
fn tasks(code: &Attention) -> usize {
    (ROOM / (code.heads_of_a_task() * padded(code.value) * 4)).clamp(BLOCK, 256) / BLOCK * BLOCK
}

/// Tasks whose heads look together.
fn together(code: &Attention) -> usize {
    (HEADS / code.heads_of_a_task()).max(1)
}

/// Where the parts of a tile's scratch begin: weighted values, maxima and sums of weights, next blocks, those who look; and the end. One task more has
/// room, which fills up where too few look.
fn parts(code: &Attention) -> [usize; 5] {
    let heads = (tasks(code) + 1) * code.heads_of_a_task();
    let sizes = [heads * padded(code.value) * 4, heads * 8, tasks(code) * 4, (tasks(code) + BLOCK + together(code)) * 4];
    let mut all = [own_scratch_bytes(code).next_multiple_of(64); 5];
    (1..5).for_each(|part| all[part] = all[part - 1] + sizes[part - 1].next_multiple_of(64));
    all
}

/// Scratch behind that of a task.
pub fn scratch_bytes(code: &Attention) -> usize {
    if code.shares_blocks() { parts(code)[4] - own_scratch_bytes(code) } else { 0 }
}

impl<'c> Work<'_, 'c> {
    /// Those of a tile are of one sequence.
    pub(super) fn read_tiles(&mut self) {
        let e = self.e;
        self.runs(Some(tasks(self.code)), |work, tile| {
            let enough = e.cmp(Cmp::Ge, tile.count, e.i64(LEAST));
            e.if_then(enough, || work.read_tile(tile));
            e.if_then(e.not(enough), || work.read_one_by_one(tile));
        });
    }

    pub(super) fn read_one_by_one(&mut self, tile: Run<'c>) {
        let e = self.e;
        for_each(e, e.i64(0), tile.count, e.i64(1), |number| {
            let (row, part) = self.place(tile, number);
            let (task, first) = self.task_at(row, tile.group, part);
            self.read(&task, first);
        });
    }

    fn read_tile(&mut self, tile: Run<'c>) {
        let Some(chosen) = self.code.chosen else { return };
        self.start_of_tile(tile, chosen);
        self.blocks_of_tile(tile, chosen);
        self.end_of_tile(tile);
    }

    /// What is seen whatever was chosen, and each task's first block.
    fn start_of_tile(&mut self, tile: Run<'c>, chosen: Chosen) {
        let e = self.e;
        let step = together(self.code);
        for_each(e, e.i64(0), tile.count, e.i64(step), |at| {
            let within = |n: usize| {
                let number = e.add(at, e.i64(n));
                e.select(e.cmp(Cmp::Lt, number, tile.count), number, e.i64(tasks(self.code)))
            };
            let numbers: Vec<Val> = (0..step).map(within).collect();
            let (task, heads) = self.looking_for(tile, &numbers);
            let start = self.begin(&heads);
            let state = self.beside(&task, &heads, chosen, &start);
            self.keep_state(&numbers, &state);
        });
        for_each(e, e.i64(0), tile.count, e.i64(1), |number| self.goes_on(tile, chosen, number, e.i64(-1)));
    }

    /// The blocks that were chosen by one of the tile, in order.
    fn blocks_of_tile(&mut self, tile: Run<'c>, chosen: Chosen) {
        let e = self.e;
        let step = together(self.code);
        let (task, _) = self.looking_for(tile, &[e.i64(0)]);
        let blocks = e.add(e.div(e.max(task.last, e.i64(0)), e.i64(chosen.block)), e.i64(1));
        for_each(e, e.i64(0), blocks, e.i64(1), |block| {
            let first = e.mul(block, e.i64(chosen.block));
            let many = self.who_looks(tile, first);
            let whole = e.mul(e.div(many, e.i64(step)), e.i64(step));
            for_each(e, e.i64(0), whole, e.i64(step), |at| {
                let numbers: Vec<Val> = (0..step).map(|n| self.looker(e.add(at, e.i64(n)))).collect();
                self.look(tile, chosen, first, &numbers);
            });
            if step > 1 {
                for_each(e, whole, many, e.i64(1), |at| self.look(tile, chosen, first, &[self.looker(at)]));
            }
            for_each(e, e.i64(0), many, e.i64(1), |at| self.goes_on(tile, chosen, self.looker(at), first));
        });
    }

    /// Lists the tasks whose next block begins at a position; how many they are.
    fn who_looks(&self, tile: Run<'c>, first: Val<'c>) -> Val<'c> {
        let e = self.e;
        let wanted = e.splat(e.to_i32(first), BLOCK);
        e.for_loop(e.i64(0), tile.count, e.i64(BLOCK), &[e.i64(0)], |at, many| {
            let next = e.load(self.next_at(at), Ty::i32(BLOCK));
            let looks = e.and(e.cmp(Cmp::Eq, next, wanted), e.mask(BLOCK, e.sub(tile.count, at)));
            e.if_else(e.any(looks), || vec![self.listed_behind(at, looks, many[0])], || many.to_vec())
        })[0]
    }

    /// Puts the lanes that look behind a list of so many.
    fn listed_behind(&self, at: Val<'c>, looks: Val<'c>, many: Val<'c>) -> Val<'c> {
        let e = self.e;
        (0..BLOCK).fold(many, |many, lane| {
            // Who does not look is written over by the next.
            e.store(self.list_at(many), e.to_i32(e.add(at, e.i64(lane))));
            e.add(many, e.convert(e.extract(looks, lane), Elem::I64))
        })
    }

    /// A task of the list.
    fn looker(&self, at: Val<'c>) -> Val<'c> {
        self.e.to_i64(self.e.load(self.list_at(at), Ty::I32))
    }

    /// Some tasks look at a block.
    fn look(&mut self, tile: Run<'c>, chosen: Chosen, first: Val<'c>, numbers: &[Val<'c>]) {
        let e = self.e;
        let (task, heads) = self.looking_for(tile, numbers);
        let state = self.kept_state(numbers);
        let last = e.min(e.add(first, e.i64(chosen.block - 1)), task.last);
        let sight = self.chosen_sight();
        let at_once = self.blocks_at_once(heads.len()).min(chosen.block / BLOCK);
        let visit = |work: &mut Self, keys: &[Keys<'c>], state: &[Val<'c>]| work.visit(&heads, keys, &sight, state);
        let state = self.between(&task, (first, last), (None, at_once), &state, visit);
        self.keep_state(numbers, &state);
    }

    /// As many blocks of keys as leave the sums in registers.
    fn blocks_at_once(&self, heads: usize) -> usize {
        (self.setting.lanes / heads).clamp(1, MOST_BLOCKS)
    }

    /// Results of all tasks.
    fn end_of_tile(&mut self, tile: Run<'c>) {
        let e = self.e;
        for_each(e, e.i64(0), tile.count, e.i64(1), |number| {
            let (_, heads) = self.looking_for(tile, &[number]);
            let state = self.kept_state(&[number]);
            self.finish_all(&heads, &state);
        });
    }

    /// The heads of some tasks of a tile, whose sums wait in scratch, and what they look at.
    fn looking_for(&mut self, tile: Run<'c>, numbers: &[Val<'c>]) -> (Task<'c>, Vec<Head<'c>>) {
        let e = self.e;
        let each = self.code.heads_of_a_task();
        let (task, mut heads) = self.looking(tile, numbers);
        for (at, head) in heads.iter_mut().enumerate() {
            let before = e.add(e.mul(numbers[at / each], e.i64(each)), e.i64(at % each));
            head.sums = e.element(self.part_of_scratch(0), before, padded(self.code.value) * 4);
        }
        (task, heads)
    }

    /// Finds the first of a task's blocks that begins behind a position.
    fn goes_on(&mut self, tile: Run<'c>, chosen: Chosen, number: Val<'c>, behind: Val<'c>) {
        let e = self.e;
        let (row, part) = self.place(tile, number);
        self.site.set_row(row, false);
        self.site.index.insert(INNER, tile.group);
        self.site.index.insert(BATCH, e.mul(part, e.i64(self.code.heads_of_a_task())));
        self.site.index.insert(COLUMN, e.i64(0));
        let view = &self.code.views.captures[chosen.ids];
        let (ids, stride) = (self.site.address(view), view.stride(COLUMN));
        let none = e.int(Ty::i32(BLOCK), i64::from(i32::MAX));
        let behind = e.splat(e.to_i32(behind), BLOCK);
        let next = e.for_loop(e.i64(0), e.i64(chosen.count), e.i64(BLOCK), &[none], |at, next| {
            let there = e.mask(BLOCK, e.sub(e.i64(chosen.count), at));
            let begin = e.element(ids, e.mul(at, e.i64(stride)), 4);
            let id = match stride {
                1 => e.load_masked(begin, there, Ty::i32(BLOCK)),
                _ => {
                    let places =
                        e.mul(e.convert(e.iota(BLOCK), Elem::I64), e.int(Ty::vector(Elem::I64, BLOCK), stride as i64 * 4));
                    e.gather(begin, places, there, Ty::i32(BLOCK))
                }
            };
            let first = e.sub(id, e.rem(id, e.int(Ty::i32(BLOCK), chosen.block as i64)));
            let counts = e.and(e.and(there, e.cmp(Cmp::Ge, id, e.int(Ty::i32(BLOCK), 0))), e.cmp(Cmp::Gt, first, behind));
            vec![e.min(next[0], e.select(counts, first, none))]
        });
        e.store(self.next_at(number), e.reduce_min(next[0]));
    }

    fn keep_state(&self, numbers: &[Val<'c>], state: &[Val<'c>]) {
        for (at, place) in self.states_of(numbers).into_iter().enumerate() {
            self.e.store(place, self.e.extract(state[at % 2], at / 2));
        }
    }

    fn kept_state(&self, numbers: &[Val<'c>]) -> [Val<'c>; 2] {
        let scalars: Vec<Val> = self.states_of(numbers).iter().map(|place| self.e.load(*place, Ty::F32)).collect();
        [0, 1].map(|n| self.e.packed(&scalars.iter().copied().skip(n).step_by(2).collect::<Vec<_>>()))
    }

    /// Where the maximum and the sum of weights of every head of some tasks are.
    fn states_of(&self, numbers: &[Val<'c>]) -> Vec<Val<'c>> {
        let e = self.e;
        let each = 2 * self.code.heads_of_a_task();
        let places = numbers.iter().map(|number| e.element(self.part_of_scratch(1), *number, 4 * each));
        places.flat_map(|place| (0..each).map(move |n| e.offset_by(place, 4 * n))).collect()
    }

    fn next_at(&self, number: Val<'c>) -> Val<'c> {
        self.e.element(self.part_of_scratch(2), number, 4)
    }

    fn list_at(&self, number: Val<'c>) -> Val<'c> {
        self.e.element(self.part_of_scratch(3), number, 4)
    }

    fn part_of_scratch(&self, part: usize) -> Val<'c> {
        scratch(self.e, self.args, self.setting, parts(self.code)[part])
    }
}
