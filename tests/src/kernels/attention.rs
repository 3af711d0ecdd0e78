//! Attention over its cache against a plain softmax over all positions.

use super::skeletons::{Memory, close, compile, noise, segments, tensor, view};
use super::targets;
use braid_compiler::forms::{Range, Reach};
use braid_compiler::fuse::kernel::{Attention, AttentionViews, BATCH, Base, COLUMN, Code, INNER, Store};
use braid_dsl::model::{Attend, AxisId, Binary, Body, Elem, Gives, Op, ScopeId, Type, Value, ValueId};
use braid_dsl::span::Span;

/// Sizes of one test.
#[derive(Clone, Copy)]
struct Case {
    groups: usize,
    per: usize,
    key: usize,
    value: usize,
    reach: Reach,
    sink: bool,
}

const SCALE: f32 = 0.3;

/// Makes a body, value by value.
#[derive(Default)]
pub struct Builder(pub Body);

impl Builder {
    pub fn push(&mut self, op: Op, args: &[ValueId], elem: Elem) -> ValueId {
        let ty = Type { elem, axes: vec![] };
        self.0.values.push(Value { op, args: args.to_vec(), ty, span: Span::default(), scope: ScopeId(0) });
        ValueId(self.0.values.len() as u32 - 1)
    }
}

/// The positions that a query sees by the reach alone.
fn keep(reach: Reach) -> (Body, ValueId) {
    let mut b = Builder::default();
    let query = b.push(Op::QueryPosition, &[], Elem::Int);
    let key = b.push(Op::KeyPosition, &[], Elem::Int);
    let causal = b.push(Op::Binary(Binary::Le), &[key, query], Elem::Bool);
    let (first, window) = match reach {
        Reach::Full | Reach::Every { .. } => return (b.0, causal),
        Reach::Window { window, .. } => (0, window),
        Reach::SinksAndWindow { first, window, .. } => (first, window),
    };
    let distance = b.push(Op::Binary(Binary::Sub), &[query, key], Elem::Int);
    let size = b.push(Op::Const(window as f64), &[], Elem::Int);
    let near = b.push(Op::Binary(Binary::Lt), &[distance, size], Elem::Bool);
    let count = b.push(Op::Const(first as f64), &[], Elem::Int);
    let early = b.push(Op::Binary(Binary::Lt), &[key, count], Elem::Bool);
    let either = b.push(Op::Binary(Binary::Or), &[near, early], Elem::Bool);
    let result = b.push(Op::Binary(Binary::And), &[causal, either], Elem::Bool);
    (b.0, result)
}

fn sees(reach: Reach, query: usize, key: usize) -> bool {
    key <= query
        && match reach {
            Reach::Full | Reach::Every { .. } => true,
            Reach::Window { window, .. } => query - key < window,
            Reach::SinksAndWindow { first, window, .. } => query - key < window || key < first,
        }
}

/// `s · SCALE + slope · (key - query)`, the slope being capture 0.
fn score() -> (Body, ValueId) {
    let mut b = Builder::default();
    let s = b.push(Op::Score, &[], Elem::Float);
    let scale = b.push(Op::Const(f64::from(SCALE)), &[], Elem::Float);
    let scaled = b.push(Op::Binary(Binary::Mul), &[s, scale], Elem::Float);
    let query = b.push(Op::QueryPosition, &[], Elem::Int);
    let key = b.push(Op::KeyPosition, &[], Elem::Int);
    let distance = b.push(Op::Binary(Binary::Sub), &[key, query], Elem::Int);
    let distance = b.push(Op::ToFloat, &[distance], Elem::Float);
    let slope = b.push(Op::Capture(0), &[], Elem::Float);
    let bias = b.push(Op::Binary(Binary::Mul), &[slope, distance], Elem::Float);
    let result = b.push(Op::Binary(Binary::Add), &[scaled, bias], Elem::Float);
    (b.0, result)
}

/// Attention of a sequence to itself.
pub fn attend((keep, keep_result): (Body, ValueId), (score, score_result): (Body, ValueId), sink: Option<usize>) -> Attend {
    Attend {
        gives: Gives::Values,
        seq: AxisId(0),
        keys: AxisId(0),
        contract: vec![AxisId(1)],
        keep,
        keep_result,
        score,
        score_result,
        sink,
        plain: false,
        keyed: vec![],
        apart: vec![],
    }
}

