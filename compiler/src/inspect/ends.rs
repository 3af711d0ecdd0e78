//! What a model does before its first block and after its last one belongs to no block. For reports it gets a part of its own,
//! named by the parameters that it reads (`embed`).

use braid_dsl::model::{Model, Op, Scope, ScopeId};

const ROOT: ScopeId = ScopeId(0);

/// The model with parts for its ends.
pub fn named(model: &Model) -> Model {
    let mut named = model.clone();
    let inside = |at: &usize| model.values[*at].scope != ROOT;
    let first = (0..model.values.len()).find(inside).unwrap_or(model.values.len());
    let last = (0..model.values.len()).rev().find(inside).map_or(0, |at| at + 1);
    gather(&mut named, 0..first);
    gather(&mut named, last.max(first)..model.values.len());
    named
}

/// Moves values into a new part if they read parameters.
fn gather(model: &mut Model, values: std::ops::Range<usize>) {
    let mut names: Vec<String> = Vec::new();
    for arg in model.values[values.clone()].iter().flat_map(|v| &v.args) {
        let Op::Param(id) = model.values[arg.0 as usize].op else { continue };
        let path = &model.params[id.0 as usize].path;
        if !path.contains('.') && !names.contains(path) {
            names.push(path.clone());
        }
    }
    if !names.is_empty() {
        model.scopes.push(Scope { parent: Some(ROOT), name: names.join(", "), block: String::new() });
        let part = ScopeId(model.scopes.len() as u32 - 1);
        model.values[values].iter_mut().for_each(|v| v.scope = part);
    }
}
