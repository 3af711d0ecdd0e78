//! Keys that truth values name (fuse/scattered.rs). In calls of many rows they are listed once for each head, and a query looks at those of the lists,
//! sixteen at a time, wherever they lie: what is not named costs nothing.

use super::runs::Run;
use super::walk::{Keys, Task};
use super::{Head, Sight, Work, own_scratch_bytes};
use crate::forms::{BLOCK, never};
use crate::fuse::attention::MOST_BLOCKS;
use crate::fuse::kernel::{Attention, BATCH};
use crate::fuse::scattered::{Named, of_query, without};
use crate::mlir::common::pair::{Pair, body, captured};
use crate::mlir::common::site::{for_each, scratch};
use crate::mlir::common::{Cmp, Elem, Field, Ty, Val};

/// Keys that a list has room for. Where more are named, all keys are looked at.
const ROOM: usize = 16 * 1024;
/// Calls of fewer rows of a sequence are not worth a list.
const LEAST: usize = 16;

/// What a list holds.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Keys,
    Distances,
}

/// What is listed for a head.
#[derive(Clone, Copy)]
struct Lists<'c> {
    /// There was room for everything.
    whole: Val<'c>,
    keys: Val<'c>,
    distances: Val<'c>,
}

/// Scratch behind that of a task.
pub fn scratch_bytes(code: &Attention) -> usize {
    if code.named().is_some() { list_at(code, Kind::Distances) + list_bytes() - own_scratch_bytes(code) } else { 0 }
}

fn list_bytes() -> usize {
    (ROOM + MOST_BLOCKS * BLOCK) * 4
}

fn list_at(code: &Attention, kind: Kind) -> usize {
    own_scratch_bytes(code).next_multiple_of(64) + if kind == Kind::Keys { 0 } else { list_bytes() }
}

