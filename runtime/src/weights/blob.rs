//! The packed weights in memory, and as a file that maps without further work.
//!
//! A packed file is the blob itself (so that a C program maps it and is done), then
//! `fingerprint (u64 LE) · manifest's key (u64 LE) · "BRAIDPCK"`.

use super::{Origin, pack};
use crate::artifact::{ALIGN, Manifest};
use crate::buffer::Buffer;
use crate::checkpoint::Checkpoint;
use crate::cuda::Memory;
use crate::error::{Error, Result};
use crate::load::{Artifact, Code};
use crate::progress::Progress;
use memmap2::Mmap;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::OnceLock;

/// The last bytes of a packed file.
const MAGIC: &[u8; 8] = b"BRAIDPCK";
const TRAILER: usize = 24;

/// Where the blob lives.
pub(super) enum Blob {
    Memory(Buffer<u8>),
    File(Mmap),
}

/// Packed weights. Shared by all sessions of a model.
pub struct Weights {
    blob: Blob,
    key: u64,
    fingerprint: u64,
    length: usize,
    /// The copy on the GPU, once there is one.
    placed: OnceLock<Memory>,
}

impl Weights {
    /// From `random:SEED`, a packed file, a safetensors file or a checkpoint directory.
    pub fn open(manifest: &Manifest, from: &str, threads: usize, progress: &dyn Progress) -> Result<Self> {
        if let Some(seed) = from.strip_prefix("random:") {
            let seed = seed.parse().map_err(|_| Error::input(format!("`{seed}` is not a seed"), "for example `random:1`"))?;
            return Self::pack(manifest, &Origin::Random(seed), threads, progress);
        }
        let path = Path::new(from);
        if is_packed(path)? {
            return Self::map(manifest, path);
        }
        Self::pack(manifest, &Origin::Checkpoint(Checkpoint::open(path)?), threads, progress)
    }

    /// Packs into memory.
    pub fn pack(manifest: &Manifest, origin: &Origin, threads: usize, progress: &dyn Progress) -> Result<Self> {
        let (blob, fingerprint) = pack::pack(manifest, origin, threads, progress)?;
        Ok(Self { blob, key: key(manifest), fingerprint, length: manifest.weights_bytes, placed: OnceLock::new() })
    }

    /// Maps a packed file.
    pub(super) fn map(manifest: &Manifest, path: &Path) -> Result<Self> {
        let file = std::fs::File::open(path).map_err(Error::file("open", path))?;
        // SAFETY: the map is only read; as for checkpoints, nobody may shorten the file meanwhile.
        let map = unsafe { Mmap::map(&file) }.map_err(Error::file("map", path))?;
        let length = map.len().saturating_sub(TRAILER);
        let (words, _) = map[length..].as_chunks();
        let [fingerprint, found, _] = words else { return Err(Error::OtherPack { path: path.into() }) };
        if u64::from_le_bytes(*found) != key(manifest) || length != padded(manifest) {
            return Err(Error::OtherPack { path: path.into() });
        }
        let fingerprint = u64::from_le_bytes(*fingerprint);
        Ok(Self {
            blob: Blob::File(map),
            key: key(manifest),
            fingerprint,
            length: manifest.weights_bytes,
            placed: OnceLock::new(),
        })
    }

    /// Writes a packed file.
    pub fn write(&self, path: &Path) -> Result<()> {
        let mut file = std::fs::File::create(path).map_err(Error::file("write", path))?;
        let padding = vec![0; self.length.next_multiple_of(ALIGN) - self.length];
        let parts = [self.bytes(), &padding, &self.fingerprint.to_le_bytes(), &self.key.to_le_bytes(), MAGIC];
        parts.iter().try_for_each(|part| file.write_all(part)).map_err(Error::file("write", path))
    }

    /// Whether they lie in a file that is mapped.
    pub fn is_mapped(&self) -> bool {
        matches!(self.blob, Blob::File(_))
    }

    /// The blob.
    pub fn bytes(&self) -> &[u8] {
        match &self.blob {
            Blob::Memory(buffer) => buffer.slice(),
            Blob::File(map) => &map[..self.length],
        }
    }

    /// Copies them to the GPU if the artifact's code is for one and they are not there yet. A session does it without a bar.
    ///
    /// # Errors
    /// Weights packed for another artifact; a GPU with too little memory.
    pub fn place(&self, artifact: &Artifact, progress: &dyn Progress) -> Result<()> {
        self.fits(&artifact.manifest)?;
        if let (Code::Gpu(program), None) = (&artifact.code, self.placed.get()) {
            // Two sessions that begin at once may both copy: the second copy is dropped.
            let _ = self.placed.set(program.upload(self.bytes(), progress)?);
        }
        Ok(())
    }

    /// The copy on the GPU.
    pub(crate) fn placed(&self) -> Result<&Memory> {
        self.placed.get().ok_or_else(|| Error::Bug { what: "the weights are not on the GPU".into() })
    }

    /// A number that tells checkpoints apart, whatever the target and precision that they were packed for.
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// Whether they were packed for this artifact.
    ///
    /// # Errors
    /// They were packed for another one.
    pub fn fits(&self, manifest: &Manifest) -> Result<()> {
        if self.key == key(manifest) && self.length == manifest.weights_bytes {
            return Ok(());
        }
        Err(Error::input("the weights were packed for another artifact", "pack them with this artifact's manifest"))
    }
}

/// Bytes of a packed file before its trailer.
fn padded(manifest: &Manifest) -> usize {
    manifest.weights_bytes.next_multiple_of(ALIGN)
}

/// Changes whenever the blob's contents or order would.
pub(super) fn key(manifest: &Manifest) -> u64 {
    let json = serde_json::to_vec(&(&manifest.params, &manifest.packed, manifest.weights_bytes)).unwrap_or_default();
    crate::artifact::fnv1a(&json)
}

fn is_packed(path: &Path) -> Result<bool> {
    let mut file = std::fs::File::open(path).map_err(Error::file("open", path))?;
    let length = file.metadata().map_err(Error::file("read", path))?;
    if length.is_dir() || length.len() < TRAILER as u64 {
        return Ok(false);
    }
    let mut end = [0; 8];
    let read = file.seek(SeekFrom::End(-8)).and_then(|_| file.read_exact(&mut end));
    read.map_err(Error::file("read", path))?;
    Ok(&end == MAGIC)
}
