//! The texels of a probe: what is written, and where what was read differs. Imports nothing that knows a device.

use std::ops::Range;

use crate::transfer::compute::pattern_word;

/// One plane of the image of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProbePlane {
    /// Texels of the plane in a row. Whole blocks.
    pub(crate) width: u32,
    /// Rows of the plane.
    pub(crate) height: u32,
    /// Bytes of a block.
    pub(crate) block_bytes: u32,
    /// Texels in a block, which is one row high.
    pub(crate) block_width: u32,
    /// Texels of the image per texel of the plane, horizontally and vertically.
    pub(crate) divide: [u32; 2],
    /// The bits of each 16-bit word that hold texels. Drivers need not keep the others.
    pub(crate) bits: u16,
}

impl ProbePlane {
    fn blocks(&self) -> u64 {
        u64::from(self.width.div_ceil(self.block_width.max(1))) * u64::from(self.height)
    }

    fn bytes(&self) -> u64 {
        self.blocks() * u64::from(self.block_bytes)
    }

    /// The texel of the image at the beginning of a block.
    fn texel(&self, block: u64) -> [u32; 2] {
        let row = u64::from(self.width.div_ceil(self.block_width.max(1))).max(1);
        // CAST: a column and a row of a plane, whose sizes are `u32`.
        let (x, y) = ((block % row) as u32 * self.block_width, (block / row) as u32);
        [x * self.divide[0], y * self.divide[1]]
    }

    /// The texel of the image at a texel of the plane, counted row by row.
    pub(super) fn texel_of(&self, index: u32) -> [u32; 2] {
        let width = self.width.max(1);
        [index % width * self.divide[0], index / width * self.divide[1]]
    }
}

/// Where planes are in a buffer without padding. Each begins at a multiple of 16 bytes, which every format allows
/// (VUID-vkCmdCopyBufferToImage-dstImage-07975, -07976).
pub(super) fn spans(planes: &[ProbePlane]) -> Vec<Range<u64>> {
    let mut end = 0_u64;
    let place = |plane: &ProbePlane| {
        let start = end.next_multiple_of(16);
        end = start + plane.bytes();
        start..end
    };
    planes.iter().map(place).collect()
}

/// Bytes of all planes in such a buffer.
pub(super) fn bytes(planes: &[ProbePlane]) -> u64 {
    spans(planes).last().map_or(0, |span| span.end)
}

/// How many blocks there are in all planes.
pub(super) fn texels(planes: &[ProbePlane]) -> u64 {
    planes.iter().map(ProbePlane::blocks).sum()
}

/// The pattern of a seed, in such a buffer. Each word depends on its position, so that shifted rows are wrong.
pub(super) fn pattern(planes: &[ProbePlane], seed: u32) -> Vec<u8> {
    // CAST: an image of a probe has some hundred kilobytes.
    let mut out: Vec<u8> = (0..bytes(planes).div_ceil(4) as u32)
        .flat_map(|at| pattern_word(seed, at).to_le_bytes())
        .collect();
    for (plane, span) in planes.iter().zip(spans(planes)) {
        for word in slice_mut(&mut out, &span).chunks_exact_mut(2) {
            mask(word, plane.bits);
        }
    }
    out
}

/// Texels that differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    /// How many.
    pub(super) count: u64,
    /// The first one, in the image.
    pub(super) first: [u32; 2],
}

/// Compares what was read with what was written; `None` if nothing differs.
pub(super) fn compare(planes: &[ProbePlane], written: &[u8], read: &[u8]) -> Option<Wrong> {
    let mut found: Option<Wrong> = None;
    for (plane, span) in planes.iter().zip(spans(planes)) {
        let size = plane.block_bytes.max(1) as usize;
        let blocks = slice(written, &span).chunks(size).zip(slice(read, &span).chunks(size));
        for (at, (wanted, got)) in blocks.enumerate() {
            if is_equal(wanted, got, plane.bits) {
                continue;
            }
            // CAST: widening.
            let first = || Wrong { count: 0, first: plane.texel(at as u64) };
            found.get_or_insert_with(first).count += 1;
        }
    }
    found
}

