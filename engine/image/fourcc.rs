//! Fourcc codes of `drm_fourcc.h`, as numbers. Imports nothing of this crate.
//!
//! The enum of the crate `drm-fourcc` has the codes of kernel 5.10 and cannot hold others, so an error could not name
//! the code that it refuses. So the number is kept here, and the enum is converted at the edge.

use std::fmt;

use drm_fourcc::DrmFourcc;

/// A DRM format code: four characters in a little-endian `u32` (`drm_fourcc.h`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fourcc(u32);

impl Fourcc {
    /// The flag `DRM_FORMAT_BIG_ENDIAN`.
    const BIG_ENDIAN: u32 = 1 << 31;

    /// The code with this number, known or not.
    pub const fn from_raw(raw: u32) -> Self {
        Self(raw)
    }

    /// The code of four ASCII characters, as `fourcc_code` of the kernel.
    pub const fn new(name: [u8; 4]) -> Self {
        Self(u32::from_le_bytes(name))
    }

    /// The number.
    pub const fn raw(self) -> u32 {
        self.0
    }

    /// Whether `DRM_FORMAT_BIG_ENDIAN` is set.
    pub const fn is_big_endian(self) -> bool {
        self.0 & Self::BIG_ENDIAN != 0
    }
}

impl fmt::Display for Fourcc {
    /// The four characters if they are printable, else the number.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0.to_le_bytes();
        if bytes.iter().all(|byte| byte.is_ascii_graphic() || *byte == b' ') {
            let name: String = bytes.iter().copied().map(char::from).collect();
            f.write_str(name.trim_end())
        } else {
            write!(f, "{:#010x}", self.0)
        }
    }
}

impl fmt::Debug for Fourcc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<DrmFourcc> for Fourcc {
    fn from(code: DrmFourcc) -> Self {
        // CAST: the enum's discriminants are the codes.
        Self(code as u32)
    }
}
