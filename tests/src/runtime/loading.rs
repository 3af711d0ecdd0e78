//! Artifacts and checkpoints that are broken in every way that comes to mind: each a clear error.

use super::fake::{D, Fake, VOCAB, device, manifest};
use braid_runtime::artifact::{self, ArtifactError, Device, Launch, Manifest, Tiles};
use braid_runtime::checkpoint::{self, Checkpoint};
use braid_runtime::progress::Hidden;
use braid_runtime::{Artifact, Error, Weights};
use std::path::Path;

/// What `Artifact::open` says about these bytes.
fn opened(fake: &Fake, bytes: &[u8]) -> String {
    let path = fake.path("broken.so");
    std::fs::write(&path, bytes).unwrap();
    let error = Artifact::open(&path).err().expect("a broken artifact was taken");
    assert!(error.hint().is_some() && error.exit_code() == 1);
    error.to_string().replace(&format!("{}: ", path.display()), "")
}

fn rewritten(fake: &Fake, change: impl Fn(&mut Manifest)) -> Vec<u8> {
    let bytes = std::fs::read(fake.artifact()).unwrap();
    let (library, mut manifest) = artifact::decode(&bytes).unwrap();
    change(&mut manifest);
    artifact::encode(library, &manifest).unwrap()
}

#[test]
fn broken_artifacts() {
    let fake = Fake::new();
    let whole = std::fs::read(fake.artifact()).unwrap();
    assert_eq!(opened(&fake, b"once upon a time"), "not an artifact");
    assert_eq!(opened(&fake, b""), "not an artifact");
    assert!(opened(&fake, &whole[..whole.len() - 1]).contains("cut short"));
    assert!(opened(&fake, &whole[..300]).contains("cut short"));
    let mut version = whole.clone();
    let at = whole.len() - 12;
    version[at] = 9;
    assert_eq!(opened(&fake, &version), format!("artifact format 9, but this build reads format {}", artifact::VERSION));
    let mut flipped = whole.clone();
    flipped[1000] ^= 4;
    assert!(opened(&fake, &flipped).contains("checksum"));
    let mut middle = whole.clone();
    middle.drain(100..200);
    assert!(opened(&fake, &middle).contains("checksum"));
    let other = rewritten(&fake, |manifest| manifest.features = vec!["sse2".into(), "quantum".into()]);
    assert!(opened(&fake, &other).contains("uses the CPU feature quantum, which this machine lacks"));
    let mut library = artifact::decode(&whole).unwrap().0.to_vec();
    library[18] = if cfg!(target_arch = "x86_64") { 0xb7 } else { 0x3e };
    assert!(opened(&fake, &artifact::encode(&library, &manifest()).unwrap()).contains("but this machine is"));
    let missing = Artifact::open(Path::new("no/such/file.so")).err().unwrap();
    assert!(missing.to_string().starts_with("cannot read no/such/file.so"));
}

#[test]
fn a_library_without_the_entries() {
    let fake = Fake::new();
    let source = fake.path("empty.c");
    std::fs::write(&source, "int nothing;\n").unwrap();
    let library = fake.path("empty.so");
    let mut compiler = std::process::Command::new("cc");
    assert!(compiler.args(["-shared", "-o"]).arg(&library).arg(&source).status().unwrap().success());
    let bytes = artifact::encode(&std::fs::read(&library).unwrap(), &manifest()).unwrap();
    assert!(opened(&fake, &bytes).contains("braid_prepare"));
}

