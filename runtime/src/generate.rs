//! The loop of autoregressive generation.

use crate::error::{Error, Result};
use crate::sample::{Sampler, Sampling};
use crate::session::{Session, Wanted};
use std::time::{Duration, Instant};

/// What to generate.
#[derive(Clone, Debug)]
pub struct Request {
    /// What stands before.
    pub prompt: Vec<i32>,
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
}

/// Positions that a request needs: the last token is not fed again.
pub fn positions(request: &Request) -> usize {
    request.prompt.len() + request.max_tokens.saturating_sub(1)
}

/// Generates in slot 0 of a fresh session. `prefilled` hears how much of the prompt is done, `each` every token as it comes.
pub fn generate(
    session: &mut Session,
    request: &Request,
    mut prefilled: impl FnMut(usize),
    mut each: impl FnMut(i32) -> Result<()>,
) -> Result<Outcome> {
    if !session.manifest().autoregressive {
        return Err(Error::input("the model does not generate: it has no `generate autoregressive`", "use `logits` instead"));
    }
    let room = session.room(0)?;
    if positions(request) > room {
        return Err(Error::Context { wanted: positions(request), capacity: room });
    }
    let mut sampler = Sampler::new(request.sampling)?;
    let start = Instant::now();
    let mut first = Ok(0);
    session.prefill(0, &request.prompt, Wanted::Last, |done, logits| {
        prefilled(done);
        if !logits.is_empty() {
            first = sampler.choose(logits);
        }
    })?;
    let (prefill, start) = (start.elapsed(), Instant::now());
    let mut outcome = Outcome { tokens: Vec::new(), stopped: false, prefill, decode: Duration::ZERO, steps: 0 };
    let mut token = first?;
    while outcome.tokens.len() < request.max_tokens {
        if request.stop.contains(&token) {
            outcome.stopped = true;
            break;
        }
        outcome.tokens.push(token);
        each(token)?;
        if outcome.tokens.len() < request.max_tokens {
            token = sampler.choose(session.step(&[(0, token)])?)?;
            outcome.steps += 1;
        }
    }
    outcome.decode = start.elapsed();
    Ok(outcome)
}
