//! Bounded, repeatable fuzzing of everything that comes from files: whatever the bytes, there is a result or an error, no panic,
//! and what is accepted keeps its promises.

use super::fake::{Fake, device, manifest};
use braid_runtime::Weights;
use braid_runtime::artifact::{self, MAGIC, Manifest, VERSION};
use braid_runtime::checkpoint::{self, Checkpoint, GenerationConfig};
use braid_runtime::progress::Hidden;
use braid_runtime::verify::Golden;

/// Mutated inputs of each kind.
const ROUNDS: u64 = 4000;

/// Xorshift.
pub struct Dice(pub u64);

impl Dice {
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit.max(1) as u64) as usize
    }
}

/// Texts that tend to hurt.
const SPLICES: &[&str] = &[
    "0",
    "-1",
    "18446744073709551615",
    "9223372036854775807",
    "1e99",
    "null",
    "[]",
    "{}",
    "\"",
    "16",
    "64",
    "\u{0}",
    "[0,0]",
    ",",
];

/// A few changes: bytes, cuts, repetitions, numbers replaced by bad ones.
pub fn mutate(bytes: &[u8], dice: &mut Dice) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..=dice.below(4) {
        let at = dice.below(bytes.len());
        let end = (at + dice.below(12)).min(bytes.len());
        match dice.below(5) {
            0 if !bytes.is_empty() => bytes[at] = dice.below(256) as u8,
            1 => drop(bytes.drain(at..end)),
            2 => drop(bytes.splice(at..at, bytes[at..end].to_vec())),
            3 => drop(bytes.splice(at..end, SPLICES[dice.below(SPLICES.len())].bytes())),
            _ => replace_number(&mut bytes, at, dice),
        }
    }
    bytes
}

/// Puts another number in place of the next one: keeps the JSON valid, so that the deeper checks are reached.
fn replace_number(bytes: &mut Vec<u8>, from: usize, dice: &mut Dice) {
    let Some(start) = bytes[from..].iter().position(u8::is_ascii_digit).map(|at| from + at) else { return };
    let end = bytes[start..].iter().position(|byte| !byte.is_ascii_digit()).map_or(bytes.len(), |at| start + at);
    let number = match dice.below(4) {
        0 => dice.below(8).to_string(),
        1 => (dice.below(64) * 64).to_string(),
        2 => (1u128 << dice.below(65)).to_string(),
        _ => dice.below(1 << 40).to_string(),
    };
    drop(bytes.splice(start..end, number.into_bytes()));
}

/// An artifact with any bytes as manifest and a right checksum.
fn sealed(json: &[u8]) -> Vec<u8> {
    let mut bytes = [b"\x7fELF", json, &(json.len() as u64).to_le_bytes()].concat();
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3));
    bytes.extend(hash.to_le_bytes());
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend(MAGIC);
    bytes
}

#[test]
fn artifacts() {
    let gpu = Manifest { device: Some(device()), ..manifest() };
    [manifest(), gpu].iter().for_each(mutate_manifest);
}

fn mutate_manifest(manifest: &Manifest) {
    let json = serde_json::to_vec(manifest).unwrap();
    assert!(artifact::decode(&sealed(&json)).is_ok());
    let mut accepted = 0;
    for seed in 1..ROUNDS {
        let mut dice = Dice(seed * 0x9e37_79b9);
        if let Ok((_, manifest)) = artifact::decode(&sealed(&mutate(&json, &mut dice))) {
            accepted += 1;
            assert!(artifact::header(&manifest).contains("BRAID_VOCAB"));
            manifest.device.iter().for_each(|device| drop(device.table(&device.steps)));
            if manifest.weights_bytes < 1 << 20 {
                Weights::open(&manifest, "random:1", 1, &Hidden).unwrap();
            }
        }
        let _ = artifact::decode(&mutate(&sealed(&json), &mut dice));
    }
    assert!(accepted > ROUNDS / 50, "only {accepted} mutants reach the deeper checks");
}

#[test]
fn safetensors_headers() {
    let fake = Fake::new();
    let bytes = std::fs::read(fake.path("model.safetensors")).unwrap();
    let length = 8 + u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
    let (header, data) = (&bytes[8..length], &bytes[length..]);
    for seed in 1..ROUNDS {
        let mut dice = Dice(seed * 0x9e37_79b9);
        let mutant = mutate(header, &mut dice);
        let size = if dice.below(8) == 0 {
            mutate(&(mutant.len() as u64).to_le_bytes(), &mut dice)
        } else {
            (mutant.len() as u64).to_le_bytes().into()
        };
        let file = [&size, &mutant, data].concat();
        let Ok(tensors) = checkpoint::parse(&file) else { continue };
        for (name, info) in tensors {
            let bytes = file.get(info.bytes.clone()).unwrap_or_else(|| panic!("`{name}` leaves the file"));
            assert_eq!(Some(bytes.len()), info.kind.bytes(&info.shape));
        }
    }
}

#[test]
fn checkpoints_golden_files_and_configurations() {
    let fake = Fake::new();
    let bytes = std::fs::read(fake.path("model.safetensors")).unwrap();
    let path = fake.path("mutant.safetensors");
    let golden = String::from_utf8_lossy(&bytes[..256]).replace("model.embed.weight", "logits").replace("F32", "I64");
    let config = br#"{"eos_token_id": [0, 7], "do_sample": true, "temperature": 0.8, "top_k": 40, "max_new_tokens": 128}"#;
    for seed in 1..ROUNDS / 8 {
        let mut dice = Dice(seed * 0x9e37_79b9);
        std::fs::write(&path, [&mutate(&bytes[..300], &mut dice), &bytes[300..]].concat()).unwrap();
        let _ = Weights::open(&manifest(), path.to_str().unwrap(), 1, &Hidden);
        let _ = Checkpoint::open(&path).map(|checkpoint| checkpoint.near("model.embed"));
        std::fs::write(&path, [&mutate(golden.as_bytes(), &mut dice), &bytes[256..]].concat()).unwrap();
        let _ = Golden::open(&path, &Manifest { vocab: 40, ..manifest() });
        std::fs::write(fake.path("generation_config.json"), mutate(config, &mut dice)).unwrap();
        let _ = GenerationConfig::read(fake.folder.path());
    }
}
