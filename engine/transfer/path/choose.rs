//! Chooses the path of a copy: a pure function of what is possible and what was measured.

use std::fmt;
use std::time::Duration;

use super::speeds::CopySpeeds;

/// How the bytes are copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CopyChoice {
    /// The host copies, on the calling thread.
    Host,
    /// A device that sees both backings copies all but the last `host` bytes. The host copies those at the same
    /// time.
    Device { host: u64 },
    /// No device sees both backings: the host copies, through staging memory of the devices where it does not
    /// see the bytes itself. The calling thread waits, and holds no lock meanwhile.
    Bounce,
}

/// The input of the choice: properties of the two backings, and of the bytes to copy.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CopyConditions {
    pub(crate) bytes: u64,
    /// Whether one device sees both backings, and may: neither a descriptor forbids it peer-to-peer access, nor does its
    /// import move the memory to the host.
    pub(crate) one_device: bool,
    /// Whether the host reads and writes both at full speed. Video memory behind a bus does not count: the host
    /// reads it a hundred times more slowly.
    pub(crate) quick: bool,
    /// Whether no work is running on either: the host could begin at once.
    pub(crate) idle: bool,
    /// Whether the copy may be split between device and host. Partial copies may not.
    pub(crate) divisible: bool,
}

/// The longest host copy for a move that is a side effect, such as the use of a displaced buffer: little more
/// than the cost of a submission. With a larger value, the slowest frames of an application with too little
/// memory became slower, and frame times less even.
pub(crate) const MOMENT: Duration = Duration::from_micros(20);

/// The smallest copy that is split between device and host. For smaller ones a split does not pay.
const SPLIT_FROM: u64 = 4 << 20;

/// The host's part of a split copy is a multiple of this: more than any memory's unit of flushing.
pub(crate) const PART: u64 = 64 << 10;

/// Chooses how to copy, if the host may spend at most `pause` on it.
pub(crate) fn choose(
    conditions: CopyConditions,
    speeds: &CopySpeeds,
    pause: Duration,
) -> CopyChoice {
    let CopyConditions { bytes, one_device, quick, idle, divisible } = conditions;
    if !(quick && idle) {
        return if one_device { CopyChoice::Device { host: 0 } } else { CopyChoice::Bounce };
    }
    let (host, device) = (speeds.host(bytes), speeds.device(bytes));
    let choice = match one_device {
        false if host <= pause => CopyChoice::Host,
        false => CopyChoice::Bounce,
        true if host <= device && host <= pause => CopyChoice::Host,
        true if divisible => CopyChoice::Device { host: host_part(bytes, speeds, pause) },
        true => CopyChoice::Device { host: 0 },
    };
    tracing::trace!(bytes, %choice, ?host, ?device, "copy path chosen");
    choice
}

