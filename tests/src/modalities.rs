//! Images and other inputs that are no text: scans in several directions, layers that a condition steers, against golden operators and plain
//! loops written from the papers' equations.

use crate::properties::compiled::{Compiled, agree, made_up};
use crate::recurrences::case::Case;
use crate::recurrences::golden::Golden;
use braid_runtime::session::{Feed, Inputs, Session, Values, Wanted};

/// The results of one sequence of a model without token ids.
fn seen(session: &mut Session, given: &[(&str, Vec<f32>)]) -> Vec<f32> {
    let (mut inputs, mut all) = (Inputs::default(), Vec::new());
    given.iter().for_each(|(name, numbers)| inputs.set(session.manifest(), name, Values::Floats(numbers)).unwrap());
    let rows = inputs.rows(session.manifest());
    session.reset(0).unwrap();
    session.give(0, inputs).unwrap();
    session.prefill(0, &vec![0; rows], Wanted::All, |_, logits| all.extend_from_slice(logits)).unwrap();
    all
}

fn singles(numbers: &[f64]) -> Vec<f32> {
    numbers.iter().map(|x| *x as f32).collect()
}

#[test]
fn scans_both_ways() {
    let text = "
  df = softplus(dt_f)
  ub = reversed(u)
  db = softplus(reversed(dt_b))
  bb = reversed(B_b)
  recur F: [c, n], R: [c, n] over t {
    F = exp(-exp(A_log_f) * df) * F + df * B_f * u
    R = exp(-exp(A_log_b) * db) * R + db * bb * ub
    yf = sum[n] C_f * F
    r = R
  }
  back = sum[n] C_b * reversed(r)
  y = (yf + D_f * u + back + D_b * u) * silu(z)";
    let columns = "u[c] z[c] dt_f[c] B_f[n] C_f[n] dt_b[c] B_b[n] C_b[n]";
    let params = "A_log_f[c,n] D_f[c] A_log_b[c,n] D_b[c]";
    Case { golden: "bidirectional_mamba", columns, params, text, outputs: "y[c]", whole: true, ..Case::default() }.check();
}

/// Rows, columns, and both from the end, of an image of 6 rows of 7.
#[test]
fn scans_in_four_directions() {
    let spec = "model tested(c: dim = 5, n: dim = 4, ways: dim = 4, high: dim = 6, wide: dim = 7)(
  x: [t, c], dt_raw: [t, ways, c], b: [t, ways, n], o: [t, ways, n],
) -> [t, c] {
  dim cells = high * wide
  param a_log: [ways, c, n]   param skip, dt_bias: [ways, c]
  down = (index[high] * wide + index[wide])[(wide, high) as cells][cells: position[t]]
  across = (index[wide] * high + index[high])[(high, wide) as cells][cells: position[t]]
  turned = x[t: down]
  w = index[ways]
  u = select(w == 0, x, select(w == 1, turned, select(w == 2, reversed(x), reversed(turned))))
  dt = softplus(dt_raw + dt_bias)
  recur S: [ways, c, n] over t {
    S = exp(-exp(a_log) * dt) * S + dt * b * u
    y = sum[n] S * o
  }
  y = y + skip * u
  return y[ways: 0] + y[ways: 1][t: across] + reversed(y[ways: 2]) + reversed(y[ways: 3])[t: across]
}
";
    let golden = Golden::open("ss2d_cross_scan");
    let source = |path: &str| match path {
        "a_log" => "in.A_log",
        "skip" => "in.D",
        _ => "in.dt_bias",
    };
    let compiled = Compiled::with(spec, Default::default(), |path, _| singles(golden.all(source(path))));
    let mut session = compiled.session(2, 1);
    // From [parts, 42] to [42, parts].
    let rows = |numbers: &[f64]| {
        (0..numbers.len()).map(|at| numbers[at % (numbers.len() / 42) * 42 + at / (numbers.len() / 42)]).collect::<Vec<f64>>()
    };
    for sequence in 0..2 {
        let input = |name: &'static str, from: &str| (name, singles(&rows(golden.sequence(from, sequence))));
        let given = [input("x", "in.x"), input("dt_raw", "in.dt_raw"), input("b", "in.Bm"), input("o", "in.Cm")];
        let wanted = rows(golden.sequence("out.y", sequence));
        let largest = wanted.iter().fold(0.0, |most: f64, x| most.max(x.abs()));
        agree("four directions", &seen(&mut session, &given), &wanted, golden.tolerance("out.y") / largest).unwrap();
    }
}

