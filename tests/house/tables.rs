//! The tables beside this test: sections of lines, each line with a reason behind `#`.

use std::collections::BTreeMap;

/// A table as text files hold it:
///
/// ```text
/// # what the table is
/// [section]
/// # what the section is
/// key  # reason
/// ```
#[derive(Clone, Default, Debug)]
pub(crate) struct Table {
    /// Lines before the first section.
    head: Vec<String>,
    sections: Vec<Section>,
}

#[derive(Clone, Default, Debug)]
struct Section {
    name: String,
    notes: Vec<String>,
    lines: Vec<Line>,
}

#[derive(Clone, Default, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) key: String,
    pub(crate) reason: String,
    /// Where it stands in the file.
    pub(crate) number: usize,
}

impl Table {
    pub(crate) fn parse(text: &str) -> Self {
        let mut table = Self::default();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
                table.sections.push(Section { name: name.to_owned(), ..Section::default() });
                continue;
            }
            match table.sections.last_mut() {
                None => table.head.push(line.to_owned()),
                Some(section) if line.starts_with('#') => section.notes.push(line.to_owned()),
                Some(_) if line.is_empty() => {}
                Some(section) => section.lines.push(Line::parse(line, index + 1)),
            }
        }
        table
    }

    /// The lines of a section; none if there is no such section.
    pub(crate) fn lines(&self, section: &str) -> &[Line] {
        let found = self.sections.iter().find(|known| known.name == section);
        found.map_or(&[], |section| &section.lines)
    }

    /// Puts `keys` in place of a section's lines. A line whose key stays keeps its reason; others get the reason
    /// that `reason` finds among the old lines, or "to be removed".
    pub(crate) fn replace(
        &mut self,
        section: &str,
        keys: &[String],
        reason: impl Fn(&str, &[Line]) -> Option<String>,
    ) {
        let old = self.lines(section).to_vec();
        let lines = keys.iter().map(|key| {
            let same = old.iter().find(|line| line.key == *key).map(|line| line.reason.clone());
            let reason = same.or_else(|| reason(key, &old));
            let reason = reason.unwrap_or_else(|| "to be removed".to_owned());
            Line { key: key.clone(), reason, number: 0 }
        });
        let lines = lines.collect();
        match self.sections.iter_mut().find(|known| known.name == section) {
            Some(known) => known.lines = lines,
            None => self.sections.push(Section { name: section.to_owned(), notes: vec![], lines }),
        }
    }

    /// As it stands in its file.
    pub(crate) fn text(&self) -> String {
        let mut text = self.head.join("\n");
        for section in &self.sections {
            text = format!("{}\n\n[{}]\n", text.trim_end(), section.name);
            for note in &section.notes {
                text += &format!("{note}\n");
            }
            for line in &section.lines {
                text += &line.text();
                text.push('\n');
            }
        }
        text.trim_start().to_owned()
    }
}

impl Line {
    fn parse(line: &str, number: usize) -> Self {
        let (key, reason) = line.split_once(" #").unwrap_or((line, ""));
        Self { key: key.trim().to_owned(), reason: reason.trim().to_owned(), number }
    }

    pub(crate) fn text(&self) -> String {
        match self.reason.as_str() {
            "" => self.key.clone(),
            reason => format!("{}  # {reason}", self.key),
        }
    }
}

/// Longer keys are not shown whole.
const LONGEST_KEY: usize = 300;

fn shortened(key: &str) -> String {
    match key.char_indices().nth(LONGEST_KEY) {
        Some((end, _)) => format!("{}…", &key[..end]),
        None => key.to_owned(),
    }
}

/// Something that a rule forbids.
#[derive(Clone, Debug)]
pub(crate) struct Violation {
    /// By what the exceptions know it. Several violations may have one key.
    pub(crate) key: String,
    /// File and line.
    pub(crate) place: String,
    /// What was found, which rule it breaks, and what to do.
    pub(crate) message: String,
}

/// What a section of the exceptions has to say about `found`: a message for each violation that is not listed,
/// and for each line that lists none.
pub(crate) fn judge(section: &str, found: &[Violation], listed: &[Line]) -> Vec<String> {
    let file = "tests/house/exceptions.txt";
    let mut messages = vec![];
    for violation in found.iter().filter(|one| !listed.iter().any(|line| line.key == one.key)) {
        // Keys of large circles are too long to be copied from a message.
        let list = if violation.key.len() > LONGEST_KEY {
            "or have it listed by `HOUSE_BLESS=1 cargo test --test house`".to_owned()
        } else {
            format!("or list it under [{section}] in {file}: {}  # the reason", violation.key)
        };
        messages.push(format!("{}: {}\n    {list}", violation.place, violation.message));
    }
    for line in listed.iter().filter(|line| !found.iter().any(|one| one.key == line.key)) {
        messages.push(format!(
            "{file}:{}: remove this line, what it excuses is gone: {}",
            line.number,
            shortened(&line.key)
        ));
    }
    let mut seen = BTreeMap::new();
    for line in listed {
        if let Some(first) = seen.insert(&line.key, line.number) {
            messages.push(format!(
                "{file}:{}: remove this line, line {first} is the same",
                line.number
            ));
        }
    }
    messages
}

/// The keys of `found`, each once, in order.
pub(crate) fn keys(found: &[Violation]) -> Vec<String> {
    let mut keys: Vec<_> = found.iter().map(|one| one.key.clone()).collect();
    keys.sort();
    keys.dedup();
    keys
}
