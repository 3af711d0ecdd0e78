//! `braid build`, and the building that other commands need.

use super::args::{BuildArgs, CodeArgs, DtypeArg};
use super::failure::Failure;
use super::progress::Line;
use super::spec::{self, Spec};
use super::{cache, files, say, schedules};
use braid_compiler::import::bind::{WeightMap, unbound};
use braid_compiler::pipeline::{self, Options, STAGES, Stage, Work};
use braid_compiler::target::Target;
use braid_dsl::source::SourceMap;
use braid_runtime::artifact::{self, Dtype, Manifest, Param, Source};
use std::path::{Path, PathBuf};

/// Compiles a spec to an artifact and the header beside it.
pub fn build(args: &BuildArgs) -> Result<(), Failure> {
    files::has_folder(&args.output)?;
    let (library, manifest) = made(spec::load(&args.spec)?, &args.code)?;
    let header = write(&args.output, &library, &manifest)?;
    let size = std::fs::metadata(&args.output).map_or(0, |m| m.len());
    let beside = header.map_or(String::new(), |header| format!(" and {}", header.display()));
    let targets = manifest.targets().join(", ");
    say(&format!("wrote {} ({} KiB, {targets}){beside}\n", args.output.display(), size.div_ceil(1024)))
}

/// The artifact of a spec, from the cache if it was built before.
pub fn cached(spec: Spec, code: &CodeArgs) -> Result<PathBuf, Failure> {
    let targets = Target::parse_levels(&code.target)?;
    let targets =
        targets.into_iter().map(|target| schedules::applied(target, dtype(code), code)).collect::<Result<Vec<_>, _>>()?;
    let Some(path) = cache::path(&spec, code, &targets) else {
        return Err(Failure::hinted(
            "there is no folder for built artifacts",
            "set HOME or XDG_CACHE_HOME, or use `braid build`",
        ));
    };
    if !path.exists() {
        let (library, manifest) = made(spec, code)?;
        write(&path, &library, &manifest)?;
    }
    Ok(path)
}

fn made(spec: Spec, code: &CodeArgs) -> Result<(Vec<u8>, Manifest), Failure> {
    let mut targets = Target::parse_levels(&code.target)?;
    for target in &mut targets {
        *target = schedules::applied(target.clone(), dtype(code), code)?;
    }
    if targets.len() == 1 {
        return made_for(spec, targets.swap_remove(0), code);
    }
    let Some(compiled) = pipeline::stage("llvm") else { return Err(Failure::user("there is no code")) };
    let level = |target| Ok(compile_for(spec.clone(), target, code, compiled)?.0);
    let levels = targets.into_iter().map(level).collect::<Result<Vec<_>, Failure>>()?;
    pipeline::joined(&levels).map_err(|e| Failure::Compiler(e, spec.sources))
}

/// Code and manifest for one target, whose schedule counts.
pub fn made_for(spec: Spec, target: Target, code: &CodeArgs) -> Result<(Vec<u8>, Manifest), Failure> {
    let Some(last) = STAGES.last() else { return Err(Failure::user("there are no stages")) };
    let (work, sources) = compile_for(spec, target, code, last)?;
    work.artifact().cloned().map_err(|e| Failure::Compiler(e, sources))
}

/// Writes an artifact whole or not at all, and its header. Of several levels there is none: a C program would have to know which one is
/// taken.
fn write(path: &Path, library: &[u8], manifest: &Manifest) -> Result<Option<PathBuf>, Failure> {
    artifact::write(path, library, manifest).map_err(|e| Failure::file("write", path, &e))?;
    if !manifest.levels.is_empty() {
        return Ok(None);
    }
    let header = path.with_extension("h");
    files::write(&header, artifact::header(manifest).as_bytes())?;
    Ok(Some(header))
}

/// Runs the stages up to one.
pub fn compile(spec: Spec, code: &CodeArgs, until: &Stage) -> Result<(Work, SourceMap), Failure> {
    compile_for(spec, schedules::applied(Target::parse(&code.target)?, dtype(code), code)?, code, until)
}

/// Storage of the large weights.
pub fn dtype(code: &CodeArgs) -> Dtype {
    match code.dtype {
        DtypeArg::F32 => Dtype::F32,
        DtypeArg::Bf16 => Dtype::Bf16,
        DtypeArg::Int8 => Dtype::Int8,
        DtypeArg::Fp8 => Dtype::Fp8,
        DtypeArg::Int4 => Dtype::Int4,
        DtypeArg::Int4z => Dtype::Int4z,
    }
}

fn compile_for(spec: Spec, target: Target, code: &CodeArgs, until: &Stage) -> Result<(Work, SourceMap), Failure> {
    let (params, sources) = (bound(&spec)?, sources(&spec)?);
    let line = Line::new(STAGES.len());
    let options = Options { target, dtype: dtype(code), chunks: code.chunk.0, params, sources };
    let name = spec.model.name.clone();
    let model = match code.outputs {
        true => spec.model.with_outputs().ok_or_else(|| none_declared(&name))?,
        false => spec.model,
    };
    match pipeline::run(model, options, until, &|stage| line.step(stage)) {
        Ok(work) => Ok((work, spec.sources)),
        Err(error) => Err(Failure::Compiler(error, spec.sources)),
    }
}

fn none_declared(model: &str) -> Failure {
    let what = format!("`--outputs`: no block of model `{model}` declares any");
    Failure::hinted(what, "a block does by `output name = …`")
}

fn parsed(path: &str, text: &str) -> Result<WeightMap, Failure> {
    WeightMap::parse(text).map_err(|e| Failure::user(format!("{path}: {e}")))
}

/// How others store the inputs of a model, if its weight map says so.
fn sources(spec: &Spec) -> Result<Vec<(String, Source)>, Failure> {
    let Some((path, text)) = &spec.weights else { return Ok(vec![]) };
    parsed(path, text)?.sources(&spec.model).map_err(|e| Failure::user(format!("{path}: {e}")))
}

/// The parameters of a model, bound by the weight map if there is one.
pub fn bound(spec: &Spec) -> Result<Vec<Param>, Failure> {
    let model = &spec.model;
    let Some((path, text)) = &spec.weights else { return Ok(unbound(&model.axes, &model.params)) };
    let map = parsed(path, text)?;
    map.bind(&model.axes, &model.params, &model.constants).map_err(|errors| {
        let shown: Vec<String> = errors.iter().take(12).map(|e| format!("\n  {e}")).collect();
        let more = errors.len().checked_sub(13).map_or(String::new(), |n| format!("\n  … and {} more", n + 1));
        Failure::user(format!("{path}: the weight map does not fit the model:{}{more}", shown.concat()))
    })
}
