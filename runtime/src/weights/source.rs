//! Where a parameter's numbers come from: tensors of a checkpoint, or a generator.

use crate::artifact::{Binding, Layout, Manifest, Param};
use crate::checkpoint::fp8::{self, Scales};
use crate::checkpoint::{Block, Checkpoint, Kind, Tensor, blocks};
use crate::error::{Error, Result};
use crate::random::{STEP, mix};
use half::{bf16, f16};

/// What weights to take.
pub enum Origin {
    /// Trained ones.
    Checkpoint(Checkpoint),
    /// Reproducible nonsense of sane size, for benchmarks.
    Random(u64),
}

impl Origin {
    /// Gives back the memory that reading took so far.
    pub(super) fn release(&self) {
        if let Origin::Checkpoint(checkpoint) = self {
            checkpoint.release();
        }
    }
}

/// Reads element `index` of tensor `tensor` as f32. Indices were checked against the tensor's shape before.
pub(super) trait Load: Sync {
    /// What a reader keeps between neighbouring elements.
    type Cursor: Default;

    fn load(&self, cursor: &mut Self::Cursor, tensor: usize, index: usize) -> f32;
}

/// Elements of one storage type in one or several tensors.
pub(super) struct Elements<'a, const BYTES: usize> {
    tensors: Vec<&'a [u8]>,
    convert: fn([u8; BYTES]) -> f32,
}

impl<const BYTES: usize> Load for Elements<'_, BYTES> {
    type Cursor = ();

    #[inline(always)]
    fn load(&self, _: &mut (), tensor: usize, index: usize) -> f32 {
        let (elements, _) = self.tensors[tensor].as_chunks::<BYTES>();
        (self.convert)(elements[index])
    }
}

/// Elements of eight bits, times scales of their own tensors, in one or several tensors.
pub(super) struct Bytes<'a> {
    tensors: Vec<(&'a [u8], Scales)>,
}

impl Load for Bytes<'_> {
    type Cursor = ();

    #[inline]
    fn load(&self, _: &mut (), tensor: usize, index: usize) -> f32 {
        let (bytes, scales) = &self.tensors[tensor];
        fp8::number(bytes[index]) * scales.of(index)
    }
}

/// Elements in blocks that share scales, in one or several tensors.
pub(super) struct Blocks<'a> {
    tensors: Vec<&'a [u8]>,
    block: Block,
}

/// The block that was read last: neighbours are mostly in the same one.
pub(super) struct Decoded {
    /// Which tensor and block.
    of: (usize, usize),
    numbers: [f32; blocks::LARGEST],
}

impl Default for Decoded {
    fn default() -> Self {
        Self { of: (usize::MAX, usize::MAX), numbers: [0.0; blocks::LARGEST] }
    }
}

impl Load for Blocks<'_> {
    type Cursor = Decoded;

    #[inline]
    fn load(&self, cursor: &mut Decoded, tensor: usize, index: usize) -> f32 {
        let (elements, bytes) = self.block.size();
        let at = index / elements;
        if cursor.of != (tensor, at) {
            blocks::decode(self.block, &self.tensors[tensor][at * bytes..][..bytes], &mut cursor.numbers[..elements]);
            cursor.of = (tensor, at);
        }
        cursor.numbers[index % elements]
    }
}

/// One parameter's source. Its elements are addressed with `offset`, the stacked axis, and `(size, stride)` of each axis or of its
/// factors, as in a `Binding`.
pub(super) struct Source<'a> {
    pub(super) reader: Reader<'a>,
    pub(super) offset: usize,
    pub(super) steps: Vec<Vec<(usize, usize)>>,
    pub(super) stacked: Option<usize>,
}

