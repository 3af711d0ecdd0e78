//! Going back and forth in a sequence on the hand-made artifact, on the processor and on a GPU that is played, and the files of states: what is wrong with them is said.

use super::fake::{Fake, MAX_ROWS, manifest};
use braid_runtime::artifact::Truncate;
use braid_runtime::checkpoint::{Checkpoint, Kind};
use braid_runtime::progress::Hidden;
use braid_runtime::{Artifact, Error, Keep, Saved, Session, Settings, Snapshot, Wanted, Weights};
use std::path::Path;

const TOKENS: [i32; 17] = [3, 1, 4, 1, 5, 9, 2, 6, 5, 35, 8, 9, 7, 39, 3, 2, 0];

fn session(fake: &Fake, capacity: usize, slots: usize) -> Session {
    fake.session(Settings { threads: 1, capacity, slots })
}

fn feed(session: &mut Session, slot: usize, tokens: &[i32]) -> Vec<f32> {
    let mut all = Vec::new();
    session.prefill(slot, tokens, Wanted::All, |_, logits| all.extend_from_slice(logits)).unwrap();
    all
}

/// A session that has seen the first six tokens, and what the rest gives.
fn begun(fake: &Fake) -> (Session, Vec<f32>) {
    let mut session = session(fake, 32, 2);
    feed(&mut session, 1, &TOKENS);
    session.reset(1).unwrap();
    feed(&mut session, 1, &TOKENS[..6]);
    session.fork(1, 0).unwrap();
    let rest = feed(&mut session, 0, &TOKENS[6..]);
    (session, rest)
}

#[test]
fn a_saved_state_goes_on_elsewhere() {
    for fake in Fake::both() {
        let (source, rest) = begun(&fake);
        let path = fake.path("six.state");
        source.save(1, &path, &TOKENS[..6], &[]).unwrap();
        for (capacity, slots, slot) in [(17, 1, 0), (200, 3, 2)] {
            let mut other = session(&fake, capacity, slots);
            feed(&mut other, slot, &TOKENS[3..]);
            let saved = other.load(slot, &path).unwrap();
            assert_eq!((saved.ids, saved.logits), (TOKENS[..6].to_vec(), vec![]));
            assert_eq!(other.position(slot).unwrap(), 6);
            assert_eq!(feed(&mut other, slot, &TOKENS[6..]), rest);
        }
        let file = Checkpoint::open(&path).unwrap();
        assert_eq!(file.names().collect::<Vec<_>>(), ["history", "sum", "token-ids"]);
        assert_eq!((file.require("history").unwrap().shape, file.require("sum").unwrap().shape), (&[1, 6, 1][..], &[24][..]));
    }
}

/// As a GPU keeps keys: two bytes a number.
#[test]
fn caches_of_short_numbers_are_saved_as_such() {
    let (fake, mut own) = (Fake::new(), manifest());
    let history = own.states.iter_mut().find(|state| state.name == "history").unwrap();
    (history.element_bytes, history.kind) = (2, "keys".into());
    fake.write(&own);
    let (source, rest) = begun(&fake);
    let path = fake.path("six.state");
    source.save(1, &path, &TOKENS[..6], &[]).unwrap();
    let mut other = session(&fake, 64, 1);
    other.load(0, &path).unwrap();
    assert_eq!(feed(&mut other, 0, &TOKENS[6..]), rest);
    let file = Checkpoint::open(&path).unwrap();
    let history = file.require("history").unwrap();
    assert_eq!((history.kind, history.shape), (Kind::Bf16, &[1, 6, 2][..]));
}

#[test]
fn snapshots_of_other_models_and_lengths_are_refused() {
    for fake in Fake::both() {
        let (source, _) = begun(&fake);
        let (six, all) = (source.snapshot(1).unwrap(), source.snapshot(0).unwrap());
        let mut small = session(&fake, 16, 1);
        assert!(matches!(small.restore(0, &all), Err(Error::Context { wanted: 17, capacity: 16 })));
        let copy = Snapshot::new(&manifest(), 6, six.bytes().to_vec()).unwrap();
        assert!(copy == six && six.bytes().len() == 128 + 4 * 16);
        assert!(Snapshot::new(&manifest(), 17, six.bytes().to_vec()).is_err());
        let mut other = manifest();
        other.states[0].name = "total".into();
        let foreign = Snapshot::new(&other, 6, six.bytes().to_vec()).unwrap();
        assert!(small.restore(0, &foreign).unwrap_err().to_string().contains("another model"));
        assert!(small.fork(0, 1).is_err() && small.fork(1, 0).is_err());
    }
}

