//! Everything that can go wrong while an artifact is loaded and run. Variants carry facts; [`Error::hint`] says what to do, and
//! [`Error::exit_code`] whose fault it is.

use crate::artifact::ArtifactError;
use std::path::{Path, PathBuf};

/// The result of everything here.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error with a sentence, sometimes a hint, and an exit code.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read or written.
    #[error("cannot {verb} {}: {source}", path.display())]
    File {
        /// `read`, `write`, `open`, `map`.
        verb: &'static str,
        /// Which.
        path: PathBuf,
        /// The system's word.
        source: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("{}: {what}", path.display())]
    Content {
        /// Which.
        path: PathBuf,
        /// One sentence without a full stop.
        what: String,
        /// What to do, or empty.
        hint: &'static str,
    },
    /// Not an artifact that this build and this machine can run.
    #[error("{}: {source}", path.display())]
    Artifact {
        /// The file.
        path: PathBuf,
        /// Why.
        source: ArtifactError,
    },
    /// The system's loader refused an artifact.
    #[error("{}: cannot load the code: {what}", path.display())]
    Load {
        /// The file.
        path: PathBuf,
        /// The loader's word.
        what: String,
    },
    /// The checkpoint does not fit the model: all problems, one a line.
    #[error("{}: the checkpoint does not fit the model:\n{}", path.display(), list(problems))]
    Checkpoint {
        /// File or directory.
        path: PathBuf,
        /// One sentence each.
        problems: Vec<String>,
    },
    /// The artifact was built from a spec without a weight map.
    #[error("`{param}` has no tensor of a checkpoint bound to it: the model was built without a weight map")]
    NoMap {
        /// The first such parameter.
        param: String,
    },
    /// Weights packed for another artifact.
    #[error("{}: packed for another artifact", path.display())]
    OtherPack {
        /// The file.
        path: PathBuf,
    },
    /// A sequence is longer than its caches.
    #[error("context overflow: {wanted} positions are needed, but the caches hold {capacity}")]
    Context {
        /// Positions after the call.
        wanted: usize,
        /// What the session was made for.
        capacity: usize,
    },
    /// A token id that the model does not have.
    #[error("token id {id} at place {place} is out of range: the model has {tokens} tokens, 0 to {}", tokens - 1)]
    Token {
        /// The id.
        id: i64,
        /// Its index in the input.
        place: usize,
        /// How many there are.
        tokens: usize,
    },
    /// The system has too little memory.
    #[error("no memory for {what} ({bytes} bytes): {source}")]
    Memory {
        /// `the states of 64 sequences` …
        what: String,
        /// How many.
        bytes: usize,
        /// The system's word.
        source: std::io::Error,
    },
    /// The GPU, or its driver, is missing or refuses.
    #[error("{what}")]
    Gpu {
        /// One sentence without a full stop; it may end with the driver's log.
        what: String,
        /// What to do, or empty.
        hint: &'static str,
    },
    /// The GPU has too little memory.
    #[error("no memory on the GPU for {what}: {bytes} bytes are needed, {free} of {total} are free")]
    GpuMemory {
        /// As in [`Error::Memory`].
        what: String,
        /// How many.
        bytes: usize,
        /// Bytes that are free.
        free: usize,
        /// Bytes of the device.
        total: usize,
    },
    /// An input that makes no sense.
    #[error("{what}")]
    Input {
        /// One sentence without a full stop.
        what: String,
        /// What to do, or empty.
        hint: &'static str,
    },
    /// Results differ from the golden ones by more than the tolerance.
    #[error("verification failed: {what}")]
    Differs {
        /// What exceeded what.
        what: String,
    },
    /// Right, but not made yet.
    #[error("{what} is not supported yet")]
    Limit {
        /// The construct.
        what: String,
    },
    /// Our fault.
    #[error("bug in Braid: {what}")]
    Bug {
        /// What should not have happened.
        what: String,
    },
}

impl Error {
    /// A file error, from a closure's point of view.
    pub fn file(verb: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::File { verb, path, source }
    }

    /// A content error without a hint.
    pub fn content(path: &Path, what: impl ToString) -> Self {
        Self::Content { path: path.to_path_buf(), what: what.to_string(), hint: "" }
    }

    /// An input error.
    pub fn input(what: impl ToString, hint: &'static str) -> Self {
        Self::Input { what: what.to_string(), hint }
    }

    /// What the user can do, or nothing.
    pub fn hint(&self) -> Option<&'static str> {
        let hint = match self {
            Self::Content { hint, .. } | Self::Input { hint, .. } | Self::Gpu { hint, .. } => hint,
            Self::Artifact { source, .. } => source.hint(),
            Self::Load { .. } => "the library does not export the Braid entries, or needs another system",
            Self::Checkpoint { .. } => "is this the checkpoint of that model? `braid-run info ARTIFACT` lists what it expects",
            Self::NoMap { .. } => "write a weight map beside the spec and build again, or try `--weights random:1`",
            Self::OtherPack { .. } => "pack again: `braid-run pack ARTIFACT --weights DIR -o FILE`",
            Self::Context { .. } => "ask for a longer context with `--context N`, or for fewer tokens",
            Self::Token { .. } => "is this tokenizer that of the model?",
            Self::Memory { .. } | Self::GpuMemory { .. } => "a shorter `--context`, or fewer sequences",
            Self::Bug { .. } => "please report it with the command that shows it",
            _ => "",
        };
        Some(hint).filter(|hint| !hint.is_empty())
    }

    /// 1 the user's error, 3 our limit, 4 our bug.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Limit { .. } => 3,
            Self::Bug { .. } => 4,
            _ => 1,
        }
    }
}

/// Most problems that are worth reading.
const SHOWN: usize = 12;

fn list(problems: &[String]) -> String {
    let mut lines: Vec<_> = problems.iter().take(SHOWN).map(|problem| format!("  - {problem}")).collect();
    if problems.len() > SHOWN {
        lines.push(format!("  … and {} more", problems.len() - SHOWN));
    }
    lines.join("\n")
}
