//! Sizes as text: `64M`, `4K`, `1G`, plain bytes.

use std::fmt;
use std::str::FromStr;

use peerbuf::image::Extent;

/// The compute kernels that fill and verify work on words of 32 bits.
const WORD: u64 = 4;

/// The smallest memory that `--vram` takes.
const SMALLEST_HEAP: u64 = 64 << 10;

/// Letters for powers of 1024.
const UNITS: [(char, u32); 4] = [('K', 10), ('M', 20), ('G', 30), ('T', 40)];

/// Size of a buffer that the compute kernels can work on: positive, and a multiple of 4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size(u64);

impl Size {
    pub(crate) fn bytes(self) -> u64 {
        self.0
    }
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ParseSizeError {
    #[error("not a size; write bytes (4096), or a number with K, M, G or T (64M)")]
    Malformed,
    #[error("too small: at least 64K")]
    SmallHeap,
    #[error("larger than any memory")]
    TooLarge,
    #[error("too small: a buffer has at least one word of 4 bytes")]
    Zero,
    #[error("not a size of images; write WIDTHxHEIGHT (1920x1080), each from 1 to {LONGEST_SIDE}")]
    Extent,
    #[error("{0} bytes are not a multiple of 4; buffers are filled and checked as 32-bit words")]
    NotWords(u64),
}

impl FromStr for Size {
    type Err = ParseSizeError;

    fn from_str(text: &str) -> Result<Self, ParseSizeError> {
        match bytes(text)? {
            0 => Err(ParseSizeError::Zero),
            bytes => Self::of_words(bytes),
        }
    }
}

impl Size {
    fn of_words(bytes: u64) -> Result<Self, ParseSizeError> {
        if bytes.is_multiple_of(WORD) {
            Ok(Self(bytes))
        } else {
            Err(ParseSizeError::NotWords(bytes))
        }
    }
}

/// Parses the size of a memory, which must be large enough to be divided.
pub(crate) fn heap(text: &str) -> Result<Size, ParseSizeError> {
    match bytes(text)? {
        // The rule that matters most comes first.
        ..SMALLEST_HEAP => Err(ParseSizeError::SmallHeap),
        bytes => Size::of_words(bytes),
    }
}

/// The longest side of an image: framebuffers of every device are as large (Vulkan, "Required Limits").
const LONGEST_SIDE: u32 = 4096;

/// Parses the size of an image.
pub(crate) fn extent(text: &str) -> Result<Extent, ParseSizeError> {
    let side = |side: &str| {
        let is_number = side.bytes().all(|byte| byte.is_ascii_digit());
        let side = side.parse().ok().filter(|side| is_number && (1..=LONGEST_SIDE).contains(side));
        side.ok_or(ParseSizeError::Extent)
    };
    let (width, height) = text.split_once(['x', 'X', '×']).ok_or(ParseSizeError::Extent)?;
    Ok(Extent::new(side(width)?, side(height)?))
}

fn bytes(text: &str) -> Result<u64, ParseSizeError> {
    let upper = text.to_ascii_uppercase();
    let (digits, shift) = split_unit(&upper);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(ParseSizeError::Malformed);
    }
    let number: u64 = digits.parse().map_err(|_| ParseSizeError::TooLarge)?;
    number.checked_mul(1 << shift).ok_or(ParseSizeError::TooLarge)
}

/// The digits of a size, and the power of 2 that its unit means. `64MiB` and `64MB` are the same as `64M`.
fn split_unit(text: &str) -> (&str, u32) {
    let short = text.strip_suffix('B').unwrap_or(text);
    let with_unit = |text| {
        let mut units = UNITS.iter();
        units.find_map(|(letter, shift)| Some((str::strip_suffix(text, *letter)?, *shift)))
    };
    short.strip_suffix('I').and_then(with_unit).or_else(|| with_unit(short)).unwrap_or((short, 0))
}

/// Bytes as text for people, in the largest unit that leaves at least 1, with one decimal unless it is whole.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Human(pub(crate) u64);

impl fmt::Display for Human {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0;
        let Some((letter, shift)) = UNITS.iter().rev().find(|(_, shift)| bytes >> shift > 0) else {
            return write!(f, "{bytes} B");
        };
        let whole = bytes >> shift;
        if whole << shift == bytes {
            return write!(f, "{whole} {letter}iB");
        }
        // CAST: rounded to one decimal anyway.
        write!(f, "{:.1} {letter}iB", bytes as f64 / (1u64 << shift) as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &Result<u64, ParseSizeError>) {
        assert_eq!(&text.parse::<Size>().map(Size::bytes), expected, "{text}");
    }

    #[test]
    fn sizes_are_read_from_text() {
        check("4096", &Ok(4096));
        check("4K", &Ok(4096));
        check("64M", &Ok(64 << 20));
        check("64m", &Ok(64 << 20));
        check("64MiB", &Ok(64 << 20));
        check("64MB", &Ok(64 << 20));
        check("1G", &Ok(1 << 30));
        check("2T", &Ok(2 << 40));
        check("8B", &Ok(8));
        check("0", &Err(ParseSizeError::Zero));
        check("0G", &Err(ParseSizeError::Zero));
        check("6", &Err(ParseSizeError::NotWords(6)));
        check("99999999999T", &Err(ParseSizeError::TooLarge));
        check("99999999999999999999999", &Err(ParseSizeError::TooLarge));
        for wrong in ["", "M", "iB", "-4", "+4", "1.5M", "4 K", "4X", "0x10", "4MM", "4iB", "ü"] {
            check(wrong, &Err(ParseSizeError::Malformed));
        }
    }

    #[test]
    fn a_memory_has_a_smallest_size() {
        assert_eq!(heap("64K").map(Size::bytes), Ok(64 << 10));
        for small in ["65532", "65535", "4", "1", "0"] {
            assert_eq!(heap(small), Err(ParseSizeError::SmallHeap), "{small}");
        }
        assert_eq!(heap("70001"), Err(ParseSizeError::NotWords(70001)));
    }

    #[test]
    fn an_image_has_two_sides() {
        assert_eq!(extent("1920x1080"), Ok(Extent::new(1920, 1080)));
        assert_eq!(extent("1×4096"), Ok(Extent::new(1, 4096)));
        for wrong in ["", "64", "0x1", "1x4097", "x", "64x", "+4x4", "4x4x4", "1e2x8"] {
            assert_eq!(extent(wrong), Err(ParseSizeError::Extent), "{wrong}");
        }
    }

    #[test]
    fn sizes_are_shown_short() {
        for (bytes, text) in [
            (0, "0 B"),
            (1020, "1020 B"),
            (4096, "4 KiB"),
            (64 << 20, "64 MiB"),
            ((64 << 20) + (1 << 19), "64.5 MiB"),
            (31 << 30, "31 GiB"),
        ] {
            assert_eq!(Human(bytes).to_string(), text);
        }
    }
}
