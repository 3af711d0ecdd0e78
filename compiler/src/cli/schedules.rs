//! The file of schedules that `braid tune` writes, by default beside what else is kept; every build looks into it.

use super::args::CodeArgs;
use super::failure::Failure;
use super::files;
use braid_compiler::schedule::Schedule;
use braid_compiler::target::Target;
use braid_runtime::artifact::Dtype;
use braid_runtime::weights::cache::{folder, place_of_folder};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// What was found for a target and a precision on some machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tuned {
    /// `cpu:x86-64-v4`
    pub target: String,
    /// Storage of the large weights.
    pub dtype: Dtype,
    /// What its processor is called.
    pub machine: String,
    /// What was found.
    pub schedule: Schedule,
}

/// The name in place of a file that stands for the target's own numbers.
const OWN: &str = "default";

/// The file of what was found here.
const KEPT: &str = "schedules.yaml";

/// What this machine's processor is called.
pub fn machine() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("model name"));
    let name = line.and_then(|line| line.split_once(':')).map_or("unknown", |(_, name)| name.trim());
    name.to_owned()
}

/// Where schedules are kept; looking there leaves nothing behind.
pub fn kept() -> Option<PathBuf> {
    Some(place_of_folder()?.join(KEPT))
}

/// The same, in a folder that is there.
pub fn kept_to_write() -> Option<PathBuf> {
    Some(folder()?.join(KEPT))
}

/// What is in a file; nothing if there is none.
fn read(path: &Path) -> Result<Vec<Tuned>, Failure> {
    if !path.exists() {
        return Ok(vec![]);
    }
    let text = files::read(path)?;
    serde_yaml::from_str(&text).map_err(|error| {
        Failure::hinted(
            format!("{}: {error}", path.display()),
            "`braid tune` writes such files; without this one the target's numbers count",
        )
    })
}

/// Puts a schedule into a file, in the place of what it said of the same target, precision and machine.
pub fn keep(path: &Path, tuned: Tuned) -> Result<(), Failure> {
    let same = |other: &Tuned| (&other.target, other.dtype, &other.machine) == (&tuned.target, tuned.dtype, &tuned.machine);
    let mut all = read(path)?;
    all.retain(|other| !same(other));
    all.push(tuned);
    let text = serde_yaml::to_string(&all).map_err(|error| Failure::user(error.to_string()))?;
    files::write(path, text.as_bytes())
}

/// The target with the schedule that was asked for: that of the file that was named, on whatever machine it was found, or what is kept for
/// this machine.
pub fn applied(mut target: Target, dtype: Dtype, code: &CodeArgs) -> Result<Target, Failure> {
    let named = code.schedule.as_deref();
    if named == Some(Path::new(OWN)) || target.gpu.is_some() {
        return Ok(target);
    }
    let Some(path) = named.map(Path::to_path_buf).or_else(kept) else { return Ok(target) };
    if named.is_some() && !path.exists() {
        return Err(Failure::hinted(format!("there is no file {}", path.display()), "`braid tune SPEC -o FILE` writes one"));
    }
    let all = read(&path)?;
    let machine = machine();
    let mut fitting = all.iter().filter(|tuned| tuned.target == target.name && tuned.dtype == dtype);
    let own = fitting.clone().find(|tuned| tuned.machine == machine);
    if let Some(tuned) = own.or_else(|| fitting.next().filter(|_| named.is_some())) {
        tuned.schedule.check(target.vector_registers)?;
        target.schedule = tuned.schedule;
    }
    Ok(target)
}
