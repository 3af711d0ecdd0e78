//! What can be typed.

use braid_compiler::forms::{Chunks, MAX_ROWS};
use braid_runtime::cli::{BenchArgs, InfoArgs, LogitsArgs, PackArgs, ProfileOptions, RunOptions, VerifyArgs};
use clap::{Args as Group, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// A declarative compiler for hybrid sequence models: equations over named axes become native code.
#[derive(Parser)]
#[command(name = "braid", version, propagate_version = true, max_term_width = 110, after_help = EXAMPLES)]
pub struct Args {
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "\
Examples:
  braid check my_model.braid --set layers=12
  braid inspect examples/tiny-hybrid --draw model.svg
  braid emit my_model.braid --stage fused
  braid import path/to/checkpoint -o model.braid
  braid build model.braid --dtype bf16 -o model.braidart
  braid run examples/tiny-hybrid --prompt \"Once upon a time\"

Exit codes: 0 done, 1 an error in what was given, 2 wrong usage, 3 a limit of Braid, 4 a bug of Braid.";

/// Each has its own `--help` with examples.
#[derive(Subcommand)]
#[allow(clippy::large_enum_variant, reason = "one is made")]
pub enum Command {
    /// Parse, resolve and type a spec; all errors at once
    #[command(
        after_help = "Examples:\n  braid check model.braid\n  braid check model.braid --set layers=48 --set 'kinds=[\"a\", \"b\"]'\n  braid check models.transformer"
    )]
    Check(SpecArgs),
    /// Put a spec into its canonical form
    #[command(after_help = "Examples:\n  braid fmt model.braid\n  braid fmt model.braid --check")]
    Fmt(FmtArgs),
    /// Layers with shapes, parameters, FLOPs, memory and complexity; or a picture
    #[command(
        after_help = "Examples:\n  braid inspect model.braid\n  braid inspect model.braid --set d=512 --json\n  braid inspect model.braid --draw model.svg"
    )]
    Inspect(InspectArgs),
    /// What was derived from the equations, and what was fused and why not
    #[command(after_help = "Examples:\n  braid explain model.braid\n  braid explain model.braid --target cpu:x86-64-v3")]
    Explain(ExplainArgs),
    /// Any stage as text
    #[command(
        after_help = "Examples:\n  braid emit model.braid --stage graph\n  braid emit model.braid --stage asm --kernel matmul_0"
    )]
    Emit(EmitArgs),
    /// Compile a spec to an artifact: one file, and a C header beside it
    #[command(
        after_help = "Examples:\n  braid build model.braid -o model.braidart\n  braid build model.braid --target cpu:x86-64-v3 --dtype bf16 -o model.braidart"
    )]
    Build(BuildArgs),
    /// Write the spec and the weight map of a checkpoint
    #[command(
        after_help = "Examples:\n  braid import path/to/checkpoint -o model.braid\n  braid import model.gguf -o model.braid"
    )]
    Import(ImportArgs),
    /// Write a spec whose attention is linear, over the same weights
    #[command(
        after_help = "Examples:\n  braid linearise model.braid -o linear.braid\n  braid linearise model.braid --policy 'linearised(window: 64, learned: false)' -o linear.braid"
    )]
    Linearise(LineariseArgs),
    /// Turn trained weights into those of another model: dense blocks into experts, experts and checkpoints into one
    #[command(
        after_help = "Examples:\n  braid convert model.braid --policy 'moe(experts: 4, active: 2, expert: mlp)' --weights checkpoint/ -o upcycled\n  braid convert model.braid --policy 'split_experts(experts: 8, active: 2)' --seed 1 --weights checkpoint/ -o split\n  braid convert upcycled --to model.braid --weights upcycled/weights -o merged\n  braid convert model.braid --weights a/ --weights b/ --mix 0.7,0.3 -o mean"
    )]
    Convert(ConvertArgs),
    /// Write a model with its weights in few bits, packed, and tell what that costs
    #[command(
        after_help = "Examples:\n  braid quantize model.braid --weights checkpoint/ --dtype int4 -o small\n  braid quantize model.braid --weights checkpoint/ --dtype fp8 --target cpu:x86-64-v3 -o small"
    )]
    Quantize(QuantizeArgs),
    /// Continue a text with a spec (built if needed) or an artifact
    #[command(
        after_help = RUN_EXAMPLES,
        mut_arg("weights", |arg| arg.required(false).default_value(BESIDE).hide_default_value(true).help(WEIGHTS))
    )]
    Run(RunArgs),
    /// Write the logits of given token ids
    #[command(
        after_help = "Examples:\n  braid logits model.braidart --weights checkpoint/ --ids in.safetensors -o out.safetensors\n  braid logits model.braid --weights random:1 --ids 1,2,3 --chunk off -o steps.safetensors"
    )]
    Logits(LogitsCommand),
    /// Compare with golden results: the whole sequence at once, and every cached step
    #[command(
        after_help = "Examples:\n  braid verify model.braidart --weights checkpoint/ --golden golden.safetensors --tolerance 1e-4"
    )]
    Verify(VerifyCommand),
    /// Write the packed weights of an artifact to a file, for quick starts and C programs
    Pack(PackArgs),
    /// Measure prefill and decoding, beside what memory gives
    Bench(BenchArgs),
    /// Measure every kernel of a spec or an artifact, beside what the machine can do at most
    #[command(
        after_help = "Examples:\n  braid profile examples/tiny-hybrid --html profile.html\n  braid profile model.braid --weights random:1 --dtype bf16 --threads 1",
        mut_arg("weights", |arg| arg.required(false).default_value(BESIDE).hide_default_value(true).help(WEIGHTS))
    )]
    Profile(ProfileCommand),
    /// Look for the numbers by which products are cut that are fastest on this machine, and keep them for builds
    #[command(
        after_help = "Examples:\n  braid tune model.braid --dtype bf16\n  braid tune model.braid --dtype int8 --threads 4 -o schedules.yaml\n  braid build model.braid --dtype int8 --schedule schedules.yaml -o model.braidart"
    )]
    Tune(TuneArgs),
    /// Describe an artifact
    Info(InfoArgs),
}

