//! What a command found out, as its exit status.

/// The result of a command that could do its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// 0.
    Proved,
    /// 1.
    Disproved,
    /// 2: a benchmark whose bytes were wrong, or that was faster than possible.
    Faulty,
    /// 3: there was nothing to measure or to compare.
    Nothing,
}

impl Outcome {
    pub(crate) fn of(proved: bool) -> Self {
        if proved { Self::Proved } else { Self::Disproved }
    }
}
