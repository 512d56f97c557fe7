//! The upper hull of a curve that is drawn from right to left.

use super::outlook::AGES;

/// What is left of the points so far: every line to the right is flatter than the one before.
#[derive(Debug)]
pub(super) struct Hull {
    points: [Point; AGES + 1],
    len: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct Point {
    x: f64,
    y: f64,
    /// Of the line to the next one on its right.
    slope: f64,
}

impl Hull {
    /// That of one point, (0, 0).
    pub(super) fn new() -> Self {
        Self { points: [Point::default(); AGES + 1], len: 1 }
    }

    /// Adds a point left of all others, and says how steep the steepest line from it to one of them is.
    /// At most [`AGES`] points can be added.
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
    use crate::residency::policy::Random;

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