impl Case {
    fn widths(&self) -> [usize; 4] {
        let (g, heads) = (self.groups, self.groups * self.per);
        [heads * self.key, g * self.key, g * self.value, heads * self.value]
    }

    fn code(&self) -> Attention {
        let [q, k, v, o] = self.widths();
        let (key, value, per) = (self.key, self.value, self.per);
        let mut tensors: Vec<_> =
            [q, k, v, o].iter().enumerate().map(|(at, row)| tensor(Base::Arena, at, *row, Store::F32)).collect();
        tensors.extend([4, 5].map(|operand| tensor(Base::Weights, operand, 0, Store::F32)));
        let by_head = |at| view(at, &[(INNER, per), (BATCH, 1)]);
        let views = AttentionViews {
            query: view(0, &[(INNER, per * key), (BATCH, key), (COLUMN, 1)]),
            keys: view(1, &[(INNER, key), (COLUMN, 1)]),
            values: view(2, &[(INNER, value), (COLUMN, 1)]),
            out: view(3, &[(INNER, per * value), (BATCH, value), (COLUMN, 1)]),
            captures: vec![by_head(4), by_head(5)],
        };
        let attend = attend(keep(self.reach), score(), self.sink.then_some(1));
        let (groups, reach) = (self.groups, self.reach);
        Attention {
            groups,
            per,
            key,
            value,
            best: 0,
            joined: false,
            tally: None,
            chosen: None,
            reach,
            range: Range::default(),
            keyed: vec![],
            apart: vec![],
            tables: vec![],
            attend,
            views,
            tensors,
            caches: 6,
            splits: 1,
            rounded: false,
            kept: None,
        }
    }

    /// Slots of the cache.
    fn slots(&self, capacity: usize) -> usize {
        match self.reach {
            Reach::Full | Reach::Every { .. } => capacity,
            Reach::Window { rows, .. } | Reach::SinksAndWindow { rows, .. } => rows,
        }
    }

    /// Byte offsets (fixed, per position) of the three caches.
    fn caches(&self) -> [i64; 6] {
        let (keys, values) = ((self.groups * self.key * 4) as i64, (self.groups * self.value * 4) as i64);
        match self.reach {
            Reach::Full => [0, 0, 0, keys, 0, keys + values],
            _ => {
                let rows = self.slots(0) as i64;
                [0, 0, keys * rows, 0, (keys + values) * rows, 0]
            }
        }
    }
}

/// What one sequence has seen.
#[derive(Clone, Default)]
struct History {
    keys: Vec<Vec<f32>>,
    values: Vec<Vec<f32>>,
}

/// The result of one row.
fn expected(case: &Case, history: &History, position: usize, query: &[f32], slopes: &[f32], sinks: &[f32]) -> Vec<f64> {
    let mut made = Vec::new();
    for head in 0..case.groups * case.per {
        let group = head / case.per;
        let score = |at: usize| {
            let key = &history.keys[at][group * case.key..][..case.key];
            let query = &query[head * case.key..][..case.key];
            let dot: f64 = key.iter().zip(query).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            dot * f64::from(SCALE) + f64::from(slopes[head]) * (at as f64 - position as f64)
        };
        let seen: Vec<usize> = (0..history.keys.len()).filter(|at| sees(case.reach, position, *at)).collect();
        let weights: Vec<f64> = seen.iter().map(|at| score(*at).exp()).collect();
        let sink = if case.sink { f64::from(sinks[head]).exp() } else { 0.0 };
        let total = weights.iter().sum::<f64>() + sink;
        for element in 0..case.value {
            let of = |at: usize| f64::from(history.values[at][group * case.value + element]);
            made.push(seen.iter().zip(&weights).map(|(at, w)| w * of(*at)).sum::<f64>() / total);
        }
    }
    made
}

