//! Asks a driver about 2D images of a format and usage: tilings, modifiers, and the image query for each.
//!
//! Vulkan: `vkGetPhysicalDeviceFormatProperties2`, `vkGetPhysicalDeviceImageFormatProperties2`. The list of modifiers
//! says what a driver knows, and the image query decides: lavapipe lists `LINEAR` for NV12 and refuses the query.
//! These are statements, not proofs: layouts of images are proved in [`crate::transfer`].
#![expect(unsafe_code, reason = "format queries of the Vulkan instance")]

use std::sync::Arc;

use ash::vk;

use super::adapter::Adapter;
use super::adapter_read::extension_of;
use super::handle_type::HandleType;
use super::image_facts::{
    Asked, ExternalImages, ImageFormats, ImageLimits, ImageRefusal, ModifierImages, TilingImages,
};
use super::quirks::Effect;

impl Adapter {
    /// What the driver says about 2D images of a format and usage. The driver is asked once, and its answer is kept.
    ///
    /// `views` are the formats of views, if views have other formats than the image, as those of single planes have:
    /// then the images are such with `VK_IMAGE_CREATE_MUTABLE_FORMAT_BIT`, and the list must contain `format` too if
    /// views have it.
    ///
    /// `DRM_FORMAT_MOD_INVALID` is left out, since it has no meaning across devices (Smithay#1767).
    ///
    /// About a `format` that is neither one of Vulkan 1.0 or 1.1 nor one of two planes in 4:4:4 the driver is not asked: it
    /// has no features then. The same holds for formats of views.
    ///
    /// Locks: one of the adapter, which is taken alone, and not during calls of the driver.
    pub fn image_formats(
        &self,
        format: vk::Format,
        usage: vk::ImageUsageFlags,
        views: &[vk::Format],
    ) -> Arc<ImageFormats> {
        let (mut format, mut views) = (format, views.to_vec());
        if !views.iter().chain([&format]).all(|format| is_known(*format)) {
            (format, views) = (vk::Format::UNDEFINED, vec![]);
        }
        let asked = Asked { format, usage, views };
        if let Some(known) = self.0.images.get(&asked) {
            return known;
        }
        let read = Arc::new(self.read_image_formats(&asked));
        self.0.images.keep(asked, read)
    }

    fn read_image_formats(&self, asked: &Asked) -> ImageFormats {
        let mut properties = vk::FormatProperties2::default();
        // Nothing newer than its own version may be asked of an adapter that cannot be opened.
        if self.missing().is_empty() && asked.format != vk::Format::UNDEFINED {
            // SAFETY: the physical device belongs to the live instance, and is of version 1.2.
            unsafe {
                self.instance().raw().get_physical_device_format_properties2(
                    self.physical(),
                    asked.format,
                    &mut properties,
                );
            }
        }
        let vk::FormatProperties { linear_tiling_features, optimal_tiling_features, .. } =
            properties.format_properties;
        let is_asked = asked.format != vk::Format::UNDEFINED;
        let rows = if is_asked { self.modifier_rows(asked.format) } else { vec![] };
        let rows = rows.into_iter().filter(|row| row.drm_format_modifier != INVALID);
        let modifiers = rows.map(|row| ModifierImages {
            modifier: row.drm_format_modifier,
            planes: row.drm_format_modifier_plane_count,
            images: self.read_tiling(
                asked,
                Tiling::Modifier(row.drm_format_modifier),
                row.drm_format_modifier_tiling_features,
            ),
        });
        ImageFormats {
            modifiers: modifiers.collect(),
            linear: self.read_tiling(asked, Tiling::Linear, linear_tiling_features),
            optimal: self.read_tiling(asked, Tiling::Optimal, optimal_tiling_features),
        }
    }

    fn read_tiling(
        &self,
        asked: &Asked,
        tiling: Tiling,
        features: vk::FormatFeatureFlags,
    ) -> TilingImages {
        let allowed = allowed_by(features);
        let (wanted, missing) = (asked.usage & allowed, asked.usage & !allowed);
        let copies = vk::ImageUsageFlags::TRANSFER_SRC | vk::ImageUsageFlags::TRANSFER_DST;
        let usage = wanted | (copies & allowed);
        let asks = || {
            if features.is_empty() {
                Err(ImageRefusal::NoFeatures)
            } else if wanted.is_empty() {
                Err(ImageRefusal::Usage(missing))
            } else {
                Ok(())
            }
        };
        let limits = asks().and_then(|()| {
            let answer = self.query_images((asked, usage), tiling, None);
            answer.map(|(limits, _)| limits)
        });
        let external = std::array::from_fn(|at| {
            let handle = HandleType::ALL[at];
            let extension = extension_of(handle);
            let answer = asks().and_then(|()| {
                if self.device_extensions().contains(&extension) {
                    self.query_images((asked, usage), tiling, Some(handle))
                } else {
                    Err(ImageRefusal::NoExtension(extension.to_str().unwrap_or_default()))
                }
            });
            self.external_images(handle, answer, limits)
        });
        TilingImages { features, usage, missing, limits, external }
    }

