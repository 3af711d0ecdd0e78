//! Weights of which the text says how they are stored: what counts, that products are those of the stored numbers, and what cannot be.

use crate::build::{self, Built};
use crate::properties::compiled::{Compiled, made_up};
use crate::quantised::{relative, stored_as, targets, tokens};
use braid_compiler::forms::Chunks;
use braid_compiler::pipeline::{self, Options};
use braid_compiler::target::Target;
use braid_runtime::artifact::{Dtype, Manifest};

/// Products of every kind, each stored in another way; a narrow router is as the text says, too.
const SPEC: &str = "
block odd(d: dim, hidden: dim)(x: [t, d]) -> [t, d] {
  param a: [hidden, d] as \"int8\"
  param b: [d, hidden] as \"int8\"
  return sum[hidden] relu(sum[d] x * a) * b
}

model m(d: dim = 200, heads: dim = 4, k: dim = 96, vocab: dim = 150)(tokens: [t]) -> [t, vocab] {
  dim j = k
  param embed: [vocab, d]   param up: [heads, k, d] as \"int8\"   param mixed: [heads, j, k] as \"fp8\"   param down: [d, heads, j]
  param head: [vocab, d] as \"int4z\"
  store \"down\" as \"fp8\"
  store \"ffn.*\" as \"int4\"
  store \"ffn.wr\" as \"int8\"
  store \"down\" as \"int4\"
  store \"layers.1.last.b\" as \"bf16\"
  x = embed[vocab: tokens]
  x = x + sum[heads, j] (sum[k] (sum[d] x * up) * mixed) * down
  ffn = moe(experts: 4, active: 2, expert: swiglu(hidden: 96))
  x = x + ffn(rmsnorm(x))
  repeat i in 0..2 {
    last = odd(hidden: 96)
    x = x + 0.3 * last(rmsnorm(x))
  }
  return sum[d] rmsnorm(x) * head
}
";

/// How a parameter of [`SPEC`] is stored.
fn wanted(path: &str) -> Dtype {
    match path {
        "up" | "ffn.wr" | "layers.0.last.a" | "layers.0.last.b" | "layers.1.last.a" => Dtype::Int8,
        "mixed" => Dtype::Fp8,
        "down" | "ffn.expert.wg" | "ffn.expert.wu" | "ffn.expert.wd" => Dtype::Int4,
        "head" => Dtype::Int4z,
        "layers.1.last.b" => Dtype::Bf16,
        _ => Dtype::F32,
    }
}

fn stored(manifest: &Manifest) -> Vec<(String, Dtype)> {
    manifest.packed.iter().map(|packed| (manifest.params[packed.param].path.clone(), packed.dtype.plain())).collect()
}

#[test]
fn the_text_says_how_each_weight_is_stored() {
    let Built { artifact, .. } = build::build(SPEC, "", "cpu", Dtype::F32);
    let found = stored(&artifact.manifest);
    assert!(found.len() > 10);
    found.iter().for_each(|(path, dtype)| assert_eq!(*dtype, wanted(path), "{path}"));
    let Built { artifact, .. } = build::build(SPEC, "", "cpu", Dtype::Bf16);
    let of = |name: &str| stored(&artifact.manifest).into_iter().find(|(path, _)| path == name).expect("a parameter").1;
    assert_eq!([of("embed"), of("up"), of("mixed")], [Dtype::Bf16, Dtype::Int8, Dtype::Fp8]);
}

#[test]
fn products_are_those_of_numbers_that_are_stored_in_many_ways() {
    for target in targets() {
        let numbers = |path: &str, shape: &[usize]| stored_as(wanted(path), made_up(path, shape), shape);
        let compiled = Compiled::stored(SPEC, Chunks::Auto, (target, Dtype::F32), numbers);
        let ids = tokens(113);
        let off = relative(&compiled.whole(&ids), &compiled.evaluated(&ids));
        assert!(off < 1e-4, "{target}: {off:e} of the norm off");
    }
}

/// Who uses a block has the last word, and who makes a model of another one has it before that one.
#[test]
fn what_is_said_outside_counts() {
    let base = "use models.transformer\nmodel base = transformer(layers: 2, d: 128, heads: 4, groups: 2, k: 32, hidden: 256, vocab: 200)\n  \
                store \"layers.*\" as \"int4\"\n  store \"layers.*.ffn.wd\" as \"int8\"\n";
    let outer =
        format!("{base}\nmodel outer = base()\n  store \"layers.1.*.w*\" as \"fp8\"\n  store \"layers.0.ffn\" as \"bf16\"\n");
    let dtype_of = |spec: &str, name: &str| {
        let Built { artifact, .. } = build::build(spec, "", "cpu", Dtype::F32);
        stored(&artifact.manifest).into_iter().find(|(path, _)| path == name).unwrap_or_else(|| panic!("{name}")).1
    };
    for (name, inside, outside) in [
        ("layers.0.ffn.wd", Dtype::Int8, Dtype::Bf16),
        ("layers.0.ffn.wu", Dtype::Int4, Dtype::Bf16),
        ("layers.1.ffn.wd", Dtype::Int8, Dtype::Fp8),
        ("layers.0.attn.wq", Dtype::Int4, Dtype::Int4),
    ] {
        assert_eq!([dtype_of(base, name), dtype_of(&outer, name)], [inside, outside], "{name}");
    }
}

fn failure(spec: &str, target: &str) -> String {
    let target = Target::parse(target).expect("a target");
    let options = Options { target, dtype: Dtype::Bf16, chunks: Chunks::Auto, params: vec![], sources: vec![] };
    let last = pipeline::stage("plan").expect("a stage");
    match pipeline::run(build::model(spec), options, last, &|_| {}) {
        Ok(_) => panic!("no error"),
        Err(braid_compiler::error::Error::Limit { what, at }) => {
            let at = at.expect("a place");
            format!("{}: {what}", &spec[at.start as usize..at.end as usize])
        }
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn what_cannot_be_stored_so_is_told_with_its_place() {
    let spec = |what: &str| {
        format!(
            "model m(d: dim = 160, e: dim = 144, vocab: dim = 150)(tokens: [t]) -> [t, vocab] {{\n  param embed: [vocab, d]   param w: [e, d]   \
             param back: [e, vocab]   param gain: [d]\n  {what}\n  x = embed[vocab: tokens] * gain\n  return sum[e] (sum[d] x * w) * back\n}}\n"
        )
    };
    let gain = failure(&spec("store \"gain\" as \"int8\""), "cpu");
    assert!(gain.starts_with("\"int8\": `gain` as int8: of tables, vectors"), "{gain}");
    let table = failure(&spec("store \"embed\" as \"int4\""), "cpu");
    assert!(table.starts_with("\"int4\": `embed` as int4"), "{table}");
    let gpu = failure(&spec("store \"back\" as \"fp8\""), "cuda:sm_90a");
    assert!(gpu.starts_with("\"fp8\": `back` as fp8 on a GPU: 144 numbers"), "{gpu}");
    let uneven = failure(&spec("store \"back\" as \"int4\""), "cuda:sm_90a");
    assert!(uneven.starts_with("\"int4\": `back` as int4 on a GPU: 144 numbers"), "{uneven}");
}
