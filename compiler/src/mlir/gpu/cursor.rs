//! What a warp copies next. A *unit* is what a warp copies at once: a part of some neighbouring columns, a *group*; the last part and the last
//! group may be smaller. Warps share the units of a round evenly, in the ring's order; a *cursor* walks along them.

use super::WARPS;
use super::ring::{Order, Places, Ring};
use crate::mlir::common::{Cmp, Emitter, Val};

/// What a warp copies next; the same in all its lanes. 32-bit but `place`.
#[derive(Clone, Copy)]
pub struct Cursor<'c> {
    /// The next unit, in the first column of its group.
    pub place: Val<'c>,
    /// Which part of its columns that is.
    pub unit: Val<'c>,
    /// Units that are left of the warp's share of the round.
    pub left: Val<'c>,
    /// Columns of the round from the group on.
    pub columns: Val<'c>,
    /// Bytes of a column; none: there is nothing more to copy.
    pub bytes: Val<'c>,
    /// The block's columns of the product from the round on.
    pub rest: Val<'c>,
    /// Which stream of the table.
    pub stream: Val<'c>,
    /// The turn of the next unit.
    pub begun: Val<'c>,
}

impl<'c> Cursor<'c> {
    /// As values that a loop carries.
    pub fn values(self) -> Vec<Val<'c>> {
        vec![self.place, self.unit, self.left, self.columns, self.bytes, self.rest, self.stream, self.begun]
    }

    /// From such values.
    pub fn from(values: &[Val<'c>]) -> Self {
        let v = |at: usize| values[at];
        let [place, unit, left, columns, bytes, rest, stream, begun] = std::array::from_fn(v);
        Cursor { place, unit, left, columns, bytes, rest, stream, begun }
    }

    /// Before the first stream.
    pub fn ahead_of_all(e: &Emitter<'c>, weights: Val<'c>) -> Self {
        let zero = e.i32(0);
        Cursor { place: weights, unit: zero, left: zero, columns: zero, bytes: zero, rest: zero, stream: e.i32(-1), begun: zero }
    }

    /// At the beginning of the warp's share of the columns `first` to `first + columns` of those that begin at `base`.
    pub fn of_share(
        places: &Places<'_, 'c>,
        (base, first): (Val<'c>, Val<'c>),
        columns: Val<'c>,
        (bytes, divisor): (Val<'c>, Val<'c>),
    ) -> Self {
        let (e, ring) = (places.e, places.ring);
        let (units, groups) = (e.max(units(e, bytes, ring.part), e.i32(1)), groups(e, columns, ring.order));
        let share = Share::of(e, places.warp, e.mul(groups, units));
        let (group, unit) = match ring.order {
            Order::Groups => {
                let group = divided(e, share.from, divisor);
                (group, e.sub(share.from, e.mul(group, units)))
            }
            Order::Parts => share.group_and_part(e, groups),
        };
        let column = e.mul(group, e.i32(ring.columns() as i32));
        let before = e.mul(e.to_i64(e.add(first, column)), e.to_i64(bytes));
        let place = e.offset(e.offset(base, before), e.to_i64(e.mul(unit, e.i32(ring.part as i32))));
        let (columns, zero) = (e.sub(columns, column), e.i32(0));
        Cursor { place, unit, left: e.sub(share.to, share.from), columns, bytes, rest: zero, stream: zero, begun: zero }
    }

    /// Behind the unit that it is at.
    pub fn past(self, e: &Emitter<'c>, ring: Ring) -> Self {
        let (most, part) = (e.i32(ring.columns() as i32), e.i32(ring.part as i32));
        let (left, begun) = (e.sub(self.left, e.i32(1)), e.add(self.begun, e.i32(1)));
        let (ends, by, unit, columns) = match ring.order {
            Order::Groups => {
                let skipped = e.mul(self.unit, part);
                let ends = e.cmp(Cmp::Le, e.sub(self.bytes, skipped), part);
                let following = e.sub(e.mul(self.bytes, most), skipped);
                let columns = e.sub(self.columns, e.select(ends, most, e.i32(0)));
                (ends, e.select(ends, following, part), [e.i32(0), e.add(self.unit, e.i32(1))], columns)
            }
            Order::Parts => {
                let ends = e.cmp(Cmp::Le, self.columns, most);
                let all = e.min(self.rest, e.i32(ring.round() as i32));
                let back = e.and(e.sub(all, e.i32(1)), e.i32(-(ring.columns() as i32)));
                let first = e.sub(part, e.mul(back, self.bytes));
                let columns = e.select(ends, all, e.sub(self.columns, most));
                (ends, e.select(ends, first, e.mul(self.bytes, most)), [e.add(self.unit, e.i32(1)), self.unit], columns)
            }
        };
        let place = e.offset(self.place, e.to_i64(by));
        Cursor { place, unit: e.select(ends, unit[0], unit[1]), left, columns, begun, ..self }
    }
}

/// A warp's share of a round's units.
#[derive(Clone, Copy)]
pub struct Share<'c> {
    /// Its first unit, of all.
    pub from: Val<'c>,
    /// Past its last one.
    pub to: Val<'c>,
}

impl<'c> Share<'c> {
    /// The share of warp `warp` (`i32`, as all) of `count` units.
    pub fn of(e: &Emitter<'c>, warp: Val<'c>, count: Val<'c>) -> Self {
        let cut = |warp: Val<'c>| e.shift_right(e.mul(warp, count), i64::from(WARPS.ilog2()));
        Share { from: cut(warp), to: cut(e.add(warp, e.i32(1))) }
    }

    /// Where it begins, where the groups of a part come one after the other: the group and the part.
    pub fn group_and_part(&self, e: &Emitter<'c>, groups: Val<'c>) -> (Val<'c>, Val<'c>) {
        let part = e.div(self.from, e.max(groups, e.i32(1)));
        (e.sub(self.from, e.mul(part, groups)), part)
    }
}

/// Digits of what divides.
const DIGITS: i64 = 30;

/// What divides by a number (`i32`), by [`divided`].
pub fn divisor<'c>(e: &Emitter<'c>, by: Val<'c>) -> Val<'c> {
    let by = e.to_i64(by);
    e.to_i32(e.div(e.add(e.i64((1i64 << DIGITS) - 1), by), by))
}

/// A quotient without a division, as these take long and each warp needs several for a product: exact for multiples, and for all numbers
/// whose product with what they are divided by is below 2^30; it grows with the number in any case.
pub fn divided<'c>(e: &Emitter<'c>, number: Val<'c>, divisor: Val<'c>) -> Val<'c> {
    e.to_i32(e.shift_right(e.mul(e.to_i64(number), e.to_i64(divisor)), DIGITS))
}

/// The same for a number that is known.
pub fn divisor_of(by: usize) -> i32 {
    (1usize << DIGITS).div_ceil(by.max(1)) as i32
}

/// Units of a group of columns of so many bytes, in parts of `part`.
pub fn units<'c>(e: &Emitter<'c>, bytes: Val<'c>, part: usize) -> Val<'c> {
    e.shift_right(e.add(bytes, e.i32(part as i32 - 1)), i64::from(part.ilog2()))
}

/// Groups of so many columns.
pub fn groups<'c>(e: &Emitter<'c>, columns: Val<'c>, order: Order) -> Val<'c> {
    let most = order.columns();
    e.shift_right(e.add(columns, e.i32(most as i32 - 1)), i64::from(most.ilog2()))
}
