//! Steps of calls of many rows that are launches of their own: the entries of their functions, the rows that they round, and the maps by
//! which the copy engine finds rows and weights.

use super::gpu::{Gpu, Said};
use super::memory::Memory;
use super::program::{Entry, Module};
use crate::artifact::{self, ALIGN, Device, Multiplied};
use crate::error::Result;
use cudarc::driver::sys::{
    self, CUtensorMapDataType as Type, CUtensorMapFloatOOBfill as Fill, CUtensorMapInterleave as Interleave,
    CUtensorMapL2promotion as Promotion, CUtensorMapSwizzle as Swizzle,
};
use cudarc::driver::{CudaStream, result};
use std::ffi::c_void;
use std::sync::Arc;

/// Bytes of a map.
const MAP: usize = size_of::<sys::CUtensorMap>();

/// What a program has of such steps.
pub(super) struct Apart {
    functions: Vec<Function>,
    /// For each forward step.
    steps: Vec<Option<Own>>,
}

/// The two entries of a function.
struct Function {
    what: artifact::Apart,
    round: Entry,
    multiply: Entry,
}

/// A step that can be one.
struct Own {
    /// Index into [`Apart::functions`].
    function: usize,
    /// Where its weights begin among all, if it has some.
    weights: u64,
    /// Whether it has the rows of the step before.
    same_rows: bool,
}

/// What a session has room for.
#[derive(Clone, Copy)]
pub(super) struct Room {
    /// Rows of a call.
    pub(super) rows: usize,
    /// Sequences, and positions of each.
    pub(super) slots: usize,
    pub(super) capacity: usize,
}

/// A session's memory for them.
pub(super) struct Rounded {
    /// Rows, or keys and behind them values.
    numbers: Memory,
    /// Where the second of what each function rounds begins.
    second: Vec<u64>,
    /// For each step two maps.
    maps: Memory,
}

impl Apart {
    /// Finds the entries of a device's code.
    pub(super) fn load(module: &Module, device: &Device) -> Result<Self> {
        let function = |what: &artifact::Apart| {
            let entry = |kind, grid| module.entry(&format!("{}_{kind}", device.functions[what.function]), grid);
            Ok(Function { what: *what, round: entry("rounds", what.round)?, multiply: entry("apart", what.multiply)? })
        };
        let functions = device.apart.iter().map(function).collect::<Result<Vec<_>>>()?;
        let own = |step: &artifact::Launch| {
            let function = device.apart.iter().position(|apart| apart.function == step.function)?;
            // A negative offset was refused when the artifact was read.
            let weights = match device.apart[function].what {
                Multiplied::Product { weights, .. } => step.words[weights] as u64,
                Multiplied::Attention { .. } => 0,
            };
            Some(Own { function, weights, same_rows: step.same_rows })
        };
        Ok(Self { functions, steps: device.steps.iter().map(own).collect() })
    }

    /// Whether a step is one in calls of so many rows.
    pub(super) fn takes(&self, step: usize, rows: usize) -> bool {
        self.own(step).is_some_and(|own| rows >= self.functions[own.function].what.from)
    }

    fn own(&self, step: usize) -> Option<&Own> {
        self.steps.get(step)?.as_ref()
    }

    /// Memory for calls that a session has room for, if any of them need it; `weights`: where all weights begin on the device.
    pub(super) fn memory(&self, gpu: &Arc<Gpu>, stream: &CudaStream, weights: u64, room: Room) -> Result<Option<Rounded>> {
        let used: Vec<_> = self.functions.iter().filter(|function| room.rows >= function.what.from).collect();
        if used.is_empty() {
            return Ok(None);
        }
        let most = used.iter().map(|function| sizes(&function.what, room).iter().sum()).max().unwrap_or(0);
        let numbers = Memory::new(gpu, most, &format!("rounded numbers of {} rows", room.rows))?;
        let second = self.functions.iter().map(|function| numbers.address() + sizes(&function.what, room)[0] as u64).collect();
        let rounded = Rounded { numbers, second, maps: Memory::new(gpu, 2 * MAP * self.steps.len(), "maps of weights")? };
        let maps = |step: &Option<Own>| match step {
            Some(own) if room.rows >= self.functions[own.function].what.from => self.maps(&rounded, own, weights, room),
            _ => Ok([[0; MAP]; 2]),
        };
        let made = self.steps.iter().map(maps).collect::<Result<Vec<_>>>()?;
        rounded.maps.write(stream, 0, made.as_flattened().as_flattened())?;
        Ok(Some(rounded))
    }