#[test]
fn broken_state_files() {
    for fake in Fake::both() {
        let (source, _) = begun(&fake);
        let path = fake.path("a.state");
        source.save(1, &path, &TOKENS[..6], &[0.5; 40]).unwrap();
        let artifact = Artifact::open(&fake.artifact()).unwrap();
        let weights = Weights::open(&artifact.manifest, fake.folder.path().to_str().unwrap(), 1, &Hidden).unwrap();
        let whole = std::fs::read(&path).unwrap();
        let says = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            let error = Saved::read(&path, &artifact.manifest, &weights).err().expect("a broken state was taken");
            assert_eq!(error.exit_code(), 1);
            error.to_string()
        };
        for length in [0, 7, 100, whole.len() - 1] {
            let found = says(&whole[..length]);
            assert!(found.contains("truncated") || found.contains("shorter"), "{found}");
        }
        for at in (0..whole.len()).step_by(7) {
            let mut flipped = whole.clone();
            flipped[at] ^= 1;
            says(&flipped);
        }
        let mut moved = resealed(&whole, "\"position\":\"6\"", "\"position\":\"5\"");
        assert!(says(&moved).contains("tensor `token-ids` is I32 [6] where I32 [5] is needed"), "{}", says(&moved));
        *moved.last_mut().unwrap() ^= 1;
        assert!(says(&moved).contains("the checksum does not match"));
        assert!(says(&std::fs::read(fake.path("model.safetensors")).unwrap()).contains("not a state"));
        assert!(
            says(&resealed(&whole, "\"version\":\"1\"", "\"version\":\"7\""))
                .contains("state format 7, but this build reads format 1")
        );
        std::fs::write(&path, &whole).unwrap();
        let other = Weights::open(&artifact.manifest, "random:3", 1, &Hidden).unwrap();
        let error = Saved::read(&path, &artifact.manifest, &other).err().unwrap();
        assert!(error.to_string().contains("saved with other weights") && error.hint().is_some());
        let mut renamed = manifest();
        renamed.model = "false".into();
        let error = Saved::read(&path, &renamed, &weights).err().unwrap();
        assert!(error.to_string().contains("the state of `fake`, whose states are not those of `false`"), "{error}");
        assert!(session(&fake, 32, 1).load(0, Path::new("no/such.state")).err().unwrap().to_string().starts_with("cannot read"));
    }
}

/// The file with a change and a right checksum.
fn resealed(file: &[u8], from: &str, to: &str) -> Vec<u8> {
    let find = |file: &[u8], text: &str| file.windows(text.len()).position(|bytes| bytes == text.as_bytes()).unwrap();
    let mut file = file.to_vec();
    let at = find(&file, from);
    file[at..at + to.len()].copy_from_slice(to.as_bytes());
    let at = find(&file, "\"checksum\":\"") + 12;
    file[at..at + 16].fill(b'0');
    let hash = file.iter().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3));
    file[at..at + 16].copy_from_slice(format!("{hash:016x}").as_bytes());
    file
}

#[test]
fn what_forgets_cannot_be_cut() {
    for fake in Fake::both() {
        let (mut session, _) = begun(&fake);
        let error = session.truncate(0, 6).unwrap_err();
        assert!(
            error.to_string().contains("`sum` keeps no earlier state") && error.hint().unwrap().contains("snapshot"),
            "{error}"
        );
        assert_eq!(session.position(0).unwrap(), 17);
        assert!(session.truncate(0, 18).unwrap_err().to_string().contains("18 is beyond"));
        assert!(session.rollback(0, 6).unwrap_err().to_string().contains("no history"));
        session.truncate(0, 17).unwrap();
        session.truncate(0, 0).unwrap();
        assert!(session.snapshot(0).unwrap() == self::session(&fake, 32, 1).snapshot(0).unwrap());
    }
}

#[test]
fn a_history_leads_back_to_any_position() {
    for fake in Fake::both() {
        let calls: Vec<&[i32]> = vec![&TOKENS[..5], &TOKENS[5..6], &TOKENS[6..7], &TOKENS[7..11], &TOKENS[11..12], &TOKENS[12..]];
        for keep in
            [Keep { every: 1, most: 100 }, Keep { every: 2, most: 2 }, Keep { every: 3, most: 0 }, Keep { every: 0, most: 1 }]
        {
            for back in 0..TOKENS.len() {
                let mut session = session(&fake, 32, 2);
                session.keep_history(0, keep).unwrap();
                calls.iter().for_each(|call| drop(feed(&mut session, 0, call)));
                session.rollback(0, back).unwrap();
                feed(&mut session, 1, &TOKENS[..back.max(1)]);
                assert_eq!(session.position(0).unwrap(), back);
                if back > 0 {
                    assert!(session.snapshot(0).unwrap() == session.snapshot(1).unwrap(), "{keep:?}, back to {back}");
                }
                // And once more, on another way.
                feed(&mut session, 0, &[7, 8, 9]);
                session.rollback(0, back / 2).unwrap();
                session.reset(1).unwrap();
                feed(&mut session, 1, &TOKENS[..(back / 2).max(1)]);
                assert!(back < 2 || session.snapshot(0).unwrap() == session.snapshot(1).unwrap());
            }
        }
    }
}

#[test]
fn a_history_begins_somewhere() {
    for fake in Fake::both() {
        let (mut session, _) = begun(&fake);
        let six = session.snapshot(1).unwrap();
        session.keep_history(1, Keep { every: 4, most: 4 }).unwrap();
        feed(&mut session, 1, &TOKENS[6..]);
        assert!(session.rollback(1, 3).unwrap_err().to_string().contains("which begins at 6"));
        session.fork(1, 0).unwrap();
        session.rollback(0, 6).unwrap();
        assert!(session.snapshot(0).unwrap() == six && session.position(1).unwrap() == 17);
        session.restore(0, &six).unwrap();
        feed(&mut session, 0, &TOKENS[6..6 + MAX_ROWS]);
        session.rollback(0, 7).unwrap();
        assert_eq!(session.position(0).unwrap(), 7);
    }
}

#[test]
fn how_far_states_go_back() {
    let ring = Truncate::Ring { first: 4, back: 256 };
    for (position, to) in [(300, 300), (300, 299), (300, 44), (270, 3), (272, 1)] {
        assert!(ring.allows(272, position, to), "{position} to {to}");
    }
    assert!(!ring.allows(272, 300, 43) && !ring.allows(272, 273, 1) && ring.allows(272, 900, 0) && !ring.allows(272, 5, 6));
    assert!(!Truncate::Replay.allows(1, 5, 4) && Truncate::Replay.allows(1, 5, 5) && Truncate::Replay.allows(1, 5, 0));
}
