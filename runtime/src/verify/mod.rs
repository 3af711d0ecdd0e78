//! Comparison of an artifact with golden results: whole sequences, and every step of decoding with caches.

mod golden;

pub use golden::{Decoding, Golden, Whole, ids};

use crate::error::Result;
use crate::load::Artifact;
use crate::sample::greedy;
use crate::session::{Session, Settings, Wanted};
use crate::weights::Weights;
use serde::Serialize;
use std::path::Path;
use std::sync::Arc;

/// How far some logits are from what they should be.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Difference {
    /// Largest absolute difference; infinite if a number is not a number.
    pub max_abs: f64,
    /// The same, as a part of the largest golden logit.
    pub relative: f64,
    /// Root of the mean square.
    pub rms: f64,
    #[serde(skip)]
    peak: f64,
    #[serde(skip)]
    squares: f64,
    #[serde(skip)]
    count: f64,
}

impl Difference {
    fn add(&mut self, found: &[f32], wanted: &[f32]) {
        for (found, wanted) in found.iter().zip(wanted) {
            let difference = (f64::from(*found) - f64::from(*wanted)).abs();
            let difference = if found == wanted { 0.0 } else { difference };
            self.max_abs = self.max_abs.max(if difference.is_nan() { f64::INFINITY } else { difference });
            self.squares += difference * difference;
            self.peak = self.peak.max(f64::from(wanted.abs()));
        }
        self.count += wanted.len() as f64;
        self.relative = self.max_abs / self.peak.max(f64::MIN_POSITIVE);
        self.rms = (self.squares / self.count.max(1.0)).sqrt();
    }
}

/// One sequence compared as a whole.
#[derive(Clone, Debug, Serialize)]
pub struct WholeReport {
    /// Which one.
    pub name: String,
    /// Its length.
    pub positions: usize,
    /// Over all positions.
    pub difference: Difference,
}

/// One decoding compared step by step.
#[derive(Clone, Debug, Serialize)]
pub struct DecodingReport {
    /// Which one.
    pub name: String,
    /// For each token: its logits against the golden ones. Empty if the golden file has none.
    pub steps: Vec<Difference>,
    /// Over all steps.
    pub difference: Difference,
    /// Tokens compared.
    pub tokens: usize,
    /// How many of them greedy choice gets right (each after the golden ones before it).
    pub equal: usize,
    /// For those it gets wrong: how far at most the golden token's logit is below the chosen one's.
    pub gap: f64,
}

/// Everything compared.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Whole sequences.
    pub whole: Vec<WholeReport>,
    /// Decodings.
    pub decoding: Vec<DecodingReport>,
}

impl Report {
    /// The largest absolute difference.
    pub fn max_abs(&self) -> f64 {
        let whole = self.whole.iter().map(|report| report.difference.max_abs);
        whole.chain(self.decoding.iter().map(|report| report.difference.max_abs)).fold(0.0, f64::max)
    }

    /// The largest absolute value of a golden logit.
    pub fn peak(&self) -> f64 {
        let whole = self.whole.iter().map(|report| report.difference.peak);
        whole.chain(self.decoding.iter().map(|report| report.difference.peak)).fold(0.0, f64::max)
    }

    /// The largest gap of a token that greedy choice gets wrong. Logits that are each off by e make a gap of at most 2e.
    pub fn gap(&self) -> f64 {
        self.decoding.iter().map(|report| report.gap).fold(0.0, f64::max)
    }
}

impl Golden {
    /// Sequences at a time, and positions of the longest, that a session needs for [`verify`].
    pub fn size(&self) -> (usize, usize) {
        let whole = self.whole.iter().map(|whole| whole.ids.len());
        let decoding = self.decoding.iter().map(|decoding| decoding.prompt.len() + decoding.generated.len());
        (self.decoding.len().max(1), whole.chain(decoding).max().unwrap_or(1))
    }
}

/// Compares an artifact with a golden file, in a session of its own.
pub fn compare(artifact: Arc<Artifact>, weights: Arc<Weights>, golden: &Path, threads: usize) -> Result<Report> {
    let golden = Golden::open(golden, &artifact.manifest)?;
    let (slots, capacity) = golden.size();
    let sources = golden.whole.iter().map(|whole| whole.inputs.source_rows(&artifact.manifest));
    let capacity = sources.max().unwrap_or(0).max(capacity);
    let mut session = Session::new(artifact, weights, Settings { threads, capacity, slots })?;
    verify(&mut session, &golden)
}

/// Runs everything in a session that is large enough. All decodings advance together, as one batch.
pub fn verify(session: &mut Session, golden: &Golden) -> Result<Report> {
    let whole = golden.whole.iter().map(|whole| check_whole(session, whole)).collect::<Result<_>>()?;
    let mut reports: Vec<_> = golden.decoding.iter().map(DecodingReport::new).collect();
    for (slot, decoding) in golden.decoding.iter().enumerate() {
        session.reset(slot)?;
        let mut last = Vec::new();
        session.prefill(slot, &decoding.prompt, Wanted::Last, |_, logits| last = logits.to_vec())?;
        reports[slot].add(decoding, 0, &last)?;
    }
    let steps = golden.decoding.iter().map(|decoding| decoding.generated.len()).max().unwrap_or(0);
    for step in 1..steps {
        let active: Vec<_> = golden.decoding.iter().enumerate().filter(|(_, decoding)| step < decoding.generated.len()).collect();
        let tokens: Vec<_> = active.iter().map(|(slot, decoding)| (*slot, decoding.generated[step - 1])).collect();
        let vocab = session.manifest().vocab;
        let logits = session.step(&tokens)?;
        for ((slot, decoding), row) in active.into_iter().zip(logits.chunks(vocab)) {
            reports[slot].add(decoding, step, row)?;
        }
    }
    Ok(Report { whole, decoding: reports })
}

fn check_whole(session: &mut Session, whole: &Whole) -> Result<WholeReport> {
    session.reset(0)?;
    session.give(0, whole.inputs.clone())?;
    let (mut difference, mut rest) = (Difference::default(), &whole.logits[..]);
    let all = rest.len() == whole.ids.len() * session.manifest().vocab;
    session.prefill(0, &whole.ids, if all { Wanted::All } else { Wanted::Last }, |_, logits| {
        let (wanted, others) = rest.split_at(logits.len());
        difference.add(logits, wanted);
        rest = others;
    })?;
    Ok(WholeReport { name: whole.name.clone(), positions: whole.ids.len(), difference })
}

impl DecodingReport {
    fn new(decoding: &Decoding) -> Self {
        Self { name: decoding.name.clone(), steps: Vec::new(), difference: Difference::default(), tokens: 0, equal: 0, gap: 0.0 }
    }

    /// Compares the logits that choose token `step`.
    fn add(&mut self, decoding: &Decoding, step: usize, logits: &[f32]) -> Result<()> {
        if let Some(golden) = &decoding.logits {
            let wanted = &golden[step * logits.len()..][..logits.len()];
            let mut difference = Difference::default();
            difference.add(logits, wanted);
            self.steps.push(difference);
            self.difference.add(logits, wanted);
        }
        self.tokens += 1;
        let (chosen, wanted) = (greedy(logits)?, decoding.generated[step]);
        self.equal += usize::from(chosen == wanted);
        let logit =
            |token: i32| usize::try_from(token).ok().and_then(|token| logits.get(token)).copied().unwrap_or(f32::NEG_INFINITY);
        self.gap = self.gap.max(if chosen == wanted { 0.0 } else { f64::from(logit(chosen) - logit(wanted)) });
        Ok(())
    }
}
