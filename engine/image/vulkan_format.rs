//! The Vulkan formats and usages of shared images. This file and `driver_offer` alone of `image` know Vulkan.

use ash::vk;

use super::format::{Alpha, Format};
use super::fourcc::Fourcc;
use super::usage::ImageUsage;

/// The Vulkan format of the same bytes, and how a view must read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct VulkanFormat {
    /// The format of the image.
    pub format: vk::Format,
    /// Whether a view must map alpha to [`vk::ComponentSwizzle::ONE`]: the bits there are undefined
    /// ([`Alpha::Ignored`]). What is drawn into such an image must not depend on the alpha that it had.
    pub alpha_is_one: bool,
}

/// Why a Vulkan format has no fourcc.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VulkanFormatGap {
    /// A fourcc states no transfer function. Share the image in the format without sRGB, and make sRGB views of it
    /// (`VK_IMAGE_CREATE_MUTABLE_FORMAT_BIT`).
    #[error(
        "{format:?} is sRGB, which no fourcc states; share {share_as} and make sRGB views of it"
    )]
    #[non_exhaustive]
    Srgb {
        /// The format.
        format: vk::Format,
        /// The same bytes without a transfer function.
        share_as: Fourcc,
    },
    /// Depth and stencil have no fourcc, and their layouts are not shared between devices.
    #[error("{0:?} is a depth or stencil format; copy it to R16 or R8 to share it")]
    DepthStencil(vk::Format),
    /// The format is not in the table.
    #[error("{0:?} has no fourcc that images are shared in")]
    NoFourcc(vk::Format),
}

impl Format {
    /// The Vulkan format of the same bytes.
    pub fn vulkan(&self) -> VulkanFormat {
        let found = ROWS.iter().find(|(name, _)| Fourcc::new(**name) == self.fourcc());
        VulkanFormat {
            // A unit test finds every format of the table in the rows.
            format: found.map_or(vk::Format::UNDEFINED, |(_, format)| *format),
            alpha_is_one: self.alpha() == Alpha::Ignored,
        }
    }
}

impl Format {
    /// The formats in which views show single planes, by plane; empty for formats of one plane.
    ///
    /// Of 10 and 12 bits in 16, views show all 16.
    pub fn plane_views(&self) -> &'static [vk::Format] {
        const BYTES: &[vk::Format] = &[vk::Format::R8_UNORM, vk::Format::R8G8_UNORM];
        const WORDS: &[vk::Format] = &[vk::Format::R16_UNORM, vk::Format::R16G16_UNORM];
        const THREE: &[vk::Format] = &[vk::Format::R8_UNORM; 3];
        match self.planes() {
            [_, _, _, ..] => THREE,
            [luma, _] if luma.block_bytes == 1 => BYTES,
            [_, _] => WORDS,
            _ => &[],
        }
    }
}

/// The fourcc of a Vulkan format. Of two that have the same bytes, the one with alpha.
///
/// # Errors
///
/// [`VulkanFormatGap`]: why there is none.
pub fn fourcc_of(format: vk::Format) -> Result<Fourcc, VulkanFormatGap> {
    if let Some((name, _)) = ROWS.iter().find(|(_, known)| *known == format) {
        return Ok(Fourcc::new(**name));
    }
    let share_as = |name: &[u8; 4]| VulkanFormatGap::Srgb { format, share_as: Fourcc::new(*name) };
    Err(match format {
        vk::Format::R8_SRGB => share_as(b"R8  "),
        vk::Format::R8G8_SRGB => share_as(b"GR88"),
        vk::Format::B8G8R8A8_SRGB => share_as(b"AR24"),
        vk::Format::R8G8B8A8_SRGB => share_as(b"AB24"),
        vk::Format::D16_UNORM
        | vk::Format::X8_D24_UNORM_PACK32
        | vk::Format::D32_SFLOAT
        | vk::Format::S8_UINT
        | vk::Format::D16_UNORM_S8_UINT
        | vk::Format::D24_UNORM_S8_UINT
        | vk::Format::D32_SFLOAT_S8_UINT => VulkanFormatGap::DepthStencil(format),
        _ => VulkanFormatGap::NoFourcc(format),
    })
}

