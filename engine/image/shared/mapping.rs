//! A device's `VkImage` of one generation of an image, and its use in submissions.
#![expect(unsafe_code, reason = "commands around those of the application")]

use std::fmt;
use std::sync::Arc;

use ash::vk;

use super::device_image::DeviceImage;
use super::own_image::OwnImage;
use super::shared_image::{Layout, SharedImage};
use crate::access::Access;
use crate::buffer::{AroundObject, AroundUse, Mapping, Submission};
use crate::device::{Device, DeviceInner};
use crate::error::{Error, Result};
use crate::image::layout::ImageLayout;
use crate::image::usage::ImageUsage;
use crate::transfer::{
    ImageUse, Scope, acquire_image, copy_buffer_to_image, copy_image_to_buffer, release_image,
};

/// A device's `VkImage` of one generation of a [`SharedImage`], from [`crate::ImageAttachment::map`].
///
/// It becomes stale when the image moves ([`crate::Error::Stale`]), keeps the image in its memory if its attachment is
/// static, and may be dropped anywhere, exactly as a [`Mapping`] of the image's buffer.
///
/// Drop it only after the device has finished the work that the application submitted with its handles. For work that
/// peerbuf submits, the `VkImage` is kept alive.
// Dropped in this order: the image leaves the memory that the mapping keeps.
pub struct ImageMapping {
    sight: Sight,
    layout: Arc<Layout>,
    image: SharedImage,
    mapping: Mapping,
}

/// Through which `VkImage` a device sees an image.
#[derive(Clone, Debug)]
pub(super) enum Sight {
    /// One over the shared bytes.
    Shared(Arc<DeviceImage>),
    /// One of its own.
    Own(Arc<OwnImage>),
}

impl Sight {
    fn raw(&self) -> vk::Image {
        match self {
            Self::Shared(image) => image.raw(),
            Self::Own(own) => own.image().raw(),
        }
    }
}

/// The Vulkan handle that a device needs to use an image. It is valid while the [`ImageMapping`] lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RawImage {
    /// The image. A view of a plane needs the format of [`crate::image::Format::plane_views`].
    pub image: vk::Image,
    /// Its format. Where [`crate::image::VulkanFormat::alpha_is_one`] is set, views replace alpha with one.
    pub format: vk::Format,
    /// The layout in which commands find it and have to leave it.
    pub layout: vk::ImageLayout,
    /// Whether it is the device's own, so that each use copies.
    pub is_own: bool,
}

impl ImageMapping {
    pub(super) fn new(
        image: SharedImage,
        layout: Arc<Layout>,
        sight: Sight,
        mapping: Mapping,
    ) -> Self {
        Self { sight, layout, image, mapping }
    }

    /// Returns the image.
    pub fn image(&self) -> &SharedImage {
        &self.image
    }

    /// Returns the device.
    pub fn device(&self) -> Device {
        self.mapping.device()
    }

    /// Returns the generation of the image that this is a view of.
    pub fn generation(&self) -> u32 {
        self.mapping.generation()
    }

    /// Returns the access that the mapping allows.
    pub fn access(&self) -> Access {
        self.mapping.access()
    }

    /// Returns the layout that the texels have in this generation. A device that has an image of its own sees that in
    /// its driver's tiling.
    pub fn layout(&self) -> ImageLayout {
        self.layout.told
    }

    /// The uses that its `VkImage` was created for.
    pub(super) fn usage(&self) -> ImageUsage {
        match &self.sight {
            Sight::Shared(image) => image.usage(),
            Sight::Own(own) => own.image().usage(),
        }
    }

    /// Returns the mapping of the image's buffer.
    pub fn mapping(&self) -> &Mapping {
        &self.mapping
    }

    /// Returns the handle, once the content of the memory is valid and in place: [`Mapping::view`], for an image. An
    /// image of the device's own has the present texels in uses alone ([`ImageMapping::uses`]).
    ///
    /// # Errors
    ///
    /// As [`Mapping::view`].
    ///
    /// Locks: as [`Mapping::view`].
    pub fn view(&self) -> Result<RawImage> {
        self.mapping.view()?;
        Ok(self.handle())
    }

    fn handle(&self) -> RawImage {
        RawImage {
            image: self.sight.raw(),
            format: self.image.format().vulkan().format,
            layout: vk::ImageLayout::GENERAL,
            is_own: matches!(self.sight, Sight::Own(_)),
        }
    }

