//! Device memory, pinned host memory, and copies between them.

use super::gpu::{Gpu, Said};
use crate::buffer::Plain;
use crate::error::{Error, Result};
use cudarc::driver::{CudaStream, result, sys};
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::Arc;

/// Bytes on the device, aligned to 256, zero at first.
pub(crate) struct Memory {
    gpu: Arc<Gpu>,
    address: u64,
    bytes: usize,
}

impl Memory {
    /// `what` names the memory in the error.
    pub(super) fn new(gpu: &Arc<Gpu>, bytes: usize, what: &str) -> Result<Self> {
        gpu.bind()?;
        let size = bytes.max(1);
        // SAFETY: the context is bound; the size is not zero.
        let Ok(address) = (unsafe { result::malloc_sync(size) }) else {
            let (free, total) = gpu.memory()?;
            return Err(Error::GpuMemory { what: what.to_string(), bytes, free, total });
        };
        let memory = Self { gpu: Arc::clone(gpu), address, bytes };
        // SAFETY: just allocated with this size.
        unsafe { result::memset_d8_sync(address, 0, size) }.said("clear memory")?;
        gpu.context.synchronize().said("clear memory")?;
        Ok(memory)
    }

    /// Where it is on the device.
    pub(super) fn address(&self) -> u64 {
        self.address
    }

    fn at(&self, bytes: Range<usize>) -> Result<u64> {
        if bytes.start > bytes.end || bytes.end > self.bytes {
            return Err(Error::Bug { what: format!("bytes {bytes:?} of {} bytes of device memory", self.bytes) });
        }
        Ok(self.address + bytes.start as u64)
    }

    /// Copies from here, after all work of the stream, and waits for it.
    pub(super) fn read(&self, stream: &CudaStream, from: usize, into: &mut [u8]) -> Result<()> {
        let address = self.at(from..from + into.len())?;
        self.gpu.bind()?;
        if !into.is_empty() {
            // SAFETY: the source is inside this memory, and `into` lives until the copy is done, below.
            unsafe { result::memcpy_dtoh_async(into, address, stream.cu_stream()) }.said("copy from the GPU")?;
        }
        stream.synchronize().said("copy from the GPU")
    }

    /// Copies to here, after all work of the stream, and waits for it.
    pub(super) fn write(&self, stream: &CudaStream, to: usize, from: &[u8]) -> Result<()> {
        let address = self.at(to..to + from.len())?;
        self.gpu.bind()?;
        if !from.is_empty() {
            // SAFETY: the target is inside this memory, and `from` lives until the copy is done, below.
            unsafe { result::memcpy_htod_async(address, from, stream.cu_stream()) }.said("copy to the GPU")?;
        }
        stream.synchronize().said("copy to the GPU")
    }

    /// Begins to write zeros all over it.
    pub(super) fn clear(&self, stream: &CudaStream) -> Result<()> {
        self.gpu.bind()?;
        // SAFETY: all of this memory, which is freed only after the work that uses it.
        unsafe { result::memset_d8_async(self.address, 0, self.bytes, stream.cu_stream()) }.said("clear memory")
    }

    /// Begins to write an element of 1, 2 or 4 bytes again and again.
    pub(super) fn fill(&self, stream: &CudaStream, bytes: Range<usize>, element: &[u8]) -> Result<()> {
        let (count, address) = (bytes.len() / element.len().max(1), self.at(bytes)?);
        self.gpu.bind()?;
        if count == 0 {
            return Ok(());
        }
        let stream = stream.cu_stream();
        // SAFETY: as many elements of that size are inside this memory, which is freed only after the work that uses it.
        let filled = unsafe {
            match *element {
                [a] => sys::cuMemsetD8Async(address, a, count, stream),
                [a, b] => sys::cuMemsetD16Async(address, u16::from_le_bytes([a, b]), count, stream),
                [a, b, c, d] => sys::cuMemsetD32Async(address, u32::from_le_bytes([a, b, c, d]), count, stream),
                _ => return Err(Error::Bug { what: format!("elements of {} bytes", element.len()) }),
            }
        };
        filled.result().said("fill memory")
    }

