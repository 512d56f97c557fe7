//! The layouts of images: one row for each format and pair, and one line for each reason.

use comfy_table::Table;

use super::text::{Text, table};
use crate::image_report::{ImageFacts, LAYOUTS, LayoutFacts, ProofFacts};

/// The names of the ways to share no image, and what they mean.
const OTHERS: [(&str, &str); 2] = [
    ("shared_buffer", "each has an image of its own; both copy from and to one buffer"),
    ("staged", "each has an image of its own; the host copies the bytes"),
];

impl Text {
    /// The part about images.
    pub(super) fn images(&mut self, images: &[ImageFacts]) {
        self.blank();
        self.paragraph(
            "Images from the first to the second device (✓ every texel right, with the times of the second device: a copy \
             of a small image, and a shader's look at it):",
        );
        self.line(format_args!("{}", matrix(images)));
        if sizes(images).len() > 1 {
            self.item(
                "  at …: ",
                "what images of that size use; of formats with less chroma, the next even size",
            );
        }
        if images.iter().any(|facts| !is_shared_at_every_size(facts, images)) {
            let sizes: Vec<_> = sizes(images).iter().map(|(w, h)| format!("{w}×{h}")).collect();
            self.item("  (✓): ", &format!("not at each of the sizes {}", sizes.join(" and ")));
        }
        let meanings = LAYOUTS.iter().map(|(rung, meaning)| (rung.name(), *meaning));
        for (name, meaning) in meanings.chain(OTHERS) {
            let agreed = images.iter().any(|facts| facts.agreed == Some(name));
            let tried = images.iter().flat_map(|facts| &facts.layouts).any(|of| of.layout == name);
            if agreed || tried {
                self.item(&format!("  {name}: "), meaning);
            }
        }
        let reasons = reasons(images);
        if !reasons.is_empty() {
            self.blank();
            self.paragraph("Layouts that do not work, and why:");
            reasons.iter().for_each(|reason| self.long_item("  ", reason));
        }
    }
}

/// The facts of one format and pair, one for each size.
fn groups(images: &[ImageFacts]) -> impl Iterator<Item = &[ImageFacts]> {
    let key = |facts: &ImageFacts| (facts.fourcc.clone(), facts.from, facts.to);
    images.chunk_by(move |a, b| key(a) == key(b))
}

/// The sizes that were asked for, of the first format and pair.
fn sizes(images: &[ImageFacts]) -> Vec<(u32, u32)> {
    let first = groups(images).next().unwrap_or_default();
    first.iter().map(|facts| (facts.width, facts.height)).collect()
}

/// Whether each layout that works for one size of a format and pair works for this one.
fn is_shared_at_every_size(facts: &ImageFacts, images: &[ImageFacts]) -> bool {
    let same = |other: &&ImageFacts| {
        (&other.fourcc, other.from, other.to) == (&facts.fourcc, facts.from, facts.to)
    };
    let works = |of: &ImageFacts, name: &str| {
        of.layouts.iter().any(|layout| layout.name == name && layout.proof.is_some())
    };
    let others = images.iter().filter(same);
    let mut proved = others.flat_map(|of| &of.layouts).filter(|layout| layout.proof.is_some());
    proved.all(|layout| works(facts, &layout.name))
}

fn matrix(images: &[ImageFacts]) -> Table {
    // A kind that works nowhere is in the list of reasons alone.
    let works = |name: &str| {
        let mut layouts = images.iter().flat_map(|facts| &facts.layouts);
        layouts.any(|of| of.layout == name && (of.proof.is_some() || of.untried.is_some()))
    };
    let kinds = LAYOUTS.iter().map(|(rung, _)| rung.name());
    let kinds: Vec<&str> = kinds.filter(|name| works(name)).collect();
    let sizes = sizes(images).into_iter().map(|(width, height)| format!("at {width}×{height}"));
    let header = ["format", "pair"].into_iter().chain(kinds.iter().copied()).map(str::to_owned);
    let mut table = table(header.chain(sizes));
    let mut last = "";
    for group in groups(images) {
        let [facts, ..] = group else { continue };
        // A format is named once.
        let name = if facts.fourcc == last { "" } else { facts.fourcc.as_str() };
        last = &facts.fourcc;
        let pair = format!("{} → {}", facts.from, facts.to);
        let cells = kinds.iter().map(|kind| cell(group, kind));
        let used = group.iter().map(|facts| facts.agreed.unwrap_or("✗ nothing").to_owned());
        table.add_row([name.to_owned(), pair].into_iter().chain(cells).chain(used));
    }
    table
}

