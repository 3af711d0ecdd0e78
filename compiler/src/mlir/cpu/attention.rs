//! Attention over a cache: a kernel that stores the call's keys and values, and one that reads them: with a running softmax, or to choose some
//! of them (attention/best.rs). Which keys a query looks at, and where they lie, is in attention/walk.rs.
//!
//! Keys lie in blocks of 16 positions, `[groups][blocks][key][16]`, so that a vector's lanes are positions: scores need no
//! horizontal sums. What `keep` and `score` ask of the key's position lies behind a key as more of its channels. Values lie as
//! `[groups][slots][value]`. A table holds the position of every slot, -1 where there is none; what a query may see is decided by the
//! declaration's `keep` over that table, whatever the order of the slots. Where only the last position of each block is stored, a row lies
//! side by side in the place of the block's positions, and there is no table.

mod best;
mod dots;
mod panel;
mod rows;
mod runs;
mod scattered;
mod tally;
mod tile;
mod values;
mod walk;

use crate::forms::{BLOCK, Beside, decided};
use crate::fuse::attention::MOST_BLOCKS;
use crate::fuse::kernel::{Attention, BATCH, COLUMN, Chosen, INNER};
use crate::mlir::common::cache::{Caches, Rows, slot_of};
use crate::mlir::common::pair::{Pair, Scores, body, capture, captures};
use crate::mlir::common::site::{Setting, Site, for_each, scratch};
use crate::mlir::common::{Cmp, Emitter, Field, KernelArgs, Ty, Val};
use braid_dsl::model::Body;
use walk::{Keys, Task};

/// Scratch of the reading kernel: weighted sums of values, and the weights of the blocks at hand, of each head; where the blocks' values are.
pub fn scratch_bytes(code: &Attention) -> usize {
    match code.best {
        _ if code.reach.every() > 1 => panel::scratch_bytes(code),
        0 => {
            own_scratch_bytes(code) + tile::scratch_bytes(code).max(scattered::scratch_bytes(code)).max(rows::scratch_bytes(code))
        }
        _ => best::scratch_bytes(code),
    }
}

/// What a task takes for itself.
fn own_scratch_bytes(code: &Attention) -> usize {
    places_at(code) + MOST_BLOCKS * BLOCK * 8
}

/// Where the list of places of values begins.
fn places_at(code: &Attention) -> usize {
    code.heads_of_a_task() * padded(code.value) * 4
        + code.heads_of_a_task().max(tile::HEADS).max(rows::HEADS) * MOST_BLOCKS * BLOCK * 4
}

fn padded(value: usize) -> usize {
    value.next_multiple_of(64)
}

/// Emits the storing or the reading kernel.
pub fn emit(e: &Emitter, name: &str, code: &Attention, stores_keys: bool, setting: Setting) {
    e.kernel(name, |args| {
        let site = Site::new(e, args, &code.tensors, setting);
        let mut work = Work { e, code, site, args, setting, laid: false };
        if !stores_keys && code.reach.every() > 1 {
            return work.read_panels();
        }
        if !stores_keys && code.shares_blocks() {
            return work.read_tiles();
        }
        if let Some(named) = code.named().filter(|_| !stores_keys) {
            return work.read_scattered(&named);
        }
        if !stores_keys && work.tasks_together() > 1 {
            return work.read_rows();
        }
        for_each(e, args.begin, args.end, e.i64(1), |task| match (stores_keys, code.best) {
            _ if let Some(tally) = code.tally => work.tally(task, tally),
            (true, _) => work.store_row(task),
            (false, 0) => work.read_task(task),
            (false, _) => work.choose_row(task),
        });
    });
}

struct Work<'k, 'c> {
    e: &'k Emitter<'c>,
    code: &'k Attention,
    site: Site<'k, 'c>,
    args: KernelArgs<'c>,
    setting: Setting,
    /// Keys that lie side by side are laid with one key a lane.
    laid: bool,
}

/// One query head while blocks go by.
#[derive(Clone, Copy)]
struct Head<'c> {
    /// Its query.
    query: Val<'c>,
    /// Bytes from one of its channels to the next.
    step: usize,
    /// Its index along `per`.
    number: Val<'c>,
    /// The query's position, 32-bit.
    position: Val<'c>,
    /// Where its sums are.
    sums: Val<'c>,
    /// The row of the call, where heads of several rows are at hand.
    row: Option<Val<'c>>,
}

