//! From what was typed to a checked model: finds the file, reads what it imports, applies `--set`.

use super::args::{Settings, SpecArgs};
use super::failure::Failure;
use super::files;
use braid_dsl::diagnostic::did_you_mean;
use braid_dsl::model::{Constant, Model};
use braid_dsl::source::{SourceMap, Sources};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A model with the texts that it comes from.
#[derive(Clone)]
pub struct Spec {
    /// The checked model.
    pub model: Model,
    /// Every text that was read.
    pub sources: SourceMap,
    /// The weight map's text and where it lies, if there is one.
    pub weights: Option<(String, String)>,
}

/// Where a spec is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A file of the user.
    File(PathBuf),
    /// `models/NAME.braid` of the library.
    Library(String),
}

/// Checks what was typed.
pub fn load(args: &SpecArgs) -> Result<Spec, Failure> {
    let place = find(&args.spec)?;
    let (disk, root) = match &place {
        Place::File(path) => (Disk { root: Some(path.clone()) }, Disk::name(path)),
        Place::Library(name) => (Disk { root: None }, name.clone()),
    };
    let settings = settings(&place, &args.settings)?;
    let (checked, sources) = braid_dsl::check_under(&disk, &root, &settings, args.settings.policy.as_deref());
    let model = match checked {
        Ok(model) => model,
        Err(found) => return Err(Failure::Spec(found, sources)),
    };
    let weights = match &place {
        Place::File(path) => beside(path)?,
        Place::Library(_) => None,
    };
    Ok(Spec { model, sources, weights })
}

/// The values that a preset and `--set` give to the model's parameters.
pub fn settings(place: &Place, given: &Settings) -> Result<Vec<(String, Constant)>, Failure> {
    let mut settings = given.preset.as_deref().map_or_else(|| Ok(Vec::new()), |name| preset(place, name))?;
    for text in &given.set {
        let (key, value) = setting(text)?;
        settings.retain(|(known, _)| *known != key);
        settings.push((key, value));
    }
    Ok(settings)
}

/// What `SPEC` means.
pub fn find(spec: &str) -> Result<Place, Failure> {
    let path = Path::new(spec);
    if path.is_dir() {
        return only_spec(path).map(Place::File);
    }
    if path.is_file() {
        return Ok(Place::File(path.to_path_buf()));
    }
    let names: Vec<String> = models().collect();
    let wanted = spec.strip_prefix("models.").unwrap_or(spec);
    if names.iter().any(|n| n == wanted) {
        return Ok(Place::Library(format!("models/{wanted}.braid")));
    }
    let near = did_you_mean(wanted, names.iter().map(String::as_str));
    let hint =
        near.unwrap_or_else(|| format!("a .braid file, a folder with one, or a model of the library: {}", names.join(", ")));
    Err(Failure::hinted(format!("there is no spec `{spec}`"), hint))
}

fn only_spec(folder: &Path) -> Result<PathBuf, Failure> {
    let entries = std::fs::read_dir(folder).map_err(|e| Failure::file("read", folder, &e))?;
    let mut found: Vec<PathBuf> =
        entries.flatten().map(|e| e.path()).filter(|p| p.extension().is_some_and(|x| x == "braid")).collect();
    found.sort();
    match found.len() {
        1 => Ok(found.remove(0)),
        0 => Err(Failure::hinted(
            format!("there is no .braid file in {}", folder.display()),
            "a checkpoint becomes a spec by `braid import CHECKPOINT_DIR -o SPEC.braid`",
        )),
        _ => {
            let names: Vec<String> = found.iter().map(|p| p.display().to_string()).collect();
            Err(Failure::hinted(format!("{} holds several specs", folder.display()), format!("name one: {}", names.join(", "))))
        }
    }
}

/// Names of the library's models.
fn models() -> impl Iterator<Item = String> {
    braid_stdlib::files().iter().filter_map(|(path, _)| Some(path.strip_prefix("models/")?.strip_suffix(".braid")?.to_string()))
}

