//! The words that prose does without, counted by folder. A count may only fall.

use std::collections::BTreeMap;

use crate::imports::tokens;
use crate::lexer::line_of;
use crate::order::{folder, room};
use crate::source::{SourceFile, Tree};
use crate::tables::Table;

const FILE: &str = "tests/house/words.txt";
/// More lines than these are not shown of a folder.
const SHOWN: usize = 60;

/// Where a listed word stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hit {
    pub(crate) place: String,
    pub(crate) word: String,
}

/// By folder.
pub(crate) type Hits = BTreeMap<String, Vec<Hit>>;

/// The listed words in comments, strings, Markdown, and names of test functions.
pub(crate) fn find(tree: &Tree, table: &Table) -> Hits {
    let phrases: Vec<Vec<&str>> =
        table.lines("words").iter().map(|line| line.key.split(' ').collect()).collect();
    let mut hits = Hits::new();
    for file in &tree.files {
        let mut found = matches(&prose_words(&file.prose), &phrases);
        for (name, at) in test_names(file) {
            let words: Vec<_> = name.split('_').map(|word| (word.to_lowercase(), at)).collect();
            found.extend(matches(&words, &phrases));
        }
        found.sort();
        let place = |at| format!("{}:{}", file.path, line_of(&file.text, at));
        let found = found.into_iter().map(|(at, word)| Hit { place: place(at), word });
        hits.entry(shelf(&file.path)).or_default().extend(found);
    }
    hits.retain(|_, hits| !hits.is_empty());
    hits
}

/// What differs from the counts of `table`.
pub(crate) fn judge(hits: &Hits, table: &Table) -> Vec<String> {
    let mut listed: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for line in table.lines("counts") {
        let (name, count) = line.key.rsplit_once(' ').expect("a folder and a count");
        listed.insert(name.trim(), (count.parse().expect("a count"), line.number));
    }
    let names: std::collections::BTreeSet<&str> =
        hits.keys().map(String::as_str).chain(listed.keys().copied()).collect();
    let mut messages = vec![];
    for name in names {
        let found = hits.get(name).map_or(&[][..], Vec::as_slice);
        let (count, number) = listed.get(name).copied().unwrap_or((0, 0));
        if found.len() > count {
            messages.push(too_many(name, found, count));
        } else if found.len() < count {
            messages.push(format!("{FILE}:{number}: {name}: lower the number to {}", found.len()));
        }
    }
    if !messages.is_empty() {
        let table = counts(hits).join("\n");
        messages.push(format!("the counts as they are now, for {FILE}:\n[counts]\n{table}"));
    }
    messages
}

/// The lines of the section of counts.
pub(crate) fn counts(hits: &Hits) -> Vec<String> {
    hits.iter().map(|(name, hits)| format!("{name} {}", hits.len())).collect()
}

fn too_many(name: &str, found: &[Hit], count: usize) -> String {
    let mut message = format!(
        "{name}: {} words that prose does without, {count} are listed\n    rule: the subject of a sentence is a \
         thing with a name (the buffer, the caller), and words are those of the kernel and Vulkan\n    do: \
         write the new ones among these in other words:",
        found.len()
    );
    for hit in found.iter().take(SHOWN) {
        message += &format!("\n      {}: {}", hit.place, hit.word);
    }
    if found.len() > SHOWN {
        message += &format!("\n      … and {} more", found.len() - SHOWN);
    }
    message
}

/// What a file is counted with: its folder or room, or itself if it is Markdown.
fn shelf(path: &str) -> String {
    if path.ends_with(".md") {
        return path.to_owned();
    }
    match path.split('/').collect::<Vec<_>>().as_slice() {
        ["engine", _] => "engine/*.rs".to_owned(),
        ["engine", ..] => match room(path) {
            Some(room) => format!("engine/buffer/{room}"),
            None => format!("engine/{}", folder(path)),
        },
        [top, ..] => (*top).to_owned(),
        [] => String::new(),
    }
}

/// Words in lower case with their offsets; an empty one where a sentence or a part of one ends.
fn prose_words(prose: &str) -> Vec<(String, usize)> {
    let is_word = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-');
    let (mut words, mut start) = (vec![], None);
    for (at, c) in prose.char_indices().chain([(prose.len(), ' ')]) {
        if is_word(c) {
            start.get_or_insert(at);
            continue;
        }
        if let Some(start) = start.take() {
            words.push((prose[start..at].to_lowercase(), start));
        }
        if matches!(c, '.' | ',' | ';' | ':' | '(' | ')' | '?') {
            words.push((String::new(), at));
        }
    }
    words
}

/// Where `phrases` stand in `words`.
fn matches(words: &[(String, usize)], phrases: &[Vec<&str>]) -> Vec<(usize, String)> {
    let mut found = vec![];
    for (index, (word, at)) in words.iter().enumerate() {
        for phrase in phrases.iter().filter(|phrase| phrase[0] == word) {
            let rest = words[index..].iter().map(|(word, _)| word.as_str());
            if rest.take(phrase.len()).eq(phrase.iter().copied()) {
                found.push((*at, phrase.join(" ")));
            }
        }
    }
    found
}

/// Names of functions that only tests have.
fn test_names(file: &SourceFile) -> Vec<(&str, usize)> {
    let tokens = tokens(&file.all_code);
    let is_test = |at: usize| file.is_test || file.code[at..].starts_with(' ');
    let names = tokens.windows(2).filter(|pair| pair[0].text == "fn" && is_test(pair[0].at));
    names.map(|pair| (pair[1].text, pair[1].at)).collect()
}
