//! Which machine the code is for.

use crate::error::Error;
use crate::schedule::Schedule;
use braid_runtime::artifact::missing_feature;
use serde::Deserialize;

/// What the emitter and LLVM must know about a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// As given, resolved: `cpu:x86-64-v4`.
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
    /// How matrix products are cut, for a CPU.
    pub schedule: Schedule,
    /// How many bits a number of a row has that meets quantised weights; none: such products are not there. A GPU has its own way.
    pub row_bits: Option<usize>,
    /// The architecture of a GPU, in the words of PTX; none for a CPU.
    pub gpu: Option<&'static str>,
    /// Shared memory of a block of a GPU's threads, in bytes, of which two fit a multiprocessor.
    pub shared_bytes: usize,
    /// What the names of the code's entries end with, where it is one of several levels.
    pub entries: String,
}

/// Targets that are GPUs. `a`: code for that chip alone.
const GPUS: [Gpu; 2] = [
    // Beside what has places of its own.
    Gpu { arch: "sm_90a", ptx: "+ptx83", shared_bytes: 106 << 10 },
    // What the smallest of the later chips have.
    Gpu { arch: "sm_80", ptx: "+ptx83", shared_bytes: 48 << 10 },
];

#[derive(Clone, Copy)]
struct Gpu {
    arch: &'static str,
    /// The version of PTX that its instructions need.
    ptx: &'static str,
    shared_bytes: usize,
}

/// A level of some processor, as `targets/NAME.yaml` of the library describes it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Level {
    triple: String,
    cpu: String,
    features: Vec<String>,
    llvm_features: String,
    vector_bytes: usize,
    vector_registers: usize,
    schedule: Schedule,
    row_bits: Option<usize>,
    #[serde(default)]
    extras: Vec<Extra>,
}

/// Instructions beyond a level, asked for by `+name` behind it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Extra {
    name: String,
    feature: String,
    llvm: String,
    row_bits: Option<usize>,
}

/// Levels that go together, each faster than those before where it runs.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Family {
    levels: Vec<String>,
}

/// Names and texts of the library's descriptions.
fn files() -> impl Iterator<Item = (&'static str, &'static str)> {
    let files = braid_stdlib::files().iter();
    files.filter_map(|(path, text)| Some((path.strip_prefix("targets/")?.strip_suffix(".yaml")?, *text)))
}

/// Those that are a level.
fn levels() -> impl Iterator<Item = (&'static str, &'static str)> {
    files().filter(|(_, text)| serde_yaml::from_str::<Family>(text).is_err())
}

/// Those that are several, with the targets that they stand for.
fn families() -> impl Iterator<Item = (&'static str, Vec<String>)> {
    files().filter_map(|(name, text)| Some((name, serde_yaml::from_str::<Family>(text).ok()?.levels)))
}

/// Reads a description.
fn read(name: &str, text: &str) -> Result<Level, Error> {
    serde_yaml::from_str(text).map_err(|error| Error::bug("target", format!("targets/{name}.yaml: {error}")))
}

impl Level {
    /// The level with some of its extras, of which each is told whether it is wanted.
    fn target(self, name: &str, wanted: impl Fn(&Extra) -> bool) -> Target {
        let Level { triple, cpu, features, llvm_features, vector_bytes, vector_registers, schedule, row_bits, extras } = self;
        let name = format!("cpu:{name}");
        let mut target = Target {
            name,
            triple,
            cpu,
            llvm_features,
            features,
            vector_bytes,
            vector_registers,
            schedule,
            row_bits,
            gpu: None,
            shared_bytes: 0,
            entries: String::new(),
        };
        for extra in extras.into_iter().filter(|extra| wanted(extra)) {
            target.name += &format!("+{}", extra.name);
            let comma = if target.llvm_features.is_empty() { "" } else { "," };
            target.llvm_features += &format!("{comma}{}", extra.llvm);
            target.row_bits = extra.row_bits.or(target.row_bits);
            if !target.has(&extra.feature) {
                target.features.push(extra.feature);
            }
        }
        target
    }
}

/// All targets but `cpu`, as one types them.
fn known() -> Result<Vec<String>, Error> {
    let mut known = Vec::new();
    for (name, text) in levels() {
        let extras: String = read(name, text)?.extras.iter().map(|extra| format!("[+{}]", extra.name)).collect();
        known.push(format!("`cpu:{name}{extras}`"));
    }
    known.extend(families().map(|(name, _)| format!("`cpu:{name}`")));
    known.extend(GPUS.iter().map(|gpu| format!("`cuda:{}`", gpu.arch)));
    Ok(known)
}

impl Target {
    /// The levels of an artifact: targets with commas between them, each faster than those before where it runs, or the name of a
    /// family (`cpu:x86-64`). One target is one level.
    pub fn parse_levels(text: &str) -> Result<Vec<Target>, Error> {
        let family = families().find(|(name, _)| text.strip_prefix("cpu:") == Some(name));
        let names = match family {
            Some((_, levels)) => levels.iter().map(|level| format!("cpu:{level}")).collect(),
            None => text.split(',').map(|name| name.trim().to_owned()).collect::<Vec<_>>(),
        };
        let mut targets = names.iter().map(|name| Target::parse(name)).collect::<Result<Vec<_>, _>>()?;
        if targets.len() > 1 {
            for (at, target) in targets.iter_mut().enumerate() {
                target.entries = format!("_{at}");
            }
        }
        match targets.iter().find(|target| target.gpu.is_some() || target.triple != targets[0].triple) {
            Some(other) if targets.len() > 1 => {
                Err(Error::user(format!("`{}` and `{}` are no levels of one processor", targets[0].name, other.name)))
            }
            _ => Ok(targets),
        }
    }

