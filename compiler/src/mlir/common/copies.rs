//! Copies that a GPU's threads begin and wait for later: from the device's memory to the block's shared memory.
//!
//! A thread's copies are counted in groups, which end in the order in which they were closed; a thread sees what its own copies
//! brought once it has waited for their group.

use super::emitter::{Emitter, Val};

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