/// A [`Load`] of one of the supported kinds.
pub(super) enum Reader<'a> {
    F32(Elements<'a, 4>),
    F16(Elements<'a, 2>),
    Bf16(Elements<'a, 2>),
    Bytes(Bytes<'a>),
    Blocks(Blocks<'a>),
    Random(Random),
}

impl Reader<'_> {
    /// One element, on its own.
    pub(super) fn sample(&self, tensor: usize, index: usize) -> f32 {
        fn one<L: Load>(source: &L, tensor: usize, index: usize) -> f32 {
            source.load(&mut L::Cursor::default(), tensor, index)
        }
        match self {
            Reader::F32(elements) => one(elements, tensor, index),
            Reader::F16(elements) => one(elements, tensor, index),
            Reader::Bf16(elements) => one(elements, tensor, index),
            Reader::Bytes(bytes) => one(bytes, tensor, index),
            Reader::Blocks(blocks) => one(blocks, tensor, index),
            Reader::Random(random) => one(random, tensor, index),
        }
    }
}

/// Numbers from a counter: element `n` is the same whichever thread asks for it.
pub(super) struct Random {
    key: u64,
    mean: f32,
    deviation: f32,
}

impl Load for Random {
    type Cursor = ();

    #[inline]
    fn load(&self, _: &mut (), _: usize, index: usize) -> f32 {
        let bits = mix(self.key.wrapping_add((index as u64).wrapping_mul(STEP)));
        // Four uniform numbers of variance 1/12 each: their sum is close to normal, and cheap.
        let sum: f32 = (0..4).map(|part| (bits >> (16 * part) & 0xffff) as f32).sum();
        self.mean + self.deviation * (sum / 65535.0 - 2.0) * 3f32.sqrt()
    }
}

/// A source for every parameter of the manifest, or all problems.
pub(super) fn sources<'a>(manifest: &Manifest, origin: &'a Origin) -> Result<Vec<Source<'a>>> {
    match origin {
        Origin::Random(seed) => Ok((0..manifest.params.len()).map(|param| random(manifest, param, *seed)).collect()),
        Origin::Checkpoint(checkpoint) => {
            if let Some(param) = manifest.params.iter().find(|param| param.binding.is_none()) {
                return Err(Error::NoMap { param: param.path.clone() });
            }
            let (mut found, mut problems) = (Vec::new(), Vec::new());
            for param in &manifest.params {
                match bound(param, checkpoint) {
                    Ok(source) => found.push(source),
                    Err(what) => problems.extend(what),
                }
            }
            if problems.is_empty() { Ok(found) } else { Err(Error::Checkpoint { path: checkpoint.path().into(), problems }) }
        }
    }
}

/// Around 1 for what may be a norm; small for tables; for matrices so that results are as large as operands.
fn random(manifest: &Manifest, index: usize, seed: u64) -> Source<'static> {
    let param = &manifest.params[index];
    let fan_in = manifest.packed.iter().filter(|packed| packed.param == index).find_map(|packed| match &packed.layout {
        Layout::Panels { k, .. } | Layout::Columns { k, .. } => Some(k.iter().map(|axis| param.shape[*axis]).product::<usize>()),
        Layout::Dense(_) => None,
    });
    let (mean, deviation) = match fan_in {
        Some(fan_in) => (0.0, (fan_in.max(1) as f32).powf(-0.5)),
        None if param.shape.len() <= 1 => (1.0, 0.05),
        None => (0.0, 0.05),
    };
    let key = param.path.bytes().fold(mix(seed), |key, byte| mix(key ^ u64::from(byte)));
    let mut strides = vec![1; param.shape.len()];
    for axis in (1..strides.len()).rev() {
        strides[axis - 1] = strides[axis] * param.shape[axis];
    }
    let steps = param.shape.iter().zip(strides).map(|(size, stride)| vec![(*size, stride)]).collect();
    Source { reader: Reader::Random(Random { key, mean, deviation }), offset: 0, steps, stacked: None }
}

/// The numbers of a parameter in a checkpoint, row-major in declared order.
///
/// # Errors
/// All that is wrong with the tensors that it is bound to, or that it is bound to none.
pub fn numbers(param: &Param, checkpoint: &Checkpoint) -> std::result::Result<Vec<f32>, String> {
    let source = bound(param, checkpoint).map_err(|what| match what.is_empty() {
        true => format!("nothing says which tensor `{}` is", param.path),
        false => what.join("; "),
    })?;
    let mut out = Vec::with_capacity(param.shape.iter().product());
    source.walk(0, (0, source.offset), &mut out);
    Ok(out)
}

impl Source<'_> {
    /// All elements from an axis on, behind a place in a tensor.
    fn walk(&self, axis: usize, (tensor, at): (usize, usize), out: &mut Vec<f32>) {
        let Some(steps) = self.steps.get(axis) else { return out.push(self.reader.sample(tensor, at)) };
        if self.stacked == Some(axis) {
            let count = steps.iter().map(|(size, _)| size).product();
            return (0..count).for_each(|tensor| self.walk(axis + 1, (tensor, at), out));
        }
        // The factors of an axis, slowest first.
        let count: usize = steps.iter().map(|(size, _)| size).product();
        for n in 0..count {
            let mut rest = n;
            let place: usize = steps
                .iter()
                .rev()
                .map(|(size, stride)| {
                    let digit = rest % size;
                    rest /= size;
                    digit * stride
                })
                .sum();
            self.walk(axis + 1, (tensor, at + place), out);
        }
    }
}

