//! What the two devices share: the numbers and the picture that the other device writes, and the frame that wgpu draws.

use std::sync::Arc;

use peerbuf::image::{Fourcc, ImageUsage};
use peerbuf::{
    Access, Attachment, BufferDescriptor, Device, DomainId, Engine, ImageAttachment,
    ImageDescriptor, ImageMapping, Mapping, Migration, Refault, SharedBuffer, SharedImage,
};
use peerbuf_wgpu::{Guest, GuestBuffer, GuestTexture};

use crate::Result;

/// Words in the buffer. In each of them is the number of the frame.
pub(crate) const WORDS: u32 = 16384;

/// An image, as both devices see it.
pub(crate) struct Image {
    pub(crate) shared: SharedImage,
    pub(crate) texture: GuestTexture,
    pub(crate) other: ImageAttachment,
    pub(crate) mapping: ImageMapping,
}

/// The buffer, as both devices see it.
pub(crate) struct Numbers {
    pub(crate) shared: SharedBuffer,
    pub(crate) buffer: GuestBuffer,
    pub(crate) other: Attachment,
    pub(crate) mapping: Mapping,
}

/// All of it.
pub(crate) struct Shared {
    pub(crate) numbers: Numbers,
    pub(crate) picture: Image,
    pub(crate) frame: Image,
    /// Counts how often wgpu's side was notified of a move.
    pub(crate) notified: Arc<Refault>,
}

impl Shared {
    pub(crate) fn new(
        (engine, guest, other): (&Engine, &Guest, &Device),
        (format, size): (Fourcc, u32),
    ) -> Result<Self> {
        let notified = Arc::new(Refault::new());
        let image = |home: &Device, (name, here, there): (&str, ImageUsage, ImageUsage)| {
            let described = ImageDescriptor::new(format, size, size).usage(here | there).name(name);
            let shared = engine.create_image(home, described)?;
            let here = shared.attach_dynamic(guest.device(), here, Arc::clone(&notified) as _)?;
            let texture = GuestTexture::new(guest, here)?;
            let other = shared.attach_dynamic(other, there, Arc::new(Refault::new()))?;
            let mapping = other.map(Access::ReadWrite)?;
            Ok::<_, Box<dyn std::error::Error>>(Image { shared, texture, other, mapping })
        };
        let picture = image(other, ("picture", ImageUsage::SAMPLED, ImageUsage::COPIED_TO))?;
        let frame = image(guest.device(), ("frame", ImageUsage::DRAWN, ImageUsage::COPIED_FROM))?;
        let described = BufferDescriptor::new(u64::from(WORDS) * 4).name("numbers");
        let shared = engine.create_buffer(other, described)?;
        let here = shared.attach_dynamic(guest.device(), Arc::clone(&notified) as _)?;
        let buffer = GuestBuffer::new(guest, here, wgpu::BufferUsages::STORAGE)?;
        let other = shared.attach_dynamic(other, Arc::new(Refault::new()))?;
        let mapping = other.map(Access::ReadWrite)?;
        let numbers = Numbers { shared, buffer, other, mapping };
        Ok(Self { numbers, picture, frame, notified })
    }

    /// Makes one of several moves; of two devices that see no memory but the host's, one within that.
    pub(crate) fn move_one(&self, turn: u32, homes: [&Device; 2]) -> peerbuf::Result<Migration> {
        let to = |device: &Device| DomainId::Vram(device.id());
        let (picture, frame) = (&self.picture.shared, &self.frame.shared);
        let (numbers, turn) = (&self.numbers.shared, turn % 8);
        let moved = match turn {
            0 => frame.evict(),
            1 => numbers.migrate(to(homes[0])),
            2 => picture.migrate(to(homes[0])),
            3 => frame.relayout(),
            4 => numbers.relocate(),
            5 => picture.evict(),
            6 => frame.migrate(to(homes[1])),
            _ => numbers.evict(),
        };
        let unreached = matches!(moved, Err(peerbuf::Error::Unreachable { .. }));
        if !unreached && !matches!(moved, Ok(Migration::Unchanged)) {
            return moved;
        }
        match turn {
            0 | 3 | 6 => frame.buffer().relocate(),
            2 | 5 => picture.buffer().relocate(),
            _ => numbers.relocate(),
        }
    }
}
