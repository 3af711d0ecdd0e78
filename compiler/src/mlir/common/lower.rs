//! Modules: verification, text, and the passes down to the LLVM dialect.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Once;

use melior::dialect::DialectRegistry;
use melior::ir::operation::{OperationLike, OperationPrintingFlags};
use melior::ir::{BlockRef, Location};
use melior::pass::PassManager;
use melior::utility::{parse_pass_pipeline, register_all_dialects, register_all_llvm_translations, register_all_passes};

use crate::error::Error;

/// From the dialects of the emitter to LLVM's.
const PASSES: &str = "builtin.module(convert-nvvm-to-llvm,convert-scf-to-cf,convert-vector-to-llvm,convert-arith-to-llvm,convert-cf-to-llvm,\
                      reconcile-unrealized-casts)";

/// Owns everything that MLIR interns, and remembers what it complained about.
pub struct Context {
    raw: melior::Context,
    complaints: Rc<RefCell<Vec<String>>>,
}

impl Default for Context {
    fn default() -> Self {
        Self::new()
    }
}

impl Context {
    /// A context with the dialects of the emitter.
    pub fn new() -> Context {
        static PASSES_REGISTERED: Once = Once::new();
        PASSES_REGISTERED.call_once(register_all_passes);
        let registry = DialectRegistry::new();
        register_all_dialects(&registry);
        let raw = melior::Context::new_with_registry(&registry, false);
        register_all_llvm_translations(&raw);
        for dialect in ["arith", "cf", "llvm", "nvvm", "scf", "vector"] {
            raw.get_or_load_dialect(dialect);
        }
        let complaints = Rc::new(RefCell::new(Vec::new()));
        let heard = Rc::clone(&complaints);
        raw.attach_diagnostic_handler(move |diagnostic| {
            heard.borrow_mut().push(diagnostic.to_string());
            true
        });
        Context { raw, complaints }
    }

    pub(super) fn raw(&self) -> &melior::Context {
        &self.raw
    }

    fn bug(&self, what: &str) -> Error {
        let complaints = std::mem::take(&mut *self.complaints.borrow_mut());
        Error::bug("mlir", format!("{what}: {}", complaints.join("; ")))
    }
}

/// A module that is being built or has been verified.
pub struct Module<'c> {
    context: &'c Context,
    raw: melior::ir::Module<'c>,
}

impl<'c> Module<'c> {
    pub(super) fn new(context: &'c Context) -> Self {
        Module { context, raw: melior::ir::Module::new(Location::unknown(context.raw())) }
    }

    pub(super) fn body(&self) -> BlockRef<'c, '_> {
        self.raw.body()
    }

    pub(super) fn verified(self) -> Result<Self, Error> {
        match self.raw.as_operation().verify() {
            true => Ok(self),
            false => Err(self.context.bug("the module does not verify")),
        }
    }

    /// The module as text.
    pub fn text(&self) -> String {
        let flags = OperationPrintingFlags::new();
        self.raw.as_operation().to_string_with_flags(flags).unwrap_or_default()
    }

    /// The module in LLVM's dialect alone.
    pub fn lower(mut self) -> Result<Lowered<'c>, Error> {
        let passes = PassManager::new(self.context.raw());
        if parse_pass_pipeline(passes.as_operation_pass_manager(), PASSES).is_err() {
            return Err(self.context.bug("the pass pipeline does not parse"));
        }
        match passes.run(&mut self.raw) {
            Ok(()) => Ok(Lowered { raw: self.raw }),
            Err(_) => Err(self.context.bug("a pass failed")),
        }
    }
}

/// A module ready for translation to LLVM IR.
pub struct Lowered<'c> {
    raw: melior::ir::Module<'c>,
}

impl Lowered<'_> {
    /// The module as text.
    pub fn text(&self) -> String {
        self.raw.as_operation().to_string()
    }

    /// For the hand-over to LLVM.
    pub(crate) fn operation(&self) -> mlir_sys::MlirOperation {
        self.raw.as_operation().to_raw()
    }
}
