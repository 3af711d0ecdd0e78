//! Keys that truth values name one by one: those of a key's position, or of its distance from the query. What they name can be listed, and a query looks at
//! what is listed and nowhere else, but for what it sees whatever is named.

use super::attention::Attention;
use crate::forms::Reach;
use braid_dsl::model::{Binary, Body, Elem, Op, Value};

/// The truth values that name keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// Captures of the key's position.
    pub keys: Vec<usize>,
    /// Captures of the distance.
    pub distances: Vec<usize>,
}

impl Attention {
    /// What names the keys of this attention, if each of its heads has names of its own or distances have names: others' names stand in blocks (documents,
    /// say), or are few heads' (what a prompt leaves), and a look at every sixteenth key finds them.
    pub fn named(&self) -> Option<Named> {
        let weighs = self.best == 0 && self.tally.is_none() && self.chosen.is_none();
        if !weighs || self.reach != Reach::Full || self.attend.seq != self.attend.keys {
            return None;
        }
        let (keep, result) = (&self.attend.keep, self.attend.keep_result);
        let is_name = |value: &Value| matches!(value.op, Op::Capture(n) if value.ty.elem == Elem::Bool && self.is_of_key(n));
        let read = reading(keep, is_name);
        let mut named = Named { keys: vec![], distances: vec![] };
        let mut left = vec![result];
        while let Some(at) = left.pop().filter(|at| read[at.0 as usize]) {
            let value = &keep.values[at.0 as usize];
            match value.op {
                Op::Binary(Binary::And | Binary::Or) => left.extend(value.args.iter().filter(|arg| read[arg.0 as usize])),
                Op::Capture(n) if self.apart.contains(&n) => named.distances.push(n),
                Op::Capture(n) => named.keys.push(n),
                // A key that is named may be one that is not seen.
                _ => return None,
            }
        }
        let own = |n: &usize| self.channel(*n).is_some_and(|(_, count)| count > 1);
        (!named.distances.is_empty() || named.keys.iter().any(own)).then_some(named)
    }

    /// Whether a capture is of the key's position, or of its distance.
    pub fn is_of_key(&self, capture: usize) -> bool {
        self.apart.contains(&capture) || self.channel(capture).is_some()
    }
}

/// Of each value of a body whether it is one of some kind, or made of one.
fn reading(body: &Body, is: impl Fn(&Value) -> bool) -> Vec<bool> {
    body.values.iter().fold(Vec::new(), |mut read, value| {
        read.push(is(value) || value.args.iter().any(|arg| read[arg.0 as usize]));
        read
    })
}

/// A `keep` as it is where some truth values are false.
pub fn without(keep: &Body, captures: &[usize]) -> Body {
    let mut body = keep.clone();
    for value in body.values.iter_mut().filter(|value| matches!(value.op, Op::Capture(n) if captures.contains(&n))) {
        if value.ty.elem == Elem::Bool {
            (value.op, value.args) = (Op::Const(0.0), vec![]);
        }
    }
    body
}

/// What a query alone says of a `keep`: true if some key may be seen.
pub fn of_query(code: &Attention, keep: &Body) -> Body {
    let asks = reading(keep, |value| match value.op {
        Op::KeyPosition | Op::Score => true,
        Op::Capture(n) => code.is_of_key(n),
        _ => false,
    });
    let mut body = keep.clone();
    let mut left = vec![code.attend.keep_result];
    while let Some(at) = left.pop() {
        let value = &mut body.values[at.0 as usize];
        match value.op {
            _ if !asks[at.0 as usize] => {}
            Op::Binary(Binary::And | Binary::Or) => left.extend(value.args.iter().copied()),
            _ => (value.op, value.args) = (Op::Const(1.0), vec![]),
        }
    }
    body
}
