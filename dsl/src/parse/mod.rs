//! Text becomes a syntax tree.

mod expr;
mod item;
mod limits;
mod stmt;

use pest::{Parser as _, error::InputLocation, iterators::Pair};

use crate::{
    ast,
    diagnostic::{Code, Diagnostic},
    span::{FileId, Span},
};

/// The generated recogniser.
#[derive(pest_derive::Parser)]
#[grammar = "grammar.pest"]
#[allow(missing_docs, reason = "generated")]
struct Grammar;

type Node<'i> = Pair<'i, Rule>;
type Parsed<T> = Result<T, Diagnostic>;

/// Parses a file. Errors in several items are reported together.
pub fn parse_file(text: &str, file: FileId) -> Result<ast::File, Vec<Diagnostic>> {
    limits::check(text, file).map_err(|e| vec![e])?;
    match parse_whole(text, file) {
        Ok(tree) => Ok(tree),
        Err(first) => Err(item_errors(text, file, first)),
    }
}

/// Parses a text that is one expression.
pub fn parse_expression(text: &str) -> Result<ast::Expr, Diagnostic> {
    let file = FileId::default();
    limits::check(text, file)?;
    let mut nodes = Grammar::parse(Rule::alone, text).map_err(|e| syntax_error(&e, file))?;
    let builder = Builder { file, text };
    match nodes.next().and_then(|n| n.into_inner().find(|n| n.as_rule() == Rule::expr)) {
        Some(node) => builder.expr(node, 0),
        None => Err(Diagnostic::new(Code::Syntax, Span::default(), "expected an expression")),
    }
}

fn parse_whole(text: &str, file: FileId) -> Parsed<ast::File> {
    let nodes = Grammar::parse(Rule::file, text).map_err(|e| syntax_error(&e, file))?;
    let builder = Builder { file, text };
    let mut tree = ast::File { doc: file_doc(text), items: Vec::new() };
    for node in nodes.flat_map(|n| n.into_inner()) {
        if let Some(item) = builder.item(node)? {
            tree.items.push(item);
        }
    }
    Ok(tree)
}

/// After a first error: parses each item alone, so that one file reports an error of each broken item.
fn item_errors(text: &str, file: FileId, first: Diagnostic) -> Vec<Diagnostic> {
    let starts = item_starts(text);
    let mut errors = Vec::new();
    for (n, start) in starts.iter().enumerate() {
        let end = starts.get(n + 1).copied().unwrap_or(text.len());
        if let Err(mut error) = parse_whole(&text[*start..end], file) {
            error.span.start += *start as u32;
            error.span.end += *start as u32;
            errors.push(error);
        }
        if errors.len() >= 20 {
            break;
        }
    }
    if errors.is_empty() { vec![first] } else { errors }
}

/// Where lines begin with a word that begins an item.
fn item_starts(text: &str) -> Vec<usize> {
    let mut starts = vec![0];
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        if at > 0 && ["use ", "fn ", "block ", "model "].iter().any(|w| line.starts_with(w)) {
            starts.push(at);
        }
        at += line.len();
    }
    starts
}

fn syntax_error(error: &pest::error::Error<Rule>, file: FileId) -> Diagnostic {
    let (start, end) = match error.location {
        InputLocation::Pos(at) => (at, at + 1),
        InputLocation::Span((a, b)) => (a, b),
    };
    let span = Span { file, start: start as u32, end: end as u32 };
    let pest::error::ErrorVariant::ParsingError { positives, .. } = &error.variant else {
        return Diagnostic::new(Code::Syntax, span, "this cannot be read");
    };
    let mut expected: Vec<String> = positives.iter().filter_map(|r| describe(*r)).collect();
    expected.sort();
    expected.dedup();
    let message = if expected.is_empty() { "unexpected text".into() } else { format!("expected {}", expected.join(", ")) };
    Diagnostic::new(Code::Syntax, span, message).label("here")
}

