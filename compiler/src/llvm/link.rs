//! Object file to shared library.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::Error;
use crate::target::Target;

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

fn failed(name: &'static str, log: impl Into<String>, repro: impl Into<String>) -> Error {
    Error::Tool { name, log: log.into(), command: repro.into() }
}

/// Links objects for one kind of processor to a shared library that needs no other and returns its bytes.
///
/// # Errors
/// A linker that fails, or none for another kind of processor than this machine's.
pub fn link(objects: &[&[u8]], target: &Target) -> Result<Vec<u8>, Error> {
    let io = |e: std::io::Error| failed("cc", format!("a temporary file cannot be used: {e}"), "");
    let folder = Folder::new().map_err(io)?;
    let to = folder.0.join("model.so");
    let from: Vec<PathBuf> = (0..objects.len()).map(|at| folder.0.join(format!("model{at}.o"))).collect();
    from.iter().zip(objects).try_for_each(|(path, object)| std::fs::write(path, object)).map_err(io)?;
    match target.is_native() {
        true => run("cc", &["-nostdlib", "-Wl,-z,defs", "-Wl,-z,noexecstack", "-Wl,--build-id=none"], &from, &to)?,
        false => cross(&from, &to)?,
    }
    std::fs::read(&to).map_err(io)
}

/// Links for another processor, with the first linker there is that knows all of them.
fn cross(from: &[PathBuf], to: &Path) -> Result<(), Error> {
    let runs = |name: &&str| Command::new(name).arg("--version").output().is_ok_and(|output| output.status.success());
    let missing =
        || Error::user("code for another kind of processor is linked by LLVM's linker, which is not here: apt-get install lld");
    let linker = LINKERS.into_iter().find(runs).ok_or_else(missing)?;
    run(linker, &["-z", "defs", "-z", "noexecstack", "--build-id=none"], from, to)
}

/// Names of LLVM's linker.
const LINKERS: [&str; 2] = ["ld.lld", "ld.lld-22"];

fn run(name: &'static str, options: &[&str], from: &[PathBuf], to: &Path) -> Result<(), Error> {
    let mut command = Command::new(name);
    command.arg("-shared").args(options).arg("-o").arg(to).args(from);
    let repro = format!("{command:?}");
    let output = command.output().map_err(|e| failed(name, e.to_string(), &repro))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(failed(name, String::from_utf8_lossy(&output.stderr), repro)),
    }
}
