//! Attention to keys that were chosen: which ids say so, and what a query sees beside them.

use super::reach::{near, never};
use braid_dsl::model::{Attend, AxisId, Body, Op};

/// Chosen keys in a `keep`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The capture with the ids.
    pub ids: usize,
    /// The axis that counts them.
    pub slot: AxisId,
    /// Positions of a block; an id chooses the block that it lies in.
    pub block: usize,
    /// What a query sees whatever was chosen.
    pub beside: Beside,
}

/// Keys that a query may see though they were not chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beside {
    /// None.
    Nothing,
    /// At most the last `window` positions and the `first` ones.
    Near {
        /// The query's own position is one of them.
        window: usize,
        /// From the beginning of the sequence.
        first: usize,
    },
    /// Any.
    Anything,
}

impl Choice {
    /// The choice in a `keep`, if there is one.
    ///
    /// # Errors
    /// There is more than one.
    pub fn of(attend: &Attend) -> Result<Option<Choice>, &'static str> {
        let mut found = attend.keep.values.iter().filter(|value| matches!(value.op, Op::Chosen { .. }));
        let (Some(value), None) = (found.next(), found.next()) else {
            return match attend.keep.values.iter().any(|value| matches!(value.op, Op::Chosen { .. })) {
                true => Err("attention to several choices"),
                false => Ok(None),
            };
        };
        let (Op::Chosen { slot, block }, Op::Capture(ids)) = (&value.op, &attend.keep.values[value.args[0].0 as usize].op) else {
            return Err("attention to a choice that is computed inside of it");
        };
        let body = decided(&attend.keep, false);
        let beside = match near(&body, attend.keep_result) {
            _ if never(&body, attend.keep_result) => Beside::Nothing,
            Some((window, first)) => Beside::Near { window, first },
            None => Beside::Anything,
        };
        Ok(Some(Choice { ids: *ids, slot: *slot, block: *block, beside }))
    }
}

/// A `keep` of a pair of positions of which it is known whether the key was chosen.
pub fn decided(keep: &Body, chosen: bool) -> Body {
    let mut body = keep.clone();
    for value in body.values.iter_mut().filter(|value| matches!(value.op, Op::Chosen { .. })) {
        value.op = Op::Const(f64::from(u8::from(chosen)));
        value.args.clear();
    }
    body
}
