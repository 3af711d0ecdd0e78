//! From a spec's text to a loaded artifact, in memory but for the library itself: what the command line does, for tests.

use braid_compiler::forms::Chunks;
use braid_compiler::import;
use braid_compiler::import::bind::{self, WeightMap};
use braid_compiler::pipeline::{self, Options};
use braid_compiler::target::Target;
use braid_dsl::model::Model;
use braid_dsl::source::Sources;
use braid_runtime::artifact::{Dtype, Manifest};
use braid_runtime::load::Artifact;
use std::path::Path;

/// The library's texts and one spec.
struct Texts<'a> {
    spec: &'a str,
}

impl Sources for Texts<'_> {
    fn read(&self, path: &str) -> Option<String> {
        if path == "spec.braid" {
            return Some(self.spec.to_owned());
        }
        braid_stdlib::files().iter().find(|(name, _)| *name == path).map(|(_, text)| (*text).to_owned())
    }

    fn prelude(&self) -> Vec<String> {
        let is_prelude = |name: &str| {
            name.ends_with(".braid") && !["models/", "weights/", "import/", "targets/"].iter().any(|f| name.starts_with(f))
        };
        braid_stdlib::files().iter().map(|(name, _)| (*name).to_owned()).filter(|name| is_prelude(name)).collect()
    }
}

/// The model of a spec's text.
pub fn model(spec: &str) -> Model {
    model_under(spec, None)
}

/// The same, with a policy for its caches.
pub fn model_under(spec: &str, policy: Option<&str>) -> Model {
    let (checked, map) = braid_dsl::check_under(&Texts { spec }, "spec.braid", &[], policy);
    checked.unwrap_or_else(|errors| {
        let text: String = errors.iter().map(|e| e.render(&map)).collect();
        panic!("{spec}\n{text}")
    })
}

/// Spec and weight map of a checkpoint's configuration.
pub fn imported(config: &Path) -> (String, String) {
    let text = std::fs::read_to_string(config).unwrap_or_else(|error| panic!("{}: {error}", config.display()));
    let made = import::import(&text, "tested", braid_stdlib::files()).unwrap_or_else(|error| panic!("{error}"));
    (made.spec, made.weights)
}

/// An artifact and its folder, which lives as long.
pub struct Built {
    /// Loaded.
    pub artifact: Artifact,
    /// Where its file is.
    pub folder: tempfile::TempDir,
}

/// Compiles a spec through the stages that the command line runs.
pub fn build(spec: &str, map: &str, target: &str, dtype: Dtype) -> Built {
    build_in_chunks(spec, map, target, dtype, Chunks::Auto)
}

/// As [`build`], with recurrences walked as `chunks` says.
pub fn build_in_chunks(spec: &str, map: &str, target: &str, dtype: Dtype, chunks: Chunks) -> Built {
    of_model(model(spec), map, target, dtype, chunks)
}

/// The same of a model.
pub fn of_model(model: Model, map: &str, target: &str, dtype: Dtype, chunks: Chunks) -> Built {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("model.braidart");
    write_model(&path, model, map, target, dtype, chunks);
    Built { artifact: Artifact::open(&path).unwrap_or_else(|error| panic!("{error}")), folder }
}

/// Compiles a spec to a file, for whatever processor; what its manifest says.
pub fn write(path: &Path, spec: &str, map: &str, target: &str, dtype: Dtype, chunks: Chunks) -> Manifest {
    write_model(path, model(spec), map, target, dtype, chunks)
}

fn write_model(path: &Path, model: Model, map: &str, target: &str, dtype: Dtype, chunks: Chunks) -> Manifest {
    let bound = |map: WeightMap| {
        let params = map.bind(&model.axes, &model.params, &model.constants).map_err(|mut e| e.remove(0))?;
        Ok((params, map.sources(&model)?))
    };
    let (params, sources) = match map.is_empty() {
        true => (bind::unbound(&model.axes, &model.params), vec![]),
        false => WeightMap::parse(map).and_then(bound).unwrap_or_else(|error| panic!("{error}")),
    };
    let target = Target::parse(target).expect("a target");
    let last = pipeline::stage("artifact").expect("a stage");
    let work = pipeline::run(model, Options { target, dtype, chunks, params, sources }, last, &|_| ())
        .unwrap_or_else(|error| panic!("{error}"));
    let (library, manifest) = work.artifact().unwrap_or_else(|error| panic!("{error}"));
    braid_runtime::artifact::write(path, library, manifest).expect("a file");
    manifest.clone()
}
