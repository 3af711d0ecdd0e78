//! `run`: a prompt goes in, a stream of text comes out.

use super::fill::{self, Wish};
use super::{Bar, InputOptions, ModelOptions, chat::chat, print, print_json, rate, tell};
use crate::artifact::Manifest;
use crate::checkpoint::{Checkpoint, GenerationConfig, gguf};
use crate::error::{Error, Result};
use crate::generate::{Outcome, Request, generate, positions};
use crate::load::Artifact;
use crate::progress::Progress;
use crate::sample::Sampling;
use crate::session::{Inputs, Saved, Session, Settings};
use crate::tokenizer::{Stream, Tokenizer};
use crate::unmask::Fill;
use crate::weights::Weights;
use clap::Args;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Arguments of `braid-run run`.
#[derive(Args)]
pub struct RunArgs {
    /// The artifact.
    pub artifact: PathBuf,
    /// All the rest.
    #[command(flatten)]
    pub options: RunOptions,
}

/// Arguments that do not depend on where the artifact comes from.
#[derive(Args, Clone, Debug)]
pub struct RunOptions {
    /// Weights and threads.
    #[command(flatten)]
    pub model: ModelOptions,
    /// The text to continue; a model that fills masks may do without.
    #[arg(long, short, conflicts_with = "ids")]
    pub prompt: Option<String>,
    /// Token ids instead of a text: 1,2,3.
    #[arg(long, value_delimiter = ',', num_args = 1)]
    pub ids: Option<Vec<i32>>,
    /// What else the model is given, from the first token on; zeros behind it.
    #[command(flatten)]
    pub inputs: InputOptions,
    /// Answer in turns, by the checkpoint's chat template: to the prompt or, without one, to each line of standard input.
    #[arg(long, conflicts_with_all = ["ids", "load_state", "save_state"])]
    pub chat: bool,
    /// With `--chat`: what the model is told before the first turn.
    #[arg(long, value_name = "TEXT", requires = "chat")]
    pub system: Option<String>,
    /// The tokenizer: a tokenizer.json or a GGUF file; by default what comes with the weights.
    #[arg(long, value_name = "FILE")]
    pub tokenizer: Option<PathBuf>,
    /// Most tokens to generate; by default what the checkpoint's generation_config.json says, or 128.
    #[arg(long, short = 'n', value_name = "N")]
    pub max_tokens: Option<usize>,
    /// Positions that the caches hold; by default as many as prompt and tokens need.
    #[arg(long, value_name = "N")]
    pub context: Option<usize>,
    /// 0: always the likeliest token. By default what generation_config.json says, or 0.
    #[arg(long, value_name = "T")]
    pub temperature: Option<f32>,
    /// Choose among the likeliest K tokens; 0: all.
    #[arg(long, value_name = "K")]
    pub top_k: Option<usize>,
    /// Choose among the likeliest tokens that together have probability P.
    #[arg(long, value_name = "P")]
    pub top_p: Option<f32>,
    /// Make tokens that the text holds already less likely by this factor; 1: no. By default what generation_config.json says, or 1.
    #[arg(long, value_name = "R")]
    pub repetition_penalty: Option<f32>,
    /// Models that fill masks: passes over a span.
    #[arg(long, value_name = "N")]
    pub steps: Option<usize>,
    /// Models that fill masks: positions that are filled before those behind them.
    #[arg(long, value_name = "N")]
    pub span: Option<usize>,
    /// Models that fill masks: strength of classifier-free guidance by the prompt; 0: none.
    #[arg(long, value_name = "W")]
    pub guidance: Option<f32>,
    /// Another seed, another text.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Go on after the end-of-sequence token.
    #[arg(long)]
    pub ignore_eos: bool,
    /// Go on from a state that `--save-state` wrote: the prompt comes behind its text, and may be left out.
    #[arg(long, value_name = "FILE")]
    pub load_state: Option<PathBuf>,
    /// When done, write what the model carries of the whole text, prompt and result, to a file.
    #[arg(long, value_name = "FILE")]
    pub save_state: Option<PathBuf>,
    /// Print one JSON object instead of a stream.
    #[arg(long)]
    pub json: bool,
}

impl RunOptions {
    /// The folder that may hold a tokenizer and configurations, if the weights come from a file system.
    fn folder(&self) -> Option<&Path> {
        let path = Path::new(&self.model.weights);
        if path.is_dir() { Some(path) } else { path.parent().filter(|_| path.is_file()) }
    }

    /// The weights, if they are a GGUF file, which tells the rest too.
    fn gguf(&self) -> Option<&Path> {
        Some(Path::new(&self.model.weights)).filter(|path| gguf::is_file(path))
    }

    pub(super) fn config(&self) -> Result<GenerationConfig> {
        match (self.gguf(), self.folder()) {
            (Some(file), _) => Ok(GenerationConfig::of(&Checkpoint::open(file)?)),
            (None, Some(folder)) => GenerationConfig::read(folder),
            (None, None) => Ok(GenerationConfig::default()),
        }
    }

