//! Ops that go along the sequence and carry something from call to call.

use super::ops;
use super::tensor::{Dim, Tensor, contract, map1, map2, reduce, select};
use braid_compiler::forms::Chunk;
use braid_compiler::graph::{Graph, shape};
use braid_dsl::model::{Attend, Axis, AxisId, Body, Gives, Op, Recur, ValueId};

/// Axis of all queries of a call inside an attention.
const QUERY: AxisId = AxisId(u32::MAX - 1);
/// Axis of all keys.
const KEY: AxisId = AxisId(u32::MAX);

fn seq_of(graph: &Graph, x: &Tensor) -> AxisId {
    x.axes.iter().copied().find(|axis| shape::is_seq(&graph.axes, *axis)).expect("a sequence axis")
}

/// The rows before this call's (zeros at the start), and with this call's behind them.
fn behind(x: &Tensor, seq: AxisId, rows: usize, before: Option<Vec<Tensor>>) -> Tensor {
    let dims: Vec<Dim> = x.dims().into_iter().map(|(a, n)| (a, if a == seq { rows } else { n })).collect();
    let past = before.map_or_else(|| Tensor::filled(&dims, 0.0), |mut list| list.remove(0));
    past.joined(x, seq)
}

fn last(x: &Tensor, seq: AxisId, rows: usize) -> Vec<Tensor> {
    vec![x.sliced(seq, x.size(seq).unwrap_or(0) - rows, rows)]
}

/// The value `by` rows earlier.
pub fn shift(graph: &Graph, x: &Tensor, by: usize, before: Option<Vec<Tensor>>) -> (Tensor, Vec<Tensor>) {
    let seq = seq_of(graph, x);
    let all = behind(x, seq, by, before);
    (all.sliced(seq, 0, x.size(seq).unwrap_or(0)), last(&all, seq, by))
}

/// `y_t = sum_j w[j] x_{t - (W - 1) + j}`.
pub fn convolve(graph: &Graph, x: &Tensor, w: &Tensor, width: AxisId, before: Option<Vec<Tensor>>) -> (Tensor, Vec<Tensor>) {
    let (seq, taps) = (seq_of(graph, x), w.size(width).expect("the width"));
    let all = behind(x, seq, taps - 1, before);
    let rows = x.size(seq).unwrap_or(0);
    let tap = |j: usize| map2(&all.sliced(seq, j, rows), &w.picked(width, j), |a, b| a * b);
    let sum = (1..taps).fold(tap(0), |sum, j| map2(&sum, &tap(j), |a, b| a + b));
    (sum, last(&all, seq, taps - 1))
}

/// The states of a recurrence before the first row.
pub fn first(axes: &[Axis], recur: &Recur) -> Vec<Tensor> {
    let dims = |list: &[AxisId]| -> Vec<Dim> {
        list.iter().map(|axis| (*axis, shape::size(axes, *axis).expect("a fixed axis"))).collect()
    };
    recur.states.iter().map(|state| Tensor::filled(&dims(&state.axes), state.init)).collect()
}

/// All outputs over this call's rows, and the states after it. Whole chunks go by their own form where there is one.
pub fn recur(
    axes: &[Axis],
    recur: &Recur,
    chunk: Option<&Chunk>,
    args: &[&Tensor],
    before: Option<Vec<Tensor>>,
    (position, rows): (usize, usize),
) -> (Vec<Tensor>, Vec<Tensor>) {
    let mut states: Vec<Tensor> = before.unwrap_or_else(|| first(axes, recur));
    let mut outputs: Vec<Option<Tensor>> = vec![None; recur.outputs.len()];
    let mut row = 0;
    while row < rows {
        // A mini-batch begins where its length divides the position.
        let fits = |chunk: &&Chunk| row + chunk.rows <= rows && (!chunk.aligned || (position + row).is_multiple_of(chunk.rows));
        let Some(chunk) = chunk.filter(fits) else {
            states = one(axes, recur, args, states, (row, rows), &mut outputs);
            row += 1;
            continue;
        };
        let first = row;
        row += chunk.rows;
        let here = |x: &&Tensor| match x.axes.contains(&recur.seq) {
            true => x.sliced(recur.seq, first, chunk.rows).renamed(recur.seq, chunk.row),
            false => (*x).clone(),
        };
        let captures: Vec<Tensor> = args.iter().map(here).collect();
        let values = body(axes, &chunk.body, |op| match op {
            Op::Capture(n) => captures[*n].clone(),
            Op::State(n) => states[*n].clone(),
            other => panic!("{other:?} in a chunk"),
        });
        let of = |id: &ValueId| &values[id.0 as usize];
        for (output, id) in outputs.iter_mut().zip(&chunk.outputs) {
            // What does not vary along the rows is the same for all of them.
            let value = map2(&Tensor::filled(&[(chunk.row, chunk.rows)], 0.0), of(id), |_, x| x).renamed(chunk.row, recur.seq);
            let dims = value.dims().into_iter().map(|(a, n)| (a, if a == recur.seq { rows } else { n }));
            let mut table = output.take().unwrap_or_else(|| Tensor::filled(&dims.collect::<Vec<_>>(), 0.0));
            table.put(&value, recur.seq, first);
            *output = Some(table);
        }
        states = chunk.next.iter().zip(&recur.states).map(|(id, state)| of(id).ordered(&state.axes)).collect();
    }
    (outputs.into_iter().flatten().collect(), states)
}

