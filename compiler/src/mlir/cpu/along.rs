//! Convolutions and shifts along a sequence: the rows under the window stay in registers, the last ones in the state.

use crate::fuse::expr::{TensorId, View};
use crate::fuse::kernel::{Along, COLUMN};
use crate::mlir::common::expr::{store, value};
use crate::mlir::common::site::{Setting, Site, for_each};
use crate::mlir::common::{Emitter, KernelArgs, Ty, Val};
use crate::plan::VECTORS_A_TASK;

/// Emits the kernel; a task is a sequence and a block of channels.
pub fn emit(e: &Emitter, name: &str, code: &Along, setting: Setting) {
    let lanes = setting.lanes * VECTORS_A_TASK;
    e.kernel(name, |args| {
        let site = Site::new(e, args, &code.tensors, setting);
        let mut walk = Walk { code, site, lanes };
        for_each(e, args.begin, args.end, e.i64(1), |task| walk.task(args, task));
    });
}

struct Walk<'k, 'c> {
    code: &'k Along,
    site: Site<'k, 'c>,
    lanes: usize,
}

impl<'c> Walk<'_, 'c> {
    fn task(&mut self, args: KernelArgs<'c>, task: Val<'c>) {
        let e = self.site.e;
        let channels = self.code.channels;
        let blocks = e.i64(channels.div_ceil(self.lanes));
        let segment = e.segment(args.call, e.div(task, blocks));
        let first = e.mul(e.rem(task, blocks), e.i64(self.lanes));
        self.site.set_slot(segment.slot);
        self.site.index.insert(COLUMN, first);
        let mask = (!channels.is_multiple_of(self.lanes)).then(|| e.mask(self.lanes, e.sub(e.i64(channels), first)));
        self.site.mask = mask;
        let before = self.code.taps - 1;
        let window: Vec<Val> = (0..before).map(|tap| self.rows_of(tap, self.code.state)).collect();
        let weights: Option<Vec<Val>> =
            self.code.weights.map(|weights| (0..self.code.taps).map(|tap| self.rows_of(tap, weights)).collect());
        let end = e.add(segment.row, segment.rows);
        let window =
            e.for_loop(segment.row, end, e.i64(1), &window, |row, window| self.row(row, window, weights.as_deref(), mask));
        self.site.mask = mask;
        for (tap, value) in window.into_iter().enumerate() {
            let place = self.place(tap, self.code.state);
            match mask {
                Some(mask) => e.store_masked(place, mask, value),
                None => e.store(place, value),
            }
        }
    }

    /// One row: the sum under the window, the epilogue, and the window moved on.
    fn row(&mut self, row: Val<'c>, window: &[Val<'c>], weights: Option<&[Val<'c>]>, mask: Option<Val<'c>>) -> Vec<Val<'c>> {
        let e = self.site.e;
        self.site.set_row(row, false);
        self.site.mask = mask;
        self.site.vector = Some(COLUMN);
        self.site.lanes = self.lanes;
        let input = self.site.address(&self.code.input);
        let now = self.load(input);
        let rows: Vec<Val> = window.iter().copied().chain([now]).collect();
        let made = match weights {
            None => rows[0],
            Some(weights) => {
                let first = e.mul(rows[0], weights[0]);
                rows[1..].iter().zip(&weights[1..]).fold(first, |sum, (row, weight)| e.fma(*row, *weight, sum))
            }
        };
        // The epilogue reads the sum as the tile's element.
        let tile = View { tensor: TensorId(0), offset: 0, strides: vec![(COLUMN, 1)] };
        self.site.fresh.push((tile, made));
        let made = value(&self.site, &self.code.epilogue);
        store(&self.site, &self.code.out, made);
        self.site.fresh.clear();
        self.site.vector = None;
        self.site.lanes = 1;
        rows[1..].to_vec()
    }

    fn place(&self, tap: usize, tensor: TensorId) -> Val<'c> {
        let view = View { tensor, offset: tap * self.code.channels, strides: vec![(COLUMN, 1)] };
        self.site.address(&view)
    }

    fn rows_of(&self, tap: usize, tensor: TensorId) -> Val<'c> {
        self.load(self.place(tap, tensor))
    }

    fn load(&self, place: Val<'c>) -> Val<'c> {
        let e = self.site.e;
        match self.site.mask {
            Some(mask) => e.load_masked(place, mask, Ty::f32(self.lanes)),
            None => e.load(place, Ty::f32(self.lanes)),
        }
    }
}
