//! What two models make of the same tokens.

use super::args::CodeArgs;
use super::build;
use super::failure::Failure;
use super::spec::Spec;
use braid_runtime::weights::Weights;
use braid_runtime::{Artifact, Session, Wanted, progress::Hidden};
use std::sync::Arc;

/// Tokens that both models read for a comparison.
pub const COMPARED: usize = 32;

/// The logits of some tokens; none of a model that is given something else.
pub fn logits(spec: Spec, code: &CodeArgs, weights: &str) -> Result<Option<Vec<f32>>, Failure> {
    let artifact = Artifact::open(&build::cached(spec, code)?)?;
    if artifact.manifest.tokens == 0 || !artifact.manifest.inputs.is_empty() {
        return Ok(None);
    }
    let weights = Weights::open(&artifact.manifest, weights, 1, &Hidden)?;
    let tokens: Vec<i32> =
        (0..COMPARED).map(|n| (n * n * 7 + n * 31 + 1) % artifact.manifest.tokens).map(|id| id as i32).collect();
    let settings = braid_runtime::Settings { threads: 1, capacity: COMPARED, slots: 1 };
    let mut session = Session::new(Arc::new(artifact), Arc::new(weights), settings)?;
    let mut all = Vec::new();
    session.prefill(0, &tokens, Wanted::All, |_, logits| all.extend_from_slice(logits))?;
    Ok(Some(all))
}
