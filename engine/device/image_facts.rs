//! What a driver says about 2D images of a format and usage, as data, and the answers that are kept.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use ash::vk;

use super::handle_type::HandleType;

/// What a driver says about 2D images of one format and usage.
///
/// A driver is asked for those uses that the format's features allow. Where they allow copies, copies are asked for as
/// well, since images that are shared are also copied.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ImageFormats {
    /// The modifiers, in the driver's order; empty without `VK_EXT_image_drm_format_modifier`.
    pub modifiers: Vec<ModifierImages>,
    /// Images with `VK_IMAGE_TILING_LINEAR`.
    pub linear: TilingImages,
    /// Images with `VK_IMAGE_TILING_OPTIMAL`.
    pub optimal: TilingImages,
}

/// What a driver says about one modifier.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ModifierImages {
    /// The modifier (`drm_fourcc.h`).
    pub modifier: u64,
    /// Memory planes of such an image (`drmFormatModifierPlaneCount`).
    pub planes: u32,
    /// The images.
    pub images: TilingImages,
}

/// What a driver says about images of one tiling.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TilingImages {
    /// The format's features with this tiling.
    pub features: vk::FormatFeatureFlags,
    /// The uses that the driver was asked for.
    pub usage: vk::ImageUsageFlags,
    /// The wanted uses that the features do not allow.
    pub missing: vk::ImageUsageFlags,
    /// The largest image whose memory is not shared; or why there is none.
    pub limits: Result<ImageLimits, ImageRefusal>,
    /// The same for shared memory, for each of [`HandleType::ALL`].
    pub external: [ExternalImages; HandleType::ALL.len()],
}

/// What a driver says about images in memory that is shared by one type of handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExternalImages {
    /// The handle type.
    pub handle: HandleType,
    /// Memory of such images can be exported.
    pub exportable: bool,
    /// Memory of such images can be imported.
    pub importable: bool,
    /// Such images need memory of their own (`DEDICATED_ONLY`).
    pub dedicated: bool,
    /// The largest image; or why there is none.
    pub limits: Result<ImageLimits, ImageRefusal>,
}

/// The largest image (`VkImageFormatProperties`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ImageLimits {
    /// Texels in a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// Mip levels.
    pub mips: u32,
    /// Array layers.
    pub layers: u32,
    /// Bytes of an image.
    pub bytes: u64,
}

/// Why a driver has no such images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ImageRefusal {
    /// The format has no features with this tiling.
    #[error("the driver has no such images of the format")]
    NoFeatures,
    /// The features allow none of the wanted uses.
    #[error("the features of the format do not allow {0:?}")]
    Usage(vk::ImageUsageFlags),
    /// The device lacks the extension of the handle type.
    #[error("the device has no {0}")]
    NoExtension(&'static str),
    /// The image query refuses what the features allow.
    #[error("the driver's image query says {0:?}")]
    Query(vk::Result),
}

impl TilingImages {
    /// The row of [`TilingImages::external`] for one handle type.
    pub fn external(&self, handle: HandleType) -> &ExternalImages {
        let row = self.external.iter().find(|row| row.handle == handle);
        row.unwrap_or(&self.external[0])
    }
}

/// What a driver is asked.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Asked {
    pub(super) format: vk::Format,
    pub(super) usage: vk::ImageUsageFlags,
    pub(super) views: Vec<vk::Format>,
}

/// The answers of one driver.
#[derive(Default)]
pub(super) struct ImageCache(Mutex<HashMap<Asked, Arc<ImageFormats>>>);

impl ImageCache {
    pub(super) fn get(&self, asked: &Asked) -> Option<Arc<ImageFormats>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(asked).cloned()
    }

    /// Keeps an answer, unless another thread has kept one meanwhile, and returns the one that is kept. Beyond a bound, for
    /// programs that ask about everything, answers are returned and not kept.
    pub(super) fn keep(&self, asked: Asked, read: Arc<ImageFormats>) -> Arc<ImageFormats> {
        const MOST: usize = 4096;
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= MOST && !kept.contains_key(&asked) {
            return read;
        }
        Arc::clone(kept.entry(asked).or_insert(read))
    }
}

impl fmt::Debug for ImageCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImageCache").finish_non_exhaustive()
    }
}
