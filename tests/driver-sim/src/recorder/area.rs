//! Which texels a command writes, so that those which a transition from `UNDEFINED` has discarded are known.

use ash::vk;

/// Texels of one level and layer: from the first corner up to the second one, without it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rect {
    pub(super) from: [u32; 2],
    pub(super) to: [u32; 2],
}

impl Rect {
    /// More than any image has.
    pub(super) const ALL: Self = Self { from: [0; 2], to: [u32::MAX; 2] };

    /// All texels of a level of an image.
    pub(super) fn of_level(extent: [u32; 2], level: u32) -> Self {
        Self { from: [0; 2], to: extent.map(|size| (size >> level).max(1)) }
    }

    pub(super) fn new(offset: vk::Offset2D, extent: vk::Extent2D) -> Self {
        let from = [offset.x, offset.y].map(|at| u32::try_from(at).unwrap_or(0));
        let to = [0, 1].map(|axis| from[axis].saturating_add([extent.width, extent.height][axis]));
        Self { from, to }
    }

    /// A region of a copy.
    pub(super) fn of_region(offset: vk::Offset3D, extent: vk::Extent3D) -> Self {
        let extent = vk::Extent2D { width: extent.width, height: extent.height };
        Self::new(vk::Offset2D { x: offset.x, y: offset.y }, extent)
    }

    /// A region between two corners, in any order.
    pub(super) fn between([a, b]: [vk::Offset3D; 2]) -> Self {
        let at = |value: i32| u32::try_from(value).unwrap_or(0);
        Self {
            from: [at(a.x.min(b.x)), at(a.y.min(b.y))],
            to: [at(a.x.max(b.x)), at(a.y.max(b.y))],
        }
    }

    pub(super) fn overlaps(&self, other: &Self) -> bool {
        (0..2).all(|axis| self.from[axis] < other.to[axis] && other.from[axis] < self.to[axis])
    }

    pub(super) fn texels(&self) -> u64 {
        [0, 1].map(|axis| u64::from(self.to[axis] - self.from[axis])).iter().product()
    }

    /// What is left of it without `other`: up to four parts.
    fn without(self, other: &Self, left: &mut Vec<Self>) {
        if !self.overlaps(other) {
            left.push(self);
            return;
        }
        let mut rest = self;
        for axis in 0..2 {
            if rest.from[axis] < other.from[axis] {
                let mut part = rest;
                part.to[axis] = other.from[axis];
                left.push(part);
                rest.from[axis] = other.from[axis];
            }
            if other.to[axis] < rest.to[axis] {
                let mut part = rest;
                part.from[axis] = other.to[axis];
                left.push(part);
                rest.to[axis] = other.to[axis];
            }
        }
    }
}

/// Takes the texels that were written out of those that are missing.
pub(super) fn subtract(missing: &mut Vec<Rect>, written: &Rect) {
    if missing.is_empty() {
        return;
    }
    let mut left = Vec::new();
    for part in missing.drain(..) {
        part.without(written, &mut left);
    }
    *missing = left;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_in_parts_is_written() {
        let mut missing = vec![Rect { from: [0, 0], to: [10, 8] }];
        subtract(&mut missing, &Rect { from: [3, 2], to: [6, 5] });
        assert_eq!(missing.iter().map(Rect::texels).sum::<u64>(), 80 - 9);
        subtract(&mut missing, &Rect { from: [0, 0], to: [10, 4] });
        assert_eq!(missing.iter().map(Rect::texels).sum::<u64>(), 40 - 3);
        subtract(&mut missing, &Rect { from: [0, 4], to: [5, 8] });
        subtract(&mut missing, &Rect { from: [5, 4], to: [10, 8] });
        assert!(missing.is_empty(), "{missing:?}");
    }
}
