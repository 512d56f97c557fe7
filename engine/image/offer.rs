//! What one device offers for images of one format: data that its driver was asked for.

use super::extent::Limits;
use super::layout::MemoryPlane;
use super::modifier::Modifier;
use super::padding::Padding;
use super::usage::ImageUsage;

/// What a device offers for images of one format and usage.
///
/// The default offers nothing.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Offer {
    /// The modifiers that the driver lists, `LINEAR` among them if it lists that. Empty without
    /// `VK_EXT_image_drm_format_modifier`.
    pub modifiers: Vec<ModifierOffer>,
    /// Images with `VK_IMAGE_TILING_LINEAR`, if there are any.
    pub linear_tiling: Option<TilingOffer>,
    /// Images of the device's own, with `VK_IMAGE_TILING_OPTIMAL`, if there are any.
    pub own_image: Option<ImageOffer>,
    /// How linear images that others made must be padded.
    pub needs: Padding,
}

impl Default for Offer {
    fn default() -> Self {
        Self { modifiers: vec![], linear_tiling: None, own_image: None, needs: Padding::NONE }
    }
}

impl Offer {
    /// What is offered for a modifier.
    pub fn modifier(&self, modifier: Modifier) -> Option<&ModifierOffer> {
        self.modifiers.iter().find(|offered| offered.modifier == modifier)
    }
}

/// Images of one kind: what they can be used for, and how large they can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ImageOffer {
    /// The uses that the format's features allow.
    pub allows: ImageUsage,
    /// The largest shape.
    pub limits: Limits,
}

/// What a device offers for one modifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ModifierOffer {
    /// The modifier.
    pub modifier: Modifier,
    /// Its memory planes (`drmFormatModifierPlaneCount`).
    pub planes: u8,
    /// How good it is for this device; 0 is best. By position in a list that is sorted, or by what was measured.
    pub rank: u16,
    /// The uses that `drmFormatModifierTilingFeatures` allow.
    pub allows: ImageUsage,
    /// The largest shape; `None` if `vkGetPhysicalDeviceImageFormatProperties2` refuses what the list has.
    pub limits: Option<Limits>,
    /// Whether such images of other devices can be imported.
    pub importable: bool,
    /// Whether such images can be exported.
    pub exportable: bool,
    /// Whether such images need memory of their own (`DEDICATED_ONLY`).
    pub dedicated: bool,
}

/// What a device offers for linear tiling over memory that it imports.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TilingOffer {
    /// Its uses and limits.
    pub image: ImageOffer,
    /// Where the driver puts the planes of an image of the shape in question (`vkGetImageSubresourceLayout` of an
    /// image that is bound).
    pub planes: Vec<MemoryPlane>,
    /// Whether the driver takes any other pitch and offset.
    pub takes_any: bool,
}