/// The sizes that `presets/NAME.yaml` of the library gives to `models/NAME.braid`.
fn preset(place: &Place, wanted: &str) -> Result<Vec<(String, Constant)>, Failure> {
    let Place::Library(path) = place else {
        return Err(Failure::hinted(
            "`--preset` gives sizes to a model of the library",
            "as in `braid inspect models.NAME --preset SIZE`",
        ));
    };
    let file = path.replace("models/", "presets/").replace(".braid", ".yaml");
    let text = braid_stdlib::file(&file).unwrap_or("{}");
    let mut known: BTreeMap<String, BTreeMap<String, serde_json::Value>> =
        serde_yaml::from_str(text).map_err(|error| Failure::user(format!("{file}: {error}")))?;
    let Some(values) = known.remove(wanted) else {
        let names: Vec<&str> = known.keys().map(String::as_str).collect();
        let hint = if names.is_empty() { "it has no presets".into() } else { format!("known are {}", names.join(", ")) };
        return Err(Failure::hinted(format!("there is no preset `{wanted}` of {path}"), hint));
    };
    // Written as after `--set`.
    Ok(values.into_iter().map(|(key, value)| (key, constant(value.to_string().trim_matches('"')))).collect())
}

/// `layers=12`: a parameter and its value.
fn setting(text: &str) -> Result<(String, Constant), Failure> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() && !value.trim().is_empty() => {
            Ok((key.trim().into(), constant(value.trim())))
        }
        _ => Err(Failure::hinted(format!("`--set {text}` names no value"), "as in `--set layers=12`")),
    }
}

/// A value as in the language; a text needs no quotes.
fn constant(text: &str) -> Constant {
    let inside = |open, close| text.strip_prefix(open).and_then(|t: &str| t.strip_suffix(close));
    if let Some(items) = inside('[', ']') {
        return Constant::List(items.split(',').map(str::trim).filter(|t| !t.is_empty()).map(constant).collect());
    }
    if let Some(quoted) = inside('"', '"') {
        return Constant::Text(quoted.into());
    }
    match (text, text.parse(), text.parse()) {
        ("true", ..) => Constant::Bool(true),
        ("false", ..) => Constant::Bool(false),
        (_, Ok(whole), _) => Constant::Int(whole),
        (_, _, Ok(real)) => Constant::Float(real),
        _ => Constant::Text(text.into()),
    }
}

/// The weight map beside a spec: `NAME.weights.yaml` beside `NAME.braid`.
fn beside(spec: &Path) -> Result<Option<(String, String)>, Failure> {
    let path = spec.with_extension("weights.yaml");
    if !path.exists() {
        return Ok(None);
    }
    Ok(Some((path.display().to_string(), files::read(&path)?)))
}

/// The disk and the embedded library. A module of the library comes first, so that `use models.x` means the same everywhere.
struct Disk {
    root: Option<PathBuf>,
}

impl Disk {
    /// The root's path as diagnostics show it; never equal to one of the library's.
    fn name(path: &Path) -> String {
        let name = path.to_string_lossy().into_owned();
        if braid_stdlib::file(&name).is_some() { format!("./{name}") } else { name }
    }
}

impl Sources for Disk {
    fn read(&self, path: &str) -> Option<String> {
        if let Some(root) = self.root.as_ref().filter(|r| Disk::name(r) == path) {
            return std::fs::read_to_string(root).ok();
        }
        match braid_stdlib::file(path) {
            Some(text) => Some(text.to_string()),
            None if self.root.is_some() => std::fs::read_to_string(path).ok(),
            None => None,
        }
    }

    fn prelude(&self) -> Vec<String> {
        let known = braid_stdlib::files().iter().map(|(path, _)| path.to_string());
        known.filter(|path| path.ends_with(".braid") && !path.starts_with("models/")).collect()
    }
}
