//! Finds the file that defines what a path names, through re-exports; and so which file knows which.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::imports::{Facts, How, Named, facts};
use crate::source::{SourceFile, Tree};

/// A module's path: the crate (`lib` or `cli`), then names.
type ModulePath = Vec<String>;

/// Longer chains of re-exports are taken for circles of them.
const LONGEST_CHAIN: usize = 16;

/// That one file names what another one defines.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Edge {
    pub(crate) from: String,
    pub(crate) to: String,
    /// The first line of `from` that does.
    pub(crate) line: usize,
    /// What is named there, as it is written.
    pub(crate) what: String,
}

#[derive(Default)]
struct Module {
    file: String,
    items: BTreeSet<String>,
    bindings: HashMap<String, Vec<Vec<String>>>,
    globs: Vec<Vec<String>>,
}

enum Target {
    Module(ModulePath),
    Item(ModulePath),
}

/// Every module of the library and the program.
struct Modules(HashMap<ModulePath, Module>);

/// The edges between files of `tree` that are not tests, each pair once.
pub(crate) fn edges(tree: &Tree) -> Vec<Edge> {
    let read: Vec<_> = tree
        .files
        .iter()
        .filter(|file| file.is_engine())
        .map(|file| (file, facts(&file.code)))
        .collect();
    let modules = Modules::of(&read);
    let mut first: BTreeMap<(String, String), Edge> = BTreeMap::new();
    for (file, facts) in &read {
        for named in &facts.named {
            let Some(to) = modules.edge_to(file, named) else { continue };
            let line = file.line(named.at);
            let (from, what) = (file.path.clone(), named.segments.join("::"));
            let edge = Edge { from: from.clone(), to: to.clone(), line, what };
            let known = first.entry((from, to)).or_insert_with(|| edge.clone());
            if edge.line < known.line {
                *known = edge;
            }
        }
    }
    first.into_values().collect()
}

/// The module that a file is.
fn module_path(path: &str) -> ModulePath {
    let inside = path.trim_start_matches("engine/").trim_end_matches(".rs");
    let mut parts: Vec<_> = inside.split('/').map(str::to_owned).collect();
    if parts[0] != "cli" {
        parts.insert(0, "lib".to_owned());
    }
    let is_root = matches!(inside, "lib" | "cli/main");
    if is_root || parts.last().is_some_and(|last| last == "mod") {
        parts.pop();
    }
    parts
}

impl Modules {
    fn of(read: &[(&SourceFile, Facts)]) -> Self {
        let mut modules: HashMap<ModulePath, Module> = HashMap::new();
        for (file, facts) in read {
            let own = module_path(&file.path);
            modules.entry(own.clone()).or_default().file.clone_from(&file.path);
            let mut at = |inside: &[String], enter: &mut dyn FnMut(&mut Module)| {
                let module = modules.entry([own.as_slice(), inside].concat()).or_default();
                module.file.clone_from(&file.path);
                enter(module);
            };
            for (inside, item) in &facts.items {
                at(inside, &mut |module| {
                    module.items.insert(item.clone());
                });
            }
            for named in &facts.named {
                at(&named.inside, &mut |module| bind(module, named));
            }
        }
        Self(modules)
    }

    /// The file that `named` in `file` is an edge to; none if it is in another crate, in `file` itself, or below
    /// a `mod.rs` that hands it on.
    fn edge_to(&self, file: &SourceFile, named: &Named) -> Option<String> {
        let own = module_path(&file.path);
        let here = [own.as_slice(), &named.inside].concat();
        let (module, is_module) = match self.resolve(&here, &named.segments, 0)? {
            Target::Module(module) => (module, true),
            Target::Item(module) => (module, false),
        };
        let hands_on = match &named.how {
            How::Use { public, .. } | How::Glob { public } => *public,
            How::Inline => false,
        };
        let declares_modules = file.path.ends_with("/mod.rs") || own.len() == 1;
        if hands_on && declares_modules && module.starts_with(&own) {
            return None;
        }
        // A module that is imported is known once something in it is named.
        if is_module && !matches!(named.how, How::Glob { .. }) {
            return None;
        }
        let to = &self.0.get(&module)?.file;
        (*to != file.path).then(|| to.clone())
    }

    fn resolve(&self, here: &[String], segments: &[String], chain: usize) -> Option<Target> {
        if chain > LONGEST_CHAIN {
            return None;
        }
        let mut at = here.to_vec();
        let mut rest = segments;
        match segments.first()?.as_str() {
            "crate" => {
                at.truncate(1);
                rest = &segments[1..];
            }
            "self" => rest = &segments[1..],
            "super" => {}
            // A name that is in scope here.
            name => match self.look_up(&at, name, chain)? {
                Target::Module(module) => {
                    at = module;
                    rest = &segments[1..];
                }
                item => return Some(item),
            },
        }
        for name in rest {
            if name == "super" {
                at.pop();
                continue;
            }
            match self.look_up(&at, name, chain) {
                Some(Target::Module(module)) => at = module,
                Some(item) => return Some(item),
                // A macro may have made it, where the path leads.
                None => return self.0.contains_key(&at).then_some(Target::Item(at)),
            }
        }
        Some(Target::Module(at))
    }

    /// What `name` is in the module `at`.
    fn look_up(&self, at: &[String], name: &str, chain: usize) -> Option<Target> {
        let child = [at, &[name.to_owned()]].concat();
        if self.0.contains_key(&child) {
            return Some(Target::Module(child));
        }
        let module = self.0.get(at)?;
        if module.items.contains(name) {
            return Some(Target::Item(at.to_vec()));
        }
        let bound = module.bindings.get(name).into_iter().flatten();
        // `use log::log` binds a name that begins its own path, in another crate.
        let found = bound
            .filter(|path| path.first().is_none_or(|first| first != name))
            .find_map(|path| self.resolve(at, path, chain + 1));
        found.or_else(|| {
            module.globs.iter().find_map(|path| match self.resolve(at, path, chain + 1)? {
                Target::Module(below) => self.look_up_glob(&below, at, name, chain + 1),
                Target::Item(_) => None,
            })
        })
    }

    fn look_up_glob(
        &self,
        below: &[String],
        at: &[String],
        name: &str,
        chain: usize,
    ) -> Option<Target> {
        if chain > LONGEST_CHAIN || below == at {
            return None;
        }
        self.look_up(below, name, chain)
    }
}

fn bind(module: &mut Module, named: &Named) {
    match &named.how {
        How::Use { name, .. } => {
            module.bindings.entry(name.clone()).or_default().push(named.segments.clone());
        }
        How::Glob { .. } => module.globs.push(named.segments.clone()),
        How::Inline => {}
    }
}
