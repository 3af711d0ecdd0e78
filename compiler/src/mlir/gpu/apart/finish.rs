//! The epilogue of a group's sums. The matrix units leave a lane pairs of neighbouring columns of two rows; lanes side by side exchange one
//! of them, so that each has four columns of one row: a load or store of sixteen bytes.

use super::product::{Place, Work};
use super::{GROUP, ROWS};
use crate::fuse::expr::{TensorId, View};
use crate::fuse::kernel::{COLUMN, Matmul, Store};
use crate::mlir::common::device::WARP;
use crate::mlir::common::expr::{store, value};
use crate::mlir::common::site::Site;
use crate::mlir::common::{Cmp, Field, Ty, Val};

/// Columns of a lane.
const COLUMNS: usize = 4;
/// Fours of results that are made before they are stored; of those that are made one by one, as there are few registers for their places.
const TOGETHER: [usize; 2] = [8, 2];

/// Whether all that the epilogue reads and writes lies in whole fours.
pub fn is_in_fours(code: &Matmul) -> bool {
    let fours = |view: &View| {
        let tensor = code.tensors[view.tensor.0];
        let strides = view.strides.iter().all(|(axis, stride)| match *axis == COLUMN {
            true => *stride <= 1,
            false => stride.is_multiple_of(COLUMNS),
        });
        let along = view.strides.iter().any(|(axis, stride)| *axis == COLUMN && *stride == 1);
        let stored = matches!(tensor.store, Store::F32 | Store::I32);
        // A number for all columns lies anywhere.
        strides && (!along || stored && tensor.row.is_multiple_of(COLUMNS) && view.offset.is_multiple_of(COLUMNS))
    };
    let sums = |view: &View| view.tensor == TensorId(0);
    let views = code.epilogue.views();
    code.sizes[3].is_multiple_of(COLUMNS)
        && code.epilogue.is_plain()
        && fours(&code.out)
        && views.iter().all(|view| sums(view) || fours(view))
}

impl<'c> Work<'_, 'c> {
    /// The epilogue of the group's sums.
    pub(super) fn finish(&self, site: &mut Site<'_, 'c>, place: Place<'c>, group: Val<'c>, sums: &[Val<'c>]) {
        let e = self.e;
        let (warp, lane) = (e.shift_right(e.thread(), i64::from(WARP.ilog2())), e.and(e.thread(), e.i32(WARP as i32 - 1)));
        let within = e.add(e.mul(group, e.i32(ROWS as i32)), e.shift_left(e.and(warp, e.i32(GROUP as i32 - 1)), 4));
        let odd = e.and(lane, e.i32(1));
        let row = e.to_i64(e.add(e.add(e.add(place.row, within), e.shift_right(lane, 2)), e.shift_left(odd, 3)));
        let column = e.to_i64(e.add(place.column, e.shift_left(e.and(lane, e.i32(2)), 1)));
        let odd = e.cmp(Cmp::Ne, odd, e.i32(0));
        let fours: Vec<Val> = sums.chunks_exact(4).map(|own| self.four(own, odd)).collect();
        let count = e.call_field(self.args.call, Field::Rows);
        e.if_then(e.cmp(Cmp::Lt, row, count), || {
            site.set_product_row(self.code, row);
            let places = (0..fours.len()).map(|at| 2 * COLUMNS * at).zip(fours).collect::<Vec<_>>();
            let together = TOGETHER[usize::from(!is_in_fours(self.code))];
            places.chunks(together).for_each(|own| self.results(site, column, own));
        });
    }

    /// Four columns of one row, of what two lanes have of two rows: the even one has the first row.
    fn four(&self, own: &[Val<'c>], odd: Val<'c>) -> Val<'c> {
        let e = self.e;
        let [a, b, c, d] = [own[0], own[1], own[2], own[3]];
        let [first, second] = [(a, c), (b, d)].map(|(above, below)| e.exchange(e.select(odd, above, below), 1));
        let mine = [e.select(odd, c, a), e.select(odd, d, b)];
        let four = [
            e.select(odd, first, mine[0]),
            e.select(odd, second, mine[1]),
            e.select(odd, mine[0], first),
            e.select(odd, mine[1], second),
        ];
        four.into_iter().enumerate().fold(e.poison(Ty::f32(COLUMNS)), |whole, (at, x)| e.insert(whole, at, x))
    }

    /// Some results of the site's row: how many columns behind `column` four of them begin, and their sums.
    fn results(&self, site: &mut Site<'_, 'c>, column: Val<'c>, fours: &[(usize, Val<'c>)]) {
        let e = self.e;
        if is_in_fours(self.code) {
            (site.vector, site.lanes, site.whole) = (Some(COLUMN), COLUMNS, true);
            return self.made(site, column, fours, COLUMNS);
        }
        let ones = fours.iter().flat_map(|(behind, four)| (0..COLUMNS).map(move |at| (behind + at, e.extract(*four, at))));
        self.made(site, column, &ones.collect::<Vec<_>>(), 1);
    }

    /// The same of `columns` at once.
    fn made(&self, site: &mut Site<'_, 'c>, column: Val<'c>, sums: &[(usize, Val<'c>)], columns: usize) {
        let e = self.e;
        let whole = self.code.sizes[3].is_multiple_of(self.apart.tiling.columns);
        let last = e.i64(self.code.sizes[3] - columns);
        let mut made = Vec::new();
        for (behind, sum) in sums {
            let own = e.add(column, e.i64(*behind));
            site.index.insert(COLUMN, if whole { own } else { e.min(own, last) });
            site.fresh.push((View { tensor: TensorId(0), offset: 0, strides: vec![(COLUMN, 1)] }, *sum));
            made.push((own, value(site, &self.code.epilogue)));
            site.fresh.clear();
        }
        for (own, made) in made {
            site.index.insert(COLUMN, own);
            let put = || store(site, &self.code.out, made);
            if whole { put() } else { e.if_then(e.cmp(Cmp::Le, own, last), put) }
        }
    }
}
