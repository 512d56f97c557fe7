//! The number of a frame, in its picture: a row of cells at the top and one at the bottom, a bit in each.
//!
//! A picture whose two rows differ is torn.

use ash::vk;

/// Texels of a cell in each direction.
pub const CELL: u32 = 8;
/// Cells of a row.
pub const CELLS: u32 = 32;

/// Whether a picture is large enough for a stamp.
pub fn fits([width, height]: [u32; 2]) -> bool {
    width >= CELL * CELLS && height >= 2 * CELL
}

/// The first lines of the two rows of cells.
pub fn rows([_, height]: [u32; 2]) -> [u32; 2] {
    [0, height.saturating_sub(CELL)]
}

/// The cells with a given bit in a frame's number, to be cleared to one colour.
pub fn cells(size: [u32; 2], frame: u32, bit: bool) -> Vec<vk::ClearRect> {
    if !fits(size) {
        return vec![];
    }
    let set = (0..CELLS).filter(|cell| (frame >> cell & 1 == 1) == bit);
    let rect = |(x, y): (u32, u32)| vk::ClearRect {
        rect: vk::Rect2D {
            // CAST: pictures are far smaller than 2^31 texels.
            offset: vk::Offset2D { x: x as i32, y: y as i32 },
            extent: vk::Extent2D { width: CELL, height: CELL },
        },
        base_array_layer: 0,
        layer_count: 1,
    };
    set.flat_map(|cell| rows(size).map(|y| rect((cell * CELL, y)))).collect()
}

/// The number that a line of cells shows: texels of four bytes, one line through the middle of the cells.
pub fn number(line: &[u8]) -> u32 {
    let middle = |cell: u32| (cell * CELL + CELL / 2) as usize * 4;
    (0..CELLS).fold(0, |number, cell| {
        let is_set = line.get(middle(cell)).is_some_and(|blue| *blue >= 128);
        number | u32::from(is_set) << cell
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(size: [u32; 2], frame: u32, at: u32) -> Vec<u8> {
        let mut line = vec![0; size[0] as usize * 4];
        for cell in cells(size, frame, true) {
            let (x, y) = (cell.rect.offset.x as usize, cell.rect.offset.y as u32);
            if (y..y + CELL).contains(&at) {
                line[x * 4..(x + CELL as usize) * 4].fill(255);
            }
        }
        line
    }

    #[test]
    fn a_number_is_read_as_it_was_written() {
        for frame in [0, 1, 0x8000_0001, 0xdead_beef, u32::MAX] {
            for at in rows([300, 40]) {
                assert_eq!(number(&line([300, 40], frame, at + CELL / 2)), frame);
            }
        }
    }

    #[test]
    fn a_picture_that_is_too_small_has_no_cells() {
        assert!(cells([255, 40], 7, true).is_empty());
        assert!(cells([256, 15], 7, true).is_empty());
    }
}
