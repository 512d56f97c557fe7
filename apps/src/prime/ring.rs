//! The ring of shared images: drawn into by one device, read by the other one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::Result;
use ash::vk;
use peerbuf::image::{Fourcc, ImageUsage};
use peerbuf::{
    Access, Device, DomainId, Engine, Error, ImageAttachment, ImageDescriptor, ImageMapping,
    Importer, Invalidation, SharedImage,
};

/// Counts how often images have moved away from under their mappings.
#[derive(Debug, Default)]
pub(crate) struct Notified(AtomicU64);

impl Notified {
    /// The count.
    pub(crate) fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Importer for Notified {
    // Work that uses the old mapping is in the reservation already, since the engine has submitted it.
    fn invalidate_mappings(&self, _: &Invalidation<'_>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// A device's part in an image.
pub(crate) struct Part {
    pub(crate) attachment: ImageAttachment,
    pub(crate) mapping: ImageMapping,
}

/// One image of the ring.
pub(crate) struct Slot {
    // Dropped in this order: mappings, attachments, image.
    pub(crate) draw: Part,
    /// The presenting device's part; `None` if it cannot attach.
    pub(crate) show: Option<Part>,
    pub(crate) image: SharedImage,
    /// The image that was drawn into last, of the drawing device.
    pub(crate) drawn: Option<vk::Image>,
}

/// The images, of one size.
pub(crate) struct Ring {
    pub(crate) slots: Vec<Slot>,
    next: usize,
    pub(crate) size: [u32; 2],
    pub(crate) notified: Arc<Notified>,
    /// Why the presenting device does not see the images.
    pub(crate) refused: Option<String>,
}

impl Ring {
    /// `count` images of a format and size, whose home is the drawing device.
    pub(crate) fn new(
        engine: &Engine,
        [render, present]: [&Device; 2],
        (fourcc, size): (Fourcc, [u32; 2]),
        count: usize,
        notified: &Arc<Notified>,
    ) -> Result<Self> {
        let mut this = Self {
            slots: Vec::with_capacity(count),
            next: 0,
            size,
            notified: Arc::clone(notified),
            refused: None,
        };
        for at in 0..count {
            let descriptor = ImageDescriptor::new(fourcc, size[0], size[1])
                .usage(ImageUsage::DRAWN | ImageUsage::COPIED_FROM)
                .name(&format!("frame {at}"));
            let image = engine.create_image(render, descriptor)?;
            // The way through the host copies out of what was drawn.
            let both = ImageUsage::DRAWN | ImageUsage::COPIED_FROM;
            let draw = this.part(&image, render, both, Access::ReadWrite)?;
            let show = match this.part(&image, present, ImageUsage::COPIED_FROM, Access::Read) {
                Ok(show) => Some(show),
                Err(error) => {
                    this.refused = Some(error.to_string());
                    None
                }
            };
            this.slots.push(Slot { draw, show, image, drawn: None });
        }
        Ok(this)
    }

    fn part(
        &self,
        image: &SharedImage,
        device: &Device,
        usage: ImageUsage,
        access: Access,
    ) -> Result<Part> {
        let importer: Arc<dyn Importer> = Arc::<Notified>::clone(&self.notified);
        let attachment = image.attach_dynamic(device, usage, importer)?;
        let mapping = attachment.map(access)?;
        Ok(Part { attachment, mapping })
    }

    /// The index of the image to draw into: the next one without unfinished readers, or else the one that was drawn into longest
    /// ago, behind whose readers the GPU waits.
    pub(crate) fn take(&mut self) -> usize {
        let count = self.slots.len();
        let order = (0..count).map(|at| (self.next + at) % count);
        let is_free = |at: &usize| !self.slots[*at].image.buffer().is_busy(Access::Write);
        let found = order.into_iter().find(is_free).unwrap_or(self.next);
        self.next = (found + 1) % count;
        found
    }

    /// Moves an image: into system memory if it is in the drawing device's, and back. Returns why not, where the other device
    /// does not reach that memory.
    pub(crate) fn migrate(&self, at: usize) -> Result<Option<String>> {
        let image = &self.slots[at % self.slots.len()].image;
        let to = match image.domain() {
            DomainId::System => DomainId::Vram(image.home().id()),
            _ => DomainId::System,
        };
        match image.migrate(to) {
            Ok(_) => Ok(None),
            Err(Error::Unreachable { device, .. }) => {
                Ok(Some(format!("images stay in {}: {device} does not reach {to}", image.domain())))
            }
            Err(error) => Err(error.into()),
        }
    }
}