fn check(case: Case) {
    let capacity = 96;
    let heads = case.groups * case.per;
    let (slopes, sinks) = (noise(heads, 3).iter().map(|x| x * 0.1).collect::<Vec<_>>(), noise(heads, 4));
    let slots = case.slots(capacity);
    let slot_words = slots * (case.groups * (case.key + case.value) + 1);
    // Only the positions start with a value that counts: what lies in empty slots must not be seen.
    let mut states = vec![1f32.to_bits(); 2 * slot_words];
    for slot in 0..2 {
        states[slot * slot_words + slot_words - slots..][..slots].fill(u32::MAX);
    }
    for target in targets() {
        let store = compile(&target, Code::Attention(case.code()), true);
        let read = compile(&target, Code::Attention(case.code()), false);
        let weights = [slopes.clone(), sinks.clone()].concat();
        let mut memory = Memory { capacity, weights, states: states.clone(), slot_words, ..Memory::default() };
        let mut histories = vec![History::default(); 2];
        // A prompt, one beside single steps, then steps past the end of every ring.
        let mut cuts = vec![vec![(1, 13)], vec![(0, 16), (1, 1)], vec![(1, 9), (0, 7)]];
        cuts.extend(vec![vec![(0, 1), (1, 1)]; 60]);
        for (round, cut) in cuts.into_iter().enumerate() {
            round_trip(&case, &mut memory, &mut histories, [&store, &read], &cut, round as u64);
        }
    }
}

fn round_trip(
    case: &Case,
    memory: &mut Memory,
    histories: &mut [History],
    [store, read]: [&super::Loaded; 2],
    cut: &[(usize, usize)],
    round: u64,
) {
    let list: Vec<_> = cut.iter().map(|&(s, n)| (s as i32, n as i32, histories[s].keys.len() as i32)).collect();
    memory.segments = segments(&list);
    memory.rows = cut.iter().map(|c| c.1).sum();
    let widths = case.widths();
    let parts: Vec<Vec<f32>> = (0..3).map(|at| noise(memory.rows * widths[at], 10 + 5 * round + at as u64)).collect();
    memory.arena = [parts.concat(), vec![0.0; memory.rows * widths[3]]].concat();
    let mut operands: Vec<i64> = (0..4).map(|at| 4 * widths[..at].iter().sum::<usize>() as i64).collect();
    operands.extend([0, 4 * (case.groups * case.per) as i64]);
    operands.extend(case.caches());
    memory.run(store, &operands, memory.rows);
    let code = case.code();
    memory.run(read, &operands, memory.rows * case.groups * case.per / code.heads_at_once());
    let row = |part: usize, row: usize| &parts[part][row * widths[part]..][..widths[part]];
    let heads = case.groups * case.per;
    let (slopes, sinks) = (memory.weights[..heads].to_vec(), memory.weights[heads..].to_vec());
    for segment in memory.segments.clone() {
        let history = &mut histories[segment.slot as usize];
        for at in 0..segment.rows as usize {
            let at = segment.row as usize + at;
            history.keys.push(row(1, at).to_vec());
            history.values.push(row(2, at).to_vec());
            let expected = expected(case, history, history.keys.len() - 1, row(0, at), &slopes, &sinks);
            let got = &memory.arena[memory.rows * widths[..3].iter().sum::<usize>()..][at * widths[3]..][..widths[3]];
            close(got, &expected, 2e-6);
        }
    }
}

#[test]
fn every_position_is_seen() {
    check(Case { groups: 2, per: 3, key: 20, value: 24, reach: Reach::Full, sink: false });
    check(Case { groups: 1, per: 8, key: 64, value: 64, reach: Reach::Full, sink: true });
    check(Case { groups: 3, per: 1, key: 7, value: 5, reach: Reach::Full, sink: false });
}

#[test]
fn a_window_slides_over_its_ring() {
    let reach = Reach::Window { rows: 32, window: 11 };
    check(Case { groups: 2, per: 2, key: 16, value: 40, reach, sink: false });
    check(Case { groups: 1, per: 11, key: 10, value: 16, reach, sink: true });
}

#[test]
fn first_positions_stay_in_sight() {
    let reach = Reach::SinksAndWindow { first: 4, window: 9, rows: 48 };
    check(Case { groups: 2, per: 4, key: 32, value: 33, reach, sink: false });
}
