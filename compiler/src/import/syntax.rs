//! Expressions of import rules: text becomes a tree.

/// An expression.
#[derive(Clone, Debug, PartialEq)]
pub enum Expr {
    /// A number with or without a point, as a text.
    Number(String),
    /// `"…"`.
    Text(String),
    /// A name: a `let` of the rule, a loop variable or a key of the configuration.
    Name(String),
    /// `a.b`.
    Member(Box<Expr>, String),
    /// `a[b]`.
    Item(Box<Expr>, Box<Expr>),
    /// `f(a, b)`.
    Call(String, Vec<Expr>),
    /// `rotary(theta: a)`: a block with arguments.
    Block(String, Vec<(String, Expr)>),
    /// `-a` or `!a`.
    Unary(char, Box<Expr>),
    /// `a + b` and the like.
    Binary(&'static str, Box<Expr>, Box<Expr>),
    /// `if a { b } else { c }`.
    If(Box<Expr>, Box<Expr>, Box<Expr>),
    /// `match a { "x" | "y" => b, _ => c }`; no patterns: `_`.
    Match(Box<Expr>, Vec<(Vec<Expr>, Expr)>),
    /// `[a, b]`.
    List(Vec<Expr>),
    /// `[a for x in b if c]`.
    Each(Box<Expr>, String, Box<Expr>, Option<Box<Expr>>),
}

/// Binary operators, loosest first; all associate to the left.
const LEVELS: &[&[&str]] = &[&["??"], &["||"], &["&&"], &["==", "!=", "<=", ">=", "<", ">"], &["+", "-"], &["*", "/", "%"]];

/// Reads an expression.
pub fn parse(text: &str) -> Result<Expr, String> {
    let mut parser = Parser { tokens: tokens(text)?, at: 0 };
    let expr = parser.binary(0)?;
    match parser.peek() {
        "" => Ok(expr),
        other => Err(format!("`{other}` is not expected here: {text}")),
    }
}

fn tokens(text: &str) -> Result<Vec<String>, String> {
    let chars: Vec<char> = text.chars().collect();
    let mut out = Vec::new();
    let mut at = 0;
    while at < chars.len() {
        let c = chars[at];
        let start = at;
        if c.is_whitespace() {
            at += 1;
            continue;
        } else if c.is_alphabetic() || c == '_' {
            at = run(&chars, at, |c| c.is_alphanumeric() || c == '_');
        } else if c.is_ascii_digit() {
            at = number_end(&chars, at);
        } else if c == '"' {
            at = run(&chars, at + 1, |c| c != '"') + 1;
            if at > chars.len() {
                return Err(format!("a text is not closed: {text}"));
            }
        } else {
            let two: String = chars[at..(at + 2).min(chars.len())].iter().collect();
            at += if ["??", "||", "&&", "==", "!=", "<=", ">=", "=>"].contains(&two.as_str()) { 2 } else { 1 };
        }
        out.push(chars[start..at].iter().collect());
    }
    Ok(out)
}

fn run(chars: &[char], from: usize, keep: impl Fn(char) -> bool) -> usize {
    from + chars[from..].iter().take_while(|c| keep(**c)).count()
}

/// Digits, a point with digits, an exponent.
fn number_end(chars: &[char], from: usize) -> usize {
    let digits = |at| run(chars, at, |c| c.is_ascii_digit());
    let mut at = digits(from);
    if chars.get(at) == Some(&'.') && chars.get(at + 1).is_some_and(char::is_ascii_digit) {
        at = digits(at + 1);
    }
    if matches!(chars.get(at), Some('e' | 'E')) {
        let sign = usize::from(matches!(chars.get(at + 1), Some('+' | '-')));
        at = digits(at + 1 + sign);
    }
    at
}

struct Parser {
    tokens: Vec<String>,
    at: usize,
}

impl Parser {
    fn peek(&self) -> &str {
        self.tokens.get(self.at).map_or("", String::as_str)
    }

    fn next(&mut self) -> String {
        self.at += 1;
        self.tokens.get(self.at - 1).cloned().unwrap_or_default()
    }

    fn eat(&mut self, token: &str) -> bool {
        let found = self.peek() == token;
        self.at += usize::from(found);
        found
    }

    fn want(&mut self, token: &str) -> Result<(), String> {
        if self.eat(token) { Ok(()) } else { Err(format!("`{token}` is expected, found `{}`", self.peek())) }
    }

