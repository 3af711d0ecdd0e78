//! Code for GPUs, as far as a machine without one can look at it: what the text and the manifest say (assembled.rs: what NVIDIA's
//! assembler makes of it). `tests/gpu/run.sh` runs it on one.

mod chunks;
mod order;

use crate::build::{imported, write};
use braid_compiler::error::Error;
use braid_compiler::forms::Chunks;
use braid_compiler::fuse::kernel::Code;
use braid_compiler::import::bind;
use braid_compiler::pipeline::{self, Options, Work};
use braid_compiler::plan::{Plan, tilings};
use braid_compiler::target::Target;
use braid_runtime::artifact::{self, Dtype, Manifest};
use order::REUSE;
use std::path::{Path, PathBuf};

pub fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("goldens").join(name)
}

/// The PTX and the manifest of a golden model.
pub fn compiled(name: &str, target: &str, dtype: Dtype) -> (String, Manifest) {
    let (spec, map) = imported(&folder(name).join("config.json"));
    built(&spec, &map, target, dtype)
}

/// The PTX and the manifest of a spec.
fn built(spec: &str, map: &str, target: &str, dtype: Dtype) -> (String, Manifest) {
    let room = tempfile::tempdir().expect("a folder");
    let path = room.path().join("model.braidart");
    write(&path, spec, map, target, dtype, Chunks::Auto);
    let bytes = std::fs::read(&path).expect("an artifact");
    let (code, manifest) = artifact::decode(&bytes).expect("a sound artifact");
    (String::from_utf8(code.to_vec()).expect("text"), manifest)
}

/// Every access names its memory, and none spills to a thread's own by a run-time index.
#[test]
fn accesses_name_their_memory() {
    for (name, target, dtype) in [
        ("llama", "cuda:sm_90a", Dtype::Bf16),
        ("jamba", "cuda:sm_80", Dtype::F32),
        ("gated_deltanet", "cuda:sm_90a", Dtype::F32),
    ] {
        let (ptx, manifest) = compiled(name, target, dtype);
        let arch = &manifest.device.as_ref().expect("a GPU's manifest").arch;
        assert!(ptx.contains(&format!(".target {arch}")), "{name}");
        for entry in ["braid_prepare", "braid_prefill", "braid_step"] {
            assert!(ptx.contains(&format!(".entry {entry}(")), "{name}: {entry}");
        }
        let plain: Vec<&str> =
            ptx.lines().map(str::trim).filter(|line| line.starts_with("ld.b") || line.starts_with("st.b")).collect();
        assert!(plain.is_empty(), "{name}: {plain:?}");
        assert!(!ptx.contains("__local_depot"), "{name}");
    }
}

/// Inputs lie in the arena and rows of other positions are read there, as on a processor; a second sequence is a limit that is told.
#[test]
fn inputs_and_sources() {
    let room = tempfile::tempdir().expect("a folder");
    let spec = "model seen(d: dim = 8, patch: dim = 6)(patches: [t, patch]) -> [t, d] {\n  param w: [d, patch]\n  x = sum[patch] patches * w\n  \
                return reversed(x) * float(length[t])\n}\n";
    let path = room.path().join("seen.braidart");
    let manifest = write(&path, spec, "", "cuda:sm_90a", Dtype::F32, Chunks::Auto);
    assert_eq!(manifest.inputs.len(), 1);
    let spec = "model heard(d: dim = 8)(tokens: [t], sound: [s, d]) -> [t, d] {\n  param embed: [vocab, d]\n  x = embed[vocab: tokens]\n  return \
                attend[d](x, sound, sound)\n}\n"
        .replace("(d: dim = 8)", "(d: dim = 8, vocab: dim = 9)");
    let error = lowered(&spec, Dtype::F32).err().expect("a limit");
    assert!(error.to_string().contains("a second sequence on a GPU"), "{error}");
}

/// Products and attention of many rows are done by matrix units where the weights are bfloat16 numbers, and only there.
#[test]
fn matrix_units_multiply_bfloat16_numbers() {
    let instructions =
        ["mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32", "ldmatrix.sync", "cp.async.cg", "cvt.rn.bf16x2.f32"];
    for (name, target) in [("mixtral", "cuda:sm_80"), ("mixtral", "cuda:sm_90a")] {
        let (ptx, manifest) = compiled(name, target, Dtype::Bf16);
        for instruction in instructions {
            assert!(ptx.contains(instruction), "{name}: {instruction}");
        }
        // Groups of warps multiply only on the chip that they are made for.
        assert_eq!(ptx.contains("wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16"), target == "cuda:sm_90a");
        let device = manifest.device.expect("a GPU's manifest");
        let tiled = |kind: &str| {
            device.steps.iter().any(|step| device.functions[step.function].starts_with(kind) && !step.tiles.is_empty())
        };
        assert!(tiled("matmul") && tiled("attention"), "{name}");
        // A step of decoding has none.
        assert!(device.steps.iter().flat_map(|step| &step.tiles).all(|tiles| tiles.from > device.step_rows));
    }
    let (ptx, manifest) = compiled("llama", "cuda:sm_80", Dtype::F32);
    assert!(!ptx.contains("mma.sync"));
    let device = manifest.device.expect("a GPU's manifest");
    let tiled = device.steps.iter().filter(|step| !step.tiles.is_empty()).map(|step| device.functions[step.function].as_str());
    // Keys, and rows that warps do: no products.
    let kinds = ["store_keys", "rows", "top"];
    assert!(tiled.clone().count() > 0 && tiled.clone().all(|name| kinds.iter().any(|kind| name.starts_with(kind))));
}

