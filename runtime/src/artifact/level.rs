//! One artifact for several levels of a processor: which of them a machine takes.

use super::{ArtifactError, Manifest, missing_feature};

/// Most levels of an artifact.
const MOST: usize = 16;

impl Manifest {
    /// The description of the level that this machine takes: the last one that runs here, or the first one if none does.
    pub fn here(mut self) -> Manifest {
        let levels = std::mem::take(&mut self.levels);
        levels.into_iter().rev().find(|level| missing_feature(&level.features).is_none()).unwrap_or(self)
    }

    /// The level of that target, or without a name what [`Manifest::here`] is.
    ///
    /// # Errors
    /// There is no such level.
    pub fn level(mut self, target: Option<&str>) -> Result<Manifest, ArtifactError> {
        let Some(target) = target else { return Ok(self.here()) };
        let levels = std::mem::take(&mut self.levels);
        let known: Vec<String> = std::iter::once(&self).chain(&levels).map(|level| level.target.clone()).collect();
        let unknown = ArtifactError::Level { target: target.to_owned(), known: known.join(", ") };
        std::iter::once(self).chain(levels).find(|level| level.target == target).ok_or(unknown)
    }

    /// The targets of all levels, in order.
    pub fn targets(&self) -> Vec<&str> {
        std::iter::once(self).chain(&self.levels).map(|level| level.target.as_str()).collect()
    }

    /// Levels are the same model for the same users: they differ in code, and in how it wants weights, states and memory.
    pub(super) fn check_levels(&self) -> Result<(), String> {
        let is_name = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        let all: Vec<&Manifest> = std::iter::once(self).chain(&self.levels).collect();
        let with = |wrong: &str| Err(format!("levels {wrong}"));
        if all.len() > MOST || all.iter().any(|level| !is_name(&level.entries)) {
            return with("are too many, or have no names");
        }
        if all.iter().enumerate().any(|(at, level)| all[..at].iter().any(|before| before.entries == level.entries)) {
            return with("share their entries");
        }
        for level in &self.levels {
            let same = |other: &Manifest| {
                (&level.model, level.vocab, level.tokens, &level.params)
                    == (&other.model, other.vocab, other.tokens, &other.params)
            };
            if level.device.is_some() || self.device.is_some() || !level.levels.is_empty() || !same(self) {
                return with("are of different models or machines");
            }
            level.check().map_err(|what| format!("{}: {what}", level.target))?;
        }
        Ok(())
    }
}
