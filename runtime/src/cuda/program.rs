//! PTX, translated by the driver for its device, and launches of its entries.

use super::apart::{Apart, Rounded, Shape};
use super::gpu::{Gpu, Said, failure};
use super::memory::Memory;
use super::upload::upload;
use crate::artifact::{ALIGN, Device, Grid, Launch, STEP_WORDS, STREAM_WORDS};
use crate::error::{Error, Result};
use crate::load::{Phase, SYMBOLS};
use crate::progress::Progress;
use cudarc::driver::sys::{self, CUdevice_attribute as Attribute, CUfunction_attribute as Limit, CUjit_option as Jit};
use cudarc::driver::{CudaStream, result};
use std::ffi::{CString, c_void};
use std::ops::Range;
use std::sync::Arc;

/// Bytes of the driver's log that are kept.
const LOG: usize = 16 << 10;

/// Translated code with its tables, on a device.
pub(crate) struct Program {
    module: Module,
    entries: [Entry; 3],
    prepare: Table,
    forward: Table,
    /// The forward steps that calls of few rows have, and of how many at most; fewest first.
    few: [(usize, Table); 2],
    /// Forward steps that are launches of their own in calls of many rows.
    pub(super) apart: Apart,
    /// What all of them point into.
    _tables: Memory,
}

/// What is launched of an entry.
#[derive(Clone, Copy, Debug)]
pub(super) enum Launched {
    /// What a call needs.
    Call(Shape),
    /// One step of a call.
    Step(usize, Shape),
}

/// Where the steps of an entry are.
struct Table {
    rows: u64,
    streams: u64,
    count: usize,
    row_bytes: usize,
    /// How many streams there are before each step, and before their end.
    streams_before: Vec<usize>,
}

pub(super) struct Module {
    gpu: Arc<Gpu>,
    handle: sys::CUmodule,
}

/// An entry, and how it is launched.
pub(super) struct Entry {
    pub(super) function: sys::CUfunction,
    /// Most blocks that the device holds at a time.
    pub(super) blocks: u32,
    pub(super) threads: u32,
    pub(super) shared_bytes: u32,
}

/// What launches are told: device addresses of a call and of a barrier, and memory for steps that are launches of their own.
#[derive(Clone, Copy)]
pub(super) struct Told<'a> {
    pub(super) call: u64,
    pub(super) barrier: u64,
    pub(super) rounded: Option<&'a Rounded>,
}

// SAFETY: handles of the driver, which may be used from any thread; they are not changed after `load`.
unsafe impl Send for Program {}
// SAFETY: as above.
unsafe impl Sync for Program {}

impl Program {
    /// Opens the device and translates the code for it.
    ///
    /// # Errors
    /// Whatever [`Gpu::open`] says; a device of another kind; PTX that the driver refuses, with its log; grids that do not fit.
    pub(crate) fn load(device: &Device, ptx: &[u8]) -> Result<Self> {
        let gpu = Gpu::open()?;
        let capability = gpu.capability;
        if !device.runs_on(capability) {
            let what = format!("the code is for {}, but {} is sm_{}{}", device.arch, gpu.name, capability.0, capability.1);
            return Err(failure(what, "build it for this GPU, or for all later ones: `--target cuda:sm_80`"));
        }
        let module = Module::load(&gpu, ptx)?;
        let entry = |name, grid| module.entry(name, grid);
        let entries = [entry(SYMBOLS[0], device.prefill)?, entry(SYMBOLS[1], device.prefill)?, entry(SYMBOLS[2], device.step)?];
        let most = [1, device.step_rows];
        let [one, some] = most.map(|rows| device.needed(rows));
        let (tables, [prepare, forward, one, some]) = tables(&gpu, device, [&device.prepare, &device.steps, &one, &some])?;
        let few = [(most[0], one), (most[1], some)];
        let apart = Apart::load(&module, device)?;
        Ok(Self { module, entries, prepare, forward, few, apart, _tables: tables })
    }

    pub(crate) fn gpu(&self) -> &Arc<Gpu> {
        &self.module.gpu
    }

    /// Copies packed weights to the device.
    pub(crate) fn upload(&self, bytes: &[u8], progress: &dyn Progress) -> Result<Memory> {
        upload(&self.module.gpu, bytes, progress)
    }

    /// Most blocks of any launch.
    pub(super) fn blocks(&self) -> usize {
        self.entries.iter().map(|entry| entry.blocks as usize).max().unwrap_or(0)
    }

    /// All steps of an entry.
    pub(super) fn steps(&self, phase: Phase) -> Range<usize> {
        0..self.table(phase).count
    }

