//! The copies that bring texels from a layout into another one, row by row.

use ash::vk;

use super::places::{Places, Rows};

/// The most copies of a move into another layout: 6 MiB of regions. A 16K image with one level has 16,384 rows.
pub(super) const MOST_COPIES: u64 = 1 << 18;

/// The copies that bring all texels from their old places to their new ones; `None` if there are more than
/// [`MOST_COPIES`]. No two overlap in their new places.
///
/// A part whose pitch stays is one copy, with the bytes between its rows, if no other part is between them in its new
/// place. Drivers may place a level beside another one, at the same pitch. All others are a copy per row.
pub(super) fn rearranged(old: &Places, new: &Places) -> Option<Vec<vk::BufferCopy>> {
    let alone = parts_alone(new);
    // Both have the same format and shape, and so the same parts in the same order.
    let parts = || old.all().zip(new.all()).zip(&alone);
    let is_one =
        |from: &Rows, to: &Rows, alone: bool| from.rows == 1 || (from.pitch == to.pitch && alone);
    let count = |((one, another), alone): (((_, Rows), (_, Rows)), &bool)| {
        if is_one(&one.1, &another.1, *alone) { 1 } else { one.1.rows }
    };
    let copies: u64 = parts().map(count).sum();
    if copies > MOST_COPIES {
        return None;
    }
    let mut list = vec![];
    let mut add = |src_offset, dst_offset, size| {
        list.push(vk::BufferCopy { src_offset, dst_offset, size });
    };
    for (((_, from), (_, to)), alone) in parts() {
        let Rows { offset, pitch, row_bytes, rows } = from;
        if is_one(&from, &to, *alone) {
            add(offset, to.offset, pitch * (rows - 1) + row_bytes);
        } else {
            (0..rows)
                .for_each(|row| add(offset + row * pitch, to.offset + row * to.pitch, row_bytes));
        }
    }
    Some(list)
}

