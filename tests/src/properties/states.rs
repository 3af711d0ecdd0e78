//! States as files, and ways back, of compiled models: what follows is the same to the bit.

use super::compiled::{Compiled, agree, feed, same};
use super::{cuts, holds, hybrids, parts, tokens};
use braid_compiler::forms::Chunks;
use braid_runtime::artifact::Truncate;
use braid_runtime::session::{Keep, Session, Settings};
use proptest::prelude::*;

/// A model of one mixer, a feed-forward network aside.
fn spec(mixer: &str) -> String {
    format!(
        "model test(vocab: dim = 23, d: dim = 24)(tokens: [t]) -> [t, vocab] {{\n  embed = embedding(vocab: vocab, d: d)\n  last = \
         rmsnorm()\n  head = unembedding(vocab: vocab)\n  mixer = {mixer}\n  ffn = swiglu(hidden: 16)\n  x = embed(tokens)\n  x = x + \
         mixer(rms[d](x, 1e-5))\n  x = x + ffn(x)\n  generate autoregressive\n  return head(last(x))\n}}\n"
    )
}

fn stepped(session: &mut Session, slot: usize, tokens: &[i32]) -> Vec<f32> {
    tokens.iter().flat_map(|id| feed(session, slot, &[*id])).collect()
}

/// Saves a sequence in one session and goes on in others: other slots, capacities and numbers of threads.
fn saved_goes_on(compiled: &Compiled, start: &[i32], rest: &[i32]) -> Result<(), TestCaseError> {
    let mut source = compiled.session(1, 2);
    let logits = feed(&mut source, 1, start);
    let path = compiled.path("saved.state");
    source.save(1, &path, start, &logits[logits.len() - compiled.vocab()..]).expect("a file");
    let wanted = stepped(&mut source, 1, rest);
    let needed = start.len() + rest.len();
    for (threads, capacity, slots, slot) in [(1, 256, 1, 0), (2, needed, 3, 2), (2, 4 * needed, 2, 1)] {
        let mut other = compiled.sized(Settings { threads, capacity, slots });
        feed(&mut other, slot, &rest[..rest.len().min(3)]);
        let saved = other.load(slot, &path).expect("the file");
        prop_assert_eq!(&saved.ids, start);
        prop_assert_eq!(&saved.logits, &logits[logits.len() - compiled.vocab()..]);
        prop_assert_eq!(&stepped(&mut other, slot, rest), &wanted, "{} threads, capacity {}", threads, capacity);
    }
    Ok(())
}

/// Feeds in parts, goes on, rolls back to the end of a part, and goes on otherwise; a session that never went on agrees to the bit.
fn rolled_back(compiled: &Compiled, ids: &[i32], wishes: &[usize], keep: Keep, way: (usize, usize)) -> Result<(), TestCaseError> {
    let lengths = parts(ids.len(), wishes);
    let (mut gone, mut fresh) = (compiled.session(1, 2), compiled.session(2, 1));
    gone.keep_history(1, keep).expect("a slot");
    let (stop, mut at) = (way.0 % lengths.len(), 0);
    let mut end = 0;
    for (part, length) in lengths.iter().enumerate() {
        feed(&mut gone, 1, &ids[at..at + length]);
        if part <= stop {
            feed(&mut fresh, 0, &ids[at..at + length]);
            end = at + length;
        }
        at += length;
    }
    let other = tokens(9, compiled.vocab(), 5);
    gone.rollback(1, end).expect("a way back");
    prop_assert_eq!(gone.position(1).expect("a slot"), end);
    prop_assert_eq!(stepped(&mut gone, 1, &other), stepped(&mut fresh, 0, &other), "from {} back to {}", at, end);
    // Anywhere, even inside a call: what a shorter call would have given.
    let anywhere = way.1 % end;
    gone.rollback(1, anywhere).expect("a way back");
    let mut whole = compiled.session(1, 1);
    let wanted = feed(&mut whole, 0, &[&ids[..anywhere], &other].concat());
    same("anywhere", &stepped(&mut gone, 1, &other), &wanted[anywhere * compiled.vocab()..], 1e-4)
}

