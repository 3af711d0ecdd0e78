//! What only GPUs have: threads of a block, its shared memory and barriers, exchange inside a warp, waiting for other blocks.
//!
//! Addresses know their memory ([`Elem::Global`], [`Elem::Shared`]): accesses through them are cheaper than through plain ones.

use melior::dialect::llvm;
use melior::ir::attribute::{DenseI32ArrayAttribute, FlatSymbolRefAttribute, StringAttribute, TypeAttribute};
use melior::ir::{Attribute, Region};

use super::arith::Cmp;
use super::emitter::{Emitter, Val};
use super::ty::{Elem, Ty};

/// Threads that run in step.
pub const WARP: usize = 32;
/// Where [`Emitter::last_of`] leaves its answer: over what the block no longer needs.
const LAST_AT: usize = 0;
/// The name of a block's dynamic shared memory.
const SHARED: &str = "shared";

impl<'c> Emitter<'c> {
    /// Defines a function that is launched with `threads` threads a block, `blocks` of which fit a multiprocessor.
    pub fn device_entry(&self, name: &str, (threads, blocks): (usize, usize), params: &[Ty], fill: impl FnOnce(&[Val<'c>])) {
        let threads = DenseI32ArrayAttribute::new(self.cx(), &[threads as i32]).into();
        let attributes = [
            ("linkage", self.attribute("#llvm.linkage<external>")),
            ("passthrough", self.attribute("[\"nounwind\", \"no-builtins\"]")),
            ("nvvm.kernel", self.attribute("unit")),
            ("nvvm.reqntid", threads),
            ("nvvm.minctasm", self.i32_attribute(blocks as i64)),
        ];
        self.function_with(name, &attributes, (params, None), |values| {
            fill(values);
            None
        });
    }

    /// The thread's number in its block, an `i32`.
    pub fn thread(&self) -> Val<'c> {
        self.op("nvvm.read.ptx.sreg.tid.x", &[], &[], Ty::I32)
    }

    /// The same, read anew: a number that is kept while functions are called goes to the device's memory meanwhile.
    pub fn thread_anew(&self) -> Val<'c> {
        let attributes = [
            ("asm_string", self.attribute("\"mov.u32 $0, %tid.x;\"")),
            ("constraints", self.attribute("\"=r\"")),
            ("has_side_effects", self.attribute("unit")),
        ];
        self.op("llvm.inline_asm", &[], &attributes, Ty::I32)
    }

