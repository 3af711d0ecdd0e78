//! `braid run`, `logits` and `verify`: what `braid-run` does, with a spec in the place of an artifact if one likes.

use super::args::{BESIDE, CodeArgs, LogitsCommand, ProfileCommand, RunArgs, Settings, SpecArgs, VerifyCommand};
use super::failure::Failure;
use super::{build, spec};
use braid_runtime::artifact::MAGIC;
use braid_runtime::cli;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Continues a text.
pub fn run(mut args: RunArgs) -> Result<(), Failure> {
    found(&mut args.options.model.weights, &args.spec, &args.settings)?;
    let artifact = artifact(&args.spec, &args.settings, &args.code)?;
    Ok(cli::run(&artifact, &args.options)?)
}

/// Measures kernels.
pub fn profile(mut args: ProfileCommand) -> Result<(), Failure> {
    found(&mut args.options.model.weights, &args.spec, &args.settings)?;
    let artifact = artifact(&args.spec, &args.settings, &args.code)?;
    Ok(cli::run_profile(&artifact, &args.options)?)
}

/// Puts the weights beside the spec in the place of none.
fn found(named: &mut String, name: &str, settings: &Settings) -> Result<(), Failure> {
    if *named == BESIDE {
        *named = weights(name).or_else(|none| {
            // What is no spec either has no place where weights could lie.
            if !Path::new(name).exists() {
                spec::load(&SpecArgs { spec: name.into(), settings: settings.clone() })?;
            }
            Err(none)
        })?;
    }
    Ok(())
}

/// Writes logits.
pub fn logits(mut args: LogitsCommand) -> Result<(), Failure> {
    args.logits.artifact = artifact(&args.logits.artifact.to_string_lossy(), &args.settings, &args.code)?;
    Ok(cli::logits(&args.logits)?)
}

/// Compares with golden results.
pub fn verify(mut args: VerifyCommand) -> Result<(), Failure> {
    args.verify.artifact = artifact(&args.verify.artifact.to_string_lossy(), &args.settings, &args.code)?;
    Ok(cli::verify(&args.verify)?)
}

/// The artifact that was named, or that of the spec that was named.
fn artifact(name: &str, settings: &Settings, code: &CodeArgs) -> Result<PathBuf, Failure> {
    let path = Path::new(name);
    let is_spec = path.extension().is_some_and(|x| x == "braid");
    if path.is_file() && !is_spec {
        let late = [
            ("--set", !settings.set.is_empty()),
            ("--preset", settings.preset.is_some()),
            ("--policy", settings.policy.is_some()),
        ];
        if let Some((option, _)) = late.iter().find(|(_, given)| *given) {
            return Err(Failure::hinted(format!("an artifact is built: `{option}` comes too late"), "name the spec instead"));
        }
        return match is_artifact(path) {
            true => Ok(path.to_path_buf()),
            false => Err(Failure::hinted(
                format!("{name} is no artifact: it does not end as one"),
                "was it cut short? `braid build SPEC -o FILE` makes one",
            )),
        };
    }
    build::cached(spec::load(&SpecArgs { spec: name.into(), settings: settings.clone() })?, code)
}

/// Whether a file ends like an artifact.
fn is_artifact(path: &Path) -> bool {
    let mut end = [0; MAGIC.len()];
    let read = std::fs::File::open(path).and_then(|mut file| {
        file.seek(SeekFrom::End(-(MAGIC.len() as i64)))?;
        file.read_exact(&mut end)
    });
    read.is_ok() && end == *MAGIC
}

/// The checkpoint that lies with a spec: the folder `weights` beside it, its own folder, or the only GGUF file there.
fn weights(name: &str) -> Result<String, Failure> {
    let path = Path::new(name);
    let folder = if path.is_dir() { path } else { path.parent().unwrap_or(Path::new("")) };
    let beside = folder.join("weights");
    let holds = |p: &Path| p.join("model.safetensors").exists() || p.join("model.safetensors.index.json").exists();
    let own = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let found = [beside.as_path(), own].into_iter().find(|p| holds(p)).map(Path::to_path_buf);
    match found.or_else(|| only_gguf(own)) {
        Some(found) => Ok(found.to_string_lossy().into_owned()),
        None => Err(Failure::hinted(
            format!("there are no weights beside {name}"),
            "name a checkpoint with `--weights DIR`, or try `--weights random:1`",
        )),
    }
}

/// The GGUF file of a folder that has one.
fn only_gguf(folder: &Path) -> Option<PathBuf> {
    let files = std::fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path());
    let mut found: Vec<_> = files.filter(|path| path.extension().is_some_and(|x| x == "gguf")).collect();
    found.pop().filter(|_| found.is_empty())
}
