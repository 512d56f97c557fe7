//! Bytes, rates and times as people read them.

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
}
