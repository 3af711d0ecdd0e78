//! Object file to shared library.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::Error;

/// A folder that goes when dropped.
struct Folder(PathBuf);

impl Folder {
    fn new() -> std::io::Result<Folder> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("braid-link-{}-{count}", std::process::id()));
        std::fs::create_dir_all(&path)?;
        Ok(Folder(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Nothing can be done about a temporary folder that does not go.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn failed(log: impl Into<String>, repro: impl Into<String>) -> Error {
    Error::Tool { name: "cc", log: log.into(), command: repro.into() }
}

/// Links `object` to a shared library that needs no other and returns its bytes.
pub fn link(object: &[u8]) -> Result<Vec<u8>, Error> {
    let io = |e: std::io::Error| failed(format!("a temporary file cannot be used: {e}"), "");
    let folder = Folder::new().map_err(io)?;
    let (from, to) = (folder.0.join("model.o"), folder.0.join("model.so"));
    std::fs::write(&from, object).map_err(io)?;
    run_linker(&from, &to)?;
    std::fs::read(&to).map_err(io)
}

fn run_linker(from: &Path, to: &Path) -> Result<(), Error> {
    let mut command = Command::new("cc");
    command.args(["-shared", "-nostdlib", "-Wl,-z,defs", "-Wl,-z,noexecstack", "-Wl,--build-id=none", "-o"]).arg(to).arg(from);
    let repro = format!("{command:?}");
    let output = command.output().map_err(|e| failed(e.to_string(), &repro))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(failed(String::from_utf8_lossy(&output.stderr), repro)),
    }
}
