//! "Why is this buffer here?"

use std::collections::HashMap;
use std::fmt;

use super::report::pins;
use crate::buffer::object::SharedBuffer;
use crate::memory::DomainId;
use crate::observe::{Decision, PinReport, Reason};

/// Where a buffer is, where it wants to be, what keeps it, and what was decided about it last:
/// [`SharedBuffer::explain`]. Printed, it is a text for people.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Explanation {
    /// The buffer's name.
    pub name: String,
    /// Where it is; if it is purged, where it was.
    pub domain: DomainId,
    /// Whether its content was dropped, and it is nowhere until it is renewed.
    pub purged: bool,
    /// Where it wants to be.
    pub wanted: DomainId,
    /// What was decided, latest first; the last few. A buffer that got what it wanted when it was made, and
    /// about which nothing was decided since, has none.
    pub decisions: Vec<Decision>,
    /// Who keeps it there.
    pub pins: Vec<PinReport>,
    /// Names of the buffers that are mentioned, by their numbers.
    names: HashMap<u64, String>,
}

impl SharedBuffer {
    /// Why the buffer is where it is.
    ///
    /// Locks: the reservation; then, for the names of others that made it move, each buffer's for a moment,
    /// one at a time.
    pub fn explain(&self) -> Explanation {
        let buffer = &self.0;
        let (domain, wanted, purged, decisions, pins) = {
            let state = buffer.lock();
            let decisions: Vec<_> = state.decisions(buffer.size).collect();
            let pins = pins(&state, buffer.size);
            let purged = buffer.status.is_purged();
            (state.location.domain(), state.entry.preferred(), purged, decisions, pins)
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
        Explanation { name: buffer.name(), domain, wanted, purged, decisions, pins, names }
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.purged {
            write!(f, "{} is nowhere: its content was dropped from {}", self.name, self.domain)?;
        } else {
            write!(f, "{} is in {}", self.name, self.domain)?;
        }
        if self.domain != self.wanted {
            write!(f, ", and wants to be in {}", self.wanted)?;
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
            write!(f, "\n  placed there when it was made, and nothing was decided since")?;
        }
        let name = |number: u64| self.names.get(&number).cloned();
        for decision in &self.decisions {
            write!(f, "\n  {}", decision.told(name))?;
        }
        Ok(())
    }
}