    /// The block's number, an `i64`.
    pub fn block_number(&self) -> Val<'c> {
        self.to_i64(self.op("nvvm.read.ptx.sreg.ctaid.x", &[], &[], Ty::I32))
    }

    /// How many blocks there are, an `i64`.
    pub fn blocks(&self) -> Val<'c> {
        self.to_i64(self.op("nvvm.read.ptx.sreg.nctaid.x", &[], &[], Ty::I32))
    }

    /// All threads of the block come here, and see what the others wrote before.
    pub fn sync(&self) {
        self.op_none("nvvm.barrier0", &[], &[]);
    }

    /// So many threads of the block come here, whole warps which name the same barrier (an `i32`, 1 to 15); they see what the others
    /// wrote before.
    pub fn sync_some(&self, barrier: Val<'c>, threads: usize) {
        let attributes = [
            ("asm_string", self.attribute("\"bar.sync $0, $1;\"")),
            ("constraints", self.attribute("\"r,r,~{memory}\"")),
            ("has_side_effects", self.attribute("unit")),
        ];
        self.op_none("llvm.inline_asm", &[barrier, self.i32(threads as i32)], &attributes);
    }

    /// The thread counts as one of those that come to [`Emitter::sync_some`], and goes on.
    pub fn pass_some(&self, barrier: Val<'c>, threads: usize) {
        let attributes = [
            ("asm_string", self.attribute("\"bar.arrive $0, $1;\"")),
            ("constraints", self.attribute("\"r,r,~{memory}\"")),
            ("has_side_effects", self.attribute("unit")),
        ];
        self.op_none("llvm.inline_asm", &[barrier, self.i32(threads as i32)], &attributes);
    }

    /// Whether a condition holds in any lane of the warp. All lanes take part.
    pub fn in_any_lane(&self, condition: Val<'c>) -> Val<'c> {
        self.target_intrinsic("llvm.nvvm.vote.any.sync", &[self.i32(-1), condition], Ty::BOOL)
    }

    /// All lanes of the warp come here; what they read and write before does not sink behind this.
    pub fn sync_warp(&self) {
        self.op_none("nvvm.bar.warp.sync", &[self.i32(-1)], &[]);
    }

    /// The value of the lane whose number differs from this one's in the bits of `by`. All lanes of the warp take part.
    pub fn exchange(&self, value: Val<'c>, by: usize) -> Val<'c> {
        let all = self.i32(-1);
        self.op(
            "nvvm.shfl.sync",
            &[all, value, self.i32(by as i32), self.i32(31)],
            &[("kind", self.attribute("#nvvm<shfl_kind bfly>"))],
            value.ty(),
        )
    }

    /// The value of lane `lane` (an `i32`). All lanes of the warp take part.
    pub fn of_lane(&self, value: Val<'c>, lane: Val<'c>) -> Val<'c> {
        let kind = ("kind", self.attribute("#nvvm<shfl_kind idx>"));
        self.op("nvvm.shfl.sync", &[self.i32(-1), value, lane, self.i32(31)], &[kind], value.ty())
    }

    /// The same address, known to lie in the device's memory; on a CPU there is no other.
    pub fn device_memory(&self, address: Val<'c>) -> Val<'c> {
        if !self.is_device() || address.elem() == Elem::Global {
            return address;
        }
        self.op("llvm.addrspacecast", &[address], &[], Ty::scalar(Elem::Global))
    }

    /// Where the block's dynamic shared memory begins.
    pub fn shared_memory(&self) -> Val<'c> {
        if self.first_time(SHARED) {
            self.define_shared(SHARED, "#llvm.linkage<external>", 0);
        }
        self.shared_address(SHARED)
    }

    /// Where shared memory of a fixed size lies that is known by a name; no kernel's own use of shared memory touches it.
    pub fn shared_place(&self, name: &str, bytes: usize) -> Val<'c> {
        if self.first_time(name) {
            self.define_shared(name, "#llvm.linkage<internal>", bytes);
        }
        self.shared_address(name)
    }

    fn shared_address(&self, name: &str) -> Val<'c> {
        let name = FlatSymbolRefAttribute::new(self.cx(), name).into();
        self.op("llvm.mlir.addressof", &[], &[("global_name", name)], Ty::scalar(Elem::Shared))
    }

    fn define_shared(&self, name: &str, linkage: &'static str, bytes: usize) {
        let bytes = llvm::r#type::array(Ty::scalar(Elem::I8).to_mlir(self.cx()), bytes as u32);
        let attributes: [(&str, Attribute<'c>); 5] = [
            ("sym_name", StringAttribute::new(self.cx(), name).into()),
            ("global_type", TypeAttribute::new(bytes).into()),
            ("linkage", self.attribute(linkage)),
            ("addr_space", self.attribute("3 : i32")),
            ("alignment", self.attribute("128 : i64")),
        ];
        self.at_module("llvm.mlir.global", &attributes, Region::new());
    }

    /// Lets the matrix units and the copy engine (sm_90a) see what this thread did in shared memory. A barrier must follow.
    pub fn show_shared(&self) {
        let attributes =
            [("kind", self.attribute("#nvvm.proxy_kind<async.shared>")), ("space", self.attribute("#nvvm.shared_space<cta>"))];
        self.op_none("nvvm.fence.proxy", &[], &attributes);
    }

    /// Adds to a number in the block's shared memory, which other threads change as well; gives its old value.
    pub fn count_shared(&self, counter: Val<'c>, by: Val<'c>) -> Val<'c> {
        let attributes = [
            ("bin_op", self.attribute("1 : i64")),
            ("ordering", self.attribute("2 : i64")),
            ("syncscope", self.attribute("\"block\"")),
            ("alignment", self.attribute("4 : i64")),
        ];
        self.op("llvm.atomicrmw", &[counter, by], &attributes, Ty::I32)
    }

    // ---- between blocks -----------------------------------------------------------------------------------------

    /// Adds to a counter in device memory, after everything that the block wrote before is seen by all; gives its old value.
    pub fn count_up(&self, counter: Val<'c>, by: Val<'c>) -> Val<'c> {
        // The addition alone orders nothing: LLVM drops its ordering for GPUs.
        self.fence();
        let attributes = [
            ("bin_op", self.attribute("1 : i64")),
            ("ordering", self.attribute("6 : i64")),
            ("syncscope", self.attribute("\"device\"")),
            ("alignment", self.attribute("4 : i64")),
        ];
        self.op("llvm.atomicrmw", &[counter, by], &attributes, Ty::I32)
    }

    /// Reads a counter that other blocks change; what they wrote before is seen afterwards.
    pub fn watch(&self, counter: Val<'c>) -> Val<'c> {
        let attributes = [
            ("ordering", self.attribute("4 : i64")),
            ("syncscope", self.attribute("\"device\"")),
            ("alignment", self.attribute("4 : i64")),
        ];
        self.op("llvm.load", &[counter], &attributes, Ty::I32)
    }

    /// Reads a number in shared memory that another thread of the block changes meanwhile.
    pub fn watch_shared(&self, place: Val<'c>) -> Val<'c> {
        self.op("llvm.load", &[place], &self.watched(), Ty::I32)
    }

    /// Changes a number in shared memory that others watch.
    pub fn show_number(&self, place: Val<'c>, number: Val<'c>) {
        self.op_none("llvm.store", &[number, place], &self.watched());
    }

    /// Nothing else is ordered by it.
    fn watched(&self) -> [(&'static str, Attribute<'c>); 3] {
        let [ordering, scope, alignment] = ["2 : i64", "\"block\"", "4 : i64"].map(|text| self.attribute(text));
        [("ordering", ordering), ("syncscope", scope), ("alignment", alignment)]
    }

    /// Leaves the multiprocessor to others for about so many nanoseconds.
    pub fn pause(&self, nanoseconds: usize) {
        self.op_none("nvvm.nanosleep", &[self.i32(nanoseconds as i32)], &[]);
    }

    /// Whether the block is the last of `count` (an `i64`) to come here with this counter, which is zero before the first and after
    /// the last. The last one sees what the others wrote. All threads of the block take part.
    pub fn last_of(&self, counter: Val<'c>, count: Val<'c>) -> Val<'c> {
        let flag = self.offset_by(self.shared_memory(), LAST_AT);
        self.last_of_some((counter, count), self.thread(), flag, || self.sync())
    }

    /// The same by some threads of each block, the first of which is number 0 and which meet by `meet`: `flag` is a number in shared memory
    /// that nobody else uses meanwhile.
    pub fn last_of_some(&self, (counter, count): (Val<'c>, Val<'c>), thread: Val<'c>, flag: Val<'c>, meet: impl Fn()) -> Val<'c> {
        meet();
        self.if_then(self.cmp(Cmp::Eq, thread, self.i32(0)), || {
            let before = self.count_up(counter, self.i32(1));
            let last = self.cmp(Cmp::Eq, self.to_i64(before), self.sub(count, self.i64(1)));
            self.if_then(last, || {
                self.fence();
                self.store(counter, self.i32(0));
            });
            self.store(flag, self.select(last, self.i32(1), self.i32(0)));
        });
        meet();
        let last = self.load(flag, Ty::I32);
        meet();
        self.cmp(Cmp::Ne, last, self.i32(0))
    }

    /// Memory is ordered between all blocks.
    fn fence(&self) {
        let attributes = [("ordering", self.attribute("6 : i64")), ("syncscope", self.attribute("\"device\""))];
        self.op_none("llvm.fence", &[], &attributes);
    }

    /// Does `body` until it gives true.
    pub fn until(&self, body: impl FnOnce() -> Val<'c>) {
        self.while_loop(&[], |_| self.not(body()), |_| Vec::new());
    }
}
