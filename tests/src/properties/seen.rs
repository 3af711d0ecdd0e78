//! What comparisons of positions tell of many queries and keys at once: where they say that all is seen, nobody asks `keep`.

use super::holds;
use crate::kernels::attention::{Builder, attend};
use braid_compiler::forms::{Form, Whole, whole};
use braid_dsl::model::{Binary, Elem, Op, Unary, ValueId};
use proptest::prelude::*;

/// A predicate.
#[derive(Clone, Debug)]
enum Keep {
    /// `query · query's position + key · key's position + constant`, compared with zero.
    Compared(Binary, [i64; 3]),
    /// Every second key: no comparison of positions.
    Even,
    Not(Box<Keep>),
    And(Box<Keep>, Box<Keep>),
    Or(Box<Keep>, Box<Keep>),
}

impl Keep {
    fn at(&self, query: i64, key: i64) -> bool {
        match self {
            Keep::Compared(op, [q, k, c]) => {
                let difference = q * query + k * key + c;
                match op {
                    Binary::Lt => difference < 0,
                    Binary::Le => difference <= 0,
                    Binary::Gt => difference > 0,
                    Binary::Ge => difference >= 0,
                    Binary::Eq => difference == 0,
                    _ => difference != 0,
                }
            }
            Keep::Even => key % 2 == 0,
            Keep::Not(a) => !a.at(query, key),
            Keep::And(a, b) => a.at(query, key) && b.at(query, key),
            Keep::Or(a, b) => a.at(query, key) || b.at(query, key),
        }
    }

    /// As a model's text becomes it: forms are sums of terms.
    fn push(&self, b: &mut Builder) -> ValueId {
        let both = |b: &mut Builder, op, x: &Keep, y: &Keep| {
            let args = [x.push(b), y.push(b)];
            b.push(Op::Binary(op), &args, Elem::Bool)
        };
        match self {
            Keep::Compared(op, [q, k, c]) => {
                let mut sum = b.push(Op::Const(*c as f64), &[], Elem::Int);
                for (count, position) in [(*q, Op::QueryPosition), (*k, Op::KeyPosition)] {
                    for _ in 0..count.abs() {
                        let term = b.push(position.clone(), &[], Elem::Int);
                        sum = b.push(Op::Binary(if count > 0 { Binary::Add } else { Binary::Sub }), &[sum, term], Elem::Int);
                    }
                }
                let zero = b.push(Op::Const(0.0), &[], Elem::Int);
                b.push(Op::Binary(*op), &[sum, zero], Elem::Bool)
            }
            Keep::Even => {
                let (key, two) = (b.push(Op::KeyPosition, &[], Elem::Int), b.push(Op::Const(2.0), &[], Elem::Int));
                let rest = b.push(Op::Binary(Binary::Rem), &[key, two], Elem::Int);
                let one = b.push(Op::Const(1.0), &[], Elem::Int);
                b.push(Op::Binary(Binary::Lt), &[rest, one], Elem::Bool)
            }
            Keep::Not(a) => {
                let a = a.push(b);
                b.push(Op::Unary(Unary::Not), &[a], Elem::Bool)
            }
            Keep::And(x, y) => both(b, Binary::And, x, y),
            Keep::Or(x, y) => both(b, Binary::Or, x, y),
        }
    }

    fn whole(&self) -> Option<Whole> {
        let mut b = Builder::default();
        let result = self.push(&mut b);
        whole(&attend((b.0.clone(), result), (b.0, result), None))
    }
}

/// What is said of one query and key; of many it is the largest value of each form that counts, so that each of them is below zero.
fn says(whole: &Whole, query: i64, key: i64) -> bool {
    match whole {
        Whole::Always => true,
        Whole::Below(Form { query: q, key: k, constant }) => q * query + k * key + constant < 0,
        Whole::Both(parts) => parts.iter().all(|part| says(part, query, key)),
        Whole::Either(parts) => parts.iter().any(|part| says(part, query, key)),
    }
}

fn predicates() -> impl Strategy<Value = Keep> {
    let op = prop::sample::select(vec![Binary::Lt, Binary::Le, Binary::Gt, Binary::Ge, Binary::Eq, Binary::Ne]);
    let compared = (op, [-2i64..=2, -2..=2, -9..=9]).prop_map(|(op, form)| Keep::Compared(op, form));
    let leaf = prop_oneof![6 => compared, 1 => Just(Keep::Even)];
    leaf.prop_recursive(3, 8, 2, |inner| {
        prop_oneof![
            inner.clone().prop_map(|a| Keep::Not(Box::new(a))),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| Keep::And(Box::new(a), Box::new(b))),
            (inner.clone(), inner).prop_map(|(a, b)| Keep::Or(Box::new(a), Box::new(b))),
        ]
    })
}

#[test]
fn what_is_said_to_be_seen_is_seen() {
    holds(2000, predicates(), |keep| {
        let Some(whole) = keep.whole() else { return Ok(()) };
        for (query, key) in (0..16).flat_map(|query| (0..16).map(move |key| (query, key))) {
            prop_assert!(!says(&whole, query, key) || keep.at(query, key), "{keep:?} hides {key} from {query}: {whole:?}");
        }
        Ok(())
    });
}

/// Of causal attention, windows and prefixes nothing is asked that need not be.
#[test]
fn all_that_is_seen_is_said_to_be() {
    let causal = Keep::Compared(Binary::Le, [-1, 1, 0]);
    let window = Keep::Compared(Binary::Lt, [1, -1, -5]);
    let first = Keep::Compared(Binary::Lt, [0, 1, -3]);
    let and = |a: &Keep, b: &Keep| Keep::And(Box::new(a.clone()), Box::new(b.clone()));
    let or = |a: &Keep, b: &Keep| Keep::Or(Box::new(a.clone()), Box::new(b.clone()));
    let later = Keep::Not(Box::new(Keep::Compared(Binary::Gt, [-1, 1, 0])));
    for keep in [causal.clone(), later, and(&causal, &window), or(&causal, &first), and(&causal, &or(&window, &first))] {
        let whole = keep.whole().expect("comparisons alone");
        for (query, key) in (0..16).flat_map(|query| (0..16).map(move |key| (query, key))) {
            assert_eq!(says(&whole, query, key), keep.at(query, key), "{keep:?} of {query} and {key}: {whole:?}");
        }
    }
    // What has to be asked of each key says nothing of many; what is seen in one way or another does.
    assert_eq!(and(&causal, &Keep::Even).whole(), None);
    assert!(or(&causal, &Keep::Even).whole().is_some());
}
