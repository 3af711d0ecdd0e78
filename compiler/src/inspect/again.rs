//! Memory that is kept once though several values ask for it.

use crate::forms::keep_the_same;
use braid_dsl::model::{Op, Value};

/// Values that keep rows, in order.
#[derive(Default)]
pub struct Keepers<'m>(Vec<&'m Value>);

impl<'m> Keepers<'m> {
    /// Whether an earlier value keeps all that this one asks for. The graph merges equal values, so rows that are looked back to several times are
    /// kept once, and so are caches of the same keys and values.
    pub fn know(&mut self, value: &'m Value) -> bool {
        let known = self.0.iter().any(|other| match (&other.op, &value.op) {
            (Op::Shift(a), Op::Shift(b)) => (a, other.args[0]) == (b, value.args[0]),
            (Op::Attend(a), Op::Attend(b)) => keep_the_same((a, &other.args), (b, &value.args)),
            _ => false,
        });
        if matches!(value.op, Op::Shift(_) | Op::Attend(_)) {
            self.0.push(value);
        }
        known
    }
}
