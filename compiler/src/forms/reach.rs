//! Which keys a query can still see: read off the `keep` predicate, so that the cache holds no more.

use super::Extent;
use super::linear::{Linear, less, linear, negated};
use braid_dsl::model::{Attend, AxisId, Binary, Body, Gives, Held, Op, Unary, ValueId};

/// Most rows of one sequence in one call on a processor. A ring keeps as many rows as a call may have more than its window, so that a call
/// can store all its keys before its first query looks.
pub const MAX_ROWS: usize = 256;

/// Slots of a cache come in blocks of so many.
pub const BLOCK: usize = 16;

/// Slots of a ring for long calls come in tiles of so many.
pub const TILE: usize = 128;

/// What a cache keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reach {
    /// Every position.
    Full,
    /// The last position of each block of `every`. A block's row lies where its positions have their shares of it, so that a cache cut at any
    /// position is a cache.
    Every {
        /// Positions of a block.
        every: usize,
    },
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
    /// How many positions have one row.
    pub fn every(self) -> usize {
        if let Reach::Every { every } = self { every } else { 1 }
    }

    /// Whether old positions make room for new ones.
    pub fn is_ring(self) -> bool {
        matches!(self, Reach::Window { .. } | Reach::SinksAndWindow { .. })
    }

    /// Memory of a cache with so many elements a position in each of its `parts`.
    pub fn extent(self, parts: usize, elements: usize) -> Extent {
        let elements = parts * elements.div_ceil(self.every());
        match self {
            Reach::Full | Reach::Every { .. } => Extent::PerPosition { elements },
            Reach::Window { rows, .. } | Reach::SinksAndWindow { rows, .. } => Extent::Ring { rows, elements },
        }
    }
}

/// Positions of a sequence that have to come in one call, so that every key that a query sees is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Together {
    /// So many of the first; [`WHOLE`]: all of them.
    pub first: usize,
    /// Blocks of so many: a call begins where a block does.
    pub block: usize,
    /// Whatever the first call holds is known as a whole in it, and stands for the sequence later.
    pub prompt: bool,
}

/// All positions of a sequence.
pub const WHOLE: usize = usize::MAX;

impl Together {
    /// A sequence may be cut anywhere.
    pub const ANY: Together = Together { first: 0, block: 1, prompt: false };
    /// The first call holds the prompt.
    pub const PROMPT: Together = Together { prompt: true, ..Together::ANY };
    /// One call holds the sequence.
    pub const ALL: Together = Together { first: WHOLE, ..Together::ANY };

    /// What both need.
    pub fn and(self, other: Together) -> Together {
        let (first, prompt) = (self.first.max(other.first), self.prompt || other.prompt);
        match (self.block, other.block) {
            (a, b) if a == b || b == 1 => Together { first, block: a, prompt },
            (1, b) => Together { first, block: b, prompt },
            _ => Together::ALL,
        }
    }

    /// Most rows of one sequence in a call, about `most` if they may be cut.
    pub fn max_rows(self, most: usize) -> usize {
        match self.first {
            WHOLE => MOST_ROWS,
            _ if self.prompt => MOST_ROWS,
            first => (most / self.block).max(1) * self.block.max(first),
        }
    }
}

/// Most rows of a call that has to hold a whole sequence.
const MOST_ROWS: usize = 1 << 20;

/// Which slots of a cache that keeps every position a query has to look at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Range {
    /// `query - key` is below.
    pub before: Option<usize>,
    /// `key - query` is below; none: as far as the call goes.
    pub after: Option<usize>,
}

/// What a predicate implies: each bound holds wherever it is true.
#[derive(Clone, Copy, Debug, Default)]
struct Implied {
    /// How far ahead of the query a key may be.
    ahead: Option<Ahead>,
    /// `query - key < window`.
    window: Option<i64>,
    /// `key < first`, or the window holds.
    first: Option<i64>,
    /// `key < below`.
    below: Option<i64>,
}

/// `key < first`, or `key - query < after`, or both lie in one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ahead {
    first: i64,
    after: i64,
    block: i64,
}

impl Ahead {
    const CAUSAL: Ahead = Ahead { first: 0, after: 1, block: 1 };

    /// The tighter of two bounds that both hold.
    fn both(a: Option<Ahead>, b: Option<Ahead>) -> Option<Ahead> {
        let cost = |x: &Ahead| (x.after.max(1), x.block, x.first);
        a.into_iter().chain(b).min_by_key(cost)
    }

