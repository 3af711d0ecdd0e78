//! Products that are launches of their own on a GPU, as far as a machine without one can look at them. `tests/gpu/run.sh` compares
//! what they give with tiles of the walk.

use crate::build::write;
use braid_compiler::forms::Chunks;
use braid_runtime::artifact::{self, Chosen, Device, Dtype, Manifest, Multiplied};

/// What `tests/gpu/run.sh` runs, too.
pub const SPEC: &str = include_str!("../gpu/apart.braid");
const HANDED: &str = include_str!("../gpu/handed.braid");
/// Products whose rows choose their weights.
pub const EXPERTS: &str = include_str!("../gpu/experts.braid");

/// The PTX and the manifest for a target.
pub fn built(target: &str, dtype: Dtype) -> (String, Manifest) {
    built_of(SPEC, target, dtype)
}

/// The same of another model.
pub fn built_of(spec: &str, target: &str, dtype: Dtype) -> (String, Manifest) {
    let room = tempfile::tempdir().expect("a folder");
    let path = room.path().join("model.braidart");
    write(&path, spec, "", target, dtype, Chunks::Auto);
    let bytes = std::fs::read(&path).expect("an artifact");
    let (code, manifest) = artifact::decode(&bytes).expect("a sound artifact");
    (String::from_utf8(code.to_vec()).expect("text"), manifest)
}

fn device(manifest: &Manifest) -> &Device {
    manifest.device.as_ref().expect("a GPU's manifest")
}

/// Only where groups of four warps multiply, and only bfloat16 numbers.
#[test]
fn products_of_many_rows_are_launches_of_their_own() {
    let (ptx, manifest) = built("cuda:sm_90a", Dtype::Bf16);
    let device_of = device(&manifest);
    assert!(!device_of.apart.is_empty());
    for apart in &device_of.apart {
        let name = &apart.name;
        let has = |kind: &str| ptx.contains(&format!(".entry {name}_{kind}("));
        assert!(has("apart") && has("rounds") == apart.round.is_some(), "{name}");
        assert!(apart.from > apart.rows && apart.from < manifest.max_rows, "{name}");
    }
    let instructions = [
        "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16",
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes",
        "setmaxnreg.inc.sync.aligned.u32",
    ];
    instructions.iter().for_each(|instruction| assert!(ptx.contains(instruction), "{instruction}"));
    for (target, dtype) in [("cuda:sm_90a", Dtype::F32), ("cuda:sm_80", Dtype::Bf16), ("cuda:sm_90a", Dtype::Int8)] {
        let (_, manifest) = built(target, dtype);
        let mut products = device(&manifest).apart.iter().filter(|apart| matches!(apart.what, Multiplied::Products { .. }));
        assert!(products.next().is_none(), "{target} {dtype:?}");
    }
}

/// Tiles cover all rows and columns; the weights are where the step's word says; a call of one row has no launch of its own.
#[test]
fn tiles_cover_all_rows_and_columns() {
    let (_, manifest) = built("cuda:sm_90a", Dtype::Bf16);
    let device = device(&manifest);
    let mut seen = [0; 2];
    for step in 0..device.steps.len() {
        let Some(apart) = device.apart(step, manifest.max_rows) else { continue };
        assert!(device.apart(step, apart.from - 1).is_none());
        assert_eq!(apart.tiles(apart.from), apart.across * apart.from.div_ceil(apart.rows));
        seen[usize::from(matches!(apart.what, Multiplied::Attention { .. }))] += 1;
        let Multiplied::Products { depth, columns, weights, .. } = &apart.what else { continue };
        // A tile has one box of weights, or two.
        let widths: usize = weights.iter().map(|own| own.width).sum();
        assert!(2 * apart.across * columns >= widths && apart.across * columns <= widths + weights.len() * columns);
        for (own, launch) in weights.iter().zip(&device.steps[step..]) {
            let packed = manifest.packed.iter().find(|packed| packed.offset as i64 == launch.words[own.word]);
            assert_eq!(packed.map(|packed| packed.bytes), Some(2 * depth * own.width));
        }
    }
    assert_eq!(seen, [3, 1]);
}

/// Sequences of few rows each have the launch of an attention whatever their number, and every block then; products have tiles to fill.
#[test]
fn sequences_side_by_side_have_attention() {
    let (ptx, manifest) = built("cuda:sm_90a", Dtype::Bf16);
    let mut seen = [0; 2];
    for apart in &device(&manifest).apart {
        let attends = matches!(apart.what, Multiplied::Attention { .. });
        seen[usize::from(attends)] += 1;
        assert_eq!(apart.few, attends.then_some(8), "{}", apart.name);
        assert_eq!(
            [(17, 17), (17, 3), (17, 2), (17, 1)].map(|(rows, segments)| apart.is_for(rows, segments)),
            [attends, attends, false, false]
        );
        assert!(apart.is_for(apart.from, 1));
        assert_eq!(apart.blocks(apart.from, 1), apart.tiles(apart.from));
        assert_eq!(apart.blocks(17, 17) == usize::MAX, attends);
    }
    assert!(seen.iter().all(|count| *count > 0));
    // Heads are rows of small fragments there, and of whole tiles elsewhere.
    let (_, entry) = ptx.split_once(".entry attention_").expect("an attention");
    let entry = entry.split(".entry ").next().unwrap_or(entry);
    for instruction in ["ldmatrix.sync.aligned.m8n8.x4.trans", "mma.sync.aligned.m16n8k16", "wgmma.mma_async"] {
        assert!(entry.contains(instruction), "{instruction}");
    }
}

