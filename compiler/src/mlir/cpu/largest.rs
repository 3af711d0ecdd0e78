//! The n-th largest of all rows of a sequence, element by element: found bit by bit, by counting how many rows reach a number. Numbers are
//! compared as whole numbers that have their order.

use crate::fuse::kernel::{COLUMN, Largest};
use crate::mlir::common::site::{Setting, Site, for_each};
use crate::mlir::common::{Cmp, Elem, Emitter, KernelArgs, SegmentFields, Ty, Val};

/// Emits the kernel; a task is a sequence and a block of columns.
pub fn emit(e: &Emitter, name: &str, code: &Largest, setting: Setting) {
    e.kernel(name, |args| {
        let site = Site::new(e, args, &code.tensors, setting);
        let mut search = Search { code, site, lanes: setting.lanes };
        for_each(e, args.begin, args.end, e.i64(1), |task| search.task(args, task));
    });
}

struct Search<'k, 'c> {
    code: &'k Largest,
    site: Site<'k, 'c>,
    lanes: usize,
}

impl<'c> Search<'_, 'c> {
    fn task(&mut self, args: KernelArgs<'c>, task: Val<'c>) {
        let e = self.site.e;
        let blocks = e.i64(self.code.columns.div_ceil(self.lanes));
        let own = e.segment(args.call, e.div(task, blocks));
        let first = e.mul(e.rem(task, blocks), e.i64(self.lanes));
        self.site.index.insert(COLUMN, first);
        let count = e.min(e.i64(self.lanes), e.sub(e.i64(self.code.columns), first));
        let mask = e.mask(self.lanes, count);
        // A first call holds all rows that there are to know; a later one knows none.
        let rows = e.select(e.cmp(Cmp::Eq, own.position, e.i64(0)), own.rows, e.i64(0));
        let number = self.search(SegmentFields { rows, ..own }, mask);
        let wide = |x: Val<'c>| e.splat(x, self.lanes);
        let bits = e.xor(number, e.and(e.shift_right(number, 31), wide(e.i32(i32::MAX))));
        let enough = wide(e.cmp(Cmp::Ge, rows, e.i64(self.code.count)));
        let found = e.select(enough, e.bitcast(bits, Elem::F32), wide(e.f32(f32::NEG_INFINITY)));
        let stride = self.code.out.stride(COLUMN).max(1);
        for_each(e, own.row, e.add(own.row, own.rows), e.i64(1), |row| {
            let place = self.site.address_in_row(&self.code.out, row);
            match stride {
                1 => e.store_masked(place, mask, found),
                _ => (0..self.lanes).for_each(|lane| {
                    e.if_then(e.extract(mask, lane), || e.store(e.offset_by(place, 4 * lane * stride), e.extract(found, lane)));
                }),
            }
        });
    }

    /// The largest number that at least so many rows reach, in each lane.
    fn search(&self, own: SegmentFields<'c>, mask: Val<'c>) -> Val<'c> {
        let e = self.site.e;
        let wide = |x: Val<'c>| e.splat(x, self.lanes);
        let wanted = wide(e.i32(self.code.count as i32));
        let start = [wide(e.i32(i32::MIN)), wide(e.i32(i32::MIN))];
        e.for_loop(e.i64(0), e.i64(32), e.i64(1), &start, |_, state| {
            let (found, bit) = (state[0], state[1]);
            let more = e.add(found, bit);
            let many = e.for_loop(own.row, e.add(own.row, own.rows), e.i64(1), &[wide(e.i32(0))], |row, many| {
                let reaches = e.cmp(Cmp::Ge, self.number(row, mask), more);
                vec![e.add(many[0], e.select(reaches, wide(e.i32(1)), wide(e.i32(0))))]
            })[0];
            let enough = e.cmp(Cmp::Ge, many, wanted);
            let half = e.and(e.shift_right(bit, 1), wide(e.i32(i32::MAX)));
            vec![e.select(enough, more, found), half]
        })[0]
    }

    /// The elements of a row as whole numbers in their order; what is no number is the least.
    fn number(&self, row: Val<'c>, mask: Val<'c>) -> Val<'c> {
        let e = self.site.e;
        let wide = |x: Val<'c>| e.splat(x, self.lanes);
        let place = self.site.address_in_row(&self.code.input, row);
        let ty = Ty::f32(self.lanes);
        let x = match self.code.input.stride(COLUMN) {
            0 | 1 => e.load_masked(place, mask, ty),
            stride => {
                let offsets = e.mul(e.to_i64(e.iota(self.lanes)), wide(e.i64(4 * stride)));
                e.gather(place, offsets, mask, ty)
            }
        };
        // Both zeros are one number.
        let x = e.add(x, e.float(ty, 0.0));
        let known = e.select(e.cmp(Cmp::Eq, x, x), x, e.float(ty, f64::NEG_INFINITY));
        let bits = e.bitcast(known, Elem::I32);
        e.xor(bits, e.and(e.shift_right(bits, 31), wide(e.i32(i32::MAX))))
    }
}
