//! Masked diffusion: a text with mask tokens in it is filled, some positions in each pass (Nie et al. 2025, arXiv:2502.09992).
//!
//! Blocks are filled from left to right. Where every position sees every other one, each pass feeds the whole text. Where blocks see only
//! themselves and what is before (Arriola et al. 2025, arXiv:2503.09573), finished blocks stay in the caches and a pass feeds one block.

use crate::artifact::Unmask;
use crate::error::{Error, Result};
use crate::random::{Generator, mix};
use crate::sample::{Sampler, Sampling, greedy};
use crate::session::{Session, Wanted};
use std::time::{Duration, Instant};

/// What to fill.
#[derive(Clone, Debug)]
pub struct Fill {
    /// The text; mask tokens stand where something is to be chosen, everything else stays.
    pub text: Vec<i32>,
    /// How.
    pub how: Unmask,
    /// How the candidate of a position is chosen.
    pub sampling: Sampling,
    /// Tokens that end the text: no block is begun after one that holds such a token.
    pub stop: Vec<i32>,
}

/// A filled text.
#[derive(Clone, Debug)]
pub struct Filled {
    /// As long as it was; mask tokens are left only behind a stop token.
    pub text: Vec<i32>,
    /// Passes that chose tokens.
    pub passes: usize,
    /// Positions that were chosen.
    pub chosen: usize,
    /// All of it.
    pub elapsed: Duration,
}

/// Sequences at a time that a session needs: guidance looks at the text without its prompt too.
pub fn slots(how: &Unmask) -> usize {
    if how.guidance > 0.0 { 2 } else { 1 }
}

/// Fills a text. `each` sees the text after every pass.
///
/// # Errors
/// A model without `generate masked_diffusion`, a text that does not fit, blocks that do not fit the model's own.
pub fn fill(session: &mut Session, fill: &Fill, mut each: impl FnMut(&[i32]) -> Result<()>) -> Result<Filled> {
    let start = Instant::now();
    let mut work = Work::new(session, fill)?;
    for (begin, end) in work.blocks()? {
        work.finish_before(begin)?;
        for step in 0..fill.how.steps {
            if work.pass((begin, end), fill.how.steps - step)? {
                each(&work.text)?;
            }
        }
        if work.text[begin..end].iter().any(|token| fill.stop.contains(token)) {
            break;
        }
    }
    let Work { text, passes, chosen, .. } = work;
    Ok(Filled { text, passes, chosen, elapsed: start.elapsed() })
}

struct Work<'a> {
    session: &'a mut Session,
    fill: &'a Fill,
    chooser: Chooser,
    text: Vec<i32>,
    /// The text without what was given.
    bare: Vec<i32>,
    passes: usize,
    chosen: usize,
}

impl<'a> Work<'a> {
    fn new(session: &'a mut Session, fill: &'a Fill) -> Result<Self> {
        if session.manifest().unmask.is_none() {
            let hint = "use `logits` or `run` as it was compiled";
            return Err(Error::input("the model does not fill masks: it has no `generate masked_diffusion`", hint));
        }
        session.gives_logits()?;
        let chooser = Chooser::new(&fill.how, fill.sampling, &fill.text)?;
        let bare = vec![fill.how.mask; fill.text.len()];
        Ok(Self { session, fill, chooser, text: fill.text.clone(), bare, passes: 0, chosen: 0 })
    }

    /// Where blocks begin and end: from the first mask on, or where the model's own blocks lie.
    fn blocks(&self) -> Result<Vec<(usize, usize)>> {
        let (size, own) = (self.fill.how.block, self.own_block());
        if !size.is_multiple_of(own) {
            let what = format!("blocks of {size} tokens, of a model whose blocks of {own} positions see each other");
            return Err(Error::input(what, "give a multiple of that"));
        }
        let Some(first) = self.text.iter().position(|token| *token == self.fill.how.mask) else { return Ok(vec![]) };
        let count = self.text.len();
        Ok((first / own * own..count).step_by(size).map(|begin| (begin, (begin + size).min(count))).collect())
    }

    fn own_block(&self) -> usize {
        self.session.manifest().block_rows
    }

    /// Whether a pass feeds the whole text.
    fn is_whole(&self) -> bool {
        self.session.manifest().first_rows.is_none()
    }

