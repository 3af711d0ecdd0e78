//! Files that are broken in every way that comes to mind: each a clear error, and no count is believed.

use super::{F32, Writer, text};
use crate::runtime::mutation::{Dice, mutate};
use braid_runtime::checkpoint::{Checkpoint, gguf};

fn whole() -> Writer {
    let mut writer = Writer::new("test");
    writer.int("test.block_count", 2);
    writer.texts("tokenizer.ggml.tokens", &["a", "b", "ab"]);
    writer.tensor("w", &[3, 4], F32, vec![1; 48]);
    writer.tensor("v", &[2, 32], 8, vec![1; 68]);
    writer
}

fn says(change: impl Fn(&mut Writer)) -> String {
    let mut writer = whole();
    change(&mut writer);
    gguf::parse(&writer.bytes()).expect_err("a broken file was taken")
}

#[test]
fn a_whole_file_is_taken() {
    let (metadata, tensors) = gguf::parse(&whole().bytes()).unwrap();
    assert_eq!(metadata["test.block_count"], 2);
    assert_eq!(metadata["tokenizer.ggml.tokens"], serde_json::json!(["a", "b", "ab"]));
    assert_eq!((tensors["w"].shape.as_slice(), tensors["w"].bytes.len()), (&[3, 4][..], 48));
    assert_eq!(tensors["v"].bytes.start, tensors["w"].bytes.end.next_multiple_of(32));
}

#[test]
fn what_is_wrong_is_said() {
    let tensor = |name: &str, shape: &[usize], kind, bytes| says(|file| file.tensor(name, shape, kind, vec![0; bytes]));
    assert!(tensor("w", &[4], F32, 16).contains("tensor `w` stands twice"));
    assert!(tensor("x", &[4], 99, 16).contains("tensor `x`: unknown type 99"));
    assert!(tensor("x", &[2, 31], 8, 68).contains("rows of broken blocks"));
    assert!(tensor("x", &[2, 0], F32, 0).contains("is empty"));
    assert!(tensor("x", &[usize::MAX, usize::MAX], F32, 16).contains("too large"));
    assert!(tensor("x", &[1 << 60], F32, 16).contains("truncated: tensor `x`"));
    assert!(tensor("x", &[], F32, 4).contains("0 dimensions"));
    assert!(tensor("x", &[1, 1, 1, 1, 1], F32, 4).contains("5 dimensions"));
    assert!(tensor("x", &[4], F32, 400).contains("bytes after the last tensor"));
    assert!(says(|file| file.int("test.block_count", 3)).contains("`test.block_count` stands twice"));
    assert!(says(|file| file.pairs.push(("k".into(), 13, vec![0; 8]))).contains("unknown type 13"));
    assert!(says(|file| file.pairs.push(("k".into(), 7, vec![2]))).contains("2 is neither true nor false"));
    assert!(says(|file| file.pairs.push(("k".into(), 8, vec![1, 0, 0, 0, 0, 0, 0, 0, 0xff]))).contains("not UTF-8"));
    assert!(says(|file| file.int("general.alignment", 24)).contains("24, not a small power of two"));
    assert!(says(|file| file.list("k", 4, 1 << 40, vec![])).contains("elements do not fit into the"));
    let nested = (0..9).fold(vec![0; 12], |inner: Vec<u8>, _| [&[9, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0][..], &inner].concat());
    assert!(says(|file| file.pairs.push(("k".into(), 9, nested.clone()))).contains("lists in lists in lists"));
}

#[test]
fn headers_of_other_files() {
    let parse = |bytes: &[u8]| gguf::parse(bytes).expect_err("taken");
    assert!(parse(b"GGML\x03\0\0\0").contains("not a GGUF file"));
    assert!(parse(b"GGUF\x01\0\0\0").contains("version 1 is too old"));
    assert!(parse(b"GGUF\x63\0\0\0").contains("version 99 is not known"));
    assert!(parse(b"GGUF\0\0\0\x03").contains("big-endian"));
    assert!(parse(b"GGUF\x03\0\0\0\xff\xff\xff\xff\xff\xff\xff\x7f\0\0\0\0\0\0\0\0").contains("tensors do not fit"));
    let bytes = whole().bytes();
    for end in (4..bytes.len() - 32).step_by(3) {
        assert!(parse(&bytes[..end]).contains("truncated"), "cut at {end}");
    }
}

#[test]
fn offsets_that_do_not_follow() {
    let bytes = whole().bytes();
    let name = text("v");
    let at = bytes.windows(name.len()).position(|window| window == name).unwrap() + name.len() + 4 + 16 + 4;
    let moved = |offset: u64| {
        let mut bytes = bytes.clone();
        bytes[at..at + 8].copy_from_slice(&offset.to_le_bytes());
        gguf::parse(&bytes).expect_err("taken")
    };
    assert!(moved(32).contains("tensor `v` at offset 32 overlaps `w`"));
    assert!(moved(96).contains("leaves a hole after `w`"));
    assert!(moved(u64::MAX).contains("leaves a hole"));
}

#[test]
fn mutants_are_refused_or_keep_their_promises() {
    let bytes = whole().bytes();
    let mut accepted = 0;
    for seed in 1..8000u64 {
        let mut dice = Dice(seed * 0x9e37_79b9);
        let mut mutant = bytes.clone();
        match dice.below(3) {
            // Counts, lengths, types and offsets are little-endian numbers with many zeros.
            0 => {
                let at = dice.below(mutant.len() - 100);
                mutant[at] ^= 1 << dice.below(8);
            }
            _ => mutant = [mutate(&bytes[..bytes.len() - 100], &mut dice), bytes[bytes.len() - 100..].to_vec()].concat(),
        }
        let Ok((_, tensors)) = gguf::parse(&mutant) else { continue };
        accepted += 1;
        for (name, info) in tensors {
            let bytes = mutant.get(info.bytes.clone()).unwrap_or_else(|| panic!("`{name}` leaves the file"));
            assert_eq!(Some(bytes.len()), info.kind.bytes(&info.shape));
        }
    }
    assert!(accepted > 100, "only {accepted} mutants are taken");
}

#[test]
fn files_in_parts() {
    let folder = tempfile::tempdir().unwrap();
    let path = |part: usize| folder.path().join(format!("model-{part:05}-of-00002.gguf"));
    for part in 0..2 {
        let mut writer = Writer::new("test");
        writer.pairs.push(("split.count".into(), 2, vec![2, 0]));
        writer.pairs.push(("split.no".into(), 2, vec![part as u8, 0]));
        writer.tensor(&format!("w{part}"), &[4], F32, vec![0; 16]);
        std::fs::write(path(part + 1), writer.bytes()).unwrap();
    }
    assert_eq!(Checkpoint::open(&path(1)).unwrap().names().collect::<Vec<_>>(), ["w0", "w1"]);
    assert!(Checkpoint::open(&path(2)).err().unwrap().to_string().contains("part 2 of 2 of a checkpoint"));
    std::fs::remove_file(path(2)).unwrap();
    assert!(Checkpoint::open(&path(1)).err().unwrap().to_string().contains("cannot open"));
}
