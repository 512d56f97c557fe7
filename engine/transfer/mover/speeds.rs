//! How long host and device take for copies of some sizes: what the choice between them rests on.

use std::fmt;
use std::sync::LazyLock;
use std::time::Duration;

use smallvec::SmallVec;

/// How long host and device take to copy so many bytes, between memory that the host reads and writes at
/// full speed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopySpeed {
    /// How many bytes.
    pub bytes: u64,
    /// The host.
    pub host: Duration,
    /// A device, from before the submission until the host has noticed its end.
    pub device: Duration,
}

/// What is assumed while nothing was measured: a submission costs 8 µs and its end is noticed 10 µs later
/// on the machines that were looked at, while 64 KiB take 6 µs out of no cache.
pub(crate) fn assumed() -> &'static CopySpeeds {
    static ASSUMED: LazyLock<CopySpeeds> = LazyLock::new(|| CopySpeeds::host_up_to(64 << 10));
    &ASSUMED
}

/// What a device and the host were measured to take for copies: a few sizes, in ascending order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopySpeeds {
    rows: SmallVec<[CopySpeed; 4]>,
    parallel: bool,
}

impl CopySpeeds {
    /// Those of a table that is not empty; its sizes ascend. `parallel` says whether a device is
    /// sooner through if the host takes half of it.
    ///
    /// # Panics
    ///
    /// If the table is not like that.
    pub fn new(rows: &[CopySpeed], parallel: bool) -> Self {
        assert!(rows.is_sorted_by(|a, b| a.bytes < b.bytes), "sizes ascend: {rows:?}");
        assert!(!rows.is_empty(), "there is a size");
        Self { rows: rows.iter().copied().collect(), parallel }
    }

    /// Speeds by which the host copies up to `bytes`, and a device whatever is more: the same way on every
    /// machine, for those who want to know beforehand.
    pub fn host_up_to(bytes: u64) -> Self {
        let row = |bytes, host, device| CopySpeed {
            bytes,
            host: Duration::from_micros(host),
            device: Duration::from_micros(device),
        };
        Self::new(&[row(bytes, 1, 1), row(bytes + 1, 1_000_000, 1)], false)
    }

    /// What was measured.
    pub fn rows(&self) -> &[CopySpeed] {
        &self.rows
    }

    /// Whether a device is sooner through with a large copy if the host takes half of it.
    pub fn is_parallel(&self) -> bool {
        self.parallel
    }

    /// How long the host takes for so many bytes.
    pub(crate) fn host(&self, bytes: u64) -> Duration {
        self.time(bytes, |row| row.host)
    }

    /// How long a device takes.
    pub(crate) fn device(&self, bytes: u64) -> Duration {
        self.time(bytes, |row| row.device)
    }

    /// On the line between the two sizes around `bytes`; before the first size as long as for that, beyond
    /// the last one on the line through the last two.
    fn time(&self, bytes: u64, of: impl Fn(&CopySpeed) -> Duration) -> Duration {
        let above = self.rows.iter().position(|row| row.bytes >= bytes);
        let (low, high) = match above.unwrap_or(self.rows.len() - 1) {
            0 => return of(&self.rows[0]),
            above => (&self.rows[above - 1], &self.rows[above]),
        };
        let nanos = |row| of(row).as_nanos() as f64;
        let slope = (nanos(high) - nanos(low)) / (high.bytes - low.bytes) as f64;
        // A line that falls is noise.
        let time = nanos(low) + slope.max(0.0) * (bytes - low.bytes) as f64;
        // CAST: not negative; saturates.
        Duration::from_nanos(time as u64)
    }
}

impl fmt::Display for CopySpeeds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, CopySpeed { bytes, host, device }) in self.rows.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{} KiB {host:.1?} by the host, {device:.1?} by it", bytes >> 10)?;
        }
        f.write_str(if self.parallel { "; sooner together" } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_lie_on_lines() {
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
    fn one_row_is_a_table_and_the_made_up_one_has_an_edge() {
        let one = CopySpeed { bytes: 7, host: Duration::ZERO, device: Duration::from_secs(1) };
        assert_eq!(CopySpeeds::new(&[one], false).host(1 << 40), Duration::ZERO);
        let edge = CopySpeeds::host_up_to(64 << 10);
        assert!(edge.host(64 << 10) <= edge.device(64 << 10));
        assert!(edge.host((64 << 10) + 1) > edge.device((64 << 10) + 1));
    }
}
