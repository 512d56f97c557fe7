//! The rules on imports, on words of code, and on sizes.

use std::collections::BTreeSet;

use crate::graph::{circles, way_around};
use crate::imports::tokens;
use crate::modules::Edge;
use crate::order::Order;
use crate::source::{SourceFile, Tree};
use crate::tables::{Line, Violation};

/// No file of the engine is longer.
const LONGEST: usize = 400;
/// No file of tests is longer.
const LONGEST_TEST: usize = 600;
/// A room's `mod.rs` tells it in a screen.
const LONGEST_ROOM: usize = 70;

/// A word of code that has one place, or none.
struct Placed {
    word: &'static str,
    may_stand_in: fn(&str) -> bool,
    rule: &'static str,
}

const PLACES: [Placed; 4] = [
    Placed {
        word: "ash",
        may_stand_in: |path| !path.starts_with("engine/residency/"),
        rule: "residency knows no Vulkan: say what it needs of a `World`, and let the engine do it",
    },
    Placed {
        word: "ash",
        may_stand_in: |path| !path.starts_with("engine/image/negotiate/"),
        rule: "a negotiation knows no Vulkan: put what a driver says into an `Offer`",
    },
    Placed {
        word: "from_raw_fd",
        may_stand_in: |path| path == "engine/fd.rs",
        rule: "integers become fds in engine/fd.rs alone: call a function there",
    },
    Placed {
        word: "gpu_allocator",
        may_stand_in: |path| path.starts_with("engine/memory/staging"),
        rule: "gpu-allocator can neither export nor import: use it for staging, in memory/staging.rs",
    },
];

/// Folders know those before them.
pub(crate) fn direction(edges: &[Edge], order: &Order) -> Vec<Violation> {
    let upward = edges.iter().filter_map(|edge| {
        let rule = order.forbids(&edge.from, &edge.to)?;
        Some(import(edge, &rule))
    });
    upward.collect()
}

/// Rooms of `engine/buffer/` know those before them, and every file there is in a room.
pub(crate) fn rooms(tree: &Tree, edges: &[Edge], order: &Order) -> Vec<Violation> {
    let upward = edges.iter().filter_map(|edge| {
        let rule = order.forbids_room(&edge.from, &edge.to)?;
        Some(import(edge, &rule))
    });
    let loose = tree.files.iter().filter(|file| is_loose(file)).map(|file| Violation {
        key: "engine/buffer/*.rs".to_owned(),
        place: file.path.clone(),
        message:
            "is in no room\n    rule: every file of engine/buffer/ but mod.rs is in a room\n    \
            do: move it to the room of its topic (tests/house/order.txt names them)"
                .to_owned(),
    });
    upward.chain(loose).collect()
}

fn is_loose(file: &SourceFile) -> bool {
    let inside = file.path.strip_prefix("engine/buffer/");
    file.is_engine() && inside.is_some_and(|inside| inside != "mod.rs" && !inside.contains('/'))
}

fn import(edge: &Edge, rule: &str) -> Violation {
    Violation {
        key: format!("{} -> {}", edge.from, edge.to),
        place: format!("{}:{}", edge.from, edge.line),
        message: format!(
            "names `{}`, which is in {}\n    rule: {rule}\n    do: move what is needed down, or what needs \
             it up, or pass a value or a trait",
            edge.what, edge.to
        ),
    }
}

/// No circle of files. `listed` are those that are excused; a circle's key names its files.
pub(crate) fn no_circles(edges: &[Edge], listed: &[Line]) -> Vec<Violation> {
    let excused: Vec<BTreeSet<String>> = listed.iter().map(|line| files_of(&line.key)).collect();
    let found = circles(edges).into_iter().map(|circle| {
        let key = circle.iter().cloned().collect::<Vec<_>>().join(" ");
        let smaller = excused.iter().any(|known| known.is_superset(&circle));
        let way = shortest_way(edges, &circle, &excused);
        let place = way.first().map_or(String::new(), |edge| format!("{}:{}", edge.from, edge.line));
        let message = if smaller {
            format!(
                "the circle through this import has become smaller than listed: {} files\n    do: put this \
                 in place of its line",
                circle.len()
            )
        } else {
            around(&way, circle.len())
        };
        Violation { key, place, message }
    });
    found.collect()
}

