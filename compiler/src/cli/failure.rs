//! Everything that can go wrong, and how it is shown.

use braid_compiler::error::Error;
use braid_compiler::import::ImportError;
use braid_dsl::diagnostic::Diagnostic;
use braid_dsl::source::SourceMap;
use braid_dsl::span::Span;
use braid_runtime::cli::tell;
use codespan_reporting::diagnostic::{Diagnostic as Shown, Label};
use codespan_reporting::files::SimpleFiles;
use codespan_reporting::term::termcolor::{ColorChoice, StandardStream};
use codespan_reporting::term::{self, Config};
use std::io::IsTerminal;
use std::path::Path;

/// Why a command did not do its work.
pub enum Failure {
    /// Errors in a spec, each with its place.
    Spec(Vec<Diagnostic>, SourceMap),
    /// The compiler's, with the sources that its places point into.
    Compiler(Error, SourceMap),
    /// Of the importer.
    Import(ImportError),
    /// While an artifact was loaded or run.
    Runtime(braid_runtime::Error),
    /// An error without a place: one sentence and maybe what to do.
    User(String, Option<String>),
}

impl Failure {
    /// The user's error.
    pub fn user(what: impl Into<String>) -> Self {
        Self::User(what.into(), None)
    }

    /// The user's error and what to do.
    pub fn hinted(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::User(what.into(), Some(hint.into()))
    }

    /// A file that cannot be read or written.
    pub fn file(verb: &str, path: &Path, error: &std::io::Error) -> Self {
        Self::user(format!("cannot {verb} {}: {error}", path.display()))
    }

    /// The exit code.
    pub fn code(&self) -> u8 {
        match self {
            Self::Compiler(error, _) => error.exit_code(),
            Self::Runtime(error) => error.exit_code(),
            Self::Import(ImportError::Unsupported { .. }) => 3,
            Self::Import(ImportError::Rule(_)) => 4,
            _ => 1,
        }
    }

    /// Shows it on stderr.
    pub fn show(&self) {
        match self {
            Self::Spec(found, sources) => {
                found.iter().for_each(|d| show(&with_place(d), sources));
                if found.len() > 1 {
                    tell(&format!("{} errors", found.len()));
                }
            }
            Self::Compiler(error, sources) => show(&of_compiler(error), sources),
            Self::Import(error) => show(&plain(&error.to_string(), None), &SourceMap::default()),
            Self::Runtime(error) => show(&plain(&error.to_string(), error.hint()), &SourceMap::default()),
            Self::User(what, hint) => show(&plain(what, hint.as_deref()), &SourceMap::default()),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Compiler(error, SourceMap::default())
    }
}

impl From<braid_runtime::Error> for Failure {
    fn from(error: braid_runtime::Error) -> Self {
        Self::Runtime(error)
    }
}

fn plain(what: &str, hint: Option<&str>) -> Shown<usize> {
    Shown::error().with_message(what).with_notes(hint.map(|h| format!("hint: {h}")).into_iter().collect())
}

fn label(primary: bool, span: Span, text: &str) -> Label<usize> {
    let (file, range) = (span.file.0 as usize, span.start as usize..span.end as usize);
    let label = if primary { Label::primary(file, range) } else { Label::secondary(file, range) };
    label.with_message(text)
}

fn with_place(found: &Diagnostic) -> Shown<usize> {
    let mut labels = vec![label(true, found.span, &found.label)];
    labels.extend(found.secondary.iter().map(|(span, text)| label(false, *span, text)));
    let hint = found.hint.iter().map(|h| format!("hint: {h}"));
    let notes = found.notes.iter().cloned().chain(hint).collect();
    Shown::error().with_code(found.code.to_string()).with_message(&found.message).with_labels(labels).with_notes(notes)
}

fn of_compiler(error: &Error) -> Shown<usize> {
    match error {
        Error::User { what, hint } => plain(what, hint.as_deref()),
        Error::Limit { at, .. } => {
            let labels = at.iter().map(|span| label(true, *span, "this construct")).collect();
            let note = "a limit of this version of Braid, not an error in the spec".to_string();
            Shown::error().with_message(error.to_string()).with_labels(labels).with_notes(vec![note])
        }
        _ => plain(&error.to_string(), Some("please report it with the spec and the command")),
    }
}

fn show(found: &Shown<usize>, sources: &SourceMap) {
    let mut files = SimpleFiles::new();
    for source in &sources.files {
        files.add(source.path.as_str(), source.text.as_str());
    }
    let choice = if std::io::stderr().is_terminal() { ColorChoice::Auto } else { ColorChoice::Never };
    let stream = StandardStream::stderr(choice);
    // A place outside of the sources must not hide the message.
    if term::emit(&mut stream.lock(), &Config::default(), &files, found).is_err() {
        tell(&format!("error: {}", found.message));
    }
}
