//! Sessions on the hand-made artifact, on the processor and on a GPU that is played: chunks, batches, snapshots, limits.

use super::fake::{Fake, MAX_ROWS, VOCAB};
use braid_runtime::{Error, Feed, Session, Settings, Wanted};

const TOKENS: [i32; 17] = [3, 1, 4, 1, 5, 9, 2, 6, 5, 35, 8, 9, 7, 39, 3, 2, 0];

fn settings(threads: usize, capacity: usize, slots: usize) -> Settings {
    Settings { threads, capacity, slots }
}

fn prefill(session: &mut Session, slot: usize, tokens: &[i32], wanted: Wanted) -> Vec<f32> {
    let mut all = Vec::new();
    session.prefill(slot, tokens, wanted, |_, logits| all.extend_from_slice(logits)).unwrap();
    all
}

fn close(found: &[f32], wanted: &[f32]) {
    assert_eq!(found.len(), wanted.len());
    let worst = found.iter().zip(wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst < 1e-5, "off by {worst}");
}

#[test]
fn prefill_in_chunks_is_the_whole_sequence() {
    for fake in Fake::both() {
        let reference = fake.reference(&TOKENS);
        for threads in [1, 3] {
            let mut session = fake.session(settings(threads, 20, 2));
            close(&prefill(&mut session, 1, &TOKENS, Wanted::All), &reference.concat());
            session.reset(1).unwrap();
            close(&prefill(&mut session, 1, &TOKENS, Wanted::Last), &reference[16]);
            assert_eq!(session.position(1).unwrap(), TOKENS.len());
        }
    }
}

#[test]
fn a_batch_at_different_positions_is_each_alone() {
    for fake in Fake::both() {
        let reference = fake.reference(&TOKENS);
        let mut session = fake.session(settings(2, 32, 9));
        for slot in 0..9 {
            prefill(&mut session, slot, &TOKENS[..slot + 1], Wanted::None);
        }
        for step in 0..8 {
            let tokens: Vec<_> = (0..9).rev().map(|slot| (slot, TOKENS[slot + 1 + step])).collect();
            let logits = session.step(&tokens).unwrap();
            for (row, (slot, _)) in logits.chunks(VOCAB).zip(&tokens) {
                close(row, &reference[slot + 1 + step]);
            }
        }
    }
}

#[test]
fn segments_of_different_lengths_in_one_call() {
    for fake in Fake::both() {
        let reference = fake.reference(&TOKENS);
        let mut session = fake.session(settings(2, 32, 8));
        prefill(&mut session, 2, &TOKENS[..2], Wanted::None);
        let feeds = [
            Feed::new(0, &TOKENS[..1], Wanted::Last),
            Feed::new(2, &TOKENS[2..4], Wanted::All),
            Feed::new(1, &TOKENS[..3], Wanted::None),
        ];
        close(session.forward(&feeds).unwrap(), &[&reference[0][..], &reference[2], &reference[3]].concat());
        close(session.step(&[(1, TOKENS[3])]).unwrap(), &reference[3]);
    }
}

#[test]
fn a_snapshot_goes_back_in_time() {
    for fake in Fake::both() {
        let mut session = fake.session(settings(1, 32, 2));
        prefill(&mut session, 0, &TOKENS[..6], Wanted::None);
        let snapshot = session.snapshot(0).unwrap();
        let first = prefill(&mut session, 0, &TOKENS[6..], Wanted::All);
        session.restore(0, &snapshot).unwrap();
        session.restore(1, &snapshot).unwrap();
        assert_eq!(snapshot.position(), 6);
        close(&prefill(&mut session, 0, &TOKENS[6..], Wanted::All), &first);
        close(&prefill(&mut session, 1, &TOKENS[6..], Wanted::All), &first);
        let mut other = fake.session(settings(1, 64, 1));
        other.restore(0, &snapshot).unwrap();
        close(&prefill(&mut other, 0, &TOKENS[6..], Wanted::All), &first);
    }
}

#[test]
fn what_does_not_fit_is_refused_and_changes_nothing() {
    for fake in Fake::both() {
        let mut session = fake.session(settings(1, 10, 2)); // rounded up to 16
        let error = |session: &mut Session, tokens: &[i32]| session.prefill(0, tokens, Wanted::Last, |_, _| ()).unwrap_err();
        assert!(matches!(error(&mut session, &TOKENS), Error::Context { wanted: 17, capacity: 16 }));
        assert!(matches!(error(&mut session, &[1, 2, 40]), Error::Token { id: 40, place: 2, tokens: 40 }));
        assert!(matches!(error(&mut session, &[-1]), Error::Token { id: -1, .. }));
        assert!(error(&mut session, &[]).to_string().contains("empty sequence"));
        assert_eq!(session.position(0).unwrap(), 0);
        assert!(session.step(&[(2, 1)]).unwrap_err().to_string().contains("slot 2 does not exist"));
        assert!(session.step(&[(0, 1), (0, 2)]).unwrap_err().to_string().contains("slot 0 twice"));
        let long = Feed::new(0, &TOKENS[..MAX_ROWS + 1], Wanted::None);
        assert!(session.forward(&[long]).unwrap_err().to_string().contains("at most 5 rows"));
        assert!(session.forward(&[]).is_err());
        prefill(&mut session, 0, &TOKENS[..16], Wanted::None);
        assert_eq!(session.room(0).unwrap(), 0);
        assert!(matches!(session.step(&[(0, 1)]).unwrap_err(), Error::Context { wanted: 17, capacity: 16 }));
    }
}
