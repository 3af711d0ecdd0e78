//! Packed weights that are kept, so that a checkpoint is packed once: later starts map the file.

use super::Weights;
use crate::artifact::{Manifest, fnv1a};
use crate::error::{Error, Result};
use crate::progress::Progress;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

/// Blobs of fewer bytes are packed in no time.
const WORTH: usize = 16 << 20;

/// `$XDG_CACHE_HOME/braid` or `~/.cache/braid`, whether it is there or not; `None` where there is no place for it.
pub fn place_of_folder() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    let base = set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache")))?;
    Some(base.join("braid"))
}

/// The same, made if it is not there.
pub fn folder() -> Option<PathBuf> {
    let folder = place_of_folder()?;
    std::fs::create_dir_all(&folder).ok()?;
    Some(folder)
}

impl Weights {
    /// As [`Weights::open`]; a checkpoint that was packed before for such an artifact is mapped from the [`folder`], another one is
    /// kept there if it is large. That a file cannot be kept is no error.
    ///
    /// # Errors
    /// Those of [`Weights::open`].
    pub fn open_cached(manifest: &Manifest, from: &str, threads: usize, progress: &dyn Progress) -> Result<Self> {
        let path = if manifest.weights_bytes < WORTH { None } else { place(manifest, from) };
        let Some(path) = path else { return Self::open(manifest, from, threads, progress) };
        if path.is_file()
            && let Ok(weights) = Self::map(manifest, &path)
        {
            return Ok(weights);
        }
        let weights = Self::open(manifest, from, threads, progress)?;
        if !weights.is_mapped() {
            keep(&weights, &path);
        }
        Ok(weights)
    }
}

/// Where the packed weights of a checkpoint lie or would lie: a name made of everything that they are made of.
fn place(manifest: &Manifest, from: &str) -> Option<PathBuf> {
    let path = Path::new(from).canonicalize().ok()?;
    let mut seen = super::blob::key(manifest).to_le_bytes().to_vec();
    seen.extend_from_slice(path.as_os_str().as_encoded_bytes());
    let mut files = vec![path.clone()];
    if path.is_dir() {
        files = path.read_dir().ok()?.filter_map(|entry| Some(entry.ok()?.path())).collect();
        files.sort();
    }
    for file in files {
        let found = file.metadata().ok()?;
        let changed = found.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
        seen.extend_from_slice(file.as_os_str().as_encoded_bytes());
        seen.extend_from_slice(&found.len().to_le_bytes());
        seen.extend_from_slice(&changed.as_nanos().to_le_bytes());
    }
    // A name of a model may be anything; a file's may not.
    let name: String = manifest.model.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
    Some(folder()?.join(format!("{name}-{:016x}.weights", fnv1a(&seen))))
}

/// Writes the file whole or not at all.
fn keep(weights: &Weights, path: &Path) {
    let part = path.with_extension(format!("part{}", std::process::id()));
    if weights.write(&part).and_then(|()| std::fs::rename(&part, path).map_err(Error::file("write", path))).is_err() {
        // What is left of it takes room for nothing; if it does not go either, there is nothing to be done.
        let _ = std::fs::remove_file(&part);
    }
}
