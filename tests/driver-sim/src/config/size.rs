//! Sizes in bytes, as profiles write them.

use serde::Deserialize;
use serde::de::{Deserializer, Error, Visitor};

/// A number of bytes. A profile writes an integer, or text: `"64 MiB"`, `"4 GiB - 4"`, `"0xffe00000"`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

impl Size {
    /// Reads a size, or `None` if the text is none.
    pub fn parse(text: &str) -> Option<Self> {
        let (base, less) = match text.split_once(" - ") {
            Some((base, less)) => (base, term(less)?),
            None => (text, 0),
        };
        term(base)?.checked_sub(less).map(Size)
    }
}

fn term(text: &str) -> Option<u64> {
    let text = text.trim();
    if let Some(hex) = text.strip_prefix("0x") {
        return u64::from_str_radix(hex, 16).ok();
    }
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let shift = match unit.trim() {
        "" | "B" => 0,
        "K" | "KiB" => 10,
        "M" | "MiB" => 20,
        "G" | "GiB" => 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Reader;
        impl Visitor<'_> for Reader {
            type Value = Size;
            fn expecting(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                to.write_str("a number of bytes, or text such as \"64 MiB\" or \"4 GiB - 4\"")
            }
            fn visit_i64<E: Error>(self, value: i64) -> Result<Size, E> {
                u64::try_from(value).map(Size).map_err(|_| E::custom("a size is not negative"))
            }
            fn visit_u64<E: Error>(self, value: u64) -> Result<Size, E> {
                Ok(Size(value))
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Size, E> {
                Size::parse(text).ok_or_else(|| E::custom(format!("\"{text}\" is no size")))
            }
        }
        from.deserialize_any(Reader)
    }
}

#[cfg(test)]
mod tests {
    use super::Size;

    #[test]
    fn sizes_are_read_with_units_and_differences() {
        assert_eq!(Size::parse("64 MiB"), Some(Size(64 << 20)));
        assert_eq!(Size::parse("48M"), Some(Size(48 << 20)));
        assert_eq!(Size::parse("4 GiB - 4"), Some(Size((4 << 30) - 4)));
        assert_eq!(Size::parse("0xffe00000"), Some(Size(0xffe0_0000)));
        assert_eq!(Size::parse("12"), Some(Size(12)));
        for bad in ["", "4 XiB", "1 - 2", "-1", "4 G B"] {
            assert_eq!(Size::parse(bad), None, "{bad}");
        }
    }
}
