//! The GPU of this process, and what its driver says when something fails.

use crate::error::{Error, Result};
use cudarc::driver::sys::{self, CUdevice_attribute as Attribute, CUresult as Code};
use cudarc::driver::{CudaContext, CudaStream, DriverError};
use std::sync::Arc;

/// The oldest CUDA version whose driver has all that is called here, as the driver counts.
const OLDEST: i32 = 12_000;

/// A device, opened.
pub(crate) struct Gpu {
    pub(super) context: Arc<CudaContext>,
    /// As the driver calls it.
    pub(crate) name: String,
    /// Compute capability: 9.0 is `(9, 0)`.
    pub(super) capability: (u32, u32),
    pub(super) multiprocessors: usize,
}

impl Gpu {
    /// Opens the first device that the driver shows (`CUDA_VISIBLE_DEVICES` chooses).
    ///
    /// # Errors
    /// No driver, one too old, no device, a device that cannot launch cooperatively.
    pub(crate) fn open() -> Result<Arc<Self>> {
        // SAFETY: loads the driver's library as every CUDA program does; its initialisers are the driver's own.
        if !unsafe { sys::is_culib_present() } {
            return Err(failure("no NVIDIA driver on this machine (libcuda)", NO_DRIVER));
        }
        let version = driver_version()?;
        if version < OLDEST {
            let what = format!("the NVIDIA driver is for CUDA {}; {} is the oldest that works", cuda(version), cuda(OLDEST));
            return Err(failure(what, "update the NVIDIA driver"));
        }
        let context = CudaContext::new(0).said("open the GPU")?;
        let number = |attribute| context.attribute(attribute).said("ask the GPU what it is");
        if number(Attribute::CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH)? == 0 {
            return Err(failure("this GPU cannot launch cooperatively", "use a GPU of compute capability 8.0 or later"));
        }
        let multiprocessors = number(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?.max(1) as usize;
        let (major, minor) = context.compute_capability().said("ask the GPU what it is")?;
        let name = context.name().said("ask the GPU what it is")?;
        Ok(Arc::new(Self { context, name, capability: (major.unsigned_abs(), minor.unsigned_abs()), multiprocessors }))
    }

    /// A stream of its own; work of several streams may overlap.
    pub(super) fn stream(&self) -> Result<Arc<CudaStream>> {
        self.context.new_stream().said("create a stream")
    }

    /// The context of the calling thread is this device's from here on.
    pub(super) fn bind(&self) -> Result<()> {
        self.context.bind_to_thread().said("use the GPU")
    }

    /// Free and total bytes of memory.
    pub(super) fn memory(&self) -> Result<(usize, usize)> {
        self.context.mem_get_info().said("ask for the GPU's memory")
    }
}

/// A GPU that code can be built for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// As its driver calls it.
    pub name: String,
    /// Compute capability, `(9, 0)`.
    pub capability: (u32, u32),
    /// How many blocks of threads run side by side, if each fills a multiprocessor.
    pub multiprocessors: usize,
}

/// The GPU that artifacts would run on here.
///
/// # Errors
/// No driver, one too old, no device, a device that cannot launch cooperatively.
pub fn gpu_at_hand() -> Result<Found> {
    let gpu = Gpu::open()?;
    Ok(Found { name: gpu.name.clone(), capability: gpu.capability, multiprocessors: gpu.multiprocessors })
}

const NO_DRIVER: &str = "install the NVIDIA driver, or build for the processor: `braid build --target cpu`";

fn driver_version() -> Result<i32> {
    let mut version = 0;
    // SAFETY: writes one number.
    unsafe { sys::cuDriverGetVersion(&raw mut version) }.result().said("ask for the driver's version")?;
    Ok(version)
}

/// 12080 is CUDA 12.8.
fn cuda(version: i32) -> String {
    format!("{}.{}", version / 1000, version % 1000 / 10)
}

/// An error of the GPU or its driver.
pub(super) fn failure(what: impl ToString, hint: &'static str) -> Error {
    Error::Gpu { what: what.to_string(), hint }
}

/// Results of the driver as ours.
pub(super) trait Said<T> {
    /// `doing` completes "cannot".
    fn said(self, doing: &str) -> Result<T>;
}

impl<T> Said<T> for Result<T, DriverError> {
    fn said(self, doing: &str) -> Result<T> {
        self.map_err(|error| failed(doing, error))
    }
}

fn failed(doing: &str, error: DriverError) -> Error {
    let text = error.error_string().map_or(String::new(), |text| format!(": {}", text.to_string_lossy()));
    let what = format!("cannot {doing}: {:?}{text}", error.0);
    match error.0 {
        Code::CUDA_ERROR_STUB_LIBRARY => failure("libcuda is only a stub: this machine has no NVIDIA driver", NO_DRIVER),
        Code::CUDA_ERROR_NO_DEVICE => failure("the NVIDIA driver finds no GPU", "does `CUDA_VISIBLE_DEVICES` hide it?"),
        Code::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH => {
            failure(what, "the driver's library and its kernel module differ: restart the machine")
        }
        Code::CUDA_ERROR_UNSUPPORTED_PTX_VERSION => {
            failure(what, "the artifact's PTX is newer than the driver: update the driver")
        }
        // What only wrong code does.
        Code::CUDA_ERROR_ILLEGAL_ADDRESS
        | Code::CUDA_ERROR_MISALIGNED_ADDRESS
        | Code::CUDA_ERROR_ILLEGAL_INSTRUCTION
        | Code::CUDA_ERROR_INVALID_ADDRESS_SPACE
        | Code::CUDA_ERROR_INVALID_PC
        | Code::CUDA_ERROR_HARDWARE_STACK_ERROR
        | Code::CUDA_ERROR_ASSERT
        | Code::CUDA_ERROR_LAUNCH_FAILED
        | Code::CUDA_ERROR_INVALID_VALUE
        | Code::CUDA_ERROR_INVALID_PTX
        | Code::CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE => Error::Bug { what },
        _ => failure(what, ""),
    }
}
