//! The GGUF format, versions 2 and 3: magic, version, counts, metadata (key, type, value), tensors (name, dimensions, type, offset),
//! padding to `general.alignment`, numbers. All little-endian; a count or length is a u64.
//!
//! A header that passes promises what that of a safetensors file does: every tensor has as many bytes as its type and shape say,
//! tensors follow each other without overlap or holes beyond padding, and the last ends where the file ends. No count is believed
//! before the file has been seen to be long enough for it.

use super::TensorInfo;
use super::kind::Kind;
use serde_json::{Map, Number, Value};
use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

/// How every GGUF file begins.
pub const MAGIC: &[u8; 4] = b"GGUF";
const ALIGNMENT: &str = "general.alignment";
/// Most elements of a list in the metadata: far more than any vocabulary has, and few enough to hold.
const LONGEST: usize = 1 << 22;
/// Lists in lists.
const DEEPEST: usize = 3;
/// Dimensions of a tensor.
const DIMENSIONS: u32 = 4;

/// What a file says about its model: numbers, texts, lists, under dotted names.
pub type Metadata = Map<String, Value>;

/// Whether a file begins as a GGUF file does.
pub fn is_file(path: &Path) -> bool {
    let mut begin = [0; 4];
    std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut begin)).is_ok() && begin == *MAGIC
}

/// Metadata and tensors of a file's bytes, or what is wrong with them.
pub fn parse(file: &[u8]) -> Result<(Metadata, BTreeMap<String, TensorInfo>), String> {
    let mut reader = Reader { file, at: 0 };
    if reader.take(4)? != MAGIC {
        return Err("not a GGUF file".into());
    }
    match reader.u32()? {
        2 | 3 => {}
        1 => return Err("GGUF version 1 is too old; 2 and 3 can be read".into()),
        version if version.swap_bytes() < 1 << 16 => return Err("a big-endian GGUF file; little-endian ones can be read".into()),
        version => return Err(format!("GGUF version {version} is not known; 2 and 3 can be read")),
    }
    // A tensor takes at least a name's length, a dimension, a type and an offset; a pair a key's length, a type and a value.
    let (tensors, pairs) = (reader.count(32, "tensors")?, reader.count(13, "metadata")?);
    let mut metadata = Map::new();
    for number in 0..pairs {
        let key = reader.text().map_err(|what| format!("key {number} of the metadata: {what}"))?;
        let kind = reader.u32()?;
        let value = reader.value(kind, 0).map_err(|what| format!("metadata `{key}`: {what}"))?;
        if metadata.insert(key.clone(), value).is_some() {
            return Err(format!("metadata `{key}` stands twice"));
        }
    }
    let declared = (0..tensors).map(|number| reader.tensor(number)).collect::<Result<Vec<_>, _>>()?;
    let tensors = placed(declared, reader.at, alignment(&metadata)?, file.len())?;
    Ok((metadata, tensors))
}

/// What a tensor's entry says.
struct Declared {
    name: String,
    kind: Kind,
    shape: Vec<usize>,
    bytes: usize,
    offset: u64,
}

/// Where tensors begin, relative to each other and to the file.
fn alignment(metadata: &Metadata) -> Result<usize, String> {
    let Some(value) = metadata.get(ALIGNMENT) else { return Ok(32) };
    let number = value.as_u64().filter(|number| number.is_power_of_two() && *number <= 1 << 20);
    number.map(|number| number as usize).ok_or_else(|| format!("`{ALIGNMENT}` is {value}, not a small power of two"))
}

/// Finds every tensor in the file; they stand in the order of their entries.
fn placed(declared: Vec<Declared>, header: usize, alignment: usize, end: usize) -> Result<BTreeMap<String, TensorInfo>, String> {
    let start = header.next_multiple_of(alignment);
    let (mut tensors, mut at, mut before) = (BTreeMap::new(), 0usize, "the header".to_string());
    for Declared { name, kind, shape, bytes, offset } in declared {
        if offset != at as u64 {
            let how = if offset < at as u64 { "overlaps" } else { "leaves a hole after" };
            return Err(format!("tensor `{name}` at offset {offset} {how} {before}, which ends at {at}"));
        }
        let (begin, stop) = (start + at, (start + at).checked_add(bytes).filter(|stop| *stop <= end));
        let stop =
            stop.ok_or_else(|| format!("truncated: tensor `{name}` of {bytes} bytes begins at byte {begin} of a file of {end}"))?;
        at = (stop - start).next_multiple_of(alignment);
        before = format!("`{name}`");
        if tensors.insert(name, TensorInfo { kind, shape, bytes: begin..stop }).is_some() {
            return Err(format!("tensor {before} stands twice"));
        }
    }
    match end.checked_sub(start + at) {
        Some(more) if more > 0 && !tensors.is_empty() => Err(format!("{more} bytes after the last tensor")),
        _ => Ok(tensors),
    }
}

