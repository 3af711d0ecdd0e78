//! How many keys a query sees, as a function of the context: the `keep` predicate is evaluated, not recognised.

use crate::forms::{Together, together};
use braid_dsl::model::{Attend, AxisId, Binary, Body, Gives, Model, Op, Size, Unary, Value};

/// Keys that are visible at a context of `n` positions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Reach {
    /// A fixed share of all positions: 1 for full causal attention.
    Share(f64),
    /// At most so many, however long the context.
    Bounded(u64),
}

impl Reach {
    /// Visible keys of the last of `n` positions.
    pub fn at(self, n: u64) -> u64 {
        match self {
            Reach::Share(share) => (share * n as f64).round() as u64,
            Reach::Bounded(most) => n.min(most),
        }
    }

    /// Visible keys of all of `n` positions together.
    pub fn total(self, n: u64) -> u64 {
        match self {
            Reach::Share(share) => (share * n as f64 * (n as f64 + 1.0) / 2.0).round() as u64,
            Reach::Bounded(most) if n <= most => n * (n + 1) / 2,
            Reach::Bounded(most) => most * (most + 1) / 2 + (n - most) * most,
        }
    }
}

/// Two contexts longer than any window in use; between them a bounded number of keys stays the same.
const PROBES: [u64; 2] = [1 << 17, 1 << 18];

/// The reach of each distinct `keep`, evaluated once.
pub struct Reaches {
    known: Vec<(Body, usize, Reach)>,
    /// What calls of the model hold.
    pub together: Together,
}

impl Reaches {
    /// Those of a model, nothing evaluated yet.
    pub fn of_model(model: &Model) -> Reaches {
        let mut seqs = (0..model.axes.len()).filter(|at| model.axes[*at].size == Size::Seq);
        let source = seqs.nth(1).map(|at| AxisId(at as u32));
        Reaches { known: vec![], together: together(model.values.iter().map(|value| &value.op), source) }
    }

    /// How far an attention sees.
    pub fn of(&mut self, attend: &Attend) -> Reach {
        let result = attend.keep_result.0 as usize;
        if let Some((_, _, known)) = self.known.iter().find(|(body, at, _)| *body == attend.keep && *at == result) {
            return *known;
        }
        let found = match attend.gives {
            Gives::Tally { queries, .. } => return Reach::Bounded(queries as u64),
            _ => reach(attend),
        };
        self.known.push((attend.keep.clone(), result, found));
        found
    }
}

fn reach(attend: &Attend) -> Reach {
    let [near, far] = PROBES.map(|n| visible(attend, n));
    match far.checked_sub(near) {
        None | Some(0) => Reach::Bounded(far),
        Some(more) => {
            let share = more as f64 / (PROBES[1] - PROBES[0]) as f64;
            // A share within one key of the whole is the whole.
            Reach::Share(if share > 0.9999 { 1.0 } else { share })
        }
    }
}

fn visible(attend: &Attend, n: u64) -> u64 {
    let mut memo = Vec::new();
    (0..n).filter(|key| keeps(&attend.keep, attend.keep_result.0 as usize, n - 1, *key, &mut memo)).count() as u64
}

/// Whether the query may see the key; what depends on data counts as seen.
fn keeps(body: &Body, result: usize, query: u64, key: u64, memo: &mut Vec<Option<f64>>) -> bool {
    memo.clear();
    for value in &body.values {
        let found = number(value, memo, query as f64, key as f64);
        memo.push(found);
    }
    memo.get(result).copied().flatten() != Some(0.0)
}

fn number(value: &Value, known: &[Option<f64>], query: f64, key: f64) -> Option<f64> {
    let arg = |n: usize| value.args.get(n).and_then(|a| known.get(a.0 as usize).copied().flatten());
    match &value.op {
        Op::QueryPosition => Some(query),
        Op::KeyPosition => Some(key),
        // What is chosen is counted by itself.
        Op::Chosen { .. } => Some(0.0),
        Op::Const(number) => Some(*number),
        Op::ToFloat => arg(0),
        Op::Unary(f) => arg(0).and_then(|x| unary(*f, x)),
        Op::Binary(f) => binary(*f, arg(0), arg(1)),
        Op::Select => match arg(0)? {
            0.0 => arg(2),
            _ => arg(1),
        },
        _ => None,
    }
}

fn unary(f: Unary, x: f64) -> Option<f64> {
    match f {
        Unary::Neg => Some(-x),
        Unary::Abs => Some(x.abs()),
        Unary::Floor => Some(x.floor()),
        Unary::Round => Some(x.round_ties_even()),
        Unary::Not => Some(truth(x == 0.0)),
        _ => None,
    }
}

fn truth(holds: bool) -> f64 {
    f64::from(u8::from(holds))
}

/// `false & unknown` is false and `true | unknown` is true.
fn binary(f: Binary, a: Option<f64>, b: Option<f64>) -> Option<f64> {
    match (f, a, b) {
        (Binary::And, Some(0.0), _) | (Binary::And, _, Some(0.0)) => return Some(0.0),
        (Binary::Or, Some(x), _) | (Binary::Or, _, Some(x)) if x != 0.0 => return Some(1.0),
        _ => {}
    }
    let (a, b) = (a?, b?);
    Some(match f {
        Binary::Add => a + b,
        Binary::Sub => a - b,
        Binary::Mul => a * b,
        Binary::Div => a / b,
        Binary::Pow => a.powf(b),
        Binary::Min => a.min(b),
        Binary::Max => a.max(b),
        Binary::Rem => a.rem_euclid(b),
        Binary::Lt => truth(a < b),
        Binary::Le => truth(a <= b),
        Binary::Gt => truth(a > b),
        Binary::Ge => truth(a >= b),
        Binary::Eq => truth(a == b),
        Binary::Ne => truth(a != b),
        Binary::And => truth(a != 0.0 && b != 0.0),
        Binary::Or => truth(a != 0.0 || b != 0.0),
    })
}