    /// `cpu` or `cuda` (the processor or the GPU at hand), `cpu-` and an extra that is not to be used (`cpu-bf16`), `cpu:` and the name
    /// of a description (`cpu:x86-64-v3`, `cpu:x86-64-v4`, `cpu:aarch64`) with extras behind it (`cpu:x86-64-v4+vnni+bf16`),
    /// `cuda:sm_90a` or `cuda:sm_80`.
    pub fn parse(text: &str) -> Result<Target, Error> {
        if let Some(gpu) = GPUS.into_iter().find(|gpu| text.strip_prefix("cuda:") == Some(gpu.arch)) {
            return Ok(Target::gpu(gpu));
        }
        match text {
            "cpu" => return Target::host(None),
            "cuda" => return Target::gpu_at_hand(),
            _ => {}
        }
        if let Some(without) = text.strip_prefix("cpu-") {
            return Target::host(Some(without));
        }
        if text.contains(',') || families().any(|(name, _)| text.strip_prefix("cpu:") == Some(name)) {
            return Err(Error::hinted(
                format!("`{text}` stands for several levels, and this needs one"),
                "`build` takes several",
            ));
        }
        let mut parts = text.strip_prefix("cpu:").unwrap_or_default().split('+');
        let (name, extras) = (parts.next().unwrap_or_default(), parts.collect::<Vec<_>>());
        let found = levels().find(|(known, _)| *known == name).map(|(name, text)| read(name, text)).transpose()?;
        let has = |level: &Level| extras.iter().all(|extra| level.extras.iter().any(|known| known.name == **extra));
        match found.filter(has) {
            Some(level) => Ok(level.target(name, |extra| extras.contains(&extra.name.as_str()))),
            None => Err(Error::user(format!("there is no target `{text}`; targets are `cpu`, `cuda`, {}", known()?.join(", ")))),
        }
    }

    /// What fits the GPU of this machine best.
    fn gpu_at_hand() -> Result<Target, Error> {
        let found = braid_runtime::gpu_at_hand().map_err(|error| match error.hint() {
            Some(hint) => Error::hinted(error.to_string(), hint),
            None => Error::user(error.to_string()),
        })?;
        let fits = |arch: &str| match arch {
            "sm_90a" => found.capability == (9, 0),
            _ => found.capability >= (8, 0),
        };
        match GPUS.into_iter().find(|gpu| fits(gpu.arch)) {
            Some(gpu) => Ok(Target::gpu(gpu)),
            None => Err(Error::user(format!("{} is older than every target for GPUs: 8.0 is needed", found.name))),
        }
    }

    fn gpu(Gpu { arch, ptx, shared_bytes }: Gpu) -> Target {
        Target {
            name: format!("cuda:{arch}"),
            triple: "nvptx64-nvidia-cuda".to_owned(),
            cpu: arch.to_owned(),
            llvm_features: ptx.to_owned(),
            features: vec![],
            // A warp's accesses of single precision; recurrences are cut into blocks of so many values.
            vector_bytes: 32,
            vector_registers: 0,
            schedule: Schedule::GPU,
            row_bits: None,
            gpu: Some(arch),
            shared_bytes,
            entries: String::new(),
        }
    }

    /// The level with the widest vectors that this machine has, and all of its extras but one. The instructions are those of the
    /// level, so that the artifact runs wherever the manifest's features are.
    fn host(without: Option<&str>) -> Result<Target, Error> {
        let mut best: Option<Target> = None;
        let mut extras = Vec::new();
        for (name, text) in levels() {
            let level = read(name, text)?;
            extras.extend(level.extras.iter().map(|extra| extra.name.clone()));
            let wanted = |extra: &Extra| Some(extra.name.as_str()) != without;
            let here = |extra: &Extra| missing_feature(std::slice::from_ref(&extra.feature)).is_none();
            let target = level.target(name, |extra| wanted(extra) && here(extra));
            let fits = target.is_native() && missing_feature(&target.features).is_none();
            if fits && best.as_ref().is_none_or(|best| best.vector_bytes < target.vector_bytes) {
                best = Some(target);
            }
        }
        if let Some(without) = without.filter(|without| !extras.iter().any(|extra| extra == without)) {
            let known: Vec<String> = extras.iter().map(|extra| format!("`cpu-{extra}`")).collect();
            return Err(Error::user(format!(
                "there is no target `cpu-{without}`; without some instructions there are {}",
                known.join(", ")
            )));
        }
        best.ok_or_else(|| Error::user("no target is for this machine: AVX2 and FMA, or NEON, are needed"))
    }

    /// Whether the code may use a feature.
    pub fn has(&self, feature: &str) -> bool {
        self.features.iter().any(|f| f == feature)
    }

    /// Whether this machine's processor is of the kind.
    pub fn is_native(&self) -> bool {
        match self.triple.split('-').next() {
            Some("x86_64") => cfg!(target_arch = "x86_64"),
            Some("aarch64") => cfg!(target_arch = "aarch64"),
            _ => false,
        }
    }

    /// Whether the matrix units of a GPU work for groups of four warps, and read shared memory themselves.
    pub fn has_groups(&self) -> bool {
        self.gpu == Some("sm_90a")
    }

    /// Single-precision lanes of a vector register.
    pub fn lanes(&self) -> usize {
        self.vector_bytes / 4
    }

    /// Columns of a weight panel: some vectors. On a GPU one, so that the contracted axis lies side by side.
    pub fn panel(&self) -> usize {
        if self.gpu.is_some() { 1 } else { self.schedule.panel_vectors * self.lanes() }
    }
}
