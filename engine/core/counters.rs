//! What an engine counts as it runs: decisions, moves, stalls; and the levels of its domains, for a trace.

use std::sync::atomic::AtomicU64;

use super::Core;
use crate::memory::DomainId;
use crate::observe::trace::Counters as Levels;
use crate::observe::{MovedCounters, StallCounters};

/// Counters of one engine.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// How many decisions there were.
    pub(crate) decisions: AtomicU64,
    /// What was moved, and why.
    pub(crate) moved: MovedCounters,
    /// How long callers were held up.
    pub(crate) stalls: StallCounters,
}

impl Core {
    /// How full a domain is, for the trace.
    pub(crate) fn trace_counters(&self, domain: DomainId) {
        if !self.tracer.is_on() {
            return;
        }
        let usage = self.store(domain).ledger.usage();
        let in_flight = self.retire.bytes_in(domain);
        let budget = match domain {
            DomainId::System => u64::MAX,
            DomainId::Vram(_) => usage.budget,
        };
        self.tracer.counters(domain, Levels { budget, used: usage.used, in_flight });
    }
}
