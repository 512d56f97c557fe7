//! A run of a benchmark as text: the verdicts first, then the tables.

use comfy_table::{CellAlignment, Table};

use super::text::{Text, table};
use crate::bench::run::{Cell, End, Program, Run, WayState};
use crate::bench::units::{bytes, gigabytes, time};
use crate::bench::verdict::{headlines, name, share, speed};
use crate::bench::view::{
    Matrix, Sweep, end_name, engine_name, matrices, pattern_name, patterns, sweeps, unmeasured,
};

/// Lines of a sweep that are shown; `--verbose` shows all.
const LINES: usize = 3;

/// Sweeps that are shown.
const SWEEPS: usize = 4;

/// A run.
pub(crate) fn bench(run: &Run, verbose: bool) -> String {
    let mut text = Text::default();
    for line in headlines(run) {
        text.item(&format!("{} ", line.tone.mark()), &line.text);
    }
    text.blank();
    text.machine(run);
    if run.program == Program::Figures {
        text.line(format_args!("\n{}", figures(run)));
        return text.0;
    }
    let all = matrices(run);
    let shown = if verbose { all.len() } else { all.len().min(1 + LINES) };
    for matrix in &all[..shown] {
        text.line(format_args!("\n{}, in GB/s, from row to column:", matrix.title));
        text.line(format_args!("{}", of_matrix(matrix, run)));
    }
    if !all.is_empty() {
        text.item(
            "  ",
            "% is of what the link or the memory carries. ! is slower than it should be.",
        );
    }
    text.several(run);
    let all = sweeps(run);
    let shown = if verbose { all.len() } else { all.len().min(SWEEPS) };
    for sweep in &all[..shown] {
        text.sweep(sweep, verbose);
    }
    if all.len() > shown {
        text.line(format_args!("\n{} more pairs by size: --verbose shows them", all.len() - shown));
    }
    text.latency(run);
    text.access(run);
    text.unmeasured(run, verbose);
    text.0
}

impl Text {
    fn machine(&mut self, run: &Run) {
        for device in &run.devices {
            let driver = device.driver_info.as_deref().or(device.driver.as_deref()).unwrap_or("?");
            let place =
                device.pci_address.as_deref().map_or(String::new(), |it| format!(", PCI {it}"));
            let link =
                device.pci.as_ref().and_then(|pci| pci.path.first()).map_or(String::new(), |hop| {
                    let of = |gts: Option<f64>, lanes: Option<u32>| {
                        let gts = gts.map_or("?".to_owned(), |it| it.to_string());
                        let lanes = lanes.map_or("?".to_owned(), |it| it.to_string());
                        format!("{gts} GT/s × {lanes}")
                    };
                    format!(", {} at most", of(hop.speed_max_gts, hop.width_max))
                });
            let text = format!("{} ({}), {driver}{place}{link}", device.name, device.kind);
            self.item(&format!("device{}  ", device.index), &text);
        }
        let machine = &run.machine;
        let mut facts = vec![];
        facts.extend(machine.cpu.clone());
        facts.extend(machine.processors.map(|it| format!("{it} processors")));
        facts.extend(machine.memory_bytes.map(|it| bytes(it >> 20 << 20)));
        facts.extend(machine.kernel.as_ref().map(|it| format!("kernel {it}")));
        facts.extend(machine.governor.as_ref().map(|it| format!("governor {it}")));
        if !facts.is_empty() {
            self.item("host     ", &facts.join(", "));
        }
        let commit = run.tool.commit.as_deref().map_or(String::new(), |it| format!(" ({it})"));
        let debug = if run.tool.build == "debug" { ", a debug build: NOT FOR FIGURES" } else { "" };
        let quick = if run.quick { ", quick" } else { "" };
        self.item(
            "tool     ",
            &format!("{} {}{commit}{quick}{debug}", run.tool.name, run.tool.version),
        );
        for noise in &run.noise {
            let size = noise.size_bytes.map_or(String::new(), |it| format!(" of {}", bytes(it)));
            let (what, ratio, lo, hi) = (&noise.what, noise.ratio, noise.ratio_lo, noise.ratio_hi);
            let each = time(noise.median_ns);
            self.item(
                "noise    ",
                &format!(
                    "{what}{size} against itself: {ratio:.3} ({lo:.3} … {hi:.3}), {each} each"
                ),
            );
        }
    }

