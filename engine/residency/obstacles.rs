//! What stood in the way when room was looked for.

use std::fmt;

use smallvec::SmallVec;

use crate::device::DeviceId;

/// Why a buffer stays where it is, for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kept {
    /// It is pinned, or handed out to a stranger.
    Pinned,
    /// A static mapping, or an access by the host, keeps it there.
    Held,
    /// Somebody else has its reservation.
    Locked,
    /// A device is at work on it, and nobody was to wait.
    Busy,
    /// There is no room where it would have to go.
    NoRoom,
    /// Somebody attached cannot reach it anywhere else.
    Unreachable,
    /// Its move failed.
    Failed,
    /// It is not there any more.
    Gone,
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pinned => "pinned",
            Self::Held => "mapped or under host access",
            Self::Locked => "locked by others",
            Self::Busy => "busy",
            Self::NoRoom => "without room elsewhere",
            Self::Unreachable => "not reachable elsewhere",
            Self::Failed => "failed to move",
            Self::Gone => "gone",
        })
    }
}

/// What could not be moved out of the way, in bytes by reason.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Obstacles {
    kept: SmallVec<[(Kept, u64, u32); 2]>,
    /// Who has the pins: a device and its reason each.
    pinned_by: Vec<String>,
    /// Which devices have them: bytes and pins of each.
    pinners: SmallVec<[(DeviceId, u64, u64); 1]>,
    cap: Option<Box<CapReached>>,
}

/// That a client group has as much of a place as it may ([`crate::ClientGroup::set_cap`]), in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CapReached {
    /// The group's name.
    pub group: String,
    /// How many bytes were asked for.
    pub asked: u64,
    /// How many it may have there at once.
    pub cap: u64,
    /// How many it had.
    pub used: u64,
}

impl fmt::Display for CapReached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { group, cap, used, .. } = self;
        write!(f, "the cap of client group \"{group}\", which has {used} of {cap} bytes")
    }
}

/// How many holders of pins are named.
const NAMED: usize = 4;

impl Obstacles {
    pub(crate) fn add(&mut self, why: Kept, bytes: u64) {
        match self.kept.iter_mut().find(|(of, ..)| *of == why) {
            Some((_, sum, count)) => {
                *sum += bytes;
                *count += 1;
            }
            None => self.kept.push((why, bytes, 1)),
        }
    }

    /// Names somebody who has a pin, if not too many are named already.
    pub(crate) fn pinned_by(&mut self, who: String) {
        if self.pinned_by.len() < NAMED && !self.pinned_by.contains(&who) {
            self.pinned_by.push(who);
        }
    }

    /// A device has so many pins on a buffer of so many bytes.
    pub(crate) fn pins(&mut self, by: DeviceId, bytes: u64, pins: u64) {
        match self.pinners.iter_mut().find(|(of, ..)| *of == by) {
            Some((_, sum, count)) => {
                *sum += bytes;
                *count += pins;
            }
            None => self.pinners.push((by, bytes, pins)),
        }
    }

    /// The device that has pinned most bytes, and how many pins those are.
    pub(crate) fn most_pinned(&self) -> Option<(DeviceId, u64)> {
        let most = self.pinners.iter().max_by_key(|(_, bytes, _)| *bytes)?;
        Some((most.0, most.2))
    }

    /// It is a group's cap.
    pub(crate) fn capped(&mut self, cap: CapReached) {
        self.cap = Some(Box::new(cap));
    }

    /// The cap of the client group that it was for, if that was in the way: its own were asked to leave, and
    /// nobody else.
    pub fn cap_reached(&self) -> Option<&CapReached> {
        self.cap.as_deref()
    }

    /// Bytes that stayed for a reason.
    pub fn bytes(&self, why: Kept) -> u64 {
        self.kept.iter().filter(|(of, ..)| *of == why).map(|(_, bytes, _)| bytes).sum()
    }

    /// Bytes and number of buffers that stayed, by reason.
    pub fn iter(&self) -> impl Iterator<Item = (Kept, u64, u32)> {
        self.kept.iter().copied()
    }

    /// Those who have pins there, the first few: a device and its reason each.
    pub fn holders_of_pins(&self) -> &[String] {
        &self.pinned_by
    }

    /// Whether nothing stood in the way: it would not have fitted in any case.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty() && self.cap.is_none()
    }
}

impl fmt::Display for Obstacles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(cap) = &self.cap {
            cap.fmt(f)?;
        }
        for (nth, (why, bytes, count)) in self.iter().enumerate() {
            let comma = if nth == 0 && self.cap.is_none() { "" } else { ", " };
            let s = if count == 1 { "" } else { "s" };
            write!(f, "{comma}{bytes} bytes in {count} buffer{s} {why}")?;
            if why == Kept::Pinned && !self.pinned_by.is_empty() {
                write!(f, " (by {})", self.pinned_by.join(", "))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_say_what_and_by_whom() {
        let mut obstacles = Obstacles::default();
        obstacles.add(Kept::Pinned, 100);
        obstacles.add(Kept::Pinned, 28);
        obstacles.add(Kept::Busy, 7);
        obstacles.pinned_by("llvmpipe (scanout)".into());
        obstacles.pinned_by("llvmpipe (scanout)".into());
        assert_eq!(obstacles.bytes(Kept::Pinned), 128);
        assert_eq!(obstacles.most_pinned(), None, "nobody knows");
        for (by, bytes, pins) in [(1, 60, 9), (2, 50, 1), (2, 50, 3)] {
            obstacles.pins(DeviceId(by), bytes, pins);
        }
        assert_eq!(obstacles.most_pinned(), Some((DeviceId(2), 4)), "by bytes");
        let said =
            "128 bytes in 2 buffers pinned (by llvmpipe (scanout)), 7 bytes in 1 buffer busy";
        assert_eq!(obstacles.to_string(), said);
        obstacles.capped(CapReached { group: "a".into(), asked: 5, cap: 9, used: 8 });
        let capped = "the cap of client group \"a\", which has 8 of 9 bytes";
        assert_eq!(obstacles.to_string(), format!("{capped}, {said}"));
        let mut only = Obstacles::default();
        only.capped(CapReached { group: "a".into(), asked: 5, cap: 9, used: 8 });
        assert!(!only.is_empty() && only.to_string() == capped);
    }
}