/// For each part, in the order of [`Places::all`]: whether no other part has a byte between its first and its last one.
fn parts_alone(places: &Places) -> Vec<bool> {
    let ranges = places.all().enumerate();
    // INVARIANT: places end within their buffer. One that does not is alone with nothing.
    let mut ranges: Vec<_> =
        ranges.map(|(at, (_, rows))| (rows.offset, rows.end().unwrap_or(u64::MAX), at)).collect();
    ranges.sort_unstable();
    let mut alone = vec![true; ranges.len()];
    // The part that reaches furthest so far.
    let mut furthest: Option<(u64, usize)> = None;
    for (begin, end, at) in ranges {
        if let Some((reached, other)) = furthest
            && begin < reached
        {
            (alone[at], alone[other]) = (false, false);
        }
        if furthest.is_none_or(|(reached, _)| end > reached) {
            furthest = Some((end, at));
        }
    }
    alone
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::extent::Shape;
    use crate::image::format::Format;
    use crate::image::fourcc::Fourcc;
    use crate::image::layout::LinearLayout;
    use crate::image::padding::Padding;
    use crate::memory::PlaneStart;

    fn places(name: &[u8; 4], shape: Shape, padding: Padding) -> Places {
        let fourcc = Fourcc::new(*name);
        let format = Format::of(fourcc).expect("a format");
        let layout = LinearLayout::new(fourcc, shape, padding).expect("a layout");
        Places::of_layout(format, &layout).expect("all parts have places")
    }

    #[test]
    fn every_texel_is_copied_once_to_its_new_place() {
        let shapes = [
            (b"AR24", Shape::new(5, 3).with_mips(3).with_layers(2)),
            (b"NV12", Shape::new(62, 18)),
            (b"YU12", Shape::new(4, 2)),
            (b"R8  ", Shape::new(1, 1)),
        ];
        for (name, shape) in shapes {
            for (from, to) in [
                (Padding::NONE, Padding::CROSSING),
                (Padding::CROSSING, Padding::NONE),
                (Padding::WIDE, Padding::CROSSING),
                (Padding::NONE, Padding::NONE),
            ] {
                let (old, new) = (places(name, shape, from), places(name, shape, to));
                let end = |places: &Places| places.end().expect("small") as usize;
                let mut source = vec![0_u32; end(&old)];
                for (number, (_, rows)) in old.all().enumerate() {
                    for row in 0..rows.rows {
                        for at in 0..rows.row_bytes {
                            let texel = (number as u32 + 1) << 16 | (row << 8 | at) as u32;
                            source[(rows.offset + row * rows.pitch + at) as usize] = texel;
                        }
                    }
                }
                let mut target = vec![0_u32; end(&new)];
                for copy in rearranged(&old, &new).expect("few copies") {
                    let range = |at: u64| at as usize..(at + copy.size) as usize;
                    target[range(copy.dst_offset)].copy_from_slice(&source[range(copy.src_offset)]);
                }
                for (number, (_, rows)) in new.all().enumerate() {
                    for row in 0..rows.rows {
                        for at in 0..rows.row_bytes {
                            let texel = (number as u32 + 1) << 16 | (row << 8 | at) as u32;
                            let place = (rows.offset + row * rows.pitch + at) as usize;
                            assert_eq!(target[place], texel, "{name:?} {shape} {from} {to}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn rows_that_follow_one_another_alike_are_one_copy() {
        let shape = Shape::new(62, 18);
        let [tight, padded] = [Padding::NONE, Padding::CROSSING].map(|p| places(b"NV12", shape, p));
        let count = |old, new| rearranged(old, new).map(|copies| copies.len());
        assert_eq!(count(&padded, &padded), Some(2));
        assert_eq!(count(&tight, &padded), Some(18 + 9));
    }

    /// Places of an image of several levels, at offsets and a common pitch.
    fn levels(extent: (u32, u32), pitch: u64, offsets: &[u64]) -> Places {
        let format = Format::of(Fourcc::new(*b"AR24")).expect("a format");
        let shape = Shape::new(extent.0, extent.1).with_mips(offsets.len() as u32);
        Places::at(format, shape, |part| {
            Some(PlaneStart { offset: *offsets.get(part.level as usize)?, pitch })
        })
        .expect("places")
    }

    /// Level 2 is to the right of level 1, at the same pitch, as in the 2D mip trees of Intel's ISL.
    #[test]
    fn parts_that_are_between_the_rows_of_others_keep_their_texels() {
        let apart = levels((16, 16), 64, &[0, 1024, 2048]);
        // Level 1 has 8 rows of 32 bytes, level 2 has 4 rows of 16 bytes.
        let interleaved = levels((16, 16), 64, &[0, 1024, 1024 + 32]);
        let one_after_the_other = [(&apart, &interleaved), (&interleaved, &apart)];
        for (old, new) in one_after_the_other {
            let copies = rearranged(old, new).expect("few copies");
            let mut written = vec![0_u32; 4096];
            for copy in &copies {
                for byte in copy.dst_offset..copy.dst_offset + copy.size {
                    written[byte as usize] += 1;
                }
            }
            assert!(written.iter().all(|times| *times <= 1), "two copies overlap: {copies:?}");
            for (part, rows) in new.all() {
                for row in 0..rows.rows {
                    let at = (rows.offset + row * rows.pitch) as usize;
                    let bytes = &written[at..at + rows.row_bytes as usize];
                    assert!(bytes.iter().all(|times| *times == 1), "{part:?}: {copies:?}");
                }
            }
        }
        let count = |old, new| rearranged(old, new).map(|copies| copies.len());
        assert_eq!(count(&apart, &interleaved), Some(1 + 8 + 4));
        assert_eq!(count(&interleaved, &apart), Some(3));
    }

    #[test]
    fn a_move_by_too_many_copies_is_none() {
        let shape = |layers| Shape::new(16, 1 << 10).with_layers(layers);
        let [tight, padded] = [Padding::NONE, Padding::CROSSING]
            .map(|padding| move |layers| places(b"AR24", shape(layers), padding));
        let most = (MOST_COPIES >> 10) as u32;
        let copies = rearranged(&tight(most), &padded(most)).map(|copies| copies.len() as u64);
        assert_eq!(copies, Some(MOST_COPIES));
        assert!(rearranged(&tight(most + 1), &padded(most + 1)).is_none());
        // Of one pitch, each layer is one.
        assert!(rearranged(&padded(most + 1), &padded(most + 1)).is_some());
    }
}