    /// Begins a copy of all of `from`, which is no larger, to here.
    pub(super) fn copy(&self, stream: &CudaStream, from: &Self) -> Result<()> {
        let (to, from, count) = (self.at(0..from.bytes)?, from.address, from.bytes);
        self.gpu.bind()?;
        // SAFETY: inside both memories, which are freed only after the work that uses them.
        unsafe { result::memcpy_dtod_async(to, from, count, stream.cu_stream()) }.said("copy on the GPU")
    }

    /// Begins a copy of the first `count` bytes of `from` to here.
    ///
    /// # Safety
    /// `from` lives, and is not written, until the stream has done it.
    pub(super) unsafe fn send(&self, stream: &CudaStream, to: usize, from: &Pinned<u8>, count: usize) -> Result<()> {
        let address = self.at(to..to + count)?;
        // SAFETY: the target is inside this memory; the source is promised by the caller.
        unsafe { result::memcpy_htod_async(address, &from.slice()[..count], stream.cu_stream()) }.said("copy to the GPU")
    }

    /// Begins a copy of the first `count` numbers here to `into`.
    ///
    /// # Safety
    /// `into` lives, and is not touched, until the stream has done it.
    pub(super) unsafe fn fetch(&self, stream: &CudaStream, into: &mut Pinned<f32>, count: usize) -> Result<()> {
        let address = self.at(0..count * size_of::<f32>())?;
        // SAFETY: the source is inside this memory; the target is promised by the caller.
        unsafe { result::memcpy_dtoh_async(&mut into.slice_mut()[..count], address, stream.cu_stream()) }
            .said("copy from the GPU")
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // There is nobody to tell; the process's end frees it in any case.
        if self.gpu.bind().is_ok() {
            // SAFETY: allocated in `new`; freeing waits for work that uses it.
            let _ = unsafe { result::memory_free(self.address) };
        }
    }
}

/// Host memory that the device copies from and to without a detour; zero at first.
pub(super) struct Pinned<T> {
    gpu: Arc<Gpu>,
    start: *mut T,
    length: usize,
    of: PhantomData<T>,
}

// SAFETY: it owns its memory, which belongs to no thread.
unsafe impl<T: Plain> Send for Pinned<T> {}
// SAFETY: shared references only read.
unsafe impl<T: Plain> Sync for Pinned<T> {}

impl<T: Plain> Pinned<T> {
    /// `what` names it in the error.
    pub(super) fn new(gpu: &Arc<Gpu>, length: usize, what: &str) -> Result<Self> {
        gpu.bind()?;
        let bytes = length.max(1).saturating_mul(size_of::<T>());
        let failed = |_| Error::Memory { what: what.to_string(), bytes, source: std::io::ErrorKind::OutOfMemory.into() };
        // SAFETY: the context is bound; the size is not zero.
        let start = unsafe { result::malloc_host(bytes, 0) }.map_err(failed)?.cast::<T>();
        // SAFETY: just allocated with this size; pinned memory is aligned to a page.
        unsafe { start.cast::<u8>().write_bytes(0, bytes) };
        Ok(Self { gpu: Arc::clone(gpu), start, length, of: PhantomData })
    }

    pub(super) fn slice(&self) -> &[T] {
        // SAFETY: `length` elements, initialised in `new`, and `T: Plain`.
        unsafe { std::slice::from_raw_parts(self.start, self.length) }
    }

    pub(super) fn slice_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `slice`; borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.length) }
    }
}

impl<T> Drop for Pinned<T> {
    fn drop(&mut self) {
        if self.gpu.bind().is_ok() {
            // SAFETY: allocated in `new`.
            let _ = unsafe { result::free_host(self.start.cast()) };
        }
    }
}
