//! The safetensors format: header length (u64 LE), JSON header, numbers.
//!
//! A header that passes promises: every tensor has as many bytes as its type and shape say, tensors follow each other without
//! overlap or holes, and the last ends where the file ends.

use super::kind::Kind;
use std::collections::BTreeMap;
use std::ops::Range;

/// Largest header that is believed, as in other readers of the format.
const LARGEST: usize = 100_000_000;

/// The header's entry that is no tensor.
const METADATA: &str = "__metadata__";

/// Where a tensor is in its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Storage.
    pub kind: Kind,
    /// Row-major.
    pub shape: Vec<usize>,
    /// In the file.
    pub bytes: Range<usize>,
}

#[derive(serde::Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: (usize, usize),
}

/// The tensors of a file's bytes, or what is wrong with them.
pub fn parse(file: &[u8]) -> Result<BTreeMap<String, TensorInfo>, String> {
    let (json, end) = json(file)?;
    let mut tensors = BTreeMap::new();
    for (name, value) in json {
        if name != METADATA {
            let info = tensor(value, end).map_err(|what| format!("tensor `{name}`: {what}"))?;
            tensors.insert(name, info);
        }
    }
    contiguous(&tensors, end, file.len())?;
    Ok(tensors)
}

/// The free-form texts of a file's header; none if it has no such table.
pub fn metadata(file: &[u8]) -> Result<BTreeMap<String, String>, String> {
    let (mut json, _) = json(file)?;
    let table = json.remove(METADATA).unwrap_or_else(|| serde_json::json!({}));
    serde_json::from_value(table).map_err(|error| format!("the metadata are not texts: {error}"))
}

/// The header as JSON, and where the numbers begin.
fn json(file: &[u8]) -> Result<(BTreeMap<String, serde_json::Value>, usize), String> {
    let length = file.first_chunk::<8>().ok_or("shorter than a safetensors header: not a safetensors file, or truncated")?;
    let length = u64::from_le_bytes(*length);
    let end = usize::try_from(length).ok().filter(|length| *length <= LARGEST);
    let end = end.ok_or_else(|| format!("a header of {length} bytes: not a safetensors file"))? + 8;
    let header = file.get(8..end);
    let header = header.ok_or_else(|| format!("truncated: a header of {length} bytes in a file of {}", file.len()))?;
    let json = serde_json::from_slice(header).map_err(|error| format!("the header is not safetensors JSON: {error}"))?;
    Ok((json, end))
}

fn tensor(value: serde_json::Value, start: usize) -> Result<TensorInfo, String> {
    let entry: Entry = serde_json::from_value(value).map_err(|error| error.to_string())?;
    let kind = Kind::named(&entry.dtype).ok_or_else(|| format!("unknown type `{}`", entry.dtype))?;
    let needed = kind.bytes(&entry.shape);
    let (begin, end) = entry.data_offsets;
    if needed.is_none() || end.checked_sub(begin) != needed {
        return Err(format!("offsets {begin} to {end} do not fit {kind} {:?}", entry.shape));
    }
    match (begin.checked_add(start), end.checked_add(start)) {
        (Some(begin), Some(end)) => Ok(TensorInfo { kind, shape: entry.shape, bytes: begin..end }),
        _ => Err(format!("offsets {begin} to {end} are out of range")),
    }
}

fn contiguous(tensors: &BTreeMap<String, TensorInfo>, start: usize, end: usize) -> Result<(), String> {
    let mut order: Vec<_> = tensors.iter().collect();
    order.sort_by_key(|(_, info)| (info.bytes.start, info.bytes.end));
    let (mut at, mut before) = (start, "the header");
    for (name, info) in order {
        if info.bytes.end > end {
            return Err(format!("truncated: tensor `{name}` ends at byte {} of a file of {end}", info.bytes.end));
        }
        if info.bytes.start != at {
            let how = if info.bytes.start < at { "overlaps" } else { "leaves a hole after" };
            return Err(format!("tensor `{name}` {how} {before}"));
        }
        (at, before) = (info.bytes.end, name);
    }
    if at == end { Ok(()) } else { Err(format!("{} bytes after the last tensor", end - at)) }
}

/// A tensor to be written.
pub struct Named {
    /// Its name.
    pub name: String,
    /// Storage.
    pub kind: Kind,
    /// Row-major.
    pub shape: Vec<usize>,
    /// As many as type and shape say, little-endian.
    pub bytes: Vec<u8>,
}

