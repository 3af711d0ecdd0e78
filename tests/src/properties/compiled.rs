//! A spec compiled, with numbers for its parameters, for the runtime and for the evaluator alike.

use crate::build::{self, Built};
use crate::reference::Reference;
use braid_compiler::forms::Chunks;
use braid_compiler::graph::Graph;
use braid_dsl::model::Model;
use braid_runtime::Artifact;
use braid_runtime::artifact::{Dtype, Manifest, Param};
use braid_runtime::progress::Hidden;
use braid_runtime::session::{Feed, Session, Settings, Wanted};
use braid_runtime::weights::Weights;
use proptest::test_runner::TestCaseError;
use safetensors::Dtype as Kind;
use safetensors::tensor::TensorView;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A compiled model of which any number of sessions are made.
pub struct Compiled {
    artifact: Arc<Artifact>,
    weights: Arc<Weights>,
    numbers: BTreeMap<String, Vec<f32>>,
    model: Model,
    /// Keeps the library's file.
    folder: tempfile::TempDir,
}

impl Compiled {
    /// Compiles a spec for the CPU at hand and writes a checkpoint of made-up numbers for it.
    pub fn new(spec: &str) -> Compiled {
        Compiled::in_chunks(spec, Chunks::Auto)
    }

    /// As [`Compiled::new`], with recurrences walked as `chunks` says.
    pub fn in_chunks(spec: &str, chunks: Chunks) -> Compiled {
        Compiled::with(spec, chunks, made_up)
    }

    /// As [`Compiled::in_chunks`], with the numbers of each parameter, row-major in declared order, by path and shape.
    pub fn with(spec: &str, chunks: Chunks, numbers: impl Fn(&str, &[usize]) -> Vec<f32>) -> Compiled {
        Compiled::stored(spec, chunks, ("cpu", Dtype::F32), numbers)
    }

    /// As [`Compiled::with`], for a target, with weights stored as `dtype`.
    pub fn stored(
        spec: &str,
        chunks: Chunks,
        (target, dtype): (&str, Dtype),
        numbers: impl Fn(&str, &[usize]) -> Vec<f32>,
    ) -> Compiled {
        Compiled::of(build::model(spec), chunks, (target, dtype), numbers)
    }

    /// A model that gives its outputs behind its result.
    pub fn with_outputs(spec: &str, numbers: impl Fn(&str, &[usize]) -> Vec<f32>) -> Compiled {
        let model = build::model(spec).with_outputs().expect("outputs");
        Compiled::of(model, Chunks::Auto, ("cpu", Dtype::F32), numbers)
    }

    fn of(
        model: Model,
        chunks: Chunks,
        (target, dtype): (&str, Dtype),
        numbers: impl Fn(&str, &[usize]) -> Vec<f32>,
    ) -> Compiled {
        let entries = model.params.iter().map(|param| format!("  \"{0}\": {{ tensor: \"{0}\" }}\n", param.path));
        let map = format!("params:\n{}", entries.collect::<String>());
        let Built { artifact, folder } = build::of_model(model.clone(), &map, target, dtype, chunks);
        let params = artifact.manifest.params.iter();
        let numbers = params.map(|param| (param.path.clone(), numbers(&param.path, &param.shape))).collect();
        let file = folder.path().join("model.safetensors");
        write_checkpoint(&file, &artifact.manifest, &numbers);
        let weights = Weights::open(&artifact.manifest, file.to_str().expect("a path in UTF-8"), 1, &Hidden);
        let weights = Arc::new(weights.unwrap_or_else(|error| panic!("{error}")));
        Compiled { artifact: Arc::new(artifact), weights, numbers, model, folder }
    }

    /// Words of the vocabulary.
    pub fn vocab(&self) -> usize {
        self.artifact.manifest.vocab
    }

    /// A session with that many threads and slots.
    pub fn session(&self, threads: usize, slots: usize) -> Session {
        self.sized(Settings { threads, capacity: 256, slots })
    }

    /// A session of that size.
    pub fn sized(&self, settings: Settings) -> Session {
        Session::new(self.artifact.clone(), self.weights.clone(), settings).unwrap_or_else(|error| panic!("{error}"))
    }

    /// A file in a folder that lives as long.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The logits of all rows in one go, for a sequence that starts anew.
    pub fn whole(&self, tokens: &[i32]) -> Vec<f32> {
        feed(&mut self.session(1, 1), 0, tokens)
    }

    /// The numbers of a parameter.
    pub fn numbers(&self, path: &str) -> Vec<f64> {
        self.numbers[path].iter().map(|x| f64::from(*x)).collect()
    }

    /// What the evaluator says.
    pub fn evaluated(&self, tokens: &[i32]) -> Vec<f64> {
        self.evaluated_in(tokens, &[tokens.len()])
    }

