//! Leaves out what is compiled for tests alone: items and fields behind `#[cfg(test)]`.

use crate::lexer::erase;

/// Code without its tests.
pub(crate) struct Cut {
    pub(crate) code: String,
    /// Names of modules that are declared for tests alone, and have files of their own.
    pub(crate) modules: Vec<String>,
}

/// Blanks every item of `code` that needs `cfg(test)`.
pub(crate) fn without_tests(code: &str) -> Cut {
    let mut cut = Cut { code: code.to_owned(), modules: vec![] };
    let mut from = 0;
    while let Some(found) = cut.code[from..].find("cfg(") {
        let at = from + found;
        from = at + 4;
        let predicate = &cut.code[at + 4..closing(&cut.code, at + 3)];
        let Some(start) = attribute_start(&cut.code, at) else { continue };
        if !needs_test(predicate) {
            continue;
        }
        let inner = cut.code[start..].starts_with("#!");
        let attribute_end = closing(&cut.code, start + 1 + usize::from(inner)) + 1;
        let end = if inner { cut.code.len() } else { item_end(&cut.code, attribute_end) };
        cut.modules.extend(declared_module(&cut.code[attribute_end..end]));
        erase(&mut cut.code, start..end);
        from = end.min(cut.code.len());
    }
    cut
}

/// Where the attribute begins whose content begins at `at`; none if `cfg(` is no attribute (`cfg_attr` is none,
/// nor is `cfg!`).
fn attribute_start(code: &str, at: usize) -> Option<usize> {
    let before = &code[..at];
    ["#![", "#["].iter().find(|open| before.ends_with(**open)).map(|open| at - open.len())
}

/// Whether a configuration predicate holds in tests alone.
fn needs_test(predicate: &str) -> bool {
    let predicate = predicate.trim();
    let inside =
        |name: &str| predicate.strip_prefix(name)?.trim().strip_prefix('(')?.strip_suffix(')');
    if let Some(all) = inside("all") {
        return arguments(all).iter().any(|part| needs_test(part));
    }
    if let Some(any) = inside("any") {
        return arguments(any).iter().all(|part| needs_test(part));
    }
    matches!(predicate, "test" | "doctest")
}

/// The parts of `list` between its outermost commas.
fn arguments(list: &str) -> Vec<&str> {
    let (mut depth, mut start, mut parts) = (0, 0, vec![]);
    for (at, byte) in list.bytes().enumerate() {
        match byte {
            b'(' => depth += 1,
            b')' => depth -= 1,
            b',' if depth == 0 => {
                parts.push(&list[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&list[start..]);
    parts.retain(|part| !part.trim().is_empty());
    parts
}

/// The offset of the bracket that closes the one at `open`.
fn closing(code: &str, open: usize) -> usize {
    let mut depth = 0;
    for (at, byte) in code.bytes().enumerate().skip(open) {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => {
                depth -= 1;
                if depth == 0 {
                    return at;
                }
            }
            _ => {}
        }
    }
    code.len()
}

/// Where what begins at `start` ends: an item at its `;` or its block, a field, variant or arm at its comma or
/// where what holds it ends.
fn item_end(code: &str, start: usize) -> usize {
    let is_item = is_item(&code[start..]);
    let mut at = start;
    while at < code.len() {
        match code.as_bytes()[at] {
            b'{' if is_item => {
                let end = closing(code, at) + 1;
                // Of `use a::{b, c};` the block is not the end.
                let rest = code[end.min(code.len())..].trim_start();
                if !rest.starts_with(';') {
                    return end.min(code.len());
                }
                at = end;
            }
            b'(' | b'[' | b'{' => at = closing(code, at) + 1,
            b';' => return at + 1,
            b',' if !is_item => return at + 1,
            b')' | b']' | b'}' => return at,
            _ => at += 1,
        }
    }
    code.len()
}

fn is_item(rest: &str) -> bool {
    const ITEMS: [&str; 14] = [
        "fn",
        "mod",
        "impl",
        "use",
        "struct",
        "enum",
        "const",
        "static",
        "type",
        "trait",
        "unsafe",
        "async",
        "extern",
        "macro_rules",
    ];
    let mut rest = rest.trim_start();
    while rest.starts_with("#[") {
        rest = rest[(closing(rest, 1) + 1).min(rest.len())..].trim_start();
    }
    if let Some(public) = rest.strip_prefix("pub") {
        rest = public.trim_start();
        if rest.starts_with('(') {
            rest = rest[(closing(rest, 0) + 1).min(rest.len())..].trim_start();
        }
    }
    let word = rest.split(|c: char| !(c.is_alphanumeric() || c == '_')).next().unwrap_or("");
    ITEMS.contains(&word)
}

/// The name in `mod name;`.
fn declared_module(item: &str) -> Option<String> {
    let (before, after) = item.split_once("mod ")?;
    let name = after.trim().strip_suffix(';')?.trim();
    let is_name = name.chars().all(|c| c.is_alphanumeric() || c == '_');
    let is_declaration = !before.contains(['{', ';']);
    (is_name && is_declaration).then(|| name.to_owned())
}
