//! Complexity classes in N (positions) and d (the width of the rows between layers), from the largest product of axes.

use super::reach::Reach;
use super::tree::Part;

/// The width that the classes are stated in.
#[derive(Clone, Debug, PartialEq)]
pub struct Width {
    /// Its axis, or `d`.
    pub name: String,
    /// Elements.
    pub size: u64,
}

/// How work and memory grow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Class {
    /// Operations of N positions at once.
    pub prefill: String,
    /// Operations of one token after N.
    pub decode: String,
    /// Memory after N positions.
    pub memory: String,
}

/// A factor below this is a constant; a larger one is told.
const CONSTANT: u64 = 16;

impl Class {
    /// The classes of one part.
    pub fn of(part: &Part, width: &Width) -> Class {
        let mut work: Vec<Term> = part.work().keys.iter().map(|k| Term::new(Some(k.reach), k.largest, 1, width)).collect();
        if part.work().largest > 1 || work.is_empty() {
            work.push(Term::new(None, part.work().largest, 2, width));
        }
        let kept: Vec<Term> = part.memory.iter().map(|m| Term::new(m.reach, m.elements, 1, width)).collect();
        Class { prefill: sum(&work, 1, width), decode: sum(&work, 0, width), memory: sum(&kept, 0, width) }
    }
}

/// `constant · N^positions · d^power`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Term {
    positions: u32,
    power: u32,
    constant: u64,
}

impl Term {
    /// `most`: the power of d that can be meant. What a row holds or remembers for a key has one, a matrix two.
    fn new(reach: Option<Reach>, product: u64, most: u32, width: &Width) -> Term {
        let (positions, window) = match reach {
            Some(Reach::Share(_)) => (1, 1),
            Some(Reach::Bounded(most)) => (0, most.max(1)),
            None => (0, 1),
        };
        let (mut rest, mut power) = (product.max(1), 0);
        // Half of a width is still a width: heads times their size need not be all of it.
        while width.size > 1 && rest * 2 >= width.size && power < most {
            rest = (rest / width.size).max(1);
            power += 1;
        }
        // A factor that stays large beside d² does not grow with d: it is told beside one d.
        if power == 2 && rest >= CONSTANT {
            (rest, power) = (product / width.size, 1);
        }
        let constant = if rest < CONSTANT && (power > 0 || positions > 0) { 1 } else { rest };
        Term { positions, power, constant: constant * window }
    }

    fn text(self, more: u32, width: &Width) -> String {
        let mut factors = Vec::new();
        factors.extend(raised("N", self.positions + more));
        if self.constant > 1 {
            factors.push(self.constant.to_string());
        }
        factors.extend(raised(&width.name, self.power));
        if factors.is_empty() { "1".into() } else { factors.join("·") }
    }
}

fn raised(base: &str, power: u32) -> Option<String> {
    match power {
        0 => None,
        1 => Some(base.to_string()),
        2 => Some(format!("{base}²")),
        3 => Some(format!("{base}³")),
        n => Some(format!("{base}^{n}")),
    }
}

/// The terms that no other one covers, falling; each with N to `more` more.
fn sum(terms: &[Term], more: u32, width: &Width) -> String {
    let covers = |a: &Term, b: &Term| {
        a != b && a.positions >= b.positions && a.power >= b.power && (a.constant >= b.constant || a.power > b.power)
    };
    let mut kept: Vec<Term> = terms.iter().filter(|t| !terms.iter().any(|other| covers(other, t))).copied().collect();
    kept.sort_by(|a, b| b.cmp(a));
    kept.dedup();
    match kept.is_empty() {
        true => "1".into(),
        false => kept.into_iter().map(|t| t.text(more, width)).collect::<Vec<_>>().join(" + "),
    }
}
