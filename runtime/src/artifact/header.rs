//! The C header that lies beside an artifact: the interface, then this model's sizes and states.

use super::{Manifest, State, Truncate};
use std::fmt::Write;

/// The interface without a model.
const INTERFACE: &str = include_str!("../../include/braid.h");
/// Functions over a slot, which come behind the table of states.
const SLOT: &str = include_str!("../../include/slot.h");
/// Where the model's part goes.
const MARK: &str = "/*@model@*/\n";

/// The C header of an artifact.
pub fn header(manifest: &Manifest) -> String {
    INTERFACE.replacen(MARK, &model(manifest), 1)
}

fn model(manifest: &Manifest) -> String {
    let mut text = format!("/* Model {}, target {}. */\n", comment(&manifest.model), comment(&manifest.target));
    let numbers = [
        ("VOCAB", manifest.vocab, "floats in a row of output"),
        ("TOKENS", manifest.tokens, "token ids are below this; 0: they only count rows"),
        ("MAX_ROWS", manifest.max_rows, "most rows of one segment in one call"),
        (
            "FIRST_ROWS",
            manifest.first_rows.filter(|_| !manifest.whole_prompt).unwrap_or(manifest.max_rows),
            "so many of a sequence's first rows, or all if fewer, come in one call",
        ),
        ("BLOCK_ROWS", manifest.block_rows, "a segment begins at a multiple of so many positions"),
        ("WEIGHTS_BYTES", manifest.weights_bytes, "the packed weights"),
        ("PREPARED_BYTES", manifest.prepared_bytes, "filled by braid_prepare"),
        ("ARENA_ROW_BYTES", manifest.arena_row_bytes, "for each row of rows_capacity"),
        ("SCRATCH_BYTES", manifest.scratch_bytes, "for each thread"),
        ("STATE_FIXED_BYTES", manifest.state_fixed_bytes, "one sequence's states, whatever the capacity"),
        ("STATE_POSITION_BYTES", manifest.state_position_bytes, "and for each position of capacity"),
        ("STATES", manifest.states.len(), "entries of braid_states"),
        ("INPUTS", manifest.inputs.len(), "entries of braid_inputs"),
    ];
    for (name, value, what) in numbers {
        line(&mut text, format_args!("#define BRAID_{name} INT64_C({value}) /* {what} */"));
    }
    text += INPUTS;
    for input in &manifest.inputs {
        let (shape, float, elements) = (comment(&input.shape()), i32::from(input.float), input.elements());
        let (name, place, encoded) = (quoted(&input.name), input.arena_row_offset, i32::from(input.encoded));
        let entry = format_args!("  /* {shape} */ {{{name}, {float}, {elements}, {place}, {encoded}}},");
        line(&mut text, entry);
    }
    if manifest.inputs.is_empty() {
        text += "  {0},\n";
    }
    text += "};\n";
    text += STATES;
    manifest.states.iter().for_each(|state| line(&mut text, format_args!("  {},", entry(state))));
    if manifest.states.is_empty() {
        text += "  {0},\n";
    }
    text + "};\n\n" + SLOT
}

const INPUTS: &str = "\n/* What a call is given beside token ids. */\nstatic const BraidInput braid_inputs[] = {\n";
const STATES: &str = "\n/* Caches and states of one sequence. */\nstatic const BraidState braid_states[] = {\n";

/// One row of `braid_states`, after a comment with its axes.
fn entry(state: &State) -> String {
    let axes: Vec<_> = state.axes.iter().map(|(name, size)| format!("{name} {size}")).collect();
    let truncate = match state.truncate {
        Truncate::Rows => "BRAID_ROWS, 0, 0".to_string(),
        Truncate::Ring { first, back } => format!("BRAID_RING, {first}, {back}"),
        Truncate::Replay => "BRAID_REPLAY, 0, 0".to_string(),
        Truncate::Keep => "BRAID_KEEP, 0, 0".to_string(),
    };
    format!(
        "/* [{}] */ {{{}, {}, {}, {}, {}, {}, {}, {:#x}u, {}, {}, {}, {truncate}}}",
        comment(&axes.join(", ")),
        quoted(&state.name),
        quoted(&state.kind),
        state.element_bytes,
        state.fixed_offset,
        state.position_offset,
        state.fixed_bytes,
        state.position_bytes,
        state.init_bits,
        state.rows,
        state.parts,
        state.block,
    )
}

/// Keeps a name from ending the comment that it stands in.
fn comment(text: &str) -> String {
    text.replace("*/", "* /").replace(['\n', '\r'], " ")
}

/// A C string literal; names are identifiers and dots, anything else becomes `_`.
fn quoted(text: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "._-/' ".contains(c) { c } else { '_' };
    format!("\"{}\"", text.chars().map(plain).collect::<String>())
}

/// Writing to a `String` cannot fail.
fn line(text: &mut String, line: std::fmt::Arguments) {
    let _ = writeln!(text, "{line}");
}
