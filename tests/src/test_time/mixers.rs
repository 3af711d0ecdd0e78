//! Mixers of stdlib/mixers/test_time.braid against reference outputs of their operators, in the evaluator and as native code: whole
//! sequences, step by step, and in calls of odd lengths. A model's tokens count the rows of a table that holds an operator's inputs;
//! projections are matrices that pick one input each.

use crate::properties::compiled::{Compiled, feed, state};
use crate::reference::checkpoint::Checkpoint;
use braid_compiler::forms::Chunks;
use std::collections::BTreeMap;
use std::path::Path;

/// Positions of the goldens.
const ROWS: usize = 50;
/// Heads of the goldens, and the size of each.
const HEADS: usize = 3;
const SIZE: usize = 16;

/// A projection of a mixer: the parameter, the operator's input, and what undoes the function that the mixer applies to it.
type Column = (&'static str, &'static str, fn(f64) -> f64);

/// One operator and the mixer that computes it.
struct Case {
    golden: &'static str,
    call: &'static str,
    columns: Vec<Column>,
    /// Parameters from inputs; a batched input gives each sequence its own.
    params: Vec<Column>,
    /// A norm over the result's heads.
    normed: bool,
    /// States with the golden's axes, and the golden's tensor.
    states: Vec<(&'static str, &'static str)>,
    tolerance: f64,
}

fn same(x: f64) -> f64 {
    x
}

/// The argument of a sigmoid.
fn logit(x: f64) -> f64 {
    (x / (1.0 - x)).ln()
}

/// The argument of a softplus.
fn inverse_softplus(x: f64) -> f64 {
    x.exp_m1().ln()
}

struct Golden(Checkpoint);

impl Golden {
    /// One sequence of a batched tensor, or the whole of another.
    fn tensor(&self, name: &str, sequence: usize) -> Vec<f64> {
        let (shape, data) = self.0.tensor(name).unwrap_or_else(|| panic!("no {name}"));
        let data = data.to_vec();
        let each = data.len() / 2;
        if shape[0] == 2 { data[sequence * each..(sequence + 1) * each].to_vec() } else { data }
    }
}

/// A matrix [n, d] whose row i picks column `from + i`.
fn pick(n: usize, d: usize, from: usize) -> Vec<f64> {
    (0..n * d).map(|at| if at % d == from + at / d { 1.0 } else { 0.0 }).collect()
}

/// `o / rms(o)` of each head.
fn normed(data: &[f64]) -> Vec<f64> {
    let norm = |run: &[f64]| {
        let scale = (run.iter().map(|x| x * x).sum::<f64>() / run.len() as f64 + 1e-6).sqrt().recip();
        run.iter().map(|x| x * scale).collect::<Vec<_>>()
    };
    data.chunks(SIZE).flat_map(norm).collect()
}

