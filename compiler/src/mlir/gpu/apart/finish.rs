//! The epilogue of a group's sums. The matrix units leave a lane pairs of neighbouring columns of two rows; lanes side by side exchange one
//! of them, so that each has four columns of one row: a load or store of sixteen bytes.

use super::product::{Member, Place, Work};
use super::{GROUP, Next, ROWS};
use crate::fuse::expr::{TensorId, View};
use crate::fuse::kernel::{BATCH, COLUMN, Matmul};
use crate::mlir::common::device::WARP;
use crate::mlir::common::expr::{store, value};
use crate::mlir::common::site::Site;
use crate::mlir::common::{Cmp, Elem, Emitter, Ty, Val};
use crate::mlir::gpu::wide::lies_in_fours;

/// Columns of a lane.
const COLUMNS: usize = 4;
/// Fours of results that are made before they are stored; of those that are made one by one, as there are few registers for their places.
const TOGETHER: [usize; 2] = [8, 2];

/// Whether all that the epilogue reads and writes lies in whole fours.
fn is_in_fours(code: &Matmul) -> bool {
    let fours = |view: &View| lies_in_fours(&code.tensors[view.tensor.0], view);
    let sums = |view: &View| view.tensor == TensorId(0);
    let views = code.epilogue.views();
    code.sizes[3].is_multiple_of(COLUMNS)
        && code.epilogue.is_plain()
        && fours(&code.out)
        && views.iter().all(|view| sums(view) || fours(view))
}

/// Rounds numbers of a row that follow each other, one or four.
fn store_rounded<'c>(e: &Emitter<'c>, place: Val<'c>, made: Val<'c>) {
    if made.lanes() == 1 {
        return e.store(place, e.convert(made, Elem::Bf16));
    }
    let pair = |at: usize| e.pack_bf16(e.extract(made, at), e.extract(made, at + 1));
    e.store_aligned(place, e.insert(e.insert(e.poison(Ty::i32(2)), 0, pair(0)), 1, pair(2)));
}

/// Sums of some columns of a row: how far behind the first they begin, and one of each product.
type Sums<'c> = (usize, Vec<Val<'c>>);

/// A product of a member at a row.
struct Part<'k, 'c> {
    code: &'k Matmul,
    site: Site<'k, 'c>,
    /// How the next one reads its results, if it does.
    reads: &'k [View],
    /// Whether they are stored.
    stored: bool,
    /// Where they go instead, rounded.
    next: Option<Next<'c>>,
}

