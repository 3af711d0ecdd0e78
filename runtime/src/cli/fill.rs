//! `run` for models that fill masks: the text is shown with its masks, and tokens appear in place.

use super::{RunOptions, print, print_json, rate, tell};
use crate::artifact::Unmask;
use crate::error::{Error, Result};
use crate::load::Artifact;
use crate::session::Session;
use crate::tokenizer::Tokenizer;
use crate::unmask::{Fill, Filled, fill, slots};
use crate::weights::Weights;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What stands for a mask.
const MASK: &str = "▒";

/// What is filled: the text with masks behind it.
pub struct Wish {
    /// The text.
    pub prompt: Vec<i32>,
    /// Masks to put behind it.
    pub more: usize,
    /// Sampling and stop tokens, and a declaration that the options have not changed yet.
    pub fill: Fill,
}

/// The model's declaration with the changes of the command line.
pub fn declared(how: &Unmask, options: &RunOptions) -> Result<Unmask> {
    let mut how = how.clone();
    how.block = options.span.unwrap_or(how.block);
    how.steps = options.steps.unwrap_or(if options.span.is_some() { how.block } else { how.steps });
    how.guidance = options.guidance.unwrap_or(how.guidance);
    if !(how.guidance >= 0.0 && how.guidance.is_finite()) {
        return Err(Error::input(format!("guidance {}", how.guidance), "0 (none) or more"));
    }
    if how.block == 0 || how.steps == 0 {
        return Err(Error::input("no span or no step", "at least 1 each"));
    }
    if options.load_state.is_some() || options.save_state.is_some() {
        let hint = "a text is filled as a whole: leave `--load-state` and `--save-state` out";
        return Err(Error::input("a model that fills masks keeps no state between runs", hint));
    }
    Ok(how)
}

/// Fills, and prints every pass.
pub fn run(
    (artifact, weights): (Arc<Artifact>, Arc<Weights>),
    wish: Wish,
    tokenizer: Option<&Tokenizer>,
    options: &RunOptions,
    start: Instant,
) -> Result<()> {
    let Wish { prompt, more, fill: task } = wish;
    let text = [&prompt[..], &vec![task.how.mask; more]].concat();
    let (slots, capacity) = (slots(&task.how), options.context.unwrap_or(text.len()));
    let task = Fill { text, ..task };
    let mut session = super::run::session((artifact, weights), options, capacity, slots)?;
    let load = start.elapsed();
    let screen = Screen::new(tokenizer, task.how.mask, options.json);
    let mut steps = Vec::new();
    let filled = fill(&mut session, &task, |text| {
        steps.push(text.to_vec());
        screen.show(text, steps.len())
    })?;
    let end = end(&filled.text, &prompt, &task);
    if options.json {
        return print_json(&report(&session, &prompt, (&filled, end), &steps, (tokenizer, load))?);
    }
    screen.end(&filled.text[..end])?;
    tell(&summary(&session, &filled, load));
    Ok(())
}

/// Where the text ends: before the first stop token that was chosen.
fn end(text: &[i32], prompt: &[i32], task: &Fill) -> usize {
    let chosen = |at: usize| prompt.get(at).is_none_or(|token| *token == task.how.mask);
    (0..text.len()).find(|at| chosen(*at) && task.stop.contains(&text[*at])).unwrap_or(text.len())
}

/// Where passes are shown.
struct Screen<'a> {
    tokenizer: Option<&'a Tokenizer>,
    mask: i32,
    silent: bool,
    /// Hidden if the output is no terminal.
    bar: ProgressBar,
}

impl<'a> Screen<'a> {
    fn new(tokenizer: Option<&'a Tokenizer>, mask: i32, silent: bool) -> Self {
        let target = if silent { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stdout() };
        let bar = ProgressBar::with_draw_target(None, target);
        bar.set_style(ProgressStyle::with_template("{msg}").unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self { tokenizer, mask, silent, bar }
    }

    /// On a terminal in the place of what was there, elsewhere as a line of its own.
    fn show(&self, text: &[i32], pass: usize) -> Result<()> {
        if self.silent {
            return Ok(());
        }
        let text = self.text(text)?;
        if self.bar.is_hidden() {
            return print(&format!("{pass:>4}  {}\n", text.replace('\n', "⏎")));
        }
        self.bar.set_message(text);
        Ok(())
    }

    fn end(&self, text: &[i32]) -> Result<()> {
        self.bar.finish_and_clear();
        print(&format!("{}\n", self.text(text)?))
    }

    /// The text, with a sign for each mask.
    fn text(&self, ids: &[i32]) -> Result<String> {
        let Some(tokenizer) = self.tokenizer else {
            let word = |id: &i32| if *id == self.mask { MASK.to_string() } else { id.to_string() };
            return Ok(ids.iter().map(word).collect::<Vec<_>>().join(","));
        };
        let mut text = String::new();
        for run in ids.chunk_by(|a, b| (*a == self.mask) == (*b == self.mask)) {
            text += &if run[0] == self.mask { MASK.repeat(run.len()) } else { tokenizer.decode(run)? };
        }
        Ok(text)
    }
}

fn summary(session: &Session, filled: &Filled, load: Duration) -> String {
    format!(
        "loaded in {:.2} s · {} tokens in {} passes, {:.1} tokens/s · {}",
        load.as_secs_f64(),
        filled.chosen,
        filled.passes,
        rate(filled.chosen, filled.elapsed),
        session.engine()
    )
}

fn report(
    session: &Session,
    prompt: &[i32],
    (filled, end): (&Filled, usize),
    steps: &[Vec<i32>],
    (tokenizer, load): (Option<&Tokenizer>, Duration),
) -> Result<serde_json::Value> {
    Ok(serde_json::json!({
        "model": session.manifest().model,
        "target": session.manifest().target,
        "engine": session.engine(),
        "threads": session.threads(),
        "prompt_ids": prompt,
        "ids": filled.text,
        "text": tokenizer.map(|tokenizer| tokenizer.decode(&filled.text[..end])).transpose()?,
        "passes": filled.passes,
        "steps": steps,
        "load_seconds": load.as_secs_f64(),
        "fill": {
            "tokens": filled.chosen,
            "seconds": filled.elapsed.as_secs_f64(),
            "tokens_per_second": rate(filled.chosen, filled.elapsed),
        },
    }))
}
