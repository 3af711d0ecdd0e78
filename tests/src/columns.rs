//! Quantised weights for GPUs: columns in parts hold the numbers that panels hold for processors, and the code reads them.

use crate::build::write;
use braid_compiler::forms::Chunks;
use braid_runtime::Weights;
use braid_runtime::artifact::{self, Dtype, GROUP, Layout, Manifest, PART, Packed};
use braid_runtime::checkpoint::fp8;
use braid_runtime::progress::Hidden;
use braid_runtime::weights::Origin;
use half::f16;

const QUANTISED: [Dtype; 4] = [Dtype::Int8, Dtype::Fp8, Dtype::Int4, Dtype::Int4z];

/// Products of every kind: columns of one part and of several, one with a batch axis, one of an odd depth, a router and experts.
pub const SPEC: &str = "
model m(d: dim = 1056, heads: dim = 4, k: dim = 96, odd: dim = 200, vocab: dim = 150)(tokens: [t]) -> [t, vocab] {
  dim j = k
  param embed: [vocab, d]   param up: [heads, k, d]   param mixed: [heads, j, k]   param down: [odd, heads, j]   param back: [d, odd]
  param head: [vocab, d]
  x = embed[vocab: tokens]
  x = x + sum[odd] (sum[heads, j] (sum[k] (sum[d] x * up) * mixed) * down) * back
  ffn = moe(experts: 4, active: 2, expert: swiglu(hidden: 96))
  x = x + ffn(rmsnorm(x))
  return sum[d] rmsnorm(x) * head
}
";

/// The code and the manifest for a target.
pub fn built(target: &str, dtype: Dtype) -> (Vec<u8>, Manifest) {
    let room = tempfile::tempdir().expect("a folder");
    let path = room.path().join("model.braidart");
    write(&path, SPEC, "", target, dtype, Chunks::Auto);
    let bytes = std::fs::read(&path).expect("an artifact");
    let (code, manifest) = artifact::decode(&bytes).expect("a sound artifact");
    (code.to_vec(), manifest)
}

/// The quantised tensors of a manifest by their parameters' paths, with made-up weights.
fn tensors(manifest: &Manifest) -> (Vec<(String, Packed)>, Weights) {
    let weights = Weights::pack(manifest, &Origin::Random(1), 2, &Hidden).expect("weights");
    let quantised = manifest.packed.iter().filter(|packed| packed.dtype.quantised());
    (quantised.map(|packed| (manifest.params[packed.param].path.clone(), packed.clone())).collect(), weights)
}

fn half_at(bytes: &[u8], index: usize) -> f32 {
    f16::from_le_bytes([bytes[2 * index], bytes[2 * index + 1]]).to_f32()
}

/// A number of eight bits; scales are 256 times as large.
fn e4m3(byte: u8) -> f32 {
    fp8::number(byte) / 256.0
}

/// The number of a group of panels, `bytes` from the group on.
fn of_panel(dtype: Dtype, bytes: &[u8], (column, width): (usize, usize), at: usize) -> f32 {
    let (scale, pair) = (half_at(bytes, column), at / 2 * width + column);
    let nibble = |heads: usize| {
        let place = 2 * (heads * width + 2 * (at / 8 * width + column) + at % 2);
        f32::from((u16::from_le_bytes([bytes[place], bytes[place + 1]]) >> (at % 8 / 2 * 4)) & 15)
    };
    match dtype {
        Dtype::Int8 => scale * f32::from(bytes[2 * width + 2 * pair + at % 2].cast_signed()),
        Dtype::Fp8 => scale * e4m3(bytes[2 * width + at * width + column]),
        Dtype::Int4 => scale * (nibble(1) - 8.0),
        _ => scale * nibble(2) + half_at(bytes, width + column),
    }
}

/// The number of a column in parts.
fn of_column(dtype: Dtype, column: &[u8], at: usize) -> f32 {
    let (of_part, head, bytes) = match dtype {
        Dtype::Int8 | Dtype::Fp8 => (15, 32, 32),
        Dtype::Int4 => (28, 64, 16),
        _ => (25, 112, 16),
    };
    let (group, within) = (at / GROUP % of_part, at % GROUP);
    let part = &column[at / GROUP / of_part * PART..];
    let integers = &part[head + group * bytes..];
    let nibble = || f32::from((integers[within / 8 * 4 + within % 4] >> (within % 8 / 4 * 4)) & 15);
    let scale = half_at(part, group);
    match dtype {
        Dtype::Int8 => scale * f32::from(integers[within].cast_signed()),
        Dtype::Fp8 => scale * e4m3(integers[within]),
        Dtype::Int4 => scale * (nibble() - 8.0),
        _ => scale * nibble() + half_at(part, of_part + group),
    }
}

