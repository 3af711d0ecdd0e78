//! What NVIDIA's assembler makes of code for GPUs. It is named by `BRAID_PTXAS` (`make test` fetches one, `.ci/ptxas`); without it nothing is
//! assembled, but where `CI` is set that is an error.

use crate::apart;
use crate::build::imported;
use crate::columns;
use crate::gpu::{compiled, folder, lowered};
use braid_runtime::artifact::{Apart, Device, Dtype, Grid};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Shared memory of fixed places is rounded up to so many bytes.
const SHARED: usize = 4096;

/// Bytes of shared memory that a GPU keeps of each block for itself.
const RESERVED: usize = 1 << 10;

/// Bytes of shared memory that the blocks of a multiprocessor have together (CUDA C++ Programming Guide, compute capabilities).
fn multiprocessor(arch: &str) -> usize {
    if arch == "sm_90a" { 228 << 10 } else { 164 << 10 }
}

/// The least that a chip on which code for `sm_80` runs too has of it. Fewer blocks run there, but one must.
const LEAST: usize = 100 << 10;

fn ptxas() -> Option<PathBuf> {
    let named = std::env::var_os("BRAID_PTXAS").filter(|path| !path.is_empty()).map(PathBuf::from);
    assert!(named.is_some() || std::env::var_os("CI").is_none(), "no assembler: `.ci/ptxas` could not fetch it, see above");
    named
}

/// What the assembler says of a model's code: its functions with what they keep in a thread's own memory, and its entries.
struct Assembled {
    /// Most bytes that each function writes there. A function that several entries call is there for each.
    spilled: BTreeMap<String, usize>,
    /// What each entry uses.
    entries: BTreeMap<String, Used>,
}

/// Registers of a thread, and bytes of shared memory of fixed places.
#[derive(Clone, Copy, Debug)]
struct Used {
    registers: usize,
    shared: usize,
}

fn assembled(ptxas: &Path, arch: &str, ptx: &str) -> Assembled {
    let room = tempfile::tempdir().expect("a folder");
    let file = room.path().join("model.ptx");
    std::fs::write(&file, ptx).expect("a file");
    let arch = format!("-arch={arch}");
    let done = Command::new(ptxas).args([&arch, "-v", "-o", "/dev/null"]).arg(&file).output().expect("ptxas runs");
    let log = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{log}");
    // In launches of their own products go on while others are asked for.
    let serialized = log.lines().find(|line| line.contains("instructions are serialized") && line.contains("_apart'"));
    assert!(serialized.is_none(), "{serialized:?}");
    let (mut spilled, mut entries, mut function, mut entry) = (BTreeMap::new(), BTreeMap::new(), "", "");
    for line in log.lines() {
        if let Some((_, name)) = line.split_once("Function properties for ") {
            function = name.trim();
        } else if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            entry = rest.split('\'').next().unwrap_or_default();
        } else if let Some((_, rest)) = line.split_once("stack frame, ") {
            let bytes: usize = rest.split(' ').next().and_then(|bytes| bytes.parse().ok()).expect("a number of bytes");
            let most = spilled.entry(function.to_owned()).or_insert(0);
            *most = bytes.max(*most);
        } else if let Some((_, used)) = line.split_once("Used ") {
            let number = |what: &str| {
                let part = used.split(", ").find_map(|part| part.strip_suffix(what));
                part.and_then(|number| number.trim().parse::<usize>().ok()).unwrap_or(0)
            };
            entries.insert(entry.to_owned(), Used { registers: number("registers"), shared: number("bytes smem") });
        }
    }
    Assembled { spilled, entries }
}

/// Bytes that a thread may keep in memory of its own in the functions in which most of a call's time goes, whatever the model: none in
/// decoding; in prompts what does not count beside a stage of a tile.
fn spills(function: &str) -> Option<usize> {
    let kinds = [("stream_", 0), ("begin_stream", 0), ("prepare_", 0), ("dot_", 96), ("tile_", 32)];
    let parts = ["_one", "_row", "_begin", "_end", "_sorts", "_rounds", "_apart"].map(|part| (part, 0));
    let kind = kinds.into_iter().find(|(kind, _)| function.starts_with(kind));
    kind.or_else(|| parts.into_iter().find(|(part, _)| function.ends_with(part))).map(|(_, most)| most)
}

