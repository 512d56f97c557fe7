//! `peerbuf devices --images`: which layouts of images carry texels between the devices.

use std::str::FromStr;

use peerbuf::image::{Format, FormatGap, Fourcc, ImageVerdictError, Shape};

use crate::image_report::ImageFacts;
use crate::lineup::Lineup;

/// An argument of `--images`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    One(Fourcc),
    /// Every format that images are shared in.
    All,
}

/// The formats without an argument: one of each kind.
const USUAL: [[u8; 4]; 10] = [
    *b"R8  ", *b"GR88", *b"RG16", *b"AR24", *b"AB24", *b"AR30", *b"AB30", *b"AB4H", *b"NV12",
    *b"P010",
];

/// The sizes: an odd one, and one at which all drivers that are known place rows alike. For formats whose chroma is
/// subsampled they are rounded up.
pub(crate) const SIZES: [(u32, u32); 2] = [(61, 19), (192, 24)];

/// Why an argument names no format.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WantedError {
    #[error("a fourcc has one to four characters; known are:\n{}", known())]
    NotFour,
    #[error("{0}; known are:\n{list}", list = known())]
    Gap(FormatGap),
}

impl FromStr for Wanted {
    type Err = WantedError;

    fn from_str(text: &str) -> Result<Self, WantedError> {
        if text == "all" {
            return Ok(Self::All);
        }
        let mut name = *b"    ";
        let slots = name.get_mut(..text.len()).filter(|slots| !slots.is_empty());
        slots.ok_or(WantedError::NotFour)?.copy_from_slice(text.as_bytes());
        let format = Format::of(Fourcc::new(name)).map_err(WantedError::Gap)?;
        Ok(Self::One(format.fourcc()))
    }
}

/// Every format that images are shared in, in lines of twelve.
fn known() -> String {
    let names: Vec<_> = Format::all().iter().map(|format| format.fourcc().to_string()).collect();
    let lines = names.chunks(12).map(|names| format!("  {}", names.join(" ")));
    lines.collect::<Vec<_>>().join("\n")
}

/// The formats of a call, each once.
fn formats(wanted: &[Wanted]) -> Vec<&'static Format> {
    if wanted.contains(&Wanted::All) {
        return Format::all().iter().collect();
    }
    let usual: Vec<_> = USUAL.iter().map(|name| Wanted::One(Fourcc::new(*name))).collect();
    let mut formats: Vec<&Format> = vec![];
    for one in if wanted.is_empty() { &usual[..] } else { wanted } {
        let Wanted::One(fourcc) = one else { continue };
        match Format::of(*fourcc) {
            Ok(format) if !formats.contains(&format) => formats.push(format),
            _ => {}
        }
    }
    formats
}

/// Proves the layouts of the formats between all ordered pairs of devices, at each of the [`SIZES`].
pub(crate) fn prove(lineup: &Lineup, wanted: &[Wanted]) -> Vec<ImageFacts> {
    let mut facts = vec![];
    for format in formats(wanted) {
        for pair in lineup.pairs() {
            facts.extend(SIZES.map(|size| prove_one(lineup, format, pair, size)));
        }
    }
    facts
}

fn prove_one(
    lineup: &Lineup,
    format: &Format,
    pair: (usize, usize),
    (width, height): (u32, u32),
) -> ImageFacts {
    let unit = format.granularity();
    let shape =
        Shape::new(width.next_multiple_of(unit.width), height.next_multiple_of(unit.height));
    let [from, to] = [pair.0, pair.1].map(|index| &lineup.devices[index]);
    match lineup.engine.image_verdict(from, to, format.fourcc(), shape) {
        Ok(verdict) => ImageFacts::of(pair, &verdict),
        Err(ImageVerdictError::Engine(error)) => {
            ImageFacts::failed(pair, format.fourcc(), shape, error.with_causes())
        }
        Err(error) => ImageFacts::failed(pair, format.fourcc(), shape, error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(name: &[u8; 4]) -> Wanted {
        Wanted::One(Fourcc::new(*name))
    }

    #[test]
    fn a_format_is_named_by_its_fourcc() {
        assert_eq!("AR24".parse::<Wanted>().expect("known"), one(b"AR24"));
        assert_eq!("R8".parse::<Wanted>().expect("known"), one(b"R8  "));
        assert_eq!("all".parse::<Wanted>().expect("known"), Wanted::All);
    }

    #[test]
    fn other_names_are_refused_with_those_that_are_known() {
        for (text, part) in [
            ("XYZW", "XYZW is not a format"),
            ("RG24", "convert it to XR24"),
            ("ar24", "ar24 is not a format"),
            ("", "one to four characters"),
            ("ABGR8888", "one to four characters"),
            ("größe", "one to four characters"),
        ] {
            let message = text.parse::<Wanted>().expect_err("unknown").to_string();
            assert!(message.contains(part), "{message}");
            for known in ["R8 ", "AR24", "NV12", "YU24"] {
                assert!(message.contains(known), "{message}");
            }
            assert!(message.lines().all(|line| line.len() <= 110), "{message}");
        }
    }

    #[test]
    fn each_format_is_proved_once() {
        assert_eq!(formats(&[]).len(), USUAL.len());
        let twice = [one(b"AR24"), one(b"NV12"), one(b"AR24")];
        let names: Vec<_> = formats(&twice).iter().map(|f| f.fourcc().to_string()).collect();
        assert_eq!(names, ["AR24", "NV12"]);
        assert_eq!(formats(&[one(b"AR24"), Wanted::All]).len(), Format::all().len());
    }
}