/// One step at a row of so many; gives the states after it.
fn one(
    axes: &[Axis],
    recur: &Recur,
    args: &[&Tensor],
    states: Vec<Tensor>,
    (row, rows): (usize, usize),
    outputs: &mut [Option<Tensor>],
) -> Vec<Tensor> {
    let here = |x: &&Tensor| if x.axes.contains(&recur.seq) { x.picked(recur.seq, row) } else { (*x).clone() };
    let captures: Vec<Tensor> = args.iter().map(here).collect();
    let values = body(axes, &recur.body, |op| match op {
        Op::Capture(n) => captures[*n].clone(),
        Op::State(n) => states[*n].clone(),
        other => panic!("{other:?} in a recurrence"),
    });
    let of = |id: &ValueId| &values[id.0 as usize];
    for (output, id) in outputs.iter_mut().zip(&recur.outputs) {
        let value = of(id);
        let all = || Tensor::filled(&[vec![(recur.seq, rows)], value.dims()].concat(), 0.0);
        let mut table = output.take().unwrap_or_else(all);
        // A row is stored with the order of axes that the first row had.
        table.put(value, recur.seq, row);
        *output = Some(table);
    }
    recur.next.iter().zip(&recur.states).map(|(id, state)| of(id).ordered(&state.axes)).collect()
}

/// Attention; keys, values and what is asked of keys' positions are carried for all positions. A choice has its keys for values.
pub fn attend(
    axes: &[Axis],
    attend: &Attend,
    args: &[&Tensor],
    before: Option<Vec<Tensor>>,
    position: usize,
) -> (Tensor, Vec<Tensor>) {
    let (operands, captures) = args.split_at(attend.operands());
    let (q, k, v) = (operands[0], operands[1], operands[operands.len() - 1]);
    let rows = q.size(attend.seq).unwrap_or(0);
    let now: Vec<&Tensor> = [k, v].into_iter().chain(attend.keyed.iter().map(|n| captures[*n])).collect();
    let all: Vec<Tensor> = match before.filter(|kept| attend.keys == attend.seq && !kept.is_empty()) {
        Some(before) => before.iter().zip(&now).map(|(before, now)| before.joined(now, attend.seq)).collect(),
        None => now.into_iter().cloned().collect(),
    };
    let [keys, values, of_keys @ ..] = &all[..] else { panic!("attention without keys and values") };
    let seen = keys.size(attend.keys).unwrap_or(0);
    let raw = contract(&q.clone().renamed(attend.seq, QUERY), &keys.clone().renamed(attend.keys, KEY), &attend.contract);
    let leaf = |op: &Op| match op {
        Op::Capture(n) => match attend.keyed.iter().position(|keyed| keyed == n) {
            Some(at) => of_keys[at].clone().renamed(attend.keys, KEY),
            None if attend.apart.contains(n) => by_distance(captures[*n], attend.seq, (rows, seen), position == 0),
            None => captures[*n].clone().renamed(attend.seq, QUERY),
        },
        Op::Score => raw.clone(),
        Op::QueryPosition => Tensor::count(QUERY, rows, position),
        Op::KeyPosition => Tensor::count(KEY, seen, 0),
        other => panic!("{other:?} in an attention"),
    };
    let keep = &body(axes, &attend.keep, leaf)[attend.keep_result.0 as usize];
    let score = &body(axes, &attend.score, leaf)[attend.score_result.0 as usize];
    // A score without the axis of the keys is the same for all of them.
    let score = &map2(score, &Tensor::filled(&[(KEY, seen)], 0.0), |s, _| s);
    let hidden = |of: f64| select(keep, score, &Tensor::scalar(of));
    let sink = attend.sink.map(|n| captures[n]);
    let out = match attend.gives {
        Gives::Values if attend.plain => contract(&hidden(0.0), &values.clone().renamed(attend.keys, KEY), &[KEY]),
        Gives::Values => softmax(&hidden(f64::NEG_INFINITY), sink, &values.clone().renamed(attend.keys, KEY)),
        Gives::Total => total(&hidden(f64::NEG_INFINITY), sink),
        Gives::Tally { queries, apart } => {
            return (tally(&hidden(f64::NEG_INFINITY), attend.seq, (queries, apart), (rows, position)), vec![]);
        }
        Gives::Best(slot) => best(keep, score, (slot, shape::size(axes, slot).expect("a fixed axis")), rows),
    };
    (out.renamed(QUERY, attend.seq), all)
}

