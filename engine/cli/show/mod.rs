//! The reports as tables, for people: no colour, at most 100 columns while there are few devices.

mod demo;
mod devices;
mod overcommit;
mod refusals;

use std::fmt::{self, Write};

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{Cell, ContentArrangement, Table};

use crate::report::{DeviceFacts, UnusableFacts};

pub(crate) use demo::demo;
pub(crate) use devices::devices;

const WIDTH: u16 = 100;

/// Lines of text.
#[derive(Default)]
struct Text(String);

impl Text {
    fn line(&mut self, line: fmt::Arguments<'_>) {
        writeln!(self.0, "{line}").expect("writing to a string cannot fail");
    }

    fn unusable(&mut self, unusable: &[UnusableFacts]) {
        for UnusableFacts { adapter, name, reason } in unusable {
            self.line(format_args!("Left out: adapter {adapter}, {name}: {reason}"));
        }
    }
}

fn table(header: impl IntoIterator<Item = impl Into<Cell>>) -> Table {
    let mut table = Table::new();
    table
        .load_style(UTF8_FULL_CONDENSED.with_rounded_corners())
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_width(WIDTH)
        .set_header(header.into_iter().map(Into::into).collect::<Vec<Cell>>());
    table
}

/// One below the other; a dash if there is none.
fn lines(items: impl IntoIterator<Item = impl ToString>) -> String {
    let items: Vec<_> = items.into_iter().map(|item| item.to_string()).collect();
    if items.is_empty() { "–".to_owned() } else { items.join("\n") }
}

/// Name and version. Drivers without a version text use Vulkan's own packing of the number.
fn driver(device: &DeviceFacts) -> String {
    let (name, version) = (&device.driver, device.driver_version);
    match &device.driver_info {
        Some(info) => format!("{name}, {info}"),
        None => {
            let (major, minor, patch) = (version >> 22, version >> 12 & 0x3ff, version & 0xfff);
            format!("{name}, {major}.{minor}.{patch}")
        }
    }
}

#[cfg(test)]
mod tests {
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
            uuid: String::new(),
            driver_uuid: String::new(),
            heaps: vec![HeapFacts { size: 8 << 30, device_local: true }],
            exports: vec!["dma_buf"],
            imports: vec![],
            drm_render: Some(DrmFacts { major: 226, minor: 128 }),
            drm_primary: None,
            pci: Some(PciFacts { domain: 0, bus: 0xc1, device: 0, function: 0 }),
        }
    }

    /// Checks that some line has all `parts`.
    pub(super) fn check(text: &str, parts: &[&str]) {
        let found = text.lines().any(|line| parts.iter().all(|part| line.contains(part)));
        assert!(found, "no line with {parts:?} in\n{text}");
    }
}
