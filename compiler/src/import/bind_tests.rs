//! Weight maps over parameters made by hand.

use super::*;
use braid_dsl::model::AxisId;

const MAP: &str = r#"
let: { inner: "heads_n * 8", proj: "2 * inner + 2" }
params:
  "layers.{i}.wq": { tensor: "h.{i}.q.weight", axes: "(heads k) d" }
  "layers.{i}.wk": { tensor: "h.{i}.qkv.weight", axes: "(heads _@1/3 k) d" }
  "layers.{i}.wz": { tensor: "h.{i}.in.weight", axes: "[heads k]@inner/proj d" }
  "layers.{i}.expert.wg": { tensor: "h.{i}.experts.{e}.w", stack: "experts as e" }
  "layers.{i}.rows": { tensor: "blk.{i}.q", axes: "(heads j s) d", split: "k as (s=2 j)" }
  norm: { tensors: ["norm.weight", "ln.weight"], axes: "1 d" }
"#;

fn axes() -> Vec<Axis> {
    let axis = |name: &str, n| Axis { name: name.into(), size: Size::Fixed(n) };
    vec![axis("heads", 4), axis("k'2", 8), axis("d", 16), axis("experts", 3)]
}

fn bind(map: &str, path: &str, ids: &[u32]) -> Result<Binding, String> {
    let param =
        Param { path: path.into(), axes: ids.iter().map(|n| AxisId(*n)).collect(), span: Default::default(), stored: None };
    let constants = [("heads_n".to_string(), Constant::Int(4))];
    let map = WeightMap::parse(map).map_err(|error| error.to_string())?;
    let mut bound = map.bind(&axes(), &[param], &constants).map_err(|errors| errors[0].to_string())?;
    bound.remove(0).binding.ok_or_else(|| "no binding".to_string())
}

fn check(path: &str, ids: &[u32], tensor: &str, shape: &[usize], offset: usize, strides: &[usize]) {
    let found = bind(MAP, path, ids).expect(path);
    assert_eq!(found.tensors[0], tensor);
    assert_eq!((found.shape.as_slice(), found.offset, found.strides.as_slice()), (shape, offset, strides), "{path}");
}

#[test]
fn merged_and_transposed() {
    check("layers.7.wq", &[2, 0, 1], "h.7.q.weight", &[32, 16], 0, &[1, 128, 16]);
}

#[test]
fn one_of_three_in_the_middle() {
    check("layers.0.wk", &[2, 0, 1], "h.0.qkv.weight", &[96, 16], 8 * 16, &[1, 24 * 16, 16]);
}

#[test]
fn a_range_of_rows() {
    check("layers.0.wz", &[2, 0, 1], "h.0.in.weight", &[66, 16], 32 * 16, &[1, 128, 16]);
}

/// Element `4 s + j` of the axis lies at `2 j + s`.
#[test]
fn halves_of_an_axis_in_interleaved_pairs() {
    let found = bind(MAP, "layers.3.rows", &[2, 0, 1]).expect("a binding");
    assert_eq!((found.tensors, found.shape, found.strides), (vec!["blk.3.q".to_string()], vec![32, 16], vec![1, 128, 0]));
    assert_eq!(found.splits, [Split { axis: 2, factors: vec![(2, 16), (4, 32)] }]);
    for (split, what) in [
        ("k as (s=3 j)", "8 is not a multiple of 3"),
        ("k as (s j)", "it is not `AXIS as (NAME=SIZE NAME)`"),
        ("q as (s=2 j)", "`q` is not an axis"),
        ("k", "it is not"),
    ] {
        let map = format!("params:\n  w: {{ tensor: w, axes: \"(heads j s) d\", split: \"{split}\" }}");
        assert!(bind(&map, "w", &[2, 0, 1]).expect_err(split).contains(what), "{split}");
    }
}

#[test]
fn alternatives_and_a_dimension_of_one() {
    check("norm", &[2], "norm.weight|ln.weight", &[1, 16], 0, &[1]);
}

#[test]
fn stacked_experts() {
    let found = bind(MAP, "layers.1.expert.wg", &[3, 2, 0]).expect("a binding");
    assert_eq!(found.tensors, ["h.1.experts.0.w", "h.1.experts.1.w", "h.1.experts.2.w"]);
    assert_eq!((found.stacked, found.shape, found.strides), (Some(0), vec![16, 4], vec![0, 4, 1]));
}

#[test]
fn what_does_not_fit_is_said() {
    let entry = |text: &str| bind(&format!("params:\n  w: {text}"), "w", &[0, 2]).expect_err(text);
    for (text, what) in [
        (r#"{ tensor: "w", axes: "heads" }"#, "`axes` lacks axis `d`"),
        (r#"{ tensor: "w", axes: "heads d d" }"#, "axis `d` stands twice"),
        (r#"{ tensor: "w", axes: "heads x" }"#, "`x` is not an axis of [heads, d]"),
        (r#"{ tensor: "w", axes: "[heads]@2/5 d" }"#, "4 from 2 do not fit into 5"),
        (r#"{ tensor: "w", axes: "[heads]@0/rows d" }"#, "`rows` in `rows` is not a parameter of the model"),
        (r#"{ tensor: "w", axes: "[heads]@0/9/2 d" }"#, "is 4.5, not a size"),
        (r#"{ tensor: "w.{i}" }"#, "`i` in `i` is not a parameter of the model"),
        (r#"{ axes: "heads d" }"#, "give either `tensor` or `tensors`"),
        (r#"{ tensor: "w", axis: "d" }"#, "unknown field `axis`"),
    ] {
        let error = entry(text);
        assert!(error.contains(what), "{text}: {error}");
    }
    assert_eq!(bind(MAP, "layers.x.wq", &[0]), Err("parameter `layers.x.wq` has no entry in the weight map".into()));
}