    /// Several pairs at once.
    fn several(&mut self, run: &Run) {
        let cells = patterns(run);
        if cells.is_empty() {
            return;
        }
        self.line(format_args!("\nSeveral pairs at once, together:"));
        let mut table = numbers(["from", "to", "which", "way", "size", "GB/s", "%"], 4);
        for cell in cells {
            let key = &cell.key;
            table.add_row([
                key.from.to_string(),
                key.to.to_string(),
                pattern_name(key.pattern).to_owned(),
                format!("{}, {}", key.way, engine_name(key.engine)),
                bytes(key.size_bytes),
                speed(cell).map_or("–".to_owned(), gigabytes),
                percent(cell),
            ]);
        }
        self.line(format_args!("{table}"));
    }

    fn sweep(&mut self, sweep: &Sweep<'_>, verbose: bool) {
        let shown = if verbose { sweep.lines.len() } else { sweep.lines.len().min(LINES) };
        let lines = &sweep.lines[..shown];
        self.line(format_args!("\n{} → {}, in GB/s by size:", sweep.from, sweep.to));
        let heads =
            std::iter::once("size".to_owned()).chain(lines.iter().map(|it| it.name.clone()));
        let mut table = numbers(heads, 0);
        for size in sweep.sizes() {
            let cells = lines.iter().map(|line| line.at(size).map_or("–".to_owned(), rate));
            table.add_row(std::iter::once(bytes(size)).chain(cells).collect::<Vec<_>>());
        }
        self.line(format_args!("{table}"));
        if let [(first, _), rest @ ..] = sweep.crossovers().as_slice()
            && !rest.is_empty()
        {
            let mut told = format!("fastest: {first}");
            for (name, size) in rest {
                told += &format!("; from {} on {name}", bytes(*size));
            }
            self.item("  ", &told);
        }
    }

    fn latency(&mut self, run: &Run) {
        if run.latency.is_empty() {
            return;
        }
        self.line(format_args!("\nHow long one operation takes:"));
        let mut table = numbers(["operation", "from → to", "p50", "p90", "p99", "max"], 2);
        for latency in &run.latency {
            let key = &latency.key;
            let times = latency
                .percentiles
                .map(|it| [it.p50_ns, it.p90_ns, it.p99_ns, it.max_ns].map(time));
            let processes = if key.processes > 1 { ", two processes" } else { "" };
            let mut row = vec![
                format!("{}{processes}", key.operation.replace('_', " ")),
                format!("{} → {}", key.from, key.to),
            ];
            row.extend(times.unwrap_or_else(|| std::array::from_fn(|_| "–".to_owned())));
            table.add_row(row);
        }
        self.line(format_args!("{table}"));
        for latency in run.latency.iter().filter(|it| it.percentiles.is_none()) {
            let note = latency.note.as_deref().unwrap_or("no reason is known");
            self.item("  - ", &format!("not measured: {}: {note}", latency.key.operation));
        }
    }