/// Whether a kind of layout works for a format and pair, and how fast.
fn cell(group: &[ImageFacts], kind: &str) -> String {
    let of_kind = |facts: &ImageFacts| -> Vec<LayoutFacts> {
        facts.layouts.iter().filter(|layout| layout.layout == kind).cloned().collect()
    };
    let sizes: Vec<_> = group.iter().map(of_kind).collect();
    let proof = |layouts: &Vec<LayoutFacts>| layouts.iter().find_map(|layout| layout.proof);
    let proofs: Vec<_> = sizes.iter().filter_map(proof).collect();
    let Some(proof) = proofs.first() else {
        let untried = sizes.iter().flatten().any(|layout| layout.untried.is_some());
        return if untried { "?" } else { "✗" }.to_owned();
    };
    let mark = if proofs.len() == sizes.len() { "✓" } else { "(✓)" };
    let layouts = sizes.first().map_or(0, Vec::len);
    if layouts > 1 {
        let works = |layout: &&LayoutFacts| layout.proof.is_some();
        let works = sizes.first().map_or(0, |layouts| layouts.iter().filter(works).count());
        return format!("{mark} {works} of {layouts}");
    }
    format!("{mark} {}", times(proof))
}

/// The times of the passes in milliseconds.
fn times(proof: &ProofFacts) -> String {
    let sampled =
        proof.sampled_seconds.map_or("–".to_owned(), |time| format!("{:.2}", time * 1e3));
    format!("{:.2}, {sampled} ms", proof.copied_seconds * 1e3)
}

/// Pairs of devices.
type Pairs = Vec<(usize, usize)>;

/// A layout, and why it does not work.
#[derive(PartialEq)]
struct Why {
    layout: &'static str,
    reason: String,
}

/// Each reason in a line, with the layout, and with the formats and the pairs unless it holds for all.
fn reasons(images: &[ImageFacts]) -> Vec<String> {
    let mut all: Vec<(Why, Vec<(&str, Pairs)>)> = vec![];
    let mut pairs = Pairs::new();
    for group in groups(images) {
        let [facts, ..] = group else { continue };
        let pair = (facts.from, facts.to);
        if !pairs.contains(&pair) {
            pairs.push(pair);
        }
        for why in reasons_of(group) {
            let at = all.iter().position(|(known, _)| *known == why).unwrap_or(all.len());
            if at == all.len() {
                all.push((why, vec![]));
            }
            let formats = &mut all[at].1;
            match formats.iter_mut().find(|(format, _)| *format == facts.fourcc) {
                Some((_, pairs)) => pairs.push(pair),
                None => formats.push((facts.fourcc.as_str(), vec![pair])),
            }
        }
    }
    // In the order of the ladder; each layout's reasons in the order in which they were met.
    let place = |layout: &str| LAYOUTS.iter().position(|(rung, _)| rung.name() == layout);
    all.sort_by_key(|(why, _)| place(why.layout).unwrap_or(LAYOUTS.len()));
    let count = images.chunk_by(|a, b| a.fourcc == b.fourcc).count();
    let mut lines = vec![];
    for (Why { layout, reason }, formats) in all {
        let mut rows: Vec<(Vec<&str>, Pairs)> = vec![];
        for (format, of) in formats {
            match rows.iter_mut().find(|(_, known)| *known == of) {
                Some((names, _)) => names.push(format),
                None => rows.push((vec![format], of)),
            }
        }
        for (names, of) in rows {
            let mut what = vec![layout.to_owned()];
            if names.len() < count || count == 1 {
                what.push(names.join(" "));
            }
            if of.len() < pairs.len() {
                what.push(
                    of.iter()
                        .map(|(from, to)| format!("{from} → {to}"))
                        .collect::<Vec<_>>()
                        .join(", "),
                );
            }
            lines.push(format!("{}: {reason}", what.join(", ")));
        }
    }
    lines
}

