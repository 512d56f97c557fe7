//! A shared image as a texture of wgpu's.
#![expect(unsafe_code, reason = "giving an image of peerbuf's to wgpu")]

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use peerbuf::ash::vk;
use peerbuf::{Access, ImageAttachment, ImageMapping, SharedImage};
use wgpu::hal::vulkan as hal;

use crate::commands::Kept;
use crate::error::{Error, Result};
use crate::format::{texture_format, texture_usages};
use crate::guest::Guest;

/// The state in which wgpu finds a texture at the beginning of each frame, and leaves it at the end: the layout `GENERAL`.
pub(crate) const BETWEEN_FRAMES: wgpu::TextureUses = wgpu::TextureUses::STORAGE_READ_WRITE;

/// A [`SharedImage`] as a texture of wgpu's, which follows the image when it moves.
///
/// A `wgpu::Texture` names one `VkImage`, and a move makes another one. So [`crate::Frame::texture`] returns the present one;
/// [`GuestTexture::version`] says when views and bind groups have to be made again. The texture of before is destroyed
/// (`wgpu::Texture::destroy`), which waits for the frames that use it; a use of it after that is an error of wgpu's.
///
/// Several frames may be in flight. Use one `GuestTexture` for an image on a device, since wgpu tracks the layout of each
/// by itself.
pub struct GuestTexture {
    attachment: ImageAttachment,
    format: wgpu::TextureFormat,
    usages: wgpu::TextureUsages,
    current: Option<Arc<Current>>,
    version: u64,
}

/// The texture of one generation. From the drop of its last handle on wgpu refuses it, and its callback comes when no frame
/// uses it any more: views and bind groups that the application has do not keep the image.
pub(crate) struct Current {
    /// Also in the callback of `texture`, and in commands that name the image.
    mapping: Arc<ImageMapping>,
    raw: vk::Image,
    texture: wgpu::Texture,
    /// Set if wgpu's tracker may be wrong about the layout. Relaxed: it is read when a later frame begins.
    is_doubtful: AtomicBool,
}

impl GuestTexture {
    /// Takes an attachment of the guest's device: one of [`SharedImage::attach_dynamic`], so that the image may move, with
    /// the uses that wgpu makes of it. The importer may be a [`peerbuf::Refault`]: each frame looks anew.
    ///
    /// # Errors
    ///
    /// [`Error::Format`] for a fourcc that wgpu has no texture format for; [`Error::Required`] for one that needs a feature
    /// of wgpu's; [`Error::OtherDevice`].
    pub fn new(guest: &Guest, attachment: ImageAttachment) -> Result<Self> {
        let image = attachment.image();
        let device = attachment.device();
        if device != *guest.device() {
            return Err(Error::OtherDevice {
                name: image.name(),
                owner: device.name().to_owned(),
                used: guest.device().name().to_owned(),
            });
        }
        let format = texture_format(image)?;
        let features = format.required_features() - guest.wgpu().features();
        if !features.is_empty() {
            let adapter = device.adapter().name().to_owned();
            let missing = format!("{features:?}, which {} needs", image.fourcc());
            return Err(Error::Required { adapter, missing });
        }
        let usages = texture_usages(attachment.usage());
        Ok(Self { attachment, format, usages, current: None, version: 0 })
    }

    /// The image.
    pub fn image(&self) -> &SharedImage {
        self.attachment.image()
    }

    /// The attachment.
    pub fn attachment(&self) -> &ImageAttachment {
        &self.attachment
    }

    /// The format of the texture. It has views of this one alone.
    pub fn format(&self) -> wgpu::TextureFormat {
        self.format
    }

    /// What wgpu may do with it.
    pub fn usages(&self) -> wgpu::TextureUsages {
        self.usages
    }

