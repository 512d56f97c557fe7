//! The order of folders and rooms, as `order.txt` states it.

use crate::tables::Table;

/// Which folder and room may know which.
pub(crate) struct Order {
    /// Lowest first. Names on one line are one folder.
    folders: Vec<Vec<String>>,
    /// Rooms of `engine/buffer/`, lowest first.
    rooms: Vec<String>,
    /// What all may know, and the files that each of those may know.
    known_to_all: Vec<(String, Vec<String>)>,
    tests_alone: Vec<String>,
    /// Methods that are not told apart from those of other crates by their name.
    foreign_methods: Vec<String>,
}

/// The folder that has rooms.
const BUFFER: &str = "buffer";

impl Order {
    pub(crate) fn parse(text: &str) -> Self {
        let table = Table::parse(text);
        let words = |section: &str| -> Vec<Vec<String>> {
            let lines = table.lines(section).iter();
            lines.map(|line| line.key.split_whitespace().map(str::to_owned).collect()).collect()
        };
        let known_to_all = table.lines("known to all").iter().map(|line| {
            let (name, files) = line.key.split_once('=').unwrap_or((&line.key, ""));
            (name.trim().to_owned(), files.split_whitespace().map(str::to_owned).collect())
        });
        Self {
            folders: words("folders"),
            rooms: words("rooms").concat(),
            known_to_all: known_to_all.collect(),
            tests_alone: words("tests alone").concat(),
            foreign_methods: words("methods of other crates").concat(),
        }
    }

    /// Why a file may not know another one, by their folders; none if it may.
    pub(crate) fn forbids(&self, from: &str, to: &str) -> Option<String> {
        let (above, below) = (folder(from), folder(to));
        if above == "lib" || above == below {
            return None;
        }
        if below == "lib" {
            return Some(
                "lib.rs defines nothing but re-exports: name the file that defines it".into(),
            );
        }
        if above == "cli" || below == "cli" {
            return Some(
                "cli knows the public API alone (`peerbuf::…`), and nothing knows cli".into(),
            );
        }
        if self.tests_alone.iter().any(|name| name == below) {
            return Some(format!("{below} is compiled for tests alone"));
        }
        if let Some((_, files)) = self.known_to_all.iter().find(|(name, _)| name == above) {
            let name = to.trim_start_matches("engine/").trim_end_matches(".rs");
            let named = files.iter().any(|file| file == name || *file == below && below == name);
            let list = files.join(", ");
            return (!named)
                .then(|| format!("{above} is known to all, so it may know only: {list}"));
        }
        if self.known_to_all.iter().any(|(name, _)| name == below) {
            return None;
        }
        match (self.folder_rank(above), self.folder_rank(below)) {
            (Some(high), Some(low)) if low <= high => None,
            (Some(_), Some(_)) => Some(format!(
                "a folder knows those before it: {above} comes before {below} (order: {})",
                self.folder_order()
            )),
            (None, _) => {
                Some(format!("{above} has no place in tests/house/order.txt, give it one"))
            }
            (_, None) => {
                Some(format!("{below} has no place in tests/house/order.txt, give it one"))
            }
        }
    }

    /// Why a file of `engine/buffer/` may not know another one there, by their rooms; none if it may.
    pub(crate) fn forbids_room(&self, from: &str, to: &str) -> Option<String> {
        let (above, below) = (room(from)?, room(to)?);
        if above == below {
            return None;
        }
        match (self.room_rank(above), self.room_rank(below)) {
            (Some(high), Some(low)) if low < high => None,
            (Some(_), Some(_)) => Some(format!(
                "a room knows those before it: {above} comes before {below} (order: {})",
                self.rooms.join(", ")
            )),
            (None, _) => Some(format!("{above} is no room in tests/house/order.txt, list it")),
            (_, None) => Some(format!("{below} is no room in tests/house/order.txt, list it")),
        }
    }

    /// How high a file stands among folders and rooms; none for what is known to all, for the program, and for
    /// files of `engine/buffer/` outside of rooms.
    pub(crate) fn height(&self, path: &str) -> Option<usize> {
        let folder = folder(path);
        let rank = self.folder_rank(folder)? * (self.rooms.len() + 1);
        if folder != BUFFER {
            return Some(rank);
        }
        Some(rank + self.room_rank(room(path)?)?)
    }

    pub(crate) fn is_foreign_method(&self, name: &str) -> bool {
        self.foreign_methods.iter().any(|known| known == name)
    }

    fn folder_order(&self) -> String {
        let names: Vec<_> = self.folders.iter().map(|names| names.join("/")).collect();
        names.join(", ")
    }

    fn folder_rank(&self, folder: &str) -> Option<usize> {
        self.folders.iter().position(|names| names.iter().any(|name| name == folder))
    }

    fn room_rank(&self, room: &str) -> Option<usize> {
        self.rooms.iter().position(|name| name == room)
    }
}

/// The name of a file's folder in `engine/`, or its own if it is in none.
pub(crate) fn folder(path: &str) -> &str {
    let inside = path.trim_start_matches("engine/");
    inside.split('/').next().unwrap_or(inside).trim_end_matches(".rs")
}

/// The room that a file of `engine/buffer/` is in.
pub(crate) fn room(path: &str) -> Option<&str> {
    let inside = path.strip_prefix("engine/buffer/")?;
    Some(inside.split_once('/')?.0)
}
