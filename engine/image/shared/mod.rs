//! Images that devices share: a buffer, where the texels are in its bytes, and the `VkImage`s of each device.
//!
//! ```text
//!  SharedImage ──attach──► ImageAttachment ──map──► ImageMapping ──uses──► VkImage in GENERAL
//!       │ has a SharedBuffer: moves, evictions, pins, callbacks, fences, budgets
//!       └──read_texels, write_texels──► rows of the host
//! ```
//!
//! A device that sees rows where they are uses an image over the shared bytes. Another device has an image of its own,
//! and copies between that and the shared bytes in the submission that uses it.
//!
//! Where all attached devices see the same tiled modifier, as probes have proved, the image is in tiles. It is so in the
//! memory of its home device alone. It gets rows again, by image copies of the home device, before another device uses
//! it, before the host does, and in the copy that moves it into other memory.
//!
//! Kernel counterpart: `struct drm_framebuffer`, which has GEM objects as an image has a buffer.

mod attachment;
mod brings;
mod descriptor;
mod device_image;
mod error;
mod explain;
mod export;
mod host_texels;
mod import;
mod layout_choice;
mod layouts;
mod mapping;
mod own_image;
mod participants;
mod places;
mod proved;
mod remap;
mod row_copies;
mod shared_image;
mod tiled_choice;
mod tiles;

pub use attachment::ImageAttachment;
pub use descriptor::ImageDescriptor;
pub use error::ImageError;
pub use explain::{AttachmentExplanation, ImageExplanation, OwnImageReason};
pub use export::ImageExport;
pub use mapping::{ImageMapping, RawImage};
pub use places::ImagePart;
pub use shared_image::SharedImage;

pub(crate) use import::{import, import_files};
pub(crate) use layouts::Layouts;
pub(crate) use remap::submit_images_remapped;
pub(crate) use shared_image::{ImageServices, create};
