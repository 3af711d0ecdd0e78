//! A sequence's states as a file: safetensors, one tensor for each state, so that other programs can look into it.
//!
//! Caches of keys and values are stored as `[parts, positions, row]`, as many positions as are in use; the layout inside a slot, its
//! capacity and the target do not matter. The metadata say of which model and weights the states are, and hold a checksum of the
//! whole file (with zeros in its own place).

use super::states::{Snapshot, fill, key, used};
use crate::artifact::{Manifest, State, Truncate, fnv1a, fnv1a_on, replace};
use crate::checkpoint::{self, Kind, Named, TensorInfo};
use crate::error::{Error, Result};
use crate::weights::Weights;
use std::collections::BTreeMap;
use std::path::Path;

/// Raised whenever the meaning of the file changes.
const VERSION: &str = "1";
const FORMAT: &str = "braid-state";
/// The text before the checksum's digits.
const MARK: &str = "\"checksum\":\"";
const DIGITS: usize = 16;
/// The text's token ids, as many as positions behind what stands ahead. No state has such a name.
const IDS: &str = "token-ids";
/// Logits of what comes next, `[vocab]`.
const LOGITS: &str = "next-logits";

/// A sequence as it comes from a file.
pub struct Saved {
    /// Its states.
    pub snapshot: Snapshot,
    /// The tokens that it has seen, if the writer knew them; else empty.
    pub ids: Vec<i32>,
    /// The logits of the last one: what comes next; or empty.
    pub logits: Vec<f32>,
}

impl Saved {
    /// Whether there are files of a model's states.
    ///
    /// # Errors
    /// The limit: a file has no place for a source.
    pub fn possible(manifest: &Manifest) -> Result<()> {
        match manifest.encodes() {
            true => Err(Error::Limit { what: "a state file of a model with a source".into() }),
            false => Ok(()),
        }
    }

    /// Writes a file; it appears whole or not at all.
    pub fn write(&self, path: &Path, manifest: &Manifest, weights: &Weights) -> Result<()> {
        Self::possible(manifest)?;
        let position = self.snapshot.position();
        let bytes = self.snapshot.bytes();
        let states = manifest.states.iter().zip(names(manifest));
        let mut tensors: Vec<Named> = states.map(|(state, name)| gathered(state, name, bytes, position)).collect();
        let mut add = |name: &str, kind, count: usize, bytes: Vec<u8>| {
            if count > 0 {
                tensors.push(Named { name: name.into(), kind, shape: vec![count], bytes });
            }
        };
        add(IDS, Kind::I32, self.ids.len(), self.ids.iter().flat_map(|id| id.to_le_bytes()).collect());
        add(LOGITS, Kind::F32, self.logits.len(), self.logits.iter().flat_map(|logit| logit.to_le_bytes()).collect());
        let mut metadata = identity(manifest, weights);
        metadata.extend([("position".into(), position.to_string()), ("checksum".into(), "0".repeat(DIGITS))]);
        let mut file = checkpoint::encode(&metadata, &tensors).map_err(|error| Error::Bug { what: error.to_string() })?;
        let sum = format!("{:016x}", fnv1a(&file));
        if let Some(at) = checksum(&file) {
            file[at..at + DIGITS].copy_from_slice(sum.as_bytes());
        }
        replace(path, &file).map_err(Error::file("write", path))
    }

    /// Reads and checks a file: that it is whole, and of this model with these weights.
    pub fn read(path: &Path, manifest: &Manifest, weights: &Weights) -> Result<Self> {
        Self::possible(manifest)?;
        let file = std::fs::read(path).map_err(Error::file("read", path))?;
        let broken = |what: String| Error::content(path, what);
        let tensors = checkpoint::parse(&file).map_err(broken)?;
        let metadata = checkpoint::metadata(&file).map_err(broken)?;
        let said = |key: &str| metadata.get(key).map_or("", String::as_str);
        let wrong = |what: String, hint| Error::Content { path: path.into(), what, hint };
        if said("format") != FORMAT {
            return Err(wrong("not a state".into(), "`run --save-state FILE` writes them"));
        }
        if said("version") != VERSION {
            return Err(wrong(
                format!("state format {}, but this build reads format {VERSION}", said("version")),
                "save it anew",
            ));
        }
        if !whole(&file, said("checksum")) {
            return Err(wrong("damaged: the checksum does not match".into(), "copy the file again"));
        }
        let own = identity(manifest, weights);
        if said("layout") != own["layout"] || said("model") != manifest.model {
            let what = format!("the state of `{}`, whose states are not those of `{}`", said("model"), manifest.model);
            return Err(wrong(what, "use the artifact, or the spec and settings, that it was saved with"));
        }
        if said("weights") != own["weights"] {
            return Err(wrong("saved with other weights".into(), "name those with `--weights`"));
        }
        let position = said("position").parse().ok().filter(|position| *position <= i32::MAX as usize);
        let position = position.ok_or_else(|| broken("no position in it".into()))?;
        let contents = Contents { file: &file, tensors: &tensors, manifest, position };
        contents.saved().map_err(broken)
    }
}

/// What a state must agree with.
fn identity(manifest: &Manifest, weights: &Weights) -> BTreeMap<String, String> {
    let pairs = [
        ("format", FORMAT.to_string()),
        ("version", VERSION.to_string()),
        ("model", manifest.model.clone()),
        ("layout", format!("{:016x}", key(manifest))),
        ("weights", format!("{:016x}", weights.fingerprint())),
    ];
    pairs.into_iter().map(|(key, value)| (key.to_string(), value)).collect()
}

