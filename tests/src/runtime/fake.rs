//! A hand-made artifact (fixtures/fake.c) with manifest, checkpoint and a plain Rust version of the same model.

use braid_runtime::artifact::{
    self, Apart, Binding, Device, Dtype, Grid, Launch, Layout, Lines, Manifest, Multiplied, Packed, Param, State, Stream, Tiles,
    Truncate,
};
use braid_runtime::progress::Hidden;
use braid_runtime::{Artifact, Session, Settings, Weights};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

pub const D: usize = 24;
pub const VOCAB: usize = 40;
pub const MAX_ROWS: usize = 5;
/// Texts of fixtures/.
const SOURCES: [(&str, &str); 3] = [
    ("fake.c", include_str!("../../fixtures/fake.c")),
    ("fake_device.c", include_str!("../../fixtures/fake_device.c")),
    ("fake_cuda.c", include_str!("../../fixtures/fake_cuda.c")),
];
const PANELS: usize = VOCAB * D * 4 + 3 * D * 16 * 4;

pub fn manifest() -> Manifest {
    Manifest {
        model: "fake".into(),
        target: "cpu:any".into(),
        features: Vec::new(),
        dtype: Dtype::F32,
        vocab: VOCAB,
        tokens: VOCAB,
        outputs: vec![],
        inputs: vec![],
        places: None,
        source_places: None,
        autoregressive: true,
        ahead: 0,
        unmask: None,
        max_rows: MAX_ROWS,
        first_rows: Some(0),
        whole_prompt: false,
        block_rows: 1,
        params: params(),
        packed: vec![
            packed(0, 0, VOCAB * D * 4, Layout::Dense(vec![0, 1])),
            packed(1, VOCAB * D * 4, 3 * D * 16 * 4, Layout::Panels { batch: vec![], k: vec![0], n: vec![1], width: 16 }),
            packed(2, PANELS, 192, Layout::Dense(vec![0])),
        ],
        weights_bytes: PANELS + 192,
        token_weights_bytes: PANELS + 192,
        prepared_bytes: 64,
        arena_row_bytes: D * 4,
        scratch_bytes: 64,
        states: vec![
            state("sum", (0, 0), (D * 4, 0), 0, Truncate::Replay),
            state("history", (128, 0), (0, 4), u32::MAX, Truncate::Rows),
        ],
        state_fixed_bytes: 128,
        state_position_bytes: 4,
        work: vec![],
        device: None,
        entries: String::new(),
        levels: vec![],
    }
}

/// What fixtures/fake_device.c expects.
pub fn device() -> Device {
    let step = |function, words: &[i64], per, times, wait| Launch {
        function,
        words: words.into(),
        per,
        times,
        by: 1,
        factor: 1,
        least: 0,
        most: None,
        alone: None,
        wait,
        follows: false,
        stream: wait.then_some(Stream { offset: 64, columns: 3, column_bytes: 32 }),
        apart: None,
        until: None,
        tiles: vec![],
    };
    let tiles = Tiles { per: 1, times: 1, from: 5, by: 4, factor: 3 };
    let first = Launch { tiles: vec![tiles], ..step(0, &[5, -6, 7], 3, 1, false) };
    Device {
        arch: "sm_90a".into(),
        functions: ["sums", "head", "mark"].map(String::from).into(),
        prefill: Grid { threads: 64, shared_bytes: 0, blocks: 2 },
        step: Grid { threads: 64, shared_bytes: 100_000, blocks: 4 },
        step_rows: 4,
        row_words: 19,
        prepare: vec![step(2, &[9], 0, 1, false)],
        steps: vec![first, Launch { apart: Some(0), ..step(1, &[16], 2, 3, true) }],
        apart: vec![apart()],
    }
}

/// The second step, in calls of five rows: five tiles down, two across.
fn apart() -> Apart {
    let (round, multiply) =
        (Grid { threads: 32, shared_bytes: 0, blocks: 2 }, Grid { threads: 64, shared_bytes: 1000, blocks: 2 });
    let what = Multiplied::Products { depth: 8, columns: 3, weights: vec![Lines { width: 5, word: 0 }], chosen: None };
    Apart {
        name: "head".into(),
        from: 5,
        few: None,
        rows: 1,
        across: 2,
        numbers: 8,
        what,
        round: Some(round),
        multiply,
        place: 0,
        hands: None,
        handed: false,
    }
}

/// `embed` as it is, `head` transposed, `bias` the second half of a tensor.
fn params() -> Vec<Param> {
    let param = |path: &str, axes: &[(&str, usize)], tensor: &str, shape: &[usize], offset, strides: &[usize]| Param {
        path: path.into(),
        axes: axes.iter().map(|(name, _)| name.to_string()).collect(),
        shape: axes.iter().map(|(_, size)| *size).collect(),
        binding: Some(Binding {
            tensors: vec![tensor.into()],
            stacked: None,
            shape: shape.into(),
            offset,
            strides: strides.into(),
            splits: vec![],
        }),
    };
    vec![
        param("embed", &[("vocab", VOCAB), ("d", D)], "model.embed.weight", &[VOCAB, D], 0, &[D, 1]),
        param("head.w", &[("d", D), ("vocab", VOCAB)], "model.head.weight", &[VOCAB, D], 0, &[1, D]),
        param("head.bias", &[("vocab", VOCAB)], "model.head.bias", &[2 * VOCAB], VOCAB, &[1]),
    ]
}

fn packed(param: usize, offset: usize, bytes: usize, layout: Layout) -> Packed {
    Packed { param, offset, bytes, dtype: Dtype::F32, layout }
}