    /// The tokenizer, if there is one.
    pub(super) fn tokenizer(&self) -> Result<Option<Tokenizer>> {
        let beside = self.folder().map(|folder| folder.join("tokenizer.json")).filter(|path| path.is_file());
        match (&self.tokenizer, self.gguf()) {
            (Some(named), _) => Tokenizer::open(named).map(Some),
            // One may want ids only.
            (None, Some(file)) if self.prompt.is_some() || self.chat => Tokenizer::open(file).map(Some),
            (None, Some(file)) => Ok(Tokenizer::open(file).ok()),
            (None, None) => beside.as_deref().map(Tokenizer::open).transpose(),
        }
    }

    fn prompt(&self, tokenizer: Option<&Tokenizer>) -> Result<Vec<i32>> {
        match (&self.ids, &self.prompt, tokenizer) {
            (Some(ids), _, _) => Ok(ids.clone()),
            (None, None, _) => Ok(Vec::new()),
            (None, Some(text), _) if text.is_empty() && self.load_state.is_some() => Ok(Vec::new()),
            (None, Some(text), Some(tokenizer)) => tokenizer.encode(text, self.load_state.is_none()),
            _ => Err(Error::input(
                "no tokenizer.json beside the weights",
                "name one with `--tokenizer FILE`, or give `--ids 1,2,3`",
            )),
        }
    }

    pub(super) fn request(&self, prompt: Vec<i32>, config: GenerationConfig) -> Request {
        let whole = self.save_state.is_some();
        let sampling = Sampling {
            temperature: self.temperature.or(config.temperature).unwrap_or(0.0),
            top_k: self.top_k.or(config.top_k).unwrap_or(0),
            top_p: self.top_p.or(config.top_p).unwrap_or(1.0),
            repetition: self.repetition_penalty.or(config.repetition).unwrap_or(1.0),
            seed: self.seed,
        };
        let stop = if self.ignore_eos { Vec::new() } else { config.stop };
        let max_tokens = self.max_tokens.or(config.max_tokens).unwrap_or(128);
        Request { prompt, follows: Vec::new(), whole, max_tokens, stop, sampling }
    }

    /// Whether there is something to continue.
    fn begins(&self) -> Result<()> {
        match (&self.prompt, &self.ids, &self.load_state) {
            (None, None, None) => Err(Error::input("there is no text to continue", "give `--prompt`, `--ids` or `--load-state`")),
            _ => Ok(()),
        }
    }

    /// Writes the state of slot 0 if that was asked for. `before`: the text that was there, if it is known.
    fn save(&self, session: &Session, before: &[i32], request: &Request, outcome: &Outcome) -> Result<()> {
        let Some(path) = &self.save_state else { return Ok(()) };
        let ids = [before, &request.prompt, &outcome.tokens].concat();
        let ids = if ids.len() + session.manifest().ahead == session.position(0)? { &ids[..] } else { &[] };
        session.save(0, path, ids, &outcome.next)
    }
}

/// Generates, and prints text, JSON and speed.
pub fn run(artifact: &Path, options: &RunOptions) -> Result<()> {
    if options.chat {
        return chat(artifact, options);
    }
    let start = Instant::now();
    let tokenizer = options.tokenizer()?;
    let prompt = options.prompt(tokenizer.as_ref())?;
    let mut request = options.request(prompt, options.config()?);
    request.sampling.check()?;
    let (artifact, weights) = options.model.load(artifact)?;
    if let Some(how) = &artifact.manifest.unmask {
        let how = fill::declared(how, options)?;
        let Request { prompt, max_tokens, stop, sampling, .. } = request;
        let wish = Wish { prompt, more: max_tokens, fill: Fill { text: vec![], how, sampling, stop } };
        return fill::run((artifact, weights), wish, tokenizer.as_ref(), options, start);
    }
    options.begins()?;
    if options.save_state.is_some() {
        Saved::possible(&artifact.manifest)?;
    }
    let saved = options.load_state.as_deref().map(|path| Saved::read(path, &artifact.manifest, &weights)).transpose()?;
    let seen = saved.as_ref().map_or(0, |saved| saved.snapshot.position());
    let capacity = options.context.unwrap_or_else(|| seen + positions(&request));
    let mut session = session((artifact, weights), options, capacity, 1)?;
    let mut before = Vec::new();
    if let Some(saved) = saved {
        session.restore(0, &saved.snapshot)?;
        (before, request.follows) = (saved.ids, saved.logits);
    }
    let load = start.elapsed();
    let mut output = Output::new(tokenizer.as_ref(), &[&before[..], &request.prompt].concat(), options.json);
    output.prompt(options.prompt.as_deref())?;
    let bar = Prefilling::new(&session, &request);
    let outcome = generate(&mut session, &request, |done| bar.done(done), |token| output.token(token))?;
    output.end()?;
    options.save(&session, &before, &request, &outcome)?;
    if options.json {
        return print_json(&report(&session, &request, &outcome, tokenizer.as_ref(), load)?);
    }
    tell(&summary(&session, &request, &outcome, load));
    Ok(())
}

