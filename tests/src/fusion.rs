//! How many kernels come out: specs say it in a line `// kernels: N and M for wanted rows`. Layers that are alike share their
//! functions.

use crate::snapshots::{run, specs};
use braid_compiler::fuse::Fused;
use braid_compiler::fuse::kernel::{Code, Rows, Walk};

/// The numbers after `// kernels:`: kernels over all rows, and over those that the caller wants.
fn expected(spec: &str) -> Option<[usize; 2]> {
    let line = spec.lines().find_map(|line| line.strip_prefix("// kernels:"))?;
    let numbers: Vec<usize> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    numbers.try_into().ok()
}

/// Kernels of a call; those that run once, when weights are loaded, cost nothing later.
fn kernels(fused: &Fused) -> [usize; 2] {
    [Rows::All, Rows::Wanted].map(|rows| fused.kernels.iter().filter(|kernel| kernel.rows == rows).count())
}

#[test]
fn as_many_kernels_as_the_spec_says() {
    let mut complaints = String::new();
    for (name, spec) in specs("suite/fusion") {
        let expected = expected(&spec).unwrap_or_else(|| panic!("{name} has no line `// kernels: N and M for wanted rows`"));
        let work = run(&spec, "fused");
        let fused = work.fused().expect("the stage ran");
        let found = kernels(fused);
        if found != expected {
            let text = braid_compiler::fuse::print(fused);
            complaints += &format!("{name}: {found:?} kernels, not {expected:?}\n{text}\n");
        }
    }
    assert!(complaints.is_empty(), "\n{complaints}");
}

#[test]
fn layers_that_are_alike_share_functions() {
    let [few, many] = [4, 48].map(|layers| {
        // Every fourth layer is attention.
        let attention: Vec<String> = (3..layers).step_by(4).map(|layer| layer.to_string()).collect();
        let spec = format!("use models.bamba\nmodel test = bamba(layers: {layers}, attention_at: [{}])\n", attention.join(", "));
        let work = run(&spec, "plan");
        let plan = work.plan().expect("the stage ran");
        (plan.functions.len(), plan.steps.len())
    });
    assert_eq!(few.0, many.0, "functions of 4 and of 48 layers");
    assert!(many.1 > 10 * few.1, "steps of 4 and of 48 layers: {} and {}", few.1, many.1);
}

/// Neither are functions of a deeper model longer: what layers make once of their weights, each makes for itself.
#[test]
fn functions_of_a_deeper_model_are_no_longer() {
    for mixer in ["s4d(n: 8)", "mamba(inner: 128, n: 4, rank: 4)"] {
        let [few, many] = [2, 6].map(|layers| {
            let spec = format!("use models.recurrent\nuse mixers.s4\nuse mixers.state_space\nmodel test = recurrent(layers: {layers}, mixer: {mixer})\n");
            let work = run(&spec, "plan");
            let statements = |code: &Code| match code {
                Code::Nests(nests) => nests.nests.iter().map(|nest| nest.stmts.len()).sum(),
                _ => 1,
            };
            work.plan().expect("the stage ran").functions.iter().map(|function| statements(&function.code)).sum::<usize>()
        });
        assert_eq!(few, many, "{mixer}: statements of all functions of 2 and of 6 layers");
    }
}

/// Lanes of a state run along its values, which keys and decays do not vary with: neither along heads, nor along an axis of one index.
#[test]
fn lanes_run_along_the_values_of_a_state() {
    for mixer in ["gated_delta(heads: 2, k: 8, v: 24)", "mamba2(heads: 6, p: 24, n: 8)", "retention(heads: 2, k: 8, v: 24)"] {
        let text = format!(
            "model m(vocab: dim = 9, d: dim = 12)(tokens: [t]) -> [t, vocab] {{\n  param embed: [vocab, d]\n  mixer = {mixer}\n  x = \
             embed[vocab: tokens]\n  return sum[d] mixer(x) * embed\n}}\n"
        );
        let work = run(&text, "fused");
        let blocked = work.fused().expect("the stage ran").kernels.iter().filter_map(|kernel| match &kernel.code {
            Code::Nests(nests) => match nests.walk {
                Walk::Segments { blocked: Some((axis, _)), .. } => Some(nests.sizes[axis.0]),
                _ => None,
            },
            _ => None,
        });
        assert_eq!(blocked.collect::<Vec<_>>(), [24], "{mixer}");
    }
}

/// What steps make of weights alone is made once, for all recurrences that make it; cheap things are not stored.
#[test]
fn what_weights_alone_make_is_made_once() {
    let spec = "model m(d: dim = 8, n: dim = 4, vocab: dim = 16)(tokens: [t]) -> [t, vocab] {
  param embed: [vocab, d]   param a, b: [d, n]   param bias: [d]
  x = embed[vocab: tokens]
  dt = softplus(x + bias)
  recur h: [d, n] over t {
    h = exp(dt * -exp(a)) * h + dt * x * sigmoid(b)
    y = sum[n] h
  }
  recur g: [d, n] over t {
    g = exp(dt * -exp(a)) * g + x * (b + 1.0)
    z = sum[n] g
  }
  return sum[d] (y + z) * embed
}
";
    let work = run(spec, "fused");
    let fused = work.fused().expect("the stage ran");
    let text = braid_compiler::fuse::print(fused);
    let once = fused.kernels.iter().filter(|kernel| kernel.rows == Rows::Once).count();
    assert_eq!(once, 2, "-exp(a) and sigmoid(b):\n{text}");
    for (what, count) in [("exp(a[", 1), ("sigmoid(b[", 1), ("exp(mul(", 2), ("add(b[", 1)] {
        assert_eq!(text.matches(what).count(), count, "{what}:\n{text}");
    }
}
