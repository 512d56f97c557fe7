//! A run as a page: one file without script, which loads nothing.
//!
//! Everything that comes from a run passes `escape`, since names of devices are the drivers' text, and a saved run is a
//! file that may come from another machine.

mod charts;
mod latency;
mod markup;
mod matrices;
mod sweep;
mod tables;

use markup::escape;

use super::run::{Program, Run};
use super::verdict::{Tone, headlines};
use super::{units, view};

/// Colours, sizes, the dark mode, print, and narrow screens.
const STYLE: &str = include_str!("style.css");

/// The whole page.
pub(crate) fn page(run: &Run) -> String {
    let heading = match run.program {
        Program::Link | Program::Other => "How fast these devices exchange data",
        Program::Figures => "Figures, each beside its baseline",
    };
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>{heading}</title>\n\
         <style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{heading}</h1>\n"
    );
    page += &verdicts(run);
    page += &tables::devices(run);
    let bandwidth: String =
        view::matrices(run).iter().map(|it| matrices::figure(it, run)).collect();
    page += &section("Bandwidth", &bandwidth, matrices::LEGEND);
    let sweeps: String = view::sweeps(run).iter().map(sweep::figure).collect();
    page += &section("By size", &sweeps, sweep::NOTE);
    page += &section("Several pairs at once", &tables::several(run), "");
    page += &section("Latency", &latency::figure(run), latency::NOTE);
    page += &section("Figures", &tables::figures(run), "");
    page += &section("Ways between devices", &tables::access(run), "");
    page += &section("Noise of this run", &tables::noise(run), tables::NOISE_NOTE);
    page += &section("All cells", &tables::cells(run), "");
    page += &footer(run);
    page + "</main>\n</body>\n</html>\n"
}

/// A section; nothing if it has no content.
fn section(heading: &str, content: &str, note: &str) -> String {
    if content.is_empty() {
        return String::new();
    }
    let note =
        if note.is_empty() { String::new() } else { format!("<p class=\"note\">{note}</p>\n") };
    format!(
        "<section>\n<h2>{heading}</h2>\n{note}<div class=\"figures\">\n{content}</div>\n</section>\n"
    )
}

fn verdicts(run: &Run) -> String {
    let class = |tone| match tone {
        Tone::Good => "good",
        Tone::Note => "plain",
        Tone::Slow => "slow",
        Tone::Fault => "fault",
    };
    let item = |line: &super::verdict::Headline| {
        let (class, mark, text) =
            (class(line.tone), line.tone.mark(), escape(&together(&line.text)));
        format!(
            "<li class=\"{class}\"><span class=\"mark\">{mark}</span> <span>{text}</span></li>\n"
        )
    };
    let items: String = headlines(run).iter().map(item).collect();
    format!("<ul class=\"verdicts\">\n{items}</ul>\n")
}

/// Text in which a number and its unit stay on one line.
fn together(text: &str) -> String {
    [" %", " GB/s", " GT/s", " MiB"]
        .iter()
        .fold(text.to_owned(), |text, unit| text.replace(unit, &unit.replace(' ', "\u{a0}")))
}

fn footer(run: &Run) -> String {
    let tool = &run.tool;
    let commit =
        tool.commit.as_deref().map_or(String::new(), |it| format!(", commit {}", escape(it)));
    let debug = if tool.build == "debug" { ", a debug build: not for figures" } else { "" };
    let command = escape(&tool.command.join(" "));
    let started = run
        .started_unix_seconds
        .map_or(String::new(), |it| format!("Started at {}. ", units::date(it)));
    let (name, version) = (escape(&tool.name), escape(&tool.version));
    format!(
        "<footer><p>{started}{name} {version}{commit}{debug}. Command: <code>{command}</code></p></footer>\n"
    )
}

#[cfg(test)]
mod tests {
    use super::super::made::run::{rich, software};
    use super::*;

    /// Whether every element that is opened is closed, in order. Elements without an end are few.
    fn check_nesting(page: &str) {
        const EMPTY: [&str; 6] = ["!doctype", "meta", "line", "circle", "path", "rect"];
        let mut open = vec![];
        for tag in page.split('<').skip(1) {
            let (inside, _) = tag.split_once('>').unwrap_or_else(|| panic!("no end of <{tag}"));
            let name = inside.split([' ', '\n']).next().unwrap_or_default().trim_end_matches('/');
            match name.strip_prefix('/') {
                Some("") | None if EMPTY.contains(&name) || inside.ends_with('/') => {}
                Some(name) if !name.is_empty() => {
                    assert_eq!(open.pop(), Some(name), "at </{name}>");
                }
                _ => open.push(name),
            }
        }
        assert_eq!(open, Vec::<&str>::new(), "not closed");
    }

    #[test]
    fn the_page_has_every_block_and_needs_nothing_else() {
        let page = page(&rich(1));
        for part in [
            "directions are slower than they should be",
            "GPU 0",
            "<h2>Bandwidth</h2>",
            "<h2>By size</h2>",
            "<h2>Latency</h2>",
            "<h2>Ways between devices</h2>",
            "<h2>Noise of this run</h2>",
            "prefers-color-scheme: dark",
            "@media print",
            "2.1 GiB were free",
        ] {
            assert!(page.contains(part), "no {part:?}");
        }
        for part in ["<script", "http://", "https://", "url(", "@import", "<link", "<img"] {
            assert!(!page.contains(part), "{part:?} would load or run something");
        }
        assert!(
            !page.contains("NaN") && !page.contains("inf\""),
            "a chart has a number that is none"
        );
        check_nesting(&page);
    }

    #[test]
    fn text_of_a_run_is_never_markup() {
        const BAD: &str = "<script>alert(1)</script>\"'&";
        let mut run = rich(1);
        run.devices[0].name = BAD.into();
        run.devices[0].driver_info = Some(BAD.into());
        run.devices[0].pci_address = Some(BAD.into());
        run.machine.cpu = Some(BAD.into());
        run.tool.command = vec![BAD.into()];
        run.tool.commit = Some(BAD.into());
        run.noise[0].what = BAD.into();
        run.access[0].ways[1].reason = Some(BAD.into());
        run.access[0].chosen = Some(BAD.into());
        run.latency[0].key.operation = BAD.into();
        run.ended_early = Some(BAD.into());
        for cell in &mut run.cells {
            cell.key.way = BAD.into();
            cell.note = Some(BAD.into());
            for bound in [&mut cell.bound, &mut cell.bound_at_best].into_iter().flatten() {
                bound.why = BAD.into();
            }
            for cause in &mut cell.causes {
                cause.evidence = BAD.into();
            }
        }
        let page = page(&run);
        assert!(!page.contains("<script"), "it is escaped everywhere");
        assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt;&quot;&#39;&amp;"));
        check_nesting(&page);
    }

    #[test]
    fn a_run_without_results_is_a_page_too() {
        let mut run = rich(1);
        (run.cells, run.latency, run.access) = (vec![], vec![], vec![]);
        check_nesting(&page(&run));
        run.devices = vec![software(0)];
        let page = page(&run);
        check_nesting(&page);
        let first = page.find("<li").map(|at| &page[at..]).expect("there is a first line");
        assert!(first[..200].contains("the device is a software device"), "{}", &first[..200]);
    }
}