    /// The same in calls of these lengths.
    pub fn evaluated_in(&self, tokens: &[i32], calls: &[usize]) -> Vec<f64> {
        let graph = Graph::build(&self.model);
        let mut reference = Reference::new(&graph, |path| self.numbers(path));
        let ids: Vec<i64> = tokens.iter().map(|id| i64::from(*id)).collect();
        let mut at = 0;
        let mut one = |rows: &usize| {
            at += rows;
            reference.run(&ids[at - rows..at]).data
        };
        calls.iter().flat_map(&mut one).collect()
    }
}

/// A state of a slot by the end of its name: the axes as stored, and its numbers.
pub fn state(session: &Session, slot: usize, name: &str) -> (Vec<(String, usize)>, Vec<f64>) {
    let state = session.manifest().states.iter().find(|state| state.name.ends_with(name)).expect("a state of that name");
    let snapshot = session.snapshot(slot).unwrap_or_else(|error| panic!("{error}"));
    let bytes = &snapshot.bytes()[state.fixed_offset..state.fixed_offset + state.fixed_bytes];
    let number = |b: &[u8]| f64::from(f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    (state.axes.clone(), bytes.chunks_exact(4).map(number).collect())
}

/// The logits of all rows of a slot's next tokens, in one call.
pub fn feed(session: &mut Session, slot: usize, tokens: &[i32]) -> Vec<f32> {
    let mut all = Vec::new();
    let done = session.prefill(slot, tokens, Wanted::All, |_, logits| all.extend_from_slice(logits));
    done.unwrap_or_else(|error| panic!("{error}"));
    all
}

/// One call for several slots: the logits of all rows, by feed.
pub fn together(session: &mut Session, feeds: &[(usize, &[i32])]) -> Vec<Vec<f32>> {
    let vocab = session.manifest().vocab;
    let calls: Vec<Feed> = feeds.iter().map(|(slot, tokens)| Feed::new(*slot, tokens, Wanted::All)).collect();
    let mut left = session.forward(&calls).unwrap_or_else(|error| panic!("{error}"));
    let mut cut = |rows: usize| {
        let (first, rest) = left.split_at(rows * vocab);
        left = rest;
        first.to_vec()
    };
    feeds.iter().map(|(_, tokens)| cut(tokens.len())).collect()
}

/// That two tables of logits agree to within `tolerance` of the largest wanted number.
pub fn agree(what: &str, found: &[f32], wanted: &[f64], tolerance: f64) -> Result<(), TestCaseError> {
    let largest = wanted.iter().fold(1e-3, |most: f64, x| most.max(x.abs()));
    if found.len() != wanted.len() || wanted.iter().any(|x| !x.is_finite()) {
        return Err(TestCaseError::fail(format!("{what}: {} numbers for {}, or no finite ones", found.len(), wanted.len())));
    }
    let far = |(a, b): (&f32, &f64)| if a.is_finite() { (f64::from(*a) - b).abs() } else { f64::INFINITY };
    let (place, worst) = found.iter().zip(wanted).map(far).enumerate().fold((0, 0.0), |a, b| if b.1 > a.1 { b } else { a });
    if worst > tolerance * largest {
        let (a, b) = (found[place], wanted[place]);
        return Err(TestCaseError::fail(format!("{what}: number {place} is {a} instead of {b}, and none is beyond {largest}")));
    }
    Ok(())
}

/// [`agree`] between two native results.
pub fn same(what: &str, found: &[f32], wanted: &[f32], tolerance: f64) -> Result<(), TestCaseError> {
    agree(what, found, &wanted.iter().map(|x| f64::from(*x)).collect::<Vec<_>>(), tolerance)
}

/// Numbers of a parameter, the same on every run: of about unit length along the last axis, so that activations stay moderate.
pub fn made_up(path: &str, shape: &[usize]) -> Vec<f32> {
    let mut state = path.bytes().fold(0x9e37_79b9_u64, |state, byte| (state ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    let scale = (shape.last().copied().unwrap_or(1) as f32 / 3.0).powf(-0.5).min(1.0);
    let next = |_| {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        scale * ((state >> 40) as f32 / (1 << 23) as f32 - 1.0)
    };
    (0..shape.iter().product()).map(next).collect()
}

/// Writes parameters as a safetensors file, each under its path.
pub fn write_checkpoint(file: &Path, manifest: &Manifest, numbers: &BTreeMap<String, Vec<f32>>) {
    let bytes: Vec<Vec<u8>> =
        manifest.params.iter().map(|p| numbers[&p.path].iter().flat_map(|x| x.to_le_bytes()).collect()).collect();
    let view = |(param, bytes)| {
        let param: &Param = param;
        (param.path.clone(), TensorView::new(Kind::F32, param.shape.clone(), bytes).expect("bytes of that shape"))
    };
    let views: Vec<_> = manifest.params.iter().zip(bytes.iter().map(Vec::as_slice)).map(view).collect();
    safetensors::serialize_to_file(views, None, file).expect("a file");
}
