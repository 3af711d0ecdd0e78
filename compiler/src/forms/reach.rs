//! Which keys a query can still see: read off the `keep` predicate, so that the cache holds no more.

use super::Extent;
use crate::error::Error;
use braid_dsl::model::{Attend, Binary, Body, Op, Unary, ValueId};

/// Most rows of one sequence in one call. A ring keeps so many rows more than its window, so that a call can store all its
/// keys before its first query looks.
pub const MAX_ROWS: usize = 256;

/// Slots of a cache come in blocks of so many.
pub const BLOCK: usize = 16;

/// What a cache keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reach {
    /// Every position.
    Full,
    /// The last `window` positions, in a ring of `rows` slots.
    Window {
        /// Slots.
        rows: usize,
        /// Positions that a query sees.
        window: usize,
    },
    /// The first positions for ever, and a window.
    SinksAndWindow {
        /// How many of the first.
        first: usize,
        /// Positions that a query sees beside them.
        window: usize,
        /// Slots.
        rows: usize,
    },
}

impl Reach {
    /// Memory of a cache with so many elements a position.
    pub fn extent(self, elements: usize) -> Extent {
        match self {
            Reach::Full => Extent::PerPosition { elements },
            Reach::Window { rows, .. } | Reach::SinksAndWindow { rows, .. } => Extent::Ring { rows, elements },
        }
    }
}

/// What a predicate implies: each bound holds wherever it is true.
#[derive(Clone, Copy, Debug, Default)]
struct Implied {
    /// `key <= query`.
    causal: bool,
    /// `query - key < window`.
    window: Option<i64>,
    /// `key < first`, or the window holds.
    first: Option<i64>,
    /// `key < below`.
    below: Option<i64>,
}

/// The reach of an attention.
///
/// # Errors
/// A predicate that lets a query see later keys.
pub fn of(attend: &Attend) -> Result<Reach, Error> {
    let implied = implied(&attend.keep, attend.keep_result);
    if !implied.causal {
        return Err(Error::limit("attention in which a query sees later keys"));
    }
    let slots = |count: i64| (count as usize + MAX_ROWS).next_multiple_of(BLOCK);
    Ok(match (implied.window, implied.first) {
        (Some(window), None) if window > 0 => Reach::Window { rows: slots(window), window: window as usize },
        (Some(window), Some(first)) if window > 0 && first >= 0 => {
            Reach::SinksAndWindow { first: first as usize, window: window as usize, rows: slots(window + first) }
        }
        _ => Reach::Full,
    })
}

fn implied(body: &Body, id: ValueId) -> Implied {
    let value = &body.values[id.0 as usize];
    match &value.op {
        Op::Binary(Binary::And) => {
            let (a, b) = (implied(body, value.args[0]), implied(body, value.args[1]));
            let least = |a: Option<i64>, b: Option<i64>| a.into_iter().chain(b).min();
            // `first` belongs to the window that it was joined with; a second, plain window is tighter than both.
            let first = if [a, b].iter().any(|i| i.window.is_some() && i.first.is_none()) { None } else { a.first.or(b.first) };
            Implied { causal: a.causal || b.causal, window: least(a.window, b.window), first, below: least(a.below, b.below) }
        }
        Op::Binary(Binary::Or) => {
            let (a, b) = (implied(body, value.args[0]), implied(body, value.args[1]));
            let causal = a.causal && b.causal;
            let join = |windowed: Implied, low: Implied| match (windowed.window, low.below) {
                (Some(window), Some(below)) => Some((window, below.max(windowed.first.unwrap_or(below)))),
                _ => None,
            };
            if let (Some(x), Some(y)) = (a.window, b.window) {
                let first = a.first.into_iter().chain(b.first).max();
                return Implied { causal, window: Some(x.max(y)), first, below: None };
            }
            match join(a, b).or(join(b, a)) {
                Some((window, first)) => Implied { causal, window: Some(window), first: Some(first), below: None },
                None => Implied { causal, ..Implied::default() },
            }
        }
        Op::Binary(op) => compared(body, *op, value.args[0], value.args[1]),
        Op::Unary(Unary::Not) => {
            let inner = &body.values[value.args[0].0 as usize];
            match inner.op {
                Op::Binary(op) => negated(op).map_or(Implied::default(), |op| compared(body, op, inner.args[0], inner.args[1])),
                _ => Implied::default(),
            }
        }
        _ => Implied::default(),
    }
}

