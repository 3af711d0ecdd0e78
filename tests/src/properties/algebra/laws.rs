//! Laws of algebra, applied at random places.

use super::expr::{Expr, Statement, add, exp, mul, sub, sum};
use std::collections::BTreeSet;

/// Longer expressions are only shuffled: multiplied out they stay within what the normal form takes apart.
const LONG: usize = 36;

/// Tries to find a part that a law applies to.
const TRIES: usize = 8;

/// Random numbers from a seed.
struct Choices {
    state: u64,
}

impl Choices {
    fn below(&mut self, many: usize) -> usize {
        self.state = self.state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (self.state >> 33) as usize % many.max(1)
    }
}

/// The same step in other words, after so many laws.
pub fn rewritten(step: &[Statement], laws: usize, seed: u64) -> Vec<Statement> {
    let mut made = step.to_vec();
    let maximum = step.iter().any(|statement| statement.value.to_string().contains("max("));
    let (mut temporaries, mut choices) = (0, Choices { state: seed });
    for _ in 0..laws {
        let at = choices.below(made.len());
        match choices.below(12) {
            0 => split(&mut made, at, &mut temporaries),
            1 => named(&mut made, at, &mut temporaries, &mut choices),
            2 | 3 => merged(&mut made, at),
            _ => {
                (0..TRIES).any(|_| expression(&mut made, at, maximum, &mut choices));
            }
        }
    }
    made
}

fn temporary(number: &mut usize) -> String {
    *number += 1;
    format!("part{number}")
}

/// `S = a + b` as `part = b`, `S = a`, `S = S + part`.
fn split(step: &mut Vec<Statement>, at: usize, temporaries: &mut usize) {
    let Statement { name, value } = step[at].clone();
    let Expr::Add(a, b) = value else { return };
    let part = temporary(temporaries);
    let again = add(Expr::Name(name.clone()), Expr::Name(part.clone()));
    let three = [(part, *b), (name.clone(), *a), (name, again)];
    step.splice(at..=at, three.map(|(name, value)| Statement { name, value }));
}

/// A part of an expression gets a name.
fn named(step: &mut Vec<Statement>, at: usize, temporaries: &mut usize, choices: &mut Choices) {
    let place = choices.below(step[at].value.size());
    let part = step[at].value.at(place);
    if matches!(part, Expr::Name(_) | Expr::Number(_)) {
        return;
    }
    let name = temporary(temporaries);
    let value = std::mem::replace(part, Expr::Name(name.clone()));
    step.insert(at, Statement { name, value });
}

/// `S = a`, `S = b(S)` as `S = b(a)`: decays that came first are written out in all reads.
fn merged(step: &mut Vec<Statement>, at: usize) {
    if at + 1 < step.len() && step[at].name == step[at + 1].name {
        let both = step[at + 1].value.with(&step[at].name, &step[at].value);
        if both.size() <= 2 * LONG {
            step[at + 1].value = both;
            step.remove(at);
        }
    }
}

/// One law at one place, if there is one. Numbers around a maximum are beyond the normal form: a step that has one gets none.
fn expression(step: &mut [Statement], at: usize, maximum: bool, choices: &mut Choices) -> bool {
    let (before, rest) = step.split_at_mut(at);
    let Some(statement) = rest.first_mut() else { return false };
    let known = |name: &str| axes_of(before, name);
    let long = maximum || statement.value.size() > LONG;
    let place = choices.below(statement.value.size());
    let part = statement.value.at(place);
    let numbers = choices.below(6) == 0 && !long;
    let ways = match numbers {
        true => with_numbers(part),
        false => [shuffled(part), summed(part, &known), if long { vec![] } else { multiplied_out(part) }].concat(),
    };
    if !ways.is_empty() {
        *part = ways[choices.below(ways.len())].clone();
    }
    !ways.is_empty()
}

/// The axes of a state or of a name that was assigned.
fn axes_of(before: &[Statement], name: &str) -> Option<BTreeSet<char>> {
    let states = [("S", "hkv"), ("P", "hv"), ("R", "hv"), ("I", "hv"), ("z", "hk"), ("m", "h")];
    if let Some((_, axes)) = states.iter().find(|(state, _)| *state == name) {
        // A state of fewer axes lets fewer factors out of sums, which is no harm.
        return Some(axes.chars().collect());
    }
    let at = before.iter().rposition(|statement| statement.name == name)?;
    Some(before[at].value.axes(&|name| axes_of(&before[..at], name)))
}

