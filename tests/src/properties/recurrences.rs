//! Random recurrences of the classes that have a chunk form: however many rows are done at once, the numbers are the same.

use super::compiled::{Compiled, agree, made_up};
use super::{cuts, fed_in_parts, holds, tokens};
use crate::build;
use crate::reference::Reference;
use braid_compiler::forms::{self, Chunks, Decaying};
use braid_compiler::graph::Graph;
use braid_runtime::artifact::Dtype;
use proptest::prelude::*;

/// How the old state enters the new one.
pub const DECAYS: &[&str] =
    &["1.0", "0.9", "f", "exp(a)", "g", "exp(c)", "(1.0 - 2.0 * f)", "far", "exp(never)", "select(i > 0.0, 1.0, 0.0)"];

/// Decays at and near the ends of what gates give.
pub const EXTREMES: &[&str] = &[
    "0.0",
    "1.0",
    "exp(-1000.0)",
    "sigmoid(90.0)",
    "sigmoid(-90.0)",
    "far",
    "exp(never)",
    "exp(1000.0 * c)",
    "sigmoid(90.0 * sum[d] x * wg)",
    "select(i > 0.0, exp(-1000.0 * f), sigmoid(90.0))",
    "exp(-exp(20.0 * i))",
];

/// What the update reads and writes.
const UPDATES: &[&str] = &[
    "    S = S + kk * vv\n",
    "    S = S + (1.0 - g) * vv\n",
    "    S = S + kk * (f * (vv - sum[k] kk * S))\n",
    "    S = S + kk * vv - kk * (f * (sum[k] q * S))\n",
    "    S = S + kk * (f * (vv - sum[k] kk * S))\n    S = S + q * (0.5 * (vv - sum[k] q * S))\n",
    "    S = S - (g * kk) * (sum[k] kk * S) + kk * vv\n",
    "    S = S + kk * vv + q * (f * vv)\n",
    "    S = S + kk\n",
    "    S = S + kk * (sum[v] kk * vv)\n",
    // What a branch that is not taken divides by is zero.
    "    m = select(i > 0.0, 1.0 + i, 0.0)\n    S = select(m > 0.0, S + kk * (vv / m), S)\n",
    "    m = select(i > 0.0, 1.0 + i, 0.0)\n    S = select(m == 0.0, S, S + kk * (f * (vv - sum[k] (kk / m) * S)))\n",
];

/// What is read, and when.
const READS: &[&str] = &[
    "    y = sum[k] q * S\n",
    "    y = (sum[k] q * S) / (1.0 + abs(sum[k] kk * S))\n",
    "    y = tanh(sum[k] q * (f * S)) + vv\n",
    "    y = (sum[k] S) * f\n",
    "    o = sum[k] q * S\n    y = o + tanh(o)\n",
];

/// One recurrence: a decay, an update, a read, whether the state is read before, and a normaliser.
#[derive(Clone, Debug)]
pub struct Recurrence {
    decay: &'static str,
    update: usize,
    read: usize,
    before: bool,
    undecayed: bool,
    normaliser: bool,
    sizes: (usize, usize, usize),
}

fn recurrence(decays: &'static [&'static str]) -> impl Strategy<Value = Recurrence> {
    of_sizes(decays, (1usize..4, 2usize..6, 1usize..6))
}

/// Recurrences whose heads, keys and values have such sizes.
pub fn of_sizes(
    decays: &'static [&'static str],
    sizes: impl Strategy<Value = (usize, usize, usize)>,
) -> impl Strategy<Value = Recurrence> {
    let parts = (prop::sample::select(decays), 0..UPDATES.len(), 0..READS.len(), any::<(bool, bool, bool)>(), sizes);
    parts.prop_map(|(decay, update, read, (before, undecayed, normaliser), sizes)| Recurrence {
        decay,
        update,
        read,
        before,
        undecayed,
        normaliser,
        sizes,
    })
}

impl Recurrence {
    /// The model's text.
    pub fn text(&self) -> String {
        let (decay, update, read) = (self.decay, UPDATES[self.update], READS[self.read]);
        let (z, more) = match self.normaliser {
            true => (", z: [h, k]", "    z = f * z + kk\n    n = 1.0 + abs(sum[k] q * z)\n"),
            false => ("", "    n = 1.0\n"),
        };
        let (before, after) = if self.before { (read, "") } else { ("", read) };
        let body = match self.undecayed {
            false => format!("{before}    S = {decay} * S\n{update}{after}"),
            // Reads in the first line are of the state as the step begins.
            true => format!("{before}{}{after}", update.replacen("= S", &format!("= {decay} * S"), 1)),
        };
        around(&format!("recur S: [h, k, v]{z} over t"), &format!("{body}{more}"), self.sizes)
    }
}