    /// A bound where one of two holds.
    fn either(a: Option<Ahead>, b: Option<Ahead>) -> Option<Ahead> {
        let (a, b) = (a?, b?);
        let block = if a.block == b.block || b.block == 1 { a.block } else { b.block };
        let fits = block % a.block == 0 && block % b.block == 0;
        fits.then_some(Ahead { first: a.first.max(b.first), after: a.after.max(b.after), block })
    }

    fn together(ahead: Option<Ahead>) -> Together {
        match ahead {
            Some(Ahead { first, after: ..=1, block }) => {
                Together { first: first.max(0) as usize, block: block as usize, ..Together::ANY }
            }
            _ => Together::ALL,
        }
    }
}

/// What calls must hold for the sake of some ops, but for those of a source, which is there as a whole.
pub fn together<'m>(ops: impl Iterator<Item = &'m Op>, source: Option<AxisId>) -> Together {
    let own = |axis: &AxisId| Some(*axis) != source;
    let held = |held: Held| if held == Held::Prompt { Together::PROMPT } else { Together::ALL };
    let one = |op: &Op| match op {
        // Rows ahead, and how many there are, are known when all of them are there.
        Op::Fetch(axis, how) | Op::Length(axis, how) | Op::Largest { seq: axis, held: how, .. } if own(axis) => held(*how),
        Op::Attend(attend) if own(&attend.keys) => {
            let values = if attend.apart.is_empty() { Together::ANY } else { Together::PROMPT };
            match attend.gives {
                Gives::Tally { .. } => Together::PROMPT,
                _ => values.and(Ahead::together(implied(&attend.keep, attend.keep_result).ahead)),
            }
        }
        _ => Together::ANY,
    };
    ops.fold(Together::ANY, |all, op| all.and(one(op)))
}

/// The reach of an attention, and where its queries look. `all`: what calls of the model hold; a ring has room for short ones only. `rows`:
/// most rows of a call that need not hold more.
pub fn of(attend: &Attend, all: Together, rows: usize) -> (Reach, Range) {
    let implied = implied(&attend.keep, attend.keep_result);
    let together = Ahead::together(implied.ahead);
    let window = implied.window.filter(|window| *window > 0);
    // Of long calls rings are whole tiles of matrix units.
    let slots = |count: i64| (count as usize + rows).next_multiple_of(if rows > MAX_ROWS { TILE } else { BLOCK });
    // A choice takes keys in their order, which a ring with sinks does not keep.
    let ordered = matches!(attend.gives, Gives::Best(_)) && implied.first.is_some();
    let reach = match (window, implied.first) {
        _ if together != Together::ANY => Reach::Full,
        (Some(_), _) if all.max_rows(rows) > rows => Reach::Full,
        (None, _) if attend.every().0 > 1 && attend.every().1 == attend.every().0 - 1 => Reach::Every { every: attend.every().0 },
        _ if ordered => Reach::Full,
        (Some(window), None) => Reach::Window { rows: slots(window), window: window as usize },
        (Some(window), Some(first)) if first >= 0 => {
            Reach::SinksAndWindow { first: first as usize, window: window as usize, rows: slots(window + first) }
        }
        _ => Reach::Full,
    };
    let after = match implied.ahead {
        Some(Ahead { first: ..=0, after, block: 1 }) if !reach.is_ring() => Some(after.max(1) as usize),
        _ => None,
    };
    let before = window.filter(|_| implied.first.is_none() && reach == Reach::Full).map(|window| window as usize);
    (reach, Range { before, after })
}

/// What the cache of an attention keeps on a processor, in a model whose calls may be short.
pub fn cached(attend: &Attend, all: Together) -> Reach {
    of(attend, all, MAX_ROWS).0
}

/// The window and the first positions that hold all keys that a predicate lets a query see; none: it may be anything.
pub(super) fn near(body: &Body, result: ValueId) -> Option<(usize, usize)> {
    let implied = implied(body, result);
    let whole = |n: i64| usize::try_from(n).ok();
    match (implied.window, implied.first, implied.below) {
        (Some(window), first, _) => Some((whole(window)?, whole(first.unwrap_or(0).max(0))?)),
        (None, _, Some(below)) => Some((0, whole(below.max(0))?)),
        _ => None,
    }
}

