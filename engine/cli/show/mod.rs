//! The reports as text for people: no colour, and at most 80 columns.

mod bench;
mod compare;
mod demo;
mod devices;
mod doctor;
mod image_demo;
mod images;
mod overcommit;
mod refusals;
mod text;

pub(crate) use bench::bench;
pub(crate) use compare::compare;
pub(crate) use demo::demo;
pub(crate) use devices::devices;
pub(crate) use doctor::doctor;
pub(crate) use image_demo::image_demo;

#[cfg(test)]
mod tests {
    use super::text::{LONG_LINE, Text, WIDTH};
    use crate::report::{DeviceFacts, DrmFacts, HeapFacts, PciFacts};

    pub(super) fn device(index: usize, adapter: usize) -> DeviceFacts {
        DeviceFacts {
            index,
            adapter,
            name: format!("GPU {adapter}"),
            driver: "driver".into(),
            driver_info: None,
            driver_version: 5 << 22 | 6 << 12 | 7,
            kind: "discrete",
            uuid: format!("uuid-{adapter}"),
            driver_uuid: String::new(),
            heaps: vec![HeapFacts { size: 8 << 30, device_local: true }],
            exports: vec!["dma_buf"],
            imports: vec![],
            drm_render: Some(DrmFacts { major: 226, minor: 128 }),
            drm_primary: None,
            pci: Some(PciFacts { domain: 0, bus: 0xc1, device: 0, function: 0 }),
        }
    }

    /// Checks that a line has all `parts`, and that no line is too wide.
    pub(super) fn check(text: &str, parts: &[&str]) {
        let found = text.lines().any(|line| parts.iter().all(|part| line.contains(part)));
        assert!(found, "no line with {parts:?} in\n{text}");
        // Items of lists may be longer.
        let most = |line: &str| if line.starts_with("  ") { LONG_LINE } else { WIDTH };
        let too_wide = |line: &&str| line.chars().count() > usize::from(most(line));
        let wide = text.lines().find(too_wide);
        assert!(wide.is_none(), "{wide:?} is too wide:\n{text}");
    }

    #[test]
    fn paragraphs_are_broken_between_words() {
        let mut text = Text::default();
        text.item("  - ", &"word ".repeat(30));
        text.paragraph(&"x".repeat(100));
        let expected = [
            format!("  - {}", ["word"; 15].join(" ")),
            format!("    {}", ["word"; 15].join(" ")),
            "x".repeat(100),
        ];
        assert_eq!(text.0.lines().collect::<Vec<_>>(), expected);
    }
}