/// Stands for the checkpoint that lies with the spec.
pub const BESIDE: &str = "beside the spec";

const WEIGHTS: &str = "A checkpoint directory, a safetensors or GGUF file, a file written by `pack`, or random:SEED; by default the folder \
                       `weights` beside the spec";

const RUN_EXAMPLES: &str = "\
Examples:
  braid run examples/tiny-hybrid --prompt \"Once upon a time\"
  braid run model.braidart --weights checkpoint/ --prompt \"Hello\" --temperature 0.8 --top-p 0.95 --seed 7
  braid run model.braid --weights model.gguf --chat --prompt \"What is a braid?\"
  braid run model.braid --weights random:1 --ids 1,2,3 --max-tokens 64 --json
  braid run examples/tiny-hybrid --prompt \"Once upon a time\" -n 20 --save-state story.state
  braid run examples/tiny-hybrid --load-state story.state --prompt \" The end was\"";

/// Which model.
#[derive(Group, Clone)]
pub struct SpecArgs {
    /// A .braid file (its last model), a folder with one, or a model of the library (`models.NAME`)
    pub spec: String,
    #[command(flatten)]
    pub settings: Settings,
}

/// Values for the model's parameters.
#[derive(Group, Clone, Default)]
pub struct Settings {
    /// Sizes of a published model, for a model of the library: `models.NAME --preset SIZE`
    #[arg(long, value_name = "SIZE")]
    pub preset: Option<String>,
    /// Give a parameter of the model a value; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// What becomes of the caches of an unchanged model: a policy with arguments, as `heavy_hitters(budget: 256)`
    #[arg(long, value_name = "NAME(KEY: VALUE, …)")]
    pub policy: Option<String>,
}