/// Fourccs and formats of the same bytes; of several fourccs, the one with alpha first.
const ROWS: &[(&[u8; 4], vk::Format)] = &[
    (b"R8  ", vk::Format::R8_UNORM),
    (b"R16 ", vk::Format::R16_UNORM),
    (b"GR88", vk::Format::R8G8_UNORM),
    (b"GR32", vk::Format::R16G16_UNORM),
    (b"RG16", vk::Format::R5G6B5_UNORM_PACK16),
    (b"BG16", vk::Format::B5G6R5_UNORM_PACK16),
    (b"AR15", vk::Format::A1R5G5B5_UNORM_PACK16),
    (b"XR15", vk::Format::A1R5G5B5_UNORM_PACK16),
    (b"RA15", vk::Format::R5G5B5A1_UNORM_PACK16),
    (b"BA15", vk::Format::B5G5R5A1_UNORM_PACK16),
    (b"RA12", vk::Format::R4G4B4A4_UNORM_PACK16),
    (b"BA12", vk::Format::B4G4R4A4_UNORM_PACK16),
    (b"AR24", vk::Format::B8G8R8A8_UNORM),
    (b"XR24", vk::Format::B8G8R8A8_UNORM),
    (b"AB24", vk::Format::R8G8B8A8_UNORM),
    (b"XB24", vk::Format::R8G8B8A8_UNORM),
    (b"AR30", vk::Format::A2R10G10B10_UNORM_PACK32),
    (b"XR30", vk::Format::A2R10G10B10_UNORM_PACK32),
    (b"AB30", vk::Format::A2B10G10R10_UNORM_PACK32),
    (b"XB30", vk::Format::A2B10G10R10_UNORM_PACK32),
    (b"AB48", vk::Format::R16G16B16A16_UNORM),
    (b"XB48", vk::Format::R16G16B16A16_UNORM),
    (b"AB4H", vk::Format::R16G16B16A16_SFLOAT),
    (b"XB4H", vk::Format::R16G16B16A16_SFLOAT),
    (b"YUYV", vk::Format::G8B8G8R8_422_UNORM),
    (b"UYVY", vk::Format::B8G8R8G8_422_UNORM),
    (b"NV12", vk::Format::G8_B8R8_2PLANE_420_UNORM),
    (b"NV16", vk::Format::G8_B8R8_2PLANE_422_UNORM),
    (b"NV24", vk::Format::G8_B8R8_2PLANE_444_UNORM),
    (b"P010", vk::Format::G10X6_B10X6R10X6_2PLANE_420_UNORM_3PACK16),
    (b"P012", vk::Format::G12X4_B12X4R12X4_2PLANE_420_UNORM_3PACK16),
    (b"P016", vk::Format::G16_B16R16_2PLANE_420_UNORM),
    (b"P210", vk::Format::G10X6_B10X6R10X6_2PLANE_422_UNORM_3PACK16),
    (b"YU12", vk::Format::G8_B8_R8_3PLANE_420_UNORM),
    (b"YU16", vk::Format::G8_B8_R8_3PLANE_422_UNORM),
    (b"YU24", vk::Format::G8_B8_R8_3PLANE_444_UNORM),
];

/// Each use, the usage of an image that has it, and the feature of a format that allows it.
const USES: &[(ImageUsage, vk::ImageUsageFlags, vk::FormatFeatureFlags)] = &[
    (ImageUsage::SAMPLED, vk::ImageUsageFlags::SAMPLED, vk::FormatFeatureFlags::SAMPLED_IMAGE),
    (
        ImageUsage::FILTERED,
        vk::ImageUsageFlags::SAMPLED,
        vk::FormatFeatureFlags::SAMPLED_IMAGE_FILTER_LINEAR,
    ),
    (ImageUsage::STORAGE, vk::ImageUsageFlags::STORAGE, vk::FormatFeatureFlags::STORAGE_IMAGE),
    (
        ImageUsage::DRAWN,
        vk::ImageUsageFlags::COLOR_ATTACHMENT,
        vk::FormatFeatureFlags::COLOR_ATTACHMENT,
    ),
    (
        ImageUsage::BLENDED,
        vk::ImageUsageFlags::COLOR_ATTACHMENT,
        vk::FormatFeatureFlags::COLOR_ATTACHMENT_BLEND,
    ),
    (
        ImageUsage::COPIED_FROM,
        vk::ImageUsageFlags::TRANSFER_SRC,
        vk::FormatFeatureFlags::TRANSFER_SRC,
    ),
    (
        ImageUsage::COPIED_TO,
        vk::ImageUsageFlags::TRANSFER_DST,
        vk::FormatFeatureFlags::TRANSFER_DST,
    ),
    (ImageUsage::BLITTED_FROM, vk::ImageUsageFlags::TRANSFER_SRC, vk::FormatFeatureFlags::BLIT_SRC),
    (ImageUsage::BLITTED_TO, vk::ImageUsageFlags::TRANSFER_DST, vk::FormatFeatureFlags::BLIT_DST),
];

impl ImageUsage {
    /// The usage flags of an image that is used so.
    pub fn vulkan(self) -> vk::ImageUsageFlags {
        let flags = USES.iter().filter(|(used, ..)| self.contains(*used));
        flags.fold(vk::ImageUsageFlags::empty(), |flags, (_, flag, _)| flags | *flag)
    }

    /// The uses that a format's features allow.
    pub fn of_features(features: vk::FormatFeatureFlags) -> Self {
        let allowed = USES.iter().filter(|(.., feature)| features.contains(*feature));
        allowed.fold(Self::NONE, |uses, (used, ..)| uses.union(*used))
    }
}
