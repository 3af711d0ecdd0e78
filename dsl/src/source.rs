//! Source texts: where they come from, and which were read.

use crate::span::{FileId, Span};

/// The only door to the outside: gives the text of a module or file.
pub trait Sources {
    /// The text at `path` (`models/name.braid`, or a file as the root named it), if there is one.
    fn read(&self, path: &str) -> Option<String>;
    /// Paths of the modules whose names are always in scope.
    fn prelude(&self) -> Vec<String> {
        Vec::new()
    }
}

/// One text that was read.
#[derive(Clone, Debug)]
pub struct Source {
    /// Its path as the [`Sources`] know it.
    pub path: String,
    /// Its text.
    pub text: String,
}

/// All texts that were read; [`Span`]s point into it.
#[derive(Clone, Debug, Default)]
pub struct SourceMap {
    /// The texts; a [`FileId`] is an index.
    pub files: Vec<Source>,
}

impl SourceMap {
    /// Adds a text.
    pub fn add(&mut self, path: &str, text: String) -> FileId {
        self.files.push(Source { path: path.into(), text });
        FileId(self.files.len() as u32 - 1)
    }

    /// The file of a span.
    pub fn file(&self, span: Span) -> Option<&Source> {
        self.files.get(span.file.0 as usize)
    }

    /// The text of a span; empty if it lies outside.
    pub fn text(&self, span: Span) -> &str {
        self.file(span).and_then(|f| f.text.get(span.start as usize..span.end as usize)).unwrap_or("")
    }

    /// Line and column of the span's start, both from 1.
    pub fn position(&self, span: Span) -> (usize, usize) {
        let Some(before) = self.file(span).and_then(|f| f.text.get(..span.start as usize)) else { return (1, 1) };
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
        (line, column)
    }
}