/// The tensors that a parameter is bound to; all that is wrong with them otherwise.
fn bound<'a>(param: &Param, checkpoint: &'a Checkpoint) -> Result<Source<'a>, Vec<String>> {
    let Some(binding) = &param.binding else { return Err(Vec::new()) };
    let (mut tensors, mut problems) = (Vec::new(), Vec::new());
    for name in &binding.tensors {
        match tensor(checkpoint, name, &binding.shape) {
            Ok(tensor) => tensors.push(tensor),
            Err(what) => problems.push(format!("{what}, needed for `{}`", param.path)),
        }
    }
    let first = tensors.first().map(|tensor| tensor.kind);
    if let Some((name, _)) = binding.tensors.iter().zip(&tensors).find(|(_, tensor)| Some(tensor.kind) != first) {
        problems.push(format!("tensor `{name}` has another type than `{}`", binding.tensors[0]));
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    if first == Some(Kind::F8) {
        return bytes(param, binding, checkpoint, &tensors);
    }
    let tensors: Vec<_> = tensors.iter().map(|tensor| tensor.bytes).collect();
    let reader = match first {
        Some(Kind::F32) => Reader::F32(Elements { tensors, convert: f32::from_le_bytes }),
        Some(Kind::F16) => Reader::F16(Elements { tensors, convert: |bytes| f16::from_le_bytes(bytes).to_f32() }),
        Some(Kind::Block(block)) => Reader::Blocks(Blocks { tensors, block }),
        _ => Reader::Bf16(Elements { tensors, convert: |bytes| bf16::from_le_bytes(bytes).to_f32() }),
    };
    Ok(bound_by(param, binding, reader))
}

fn bound_by<'a>(param: &Param, binding: &Binding, reader: Reader<'a>) -> Source<'a> {
    let steps = param.shape.iter().enumerate().map(|(axis, size)| binding.steps(axis, *size)).collect();
    Source { reader, offset: binding.offset, steps, stacked: binding.stacked }
}

/// Tensors of numbers of eight bits, each with its scales: in `NAME_scale_inv` or `NAME_scale`, by which numbers are multiplied under either name; none are 1.
fn bytes<'a>(
    param: &Param,
    binding: &Binding,
    checkpoint: &'a Checkpoint,
    tensors: &[Tensor<'a>],
) -> Result<Source<'a>, Vec<String>> {
    let mut found = Vec::new();
    for (name, tensor) in binding.tensors.iter().zip(tensors) {
        let names: Vec<String> =
            name.split('|').flat_map(|name| [format!("{name}_scale_inv"), format!("{name}_scale")]).collect();
        let scales = match checkpoint.get(&names.join("|")) {
            None => Scales::new(vec![1.0], &[], tensor.shape),
            Some(scales) => {
                let mut numbers = vec![0.0; scales.shape.iter().product()];
                scales.read(0, &mut numbers).and_then(|()| Scales::new(numbers, scales.shape, tensor.shape))
            }
        };
        let scales = scales.map_err(|what| vec![format!("tensor `{name}`: {what}, needed for `{}`", param.path)])?;
        found.push((tensor.bytes, scales));
    }
    Ok(bound_by(param, binding, Reader::Bytes(Bytes { tensors: found })))
}

fn tensor<'a>(checkpoint: &'a Checkpoint, name: &str, shape: &[usize]) -> Result<Tensor<'a>, String> {
    let shown = name.replace('|', "` or `");
    let tensor = checkpoint.get(name).ok_or_else(|| format!("no tensor `{shown}`{}", checkpoint.near(name)))?;
    if tensor.shape != shape {
        return Err(format!("tensor `{shown}` has shape {:?} where {shape:?} is", tensor.shape));
    }
    match tensor.kind {
        Kind::F32 | Kind::F16 | Kind::Bf16 | Kind::F8 | Kind::Block(_) => Ok(tensor),
        other => Err(format!(
            "tensor `{shown}` is stored as {other}; F32, F16, BF16 and F8_E4M3 can be read, and of blocks Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K and Q6_K"
        )),
    }
}