/// Where the digits of the checksum are.
fn checksum(file: &[u8]) -> Option<usize> {
    let at = file.windows(MARK.len()).position(|bytes| bytes == MARK.as_bytes())?;
    Some(at + MARK.len()).filter(|at| at + DIGITS <= file.len())
}

fn whole(file: &[u8], sum: &str) -> bool {
    checksum(file).is_some_and(|at| {
        let hash = [&[b'0'; DIGITS][..], &file[at + DIGITS..]].iter().fold(fnv1a(&file[..at]), |hash, part| fnv1a_on(hash, part));
        sum == format!("{hash:016x}")
    })
}

/// The states' names, made different where two are equal.
fn names(manifest: &Manifest) -> Vec<String> {
    let mut seen = BTreeMap::new();
    let name = |state: &State| {
        let count: &mut usize = seen.entry(state.name.clone()).or_default();
        *count += 1;
        if *count == 1 { state.name.clone() } else { format!("{}#{count}", state.name) }
    };
    manifest.states.iter().map(name).collect()
}

fn kind(state: &State) -> Kind {
    match (state.kind.as_str(), state.element_bytes) {
        ("positions", 4) => Kind::I32,
        (_, 4) => Kind::F32,
        ("keys" | "values", 2) => Kind::Bf16,
        (_, 2) => Kind::Other("U16", (1, 2)),
        _ => Kind::Other("U8", (1, 1)),
    }
}

/// Rows of a part that are stored, and those that it has in a snapshot.
fn rows(state: &State, position: usize) -> (usize, usize) {
    if state.grows() { (position, used(position)) } else { (state.rows, state.rows) }
}

fn shape(state: &State, position: usize) -> Vec<usize> {
    match state.truncate {
        Truncate::Replay => {
            let axes = state.axes.iter().map(|(_, size)| *size);
            Some(state.rows).filter(|rows| *rows != 1).into_iter().chain(axes).collect()
        }
        _ => vec![state.parts, rows(state, position).0, state.row()],
    }
}

/// For each element of a state's tensor, in order: its number in the state.
fn elements(state: &State, position: usize) -> impl Iterator<Item = usize> + '_ {
    let (stored, all) = rows(state, position);
    let places = (0..state.parts).flat_map(move |part| (0..stored).map(move |row| (part, row)));
    places.flat_map(move |(part, row)| (0..state.row()).map(move |element| state.element(all, part, row, element)))
}

fn gathered(state: &State, name: String, snapshot: &[u8], position: usize) -> Named {
    let (own, size) = (&snapshot[state.place(used(position))], state.element_bytes);
    let bytes = elements(state, position).flat_map(|at| own[at * size..(at + 1) * size].iter().copied()).collect();
    Named { name, kind: kind(state), shape: shape(state, position), bytes }
}

/// A checked file.
struct Contents<'a> {
    file: &'a [u8],
    tensors: &'a BTreeMap<String, TensorInfo>,
    manifest: &'a Manifest,
    position: usize,
}

impl Contents<'_> {
    fn saved(&self) -> Result<Saved, String> {
        let ids = self.numbers(IDS, Kind::I32, self.position.saturating_sub(self.manifest.ahead), i32::from_le_bytes)?;
        let logits = self.numbers(LOGITS, Kind::F32, self.manifest.vocab, f32::from_le_bytes)?;
        if ids.iter().any(|id| *id < 0 || *id as usize >= self.manifest.tokens.max(1)) {
            return Err(format!("`{IDS}` holds ids that the model does not have"));
        }
        Ok(Saved { snapshot: self.snapshot()?, ids, logits })
    }

    fn snapshot(&self) -> Result<Snapshot, String> {
        let (manifest, position) = (self.manifest, self.position);
        let named: Vec<_> = manifest.states.iter().zip(names(manifest)).collect();
        // All of them, before memory for so many positions is asked for.
        let found: Vec<&[u8]> = named
            .iter()
            .map(|(state, name)| self.tensor(name, kind(state), &shape(state, position)))
            .collect::<Result<_, _>>()?;
        let room = used(position);
        let mut bytes = vec![0; manifest.slot_bytes(room).ok_or("a position out of range")?];
        for ((state, _), found) in named.iter().zip(found) {
            let (own, size) = (&mut bytes[state.place(room)], state.element_bytes);
            fill(state, own);
            for (at, cell) in elements(state, position).zip(found.chunks_exact(size)) {
                own[at * size..(at + 1) * size].copy_from_slice(cell);
            }
        }
        Snapshot::new(manifest, position, bytes).map_err(|error| error.to_string())
    }

    fn tensor(&self, name: &str, kind: Kind, shape: &[usize]) -> Result<&[u8], String> {
        let info = self.tensors.get(name).ok_or_else(|| format!("no tensor `{name}`"))?;
        if info.kind != kind || info.shape != shape {
            return Err(format!("tensor `{name}` is {} {:?} where {kind} {shape:?} is needed", info.kind, info.shape));
        }
        Ok(&self.file[info.bytes.clone()])
    }

    /// Numbers that need not be there.
    fn numbers<T>(&self, name: &str, kind: Kind, count: usize, number: impl Fn([u8; 4]) -> T) -> Result<Vec<T>, String> {
        if !self.tensors.contains_key(name) {
            return Ok(vec![]);
        }
        Ok(self.tensor(name, kind, &[count])?.as_chunks().0.iter().map(|bytes| number(*bytes)).collect())
    }
}
