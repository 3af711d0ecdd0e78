//! An artifact's bytes: the library's code followed by the trailer.

use super::{MAGIC, Manifest, VERSION};
use std::io::Write;
use std::path::Path;

/// Manifest length, hash, version and magic.
const TRAILER: usize = 8 + 8 + 4 + 8;

/// Why some bytes are not an artifact that this build can run.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum ArtifactError {
    /// Neither a trailer nor a library.
    #[error("not an artifact")]
    NotAnArtifact,
    /// A library without a trailer.
    #[error("a shared library without an artifact's trailer, or an artifact that was cut short")]
    NoTrailer,
    /// The trailer speaks of more bytes than there are.
    #[error("truncated: the trailer announces a manifest of {manifest} bytes in a file of {file}")]
    Truncated {
        /// Announced.
        manifest: u64,
        /// Bytes of the file.
        file: usize,
    },
    /// Written by another release.
    #[error("artifact format {found}, but this build reads format {VERSION}")]
    Version {
        /// The file's format version.
        found: u32,
    },
    /// Bytes were changed or lost.
    #[error("damaged: the checksum does not match")]
    Checksum,
    /// The manifest does not parse or contradicts itself.
    #[error("the manifest is wrong: {0}")]
    Manifest(String),
    /// Code for another processor family.
    #[error("made for {needs}, but this machine is {has}")]
    Machine {
        /// The artifact's.
        needs: String,
        /// The host's.
        has: &'static str,
    },
    /// No level of that name.
    #[error("no level for {target}; there are {known}")]
    Level {
        /// What was asked for.
        target: String,
        /// What there is.
        known: String,
    },
    /// Code for a newer processor.
    #[error("target {target} uses the CPU feature {feature}, which this machine lacks")]
    Feature {
        /// As the manifest spells it.
        target: String,
        /// The first one missing.
        feature: String,
    },
}

impl ArtifactError {
    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NotAnArtifact => "`braid build SPEC -o FILE` writes artifacts",
            Self::NoTrailer | Self::Truncated { .. } | Self::Checksum => "copy the file again, or rebuild it with `braid build`",
            Self::Version { .. } => "rebuild it with the `braid` of the same release",
            Self::Manifest(_) => "rebuild it with `braid build`; if that does not help, it is a bug in Braid",
            Self::Machine { .. } => "build it on a machine of this kind",
            Self::Level { .. } => "without `--level` the fastest is taken that runs here",
            Self::Feature { .. } => "rebuild it here, or for an older level: `braid build --target cpu:x86-64-v3`",
        }
    }
}

/// Code and manifest as one file's bytes.
pub fn encode(library: &[u8], manifest: &Manifest) -> Result<Vec<u8>, ArtifactError> {
    manifest.check().map_err(ArtifactError::Manifest)?;
    let json = serde_json::to_vec(manifest).map_err(|error| ArtifactError::Manifest(error.to_string()))?;
    let mut bytes = Vec::with_capacity(library.len() + json.len() + TRAILER);
    bytes.extend_from_slice(library);
    bytes.extend_from_slice(&json);
    bytes.extend_from_slice(&(json.len() as u64).to_le_bytes());
    let hash = fnv1a(&bytes);
    bytes.extend_from_slice(&hash.to_le_bytes());
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(MAGIC);
    Ok(bytes)
}

/// Writes an artifact, as [`replace`] does: it never changes under a process that has it loaded.
pub fn write(path: &Path, library: &[u8], manifest: &Manifest) -> std::io::Result<()> {
    replace(path, &encode(library, manifest).map_err(std::io::Error::other)?)
}

/// Writes a file that appears whole or not at all.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().ok_or_else(|| std::io::Error::other("not a file name"))?.to_string_lossy();
    let temporary = folder.join(format!(".{name}.{}", std::process::id()));
    let written = std::fs::File::create(&temporary).and_then(|mut file| file.write_all(bytes));
    let renamed = written.and_then(|()| std::fs::rename(&temporary, path));
    renamed.inspect_err(|_| drop(std::fs::remove_file(&temporary)))
}

/// Splits an artifact's bytes into code and manifest, after all checks that need no processor.
pub fn decode(bytes: &[u8]) -> Result<(&[u8], Manifest), ArtifactError> {
    let is_library = bytes.starts_with(b"\x7fELF");
    let none = || if is_library { ArtifactError::NoTrailer } else { ArtifactError::NotAnArtifact };
    let body = bytes.len().checked_sub(TRAILER).ok_or_else(none)?;
    let (hashed, rest) = bytes.split_at(body + 8);
    let (hash, rest) = rest.split_at(8);
    let (version, magic) = rest.split_at(4);
    if magic != MAGIC {
        return Err(none());
    }
    let found = version.iter().rev().fold(0, |value, &byte| value << 8 | u32::from(byte));
    if found != VERSION {
        return Err(ArtifactError::Version { found });
    }
    let manifest = little_endian(&hashed[body..]);
    let start = usize::try_from(manifest).ok().and_then(|length| body.checked_sub(length));
    let start = start.ok_or(ArtifactError::Truncated { manifest, file: bytes.len() })?;
    if fnv1a(hashed) != little_endian(hash) {
        return Err(ArtifactError::Checksum);
    }
    let manifest: Manifest =
        serde_json::from_slice(&hashed[start..body]).map_err(|error| ArtifactError::Manifest(error.to_string()))?;
    manifest.check().map_err(ArtifactError::Manifest)?;
    Ok((&bytes[..start], manifest))
}

fn little_endian(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte))
}

/// FNV-1a with 64 bits. Guards against accidents, not against malice: an artifact is code and must be trusted anyway.
pub(crate) fn fnv1a(bytes: &[u8]) -> u64 {
    fnv1a_on(0xcbf2_9ce4_8422_2325, bytes)
}

/// Goes on with a hash.
pub(crate) fn fnv1a_on(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}
