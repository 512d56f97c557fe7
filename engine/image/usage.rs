//! How an image is used. Imports nothing of this crate.

use std::fmt;

/// A set of uses of an image. Names are those of Vulkan, in the order of its flags.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct ImageUsage(u16);

impl ImageUsage {
    /// No use.
    pub const NONE: Self = Self(0);
    /// Copied from (`TRANSFER_SRC`).
    pub const COPIED_FROM: Self = Self(1);
    /// Copied to (`TRANSFER_DST`).
    pub const COPIED_TO: Self = Self(1 << 1);
    /// Sampled by shaders (`SAMPLED`).
    pub const SAMPLED: Self = Self(1 << 2);
    /// Sampled with a linear filter.
    pub const FILTERED: Self = Self(1 << 3);
    /// Read and written by shaders (`STORAGE`).
    pub const STORAGE: Self = Self(1 << 4);
    /// Drawn into (`COLOR_ATTACHMENT`).
    pub const DRAWN: Self = Self(1 << 5);
    /// Drawn into with blending.
    pub const BLENDED: Self = Self(1 << 6);
    /// Blitted from (`TRANSFER_SRC`; fewer formats and tilings allow it than copies). A linear filter needs
    /// [`ImageUsage::FILTERED`] as well.
    pub const BLITTED_FROM: Self = Self(1 << 7);
    /// Blitted to (`TRANSFER_DST`, likewise).
    pub const BLITTED_TO: Self = Self(1 << 8);

    const NAMES: [(Self, &'static str); 9] = [
        (Self::COPIED_FROM, "copied from"),
        (Self::COPIED_TO, "copied to"),
        (Self::SAMPLED, "sampled"),
        (Self::FILTERED, "filtered"),
        (Self::STORAGE, "storage"),
        (Self::DRAWN, "drawn into"),
        (Self::BLENDED, "blended"),
        (Self::BLITTED_FROM, "blitted from"),
        (Self::BLITTED_TO, "blitted to"),
    ];

    /// Both sets.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What is in this set and not in the other one.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether all of `other` is in this set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether the set is empty.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether texels are read.
    pub const fn reads(self) -> bool {
        self.0
            & (Self::COPIED_FROM.0
                | Self::BLITTED_FROM.0
                | Self::SAMPLED.0
                | Self::FILTERED.0
                | Self::STORAGE.0
                | Self::BLENDED.0)
            != 0
    }

    /// Whether texels are written.
    pub const fn writes(self) -> bool {
        self.0
            & (Self::COPIED_TO.0
                | Self::BLITTED_TO.0
                | Self::STORAGE.0
                | Self::DRAWN.0
                | Self::BLENDED.0)
            != 0
    }
}

impl std::ops::BitOr for ImageUsage {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        self.union(other)
    }
}

impl fmt::Display for ImageUsage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("nothing");
        }
        let names = Self::NAMES.iter().filter(|(used, _)| self.contains(*used));
        for (index, (_, name)) in names.enumerate() {
            write!(f, "{}{name}", if index == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

impl fmt::Debug for ImageUsage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
