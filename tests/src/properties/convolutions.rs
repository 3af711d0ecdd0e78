//! Random recurrences whose coefficients are the same at every step: as convolutions they compute what their steps do.

use super::compiled::made_up;
use super::recurrences::equal_as_code;
use super::{cuts, holds, tokens};
use crate::build;
use crate::reference::Reference;
use braid_compiler::forms::recur::convolution;
use braid_compiler::forms::{self, Chunks, Forms};
use braid_compiler::graph::Graph;
use braid_dsl::model::Op;
use braid_runtime::artifact::Dtype;
use proptest::prelude::*;

/// States, and how they change; `A` and `B` are decays, `U` is what is written.
const UPDATES: &[(&str, &str)] = &[
    ("S: [c, n]", "S = A * S + U"),
    ("S: [c, n]", "S = A * S + U + b * v + 0.25"),
    ("S: [c, n]", "S = U + S - 0.5 * S * (1.0 + cos(p))"),
    // Complex decay, and a full coupling.
    (
        "S: [c, n], P: [c, n]",
        "was = A * cos(p) * S - A * sin(p) * P + U\n    P = A * cos(p) * P + A * sin(p) * S - b * u\n    S = was",
    ),
    ("S: [c, n], P: [c, n]", "P = B * P + 0.3 * S + U\n    S = A * S - 0.3 * P + b * v"),
    // A memory of a memory, one that lacks an axis, and one that is made anew.
    ("S: [c, n], P: [c]", "P = 0.7 * P + u\n    S = A * S + b * P"),
    ("S: [c, n], P: [c]", "S = A * S + U\n    P = 0.7 * P + (sum[n] r * S)"),
    ("S: [c, n], P: [c, n]", "S = A * S + B * P\n    P = U"),
    // Elements that meet: a product of two vectors, a matrix, both.
    ("S: [c, n]", "S = A * S - 0.3 * b * (sum[n] r * S) + U"),
    ("S: [c, n]", "S = (sum[m] mix * S[n as m]) + U"),
    ("S: [c, n], P: [c, n]", "was = (sum[m] mix * P[n as m]) + A * S + b * u\n    P = B * P - b * (sum[n] r * S)\n    S = was"),
];

/// What is written of the inputs `u` and `v`.
const WRITTEN: &[&str] = &["b * u", "b * u * v", "u - v * b", "w"];

/// What is read.
const READS: &[&str] = &[
    "y = sum[n] r * S",
    "y = (sum[n] r * S) + p_skip * u",
    "y = tanh(sum[n] r * S) * v + (sum[n] S)",
    "y = u * (sum[n] r * (S + b * v))",
    "y = (sum[n] r * S) / (1.0 + abs(sum[n] b * S))",
    "y = sum[n] w * tanh(S)",
];

const DECAYS: &[&str] = &["0.9", "1.0", "0.0", "a", "exp(-p * p)", "-a", "exp(-1000.0)", "sigmoid(90.0 * p)", "1.01"];

/// An update, what is written, decays, a read and whether it comes first, and sizes.
#[derive(Clone, Debug)]
struct Invariant {
    update: usize,
    written: &'static str,
    decays: (&'static str, &'static str),
    read: &'static str,
    before: bool,
    sizes: (usize, usize),
}

fn invariant() -> impl Strategy<Value = Invariant> {
    let decay = || prop::sample::select(DECAYS);
    let texts = (prop::sample::select(WRITTEN), prop::sample::select(READS));
    let parts = (0..UPDATES.len(), texts, (decay(), decay()), any::<bool>(), (1usize..20, 2usize..6));
    parts.prop_map(|(update, (written, read), decays, before, sizes)| Invariant { update, written, decays, read, before, sizes })
}

impl Invariant {
    /// Whether what is written varies along what the update sums over: then no vector stands for it.
    fn is_refused(&self) -> bool {
        self.written == "w" && UPDATES[self.update].1.contains("sum[")
    }

