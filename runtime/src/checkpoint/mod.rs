//! Checkpoints: one or several memory-mapped safetensors or GGUF files, every header checked before a number is read.

pub(crate) mod blocks;
mod config;
pub mod fp8;
pub mod gguf;
mod header;
mod kind;

pub use config::GenerationConfig;
pub use header::{Named, Numbers, TensorInfo, encode, metadata, parse, stored, write, write_each, write_numbers};
pub use kind::{Block, Kind};

use crate::error::{Error, Result};
use memmap2::Mmap;
use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

/// The tensors of a file or a directory, by name.
pub struct Checkpoint {
    path: PathBuf,
    files: Vec<Mmap>,
    tensors: BTreeMap<String, (usize, TensorInfo)>,
    metadata: gguf::Metadata,
}

/// One tensor's type, shape and bytes (little-endian, not necessarily aligned).
#[derive(Clone, Copy)]
pub struct Tensor<'a> {
    /// Storage.
    pub kind: Kind,
    /// Row-major.
    pub shape: &'a [usize],
    /// As many as type and shape say.
    pub bytes: &'a [u8],
}

impl Tensor<'_> {
    /// The elements from `first` on, as many as `out` holds, as f32. Both are multiples of the kind's block, inside the tensor.
    ///
    /// # Errors
    /// A kind that is no number to compute with, elements that the tensor does not have, parts of blocks.
    pub fn read(&self, first: usize, out: &mut [f32]) -> Result<(), String> {
        let (elements, bytes) = self.kind.block();
        let whole = first.is_multiple_of(elements) && out.len().is_multiple_of(elements);
        let (from, count) = (first / elements, out.len() / elements);
        let range = from.checked_add(count).and_then(|end| Some(from.checked_mul(bytes)?..end.checked_mul(bytes)?));
        let found = range.filter(|_| whole).and_then(|range| self.bytes.get(range));
        let found = found
            .ok_or_else(|| format!("{} elements from {first} are not blocks of {} {:?}", out.len(), self.kind, self.shape))?;
        for (bytes, out) in found.chunks_exact(bytes).zip(out.chunks_exact_mut(elements)) {
            match (self.kind, bytes) {
                (Kind::F32, &[a, b, c, d]) => out[0] = f32::from_le_bytes([a, b, c, d]),
                (Kind::F16, &[a, b]) => out[0] = half::f16::from_le_bytes([a, b]).to_f32(),
                (Kind::Bf16, &[a, b]) => out[0] = half::bf16::from_le_bytes([a, b]).to_f32(),
                (Kind::Block(block), _) => blocks::decode(block, bytes, out),
                (other, _) => return Err(format!("stored as {other}, which cannot be read")),
            }
        }
        Ok(())
    }
}

/// The table of a sharded checkpoint.
#[derive(serde::Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

const INDEX: &str = "model.safetensors.index.json";
const SINGLE: &str = "model.safetensors";

impl Checkpoint {
    /// Opens a safetensors or GGUF file (with all its parts, if it is the first of several), or a directory with
    /// `model.safetensors.index.json`, `model.safetensors`, or any safetensors files.
    pub fn open(path: &Path) -> Result<Self> {
        let (tensors, metadata) = (BTreeMap::new(), gguf::Metadata::new());
        let mut checkpoint = Self { path: path.into(), files: Vec::new(), tensors, metadata };
        for file in Self::files(path)? {
            checkpoint.add(&file)?;
        }
        for file in parts(path, &checkpoint.metadata)? {
            checkpoint.add(&file)?;
        }
        Ok(checkpoint)
    }

    fn files(path: &Path) -> Result<Vec<PathBuf>> {
        if !path.metadata().map_err(Error::file("open", path))?.is_dir() {
            return Ok(vec![path.into()]);
        }
        if path.join(INDEX).is_file() {
            return shards(path);
        }
        if path.join(SINGLE).is_file() {
            return Ok(vec![path.join(SINGLE)]);
        }
        let entries = path.read_dir().map_err(Error::file("read", path))?;
        let mut files: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        files.retain(|file| file.extension().is_some_and(|extension| extension == "safetensors"));
        files.sort();
        if files.is_empty() {
            let hint = "name a directory that holds model.safetensors, or a safetensors file";
            return Err(Error::Content { path: path.into(), what: "no safetensors files in it".into(), hint });
        }
        Ok(files)
    }