    /// How many textures there have been. Views and bind groups of another version are of no use.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Maps the image as it is now. Moves it back or into a better layout first, if that is due.
    pub(crate) fn map(&self) -> Result<Arc<ImageMapping>> {
        Ok(Arc::new(self.attachment.map(Access::ReadWrite)?))
    }

    /// Makes the texture of a mapping that is current, if there is none.
    pub(crate) fn follow(&mut self, guest: &Guest, mapping: &Arc<ImageMapping>) -> Result<()> {
        let raw = mapping.view()?.image;
        let is_current = self.current.as_ref().is_some_and(|current| {
            // The image of `current` lives, so that no other one has its handle.
            current.raw == raw
                && current.mapping.generation() == mapping.generation()
                && !current.is_doubtful.load(Ordering::Relaxed)
        });
        if is_current {
            return Ok(());
        }
        let texture = self.wrap(guest, mapping, raw)?;
        let mapping = Arc::clone(mapping);
        self.version += 1;
        let is_doubtful = AtomicBool::new(false);
        self.current = Some(Arc::new(Current { mapping, raw, texture, is_doubtful }));
        Ok(())
    }

    fn wrap(
        &self,
        guest: &Guest,
        mapping: &Arc<ImageMapping>,
        raw: vk::Image,
    ) -> Result<wgpu::Texture> {
        let (image, shape) = (self.image(), self.image().shape());
        let size = wgpu::Extent3d {
            width: shape.extent.width,
            height: shape.extent.height,
            depth_or_array_layers: shape.layers,
        };
        let name = image.name();
        let described = wgpu::TextureDescriptor {
            label: Some(&name),
            size,
            mip_level_count: shape.mips,
            sample_count: 1,
            dimension: wgpu::TextureDimension::D2,
            format: self.format,
            usage: self.usages,
            view_formats: &[],
        };
        let for_hal = wgpu::hal::TextureDescriptor {
            label: None,
            size,
            mip_level_count: shape.mips,
            sample_count: 1,
            dimension: wgpu::TextureDimension::D2,
            format: self.format,
            usage: wgpu::TextureUses::empty(),
            memory_flags: wgpu::hal::MemoryFlags::empty(),
            view_formats: vec![],
        };
        let kept = Arc::clone(mapping);
        let texture = guest.with_hal(|device| {
            // SAFETY: the image has this size and format, and is live until the mapping is dropped, which is in the callback
            // at the earliest; its memory is not wgpu's. There are no view formats, as there is no `MUTABLE_FORMAT`.
            unsafe {
                device.texture_from_raw(
                    raw,
                    &for_hal,
                    Some(Box::new(move || drop(kept))),
                    hal::TextureMemory::External,
                )
            }
        })?;
        // SAFETY: made by this device as described. Its texels are defined, and a frame acquires it in `GENERAL`, which is
        // the layout of the state.
        Ok(unsafe {
            guest.wgpu().create_texture_from_hal::<hal::Api>(texture, &described, BETWEEN_FRAMES)
        })
    }

    /// The present texture. There is one after [`GuestTexture::follow`].
    pub(crate) fn current(&self) -> Option<&Arc<Current>> {
        self.current.as_ref()
    }
}

impl Current {
    pub(crate) fn mapping(&self) -> &Arc<ImageMapping> {
        &self.mapping
    }

    /// What commands name that transfer it.
    pub(crate) fn kept(&self) -> Kept {
        Arc::clone(&self.mapping) as _
    }

    pub(crate) fn texture(&self) -> &wgpu::Texture {
        &self.texture
    }

    /// Says that wgpu refused commands with it, so that its tracker may have a layout that the image never had.
    pub(crate) fn doubt(&self) {
        self.is_doubtful.store(true, Ordering::Relaxed);
    }
}

impl Drop for Current {
    fn drop(&mut self) {
        self.texture.destroy();
    }
}

impl fmt::Debug for GuestTexture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuestTexture")
            .field("attachment", &self.attachment)
            .field("format", &self.format)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}
