//! Artifacts that were built before, by a hash of everything that they are made from.

use super::args::CodeArgs;
use super::spec::Spec;
use braid_compiler::target::Target;
use braid_runtime::weights::cache::folder;
use std::path::PathBuf;
use std::time::UNIX_EPOCH;

/// Where the artifact of a spec lies or would lie; `None` where there is no place for it.
pub fn path(spec: &Spec, code: &CodeArgs, targets: &[Target]) -> Option<PathBuf> {
    let mut hash = Hash::default();
    hash.add(&[code.dtype as u8, u8::from(code.outputs)]);
    hash.add(format!("{:?}", code.chunk.0).as_bytes());
    for target in targets {
        hash.add(target.name.as_bytes());
        hash.add(format!("{:?}", target.schedule).as_bytes());
    }
    hash.add(compiler().as_bytes());
    hash.add(spec.model.name.as_bytes());
    hash.add(format!("{:?}", spec.model.constants).as_bytes());
    hash.add(format!("{:?}", spec.model.params.iter().map(|param| param.stored).collect::<Vec<_>>()).as_bytes());
    for source in &spec.sources.files {
        hash.add(source.path.as_bytes());
        hash.add(source.text.as_bytes());
    }
    if let Some((_, map)) = &spec.weights {
        hash.add(map.as_bytes());
    }
    Some(folder()?.join(format!("{}-{}.braidart", spec.model.name, hash.text())))
}

/// This very program: another build of the compiler makes other code.
fn compiler() -> String {
    let own = std::env::current_exe().and_then(std::fs::metadata).ok();
    let changed = own.as_ref().and_then(|m| m.modified().ok()).and_then(|t| t.duration_since(UNIX_EPOCH).ok());
    format!("{} {} {changed:?}", env!("CARGO_PKG_VERSION"), own.map_or(0, |m| m.len()))
}

/// FNV-1a over 128 bits.
struct Hash(u128);

impl Default for Hash {
    fn default() -> Self {
        Hash(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d)
    }
}

impl Hash {
    fn add(&mut self, bytes: &[u8]) {
        // The length keeps two neighbours from running into each other.
        for byte in (bytes.len() as u64).to_le_bytes().iter().chain(bytes) {
            self.0 = (self.0 ^ u128::from(*byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
        }
    }

    fn text(&self) -> String {
        format!("{:032x}", self.0)
    }
}
