//! A run as the tables and charts that are made of it, whether they become text or a page.

use super::run::{Actor, Cell, CopyEngine, Direction, End, Key, Pattern, Run};
use super::verdict::{JUDGED_BYTES, speed};

/// Cells by their ends: rows are sources, columns are destinations.
#[derive(Debug)]
pub(crate) struct Matrix<'a> {
    pub(crate) title: String,
    pub(crate) ends: Vec<End>,
    pub(crate) rows: Vec<Vec<Option<&'a Cell>>>,
}

/// The speeds of one pair by size.
#[derive(Debug)]
pub(crate) struct Sweep<'a> {
    pub(crate) from: End,
    pub(crate) to: End,
    /// One for each way and engine, the fastest first.
    pub(crate) lines: Vec<Line<'a>>,
}

/// One way and engine of a sweep.
#[derive(Debug)]
pub(crate) struct Line<'a> {
    pub(crate) name: String,
    /// By size, the smallest first.
    pub(crate) cells: Vec<&'a Cell>,
}

/// All matrices that the cells of a run fill.
pub(crate) fn matrices(run: &Run) -> Vec<Matrix<'_>> {
    let one = |key: &Key| {
        key.pattern == Pattern::Pair && key.direction == Direction::There && key.processes == 1
    };
    let mut all = vec![matrix(run, "One direction, the fastest way".to_owned(), one)];
    let several: [(&str, &[Direction]); 2] = [
        ("One direction, while the way back is busy", &[Direction::BothThere, Direction::BothBack]),
        ("Both directions at once, together", &[Direction::BothSum]),
    ];
    for (title, directions) in several {
        let is =
            move |key: &Key| key.pattern == Pattern::Pair && directions.contains(&key.direction);
        all.push(matrix(run, title.to_owned(), is));
    }
    let one_each = [
        (Actor::Exporter, "Pushed by the device whose memory is exported"),
        (Actor::Importer, "Pulled by the device that imports"),
    ];
    let mut parts: Vec<_> = one_each
        .map(|(actor, title)| {
            matrix(run, title.to_owned(), move |key| one(key) && key.actor == actor)
        })
        .into();
    // One alone repeats what the first matrix says.
    parts.retain(|it| !it.is_empty());
    if parts.len() > 1 {
        all.extend(parts);
    }
    for engine in engines(run) {
        let title = format!("One direction, by {}", engine_name(engine));
        all.push(matrix(run, title, move |key| one(key) && key.engine == engine));
    }
    let two = |key: &Key| {
        key.pattern == Pattern::Pair && key.direction == Direction::There && key.processes > 1
    };
    all.push(matrix(run, "Between two processes".to_owned(), two));
    let first: Vec<_> = all[0].measured();
    let mut index = 0;
    all.retain(|it| {
        index += 1;
        !it.is_empty() && (index == 1 || it.measured() != first)
    });
    all
}

/// The engines of a run's cells, each once.
fn engines(run: &Run) -> Vec<CopyEngine> {
    let mut engines: Vec<_> = run.cells.iter().map(|cell| cell.key.engine).collect();
    engines.sort();
    engines.dedup();
    engines
}

fn matrix<'a>(run: &'a Run, title: String, is: impl Fn(&Key) -> bool) -> Matrix<'a> {
    let mut ends: Vec<End> = vec![End::Host];
    ends.extend(run.devices.iter().map(|device| End::Device(device.index)));
    let fastest = |from: End, to: End| {
        let here = |cell: &&Cell| {
            bytes_go(&cell.key) == (from, to) && is(&cell.key) && cell.summary.is_some()
        };
        // What fits a cache may be faster than any link, and says nothing of one.
        let rank = |cell: &Cell| (cell.key.size_bytes >= JUDGED_BYTES, speed(cell).unwrap_or(0.0));
        let faster = |first: &&Cell, second: &&Cell| {
            let ((large, one), (also_large, other)) = (rank(first), rank(second));
            large.cmp(&also_large).then(one.total_cmp(&other))
        };
        run.cells.iter().filter(here).max_by(faster)
    };
    let row = |from: &End| ends.iter().map(|to| fastest(*from, *to)).collect();
    Matrix { title, rows: ends.iter().map(row).collect(), ends }
}

/// From where to where the bytes of a cell go. Those of both directions together go from `from` as well.
fn bytes_go(key: &Key) -> (End, End) {
    match key.direction {
        Direction::BothBack => (key.to, key.from),
        Direction::There | Direction::BothThere | Direction::BothSum => (key.from, key.to),
    }
}

impl Matrix<'_> {
    fn is_empty(&self) -> bool {
        self.rows.iter().flatten().all(Option::is_none)
    }

    /// The keys of its cells.
    fn measured(&self) -> Vec<Key> {
        self.rows.iter().flatten().flatten().map(|cell| cell.key.clone()).collect()
    }

    /// The highest speed in it.
    pub(crate) fn most(&self) -> f64 {
        let cells = self.rows.iter().flatten().flatten();
        cells.filter_map(|cell| speed(cell)).fold(0.0, f64::max)
    }
}