/// A model around a recurrence: what its equations may use comes before it, and it has `y` and `n` to give.
pub fn around(head: &str, body: &str, (h, k, v): (usize, usize, usize)) -> String {
    format!(
        "model test(vocab: dim = 11, d: dim = 12, h: dim = {h}, k: dim = {k}, v: dim = {v})(tokens: [t]) -> [t, vocab] {{\n  param embed: \
         [vocab, d]   param wq, wk, wg: [h, k, d]   param wv: [h, v, d]   param wf, wi: [h, d]   param out: [vocab, h, v]\n  x = \
         embed[vocab: tokens]\n  q = sum[d] x * wq\n  kk = l2norm[k](sum[d] x * wk, 0.01)\n  g = sigmoid(sum[d] x * wg)\n  vv = sum[d] x * \
         wv\n  i = sum[d] x * wi\n  f = sigmoid(sum[d] x * wf)\n  a = -softplus(i)\n  c = -softplus(sum[d] x * wg)\n  far = sigmoid(90.0 * i)\n  \
         never = -100.0 * softplus(5.0 * i)\n  {head} {{\n{body}  }}\n  generate autoregressive\n  return sum[h, v] (y / n) * out\n}}\n"
    )
}

/// What the evaluator makes of a spec in chunks, and whether every recurrence has them.
fn in_chunks(text: &str, chunks: Chunks, ids: &[i64]) -> (Vec<f64>, bool) {
    let graph = Graph::build(&build::model(text));
    let forms = forms::derive(&graph, chunks, forms::MAX_ROWS);
    let derived = forms.chunks.values().all(Result::is_ok);
    let graph = &forms.graph;
    let numbers = |path: &str| {
        let param = graph.params.iter().find(|param| param.path == path).expect("a parameter");
        let shape: Vec<usize> = param.axes.iter().filter_map(|a| graph.size(*a)).collect();
        made_up(path, &shape).into_iter().map(f64::from).collect()
    };
    (Reference::in_chunks(&forms, numbers).run(ids).data, derived)
}

/// Whatever the size of the chunks, they compute what the steps do, in double precision.
pub fn equal_in_chunks(text: &str, length: usize) -> Result<(), TestCaseError> {
    let ids: Vec<i64> = tokens(length, 11, length).into_iter().map(i64::from).collect();
    let (steps, _) = in_chunks(text, Chunks::Off, &ids);
    for chunks in [2, 3, 8]
        .into_iter()
        .flat_map(|rows| [Chunks::Rows(rows), Chunks::Matrices { rows, solving: rows, decaying: Decaying::Halves }])
    {
        let (found, derived) = in_chunks(text, chunks, &ids);
        // Matrix units have none where keys decay row after row.
        prop_assert!(derived || matches!(chunks, Chunks::Matrices { .. }), "no chunk form");
        // What is no number counts as far off.
        let far = found.iter().zip(&steps).map(|(a, b)| (a - b).abs()).find(|off| off.is_nan() || *off >= 1e-9);
        prop_assert!(far.is_none(), "{chunks:?} are {far:?} off");
    }
    Ok(())
}

/// Native code computes what the evaluator does: a whole sequence and its parts, for chunks of so many rows. Weights are made up, and
/// rounded first if they are stored so, so that the evaluator has the numbers that are stored.
pub fn equal_as_code(
    text: &str,
    (length, cuts): (usize, &[usize]),
    rows: usize,
    (target, dtype): (&str, Dtype),
) -> Result<(), TestCaseError> {
    let numbers = |path: &str, shape: &[usize]| match dtype {
        Dtype::Bf16 => made_up(path, shape).into_iter().map(|x| half::bf16::from_f32(x).to_f32()).collect(),
        _ => made_up(path, shape),
    };
    let compiled = Compiled::stored(text, Chunks::Rows(rows), (target, dtype), numbers);
    let ids = tokens(length, compiled.vocab(), length);
    let wanted = compiled.evaluated(&ids);
    agree("the whole sequence", &compiled.whole(&ids), &wanted, 1e-4)?;
    agree("its parts", &fed_in_parts(&compiled, &ids, cuts), &wanted, 1e-4)
}

/// The derivation itself.
#[test]
fn chunks_equal_steps_in_the_evaluator() {
    holds(64, (recurrence(DECAYS), 1usize..40), |(recurrence, length)| equal_in_chunks(&recurrence.text(), length));
}

/// The kernels: whole sequences and odd parts of them, for several sizes of chunks and both widths of vectors.
#[test]
fn chunks_run_as_they_are_derived() {
    let sizes = prop::sample::select(vec![2usize, 5, 16, 32]);
    let targets = prop::sample::select(vec!["cpu", "cpu:x86-64-v3"]);
    holds(40, (recurrence(DECAYS), 1usize..90, cuts(), sizes, targets), |(recurrence, length, cuts, rows, target)| {
        equal_as_code(&recurrence.text(), (length, &cuts), rows, (target, Dtype::F32))
    });
}

/// Gates at their ends, with weights in both widths: nothing overflows, nothing is divided by zero, and decays of 0 and 1 are exact.
#[test]
fn gates_at_their_ends_are_safe() {
    let sizes = prop::sample::select(vec![3usize, 16, 32]);
    let dtypes = prop::sample::select(vec![Dtype::Bf16, Dtype::Bf16, Dtype::F32]);
    holds(24, (recurrence(EXTREMES), 1usize..70, cuts(), sizes, dtypes), |(recurrence, length, cuts, rows, dtype)| {
        equal_as_code(&recurrence.text(), (length, &cuts), rows, ("cpu", dtype))
    });
}
