//! What a command found out: exit status 0 or 1.

/// The result of a command that could do its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Proved,
    Disproved,
}

impl Outcome {
    pub(crate) fn of(proved: bool) -> Self {
        if proved { Self::Proved } else { Self::Disproved }
    }
}