/// Reads the header from front to back.
struct Reader<'a> {
    file: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, bytes: usize) -> Result<&'a [u8], String> {
        let taken = self.at.checked_add(bytes).and_then(|end| self.file.get(self.at..end));
        let taken =
            taken.ok_or_else(|| format!("truncated: {bytes} bytes are wanted at byte {} of {}", self.at, self.file.len()))?;
        self.at += bytes;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N)?);
        Ok(bytes)
    }

    fn u32(&mut self) -> Result<u32, String> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, String> {
        self.array().map(u64::from_le_bytes)
    }

    /// A number of things that take at least `least` bytes each.
    fn count(&mut self, least: usize, what: &str) -> Result<usize, String> {
        let (count, left) = (self.u64()?, self.file.len() - self.at);
        let believed = usize::try_from(count).ok().filter(|count| count.checked_mul(least).is_some_and(|bytes| bytes <= left));
        believed.ok_or_else(|| format!("truncated: {count} {what} do not fit into the {left} bytes that are left"))
    }

    fn text(&mut self) -> Result<String, String> {
        let length = self.count(1, "bytes of text")?;
        let bytes = self.take(length)?;
        String::from_utf8(bytes.to_vec()).map_err(|_| "a text that is not UTF-8".into())
    }

    fn value(&mut self, kind: u32, depth: usize) -> Result<Value, String> {
        Ok(match kind {
            0 => u8::from_le_bytes(self.array()?).into(),
            1 => i8::from_le_bytes(self.array()?).into(),
            2 => u16::from_le_bytes(self.array()?).into(),
            3 => i16::from_le_bytes(self.array()?).into(),
            4 => self.u32()?.into(),
            5 => i32::from_le_bytes(self.array()?).into(),
            6 => single(f32::from_le_bytes(self.array()?)),
            7 => match self.take(1)?[0] {
                truth @ (0 | 1) => (truth == 1).into(),
                other => return Err(format!("{other} is neither true nor false")),
            },
            8 => self.text()?.into(),
            9 if depth < DEEPEST => self.list(depth)?,
            10 => self.u64()?.into(),
            11 => i64::from_le_bytes(self.array()?).into(),
            12 => float(f64::from_le_bytes(self.array()?)),
            9 => return Err("lists in lists in lists".into()),
            other => return Err(format!("a value of unknown type {other}")),
        })
    }

    fn list(&mut self, depth: usize) -> Result<Value, String> {
        let kind = self.u32()?;
        let least = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            9 => 12,
            _ => 8,
        };
        let count = self.count(least, "elements")?;
        if count > LONGEST {
            return Err(format!("a list of {count} elements; {LONGEST} are the most that are read"));
        }
        (0..count).map(|_| self.value(kind, depth + 1)).collect()
    }

    fn tensor(&mut self, number: usize) -> Result<Declared, String> {
        let name = self.text().map_err(|what| format!("name of tensor {number}: {what}"))?;
        let rest = self.entry();
        let (kind, shape, offset) = rest.map_err(|what| format!("tensor `{name}`: {what}"))?;
        let bytes = kind.bytes(&shape).filter(|bytes| *bytes > 0);
        let bytes = bytes
            .ok_or_else(|| format!("tensor `{name}`: {kind} {shape:?} is empty, too large, or has rows of broken blocks"))?;
        Ok(Declared { name, kind, shape, bytes, offset })
    }

    fn entry(&mut self) -> Result<(Kind, Vec<usize>, u64), String> {
        let dimensions = self.u32()?;
        if !(1..=DIMENSIONS).contains(&dimensions) {
            return Err(format!("{dimensions} dimensions; 1 to {DIMENSIONS} are possible"));
        }
        // The format begins with the fastest dimension.
        let mut shape = Vec::new();
        for _ in 0..dimensions {
            shape.insert(0, usize::try_from(self.u64()?).map_err(|_| "a dimension that is out of range")?);
        }
        let kind = self.u32()?;
        let kind = Kind::numbered(kind).ok_or_else(|| format!("unknown type {kind}"))?;
        Ok((kind, shape, self.u64()?))
    }
}

/// The shortest decimal number that is this f32: `1e-5`, not `9.999999747378752e-6`.
fn single(number: f32) -> Value {
    float(number.to_string().parse().unwrap_or(f64::NAN))
}

/// A number; infinities as configurations spell them.
fn float(number: f64) -> Value {
    match Number::from_f64(number) {
        Some(number) => number.into(),
        None if number.is_nan() => Value::Null,
        None => serde_json::json!({"__float__": if number > 0.0 { "Infinity" } else { "-Infinity" }}),
    }
}
