//! The canonical text of a file: the tree printed anew, with its comments.
//!
//! What stands on one line stays on one line if it fits; blank lines stay, at most one at a time. Formatting twice changes nothing.

mod comments;
mod expr;
mod item;
mod stmt;
#[cfg(test)]
mod tests;
mod wrap;

use crate::{ast::File, span::Span};
use comments::Comment;

/// How many characters a line has at most, where the text allows a break.
const WIDTH: usize = 130;

/// The canonical text of a parsed file.
pub(crate) fn file(text: &str, tree: &File) -> String {
    let mut printer = Printer { text, comments: comments::comments(text), next: 0, last: 0, indent: 0, out: String::new() };
    for (n, item) in tree.items.iter().enumerate() {
        printer.item(item, n.checked_sub(1).and_then(|p| tree.items.get(p)));
    }
    printer.comments_before(text.len() + 1);
    let out = printer.out.trim();
    if out.is_empty() { String::new() } else { format!("{out}\n") }
}

/// Prints in the order of the text.
struct Printer<'t> {
    text: &'t str,
    comments: Vec<Comment>,
    /// The first comment that is not printed yet.
    next: usize,
    /// The place in the text up to which everything is printed.
    last: usize,
    indent: usize,
    out: String,
}

impl Printer<'_> {
    /// How many line ends the text has between what was printed and a place.
    fn breaks(&self, to: usize) -> usize {
        self.text.get(self.last..to).map_or(1, |t| t.matches('\n').count())
    }

    /// Begins a line; keeps a blank line of the text.
    fn begin(&mut self, at: usize) {
        let blank = self.breaks(at) > 1 && !self.out.is_empty() && !self.out.ends_with("{\n");
        self.line_end();
        if blank {
            self.out.push('\n');
        }
        self.out.push_str(&" ".repeat(self.indent));
    }

    fn line_end(&mut self) {
        while self.out.ends_with(' ') {
            self.out.pop();
        }
        if !self.out.is_empty() && !self.out.ends_with('\n') {
            self.out.push('\n');
        }
    }

    /// Prints the comments that begin before a place.
    fn comments_before(&mut self, place: usize) {
        while let Some(comment) = self.comments.get(self.next).filter(|c| c.start < place).cloned() {
            self.next += 1;
            if comment.trailing && self.breaks(comment.start) == 0 && !self.out.ends_with('\n') && !self.out.is_empty() {
                self.out.push_str("  ");
            } else {
                self.begin(comment.start);
            }
            self.out.push_str(&comment.text);
            self.out.push('\n');
            self.last = comment.end;
        }
    }

    /// Whether a comment begins inside a place.
    fn has_comment(&self, span: Span) -> bool {
        let inside = |c: &Comment| c.start >= span.start as usize && c.start < span.end as usize;
        self.comments.iter().skip(self.next).any(inside)
    }

    /// Whether a place is on one line.
    fn one_line(&self, span: Span) -> bool {
        self.text.get(span.start as usize..span.end as usize).is_some_and(|t| !t.contains('\n'))
    }

    /// How many characters the line under construction has.
    fn column(&self) -> usize {
        self.out.rsplit('\n').next().map_or(0, |l| l.chars().count())
    }
}
