//! A picture in a file, as a map: it and its halves, quarters and so on.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use crate::Result;

/// Texels in each direction, at most: the whole picture is in the host's memory.
const MOST: u32 = 8192;

/// Levels of a picture, of which each has half the texels of the one before in each direction.
#[derive(Debug)]
pub struct Pyramid(Vec<Level>);

#[derive(Debug)]
struct Level {
    size: [u32; 2],
    /// Blue, green, red, unused.
    texels: Vec<[u8; 4]>,
}

impl Pyramid {
    /// Reads a PNG, and makes so many levels of it that `tile` texels show the whole on the last one.
    ///
    /// # Errors
    ///
    /// The file cannot be read, is no PNG, or is too large; its path and what would do are named.
    pub fn read(path: &Path, tile: u32) -> Result<Self> {
        let first = decode(path).map_err(|error| {
            let path = path.display();
            format!("{path}: {error}: --picture takes a PNG of at most {MOST}x{MOST} texels")
        })?;
        let mut levels = vec![first];
        while let Some(last) = levels.last()
            && last.size.iter().any(|texels| *texels > tile)
        {
            let half = last.half();
            levels.push(half);
        }
        Ok(Self(levels))
    }

    /// The number of levels.
    pub fn levels(&self) -> u32 {
        // CAST: a few.
        self.0.len() as u32
    }

    /// A texel of a level; beyond the edges it is dark.
    pub fn texel(&self, level: u32, [x, y]: [u32; 2]) -> [u8; 4] {
        let Some(Level { size: [width, height], texels }) = self.0.get(level as usize) else {
            return [0; 4];
        };
        let at = y as usize * *width as usize + x as usize;
        let is_inside = x < *width && y < *height;
        texels.get(at).filter(|_| is_inside).copied().unwrap_or([0x18, 0x14, 0x10, 0xff])
    }
}

impl Level {
    /// Each texel is the mean of four, or of those of them that there are.
    fn half(&self) -> Self {
        let [width, height] = self.size;
        let size = [width.div_ceil(2), height.div_ceil(2)];
        let mut texels = Vec::with_capacity(size[0] as usize * size[1] as usize);
        for y in 0..size[1] {
            for x in 0..size[0] {
                let (mut sum, mut count) = ([0_u32; 4], 0);
                for [x, y] in
                    [[0, 0], [1, 0], [0, 1], [1, 1]].map(|[dx, dy]| [2 * x + dx, 2 * y + dy])
                {
                    if x < width && y < height {
                        let texel = self.texels[y as usize * width as usize + x as usize];
                        sum.iter_mut().zip(texel).for_each(|(sum, part)| *sum += u32::from(part));
                        count += 1;
                    }
                }
                // CAST: a mean of bytes; there is at least one texel.
                texels.push(sum.map(|sum| (sum / count) as u8));
            }
        }
        Self { size, texels }
    }
}

fn decode(path: &Path) -> Result<Level> {
    let mut decoder = png::Decoder::new(BufReader::new(File::open(path)?));
    decoder.set_transformations(png::Transformations::normalize_to_color8());
    let mut reader = decoder.read_info()?;
    let size: [u32; 2] = reader.info().size().into();
    if size.iter().any(|texels| *texels > MOST) {
        return Err(format!("it has {}x{} texels", size[0], size[1]).into());
    }
    let length = reader.output_buffer_size().ok_or("it is too large")?;
    let mut bytes = vec![0; length];
    let frame = reader.next_frame(&mut bytes)?;
    let texel = |texel: &[u8]| match *texel {
        [grey] | [grey, _] => [grey, grey, grey, 0xff],
        [red, green, blue, ..] => [blue, green, red, 0xff],
        [] => [0; 4],
    };
    let texels = bytes[..frame.buffer_size()].chunks(frame.color_type.samples());
    Ok(Level { size, texels: texels.map(texel).collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_half_has_the_means_and_rounds_sizes_up() {
        let texels = [0, 4, 8, 10, 20, 30].map(|value| [value, value, value, 0xff]).to_vec();
        let half = Level { size: [3, 2], texels }.half();
        assert_eq!(half.size, [2, 1]);
        assert_eq!(half.texels, [[8, 8, 8, 0xff], [19, 19, 19, 0xff]]);
    }

    #[test]
    fn beyond_its_edges_a_picture_is_dark() {
        let pyramid = Pyramid(vec![Level { size: [1, 1], texels: vec![[1, 2, 3, 0xff]] }]);
        assert_eq!(pyramid.texel(0, [0, 0]), [1, 2, 3, 0xff]);
        for outside in [[1, 0], [0, 1]] {
            assert_eq!(pyramid.texel(0, outside), [0x18, 0x14, 0x10, 0xff]);
        }
    }
}