/// Products of the same rows are one launch; what only they need is made where they are rounded, and what only the next one needs is
/// handed on.
#[test]
fn steps_share_launches() {
    let shapes = |spec| {
        let (_, manifest) = built_of(spec, "cuda:sm_90a", Dtype::Bf16);
        let device = device(&manifest);
        let left_out = device.steps.iter().filter(|step| step.until.is_some()).count();
        assert!(device.steps.iter().all(|step| step.until.is_none_or(|until| step.least > 1 && until < manifest.max_rows)));
        let shape = |step: usize| {
            let apart = device.apart(step, manifest.max_rows)?;
            Some((apart.steps(), apart.handed, apart.hands))
        };
        ((0..device.steps.len()).filter_map(shape).collect::<Vec<_>>(), left_out)
    };
    // Gate and up; a product of odd columns; queries, keys and values; attention.
    let plain = |steps| (steps, false, None);
    assert_eq!(shapes(SPEC).0, [2, 1, 3, 1].map(plain));
    // What hands on and what takes it; queries, keys and values, ahead of which a norm is left out; attention.
    assert_eq!(shapes(HANDED), (vec![(1, false, Some(8192)), (1, true, None), plain(3), plain(1)], 1));
    // Of experts gate and up hand on to what goes back, unless something else is between them.
    let pair = |hidden| [(2, false, Some(hidden)), (1, true, None)];
    let all = [&pair(328)[..], &[(1, false, Some(256)), (1, true, None)], &[2, 1].map(plain), &pair(256), &[plain(3)]].concat();
    assert_eq!(shapes(EXPERTS).0, all);
}

/// Tiles are so many that each expert may have one that is not full; the weights of all experts are where the step's word says.
#[test]
fn rows_that_choose_have_tiles_for_every_expert() {
    let (ptx, manifest) = built_of(EXPERTS, "cuda:sm_90a", Dtype::Bf16);
    let device = device(&manifest);
    let mut seen = vec![];
    for (step, launch) in device.steps.iter().enumerate() {
        let Some((apart, chosen)) = device.apart(step, manifest.max_rows).and_then(|apart| Some((apart, apart.chosen()?))) else {
            continue;
        };
        assert!(ptx.contains(&format!(".entry {}_sorts(", apart.name)));
        assert_eq!(apart.tiles(256), apart.across * (2 * chosen.count + chosen.elements));
        let lists = chosen.lists(256, apart.rows);
        assert!(lists.tiles < lists.order && lists.order < lists.places && lists.end - lists.places == 4 * 256 * chosen.count);
        let Multiplied::Products { depth, weights, .. } = &apart.what else { continue };
        for (own, launch) in weights.iter().zip(std::iter::once(launch).chain(&device.steps[step + 1..])) {
            let packed = manifest.packed.iter().find(|packed| packed.offset as i64 == launch.words[own.word]);
            assert_eq!(packed.map(|packed| packed.bytes), Some(2 * depth * own.width * chosen.elements));
        }
        seen.push((chosen.count, chosen.elements));
    }
    assert_eq!(seen, [(3, 12), (3, 12), (2, 40), (2, 40), (2, 8), (2, 8), (1, 8), (1, 8)]);
    let (_, portable) = built_of(EXPERTS, "cuda:sm_80", Dtype::Bf16);
    assert!(portable.device.expect("a GPU's manifest").apart.is_empty());
}

/// Changes the depth, or the word of the weights, of the first product.
fn of_product(device: &mut Device, change: fn(&mut usize, &mut usize)) {
    if let Multiplied::Products { depth, weights, .. } = &mut device.apart[0].what {
        change(depth, &mut weights[0].word);
    }
}

/// Lets the rows of the first product choose their weights.
fn choose(device: &mut Device, choice: Chosen) {
    if let Multiplied::Products { chosen, .. } = &mut device.apart[0].what {
        *chosen = Some(choice);
    }
}

/// Changes the groups, or the words of the caches, of attention.
fn of_attention(device: &mut Device, change: fn(&mut usize, &mut usize)) {
    for apart in &mut device.apart {
        if let Multiplied::Attention { groups, word, .. } = &mut apart.what {
            change(groups, word);
        }
    }
}