#[test]
fn manifests_that_contradict_themselves() {
    let wrong = |change: &dyn Fn(&mut Manifest)| {
        let mut manifest = manifest();
        change(&mut manifest);
        match artifact::encode(&[], &manifest) {
            Err(ArtifactError::Manifest(what)) => what,
            other => panic!("{other:?}"),
        }
    };
    assert!(wrong(&|m| m.vocab = 0).contains("vocab"));
    assert!(wrong(&|m| m.packed[1].param = 7).contains("no parameter"));
    assert!(wrong(&|m| m.packed[1].offset = 64).contains("overlaps"));
    assert!(wrong(&|m| m.packed[1].offset += 4).contains("not aligned"));
    assert!(wrong(&|m| m.packed[1].bytes = 4).contains("too few"));
    assert!(wrong(&|m| m.weights_bytes -= 64).contains("leaves the blob"));
    assert!(wrong(&|m| m.packed[0].layout = artifact::Layout::Dense(vec![0, 0])).contains("each axis once"));
    assert!(wrong(&|m| m.params[0].shape[0] = usize::MAX).contains("too large"));
    assert!(wrong(&|m| m.params[1].binding.as_mut().unwrap().strides[0] = 99).contains("past the checkpoint's tensor"));
    assert!(wrong(&|m| m.params[0].binding.as_mut().unwrap().tensors.clear()).contains("0 tensors where 1"));
    assert!(wrong(&|m| m.states[1].position_bytes = 8).contains("leaves the slot"));
    assert!(wrong(&|m| m.states[0].element_bytes = 0).contains("elements of 0 bytes"));
    assert!(wrong(&|m| m.states[0].rows = 2).contains("rows do not fill it"));
    assert!(wrong(&|m| m.states[0].truncate = artifact::Truncate::Rows).contains("rows do not fill it"));
    assert!(wrong(&|m| m.states[1].parts = 3).contains("rows do not fill it"));
    assert!(wrong(&|m| m.states[1].block = 32).contains("rows do not fill it"));
    assert!(wrong(&|m| m.states[1].fixed_offset = 0).contains("fixed and growing states are mixed"));
    let level = || Manifest { entries: "_1".into(), ..manifest() };
    assert!(wrong(&|m| m.levels = vec![manifest()]).contains("share their entries"));
    assert!(wrong(&|m| m.levels = vec![Manifest { vocab: 1, ..level() }]).contains("of different models"));
    assert!(wrong(&|m| m.levels = vec![Manifest { levels: vec![level()], ..level() }]).contains("of different models"));
    assert!(wrong(&|m| m.levels = vec![Manifest { max_rows: 0, ..level() }]).contains("cpu:any: `max_rows`"));
    assert!(wrong(&|m| m.levels = vec![Manifest { entries: "_/".into(), ..manifest() }]).contains("have no names"));
}

/// A machine takes the last level that it can run; if it can run none, it is told what the first one lacks.
#[test]
fn the_level_of_a_machine() {
    let level = |target: &str, features: &[&str]| Manifest {
        target: target.into(),
        features: features.iter().map(ToString::to_string).collect(),
        ..manifest()
    };
    let taken = |levels: &[(&str, &[&str])]| {
        let mut all = levels.iter().map(|(target, features)| level(target, features));
        let first = all.next().unwrap();
        Manifest { levels: all.collect(), ..first }.here().target
    };
    let lacking: &[&str] = &["quantum"];
    assert_eq!(taken(&[("one", &[])]), "one");
    assert_eq!(taken(&[("one", &[]), ("two", &[]), ("three", lacking)]), "two");
    assert_eq!(taken(&[("one", &[]), ("two", lacking), ("three", &[])]), "three");
    assert_eq!(taken(&[("one", lacking), ("two", lacking)]), "one");
}

/// What loading the fake model's weights from `tensors` says.
fn weights(fake: &Fake, tensors: &[(&str, &[usize], &[f32])]) -> String {
    let path = fake.path("other.safetensors");
    checkpoint::write(&mut std::fs::File::create(&path).unwrap(), tensors).unwrap();
    message(&path)
}

fn message(path: &Path) -> String {
    Weights::open(&manifest(), path.to_str().unwrap(), 1, &Hidden).err().expect("broken weights were taken").to_string()
}

#[test]
fn checkpoints_that_do_not_fit() {
    let fake = Fake::new();
    let embed: (&str, &[usize], &[f32]) = ("model.embed.weight", &[VOCAB, D], &fake.embed);
    let bias: (&str, &[usize], &[f32]) = ("model.head.bias", &[2 * VOCAB], &fake.bias);
    let found = weights(&fake, &[embed, bias, ("model.head.weights", &[VOCAB, D], &fake.head)]);
    assert!(found.contains("no tensor `model.head.weight` (did you mean `model.head.weights`?), needed for `head.w`"), "{found}");
    let found = weights(&fake, &[embed, ("model.head.weight", &[D, VOCAB], &fake.head)]);
    assert!(found.contains("has shape [24, 40] where [40, 24] is, needed for `head.w`"), "{found}");
    assert!(found.contains("no tensor `model.head.bias`"), "all problems at once: {found}");
    let mut unbound = manifest();
    unbound.params[2].binding = None;
    let error = Weights::open(&unbound, fake.folder.path().to_str().unwrap(), 1, &Hidden).err().unwrap();
    assert!(matches!(error, Error::NoMap { param } if param == "head.bias"));
}

#[test]
fn tensors_with_several_names() {
    let fake = Fake::new();
    let folder = fake.folder.path().to_str().unwrap();
    let named = |names: &str| {
        let mut manifest = manifest();
        manifest.params[1].binding.as_mut().unwrap().tensors[0] = names.into();
        Weights::open(&manifest, folder, 1, &Hidden).map(|weights| weights.bytes().to_vec()).map_err(|error| error.to_string())
    };
    assert_eq!(named("lm_head.weight|model.head.weight"), named("model.head.weight"));
    assert!(
        named("lm_head.weight|model.heads.weight").unwrap_err().contains("no tensor `lm_head.weight` or `model.heads.weight`")
    );
}

