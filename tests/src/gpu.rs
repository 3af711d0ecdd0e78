//! Code for GPUs, as far as a machine without one can look at it: what the text and the manifest say (assembled.rs: what NVIDIA's
//! assembler makes of it). `tests/gpu/run.sh` runs it on one.

use crate::build::{imported, write};
use braid_compiler::error::Error;
use braid_compiler::forms::Chunks;
use braid_compiler::fuse::Operand;
use braid_compiler::fuse::kernel::{Base, Code, Nest, Nests, Rows, Stmt, Store, Walk};
use braid_compiler::fuse::product::Product;
use braid_compiler::import::bind;
use braid_compiler::pipeline::{self, Options, Work};
use braid_compiler::plan::{Order, Per, Plan, Step, tilings};
use braid_compiler::target::Target;
use braid_runtime::artifact::{self, Dtype, Launch, Manifest};
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

/// Steps that touch the same memory wait: what one writes and a later one reads or writes has a wait, or an order, in between.
#[test]
fn later_steps_wait() {
    let (_, manifest) = compiled("llama", "cuda:sm_90a", Dtype::F32);
    let device = manifest.device.expect("a GPU's manifest");
    let waits = device.steps.iter().filter(|step| step.wait).count();
    let follows = device.steps.iter().filter(|step| step.follows).count();
    // Of three layers: norm (but the first), queries with keys and values, rotation (and what a call of one row does in its place, as ahead of the
    // first layer), cache,
    // attention, projection, norm, gate (and up, which follows it), down; then the last norm and the head. In a call of one row queries, keys and
    // values are one step.
    assert_eq!((device.steps.len(), waits, follows), (38 + 4 + 3, 3 * 9 - 1 + 2, 3));
    assert_eq!(waits_of(&device.steps, 2), waits);
    // A call of one row makes norms where they are multiplied: no step of their own, and no wait. Rotation and cache are the business of the
    // block that attends. The last layer's second norm also makes the wanted rows that are added later, and stays a step.
    let alone = device.needed(1);
    let follows = alone.iter().filter(|step| step.follows).count();
    assert_eq!((waits_of(&alone, 1), follows), (3 * 5 + 1, 3));
}

/// How often blocks wait in a step of decoding, of the models of docs/benchmarks.md: products of the row with their convolutions, what a recurrence needs
/// with it, its results; attention with what it needs, its results; a router, what it chose, experts and their sum.
#[test]
fn few_steps_of_one_row_wait() {
    // Of a recurrence, of one whose coefficients are products of its rows, of attention, of a dense block, of experts.
    let [recurrent, selective, attending, dense, experts] = [3, 5, 3, 2, 6];
    for (name, waits) in [
        ("llama", 24 * (attending + dense) + 2),
        ("mamba2", 48 * recurrent + 1),
        ("granite", 28 * recurrent + 4 * attending + 32 * dense + 2),
        ("jamba", 21 * selective + 3 * attending + 24 * dense + 2),
        // The row's products are with those that wait for the experts before.
        ("qwen3next", 9 * (recurrent - 1) + 3 * attending + 12 * experts),
    ] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("benches/gpu/{name}.braid"));
        let plan = planned_in(&std::fs::read_to_string(path).expect("text"), Dtype::Bf16);
        let alone = plan.steps.iter().filter(|step| step.tasks.least <= 1 && step.alone == Order::Wait);
        assert_eq!(alone.count(), waits, "{name}");
    }
}

/// How often blocks wait in a call of so many rows: a step without tasks leaves its wait to the next one that has some.
fn waits_of(steps: &[Launch], rows: usize) -> usize {
    let mut owed = false;
    let waits = steps.iter().filter(|step| {
        owed |= step.wait;
        rows >= step.least && step.most.is_none_or(|most| rows <= most) && std::mem::take(&mut owed)
    });
    waits.count()
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
    assert_eq!(all.len(), 20);
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

/// `y` is laid where `a` was, which other blocks may still read when one of them is through with the first product.
const REUSE: &str = "model m(d: dim = 64, e: dim = 64, vocab: dim = 80)(tokens: [t]) -> [t, vocab] {
  param embed: [vocab, d]   param w1, w2: [d, e]   param w3: [e, vocab]   param s: [d]
  x = embed[vocab: tokens]
  a = x * s
  b = x / (1.0 + sum[d] x * x)
  g = sigmoid(sum[d] a * w1)
  y = (sum[d] b * w2) * g
  z = shift(y, 1)
  return sum[e] (y + z) * w3
}";

