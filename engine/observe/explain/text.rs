//! Decisions in words.

use std::fmt::{self, Display};

use super::decision::{Decision, Pick, Reason, What};
use crate::device::DeviceId;

/// A [`Decision`] in words: [`Decision::describe`].
#[derive(Clone, Copy, Debug)]
pub struct DecisionText<'a, N> {
    decision: &'a Decision,
    name: N,
}

impl Decision {
    /// The decision in words. `name` supplies the names of other buffers by number, where it knows them.
    pub fn describe<N: Fn(u64) -> Option<String>>(&self, name: N) -> DecisionText<'_, N> {
        DecisionText { decision: self, name }
    }
}

impl Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.describe(|_| None).fmt(f)
    }
}

impl<N: Fn(u64) -> Option<String>> Display for DecisionText<'_, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Decision { what, from, to, reason, .. } = *self.decision;
        match what {
            What::Placed => write!(f, "placed in {to}")?,
            What::Evicted => write!(f, "evicted from {from} to {to}")?,
            What::Restored => write!(f, "restored to {to} from {from}")?,
            What::Migrated => write!(f, "moved from {from} to {to}")?,
            What::AutoMigrated => write!(f, "auto-migrated to {to} from {from}")?,
            What::FellBack => write!(f, "fell back to {to}")?,
            What::Stayed if from == to => write!(f, "stays in {from}")?,
            What::Stayed => write!(f, "stays in {from} instead of {to}")?,
            What::Purged => write!(f, "purged from {from}")?,
            What::Lost => write!(f, "lost with {from}")?,
            What::Promoted => write!(f, "promoted from its clean copy in {to}; it was in {from}")?,
        }
        f.write_str(": ")?;
        self.reason(reason, f)
    }
}

impl<N: Fn(u64) -> Option<String>> DecisionText<'_, N> {
    fn reason(&self, reason: Reason, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match reason {
            Reason::FirstChoice => f.write_str("the first choice"),
            Reason::Asked => f.write_str("the caller asked for it"),
            Reason::Wanted { bytes, by, pick, of } => {
                write!(f, "{} were needed", Size(bytes))?;
                match by.map(|number| (number, (self.name)(number))) {
                    Some((_, Some(name))) => write!(f, " by {name:?}")?,
                    Some((number, None)) => write!(f, " by buffer {number}")?,
                    None => {}
                }
                write!(f, ", {pick} of {}", Count(of, 2047))
            }
            Reason::NoRoom { budget, used, pinned, by, pins } => {
                let Decision { what, from, to, .. } = *self.decision;
                let place = if what == What::Stayed { to } else { from };
                match budget {
                    u64::MAX => write!(f, "{place} has {} in use", Size(used))?,
                    _ => write!(f, "{place} has {} budget, {} in use", Size(budget), Size(used))?,
                }
                if pinned > 0 {
                    write!(f, ", {} pinned", Size(pinned))?;
                    if let Some(by) = by {
                        let plural = if pins == 1 { "" } else { "s" };
                        write!(f, " by {by} ({} pin{plural})", Count(pins, 63))?;
                    }
                }
                Ok(())
            }
            Reason::DriverOutOfMemory { device } => {
                write!(f, "the driver of {device} had no memory left")
            }
            Reason::DriverFailed { device } => {
                write!(f, "the driver of {device} could not provide it there")
            }
            Reason::NotShareable => f.write_str("memory there cannot be shared with all its users"),
            Reason::Pinned { by, pins } => {
                write!(f, "pinned by {}", DeviceOr(by, "an export"))?;
                match pins {
                    0 | 1 => Ok(()),
                    _ => write!(f, ", {} times", Count(pins, 4095)),
                }
            }
            Reason::Mapped { by } => write!(f, "{by} maps it and cannot be notified"),
            Reason::HostAccess => f.write_str("the host is using it"),
            Reason::Busy { by } => {
                write!(f, "work of {} has not ended", DeviceOr(by, "the host or an external user"))
            }
            Reason::Throttled { moved, allowed } => {
                write!(f, "{} of at most {} have moved at once", Size(moved), Size(allowed))
            }
            Reason::Hysteresis { uses, needed } => {
                let (uses, needed) = (Count(uses, 4095), Count(needed, 4095));
                write!(f, "it was moved recently, with {uses} of {needed} uses since")
            }
            Reason::UsedLess => f.write_str("more uses are expected of the buffers there"),
            Reason::Used { by } => write!(f, "{by} uses it"),
            Reason::UsedMore { by, times, others } => {
                let (times, others) = (Count(times, 65535), Count(others, 65535));
                write!(f, "{by} has used it {times} times, all others {others} times")
            }
            Reason::Reach { by } => write!(f, "{by} could not reach it"),
            Reason::Exported => f.write_str("it was exported"),
            Reason::All => f.write_str("all buffers were to move there"),
            Reason::DeviceLost { device } => write!(f, "{device} is lost"),
            Reason::Rearranged => f.write_str("its attachments agree on another layout"),
        }
    }
}

impl Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Placed => "placed",
            Self::Evicted => "evicted",
            Self::Restored => "restored",
            Self::Migrated => "moved",
            Self::AutoMigrated => "auto-migrated",
            Self::FellBack => "fell back",
            Self::Stayed => "stays",
            Self::Purged => "purged",
            Self::Lost => "lost",
            Self::Promoted => "promoted",
        })
    }
}

impl Display for Pick {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rule => "the policy's choice",
            Self::LeastRecent => "least recently used",
            Self::MostRecent => "most recently used",
            Self::FurthestUse => "with the next use furthest away",
            Self::NextInLine => "next in order",
            Self::LowestPriority => "with the lowest priority",
            Self::Cheapest => "cheapest to evict",
        })
    }
}

/// A device, or a text for no device.
struct DeviceOr(Option<DeviceId>, &'static str);

impl Display for DeviceOr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(device) => device.fmt(f),
            None => f.write_str(self.1),
        }
    }
}

/// A number, and the bound up to which it is kept.
struct Count(u32, u32);

impl Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(number, bound) = *self;
        if number < bound { write!(f, "{number}") } else { write!(f, "{bound} or more") }
    }
}

/// Bytes, to three digits.
struct Size(u64);

impl Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 7] = ["bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
        // CAST: a few digits are shown.
        let mut number = self.0 as f64;
        let mut unit = 0;
        // A number that would round to 1024 is shown in the next unit.
        while number >= 1023.5 && unit + 1 < UNITS.len() {
            number /= 1024.0;
            unit += 1;
        }
        let digits = match number {
            n if n >= 99.95 || n.fract() == 0.0 => 0,
            n if n >= 9.995 => 1,
            _ => 2,
        };
        let text = format!("{number:.digits$}");
        let text = match digits {
            0 => &text,
            _ => text.trim_end_matches('0').trim_end_matches('.'),
        };
        write!(f, "{text} {}", UNITS[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits_and_the_right_unit() {
        let sizes = [
            (0, "0 bytes"),
            (1000, "1000 bytes"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            (64 << 20, "64 MiB"),
            ((1 << 20) - 1, "1 MiB"),
            (1_234_567, "1.18 MiB"),
            (123_456_789, "118 MiB"),
            (12_345_678_901, "11.5 GiB"),
            (u64::MAX, "16 EiB"),
        ];
        for (bytes, text) in sizes {
            assert_eq!(Size(bytes).to_string(), text);
        }
    }
}