/// At each query and key the row of `x` that is as far from the first as the key is from the query.
fn by_distance(x: &Tensor, seq: AxisId, (rows, keys): (usize, usize), held: bool) -> Tensor {
    let dims: Vec<Dim> =
        [(QUERY, rows), (KEY, keys)].into_iter().chain(x.dims().into_iter().filter(|dim| dim.0 != seq)).collect();
    let mut all = Tensor::filled(&dims, 0.0);
    for query in (0..rows).filter(|_| held) {
        let mut row = Tensor::filled(&dims[1..], 0.0);
        (0..=query.min(keys - 1)).for_each(|key| row.put(&x.picked(seq, query - key), KEY, key));
        all.put(&row, QUERY, query);
    }
    all
}

/// What the last queries of a first call give to its keys, or to keys by their distance.
fn tally(score: &Tensor, seq: AxisId, (queries, apart): (usize, bool), (rows, position): (usize, usize)) -> Tensor {
    let (weight, total, _) = weights(score, None);
    let given = map2(&weight, &total, |a, b| if b == 0.0 { 0.0 } else { a / b });
    let keys = given.size(KEY).expect("keys");
    let mut all = map1(&given.picked(QUERY, 0).dims(), &given.picked(QUERY, 0), |_| 0.0);
    for query in (rows.saturating_sub(queries)..rows).filter(|_| position == 0) {
        for key in 0..=query.min(keys - 1) {
            let to = if apart { query - key } else { key };
            let more = map2(&all.picked(KEY, to), &given.picked(QUERY, query).picked(KEY, key), |a, b| a + b);
            all.put(&more, KEY, to);
        }
    }
    all.sliced(KEY, 0, rows.min(keys)).renamed(KEY, seq)
}

/// The exponentials of scores less the largest, and what they are divided by.
fn weights(score: &Tensor, sink: Option<&Tensor>) -> (Tensor, Tensor, Tensor) {
    let mut most = reduce(score, &[KEY], f64::NEG_INFINITY, f64::max);
    most = sink.map_or(most.clone(), |logit| map2(&most, logit, f64::max));
    let weight = map2(score, &most, |s, m| if s == f64::NEG_INFINITY { 0.0 } else { (s - m).exp() });
    let mut total = reduce(&weight, &[KEY], 0.0, |a, b| a + b);
    if let Some(logit) = sink {
        let own = map2(logit, &most, |s, m| (s - m).exp());
        total = map2(&total, &own, |a, b| a + b);
    }
    (weight, total, most)
}

fn softmax(score: &Tensor, sink: Option<&Tensor>, values: &Tensor) -> Tensor {
    let (weight, total, _) = weights(score, sink);
    map2(&contract(&weight, values, &[KEY]), &total, |a, b| if b == 0.0 { 0.0 } else { a / b })
}

/// The logarithm of the sum of exponentials.
fn total(score: &Tensor, sink: Option<&Tensor>) -> Tensor {
    let (_, total, most) = weights(score, sink);
    map2(&total, &most, |total, most| if total == 0.0 { f64::NEG_INFINITY } else { most + total.ln() })
}

/// The positions of the keys of largest score that are seen, by rising position, and -1 behind them.
fn best(keep: &Tensor, score: &Tensor, (slot, count): Dim, rows: usize) -> Tensor {
    let (score, keep) = (map2(score, keep, |s, _| s), map2(keep, score, |k, _| k));
    let queries = Tensor::filled(&[(QUERY, rows)], 0.0);
    let score = map2(&score, &queries, |s, _| s);
    let keep = map2(&keep, &score, |k, _| k).ordered(&score.axes);
    let rest: Vec<Dim> = score.dims().into_iter().filter(|dim| dim.0 != KEY).collect();
    let order: Vec<AxisId> = rest.iter().map(|dim| dim.0).chain([KEY]).collect();
    let (score, keep) = (score.ordered(&order), keep.ordered(&order));
    let keys = score.size(KEY).expect("the axis of the keys");
    let mut out = Tensor::filled(&[rest, vec![(slot, count)]].concat(), -1.0);
    for (at, (scores, keeps)) in score.data.chunks(keys).zip(keep.data.chunks(keys)).enumerate() {
        let mut seen: Vec<usize> = (0..keys).filter(|key| keeps[*key] != 0.0).collect();
        seen.sort_by(|a, b| scores[*b].partial_cmp(&scores[*a]).expect("numbers").then(a.cmp(b)));
        seen.truncate(count);
        seen.sort_unstable();
        seen.iter().enumerate().for_each(|(n, key)| out.data[at * count + n] = *key as f64);
    }
    out
}

/// All values of a body; `leaf` knows the leaves that belong to its owner.
fn body(axes: &[Axis], body: &Body, leaf: impl Fn(&Op) -> Tensor) -> Vec<Tensor> {
    let mut values: Vec<Tensor> = Vec::with_capacity(body.values.len());
    for value in &body.values {
        let args: Vec<&Tensor> = value.args.iter().map(|arg| &values[arg.0 as usize]).collect();
        let made = match &value.op {
            Op::Const(number) => Tensor::scalar(*number),
            Op::Index(axis) => Tensor::count(*axis, shape::size(axes, *axis).expect("a fixed axis"), 0),
            op @ (Op::Capture(_) | Op::State(_) | Op::Score | Op::QueryPosition | Op::KeyPosition) => leaf(op),
            op => ops::apply(axes, op, &args),
        };
        values.push(made);
    }
    values
}
