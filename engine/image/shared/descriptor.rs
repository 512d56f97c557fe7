//! The description of an image that is to be created.

use crate::buffer::{BufferDescriptor, ClientGroup};
use crate::image::extent::Shape;
use crate::image::fourcc::Fourcc;
use crate::image::usage::ImageUsage;
use crate::memory::Placement;
use crate::residency::Priority;

/// What a [`crate::SharedImage`] is to be: its format and size, and what has a default.
///
/// ```
/// use peerbuf::ImageDescriptor;
/// use peerbuf::image::{Fourcc, ImageUsage};
///
/// let frame = ImageDescriptor::new(Fourcc::new(*b"AR24"), 1920, 1080)
///     .usage(ImageUsage::DRAWN | ImageUsage::SAMPLED)
///     .name("frame");
/// assert_eq!(frame.shape().extent.width, 1920);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageDescriptor {
    fourcc: Fourcc,
    shape: Shape,
    usage: ImageUsage,
    padded: bool,
    /// All that is the same for buffers. Its size is set when the layout is known.
    buffer: BufferDescriptor,
}

impl ImageDescriptor {
    /// An image of `width` by `height` texels with one level and one layer, without a name, with default placement and
    /// priority. It can be sampled, and copied from and to.
    pub fn new(fourcc: Fourcc, width: u32, height: u32) -> Self {
        Self {
            fourcc,
            shape: Shape::new(width, height),
            usage: ImageUsage::SAMPLED | ImageUsage::COPIED_FROM | ImageUsage::COPIED_TO,
            padded: false,
            buffer: BufferDescriptor::new(0).dedicated(),
        }
    }

    /// Sets the number of mip levels.
    #[must_use]
    pub fn mips(mut self, mips: u32) -> Self {
        self.shape = self.shape.with_mips(mips);
        self
    }

    /// Sets the number of array layers.
    #[must_use]
    pub fn layers(mut self, layers: u32) -> Self {
        self.shape = self.shape.with_layers(layers);
        self
    }

    /// Sets what devices do with it. An attachment may name fewer uses ([`crate::SharedImage::attach_for`]).
    #[must_use]
    pub fn usage(mut self, usage: ImageUsage) -> Self {
        self.usage = usage;
        self
    }

    /// Gives its rows the padding that importers of other programs need ([`crate::image::Padding::CROSSING`]), wherever the
    /// image is, so that [`crate::SharedImage::export`] states rows which any of them takes. A device whose driver places
    /// rows elsewhere, and cannot be told where they are, has an image of its own then, the home device too. Without this,
    /// rows are where the home device's driver places them, and later where most attachments see them.
    #[must_use]
    pub fn padded(mut self) -> Self {
        self.padded = true;
        self
    }

    /// Sets a name for errors, events and reports.
    #[must_use]
    pub fn name(self, name: &str) -> Self {
        self.change(|buffer| buffer.name(name))
    }

    /// Sets where devices may use it, as [`BufferDescriptor::placement`] does.
    #[must_use]
    pub fn placement(self, placement: Placement) -> Self {
        self.change(|buffer| buffer.placement(placement))
    }

    /// Sets the eviction priority, as [`BufferDescriptor::priority`] does.
    #[must_use]
    pub fn priority(self, priority: Priority) -> Self {
        self.change(|buffer| buffer.priority(priority))
    }

    /// Lets the content be discarded from the beginning, as [`BufferDescriptor::discardable`] does.
    #[must_use]
    pub fn discardable(self) -> Self {
        self.change(BufferDescriptor::discardable)
    }

    /// Sets whether it may be in one device's own memory while another device is attached, as
    /// [`BufferDescriptor::peer_to_peer`] does.
    #[must_use]
    pub fn peer_to_peer(self, allowed: bool) -> Self {
        self.change(|buffer| buffer.peer_to_peer(allowed))
    }

    /// Charges the image to a client group, as [`BufferDescriptor::client`] does.
    #[must_use]
    pub fn client(self, group: &ClientGroup) -> Self {
        self.change(|buffer| buffer.client(group))
    }

    /// The format.
    pub fn fourcc(&self) -> Fourcc {
        self.fourcc
    }

    /// The size.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// What devices do with it.
    pub fn usages(&self) -> ImageUsage {
        self.usage
    }

    pub(super) fn is_padded(&self) -> bool {
        self.padded
    }

    /// The name, if there is one.
    pub(in crate::image) fn named(&self) -> Option<&str> {
        self.buffer.named()
    }

    /// The eviction priority.
    pub(in crate::image) fn prioritised(&self) -> Priority {
        self.buffer.prioritised()
    }

    /// Where devices may use it.
    pub(in crate::image) fn placed(&self) -> Placement {
        self.buffer.placed()
    }

    /// The same with another shape.
    pub(in crate::image) fn shaped(self, shape: Shape) -> Self {
        Self { shape, ..self }
    }

    /// The same, but its content is not discarded.
    pub(in crate::image) fn kept(self) -> Self {
        self.change(BufferDescriptor::kept)
    }

    fn change(mut self, change: impl FnOnce(BufferDescriptor) -> BufferDescriptor) -> Self {
        self.buffer = change(self.buffer);
        self
    }

    /// The buffer that has the texels, in `bytes` bytes.
    pub(super) fn into_buffer(self, bytes: u64) -> BufferDescriptor {
        self.buffer.sized(bytes)
    }
}
