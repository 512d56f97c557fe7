//! Keeps the structure of the source: which file imports which, where fds and Vulkan may appear, how long files
//! are, and the words of comments.
//!
//! The source is read as text; nothing is built for it. `order.txt` states the order of folders and rooms,
//! `exceptions.txt` what is excused, `words.txt` the words that prose does without and how often they still
//! stand where. An excuse that is no longer needed fails as well, so the tables only shrink.
//!
//! `HOUSE_BLESS=1 cargo test --test house` rewrites the tables to what is there (reasons of lines that stay are
//! kept): look at the difference before you commit it. `cargo test --test house -- --nocapture summary` prints
//! how many files know each other.

mod cut;
mod graph;
mod imports;
mod lexer;
mod methods;
mod modules;
mod order;
mod planted;
mod rules;
mod source;
mod tables;
mod words;

use std::path::Path;
use std::sync::OnceLock;
use std::{env, fs};

use modules::Edge;
use order::Order;
use source::Tree;
use tables::{Line, Table, Violation};

/// The package's folder when this was built.
const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// What the rules are applied to.
struct House {
    tree: Tree,
    edges: Vec<Edge>,
    order: Order,
    exceptions: Table,
    words: Table,
}

impl House {
    fn new(tree: Tree, order: &str, exceptions: &str, words: &str) -> Self {
        let edges = modules::edges(&tree);
        let (exceptions, words) = (Table::parse(exceptions), Table::parse(words));
        Self { tree, edges, order: Order::parse(order), exceptions, words }
    }

    /// Reads the package that this test is of, and rewrites its tables first if `HOUSE_BLESS` says so.
    fn read() -> Self {
        let root = Path::new(ROOT);
        assert!(
            root.join("engine/lib.rs").exists(),
            "{ROOT} holds no source: this test reads the source that it was built from, so run it there"
        );
        let table = |name: &str| {
            let path = root.join("tests/house").join(name);
            fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        };
        let tree = Tree::read(root).unwrap_or_else(|error| panic!("{ROOT}: {error}"));
        let (exceptions, words) = (table("exceptions.txt"), table("words.txt"));
        let house = Self::new(tree, &table("order.txt"), &exceptions, &words);
        if env::var_os("HOUSE_BLESS").is_none_or(|value| value.is_empty()) {
            return house;
        }
        let (exceptions, words) = house.blessed();
        for (name, text) in [("exceptions.txt", &exceptions), ("words.txt", &words)] {
            fs::write(root.join("tests/house").join(name), text.text())
                .expect("the tables are ours");
        }
        // Lines have other numbers now.
        let (exceptions, words) = (exceptions.text(), words.text());
        Self { exceptions: Table::parse(&exceptions), words: Table::parse(&words), ..house }
    }

    /// What a rule found. Sections of the exceptions have the names of rules.
    fn found(&self, rule: &str) -> Vec<Violation> {
        match rule {
            "direction" => rules::direction(&self.edges, &self.order),
            "rooms" => rules::rooms(&self.tree, &self.edges, &self.order),
            "circles" => rules::no_circles(&self.edges, self.exceptions.lines(rule)),
            "methods" => methods::upward_calls(&self.tree, &self.order),
            "places" => rules::places(&self.tree),
            "sizes" => rules::sizes(&self.tree),
            _ => unreachable!("there is no rule {rule}"),
        }
    }

    /// What a rule found that is not excused, and what is excused and was not found.
    fn judge(&self, rule: &str) -> Vec<String> {
        let listed = self.exceptions.lines(rule);
        match rule {
            "circles" => {
                tables::judge(rule, &self.found(rule), &rules::not_swallowed(&self.edges, listed))
            }
            _ => tables::judge(rule, &self.found(rule), listed),
        }
    }

    /// The tables as they have to be for this tree.
    fn blessed(&self) -> (Table, Table) {
        let (mut exceptions, mut words) = (self.exceptions.clone(), self.words.clone());
        for rule in ["direction", "rooms", "methods", "places", "sizes"] {
            exceptions.replace(rule, &tables::keys(&self.found(rule)), |_, _| None);
        }
        exceptions.replace("circles", &tables::keys(&self.found("circles")), reason_of_nearest);
        let counts = words::counts(&words::find(&self.tree, &self.words));
        words.replace("counts", &counts, |_, _| Some(String::new()));
        (exceptions, words)
    }
}

/// The reason of the listed circle that has most files in common with this one, at least half of its own.
fn reason_of_nearest(key: &str, old: &[Line]) -> Option<String> {
    let files = rules::files_of(key);
    let common = |line: &&Line| rules::files_of(&line.key).intersection(&files).count();
    let nearest = old
        .iter()
        .filter(|line| 2 * common(line) >= rules::files_of(&line.key).len())
        .max_by_key(common)?;
    Some(nearest.reason.clone())
}

fn house() -> &'static House {
    static HOUSE: OnceLock<House> = OnceLock::new();
    HOUSE.get_or_init(House::read)
}

#[track_caller]
fn assert_none(messages: &[String]) {
    let count = messages.len();
    assert!(messages.is_empty(), "{count} to look at:\n\n{}\n", messages.join("\n\n"));
}

/// Cargo leaves out programs whose features are off, and says nothing.
#[test]
fn every_feature_that_tests_need_is_on() {
    assert_eq!(
        [cfg!(feature = "cli"), cfg!(feature = "testing")],
        [true, true],
        "most tests were left out: run `make test-native`, or `cargo test --features cli,testing`"
    );
}

#[test]
fn folders_import_only_lower_ones() {
    assert_none(&house().judge("direction"));
}

#[test]
fn rooms_of_the_buffer_import_only_lower_ones() {
    assert_none(&house().judge("rooms"));
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    assert_none(&house().judge("circles"));
}

#[test]
fn methods_are_called_from_their_room_or_above() {
    assert_none(&house().judge("methods"));
}

#[test]
fn vulkan_fds_and_c_stay_in_their_places() {
    assert_none(&house().judge("places"));
}

#[test]
fn files_are_short_enough_to_be_read() {
    assert_none(&house().judge("sizes"));
}

#[test]
fn prose_does_without_the_listed_words() {
    assert_none(&words::judge(&words::find(&house().tree, &house().words), &house().words));
}

#[test]
fn every_exception_has_a_reason() {
    let sections = ["direction", "rooms", "circles", "methods", "places", "sizes"];
    let lines = sections.iter().flat_map(|section| house().exceptions.lines(section));
    let bare = lines.filter(|line| line.reason.is_empty());
    let messages: Vec<_> = bare
        .map(|line| {
            format!("tests/house/exceptions.txt:{}: say why, after `#`: {}", line.number, line.key)
        })
        .collect();
    assert_none(&messages);
}

/// Prints how the files hang together (`--nocapture`).
#[test]
#[expect(clippy::print_stdout, reason = "it is for a reader of the test's output")]
fn summary() {
    let house = house();
    let engine = house.tree.files.iter().filter(|file| file.is_engine()).count();
    println!("{engine} files of engine/, {} imports between them", house.edges.len());
    for circle in graph::circles(&house.edges) {
        let files: Vec<_> = circle.iter().map(|file| file.trim_start_matches("engine/")).collect();
        println!("circle of {}: {}", circle.len(), files.join(" "));
    }
    for rule in ["direction", "rooms", "methods", "places", "sizes"] {
        println!("{rule}: {} excused", house.exceptions.lines(rule).len());
    }
    let words: usize = words::find(&house.tree, &house.words).values().map(Vec::len).sum();
    println!("{words} words that prose does without");
}
