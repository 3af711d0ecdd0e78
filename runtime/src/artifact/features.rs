//! Which processor the code needs, and which one this is.

use super::{ArtifactError, Manifest};

/// `(name in manifests, present)`: names as LLVM and Rust spell them. A name that is not listed counts as missing.
macro_rules! detect {
    ($probe:ident: $($names:literal => $feature:tt),+ $(,)?) => { vec![$(($names, std::arch::$probe!($feature))),+] };
}

/// Everything that can be asked of an x86-64 processor; the first names are those that all of them have.
#[cfg(target_arch = "x86_64")]
fn table() -> Vec<(&'static str, bool)> {
    let mut table: Vec<_> = ["64bit", "x87", "mmx", "cmov", "cx8", "sahf"].map(|name| (name, true)).to_vec();
    table.extend(detect!(is_x86_feature_detected:
        "fxsr" => "fxsr", "sse" => "sse", "sse2" => "sse2", "sse3" => "sse3", "ssse3" => "ssse3", "sse4.1" => "sse4.1",
        "sse4.2" => "sse4.2", "crc32" => "sse4.2", "popcnt" => "popcnt", "cx16" => "cmpxchg16b", "cmpxchg16b" => "cmpxchg16b",
        "xsave" => "xsave", "avx" => "avx", "avx2" => "avx2", "fma" => "fma", "f16c" => "f16c", "bmi" => "bmi1",
        "bmi1" => "bmi1", "bmi2" => "bmi2", "lzcnt" => "lzcnt", "movbe" => "movbe", "avxvnni" => "avxvnni",
        "avx512f" => "avx512f", "avx512bw" => "avx512bw", "avx512cd" => "avx512cd", "avx512dq" => "avx512dq",
        "avx512vl" => "avx512vl", "avx512vbmi" => "avx512vbmi", "avx512vbmi2" => "avx512vbmi2", "avx512ifma" => "avx512ifma",
        "avx512bitalg" => "avx512bitalg", "avx512vpopcntdq" => "avx512vpopcntdq", "avx512vnni" => "avx512vnni",
        "avx512bf16" => "avx512bf16", "avx512fp16" => "avx512fp16", "gfni" => "gfni", "vaes" => "vaes",
        "vpclmulqdq" => "vpclmulqdq",
    ));
    table
}

/// Everything that can be asked of an aarch64 processor.
#[cfg(target_arch = "aarch64")]
fn table() -> Vec<(&'static str, bool)> {
    detect!(is_aarch64_feature_detected:
        "neon" => "neon", "fp16" => "fp16", "fullfp16" => "fp16", "dotprod" => "dotprod", "bf16" => "bf16", "i8mm" => "i8mm",
        "sve" => "sve", "sve2" => "sve2", "lse" => "lse", "rdm" => "rdm",
    )
}

/// Another processor: nothing is known.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn table() -> Vec<(&'static str, bool)> {
    Vec::new()
}

/// The features of this machine's processor, by all names that a manifest may use for them.
pub fn host_features() -> Vec<&'static str> {
    table().into_iter().filter_map(|(name, present)| present.then_some(name)).collect()
}

/// The first of `wanted` that this machine's processor lacks or that is not known here.
pub fn missing_feature(wanted: &[String]) -> Option<&String> {
    let host = host_features();
    wanted.iter().find(|name| !host.contains(&name.trim_start_matches('+')))
}

impl Manifest {
    /// Whether `library` (this manifest's code) can run on this machine's processor. Code for a GPU runs on any machine that has one.
    pub fn check_processor(&self, library: &[u8]) -> Result<(), ArtifactError> {
        if self.device.is_some() {
            return Ok(());
        }
        let needs = machine(library);
        if needs != std::env::consts::ARCH {
            return Err(ArtifactError::Machine { needs, has: std::env::consts::ARCH });
        }
        match missing_feature(&self.features) {
            Some(feature) => Err(ArtifactError::Feature { target: self.target.clone(), feature: feature.clone() }),
            None => Ok(()),
        }
    }
}

/// The processor family in an ELF header (`e_machine`), as `std::env::consts::ARCH` spells it.
fn machine(library: &[u8]) -> String {
    match library.get(18..20) {
        Some(&[0x3e, 0]) => "x86_64".into(),
        Some(&[0xb7, 0]) => "aarch64".into(),
        Some(&[0xf3, 0]) => "riscv64".into(),
        Some(&[low, high]) => format!("ELF machine {}", u16::from_le_bytes([low, high])),
        _ => "no known processor".into(),
    }
}
