//! Tokenizers: text to ids and back, streams that never break a character.

use braid_runtime::checkpoint::GenerationConfig;
use braid_runtime::tokenizer::Tokenizer;
use std::path::{Path, PathBuf};

fn demo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/tiny-hybrid")
}

/// The folder with the demo's checkpoint files.
fn checkpoint() -> PathBuf {
    let inside = demo().join("weights");
    if inside.is_dir() { inside } else { demo() }
}

#[test]
fn a_stream_is_the_text() {
    let tokenizer = Tokenizer::open(&checkpoint().join("tokenizer.json")).unwrap();
    for text in ["Once upon a time, there was a king.", " naïve café — 物語 🦊🏰!", "a\n\n  b\t\u{fffd}c"] {
        let ids = tokenizer.encode(text, true).unwrap();
        assert_eq!(tokenizer.decode(&ids).unwrap(), text);
        for prompt in 0..ids.len() {
            let mut stream = tokenizer.stream(&ids[..prompt]);
            let mut pieces: Vec<String> = ids[prompt..].iter().map(|id| stream.push(*id).unwrap()).collect();
            pieces.push(stream.finish().unwrap());
            assert!(text.ends_with(pieces.concat().trim_start_matches('\u{fffd}')), "{pieces:?} after {prompt} tokens");
            if prompt == 0 {
                assert_eq!(pieces.concat(), text);
            }
        }
    }
}

#[test]
fn an_unfinished_character_is_held_back_until_the_end() {
    let tokenizer = Tokenizer::open(&checkpoint().join("tokenizer.json")).unwrap();
    let ids = tokenizer.encode("🦊", true).unwrap();
    assert!(ids.len() > 1, "the fox takes several tokens");
    let mut stream = tokenizer.stream(&[]);
    for id in &ids[..ids.len() - 1] {
        assert_eq!(stream.push(*id).unwrap(), "");
    }
    assert!(stream.finish().unwrap().contains('\u{fffd}'));
}

#[test]
fn special_tokens_are_not_shown() {
    let tokenizer = Tokenizer::open(&checkpoint().join("tokenizer.json")).unwrap();
    let mut stream = tokenizer.stream(&[]);
    assert_eq!(stream.push(0).unwrap(), "");
    let word = tokenizer.encode("king", true).unwrap();
    assert_eq!(word.iter().map(|id| stream.push(*id).unwrap()).collect::<String>(), "king");
}

#[test]
fn a_broken_tokenizer_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    std::fs::write(&path, "{}").unwrap();
    assert!(Tokenizer::open(&path).err().unwrap().to_string().contains("not a tokenizer"));
}

#[test]
fn generation_configurations() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    let read = || GenerationConfig::read(folder.path());
    assert_eq!(read().unwrap(), GenerationConfig::default());
    write("config.json", r#"{"eos_token_id": [3, 5]}"#);
    assert_eq!(read().unwrap().stop, [3, 5]);
    write("generation_config.json", r#"{"eos_token_id": 7, "temperature": 0.5, "top_k": 4}"#);
    let config = read().unwrap();
    assert_eq!((config.stop, config.temperature, config.top_k), (vec![7], None, None), "without do_sample it is greedy");
    write("generation_config.json", r#"{"do_sample": true, "temperature": 0.5, "top_p": 0.25, "max_new_tokens": 9}"#);
    let config = read().unwrap();
    assert_eq!((config.stop, config.temperature, config.top_p, config.max_tokens), (vec![3, 5], Some(0.5), Some(0.25), Some(9)));
    write("generation_config.json", "{");
    assert!(read().is_err());
}
