//! The upper convex hull of points that are added from right to left.

use super::scale::AGES;

/// The points of the hull so far. From left to right each line is flatter than the one before.
#[derive(Debug)]
pub(super) struct Hull {
    points: [Point; AGES + 1],
    len: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct Point {
    x: f64,
    y: f64,
    /// The slope of the line to the next point on the right.
    slope: f64,
}

impl Hull {
    /// The hull of the point (0, 0).
    pub(super) fn new() -> Self {
        Self { points: [Point::default(); AGES + 1], len: 1 }
    }

    /// Adds a point left of all others, and returns the slope of the steepest line from it to one of them. At
    /// most [`AGES`] points can be added.
    pub(super) fn push(&mut self, x: f64, y: f64) -> f64 {
        loop {
            let right = self.points[self.len - 1];
            let slope = (right.y - y) / (right.x - x);
            if self.len == 1 || slope > right.slope {
                self.points[self.len] = Point { x, y, slope };
                self.len += 1;
                return slope;
            }
            self.len -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::residency::policy::random::Random;

    #[test]
    fn it_finds_the_steepest_line() {
        let mut random = Random::new(1);
        for _ in 0..100 {
            let mut hull = Hull::new();
            let mut points = vec![(0.0, 0.0)];
            let (mut x, mut y) = (0.0, 0.0);
            for _ in 0..AGES {
                x -= random.unit() + 0.1;
                y -= random.unit() * random.unit();
                let steepest = points.iter().map(|(a, b)| (b - y) / (a - x)).fold(0.0, f64::max);
                assert_eq!(hull.push(x, y), steepest);
                points.push((x, y));
            }
        }
    }
}
