//! Choosing the next token.

use crate::error::{Error, Result};
use crate::random::{Generator, mix};
use std::collections::BTreeSet;

/// How the next token is chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 chooses the likeliest token always.
    pub temperature: f32,
    /// Only the likeliest so many; 0: all.
    pub top_k: usize,
    /// Only the likeliest that together have this probability; 1: all.
    pub top_p: f32,
    /// Divides positive logits, and multiplies negative ones, of tokens that the text holds already (Keskar et al. 2019, arXiv:1909.05858); 1: none.
    pub repetition: f32,
    /// The same seed yields the same tokens from the same logits.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { temperature: 0.0, top_k: 0, top_p: 1.0, repetition: 1.0, seed: 0 }
    }
}

impl Sampling {
    /// Whether the numbers make sense.
    pub fn check(&self) -> Result<()> {
        if !(self.temperature >= 0.0 && self.temperature.is_finite()) {
            return Err(Error::input(format!("temperature {}", self.temperature), "0 (always the likeliest token) or more"));
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return Err(Error::input(format!("top-p {}", self.top_p), "above 0, at most 1"));
        }
        if !(self.repetition > 0.0 && self.repetition.is_finite()) {
            return Err(Error::input(format!("repetition penalty {}", self.repetition), "above 0; 1 is none"));
        }
        Ok(())
    }
}

/// Chooses tokens, one after the other.
pub struct Sampler {
    sampling: Sampling,
    random: Generator,
    candidates: Vec<(f32, i32)>,
    /// Tokens of the text, where that matters.
    seen: BTreeSet<i32>,
}

impl Sampler {
    /// Starts from the seed.
    pub fn new(sampling: Sampling) -> Result<Self> {
        sampling.check()?;
        Ok(Self { sampling, random: Generator(mix(sampling.seed)), candidates: Vec::new(), seen: BTreeSet::new() })
    }

    /// Tells that the text holds a token.
    pub fn note(&mut self, token: i32) {
        if self.sampling.repetition != 1.0 {
            self.seen.insert(token);
        }
    }

    /// Makes what the text holds already less likely.
    pub fn penalise(&self, logits: &mut [f32]) {
        let by = self.sampling.repetition;
        for token in &self.seen {
            if let Some(logit) = usize::try_from(*token).ok().and_then(|at| logits.get_mut(at)) {
                *logit = if *logit > 0.0 { *logit / by } else { *logit * by };
            }
        }
    }

    /// The next token after these logits.
    pub fn choose(&mut self, logits: &[f32]) -> Result<i32> {
        if self.seen.is_empty() {
            return self.pick(logits);
        }
        let mut logits = logits.to_vec();
        self.penalise(&mut logits);
        self.pick(&logits)
    }

    /// A token by logits as they are.
    pub fn pick(&mut self, logits: &[f32]) -> Result<i32> {
        if self.sampling.temperature == 0.0 {
            return greedy(logits);
        }
        self.candidates.clear();
        self.candidates.extend(logits.iter().copied().zip(0..));
        if self.candidates.iter().any(|(logit, _)| logit.is_nan()) || self.candidates.is_empty() {
            return Err(no_number());
        }
        self.keep_likeliest();
        let total = self.keep_top_p();
        let mut left = self.random.unit() * total;
        let chosen = self.candidates.iter().find(|(weight, _)| {
            left -= f64::from(*weight);
            left < 0.0
        });
        // Rounding may leave a rest behind the last one.
        chosen.or(self.candidates.last()).map(|(_, token)| *token).ok_or_else(no_number)
    }

    /// Sorts by falling logit (equal ones by rising token, so that the order never depends on chance); keeps `top_k`.
    fn keep_likeliest(&mut self) {
        let order = |a: &(f32, i32), b: &(f32, i32)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
        let k = self.sampling.top_k;
        if k > 0 && k < self.candidates.len() {
            self.candidates.select_nth_unstable_by(k - 1, order);
            self.candidates.truncate(k);
        }
        self.candidates.sort_unstable_by(order);
    }

    /// Replaces logits by weights and keeps those that reach `top_p` together; returns the sum of the kept.
    fn keep_top_p(&mut self) -> f64 {
        let peak = self.candidates[0].0;
        // Infinite logits (inf - inf is no number): the first one wins.
        let weight = |logit: f32| if logit == peak { 1.0 } else { ((logit - peak) / self.sampling.temperature).exp() };
        self.candidates.iter_mut().for_each(|(logit, _)| *logit = weight(*logit));
        let all: f64 = self.candidates.iter().map(|(weight, _)| f64::from(*weight)).sum();
        let (mut kept, mut sum) = (0, 0.0);
        while kept < self.candidates.len() && (kept == 0 || sum < all * f64::from(self.sampling.top_p)) {
            sum += f64::from(self.candidates[kept].0);
            kept += 1;
        }
        self.candidates.truncate(kept);
        sum
    }
}

