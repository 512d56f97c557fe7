//! What a buffer is to be.

use crate::error::{Error, Result};
use crate::memory::Placement;

/// What a [`crate::SharedBuffer`] is to be: its size, and what has a default.
///
/// ```
/// use peerbuf::{BufferDescriptor, Placement};
///
/// let frame = BufferDescriptor::new(1920 * 1080 * 4).name("frame").placement(Placement::System);
/// assert_eq!(frame.size(), 8_294_400);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BufferDescriptor {
    size: u64,
    name: Option<Box<str>>,
    placement: Placement,
}

impl BufferDescriptor {
    /// A buffer of `size` bytes; anywhere, nameless.
    pub fn new(size: u64) -> Self {
        Self { size, name: None, placement: Placement::default() }
    }

    /// Gives it a name, for errors, events and reports.
    #[must_use]
    pub fn name(mut self, name: &str) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Says where it may live.
    #[must_use]
    pub fn placement(mut self, placement: Placement) -> Self {
        self.placement = placement;
        self
    }

    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn check(&self) -> Result<()> {
        match self.size {
            0 => Err(Error::InvalidSize { size: 0, rule: "at least one byte" }),
            _ => Ok(()),
        }
    }

    pub(super) fn into_parts(self) -> (u64, Option<Box<str>>, Placement) {
        (self.size, self.name, self.placement)
    }
}
