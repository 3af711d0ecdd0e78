//! `braid import`.

use super::args::ImportArgs;
use super::failure::Failure;
use super::{files, say};
use braid_compiler::import::{Imported, import as imported, import_gguf};
use braid_runtime::checkpoint::{Checkpoint, gguf};

/// Writes the spec and the weight map of a checkpoint.
pub fn import(args: &ImportArgs) -> Result<(), Failure> {
    files::has_folder(&args.output)?;
    let made = made(args, &model_name(args))?;
    let map = args.output.with_extension("weights.yaml");
    if let Some(path) = [&args.output, &map].into_iter().find(|p| !args.force && p.exists()) {
        return Err(Failure::hinted(format!("{} is there already", path.display()), "--force replaces it"));
    }
    files::write(&args.output, made.spec.as_bytes())?;
    files::write(&map, made.weights.as_bytes())?;
    say(&format!("wrote {} and {}\n", args.output.display(), map.display()))
}

/// What the configuration, or the metadata of a GGUF file, says.
fn made(args: &ImportArgs, name: &str) -> Result<Imported, Failure> {
    let config = match args.checkpoint.is_dir() {
        true => args.checkpoint.join("config.json"),
        false => args.checkpoint.clone(),
    };
    let library = braid_stdlib::files();
    if gguf::is_file(&config) {
        let checkpoint = Checkpoint::open(&config)?;
        let tensors: Vec<&str> = checkpoint.names().collect();
        return import_gguf(checkpoint.metadata(), &tensors, name, library).map_err(Failure::Import);
    }
    imported(&files::read(&config)?, name, library).map_err(Failure::Import)
}

/// The model's name in the spec: that of the file, as far as it is a name.
fn model_name(args: &ImportArgs) -> String {
    let stem = args.output.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
    let plain: String = stem.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' }).collect();
    match plain.chars().next() {
        Some(c) if c.is_ascii_alphabetic() => plain,
        _ => format!("model_{plain}"),
    }
}