/// The likeliest token; the first of equals.
pub fn greedy(logits: &[f32]) -> Result<i32> {
    let mut best = (f32::NEG_INFINITY, None);
    for (token, logit) in (0..).zip(logits) {
        if logit.is_nan() {
            return Err(no_number());
        }
        if *logit > best.0 || best.1.is_none() {
            best = (*logit, Some(token));
        }
    }
    best.1.ok_or_else(no_number)
}

fn no_number() -> Error {
    Error::input("the model yields numbers that are not numbers (NaN)", "are these weights those of the model?")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draw(sampling: Sampling, logits: &[f32], count: usize) -> Vec<i32> {
        let mut sampler = Sampler::new(sampling).unwrap();
        (0..count).map(|_| sampler.choose(logits).unwrap()).collect()
    }

    fn sampling(temperature: f32, top_k: usize, top_p: f32, seed: u64) -> Sampling {
        Sampling { temperature, top_k, top_p, seed, ..Sampling::default() }
    }

    #[test]
    fn greedy_takes_the_first_of_equals() {
        assert_eq!(greedy(&[0.0, 2.0, 2.0, 1.0]).unwrap(), 1);
        assert_eq!(greedy(&[f32::NEG_INFINITY; 2]).unwrap(), 0);
        assert!(greedy(&[0.0, f32::NAN]).is_err() && greedy(&[]).is_err());
    }

    #[test]
    fn frequencies_are_the_softmax() {
        let logits = [1.0f32, 0.0, 2.0, -3.0].map(|x: f32| x * 0.7);
        let counts = draw(sampling(0.7, 0, 1.0, 5), &logits, 40_000).iter().fold([0; 4], |mut counts, token| {
            counts[*token as usize] += 1;
            counts
        });
        let total: f64 = [1f64, 0.0, 2.0, -3.0].iter().map(|x| x.exp()).sum();
        for (count, logit) in counts.iter().zip([1f64, 0.0, 2.0, -3.0]) {
            assert!((f64::from(*count) / 40_000.0 - logit.exp() / total).abs() < 0.01, "{counts:?}");
        }
    }

    #[test]
    fn top_k_and_top_p_cut() {
        let logits = [0.0, 1.0, 3.0, 2.9, -1.0];
        assert!(draw(sampling(1.0, 2, 1.0, 1), &logits, 500).iter().all(|token| [2, 3].contains(token)));
        assert!(draw(sampling(1.0, 0, 0.3, 1), &logits, 500).iter().all(|token| *token == 2));
        assert!(draw(sampling(1.0, 0, 0.6, 1), &logits, 500).contains(&3));
        assert!(draw(sampling(1.0, 1, 1.0, 1), &[f32::INFINITY, 0.0], 9).iter().all(|token| *token == 0));
    }

    #[test]
    fn what_the_text_holds_is_penalised() {
        let mut sampler = Sampler::new(Sampling { repetition: 2.0, ..Sampling::default() }).unwrap();
        assert_eq!(sampler.choose(&[1.0, 3.0, -1.0]).unwrap(), 1);
        [1, 2, 9].iter().for_each(|token| sampler.note(*token));
        assert_eq!(sampler.choose(&[1.6, 3.0, -1.0]).unwrap(), 0);
        let mut logits = [1.0, 3.0, -1.0];
        sampler.penalise(&mut logits);
        assert_eq!(logits, [1.0, 1.5, -2.0]);
        assert!(Sampler::new(Sampling { repetition: 0.0, ..Sampling::default() }).is_err());
    }

    #[test]
    fn seeds_repeat() {
        let logits: Vec<f32> = (0..100).map(|n| (n % 7) as f32).collect();
        assert_eq!(draw(sampling(1.0, 40, 0.9, 3), &logits, 50), draw(sampling(1.0, 40, 0.9, 3), &logits, 50));
        assert_ne!(draw(sampling(1.0, 40, 0.9, 3), &logits, 50), draw(sampling(1.0, 40, 0.9, 4), &logits, 50));
    }

    #[test]
    fn nonsense_is_refused() {
        for (temperature, top_p) in [(-1.0, 1.0), (f32::NAN, 1.0), (f32::INFINITY, 1.0), (1.0, 0.0), (1.0, 1.5), (1.0, f32::NAN)]
        {
            assert!(Sampler::new(sampling(temperature, 0, top_p, 0)).is_err());
        }
    }
}