#[test]
fn columns_hold_the_numbers_of_panels() {
    for dtype in QUANTISED {
        let (_, for_cpu) = built("cpu:x86-64-v3", dtype);
        let (_, for_gpu) = built("cuda:sm_90a", dtype);
        let ((panels, in_panels), (columns, in_columns)) = (tensors(&for_cpu), tensors(&for_gpu));
        assert_eq!(columns.len(), 7, "{dtype:?}");
        for (path, packed) in columns {
            let (_, other) = panels.iter().find(|(name, _)| *name == path).expect("the same on a processor");
            let (Layout::Columns { batch, k, n }, Layout::Panels { width, .. }) = (&packed.layout, &other.layout) else {
                panic!("{path}: columns on a GPU, panels on a processor")
            };
            let size = |axes: &[usize]| axes.iter().map(|axis| for_gpu.params[packed.param].shape[*axis]).product::<usize>();
            let (batch, depth, count) = (size(batch), size(k), size(n));
            let (bytes, group_bytes) = (packed.bytes / batch / count, width * dtype.bytes(GROUP));
            let panel_bytes = depth.div_ceil(GROUP) * group_bytes;
            for column in (0..batch * count).step_by(7) {
                let (element, of) = (column / count, column % count);
                let own = &in_columns.bytes()[packed.offset + column * bytes..][..bytes];
                let panel = other.offset + (element * count.div_ceil(*width) + of / width) * panel_bytes;
                for at in 0..depth {
                    let group = &in_panels.bytes()[panel + at / GROUP * group_bytes..][..group_bytes];
                    let wanted = of_panel(dtype, group, (of % width, *width), at % GROUP);
                    assert_eq!(of_column(dtype, own, at), wanted, "{path} {dtype:?}: number {at} of column {column}");
                }
            }
        }
    }
}

/// What is narrow, or no whole groups, stays bfloat16 as rows of tables do; steps of decoding say how many bytes of a column they read.
#[test]
fn what_a_gpu_reads_of_quantised_weights() {
    for (dtype, bytes) in [
        (Dtype::Int8, 2 * PART + 32 + 3 * 32),
        (Dtype::Fp8, 2 * PART + 32 + 3 * 32),
        (Dtype::Int4, PART + 64 + 5 * 16),
        (Dtype::Int4z, PART + 112 + 8 * 16),
    ] {
        let (_, manifest) = built("cuda:sm_80", dtype);
        let stored = |path: &str| {
            let of = |packed: &&Packed| manifest.params[packed.param].path == path;
            manifest.packed.iter().filter(of).map(|packed| packed.dtype).collect::<Vec<_>>()
        };
        assert_eq!(stored("embed"), [Dtype::Bf16]);
        assert_eq!((stored("back"), stored("down"), stored("head")), (vec![Dtype::Bf16], vec![dtype], vec![dtype]));
        let device = manifest.device.expect("a GPU's manifest");
        let head = device.steps.last().and_then(|step| step.stream).expect("the last product is read ahead");
        assert_eq!((head.columns, head.column_bytes), (150, bytes), "{dtype:?}");
    }
}

/// A row meets numbers of eight bits as it is.
#[test]
fn kernels_of_eight_bits() {
    let (code, _) = built("cuda:sm_90a", Dtype::Fp8);
    let ptx = String::from_utf8(code).expect("text");
    for function in ["stream_fp8", "stream_of_8_fp8", "tile_64x64_fp8", "tile_128x128_fp8"] {
        assert!(ptx.contains(&format!(".func {function}")), "{function}");
    }
    assert!(!ptx.contains("dp2a") && !ptx.contains(".func prepare_fp8") && !ptx.contains("__local_depot"));
}

/// Decoding multiplies integers, prompts bfloat16 numbers on the matrix units; every access names its memory.
#[test]
fn kernels_of_quantised_weights() {
    for (dtype, target) in [(Dtype::Int8, "cuda:sm_90a"), (Dtype::Int4, "cuda:sm_90a"), (Dtype::Int4z, "cuda:sm_80")] {
        let (code, _) = built(target, dtype);
        let ptx = String::from_utf8(code).expect("text");
        let name = format!("{dtype:?}").to_lowercase();
        // The sums of several rows on the matrix units, and weights on their way, do not fit the other one's shared memory.
        let several = if target == "cuda:sm_90a" { "stream_of_8_{}" } else { "dot_8_{}" };
        for function in ["stream_{}", "prepare_{}", several, "tile_64x64_{}", "tile_128x128_{}"] {
            assert!(ptx.contains(&format!(".func {}", function.replace("{}", &name))), "{target}: {function} of {name}");
        }
        assert!(ptx.contains("dp2a.lo.s32.s32") && ptx.contains("dp2a.hi.s32.s32"), "{name}");
        assert_eq!(ptx.contains("wgmma.mma_async"), target == "cuda:sm_90a");
        let plain = ptx.lines().map(str::trim).find(|line| line.starts_with("ld.b") || line.starts_with("st.b"));
        assert_eq!(plain, None, "{name}");
        assert!(!ptx.contains("__local_depot"), "{name}");
    }
}
