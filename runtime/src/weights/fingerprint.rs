//! A number that tells checkpoints apart, whatever the target and precision that they were packed for.

use super::Weights;
use crate::artifact::{Dtype, Layout, Manifest, Packed, fnv1a};
use half::bf16;

/// Numbers that are looked at in each parameter: enough to tell checkpoints apart, few enough to take no time.
const SAMPLES: usize = 64;

impl Weights {
    /// Hashes names, shapes and some numbers, rounded to bfloat16, of every parameter.
    pub fn fingerprint(&self, manifest: &Manifest) -> u64 {
        let mut seen = Vec::new();
        for (at, param) in manifest.params.iter().enumerate() {
            let Some(packed) = manifest.packed.iter().find(|packed| packed.param == at) else { continue };
            seen.extend_from_slice(param.path.as_bytes());
            param.shape.iter().for_each(|size| seen.extend_from_slice(&(*size as u64).to_le_bytes()));
            let count = param.count();
            for sample in 0..SAMPLES.min(count) {
                let number = sample * count / SAMPLES.min(count);
                seen.extend_from_slice(&self.number(packed, element(packed, &param.shape, number)));
            }
        }
        fnv1a(&seen)
    }

    /// A number of a packed tensor, rounded to bfloat16.
    fn number(&self, packed: &Packed, element: usize) -> [u8; 2] {
        let at = packed.offset + element * packed.dtype.bytes();
        match self.bytes()[at..at + packed.dtype.bytes()] {
            [a, b] if packed.dtype == Dtype::Bf16 => [a, b],
            [a, b, c, d] => bf16::from_f32(f32::from_le_bytes([a, b, c, d])).to_le_bytes(),
            _ => [0, 0],
        }
    }
}

/// Where the element of a parameter, counted row-major, lies in its packed tensor.
fn element(packed: &Packed, shape: &[usize], number: usize) -> usize {
    let mut left = number;
    let mut place = vec![0; shape.len()];
    for (place, size) in place.iter_mut().zip(shape).rev() {
        *place = left % size;
        left /= size;
    }
    let index = |axes: &[usize]| axes.iter().fold(0, |index, axis| index * shape[*axis] + place[*axis]);
    let count = |axes: &[usize]| axes.iter().map(|axis| shape[*axis]).product::<usize>();
    match &packed.layout {
        Layout::Dense(order) => index(order),
        Layout::Panels { batch, k, n, width } => {
            let panel = index(batch) * count(n).div_ceil(*width) + index(n) / width;
            (panel * count(k) + index(k)) * width + index(n) % width
        }
    }
}
