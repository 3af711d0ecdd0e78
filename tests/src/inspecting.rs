//! What `inspect` counts before anything is compiled, against what is allocated afterwards.

use crate::{build, snapshots};
use braid_compiler::inspect::{inspect, json};
use braid_runtime::artifact::{State, Truncate};
use std::path::Path;

/// Bytes that the equations need of a state when `n` positions were seen: neither padding nor the positions beside a cache.
fn needed(state: &State, n: usize) -> usize {
    let row = state.row() * state.parts * state.element_bytes;
    match state.truncate {
        _ if state.kind == "positions" => 0,
        Truncate::Rows => n * row,
        // As long as the text, as far as is known without a source.
        Truncate::Keep if state.grows() => n * row,
        // A ring has room for one call more than its window.
        Truncate::Ring { first, back } => n.min(state.rows - back).max(first.min(n)) * row,
        Truncate::Replay | Truncate::Keep => state.rows * row,
    }
}

/// States and caches of every imported model, and of every library mixer that the specs of the snapshots use.
#[test]
fn states_that_are_reported_are_those_that_are_allocated() {
    let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("goldens");
    let folders = std::fs::read_dir(goldens).expect("golden models").flatten().map(|entry| entry.path().join("config.json"));
    let imported: Vec<_> = folders.filter(|path| path.is_file()).map(|path| build::imported(&path).0).collect();
    assert!(imported.len() > 15);
    for spec in imported.into_iter().chain(snapshots::specs("suite/specs").into_iter().map(|(_, spec)| spec)) {
        reported_is_allocated(&spec, 1024);
    }
}

/// That for every length of a context what is reported is allocated; what is for the one that is asked for.
pub fn reported_is_allocated(spec: &str, context: usize) -> usize {
    let report = json(&inspect(&build::model(spec)));
    let work = snapshots::run(spec, "plan");
    let memory = &work.plan().expect("a plan").memory;
    let allocated = |n: usize| memory.states.iter().map(|state| needed(state, n)).sum::<usize>();
    for total in report["totals"].as_array().expect("totals") {
        let n = total["context"].as_u64().expect("a context") as usize;
        assert_eq!(total["memory_bytes"].as_u64(), Some(allocated(n) as u64), "at {n} positions: {spec}");
    }
    let slot = memory.states.iter().map(|state| state.place(64).len()).sum::<usize>();
    assert_eq!(slot, memory.state_fixed_bytes + 64 * memory.state_position_bytes, "states fill a slot");
    allocated(context)
}
