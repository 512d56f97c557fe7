//! The tree of source files as text: read from disk, or made up by the tests of the rules.

use std::collections::BTreeSet;
use std::path::Path;
use std::{fs, io};

use crate::cut::without_tests;
use crate::lexer::{line_of, mask};

/// Where source and prose are looked for, below the package's folder.
const FOLDERS: [&str; 4] = ["engine", "tests", "benches", "examples"];

/// Breaks the rules on purpose.
const PLANTED: &str = "tests/house/planted.rs";

/// One file of the tree.
pub(crate) struct SourceFile {
    /// From the package's folder, with `/`.
    pub(crate) path: String,
    pub(crate) text: String,
    /// What the library or the program is built of: no comments, no strings, no tests.
    pub(crate) code: String,
    /// Code with its tests.
    pub(crate) all_code: String,
    /// Comments and strings, those of tests included. Of a Markdown file, all.
    pub(crate) prose: String,
    /// Whether the whole file is compiled for tests alone.
    pub(crate) is_test: bool,
}

impl SourceFile {
    /// The number of the line that holds `offset`.
    pub(crate) fn line(&self, offset: usize) -> usize {
        line_of(&self.text, offset)
    }

    pub(crate) fn lines(&self) -> usize {
        self.text.lines().count()
    }

    pub(crate) fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// Whether this is a file of the library or the program, and no test.
    pub(crate) fn is_engine(&self) -> bool {
        self.is_rust() && self.path.starts_with("engine/") && !self.is_test
    }
}

/// Every file that the rules look at, by path.
pub(crate) struct Tree {
    pub(crate) files: Vec<SourceFile>,
}

impl Tree {
    /// Reads the tree below `root`, the package's folder.
    pub(crate) fn read(root: &Path) -> io::Result<Self> {
        let mut paths = vec![];
        for folder in FOLDERS {
            collect(&root.join(folder), &mut paths)?;
        }
        for entry in fs::read_dir(root)? {
            paths.push(entry?.path());
        }
        let mut texts = vec![];
        for path in paths {
            let name = path.strip_prefix(root).map_err(io::Error::other)?;
            let name = name.to_string_lossy().replace('\\', "/");
            let is_source = name.ends_with(".rs") || name.ends_with(".md");
            if is_source && name != PLANTED {
                texts.push((name, fs::read_to_string(&path)?));
            }
        }
        Ok(Self::of(texts))
    }

    /// A tree of these paths and texts.
    pub(crate) fn of<P: Into<String>, T: Into<String>>(
        texts: impl IntoIterator<Item = (P, T)>,
    ) -> Self {
        let mut test_modules = BTreeSet::new();
        let mut files: Vec<_> = texts
            .into_iter()
            .map(|(path, text)| file(path.into(), text.into(), &mut test_modules))
            .collect();
        for file in &mut files {
            file.is_test |= test_modules.iter().any(|module| lies_in(&file.path, module));
        }
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Self { files }
    }
}

/// Makes a file of `text`, and adds the modules that it declares for tests alone to `test_modules`, each as a
/// path without `.rs`.
fn file(path: String, text: String, test_modules: &mut BTreeSet<String>) -> SourceFile {
    if !path.ends_with(".rs") {
        let (code, all_code, prose) = (String::new(), String::new(), text.clone());
        return SourceFile { path, text, code, all_code, prose, is_test: false };
    }
    let masked = mask(&text);
    let cut = without_tests(&masked.code);
    let folder = folder_of_children(&path);
    test_modules.extend(cut.modules.iter().map(|module| format!("{folder}/{module}")));
    let stem = path.trim_end_matches(".rs");
    let is_test = !path.starts_with("engine/") || stem.split('/').any(|part| part == "tests");
    SourceFile { path, text, code: cut.code, all_code: masked.code, prose: masked.prose, is_test }
}

/// The folder in which a file's child modules are.
fn folder_of_children(path: &str) -> String {
    let stem = path.trim_end_matches(".rs");
    let (folder, name) = stem.rsplit_once('/').unwrap_or(("", stem));
    if matches!(name, "mod" | "lib" | "main") { folder.to_owned() } else { stem.to_owned() }
}

fn lies_in(path: &str, module: &str) -> bool {
    path.strip_prefix(module).is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
}

fn collect(folder: &Path, paths: &mut Vec<std::path::PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, paths)?;
        } else {
            paths.push(path);
        }
    }
    Ok(())
}
