//! How parameters are stored: what stands behind `as` in a `param`, and `store "pattern" as type` in a block or behind a model that is made from
//! another one. Who uses a block has the last word: what is said outside counts more than what is said inside.

use super::frame::Frame;
use super::{Done, Elab};
use crate::ast::{Expr, Ident, Store};
use crate::diagnostic::{Code, Diagnostic, did_you_mean};
use crate::model::{Constant, Storage, Stored};
use crate::span::Span;

/// What is said of some parameters.
pub struct Rule {
    /// How much it counts: what is said later counts more, among equals.
    rank: Rank,
    /// Names with `*` for parts of them, one behind the other.
    pattern: String,
    /// Whether there has to be such a parameter.
    needed: bool,
    /// The pattern's place.
    at: Span,
    stored: Stored,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    /// Inside of so many instances more than another one.
    Inside(std::cmp::Reverse<usize>),
    /// Behind a model made from another one; so many stand between it and what is compiled.
    Outside(std::cmp::Reverse<usize>),
}

impl<'p> Elab<'p> {
    /// `param a, b: [..] as type`
    pub(super) fn params_are_stored(&mut self, frame: &mut Frame<'p>, names: &'p [Ident], storage: &'p Expr) -> Done<()> {
        let stored = self.storage(frame, storage)?;
        for name in names {
            let rank = Rank::Inside(std::cmp::Reverse(depth(&frame.path)));
            self.stores.push(Rule { rank, pattern: frame.below(&name.name), needed: false, at: name.span, stored });
        }
        Ok(())
    }

    /// `store "pattern" as type` in a block.
    pub(super) fn are_stored(&mut self, frame: &mut Frame<'p>, store: &'p Store) -> Done<()> {
        let stored = self.storage(frame, &store.storage)?;
        let rank = Rank::Inside(std::cmp::Reverse(depth(&frame.path)));
        self.stores.push(Rule { rank, pattern: frame.below(&store.pattern.name), needed: true, at: store.pattern.span, stored });
        Ok(())
    }

    /// The same behind a model, of which so many are made from it.
    pub(super) fn alias_stores(&mut self, frame: &mut Frame<'p>, outside: usize, stores: &'p [Store]) -> Done<()> {
        for store in stores {
            let stored = self.storage(frame, &store.storage)?;
            let (pattern, at) = (store.pattern.name.clone(), store.pattern.span);
            self.stores.push(Rule { rank: Rank::Outside(std::cmp::Reverse(outside)), pattern, needed: true, at, stored });
        }
        Ok(())
    }

    fn storage(&mut self, frame: &mut Frame<'p>, expr: &'p Expr) -> Done<Stored> {
        let names = || Storage::ALL.iter().map(|storage| storage.name());
        let hint = || format!("they are {}", names().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", "));
        let Constant::Text(name) = self.constant(frame, expr)? else {
            let error = Diagnostic::new(Code::Type, expr.span, "how something is stored is a text");
            return Err(self.error(error.hint(hint())));
        };
        match Storage::ALL.into_iter().find(|storage| storage.name() == name) {
            Some(storage) => Ok(Stored { storage, span: expr.span }),
            None => {
                let error = Diagnostic::new(Code::UnknownName, expr.span, format!("nothing is stored as \"{name}\""));
                Err(self.error(error.hint(did_you_mean(&name, names()).unwrap_or_else(hint))))
            }
        }
    }

    /// Tells every parameter how it is stored; an error for each pattern that no parameter fits.
    pub(super) fn settle_storage(&mut self) -> Done<()> {
        let mut rules = std::mem::take(&mut self.stores);
        rules.sort_by_key(|rule| rule.rank);
        let mut done = Ok(());
        for rule in &rules {
            let mut fits = false;
            for param in self.params.iter_mut().filter(|param| covers(&rule.pattern, &param.path)) {
                fits = true;
                param.stored = Some(rule.stored);
            }
            if rule.needed && !fits {
                let known: Vec<&str> = self.params.iter().map(|param| param.path.as_str()).collect();
                let some = known.iter().take(4).copied().collect::<Vec<_>>().join(", ");
                let more = if known.len() > 4 { ", …" } else { "" };
                let message = format!("no parameter is called `{}`", rule.pattern);
                let error = Diagnostic::new(Code::UnknownName, rule.at, message);
                let near = did_you_mean(&rule.pattern, known.iter().copied());
                let hint = near.unwrap_or_else(|| format!("there are {some}{more}; `*` stands for any part of a name"));
                done = Err(self.error(error.hint(hint)));
            }
        }
        done
    }
}

/// How many names a path has.
fn depth(path: &str) -> usize {
    path.split('.').filter(|name| !name.is_empty()).count()
}

/// Whether a pattern is that of a parameter, or of an instance that it belongs to.
fn covers(pattern: &str, path: &str) -> bool {
    let mut names = path.split('.');
    pattern.split('.').all(|part| names.next().is_some_and(|name| fits(part, name)))
}

/// Whether a name is a pattern's, in which `*` stands for any part of it.
fn fits(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((before, after)) => match name.strip_prefix(before) {
            None => false,
            Some(rest) => (0..=rest.len()).any(|at| rest.is_char_boundary(at) && fits(after, &rest[at..])),
        },
    }
}
