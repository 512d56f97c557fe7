//! Which way bytes travel: a pure function of what is possible and what was measured.

use std::fmt;
use std::time::Duration;

use super::speeds::CopySpeeds;

/// How bytes get from one place to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// The host copies, here and now.
    Host,
    /// A device that sees both places copies all but the last `host` bytes; the host those, at the same
    /// time.
    Device { host: u64 },
    /// No device sees both: the host, through staging memory of the devices where it does not see the bytes
    /// itself. It waits for them, and holds no lock meanwhile.
    Ring,
}

/// What there is to know of two places, and of the bytes between them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Places {
    pub(crate) bytes: u64,
    /// Whether a device sees both.
    pub(crate) one_device: bool,
    /// Whether the host reads and writes both at full speed. Not video memory behind a bus, which it reads
    /// a hundred times as slowly.
    pub(crate) quick: bool,
    /// Whether nothing is under way in either: the host could begin at once.
    pub(crate) idle: bool,
    /// Whether the bytes may be shared out. Not where only some of them travel.
    pub(crate) divisible: bool,
}

/// How long the host copies at most while others wait for a lock, and whoever wants the bytes moved could do
/// something else: a sixteenth of a frame. For moves that somebody has asked for.
pub(crate) const PAUSE: Duration = Duration::from_millis(1);

/// The same for a move that comes with something else, like the use of a buffer that is away: little more than
/// a submission would cost. With more, the slowest frames of an application that has less than it needs became
/// slower and their times less even.
pub(crate) const MOMENT: Duration = Duration::from_micros(20);

/// From how many bytes on a copy is shared out. Fewer are over before it has paid off.
const SHARED_FROM: u64 = 4 << 20;

/// What the host takes is a multiple of this: more than any memory's unit of flushing.
pub(crate) const PART: u64 = 64 << 10;

/// The way to take, if the host may spend `pause` on it.
pub(crate) fn choose(places: Places, speeds: &CopySpeeds, pause: Duration) -> Way {
    let Places { bytes, one_device, quick, idle, divisible } = places;
    if !(quick && idle) {
        return if one_device { Way::Device { host: 0 } } else { Way::Ring };
    }
    let (host, device) = (speeds.host(bytes), speeds.device(bytes));
    let way = match one_device {
        false if host <= pause => Way::Host,
        false => Way::Ring,
        true if host <= device && host <= pause => Way::Host,
        true if divisible => Way::Device { host: share(bytes, speeds, pause) },
        true => Way::Device { host: 0 },
    };
    tracing::trace!(bytes, %way, ?host, ?device, "the way");
    way
}

/// How many bytes the host copies while a device copies the others: so many that both are through at the same
/// time, but no more than it can in `pause`.
fn share(bytes: u64, speeds: &CopySpeeds, pause: Duration) -> u64 {
    if !speeds.is_parallel() || bytes < SHARED_FROM {
        return 0;
    }
    // Both only grow, one way or the other: halved until there is nothing left to decide.
    let (mut low, mut high) = (0, bytes / PART);
    while low < high {
        let parts = (low + high).div_ceil(2);
        let host = speeds.host(parts * PART);
        if host <= pause && host <= speeds.device(bytes - parts * PART) {
            low = parts;
        } else {
            high = parts - 1;
        }
    }
    low * PART
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("the host"),
            Self::Device { host: 0 } => f.write_str("a device"),
            Self::Device { host } => write!(f, "a device, and {host} bytes of it by the host"),
            Self::Ring => f.write_str("a ring"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::speeds::CopySpeed;
    use super::*;

    const MIB: u64 = 1 << 20;

    /// Host and device take 64 µs per MiB; a device also 20 µs for being asked.
    fn speeds(parallel: bool) -> CopySpeeds {
        let row = |bytes: u64| {
            let host = Duration::from_nanos(bytes * 1000 / (16 << 10));
            CopySpeed { bytes, host, device: host + Duration::from_micros(20) }
        };
        CopySpeeds::new(&[row(4 << 10), row(2 * MIB)], parallel)
    }

    const PLACES: Places =
        Places { bytes: 0, one_device: true, quick: true, idle: true, divisible: true };
    const DEVICE: Way = Way::Device { host: 0 };

    fn check(places: Places, parallel: bool, expected: Way) {
        assert_eq!(choose(places, &speeds(parallel), PAUSE), expected, "{places:?}");
    }

    #[test]
    fn the_host_copies_what_it_has_copied_sooner_and_soon() {
        check(Places { bytes: 4096, ..PLACES }, false, Way::Host);
        check(Places { bytes: 15 * MIB, ..PLACES }, false, Way::Host);
        check(Places { bytes: 16 * MIB, ..PLACES }, false, DEVICE);
        let slow = CopySpeeds::host_up_to(4096);
        let choose = |bytes, pause| choose(Places { bytes, ..PLACES }, &slow, pause);
        assert_eq!(choose(4096, PAUSE), Way::Host);
        assert_eq!(choose(4097, PAUSE), DEVICE);
        assert_eq!(choose(4096, Duration::ZERO), DEVICE, "it may not take any time");
    }

    #[test]
    fn the_host_keeps_away_from_what_is_slow_or_in_use() {
        check(Places { bytes: 4096, quick: false, ..PLACES }, true, DEVICE);
        check(Places { bytes: 4096, idle: false, ..PLACES }, true, DEVICE);
    }

    #[test]
    fn a_large_copy_is_shared_out_evenly_or_as_far_as_the_host_has_time() {
        let host = |bytes, parallel| {
            let places = Places { bytes, ..PLACES };
            match choose(places, &speeds(parallel), PAUSE) {
                Way::Device { host } => host,
                other => panic!("{other}"),
            }
        };
        assert_eq!(host(64 * MIB, false), 0, "it does not pay");
        let even = host(20 * MIB, true);
        assert!((10 * MIB..11 * MIB).contains(&even), "{even}");
        let most = host(64 * MIB, true);
        assert!((15 * MIB..16 * MIB).contains(&most) && most % PART == 0, "{most}");
        check(Places { bytes: 64 * MIB, divisible: false, ..PLACES }, true, DEVICE);
    }

    #[test]
    fn where_no_device_sees_both_the_host_does_what_is_quick_and_the_rest_takes_a_ring() {
        let places = Places { one_device: false, ..PLACES };
        check(Places { bytes: 15 * MIB, ..places }, true, Way::Host);
        check(Places { bytes: 17 * MIB, ..places }, true, Way::Ring);
        check(Places { bytes: 4096, quick: false, ..places }, true, Way::Ring);
        check(Places { bytes: 4096, idle: false, ..places }, true, Way::Ring);
    }
}