fn negated(op: Binary) -> Option<Binary> {
    Some(match op {
        Binary::Lt => Binary::Ge,
        Binary::Le => Binary::Gt,
        Binary::Gt => Binary::Le,
        Binary::Ge => Binary::Lt,
        _ => return None,
    })
}

/// `a op b`, from `a - b` as a linear form of the two positions.
fn compared(body: &Body, op: Binary, a: ValueId, b: ValueId) -> Implied {
    let (Some(a), Some(b)) = (linear(body, a), linear(body, b)) else { return Implied::default() };
    let difference = a.minus(b);
    // Everything as `form < 0` over whole numbers.
    let form = match op {
        Binary::Lt => difference,
        Binary::Le => difference.plus(-1),
        Binary::Gt => difference.negated(),
        Binary::Ge => difference.negated().plus(-1),
        Binary::Eq => return both(difference),
        _ => return Implied::default(),
    };
    below_zero(form)
}

/// `form = 0` is `form <= 0` and `-form <= 0`.
fn both(form: Linear) -> Implied {
    let (a, b) = (below_zero(form.plus(-1)), below_zero(form.negated().plus(-1)));
    Implied { causal: a.causal || b.causal, window: a.window.or(b.window), first: None, below: a.below.or(b.below) }
}

fn below_zero(form: Linear) -> Implied {
    match (form.query, form.key) {
        // key - query + c < 0 is causal if c >= -1.
        (-1, 1) => Implied { causal: form.constant >= -1, ..Implied::default() },
        // query - key + c < 0.
        (1, -1) => Implied { window: Some(-form.constant), ..Implied::default() },
        // key + c < 0.
        (0, 1) => Implied { below: Some(-form.constant), ..Implied::default() },
        _ => Implied::default(),
    }
}

/// `query·q + key·k + constant`.
#[derive(Clone, Copy)]
struct Linear {
    query: i64,
    key: i64,
    constant: i64,
}

impl Linear {
    fn minus(self, other: Linear) -> Linear {
        Linear {
            query: self.query - other.query,
            key: self.key - other.key,
            constant: self.constant.saturating_sub(other.constant),
        }
    }
    fn plus(self, constant: i64) -> Linear {
        Linear { constant: self.constant.saturating_add(constant), ..self }
    }
    fn negated(self) -> Linear {
        Linear { query: -self.query, key: -self.key, constant: self.constant.saturating_neg() }
    }
}

fn linear(body: &Body, id: ValueId) -> Option<Linear> {
    let value = &body.values[id.0 as usize];
    let arg = |n: usize| linear(body, value.args[n]);
    let zero = Linear { query: 0, key: 0, constant: 0 };
    match &value.op {
        Op::QueryPosition => Some(Linear { query: 1, ..zero }),
        Op::KeyPosition => Some(Linear { key: 1, ..zero }),
        Op::Const(c) if c.fract() == 0.0 && c.abs() < 1e15 => Some(zero.plus(*c as i64)),
        Op::ToFloat => arg(0),
        Op::Unary(Unary::Neg) => Some(arg(0)?.negated()),
        Op::Binary(Binary::Sub) => Some(arg(0)?.minus(arg(1)?)),
        Op::Binary(Binary::Add) => Some(arg(0)?.minus(arg(1)?.negated())),
        _ => None,
    }
}