/// A mixer from both sides is what it is over the sequence and over that from its end.
#[test]
fn a_mixer_from_both_sides() {
    let text = |how: &str| {
        format!(
            "block sums(d: dim, rate: float)(x: [t, d]) -> [t, d] {{\n  recur s: [d] over t {{\n    s = rate * s + x\n    y = s\n  }}\n  return y\n}}\n\
             model tested(d: dim = 9)(x: [t, d]) -> [t, d] {{\n  {how}\n}}\n"
        )
    };
    let numbers = made_up("rows", &[23 * 9]);
    let turned: Vec<f32> = numbers.chunks(9).rev().flatten().copied().collect();
    let result = |how: &str, numbers: &[f32]| seen(&mut Compiled::new(&text(how)).session(1, 1), &[("x", numbers.to_vec())]);
    let both = result("return both_ways(forward: sums(rate: 0.9), backward: sums(rate: 0.5))(x)", &numbers);
    let (forth, back) = (result("return sums(rate: 0.9)(x)", &numbers), result("return sums(rate: 0.5)(x)", &turned));
    let back = back.chunks(9).rev().flatten();
    let wanted: Vec<f64> = forth.iter().zip(back).map(|(a, b)| f64::from(*a) + f64::from(*b)).collect();
    agree("both ways", &both, &wanted, 1e-6).unwrap();
    let later = result("return ahead(x, 3) - x[t: position[t] - 2]", &numbers);
    let at = |row: i32, d: i32| if (0..23).contains(&row) { numbers[(row * 9 + d) as usize] } else { 0.0 };
    let wanted: Vec<f64> = (0..23 * 9).map(|n| f64::from(at(n / 9 + 3, n % 9) - at(n / 9 - 2, n % 9))).collect();
    agree("rows ahead", &later, &wanted, 1e-6).unwrap();
}

/// Numbers of a parameter by the end of its path.
struct Plain<'a> {
    compiled: &'a Compiled,
    rows: usize,
}

impl Plain<'_> {
    /// `x w + b` for each row: `w` is `[out, in]`.
    fn linear(&self, x: &[f64], w: &str, b: &str) -> Vec<f64> {
        let (w, b) = (self.compiled.numbers(w), self.compiled.numbers(b));
        let (inner, outer) = (x.len() / self.rows, b.len());
        let one = |row: usize, n: usize| (0..inner).map(|i| x[row * inner + i] * w[n * inner + i]).sum::<f64>() + b[n];
        (0..self.rows * outer).map(|at| one(at / outer, at % outer)).collect()
    }

    /// Attention of every row to every row, by heads.
    fn attention(&self, x: &[f64], path: &str, heads: usize) -> Vec<f64> {
        let of = |name: &str| self.linear(x, &format!("{path}.w{name}"), &format!("{path}.b{name}"));
        let (q, k, v) = (of("q"), of("k"), of("v"));
        let width = q.len() / self.rows;
        let size = width / heads;
        let mut o = vec![0.0; q.len()];
        for (row, head) in (0..self.rows).flat_map(|row| (0..heads).map(move |head| (row, head))) {
            let at = |t: usize, i: usize| t * width + head * size + i;
            let dot = |t: usize| (0..size).map(|i| q[at(row, i)] * k[at(t, i)]).sum::<f64>() / (size as f64).sqrt();
            let weights: Vec<f64> = (0..self.rows).map(|t| dot(t).exp()).collect();
            let total: f64 = weights.iter().sum();
            (0..size).for_each(|i| o[at(row, i)] = (0..self.rows).map(|t| weights[t] / total * v[at(t, i)]).sum());
        }
        self.linear(&o, &format!("{path}.wo"), &format!("{path}.bo"))
    }

    /// A norm of each row without parameters, scaled and shifted.
    fn modulated(&self, x: &[f64], [shift, scale]: [&[f64]; 2]) -> Vec<f64> {
        let width = x.len() / self.rows;
        let row = |row: &[f64]| {
            let mean = row.iter().sum::<f64>() / width as f64;
            let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / width as f64;
            row.iter().map(|x| (x - mean) / (variance + 1e-6).sqrt()).collect::<Vec<f64>>()
        };
        let normal = x.chunks(width).flat_map(row);
        normal.enumerate().map(|(at, x)| x * (1.0 + scale[at % width]) + shift[at % width]).collect()
    }
}