    /// What was not measured, and why; several cells with one reason in one line.
    fn unmeasured(&mut self, run: &Run, verbose: bool) {
        let mut groups: Vec<(&str, Vec<String>)> = vec![];
        for cell in unmeasured(run) {
            let note = cell.note.as_deref().unwrap_or("no reason is known");
            let name = name(&cell.key);
            match groups.iter_mut().find(|(other, _)| *other == note && !verbose) {
                Some((_, names)) => names.push(name),
                None => groups.push((note, vec![name])),
            }
        }
        for (note, names) in groups {
            let more = match names.len() - 1 {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            self.item("  - ", &format!("not measured: {}{more}: {note}", names[0]));
        }
    }

    fn access(&mut self, run: &Run) {
        if run.access.is_empty() {
            return;
        }
        self.line(format_args!("\nWays from one device to another:"));
        for access in &run.access {
            let chosen = access.chosen.as_deref().unwrap_or("none");
            let proved = access.ways.iter().filter(|way| way.state == WayState::Proved);
            let proved: Vec<_> = proved.map(|way| way.way.as_str()).collect();
            let pair = format!("{} → {}", access.from, access.to);
            self.item("  ", &format!("{pair}: {chosen} is used, of {}", proved.join(", ")));
            for way in access.ways.iter().filter(|way| way.state != WayState::Proved) {
                let state = if way.state == WayState::Refused { "refused" } else { "not tried" };
                let reason = way.reason.as_deref().unwrap_or("no reason is known");
                self.item("    ", &format!("{} {state}: {reason}", way.way));
            }
        }
    }
}

/// A table whose columns are numbers from the one after `text` on.
pub(super) fn numbers(
    header: impl IntoIterator<Item = impl Into<comfy_table::Cell>>,
    text: usize,
) -> Table {
    let mut table = table(header);
    for column in table.column_iter_mut().skip(text + 1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn of_matrix(matrix: &Matrix<'_>, run: &Run) -> Table {
    let heads = matrix.ends.iter().map(ToString::to_string);
    let mut table = numbers(std::iter::once(String::new()).chain(heads), 0);
    for (from, row) in matrix.ends.iter().zip(&matrix.rows) {
        let cells = row.iter().zip(&matrix.ends).map(|(cell, to)| {
            cell.map_or_else(
                || {
                    if *from == *to && *from == End::Host {
                        String::new()
                    } else {
                        "–".to_owned()
                    }
                },
                |cell| format!("{} {}\n{}", rate(cell), percent(cell), cell.key.way),
            )
        });
        table.add_row(std::iter::once(end_name(*from, run)).chain(cells).collect::<Vec<_>>());
    }
    table
}

/// The speed of a cell, with a mark if it is not as it should be.
fn rate(cell: &Cell) -> String {
    use crate::bench::run::Verdict;
    let mark = match cell.verdict {
        Verdict::WrongBytes => " WRONG",
        Verdict::MoreThanPossible => " ✗",
        Verdict::Less | Verdict::LessBecause => " !",
        Verdict::AsExpected | Verdict::NotJudged | Verdict::NotMeasured => "",
    };
    speed(cell).map_or("–".to_owned(), |speed| format!("{}{mark}", gigabytes(speed)))
}

fn percent(cell: &Cell) -> String {
    share(cell).map_or(String::new(), |share| format!("{:.0} %", share * 100.0))
}

fn figures(run: &Run) -> Table {
    let mut table = numbers(["figure", "value", "95 % interval", "target", "each"], 0);
    for figure in &run.figures {
        let number = |value: f64| match value.abs() {
            0.0 => "0".to_owned(),
            it if it < 0.1 => format!("{value:.5}"),
            it if it < 10.0 => format!("{value:.3}"),
            _ => format!("{value:.1}"),
        };
        let sign = match figure.direction {
            crate::bench::run::Target::AtLeast => "≥",
            crate::bench::run::Target::AtMost => "≤",
        };
        table.add_row([
            figure.id.clone(),
            number(figure.value),
            if figure.lo == figure.hi {
                String::new()
            } else {
                format!("{} … {}", number(figure.lo), number(figure.hi))
            },
            figure.target.map_or(String::new(), |target| format!("{sign} {target}")),
            figure.seconds.map_or(String::new(), |it| time(it * 1e9)),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::super::tests::check;
    use super::*;
    use crate::bench::made::run::rich;

    #[test]
    fn verdicts_come_first_and_every_block_is_there() {
        let run = rich(1);
        let text = bench(&run, false);
        let first = text.lines().next().expect("there are lines");
        assert!(first.starts_with("! ") && first.contains("slower than they should be"), "{first}");
        check(&text, &["device0", "GPU 0 (discrete)", "PCI 0000:01:00.0"]);
        check(&text, &["noise", "memcpy of 64 MiB against itself: 1.000 (0.995 … 1.004)"]);
        check(&text, &["host", "26.", "84 %"]);
        check(&text, &["submit and wait", "device0 → device1", "µs"]);
        check(&text, &["not measured: device0 → device1"]);
        check(&text, &["were free"]);
        check(&text, &["opaque_fd refused: the devices have different driver UUIDs"]);
    }

    #[test]
    fn nothing_measured_is_text_too() {
        let mut run = rich(1);
        (run.cells, run.latency, run.access, run.noise) = (vec![], vec![], vec![], vec![]);
        check(&bench(&run, true), &["no pair is judged"]);
        run.devices.clear();
        check(&bench(&run, true), &["tool", "peerbuf 0.1.0"]);
    }

    #[test]
    fn a_software_device_is_told_of_in_the_first_line() {
        let mut run = rich(1);
        run.devices[1].software = true;
        assert!(bench(&run, false).starts_with("· device1 is a software device"));
    }
}