    /// Declares that the commands of a submission read the image, in any stage.
    ///
    /// # Errors
    ///
    /// As [`ImageMapping::uses`].
    pub fn read(&self, submission: &mut Submission<'_>) -> Result<RawImage> {
        self.uses(submission, Access::Read, Scope::ALL)
    }

    /// Declares that the commands of a submission write the image, in any stage. Texels that they do not write stay.
    ///
    /// # Errors
    ///
    /// As [`ImageMapping::uses`].
    pub fn write(&self, submission: &mut Submission<'_>) -> Result<RawImage> {
        self.uses(submission, Access::Write, Scope::ALL)
    }

    /// Declares that the commands of a submission use the image for `access`, in the stages and by the accesses of
    /// `scope`: [`Submission::uses`], for an image. A scope without stages means any stage.
    ///
    /// The commands find the image in the layout `GENERAL`, owned by this device, and leave it so. They may have it in
    /// other layouts in between. An image of the device's own has the present texels by then; if the commands write,
    /// theirs are copied back behind them.
    ///
    /// If an image is declared twice in a submission, both declarations hold. They do so through one `VkImage`: two
    /// attachments of a device may have two, and a submission that writes takes one of them.
    ///
    /// With [`Submission::transfers_recorded`] nothing is recorded: the commands call [`ImageMapping::acquire`] and
    /// [`ImageMapping::release`].
    ///
    /// # Errors
    ///
    /// As [`Submission::uses`]; [`Error::ImageDeclaredTwice`] for another `VkImage` of an image that is declared, if one of
    /// the two is written. The submission is then as it was.
    pub fn uses(
        &self,
        submission: &mut Submission<'_>,
        access: Access,
        scope: Scope,
    ) -> Result<RawImage> {
        self.declare(submission, access, scope, true)
    }

    /// Declares that the commands of a submission write every texel of the image, and rely on none that was there
    /// before: texels that they do not write are undefined. It saves an image of the device's own the copy into it, and
    /// lets a driver discard what it keeps beside the texels (`VK_IMAGE_LAYOUT_UNDEFINED`).
    ///
    /// # Errors
    ///
    /// As [`ImageMapping::uses`].
    pub fn overwrites(&self, submission: &mut Submission<'_>, scope: Scope) -> Result<RawImage> {
        self.declare(submission, Access::Write, scope, false)
    }

    fn declare(
        &self,
        submission: &mut Submission<'_>,
        access: Access,
        scope: Scope,
        keeps: bool,
    ) -> Result<RawImage> {
        let scope = if scope.stages.is_empty() { Scope::ALL } else { scope };
        let used = AroundUse { scope, keeps, writes: access.writes() };
        let object =
            AroundObject { key: vk::Handle::as_raw(self.sight.raw()), buffer: self.image.id() };
        if submission.is_in_conflict(object, used.writes) {
            return Err(Error::ImageDeclaredTwice(self.image.name()));
        }
        let bytes = match &self.sight {
            Sight::Shared(_) => scope,
            Sight::Own(own) => {
                submission.unordered(own.mapping())?;
                scope.and(Scope::TRANSFER)
            }
        };
        submission.uses(&self.mapping, access, bytes)?;
        // SAFETY: the commands are valid for the main queue of the device, as `Commands` argues. They use the buffer,
        // which was declared, and the image, which they keep until they are submitted; after that the retire list does.
        unsafe {
            submission.around((object, used), || {
                let before = Arc::new(self.commands());
                let after = Arc::clone(&before);
                (
                    move |commands, used| before.begin(commands, used),
                    move |commands, used| after.end(commands, used),
                )
            });
        }
        Ok(self.handle())
    }

    /// Records what [`ImageMapping::uses`] puts ahead of the commands of a submission, for applications that submit
    /// themselves: the acquire half of an ownership transfer, and for an image of the device's own the copy into it.
    /// Bracket it with [`Mapping::begin_access`] of [`ImageMapping::mapping`], or submit the commands with
    /// [`Submission::transfers_recorded`].
    ///
    /// # Errors
    ///
    /// As [`Mapping::view`]; nothing is recorded then.
    ///
    /// # Safety
    ///
    /// As [`Mapping::acquire`]. The mapping stays alive until the commands have finished.
    pub unsafe fn acquire(&self, commands: vk::CommandBuffer, scope: Scope) -> Result<()> {
        let used = AroundUse { scope, keeps: true, writes: false };
        // SAFETY: the caller's contract.
        unsafe { self.mapping.acquire(commands, self.scope_of_bytes(scope)) }?;
        self.commands().begin(commands, used);
        Ok(())
    }

