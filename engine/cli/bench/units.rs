//! Bytes, rates, times and dates as people read them.

use std::fmt;

/// Bytes per second, in units of 10⁹ as links and memory are sold, with three digits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rate(pub(crate) f64);

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} GB/s", gigabytes(self.0))
    }
}

/// The number of GB/s, with three digits.
pub(crate) fn gigabytes(bytes_per_second: f64) -> String {
    digits(bytes_per_second / 1e9)
}

/// A number with three digits, or as many as it has before the point.
fn digits(number: f64) -> String {
    match number {
        it if it >= 99.95 => format!("{it:.0}"),
        it if it >= 9.995 => format!("{it:.1}"),
        it if it >= 0.0995 => format!("{it:.2}"),
        it => format!("{it:.4}"),
    }
}

/// A size, in units of 1024, with at most one digit after the point.
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let unit = UNITS.iter().rposition(|unit| bytes >= factor(unit)).unwrap_or(0);
    let factor = factor(UNITS[unit]);
    match bytes % factor {
        0 => format!("{} {}", bytes / factor, UNITS[unit]),
        // CAST: a size is shown with few digits.
        _ => format!("{:.1} {}", bytes as f64 / factor as f64, UNITS[unit]),
    }
}

fn factor(unit: &str) -> u64 {
    match unit {
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => 1,
    }
}

/// A time, with three digits.
pub(crate) fn time(ns: f64) -> String {
    match ns {
        it if it < 999.5 => format!("{} ns", digits(it)),
        it if it < 999.5e3 => format!("{} µs", digits(it / 1e3)),
        it if it < 999.5e6 => format!("{} ms", digits(it / 1e6)),
        it => format!("{} s", digits(it / 1e9)),
    }
}

/// A moment as a date and a time, in UTC.
pub(crate) fn date(unix_seconds: u64) -> String {
    let (days, second) = (unix_seconds / 86_400, unix_seconds % 86_400);
    // Days since 0000-03-01, in which a year ends with February, and eras of 400 years, which are all equally long.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = era * 400 + year + next;
    let (hour, minute) = (second / 3600, second / 60 % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02} UTC")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits_and_a_unit() {
        let rates =
            [31.5e9, 126e9, 9.994e9, 9.996e9, 0.25e9, 4e6].map(|rate| Rate(rate).to_string());
        let expected =
            ["31.5 GB/s", "126 GB/s", "9.99 GB/s", "10.0 GB/s", "0.25 GB/s", "0.0040 GB/s"];
        assert_eq!(rates, expected);
        let sizes = [0, 4096, 1 << 20, 1536, 256 << 20, 1 << 30].map(bytes);
        assert_eq!(sizes, ["0 B", "4 KiB", "1 MiB", "1.5 KiB", "256 MiB", "1 GiB"]);
        let times = [3.25, 999.6, 1500.0, 4.4e6, 2e9].map(time);
        assert_eq!(times, ["3.25 ns", "1.00 µs", "1.50 µs", "4.40 ms", "2.00 s"]);
    }

    #[test]
    fn moments_are_dates() {
        let dates = [0, 951_782_399, 951_782_400, 1_796_000_000, 4_107_542_400].map(date);
        let expected = [
            "1970-01-01 00:00 UTC",
            "2000-02-28 23:59 UTC",
            "2000-02-29 00:00 UTC",
            "2026-11-30 00:53 UTC",
            "2100-03-01 00:00 UTC",
        ];
        assert_eq!(dates, expected);
    }
}