/// Laws that hold for everything.
fn with_numbers(part: &Expr) -> Vec<Expr> {
    let one = || Expr::Number(1.0);
    let half = || mul(Expr::Number(0.5), part.clone());
    vec![sub(one(), sub(one(), part.clone())), add(half(), half()), mul(one(), part.clone())]
}

/// Laws that make nothing longer.
fn shuffled(part: &Expr) -> Vec<Expr> {
    let minus = |a: &Expr| mul(Expr::Number(-1.0), a.clone());
    let mut ways = vec![];
    match part {
        Expr::Add(a, b) => {
            ways.push(add(*b.clone(), *a.clone()));
            ways.push(sub(*a.clone(), minus(b)));
            if let Expr::Add(x, y) = &**a {
                ways.push(add(*x.clone(), add(*y.clone(), *b.clone())));
            }
        }
        Expr::Sub(a, b) => {
            ways.extend([add(*a.clone(), minus(b)), add(*a.clone(), Expr::Neg(b.clone())), add(minus(b), *a.clone())])
        }
        Expr::Mul(a, b) => {
            ways.push(mul(*b.clone(), *a.clone()));
            if let Expr::Mul(x, y) = &**a {
                ways.push(mul(*x.clone(), mul(*y.clone(), *b.clone())));
            }
            if let (Expr::Call(one, x), Expr::Call(two, y)) = (&**a, &**b)
                && one == "exp"
                && two == "exp"
            {
                ways.push(exp(add(x[0].clone(), y[0].clone())));
            }
        }
        Expr::Neg(a) => ways.extend([minus(a), sub(Expr::Number(0.0), *a.clone())]),
        Expr::Call(name, args) if name == "max" => ways.push(Expr::Call("max".into(), vec![args[1].clone(), args[0].clone()])),
        Expr::Call(name, args) if name == "exp" => match &args[0] {
            // The exponential of a number is rounded: it would not cancel.
            Expr::Add(x, y) | Expr::Sub(x, y) if !x.has_names() || !y.has_names() => {}
            Expr::Add(x, y) => ways.push(mul(exp(*x.clone()), exp(*y.clone()))),
            Expr::Sub(x, y) => ways.push(mul(exp(*x.clone()), exp(Expr::Neg(y.clone())))),
            _ => {}
        },
        _ => {}
    }
    ways
}

/// `a (b + c) = a b + a c`.
fn multiplied_out(part: &Expr) -> Vec<Expr> {
    let Expr::Mul(a, b) = part else { return vec![] };
    let times = |x: &Expr, y: &Expr| mul(x.clone(), y.clone());
    match (&**a, &**b) {
        (a, Expr::Add(x, y)) => vec![add(times(a, x), times(a, y))],
        (a, Expr::Sub(x, y)) => vec![sub(times(a, x), times(a, y))],
        (Expr::Add(x, y), b) => vec![add(times(x, b), times(y, b))],
        (Expr::Sub(x, y), b) => vec![sub(times(x, b), times(y, b))],
        _ => vec![],
    }
}

/// Factors go into and out of sums, and sums into their terms.
fn summed(part: &Expr, known: &dyn Fn(&str) -> Option<BTreeSet<char>>) -> Vec<Expr> {
    let has = |e: &Expr, axis: &char| e.axes(known).contains(axis);
    match part {
        Expr::Sum(axis, inner) => match &**inner {
            Expr::Mul(a, b) if !has(a, axis) && has(b, axis) => vec![mul(*a.clone(), sum(*axis, *b.clone()))],
            Expr::Mul(a, b) if has(a, axis) && !has(b, axis) => vec![mul(sum(*axis, *a.clone()), *b.clone())],
            Expr::Add(a, b) if has(a, axis) && has(b, axis) => vec![add(sum(*axis, *a.clone()), sum(*axis, *b.clone()))],
            Expr::Sub(a, b) if has(a, axis) && has(b, axis) => vec![sub(sum(*axis, *a.clone()), sum(*axis, *b.clone()))],
            _ => vec![],
        },
        Expr::Mul(a, b) => match &**b {
            Expr::Sum(axis, inner) if !has(a, axis) => vec![sum(*axis, mul(*a.clone(), *inner.clone()))],
            _ => vec![],
        },
        _ => vec![],
    }
}