    fn binary(&mut self, level: usize) -> Result<Expr, String> {
        let Some(ops) = LEVELS.get(level) else { return self.unary() };
        let mut left = self.binary(level + 1)?;
        while let Some(op) = ops.iter().find(|op| **op == self.peek()) {
            self.at += 1;
            left = Expr::Binary(op, Box::new(left), Box::new(self.binary(level + 1)?));
        }
        Ok(left)
    }

    fn unary(&mut self) -> Result<Expr, String> {
        for op in ['-', '!'] {
            if self.eat(op.encode_utf8(&mut [0; 4])) {
                return Ok(Expr::Unary(op, Box::new(self.unary()?)));
            }
        }
        let mut expr = self.primary()?;
        loop {
            if self.eat(".") {
                expr = Expr::Member(Box::new(expr), self.next());
            } else if self.eat("[") {
                expr = Expr::Item(Box::new(expr), Box::new(self.binary(0)?));
                self.want("]")?;
            } else {
                return Ok(expr);
            }
        }
    }

    fn primary(&mut self) -> Result<Expr, String> {
        let token = self.next();
        match token.as_str() {
            "(" => {
                let inner = self.binary(0)?;
                self.want(")")?;
                Ok(inner)
            }
            "[" => self.list(),
            "if" => {
                let condition = Box::new(self.binary(0)?);
                let yes = Box::new(self.braced()?);
                self.want("else")?;
                Ok(Expr::If(condition, yes, Box::new(self.braced()?)))
            }
            "match" => self.arms(),
            _ => self.atom(token),
        }
    }

    fn atom(&mut self, token: String) -> Result<Expr, String> {
        let first = token.chars().next().unwrap_or(' ');
        if first == '"' {
            return Ok(Expr::Text(token.trim_matches('"').to_string()));
        }
        if first.is_ascii_digit() {
            return Ok(Expr::Number(token));
        }
        if !(first.is_alphabetic() || first == '_') {
            return Err(format!("`{token}` cannot begin a value"));
        }
        if self.eat("(") { self.call(token) } else { Ok(Expr::Name(token)) }
    }

    fn braced(&mut self) -> Result<Expr, String> {
        self.want("{")?;
        let expr = self.binary(0)?;
        self.want("}")?;
        Ok(expr)
    }

    fn list(&mut self) -> Result<Expr, String> {
        if self.eat("]") {
            return Ok(Expr::List(Vec::new()));
        }
        let first = self.binary(0)?;
        if self.eat("for") {
            let name = self.next();
            self.want("in")?;
            let over = Box::new(self.binary(0)?);
            let only = if self.eat("if") { Some(Box::new(self.binary(0)?)) } else { None };
            self.want("]")?;
            return Ok(Expr::Each(Box::new(first), name, over, only));
        }
        let mut items = vec![first];
        while self.eat(",") && self.peek() != "]" {
            items.push(self.binary(0)?);
        }
        self.want("]")?;
        Ok(Expr::List(items))
    }

    fn call(&mut self, name: String) -> Result<Expr, String> {
        let named = self.tokens.get(self.at + 1).is_some_and(|token| token == ":");
        let (mut plain, mut members) = (Vec::new(), Vec::new());
        while !self.eat(")") {
            if named {
                let key = self.next();
                self.want(":")?;
                members.push((key, self.binary(0)?));
            } else {
                plain.push(self.binary(0)?);
            }
            if !self.eat(",") && self.peek() != ")" {
                return Err(format!("`,` or `)` is expected, found `{}`", self.peek()));
            }
        }
        Ok(if named { Expr::Block(name, members) } else { Expr::Call(name, plain) })
    }

    fn arms(&mut self) -> Result<Expr, String> {
        let of = Box::new(self.binary(0)?);
        let mut arms = Vec::new();
        self.want("{")?;
        while !self.eat("}") {
            let mut patterns = Vec::new();
            if !self.eat("_") {
                patterns.push(self.unary()?);
                while self.eat("|") {
                    patterns.push(self.unary()?);
                }
            }
            self.want("=>")?;
            arms.push((patterns, self.binary(0)?));
            if !self.eat(",") && self.peek() != "}" {
                return Err(format!("`,` or `}}` is expected, found `{}`", self.peek()));
            }
        }
        Ok(Expr::Match(of, arms))
    }
}