    fn table(&self, phase: Phase) -> &Table {
        if phase == Phase::Prepare { &self.prepare } else { &self.forward }
    }

    /// The entry and the table for calls of so many rows: few rows are a step, whatever they are for.
    fn call(&self, phase: Phase, rows: usize) -> (&Entry, &Table) {
        let few = self.few.iter().filter(|_| phase != Phase::Prepare).find(|(most, _)| rows <= *most);
        match few {
            Some((_, table)) => (&self.entries[Phase::Step as usize], table),
            None => (&self.entries[phase as usize], self.table(phase)),
        }
    }

    /// Begins steps: in calls of many rows those that are launches of their own, each in two; all others in one cooperative launch as far
    /// as they follow each other.
    ///
    /// # Safety
    /// `call` is the device address of a [`crate::artifact::Call`] whose device addresses are valid for the sizes that it and the
    /// manifest give, `barrier` that of two zero words, and `rounded` made by [`Apart::memory`] for at least as many rows as the call
    /// has, all until the stream has done it; a single step is one of the entry's.
    pub(super) unsafe fn launch(&self, phase: Phase, stream: &CudaStream, told: Told<'_>, part: Launched) -> Result<()> {
        let (entry, table, steps, shape) = match part {
            Launched::Step(step, shape) => (&self.entries[phase as usize], self.table(phase), step..step + 1, shape),
            Launched::Call(shape) => {
                let (entry, table) = self.call(phase, shape.rows);
                (entry, table, 0..table.count, shape)
            }
        };
        let rows = shape.rows;
        let rounded = told.rounded.filter(|_| std::ptr::eq(table, &self.forward) && phase == Phase::Prefill);
        let (mut begin, mut at) = (steps.start, steps.start);
        while at < steps.end {
            let taken = rounded.and_then(|rounded| Some((rounded, self.apart.takes(at, shape)?)));
            let Some((rounded, taken)) = taken else {
                at += 1;
                continue;
            };
            let words = table.rows + (at * table.row_bytes + 8 * STEP_WORDS) as u64;
            // SAFETY: promised by the caller.
            unsafe {
                self.walk(stream, told, entry, table, self.apart.busy(begin..at, rows))?;
                if taken > 0 {
                    self.apart.launch(stream, (at, shape), (told.call, words), rounded)?;
                }
            }
            at += taken.max(1);
            begin = at;
        }
        let rest = begin.min(steps.end)..steps.end;
        let rest = if rounded.is_some() { self.apart.busy(rest, rows) } else { rest };
        // SAFETY: promised by the caller.
        unsafe { self.walk(stream, told, entry, table, rest) }
    }

    /// Begins some steps of an entry, if there are any, in one cooperative launch.
    ///
    /// # Safety
    /// As for [`Program::launch`]; the steps are the table's.
    unsafe fn walk(&self, stream: &CudaStream, told: Told<'_>, entry: &Entry, table: &Table, steps: Range<usize>) -> Result<()> {
        if steps.is_empty() {
            return Ok(());
        }
        let mut rows = table.rows + (steps.start * table.row_bytes) as u64;
        let before = &table.streams_before[steps.start..=steps.end];
        let mut streams = table.streams + (before[0] * STREAM_WORDS * size_of::<u32>()) as u64;
        let mut length = (before[steps.len()] - before[0]) as i64;
        let (mut call, mut count, mut barrier) = (told.call, steps.len() as i64, told.barrier);
        let mut parameters: [*mut c_void; 6] = [
            (&raw mut call).cast(),
            (&raw mut rows).cast(),
            (&raw mut count).cast(),
            (&raw mut streams).cast(),
            (&raw mut length).cast(),
            (&raw mut barrier).cast(),
        ];
        let (blocks, threads) = ((entry.blocks, 1, 1), (entry.threads, 1, 1));
        // SAFETY: the entry's parameters are these six; what they point to is promised by the caller, the tables live as long as
        // this; the number of blocks is one that fits at a time.
        unsafe {
            result::launch_cooperative_kernel(
                entry.function,
                blocks,
                threads,
                entry.shared_bytes,
                stream.cu_stream(),
                &mut parameters,
            )
        }
        .said("launch")
    }
}

