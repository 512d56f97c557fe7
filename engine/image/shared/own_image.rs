//! An image of a device's own, in memory that no other device sees, for a device that cannot use the shared bytes as an
//! image.

use crate::access::Access;
use crate::buffer::{Attachment, BufferDescriptor, Mapping, SharedBuffer};
use crate::device::Device;
use crate::error::Result;
use crate::memory::{Placement, Tiling, UnboundImage};

use super::device_image::{DeviceImage, ImageKind};
use super::shared_image::ImageServices;

/// An image of a device's own.
///
/// Its memory is a buffer's, so that it is counted and makes room as others do. The buffer cannot move: it is mapped as
/// long as the image lives, which is as long as mappings use it.
// Dropped in this order: the image leaves its memory first.
#[derive(Debug)]
pub(super) struct OwnImage {
    image: DeviceImage,
    mapping: Mapping,
    _attachment: Attachment,
}

impl OwnImage {
    /// Creates it, with the client group and the priority of the shared buffer. Its texels are undefined, and are not
    /// those of earlier owners of the memory.
    ///
    /// # Errors
    ///
    /// [`crate::Error::Unsupported`] if the device has no such image; those of creating a buffer.
    pub(super) fn new(
        services: &ImageServices,
        device: &Device,
        kind: &ImageKind,
        shared: &SharedBuffer,
    ) -> Result<Self> {
        let spec = kind.spec(Tiling::Optimal, true);
        let needs = UnboundImage::new(&device.0, &spec, None)?.requirements();
        let mut descriptor = BufferDescriptor::new(needs.size)
            .name(&format!("{} on {}", shared.name(), device.name()))
            .placement(Placement::VramOrSystem)
            .priority(shared.priority())
            .private()
            .dedicated();
        if let Some(group) = shared.client_group() {
            descriptor = descriptor.client(&group);
        }
        let buffer = SharedBuffer::create(&services.refs, &device.0, descriptor)?;
        let attachment = buffer.attach(device)?;
        let mapping = attachment.map(Access::ReadWrite)?;
        // Zeroes recycled memory.
        mapping.view()?;
        let bound = kind.over(&mapping, Tiling::Optimal, true)?;
        let image = DeviceImage::new(bound, kind.usage, buffer);
        Ok(Self { image, mapping, _attachment: attachment })
    }

    pub(super) fn image(&self) -> &DeviceImage {
        &self.image
    }

    /// The mapping of its memory, which a submission has to name.
    pub(super) fn mapping(&self) -> &Mapping {
        &self.mapping
    }
}
