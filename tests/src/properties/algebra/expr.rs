//! Small expressions: read from text, printed as text.

use std::collections::BTreeSet;
use std::fmt::{Display, Formatter, Result};

/// An expression of a step.
#[derive(Clone, Debug, PartialEq)]
pub enum Expr {
    Number(f64),
    Name(String),
    Add(Box<Expr>, Box<Expr>),
    Sub(Box<Expr>, Box<Expr>),
    Mul(Box<Expr>, Box<Expr>),
    Neg(Box<Expr>),
    /// Over one axis.
    Sum(char, Box<Expr>),
    /// A function.
    Call(String, Vec<Expr>),
}

/// `name = value`.
#[derive(Clone, Debug)]
pub struct Statement {
    pub name: String,
    pub value: Expr,
}

impl Display for Statement {
    fn fmt(&self, f: &mut Formatter) -> Result {
        write!(f, "{} = {}", self.name, self.value)
    }
}

impl Display for Expr {
    fn fmt(&self, f: &mut Formatter) -> Result {
        match self {
            Expr::Number(number) => write!(f, "{number:?}"),
            Expr::Name(name) => write!(f, "{name}"),
            Expr::Add(a, b) => write!(f, "({a} + {b})"),
            Expr::Sub(a, b) => write!(f, "({a} - {b})"),
            Expr::Mul(a, b) => write!(f, "({a} * {b})"),
            Expr::Neg(a) => write!(f, "(-{a})"),
            Expr::Sum(axis, a) => write!(f, "(sum[{axis}] {a})"),
            Expr::Call(name, args) => {
                let args: Vec<String> = args.iter().map(Expr::to_string).collect();
                write!(f, "{name}({})", args.join(", "))
            }
        }
    }
}

pub fn add(a: Expr, b: Expr) -> Expr {
    Expr::Add(Box::new(a), Box::new(b))
}
pub fn sub(a: Expr, b: Expr) -> Expr {
    Expr::Sub(Box::new(a), Box::new(b))
}
pub fn mul(a: Expr, b: Expr) -> Expr {
    Expr::Mul(Box::new(a), Box::new(b))
}
pub fn sum(axis: char, a: Expr) -> Expr {
    Expr::Sum(axis, Box::new(a))
}
pub fn exp(a: Expr) -> Expr {
    Expr::Call("exp".into(), vec![a])
}

impl Expr {
    /// All parts that can be rewritten by themselves, this one first.
    pub fn parts(&mut self) -> Vec<&mut Expr> {
        match self {
            Expr::Number(_) | Expr::Name(_) => vec![],
            Expr::Add(a, b) | Expr::Sub(a, b) | Expr::Mul(a, b) => vec![a, b],
            Expr::Neg(a) | Expr::Sum(_, a) => vec![a],
            Expr::Call(_, args) => args.iter_mut().collect(),
        }
    }

    /// Whether it is more than a number.
    pub fn has_names(&self) -> bool {
        matches!(self, Expr::Name(_)) || self.clone().parts().into_iter().any(|part| part.has_names())
    }

    /// How many nodes it has.
    pub fn size(&self) -> usize {
        1 + self.clone().parts().into_iter().map(|part| part.size()).sum::<usize>()
    }

    /// The part at that place, counted from the root.
    pub fn at(&mut self, mut place: usize) -> &mut Expr {
        if place == 0 {
            return self;
        }
        place -= 1;
        let sizes: Vec<usize> = self.parts().into_iter().map(|part| part.size()).collect();
        for (part, size) in sizes.into_iter().enumerate() {
            if place < size {
                return self.parts().swap_remove(part).at(place);
            }
            place -= size;
        }
        self
    }

    /// The expression with another in the place of a name.
    pub fn with(&self, name: &str, other: &Expr) -> Expr {
        let mut made = self.clone();
        match &mut made {
            Expr::Name(own) if own == name => return other.clone(),
            inner => inner.parts().into_iter().for_each(|part| *part = part.with(name, other)),
        }
        made
    }

    /// Its axes of the state, by their letters; `known` has those of names that were assigned.
    pub fn axes(&self, known: &dyn Fn(&str) -> Option<BTreeSet<char>>) -> BTreeSet<char> {
        match self {
            Expr::Name(name) => known(name).unwrap_or_else(|| {
                let axes = match name.as_str() {
                    "q" | "kk" | "g" | "c" => "hk",
                    "vv" | "g1" | "r1" | "r2" => "hv",
                    _ => "h",
                };
                axes.chars().collect()
            }),
            Expr::Sum(axis, a) => a.axes(known).into_iter().filter(|a| a != axis).collect(),
            other => other.clone().parts().into_iter().flat_map(|part| part.axes(known)).collect(),
        }
    }
}

/// Statements with `;` between them.
pub fn parse(text: &str) -> Vec<Statement> {
    let statement = |text: &str| {
        let (name, value) = text.split_once(" = ").expect("an assignment");
        let mut reader = Reader { left: value };
        Statement { name: name.trim().into(), value: reader.sum() }
    };
    text.split(';').map(statement).collect()
}

struct Reader<'a> {
    left: &'a str,
}

impl Reader<'_> {
    fn eats(&mut self, sign: &str) -> bool {
        self.left = self.left.trim_start();
        let rest = self.left.strip_prefix(sign);
        self.left = rest.unwrap_or(self.left);
        rest.is_some()
    }

    fn sum(&mut self) -> Expr {
        let mut made = self.product();
        loop {
            made = match (self.eats("+"), self.eats("-")) {
                (true, _) => add(made, self.product()),
                (_, true) => sub(made, self.product()),
                _ => return made,
            };
        }
    }

    fn product(&mut self) -> Expr {
        let mut made = self.factor();
        while self.eats("*") {
            made = mul(made, self.factor());
        }
        made
    }

    fn factor(&mut self) -> Expr {
        if self.eats("-") {
            return Expr::Neg(Box::new(self.factor()));
        }
        if self.eats("(") {
            let inner = self.sum();
            assert!(self.eats(")"), "`)` before `{}`", self.left);
            return inner;
        }
        if self.eats("sum[k]") {
            return sum('k', self.product());
        }
        let end = self.left.find(|c: char| !c.is_alphanumeric() && c != '.').unwrap_or(self.left.len());
        let (word, rest) = self.left.split_at(end);
        let word = word.to_owned();
        self.left = rest;
        if let Ok(number) = word.parse() {
            return Expr::Number(number);
        }
        match self.eats("(") {
            false => Expr::Name(word),
            true => {
                let mut args = vec![self.sum()];
                while self.eats(",") {
                    args.push(self.sum());
                }
                assert!(self.eats(")"), "`)` before `{}`", self.left);
                Expr::Call(word, args)
            }
        }
    }
}