/// What to compile for.
#[derive(Group, Clone)]
pub struct CodeArgs {
    /// The machine: `cpu` (this one), `cpu:x86-64-v3`, `cpu:x86-64-v4` (with `+vnni`, `+bf16`, `+bytes` behind it), `cpu:aarch64` (with `+bf16`, `+i8mm`); several
    /// with commas, or `cpu:x86-64` for all of its levels, to pick from when the artifact is opened
    #[arg(long, default_value = "cpu")]
    pub target: String,
    /// How the large weights are stored
    #[arg(long, value_enum, default_value_t = DtypeArg::F32)]
    pub dtype: DtypeArg,
    /// How products are cut: a file that `tune` wrote, or `default` for the target's own numbers; otherwise what `tune` kept for this machine
    #[arg(long, value_name = "FILE")]
    pub schedule: Option<PathBuf>,
    /// Rows of a recurrence that are done at once: `auto` (as many as pay), `off` (step by step), or a number from 2 to 256
    #[arg(long, default_value = "auto", value_name = "ROWS")]
    pub chunk: ChunkArg,
    /// Give what blocks declare by `output` too, behind the logits; the artifact is for `logits` then, and does not generate
    #[arg(long)]
    pub outputs: bool,
}

/// How recurrences walk long sequences.
#[derive(Clone, Copy)]
pub struct ChunkArg(pub Chunks);

impl std::str::FromStr for ChunkArg {
    type Err = String;

    fn from_str(text: &str) -> Result<ChunkArg, String> {
        match (text, text.parse()) {
            ("auto", _) => Ok(ChunkArg(Chunks::Auto)),
            ("off", _) => Ok(ChunkArg(Chunks::Off)),
            (_, Ok(rows)) if (2..=MAX_ROWS).contains(&rows) => Ok(ChunkArg(Chunks::Rows(rows))),
            _ => Err(format!("`auto`, `off` or a number of rows from 2 to {MAX_ROWS}")),
        }
    }
}

#[derive(Clone, Copy, ValueEnum)]
pub enum DtypeArg {
    F32,
    Bf16,
    /// Integers of 8 bits, 32 of which share a scale
    Int8,
    /// Floating point of 8 bits (e4m3), 32 of which share a scale
    Fp8,
    /// Integers of 4 bits, 32 of which share a scale
    Int4,
    /// As int4, with an offset beside the scale
    Int4z,
}

#[derive(Group)]
pub struct FmtArgs {
    /// The .braid file
    pub file: PathBuf,
    /// Change nothing; exit code 1 if the file is not canonical
    #[arg(long)]
    pub check: bool,
}

#[derive(Group)]
pub struct InspectArgs {
    #[command(flatten)]
    pub spec: SpecArgs,
    /// For programs
    #[arg(long)]
    pub json: bool,
    /// Draw the model into an SVG file
    #[arg(long, value_name = "FILE.svg")]
    pub draw: Option<PathBuf>,
}

#[derive(Group)]
pub struct ExplainArgs {
    #[command(flatten)]
    pub spec: SpecArgs,
    #[command(flatten)]
    pub code: CodeArgs,
}

