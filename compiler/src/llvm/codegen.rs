//! Optimisation and code generation.

use std::sync::Once;

use inkwell::OptimizationLevel;
use inkwell::attributes::AttributeLoc;
use inkwell::context::Context;
use inkwell::module::Module;
use inkwell::passes::PassBuilderOptions;
use inkwell::targets::{
    FileType, InitializationConfig, RelocMode, Target as LlvmTarget, TargetMachine, TargetMachineOptions, TargetTriple,
};

use super::handover::translate;
use crate::error::Error;
use crate::mlir::common::Lowered;
use crate::target::Target;

/// What LLVM makes of a module.
pub struct Code {
    /// LLVM IR before optimisation.
    pub ir: String,
    /// LLVM IR after optimisation.
    pub optimized: String,
    /// Assembly text.
    pub assembly: String,
    /// An object file.
    pub object: Vec<u8>,
}

/// Compiles a module for `target`.
pub fn generate(lowered: &Lowered<'_>, target: &Target) -> Result<Code, Error> {
    let context = Context::create();
    let module = translate(lowered, &context)?;
    let machine = machine(target)?;
    module.set_triple(&machine.get_triple());
    module.set_data_layout(&machine.get_target_data().get_data_layout());
    if target.gpu.is_none() {
        mark_functions(&context, &module, target);
    }
    module.verify().map_err(|e| Error::bug("llvm", e.to_string()))?;
    let ir = module.print_to_string().to_string();
    let options = PassBuilderOptions::create();
    // Kernels are vectorised by the emitter; what LLVM would add are prologues and epilogues around loops that need none.
    options.set_loop_vectorization(false);
    options.set_loop_slp_vectorization(false);
    module.run_passes("default<O2>", &machine, options).map_err(|e| Error::bug("llvm", e.to_string()))?;
    let emit = |kind| {
        let buffer = machine.write_to_memory_buffer(&module, kind).map_err(|e| Error::bug("llvm", e.to_string()))?;
        Ok::<_, Error>(buffer.as_slice().to_vec())
    };
    // What a GPU's driver takes is text.
    let object = if target.gpu.is_some() { Vec::new() } else { emit(FileType::Object)? };
    let assembly = String::from_utf8_lossy(&emit(FileType::Assembly)?).trim_end_matches('\0').to_owned();
    Ok(Code { ir, optimized: module.print_to_string().to_string(), assembly, object })
}

fn machine(target: &Target) -> Result<TargetMachine, Error> {
    static INITIALIZED: Once = Once::new();
    INITIALIZED.call_once(|| {
        LlvmTarget::initialize_x86(&InitializationConfig::default());
        LlvmTarget::initialize_aarch64(&InitializationConfig::default());
        LlvmTarget::initialize_nvptx(&InitializationConfig::default());
    });
    let triple = TargetTriple::create(&target.triple);
    let llvm = LlvmTarget::from_triple(&triple).map_err(|e| Error::bug("llvm", e.to_string()))?;
    let options = TargetMachineOptions::new()
        .set_cpu(&target.cpu)
        .set_features(&target.llvm_features)
        .set_level(OptimizationLevel::Default)
        .set_reloc_mode(RelocMode::PIC);
    let machine = llvm.create_target_machine_from_options(&triple, options);
    machine.ok_or_else(|| Error::bug("llvm", format!("no target machine for `{}`", target.name)))
}

fn mark_functions(context: &Context, module: &Module<'_>, target: &Target) {
    let bits = (8 * target.vector_bytes).to_string();
    let marks = [
        ("target-cpu", target.cpu.as_str()),
        ("target-features", target.llvm_features.as_str()),
        ("prefer-vector-width", bits.as_str()),
    ];
    for function in module.get_functions().filter(|f| f.count_basic_blocks() > 0) {
        for (key, value) in marks {
            function.add_attribute(AttributeLoc::Function, context.create_string_attribute(key, value));
        }
    }
}
