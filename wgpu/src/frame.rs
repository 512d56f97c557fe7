//! A submission of wgpu's that uses shared images and buffers.
#![expect(unsafe_code, reason = "recording transfers, and submitting them around wgpu's commands")]

use std::cell::Cell;
use std::fmt;
use std::ops::Deref;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use peerbuf::{Access, Fence, Mapping, OpenAccess, Scope};

use crate::buffer::{GuestBuffer, Half};
use crate::commands::{Commands, Recorded};
use crate::error::{Error, Result};
use crate::guest::Guest;
use crate::texture::{BETWEEN_FRAMES, GuestTexture};

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
/// A frame that is dropped submits nothing.
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

/// An image or a buffer in a frame.
struct Use<'a> {
    what: What<'a>,
    access: Access,
    open: OpenAccess<'a>,
    /// What the device waits for first.
    fences: Vec<Fence>,
}

enum What<'a> {
    Texture(&'a GuestTexture),
    Buffer(&'a GuestBuffer),
}

impl What<'_> {
    fn mapping(&self) -> Option<&Mapping> {
        match self {
            Self::Texture(texture) => texture.mapping().map(|mapping| mapping.mapping()),
            Self::Buffer(buffer) => buffer.mapping().map(|mapping| &**mapping),
        }
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
    /// [`Error::Restless`]; those of [`peerbuf::ImageAttachment::map`] and [`Mapping::begin_access_deferred`].
    ///
    /// Locks: the reservation, but not while waiting.
    pub fn texture(
        &mut self,
        texture: &'a mut GuestTexture,
        access: Access,
    ) -> Result<InFrame<'a, wgpu::Texture>> {
        let (image, used) = (texture.image().clone(), texture.attachment().usage());
        self.check_device(&texture.attachment().device(), || image.name())?;
        if access.writes() && !used.writes() {
            return Err(Error::NotWritten { image: image.name(), attached: used });
        }
        for _ in 0..ATTEMPTS {
            let mapping = texture.map()?;
            // Keeps the image in place until the access of the frame has begun, which borrows the texture.
            let Some((_kept, _)) = begun(mapping.mapping(), access)? else { continue };
            texture.follow(self.guest, &mapping)?;
            let texture: &'a GuestTexture = texture;
            let what = What::Texture(texture);
            self.add(texture.mapping().map(|mapping| mapping.mapping()), what, access)?;
            let (object, version) = (texture.texture(), texture.version());
            return object
                .map(|object| InFrame { object, version })
                .ok_or_else(|| restless(image.name()));
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
        let shared = buffer.shared().clone();
        self.check_device(&buffer.attachment().device(), || shared.name())?;
        for _ in 0..ATTEMPTS {
            let mapping = buffer.map()?;
            // As for an image.
            let Some((_kept, _)) = begun(&mapping, access)? else { continue };
            buffer.follow(self.guest, &mapping)?;
            let buffer: &'a GuestBuffer = buffer;
            let what = What::Buffer(buffer);
            self.add(buffer.mapping().map(|mapping| &**mapping), what, access)?;
            let (object, version) = (buffer.buffer(), buffer.version());
            return object
                .map(|object| InFrame { object, version })
                .ok_or_else(|| restless(shared.name()));
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

    fn add(&mut self, mapping: Option<&'a Mapping>, what: What<'a>, access: Access) -> Result<()> {
        if let Some(mapping) = mapping {
            let (open, fences) =
                mapping.begin_access_deferred(access, 0..mapping.buffer().size())?;
            self.uses.push(Use { what, access, open, fences });
        }
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
    /// `Queue::write_texture`. Those of [`Guest::with_queue`] and of [`peerbuf::Engine::submit`]: no command buffer runs then,
    /// unless the release behind them failed, as on a lost device.
    ///
    /// Locks: the queue's.
    pub fn submit(self, commands: impl IntoIterator<Item = wgpu::CommandBuffer>) -> Result<Fence> {
        let Self { guest, uses } = self;
        Commands::collect(guest.commands());
        let acquire = record(guest, &uses, Half::Acquire)?;
        let release = record(guest, &uses, Half::Release)?;
        let (mut commands, is_acquired) = (commands.into_iter().collect(), Cell::new(false));
        let done = guest.with_queue_behind(
            || {
                let fence = submit_around(guest, &uses, acquire)?;
                is_acquired.set(true);
                Ok(fence)
            },
            |queue| submit_wgpu(guest, queue, &uses, &mut commands),
        );
        if !is_acquired.get() {
            // Nothing is submitted.
            return Err(done
                .err()
                .unwrap_or_else(|| Error::Refused("nothing was acquired".into())));
        }
        // Also if wgpu submitted nothing.
        let released = submit_around(guest, &uses, release);
        let fence = released.as_ref().ok().cloned().or_else(|| guest.device().submitted().ok());
        end_all(uses, fence);
        let fence = released?;
        done??;
        Ok(fence)
    }
}

impl What<'_> {
    fn doubt(&self) {
        if let Self::Texture(texture) = self {
            texture.doubt();
        }
    }
}

/// Begins an access; `None` if the mapping is stale.
fn begun(mapping: &Mapping, access: Access) -> Result<Option<(OpenAccess<'_>, Vec<Fence>)>> {
    match mapping.begin_access_deferred(access, 0..mapping.buffer().size()) {
        Ok(begun) => Ok(Some(begun)),
        Err(peerbuf::Error::Stale { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn restless(name: String) -> Error {
    Error::Restless { name, times: ATTEMPTS }
}

/// Records one half of the transfers of a frame into a command buffer, which keeps what it names.
fn record<'a>(guest: &'a Guest, uses: &[Use<'_>], half: Half) -> Result<Recorded<'a>> {
    let kept = uses.iter().filter_map(|one| match one.what {
        What::Texture(texture) => texture.kept(),
        What::Buffer(buffer) => buffer.kept(),
    });
    Commands::record(guest.commands(), kept.collect(), |raw| transfer_all(guest, uses, raw, half))
}

/// Records one half of the transfers of a frame.
fn transfer_all(
    guest: &Guest,
    uses: &[Use<'_>],
    raw: peerbuf::ash::vk::CommandBuffer,
    half: Half,
) -> Result<()> {
    for one in uses {
        match one.what {
            What::Texture(texture) => {
                let Some(mapping) = texture.mapping() else { continue };
                match half {
                    // SAFETY: the commands are being recorded, outside of a render pass, for the device's family. They
                    // are submitted behind the fences of earlier uses, which release; they keep the mapping until
                    // they have ended.
                    Half::Acquire => unsafe { mapping.acquire(raw, Scope::ALL) }?,
                    // SAFETY: as above; it was acquired ahead, and wgpu has brought it into `GENERAL`.
                    Half::Release => unsafe {
                        mapping.release(raw, one.access.writes(), Scope::ALL);
                    },
                }
            }
            // SAFETY: as above.
            What::Buffer(buffer) => unsafe { buffer.transfer(guest, raw, half) },
        }
    }
    Ok(())
}

/// The command buffer of wgpu's that brings all textures into the state between frames.
fn transition(device: &wgpu::Device, uses: &[Use<'_>]) -> wgpu::CommandBuffer {
    let described = wgpu::CommandEncoderDescriptor { label: Some("peerbuf: end of frame") };
    let mut encoder = device.create_command_encoder(&described);
    let textures = uses.iter().filter_map(|one| match one.what {
        What::Texture(texture) => texture.texture(),
        What::Buffer(_) => None,
    });
    encoder.transition_resources(
        std::iter::empty(),
        textures.map(|texture| wgpu::TextureTransition {
            texture,
            selector: None,
            state: BETWEEN_FRAMES,
        }),
    );
    encoder.finish()
}

/// Submits recorded transfers, behind the fences of the frame.
fn submit_around(guest: &Guest, uses: &[Use<'_>], recorded: Recorded<'_>) -> Result<Fence> {
    let submission = guest.engine().submit(guest.device(), |submission| {
        for one in uses {
            one.fences.iter().for_each(|fence| submission.after(fence));
            // Ordered by the open access; here the memory is kept until the commands have ended.
            if let Some(mapping) = one.what.mapping() {
                submission.unordered(mapping)?;
            }
        }
        // SAFETY: executable, of this device and family, and not used again before the fence has signalled.
        unsafe { submission.commands(&[recorded.raw]) };
        Ok(())
    });
    recorded.submitted(submission)
}

/// Submits to wgpu's queue, whose lock is held: the commands, and the transition to the state between frames.
///
/// If one of several command buffers is refused, wgpu has noted the layouts behind those before it, which do not run either.
/// So each is submitted by itself, and the last one together with the transition, which notes nothing if that one is refused.
///
/// # Errors
///
/// [`Error::Refused`]. The command buffers before the refused one run, and so does the transition.
fn submit_wgpu(
    guest: &Guest,
    queue: &wgpu::Queue,
    uses: &[Use<'_>],
    commands: &mut Vec<wgpu::CommandBuffer>,
) -> Result<()> {
    let device = guest.wgpu();
    let last = commands.pop();
    let mut before = commands.drain(..);
    let mut refused = before.find_map(|one| submit_checked(device, queue, vec![one]));
    if refused.is_none() {
        let together = last.into_iter().chain([transition(device, uses)]);
        refused = submit_checked(device, queue, together.collect());
    }
    let Some(error) = refused else { return Ok(()) };
    // It also submits what `write_texture` left, which is of this frame.
    if submit_checked(device, queue, vec![transition(device, uses)]).is_some() {
        uses.iter().for_each(|one| one.what.doubt());
    }
    Err(Error::Refused(error.to_string()))
}

/// Submits, and returns what wgpu has against it; then none of it runs.
fn submit_checked(
    device: &wgpu::Device,
    queue: &wgpu::Queue,
    commands: Vec<wgpu::CommandBuffer>,
) -> Option<wgpu::Error> {
    let scope = device.push_error_scope(wgpu::ErrorFilter::Validation);
    queue.submit(commands);
    let mut popped = pin!(scope.pop());
    // It is ready at once but on the web.
    match popped.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(error) => error,
        Poll::Pending => None,
    }
}

/// Ends the accesses. Without a fence the device is lost: nothing of it is waited for.
fn end_all(uses: Vec<Use<'_>>, fence: Option<Fence>) {
    for one in uses {
        if let Some(fence) = &fence {
            one.open.end(fence.clone());
        }
    }
}

impl fmt::Debug for Frame<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frame")
            .field("guest", self.guest)
            .field("uses", &self.uses.len())
            .finish_non_exhaustive()
    }
}
