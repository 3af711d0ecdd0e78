//! Every layout, source type and precision against a packing that goes element by element.

use braid_runtime::Weights;
use braid_runtime::artifact::{Binding, Dtype, Layout, Manifest, Packed, Param};
use braid_runtime::checkpoint::{Checkpoint, fp8};
use braid_runtime::progress::Hidden;
use braid_runtime::weights::{Origin, numbers};
use safetensors::Dtype as Kind;
use safetensors::tensor::TensorView;

const SHAPE: [usize; 4] = [3, 5, 7, 11];

/// A parameter over four axes, stored in the order 2, 0, 3 after 1 (stacked), from element 4 on, in rows that are too long.
fn param(stacked: bool) -> Param {
    let binding = Binding {
        tensors: (0..if stacked { SHAPE[1] } else { 1 }).map(|n| format!("t{n}")).collect(),
        stacked: stacked.then_some(1),
        shape: if stacked { vec![7, 3, 16] } else { vec![5, 7, 3, 16] },
        offset: 4,
        strides: vec![16, if stacked { 0 } else { 7 * 3 * 16 }, 3 * 16, 1],
        splits: vec![],
    };
    Param { path: "p".into(), axes: ["a", "b", "c", "d"].map(str::to_string).into(), shape: SHAPE.into(), binding: Some(binding) }
}

fn number(at: usize) -> f32 {
    (at as f32 * 0.37).sin() * 3.0
}

