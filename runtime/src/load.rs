//! An artifact in memory: verified, its code loaded, by the system or by the driver of a GPU.

use crate::artifact::{self, Call, Entry, Manifest, PartEntry};
use crate::cuda::Program;
use crate::error::{Error, Result};
use std::error::Error as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A loaded artifact. Cheap to share; holds no state of any sequence.
pub struct Artifact {
    /// What it says about itself; checked.
    pub manifest: Manifest,
    path: PathBuf,
    pub(crate) code: Code,
}

/// Loaded code.
pub(crate) enum Code {
    /// For the processor.
    Library(Arc<Library>),
    /// For a GPU.
    Gpu(Arc<Program>),
}

/// A loaded library's entries.
pub(crate) struct Library {
    entries: [Entry; 3],
    /// For models with a source.
    encode: Option<Entry>,
    /// Kernel by kernel, if the code can be run so.
    part: Option<PartEntry>,
    /// Keeps the code of the entries mapped.
    _library: libloading::Library,
}

/// Which entry point of an artifact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Once before all others.
    Prepare,
    /// Segments of any length.
    Prefill,
    /// One row for each segment.
    Step,
    /// The source of a sequence.
    Encode,
}

pub(crate) const SYMBOLS: [&str; 3] = ["braid_prepare", "braid_prefill", "braid_step"];

/// Reads and checks an artifact's manifest, of all of its levels, without loading its code: works for artifacts of other processors too.
pub fn manifest(path: &Path) -> Result<Manifest> {
    let bytes = std::fs::read(path).map_err(Error::file("read", path))?;
    let (_, manifest) = artifact::decode(&bytes).map_err(|source| Error::Artifact { path: path.into(), source })?;
    Ok(manifest)
}

impl Artifact {
    /// Checks everything that can be checked before a byte of foreign code runs, then loads it. Code for a GPU is translated for it.
    /// Of several levels the last one is taken that runs here.
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_level(path, None)
    }

    /// The same of the level that is for this target.
    ///
    /// # Errors
    /// Those of [`Artifact::open`]; no such level.
    pub fn open_level(path: &Path, target: Option<&str>) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(Error::file("read", path))?;
        let checked = artifact::decode(&bytes).and_then(|(code, manifest)| {
            let manifest = manifest.level(target)?;
            manifest.check_processor(code)?;
            Ok((code, manifest))
        });
        let (code, manifest) = checked.map_err(|source| Error::Artifact { path: path.into(), source })?;
        let code = match &manifest.device {
            None => Code::Library(Arc::new(Library::load(path, &manifest.entries)?)),
            Some(device) => Code::Gpu(Arc::new(Program::load(device, code)?)),
        };
        Ok(Self { manifest, path: path.into(), code })
    }

    /// The file it came from.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Library {
    /// `level`: what the names of its entries end with.
    fn load(path: &Path, level: &str) -> Result<Self> {
        // A name without a slash would be searched in the system's library folders.
        let absolute = path.canonicalize().map_err(Error::file("open", path))?;
        // The loader's own words are in the source.
        let said = |error: &libloading::Error| error.source().map_or_else(|| error.to_string(), ToString::to_string);
        let failed = |error: libloading::Error| Error::Load { path: path.into(), what: said(&error) };
        // SAFETY: loading runs the library's initialisers. The checksum says that these are the bytes `braid build` wrote, and
        // generated code has no initialisers; whoever runs an artifact trusts it as any program.
        let library = unsafe { libloading::Library::new(&absolute) }.map_err(failed)?;
        // SAFETY: a checked artifact of this format version exports the entries with exactly this type.
        let entry = |name: &str| {
            unsafe { library.get::<Entry>(format!("{name}{level}").as_bytes()).map(|symbol| *symbol) }.map_err(failed)
        };
        let entries = [entry(SYMBOLS[0])?, entry(SYMBOLS[1])?, entry(SYMBOLS[2])?];
        let encode = entry("braid_encode").ok();
        // SAFETY: what has this name was made with exactly this type.
        let part = unsafe { library.get::<PartEntry>(format!("braid_part{level}").as_bytes()) }.map(|symbol| *symbol).ok();
        Ok(Self { entries, encode, part, _library: library })
    }

    /// Runs an entry point.
    ///
    /// # Safety
    /// Every pointer of `call` must be valid for the sizes that [`Call`] and the manifest give, token ids must be in range, and
    /// segments must be disjoint in rows and slots.
    pub(crate) unsafe fn call(&self, phase: Phase, call: &Call) -> Result<()> {
        let name = SYMBOLS.get(phase as usize).copied().unwrap_or("braid_encode");
        let entry = self.entries.get(phase as usize).copied().or(self.encode);
        let entry = entry.ok_or_else(|| Error::Bug { what: format!("there is no `{name}`") })?;
        // SAFETY: handed on to the caller.
        match unsafe { entry(call) } {
            0 => Ok(()),
            code => Err(Error::Bug { what: format!("`{name}` returned {code}") }),
        }
    }

    /// Runs one kernel of a call.
    ///
    /// # Safety
    /// As for [`Library::call`]; `kernel` is one of those that the manifest's `work` lists, and those before it have run.
    pub(crate) unsafe fn part(&self, call: &Call, kernel: usize) -> Result<()> {
        let part = self.part.ok_or_else(|| Error::input("the artifact cannot be run kernel by kernel", "build it again"))?;
        // SAFETY: handed on to the caller.
        match unsafe { part(call, kernel as i64, 1) } {
            0 => Ok(()),
            code => Err(Error::Bug { what: format!("`braid_part` returned {code}") }),
        }
    }
}
