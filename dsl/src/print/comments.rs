//! Comments of a text, which the tree does not hold.

/// One comment.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Comment {
    /// First byte.
    pub start: usize,
    /// One past the last byte.
    pub end: usize,
    /// Its text, with the slashes, without white space at the end.
    pub text: String,
    /// Something else stands before it on its line.
    pub trailing: bool,
}

/// All comments, in order.
pub(super) fn comments(text: &str) -> Vec<Comment> {
    let mut found = Vec::new();
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        if let Some(start) = comment_start(line) {
            let comment = line[start..].trim_end();
            let trailing = !line[..start].trim().is_empty();
            let (start, end) = (at + start, at + start + comment.len());
            found.push(Comment { start, end, text: comment.to_owned(), trailing });
        }
        at += line.len();
    }
    found
}

/// Where a line's comment begins; `//` in a string does not count.
fn comment_start(line: &str) -> Option<usize> {
    let (mut in_text, mut escaped, mut slash) = (false, false, false);
    for (at, c) in line.char_indices() {
        if in_text {
            in_text = escaped || c != '"';
            escaped = !escaped && c == '\\';
            continue;
        }
        match c {
            '"' => in_text = true,
            '/' if slash => return Some(at - 1),
            _ => {}
        }
        slash = c == '/';
    }
    None
}