/// Which keys count: those that a predicate lets a query see, unless they counted already.
struct Sight {
    seen: Body,
    unless: Option<Body>,
}

/// A head's query and some keys.
fn pair<'c>(head: &Head<'c>, keys: &Keys<'c>) -> Pair<'c> {
    Pair { query: head.position, key: keys.positions, channels: Some(keys.channels), score: None }
}

impl<'c> Work<'_, 'c> {
    fn store_row(&mut self, row: Val<'c>) {
        let e = self.e;
        let position = e.table_entry(self.args.call, Field::Positions, row);
        let every = self.code.reach.every();
        if every == 1 {
            return self.store_position(row, position);
        }
        let ends = e.cmp(Cmp::Eq, e.rem(position, e.i64(every)), e.i64(every - 1));
        e.if_then(ends, || self.store_position(row, position));
    }

    fn store_position(&mut self, row: Val<'c>, position: Val<'c>) {
        let e = self.e;
        self.site.set_row(row, false);
        let segment = e.segment(self.args.call, e.table_entry(self.args.call, Field::RowSegments, row));
        let caches = Caches::of(e, self.args, self.code, segment.slot);
        let slot = slot_of(e, self.code, position);
        if self.code.reach.every() == 1 {
            e.store(e.element(caches.positions, slot, 4), e.to_i32(position));
        }
        for_each(e, e.i64(0), e.i64(self.code.groups), e.i64(1), |group| {
            self.site.index.insert(INNER, group);
            let keys = Rows::keys(e, self.code, &caches, group);
            let row = keys.offset(e, slot);
            for (number, count) in &self.code.keyed {
                let first = self.code.channel(*number).map_or(0, |(first, _)| first);
                for_each(e, e.i64(0), e.i64(*count), e.i64(1), |head| {
                    self.site.index.insert(BATCH, head);
                    let x = capture(&self.site, self.code, *number);
                    e.store(keys.element(e, row, e.add(head, e.i64(first))), x);
                });
            }
            self.site.index.insert(BATCH, e.i64(0));
            for_each(e, e.i64(0), e.i64(self.code.key), e.i64(1), |k| {
                self.site.index.insert(COLUMN, k);
                e.store(keys.element(e, row, k), e.load(self.site.address(&self.code.views.keys), Ty::F32));
            });
            if self.code.value > 0 {
                let values = Rows::values(e, self.code, &caches, group);
                let row = values.offset(e, slot);
                for_each(e, e.i64(0), e.i64(self.code.value), e.i64(1), |v| {
                    self.site.index.insert(COLUMN, v);
                    e.store(values.element(e, row, v), e.load(self.site.address(&self.code.views.values), Ty::F32));
                });
            }
        });
    }

    /// A task is a row, a group and so many of its heads.
    fn read_task(&mut self, task: Val<'c>) {
        let (task, first) = self.task(task);
        self.read(&task, first);
    }

    fn read(&mut self, task: &Task<'c>, first: Val<'c>) {
        let heads = self.heads(task, first, self.code.heads_of_a_task());
        let start = self.begin(&heads);
        let ends = match self.code.chosen {
            None => {
                let sight = self.sight();
                self.all(task, &start, |work, keys, state| work.visit(&heads, keys, &sight, state))
            }
            Some(chosen) => {
                let state = self.beside(task, &heads, chosen, &start);
                let sight = self.chosen_sight();
                self.chosen(task, chosen, &state, |work, keys, state| work.visit(&heads, keys, &sight, state))
            }
        };
        self.finish_all(&heads, &ends);
    }

    fn finish_all(&mut self, heads: &[Head<'c>], state: &[Val<'c>]) {
        for (at, head) in heads.iter().enumerate() {
            let [most, sum] = [0, 1].map(|n| self.e.extract(state[n], at));
            self.finish(*head, most, sum);
        }
    }

    /// Sums of zero; the running maxima of all heads and their running sums of weights, a lane for each.
    fn begin(&self, heads: &[Head<'c>]) -> Vec<Val<'c>> {
        let e = self.e;
        let zero = e.float(Ty::f32(64), 0.0);
        for head in heads {
            (0..padded(self.code.value)).step_by(64).for_each(|at| e.store(e.offset_by(head.sums, 4 * at), zero));
        }
        let lanes = heads.len().next_power_of_two();
        vec![e.float(Ty::f32(lanes), f64::NEG_INFINITY), e.float(Ty::f32(lanes), 0.0)]
    }

    /// What is seen whatever was chosen.
    fn beside(&mut self, task: &Task<'c>, heads: &[Head<'c>], chosen: Chosen, state: &[Val<'c>]) -> Vec<Val<'c>> {
        let sight = Sight { seen: decided(&self.code.attend.keep, false), unless: None };
        let visit = |work: &mut Self, keys: &[Keys<'c>], state: &[Val<'c>]| work.visit(heads, keys, &sight, state);
        match chosen.beside {
            Beside::Nothing => state.to_vec(),
            Beside::Near { window, first } => self.near(task, (window, first), state, visit),
            Beside::Anything => self.all(task, state, visit),
        }
    }

    /// What is seen where nothing is chosen.
    fn sight(&self) -> Sight {
        Sight { seen: self.code.attend.keep.clone(), unless: None }
    }

    /// What is seen because it was chosen.
    fn chosen_sight(&self) -> Sight {
        let keep = &self.code.attend.keep;
        Sight { seen: decided(keep, true), unless: Some(decided(keep, false)) }
    }

    /// The row and group of a task, and the first of its heads.
    fn task(&mut self, task: Val<'c>) -> (Task<'c>, Val<'c>) {
        let e = self.e;
        let parts = self.code.per / self.code.heads_of_a_task();
        let row = e.div(task, e.i64(self.code.groups * parts));
        let rest = e.rem(task, e.i64(self.code.groups * parts));
        self.task_at(row, e.div(rest, e.i64(parts)), e.rem(rest, e.i64(parts)))
    }

    fn task_at(&mut self, row: Val<'c>, group: Val<'c>, part: Val<'c>) -> (Task<'c>, Val<'c>) {
        let e = self.e;
        self.site.set_row(row, false);
        self.site.index.insert(INNER, group);
        self.site.index.insert(COLUMN, e.i64(0));
        let segment = e.segment(self.args.call, e.table_entry(self.args.call, Field::RowSegments, row));
        let position = e.table_entry(self.args.call, Field::Positions, row);
        let caches = Caches::of(e, self.args, self.code, segment.slot);
        let seen = match self.code.attend.seq == self.code.attend.keys {
            true => e.add(segment.position, segment.rows),
            false => segment.source,
        };
        let last = e.sub(seen, e.i64(1));
        let task = Task { caches, group, query: position, until: position, last };
        (task, e.mul(part, e.i64(self.code.heads_of_a_task())))
    }

    /// So many heads from one on.
    fn heads(&mut self, task: &Task<'c>, first: Val<'c>, count: usize) -> Vec<Head<'c>> {
        let e = self.e;
        let position = e.to_i32(task.query);
        let head = |h: usize| {
            let number = e.add(first, e.i64(h));
            self.site.index.insert(BATCH, number);
            let sums = scratch(e, self.args, self.setting, h * padded(self.code.value) * 4);
            let step = self.code.views.query.stride(COLUMN) * 4;
            Head { query: self.site.address(&self.code.views.query), step, number, position, sums, row: None }
        };
        (0..count).map(head).collect()
    }

    /// Makes a head the one at hand.
    fn at(&mut self, head: &Head<'c>) {
        if let Some(row) = head.row {
            self.site.set_row(row, false);
        }
        self.site.index.insert(BATCH, head.number);
    }

    /// Blocks of keys for all heads; the new maxima and sums. Keys of which no head may see anything cost a look at `keep`.
    fn visit(&mut self, heads: &[Head<'c>], keys: &[Keys<'c>], sight: &Sight, state: &[Val<'c>]) -> Vec<Val<'c>> {
        let e = self.e;
        let visible: Vec<Vec<Val>> = keys.iter().map(|keys| self.visible(heads, keys, sight)).collect();
        let some = visible.iter().flatten().copied().reduce(|a, b| e.or(a, b)).map_or(e.bool(false), |all| e.any(all));
        e.if_else(some, || self.seen_keys(keys, heads, &visible, state), || state.to_vec())
    }

    /// Which keys each head sees.
    fn visible(&mut self, heads: &[Head<'c>], keys: &Keys<'c>, sight: &Sight) -> Vec<Val<'c>> {
        let e = self.e;
        let there = e.cmp(Cmp::Ge, keys.positions, e.i32(0));
        let result = self.code.attend.keep_result;
        let by_head = captures(&sight.seen, result) || sight.unless.as_ref().is_some_and(|unless| captures(unless, result));
        let different = if by_head || heads[0].row.is_some() { heads.len() } else { 1 };
        let one = |head: &Head<'c>| {
            self.at(head);
            let pair = pair(head, keys);
            let keep = body(&mut self.site, self.code, &sight.seen, result, pair);
            let seen = e.and(e.splat(keep, BLOCK), there);
            match &sight.unless {
                None => seen,
                Some(unless) => {
                    let counted = body(&mut self.site, self.code, unless, result, pair);
                    e.and(seen, e.not(e.splat(counted, BLOCK)))
                }
            }
        };
        let masks: Vec<Val> = heads[..different].iter().map(one).collect();
        heads.iter().enumerate().map(|(at, _)| masks[at.min(different - 1)]).collect()
    }

    fn seen_keys(&mut self, keys: &[Keys<'c>], heads: &[Head<'c>], visible: &[Vec<Val<'c>>], state: &[Val<'c>]) -> Vec<Val<'c>> {
        let e = self.e;
        let scores = self.scores_of(keys, heads, visible);
        let one = || vec![e.f32(1.0); heads.len()];
        let (next, scales) = match self.code.attend.plain {
            true => {
                scores.iter().enumerate().for_each(|(at, scores)| self.store_weights(at, scores));
                (state.to_vec(), one())
            }
            false => self.weighed(&scores, [state[0], state[1]]),
        };
        if self.code.value > 0 {
            self.add_values(keys, heads, &scales);
        }
        next
    }

    /// Scores of each head, block by block; those of keys that it does not see hide them.
    fn scores_of(&mut self, keys: &[Keys<'c>], heads: &[Head<'c>], visible: &[Vec<Val<'c>>]) -> Vec<Vec<Val<'c>>> {
        let e = self.e;
        let dots = self.dots(keys, heads);
        let hidden = e.float(Ty::f32(BLOCK), if self.code.attend.plain { 0.0 } else { f64::NEG_INFINITY });
        let mut all = Vec::new();
        for (at, head) in heads.iter().enumerate() {
            self.at(head);
            let one = |(block, keys): (usize, &Keys<'c>)| {
                let pair = Pair { score: Some(Scores::Here(dots[block][at])), ..pair(head, keys) };
                let score = body(&mut self.site, self.code, &self.code.attend.score, self.code.attend.score_result, pair);
                e.select(visible[block][at], e.splat(score, BLOCK), hidden)
            };
            all.push(keys.iter().enumerate().map(one).collect());
        }
        all
    }

    /// Stores the weights of scores; the new maxima and sums of weights of all heads, and by what of each the weighted values so far shrink.
    fn weighed(&mut self, scores: &[Vec<Val<'c>>], [most, sum]: [Val<'c>; 2]) -> (Vec<Val<'c>>, Vec<Val<'c>>) {
        let e = self.e;
        // A vector for each lane of the state.
        let filled = |mut vectors: Vec<Val<'c>>| {
            vectors.resize(most.lanes(), vectors[vectors.len() - 1]);
            vectors
        };
        let joined = |blocks: &[Val<'c>], join: fn(&Emitter<'c>, Val<'c>, Val<'c>) -> Val<'c>| {
            blocks[1..].iter().fold(blocks[0], |all, block| join(e, all, *block))
        };
        let largest = scores.iter().map(|blocks| joined(blocks, |e, a, b| e.max(a, b))).collect();
        let most_now = e.max(most, e.reduce_max_each(&filled(largest)));
        // Where nothing was seen yet the maximum stays minus infinity; any finite anchor gives weights of zero.
        let none = e.cmp(Cmp::Eq, most_now, e.like(most_now, f64::NEG_INFINITY));
        let anchors = e.select(none, e.like(most_now, 0.0), most_now);
        let scales = e.exp(e.sub(most, anchors));
        let mut totals = Vec::new();
        for (at, blocks) in scores.iter().enumerate() {
            let anchor = e.splat(e.extract(anchors, at), BLOCK);
            let weights: Vec<Val> = blocks.iter().map(|score| e.exp(e.sub(*score, anchor))).collect();
            totals.push(joined(&weights, |e, a, b| e.add(a, b)));
            if self.code.value > 0 {
                self.store_weights(at, &weights);
            }
        }
        let sum_now = e.add(e.mul(sum, scales), e.reduce_add_each(&filled(totals)));
        (vec![most_now, sum_now], (0..scores.len()).map(|at| e.extract(scales, at)).collect())
    }
}