/// Of any hybrid.
#[test]
fn saved_states_and_ways_back_change_nothing() {
    let ways = (any::<usize>(), any::<usize>(), 1usize..40, 0usize..4);
    holds(8, (hybrids::hybrid(), 2usize..120, cuts(), ways), |(hybrid, length, cuts, (stop, anywhere, every, most))| {
        let compiled = Compiled::in_chunks(&hybrid.text(), Chunks::Rows(8));
        let ids = tokens(length, compiled.vocab(), length);
        saved_goes_on(&compiled, &ids[..length / 2 + 1], &ids[length / 2..])?;
        rolled_back(&compiled, &ids, &cuts, Keep { every, most }, (stop, anywhere))
    });
}

/// A recurrence, caches, and rings that have gone round: the same, and what each can.
#[test]
fn each_kind_of_state() {
    let cases = [
        ("gated_delta(heads: 2, groups: 2, k: 4, v: 5)", Err("window")),
        ("attention(heads: 4, groups: 2, k: 8)", Ok(())),
        ("attention(heads: 4, groups: 2, k: 8, window: 7)", Ok(())),
        ("attention(heads: 4, groups: 2, k: 8, window: 7, sinks: 2)", Ok(())),
        ("parallel_mixers(left: attention(heads: 2, groups: 1, k: 4), right: retention(heads: 2, k: 4, v: 4))", Err("S")),
    ];
    for (mixer, cut) in cases {
        let compiled = Compiled::new(&spec(mixer));
        let ids = tokens(700, compiled.vocab(), 1);
        saved_goes_on(&compiled, &ids[..90], &ids[90..100]).unwrap_or_else(|error| panic!("{mixer}: {error}"));
        let mut session = compiled.sized(Settings { threads: 1, capacity: 700, slots: 2 });
        feed(&mut session, 0, &ids[..600]);
        session.fork(0, 1).expect("two slots");
        feed(&mut session, 1, &ids[600..]);
        match (cut, session.truncate(1, 600)) {
            (Ok(()), Ok(())) => {
                let ring = session.manifest().states.iter().any(|state| matches!(state.truncate, Truncate::Ring { .. }));
                assert!(ring || session.snapshot(0).expect("a slot") == session.snapshot(1).expect("a slot"), "{mixer}");
                assert_eq!(stepped(&mut session, 1, &ids[..20]), stepped(&mut session, 0, &ids[..20]), "{mixer}");
                assert_eq!(session.truncate(1, 300).is_err(), ring, "{mixer}: a ring forgets");
            }
            (Err(name), Err(error)) => assert!(error.to_string().contains(&format!("{name}` keeps no earlier state")), "{error}"),
            (wanted, found) => panic!("{mixer}: {wanted:?} {found:?}"),
        }
    }
}

/// Heads that share their values: the cache has room for each of them.
#[test]
fn values_without_heads() {
    let compiled = Compiled::new(
        "model test(vocab: dim = 11, d: dim = 12)(tokens: [t]) -> [t, vocab] {\n  dim g = 3\n  dim k = 4\n  dim v = 4\n  param embed, head: [vocab, d]   \
         param wq, wk: [g, k, d]   param wv: [v, d]\n  x = embed[vocab: tokens]\n  q = sum[d] x * wq\n  kk = sum[d] x * wk\n  \
         vv = sum[d] x * wv\n  a = attend[k](q, kk, vv) { keep: causal()   score: s }\n  generate autoregressive\n  return sum[d] (x + sum[g, \
         v] a) * head\n}\n",
    );
    let ids = tokens(40, compiled.vocab(), 1);
    agree("whole", &compiled.whole(&ids), &compiled.evaluated(&ids), 1e-4).expect("the evaluator's logits");
    saved_goes_on(&compiled, &ids[..20], &ids[20..]).expect("the same");
}