/// The reasons of one format and pair. A reason that does not hold at each size names its sizes.
fn reasons_of(group: &[ImageFacts]) -> Vec<Why> {
    let mut found: Vec<(Why, Vec<String>)> = vec![];
    for facts in group {
        let size = format!("{}×{}", facts.width, facts.height);
        let of_layout = |of: &LayoutFacts| {
            let untried = of.untried.iter().map(|why| format!("not tried: {why}"));
            let reasons = of.reasons.iter().cloned().chain(untried);
            let name = (of.layout == LAYOUTS[0].0.name()).then(|| format!("{}: ", of.name));
            let name = name.unwrap_or_default();
            let layout = of.layout;
            let why = reasons.map(|reason| Why { layout, reason: format!("{name}{reason}") });
            why.collect::<Vec<_>>()
        };
        let layouts = facts.layouts.iter().flat_map(of_layout);
        let error = facts.error.clone().map(|reason| Why { layout: "any", reason });
        for why in layouts.chain(error) {
            match found.iter_mut().find(|(known, _)| *known == why) {
                Some((_, sizes)) => sizes.push(size.clone()),
                None => found.push((why, vec![size.clone()])),
            }
        }
    }
    let with_sizes = |(why, sizes): (Why, Vec<String>)| {
        if sizes.len() == group.len() {
            return why;
        }
        Why { reason: format!("at {}: {}", sizes.join(", "), why.reason), ..why }
    };
    found.into_iter().map(with_sizes).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::check;
    use super::*;

    const SIZES: [(u32, u32); 2] = [(61, 19), (192, 24)];

    fn layout(layout: &'static str, reasons: &[&str]) -> LayoutFacts {
        let proof = ProofFacts {
            route: "memfd",
            width: 61,
            height: 19,
            texels: 61 * 19,
            copied_seconds: 0.001_5,
            sampled_seconds: Some(0.002_25),
        };
        LayoutFacts {
            layout,
            name: layout.to_owned(),
            modifier: 0,
            proof: reasons.is_empty().then_some(proof),
            reasons: reasons.iter().map(|reason| (*reason).to_owned()).collect(),
            untried: None,
        }
    }

    fn facts(
        fourcc: &str,
        (from, to): (usize, usize),
        size: usize,
        layouts: Vec<LayoutFacts>,
    ) -> ImageFacts {
        let (width, height) = SIZES[size];
        let agreed = layouts.iter().find(|layout| layout.proof.is_some()).map(|of| of.layout);
        let agreed = Some(agreed.unwrap_or("shared_buffer"));
        let fourcc = fourcc.into();
        let (agreement, error) = (None, None);
        ImageFacts { from, to, fourcc, width, height, layouts, agreed, agreement, error }
    }

    fn shown(images: &[ImageFacts]) -> String {
        let mut text = Text::default();
        text.images(images);
        text.0
    }

    #[test]
    fn a_layout_that_works_at_some_sizes_alone_is_marked_with_the_reason() {
        let images = [
            facts("AR24", (0, 1), 0, vec![layout("linear_tiling", &["pitch 256, accepted: 244"])]),
            facts("AR24", (0, 1), 1, vec![layout("linear_tiling", &[])]),
            facts("AR24", (1, 0), 0, vec![layout("linear_tiling", &[])]),
            facts("AR24", (1, 0), 1, vec![layout("linear_tiling", &[])]),
        ];
        let text = shown(&images);
        check(&text, &["format", "linear_tiling", "at 61×19", "at 192×24"]);
        check(&text, &["AR24", "0 → 1", "(✓) 1.50, 2.25 ms", "shared_buffer", "linear_tiling"]);
        check(&text, &["1 → 0", "✓ 1.50, 2.25 ms", "linear_tiling"]);
        check(&text, &["(✓): not at each of the sizes 61×19 and 192×24"]);
        check(&text, &["linear_tiling, AR24, 0 → 1: at 61×19: pitch 256"]);
        check(&text, &["shared_buffer: each has an image of its own"]);
        assert_eq!(text.matches("accepted: 244").count(), 1, "{text}");
    }

    #[test]
    fn each_reason_is_shown_once_with_its_formats_and_pairs() {
        let refused = |of| layout("shared_linear", &[of]);
        let all = [("R8", (0, 1)), ("R8", (1, 0)), ("NV12", (0, 1)), ("NV12", (1, 0))];
        let each = all.into_iter().flat_map(|(fourcc, pair)| {
            let why = if pair == (0, 1) { "not offered" } else { "listed only" };
            [0, 1].map(|size| facts(fourcc, pair, size, vec![refused("no fd"), refused(why)]))
        });
        let images: Vec<_> = each.collect();
        let text = shown(&images);
        check(&text, &["shared_linear: no fd"]);
        check(&text, &["shared_linear, 0 → 1: not offered"]);
        check(&text, &["shared_linear, 1 → 0: listed only"]);
        for reason in ["no fd", "not offered", "listed only"] {
            assert_eq!(text.matches(reason).count(), 1, "{text}");
        }
        assert!(!text.contains("(✓)"), "{text}");
    }

    #[test]
    fn what_was_not_tried_and_what_failed_is_told() {
        let mut busy = layout("linear_tiling", &["x"]);
        busy.reasons.clear();
        busy.untried = Some("the first device is busy".into());
        let mut failed = facts("R8", (1, 0), 0, vec![]);
        (failed.error, failed.agreed) = (Some("too many fds".into()), None);
        let text = shown(&[facts("R8", (0, 1), 0, vec![busy]), failed]);
        check(&text, &["R8", "0 → 1", "?"]);
        check(&text, &["linear_tiling, R8, 0 → 1: not tried: the first device is busy"]);
        check(&text, &["any, R8, 1 → 0: too many fds"]);
        check(&text, &["1 → 0", "✗ nothing"]);
    }

    #[test]
    fn tiled_modifiers_are_counted_and_named_with_their_reasons() {
        let tiled = |name: &str, reasons: &[&str]| LayoutFacts {
            name: name.into(),
            ..layout("shared_tiled", reasons)
        };
        let layouts = vec![tiled("A modifier", &[]), tiled("B modifier", &["not offered"])];
        let text = shown(&[facts("R8", (0, 1), 0, layouts)]);
        check(&text, &["R8", "0 → 1", "✓ 1 of 2"]);
        check(&text, &["shared_tiled, R8: B modifier: not offered"]);
    }
}
