//! Reading and writing.

use super::failure::Failure;
use std::path::{Path, PathBuf};

/// The text of a file.
pub fn read(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path).map_err(|e| Failure::file("read", path, &e))
}

/// Writes a file that appears whole or not at all.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let temporary = beside(path);
    let written = std::fs::write(&temporary, bytes).and_then(|()| std::fs::rename(&temporary, path));
    written.map_err(|e| {
        // Nothing more can be done about a file that cannot be removed either.
        let _ = std::fs::remove_file(&temporary);
        Failure::file("write", path, &e)
    })
}

/// A name in the same folder that no other process uses.
fn beside(path: &Path) -> PathBuf {
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    path.with_file_name(format!(".{name}.{}.tmp", std::process::id()))
}

/// Fails early if the folder of an output is not there.
pub fn has_folder(path: &Path) -> Result<(), Failure> {
    match path.parent().filter(|p| !p.as_os_str().is_empty()) {
        Some(folder) if !folder.is_dir() => {
            Err(Failure::hinted(format!("there is no folder {}", folder.display()), format!("mkdir -p {}", folder.display())))
        }
        _ if path.is_dir() => Err(Failure::user(format!("{} is a folder", path.display()))),
        _ => Ok(()),
    }
}
