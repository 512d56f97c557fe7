//! Format modifiers of `drm_fourcc.h`, as numbers. Imports nothing of this crate.
//!
//! The kernel says that users compare and intersect modifiers and take nothing out of them. So a modifier that is
//! not named here is as good as one that is; names serve messages, and numbers of planes serve checks of
//! descriptions for which no driver was asked.

use std::fmt;

use drm_fourcc::DrmModifier;

/// A format modifier. Every number is one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Modifier(u64);

/// What the definition of a modifier says about its memory planes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Known {
    low: u64,
    name: &'static str,
    /// Planes of compression data per format plane.
    extra: u8,
    /// One more plane has the clear colour. Such modifiers are for formats of one plane.
    clear_color: bool,
}

impl Modifier {
    /// Rows one after the other: `DRM_FORMAT_MOD_LINEAR`.
    pub const LINEAR: Self = Self(0);
    /// `DRM_FORMAT_MOD_INVALID`: the layout is not stated, and has to be known otherwise. No other device can know it.
    pub const INVALID: Self = Self((1 << 56) - 1);

    /// The modifier with this number, known or not.
    pub const fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    /// The modifier of a vendor, as `fourcc_mod_code` of the kernel.
    pub const fn of_vendor(vendor: u8, value: u64) -> Self {
        // CAST: widening; `From` is not const.
        Self((vendor as u64) << 56 | value & ((1 << 56) - 1))
    }

    /// The number.
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// The vendor's number: the highest eight bits. It names the modifier's author and no device.
    pub const fn vendor(self) -> u8 {
        // CAST: eight bits are left.
        (self.0 >> 56) as u8
    }

    /// Whether it is [`Modifier::LINEAR`].
    pub const fn is_linear(self) -> bool {
        self.0 == Self::LINEAR.0
    }

    /// Whether it is [`Modifier::INVALID`].
    pub const fn is_invalid(self) -> bool {
        self.0 == Self::INVALID.0
    }

    /// How many memory planes the definition gives an image with so many format planes; `None` if only the driver
    /// knows.
    pub fn memory_planes(self, format_planes: u8) -> Option<u8> {
        if self.is_linear() || self.is_nvidia_block_linear() {
            return Some(format_planes);
        }
        let known = self.known()?;
        let planes = format_planes.checked_mul(1 + known.extra)?;
        planes.checked_add(u8::from(known.clear_color))
    }

    /// Whether the first planes are the format's, and each takes at least its rows at its pitch. This holds for
    /// layouts that only reorder texels, in tiles that are at least a row of texels wide.
    pub(super) fn holds_rows(self) -> bool {
        self.is_linear() || (self.vendor() == INTEL && self.known().is_some())
    }

    fn is_nvidia_block_linear(self) -> bool {
        self.vendor() == NVIDIA && self.0 & 0x10 != 0
    }

    fn known(self) -> Option<&'static Known> {
        let low = self.0 & ((1 << 56) - 1);
        let table = match self.vendor() {
            INTEL => INTEL_KNOWN,
            QCOM => QCOM_KNOWN,
            BROADCOM => BROADCOM_KNOWN,
            ARM => ARM_KNOWN,
            _ => return None,
        };
        table.iter().find(|known| known.low == low)
    }
}

const INTEL: u8 = 1;
const NVIDIA: u8 = 3;
const QCOM: u8 = 5;
const BROADCOM: u8 = 7;
const ARM: u8 = 8;

/// Vendors by number.
const VENDORS: [&str; 13] = [
    "NONE",
    "INTEL",
    "AMD",
    "NVIDIA",
    "SAMSUNG",
    "QCOM",
    "VIVANTE",
    "BROADCOM",
    "ARM",
    "ALLWINNER",
    "AMLOGIC",
    "MTK",
    "APPLE",
];

const fn known(low: u64, name: &'static str, extra: u8, clear_color: bool) -> Known {
    Known { low, name, extra, clear_color }
}

const INTEL_KNOWN: &[Known] = &[
    known(1, "X_TILED", 0, false),
    known(2, "Y_TILED", 0, false),
    known(3, "Yf_TILED", 0, false),
    known(4, "Y_TILED_CCS", 1, false),
    known(5, "Yf_TILED_CCS", 1, false),
    known(6, "Y_TILED_GEN12_RC_CCS", 1, false),
    known(7, "Y_TILED_GEN12_MC_CCS", 1, false),
    known(8, "Y_TILED_GEN12_RC_CCS_CC", 1, true),
    known(9, "4_TILED", 0, false),
    known(10, "4_TILED_DG2_RC_CCS", 0, false),
    known(11, "4_TILED_DG2_MC_CCS", 0, false),
    known(12, "4_TILED_DG2_RC_CCS_CC", 0, true),
    known(13, "4_TILED_MTL_RC_CCS", 1, false),
    known(14, "4_TILED_MTL_MC_CCS", 1, false),
    known(15, "4_TILED_MTL_RC_CCS_CC", 1, true),
    known(16, "4_TILED_LNL_CCS", 0, false),
    known(17, "4_TILED_BMG_CCS", 0, false),
];

const QCOM_KNOWN: &[Known] =
    &[known(1, "COMPRESSED", 0, false), known(2, "TILED2", 0, false), known(3, "TILED3", 0, false)];

const BROADCOM_KNOWN: &[Known] = &[known(1, "VC4_T_TILED", 0, false), known(6, "UIF", 0, false)];

const ARM_KNOWN: &[Known] = &[known(1 << 52 | 1, "16X16_BLOCK_U_INTERLEAVED", 0, false)];

impl fmt::Display for Modifier {
    /// The name if there is one, else the vendor and the number.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_linear() {
            return f.write_str("LINEAR");
        }
        if self.is_invalid() {
            return f.write_str("INVALID");
        }
        let vendor = VENDORS.get(usize::from(self.vendor())).unwrap_or(&"vendor ?");
        match self.known() {
            Some(known) => write!(f, "{vendor} {}", known.name),
            None => write!(f, "{vendor} {:#018x}", self.0),
        }
    }
}

impl fmt::Debug for Modifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<DrmModifier> for Modifier {
    fn from(modifier: DrmModifier) -> Self {
        Self(modifier.into())
    }
}

impl From<Modifier> for DrmModifier {
    fn from(modifier: Modifier) -> Self {
        modifier.0.into()
    }
}
