//! Stages in shared memory between one thread that asks the copy engine for matrices, and the warps that multiply them.
//!
//! Each stage has two barriers: one counts the bytes that come, the other the warps that are done with what came before. A *turn* counts
//! stages since the launch began, over all tiles: its lowest bits are the stage, the next one says which phase of the barriers it is.

use crate::mlir::common::{Emitter, Val};

/// Bytes of a barrier.
const BARRIER: usize = 8;

/// Stages at multiples of 1024 bytes.
#[derive(Clone, Copy)]
pub struct Pipeline<'k, 'c> {
    /// Appends operations.
    pub e: &'k Emitter<'c>,
    /// Where the first stage begins.
    pub memory: Val<'c>,
    /// How many there are, a power of two.
    pub stages: usize,
    /// Bytes of the largest, a multiple of 1024.
    pub bytes: usize,
}

impl<'c> Pipeline<'_, 'c> {
    /// Shared memory of so many stages of so many bytes, with their barriers.
    pub const fn shared_bytes(stages: usize, bytes: usize) -> usize {
        stages * (bytes + 2 * BARRIER)
    }

    /// Makes the barriers ready, by one thread; `readers`: warps that read each stage. A barrier of the block must follow.
    pub fn prepare(&self, readers: usize) {
        let e = self.e;
        for stage in 0..self.stages {
            let at = e.i32(stage as i32);
            e.prepare_arrivals(self.come(at), e.i32(1));
            e.prepare_arrivals(self.read(at), e.i32(readers as i32));
        }
        e.show_arrivals();
    }

    /// The stage of a turn.
    fn stage(&self, turn: Val<'c>) -> Val<'c> {
        self.e.and(turn, self.e.i32(self.stages as i32 - 1))
    }

    fn phase(&self, turn: Val<'c>) -> Val<'c> {
        let e = self.e;
        e.and(e.shift_right(turn, i64::from(self.stages.ilog2())), e.i32(1))
    }

    fn barrier(&self, stage: Val<'c>, which: usize) -> Val<'c> {
        let all = self.e.offset_by(self.memory, self.stages * (self.bytes + which * BARRIER));
        self.e.element(all, self.e.to_i64(stage), BARRIER)
    }

    fn come(&self, stage: Val<'c>) -> Val<'c> {
        self.barrier(stage, 0)
    }

    fn read(&self, stage: Val<'c>) -> Val<'c> {
        self.barrier(stage, 1)
    }

    /// Where the stage of a turn lies.
    pub fn place(&self, turn: Val<'c>) -> Val<'c> {
        self.e.element(self.memory, self.e.to_i64(self.stage(turn)), self.bytes)
    }

    /// By the thread that asks: waits until the stage of the turn has been read, and says how many bytes will come. Gives the barrier that
    /// counts them.
    pub fn begin(&self, turn: Val<'c>, bytes: usize) -> Val<'c> {
        let (e, stage) = (self.e, self.stage(turn));
        // Of the first turns nothing was there before: the phase ahead of a barrier's first has ended.
        e.await_arrival(self.read(stage), e.xor(self.phase(turn), e.i32(1)));
        let barrier = self.come(stage);
        e.expect_arrival(barrier, e.i32(bytes as i32));
        barrier
    }

    /// Waits until what was asked for has come.
    pub fn arrive(&self, turn: Val<'c>) {
        self.e.await_arrival(self.come(self.stage(turn)), self.phase(turn));
    }

    /// By one lane of each warp that reads: it has read the stage of the turn.
    pub fn leave(&self, turn: Val<'c>) {
        self.e.count_arrival(self.read(self.stage(turn)));
    }
}