impl<'c> Work<'_, 'c> {
    pub(super) fn read_scattered(&mut self, named: &Named) {
        let e = self.e;
        self.runs(None, |work, run| {
            // Whatever rows a thread has, their sequence decides, so that threads change no bit.
            let (row, _) = work.place(run, e.i64(0));
            let own = e.segment(work.args.call, e.table_entry(work.args.call, Field::RowSegments, row));
            let enough = e.cmp(Cmp::Ge, own.rows, e.i64(LEAST));
            e.if_then(enough, || work.read_by_lists(run, named));
            e.if_then(e.not(enough), || work.read_one_by_one(run));
        });
    }

    /// One head after the other, each for all rows of the run.
    fn read_by_lists(&mut self, run: Run<'c>, named: &Named) {
        let e = self.e;
        for_each(e, e.i64(0), e.i64(self.code.per), e.i64(1), |head| {
            let lists = self.lists(run, head, named);
            let parts = self.parts();
            let part = e.div(head, e.i64(self.code.heads_of_a_task()));
            let first = e.rem(e.add(e.sub(part, e.rem(run.first, parts)), parts), parts);
            for_each(e, first, run.count, parts, |number| {
                let (row, part) = self.place(run, number);
                let (task, _) = self.task_at(row, run.group, part);
                self.read_listed(&task, head, lists, named);
            });
        });
    }

    /// Lists what is named for a head.
    fn lists(&mut self, run: Run<'c>, head: Val<'c>, named: &Named) -> Lists<'c> {
        let e = self.e;
        let (row, part) = self.place(run, e.sub(run.count, e.i64(1)));
        let (task, _) = self.task_at(row, run.group, part);
        self.site.index.insert(BATCH, head);
        let (keys, distances) = (self.list_keys(&task, &named.keys), self.list_distances(row, &named.distances));
        let whole = e.cmp(Cmp::Le, e.max(keys, distances), e.i64(ROOM));
        let counted = |count| e.select(whole, count, e.i64(0));
        Lists { whole, keys: counted(keys), distances: counted(distances) }
    }

    fn list_keys(&mut self, task: &Task<'c>, captures: &[usize]) -> Val<'c> {
        let e = self.e;
        if captures.is_empty() {
            return e.i64(0);
        }
        let query = e.to_i32(task.query);
        self.between(task, (e.i64(0), task.last), (None, 1), &[e.i64(0)], |work, keys, many| {
            let pair = Pair { query, key: keys[0].positions, channels: Some(keys[0].channels), score: None };
            let there = e.cmp(Cmp::Ge, pair.key, e.int(Ty::i32(BLOCK), 0));
            let named = work.some(captures.iter().map(|n| captured(&work.site, work.code, *n, pair)));
            vec![work.enlist(Kind::Keys, pair.key, e.and(there, named), many[0])]
        })[0]
    }

    /// Behind a prompt no distance has a name.
    fn list_distances(&mut self, row: Val<'c>, captures: &[usize]) -> Val<'c> {
        let e = self.e;
        let own = e.segment(self.args.call, e.table_entry(self.args.call, Field::RowSegments, row));
        let count = e.select(e.cmp(Cmp::Eq, own.position, e.i64(0)), own.rows, e.i64(0));
        if captures.is_empty() {
            return e.i64(0);
        }
        e.for_loop(e.i64(0), count, e.i64(BLOCK), &[e.i64(0)], |first, many| {
            let there = e.mask(BLOCK, e.sub(count, first));
            let lanes = e.convert(e.iota(BLOCK), Elem::I64);
            let names = |n: &usize| {
                let view = &self.code.views.captures[*n];
                let bytes = self.site.row_elements(view) * self.site.store_of(view).bytes();
                let offsets = e.mul(lanes, e.like(lanes, bytes as f64));
                e.gather(self.site.address_in_row(view, e.add(own.row, first)), offsets, there, Ty::i32(BLOCK))
            };
            let named = e.and(there, self.some(captures.iter().map(names)));
            let distances = e.to_i32(e.add(e.splat(first, BLOCK), lanes));
            vec![self.enlist(Kind::Distances, distances, named, many[0])]
        })[0]
    }

    /// Lanes where one of some truth values is true.
    fn some(&self, values: impl Iterator<Item = Val<'c>>) -> Val<'c> {
        let e = self.e;
        let zero = e.int(Ty::i32(BLOCK), 0);
        values.map(|x| e.cmp(Cmp::Ne, x, zero)).reduce(|a, b| e.or(a, b)).unwrap_or(e.mask(BLOCK, e.i64(0)))
    }

    /// Puts lanes behind a list of so many, which are counted further where there is no room.
    fn enlist(&self, kind: Kind, numbers: Val<'c>, which: Val<'c>, many: Val<'c>) -> Val<'c> {
        let e = self.e;
        let put = || {
            (0..BLOCK).fold(many, |many, lane| {
                // What is not named is written over by the next.
                e.store(e.element(self.list_of(kind), e.min(many, e.i64(ROOM)), 4), e.extract(numbers, lane));
                e.add(many, e.convert(e.extract(which, lane), Elem::I64))
            })
        };
        e.if_else(e.any(which), || vec![put()], || vec![many])[0]
    }

    fn list_of(&self, kind: Kind) -> Val<'c> {
        scratch(self.e, self.args, self.setting, list_at(self.code, kind))
    }

    /// A head of a query: what it sees whatever is named, then what is named by the key, then by the distance, each unless it counted already.
    fn read_listed(&mut self, task: &Task<'c>, head: Val<'c>, lists: Lists<'c>, named: &Named) {
        let e = self.e;
        let heads = self.heads(task, head, 1);
        let keep = self.code.attend.keep.clone();
        let all = [&named.keys[..], &named.distances].concat();
        let (beside, by_key) = (without(&keep, &all), without(&keep, &named.distances));
        let state = self.begin(&heads);
        let state = self.all_if(e.not(lists.whole), task, &heads, Sight { seen: keep.clone(), unless: None }, state);
        let state = match never(&beside, self.code.attend.keep_result) {
            true => state,
            false => {
                let some = e.and(lists.whole, self.may_see(&heads[0], &beside));
                self.all_if(some, task, &heads, Sight { seen: beside.clone(), unless: None }, state)
            }
        };
        let sight = Sight { seen: by_key.clone(), unless: Some(beside) };
        let state = self.look_up(task, &heads, (Kind::Keys, lists.keys), &sight, state);
        let sight = Sight { seen: keep, unless: Some(by_key) };
        let state = self.look_up(task, &heads, (Kind::Distances, lists.distances), &sight, state);
        self.finish(heads[0], state[0], state[1]);
    }

    /// Looks at all keys, under a condition.
    fn all_if(
        &mut self,
        condition: Val<'c>,
        task: &Task<'c>,
        heads: &[Head<'c>],
        sight: Sight,
        state: Vec<Val<'c>>,
    ) -> Vec<Val<'c>> {
        let look = |work: &mut Self, keys: &[Keys<'c>], state: &[Val<'c>]| work.visit(heads, keys, &sight, state);
        self.e.if_else(condition, || self.all(task, &state, look), || state.clone())
    }

    /// Whether a query may see any key, as far as it knows by itself.
    fn may_see(&mut self, head: &Head<'c>, keep: &braid_dsl::model::Body) -> Val<'c> {
        let (e, code) = (self.e, self.code);
        let keep = of_query(code, keep);
        let pair = Pair { query: head.position, key: e.i32(0), channels: None, score: None };
        body(&mut self.site, code, &keep, code.attend.keep_result, pair)
    }

    /// Looks at the keys of a list.
    fn look_up(
        &mut self,
        task: &Task<'c>,
        heads: &[Head<'c>],
        (kind, count): (Kind, Val<'c>),
        sight: &Sight,
        state: Vec<Val<'c>>,
    ) -> Vec<Val<'c>> {
        let e = self.e;
        let range = task.caches.seen(e, self.code, task.query, task.last);
        e.for_loop(e.i64(0), count, e.i64(MOST_BLOCKS * BLOCK), &state, |at, state| {
            let positions = |n: usize| self.listed_positions(task, (kind, count), e.add(at, e.i64(n * BLOCK)), range);
            let positions: Vec<Val> = (0..MOST_BLOCKS).map(positions).collect();
            let zero = e.like(positions[0], 0.0);
            let some = positions.iter().map(|all| e.cmp(Cmp::Ge, *all, zero)).reduce(|a, b| e.or(a, b));
            let some = some.map_or(e.bool(false), |some| e.any(some));
            let keys: Vec<Keys> = positions.into_iter().map(|positions| self.listed(task, positions)).collect();
            e.if_else(some, || self.visit(heads, &keys, sight, state), || state.to_vec())
        })
    }

    /// Sixteen positions of a list, from one place on; -1: none, or out of sight.
    fn listed_positions(
        &self,
        task: &Task<'c>,
        (kind, count): (Kind, Val<'c>),
        at: Val<'c>,
        (first, last): (Val<'c>, Val<'c>),
    ) -> Val<'c> {
        let e = self.e;
        let wide = |x: Val<'c>| e.splat(x, BLOCK);
        let numbers = e.to_i64(e.load(e.element(self.list_of(kind), at, 4), Ty::i32(BLOCK)));
        let positions = if kind == Kind::Keys { numbers } else { e.sub(wide(task.query), numbers) };
        let inside = e.and(e.cmp(Cmp::Ge, positions, wide(first)), e.cmp(Cmp::Le, positions, wide(last)));
        e.select(e.and(inside, e.mask(BLOCK, e.sub(count, at))), positions, e.like(positions, -1.0))
    }
}
