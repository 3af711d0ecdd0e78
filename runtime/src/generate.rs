//! The loop of autoregressive generation.

use crate::error::{Error, Result};
use crate::sample::{Sampler, Sampling};
use crate::session::{Session, Wanted};
use std::time::{Duration, Instant};

/// What to generate.
#[derive(Clone, Debug)]
pub struct Request {
    /// What stands before, behind what the slot has seen already.
    pub prompt: Vec<i32>,
    /// The logits of the last token that the slot has seen; needed if the prompt is empty.
    pub follows: Vec<f32>,
    /// Feed the last token too, so that the slot has seen the whole text in the end.
    pub whole: bool,
    /// At most so many tokens.
    pub max_tokens: usize,
    /// Tokens that end the text; they are not part of it.
    pub stop: Vec<i32>,
    /// How tokens are chosen.
    pub sampling: Sampling,
}

/// What was generated, and how long it took.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Without the token that ended it.
    pub tokens: Vec<i32>,
    /// Whether a stop token ended it.
    pub stopped: bool,
    /// From the prompt to its last logits.
    pub prefill: Duration,
    /// All later calls, sampling included.
    pub decode: Duration,
    /// Calls in `decode`.
    pub steps: usize,
    /// The logits of the last token that was fed.
    pub next: Vec<f32>,
}

/// Positions that a request needs: the last token is fed only if that is asked for.
pub fn positions(request: &Request) -> usize {
    let fed = if request.whole { request.max_tokens } else { request.max_tokens.saturating_sub(1) };
    request.prompt.len() + fed
}

/// Generates in slot 0, after what it has seen. `prefilled` hears how much of the prompt is done, `each` every token as it comes.
pub fn generate(
    session: &mut Session,
    request: &Request,
    prefilled: impl FnMut(usize),
    mut each: impl FnMut(i32) -> Result<()>,
) -> Result<Outcome> {
    check(session, request)?;
    let mut sampler = Sampler::new(request.sampling)?;
    request.prompt.iter().for_each(|token| sampler.note(*token));
    let start = Instant::now();
    let mut token = first(session, request, &mut sampler, prefilled)?;
    let (prefill, start) = (start.elapsed(), Instant::now());
    let mut outcome = Outcome { tokens: vec![], stopped: false, prefill, decode: Duration::ZERO, steps: 0, next: vec![] };
    while outcome.tokens.len() < request.max_tokens {
        if request.stop.contains(&token) {
            outcome.stopped = true;
            break;
        }
        outcome.tokens.push(token);
        sampler.note(token);
        each(token)?;
        if request.whole || outcome.tokens.len() < request.max_tokens {
            token = sampler.choose(session.step(&[(0, token)])?)?;
            outcome.steps += 1;
        }
    }
    outcome.decode = start.elapsed();
    let fed = outcome.steps > 0 || !request.prompt.is_empty();
    outcome.next = if fed { session.logits() } else { &request.follows }.to_vec();
    Ok(outcome)
}

fn check(session: &Session, request: &Request) -> Result<()> {
    if !session.manifest().autoregressive {
        return Err(Error::input("the model does not generate: it has no `generate autoregressive`", "use `logits` instead"));
    }
    session.gives_logits()?;
    if request.prompt.is_empty() && request.follows.is_empty() {
        return Err(Error::input("an empty prompt: there is nothing to predict from", "give at least one token"));
    }
    session.takes(0, positions(request))
}

/// Feeds the prompt and chooses what follows it.
fn first(session: &mut Session, request: &Request, sampler: &mut Sampler, mut prefilled: impl FnMut(usize)) -> Result<i32> {
    if request.prompt.is_empty() {
        return sampler.choose(&request.follows);
    }
    let mut first = Ok(0);
    session.prefill(0, &request.prompt, Wanted::Last, |done, logits| {
        prefilled(done);
        if !logits.is_empty() {
            first = sampler.choose(logits);
        }
    })?;
    first
}
