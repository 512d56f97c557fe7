//! Inspection: reports and counters.

use std::sync::Arc;

use super::engine::{Engine, trace_error};
use crate::buffer;
use crate::device::{Calls, Device};
use crate::error::Result;
use crate::memory::{DomainId, DomainUsage, ImportUsage};
use crate::observe::{Live, MoveCause, Moved, Report, StallCause, Stalls};

/// # Inspection
///
/// [`crate::SharedBuffer::explain`] says why one buffer is where it is.
impl Engine {
    /// Reports every live buffer with its pins, fences, attachments and mappings, and who uses each domain.
    ///
    /// The report holds no handles, so it keeps no buffer alive.
    ///
    /// Locks: each buffer's reservation for a moment, one at a time; so not from within an importer.
    #[doc(alias = "bufinfo")]
    pub fn report(&self) -> Report {
        buffer::report(&self.set)
    }

    /// Completes the trace that [`crate::EngineDescriptor::trace`] or `PEERBUF_TRACE` began, and reports whether all of
    /// it was written. What happens later is not in it. Without this call the trace is completed when the engine is
    /// dropped, and an error is a `tracing` event alone. Without a trace it does nothing.
    ///
    /// Locks: the tracer's own.
    ///
    /// # Errors
    ///
    /// [`crate::Error::Os`] with the first error of writing, for example `ENOSPC`. The file then lacks its end.
    pub fn finish_trace(&self) -> Result<()> {
        let finished = self.set.core.tracer.finish();
        finished.map_err(|error| trace_error("write (trace)", &error))
    }

    /// How full a domain is. Polls the driver's budget first, at most twice a second.
    ///
    /// # Errors
    ///
    /// [`crate::Error::ForeignEngine`] for the VRAM of a device that does not take part.
    pub fn usage(&self, domain: DomainId) -> Result<DomainUsage> {
        self.set.core.check_domain(domain)?;
        if let DomainId::Vram(device) = domain {
            let core = &self.set.core;
            core.member(device).poll_budget(core.age(), &core.imports);
        }
        Ok(self.set.core.domain_state(domain).ledger.usage())
    }

    /// What a device has imported. Views that no attachment needs are kept for a while, and given back when the device
    /// or its driver is short of memory, and by [`Engine::trim`].
    ///
    /// # Errors
    ///
    /// [`crate::Error::ForeignEngine`].
    pub fn imports(&self, device: &Device) -> Result<ImportUsage> {
        self.set.core.check(&device.0)?;
        Ok(self.set.core.imports.usage(&device.0))
    }

    /// How much has moved for a cause since the engine was opened.
    pub fn moved(&self, cause: MoveCause) -> Moved {
        self.set.core.counters.moved.get(cause)
    }

    /// How often and how long calls have waited for a cause since the engine was opened. Waits for fences that
    /// callers make themselves are not counted ([`crate::Fence::wait`]).
    pub fn stalls(&self, cause: StallCause) -> Stalls {
        self.set.core.counters.stalls.get(cause)
    }

    /// Counters of the calls into drivers and the kernel. With the feature `testing` they also make calls fail.
    pub fn calls(&self) -> &Arc<Calls> {
        &self.set.core.calls
    }

    /// Counters of live objects. They outlive the engine, so that a test can see them end at zero.
    pub fn live(&self) -> &Arc<Live> {
        &self.set.core.live
    }
}
