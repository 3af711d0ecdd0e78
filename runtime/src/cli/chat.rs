//! `run --chat`: turns of a conversation instead of a text to continue.

use super::run::{Output, Prefilling, RunOptions, report, summary};
use super::{print, print_json, tell};
use crate::chat::{Message, Template};
use crate::checkpoint::GenerationConfig;
use crate::error::{Error, Result};
use crate::generate::{Outcome, Request, generate};
use crate::session::Session;
use crate::tokenizer::Tokenizer;
use std::io::{BufRead, IsTerminal};
use std::path::Path;
use std::time::Instant;

/// Positions that caches hold if nobody says how many.
const CONTEXT: usize = 2048;

/// A conversation that goes on.
struct Chat<'a> {
    options: &'a RunOptions,
    config: GenerationConfig,
    tokenizer: Tokenizer,
    template: Template,
    session: Session,
    messages: Vec<Message>,
    /// The tokens that the session has seen.
    seen: Vec<i32>,
}

/// One answer to `--prompt`, or one to each line of standard input.
pub fn chat(artifact: &Path, options: &RunOptions) -> Result<()> {
    let start = Instant::now();
    let tokenizer = options.tokenizer()?;
    let tokenizer =
        tokenizer.ok_or_else(|| Error::input("no tokenizer beside the weights", "name one with `--tokenizer FILE`"))?;
    let template = Template::find(Path::new(&options.model.weights))?;
    let (artifact, weights) = options.model.load(artifact)?;
    let session = super::run::session((artifact, weights), options, options.context.unwrap_or(CONTEXT), 1)?;
    let system = options.system.iter().map(|text| Message { role: "system", content: text.clone() });
    let messages = system.collect();
    let mut chat = Chat { options, config: options.config()?, tokenizer, template, session, messages, seen: Vec::new() };
    let load = start.elapsed();
    if let Some(prompt) = &options.prompt {
        let (request, outcome) = chat.turn(prompt)?;
        if options.json {
            return print_json(&report(&chat.session, &request, &outcome, Some(&chat.tokenizer), load)?);
        }
        tell(&summary(&chat.session, &request, &outcome, load));
        return Ok(());
    }
    let (input, asks) = (std::io::stdin(), std::io::stdin().is_terminal());
    loop {
        if asks {
            print("> ")?;
        }
        let mut line = String::new();
        let read = input.lock().read_line(&mut line).map_err(Error::file("read", Path::new("standard input")))?;
        match line.trim() {
            _ if read == 0 => return Ok(()),
            "" => {}
            said => drop(chat.turn(said)?),
        }
    }
}

impl Chat<'_> {
    /// Says something and prints the answer.
    fn turn(&mut self, said: &str) -> Result<(Request, Outcome)> {
        self.messages.push(Message { role: "user", content: said.into() });
        let whole = self.tokenizer.encode(&self.template.render(&self.messages)?, false)?;
        let prompt = self.fresh(&whole)?;
        let mut request = self.options.request(prompt, self.config.clone());
        // The next turn goes on behind the whole answer; without a wish the answer may take what room there is.
        request.whole = true;
        let room = self.session.room(0)?.saturating_sub(request.prompt.len());
        request.max_tokens = self.options.max_tokens.or(self.config.max_tokens).unwrap_or(room);
        request.sampling.check()?;
        let mut output = Output::new(Some(&self.tokenizer), &whole, self.options.json);
        let bar = Prefilling::new(&self.session, &request);
        let outcome = generate(&mut self.session, &request, |done| bar.done(done), |token| output.token(token))?;
        output.end()?;
        self.seen = [&whole[..], &outcome.tokens].concat();
        self.messages.push(Message { role: "assistant", content: self.tokenizer.decode(&outcome.tokens)? });
        Ok((request, outcome))
    }

    /// What of the conversation's tokens the session has not seen; where it has seen others, it goes back.
    fn fresh(&mut self, whole: &[i32]) -> Result<Vec<i32>> {
        let same = self.seen.iter().zip(whole).take_while(|(a, b)| a == b).count().min(whole.len().saturating_sub(1));
        let mut from = same;
        if same < self.seen.len() && self.session.truncate(0, same).is_err() {
            self.session.reset(0)?;
            from = 0;
        }
        Ok(whole[from..].to_vec())
    }
}
