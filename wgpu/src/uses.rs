//! What a submission uses.
#![expect(unsafe_code, reason = "recording transfers")]

use std::sync::Arc;

use peerbuf::ash::vk;
use peerbuf::{Access, Fence, Mapping, OpenAccess, Scope};

use crate::buffer::Half;
use crate::commands::{Commands, Kept, Recorded};
use crate::error::Result;
use crate::guest::Guest;
use crate::{buffer, texture};

/// An image or a buffer, as wgpu has it.
#[derive(Clone)]
pub(crate) enum What {
    Texture(Arc<texture::Current>),
    Buffer(Arc<buffer::Current>),
}

/// An image or a buffer, and how it is used.
#[derive(Clone)]
pub(crate) struct Named {
    pub(crate) what: What,
    pub(crate) access: Access,
}

/// An image or a buffer that stays in place until it is submitted.
pub(crate) struct Use<'a> {
    pub(crate) named: Named,
    pub(crate) open: OpenAccess<'a>,
    /// What the device waits for first.
    pub(crate) fences: Vec<Fence>,
}

impl What {
    pub(crate) fn mapping(&self) -> &Mapping {
        match self {
            Self::Texture(texture) => texture.mapping().mapping(),
            Self::Buffer(buffer) => buffer.mapping(),
        }
    }

    fn kept(&self) -> Kept {
        match self {
            Self::Texture(texture) => texture.kept(),
            Self::Buffer(buffer) => buffer.kept(),
        }
    }

    /// Its texture, if it is an image.
    pub(crate) fn texture(&self) -> Option<&wgpu::Texture> {
        match self {
            Self::Texture(texture) => Some(texture.texture()),
            Self::Buffer(_) => None,
        }
    }

    pub(crate) fn doubt(&self) {
        if let Self::Texture(texture) = self {
            texture.doubt();
        }
    }
}

impl Named {
    /// Whether `Queue::write_texture` or `write_buffer` may have written it: wgpu refuses them without `COPY_DST`.
    pub(crate) fn may_be_written(&self) -> bool {
        self.access.writes()
            && match &self.what {
                What::Texture(texture) => {
                    texture.texture().usage().contains(wgpu::TextureUsages::COPY_DST)
                }
                What::Buffer(buffer) => {
                    buffer.buffer().usage().contains(wgpu::BufferUsages::COPY_DST)
                }
            }
    }

    /// Begins its access.
    ///
    /// # Errors
    ///
    /// Those of [`Mapping::begin_access_deferred`].
    pub(crate) fn begin(&self) -> peerbuf::Result<Use<'_>> {
        let (open, fences) = begin(self.what.mapping(), self.access)?;
        Ok(Use { named: self.clone(), open, fences })
    }
}

/// Begins an access of all bytes. Returns what the device waits for first.
pub(crate) fn begin(
    mapping: &Mapping,
    access: Access,
) -> peerbuf::Result<(OpenAccess<'_>, Vec<Fence>)> {
    mapping.begin_access_deferred(access, 0..mapping.buffer().size())
}

/// Records one half of the transfers of a submission into a command buffer, which keeps what it names.
pub(crate) fn record<'a>(guest: &'a Guest, uses: &[Use<'_>], half: Half) -> Result<Recorded<'a>> {
    let kept = uses.iter().map(|one| one.named.what.kept());
    Commands::record(guest.commands(), kept.collect(), |raw| {
        uses.iter().try_for_each(|one| transfer(guest, &one.named, raw, half))
    })
}

fn transfer(guest: &Guest, named: &Named, raw: vk::CommandBuffer, half: Half) -> Result<()> {
    match (&named.what, half) {
        // SAFETY: the commands are being recorded, outside of a render pass, for the device's family. They are
        // submitted behind the fences of earlier uses, which release; they keep the mapping until they have ended.
        (What::Texture(texture), Half::Acquire) => unsafe {
            texture.mapping().acquire(raw, Scope::ALL)?;
        },
        // SAFETY: as above; it was acquired ahead, and wgpu has brought it into `GENERAL`.
        (What::Texture(texture), Half::Release) => unsafe {
            texture.mapping().release(raw, named.access.writes(), Scope::ALL);
        },
        // SAFETY: as above.
        (What::Buffer(buffer), half) => unsafe { buffer.transfer(guest, raw, half) },
    }
    Ok(())
}

/// Submits recorded transfers, behind the fences of the uses.
pub(crate) fn submit_around(
    guest: &Guest,
    uses: &[Use<'_>],
    recorded: Recorded<'_>,
) -> Result<Fence> {
    let submission = guest.engine().submit(guest.device(), |submission| {
        for one in uses {
            one.fences.iter().for_each(|fence| submission.after(fence));
            // Ordered by the open access; here the memory is kept until the commands have ended.
            submission.unordered(one.named.what.mapping())?;
        }
        // SAFETY: executable, of this device and family, and not used again before the fence has signalled.
        unsafe { submission.commands(&[recorded.raw]) };
        Ok(())
    });
    recorded.submitted(submission)
}