fn state(name: &str, offset: (usize, usize), bytes: (usize, usize), init_bits: u32, truncate: Truncate) -> State {
    State {
        name: name.into(),
        kind: "recurrence".into(),
        axes: vec![("d".into(), D)],
        element_bytes: 4,
        fixed_offset: offset.0,
        position_offset: offset.1,
        fixed_bytes: bytes.0,
        position_bytes: bytes.1,
        init_bits,
        rows: usize::from(bytes.1 == 0),
        parts: 1,
        block: 1,
        truncate,
    }
}

/// A temporary folder with the artifact, its header and a checkpoint.
pub struct Fake {
    pub folder: tempfile::TempDir,
    pub embed: Vec<f32>,
    pub head: Vec<f32>,
    pub bias: Vec<f32>,
}

impl Fake {
    pub fn new() -> Self {
        let number = |n: usize| ((n * 7919 + 13) % 257) as f32 / 128.0 - 1.0;
        let numbers = |from: usize, count: usize| (from..from + count).map(number).collect::<Vec<_>>();
        let fake = Self {
            folder: tempfile::tempdir().unwrap(),
            embed: numbers(0, VOCAB * D),
            head: numbers(5000, VOCAB * D),
            bias: numbers(9000, 2 * VOCAB),
        };
        fake.write(&manifest());
        fake.checkpoint(&fake.path("model.safetensors"));
        fake
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn artifact(&self) -> PathBuf {
        self.path("fake.so")
    }

    /// The same for a GPU that fixtures/fake_cuda.c plays, in place of whatever driver this machine has. Programs find the driver in the
    /// folder, by `LD_LIBRARY_PATH`.
    pub fn on_gpu() -> Self {
        let fake = Self::new();
        let driver = fake.path("libcuda.so");
        fake.compile("fake_cuda.c", &driver, &["-Wl,-soname,libcuda.so"]);
        // SAFETY: no initialisers. Once loaded, the name stands for this library in this process, hence never unload it.
        std::mem::forget(unsafe { libloading::Library::new(&driver) }.unwrap());
        fake.write_gpu(&Manifest { device: Some(device()), target: "cuda:sm_90a".into(), ..manifest() });
        fake
    }

    /// One on the processor, one on a GPU.
    pub fn both() -> [Self; 2] {
        [Self::new(), Self::on_gpu()]
    }

    /// Writes the artifact for the GPU with this manifest.
    pub fn write_gpu(&self, manifest: &Manifest) {
        let code = self.path("device.so");
        self.compile("fake_device.c", &code, &["-Wno-unused-parameter"]);
        artifact::write(&self.artifact(), format!("// {}\n", code.display()).as_bytes(), manifest).unwrap();
    }

    /// Writes the artifact with this manifest.
    pub fn write(&self, manifest: &Manifest) {
        std::fs::write(self.path("fake.h"), artifact::header(manifest)).unwrap();
        let library = self.path("code.so");
        self.compile("fake.c", &library, &[]);
        artifact::write(&self.artifact(), &std::fs::read(library).unwrap(), manifest).unwrap();
    }

    fn compile(&self, source: &str, library: &Path, more: &[&str]) {
        for (name, text) in SOURCES {
            std::fs::write(self.path(name), text).unwrap();
        }
        let arguments = ["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-I"];
        let mut compiler = Command::new("cc");
        compiler.args(arguments).arg(self.folder.path()).args(more).arg(self.path(source)).arg("-o").arg(library);
        assert!(compiler.status().expect("a C compiler is needed").success());
    }

    fn checkpoint(&self, path: &Path) {
        let tensors: [(&str, &[usize], &[f32]); 3] = [
            ("model.embed.weight", &[VOCAB, D], &self.embed),
            ("model.head.weight", &[VOCAB, D], &self.head),
            ("model.head.bias", &[2 * VOCAB], &self.bias),
        ];
        braid_runtime::checkpoint::write(&mut std::fs::File::create(path).unwrap(), &tensors).unwrap();
    }

    pub fn session(&self, settings: Settings) -> Session {
        let artifact = Arc::new(Artifact::open(&self.artifact()).unwrap());
        let from = self.folder.path().to_str().unwrap();
        let weights = Weights::open(&artifact.manifest, from, settings.threads, &Hidden).unwrap();
        Session::new(artifact, Arc::new(weights), settings).unwrap()
    }

    /// The logits of every position, as simply as can be.
    pub fn reference(&self, tokens: &[i32]) -> Vec<Vec<f32>> {
        let mut sum = [0f32; D];
        let row = |sum: &[f32; D], v: usize| -> f32 {
            sum.iter().zip(&self.head[v * D..]).fold(0.0, |total, (a, b)| total + a * b) + self.bias[VOCAB + v]
        };
        let step = |token: &i32| {
            let embed = &self.embed[*token as usize * D..];
            sum.iter_mut().zip(embed).for_each(|(sum, embed)| *sum = *sum / 2.0 + embed);
            (0..VOCAB).map(|v| row(&sum, v)).collect()
        };
        tokens.iter().map(step).collect()
    }

    /// Greedy decoding of the reference.
    pub fn greedy(&self, prompt: &[i32], count: usize) -> Vec<i32> {
        let mut tokens = prompt.to_vec();
        for _ in 0..count {
            let logits = self.reference(&tokens).pop().unwrap();
            let best = logits.iter().enumerate().fold(0, |best, (token, logit)| if *logit > logits[best] { token } else { best });
            tokens.push(best as i32);
        }
        tokens.split_off(prompt.len())
    }
}