fn is_equal(wanted: &[u8], got: &[u8], bits: u16) -> bool {
    if bits == u16::MAX {
        return wanted == got;
    }
    let [low, high] = bits.to_le_bytes();
    let masks = [low, high].into_iter().cycle();
    wanted.iter().zip(got).zip(masks).all(|((a, b), mask)| a & mask == b & mask)
}

fn mask(word: &mut [u8], bits: u16) {
    for (byte, mask) in word.iter_mut().zip(bits.to_le_bytes()) {
        *byte &= mask;
    }
}

fn range(span: &Range<u64>) -> Range<usize> {
    // CAST: as in `pattern`.
    span.start as usize..span.end as usize
}

fn slice<'a>(bytes: &'a [u8], span: &Range<u64>) -> &'a [u8] {
    bytes.get(range(span)).unwrap_or_default()
}

fn slice_mut<'a>(bytes: &'a mut [u8], span: &Range<u64>) -> &'a mut [u8] {
    bytes.get_mut(range(span)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// NV12 of 6×4: luma of 6×4, and 3×2 pairs of chroma.
    const NV12: [ProbePlane; 2] = [plane(6, 4, 1, [1, 1]), plane(3, 2, 2, [2, 2])];

    const fn plane(width: u32, height: u32, block_bytes: u32, divide: [u32; 2]) -> ProbePlane {
        ProbePlane { width, height, block_bytes, block_width: 1, divide, bits: u16::MAX }
    }

    #[test]
    fn planes_follow_one_another_at_multiples_of_16_bytes() {
        assert_eq!(spans(&NV12), [0..24, 32..44]);
        assert_eq!((bytes(&NV12), texels(&NV12)), (44, 30));
    }

    #[test]
    fn a_wrong_texel_is_found_with_its_place_in_the_image() {
        let written = pattern(&NV12, 7);
        assert_eq!(compare(&NV12, &written, &written), None);
        let mut read = written.clone();
        // The last pair of chroma.
        read[43] ^= 1;
        assert_eq!(compare(&NV12, &written, &read), Some(Wrong { count: 1, first: [4, 2] }));
        read[7] ^= 1;
        assert_eq!(compare(&NV12, &written, &read), Some(Wrong { count: 2, first: [1, 1] }));
    }

    #[test]
    fn rows_at_another_pitch_are_wrong() {
        let planes = [plane(61, 19, 4, [1, 1])];
        let written = pattern(&planes, 7);
        let shifted: Vec<u8> =
            written.iter().copied().cycle().skip(4).take(written.len()).collect();
        assert_eq!(compare(&planes, &written, &shifted).map(|wrong| wrong.count), Some(61 * 19));
    }

    #[test]
    fn what_the_host_does_not_get_is_wrong() {
        let written = pattern(&NV12, 7);
        let stale = vec![0; written.len()];
        let wrong = compare(&NV12, &written, &stale).expect("zeros are no pattern");
        assert!(wrong.count >= 28, "{wrong:?}");
    }

    #[test]
    fn bits_that_drivers_need_not_keep_are_not_compared() {
        let planes = [ProbePlane { bits: 0xffc0, ..plane(4, 1, 2, [1, 1]) }];
        let written = pattern(&planes, 7);
        assert!(written.chunks(2).take(4).all(|word| word[0] & 0x3f == 0));
        let mut read = written.clone();
        read[2] |= 0x3f;
        assert_eq!(compare(&planes, &written, &read), None);
        read[2] ^= 0x40;
        assert_eq!(compare(&planes, &written, &read), Some(Wrong { count: 1, first: [1, 0] }));
    }

    #[test]
    fn a_block_of_two_texels_is_at_its_first_one() {
        let planes = [ProbePlane { block_width: 2, ..plane(8, 2, 4, [1, 1]) }];
        assert_eq!(texels(&planes), 8);
        let written = pattern(&planes, 7);
        let mut read = written.clone();
        read[5 * 4] ^= 1;
        assert_eq!(compare(&planes, &written, &read), Some(Wrong { count: 1, first: [2, 1] }));
    }
}