#[test]
fn types_that_cannot_be_read() {
    let fake = Fake::new();
    let path = fake.path("model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let at = bytes.windows(3).position(|window| window == b"F32").unwrap();
    bytes[at] = b'I';
    std::fs::write(&path, bytes).unwrap();
    assert!(message(&path).contains("is stored as I32; F32, F16, BF16 and F8_E4M3 can be read"));
}

#[test]
fn broken_checkpoint_files() {
    let header = |json: &str, data: usize| [&(json.len() as u64).to_le_bytes()[..], json.as_bytes(), &vec![0; data][..]].concat();
    let says = |bytes: &[u8]| checkpoint::parse(bytes).expect_err("a broken header was taken");
    assert!(says(b"abc").contains("not a safetensors file"));
    assert!(says(&[0xff; 64]).contains("not a safetensors file"));
    assert!(says(&header("{}", 0)[..9]).contains("truncated"));
    assert!(says(&header("hello!", 0)).contains("not safetensors JSON"));
    assert!(says(&header("[1]", 0)).contains("not safetensors JSON"));
    let tensor = |name: &str, shape: &str, from: u64, to: u64| {
        format!(r#""{name}":{{"dtype":"F32","shape":{shape},"data_offsets":[{from},{to}]}}"#)
    };
    let two = |a: String, b: String| format!("{{{a},{b}}}");
    assert!(says(&header(&two(tensor("a", "[2]", 0, 8), tensor("b", "[2]", 4, 12)), 12)).contains("`b` overlaps a"));
    assert!(says(&header(&two(tensor("a", "[2]", 0, 8), tensor("b", "[2]", 12, 20)), 20)).contains("leaves a hole after a"));
    assert!(says(&header(&two(tensor("a", "[2]", 0, 8), tensor("b", "[2]", 8, 16)), 10)).contains("truncated: tensor `b`"));
    assert!(says(&header(&format!("{{{}}}", tensor("a", "[3]", 0, 8)), 8)).contains("do not fit F32 [3]"));
    assert!(says(&header(&format!("{{{}}}", tensor("a", "[2]", 8, 0)), 8)).contains("do not fit"));
    assert!(says(&header(&format!("{{{}}}", tensor("a", "[9223372036854775807,9]", 0, 8)), 8)).contains("do not fit"));
    assert!(says(&header(&format!("{{{}}}", tensor("a", "[0]", u64::MAX, u64::MAX)), 8)).contains("out of range"));
    assert!(says(&header(&format!("{{{}}}", tensor("a", "[-1]", 0, 8)), 8)).contains("tensor `a`"));
    assert!(says(&header(&format!("{{{}}}", tensor("a", "[1]", 0, 4)), 8)).contains("4 bytes after the last tensor"));
    assert!(says(&header(&format!("{{{}}}", tensor("a", "[1]", 0, 4).replace("F32", "F99")), 4)).contains("unknown type `F99`"));
}

#[test]
fn checkpoint_directories() {
    let fake = Fake::new();
    let folder = fake.folder.path();
    let says = |folder: &Path| Checkpoint::open(folder).err().expect("a broken directory was taken").to_string();
    let empty = tempfile::tempdir().unwrap();
    assert!(says(empty.path()).contains("no safetensors files"));
    assert!(says(&empty.path().join("none")).contains("cannot open"));
    std::fs::write(empty.path().join("model.safetensors"), "").unwrap();
    assert!(says(empty.path()).contains("the file is empty"));
    let index = |text: &str| std::fs::write(folder.join("model.safetensors.index.json"), text).unwrap();
    index("{");
    assert!(says(folder).contains("model.safetensors.index.json: EOF"));
    index(r#"{"weight_map": {"a": "../secret.safetensors"}}"#);
    assert!(says(folder).contains("not a file inside the checkpoint"));
    index(r#"{"weight_map": {"a": "model-1.safetensors"}}"#);
    assert!(says(folder).contains("`model-1.safetensors` is missing"));
    let tensors: [(&str, &[usize], &[f32]); 1] = [("a", &[1], &[2.5])];
    checkpoint::write(&mut std::fs::File::create(folder.join("model-1.safetensors")).unwrap(), &tensors).unwrap();
    assert_eq!(Checkpoint::open(folder).unwrap().names().collect::<Vec<_>>(), ["a"]);
    std::fs::remove_file(folder.join("model.safetensors.index.json")).unwrap();
    std::fs::rename(folder.join("model.safetensors"), folder.join("model-0.safetensors")).unwrap();
    assert_eq!(Checkpoint::open(folder).unwrap().names().count(), 4);
    std::fs::copy(folder.join("model-1.safetensors"), folder.join("model-2.safetensors")).unwrap();
    assert!(says(folder).contains("`a` is in an earlier file too"));
}

#[test]
fn packed_files() {
    let fake = Fake::new();
    let weights = Weights::open(&manifest(), fake.folder.path().to_str().unwrap(), 2, &Hidden).unwrap();
    let path = fake.path("weights.bin");
    weights.write(&path).unwrap();
    let again = Weights::open(&manifest(), path.to_str().unwrap(), 1, &Hidden).unwrap();
    assert_eq!(weights.bytes(), again.bytes());
    let mut other = manifest();
    other.packed[1].dtype = artifact::Dtype::Bf16;
    assert!(matches!(Weights::open(&other, path.to_str().unwrap(), 1, &Hidden), Err(Error::OtherPack { .. })));
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[64..]).unwrap();
    assert!(message(&path).contains("packed for another artifact"));
}

#[test]
fn manifests_of_gpus() {
    let gpu = |change: &dyn Fn(&mut Device)| {
        let mut device = device();
        change(&mut device);
        let manifest = Manifest { device: Some(device), ..manifest() };
        artifact::encode(b"// PTX", &manifest).map_err(|error| error.to_string())
    };
    let bytes = gpu(&|_| ()).unwrap();
    let (code, found) = artifact::decode(&bytes).unwrap();
    assert_eq!((code, &found.device), (&b"// PTX"[..], &Some(device())));
    found.check_processor(code).unwrap();
    let wrong = |change: &dyn Fn(&mut Device)| gpu(change).unwrap_err();
    for arch in ["", "sm_", "sm_x", "compute_90", "sm_9", "sm_90b", "sm_+90", "sm_99999"] {
        assert!(wrong(&|device| device.arch = arch.into()).contains("is no architecture"), "{arch}");
    }
    assert!(wrong(&|device| device.step_rows = 0).contains("step_rows"));
    assert!(wrong(&|device| device.step.threads = 48).contains("threads"));
    assert!(wrong(&|device| device.prefill.blocks = 0).contains("grid"));
    assert!(wrong(&|device| device.prefill.shared_bytes = 1 << 20).contains("shared memory"));
    assert!(wrong(&|device| device.steps[0].function = 3).contains("calls no function"));
    assert!(wrong(&|device| device.prepare[0].by = 0).contains("out of range"));
    assert!(wrong(&|device| device.steps[1].follows = true).contains("both waits and follows"));
    assert!(wrong(&|device| device.steps[0].tiles[0].by = 3).contains("tiles are out of range"));
    assert!(wrong(&|device| device.steps[0].tiles = vec![device.steps[0].tiles[0]; 3]).contains("tiles are out of range"));
    let first = &device().steps[0];
    let tasks = |rows| first.count([1, rows, 1, 2, 8], rows, 4);
    assert_eq!([tasks(2), tasks(4), tasks(5), tasks(8), tasks(9)], [2, 2, 6, 6, 9]);
    assert_eq!(first.tasks(), "segments; 3 ⌈rows / 4⌉ from 5 on");
    // Of sequences that may have 16 rows: none of 20 can in a call of 34, one can in a call of 35.
    let long = Launch { per: 5, factor: 3, least: 16, tiles: vec![], ..first.clone() };
    let tasks = |rows, segments| long.count([1, rows, 1, segments, 8], rows, 4);
    assert_eq!([tasks(15, 1), tasks(16, 1), tasks(34, 20), tasks(35, 20)], [0, 3, 0, 60]);
    assert_eq!(long.tasks(), "3 segments, from 16 rows of one on");
    let pieces = Launch { tiles: vec![Tiles { per: 5, times: 1, from: 17, by: 1, factor: 64 }], per: 3, least: 0, ..long };
    let tasks = |rows, segments| pieces.count([1, rows, 1, segments, 8], rows, 4);
    assert_eq!([tasks(16, 1), tasks(17, 1), tasks(36, 21), tasks(37, 21)], [3, 64, 63, 64 * 21]);
    assert_eq!(pieces.tasks(), "3 segments; 64 segments from 17 rows of one on");
    assert!(wrong(&|device| device.steps[0].per = 6).contains("out of range"));
    let mut runs = device();
    assert!(runs.runs_on((9, 0)) && !runs.runs_on((9, 1)) && !runs.runs_on((10, 0)) && !runs.runs_on((8, 9)));
    runs.arch = "sm_80".into();
    assert!(runs.runs_on((8, 0)) && runs.runs_on((12, 1)) && !runs.runs_on((7, 5)));
}
