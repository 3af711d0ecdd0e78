//! Random recurrences of several states that read one another, each linear: momentum, memories of memories, feeds. Their chunks are judged
//! as those of single states are.

use super::recurrences::{DECAYS, EXTREMES, around, equal_as_code, equal_in_chunks};
use super::{cuts, holds};
use braid_runtime::artifact::Dtype;
use proptest::prelude::*;

/// Further states, and an update of all of them; `D` is the decay of one state, `E` that of another.
const UPDATES: &[(&str, &str)] = &[
    // A running mean of what is written, and the same of the one before it.
    ("P: [h, k, v]", "P = E * P + kk * vv\n    S = D * S + P"),
    ("P: [h, k, v]", "S = D * S + f * P\n    P = E * P + kk * vv"),
    ("P: [h, k, v]", "P = E * P + kk * vv\n    S = D * S + g * P + q * (f * vv)"),
    // Momentum: of a gradient, of one that looks ahead, and with a penalty.
    ("P: [h, k, v]", "P = E * P - 0.3 * f * grad(sum[v] (sum[k] kk * S - vv) ^ 2, S)\n    S = D * S + P"),
    ("P: [h, k, v]", "ahead = S + 0.5 * P\n    P = E * P - 0.2 * kk * ((sum[k] kk * ahead) - vv)\n    S = D * S + P"),
    ("P: [h, k, v]", "P = E * P - 0.2 * f * (kk * ((sum[k] kk * S) - vv))\n    S = D * S + P - 0.1 * f * S"),
    // Three in a row.
    ("P: [h, k, v], R: [h, k, v]", "R = E * R + kk * vv\n    P = 0.8 * P + R\n    S = D * S + P - 0.1 * R"),
    ("P: [h, k, v], R: [h, k, v]", "S = D * S + P\n    P = f * P + R\n    R = E * R - 0.2 * kk * ((sum[k] kk * S) - vv)"),
    // A state that is fed by what is read of another one, and one that writes what the other reads.
    ("z: [h, v]", "S = D * S + kk * vv\n    z = f * z + (sum[k] q * S)"),
    ("z: [h, v]", "z = f * z + vv\n    S = D * S + kk * (vv - 0.5 * z)"),
    ("z: [h, v]", "z = f * z + 0.3 * (vv - (sum[k] kk * S))\n    S = D * S + kk * (0.3 * z + vv)"),
];

/// What is read.
const READS: &[&str] =
    &["y = sum[k] q * S", "y = (sum[k] q * S) / (1.0 + abs(sum[k] kk * S))", "y = tanh(sum[k] q * (f * S)) + vv", "y = sum[k] S"];

/// Two decays, an update, a read, whether it comes before the update.
#[derive(Clone, Debug)]
struct Coupled {
    decays: (&'static str, &'static str),
    update: usize,
    read: &'static str,
    before: bool,
    sizes: (usize, usize, usize),
}

fn coupled(decays: &'static [&'static str]) -> impl Strategy<Value = Coupled> {
    let decay = || prop::sample::select(decays);
    let sizes = (1usize..4, 2usize..6, 1usize..6);
    let parts = ((decay(), decay()), 0..UPDATES.len(), prop::sample::select(READS), any::<bool>(), sizes);
    parts.prop_map(|(decays, update, read, before, sizes)| Coupled { decays, update, read, before, sizes })
}

impl Coupled {
    fn text(&self) -> String {
        let (more, update) = UPDATES[self.update];
        let update = update.replace("D *", &format!("{} *", self.decays.0)).replace("E *", &format!("{} *", self.decays.1));
        let lines = if self.before { [self.read, &update] } else { [&update, self.read] };
        let body = format!("    {}\n    {}\n    n = 1.0\n", lines[0], lines[1]);
        around(&format!("recur S: [h, k, v], {more} over t"), &body, self.sizes)
    }
}

#[test]
fn chunks_of_several_states_are_their_steps() {
    holds(64, (coupled(DECAYS), 1usize..30), |(coupled, length)| equal_in_chunks(&coupled.text(), length));
}

#[test]
fn chunks_of_several_states_run_as_they_are_derived() {
    let sizes = prop::sample::select(vec![2usize, 5, 16]);
    let targets = prop::sample::select(vec!["cpu", "cpu:x86-64-v3"]);
    holds(24, (coupled(DECAYS), 1usize..50, cuts(), sizes, targets), |(coupled, length, cuts, rows, target)| {
        equal_as_code(&coupled.text(), (length, &cuts), rows, (target, Dtype::F32))
    });
}

#[test]
fn gates_of_several_states_at_their_ends_are_safe() {
    let sizes = prop::sample::select(vec![3usize, 16]);
    let dtypes = prop::sample::select(vec![Dtype::Bf16, Dtype::F32]);
    holds(16, (coupled(EXTREMES), 1usize..50, cuts(), sizes, dtypes), |(coupled, length, cuts, rows, dtype)| {
        equal_as_code(&coupled.text(), (length, &cuts), rows, ("cpu", dtype))
    });
}
