//! How long the host and a device take for copies of several sizes. The choice between them uses this table.

use std::fmt;
use std::sync::LazyLock;
use std::time::Duration;

use smallvec::SmallVec;

/// How long the host and a device take to copy a number of bytes, between memory that the host reads and writes
/// at full speed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopySpeed {
    /// Size of the copy in bytes.
    pub bytes: u64,
    /// The host's time.
    pub host: Duration,
    /// The device's time, from before the submission until the host has noticed its end.
    pub device: Duration,
}

/// The longest host copy for a move that the application requested: a sixteenth of a frame. Meanwhile other
/// threads wait for the lock, and the calling thread does nothing else.
pub(crate) const PAUSE: Duration = Duration::from_millis(1);

/// The largest copy, in bytes, that the host is assumed to make faster than a device. No measurement is made for copies
/// up to this size.
pub(crate) const ASSUMED_HOST_BYTES: u64 = 64 << 10;

/// The speeds assumed until a device is measured. On the machines examined, a submission costs 8 µs and its
/// end is noticed 10 µs later, while the host copies 64 KiB that are in no cache in 6 µs.
pub(crate) fn assumed() -> &'static CopySpeeds {
    static ASSUMED: LazyLock<CopySpeeds> =
        LazyLock::new(|| CopySpeeds::host_up_to(ASSUMED_HOST_BYTES));
    &ASSUMED
}

/// Measured copy times of a device and the host: a few sizes, in ascending order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopySpeeds {
    rows: SmallVec<[CopySpeed; 4]>,
    parallel: bool,
    /// Up to this size the host is not slower than the device, and copies within [`PAUSE`]: that of the last row before the
    /// first one of which this is not true.
    host_limit: u64,
}

impl CopySpeeds {
    /// Creates a table from `rows`: at least one, with ascending sizes. `parallel` says whether a device
    /// finishes a large copy sooner if the host copies half of it.
    ///
    /// # Panics
    ///
    /// If `rows` is empty, or its sizes do not ascend.
    pub fn new(rows: &[CopySpeed], parallel: bool) -> Self {
        assert!(rows.is_sorted_by(|a, b| a.bytes < b.bytes), "sizes must ascend: {rows:?}");
        assert!(!rows.is_empty(), "a table has at least one size");
        let is_hosts = |row: &&CopySpeed| row.host <= row.device.min(PAUSE);
        let host_limit = rows.iter().take_while(is_hosts).last().map_or(0, |row| row.bytes);
        Self { rows: rows.iter().copied().collect(), parallel, host_limit }
    }

    /// Speeds with which the host copies up to `bytes`, and a device copies anything larger. The choice is then
    /// the same on every machine, and known in advance.
    pub fn host_up_to(bytes: u64) -> Self {
        let row = |bytes, host, device| CopySpeed {
            bytes,
            host: Duration::from_micros(host),
            device: Duration::from_micros(device),
        };
        Self::new(&[row(bytes, 1, 1), row(bytes + 1, 1_000_000, 1)], false)
    }

    /// The measured times, by ascending size.
    pub fn rows(&self) -> &[CopySpeed] {
        &self.rows
    }

    /// Whether a device finishes a large copy sooner if the host copies half of it.
    pub fn is_parallel(&self) -> bool {
        self.parallel
    }

    /// A size up to which the host copies; larger copies it may make as well.
    pub(crate) fn host_limit(&self) -> u64 {
        self.host_limit
    }

    /// How long the host takes to copy `bytes`.
    pub(crate) fn host(&self, bytes: u64) -> Duration {
        self.time(bytes, |row| row.host)
    }

    /// How long a device takes to copy `bytes`.
    pub(crate) fn device(&self, bytes: u64) -> Duration {
        self.time(bytes, |row| row.device)
    }

    /// Interpolates linearly between the two sizes around `bytes`. Below the first size it returns the time
    /// of the first; above the last size it extrapolates from the last two.
    fn time(&self, bytes: u64, of: impl Fn(&CopySpeed) -> Duration) -> Duration {
        let above = self.rows.iter().position(|row| row.bytes >= bytes);
        let (low, high) = match above.unwrap_or(self.rows.len() - 1) {
            0 => return of(&self.rows[0]),
            above => (&self.rows[above - 1], &self.rows[above]),
        };
        let nanos = |row| of(row).as_nanos() as f64;
        let slope = (nanos(high) - nanos(low)) / (high.bytes - low.bytes) as f64;
        // A falling line is noise.
        let time = nanos(low) + slope.max(0.0) * (bytes - low.bytes) as f64;
        // CAST: not negative; saturates.
        Duration::from_nanos(time as u64)
    }
}

impl fmt::Display for CopySpeeds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, CopySpeed { bytes, host, device }) in self.rows.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(
                f,
                "{comma}{} KiB {host:.1?} by the host, {device:.1?} by the device",
                bytes >> 10
            )?;
        }
        f.write_str(if self.parallel { "; faster together" } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_interpolated_linearly() {
        let row = |bytes, host, device| CopySpeed {
            bytes,
            host: Duration::from_micros(host),
            device: Duration::from_micros(device),
        };
        let speeds = CopySpeeds::new(&[row(1000, 1, 20), row(3000, 3, 22), row(4000, 5, 21)], true);
        let check = |bytes, host, device| {
            let expected = (Duration::from_micros(host), Duration::from_micros(device));
            assert_eq!((speeds.host(bytes), speeds.device(bytes)), expected, "{bytes}");
        };
        check(0, 1, 20);
        check(1000, 1, 20);
        check(2000, 2, 21);
        check(3000, 3, 22);
        check(4000, 5, 22);
        check(10_000, 17, 22);
    }

    #[test]
    fn one_row_is_enough_and_a_table_by_limit_has_an_edge() {
        let one = CopySpeed { bytes: 7, host: Duration::ZERO, device: Duration::from_secs(1) };
        assert_eq!(CopySpeeds::new(&[one], false).host(1 << 40), Duration::ZERO);
        let edge = CopySpeeds::host_up_to(64 << 10);
        assert!(edge.host(64 << 10) <= edge.device(64 << 10));
        assert!(edge.host((64 << 10) + 1) > edge.device((64 << 10) + 1));
        assert_eq!((one.bytes, edge.host_limit()), (7, 64 << 10));
    }

    #[test]
    fn the_host_copies_up_to_the_last_row_before_the_device_is_faster_or_the_host_takes_too_long() {
        let limit = |rows: &[(u64, u64, u64)]| {
            let row = |&(bytes, host, device)| {
                let [host, device] = [host, device].map(Duration::from_micros);
                CopySpeed { bytes, host, device }
            };
            CopySpeeds::new(&rows.iter().map(row).collect::<Vec<_>>(), false).host_limit()
        };
        assert_eq!(limit(&[(10, 1, 20), (20, 20, 20), (30, 25, 24), (40, 1, 50)]), 20);
        assert_eq!(limit(&[(10, 5, 4), (20, 1, 20)]), 0, "not for the smallest");
        assert_eq!(limit(&[(10, 1000, 2000), (20, 1001, 2000)]), 10, "at most a millisecond");
    }
}
