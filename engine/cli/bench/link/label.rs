//! The names of cells, for `--list` and `--filter`, and the names that a cell's key has for the library's ways.

use peerbuf::CopyBy;

use super::super::run::{Actor, CopyEngine, Direction, End, Key, Pattern};
use crate::size::Human;

/// A cell's name, such as `device0-device1/opaque_fd/main_queue/importer/64MiB`.
pub(super) fn of_cell(key: &Key) -> String {
    let Key { from, to, way, size_bytes, .. } = key;
    let size = Human(*size_bytes).to_string().replace(' ', "");
    let (engine, actor) = (engine(key.engine), actor(key.actor));
    let mut name = format!("{from}-{to}/{way}/{engine}/{actor}/{size}");
    let parts = [direction(key.direction), pattern(key.pattern)];
    for part in parts.into_iter().flatten() {
        name.push('/');
        name.push_str(part);
    }
    if key.processes > 1 {
        name.push_str("/two_processes");
    }
    name
}

/// The name of a latency, such as `latency/share/device0-device1`.
pub(super) fn of_latency(operation: &str, from: End, to: End) -> String {
    if from == to {
        format!("latency/{operation}/{from}")
    } else {
        format!("latency/{operation}/{from}-{to}")
    }
}

/// The engines that cells of this program have.
pub(super) const ENGINES: [CopyEngine; 6] = [
    CopyEngine::TransferQueue,
    CopyEngine::MainQueue,
    CopyEngine::Compute,
    CopyEngine::Host,
    CopyEngine::HostStreaming,
    CopyEngine::Ring,
];

/// The name of an engine.
pub(super) fn engine(engine: CopyEngine) -> &'static str {
    match engine {
        CopyEngine::TransferQueue => "transfer_queue",
        CopyEngine::MainQueue => "main_queue",
        CopyEngine::Compute => "compute",
        CopyEngine::Host => "host",
        CopyEngine::HostStreaming => "host_streaming",
        CopyEngine::Ring => "ring",
        CopyEngine::Several => "several",
        CopyEngine::Other => "other",
    }
}

fn actor(actor: Actor) -> &'static str {
    match actor {
        Actor::Exporter => "exporter",
        Actor::Importer => "importer",
        Actor::Host => "host",
        Actor::Both => "both",
    }
}

fn direction(direction: Direction) -> Option<&'static str> {
    match direction {
        Direction::There => None,
        Direction::BothThere => Some("both_there"),
        Direction::BothBack => Some("both_back"),
        Direction::BothSum => Some("both_sum"),
    }
}

fn pattern(pattern: Pattern) -> Option<&'static str> {
    match pattern {
        Pattern::Pair => None,
        Pattern::OneToAll => Some("one_to_all"),
        Pattern::AllToOne => Some("all_to_one"),
        Pattern::AllPairs => Some("all_pairs"),
    }
}

/// What a key calls the library's way.
pub(super) fn engine_of(by: &CopyBy) -> CopyEngine {
    match by {
        CopyBy::MainQueue(_) => CopyEngine::MainQueue,
        CopyBy::TransferQueue(_) => CopyEngine::TransferQueue,
        CopyBy::ComputePass(_) => CopyEngine::Compute,
        CopyBy::Host => CopyEngine::Host,
        CopyBy::HostPastCache => CopyEngine::HostStreaming,
        CopyBy::Ring => CopyEngine::Ring,
        _ => CopyEngine::Other,
    }
}
