//! Three ways to fail: the user's input, our limit, our bug. Variants carry facts; the sentence stands beside them.

use braid_dsl::span::Span;

/// Why there is no artifact.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The user gave something that cannot be: a target that does not exist, a checkpoint of another model.
    #[error("{what}")]
    User {
        /// One sentence without a full stop.
        what: String,
        /// What to do, if we know.
        hint: Option<String>,
    },
    /// A right program that we cannot compile yet.
    #[error("not lowered yet: {what}")]
    Limit {
        /// The construct.
        what: String,
        /// Where it stands.
        at: Option<Span>,
    },
    /// Our fault: what one stage made does not hold what the next needs.
    #[error("bug in stage `{stage}`: {what}")]
    Bug {
        /// The stage or pass.
        stage: &'static str,
        /// The broken rule.
        what: String,
    },
    /// A program that we call failed.
    #[error("`{name}` failed:\n{log}\nto repeat it: {command}")]
    Tool {
        /// Its name.
        name: &'static str,
        /// What it said.
        log: String,
        /// A command that repeats it.
        command: String,
    },
}

impl Error {
    /// The user's error without a hint.
    pub fn user(what: impl Into<String>) -> Self {
        Self::User { what: what.into(), hint: None }
    }

    /// The user's error and what to do.
    pub fn hinted(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::User { what: what.into(), hint: Some(hint.into()) }
    }

    /// A construct that is not lowered yet.
    pub fn limit(what: impl Into<String>) -> Self {
        Self::Limit { what: what.into(), at: None }
    }

    /// The same with its place, unless it has one.
    pub fn at(self, span: Span) -> Self {
        match self {
            Self::Limit { what, at: None } => Self::Limit { what, at: Some(span) },
            other => other,
        }
    }

    /// Our bug, by stage.
    pub fn bug(stage: &'static str, what: impl Into<String>) -> Self {
        Self::Bug { stage, what: what.into() }
    }

    /// 1 the user's error, 3 our limit, 4 our bug.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::User { .. } => 1,
            Self::Limit { .. } => 3,
            Self::Bug { .. } | Self::Tool { .. } => 4,
        }
    }
}
