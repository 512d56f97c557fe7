//! What a file's code declares and names: its items, its `use` trees, its paths, its inline modules.

use crate::lexer::erase;

/// A token of code: a word, `::`, or a single other character.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Token<'a> {
    pub(crate) text: &'a str,
    pub(crate) at: usize,
}

/// A path that the code names, by `use` or directly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Named {
    /// Its segments, from `crate`, `super`, `self` or a name that is in scope.
    pub(crate) segments: Vec<String>,
    pub(crate) how: How,
    /// Inline modules of the file around it.
    pub(crate) inside: Vec<String>,
    pub(crate) at: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum How {
    /// `use path as name`, with what it is called here, and whether others can import it from here.
    Use { name: String, public: bool },
    /// `use path::*`.
    Glob { public: bool },
    /// The path stands in code.
    Inline,
}

/// What a file's code declares and names.
#[derive(Default, Debug)]
pub(crate) struct Facts {
    pub(crate) named: Vec<Named>,
    /// Items outside of functions and `impl` blocks, with the inline modules around each.
    pub(crate) items: Vec<(Vec<String>, String)>,
}

/// Cuts `code` into tokens.
pub(crate) fn tokens(code: &str) -> Vec<Token<'_>> {
    let bytes = code.as_bytes();
    let (mut tokens, mut at) = (vec![], 0);
    while at < bytes.len() {
        let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
        let length = match bytes[at] {
            byte if byte.is_ascii_whitespace() => {
                at += 1;
                continue;
            }
            byte if is_word(&byte) => bytes[at..].iter().take_while(|byte| is_word(byte)).count(),
            b':' if bytes.get(at + 1) == Some(&b':') => 2,
            byte if byte < 0x80 => 1,
            _ => code[at..].chars().next().map_or(1, char::len_utf8),
        };
        tokens.push(Token { text: &code[at..at + length], at });
        at += length;
    }
    tokens
}

pub(crate) fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Reads what `code` declares and names.
pub(crate) fn facts(code: &str) -> Facts {
    let mut code = code.to_owned();
    blank_visibilities(&mut code);
    let tokens = tokens(&code);
    let mut reader = Reader { tokens: &tokens, facts: Facts::default(), depth: 0, modules: vec![] };
    reader.read();
    reader.facts
}

/// `pub(in crate::buffer)` names a path and imports nothing.
fn blank_visibilities(code: &mut String) {
    let mut from = 0;
    while let Some(found) = code[from..].find("pub(in ") {
        let start = from + found;
        let end = code[start..].find(')').map_or(code.len(), |end| start + end);
        erase(code, start + 4..end);
        from = end;
    }
}

struct Reader<'a> {
    tokens: &'a [Token<'a>],
    facts: Facts,
    /// How many brackets of any kind are open.
    depth: usize,
    /// The inline modules that are open, each with the depth inside it.
    modules: Vec<(String, usize)>,
}

