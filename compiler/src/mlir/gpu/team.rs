//! Who does what in a block: teams of threads that share one result, and the sums over a team.

use super::THREADS;
use crate::mlir::common::device::WARP;
use crate::mlir::common::{Cmp, Emitter, Val};
use braid_dsl::model::Reduce;

/// Combines two partial results.
pub fn combine<'c>(e: &Emitter<'c>, how: Reduce, a: Val<'c>, b: Val<'c>) -> Val<'c> {
    match how {
        Reduce::Sum => e.add(a, b),
        Reduce::Max => e.max(a, b),
        Reduce::Min => e.min(a, b),
    }
}

/// Combines the values of `lanes` neighbouring lanes (a power of two, at most a warp); every lane gets the result.
pub fn across_lanes<'c>(e: &Emitter<'c>, how: Reduce, value: Val<'c>, lanes: usize) -> Val<'c> {
    across_steps(e, how, value, (lanes, 1))
}

/// The same of so many lanes, each so many behind the one before.
fn across_steps<'c>(e: &Emitter<'c>, how: Reduce, value: Val<'c>, (lanes, step): (usize, usize)) -> Val<'c> {
    let mut value = value;
    let mut by = lanes / 2;
    while by > 0 {
        value = combine(e, how, value, e.exchange(value, by * step));
        by /= 2;
    }
    value
}

/// Adds up the sums of a warp's lanes, a power of two of each, until every lane has one sum: lanes give each other the other half of what they
/// have. Gives the lane's sum, of lanes that differ in the bits from `by` on alone, and `by`; the highest bits of its number, down to `by`, are
/// which sum it is.
pub fn deal<'c>(e: &Emitter<'c>, lane: Val<'c>, sums: &[Val<'c>]) -> (Val<'c>, usize) {
    let (mut sums, mut by) = (sums.to_vec(), WARP);
    while sums.len() > 1 {
        by /= 2;
        let upper = e.cmp(Cmp::Ne, e.and(lane, e.i32(by as i32)), e.i32(0));
        let (low, high) = sums.split_at(sums.len() / 2);
        let pairs = low.iter().zip(high);
        let added = pairs.map(|(a, b)| e.add(e.select(upper, *b, *a), e.exchange(e.select(upper, *a, *b), by)));
        sums = added.collect();
    }
    (sums[0], by)
}

/// The thread's number in its block, or in its warp; an `i32`.
pub fn member_of<'c>(e: &Emitter<'c>, threads: usize) -> Val<'c> {
    let thread = e.thread();
    if threads == THREADS { thread } else { e.and(thread, e.i32(threads as i32 - 1)) }
}

/// How the threads of a block, or of a warp, are dealt to results.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Teams {
    /// Threads that are dealt: a block's, or a warp's.
    pub threads: usize,
    /// Threads of a team; a power of two.
    pub size: usize,
    /// Whether a team's threads stand side by side; otherwise threads side by side work for neighbouring results.
    pub together: bool,
}

impl Teams {
    /// Teams of so many threads for so many results of so many parts each. `along`: neighbouring parts lie side by side in memory.
    pub fn new(threads: usize, results: usize, parts: usize, along: bool) -> Teams {
        let wanted = threads / results.clamp(1, threads);
        let most = if along { wanted.max(WARP) } else { wanted };
        let size = 1 << most.min(parts).max(1).ilog2();
        Teams { threads, size, together: along }
    }

    /// Results that are under way at once.
    pub fn count(self) -> usize {
        self.threads / self.size
    }

    /// The thread's team and its number in it; `i64`.
    pub fn place<'c>(self, e: &Emitter<'c>) -> (Val<'c>, Val<'c>) {
        let thread = member_of(e, self.threads);
        let (inner, outer) = if self.together { (self.size, self.count()) } else { (self.count(), self.size) };
        let low = if inner == 1 { e.i32(0) } else { e.and(thread, e.i32(inner as i32 - 1)) };
        let high = if outer == 1 { e.i32(0) } else { e.shift_right(thread, i64::from(inner.ilog2())) };
        let (team, member) = if self.together { (high, low) } else { (low, high) };
        (e.to_i64(team), e.to_i64(member))
    }

    /// Whether a sum goes through shared memory.
    pub fn needs_memory(self) -> bool {
        self.size > 1 && self.threads > WARP && (!self.together || self.size > WARP)
    }

    /// Shared bytes for that.
    pub fn shared_bytes(self) -> usize {
        if self.needs_memory() { self.threads * 4 } else { 0 }
    }

    /// Combines the values of each team; every member gets the result. All threads of the block take part. `memory`: shared, of
    /// [`Teams::shared_bytes`].
    pub fn reduce<'c>(self, e: &Emitter<'c>, how: Reduce, value: Val<'c>, memory: Val<'c>) -> Val<'c> {
        if !self.needs_memory() {
            let step = if self.together { 1 } else { self.count() };
            return across_steps(e, how, value, (self.size, step));
        }
        let (team, member) = self.place(e);
        let ty = value.ty();
        let at = |index: Val<'c>| e.element(memory, index, 4);
        e.sync();
        if self.together {
            let value = across_lanes(e, how, value, WARP);
            let warps = self.size / WARP;
            let own = e.add(e.mul(team, e.i64(warps)), e.div(member, e.i64(WARP)));
            // Lanes' sums may differ in the last bit, where the assembler makes one operation of a product and the first addition.
            let first = e.cmp(Cmp::Eq, e.rem(member, e.i64(WARP)), e.i64(0));
            e.if_then(first, || e.store(at(own), value));
            e.sync();
            let first = e.mul(team, e.i64(warps));
            let parts = (0..warps).map(|warp| e.load(at(e.add(first, e.i64(warp))), ty)).collect::<Vec<_>>();
            return parts[1..].iter().fold(parts[0], |sum, part| combine(e, how, sum, *part));
        }
        let count = e.i64(self.count());
        e.store(at(e.add(e.mul(member, count), team)), value);
        e.sync();
        let parts = (0..self.size).map(|part| e.load(at(e.add(e.mul(e.i64(part), count), team)), ty));
        parts.reduce(|sum, part| combine(e, how, sum, part)).unwrap_or(value)
    }
}
