//! Bounds on a text that keep the recursive parts of the front end within the stack.

use crate::{
    diagnostic::{Code, Diagnostic},
    span::{FileId, Span},
};

/// How deep brackets may nest.
const BRACKETS: usize = 64;
/// How many bytes a text may have.
const BYTES: usize = 4 << 20;

/// Refuses a text that is too long or nests too deep.
pub fn check(text: &str, file: FileId) -> Result<(), Diagnostic> {
    let at = |at: usize| Span { file, start: at as u32, end: at as u32 + 1 };
    if text.len() > BYTES {
        return Err(Diagnostic::new(Code::TooLarge, at(0), "this file is larger than 4 MiB"));
    }
    let mut depth = 0usize;
    let (mut in_text, mut in_comment, mut previous) = (false, false, ' ');
    for (n, c) in text.char_indices() {
        let before = std::mem::replace(&mut previous, c);
        match c {
            '\n' => (in_comment, in_text) = (false, false),
            _ if in_comment => {}
            '"' if in_text => in_text = before == '\\',
            _ if in_text => {}
            '"' => in_text = true,
            '/' if before == '/' => in_comment = true,
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > BRACKETS {
            return Err(Diagnostic::new(Code::TooDeep, at(n), format!("brackets nest deeper than {BRACKETS}"))
                .hint("name a part of it, or make it a block"));
        }
    }
    Ok(())
}