/// A safetensors file of tensors and free-form texts.
pub fn encode(metadata: &BTreeMap<String, String>, tensors: &[Named]) -> serde_json::Result<Vec<u8>> {
    let entries = tensors.iter().map(|tensor| (&tensor.name[..], tensor.kind, &tensor.shape[..], tensor.bytes.len()));
    let mut file = header(Some(metadata), entries)?;
    tensors.iter().for_each(|tensor| file.extend_from_slice(&tensor.bytes));
    Ok(file)
}

/// Writes a safetensors file of tensors that are made one after the other: `(name, type, shape)`, and the bytes of each by its number.
///
/// # Errors
/// Those of writing, and of making bytes.
pub fn write_each(
    out: &mut impl std::io::Write,
    tensors: &[(String, Kind, Vec<usize>)],
    mut make: impl FnMut(usize) -> std::io::Result<Vec<u8>>,
) -> std::io::Result<()> {
    let entries = tensors.iter().map(|(name, kind, shape)| {
        let (elements, bytes) = kind.block();
        (&name[..], *kind, &shape[..], shape.iter().product::<usize>() / elements * bytes)
    });
    out.write_all(&header(None, entries)?)?;
    (0..tensors.len()).try_for_each(|at| out.write_all(&make(at)?))
}

/// Numbers as a tensor of that type holds them; a type that is not F16 or BF16 is F32.
pub fn stored(kind: Kind, numbers: &[f32]) -> Vec<u8> {
    match kind {
        Kind::F16 => numbers.iter().flat_map(|x| half::f16::from_f32(*x).to_le_bytes()).collect(),
        Kind::Bf16 => numbers.iter().flat_map(|x| half::bf16::from_f32(*x).to_le_bytes()).collect(),
        _ => numbers.iter().flat_map(|x| x.to_le_bytes()).collect(),
    }
}

/// The numbers of a tensor that is written.
#[derive(Clone, Copy)]
pub enum Numbers<'a> {
    /// As F32.
    Floats(&'a [f32]),
    /// As I32.
    Ids(&'a [i32]),
}

/// Writes a safetensors file of f32 tensors: `(name, shape, numbers)`.
pub fn write(out: &mut impl std::io::Write, tensors: &[(&str, &[usize], &[f32])]) -> std::io::Result<()> {
    let tensors: Vec<_> = tensors.iter().map(|(name, shape, numbers)| (*name, *shape, Numbers::Floats(numbers))).collect();
    write_numbers(out, &tensors)
}

/// Writes a safetensors file: `(name, shape, numbers)`.
pub fn write_numbers(out: &mut impl std::io::Write, tensors: &[(&str, &[usize], Numbers)]) -> std::io::Result<()> {
    let entries = tensors.iter().map(|(name, shape, numbers)| match numbers {
        Numbers::Floats(numbers) => (*name, Kind::F32, *shape, numbers.len() * 4),
        Numbers::Ids(numbers) => (*name, Kind::I32, *shape, numbers.len() * 4),
    });
    out.write_all(&header(None, entries)?)?;
    tensors.iter().try_for_each(|(_, _, numbers)| match numbers {
        Numbers::Floats(numbers) => numbers.iter().try_for_each(|number| out.write_all(&number.to_le_bytes())),
        Numbers::Ids(numbers) => numbers.iter().try_for_each(|number| out.write_all(&number.to_le_bytes())),
    })
}

/// Length and header, padded to 8 bytes, of tensors that follow each other: `(name, type, shape, bytes)`.
fn header<'a>(
    metadata: Option<&BTreeMap<String, String>>,
    tensors: impl Iterator<Item = (&'a str, Kind, &'a [usize], usize)>,
) -> serde_json::Result<Vec<u8>> {
    let mut header = serde_json::Map::new();
    if let Some(metadata) = metadata {
        header.insert(METADATA.into(), serde_json::to_value(metadata)?);
    }
    let mut at = 0;
    for (name, kind, shape, bytes) in tensors {
        let entry = serde_json::json!({"dtype": kind.to_string(), "shape": shape, "data_offsets": [at, at + bytes]});
        header.insert(name.into(), entry);
        at += bytes;
    }
    let mut json = serde_json::to_vec(&header)?;
    json.resize(json.len().next_multiple_of(8), b' ');
    Ok([&(json.len() as u64).to_le_bytes()[..], &json].concat())
}
