//! The reasons why a search for room failed.

use std::fmt;

use smallvec::SmallVec;

use crate::device::DeviceId;

/// Why a buffer could not be evicted.
#[doc(alias = "Kept")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SkipReason {
    /// It is pinned, or exported to another engine or process.
    Pinned,
    /// It has a static mapping, or the host is accessing it.
    Held,
    /// It is used together with the buffer that needs the room, by one submission.
    UsedTogether,
    /// Another thread holds its reservation.
    Locked,
    /// A device is using it, and the search was not allowed to wait.
    Busy,
    /// The domain that it would move to is full.
    NoRoom,
    /// An attached device cannot reach it in any other domain.
    Unreachable,
    /// Its move failed.
    Failed,
    /// It has left the domain, or was destroyed.
    Gone,
}

impl fmt::Display for SkipReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pinned => "pinned",
            Self::Held => "mapped or under host access",
            Self::UsedTogether => "used by the same submission",
            Self::Locked => "locked by others",
            Self::Busy => "busy",
            Self::NoRoom => "without room elsewhere",
            Self::Unreachable => "not reachable elsewhere",
            Self::Failed => "failed to move",
            Self::Gone => "gone",
        })
    }
}

/// What could not be evicted, in bytes by reason.
#[doc(alias = "Obstacles")]
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct EvictionFailures {
    kept: SmallVec<[(SkipReason, u64, u32); 2]>,
    names: Option<Box<Names>>,
    /// The bytes and the number of pins of each device.
    pinners: SmallVec<[(DeviceId, u64, u64); 1]>,
    cap: Option<Box<CapReached>>,
}

/// The names of what was in the way. Behind a pointer, because errors are returned by value.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
struct Names {
    /// The first few buffers, with the reason of each.
    buffers: Vec<(SkipReason, String)>,
    /// The buffer that needs the room, if it was to return to where it may be used.
    needed_by: Option<Box<str>>,
    /// The holders of pins: a device and its reason each.
    pinned_by: Vec<String>,
}

/// A client group has reached its cap in a domain ([`crate::ClientGroup::set_cap`]). Sizes are in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CapReached {
    /// The group's name.
    pub group: String,
    /// The bytes that were requested.
    pub asked: u64,
    /// The group's cap in the domain.
    pub cap: u64,
    /// The bytes that the group used.
    pub used: u64,
}

impl fmt::Display for CapReached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { group, cap, used, .. } = self;
        write!(f, "the cap of client group \"{group}\", which has {used} of {cap} bytes")
    }
}

/// How many buffers, and how many holders of pins, are named at most.
const NAMED: usize = 4;

impl EvictionFailures {
    /// Adds a buffer that was not evicted.
    pub(crate) fn add(&mut self, why: SkipReason, bytes: u64) {
        match self.kept.iter_mut().find(|(of, ..)| *of == why) {
            Some((_, sum, count)) => {
                *sum += bytes;
                *count += 1;
            }
            None => self.kept.push((why, bytes, 1)),
        }
    }

    /// Whether enough buffers are named already.
    pub(crate) fn names_enough(&self) -> bool {
        self.names.as_ref().is_some_and(|names| names.buffers.len() >= NAMED)
    }

    /// Names a buffer that was not evicted, unless [`NAMED`] are named already.
    pub(crate) fn name(&mut self, why: SkipReason, buffer: String) {
        if !self.names_enough() {
            self.names.get_or_insert_default().buffers.push((why, buffer));
        }
    }

    /// The room was needed for the buffer of this name, which was to return to where it may be used.
    pub(crate) fn needed_for(&mut self, buffer: String) {
        self.names.get_or_insert_default().needed_by = Some(buffer.into());
    }

    /// Names a holder of a pin, unless [`NAMED`] are named already.
    pub(crate) fn pinned_by(&mut self, holder: String) {
        let pinned_by = &mut self.names.get_or_insert_default().pinned_by;
        if pinned_by.len() < NAMED && !pinned_by.contains(&holder) {
            pinned_by.push(holder);
        }
    }

    /// Adds the pins of a device on a buffer of `bytes`.
    pub(crate) fn pins(&mut self, by: DeviceId, bytes: u64, pins: u64) {
        match self.pinners.iter_mut().find(|(of, ..)| *of == by) {
            Some((_, sum, count)) => {
                *sum += bytes;
                *count += pins;
            }
            None => self.pinners.push((by, bytes, pins)),
        }
    }

    /// The device that has pinned the most bytes, and the number of its pins.
    pub(crate) fn most_pinned(&self) -> Option<(DeviceId, u64)> {
        let most = self.pinners.iter().max_by_key(|(_, bytes, _)| *bytes)?;
        Some((most.0, most.2))
    }

    /// The search failed at a client group's cap.
    pub(crate) fn capped(&mut self, cap: CapReached) {
        self.cap = Some(Box::new(cap));
    }

