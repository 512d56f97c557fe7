//! Spans: ranges of a device's view.

use crate::error::{Error, Result};
use crate::memory::View;

/// A range of bytes in one device's view of an allocation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span<'a> {
    pub(crate) view: &'a View,
    pub(crate) offset: u64,
    pub(crate) len: u64,
}

impl Span<'_> {
    /// The part of `len` bytes at `offset`, counted from the beginning of this span.
    pub(crate) fn slice(self, offset: u64, len: u64) -> Self {
        debug_assert!(offset + len <= self.len);
        Self { offset: self.offset + offset, len, ..self }
    }

    /// The span's length in 32-bit words, the unit of compute passes.
    ///
    /// # Errors
    ///
    /// [`Error::Misaligned`] or [`Error::InvalidSize`] if a pass cannot work on it.
    pub(crate) fn words(self) -> Result<u32> {
        if !self.len.is_multiple_of(4) {
            return Err(Error::Misaligned { what: "length of a pass", value: self.len, align: 4 });
        }
        u32::try_from(self.len / 4)
            .map_err(|_| Error::InvalidSize { size: self.len, rule: "passes take up to 16 GiB" })
    }
}
