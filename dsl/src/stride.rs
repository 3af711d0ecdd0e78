//! Predicates that let through one position of each block only: what stands for a block is stored once a block.

use crate::model::{Attend, Binary, Body, Gives, Op, ValueId};

impl Attend {
    /// How many operands stand before the captures.
    pub fn operands(&self) -> usize {
        if self.gives == Gives::Values { 3 } else { 2 }
    }

    /// `(n, r)` if `keep` implies `key % n == r`; `(1, 0)` if it implies nothing of the kind.
    pub fn every(&self) -> (usize, usize) {
        every(&self.keep, self.keep_result).unwrap_or((1, 0))
    }
}

fn every(body: &Body, id: ValueId) -> Option<(usize, usize)> {
    let value = &body.values[id.0 as usize];
    let of = |n: usize| &body.values[value.args[n].0 as usize];
    match value.op {
        Op::Binary(Binary::And) => every(body, value.args[0]).or(every(body, value.args[1])),
        Op::Binary(Binary::Eq) => {
            let ends = [(of(0), value.args[1]), (of(1), value.args[0])];
            ends.into_iter().find_map(|(rest, number)| match (&rest.op, &rest.args[..]) {
                (Op::Binary(Binary::Rem), [key, n]) if is_key(body, *key) => {
                    let (n, r) = (whole(body, *n)?, whole(body, number)?);
                    (r < n).then_some((n, r))
                }
                _ => None,
            })
        }
        _ => None,
    }
}

fn is_key(body: &Body, id: ValueId) -> bool {
    let value = &body.values[id.0 as usize];
    match value.op {
        Op::ToFloat => is_key(body, value.args[0]),
        ref op => *op == Op::KeyPosition,
    }
}

/// A whole number that is not negative.
fn whole(body: &Body, id: ValueId) -> Option<usize> {
    match body.values[id.0 as usize].op {
        Op::Const(n) if n >= 0.0 && n.fract() == 0.0 && n < 1e9 => Some(n as usize),
        _ => None,
    }
}
