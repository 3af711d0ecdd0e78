//! Tests of the whole: one binary, so that LLVM is linked once.

#[cfg(test)]
mod apart;
#[cfg(test)]
mod assembled;
#[cfg(test)]
mod attention;
pub mod build;
#[cfg(test)]
mod caches;
#[cfg(test)]
mod cli;
#[cfg(test)]
mod columns;
#[cfg(test)]
mod conversion;
#[cfg(test)]
mod cross;
#[cfg(test)]
mod diffusion;
#[cfg(test)]
mod errors;
#[cfg(test)]
mod few_bits;
#[cfg(test)]
mod fusion;
#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod gguf;
#[cfg(test)]
mod gpu;
#[cfg(test)]
mod heads;
#[cfg(test)]
mod hybrids;
#[cfg(test)]
mod images;
#[cfg(test)]
mod inputs;
#[cfg(test)]
mod inspecting;
#[cfg(test)]
mod joined;
#[cfg(test)]
mod kernels;
#[cfg(test)]
mod language;
#[cfg(test)]
mod library;
#[cfg(test)]
mod likelihood;
#[cfg(test)]
mod linearised;
#[cfg(test)]
mod losses;
#[cfg(test)]
mod mixed_precision;
#[cfg(test)]
mod modalities;
#[cfg(test)]
mod models;
#[cfg(test)]
mod narrow;
#[cfg(test)]
mod native;
#[cfg(test)]
mod native_sparse;
#[cfg(test)]
mod policies;
#[cfg(test)]
mod prompts;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod ptx;
#[cfg(test)]
mod quantised;
#[cfg(test)]
mod random;
#[cfg(test)]
mod ready;
#[cfg(test)]
mod recurrences;
pub mod reference;
#[cfg(test)]
mod relative;
#[cfg(test)]
mod rewriting;
#[cfg(test)]
mod routing;
#[cfg(test)]
mod runtime;
#[cfg(test)]
mod selection;
#[cfg(test)]
mod snapshots;
#[cfg(test)]
mod sounds;
#[cfg(test)]
mod sources;
#[cfg(test)]
mod systems;
#[cfg(test)]
mod test_time;
#[cfg(test)]
mod tidy;