impl<'c> Work<'_, 'c> {
    /// The epilogue of the group's sums of a tile of a member, from a column on (32-bit).
    pub(super) fn finish(&self, member: &Member, (place, column): (Place<'c>, Val<'c>), group: Val<'c>, sums: &[Val<'c>]) {
        let e = self.e;
        let (warp, lane) = (e.shift_right(e.thread(), i64::from(WARP.ilog2())), e.and(e.thread(), e.i32(WARP as i32 - 1)));
        let within = e.add(e.mul(group, e.i32(ROWS as i32)), e.shift_left(e.and(warp, e.i32(GROUP as i32 - 1)), 4));
        let odd = e.and(lane, e.i32(1));
        let row = e.to_i64(e.add(e.add(e.add(place.row, within), e.shift_right(lane, 2)), e.shift_left(odd, 3)));
        let column = e.to_i64(e.add(column, e.shift_left(e.and(lane, e.i32(2)), 1)));
        let odd = e.cmp(Cmp::Ne, odd, e.i32(0));
        let fours: Vec<Val> = sums.chunks_exact(4).map(|own| self.four(own, odd)).collect();
        e.if_then(e.cmp(Cmp::Lt, row, e.to_i64(place.end)), || {
            let mut parts = self.parts(member, row);
            let each = fours.len() / parts.len();
            let of = |at: usize| (0..parts.len()).map(|part| fours[part * each + at]).collect();
            let places: Vec<Sums> = (0..each).map(|at| (2 * COLUMNS * at, of(at))).collect();
            let whole = parts.iter().all(|part| is_in_fours(part.code));
            for own in places.chunks(TOGETHER[usize::from(!whole)]) {
                self.results(member, &mut parts, column, (own, whole));
            }
        });
    }

    /// The products of a member at a row.
    fn parts<'m>(&'m self, member: &'m Member, row: Val<'c>) -> Vec<Part<'m, 'c>> {
        let e = self.e;
        let ends = self.group.members.last().is_some_and(|last| last.step == member.step);
        let number = self.lists.map_or(row, |lists| lists.choice(e, row));
        let part = |code: &'m Matmul, step: usize, (reads, stored): (&'m [View], bool), last: bool| {
            let mut site = Site::new(e, self.args(step), &code.tensors, self.setting);
            site.index.insert(BATCH, e.i64(0));
            site.set_product_row(code, number);
            let next = self.next.filter(|_| last && ends).map(|next| next.row(e, row, code.sizes[3]));
            Part { code, site, reads, stored, next }
        };
        match member.second {
            None => vec![part(member.first, member.step, (&[], true), true)],
            Some((second, how)) => vec![
                part(member.first, member.step, (&how.reads, how.shared), false),
                part(second, member.step + 1, (&[], true), true),
            ],
        }
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

    /// Some results of the row; `whole`: four columns at a time.
    fn results(&self, member: &Member, parts: &mut [Part<'_, 'c>], column: Val<'c>, (fours, whole): (&[Sums<'c>], bool)) {
        let e = self.e;
        if whole {
            for part in &mut *parts {
                (part.site.vector, part.site.lanes, part.site.whole) = (Some(COLUMN), COLUMNS, true);
            }
            return self.made(member, parts, column, (fours, COLUMNS));
        }
        let one = |at: usize, sums: &[Val<'c>]| sums.iter().map(|four| e.extract(*four, at)).collect();
        let ones = fours.iter().flat_map(|(behind, sums)| (0..COLUMNS).map(move |at| (behind + at, one(at, sums))));
        self.made(member, parts, column, (&ones.collect::<Vec<Sums>>(), 1));
    }

    /// The same of `columns` at once: what is read is read before anything is stored.
    fn made(&self, member: &Member, parts: &mut [Part<'_, 'c>], column: Val<'c>, (sums, columns): (&[Sums<'c>], usize)) {
        let e = self.e;
        let width = member.first.sizes[3];
        let (whole, last) = (width.is_multiple_of(member.columns), e.i64(width - columns));
        let mut made: Vec<(Val, Vec<Val>)> = Vec::new();
        for (behind, sums) in sums {
            let own = e.add(column, e.i64(*behind));
            let index = if whole { own } else { e.min(own, last) };
            made.push((own, results_of(parts, index, sums)));
        }
        for (own, made) in made {
            let put = || {
                for (part, made) in parts.iter_mut().zip(made) {
                    part.put(own, made);
                }
            };
            if whole { put() } else { e.if_then(e.cmp(Cmp::Le, own, last), put) }
        }
    }
}

/// What the products make of their sums at a column, each with what the one before has made.
fn results_of<'c>(parts: &mut [Part<'_, 'c>], column: Val<'c>, sums: &[Val<'c>]) -> Vec<Val<'c>> {
    let mut made: Vec<Val> = Vec::new();
    let mut known: Vec<(View, Val)> = Vec::new();
    for (part, sum) in parts.iter_mut().zip(sums) {
        part.site.index.insert(COLUMN, column);
        part.site.fresh = std::mem::take(&mut known);
        part.site.fresh.push((View { tensor: TensorId(0), offset: 0, strides: vec![(COLUMN, 1)] }, *sum));
        let own = value(&part.site, &part.code.epilogue);
        part.site.fresh.clear();
        known.extend(part.reads.iter().map(|view| (view.clone(), own)));
        made.push(own);
    }
    made
}

impl<'c> Part<'_, 'c> {
    fn put(&mut self, column: Val<'c>, made: Val<'c>) {
        self.site.index.insert(COLUMN, column);
        let e = self.site.e;
        let Some(next) = self.next else {
            if self.stored {
                store(&self.site, &self.code.out, made);
            }
            return;
        };
        e.if_then(next.taken, || store_rounded(e, e.element(next.rows, column, 2), made));
        e.if_then(e.not(next.taken), || store(&self.site, &self.code.out, made));
    }
}