/// What a rule is called in a message; rules that say nothing have no name.
fn describe(rule: Rule) -> Option<String> {
    let name = format!("{rule:?}");
    if let Some(word) = name.strip_prefix("k_") {
        return Some(format!("`{word}`"));
    }
    Some(match rule {
        Rule::expr | Rule::operand | Rule::primary => "an expression".into(),
        Rule::prefix | Rule::minus | Rule::not | Rule::reduce | Rule::reducer => return None,
        Rule::number | Rule::string | Rule::list | Rule::paren | Rule::if_expr | Rule::match_expr => "an expression".into(),
        Rule::attend_expr | Rule::route_expr => "an expression".into(),
        Rule::infix => "an operator".into(),
        Rule::call | Rule::index | Rule::field => return None,
        Rule::ident => "a name".into(),
        Rule::EOI => "the end".into(),
        Rule::axes | Rule::names_axes | Rule::tensor_type | Rule::elem => "axes in brackets".into(),
        Rule::rest => "`..`".into(),
        Rule::body => "`{`".into(),
        Rule::inputs | Rule::cparams | Rule::fn_params => "`(`".into(),
        Rule::outputs => "`->`".into(),
        Rule::wheres => "`where`".into(),
        Rule::scalar_type | Rule::list_type => "a type (dim, int, float, bool, string, block)".into(),
        Rule::use_item | Rule::fn_item | Rule::alias_item | Rule::block_item => "`use`, `fn`, `block` or `model`".into(),
        Rule::arm | Rule::pattern | Rule::wildcard => "a pattern".into(),
        other => {
            let text = format!("{other:?}");
            match text.strip_suffix("_stmt") {
                Some(_) => "a statement".into(),
                None => format!("a {}", text.replace('_', " ")),
            }
        }
    })
}

/// The text of the `//!` lines at the head of a file.
fn file_doc(text: &str) -> String {
    let lines = text.lines().map(str::trim).take_while(|l| l.is_empty() || l.starts_with("//"));
    join_doc(lines.filter_map(|l| l.strip_prefix("//!")))
}

/// The text of the `///` lines right above a place.
fn item_doc(text: &str, start: usize) -> String {
    let above: Vec<&str> = text[..start].lines().rev().map(str::trim).take_while(|l| l.starts_with("///")).collect();
    join_doc(above.iter().rev().filter_map(|l| l.strip_prefix("///")))
}

fn join_doc<'a>(lines: impl Iterator<Item = &'a str>) -> String {
    lines.map(|l| l.strip_prefix(' ').unwrap_or(l)).collect::<Vec<_>>().join("\n")
}

/// Makes the tree out of what the grammar recognised.
struct Builder<'t> {
    file: FileId,
    text: &'t str,
}

impl Builder<'_> {
    fn span(&self, node: &Node<'_>) -> Span {
        let span = node.as_span();
        // The recogniser ends a repetition after white space and comments; a place ends with its last word.
        let end = span.start() + trimmed_length(span.as_str());
        Span { file: self.file, start: span.start() as u32, end: end as u32 }
    }

    fn ident(&self, node: &Node<'_>) -> ast::Ident {
        ast::Ident { name: node.as_str().to_owned(), span: self.span(node) }
    }

    fn idents(&self, node: Node<'_>) -> Vec<ast::Ident> {
        node.into_inner().filter(|n| n.as_rule() == Rule::ident).map(|n| self.ident(&n)).collect()
    }

    fn missing(&self, span: Span, what: &str) -> Diagnostic {
        Diagnostic::new(Code::Syntax, span, format!("expected {what}"))
    }
}

/// The length of a text without white space and comments at its end.
fn trimmed_length(text: &str) -> usize {
    let mut end = 0;
    let (mut in_text, mut in_comment, mut escaped) = (false, false, false);
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        if in_comment {
            in_comment = c != '\n';
            continue;
        }
        if in_text {
            in_text = escaped || c != '"';
            escaped = !escaped && c == '\\';
        } else if c == '"' {
            in_text = true;
        } else if c == '/' && chars.peek().is_some_and(|(_, n)| *n == '/') {
            in_comment = true;
            continue;
        }
        if !c.is_whitespace() {
            end = at + c.len_utf8();
        }
    }
    end
}