/// Tiles cover every row and column of a product, whatever their numbers.
#[test]
fn tiles_cover_a_product() {
    let plan = planned_in(REUSE, Dtype::Bf16);
    let mut seen = 0;
    for step in &plan.steps {
        let Code::Matmul(product) = &plan.functions[step.function].code else { continue };
        for ((tiling, from), tiles) in tilings(product).into_iter().zip(step.tasks.tiles.iter().flatten()) {
            assert_eq!((tiles.from, tiles.by), (from, tiling.rows));
            assert!(tiles.factor * tiling.columns >= product.sizes[1] * product.sizes[3]);
            seen += 1;
        }
    }
    assert_eq!(seen, 6);
}

/// A deeper model has a longer table, not more code.
#[test]
fn depth_is_data() {
    let (shallow, few) = of_depth(2);
    let (deep, many) = of_depth(6);
    assert_eq!(shallow, deep);
    let steps = |manifest: &Manifest| manifest.device.as_ref().map_or(0, |device| device.steps.len());
    assert!(steps(&many) > 2 * steps(&few));
}

/// The library's transformer with so many layers.
fn of_depth(layers: usize) -> (String, Manifest) {
    let text = braid_stdlib::files().iter().find(|(name, _)| *name == "models/transformer.braid").expect("a model").1;
    let spec = text.replace("layers: int = 4", &format!("layers: int = {layers}"));
    built(&spec, "", "cuda:sm_90a", Dtype::F32)
}

/// The products of a decoding step are asked for ahead, each once and within the weights; two blocks fit a multiprocessor.
#[test]
fn weights_are_read_ahead() {
    let copies = ["cp.async.bulk.shared::cluster.global", "cp.async.cg.shared.global"];
    for ((target, most), copy) in [("cuda:sm_90a", 109 << 10), ("cuda:sm_80", 48 << 10)].into_iter().zip(copies) {
        let (code, manifest) = compiled("llama", target, Dtype::F32);
        let device = manifest.device.expect("a GPU's manifest");
        let streams: Vec<_> = device.needed(1).iter().filter_map(|step| step.stream).collect();
        // Queries with keys and values, projection, gate, up, down; and the head.
        assert_eq!(streams.len(), 3 * 5 + 1);
        let ends = streams.iter().map(|stream| stream.offset + stream.columns * stream.column_bytes);
        assert!(ends.max() <= Some(manifest.weights_bytes));
        let offsets: std::collections::BTreeSet<usize> = streams.iter().map(|stream| stream.offset).collect();
        assert_eq!(offsets.len(), streams.len());
        assert!(device.step.shared_bytes <= most, "{}", device.step.shared_bytes);
        assert!(code.contains(copy), "{target}");
    }
}

/// `a` is multiplied twice, and that is all; `b` whole and in heads, which begin at the same place; `c` is also added.
const MAKERS: &str = "model m(h: dim = 4, k: dim = 16, j: dim = 16, e: dim = 64, f: dim = 64, vocab: dim = 80)(tokens: [t])
  -> [t, vocab] {
  param embed: [vocab, e]   param w1, w2: [e, h, k]   param w3: [h, k, e]   param w4: [h, k, j]   param w5: [e, f]   param w6: [f, vocab]
  param w7: [h, j, f]
  x = embed[vocab: tokens]
  y = x + shift(x, 1)
  a = y / (1.0 + sum[e] y * y)
  p = (sum[e] a * w1) * sigmoid(sum[e] a * w2)
  b = p / (1.0 + sum[h, k] p * p)
  q = sum[k] b * w4
  r = sum[h, k] b * w3
  c = r / (1.0 + sum[e] r * r)
  u = sum[e] c * w5
  v = sum[h, j] q * w7
  return sum[f] (u + v + sum[e] c) * w6
}";