    /// The cap of the client group, if that was the reason. Then only the group's own buffers were candidates
    /// for eviction.
    pub fn cap_reached(&self) -> Option<&CapReached> {
        self.cap.as_deref()
    }

    /// Bytes that could not be evicted for a reason.
    pub fn bytes(&self, why: SkipReason) -> u64 {
        self.kept.iter().filter(|(of, ..)| *of == why).map(|(_, bytes, _)| bytes).sum()
    }

    /// Bytes and number of buffers that could not be evicted, by reason.
    pub fn iter(&self) -> impl Iterator<Item = (SkipReason, u64, u32)> {
        self.kept.iter().copied()
    }

    /// The names of the first few buffers that could not be evicted, and why.
    pub fn buffers(&self) -> impl Iterator<Item = (&str, SkipReason)> {
        let names = self.names.iter().flat_map(|names| &names.buffers);
        names.map(|(why, name)| (name.as_str(), *why))
    }

    /// The name of the buffer that needs the room, if it had to return before its use
    /// ([`crate::Placement::Vram`]).
    pub fn needed_by(&self) -> Option<&str> {
        self.names.as_ref()?.needed_by.as_deref()
    }

    /// The first few holders of pins: a device and its reason each.
    pub fn holders_of_pins(&self) -> &[String] {
        self.names.as_ref().map_or(&[], |names| &names.pinned_by)
    }

    /// Whether neither a buffer nor a cap was the reason: the request is larger than the domain's budget, or
    /// evicted bytes were not released in time.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty() && self.cap.is_none()
    }
}

impl fmt::Display for EvictionFailures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(cap) = &self.cap {
            cap.fmt(f)?;
        }
        for (nth, (why, bytes, count)) in self.iter().enumerate() {
            let comma = if nth == 0 && self.cap.is_none() { "" } else { ", " };
            let s = if count == 1 { "" } else { "s" };
            write!(f, "{comma}{bytes} bytes in {count} buffer{s} ")?;
            self.write_names(f, why, count)?;
            write!(f, "{why}")?;
            let holders = self.holders_of_pins();
            if why == SkipReason::Pinned && !holders.is_empty() {
                write!(f, " (by {})", holders.join(", "))?;
            }
        }
        match self.needed_by() {
            Some(name) if self.is_empty() => write!(f, "needed by \"{name}\""),
            Some(name) => write!(f, ", needed by \"{name}\""),
            None => Ok(()),
        }
    }
}

impl EvictionFailures {
    /// Writes the names of the buffers that stayed for this reason, of `count` in all.
    fn write_names(&self, f: &mut fmt::Formatter<'_>, why: SkipReason, count: u32) -> fmt::Result {
        let names = self.buffers().filter(|(_, of)| *of == why);
        let mut written = 0;
        for (name, _) in names {
            write!(f, "{}\"{name}\"", if written == 0 { "(" } else { ", " })?;
            written += 1;
        }
        match written {
            0 => Ok(()),
            _ if written < count => f.write_str(", …) "),
            _ => f.write_str(") "),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn obstacles_name_reasons_and_holders() {
        let mut failures = EvictionFailures::default();
        failures.add(SkipReason::Pinned, 100);
        failures.add(SkipReason::Pinned, 28);
        failures.add(SkipReason::Busy, 7);
        failures.pinned_by("llvmpipe (scanout)".into());
        failures.pinned_by("llvmpipe (scanout)".into());
        assert_eq!(failures.bytes(SkipReason::Pinned), 128);
        assert_eq!(failures.most_pinned(), None, "no device is known");
        for (by, bytes, pins) in [(1, 60, 9), (2, 50, 1), (2, 50, 3)] {
            failures.pins(DeviceId(by), bytes, pins);
        }
        assert_eq!(failures.most_pinned(), Some((DeviceId(2), 4)), "by bytes");
        let said =
            "128 bytes in 2 buffers pinned (by llvmpipe (scanout)), 7 bytes in 1 buffer busy";
        assert_eq!(failures.to_string(), said);
        let mut named = failures.clone();
        named.name(SkipReason::Busy, "frame".into());
        (0..9).for_each(|_| named.name(SkipReason::Pinned, "cursor".into()));
        named.needed_for("next".into());
        assert_eq!(named.buffers().count(), NAMED);
        let text = "128 bytes in 2 buffers (\"cursor\", \"cursor\", \"cursor\") pinned (by llvmpipe (scanout)), \
                    7 bytes in 1 buffer (\"frame\") busy, needed by \"next\"";
        assert_eq!(named.to_string(), text);
        failures.capped(CapReached { group: "a".into(), asked: 5, cap: 9, used: 8 });
        let capped = "the cap of client group \"a\", which has 8 of 9 bytes";
        assert_eq!(failures.to_string(), format!("{capped}, {said}"));
        let mut only = EvictionFailures::default();
        only.capped(CapReached { group: "a".into(), asked: 5, cap: 9, used: 8 });
        assert!(!only.is_empty() && only.to_string() == capped);
    }
}