fn implied(body: &Body, id: ValueId) -> Implied {
    let value = &body.values[id.0 as usize];
    match &value.op {
        Op::Binary(Binary::And) => {
            let (a, b) = (implied(body, value.args[0]), implied(body, value.args[1]));
            let least = |a: Option<i64>, b: Option<i64>| a.into_iter().chain(b).min();
            // `first` belongs to the window that it was joined with; a second, plain window is tighter than both.
            let first = if [a, b].iter().any(|i| i.window.is_some() && i.first.is_none()) { None } else { a.first.or(b.first) };
            Implied {
                ahead: Ahead::both(a.ahead, b.ahead),
                window: least(a.window, b.window),
                first,
                below: least(a.below, b.below),
            }
        }
        Op::Binary(Binary::Or) => {
            if let Some(only) = other_than_never(body, &value.args) {
                return implied(body, only);
            }
            let (a, b) = (implied(body, value.args[0]), implied(body, value.args[1]));
            let ahead = Ahead::either(a.ahead, b.ahead);
            let join = |windowed: Implied, low: Implied| match (windowed.window, low.below) {
                (Some(window), Some(below)) => Some((window, below.max(windowed.first.unwrap_or(below)))),
                _ => None,
            };
            if let (Some(x), Some(y)) = (a.window, b.window) {
                let first = a.first.into_iter().chain(b.first).max();
                return Implied { ahead, window: Some(x.max(y)), first, below: None };
            }
            match join(a, b).or(join(b, a)) {
                Some((window, first)) => Implied { ahead, window: Some(window), first: Some(first), below: None },
                None => Implied { ahead, ..Implied::default() },
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

/// Of two predicates the one that can hold, if the other never does.
fn other_than_never(body: &Body, args: &[ValueId]) -> Option<ValueId> {
    match [never(body, args[0]), never(body, args[1])] {
        [true, _] => Some(args[1]),
        [_, true] => Some(args[0]),
        _ => None,
    }
}

/// Whether a predicate is false for every key.
pub fn never(body: &Body, id: ValueId) -> bool {
    let value = &body.values[id.0 as usize];
    match value.op {
        Op::Const(truth) => truth == 0.0,
        Op::Binary(Binary::And) => value.args.iter().any(|arg| never(body, *arg)),
        Op::Binary(Binary::Or) => value.args.iter().all(|arg| never(body, *arg)),
        _ => false,
    }
}

/// `a op b`, from `a - b` as a linear form of the two positions.
fn compared(body: &Body, op: Binary, a: ValueId, b: ValueId) -> Implied {
    let (Some(a), Some(b)) = (linear(body, a), linear(body, b)) else { return Implied::default() };
    let difference = a.minus(b);
    match op {
        Binary::Eq => both(difference),
        _ => less(op, difference).map_or(Implied::default(), below_zero),
    }
}

/// `form = 0` is `form <= 0` and `-form <= 0`.
fn both(form: Linear) -> Implied {
    let (a, b) = (below_zero(form.plus(-1)), below_zero(form.negated().plus(-1)));
    Implied { ahead: Ahead::both(a.ahead, b.ahead), window: a.window.or(b.window), first: None, below: a.below.or(b.below) }
}

fn below_zero(form: Linear) -> Implied {
    let ahead = |ahead| Implied { ahead: Some(ahead), ..Implied::default() };
    match (form.query, form.key, form.start) {
        // key - the start of the query's block + c < 0, and that start is not behind the query.
        (0, 1, 0) if form.own < 0 => ahead(Ahead { after: (-form.constant).max(1), ..Ahead::CAUSAL }),
        // The start of the query's block - key + c < 0, and the query is less than a block behind that start.
        (0, -1, 0) if form.own > 0 => Implied { window: Some(form.own - 1 - form.constant), ..Implied::default() },
        _ if form.own != 0 => Implied::default(),
        // key - query + c < 0.
        (-1, 1, 0) => ahead(Ahead { after: (-form.constant).max(1), ..Ahead::CAUSAL }),
        // The start of the key's block - query + c < 0.
        (-1, 0, block) if block > 0 && form.constant >= -1 => ahead(Ahead { block, ..Ahead::CAUSAL }),
        // query - key + c < 0.
        (1, -1, 0) => Implied { window: Some(-form.constant), ..Implied::default() },
        // key + c < 0.
        (0, 1, 0) => {
            let first = -form.constant;
            Implied { below: Some(first), ahead: Some(Ahead { first, ..Ahead::CAUSAL }), ..Implied::default() }
        }
        _ => Implied::default(),
    }
}