/// A row is left to products only where nobody else reads it; what it is made of stays until the last of them.
#[test]
fn products_make_rows_that_only_they_read() {
    let plan = planned(MAKERS);
    let kernels = &plan.fused.kernels;
    let makers: Vec<usize> = (0..kernels.len()).filter(|at| kernels[*at].least > 1).collect();
    let [maker] = makers[..] else { panic!("{makers:?} leave rows to products, not just the one that makes `a`") };
    let reads = |at: &usize| kernels[*at].reads.contains(&kernels[maker].writes[0]);
    let readers: Vec<usize> = (maker + 1..kernels.len()).filter(reads).collect();
    assert_eq!(readers.len(), 2);
    for reader in readers {
        assert!(matches!(&kernels[reader].code, Code::Matmul(product) if product.prologue.is_some()));
        for read in &kernels[maker].reads {
            assert!(plan.memory.lifetimes[*read].1 >= reader, "buffer {read} is gone when kernel {reader} makes the row of it");
        }
    }
    let prologues = kernels.iter().filter(|kernel| matches!(&kernel.code, Code::Matmul(product) if product.prologue.is_some()));
    assert_eq!(prologues.count(), 2);
}

/// The models that docs/benchmarks.md measures.
#[test]
fn models_of_the_benchmarks_are_lowered() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/gpu");
    let specs =
        |folder: &Path| std::fs::read_dir(folder).expect("specs").map(|entry| entry.expect("a file").path()).collect::<Vec<_>>();
    let all = ["", "recurrences", "ops"].into_iter().flat_map(|part| specs(&folder.join(part)));
    let all: Vec<_> = all.filter(|path| path.extension().is_some_and(|end| end == "braid")).collect();
    assert_eq!(all.len(), 22);
    for path in all {
        let spec = std::fs::read_to_string(&path).expect("text");
        if let Err(error) = lowered(&spec, Dtype::Bf16) {
            panic!("{}: {error}", path.display());
        }
    }
}

/// Two blocks fit a multiprocessor, with all that has a place of its own in shared memory: of the models of docs/benchmarks.md the one that
/// has the most there.
#[test]
fn two_blocks_have_shared_memory() {
    let spec = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/gpu/qwen3next.braid")).expect("text");
    let (code, manifest) = built(&spec, "", "cuda:sm_90a", Dtype::Bf16);
    let declared = code.lines().filter(|line| line.starts_with(".shared"));
    let size = |line: &str| line.split(['[', ']']).nth(1).map_or(8, |bytes| bytes.parse::<usize>().expect("bytes"));
    // Each place begins at a multiple of 128 bytes, and a GPU keeps 1 KiB of each block for itself.
    let own: usize = declared.map(|line| size(line).next_multiple_of(128)).sum();
    let device = manifest.device.expect("a GPU's manifest");
    for grid in [device.step, device.prefill] {
        let taken = grid.blocks * (own + grid.shared_bytes + (1 << 10));
        assert!(grid.blocks == 2 && taken <= 228 << 10, "{} blocks take {taken} bytes", grid.blocks);
    }
}

/// The code of a function.
fn function<'t>(code: &'t str, name: &str) -> Option<&'t str> {
    let start = code.find(&format!(".func {name}("))?;
    let own = &code[start..];
    Some(&own[..own[1..].find("\n.func ").map_or(own.len(), |end| end + 1)])
}

/// Heads of a row leave no row to the next product, which would take one head for all of them.
#[test]
fn a_part_is_not_taken_for_the_row() {
    let (code, _) = built(MAKERS, "", "cuda:sm_90a", Dtype::F32);
    let plan = planned(MAKERS);
    let products = plan.functions.iter().filter_map(|function| match &function.code {
        Code::Matmul(product) => Some((&function.name, product)),
        _ => None,
    });
    let mut heads = 0;
    for (name, product) in products {
        let own = function(&code, &format!("{name}_row")).expect("the function that brings the row");
        assert_eq!(own.contains("kept_row"), product.sizes[1] == 1, "{name}");
        heads += usize::from(product.sizes[1] > 1);
    }
    assert_eq!(heads, 1);
}

/// The plan of a spec for a GPU, in single precision.
fn planned(spec: &str) -> Plan {
    planned_in(spec, Dtype::F32)
}

/// The plan of a spec for a GPU.
pub fn planned_in(spec: &str, dtype: Dtype) -> Plan {
    lowered(spec, dtype).unwrap_or_else(|error| panic!("{error}")).plan().expect("a plan").clone()
}

pub fn lowered(spec: &str, dtype: Dtype) -> Result<Work, Error> {
    let model = crate::build::model(spec);
    let params = bind::unbound(&model.axes, &model.params);
    let options =
        Options { target: Target::parse("cuda:sm_90a").expect("a target"), dtype, chunks: Chunks::Auto, params, sources: vec![] };
    pipeline::run(model, options, pipeline::stage("plan").expect("a stage"), &|_| ())
}
