//! `braid import`.

use super::args::ImportArgs;
use super::failure::Failure;
use super::{files, say};
use braid_compiler::import::import as imported;

/// Writes the spec and the weight map of a checkpoint.
pub fn import(args: &ImportArgs) -> Result<(), Failure> {
    let config = match args.checkpoint.is_dir() {
        true => args.checkpoint.join("config.json"),
        false => args.checkpoint.clone(),
    };
    let text = files::read(&config)?;
    files::has_folder(&args.output)?;
    let name = model_name(args);
    let made = imported(&text, &name, braid_stdlib::files()).map_err(Failure::Import)?;
    let map = args.output.with_extension("weights.yaml");
    if let Some(path) = [&args.output, &map].into_iter().find(|p| !args.force && p.exists()) {
        return Err(Failure::hinted(format!("{} is there already", path.display()), "--force replaces it"));
    }
    files::write(&args.output, made.spec.as_bytes())?;
    files::write(&map, made.weights.as_bytes())?;
    say(&format!("wrote {} and {}\n", args.output.display(), map.display()))
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