    /// Records what [`ImageMapping::uses`] puts behind the commands of a submission: for an image of the device's own
    /// that was `written` the copy back, and the release half of the ownership transfer.
    ///
    /// # Safety
    ///
    /// As [`ImageMapping::acquire`], which was recorded before it. The image is in the layout `GENERAL`.
    pub unsafe fn release(&self, commands: vk::CommandBuffer, written: bool, scope: Scope) {
        self.commands().end(commands, AroundUse { scope, keeps: true, writes: written });
        // SAFETY: the caller's contract.
        unsafe { self.mapping.release(commands, self.scope_of_bytes(scope)) };
    }

    /// The scope in which the shared bytes are used.
    fn scope_of_bytes(&self, scope: Scope) -> Scope {
        match self.sight {
            Sight::Shared(_) => scope,
            Sight::Own(_) => scope.and(Scope::TRANSFER),
        }
    }

    fn commands(&self) -> Commands {
        let regions = match &self.sight {
            Sight::Shared(_) => vec![],
            Sight::Own(_) => self.layout.places.regions(self.mapping.offset()),
        };
        Commands {
            device: Arc::clone(self.mapping.device_inner()),
            outside: self.mapping.outside_queue_family(),
            bytes: self.mapping.raw_view().buffer(),
            regions,
            sight: self.sight.clone(),
        }
    }
}

/// What is recorded around the uses of an image. It keeps the image until the commands are submitted.
///
/// # Invariants
///
/// `bytes` is the buffer over the shared bytes of the mapping that this was made for, which is alive while it is used:
/// a submission keeps the view. The regions are those of all texels of the image, within these bytes: the layout's
/// places end within the buffer. Each offset is a multiple of a texel (VUID-vkCmdCopyBufferToImage-dstImage-07975,
/// -07976): the places are such, and bytes of buffers begin at multiples of 256 in their views. More is not needed, since
/// the queue is one that computes (-commandBuffer-07737).
struct Commands {
    device: Arc<DeviceInner>,
    outside: u32,
    bytes: vk::Buffer,
    regions: Vec<vk::BufferImageCopy>,
    sight: Sight,
}

impl Commands {
    fn image(&self) -> ImageUse<'_> {
        let outside = match self.sight {
            Sight::Shared(_) => Some(self.outside),
            Sight::Own(_) => None,
        };
        ImageUse { device: &self.device, image: self.sight.raw(), outside }
    }

    /// The commands before the use.
    fn begin(&self, commands: vk::CommandBuffer, AroundUse { scope, keeps, .. }: AroundUse) {
        let image = self.image();
        match &self.sight {
            Sight::Own(_) if keeps => {
                // SAFETY: the type's invariant; the image may be copied to (`ImageKind::spec`).
                unsafe {
                    copy_buffer_to_image(&image, commands, self.bytes, &self.regions, scope);
                }
            }
            // What an own image had before belongs to an earlier use.
            Sight::Own(_) => {
                // SAFETY: the type's invariant.
                unsafe { acquire_image(&image, commands, false, scope) };
            }
            Sight::Shared(_) => {
                // SAFETY: the type's invariant; every use through peerbuf releases the image in GENERAL, and all else
                // that writes its bytes writes a buffer.
                unsafe { acquire_image(&image, commands, keeps, scope) };
            }
        }
    }

    /// The commands behind the use.
    fn end(&self, commands: vk::CommandBuffer, AroundUse { scope, writes, .. }: AroundUse) {
        let image = self.image();
        match &self.sight {
            Sight::Own(_) if writes => {
                // SAFETY: the type's invariant; the image may be copied from (`ImageKind::spec`), and the application
                // leaves it in GENERAL.
                unsafe {
                    copy_image_to_buffer(&image, commands, self.bytes, &self.regions, scope);
                }
            }
            Sight::Own(_) => {}
            Sight::Shared(_) => {
                // SAFETY: as above.
                unsafe { release_image(&image, commands, scope) };
            }
        }
    }
}

impl fmt::Debug for ImageMapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImageMapping")
            .field("image", &self.image.name())
            .field("sight", &self.sight)
            .field("mapping", &self.mapping)
            .finish_non_exhaustive()
    }
}

const _: () = {
    const fn shareable<T: Send + Sync>() {}
    shareable::<ImageMapping>();
};