    /// What a step's multiplication reads.
    fn maps(&self, rounded: &Rounded, own: &Own, weights: u64, room: Room) -> Result<[[u8; MAP]; 2]> {
        let what = &self.functions[own.function].what;
        let first = rounded.numbers.address();
        Ok(match what.what {
            Multiplied::Product { depth, width, columns, .. } => [
                map(first, [depth, room.rows], [what.numbers, what.rows])?,
                map(weights + own.weights, [depth, width], [what.numbers, columns])?,
            ],
            Multiplied::Attention { groups, key, value, positions, .. } => [
                map(first, [key, room.slots * groups * room.capacity], [what.numbers, positions])?,
                map(rounded.second[own.function], [room.capacity, room.slots * groups * value], [what.numbers, value])?,
            ],
        })
    }

    /// Begins a step in a call of so many rows, whose words are at `words`; `known`: the step before it was begun here, too.
    ///
    /// # Safety
    /// As for `Program::launch`; the step is one in calls of so many rows, and `rounded` was made for at least so many.
    pub(super) unsafe fn launch(
        &self,
        stream: &CudaStream,
        (step, rows): (usize, usize),
        (call, words): (u64, u64),
        rounded: &Rounded,
        known: bool,
    ) -> Result<()> {
        let Some(own) = self.own(step) else { return Ok(()) };
        let function = &self.functions[own.function];
        let maps = rounded.maps.address() + (2 * step * MAP) as u64;
        let to = [rounded.numbers.address(), rounded.second[own.function]];
        let to = if matches!(function.what.what, Multiplied::Product { .. }) { &to[..1] } else { &to };
        // SAFETY: the parameters are those of the entries; what they point to is promised by the caller, or lives as long as `rounded`.
        unsafe {
            if !(known && own.same_rows) {
                begin(stream, &function.round, rows, &[&[call, words], to].concat())?;
            }
            begin(stream, &function.multiply, function.what.tiles(rows), &[call, words, maps, maps + MAP as u64])
        }
    }
}

/// Bytes of both parts that a function rounds.
fn sizes(what: &artifact::Apart, room: Room) -> [usize; 2] {
    let bytes = |numbers: [usize; 3]| numbers.into_iter().fold(2, usize::saturating_mul).next_multiple_of(ALIGN);
    match what.what {
        Multiplied::Product { depth, .. } => [bytes([room.rows, depth, 1]), 0],
        Multiplied::Attention { groups, key, value, .. } => {
            [key, value].map(|size| bytes([room.slots * room.capacity, groups, size]))
        }
    }
}

/// Begins a launch of at most so many blocks.
///
/// # Safety
/// The parameters are the entry's, and what they point to lives until the stream has done it.
unsafe fn begin(stream: &CudaStream, entry: &Entry, blocks: usize, parameters: &[u64]) -> Result<()> {
    let mut pointers: Vec<*mut c_void> = parameters.iter().map(|at| std::ptr::from_ref(at).cast_mut().cast()).collect();
    let (blocks, threads) = ((entry.blocks.min(blocks.max(1) as u32), 1, 1), (entry.threads, 1, 1));
    // SAFETY: promised by the caller; the driver copies the parameters before it returns.
    unsafe { result::launch_kernel(entry.function, blocks, threads, entry.shared_bytes, stream.cu_stream(), &mut pointers) }
        .said("launch")
}

/// The map of lines of bfloat16 numbers from an address on, one behind the other (numbers of a line, and how many lines), which come in
/// swizzled boxes. What is not there is zero.
fn map(address: u64, sizes: [usize; 2], boxed: [usize; 2]) -> Result<[u8; MAP]> {
    let (sizes, stride) = (sizes.map(|size| size as u64), [2 * sizes[0] as u64]);
    let boxed = boxed.map(|size| size as u32);
    let mut map = sys::CUtensorMap { opaque: [0; 16] };
    // SAFETY: writes the map; all tables have as many entries as there are axes, or one less.
    let made = unsafe {
        sys::cuTensorMapEncodeTiled(
            &raw mut map,
            Type::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
            2,
            std::ptr::without_provenance_mut(address as usize),
            sizes.as_ptr(),
            stride.as_ptr(),
            boxed.as_ptr(),
            [1; 2].as_ptr(),
            Interleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
            Swizzle::CU_TENSOR_MAP_SWIZZLE_128B,
            Promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
            Fill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        )
    };
    made.result().said("describe weights to the copy engine")?;
    let mut bytes = [0; MAP];
    bytes.chunks_exact_mut(8).zip(map.opaque).for_each(|(to, word)| to.copy_from_slice(&word.to_ne_bytes()));
    Ok(bytes)
}
