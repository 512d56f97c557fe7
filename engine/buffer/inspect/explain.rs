//! Explains why a buffer is where it is.

use std::collections::HashMap;
use std::fmt;

use super::report::pins;
use crate::buffer::object::SharedBuffer;
use crate::memory::DomainId;
use crate::observe::{Decision, PinReport, Reason};

/// Why a buffer is where it is, made by [`SharedBuffer::explain`]: its domain, its preferred domain, its
/// pins, and the last decisions about it. `Display` prints it as text.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Explanation {
    /// The buffer's name.
    pub name: String,
    /// The domain that it is in; of a purged buffer, the last one.
    pub domain: DomainId,
    /// Whether its content was discarded and it has no memory until [`SharedBuffer::repopulate`] is called.
    pub purged: bool,
    /// The preferred domain.
    #[doc(alias = "wanted")]
    pub preferred: DomainId,
    /// The last few decisions, latest first. Empty for a buffer that was created in its preferred domain and
    /// is there since.
    pub decisions: Vec<Decision>,
    /// The pins that keep it in place.
    pub pins: Vec<PinReport>,
    /// The names of other buffers that the decisions mention, by number.
    names: HashMap<u64, String>,
}

impl SharedBuffer {
    /// Explains why the buffer is where it is.
    ///
    /// Locks: the reservation; then, for the names of others that made it move, each buffer's for a moment,
    /// one at a time.
    pub fn explain(&self) -> Explanation {
        let buffer = &self.0;
        let (domain, preferred, purged, decisions, pins) = {
            let state = buffer.lock();
            let decisions: Vec<_> = state.decisions(buffer.size).collect();
            let pins = pins(&state, buffer.size);
            let purged = buffer.status.is_purged();
            (state.location().domain(), state.entry().preferred(), purged, decisions, pins)
        };
        let others = decisions.iter().filter_map(|decision| match decision.reason {
            Reason::Wanted { by, .. } => by,
            _ => None,
        });
        let mut names: HashMap<u64, String> =
            others.map(|number| (number, String::new())).collect();
        if !names.is_empty() {
            buffer.set.live.for_each(|other| {
                if let Some(name) = names.get_mut(&other.id()) {
                    *name = other.name();
                }
            });
            names.retain(|_, name| !name.is_empty());
        }
        Explanation { name: buffer.name(), domain, preferred, purged, decisions, pins, names }
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.purged {
            write!(f, "{} is purged; its content was in {}", self.name, self.domain)?;
        } else {
            write!(f, "{} is in {}", self.name, self.domain)?;
        }
        if self.domain != self.preferred {
            write!(f, ", and prefers {}", self.preferred)?;
        }
        for pin in &self.pins {
            let times =
                if pin.count == 1 { String::new() } else { format!(", {} times", pin.count) };
            match pin.device {
                Some(device) => write!(f, "\n  pinned by {device}: {}{times}", pin.reason)?,
                None => write!(f, "\n  {}{times}", pin.reason)?,
            }
        }
        if self.decisions.is_empty() {
            write!(f, "\n  placed there at creation; no decision since")?;
        }
        let name = |number: u64| self.names.get(&number).cloned();
        for decision in &self.decisions {
            write!(f, "\n  {}", decision.describe(name))?;
        }
        Ok(())
    }
}
