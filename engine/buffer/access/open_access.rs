//! The two halves of a submission, for applications that submit to the queue themselves.
//!
//! Kernel counterpart: a driver's job submission. It locks the reservation, collects fences, submits, and adds
//! the job's fence.

use std::fmt;
use std::ops::Range;

use crate::access::Access;
use crate::buffer::attach::{Mapping, RawView};
use crate::error::Result;
use crate::sync::{Fence, Usage};

/// An access that an application submits itself, from [`Mapping::begin_access`].
///
/// The buffer stays in its backing while this lives. Keep it only while recording and submitting, and end it
/// with the fence of the submission. If it is dropped without [`OpenAccess::end`], no fence is added. That is
/// correct only if nothing was submitted.
#[must_use = "end it with the fence of what was submitted"]
pub struct OpenAccess<'a> {
    mapping: &'a Mapping,
    access: Access,
    view: RawView,
    /// Unfinished writes of other devices. If one fails, the bytes that the submission makes are undefined as well.
    writers: Vec<Fence>,
}

impl Mapping {
    /// Begins an access that the application submits itself, and keeps the buffer in its backing until the
    /// access ends.
    ///
    /// Waits, for at most the engine timeout, until no other device uses the buffer in a way that conflicts
    /// with `access`. Further accesses can begin while this one is open: they wait only for the fence given to
    /// [`OpenAccess::end`]. Before that call the application records (with [`Mapping::acquire`] and
    /// [`Mapping::release`]) and submits to [`crate::Device::with_queue`].
    ///
    /// # Errors
    ///
    /// [`crate::Error::Stale`] if the buffer has moved: map it again and retry ([`crate::Attachment::remap`]);
    /// [`crate::Error::Revoked`], [`crate::Error::WrongAccess`], [`crate::Error::Timeout`],
    /// [`crate::Error::DeviceLost`].
    ///
    /// Locks: the reservation, but not while waiting and not while the access is open.
    pub fn begin_access(&self, access: Access) -> Result<OpenAccess<'_>> {
        self.begin_access_part(access, 0..self.buffer_inner().size)
    }

    /// Begins an access as [`Mapping::begin_access`] does, and declares that it writes no bytes outside `part`.
    /// That is a promise, as for [`crate::Submission::uses_part`].
    ///
    /// # Errors
    ///
    /// As [`Mapping::begin_access`]; [`crate::Error::OutOfBounds`] if `part` is not within the buffer, or ends
    /// before it begins.
    ///
    /// Locks: as [`Mapping::begin_access`].
    pub fn begin_access_part(&self, access: Access, part: Range<u64>) -> Result<OpenAccess<'_>> {
        let device = self.device_inner();
        let (open, _) = self.begin_access_when(access, part, |fence| !fence.is_on(device))?;
        Ok(open)
    }

    /// Begins an access as [`Mapping::begin_access`] does, but does not wait for devices: returns the access with
    /// the fences that the application's submission must wait for, on the GPU. Work on this device's own queue is
    /// not among them.
    ///
    /// It still waits, for at most the engine timeout, for work of the host, which no queue may wait for.
    ///
    /// [`crate::Engine::fence_semaphore`] gives a fence as a semaphore of this device. If a write behind one of these
    /// fences fails, the fence given to [`OpenAccess::end`] counts as failed, too.
    ///
    /// # Errors
    ///
    /// As [`Mapping::begin_access_part`].
    ///
    /// Locks: as [`Mapping::begin_access`].
    pub fn begin_access_deferred(
        &self,
        access: Access,
        part: Range<u64>,
    ) -> Result<(OpenAccess<'_>, Vec<Fence>)> {
        let device = self.device_inner();
        self.begin_access_when(access, part, |fence| fence.is_for_host(device))
    }

    /// Begins an access once no conflicting fence that `relevant` selects is pending. Returns it with those of other
    /// devices that still are.
    fn begin_access_when(
        &self,
        access: Access,
        part: Range<u64>,
        relevant: impl Fn(&Fence) -> bool,
    ) -> Result<(OpenAccess<'_>, Vec<Fence>)> {
        self.check_access(access)?;
        self.buffer_inner().check_part(&part)?;
        self.buffer_inner().set.handle_lost_devices();
        self.buffer_inner().leave_exported()?;
        let view = self.view()?;
        let device = self.device_inner();
        let waits_for = Usage::from(access).waits_for();
        let mut state = self.buffer_inner().lock_idle(waits_for, relevant)?;
        self.check_current()?;
        state.begin_access();
        self.buffer_inner().note_use(&mut state, Some(self.device_inner().id()));
        if access.writes() {
            self.buffer_inner().note_write(&mut state, part);
        }
        let mut others = |usage| {
            let mut pending = state.fences().pending(usage);
            pending.retain(|fence| !fence.is_on(device));
            pending
        };
        let (waits, writers) = (others(waits_for), others(Usage::Write));
        Ok((OpenAccess { mapping: self, access, view, writers }, waits))
    }
}

impl OpenAccess<'_> {
    /// Returns the handles to record with.
    pub fn view(&self) -> RawView {
        self.view
    }

    /// Ends the access: later uses of the buffer wait for `fence`. [`crate::Device::submitted`] returns a fence
    /// for all work that was submitted to the queue so far.
    pub fn end(self, fence: Fence) {
        let fence = fence.depends_on(&self.writers);
        let mut state = self.mapping.buffer_inner().lock();
        state.fences().add(Usage::from(self.access), fence);
    }
}

impl Drop for OpenAccess<'_> {
    fn drop(&mut self) {
        self.mapping.buffer_inner().end_access_in_drop();
    }
}

impl fmt::Debug for OpenAccess<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenAccess")
            .field("mapping", &self.mapping)
            .field("access", &self.access)
            .finish_non_exhaustive()
    }
}