impl<'a> Reader<'a> {
    fn text(&self, at: usize) -> &'a str {
        self.tokens.get(at).map_or("", |token| token.text)
    }

    fn read(&mut self) {
        let mut at = 0;
        while at < self.tokens.len() {
            at = self.step(at);
        }
    }

    /// Reads what begins at token `at` and returns where the next begins.
    fn step(&mut self, at: usize) -> usize {
        match self.text(at) {
            "{" | "(" | "[" => self.depth += 1,
            "}" | ")" | "]" => self.close(),
            "use" if self.text(at + 1) != "<" => return self.read_use(at),
            word if is_name(word) => {
                self.declare(at);
                if word == "mod" && self.text(at + 2) == "{" {
                    self.depth += 1;
                    self.modules.push((self.text(at + 1).to_owned(), self.depth));
                    return at + 3;
                }
                if self.text(at + 1) == "::" && !self.follows_path(at) {
                    return self.read_path(at);
                }
            }
            _ => {}
        }
        at + 1
    }

    fn close(&mut self) {
        if self.modules.last().is_some_and(|(_, depth)| *depth == self.depth) {
            self.modules.pop();
        }
        self.depth = self.depth.saturating_sub(1);
    }

    /// Whether the word at `at` is inside a path, or a field or method.
    fn follows_path(&self, at: usize) -> bool {
        at > 0 && matches!(self.text(at - 1), "::" | ".")
    }

    fn inside(&self) -> Vec<String> {
        self.modules.iter().map(|(name, _)| name.clone()).collect()
    }

    /// Enters the item whose keyword is at `at`, unless it is inside a function or a block.
    fn declare(&mut self, at: usize) {
        if self.depth != self.modules.last().map_or(0, |(_, depth)| *depth) {
            return;
        }
        let name = match self.text(at) {
            "macro_rules" => self.text(at + 2),
            "fn" | "struct" | "enum" | "union" | "trait" | "type" | "const" | "static" | "mod" => {
                self.text(at + 1)
            }
            _ => return,
        };
        if is_name(name) && !matches!(name, "fn" | "unsafe" | "mut") {
            self.facts.items.push((self.inside(), name.to_owned()));
        }
    }

    fn read_path(&mut self, start: usize) -> usize {
        let mut segments = vec![self.text(start).to_owned()];
        let mut at = start + 1;
        while self.text(at) == "::" && is_name(self.text(at + 1)) {
            segments.push(self.text(at + 1).to_owned());
            at += 2;
        }
        let (how, inside, offset) = (How::Inline, self.inside(), self.tokens[start].at);
        self.facts.named.push(Named { segments, how, inside, at: offset });
        at
    }

    fn read_use(&mut self, start: usize) -> usize {
        let before = if start == 0 { "" } else { self.text(start - 1) };
        // Before `use` stands `pub`, `pub(…)`, or the end of what was before.
        let public = before == "pub" || before == ")";
        let mut at = start + 1;
        if self.text(at) == "::" {
            at += 1;
        }
        self.read_tree(at, &[], public)
    }

    /// Reads one tree of a `use` below `prefix` and returns where it ends.
    fn read_tree(&mut self, start: usize, prefix: &[String], public: bool) -> usize {
        let (mut segments, mut at) = (prefix.to_vec(), start);
        while is_name(self.text(at)) {
            segments.push(self.text(at).to_owned());
            at += 1;
            if self.text(at) != "::" {
                break;
            }
            at += 1;
        }
        match self.text(at) {
            "{" => self.read_group(at + 1, &segments, public),
            "*" => {
                self.add(segments, How::Glob { public }, start);
                at + 1
            }
            _ => self.read_leaf(at, start, segments, public),
        }
    }

    fn read_group(&mut self, start: usize, segments: &[String], public: bool) -> usize {
        let mut at = start;
        while at < self.tokens.len() && self.text(at) != "}" {
            at = match self.text(at) {
                "," => at + 1,
                _ => self.read_tree(at, segments, public).max(at + 1),
            };
        }
        at + 1
    }

    fn read_leaf(&mut self, at: usize, start: usize, path: Vec<String>, public: bool) -> usize {
        let mut segments = path;
        if segments.len() > 1 && segments.last().is_some_and(|last| last == "self") {
            segments.pop();
        }
        let renamed = self.text(at) == "as";
        let name = if renamed { self.text(at + 1).to_owned() } else { last(&segments) };
        self.add(segments, How::Use { name, public }, start);
        if renamed { at + 2 } else { at }
    }

    fn add(&mut self, segments: Vec<String>, how: How, start: usize) {
        if !segments.is_empty() {
            let (inside, at) = (self.inside(), self.tokens[start].at);
            self.facts.named.push(Named { segments, how, inside, at });
        }
    }
}

fn last(segments: &[String]) -> String {
    segments.last().cloned().unwrap_or_default()
}
