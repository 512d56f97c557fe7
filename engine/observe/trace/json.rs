//! Writes one event as one line of JSON, without a serialisation library, which would be a dependency.

use std::fmt::{self, Display, Write};

/// A moment since the trace began, in eighths of a microsecond.
///
/// Viewers read microseconds as a double and convert them to nanoseconds. Eighths are exact in both. So
/// rounding does not make events overlap that touch each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ticks(pub(super) u64);

impl Ticks {
    pub(super) const NANOSECONDS: u64 = 125;
    pub(super) const PER_SECOND: u64 = 8_000_000;

    pub(super) fn since(self, earlier: Self) -> Self {
        Self(self.0.saturating_sub(earlier.0))
    }
}

impl Display for Ticks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03}", self.0 / 8, self.0 % 8 * Self::NANOSECONDS)
    }
}

/// Writes an event, field by field.
pub(super) struct Event<'a> {
    text: &'a mut String,
    in_args: bool,
}

impl<'a> Event<'a> {
    /// Begins an event at the end of `text`.
    pub(super) fn new(text: &'a mut String, phase: char) -> Self {
        text.push('{');
        let event = Self { text, in_args: false };
        event.text("ph", phase)
    }

    pub(super) fn number(self, key: &'static str, number: impl Into<u64>) -> Self {
        self.raw(key, number.into())
    }

    pub(super) fn ticks(self, key: &'static str, ticks: Ticks) -> Self {
        self.raw(key, ticks)
    }

    pub(super) fn flag(self, key: &'static str, flag: bool) -> Self {
        self.raw(key, flag)
    }

    /// Writes any text, quoted and escaped.
    pub(super) fn text(mut self, key: &'static str, text: impl Display) -> Self {
        self.key(key);
        self.text.push('"');
        write(&mut Escaped(self.text), text);
        self.text.push('"');
        self
    }

    /// Begins the arguments of the event. All further fields belong to them.
    pub(super) fn args(mut self) -> Self {
        self.key("args");
        self.text.push('{');
        self.in_args = true;
        self
    }

    pub(super) fn end(self) {
        self.text.push_str(if self.in_args { "}}" } else { "}" });
    }

    fn raw(mut self, key: &'static str, value: impl Display) -> Self {
        self.key(key);
        write(self.text, value);
        self
    }

    fn key(&mut self, key: &'static str) {
        if !self.text.ends_with('{') {
            self.text.push(',');
        }
        self.text.push('"');
        self.text.push_str(key);
        self.text.push_str("\":");
    }
}

/// Escapes text for a JSON string.
struct Escaped<'a>(&'a mut String);

impl Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for char in text.chars() {
            match char {
                '"' => self.0.push_str("\\\""),
                '\\' => self.0.push_str("\\\\"),
                '\n' => self.0.push_str("\\n"),
                '\t' => self.0.push_str("\\t"),
                // JSON allows the DEL character unescaped, but not every viewer does.
                control @ ('\0'..'\u{20}' | '\u{7f}') => {
                    write!(self.0, "\\u{:04x}", u32::from(control))?;
                }
                other => self.0.push(other),
            }
        }
        Ok(())
    }
}

/// Writes to memory, which cannot fail.
fn write(to: &mut impl Write, value: impl Display) {
    let written = write!(to, "{value}");
    debug_assert!(written.is_ok(), "a `Display` that fails");
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `text`, written and read again by a JSON parser.
    fn written_and_read(text: &str) -> String {
        let mut line = String::new();
        Event::new(&mut line, 'i').args().text("name", text).end();
        assert!(!line.contains(|c: char| c < ' '), "one line: {line:?}");
        let event: serde_json::Value = serde_json::from_str(&line).expect("one JSON object");
        event["args"]["name"].as_str().expect("a string").to_owned()
    }

    #[test]
    fn every_text_is_read_back_as_written() {
        let all_ascii: String = (0..=0x7f_u8).map(char::from).collect();
        let rest = "käse 麵 🧀 \u{85}\u{2028}\u{feff}\u{10ffff}";
        for text in ["", "\"", "\\", "\\\"", "a\"b\\c\nd", "\\u0041", "\0", &all_ascii, rest] {
            assert_eq!(written_and_read(text), text);
        }
    }

    #[test]
    fn fields_and_arguments_are_in_their_objects() {
        let mut line = String::new();
        let event = Event::new(&mut line, 'X').ticks("ts", Ticks(13)).number("pid", 1_u32);
        event.args().number("bytes", u64::MAX).flag("here", false).end();
        let expected =
            r#"{"ph":"X","ts":1.625,"pid":1,"args":{"bytes":18446744073709551615,"here":false}}"#;
        assert_eq!(line, expected);
    }

    #[test]
    fn moments_are_exact_in_nanoseconds() {
        for ticks in [0, 1, 7, 8, 1001, 3_600_000 * Ticks::PER_SECOND + 3] {
            let microseconds: f64 = Ticks(ticks).to_string().parse().expect("a number");
            let nanoseconds = microseconds * 1000.0;
            // CAST: exact, which is what is being asked here.
            assert_eq!(nanoseconds as u64, ticks * Ticks::NANOSECONDS);
            assert_eq!(nanoseconds.fract(), 0.0);
        }
    }
}
