//! Tells code from prose: comments and string literals are prose, the rest is code.

/// One text in two copies of the same length. What a copy leaves out is blank there, line ends excepted, so
/// an offset into one is an offset into the other.
pub(crate) struct Masked {
    /// Comments, and the content of strings and characters, are blank.
    pub(crate) code: String,
    /// All but comments and the content of strings is blank.
    pub(crate) prose: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Code,
    Prose,
    Character,
}

/// Splits `text`, a Rust source file.
pub(crate) fn mask(text: &str) -> Masked {
    let bytes = text.as_bytes();
    let (mut code, mut prose) = (blank(bytes), blank(bytes));
    let mut at = 0;
    while at < bytes.len() {
        let (length, kind) = token(&bytes[at..]);
        let span = at..(at + length).min(bytes.len());
        match kind {
            Kind::Code => code[span.clone()].copy_from_slice(&bytes[span.clone()]),
            Kind::Prose => prose[span.clone()].copy_from_slice(&bytes[span.clone()]),
            Kind::Character => {}
        }
        at = span.end;
    }
    Masked { code: utf8(code), prose: utf8(prose) }
}

/// The number of the line that holds `offset`, counted from one.
pub(crate) fn line_of(text: &str, offset: usize) -> usize {
    1 + text.as_bytes()[..offset].iter().filter(|byte| **byte == b'\n').count()
}

/// Blanks `span` of `text`, line ends excepted.
pub(crate) fn erase(text: &mut String, span: std::ops::Range<usize>) {
    let mut bytes = std::mem::take(text).into_bytes();
    let blanks = blank(&bytes[span.clone()]);
    bytes[span].copy_from_slice(&blanks);
    *text = utf8(bytes);
}

fn blank(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().map(|byte| if *byte == b'\n' { b'\n' } else { b' ' }).collect()
}

fn utf8(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).expect("whole characters were kept or blanked")
}

/// The length and kind of the token at the start of `rest`.
fn token(rest: &[u8]) -> (usize, Kind) {
    if rest.starts_with(b"//") {
        let end = rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
        return (end, Kind::Prose);
    }
    if rest.starts_with(b"/*") {
        return (block_comment(rest), Kind::Prose);
    }
    if let Some(length) = string(rest) {
        return (length, Kind::Prose);
    }
    match rest[0] {
        b'\'' => character(rest).map_or((1, Kind::Code), |length| (length, Kind::Character)),
        first if is_word(first) => {
            (rest.iter().take_while(|byte| is_word(**byte)).count(), Kind::Code)
        }
        _ => (character_length(rest[0]), Kind::Code),
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Block comments nest.
fn block_comment(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        if rest[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

/// The length of the string literal at the start of `rest`, whatever its prefix; none if there is none.
fn string(rest: &[u8]) -> Option<usize> {
    let letters = rest.iter().take_while(|byte| b"brc".contains(byte)).count();
    let (prefix, after) = rest.split_at(letters);
    if !matches!(prefix, b"" | b"b" | b"c" | b"r" | b"br" | b"cr") {
        return None;
    }
    if prefix.last() == Some(&b'r') {
        let hashes = after.iter().take_while(|byte| **byte == b'#').count();
        return raw_string(&after[hashes..], hashes).map(|length| letters + hashes + length);
    }
    (after.first() == Some(&b'"')).then(|| letters + escaped(after, b'"'))
}

/// The length of a raw string from its first quote to the last of its closing `hashes`.
fn raw_string(rest: &[u8], hashes: usize) -> Option<usize> {
    if rest.first() != Some(&b'"') {
        return None;
    }
    let close: Vec<u8> = [b"\"".as_slice(), &b"#".repeat(hashes)].concat();
    let end = rest[1..].windows(close.len()).position(|window| window == close);
    Some(end.map_or(rest.len(), |end| 1 + end + close.len()))
}

/// The length of a literal that begins and ends with `quote`.
fn escaped(rest: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            byte if byte == quote => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// The length of the character literal at the start of `rest`; none if the quote begins a lifetime.
fn character(rest: &[u8]) -> Option<usize> {
    let first = *rest.get(1)?;
    if first == b'\\' {
        return Some(escaped(rest, b'\''));
    }
    let end = 1 + character_length(first);
    (rest.get(end) == Some(&b'\'')).then_some(end + 1)
}

/// The length of the UTF-8 character that begins with `first`.
fn character_length(first: u8) -> usize {
    match first {
        0xf0.. => 4,
        0xe0.. => 3,
        0xc0.. => 2,
        _ => 1,
    }
}
