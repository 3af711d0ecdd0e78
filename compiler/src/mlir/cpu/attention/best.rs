//! Choosing the keys of largest score. Scores go by in the order of positions; what is not below a bound is kept in a buffer, and a full buffer
//! is cut down to the best: the bound is then the score of the last of them, found bit by bit. Scores are compared as whole numbers that have
//! their order.

use super::walk::{Keys, Task};
use super::{Sight, Work};
use crate::forms::BLOCK;
use crate::fuse::kernel::{Attention, BATCH, COLUMN};
use crate::mlir::common::pair::{Pair, Scores, body};
use crate::mlir::common::site::{for_each, scratch};
use crate::mlir::common::{Cmp, Elem, Ty, Val};

/// Keys in the buffer: twice as many as are chosen, and some more.
fn room(best: usize) -> usize {
    (best + best.max(64)).next_multiple_of(BLOCK) + BLOCK
}

/// Scratch of the kernel: dot products of a task's heads, and the buffer's scores and positions.
pub fn scratch_bytes(code: &Attention) -> usize {
    code.heads_of_a_task() * BLOCK * 4 + 2 * room(code.best) * 4
}

/// What is kept so far: how many keys, and the least score (as a whole number) that gets in.
type State<'c> = [Val<'c>; 2];

impl<'c> Work<'_, 'c> {
    /// A task is a row, a group and one of its heads, or all of them if they choose together.
    pub(super) fn choose_row(&mut self, task: Val<'c>) {
        let (task, head) = self.task(task);
        self.choose(&task, head);
    }

    /// The choice of a query's head, or of all heads of its group.
    pub(super) fn choose(&mut self, task: &Task<'c>, head: Val<'c>) {
        let e = self.e;
        let sight = self.sight();
        let start = [e.i64(0), e.i64(i64::from(i32::MIN))];
        let ends = self.all(task, &start, |work, keys, state| work.weigh(task, head, keys[0], &sight, [state[0], state[1]]));
        let [kept, _] = self.cut([ends[0], ends[1]], e.i64(self.code.best));
        self.site.index.insert(BATCH, head);
        for_each(e, e.i64(0), e.i64(self.code.best), e.i64(1), |slot| {
            self.site.index.insert(COLUMN, slot);
            let position = e.load(e.element(self.kept_positions(), slot, 4), Ty::I32);
            let position = e.select(e.cmp(Cmp::Lt, slot, kept), position, e.i32(-1));
            e.store(self.site.address(&self.code.views.out), position);
        });
    }

    /// Keeps those of sixteen keys that are not below the bound.
    fn weigh(&mut self, task: &Task<'c>, head: Val<'c>, keys: Keys<'c>, sight: &Sight, state: State<'c>) -> Vec<Val<'c>> {
        let e = self.e;
        let pair = Pair { query: e.to_i32(task.query), key: keys.positions, channels: Some(keys.channels), score: None };
        let one = self.heads(task, head, 1);
        let visible = self.visible(&one, &keys, sight)[0];
        let seen = || {
            let numbers = self.scores(task, head, keys, pair);
            let full = e.cmp(Cmp::Gt, e.add(state[0], e.i64(BLOCK)), e.i64(room(self.code.best)));
            let state = e.if_else(full, || self.cut(state, e.i64(self.code.best)).to_vec(), || state.to_vec());
            let bound = e.splat(state[1], BLOCK);
            let enters = e.and(visible, e.cmp(Cmp::Ge, e.to_i64(numbers), bound));
            let some = e.any(enters);
            e.if_else(some, || vec![self.enter(keys, numbers, enters, state[0]), state[1]], || state.clone())
        };
        e.if_else(e.any(visible), seen, || state.to_vec())
    }

    /// The scores of sixteen keys as whole numbers in their order; what is no number is the least.
    fn scores(&mut self, task: &Task<'c>, head: Val<'c>, keys: Keys<'c>, pair: Pair<'c>) -> Val<'c> {
        let e = self.e;
        let score = match self.code.joined {
            true => {
                let at_once = self.code.heads_at_once();
                for_each(e, e.i64(0), e.i64(self.code.per), e.i64(at_once), |first| {
                    let heads = self.heads(task, first, at_once);
                    for (at, dots) in self.dots(&[keys], &heads)[0].iter().enumerate() {
                        e.store(e.element(self.all_dots(), e.add(first, e.i64(at)), 4 * BLOCK), *dots);
                    }
                });
                Scores::At(self.all_dots())
            }
            false => {
                let heads = self.heads(task, head, 1);
                Scores::Here(self.dots(&[keys], &heads)[0][0])
            }
        };
        self.site.index.insert(BATCH, head);
        let pair = Pair { score: Some(score), ..pair };
        let score = body(&mut self.site, self.code, &self.code.attend.score, self.code.attend.score_result, pair);
        // Both zeros are one number.
        let score = e.add(e.splat(score, BLOCK), e.float(Ty::f32(BLOCK), 0.0));
        let number = e.cmp(Cmp::Eq, score, score);
        let bits = e.bitcast(e.select(number, score, e.float(Ty::f32(BLOCK), f64::NEG_INFINITY)), Elem::I32);
        let sign = e.shift_right(bits, 31);
        e.xor(bits, e.and(sign, e.i32(i32::MAX)))
    }

    /// Puts lanes into the buffer, one behind the other; how many it holds then.
    fn enter(&self, keys: Keys<'c>, numbers: Val<'c>, enters: Val<'c>, kept: Val<'c>) -> Val<'c> {
        let e = self.e;
        (0..BLOCK).fold(kept, |kept, lane| {
            // What does not enter is written over by the next.
            e.store(e.element(self.kept_scores(), kept, 4), e.extract(numbers, lane));
            e.store(e.element(self.kept_positions(), kept, 4), e.extract(keys.positions, lane));
            e.add(kept, e.convert(e.extract(enters, lane), Elem::I64))
        })
    }

    /// Cuts the buffer down to the best, in their order, if it holds more.
    fn cut(&self, [kept, bound]: State<'c>, best: Val<'c>) -> State<'c> {
        let e = self.e;
        let more = e.cmp(Cmp::Gt, kept, best);
        let cut = e.if_else(
            more,
            || {
                let least = self.least_of_the_best(kept, best);
                let equal = e.sub(best, self.count(kept, e.add(least, e.i64(1))));
                self.keep(kept, least, equal);
                vec![best, e.add(least, e.i64(1))]
            },
            || vec![kept, bound],
        );
        [cut[0], cut[1]]
    }

    /// The largest number that at least so many of the buffer reach, or one that exactly so many do.
    fn least_of_the_best(&self, kept: Val<'c>, best: Val<'c>) -> Val<'c> {
        let e = self.e;
        let range = [e.i32(i32::MAX), e.i32(i32::MIN)].map(|number| e.splat(number, BLOCK));
        let range = e.for_loop(e.i64(0), kept, e.i64(BLOCK), &range, |at, range| {
            let numbers = e.load(e.element(self.kept_scores(), at, 4), Ty::i32(BLOCK));
            let there = e.mask(BLOCK, e.sub(kept, at));
            let part = |n: usize| e.select(there, numbers, range[n]);
            vec![e.min(range[0], part(0)), e.max(range[1], part(1))]
        });
        let range = [e.to_i64(e.reduce_min(range[0])), e.to_i64(e.reduce_max(range[1]))];
        let search = |range: &[Val<'c>]| {
            let sum = e.add(e.add(range[0], range[1]), e.i64(1));
            let middle = e.shift_right(sum, 1);
            let many = self.count(kept, middle);
            let (enough, exactly) = (e.cmp(Cmp::Ge, many, best), e.cmp(Cmp::Eq, many, best));
            let most = e.select(enough, range[1], e.sub(middle, e.i64(1)));
            vec![e.select(enough, middle, range[0]), e.select(exactly, middle, most)]
        };
        e.while_loop(&range, |range| e.cmp(Cmp::Lt, range[0], range[1]), search)[0]
    }

    /// How many in the buffer reach a number.
    fn count(&self, kept: Val<'c>, number: Val<'c>) -> Val<'c> {
        let e = self.e;
        let zero = e.int(Ty::i32(BLOCK), 0);
        let number = e.splat(number, BLOCK);
        let counts = e.for_loop(e.i64(0), kept, e.i64(BLOCK), &[zero], |at, counts| {
            let numbers = e.load(e.element(self.kept_scores(), at, 4), Ty::i32(BLOCK));
            let reach = e.and(e.cmp(Cmp::Ge, e.to_i64(numbers), number), e.mask(BLOCK, e.sub(kept, at)));
            vec![e.add(counts[0], e.convert(reach, Elem::I32))]
        });
        e.to_i64(e.reduce_add(counts[0]))
    }

    /// Leaves in the buffer what is above a number, and the first so many that are equal to it.
    fn keep(&self, kept: Val<'c>, least: Val<'c>, equal: Val<'c>) {
        let e = self.e;
        e.for_loop(e.i64(0), kept, e.i64(1), &[e.i64(0), equal], |at, state| {
            let (to, left) = (state[0], state[1]);
            let number = e.load(e.element(self.kept_scores(), at, 4), Ty::I32);
            let position = e.load(e.element(self.kept_positions(), at, 4), Ty::I32);
            let order = e.to_i64(number);
            let same = e.and(e.cmp(Cmp::Eq, order, least), e.cmp(Cmp::Gt, left, e.i64(0)));
            let stays = e.or(e.cmp(Cmp::Gt, order, least), same);
            e.store(e.element(self.kept_scores(), to, 4), number);
            e.store(e.element(self.kept_positions(), to, 4), position);
            vec![e.add(to, e.convert(stays, Elem::I64)), e.sub(left, e.convert(same, Elem::I64))]
        });
    }

    fn all_dots(&self) -> Val<'c> {
        scratch(self.e, self.args, self.setting, 0)
    }

    fn kept_scores(&self) -> Val<'c> {
        scratch(self.e, self.args, self.setting, self.code.heads_of_a_task() * BLOCK * 4)
    }

    fn kept_positions(&self) -> Val<'c> {
        let at = self.code.heads_of_a_task() * BLOCK * 4 + room(self.code.best) * 4;
        scratch(self.e, self.args, self.setting, at)
    }
}