/// How an entry is launched.
fn grid(device: &Device, entry: &str) -> Grid {
    let own = |apart: &Apart| {
        let kind = entry.strip_prefix(&apart.name)?;
        let sort = apart.chosen().map(|chosen| ("_sorts", chosen.sort));
        let mut kinds = [("_rounds", apart.round), ("_apart", Some(apart.multiply))]
            .into_iter()
            .chain(sort.map(|(name, grid)| (name, Some(grid))));
        kinds.find_map(|(name, grid)| grid.filter(|_| name == kind))
    };
    let whole = if entry == "braid_step" { device.step } else { device.prefill };
    device.apart.iter().find_map(own).unwrap_or(whole)
}

/// Models of each kind of code: what they use is a snapshot.
#[test]
fn small_models_assemble() {
    let Some(ptxas) = ptxas() else { return println!("no assembler: BRAID_PTXAS names none") };
    let models = [
        ("llama", "sm_90a", Dtype::Bf16),
        ("mixtral", "sm_80", Dtype::Bf16),
        ("gated_deltanet", "sm_90a", Dtype::F32),
        ("columns", "sm_90a", Dtype::Int8),
        ("columns", "sm_90a", Dtype::Fp8),
        ("apart", "sm_90a", Dtype::Bf16),
        ("experts", "sm_90a", Dtype::Bf16),
    ];
    let text = |(name, arch, dtype): (&str, &str, Dtype)| {
        let target = format!("cuda:{arch}");
        let (ptx, manifest) = match name {
            "columns" => {
                let (code, manifest) = columns::built(&target, dtype);
                (String::from_utf8(code).expect("text"), manifest)
            }
            "apart" => apart::built(&target, dtype),
            "experts" => apart::built_of(apart::EXPERTS, &target, dtype),
            name => compiled(name, &target, dtype),
        };
        let device = manifest.device.expect("a GPU's manifest");
        let Assembled { spilled, entries } = assembled(&ptxas, arch, &ptx);
        for (function, bytes) in spilled {
            let most = spills(&function).unwrap_or(usize::MAX);
            assert!(bytes <= most, "{name} {arch} {dtype:?}: {function} spills {bytes} bytes");
        }
        let mut text = format!("{name} {arch} {dtype:?}\n");
        // What is done once, when weights are loaded, may take what it likes.
        for (entry, Used { registers, shared }) in entries.into_iter().filter(|(entry, _)| entry != "braid_prepare") {
            let grid = grid(&device, &entry);
            let taken = shared + grid.shared_bytes + RESERVED;
            let fits = grid.blocks * taken <= multiprocessor(arch) && (arch == "sm_90a" || taken <= LEAST);
            assert!(fits, "{name} {arch} {dtype:?}: a block of {entry} takes {taken} bytes of shared memory");
            // As they are dealt, so that what changes nothing is the same text.
            let (registers, shared) = (registers.next_multiple_of(8), shared.div_ceil(SHARED) * SHARED / 1024);
            let _ = writeln!(text, "  {entry}: {registers} registers, {shared} KiB of shared memory");
        }
        text
    };
    let all: Vec<String> = std::thread::scope(|scope| {
        let halves = models.chunks(2).map(|some| scope.spawn(|| some.iter().map(|model| text(*model)).collect::<Vec<_>>()));
        halves.collect::<Vec<_>>().into_iter().flat_map(|half| half.join().expect("assembled")).collect()
    });
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(Path::new(env!("CARGO_MANIFEST_DIR")).join("snapshots/ptx"));
    settings.set_omit_expression(true);
    settings.set_prepend_module_to_snapshot(false);
    settings.bind(|| insta::assert_snapshot!("assembled", all.join("\n")));
}

/// Every golden model, for both architectures.
#[test]
#[ignore = "takes minutes: BRAID_PTXAS=$(.ci/ptxas) cargo test -p braid-tests --lib assembled:: -- --ignored"]
fn every_model_assembles() {
    let ptxas = ptxas().expect("BRAID_PTXAS names the assembler");
    let mut names: Vec<String> = std::fs::read_dir(folder(""))
        .expect("goldens")
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| folder(name).join("config.json").exists())
        // A source is not lowered for GPUs yet.
        .filter(|name| name != "whisper")
        .collect();
    names.sort();
    for name in names {
        if let Err(limit) = lowered(&imported(&folder(&name).join("config.json")).0, Dtype::F32) {
            println!("{name}: {limit}");
            continue;
        }
        for (arch, dtype) in [("sm_90a", Dtype::F32), ("sm_80", Dtype::F32), ("sm_90a", Dtype::Bf16), ("sm_80", Dtype::Bf16)] {
            let (ptx, _) = compiled(&name, &format!("cuda:{arch}"), dtype);
            println!("{name} {arch} {dtype:?}: {:?}", assembled(&ptxas, arch, &ptx).entries);
        }
    }
}
