//! The routes between each two devices, each pair in a process of its own that loads their drivers alone.

use std::time::{Duration, Instant};

use super::child::{self, End, Heard};
use super::drivers::{bounded, child_process, with_drivers};
use super::part::{self, Message};
use super::report::{Finding, SeenDevice, SeenRoute};

const AREA: &str = "routes";

/// The longest that one pair may take: eight routes, each within a probe's timeout, in both directions.
const BOUND: Duration = Duration::from_secs(60);
/// The longest that all pairs may take.
const ALL: Duration = Duration::from_secs(180);

/// Tries every pair.
pub(super) fn all(devices: &[SeenDevice], findings: &mut Vec<Finding>) -> Vec<SeenRoute> {
    let usable: Vec<usize> = (0..devices.len()).filter(|&at| devices[at].opens).collect();
    let mut pairs: Vec<_> = usable
        .iter()
        .flat_map(|&from| usable.iter().map(move |&to| (from, to)))
        .filter(|(from, to)| from < to)
        .collect();
    if let [only] = usable[..] {
        pairs.push((only, only));
    }
    let deadline = Instant::now() + ALL;
    let mut routes = Vec::new();
    for pair in pairs {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let (from, to) = pair;
            findings.push(Finding::note(
                AREA,
                format!("{from} ↔ {to}: not tried, for lack of time"),
                format!("peerbuf devices --devices {from},{to}"),
            ));
            continue;
        }
        let tried = try_pair(devices, pair, left.min(bounded(BOUND)));
        findings.extend(tried.iter().map(|route| judge(route, devices)));
        routes.extend(tried);
    }
    routes
}

fn try_pair(devices: &[SeenDevice], (from, to): (usize, usize), bound: Duration) -> Vec<SeenRoute> {
    let (a, b) = (&devices[from], &devices[to]);
    let mut command = child_process("pair");
    let words = [part::key(a), part::key(b), from.to_string(), to.to_string()];
    command.arg("--").args(words);
    let manifests = [a.manifest.as_str(), b.manifest.as_str()];
    with_drivers(
        &mut command,
        if manifests[0] == manifests[1] { &manifests[..1] } else { &manifests },
    );
    let Heard { messages, end, .. } = child::run(&mut command, bound);
    let (mut routes, mut trying, mut failure) = (Vec::new(), (from, to), None);
    for message in messages {
        match message {
            Message::Trying(from, to) => trying = (from, to),
            Message::Route(route) => routes.push(route),
            Message::Failed(error) => failure = Some(error),
            _ => {}
        }
    }
    if let End::Failed(why) = end {
        failure.get_or_insert(why);
    }
    if let Some(error) = failure {
        let (from, to) = trying;
        routes.push(SeenRoute {
            from,
            to,
            route: None,
            wait: None,
            working: vec![],
            refused: vec![],
            error: Some(error),
        });
    }
    routes
}

fn judge(route: &SeenRoute, devices: &[SeenDevice]) -> Finding {
    let SeenRoute { from, to, .. } = route;
    let pair = format!("{from} → {to}");
    let pair = if from == to { format!("{pair} (opened twice)") } else { pair };
    if let Some(error) = &route.error {
        let drivers = [from, to].map(|&at| devices[at].name.as_str());
        return Finding::problem(
            AREA,
            format!("{pair}: cannot be tried: {error}"),
            format!("report it to the drivers of {} and {}", drivers[0], drivers[1]),
        );
    }
    let Some(chosen) = &route.route else {
        return Finding::problem(
            AREA,
            format!("{pair}: no route works"),
            format!("peerbuf devices --devices {from},{to} lists the reasons"),
        );
    };
    let speed = route.working.iter().find(|(name, _)| name == chosen).map(|(_, speed)| *speed);
    let speed = speed.map_or_else(String::new, |speed| format!(", {:.1} GB/s", speed / 1e9));
    let wait = route.wait.as_deref().map_or_else(String::new, |wait| format!(", waits by {wait}"));
    let what = format!("{pair}: {chosen}, proved with data{speed}{wait}");
    if chosen == "staged" {
        let reasons: Vec<_> =
            route.refused.iter().map(|(route, why)| format!("{route}: {why}")).collect();
        return Finding::note(
            AREA,
            format!("{what}: they share no memory, bytes are copied ({})", reasons.join("; ")),
            "open one of these ways: see nodes and devices above",
        );
    }
    Finding::ok(AREA, what)
}