/// The file, its numbers as f32, in order of tensors.
fn checkpoint(kind: &str, stacked: bool) -> (Vec<u8>, Vec<f32>) {
    let count = 7 * 3 * 16 * SHAPE[1];
    let (width, numbers): (usize, Vec<(Vec<u8>, f32)>) = match kind {
        "F32" => (4, (0..count).map(|at| (number(at).to_le_bytes().to_vec(), number(at))).collect()),
        "F16" => {
            (2, (0..count).map(|at| half::f16::from_f32(number(at))).map(|n| (n.to_le_bytes().to_vec(), n.to_f32())).collect())
        }
        _ => (2, (0..count).map(|at| half::bf16::from_f32(number(at))).map(|n| (n.to_le_bytes().to_vec(), n.to_f32())).collect()),
    };
    let tensors = if stacked { SHAPE[1] } else { 1 };
    let each = count / tensors * width;
    let shape = if stacked { "[7,3,16]" } else { "[5,7,3,16]" };
    let entry =
        |n: usize| format!(r#""t{n}":{{"dtype":"{kind}","shape":{shape},"data_offsets":[{},{}]}}"#, n * each, (n + 1) * each);
    let header = format!("{{{}}}", (0..tensors).map(entry).collect::<Vec<_>>().join(","));
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    numbers.iter().for_each(|(bytes, _)| file.extend(bytes));
    (file, numbers.into_iter().map(|(_, number)| number).collect())
}

/// Element `index` (by axis) of the parameter.
fn element(numbers: &[f32], index: &[usize]) -> f32 {
    numbers[4 + index[1] * 7 * 3 * 16 + index[2] * 3 * 16 + index[0] * 16 + index[3]]
}

/// All indices of some axes, first slowest.
fn indices(axes: &[usize]) -> Vec<Vec<(usize, usize)>> {
    axes.iter().fold(vec![vec![]], |all, axis| {
        all.iter().flat_map(|one| (0..SHAPE[*axis]).map(move |at| [&one[..], &[(*axis, at)]].concat())).collect()
    })
}

fn packed(numbers: &[f32], layout: &Layout) -> Vec<f32> {
    let (batch, k, n, width) = match layout {
        Layout::Dense(order) => (&order[..], &[][..], &[][..], 1),
        Layout::Panels { batch, k, n, width } => (&batch[..], &k[..], &n[..], *width),
        Layout::Columns { batch, k, n } => (&batch[..], &k[..], &n[..], 1),
    };
    let mut out = Vec::new();
    for b in indices(batch) {
        for panel in indices(n).chunks(width) {
            for k in indices(k) {
                for column in 0..width {
                    let Some(column) = panel.get(column) else {
                        out.push(0.0);
                        continue;
                    };
                    let mut index = [0; 4];
                    b.iter().chain(&k).chain(column).for_each(|(axis, at)| index[*axis] = *at);
                    out.push(element(numbers, &index));
                }
            }
        }
    }
    out
}

fn manifest(layout: &Layout, dtype: Dtype, stacked: bool) -> Manifest {
    let bytes = layout.bytes(&SHAPE, dtype).unwrap();
    Manifest {
        params: vec![param(stacked)],
        packed: vec![Packed { param: 0, offset: 64, bytes, dtype, layout: layout.clone() }],
        weights_bytes: 64 + bytes.next_multiple_of(64),
        token_weights_bytes: 0,
        ..super::fake::manifest()
    }
}

#[test]
fn every_layout_type_and_precision() {
    let layouts = [
        Layout::Dense(vec![0, 1, 2, 3]),
        Layout::Dense(vec![3, 1, 0, 2]),
        Layout::Panels { batch: vec![], k: vec![2, 1], n: vec![0, 3], width: 16 },
        Layout::Panels { batch: vec![1], k: vec![3, 0], n: vec![2], width: 4 },
        Layout::Panels { batch: vec![2, 0], k: vec![], n: vec![3, 1], width: 8 },
        Layout::Panels { batch: vec![], k: vec![0, 1, 2, 3], n: vec![], width: 2 },
    ];
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    for kind in ["F32", "F16", "BF16"] {
        for stacked in [false, true] {
            let (file, numbers) = checkpoint(kind, stacked);
            std::fs::write(&path, file).unwrap();
            for layout in &layouts {
                let wanted = packed(&numbers, layout);
                let origin = Origin::Checkpoint(Checkpoint::open(&path).unwrap());
                let pack = |dtype| Weights::pack(&manifest(layout, dtype, stacked), &origin, 2, &Hidden).unwrap();
                let found = pack(Dtype::F32);
                let found = found.bytes()[64..].as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
                assert!(found.take(wanted.len()).eq(wanted.iter().copied()), "{kind} {layout:?}");
                let found = pack(Dtype::Bf16);
                let found = found.bytes()[64..].as_chunks().0.iter().map(|bytes| half::bf16::from_le_bytes(*bytes));
                assert!(found.take(wanted.len()).eq(wanted.iter().map(|n| half::bf16::from_f32(*n))), "{kind} {layout:?} bf16");
            }
        }
    }
}

/// Numbers of eight bits with scales of blocks of 128 (`weight_scale_inv`), of rows, or of the tensor (`weight_scale`), and without any; scales that do not fit
/// are told.
#[test]
fn numbers_of_eight_bits_and_their_scales() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let (rows, columns) = (200, 160);
    let bytes: Vec<u8> = (0..rows * columns).map(|at| (at * 37 % 0x7f) as u8 | if at % 3 == 0 { 0x80 } else { 0 }).collect();
    let param = Param {
        path: "p".into(),
        axes: ["n", "k"].map(str::to_string).into(),
        shape: vec![rows, columns],
        binding: Some(Binding {
            tensors: vec!["w.weight".into()],
            stacked: None,
            shape: vec![rows, columns],
            offset: 0,
            strides: vec![columns, 1],
            splits: vec![],
        }),
    };
    type Of = fn(usize, usize) -> usize;
    let kinds: [(&str, &[usize], Of); 5] = [
        ("w.weight_scale_inv", &[2, 2], |row, column| row / 128 * 2 + column / 128),
        ("w.weight_scale", &[200, 1], |row, _| row),
        ("w.weight_scale", &[1], |_, _| 0),
        ("w.weight_scale", &[], |_, _| 0),
        ("none", &[1], |_, _| 0),
    ];
    for (name, shape, of) in kinds {
        let scales: Vec<f32> = (0..shape.iter().product()).map(|n| 0.5 + n as f32).collect();
        let raw: Vec<u8> = scales.iter().flat_map(|x| x.to_le_bytes()).collect();
        let tensors = [
            ("w.weight", TensorView::new(Kind::F8_E4M3, vec![rows, columns], &bytes).unwrap()),
            (name, TensorView::new(Kind::F32, shape.to_vec(), &raw).unwrap()),
        ];
        std::fs::write(&path, safetensors::serialize(tensors, None).unwrap()).unwrap();
        let found = numbers(&param, &Checkpoint::open(&path).unwrap()).unwrap();
        for (at, found) in found.into_iter().enumerate() {
            let scale = if name == "none" { 1.0 } else { scales[of(at / columns, at % columns)] };
            assert_eq!(found, fp8::number(bytes[at]) * scale, "{name} {shape:?} {at}");
        }
    }
    let raw = [0u8; 12];
    let tensors = [
        ("w.weight", TensorView::new(Kind::F8_E4M3, vec![rows, columns], &bytes).unwrap()),
        ("w.weight_scale", TensorView::new(Kind::F32, vec![3], &raw).unwrap()),
    ];
    std::fs::write(&path, safetensors::serialize(tensors, None).unwrap()).unwrap();
    let error = numbers(&param, &Checkpoint::open(&path).unwrap()).unwrap_err();
    assert!(error.contains("scales of shape [3] do not fit numbers of shape [200, 160]"), "{error}");
}

#[test]
fn random_weights_are_reproducible_and_sane() {
    let layout = Layout::Panels { batch: vec![], k: vec![1, 2, 3], n: vec![0], width: 4 };
    let pack =
        |seed, threads| Weights::pack(&manifest(&layout, Dtype::F32, false), &Origin::Random(seed), threads, &Hidden).unwrap();
    assert_eq!(pack(1, 1).bytes(), pack(1, 3).bytes());
    assert_ne!(pack(1, 1).bytes(), pack(2, 1).bytes());
    let weights = pack(3, 1);
    let numbers: Vec<f64> =
        weights.bytes()[64..].as_chunks().0.iter().map(|bytes| f64::from(f32::from_le_bytes(*bytes))).collect();
    let count = (3 * 5 * 7 * 11) as f64;
    let (mean, square) = (numbers.iter().sum::<f64>() / count, numbers.iter().map(|n| n * n).sum::<f64>() / count);
    assert!(mean.abs() < 0.005 && (square * 385.0 - 1.0).abs() < 0.15, "mean {mean}, variance {square}");
}
