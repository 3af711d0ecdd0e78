//! A number that tells checkpoints apart, whatever the target and precision that they are packed for.

use super::pack::{Axes, Place};
use super::source::{Origin, Source};
use crate::artifact::{Manifest, fnv1a};
use half::bf16;

/// Numbers that are looked at in each parameter: enough to tell checkpoints apart, few enough to take no time.
const SAMPLES: usize = 64;

/// Samples after which the checkpoint's pages are given back: the system may map many pages for each.
const RELEASE: usize = 8;

/// Hashes names, shapes and some numbers, rounded to bfloat16, of every parameter that is packed.
pub(super) fn fingerprint(manifest: &Manifest, sources: &[Source], origin: &Origin) -> u64 {
    let mut seen = Vec::new();
    for (at, (param, source)) in manifest.params.iter().zip(sources).enumerate() {
        if manifest.packed.iter().all(|packed| packed.param != at) {
            continue;
        }
        seen.extend_from_slice(param.path.as_bytes());
        param.shape.iter().for_each(|size| seen.extend_from_slice(&(*size as u64).to_le_bytes()));
        let axes: Vec<usize> = (0..param.shape.len()).collect();
        let axes = Axes::new(&axes, source);
        let (count, start) = (param.count(), Place { tensor: 0, index: source.offset });
        for sample in 0..SAMPLES.min(count) {
            let place = start.add(axes.place(sample * count / SAMPLES.min(count)));
            seen.extend_from_slice(&bf16::from_f32(source.reader.sample(place.tensor, place.index)).to_le_bytes());
            if sample % RELEASE == 0 {
                origin.release();
            }
        }
    }
    fnv1a(&seen)
}