/// The diffusion transformer (`dit` of `adaptive_layer`s), whose condition is the same at all positions, against loops from the paper's equations.
#[test]
fn layers_that_a_condition_steers() {
    let spec = "use models.dit\nmodel tested = dit(layers: 2, d: 24, heads: 3, hidden: 40, channels: 10, out: 14, places: 20)\n";
    let compiled = Compiled::new(spec);
    let (rows, d) = (17, 24);
    let (latents, condition) = (made_up("latents", &[rows * 10]), made_up("condition", &[d]));
    let repeated = (0..rows).flat_map(|_| condition.clone()).collect();
    let found = seen(&mut compiled.session(2, 1), &[("latents", latents.clone()), ("condition", repeated)]);

    let silu = |x: &f32| f64::from(*x) / (1.0 + (-f64::from(*x)).exp());
    let condition: Vec<f64> = condition.iter().map(silu).collect();
    let one = Plain { compiled: &compiled, rows: 1 };
    let all = Plain { compiled: &compiled, rows };
    let numbers: Vec<f64> = latents.iter().map(|x| f64::from(*x)).collect();
    let place = compiled.numbers("place");
    let mut x: Vec<f64> = all.linear(&numbers, "wx", "bx").iter().zip(&place).map(|(x, place)| x + place).collect();
    for layer in 0..2 {
        let path = |name: &str| format!("layers.{layer}.layer.{name}");
        let m = one.linear(&condition, &path("w"), &path("b"));
        let part = |n: usize| &m[n * d..(n + 1) * d];
        let added = |x: &[f64], more: &[f64], gate: &[f64]| -> Vec<f64> {
            x.iter().zip(more).enumerate().map(|(at, (x, more))| x + gate[at % d] * more).collect()
        };
        let mixed = all.attention(&all.modulated(&x, [part(0), part(1)]), &path("mixer"), 3);
        x = added(&x, &mixed, part(2));
        let inner = all.linear(&all.modulated(&x, [part(3), part(4)]), &path("ffn.wu"), &path("ffn.bu"));
        let gelu = |x: &f64| 0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh());
        let inner: Vec<f64> = inner.iter().map(gelu).collect();
        x = added(&x, &all.linear(&inner, &path("ffn.wd"), &path("ffn.bd")), part(5));
    }
    let m = one.linear(&condition, "wm", "bm");
    let wanted = all.linear(&all.modulated(&x, [&m[..d], &m[d..]]), "wo", "bo");
    agree("a denoiser", &found, &wanted, 1e-5).unwrap();
}

/// Several sequences in one call: each has its own rows, and its own end.
#[test]
fn sequences_end_where_they_end() {
    let spec = "model tested(d: dim = 9)(x: [t, d]) -> [t, d] {\n  return reversed(x) * float(length[t]) + ahead(x, 1)\n}\n";
    let compiled = Compiled::new(spec);
    let mut session = compiled.session(2, 3);
    let lengths = [5, 1, 30];
    let numbers: Vec<Vec<f32>> = lengths.iter().map(|rows| made_up(&format!("of {rows}"), &[rows * 9])).collect();
    let ids: Vec<Vec<i32>> = lengths.iter().map(|rows| vec![0; *rows]).collect();
    for (slot, numbers) in numbers.iter().enumerate() {
        let mut inputs = Inputs::default();
        inputs.set(session.manifest(), "x", Values::Floats(numbers)).unwrap();
        session.give(slot, inputs).unwrap();
    }
    // In another order than that of the slots.
    let feeds = [2, 0, 1].map(|slot| Feed::new(slot, &ids[slot], Wanted::All));
    let found = session.forward(&feeds).unwrap().to_vec();
    let one = |slot: usize| {
        let (rows, numbers) = (lengths[slot], &numbers[slot]);
        let at = |row: usize, d: usize| if row < rows { f64::from(numbers[row * 9 + d]) } else { 0.0 };
        (0..rows * 9).map(move |n| at(rows - 1 - n / 9, n % 9) * rows as f64 + at(n / 9 + 1, n % 9)).collect::<Vec<f64>>()
    };
    let wanted = [one(2), one(0), one(1)].concat();
    agree("three sequences", &found, &wanted, 1e-6).unwrap();
}
