//! Method calls are edges too: an `impl SharedBuffer` in a higher room is reached from a lower one without an
//! import.

use std::collections::HashMap;

use crate::imports::{Token, is_name, tokens};
use crate::order::Order;
use crate::source::{SourceFile, Tree};
use crate::tables::Violation;

/// Where functions of a name are defined: the lowest height and a file there.
#[derive(Default)]
struct Defined<'a> {
    /// By name alone, as a call `.name(` finds it.
    by_name: HashMap<&'a str, (usize, &'a str)>,
    /// By type and name, as `Type::name(` finds it.
    by_type: HashMap<(&'a str, &'a str), (usize, &'a str)>,
}

/// A method is called from the room (or folder) of its `impl` block, or from higher ones. Judged by name: a call
/// of a name that only higher rooms define.
pub(crate) fn upward_calls(tree: &Tree, order: &Order) -> Vec<Violation> {
    let files: Vec<_> = tree
        .files
        .iter()
        .filter(|file| file.is_engine() && !file.path.starts_with("engine/cli/"))
        .map(|file| (file, tokens(&file.code)))
        .collect();
    let mut defined = Defined::default();
    for (file, tokens) in &files {
        // What is in no room may be called by all, until it is in one.
        let height = order.height(&file.path).unwrap_or(0);
        for (of, name) in functions(tokens) {
            let here = (height, file.path.as_str());
            lower(defined.by_name.entry(name).or_insert(here), here);
            lower(defined.by_type.entry((of, name)).or_insert(here), here);
        }
    }
    let mut found = vec![];
    for (file, tokens) in &files {
        let Some(height) = order.height(&file.path) else { continue };
        for (call, at) in calls(tokens) {
            let target = match call {
                (None, name) if order.is_foreign_method(name) => None,
                (None, name) => defined.by_name.get(name),
                (Some(of), name) => defined.by_type.get(&(of, name)),
            };
            if let Some((lowest, by)) = target
                && *lowest > height
            {
                found.push(violation(file, at, call, by));
            }
        }
    }
    found
}

fn lower<'a>(known: &mut (usize, &'a str), here: (usize, &'a str)) {
    if here.0 < known.0 {
        *known = here;
    }
}

fn violation(file: &SourceFile, at: usize, call: (Option<&str>, &str), by: &str) -> Violation {
    let name = match call {
        (Some(of), name) => format!("{of}::{name}"),
        (None, name) => format!(".{name}"),
    };
    Violation {
        key: format!("{} calls {name}", file.path),
        place: format!("{}:{}", file.path, file.line(at)),
        message: format!(
            "calls `{name}(…)`, which {by} defines\n    rule: a method is called from its own room or from \
             higher ones\n    do: move the method down if it is an accessor, else this function up, or go \
             through a trait that is declared below; a method of another crate is listed in \
             tests/house/order.txt"
        ),
    }
}

/// The functions that inherent `impl` blocks and traits define: the type's or trait's name, and theirs.
fn functions<'a>(tokens: &[Token<'a>]) -> Vec<(&'a str, &'a str)> {
    let mut functions = vec![];
    let mut depth = 0_usize;
    let mut block: Option<(&str, usize)> = None;
    let mut at = 0;
    while at < tokens.len() {
        let text = tokens[at].text;
        match text {
            "{" | "(" | "[" => depth += 1,
            "}" | ")" | "]" => {
                if block.is_some_and(|(_, inside)| inside == depth) {
                    block = None;
                }
                depth = depth.saturating_sub(1);
            }
            "impl" | "trait" if block.is_none() && begins_item(tokens, at) => {
                let body = (at..tokens.len()).find(|at| tokens[*at].text == "{");
                let Some(body) = body else { break };
                depth += 1;
                block = header(&tokens[at..body]).map(|of| (of, depth));
                at = body;
            }
            "fn" => {
                if let Some((of, inside)) = block
                    && inside == depth
                    && let Some(name) = tokens.get(at + 1)
                {
                    functions.push((of, name.text));
                }
            }
            _ => {}
        }
        at += 1;
    }
    functions
}

/// Whether the word at `at` begins an item: `impl` also stands in types.
fn begins_item(tokens: &[Token<'_>], at: usize) -> bool {
    if tokens[at].text == "trait" {
        return true;
    }
    at == 0 || matches!(tokens[at - 1].text, "}" | ";" | "]" | "unsafe" | "{")
}

/// The type or trait that a block is of; none for `impl Trait for Type`.
fn header<'a>(header: &[Token<'a>]) -> Option<&'a str> {
    let is_impl = header[0].text == "impl";
    let mut depth = 0_usize;
    let mut name = None;
    for (index, token) in header.iter().enumerate().skip(1) {
        let arrow = token.text == ">" && header[index - 1].text == "-";
        match token.text {
            "<" => depth += 1,
            ">" if !arrow => depth = depth.saturating_sub(1),
            "where" | ":" if depth == 0 => break,
            "for" if depth == 0 && is_impl => return None,
            text if depth == 0 && is_name(text) => name = Some(text),
            _ => {}
        }
    }
    name
}

type Call<'a> = (Option<&'a str>, &'a str);

/// Calls by name, `.name(`, and by type, `Type::name(`; each with its offset.
fn calls<'a>(tokens: &[Token<'a>]) -> Vec<(Call<'a>, usize)> {
    let calls = tokens.windows(4).filter_map(|window| {
        let [first, second, third, fourth] = window else { return None };
        let called = third.text == "(" || (third.text == "::" && fourth.text == "<");
        match first.text {
            "." if called && is_name(second.text) => Some(((None, second.text), second.at)),
            of if second.text == "::"
                && fourth.text == "("
                && is_name(of)
                && is_name(third.text) =>
            {
                Some(((Some(of), third.text), first.at))
            }
            _ => None,
        }
    });
    calls.collect()
}