    fn add(&mut self, path: &Path) -> Result<()> {
        let file = std::fs::File::open(path).map_err(Error::file("open", path))?;
        if file.metadata().map_err(Error::file("read", path))?.len() == 0 {
            return Err(Error::content(path, "the file is empty"));
        }
        // SAFETY: the map is only read. If another process shortens the file meanwhile, the system ends this one; there is no
        // protection against that short of copying the whole file.
        let map = unsafe { Mmap::map(&file) }.map_err(Error::file("map", path))?;
        let found = self.parse(&map).map_err(|what| Error::content(path, what))?;
        for (name, info) in found {
            if self.tensors.contains_key(&name) {
                return Err(Error::content(path, format!("tensor `{name}` is in an earlier file too")));
            }
            self.tensors.insert(name, (self.files.len(), info));
        }
        self.files.push(map);
        Ok(())
    }

    /// The tensors of a file; the first GGUF file's metadata are kept.
    fn parse(&mut self, file: &[u8]) -> Result<BTreeMap<String, TensorInfo>, String> {
        if !file.starts_with(gguf::MAGIC) {
            return parse(file);
        }
        let (metadata, tensors) = gguf::parse(file)?;
        if self.metadata.is_empty() {
            self.metadata = metadata;
        }
        Ok(tensors)
    }

    /// What a GGUF file says about its model; empty for safetensors files.
    pub fn metadata(&self) -> &gguf::Metadata {
        &self.metadata
    }

    /// File or directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives back the memory that reading took so far; what is read again comes from the file again.
    pub(crate) fn release(&self) {
        for file in &self.files {
            // SAFETY: the maps are of files and are never written to, so that pages which go come back as they were. It is advice.
            let _ = unsafe { file.unchecked_advise(memmap2::UncheckedAdvice::DontNeed) };
        }
    }

    /// All names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// A tensor, if there is one of that name. `a|b` is the first of the two that is there: writers of other ages name it so.
    pub fn get(&self, name: &str) -> Option<Tensor<'_>> {
        let (file, info) = name.split('|').find_map(|name| self.tensors.get(name))?;
        Some(Tensor { kind: info.kind, shape: &info.shape, bytes: &self.files[*file][info.bytes.clone()] })
    }

    /// A tensor that must exist.
    pub fn require(&self, name: &str) -> Result<Tensor<'_>> {
        self.get(name).ok_or_else(|| Error::content(&self.path, format!("no tensor `{name}`{}", self.near(name))))
    }

    /// ` (did you mean …?)` with the most similar names, or nothing.
    pub fn near(&self, name: &str) -> String {
        let name = name.split('|').next().unwrap_or(name);
        let mut found: Vec<_> = self.names().map(|other| (strsim::normalized_levenshtein(name, other), other)).collect();
        found.retain(|(likeness, _)| *likeness > 0.8);
        found.sort_by(|a, b| b.0.total_cmp(&a.0));
        let names: Vec<_> = found.iter().take(2).map(|(_, other)| format!("`{other}`")).collect();
        if names.is_empty() { String::new() } else { format!(" (did you mean {}?)", names.join(" or ")) }
    }
}

/// The other files of a GGUF file that says it is the first of several: `NAME-00001-of-00003.gguf`.
fn parts(path: &Path, metadata: &gguf::Metadata) -> Result<Vec<PathBuf>> {
    let number = |key: &str| metadata.get(key).and_then(serde_json::Value::as_u64).unwrap_or(0);
    let (count, own) = (number("split.count"), number("split.no"));
    if count < 2 {
        return Ok(Vec::new());
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let stem = name.strip_suffix(&format!("-00001-of-{count:05}.gguf")).filter(|_| own == 0 && count < 100_000);
    let stem = stem.ok_or_else(|| {
        let what = format!("part {} of {count} of a checkpoint", own.saturating_add(1));
        Error::Content {
            path: path.into(),
            what,
            hint: "name the first one, NAME-00001-of-NNNNN.gguf, with the others beside it",
        }
    })?;
    Ok((2..=count).map(|part| path.with_file_name(format!("{stem}-{part:05}-of-{count:05}.gguf"))).collect())
}

/// The files that a sharded checkpoint's table names, each once.
fn shards(path: &Path) -> Result<Vec<PathBuf>> {
    let table = path.join(INDEX);
    let text = std::fs::read(&table).map_err(Error::file("read", &table))?;
    let index: Index = serde_json::from_slice(&text).map_err(|error| Error::content(&table, error))?;
    let mut names: Vec<_> = index.weight_map.into_values().collect();
    names.sort();
    names.dedup();
    for name in &names {
        let inside = Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
        if !inside || name.is_empty() {
            return Err(Error::content(&table, format!("`{name}` is not a file inside the checkpoint")));
        }
        if !path.join(name).is_file() {
            let hint = "download the checkpoint completely";
            return Err(Error::Content { path: table, what: format!("the file `{name}` is missing"), hint });
        }
    }
    Ok(names.into_iter().map(|name| path.join(name)).collect())
}