/// Copies the tables of some lists of steps to the device.
fn tables<const N: usize>(gpu: &Arc<Gpu>, device: &Device, lists: [&[Launch]; N]) -> Result<(Memory, [Table; N])> {
    let mut bytes: Vec<u8> = Vec::new();
    let mut add = |table: Vec<u8>| {
        let start = bytes.len().next_multiple_of(ALIGN);
        bytes.resize(start, 0);
        bytes.extend(table);
        start
    };
    let places = lists.map(|steps| {
        let rows = device.table(steps).into_iter().flat_map(i64::to_le_bytes).collect();
        let streams = Device::streams(steps).into_iter().flat_map(u32::to_le_bytes).collect();
        [add(rows), add(streams)]
    });
    let memory = Memory::new(gpu, bytes.len(), "the tables of steps")?;
    memory.write(&*gpu.stream()?, 0, &bytes)?;
    let at = |place: usize| memory.address() + place as u64;
    let table = |list: usize| {
        let [rows, streams] = places[list].map(at);
        let streams_before = counted(lists[list].iter().map(|step| usize::from(step.stream.is_some())));
        Table { rows, streams, count: lists[list].len(), row_bytes: 8 * device.row_words, streams_before }
    };
    let found = std::array::from_fn(table);
    Ok((memory, found))
}

/// Sums of the numbers before each, and of all.
fn counted(numbers: impl Iterator<Item = usize>) -> Vec<usize> {
    let sums = numbers.scan(0, |sum, number| {
        *sum += number;
        Some(*sum)
    });
    std::iter::once(0).chain(sums).collect()
}

impl Module {
    fn load(gpu: &Arc<Gpu>, ptx: &[u8]) -> Result<Self> {
        gpu.bind()?;
        let text = CString::new(ptx).map_err(|_| failure("the artifact's code is not PTX", "build it again"))?;
        let mut log = vec![0u8; LOG];
        let mut options = [Jit::CU_JIT_ERROR_LOG_BUFFER, Jit::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES];
        let mut values: [*mut c_void; 2] = [log.as_mut_ptr().cast(), std::ptr::without_provenance_mut(LOG)];
        let mut module = std::ptr::null_mut();
        // SAFETY: the text ends with a zero; the log has as many bytes as its option says; all live during the call.
        let loaded = unsafe {
            let (image, count) = (text.as_ptr().cast(), options.len() as u32);
            sys::cuModuleLoadDataEx(&raw mut module, image, count, options.as_mut_ptr(), values.as_mut_ptr()).result()
        };
        let log = String::from_utf8_lossy(&log);
        let log = log.trim_end_matches('\0').trim();
        let doing = if log.is_empty() { "translate the PTX".into() } else { format!("translate the PTX:\n{log}\n") };
        loaded.said(&doing).map(|()| Self { gpu: Arc::clone(gpu), handle: module })
    }

    pub(super) fn entry(&self, name: &str, grid: Grid) -> Result<Entry> {
        let gpu = &self.gpu;
        let finding = format!("find `{name}` in the PTX");
        let symbol = CString::new(name).map_err(|error| Error::Bug { what: error.to_string() })?;
        // SAFETY: the module is loaded.
        let function = unsafe { result::module::get_function(self.handle, symbol) }.said(&finding)?;
        let most = gpu.context.attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN);
        let most = most.said("ask the GPU what it is")?.max(0) as usize;
        if grid.shared_bytes > most {
            let what =
                format!("`{name}` needs {} bytes of shared memory a block, but {} has {most}", grid.shared_bytes, gpu.name);
            return Err(failure(what, "build it for this GPU, or for all later ones: `--target cuda:sm_80`"));
        }
        let bytes = grid.shared_bytes as i32;
        // SAFETY: the function is of a loaded module.
        unsafe {
            let limit = Limit::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            result::function::set_function_attribute(function, limit, bytes)
        }
        .said("ask for shared memory")?;
        // SAFETY: as above.
        let fit =
            unsafe { result::occupancy::max_active_block_per_multiprocessor(function, grid.threads as i32, grid.shared_bytes) }
                .said("ask how many blocks fit")?
                .max(0) as usize;
        if fit == 0 {
            let what = format!("a block of `{name}` ({} threads) does not fit on a multiprocessor of {}", grid.threads, gpu.name);
            return Err(failure(what, "build it for this GPU, or for all later ones: `--target cuda:sm_80`"));
        }
        let blocks = (fit.min(grid.blocks) * gpu.multiprocessors) as u32;
        Ok(Entry { function, blocks, threads: grid.threads as u32, shared_bytes: grid.shared_bytes as u32 })
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        if self.gpu.bind().is_ok() {
            // SAFETY: loaded in `load`; engines that launch from it hold its program.
            let _ = unsafe { result::module::unload(self.handle) };
        }
    }
}
