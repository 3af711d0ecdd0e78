//! Which machine the code is for.

use crate::error::Error;

/// What the emitter and LLVM must know about a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// As given, resolved: `cpu:x86-64-v4+vnni`.
    pub name: String,
    /// LLVM's triple.
    pub triple: String,
    /// LLVM's name of the processor.
    pub cpu: String,
    /// Features beyond the processor's, in LLVM's spelling.
    pub llvm_features: String,
    /// Features that the code needs, for the manifest.
    pub features: Vec<String>,
    /// Bytes of a vector register.
    pub vector_bytes: usize,
    /// Registers that hold vectors.
    pub vector_registers: usize,
    /// The architecture of a GPU, in the words of PTX; none for a CPU.
    pub gpu: Option<&'static str>,
}

/// Targets that are GPUs, with the version of PTX that their instructions need. `a`: code for that chip alone.
const GPUS: [(&str, &str); 2] = [("sm_90a", "+ptx83"), ("sm_80", "+ptx83")];

/// One level of the x86-64 instruction set.
struct Level {
    name: &'static str,
    features: &'static [&'static str],
    vector_bytes: usize,
    vector_registers: usize,
}

const V3: Level = Level { name: "x86-64-v3", features: &["avx2", "fma", "bmi2", "f16c"], vector_bytes: 32, vector_registers: 16 };
const V4: Level = Level {
    name: "x86-64-v4",
    features: &["avx2", "fma", "bmi2", "f16c", "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"],
    vector_bytes: 64,
    vector_registers: 32,
};

/// Instructions beyond a level: products of pairs of integers, and of bfloat16 numbers.
const EXTRAS: [(&str, &str); 2] = [("+vnni", "avx512vnni"), ("+bf16", "avx512bf16")];

impl Level {
    /// `extras`: those of [`EXTRAS`], by feature.
    fn target(&self, extras: &[&str]) -> Target {
        let suffixes = EXTRAS.iter().filter(|(_, feature)| extras.contains(feature)).map(|(suffix, _)| *suffix);
        // Without the last, products of pairs are taken apart where one waits for another, though many are under way.
        let tuning = extras.iter().filter(|feature| **feature == "avx512vnni").map(|_| &"fast-dpwssd");
        let more: String = extras.iter().chain(tuning).map(|feature| format!(",+{feature}")).collect();
        Target {
            name: format!("cpu:{}{}", self.name, suffixes.collect::<String>()),
            triple: "x86_64-unknown-linux-gnu".to_owned(),
            cpu: self.name.to_owned(),
            // Some processors with the wide registers ask for the narrow ones; the emitter has chosen already.
            llvm_features: format!("-prefer-256-bit{more}"),
            features: self.features.iter().chain(extras).map(|f| (*f).to_owned()).collect(),
            vector_bytes: self.vector_bytes,
            vector_registers: self.vector_registers,
            gpu: None,
        }
    }
}

impl Target {
    /// `cpu` (the machine at hand), `cpu:x86-64-v3`, `cpu:x86-64-v4` (also with `+vnni`, `+bf16` or both behind it), `cuda:sm_90a` or
    /// `cuda:sm_80`.
    pub fn parse(text: &str) -> Result<Target, Error> {
        let unknown = || {
            let list = "targets are `cpu`, `cpu:x86-64-v3`, `cpu:x86-64-v4` (also with `+vnni`, `+bf16` or both), `cuda:sm_90a`, `cuda:sm_80`";
            Error::user(format!("there is no target `{text}`; {list}"))
        };
        if let Some((arch, ptx)) = GPUS.into_iter().find(|(arch, _)| text.strip_prefix("cuda:") == Some(*arch)) {
            return Ok(Target::gpu(arch, ptx));
        }
        match text {
            "cpu" => return Target::host(),
            "cpu:x86-64-v3" => return Ok(V3.target(&[])),
            _ => {}
        }
        let mut rest = text.strip_prefix("cpu:x86-64-v4").ok_or_else(unknown)?;
        let mut extras = vec![];
        for (suffix, feature) in EXTRAS {
            if let Some(behind) = rest.strip_prefix(suffix) {
                (rest, extras) = (behind, [&extras[..], &[feature]].concat());
            }
        }
        if rest.is_empty() { Ok(V4.target(&extras)) } else { Err(unknown()) }
    }

    fn gpu(arch: &'static str, ptx: &str) -> Target {
        Target {
            name: format!("cuda:{arch}"),
            triple: "nvptx64-nvidia-cuda".to_owned(),
            cpu: arch.to_owned(),
            llvm_features: ptx.to_owned(),
            features: vec![],
            // A warp's accesses of single precision; recurrences are cut into blocks of so many values.
            vector_bytes: 32,
            vector_registers: 0,
            gpu: Some(arch),
        }
    }

    /// Whether the code may use a feature.
    pub fn has(&self, feature: &str) -> bool {
        self.features.iter().any(|f| f == feature)
    }

    /// The best level that this machine has. The instructions are those of the level, so that the artifact runs wherever the
    /// manifest's features are. Products of bfloat16 numbers round what they are given, so they have to be asked for.
    #[cfg(target_arch = "x86_64")]
    fn host() -> Result<Target, Error> {
        let has_v3 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("bmi2");
        let has_v4 = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512cd")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl");
        match (has_v4, has_v3) {
            (true, _) if is_x86_feature_detected!("avx512vnni") => Ok(V4.target(&["avx512vnni"])),
            (true, _) => Ok(V4.target(&[])),
            (false, true) => Ok(V3.target(&[])),
            _ => Err(Error::user("this machine has no AVX2 and FMA, which every target needs")),
        }
    }

    /// No level of this machine is known.
    #[cfg(not(target_arch = "x86_64"))]
    fn host() -> Result<Target, Error> {
        Err(Error::user("only x86-64 machines are supported; name a target, as in `cpu:x86-64-v3`"))
    }

    /// Single-precision lanes of a vector register.
    pub fn lanes(&self) -> usize {
        self.vector_bytes / 4
    }

    /// Blocks that are to have work in a step of decoding; 0 for a CPU. What the larger chips of the last years hold.
    pub fn blocks(&self) -> usize {
        if self.gpu.is_some() { 256 } else { 0 }
    }

    /// Whether it is a GPU with an instruction that fetches a piece of memory into the cache of the device.
    pub fn fetches(&self) -> bool {
        self.gpu == Some("sm_90a")
    }

    /// Columns of a weight panel: two vectors. On a GPU one, so that the contracted axis lies side by side.
    pub fn panel(&self) -> usize {
        if self.gpu.is_some() { 1 } else { 2 * self.lanes() }
    }
}