#[derive(Group)]
pub struct TuneArgs {
    #[command(flatten)]
    pub spec: SpecArgs,
    #[command(flatten)]
    pub code: CodeArgs,
    /// Threads that compute; all cores by default
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub threads: Option<u16>,
    /// The file of schedules to add to, for `--schedule`; by default the one that every build looks into
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

#[derive(Group)]
pub struct EmitArgs {
    #[command(flatten)]
    pub spec: SpecArgs,
    #[command(flatten)]
    pub code: CodeArgs,
    /// ast, graph, forms, fused, plan, mlir, llvm, asm, ptx or artifact
    #[arg(long)]
    pub stage: String,
    /// Only this kernel
    #[arg(long, value_name = "NAME")]
    pub kernel: Option<String>,
}

#[derive(Group)]
pub struct BuildArgs {
    #[command(flatten)]
    pub spec: SpecArgs,
    #[command(flatten)]
    pub code: CodeArgs,
    /// The artifact
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
}

#[derive(Group)]
pub struct ImportArgs {
    /// A folder with a config.json, as checkpoints have it, or a GGUF file
    pub checkpoint: PathBuf,
    /// The spec; the weight map lies beside it as NAME.weights.yaml
    #[arg(short, long, value_name = "SPEC.braid")]
    pub output: PathBuf,
    /// Replace files that are there
    #[arg(long)]
    pub force: bool,
}

#[derive(Group)]
pub struct LineariseArgs {
    /// The model; `--policy` says what takes the place of its attention, `linearised()` if it is not given
    #[command(flatten)]
    pub spec: SpecArgs,
    /// The new spec; its weight map lies beside it as NAME.weights.yaml
    #[arg(short, long, value_name = "SPEC.braid")]
    pub output: PathBuf,
    /// Replace files that are there
    #[arg(long)]
    pub force: bool,
}

#[derive(Group)]
pub struct ConvertArgs {
    /// The model; `--policy` says what stands in for its blocks
    #[command(flatten)]
    pub spec: SpecArgs,
    /// The model that the weights are to be those of, in the place of `--policy`
    #[arg(long, value_name = "SPEC")]
    pub to: Option<String>,
    /// A checkpoint of the model; of several, experts take turns, and all else is their mean
    #[arg(long, required = true, value_name = "DIR_OR_FILE")]
    pub weights: Vec<String>,
    /// What each checkpoint, or each expert, counts in a mean: `0.7,0.3`; equal parts by default
    #[arg(long, value_delimiter = ',', value_name = "PARTS")]
    pub mix: Vec<f64>,
    /// Deals neurons out at random, and starts routers; without it neurons stay in their order
    #[arg(long)]
    pub seed: Option<u64>,
    /// A safetensors file that says in which order neurons are dealt out: for each instance, by its path, or for all as `neurons`, their numbers (I32 or I64)
    #[arg(long, value_name = "FILE", conflicts_with = "seed")]
    pub neurons: Option<PathBuf>,
    /// How both models are compiled to be compared
    #[command(flatten)]
    pub code: CodeArgs,
    /// A new folder for the spec, its weight map and the weights
    #[arg(short, long, value_name = "FOLDER")]
    pub output: PathBuf,
}

#[derive(Group)]
pub struct QuantizeArgs {
    /// The model
    #[command(flatten)]
    pub spec: SpecArgs,
    /// A checkpoint of it
    #[arg(long, value_name = "DIR_OR_FILE")]
    pub weights: String,
    /// What it is compiled for; `--dtype` says how its weights are stored
    #[command(flatten)]
    pub code: CodeArgs,
    /// A new folder for the artifact and its packed weights
    #[arg(short, long, value_name = "FOLDER")]
    pub output: PathBuf,
}

#[derive(Group)]
pub struct RunArgs {
    /// A .braid file, a folder with one, a model of the library, or an artifact
    #[arg(value_name = "SPEC_OR_ARTIFACT")]
    pub spec: String,
    #[command(flatten)]
    pub settings: Settings,
    #[command(flatten)]
    pub code: CodeArgs,
    #[command(flatten)]
    pub options: RunOptions,
}

#[derive(Group)]
pub struct ProfileCommand {
    /// A .braid file, a folder with one, a model of the library, or an artifact
    #[arg(value_name = "SPEC_OR_ARTIFACT")]
    pub spec: String,
    #[command(flatten)]
    pub settings: Settings,
    #[command(flatten)]
    pub code: CodeArgs,
    #[command(flatten)]
    pub options: ProfileOptions,
}

#[derive(Group)]
pub struct LogitsCommand {
    #[command(flatten)]
    pub logits: LogitsArgs,
    #[command(flatten)]
    pub settings: Settings,
    #[command(flatten)]
    pub code: CodeArgs,
}

#[derive(Group)]
pub struct VerifyCommand {
    #[command(flatten)]
    pub verify: VerifyArgs,
    #[command(flatten)]
    pub settings: Settings,
    #[command(flatten)]
    pub code: CodeArgs,
}
