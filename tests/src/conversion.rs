//! Weights of dense models as those of mixtures, and back: against golden results of each conversion.

use crate::recurrences::case::Case;
use crate::recurrences::golden::Golden;
use braid_compiler::convert::{Change, changes, dealt, mean, order};
use braid_runtime::artifact::Param;

/// A mixture in the place of the golden's dense block, and its weights.
fn mixture(text: &str, outputs: &str, weights: Vec<(String, Vec<f64>)>) {
    let text = format!("ffn = {text}\n  y = ffn(x)");
    Case { golden: "moe_from_dense", columns: "x[d]", text: &text, outputs, weights, times: 40, single: true, ..Case::default() }
        .check();
}

fn golden(name: &str) -> Vec<f64> {
    Golden::single("moe_from_dense", 40).all(name).to_vec()
}

/// The golden's neurons in its order, a quarter for each expert.
fn quarters() -> Vec<(String, Vec<f64>)> {
    let order: Vec<usize> = golden("in.perm").iter().map(|n| *n as usize).collect();
    let part = |name: &str, source: &str, axis| {
        let whole: Vec<f32> = golden(source).iter().map(|x| *x as f32).collect();
        (format!("ffn.part.{name}"), dealt(&whole, &[24, 24], axis, 4, &order).iter().map(|x| f64::from(*x)).collect())
    };
    vec![("ffn.wr".into(), golden("in.Wr")), part("wg", "in.Wg", 0), part("wu", "in.Wu", 0), part("wd", "in.Wd", 1)]
}

#[test]
fn a_dense_block_dealt_out() {
    mixture("split_experts(hidden: 24, experts: 4, active: 4)", "y=y_dense[d]", quarters());
    mixture("split_experts(hidden: 24, experts: 4, active: 2)", "y=y_top2[d]", quarters());
}

#[test]
fn a_dense_block_copied() {
    let copy = |name: &str, source: &str| (format!("ffn.expert.{name}"), golden(source).repeat(4));
    let weights = vec![("ffn.wr".into(), golden("in.Wr")), copy("wg", "in.Wg"), copy("wu", "in.Wu"), copy("wd", "in.Wd")];
    mixture("moe(experts: 4, active: 2, expert: swiglu(hidden: 24))", "y=y_copy[d]", weights);
}

#[test]
fn several_blocks_merged() {
    let tensors = ["in.Wg_a", "in.Wg_b", "in.Wg_c"].map(|name| golden(name).iter().map(|x| *x as f32).collect::<Vec<f32>>());
    let tensors: Vec<&[f32]> = tensors.iter().map(Vec::as_slice).collect();
    let far = mean(&tensors, &golden("in.mix")).into_iter().zip(golden("out.Wg_merged")).map(|(a, b)| (f64::from(a) - b).abs());
    assert!(far.fold(0.0, f64::max) < 1e-6);
}

fn param(path: &str, shape: &[usize]) -> Param {
    Param { path: path.into(), axes: shape.iter().map(|n| format!("a{n}")).collect(), shape: shape.into(), binding: None }
}

#[test]
fn changes_follow_from_paths_and_shapes() {
    let dense = [param("l.0.ffn.wg", &[12, 5]), param("l.0.ffn.wd", &[5, 12]), param("l.0.ffn.bd", &[5]), param("w", &[3])];
    let split = [param("l.0.ffn.wr", &[4, 5]), param("l.0.ffn.part.wg", &[4, 3, 5]), param("l.0.ffn.part.wd", &[4, 5, 3])];
    assert_eq!(changes(&dense, &split), Ok(vec![Change::New, Change::Dealt(0, 0), Change::Dealt(1, 1)]));
    let copied = [param("w", &[3]), param("l.0.ffn.expert.wg", &[4, 12, 5]), param("l.0.ffn.expert.bd", &[4, 5])];
    assert_eq!(changes(&dense, &copied), Ok(vec![Change::Same(3), Change::Copied(0), Change::Copied(2)]));
    assert_eq!(changes(&copied, &dense[2..]), Ok(vec![Change::Averaged(2), Change::Same(0)]));
    for wrong in [param("w", &[4]), param("l.0.ffn.part.wg", &[5, 3, 5]), param("l.0.ffn.part.wg", &[3, 5])] {
        assert!(changes(&dense, &[wrong]).is_err());
    }
}

#[test]
fn neurons_are_dealt_out_once_each() {
    assert_eq!(order(5, None, "l.0.ffn"), [0, 1, 2, 3, 4]);
    let (a, b) = (order(50, Some(1), "l.0.ffn"), order(50, Some(1), "l.1.ffn"));
    let sorted = |mut order: Vec<usize>| {
        order.sort_unstable();
        order
    };
    assert!(a != b && a != order(50, Some(2), "l.0.ffn") && a == order(50, Some(1), "l.0.ffn"));
    assert!(sorted(a).into_iter().eq(0..50) && sorted(b).into_iter().eq(0..50));
}