/// What the command line gives a sequence.
pub(super) fn given(options: &RunOptions, manifest: &Manifest) -> Result<Inputs> {
    let mut batch = options.inputs.read(manifest)?;
    match batch.len() {
        0 | 1 => Ok(batch.pop().unwrap_or_default()),
        many => Err(Error::input(format!("inputs of {many} sequences; one is continued"), "give one, or use `logits`")),
    }
}

/// A session with so many positions, or room for the source, whose slots all have the same inputs.
pub(super) fn session(
    (artifact, weights): (Arc<Artifact>, Arc<Weights>),
    options: &RunOptions,
    capacity: usize,
    slots: usize,
) -> Result<Session> {
    let inputs = given(options, &artifact.manifest)?;
    let capacity = capacity.max(inputs.source_rows(&artifact.manifest));
    let mut session = Session::new(artifact, weights, Settings { threads: options.model.threads(), capacity, slots })?;
    (0..slots).try_for_each(|slot| session.give(slot, inputs.clone()))?;
    Ok(session)
}

/// A bar for prompts that take several calls.
pub(super) struct Prefilling(Option<Bar>, usize);

impl Prefilling {
    pub(super) fn new(session: &Session, request: &Request) -> Self {
        let long = request.prompt.len() > 2 * session.manifest().max_rows;
        let bar = long.then(Bar::default);
        bar.iter().for_each(|bar| bar.begin("reading prompt", request.prompt.len() as u64));
        Self(bar, request.prompt.len())
    }

    pub(super) fn done(&self, done: usize) {
        if let Some(bar) = &self.0 {
            bar.set(done as u64);
            if done == self.1 {
                bar.end();
            }
        }
    }
}

/// Prints text, or token ids where there is no tokenizer, or nothing.
pub(super) enum Output<'a> {
    Silent,
    Ids(bool),
    Text(Option<Stream<'a>>),
}

impl<'a> Output<'a> {
    pub(super) fn new(tokenizer: Option<&'a Tokenizer>, prompt: &[i32], json: bool) -> Self {
        match tokenizer {
            _ if json => Self::Silent,
            None => Self::Ids(false),
            Some(tokenizer) => Self::Text(Some(tokenizer.stream(prompt))),
        }
    }

    fn prompt(&self, text: Option<&str>) -> Result<()> {
        match (self, text) {
            (Self::Text(_), Some(text)) => print(text),
            _ => Ok(()),
        }
    }

    pub(super) fn token(&mut self, token: i32) -> Result<()> {
        match self {
            Self::Text(Some(stream)) => print(&stream.push(token)?),
            Self::Ids(some) => print(&format!("{}{token}", if std::mem::replace(some, true) { "," } else { "" })),
            _ => Ok(()),
        }
    }

    pub(super) fn end(&mut self) -> Result<()> {
        match self {
            Self::Silent => Ok(()),
            Self::Ids(_) => print("\n"),
            Self::Text(stream) => print(&format!("{}\n", stream.take().map_or(Ok(String::new()), Stream::finish)?)),
        }
    }
}

pub(super) fn summary(session: &Session, request: &Request, outcome: &Outcome, load: Duration) -> String {
    let (prompt, steps) = (request.prompt.len(), outcome.steps);
    let prefill = match prompt {
        0 => String::new(),
        _ => format!(" · prefill {prompt} tokens, {:.1} tokens/s", rate(prompt, outcome.prefill)),
    };
    format!(
        "loaded in {:.2} s{prefill} · decode {steps} steps, {:.1} tokens/s · {}",
        load.as_secs_f64(),
        rate(steps, outcome.decode),
        session.engine()
    )
}

pub(super) fn report(
    session: &Session,
    request: &Request,
    outcome: &Outcome,
    tokenizer: Option<&Tokenizer>,
    load: Duration,
) -> Result<serde_json::Value> {
    let phase = |tokens: usize, time: Duration| serde_json::json!({"tokens": tokens, "seconds": time.as_secs_f64(), "tokens_per_second": rate(tokens, time)});
    Ok(serde_json::json!({
        "model": session.manifest().model,
        "target": session.manifest().target,
        "engine": session.engine(),
        "threads": session.threads(),
        "position": session.position(0)?,
        "prompt_ids": request.prompt,
        "ids": outcome.tokens,
        "text": tokenizer.map(|tokenizer| tokenizer.decode(&outcome.tokens)).transpose()?,
        "finish": if outcome.stopped { "stop" } else { "length" },
        "sampling": {"temperature": request.sampling.temperature, "top_k": request.sampling.top_k, "top_p": request.sampling.top_p, "seed": request.sampling.seed},
        "load_seconds": load.as_secs_f64(),
        "prefill": phase(request.prompt.len(), outcome.prefill),
        "decode": phase(outcome.steps, outcome.decode),
    }))
}