    /// What an answer about shared memory says. `alone` is the answer about memory that is not shared.
    fn external_images(
        &self,
        handle: HandleType,
        answer: Result<(ImageLimits, vk::ExternalMemoryFeatureFlags), ImageRefusal>,
        alone: Result<ImageLimits, ImageRefusal>,
    ) -> ExternalImages {
        use vk::ExternalMemoryFeatureFlags as Features;
        let features = answer.map_or(Features::empty(), |(_, features)| features);
        let unreported = handle == HandleType::HostPointer
            && !matches!(answer, Err(ImageRefusal::NoExtension(_)))
            && self.has_quirk(Effect::HostImportUnreported);
        let limits = if unreported { alone } else { answer.map(|(limits, _)| limits) };
        ExternalImages {
            handle,
            exportable: features.contains(Features::EXPORTABLE),
            importable: features.contains(Features::IMPORTABLE) || (unreported && limits.is_ok()),
            dedicated: features.contains(Features::DEDICATED_ONLY),
            limits,
        }
    }

    /// The image query, for memory that is shared by a type of handle, or is not shared.
    fn query_images(
        &self,
        (asked, usage): (&Asked, vk::ImageUsageFlags),
        tiling: Tiling,
        handle: Option<HandleType>,
    ) -> Result<(ImageLimits, vk::ExternalMemoryFeatureFlags), ImageRefusal> {
        let mut by_handle = vk::PhysicalDeviceExternalImageFormatInfo::default();
        let mut by_modifier = vk::PhysicalDeviceImageDrmFormatModifierInfoEXT::default()
            .sharing_mode(vk::SharingMode::EXCLUSIVE);
        let mut views = vk::ImageFormatListCreateInfo::default().view_formats(&asked.views);
        let mut info = vk::PhysicalDeviceImageFormatInfo2::default()
            .format(asked.format)
            .ty(vk::ImageType::TYPE_2D)
            .tiling(tiling.vk())
            .usage(usage);
        if let Tiling::Modifier(modifier) = tiling {
            by_modifier = by_modifier.drm_format_modifier(modifier);
            info = info.push_next(&mut by_modifier);
        }
        if !asked.views.is_empty() {
            info = info.flags(vk::ImageCreateFlags::MUTABLE_FORMAT).push_next(&mut views);
        }
        let mut shared = vk::ExternalImageFormatProperties::default();
        let mut out = vk::ImageFormatProperties2::default();
        if let Some(handle) = handle {
            by_handle = by_handle.handle_type(handle.vk());
            info = info.push_next(&mut by_handle);
            out = out.push_next(&mut shared);
        }
        // SAFETY: the physical device belongs to the live instance and has features, so it is of version 1.2; the usage is
        // not empty (VUID-VkPhysicalDeviceImageFormatInfo2-usage-requiredbitmask); a modifier was listed, and is named
        // if and only if the tiling is that of modifiers (VUID-VkPhysicalDeviceImageFormatInfo2-tiling-02249), with the
        // formats of views if the format is mutable (-02313); the extension of the handle type is there.
        let answer = unsafe {
            self.instance().raw().get_physical_device_image_format_properties2(
                self.physical(),
                &info,
                &mut out,
            )
        };
        answer.map_err(ImageRefusal::Query)?;
        let vk::ImageFormatProperties {
            max_extent: vk::Extent3D { width, height, .. },
            max_mip_levels: mips,
            max_array_layers: layers,
            max_resource_size: bytes,
            ..
        } = out.image_format_properties;
        let features = shared.external_memory_properties.external_memory_features;
        Ok((ImageLimits { width, height, mips, layers, bytes }, features))
    }
}

/// Whether drivers of Vulkan 1.2 may be asked about a format (VUID-vkGetPhysicalDeviceFormatProperties2-format-parameter):
/// those of Vulkan 1.0, those of `VK_KHR_sampler_ycbcr_conversion` and of `VK_EXT_ycbcr_2plane_444_formats`.
fn is_known(format: vk::Format) -> bool {
    matches!(format.as_raw(), 1..=184 | 1_000_156_000..=1_000_156_033 | 1_000_330_000..=1_000_330_003)
}

/// `DRM_FORMAT_MOD_INVALID`.
const INVALID: u64 = (1 << 56) - 1;

#[derive(Clone, Copy)]
enum Tiling {
    Linear,
    Optimal,
    Modifier(u64),
}

impl Tiling {
    const fn vk(self) -> vk::ImageTiling {
        match self {
            Self::Linear => vk::ImageTiling::LINEAR,
            Self::Optimal => vk::ImageTiling::OPTIMAL,
            Self::Modifier(_) => vk::ImageTiling::DRM_FORMAT_MODIFIER_EXT,
        }
    }
}

/// The uses that a format's features allow.
fn allowed_by(features: vk::FormatFeatureFlags) -> vk::ImageUsageFlags {
    use vk::{FormatFeatureFlags as Feature, ImageUsageFlags as Usage};
    let table = [
        (Feature::SAMPLED_IMAGE, Usage::SAMPLED),
        (Feature::STORAGE_IMAGE, Usage::STORAGE),
        (Feature::COLOR_ATTACHMENT, Usage::COLOR_ATTACHMENT | Usage::INPUT_ATTACHMENT),
        (Feature::TRANSFER_SRC, Usage::TRANSFER_SRC),
        (Feature::TRANSFER_DST, Usage::TRANSFER_DST),
    ];
    let allowed = table.into_iter().filter(|(feature, _)| features.contains(*feature));
    allowed.fold(Usage::empty(), |all, (_, usage)| all | usage)
}
