//! Reads safetensors files for comparisons: every number widened to f64.

use std::collections::HashMap;
use std::path::Path;

/// One tensor.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// Its dimensions, slowest first.
    pub shape: Vec<usize>,
    /// Its numbers.
    pub data: Vec<f64>,
}

/// All tensors of a file, by name.
pub fn read(path: &Path) -> HashMap<String, Tensor> {
    let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let length = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
    let header: serde_json::Value = serde_json::from_slice(&bytes[8..8 + length]).expect("a header");
    let body = &bytes[8 + length..];
    let entries = header.as_object().expect("an object").iter().filter(|(name, _)| *name != "__metadata__");
    entries.map(|(name, entry)| (name.clone(), tensor(entry, body))).collect()
}

fn tensor(entry: &serde_json::Value, body: &[u8]) -> Tensor {
    let list = |key: &str| -> Vec<usize> {
        entry[key].as_array().expect(key).iter().map(|n| n.as_u64().expect("a whole number") as usize).collect()
    };
    let range = list("data_offsets");
    Tensor { shape: list("shape"), data: widen(entry["dtype"].as_str().expect("a dtype"), &body[range[0]..range[1]]) }
}

fn widen(dtype: &str, bytes: &[u8]) -> Vec<f64> {
    match dtype {
        "F64" => numbers(bytes, f64::from_le_bytes),
        "F32" => numbers(bytes, |b| f64::from(f32::from_le_bytes(b))),
        "BF16" => numbers(bytes, |b: [u8; 2]| f64::from(f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16))),
        "F16" => numbers(bytes, |b: [u8; 2]| half(u16::from_le_bytes(b))),
        "I64" => numbers(bytes, |b| i64::from_le_bytes(b) as f64),
        "I32" => numbers(bytes, |b| f64::from(i32::from_le_bytes(b))),
        "BOOL" | "U8" => numbers(bytes, |b: [u8; 1]| f64::from(b[0])),
        other => panic!("no reader for {other}"),
    }
}

fn numbers<const N: usize>(bytes: &[u8], read: impl Fn([u8; N]) -> f64) -> Vec<f64> {
    bytes.chunks_exact(N).map(|chunk| read(chunk.try_into().expect("a whole number of elements"))).collect()
}

/// IEEE half precision: sign, five bits of exponent, ten of fraction.
fn half(bits: u16) -> f64 {
    let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
    let (exponent, fraction) = (i32::from(bits >> 10 & 31), f64::from(bits & 1023) / 1024.0);
    sign * match exponent {
        0 => fraction * 2f64.powi(-14),
        31 => f64::INFINITY,
        _ => (1.0 + fraction) * 2f64.powi(exponent - 15),
    }
}
