//! Recurrences in chunks for a GPU: which go so, and what their kernels are.

use super::{built, planned_in};
use braid_compiler::fuse::kernel::{Base, Code, Nest, Nests, Stmt, Store, Walk};
use braid_compiler::fuse::product::Product;
use braid_runtime::artifact::Dtype;

/// A delta rule with a gate, of sizes that fragments divide.
pub(super) const GATED: &str = "model gated(vocab: dim = 32, h: dim = 4, k: dim = 64, v: dim = 64)(tokens: [t]) -> [t, vocab] {\n  param tq, tk: [vocab, \
                     h, k]   param tv: [vocab, h, v]   param ta, tb: [vocab, h]   param last: [vocab, h, v]\n  q = tq[vocab: tokens]\n  kk = \
                     l2norm[k](tk[vocab: tokens], 1e-6)\n  vv = tv[vocab: tokens]\n  a = -softplus(ta[vocab: tokens])\n  b = \
                     sigmoid(tb[vocab: tokens])\n  recur S: [h, k, v] over t {\n    S = exp(a) * S\n    S = S + kk * (b * (vv - sum[k] kk * \
                     S))\n    o = sum[k] q * S\n  }\n  generate autoregressive\n  return sum[h, v] o * last\n}\n";

/// Where keys decay each in its own way a model goes in chunks if its decays are powers of e, and may be rounded.
#[test]
fn powers_of_e_go_in_chunks() {
    let spec = |decay: &str| {
        let wide = GATED.replace("ta, tb: [vocab, h]", "tb: [vocab, h]   param ta: [vocab, h, k]").replace("exp(a)", decay);
        wide.replace("  recur ", "  gate = sigmoid(a)\n  power = exp(a)\n  other = 1 / (1 - a)\n  recur ")
    };
    assert!(spec("exp(a)").contains("param ta: [vocab, h, k]") && spec("gate").contains("gate = sigmoid(a)\n"));
    for (decay, dtype, chunks) in [
        ("exp(a)", Dtype::Bf16, true),
        ("exp(a)", Dtype::F32, false),
        ("sigmoid(a)", Dtype::Bf16, true),
        ("(1 / (1 - a))", Dtype::Bf16, false),
        // Made ahead of the recurrence.
        ("gate", Dtype::Bf16, true),
        ("gate", Dtype::F32, false),
        ("power", Dtype::Bf16, true),
        ("other", Dtype::Bf16, false),
    ] {
        let plan = planned_in(&spec(decay), dtype);
        assert_eq!(plan.functions.iter().any(|function| function.name.starts_with("chunks")), chunks, "{decay} {dtype:?}");
    }
}

/// Where each value of a key decays in its own way there are no scores that values share: chunks would take many times as long as steps.
#[test]
fn values_that_decay_apart_go_step_by_step() {
    let plan = planned_in("use models.mamba\nmodel test = mamba_lm(layers: 1)\n", Dtype::Bf16);
    let names: Vec<&str> = plan.functions.iter().map(|function| function.name.as_str()).collect();
    assert!(names.iter().any(|name| name.starts_with("recurrence")), "{names:?}");
    assert!(!names.iter().any(|name| name.starts_with("chunks") || name.starts_with("intra")), "{names:?}");
}

/// Chunks are three kernels: what states are made of and needs none, side by side; the walk from chunk to chunk, which updates states; and
/// what only reads them, side by side, with scores of its own. States and rows lie in shared memory, and all sums over them are products
/// of matrices. What is a factor there comes in bfloat16.
#[test]
fn chunks_are_parted() {
    let plan = planned_in(GATED, Dtype::Bf16);
    let nests = |kind: &str| {
        let own = plan.functions.iter().find(|function| function.name.starts_with(kind));
        match &own.unwrap_or_else(|| panic!("no {kind}")).code {
            Code::Nests(nests) => nests.clone(),
            _ => panic!("{kind} is no nests"),
        }
    };
    let (ahead, walk, behind) = (nests("intra_0"), nests("chunks"), nests("intra_1"));
    assert!(
        [&ahead, &behind].iter().all(|code| code.tensors.iter().all(|tensor| tensor.base != Base::State)),
        "one walk has the state"
    );
    assert_eq!(walk.staging.before.len(), 1, "the state comes once");
    assert!(ahead.staging.shared && walk.staging.shared && behind.staging.shared && walk.staging.rounded);
    for (code, sums_of, what) in [
        (&walk, 2, "a read of the state, and the update"),
        (&behind, 3, "scores, a read of the state, and what the chunk itself wrote"),
    ] {
        let cut = match &code.walk {
            Walk::Segments { blocked, .. } => *blocked,
            Walk::Rows(_) => None,
        };
        let sums: Vec<&Nest> = code.nests.iter().filter(|nest| nest.stmts[0].reduce.is_some()).collect();
        assert_eq!(sums.len(), sums_of, "{what}");
        assert!(sums.iter().all(|nest| Product::of(nest, &code.tensors, &code.sizes, cut).is_some()));
        let far = code.nests.iter().flat_map(|nest| &nest.stmts).flat_map(Stmt::reads);
        let far: Vec<_> = far.filter(|view| matches!(code.tensors[view.tensor.0].base, Base::Arena | Base::State)).collect();
        assert!(far.is_empty(), "everything that is read has come near: {far:?}");
    }
    // Products of decays are powers of running sums: nothing runs along rows for each column, but the unknowns of a system.
    let chains = |code: &Nests| {
        let plain = code.nests.iter().filter(|nest| nest.stmts[0].reduce.is_none());
        plain.filter_map(|nest| Some((nest.stmts[0].ordered?, nest.parallel.len()))).collect::<Vec<_>>()
    };
    for code in [&ahead, &behind] {
        assert!(!chains(code).is_empty() && chains(code).iter().all(|(_, axes)| *axes == 1), "{:?}", chains(code));
    }
    let crossing: Vec<Store> = behind.staging.staged.iter().map(|own| behind.tensors[own.from.tensor.0].store).collect();
    assert_eq!(
        crossing.iter().filter(|store| **store == Store::Bf16).count(),
        4,
        "queries, keys, states, what they are updated with"
    );
    let (ptx, manifest) = built(GATED, "", "cuda:sm_80", Dtype::F32);
    assert!(ptx.contains("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32"));
    assert!(manifest.device.expect("a GPU's manifest").prefill.shared_bytes <= 48 << 10);
}
