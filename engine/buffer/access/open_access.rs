//! The two halves of a submission, for applications that submit themselves.
//!
//! Kernel counterpart: what a driver does around a job: lock the reservation, collect fences, submit, add
//! the job's fence.

use std::fmt;
use std::ops::Range;

use crate::access::Access;
use crate::buffer::attach::{Mapping, RawView};
use crate::error::Result;
use crate::sync::{Fence, Usage};

/// An access that an application is submitting itself, from [`Mapping::begin_access`].
///
/// While it lives the buffer stays where it is, so keep it only while you record and submit, and end it
/// with the fence of what you submitted. Dropped without [`OpenAccess::end`], it enters no fence: right
/// only if nothing was submitted.
#[must_use = "end it with the fence of what was submitted"]
pub struct OpenAccess<'a> {
    mapping: &'a Mapping,
    access: Access,
    view: RawView,
}

impl Mapping {
    /// Begins an access that the application submits itself: waits, in bounds, until no other device does
    /// what `access` may not overlap with, and keeps the buffer in place until the access is ended.
    /// Others may begin an access of theirs meanwhile: it is the fence given to [`OpenAccess::end`] that they
    /// wait for. Between the two the application records (with [`Mapping::acquire`] and [`Mapping::release`]) and
    /// submits to [`crate::Device::with_queue`].
    ///
    /// # Errors
    ///
    /// [`crate::Error::Stale`] if the buffer has moved: map it again and retry
    /// ([`crate::Attachment::remap`]); [`crate::Error::Revoked`], [`crate::Error::WrongAccess`],
    /// [`crate::Error::Timeout`], [`crate::Error::DeviceLost`].
    ///
    /// Locks: the reservation, but not while waiting and not while the access is open.
    pub fn begin_access(&self, access: Access) -> Result<OpenAccess<'_>> {
        self.begin_access_part(access, 0..self.buffer_inner().size)
    }

    /// The same, but nothing is written outside of bytes `part`: a promise, as of
    /// [`crate::Submission::uses_part`].
    ///
    /// # Errors
    ///
    /// As [`Mapping::begin_access`]; [`crate::Error::OutOfBounds`] if `part` is not within the buffer, or ends
    /// before it begins.
    ///
    /// Locks: as [`Mapping::begin_access`].
    pub fn begin_access_part(&self, access: Access, part: Range<u64>) -> Result<OpenAccess<'_>> {
        self.check_access(access)?;
        self.buffer_inner().check_part(&part)?;
        self.buffer_inner().set.handle_lost_devices();
        let view = self.view()?;
        let own = self.device_inner();
        let waits_for = Usage::from(access).waits_for();
        let mut state = self.buffer_inner().lock_idle(waits_for, |fence| !fence.is_on(own))?;
        self.check_current()?;
        state.begin_access();
        self.buffer_inner().note_use(&mut state, Some(own.id()));
        if access.writes() {
            self.buffer_inner().note_write(&mut state, part);
        }
        Ok(OpenAccess { mapping: self, access, view })
    }
}

impl OpenAccess<'_> {
    /// The handles to record with.
    pub fn view(&self) -> RawView {
        self.view
    }

    /// Ends it: whoever uses the buffer next waits for `fence` ([`crate::Device::submitted`] makes one
    /// for everything that was submitted to the queue so far).
    pub fn end(self, fence: Fence) {
        let mut state = self.mapping.buffer_inner().lock();
        state.fences.add(Usage::from(self.access), fence);
    }
}

impl Drop for OpenAccess<'_> {
    fn drop(&mut self) {
        self.mapping.buffer_inner().end_access();
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