/// The sweeps of all pairs that were measured at several sizes.
pub(crate) fn sweeps(run: &Run) -> Vec<Sweep<'_>> {
    let mut sweeps: Vec<Sweep<'_>> = vec![];
    let swept = run.cells.iter().filter(|cell| {
        let Key { pattern, direction, .. } = cell.key;
        pattern == Pattern::Pair && direction == Direction::There && cell.summary.is_some()
    });
    for cell in swept {
        let Key { from, to, .. } = cell.key;
        let at = sweeps.iter().position(|it| (it.from, it.to) == (from, to));
        let at = at.unwrap_or_else(|| {
            sweeps.push(Sweep { from, to, lines: vec![] });
            sweeps.len() - 1
        });
        let name = line_name(&cell.key);
        let lines = &mut sweeps[at].lines;
        match lines.iter_mut().find(|line| line.name == name) {
            Some(line) => line.cells.push(cell),
            None => lines.push(Line { name, cells: vec![cell] }),
        }
    }
    for sweep in &mut sweeps {
        sweep.lines.retain(|line| line.cells.len() > 1);
        let fastest =
            |line: &Line<'_>| line.cells.iter().filter_map(|it| speed(it)).fold(0.0, f64::max);
        sweep.lines.sort_by(|first, second| fastest(second).total_cmp(&fastest(first)));
        for line in &mut sweep.lines {
            line.cells.sort_by_key(|cell| cell.key.size_bytes);
        }
    }
    sweeps.retain(|sweep| !sweep.lines.is_empty());
    // Between devices first: that is what the benchmark is for.
    let device = |end| matches!(end, End::Device(_));
    let rank = |it: &Sweep<'_>| (!device(it.from) || !device(it.to), it.from == it.to);
    sweeps.sort_by_key(rank);
    sweeps
}

fn line_name(key: &Key) -> String {
    let actor = match key.actor {
        Actor::Importer => ", pulled",
        _ => "",
    };
    let processes = if key.processes > 1 { ", two processes" } else { "" };
    format!("{}, {}{actor}{processes}", key.way, engine_name(key.engine))
}

impl Sweep<'_> {
    /// The sizes at which any line has a cell.
    pub(crate) fn sizes(&self) -> Vec<u64> {
        let cells = self.lines.iter().flat_map(|line| &line.cells);
        let mut sizes: Vec<_> = cells.map(|cell| cell.key.size_bytes).collect();
        sizes.sort_unstable();
        sizes.dedup();
        sizes
    }

    /// Which line is the fastest from which size on: the name and the size, each time that it changes.
    pub(crate) fn crossovers(&self) -> Vec<(&str, u64)> {
        let mut found: Vec<(&str, u64)> = vec![];
        for size in self.sizes() {
            let at = |line: &Line<'_>| line.at(size).and_then(speed);
            let fastest = self.lines.iter().filter(|line| at(line).is_some());
            let fastest = fastest.max_by(|first, second| {
                at(first).unwrap_or(0.0).total_cmp(&at(second).unwrap_or(0.0))
            });
            let Some(fastest) = fastest else { continue };
            if found.last().is_none_or(|(name, _)| *name != fastest.name) {
                found.push((&fastest.name, size));
            }
        }
        found
    }
}

impl<'a> Line<'a> {
    /// The cell of a size.
    pub(crate) fn at(&self, size_bytes: u64) -> Option<&'a Cell> {
        self.cells.iter().find(|cell| cell.key.size_bytes == size_bytes).copied()
    }
}

/// The cells of several pairs at once.
pub(crate) fn patterns(run: &Run) -> Vec<&Cell> {
    let several = |cell: &&Cell| cell.key.pattern != Pattern::Pair && cell.summary.is_some();
    run.cells.iter().filter(several).collect()
}

/// The cells of which nothing was measured, which have a note.
pub(crate) fn unmeasured(run: &Run) -> Vec<&Cell> {
    run.cells.iter().filter(|cell| cell.summary.is_none()).collect()
}

/// An engine in words.
pub(crate) fn engine_name(engine: CopyEngine) -> &'static str {
    match engine {
        CopyEngine::TransferQueue => "transfer queue",
        CopyEngine::MainQueue => "main queue",
        CopyEngine::Compute => "compute",
        CopyEngine::Host => "host",
        CopyEngine::HostStreaming => "host past the cache",
        CopyEngine::Ring => "ring",
        CopyEngine::Several => "several engines",
        CopyEngine::Other => "other program",
    }
}

/// A pattern in words.
pub(crate) fn pattern_name(pattern: Pattern) -> &'static str {
    match pattern {
        Pattern::Pair => "one pair",
        Pattern::OneToAll => "one to all",
        Pattern::AllToOne => "all to one",
        Pattern::AllPairs => "all pairs",
    }
}

/// A device, the host or all devices, as the heading of a row.
pub(crate) fn end_name(end: End, run: &Run) -> String {
    let device = match end {
        End::Device(index) => run.devices.iter().find(|device| device.index == index),
        End::Host | End::All => None,
    };
    device.map_or_else(|| end.to_string(), |device| format!("{end}: {}", device.name))
}