    /// Stores what stands before a block, where that is final.
    fn finish_before(&mut self, begin: usize) -> Result<()> {
        if self.is_whole() {
            return Ok(());
        }
        for slot in 0..slots(&self.fill.how) {
            let text = if slot == 0 { &self.text } else { &self.bare };
            // The last pass over a block saw masks in it.
            let from =
                self.session.position(slot)?.saturating_sub(self.fill.how.block) / self.fill.how.block * self.fill.how.block;
            let from = from.min(begin);
            self.session.truncate(slot, from)?;
            if from < begin {
                self.session.prefill(slot, &text[from..begin], Wanted::None, |_, _| ())?;
            }
        }
        Ok(())
    }

    /// One pass over a block; `left`: passes that are left with this one. Whether anything was chosen.
    fn pass(&mut self, (begin, end): (usize, usize), left: usize) -> Result<bool> {
        let mask = self.fill.how.mask;
        let masked = self.text[begin..end].iter().filter(|token| **token == mask).count();
        let count = masked.div_ceil(left);
        if count == 0 {
            return Ok(false);
        }
        let mut logits = self.logits(0, (begin, end))?;
        if self.fill.how.guidance > 0.0 {
            let w = self.fill.how.guidance;
            let bare = self.logits(1, (begin, end))?;
            logits.iter_mut().zip(bare).for_each(|(own, bare)| *own = bare + (w + 1.0) * (*own - bare));
        }
        for (place, token) in self.chooser.choose(&self.text[begin..end], &logits, count)? {
            (self.text[begin + place], self.bare[begin + place]) = (token, token);
        }
        self.passes += 1;
        self.chosen += count;
        Ok(true)
    }

    fn logits(&mut self, slot: usize, (begin, end): (usize, usize)) -> Result<Vec<f32>> {
        let text = if slot == 0 { &self.text } else { &self.bare };
        let logits = match self.session.manifest().first_rows.is_none() {
            true => self.session.replace(slot, 0, text, Wanted::Span(begin, end))?,
            false => self.session.replace(slot, begin, &text[begin..end], Wanted::All)?,
        };
        Ok(logits.to_vec())
    }
}

/// Chooses what a pass keeps.
pub struct Chooser {
    how: Unmask,
    sampler: Sampler,
    random: Generator,
}

impl Chooser {
    /// For a text that is there in part already.
    pub fn new(how: &Unmask, sampling: Sampling, text: &[i32]) -> Result<Self> {
        let mut sampler = Sampler::new(sampling)?;
        text.iter().filter(|token| **token != how.mask).for_each(|token| sampler.note(*token));
        Ok(Self { how: how.clone(), sampler, random: Generator(mix(!sampling.seed)) })
    }

    /// The places of a block, with their tokens, that are filled by these logits (`[block][vocab]`): of the masked ones the `count` whose
    /// candidates are the most probable, the first of equals.
    pub fn choose(&mut self, block: &[i32], logits: &[f32], count: usize) -> Result<Vec<(usize, i32)>> {
        let vocab = logits.len() / block.len().max(1);
        let mut found = Vec::new();
        let mask = self.how.mask;
        for (place, row) in logits.chunks(vocab).enumerate().filter(|(place, _)| block[*place] == mask) {
            let (token, confidence) = self.candidate(row.to_vec())?;
            let confidence = if self.how.random { self.random.unit() } else { confidence };
            found.push((confidence, place, token));
        }
        found.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        found.truncate(count);
        found.iter().for_each(|(_, _, token)| self.sampler.note(*token));
        Ok(found.into_iter().map(|(_, place, token)| (place, token)).collect())
    }

    /// A token for a row of logits, and its probability among all that may stand there.
    fn candidate(&mut self, mut row: Vec<f32>) -> Result<(i32, f64)> {
        for token in &self.how.never {
            row.get_mut(*token as usize).into_iter().for_each(|logit| *logit = f32::NEG_INFINITY);
        }
        self.sampler.penalise(&mut row);
        greedy(&row)?;
        let all = row.clone();
        row.get_mut(self.how.mask as usize).into_iter().for_each(|logit| *logit = f32::NEG_INFINITY);
        let token = self.sampler.pick(&row)?;
        let most = all.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let weight = |logit: f32| f64::from(logit - most).exp();
        Ok((token, weight(all[token as usize]) / all.iter().map(|logit| weight(*logit)).sum::<f64>()))
    }
}
