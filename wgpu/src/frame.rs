//! A submission of wgpu's that uses shared images and buffers.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use peerbuf::{Access, Fence, Mapping};

use crate::buffer::GuestBuffer;
use crate::error::{Error, Result};
use crate::guest::Guest;
use crate::submit::submit;
use crate::texture::GuestTexture;
use crate::uses::{Named, Use, What, begin};

/// How often what moves meanwhile is looked at anew.
const ATTEMPTS: u32 = 100;

/// A submission of wgpu's that uses shared images and buffers, from [`Guest::frame`].
///
/// From [`Frame::texture`] and [`Frame::buffer`] on, until the frame is submitted or dropped, what they name does not move: a
/// move ends with [`peerbuf::Error::Busy`], and other memory is evicted. So end a frame soon.
///
/// | what is submitted, in this order | by |
/// |---|---|
/// | a wait for earlier uses on other devices; each image and buffer is acquired, images in `GENERAL` | peerbuf |
/// | what `Queue::write_texture` and `write_buffer` left, the commands, and a transition of images to `GENERAL` | wgpu |
/// | each image and buffer is released | peerbuf |
///
/// A frame that is dropped submits the same without commands if `Queue::write_texture` or `write_buffer` may have written
/// something of it, since wgpu would write with its next submission, whichever that is. Otherwise it submits nothing.
#[must_use = "submit it"]
pub struct Frame<'a> {
    guest: &'a Guest,
    uses: Vec<Use<'a>>,
}

/// wgpu's texture or buffer in a frame, as which it is used: `create_view`, `as_entire_binding`.
#[derive(Clone, Copy, Debug)]
pub struct InFrame<'a, T> {
    object: &'a T,
    version: u64,
}

impl<T> InFrame<'_, T> {
    /// Which one it is ([`GuestTexture::version`], [`GuestBuffer::version`]): views and bind groups that were made of another
    /// one are of no use.
    pub fn version(&self) -> u64 {
        self.version
    }
}

impl<T> Deref for InFrame<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.object
    }
}

impl<'a> Frame<'a> {
    pub(crate) fn new(guest: &'a Guest) -> Self {
        Self { guest, uses: vec![] }
    }

    /// Uses an image in this frame. Returns its texture as it is now.
    ///
    /// Texels that the commands do not write stay.
    ///
    /// # Errors
    ///
    /// [`Error::NotWritten`] for an access that writes through an attachment that does not; [`Error::OtherDevice`];
    /// [`Error::Restless`]; those of [`peerbuf::ImageAttachment::map`] and [`Mapping::begin_access_deferred`]; those of
    /// [`Frame::submit`] if an earlier frame has left something for wgpu to write, which is submitted first.
    ///
    /// Locks: the reservation, but not while waiting.
    pub fn texture(
        &mut self,
        texture: &'a mut GuestTexture,
        access: Access,
    ) -> Result<InFrame<'a, wgpu::Texture>> {
        self.guest.flush()?;
        let (image, used) = (texture.image().clone(), texture.attachment().usage());
        self.check_device(&texture.attachment().device(), || image.name())?;
        if access.writes() && !used.writes() {
            return Err(Error::NotWritten { image: image.name(), attached: used });
        }
        for _ in 0..ATTEMPTS {
            let mapping = texture.map()?;
            // Keeps the image in place until the access of the frame has begun, which borrows the texture.
            let Some(_kept) = begun(mapping.mapping(), access)? else { continue };
            texture.follow(self.guest, &mapping)?;
            let texture: &'a GuestTexture = texture;
            let Some(current) = texture.current() else { break };
            let what = What::Texture(Arc::clone(current));
            self.add(current.mapping().mapping(), what, access)?;
            return Ok(InFrame { object: current.texture(), version: texture.version() });
        }
        Err(restless(image.name()))
    }

    /// Uses a buffer in this frame. Returns wgpu's as it is now. Bytes that the commands do not write stay.
    ///
    /// # Errors
    ///
    /// As [`Frame::texture`], without those of images; those of [`Mapping::aliased_buffer`].
    ///
    /// Locks: as [`Frame::texture`].
    pub fn buffer(
        &mut self,
        buffer: &'a mut GuestBuffer,
        access: Access,
    ) -> Result<InFrame<'a, wgpu::Buffer>> {
        self.guest.flush()?;
        let shared = buffer.shared().clone();
        self.check_device(&buffer.attachment().device(), || shared.name())?;
        for _ in 0..ATTEMPTS {
            let mapping = buffer.map()?;
            // As for an image.
            let Some(_kept) = begun(&mapping, access)? else { continue };
            buffer.follow(self.guest, &mapping)?;
            let buffer: &'a GuestBuffer = buffer;
            let Some(current) = buffer.current() else { break };
            let what = What::Buffer(Arc::clone(current));
            self.add(current.mapping(), what, access)?;
            return Ok(InFrame { object: current.buffer(), version: buffer.version() });
        }
        Err(restless(shared.name()))
    }

    fn check_device(&self, owner: &peerbuf::Device, name: impl FnOnce() -> String) -> Result<()> {
        let used = self.guest.device();
        if owner == used {
            return Ok(());
        }
        let (owner, used) = (owner.name().to_owned(), used.name().to_owned());
        Err(Error::OtherDevice { name: name(), owner, used })
    }

    fn add(&mut self, mapping: &'a Mapping, what: What, access: Access) -> Result<()> {
        let (open, fences) = begin(mapping, access)?;
        self.uses.push(Use { named: Named { what, access }, open, fences });
        Ok(())
    }

    /// Submits wgpu's commands. Returns the fence of all that the frame submitted, which later uses of its images and
    /// buffers wait for.
    ///
    /// Nothing waits for the GPU, but for what [`Guest::with_queue`] names.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] if wgpu refuses a command buffer; those before it run, and so does what was written by
    /// `Queue::write_texture`. [`Error::Wgpu`] if wgpu has given the device up. Those of [`Guest::with_queue`] and of
    /// [`peerbuf::Engine::submit`]: no command buffer runs then, unless the release behind them failed, as on a lost device;
    /// what was written by `Queue::write_texture` runs with the next submission, which acquires what it writes.
    ///
    /// # Panics
    ///
    /// If a callback of the application's that wgpu calls panics; the frame has ended then.
    ///
    /// Locks: the queue's.
    pub fn submit(
        mut self,
        commands: impl IntoIterator<Item = wgpu::CommandBuffer>,
    ) -> Result<Fence> {
        let commands = commands.into_iter().collect();
        submit(self.guest, std::mem::take(&mut self.uses), commands)
    }
}

impl Drop for Frame<'_> {
    fn drop(&mut self) {
        self.uses.retain(|one| one.named.may_be_written());
        if !self.uses.is_empty() {
            // If it fails, what may be written is left to the next submission.
            let _submitted = submit(self.guest, std::mem::take(&mut self.uses), vec![]);
        }
    }
}

/// Begins an access; `None` if the mapping is stale.
fn begun(mapping: &Mapping, access: Access) -> Result<Option<impl Sized>> {
    match begin(mapping, access) {
        Ok(begun) => Ok(Some(begun)),
        Err(peerbuf::Error::Stale { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn restless(name: String) -> Error {
    Error::Restless { name, times: ATTEMPTS }
}

impl fmt::Debug for Frame<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frame")
            .field("guest", self.guest)
            .field("uses", &self.uses.len())
            .finish_non_exhaustive()
    }
}