/// The listed circles that are no part of a larger one: of those that are, the larger one tells.
pub(crate) fn not_swallowed(edges: &[Edge], listed: &[Line]) -> Vec<Line> {
    let found = circles(edges);
    let is_swallowed = |line: &&Line| {
        let files = files_of(&line.key);
        found.iter().any(|circle| circle.len() > files.len() && circle.is_superset(&files))
    };
    listed.iter().filter(|line| !is_swallowed(line)).cloned().collect()
}

/// The files that a circle's key names.
pub(crate) fn files_of(key: &str) -> BTreeSet<String> {
    key.split_whitespace().map(str::to_owned).collect()
}

/// The shortest way around a circle, through a file that is in no listed one if there is such a file.
fn shortest_way<'a>(
    edges: &'a [Edge],
    circle: &BTreeSet<String>,
    excused: &[BTreeSet<String>],
) -> Vec<&'a Edge> {
    let is_new = |file: &&String| !excused.iter().any(|known| known.contains(*file));
    let mut starts: Vec<_> = circle.iter().filter(is_new).collect();
    if starts.is_empty() {
        starts = circle.iter().collect();
    }
    let ways = starts.into_iter().map(|start| way_around(edges, circle, start));
    ways.min_by_key(Vec::len).unwrap_or_default()
}

/// Tells the way around a circle of so many files.
fn around(way: &[&Edge], files: usize) -> String {
    let mut message =
        format!("{files} files know each other in a circle; the shortest way around:");
    for edge in way {
        let Edge { from, to, line, what } = edge;
        message += &format!("\n      {from}:{line} names `{what}`, in {to}");
    }
    message
        + "\n    rule: no circle of files\n    do: cut one of these: move the type that both need down, or \
        the method to the file of its topic"
}

/// `ash`, fds and the allocator have their places; nothing is exported to C.
pub(crate) fn places(tree: &Tree) -> Vec<Violation> {
    let mut found = vec![];
    for file in tree.files.iter().filter(|file| file.is_engine()) {
        for token in tokens(&file.code) {
            let misplaced =
                |placed: &&Placed| placed.word == token.text && !(placed.may_stand_in)(&file.path);
            for placed in PLACES.iter().filter(misplaced) {
                found.push(word_of_code(file, token.at, placed.word, placed.rule));
            }
            if token.text == "extern" && is_c(file, token.at) {
                let rule = "no `extern \"C\"` in engine/: the C API is a package of its own, capi/";
                found.push(word_of_code(file, token.at, "extern \"C\"", rule));
            }
        }
    }
    found
}

/// Whether the `extern` at `at` is of C, which it also is without a name.
fn is_c(file: &SourceFile, at: usize) -> bool {
    let rest = file.text[at..].trim_start_matches("extern").trim_start();
    rest.starts_with("\"C") || rest.starts_with("fn ") || rest.starts_with('{')
}

fn word_of_code(file: &SourceFile, at: usize, word: &str, rule: &str) -> Violation {
    Violation {
        key: format!("{} {word}", file.path),
        place: format!("{}:{}", file.path, file.line(at)),
        message: format!("`{word}` stands here\n    rule and what to do: {rule}"),
    }
}

/// No file is too long to be read at once.
pub(crate) fn sizes(tree: &Tree) -> Vec<Violation> {
    let too_long = tree.files.iter().filter(|file| file.is_rust()).filter_map(|file| {
        let (most, kind) = longest(file)?;
        let lines = file.lines();
        (lines > most).then(|| Violation {
            key: file.path.clone(),
            place: file.path.clone(),
            message: format!(
                "has {lines} lines\n    rule: {kind} has at most {most}\n    do: split it by topic"
            ),
        })
    });
    too_long.collect()
}

/// How long a file may be, and what it is.
fn longest(file: &SourceFile) -> Option<(usize, &'static str)> {
    let is_room = file
        .path
        .strip_prefix("engine/buffer/")
        .is_some_and(|inside| inside.ends_with("/mod.rs") && inside.matches('/').count() == 1);
    if is_room && !file.is_test {
        return Some((LONGEST_ROOM, "the mod.rs of a room"));
    }
    if file.is_engine() {
        return Some((LONGEST, "a file of engine/"));
    }
    let is_tests = file.path.starts_with("tests/") || file.path.starts_with("engine/");
    is_tests.then_some((LONGEST_TEST, "a file of tests"))
}
