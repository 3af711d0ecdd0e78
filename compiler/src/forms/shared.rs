//! Caches that several attentions have in common.

use super::{Together, cached};
use braid_dsl::model::{Attend, Gives, Op};

/// Whether two attentions, each with its operands, keep the same rows in the same way: one cache is then enough for both, whoever fills it. Keys that have something
/// beside them, and those that are looked up one by one, lie in ways of their own.
pub fn keep_the_same<T: PartialEq>(a: (&Attend, &[T]), b: (&Attend, &[T])) -> bool {
    let common = |attend: &Attend| {
        let chooses = attend.keep.values.iter().any(|value| matches!(value.op, Op::Chosen { .. }));
        attend.gives == Gives::Values && attend.keyed.is_empty() && !chooses
    };
    let rows = |attend: &Attend| (attend.seq, attend.keys, attend.contract.clone());
    common(a.0)
        && common(b.0)
        && a.1[1..3] == b.1[1..3]
        && rows(a.0) == rows(b.0)
        && cached(a.0, Together::ANY) == cached(b.0, Together::ANY)
}