impl Case {
    fn golden(&self) -> Golden {
        Golden(Checkpoint::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("goldens/ops/{}.safetensors", self.golden))))
    }

    /// The spec, and the numbers of all parameters for one sequence.
    fn model(&self, golden: &Golden, sequence: usize) -> (String, BTreeMap<String, Vec<f32>>) {
        let tables: Vec<Vec<f64>> =
            self.columns.iter().map(|(_, input, f)| golden.tensor(input, sequence).into_iter().map(f).collect()).collect();
        let widths: Vec<usize> = tables.iter().map(|table| table.len() / ROWS).collect();
        let d: usize = widths.iter().sum();
        let text = format!(
            "model test(places: dim = {ROWS}, d: dim = {d})(tokens: [t]) -> [t, d] {{\n  param table: [places, d]\n  mixer = {}\n  return \
             mixer(table[places: tokens])\n}}\n",
            self.call
        );
        let mut numbers = BTreeMap::new();
        let mut set =
            |name: &str, data: Vec<f64>| drop(numbers.insert(name.to_owned(), data.iter().map(|x| *x as f32).collect()));
        let row = |at: usize| tables.iter().zip(&widths).flat_map(move |(table, n)| table[at * n..(at + 1) * n].to_vec());
        set("table", (0..ROWS).flat_map(row).collect());
        for (n, (param, ..)) in self.columns.iter().enumerate() {
            set(&format!("mixer.{param}"), pick(widths[n], d, widths[..n].iter().sum()));
        }
        for (param, input, f) in &self.params {
            set(&format!("mixer.{param}"), golden.tensor(input, sequence).into_iter().map(f).collect());
        }
        if self.normed {
            set("mixer.norm", vec![1.0; SIZE]);
        }
        // Row i of the result is entry i.
        let wide = HEADS * SIZE;
        set("mixer.wo", (0..d * wide).map(|at| if at / wide == at % wide { 1.0 } else { 0.0 }).collect());
        (text, numbers)
    }

    fn wanted(&self, golden: &Golden, sequence: usize) -> Vec<f64> {
        let o = golden.tensor("out.o", sequence);
        if self.normed { normed(&o) } else { o }
    }

    fn check(&self) {
        for chunks in [Chunks::Off, Chunks::Auto, Chunks::Rows(5), Chunks::Rows(7), Chunks::Rows(16)] {
            self.check_in(chunks);
        }
    }

    /// Compares both sequences, with recurrences walked as `chunks` says.
    fn check_in(&self, chunks: Chunks) {
        let golden = self.golden();
        let tokens: Vec<i32> = (0..ROWS as i32).collect();
        for sequence in 0..2 {
            let (text, numbers) = self.model(&golden, sequence);
            let compiled = Compiled::with(&text, chunks, |path, _| numbers[path].clone());
            let wanted = self.wanted(&golden, sequence);
            let evaluated = compiled.evaluated(&tokens);
            self.compare("evaluator", &evaluated, &wanted);
            for (what, cuts) in [("whole", &[ROWS][..]), ("step by step", &[1]), ("odd calls", &[7, 1, 13, 3])] {
                let mut session = compiled.session(2, 1);
                let (mut at, mut found) = (0, vec![]);
                for cut in cuts.iter().cycle() {
                    let end = (at + cut).min(ROWS);
                    found.extend(feed(&mut session, 0, &tokens[at..end]).into_iter().map(f64::from));
                    at = end;
                    if at == ROWS {
                        break;
                    }
                }
                let what = format!("{what}, {chunks:?}");
                self.compare(&what, &found, &wanted);
                for (name, tensor) in &self.states {
                    let axes = if golden.0.tensor(tensor).expect("a state").0.len() == 4 { "kv" } else { "v" };
                    self.compare_state(
                        &format!("{what}, state {name}"),
                        state(&session, 0, name),
                        axes,
                        &golden.tensor(tensor, sequence),
                    );
                }
            }
        }
    }

    fn compare(&self, what: &str, rows: &[f64], wanted: &[f64]) {
        let wide = HEADS * SIZE;
        let found: Vec<f64> = rows.chunks(rows.len() / ROWS).flat_map(|row| row[..wide].to_vec()).collect();
        self.near(what, &found, wanted);
    }

    fn near(&self, what: &str, found: &[f64], wanted: &[f64]) {
        let worst = super::distance(found, wanted);
        println!("{} {what}: {worst:.2e} of {:.1e}", self.golden, self.tolerance);
        assert!(worst <= self.tolerance, "{} {what}: {worst:e} is beyond {:e}", self.golden, self.tolerance);
    }

    /// A state of any order of axes against [heads, k, v] or [heads, v].
    fn compare_state(&self, what: &str, (axes, data): (Vec<(String, usize)>, Vec<f64>), order: &str, wanted: &[f64]) {
        let stride = |name: &str| {
            let at = axes.iter().position(|(axis, _)| axis == name).unwrap_or_else(|| panic!("{what} has {axes:?}"));
            axes[at + 1..].iter().map(|(_, n)| n).product::<usize>()
        };
        let last = axes.iter().find(|(axis, _)| axis == "v" || axis == "j").map_or("v", |(axis, _)| axis);
        let (head, v) = (stride("heads"), stride(last));
        let k = if order == "kv" { stride("k") } else { 0 };
        let rows = if order == "kv" { SIZE } else { 1 };
        let at = |n: usize| n / (rows * SIZE) * head + n / SIZE % rows * k + n % SIZE * v;
        self.near(what, &(0..wanted.len()).map(|n| data[at(n)]).collect::<Vec<_>>(), wanted);
    }
}

const QKV: [Column; 3] = [("wq", "in.q", same), ("wk", "in.k", same), ("wv", "in.v", same)];

/// The tolerance is twenty times the golden's own error in single precision.
#[test]
fn test_time_regression_is_a_step_on_a_local_objective() {
    let case = Case {
        golden: "ttt_generic_update",
        call: "test_time_regression(heads: 3, k: 16, v: 16, eps: 1e-6)",
        columns: [&QKV[..], &[("wa", "in.alpha", logit), ("we", "in.eta", logit), ("wb", "in.beta", inverse_softplus)]].concat(),
        params: vec![("penalty", "in.lam", f64::ln)],
        normed: true,
        states: vec![("S", "out.S")],
        tolerance: 1.6e-5,
    };
    case.check();
}

#[test]
fn titans_have_momentum_and_forget() {
    let case = Case {
        golden: "titans_memory",
        call: "titans(heads: 3, k: 16, v: 16, eps: 1e-6)",
        columns: [&QKV[..], &[("we", "in.eta", logit), ("wr", "in.theta", logit), ("wf", "in.alpha", logit)]].concat(),
        params: vec![],
        normed: true,
        states: vec![("M", "out.M"), ("P", "out.S")],
        tolerance: 2.4e-5,
    };
    case.check();
}

#[test]
fn ttt_linear_learns_by_mini_batches() {
    let case = Case {
        golden: "ttt_linear",
        call: "ttt_linear(heads: 3, k: 16, batch: 8)",
        columns: [&QKV[..], &[("wr", "in.eta", logit)]].concat(),
        params: vec![("scale", "in.gamma", same), ("shift", "in.beta_ln", same), ("w0", "in.W0", same), ("c0", "in.c0", same)],
        normed: false,
        states: vec![("W", "out.W"), ("c", "out.c")],
        tolerance: 2.8e-5,
    };
    case.check();
}

#[test]
fn mesa_solves_for_the_best_memory() {
    let case = Case {
        golden: "mesa_global_l2",
        call: "mesa(heads: 3, k: 16, v: 16, eps: 1e-6)",
        columns: [&QKV[..], &[("wf", "in.gamma", logit)]].concat(),
        params: vec![("penalty", "in.lam", f64::ln)],
        normed: true,
        states: vec![("A", "out.Kk"), ("B", "out.Kv")],
        tolerance: 4.0e-5,
    };
    case.check();
}
