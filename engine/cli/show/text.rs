//! Lines, paragraphs and tables of at most 80 columns.

use std::fmt::{self, Write};

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{Cell, ContentArrangement, Table};

use crate::report::{DeviceFacts, UnusableFacts};

/// Columns of a terminal that nothing has made wider.
pub(super) const WIDTH: u16 = 80;

/// Columns of a line that reads better whole: a terminal of [`WIDTH`] columns breaks it.
pub(super) const LONG_LINE: u16 = 100;

/// Lines of text.
#[derive(Default)]
pub(super) struct Text(pub(super) String);

impl Text {
    pub(super) fn line(&mut self, line: fmt::Arguments<'_>) {
        writeln!(self.0, "{line}").expect("writing to a string cannot fail");
    }

    pub(super) fn blank(&mut self) {
        self.0.push('\n');
    }

    /// A paragraph, broken between words so that it fits the width.
    pub(super) fn paragraph(&mut self, text: &str) {
        self.item("", text);
    }

    /// A paragraph that begins with `head`, and whose further lines are indented as far.
    pub(super) fn item(&mut self, head: &str, text: &str) {
        self.item_within(WIDTH, head, text);
    }

    /// A line of a list, which is broken only if it is longer than [`LONG_LINE`].
    pub(super) fn long_item(&mut self, head: &str, text: &str) {
        self.item_within(LONG_LINE, head, text);
    }

    fn item_within(&mut self, width: u16, head: &str, text: &str) {
        let indent = head.chars().count();
        let mut line = head.to_owned();
        let mut column = indent;
        for word in text.split_whitespace() {
            let length = word.chars().count();
            if column > indent && column + 1 + length > usize::from(width) {
                self.line(format_args!("{line}"));
                line = " ".repeat(indent);
                column = indent;
            }
            if column > indent {
                line.push(' ');
                column += 1;
            }
            line.push_str(word);
            column += length;
        }
        self.line(format_args!("{line}"));
    }

    pub(super) fn unusable(&mut self, unusable: &[UnusableFacts]) {
        for UnusableFacts { adapter, name, reason } in unusable {
            self.item("  ", &format!("not used: adapter {adapter}, {name}: {reason}"));
        }
    }
}

pub(super) fn table(header: impl IntoIterator<Item = impl Into<Cell>>) -> Table {
    let mut table = Table::new();
    table
        .load_style(UTF8_FULL_CONDENSED.with_rounded_corners())
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_width(WIDTH)
        .set_header(header.into_iter().map(Into::into).collect::<Vec<Cell>>());
    table
}

/// One item below the other; a dash if there is none.
pub(super) fn lines(items: impl IntoIterator<Item = impl ToString>) -> String {
    let items: Vec<_> = items.into_iter().map(|item| item.to_string()).collect();
    if items.is_empty() { "–".to_owned() } else { items.join("\n") }
}

/// Name and version of a driver. Drivers without a version text use Vulkan's own packing of the number.
pub(super) fn driver(device: &DeviceFacts) -> String {
    let (name, version) = (&device.driver, device.driver_version);
    match &device.driver_info {
        Some(info) => format!("{name}, {info}"),
        None => {
            let (major, minor, patch) = (version >> 22, version >> 12 & 0x3ff, version & 0xfff);
            format!("{name}, {major}.{minor}.{patch}")
        }
    }
}

/// What a comparison of all bytes found.
pub(super) fn verdict(wrong: u64) -> String {
    match wrong {
        0 => "every byte right".to_owned(),
        wrong => format!("{} WRONG", counted(wrong, "word")),
    }
}

/// A number and its noun: `1 word`, `2 words`.
pub(super) fn counted(count: impl Into<u64>, noun: &str) -> String {
    match count.into() {
        1 => format!("1 {noun}"),
        count => format!("{count} {noun}s"),
    }
}