/// Steps between two waits leave alone what the others of them touch; only what follows reads what was just written.
#[test]
fn steps_side_by_side_touch_other_memory() {
    let mut texts = vec![("reuse".to_owned(), REUSE.to_owned())];
    for name in ["llama", "jamba", "mixtral", "gated_deltanet", "gemma2", "rwkv7", "zamba"] {
        texts.push((name.to_owned(), imported(&folder(name).join("config.json")).0));
    }
    for (name, text) in texts {
        let plan = planned(&text);
        let range = |at: &usize| {
            let buffer = &plan.fused.buffers[*at];
            let first = plan.memory.buffers[*at];
            (buffer.output, first, first + buffer.elements * buffer.store.bytes())
        };
        let in_arena = |at: &&usize| plan.fused.buffers[**at].rows != Rows::Once;
        let meet = |a: &[usize], b: &[usize]| {
            let overlap = |x: (bool, usize, usize), y: (bool, usize, usize)| x.0 == y.0 && x.1 < y.2 && y.1 < x.2;
            a.iter().filter(in_arena).any(|a| b.iter().filter(in_arena).any(|b| overlap(range(a), range(b))))
        };
        for one_row in [false, true] {
            let has = |step: &&Step| if one_row { step.tasks.least <= 1 } else { step.tasks.most > 1 };
            let order = |step: &Step| if one_row { step.alone } else { step.order };
            let steps: Vec<&Step> = plan.steps.iter().filter(has).collect();
            for (at, step) in steps.iter().enumerate() {
                let begin = (0..=at).rev().find(|n| order(steps[*n]) == Order::Wait).unwrap_or(0);
                let kernels = |step: &Step| step.kernels.iter().map(|at| &plan.fused.kernels[*at]).collect::<Vec<_>>();
                let others =
                    (begin..at).flat_map(|before| kernels(steps[before]).into_iter().map(move |kernel| (before, kernel)));
                let pairs =
                    others.flat_map(|(before, earlier)| kernels(step).into_iter().map(move |later| (before, earlier, later)));
                for (before, earlier, later) in pairs {
                    // Of one row products make rows that are nowhere in memory.
                    let row = match &earlier.code {
                        Code::Matmul(product) if one_row && product.prologue.is_some() => {
                            earlier.operands.get(product.tensors[product.left.tensor.0].operand)
                        }
                        _ => None,
                    };
                    let is_read = |at: &&usize| row != Some(&Operand::Buffer(**at));
                    let reads: Vec<usize> = earlier.reads.iter().filter(is_read).copied().collect();
                    assert!(!meet(&later.writes, &reads), "{name}: step {at} overwrites what step {before} reads");
                    assert!(!meet(&later.writes, &earlier.writes), "{name}: step {at} overwrites what step {before} writes");
                    let dealt = (before + 1..=at).all(|n| order(steps[n]) == Order::Follow);
                    // What every block makes for itself, and its own columns: those of products that are joined a convolution alone knows.
                    let function = &plan.functions[steps[before].function];
                    let whole = function.places().is_some() && matches!(function.code, Code::Nests(_) | Code::Top(_));
                    let shared = [step, &steps[before]].iter().all(|step| step.tasks.per == Per::Block);
                    let columns = matches!(function.code, Code::Matmul(_))
                        && match &later.code {
                            Code::Matmul(product) => {
                                let prologue = product.prologue.as_ref().map_or(&[][..], |own| &later.reads[own.reads..]);
                                steps[before].kernels.len() == 1 && !meet(prologue, &earlier.writes)
                            }
                            code => matches!(code, Code::Along(_)),
                        };
                    let own = one_row && (whole && steps[before].tasks.per == Per::Block || shared && columns);
                    let reads = meet(&later.reads, &earlier.writes);
                    assert!(dealt || own || !reads, "{name}: step {at} reads what step {before} writes");
                }
            }
        }
    }
}

/// A delta rule with a gate, of sizes that fragments divide.
const GATED: &str = "model gated(vocab: dim = 32, h: dim = 4, k: dim = 64, v: dim = 64)(tokens: [t]) -> [t, vocab] {\n  param tq, tk: [vocab, \
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

/// Calls of few rows have tables without the steps that they have no work for; whoever comes behind one of these waits in its place.
#[test]
fn few_rows_have_tables_of_their_own() {
    let (_, manifest) = built(GATED, "", "cuda:sm_90a", Dtype::Bf16);
    let device = manifest.device.expect("a GPU's manifest");
    for rows in [1, device.step_rows] {
        let needed = device.needed(rows);
        assert!(needed.len() + 2 <= device.steps.len(), "chunks have no work");
        assert!(needed.iter().all(|step| step.least <= rows && step.most.is_none_or(|most| rows <= most)));
        if rows > 1 {
            assert_eq!(waits_of(&needed, rows), waits_of(&device.steps, rows));
        }
    }
    assert_eq!(device.needed(usize::MAX), device.steps.iter().filter(|step| step.most.is_none()).cloned().collect::<Vec<_>>());
}

/// The plan of a spec for a GPU.
fn planned(spec: &str) -> Plan {
    planned_in(spec, Dtype::F32)
}

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
