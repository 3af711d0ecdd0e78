//! The numbers of every block type, against those that the format's own Python package gives for random blocks.

use super::Writer;
use braid_runtime::Weights;
use braid_runtime::artifact::{Binding, Dtype, Layout, Manifest, Packed, Param};
use braid_runtime::checkpoint::{Checkpoint, write};
use braid_runtime::progress::Hidden;
use std::path::Path;

/// Name, number in the format, bytes and numbers of two blocks.
fn vectors() -> Vec<(&'static str, u32, Vec<u8>, Vec<f32>)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("goldens/gguf/blocks.json");
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let kinds = [("Q4_0", 2), ("Q4_1", 3), ("Q5_0", 6), ("Q5_1", 7), ("Q8_0", 8), ("Q4_K", 12), ("Q5_K", 13), ("Q6_K", 14)];
    let one = |(name, number): (&'static str, u32)| {
        let hex = json[name]["bytes"].as_str().unwrap();
        let bytes = (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect();
        let numbers = json[name]["numbers"].as_array().unwrap().iter().map(|number| number.as_f64().unwrap() as f32).collect();
        (name, number, bytes, numbers)
    };
    kinds.map(one).into()
}

/// A file with one tensor.
fn file(folder: &Path, shape: &[usize], kind: u32, bytes: &[u8]) -> std::path::PathBuf {
    let mut writer = Writer::new("none");
    writer.tensor("w", shape, kind, bytes.into());
    let path = folder.join("model.gguf");
    std::fs::write(&path, writer.bytes()).unwrap();
    path
}

#[test]
fn every_block_type_has_the_numbers_of_the_format() {
    let folder = tempfile::tempdir().unwrap();
    for (name, number, bytes, wanted) in vectors() {
        let block = wanted.len() / 2;
        let checkpoint = Checkpoint::open(&file(folder.path(), &[2, block], number, &bytes)).unwrap();
        let tensor = checkpoint.require("w").unwrap();
        assert_eq!((tensor.kind.to_string().as_str(), tensor.shape), (name, &[2, block][..]));
        let mut found = vec![0.0; 2 * block];
        tensor.read(0, &mut found).unwrap();
        for (at, (found, wanted)) in found.iter().zip(&wanted).enumerate() {
            assert!((found - wanted).abs() <= 1e-6 * wanted.abs().max(0.01), "{name}, element {at}: {found} for {wanted}");
        }
        tensor.read(block, &mut found[..block]).unwrap();
        assert_eq!(found[..block], found[block..], "{name}: the second block alone");
        for (first, count) in [(1, block), (0, block - 1), (block, 2 * block), (usize::MAX - block + 1, block)] {
            assert!(tensor.read(first, &mut vec![0.0; count]).unwrap_err().contains("are not blocks of"), "{name}");
        }
    }
}

/// A matrix [n, k] packed in panels and densely, with the halves of `n` interleaved.
fn manifest(n: usize, k: usize) -> Manifest {
    let binding = Binding {
        tensors: vec!["w".into()],
        shape: vec![n, k],
        strides: vec![0, 1],
        splits: vec![braid_runtime::artifact::Split { axis: 0, factors: vec![(2, k), (n / 2, 2 * k)] }],
        ..Binding::default()
    };
    let param = Param { path: "w".into(), axes: vec!["n".into(), "k".into()], shape: vec![n, k], binding: Some(binding) };
    let panels = Layout::Panels { batch: vec![], k: vec![1], n: vec![0], width: 16 };
    let packed = |param, offset, bytes, layout| Packed { param, offset, bytes, dtype: Dtype::F32, layout };
    let bytes = n.next_multiple_of(16) * k * 4;
    let mut manifest = crate::runtime::fake::manifest();
    manifest.params = vec![param];
    manifest.packed = vec![packed(0, 0, bytes, panels), packed(0, bytes, n * k * 4, Layout::Dense(vec![0, 1]))];
    manifest.weights_bytes = bytes + n * k * 4;
    manifest.check().unwrap();
    manifest
}

#[test]
fn packing_blocks_is_packing_their_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let (n, k) = (6, 512);
    for (name, number, bytes, numbers) in vectors() {
        let whole: Vec<u8> = bytes.iter().copied().cycle().take(bytes.len() * n * k / numbers.len()).collect();
        let path = file(folder.path(), &[n, k], number, &whole);
        let mut numbers = vec![0.0; n * k];
        Checkpoint::open(&path).unwrap().require("w").unwrap().read(0, &mut numbers).unwrap();
        let plain = folder.path().join("plain.safetensors");
        write(&mut std::fs::File::create(&plain).unwrap(), &[("w", &[n, k], &numbers)]).unwrap();
        let packed = |path: &Path| Weights::open(&manifest(n, k), path.to_str().unwrap(), 2, &Hidden).unwrap();
        let (blocks, wanted) = (packed(&path), packed(&plain));
        assert!(blocks.bytes() == wanted.bytes(), "{name}");
        // Row 1 of the parameter is the third of the tensor: it is the second of the first half.
        let dense = &wanted.bytes()[n.next_multiple_of(16) * k * 4..];
        let row: Vec<f32> = dense[k * 4..2 * k * 4].as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        assert_eq!(row, numbers[2 * k..3 * k], "{name}");
    }
}