    fn text(&self) -> String {
        let (states, update) = UPDATES[self.update];
        let update = update
            .replace("A *", &format!("{} *", self.decays.0))
            .replace("B *", &format!("{} *", self.decays.1))
            .replace('U', self.written);
        let [first, second] = if self.before { [self.read, &update] } else { [&update, self.read] };
        let (c, n) = self.sizes;
        format!(
            "model test(vocab: dim = 11, d: dim = 12, c: dim = {c}, n: dim = {n})(tokens: [t]) -> [t, vocab] {{\n  dim m = n\n  param embed: \
             [vocab, d]   param wu, wv: [c, d]   param ww: [c, n, d]   param pa, p, b, r: [c, n]   param p_skip: [c]   param pm: [c, n, m]   \
             param out: [vocab, c]\n  x = embed[vocab: tokens]\n  u = sum[d] x * wu\n  v = sum[d] x * wv\n  w = sum[d] x * ww\n  a = \
             sigmoid(pa)\n  mix = pm / n\n  recur {states} over t {{\n    {first}\n    {second}\n  }}\n  generate autoregressive\n  return \
             sum[c] y * out\n}}\n"
        )
    }
}

/// The forms of a spec whose recurrences go step by step, or are convolutions in chunks of so many pieces of so many rows.
fn convolved(text: &str, pieces: Option<(usize, usize)>) -> Result<Forms, String> {
    let mut forms = forms::derive(&Graph::build(&build::model(text)), Chunks::Off, forms::MAX_ROWS);
    let Some(pieces) = pieces else { return Ok(forms) };
    for node in forms.graph.order() {
        let Op::Recur(recur) = forms.graph.op(node).clone() else { continue };
        let chunk = convolution::in_pieces(&mut forms.graph, node, &recur, pieces)?;
        forms.chunks.insert(node, Ok(chunk));
    }
    Ok(forms)
}

fn evaluated(forms: &Forms, ids: &[i64]) -> Vec<f64> {
    let graph = &forms.graph;
    let numbers = |path: &str| {
        let param = graph.params.iter().find(|param| param.path == path).expect("a parameter");
        let shape: Vec<usize> = param.axes.iter().filter_map(|a| graph.size(*a)).collect();
        made_up(path, &shape).into_iter().map(f64::from).collect()
    };
    Reference::in_chunks(forms, numbers).run(ids).data
}

/// The derivation itself, for chunks that one piece is, several are, of rows that are powers of two or are not.
#[test]
fn convolutions_equal_steps_in_the_evaluator() {
    holds(48, (invariant(), 1usize..40), |(invariant, length)| {
        let text = invariant.text();
        let ids: Vec<i64> = tokens(length, 11, length).into_iter().map(i64::from).collect();
        let steps = evaluated(&convolved(&text, None).expect("steps"), &ids);
        for pieces in [(3, 1), (1, 2), (2, 4), (3, 5), (1, 7)] {
            let forms = match convolved(&text, Some(pieces)) {
                Ok(forms) => forms,
                Err(why) => {
                    prop_assert!(invariant.is_refused(), "{why}");
                    continue;
                }
            };
            let found = evaluated(&forms, &ids);
            let far =
                found.iter().zip(&steps).map(|(a, b)| (a - b).abs() / (1.0 + b.abs())).find(|off| off.is_nan() || *off >= 1e-9);
            prop_assert!(far.is_none(), "{pieces:?} are {far:?} off");
        }
        Ok(())
    });
}

/// The kernels: whole sequences and odd parts of them, with the state carried on.
#[test]
fn convolutions_run_as_they_are_derived() {
    let sizes = prop::sample::select(vec![2usize, 6, 16, 32]);
    let targets = prop::sample::select(vec!["cpu", "cpu:x86-64-v3"]);
    holds(20, (invariant(), 1usize..90, cuts(), sizes, targets), |(invariant, length, cuts, rows, target)| {
        equal_as_code(&invariant.text(), (length, &cuts), rows, (target, Dtype::F32))
    });
}
