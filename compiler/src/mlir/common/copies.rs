//! Copies that a GPU's threads begin and wait for later: from the device's memory to the block's shared memory.
//!
//! A thread's copies are counted in groups, which end in the order in which they were closed; a thread sees what its own copies
//! brought once it has waited for their group.

use melior::ir::attribute::DenseI32ArrayAttribute;

use super::emitter::{Emitter, Val};
use super::ty::{Elem, Ty};

/// Bytes of one copy.
pub const COPY: usize = 16;

impl<'c> Emitter<'c> {
    /// Begins a copy of [`COPY`] bytes; of them `bytes` (an `i32`) are read, zeros stand for the others.
    pub fn begin_copy(&self, to: Val<'c>, from: Val<'c>, bytes: Val<'c>) {
        let attributes = [
            ("size", self.i32_attribute(COPY as i64)),
            // Past the first cache: nobody of this block reads it a second time.
            ("modifier", self.attribute("#nvvm<load_cache_modifier cg>")),
        ];
        self.op_none("nvvm.cp.async.shared.global", &[to, from, bytes], &attributes);
    }

    /// Begins a copy of four bytes.
    pub fn begin_small_copy(&self, to: Val<'c>, from: Val<'c>) {
        let attributes = [("size", self.i32_attribute(4)), ("modifier", self.attribute("#nvvm<load_cache_modifier ca>"))];
        self.op_none("nvvm.cp.async.shared.global", &[to, from], &attributes);
    }

    /// Makes a group of the copies that this thread began since the last one.
    pub fn close_copies(&self) {
        self.op_none("nvvm.cp.async.commit.group", &[], &[]);
    }

    /// Waits until at most the last `groups` groups of this thread are under way.
    pub fn wait_copies(&self, groups: usize) {
        self.op_none("nvvm.cp.async.wait.group", &[], &[("n", self.i32_attribute(groups as i64))]);
    }

    // ---- the copy engine (sm_90a) -------------------------------------------------------------------------------

    /// Makes a barrier in shared memory ready for one thread that says what it expects, at a time; [`Emitter::show_arrivals`] must follow.
    pub fn prepare_arrival(&self, barrier: Val<'c>) {
        self.prepare_arrivals(barrier, self.i32(1));
    }

    /// The same for so many arrivals (an `i32`) in a phase.
    pub fn prepare_arrivals(&self, barrier: Val<'c>, count: Val<'c>) {
        self.op_none("nvvm.mbarrier.init", &[barrier, count], &[]);
    }

    /// Counts one arrival at a barrier.
    pub fn count_arrival(&self, barrier: Val<'c>) {
        self.op("nvvm.mbarrier.arrive", &[barrier], &[], Ty::I64);
    }

    /// Lets the copy engine see barriers that were made ready. A barrier of the block must follow.
    pub fn show_arrivals(&self) {
        self.op_none("nvvm.fence.mbarrier.init", &[], &[]);
    }

    /// The barrier's present phase ends when so many bytes (an `i32`) have come.
    pub fn expect_arrival(&self, barrier: Val<'c>, bytes: Val<'c>) {
        self.op_none("nvvm.mbarrier.arrive.expect_tx", &[barrier, bytes], &[]);
    }

    /// Asks the engine for bytes (an `i32`, a multiple of 16, as the addresses are) of the device's memory, which the barrier counts. Nobody needs them a
    /// second time: the second-level cache keeps what others read there rather than them.
    pub fn begin_bulk_copy(&self, to: Val<'c>, from: Val<'c>, bytes: Val<'c>, barrier: Val<'c>) {
        let to = self.op("llvm.addrspacecast", &[to], &[], Ty::scalar(Elem::Cluster));
        let segments = DenseI32ArrayAttribute::new(self.cx(), &[1, 1, 1, 1, 0, 1]).into();
        let attributes = [("operandSegmentSizes", segments)];
        let once = [
            ("asm_string", self.attribute("\"createpolicy.fractional.L2::evict_first.b64 $0, 1.0;\"")),
            ("constraints", self.attribute("\"=l\"")),
        ];
        let once = self.op("llvm.inline_asm", &[], &once, Ty::I64);
        self.op_none("nvvm.cp.async.bulk.shared.cluster.global", &[to, from, barrier, bytes, once], &attributes);
    }

    /// Asks the engine for lines of a matrix that a map describes, from a number of a line on, and for which of the matrices that it describes, if there
    /// are several (all `i32`): as many as the map says.
    pub fn begin_matrix_copy(&self, to: Val<'c>, map: Val<'c>, place: &[Val<'c>], barrier: Val<'c>) {
        let to = self.op("llvm.addrspacecast", &[to], &[], Ty::scalar(Elem::Cluster));
        let segments = DenseI32ArrayAttribute::new(self.cx(), &[1, 1, place.len() as i32, 1, 0, 0, 0, 0]).into();
        let attributes = [("operandSegmentSizes", segments)];
        let operands: Vec<Val> = [to, map].iter().chain(place).chain([&barrier]).copied().collect();
        self.op_none("nvvm.cp.async.bulk.tensor.shared.cluster.global", &operands, &attributes);
    }

    /// Waits until the barrier's phase of this parity (an `i32`) has ended; what has come is seen.
    pub fn await_arrival(&self, barrier: Val<'c>, parity: Val<'c>) {
        self.until(|| self.op("nvvm.mbarrier.try_wait", &[barrier, parity], &[], Ty::BOOL));
    }

    /// Whether the barrier's phase of this parity (an `i32`) has ended; if so, what has come is seen.
    pub fn has_arrived(&self, barrier: Val<'c>, parity: Val<'c>) -> Val<'c> {
        self.op("nvvm.mbarrier.test.wait", &[barrier, parity], &[], Ty::BOOL)
    }

    /// Asks the engine for bytes (an `i32`, a multiple of 16, as the address is) of the device's memory, to where all multiprocessors find them.
    pub fn prefetch_bulk(&self, ptr: Val<'c>, bytes: Val<'c>) {
        let attributes = [
            ("asm_string", self.attribute("\"cp.async.bulk.prefetch.L2.global [$0], $1;\"")),
            ("constraints", self.attribute("\"l,r\"")),
            ("has_side_effects", self.attribute("unit")),
        ];
        self.op_none("llvm.inline_asm", &[ptr, bytes], &attributes);
    }

    /// Asks for a cache line of the device's memory, to where all multiprocessors find it.
    pub fn prefetch_far(&self, ptr: Val<'c>) {
        // The dialect's operation is for the later chips alone.
        let attributes = [
            ("asm_string", self.attribute("\"prefetch.global.L2 [$0];\"")),
            ("constraints", self.attribute("\"l\"")),
            ("has_side_effects", self.attribute("unit")),
        ];
        self.op_none("llvm.inline_asm", &[ptr], &attributes);
    }
}
