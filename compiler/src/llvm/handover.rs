//! The one place where a module passes from MLIR's C interface to LLVM's.

use inkwell::context::{AsContextRef, Context};
use inkwell::module::Module;

use crate::error::Error;
use crate::mlir::common::Lowered;

/// Translates a module to LLVM IR that lives in `context`.
pub(super) fn translate<'l>(lowered: &Lowered<'_>, context: &'l Context) -> Result<Module<'l>, Error> {
    // SAFETY: the operation is alive and in LLVM's dialect, the context is alive; both libraries are the same LLVM.
    let raw = unsafe { mlir_sys::mlirTranslateModuleToLLVMIR(lowered.operation(), context.as_ctx_ref().cast()) };
    if raw.is_null() {
        return Err(Error::bug("llvm", "the module could not be translated to LLVM IR"));
    }
    // SAFETY: the module was just made, is owned by nobody else, and lives in `context`.
    Ok(unsafe { Module::new(raw.cast()) })
}