/// How many bytes the host copies while a device copies the others: so many that both finish at the same time,
/// but no more than the host can copy in `pause`.
fn host_part(bytes: u64, speeds: &CopySpeeds, pause: Duration) -> u64 {
    if !speeds.is_parallel() || bytes < SPLIT_FROM {
        return 0;
    }
    // Binary search: the host's time grows with the number of parts, and the device's time falls.
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

/// How many of the last bytes of a large copy the host copies on the thread of a caller, within `pause`, if it may: so many that
/// host and device finish at the same time. If that does not pay, all of them, where the host is faster.
pub(crate) fn host_share(bytes: u64, speeds: &CopySpeeds, pause: Duration) -> u64 {
    let host = speeds.host(bytes);
    match host_part(bytes, speeds, pause) {
        0 if bytes >= SPLIT_FROM && host <= pause && host <= speeds.device(bytes) => bytes,
        part => part,
    }
}

impl fmt::Display for CopyChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("the host"),
            Self::Device { host: 0 } => f.write_str("a device"),
            Self::Device { host } => write!(f, "a device, {host} bytes of it by the host"),
            Self::Bounce => f.write_str("staging memory"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::speeds::{CopySpeed, PAUSE};
    use super::*;

    const MIB: u64 = 1 << 20;

    /// Host and device take 64 µs per MiB; the device takes 20 µs more for its submission.
    fn speeds(parallel: bool) -> CopySpeeds {
        let row = |bytes: u64| {
            let host = Duration::from_nanos(bytes * 1000 / (16 << 10));
            CopySpeed { bytes, host, device: host + Duration::from_micros(20) }
        };
        CopySpeeds::new(&[row(4 << 10), row(2 * MIB)], parallel)
    }

    const ANY: CopyConditions =
        CopyConditions { bytes: 0, one_device: true, quick: true, idle: true, divisible: true };
    const DEVICE: CopyChoice = CopyChoice::Device { host: 0 };

    fn check(conditions: CopyConditions, parallel: bool, expected: CopyChoice) {
        assert_eq!(choose(conditions, &speeds(parallel), PAUSE), expected, "{conditions:?}");
    }

    #[test]
    fn the_host_copies_if_it_is_faster_and_within_its_time() {
        check(CopyConditions { bytes: 4096, ..ANY }, false, CopyChoice::Host);
        check(CopyConditions { bytes: 15 * MIB, ..ANY }, false, CopyChoice::Host);
        check(CopyConditions { bytes: 16 * MIB, ..ANY }, false, DEVICE);
        let slow = CopySpeeds::host_up_to(4096);
        let choose = |bytes, pause| choose(CopyConditions { bytes, ..ANY }, &slow, pause);
        assert_eq!(choose(4096, PAUSE), CopyChoice::Host);
        assert_eq!(choose(4097, PAUSE), DEVICE);
        assert_eq!(choose(4096, Duration::ZERO), DEVICE, "the host has no time");
    }

    #[test]
    fn the_host_does_not_copy_slow_or_busy_memory() {
        check(CopyConditions { bytes: 4096, quick: false, ..ANY }, true, DEVICE);
        check(CopyConditions { bytes: 4096, idle: false, ..ANY }, true, DEVICE);
    }

    #[test]
    fn a_large_copy_is_split_evenly_or_as_far_as_the_host_has_time() {
        let host = |bytes, parallel| {
            let conditions = CopyConditions { bytes, ..ANY };
            match choose(conditions, &speeds(parallel), PAUSE) {
                CopyChoice::Device { host } => host,
                other => panic!("{other}"),
            }
        };
        assert_eq!(host(64 * MIB, false), 0, "a split does not pay");
        let even = host(20 * MIB, true);
        assert!((10 * MIB..11 * MIB).contains(&even), "{even}");
        let most = host(64 * MIB, true);
        assert!((15 * MIB..16 * MIB).contains(&most) && most % PART == 0, "{most}");
        check(CopyConditions { bytes: 64 * MIB, divisible: false, ..ANY }, true, DEVICE);
    }

    #[test]
    fn without_a_lock_the_host_copies_its_half_or_all_if_it_is_faster() {
        let long = Duration::from_millis(100);
        let half = host_share(64 * MIB, &speeds(true), long);
        assert!((32 * MIB..33 * MIB).contains(&half) && half.is_multiple_of(PART), "{half}");
        assert_eq!(host_share(64 * MIB, &speeds(false), long), 64 * MIB, "the host is faster");
        assert_eq!(host_share(64 * MIB, &speeds(false), PAUSE), 0, "it has no time");
        assert_eq!(host_share(64 * MIB, &CopySpeeds::host_up_to(4096), long), 0);
        assert_eq!(host_share(MIB, &speeds(true), long), 0, "a small copy is not shared");
    }

    #[test]
    fn without_a_common_device_the_host_copies_what_is_quick_and_bounces_the_rest() {
        let conditions = CopyConditions { one_device: false, ..ANY };
        check(CopyConditions { bytes: 15 * MIB, ..conditions }, true, CopyChoice::Host);
        check(CopyConditions { bytes: 17 * MIB, ..conditions }, true, CopyChoice::Bounce);
        check(CopyConditions { bytes: 4096, quick: false, ..conditions }, true, CopyChoice::Bounce);
        check(CopyConditions { bytes: 4096, idle: false, ..conditions }, true, CopyChoice::Bounce);
    }
}
