//! A small picture that the host draws: text and bars, over a dark ground.

use font8x8::legacy::BASIC_LEGACY;

/// Texels of a letter in each direction.
const LETTER: usize = 8;
/// The ground, a letter and the colours of bars: blue, green, red, alpha.
const GROUND: [u8; 4] = [0x20, 0x18, 0x14, 0xff];
const INK: [u8; 4] = [0xe0, 0xe0, 0xe0, 0xff];

/// A bar's colour.
#[derive(Clone, Copy, Debug)]
pub enum Colour {
    /// As it should be.
    Green,
    /// Worth a look.
    Amber,
    /// The other way.
    Blue,
}

/// Texels of four bytes, rows without gaps.
#[derive(Clone, Debug)]
pub struct Canvas {
    width: usize,
    height: usize,
    texels: Vec<u8>,
}

impl Canvas {
    /// An empty picture.
    pub fn new(width: usize, height: usize) -> Self {
        let mut this = Self { width, height, texels: vec![0; width * height * 4] };
        this.clear();
        this
    }

    /// Removes everything.
    pub fn clear(&mut self) {
        self.texels.as_chunks_mut::<4>().0.fill(GROUND);
    }

    /// Its size.
    pub fn size(&self) -> [u32; 2] {
        // CAST: a few hundred.
        [self.width as u32, self.height as u32]
    }

    /// Its texels.
    pub fn texels(&self) -> &[u8] {
        &self.texels
    }

    /// Writes one line of text; what does not fit is left out, and what is no ASCII is a question mark.
    pub fn text(&mut self, x: usize, y: usize, text: &str) {
        for (at, letter) in text.chars().enumerate() {
            let code = if letter.is_ascii() { letter as usize } else { usize::from(b'?') };
            for (row, bits) in BASIC_LEGACY[code].iter().enumerate() {
                for column in (0..LETTER).filter(|column| bits >> column & 1 == 1) {
                    self.set(x + at * LETTER + column, y + row, INK);
                }
            }
        }
    }

    /// Fills a rectangle; what does not fit is left out.
    pub fn bar(&mut self, [x, y]: [usize; 2], [width, height]: [usize; 2], colour: Colour) {
        let colour = match colour {
            Colour::Green => [0x60, 0xc0, 0x50, 0xff],
            Colour::Amber => [0x30, 0xa0, 0xf0, 0xff],
            Colour::Blue => [0xf0, 0x90, 0x50, 0xff],
        };
        for row in y..y + height {
            for column in x..x + width {
                self.set(column, row, colour);
            }
        }
    }

    fn set(&mut self, x: usize, y: usize, colour: [u8; 4]) {
        if x < self.width && y < self.height {
            let at = (y * self.width + x) * 4;
            self.texels[at..at + 4].copy_from_slice(&colour);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_beyond_the_edge_is_left_out() {
        let mut canvas = Canvas::new(20, 10);
        canvas.text(10, 4, "WWWW");
        canvas.bar([18, 8], [10, 10], Colour::Green);
        assert_eq!(canvas.texels().len(), 800);
        assert!(canvas.texels().as_chunks::<4>().0.contains(&INK));
    }
}