/// A GPU keeps keys and values in bfloat16 where it rounds what it multiplies: artifact and C header say so.
#[test]
fn caches_are_rounded_as_weights_are() {
    for (dtype, bytes) in [(Dtype::Bf16, 2), (Dtype::F32, 4)] {
        let (_, manifest) = built("cuda:sm_90a", dtype);
        let state = |kind: &str| manifest.states.iter().find(|state| state.kind == kind).expect("a cache");
        for kind in ["keys", "values"] {
            let cache = state(kind);
            // Two groups of 64 numbers.
            assert_eq!((cache.element_bytes, cache.parts, cache.block, cache.row()), (bytes, 2, 1, 64));
            assert_eq!(cache.position_bytes, 2 * 64 * bytes);
            assert!(artifact::header(&manifest).contains(&format!("\"{kind}\", {bytes}, ")));
        }
        assert_eq!(state("positions").element_bytes, 4);
        assert_eq!(manifest.state_position_bytes, 4 * 64 * bytes + 4);
    }
}

/// Heads of up to 256 numbers attend so; where there are more than 128, to fewer positions at a time.
#[test]
fn wide_heads_attend_to_fewer_positions_at_a_time() {
    let (ptx, manifest) = built_of(include_str!("../gpu/wide.braid"), "cuda:sm_90a", Dtype::Bf16);
    let shapes = device(&manifest).apart.iter().filter_map(|apart| match apart.what {
        Multiplied::Attention { key, value, positions, .. } => Some([key, value, positions]),
        Multiplied::Products { .. } => None,
    });
    assert_eq!(shapes.collect::<Vec<_>>(), [[256, 256, 64], [256, 64, 64]]);
    // Scores of 64 positions; sums of 256 numbers of a value, and of 64.
    for columns in [64, 256] {
        assert!(ptx.contains(&format!("wgmma.mma_async.sync.aligned.m64n{columns}k16.f32.bf16.bf16")), "{columns}");
    }
    // What says where an operand lies has its swizzle and strides in 64 bits (PTX ISA, matrix descriptor): lines of 128 bytes, eight lines a group.
    let descriptor = 1_u64 << 62 | 64 << 32 | 1 << 16;
    assert!(ptx.contains(&format!(", {descriptor};")));
}

/// Attention to a window is one, too: its ring holds a call of many rows beside the window, in whole stages.
#[test]
fn windows_attend_in_rings_of_whole_stages() {
    let (_, manifest) = built_of(include_str!("../gpu/window.braid"), "cuda:sm_90a", Dtype::Bf16);
    let rings = device(&manifest).apart.iter().filter_map(|apart| match apart.what {
        Multiplied::Attention { ring, .. } => Some(ring),
        Multiplied::Products { .. } => None,
    });
    assert_eq!(rings.collect::<Vec<_>>(), [Some(4480), None]);
    assert_eq!(manifest.max_rows, 4096);
    // Every query looks at all of a ring with sinks: it has room for short calls.
    let sinks = include_str!("../gpu/window.braid").replace("query - key < 300", "(query - key < 300 || key < 4)");
    let (_, manifest) = built_of(&sinks, "cuda:sm_90a", Dtype::Bf16);
    let kept: Vec<usize> = manifest.states.iter().filter(|state| state.kind == "keys").map(|state| state.rows).collect();
    assert_eq!((manifest.max_rows, kept[0]), (256, 560));
}

/// What no launch could be is refused before an artifact is written.
#[test]
fn broken_launches_are_refused() {
    let (_, manifest) = built("cuda:sm_90a", Dtype::Bf16);
    let broken: [fn(&mut Device); 13] = [
        |device| device.apart[0].place = 2,
        |device| device.apart[0].rows = 512,
        |device| device.apart[0].numbers = 65,
        |device| device.apart[0].multiply.threads = 33,
        |device| of_product(device, |depth, _| *depth = 12),
        |device| choose(device, Chosen { count: 0, elements: 4, sort: device.apart[0].multiply }),
        |device| choose(device, Chosen { count: 2, elements: 1 << 28, sort: device.apart[0].multiply }),
        |device| of_product(device, |_, weights| *weights = 40),
        |device| device.apart[0].round = None,
        |device| of_attention(device, |groups, _| *groups = 0),
        |device| {
            for apart in &mut device.apart {
                if let Multiplied::Attention { ring, .. } = &mut apart.what {
                    *ring = Some(100);
                }
            }
        },
        |device| of_attention(device, |_, word| *word = 1000),
        |device| {
            let last = device.steps.len() - 1;
            device.steps[last].apart = Some(1000);
        },
    ];
    for (at, change) in broken.into_iter().enumerate() {
        let mut manifest = manifest.clone();
        change(manifest.device.as_mut().expect("a GPU's manifest"));
        let room = tempfile::tempdir().expect("a folder");
        let error = artifact::write(&room.path().join("model.braidart"), b"// PTX", &manifest).err();
        assert!(
            error.is_some_and(|error| error.to_string().contains("launch apart") || error.to_string().contains("grid")),
            "change {at}"
        );
    }
}
