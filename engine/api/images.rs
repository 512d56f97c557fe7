//! Images: created.

use super::engine::Engine;
use crate::device::Device;
use crate::image::{self, ImageDescriptor, ImageError, SharedImage};

/// # Images
impl Engine {
    /// Creates an image whose home device is `home`. Its texels are zero bytes.
    ///
    /// Its layout is the one that the home device's driver gives to linear images. If the driver has none for these uses, its rows
    /// are padded so that most drivers accept them ([`crate::image::Padding::CROSSING`]). It has an allocation of its own,
    /// whatever its size.
    ///
    /// # Errors
    ///
    /// [`ImageError::Layout`] for a format or size that no shared image has; [`ImageError::NoUsage`]; those of
    /// [`Engine::create_buffer`].
    pub fn create_image(
        &self,
        home: &Device,
        descriptor: ImageDescriptor,
    ) -> Result<SharedImage, ImageError> {
        image::create(&self.refs, &home.0, descriptor)
    }
}
