//! Axes and lines of charts. All lengths are in the units of a chart's `viewBox`; colours are classes of the style.

use std::fmt::Write;

/// A logarithmic axis.
#[derive(Clone, Copy, Debug)]
pub(super) struct Axis {
    /// The values at the ends.
    from: f64,
    to: f64,
    /// Where the ends are.
    start: f64,
    end: f64,
}

impl Axis {
    /// An axis that spans `values`, which are above 0, and at least a tenth of a decade.
    pub(super) fn new(values: impl Iterator<Item = f64>, (start, end): (f64, f64)) -> Self {
        let values = values.filter(|value| value.is_finite() && *value > 0.0);
        let (from, to) =
            values.fold((f64::MAX, 0.0), |(least, most), it| (it.min(least), it.max(most)));
        let (from, to) = if to == 0.0 { (1.0, 10.0) } else { (from, to) };
        let to = if to < from * 1.25 { from * 1.25 } else { to };
        Self { from, to, start, end }
    }

    /// The same with room at its ends, by a factor.
    pub(super) fn with_room(self, below: f64, above: f64) -> Self {
        Self { from: self.from / below, to: self.to * above, ..self }
    }

    /// Where a value is.
    pub(super) fn at(self, value: f64) -> f64 {
        let part = (value.max(self.from) / self.from).ln() / (self.to / self.from).ln();
        self.start + part.min(1.0) * (self.end - self.start)
    }

    /// Powers of `base`, times `times`, that are on the axis.
    pub(super) fn powers(self, base: f64, times: f64) -> Vec<f64> {
        let first = ((self.from / times).ln() / base.ln() - 1e-9).ceil();
        let mut value = times * base.powf(first);
        let mut found = vec![];
        while value <= self.to * (1.0 + 1e-9) {
            found.push(value);
            value *= base;
        }
        found
    }
}

/// Points of a line.
pub(super) fn path(points: impl Iterator<Item = (f64, f64)>) -> String {
    points.enumerate().fold(String::new(), |mut path, (index, (x, y))| {
        let step = if index == 0 { 'M' } else { 'L' };
        write!(path, "{step}{x:.1} {y:.1}").expect("writing to a string cannot fail");
        path
    })
}

/// The mark of a series: each has a shape of its own, so that colour is not needed.
pub(super) fn marker(series: usize, x: f64, y: f64) -> String {
    let class = series_class(series);
    match series % 4 {
        0 => format!("<circle class=\"{class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\"/>"),
        1 => {
            let (left, top) = (x - 3.2, y - 3.2);
            format!(
                "<rect class=\"{class}\" x=\"{left:.1}\" y=\"{top:.1}\" width=\"6.4\" height=\"6.4\"/>"
            )
        }
        2 => {
            let d = path([(x, y - 4.2), (x + 4.0, y + 3.2), (x - 4.0, y + 3.2)].into_iter());
            format!("<path class=\"{class}\" d=\"{d}Z\"/>")
        }
        _ => {
            let d = path([(x, y - 4.5), (x + 4.5, y), (x, y + 4.5), (x - 4.5, y)].into_iter());
            format!("<path class=\"{class}\" d=\"{d}Z\"/>")
        }
    }
}

/// The class of a series; there are six.
pub(super) fn series_class(series: usize) -> String {
    format!("s{}", series % 6)
}

/// A number on an axis.
pub(super) fn label(value: f64) -> String {
    match value {
        it if it >= 1.0 => format!("{it:.0}"),
        // Powers of ten below 1 need as many digits as they have.
        it => format!("{it:.*}", decimals(it)),
    }
}

fn decimals(value: f64) -> usize {
    // CAST: values on an axis have few digits.
    (-value.log10() - 1e-9).ceil().clamp(0.0, 9.0) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_is_logarithmic_and_ends_at_its_ends() {
        let axis = Axis::new([1.0, 100.0].into_iter(), (0.0, 10.0));
        assert_eq!([axis.at(1.0), axis.at(10.0), axis.at(100.0)], [0.0, 5.0, 10.0]);
        assert_eq!([axis.at(0.0), axis.at(1e9)], [0.0, 10.0], "what is outside stays on the edge");
        assert_eq!(axis.powers(10.0, 1.0), [1.0, 10.0, 100.0]);
        assert_eq!(axis.powers(10.0, 2.0), [2.0, 20.0]);
        // One value, or none, is no reason for a chart without width.
        for values in [vec![], vec![5.0], vec![f64::NAN, 0.0]] {
            let axis = Axis::new(values.into_iter(), (0.0, 10.0));
            assert!(axis.at(5.0).is_finite());
        }
    }

    #[test]
    fn labels_have_the_digits_that_they_need() {
        assert_eq!([0.001, 0.1, 1.0, 100.0].map(label), ["0.001", "0.1", "1", "100"]);
    }
}
