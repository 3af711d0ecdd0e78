//! `braid linearise`: a spec whose attention is something else over the same weights.

use super::args::{LineariseArgs, Settings, SpecArgs};
use super::failure::Failure;
use super::spec::{self, Place};
use super::{files, say};
use braid_compiler::import::bind::{BindError, WeightMap};
use braid_dsl::constant::render;
use std::path::Path;

/// Writes the spec, and its weight map if the other spec has one.
pub fn linearise(args: &LineariseArgs) -> Result<(), Failure> {
    files::has_folder(&args.output)?;
    let map = args.output.with_extension("weights.yaml");
    if let Some(path) = [&args.output, &map].into_iter().find(|p| !args.force && p.exists()) {
        return Err(Failure::hinted(format!("{} is there already", path.display()), "--force replaces it"));
    }
    let before = spec::load(&SpecArgs { spec: args.spec.spec.clone(), settings: plain(&args.spec.settings) })?;
    let policy = args.spec.settings.policy.as_deref().unwrap_or("linearised()").trim();
    let text = derived(&args.spec, &args.output, (&before.model.name, "linear"), Some(policy))?;
    files::write(&args.output, text.as_bytes())?;
    let name = args.output.to_string_lossy().into_owned();
    let made = spec::load(&SpecArgs { spec: name, settings: Settings::default() }).inspect_err(|_| {
        // What is no model is not left behind; that it could not be removed would be a second error.
        let _ = std::fs::remove_file(&args.output);
    })?;
    let Some((path, old)) = before.weights else { return say(&format!("wrote {}\n", args.output.display())) };
    let unread = |error: BindError| Failure::user(format!("{path}: {error}"));
    let bound = WeightMap::parse(&old).map_err(unread)?.bind(&made.model.axes, &made.model.params, &made.model.constants);
    let missing = bound.err().unwrap_or_default().into_iter().filter_map(|error| match error {
        BindError::Unmapped { path } => Some(path),
        _ => None,
    });
    let missing: Vec<String> = missing.collect();
    files::write(&map, with_own(&old, &missing).as_bytes())?;
    let count = missing.len();
    say(&format!("wrote {} and {}: {count} new parameters, tensors of their own names\n", args.output.display(), map.display()))
}

/// Without a policy: the spec as it is.
pub fn plain(settings: &Settings) -> Settings {
    Settings { policy: None, ..settings.clone() }
}

/// A spec's text with one more model, for a file: the last one with the settings that were typed, under a policy if there is one.
pub fn derived(spec: &SpecArgs, output: &Path, (model, suffix): (&str, &str), policy: Option<&str>) -> Result<String, Failure> {
    let place = spec::find(&spec.spec)?;
    let given = spec::settings(&place, &spec.settings)?;
    let given: Vec<String> = given.iter().map(|(key, value)| format!("{key}: {}", render(value))).collect();
    let under = policy.map_or(String::new(), |policy| format!(" under {policy}{}", if policy.contains('(') { "" } else { "()" }));
    let before = match &place {
        Place::Library(path) => format!("use models.{}\n", path.trim_start_matches("models/").trim_end_matches(".braid")),
        Place::File(path) => {
            let text = files::read(path)?;
            let folder = |path: &Path| path.parent().unwrap_or(Path::new("")).to_path_buf();
            if text.contains("use \"") && folder(path) != folder(output) {
                return Err(Failure::hinted(
                    format!("{} uses files beside it", path.display()),
                    "write the new spec into the same folder",
                ));
            }
            text
        }
    };
    let text = format!("{before}\nmodel {model}_{suffix} = {model}({}){under}\n", given.join(", "));
    Ok(braid_dsl::format(&text).unwrap_or(text))
}

/// A weight map with entries for parameters that are tensors of their own names.
fn with_own(map: &str, paths: &[String]) -> String {
    let mut lines: Vec<String> = map.lines().map(str::to_owned).collect();
    let Some(head) = lines.iter().position(|line| line.trim_end() == "params:") else { return map.to_owned() };
    let first = lines[head + 1..].iter().find(|line| !line.trim().is_empty() && !line.trim_start().starts_with('#'));
    let indent = first.map_or(2, |line| line.len() - line.trim_start().len()).max(1);
    let entry = |path: &String| format!("{}\"{path}\": {{ tensor: \"{path}\" }}", " ".repeat(indent));
    lines.splice(head + 1..head + 1, paths.iter().map(entry));
    lines.join("\n") + "\n"
}
