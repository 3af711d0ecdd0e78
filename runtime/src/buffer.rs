//! Large zeroed memory: aligned, committed by the system as it is touched, in huge pages where the system gives them.

use crate::artifact::ALIGN;
use crate::error::{Error, Result};
use memmap2::MmapMut;
use std::marker::PhantomData;

/// Types for which all-zero bytes are a value and every bit pattern is one.
///
/// # Safety
/// The type must have no padding that matters, no invalid bit patterns and no drop glue.
pub(crate) unsafe trait Plain: Copy + Send + Sync + 'static {}
// SAFETY: plain numbers.
unsafe impl Plain for u8 {}
// SAFETY: plain numbers.
unsafe impl Plain for i32 {}
// SAFETY: plain numbers.
unsafe impl Plain for f32 {}
// SAFETY: `i32`s.
unsafe impl Plain for crate::artifact::Segment {}

/// `[T]` on the heap, aligned to a page (hence to [`ALIGN`]), zero at first.
pub(crate) struct Buffer<T> {
    map: MmapMut,
    length: usize,
    of: PhantomData<T>,
}

/// From here on huge pages pay.
const HUGE: usize = 4 << 20;

impl<T: Plain> Buffer<T> {
    /// `what` names the buffer in the error.
    pub(crate) fn new(length: usize, what: impl ToString) -> Result<Self> {
        let bytes = length.checked_mul(size_of::<T>()).filter(|bytes| isize::try_from(*bytes).is_ok());
        let failed = |source| Error::Memory { what: what.to_string(), bytes: bytes.unwrap_or(usize::MAX), source };
        let bytes = bytes.ok_or_else(|| failed(std::io::ErrorKind::OutOfMemory.into()))?;
        let map = MmapMut::map_anon(bytes.max(ALIGN)).map_err(failed)?;
        #[cfg(target_os = "linux")]
        if bytes >= HUGE {
            // Only advice: without it everything works, more slowly.
            let _ = map.advise(memmap2::Advice::HugePage);
        }
        Ok(Self { map, length, of: PhantomData })
    }

    pub(crate) fn slice(&self) -> &[T] {
        // SAFETY: the map is at least `length` elements long, page-aligned, initialised (zero), and `T: Plain`.
        unsafe { std::slice::from_raw_parts(self.map.as_ptr().cast(), self.length) }
    }

    pub(crate) fn slice_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `slice`; the map is ours alone.
        unsafe { std::slice::from_raw_parts_mut(self.map.as_mut_ptr().cast(), self.length) }
    }

    /// The first `count` elements as bytes.
    pub(crate) fn bytes(&self, count: usize) -> &[u8] {
        let first = &self.slice()[..count];
        // SAFETY: `T: Plain` has no padding that matters; the bytes are those of the slice.
        unsafe { std::slice::from_raw_parts(first.as_ptr().cast(), size_of_val(first)) }
    }

    pub(crate) fn pointer(&self) -> *const T {
        self.map.as_ptr().cast()
    }

    pub(crate) fn pointer_mut(&mut self) -> *mut T {
        self.map.as_mut_ptr().cast()
    }
}
