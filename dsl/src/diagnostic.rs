//! Errors in the user's text, as data.

use std::fmt::{self, Write as _};

use crate::{source::SourceMap, span::Span};

/// What kind of error it is; printed as `E001` and so on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Code {
    /// The text does not follow the grammar.
    Syntax = 1,
    /// A name that nothing declares.
    UnknownName = 2,
    /// A name that is declared twice.
    Duplicate = 3,
    /// An import that leads nowhere.
    UnknownModule = 4,
    /// Imports in a circle.
    CyclicImport = 5,
    /// Axes that do not fit each other.
    AxisMismatch = 6,
    /// An axis that an operand does not have.
    UnknownAxis = 7,
    /// A wrong number of arguments or results.
    Arity = 8,
    /// A compile-time argument that the callee does not have.
    UnknownArgument = 9,
    /// A compile-time argument that is needed and not given.
    MissingArgument = 10,
    /// A `where` constraint that does not hold.
    Constraint = 11,
    /// A value of a wrong kind.
    Type = 12,
    /// A tensor where a compile-time value is needed.
    NotConstant = 13,
    /// A `match` without an arm for the value.
    NoArm = 14,
    /// A definition that uses itself without end.
    Recursion = 15,
    /// A block instance that is called twice without `share`.
    CalledTwice = 16,
    /// Attention to later positions in an autoregressive model.
    NonCausal = 17,
    /// Arithmetic that has no result.
    Arithmetic = 18,
    /// Something too large.
    TooLarge = 19,
    /// A construct in a place where it cannot stand.
    Misplaced = 20,
    /// Nesting beyond the limit.
    TooDeep = 21,
    /// A file without a model.
    NoModel = 22,
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "E{:03}", *self as u32)
    }
}

/// One error: what, where, why, and what to do.
#[derive(Clone, Debug, PartialEq)]
pub struct Diagnostic {
    /// The kind.
    pub code: Code,
    /// One sentence.
    pub message: String,
    /// The place.
    pub span: Span,
    /// What is wrong at the place; may be empty.
    pub label: String,
    /// Other places that matter.
    pub secondary: Vec<(Span, String)>,
    /// The trail of instantiations, and other facts.
    pub notes: Vec<String>,
    /// What to write instead, if known.
    pub hint: Option<String>,
}

impl Diagnostic {
    /// An error at a place.
    pub fn new(code: Code, span: Span, message: impl Into<String>) -> Self {
        Diagnostic {
            code,
            message: message.into(),
            span,
            label: String::new(),
            secondary: Vec::new(),
            notes: Vec::new(),
            hint: None,
        }
    }

    /// Says what is wrong at the place.
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }

    /// Points to another place.
    pub fn at(mut self, span: Span, label: impl Into<String>) -> Self {
        self.secondary.push((span, label.into()));
        self
    }

    /// Adds a fact.
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }

    /// Says what to do.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Says what to do, if there is something to say.
    pub fn maybe_hint(mut self, hint: Option<String>) -> Self {
        self.hint = hint.or(self.hint);
        self
    }

    /// Plain text with the place and the line of source.
    pub fn render(&self, sources: &SourceMap) -> String {
        let (line, column) = sources.position(self.span);
        let path = sources.file(self.span).map_or("?", |f| f.path.as_str());
        let mut out = format!("error[{}]: {}\n  --> {path}:{line}:{column}\n", self.code, self.message);
        let text = sources.file(self.span).and_then(|f| f.text.lines().nth(line - 1)).unwrap_or("");
        let width = sources.text(self.span).lines().next().unwrap_or("").chars().count().max(1);
        let _ = writeln!(out, "   | {text}\n   | {}{} {}", " ".repeat(column - 1), "^".repeat(width), self.label);
        for (span, label) in &self.secondary {
            let (line, column) = sources.position(*span);
            let path = sources.file(*span).map_or("?", |f| f.path.as_str());
            let _ = writeln!(out, "   = {path}:{line}:{column}: {label}");
        }
        for note in &self.notes {
            let _ = writeln!(out, "   = note: {note}");
        }
        if let Some(hint) = &self.hint {
            let _ = writeln!(out, "   = hint: {hint}");
        }
        out
    }
}

/// The known name that is most like `name`, if one is close.
pub fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let limit = 1 + name.chars().count() / 4;
    known.map(|k| (distance(name, k), k)).filter(|(d, _)| *d <= limit).min().map(|(_, k)| k)
}

/// `did you mean …?` for the nearest known name.
pub fn did_you_mean<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<String> {
    nearest(name, known).map(|k| format!("did you mean `{k}`?"))
}

fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().take(64).enumerate() {
        let mut corner = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let next = if x == *y { corner } else { 1 + corner.min(row[j]).min(row[j + 1]) };
            corner = std::mem::replace(&mut row[j + 1], next);
        }
    }
    row[b.len()]
}
