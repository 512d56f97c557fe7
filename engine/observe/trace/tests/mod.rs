//! Traces as viewers read them.

mod file;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::sync::{Arc, Barrier, Mutex};

use serde_json::Value;

use super::*;
use crate::device::DeviceId;
use crate::memory::DomainId;
use crate::observe::explain::{Decision, Pick, Reason, What};

const VRAM: DomainId = DomainId::Vram(DeviceId(0));
const SYSTEM: DomainId = DomainId::System;

/// Bytes that outlive their writer.
#[derive(Clone, Default)]
struct Bytes(Arc<Mutex<Vec<u8>>>);

impl Write for Bytes {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no writer panics").write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The content of the file after `report` has reported all its events and the tracer was dropped.
fn traced(report: impl FnOnce(&Tracer)) -> Vec<u8> {
    let bytes = Bytes::default();
    let tracer = Tracer::to_writer(bytes.clone());
    report(&tracer);
    drop(tracer);
    bytes.0.lock().expect("no writer panics").clone()
}

fn events(file: &[u8]) -> Vec<Value> {
    serde_json::from_slice(file).expect("a JSON array")
}

fn a_move(buffer: u64, device: Option<DeviceId>) -> Move {
    Move { buffer, bytes: 4096, from: VRAM, to: SYSTEM, cause: "eviction", generation: 3, device }
}

fn an_access(buffer: u64) -> AccessEvent {
    // CAST: below 3.
    let device = DeviceId((buffer % 3) as u16);
    let domain = if buffer.is_multiple_of(5) { SYSTEM } else { DomainId::Vram(device) };
    AccessEvent { buffer, bytes: buffer << 12, device, domain, resident: buffer.is_multiple_of(2) }
}

fn a_decision() -> Decision {
    let reason = Reason::Wanted { bytes: 64 << 20, by: Some(7), pick: Pick::LeastRecent, of: 12 };
    Decision { what: What::Evicted, when: 9, from: VRAM, to: SYSTEM, bytes: 4096, reason }
}

/// Reports one event of each kind. The last one is a move that does not end.
fn one_of_each(tracer: &Tracer) {
    tracer.device(DeviceId(0), "a \"GPU\"\n\\ Ü");
    tracer.counters(VRAM, Counters { budget: 256, used: 100, in_flight: 1 });
    tracer.access(an_access(1));
    tracer.decision(5, &a_decision());
    let id = tracer.begin(a_move(5, Some(DeviceId(0))));
    drop(tracer.callback(id, 5, DeviceId(1)));
    tracer.submitted(id);
    tracer.end(id, Outcome::Moved);
    drop(tracer.callback(MoveId::NONE, 6, DeviceId(1)));
    tracer.begin(a_move(6, None));
}

fn phase(event: &Value) -> &str {
    event["ph"].as_str().expect("every event has a phase")
}

/// Nanoseconds, as Perfetto reads them.
fn nanoseconds(event: &Value, key: &str) -> u64 {
    // CAST: as Perfetto does; it is exact.
    (event[key].as_f64().expect("microseconds") * 1000.0) as u64
}

/// Begin and end of a slice.
fn extent(event: &Value) -> (u64, u64) {
    let begin = nanoseconds(event, "ts");
    (begin, begin + nanoseconds(event, "dur"))
}

fn line_of(event: &Value) -> u64 {
    event["tid"].as_u64().expect("a line")
}

/// Asserts what viewers need. Lines have names, and each goes forward. No two events share a moment. Slices
/// nest. An arrow has two ends, each within a slice, and the first slice ends before the other one begins.
fn check(events: &[Value]) {
    let mut last: BTreeMap<u64, u64> = BTreeMap::new();
    let mut named = BTreeSet::new();
    let mut slices: BTreeMap<u64, Vec<(u64, u64)>> = BTreeMap::new();
    let mut by_kind: BTreeMap<(u64, &str), BTreeMap<u64, &Value>> = BTreeMap::new();
    let mut moments = BTreeSet::new();
    for event in events {
        assert_eq!(event["pid"], 1, "{event}");
        match phase(event) {
            "M" if event["name"] == "thread_name" => {
                assert!(named.insert(line_of(event)), "introduced twice: {event}");
            }
            "M" => continue,
            "X" => {
                slices.entry(line_of(event)).or_default().push(extent(event));
                let kind = (line_of(event), event["cat"].as_str().expect("a kind"));
                by_kind.entry(kind).or_default().insert(extent(event).0, event);
                assert!(moments.insert(extent(event).1), "not alone when it ends: {event}");
            }
            "C" | "i" | "s" | "f" => {}
            other => panic!("an event of phase {other}"),
        }
        if phase(event) != "M" {
            assert!(named.contains(&line_of(event)), "before its line had a name: {event}");
            let at = nanoseconds(event, "ts");
            assert!(moments.insert(at), "not alone: {event}");
            let before = last.insert(line_of(event), at);
            assert!(before.is_none_or(|before| before < at), "after {before:?}: {event}");
        }
    }
    for (line, slices) in &slices {
        // They are sorted by their beginnings, as was checked above.
        let mut open: Vec<u64> = vec![];
        for &(begin, end) in slices {
            open.retain(|&until| until > begin);
            assert!(open.iter().all(|&until| end < until), "line {line}: {begin}..{end} overlaps");
            open.push(end);
        }
    }
    let ends = |which: &str| -> BTreeMap<u64, &Value> {
        let ends: Vec<_> = events.iter().filter(|event| phase(event) == which).collect();
        let by_id: BTreeMap<_, _> =
            ends.iter().map(|&event| (event["id"].as_u64().expect("a number"), event)).collect();
        assert_eq!(by_id.len(), ends.len(), "each arrow has a number of its own");
        by_id
    };
    let (begun, ended) = (ends("s"), ends("f"));
    assert!(begun.keys().eq(ended.keys()), "each arrow has two ends");
    for (id, begin) in begun {
        let end = ended[&id];
        assert!(nanoseconds(begin, "ts") < nanoseconds(end, "ts"), "{begin} {end}");
        let around = |event: &Value, kind| {
            let at = nanoseconds(event, "ts");
            // The only slice that may be open then: slices of one kind do not overlap on a line.
            let around = by_kind[&(line_of(event), kind)].range(..=at).next_back();
            let extent = extent(around.expect("no slice has begun").1);
            assert!(at < extent.1, "no {kind} around {event}");
            extent
        };
        around(begin, "move");
        let (from, to) = (around(begin, "tell"), around(end, "callback"));
        assert!(from.1 < to.0, "backwards: {begin} {end}");
    }
}

#[test]
fn one_event_of_each_kind_is_as_expected() {
    let events = events(&traced(one_of_each));
    check(&events);
    let named =
        |name: &str| -> Vec<&Value> { events.iter().filter(|e| e["name"] == name).collect() };
    assert_eq!(named("process_name")[0]["args"]["name"], "peerbuf");
    let lines: Vec<_> = named("thread_name").iter().map(|event| &event["args"]["name"]).collect();
    assert_eq!(
        lines,
        [
            "VRAM of device 0",
            "VRAM of device 1",
            "moves by device 0 - a \"GPU\"\n\\ Ü",
            "callbacks of device 1",
            "moves by the host",
        ]
    );
    for (name, bytes) in [("budget", 256), ("used", 100), ("in flight", 1)] {
        let counter = named(&format!("VRAM of device 0, {name}"));
        assert_eq!(counter.len(), 2, "when it was reported, and at the end");
        for counter in counter {
            assert_eq!(phase(counter), "C");
            assert_eq!(counter["args"], serde_json::json!({ "bytes": bytes }));
        }
    }
    let done = named("buffer 5: eviction");
    let args = serde_json::json!({
        "move": 1, "buffer": 5, "bytes": 4096, "from": "VRAM of device 0", "to": "system memory",
        "cause": "eviction", "generation": 3, "outcome": "moved",
    });
    assert_eq!((phase(done[0]), &done[0]["args"]), ("X", &args));
    assert_eq!(named("buffer 6: eviction")[0]["args"]["outcome"], "unfinished");
    let copy = named("copy")[0];
    assert!(extent(copy).1 < extent(done[0]).1, "the copy ends before its move");
    assert!(extent(copy).0 > extent(done[0]).0, "and begins later");
    assert_eq!((phase(named("tell")[0]), named("tell").len()), ("X", 1));
    assert_eq!(named("buffer 5: mappings are old").len(), 1);
    assert_eq!(named("buffer 6: mappings are old").len(), 1);
    assert_eq!(named("told").len(), 2, "an arrow for the move, none for the call without one");
    assert_eq!(phase(named("buffer 1: used")[0]), "i");
    let decided = named("buffer 5: decided: evicted")[0];
    assert_eq!((phase(decided), &decided["s"]), ("i", &Value::from("t")));
    assert_eq!(decided["args"]["decision"], a_decision().to_string());
}

#[test]
fn many_threads_make_one_trace() {
    const THREADS: u64 = 8;
    const TURNS: u64 = 200;
    // CAST: eight.
    let barrier = Barrier::new(THREADS as usize);
    let (to_end, ends) = std::sync::mpsc::channel();
    let file = traced(|tracer| {
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let (to_end, barrier) = (to_end.clone(), &barrier);
                scope.spawn(move || {
                    barrier.wait();
                    for turn in 0..TURNS {
                        let buffer = thread * TURNS + turn;
                        // Two devices copy, so that moves of several threads overlap on each.
                        // CAST: below 2.
                        let id = tracer.begin(a_move(buffer, Some(DeviceId((thread % 2) as u16))));
                        for importer in 0..3 {
                            let outer = tracer.callback(id, buffer, DeviceId(importer));
                            tracer.access(an_access(buffer));
                            drop(outer);
                        }
                        tracer.submitted(id);
                        tracer.decision(buffer, &a_decision());
                        let used = buffer * 4096;
                        let in_flight = turn % 7;
                        tracer.counters(VRAM, Counters { budget: 1 << 30, used, in_flight });
                        to_end.send(id).expect("the receiver is alive");
                    }
                });
            }
            drop(to_end);
            // Another thread ends the moves, and late.
            scope.spawn(move || {
                ends.iter().for_each(|id| tracer.end(id, Outcome::Moved));
            });
        });
    });
    let events = events(&file);
    check(&events);
    let count = |phase_: &str, cat: &str| {
        // CAST: a count of events.
        events.iter().filter(|event| phase(event) == phase_ && event["cat"] == cat).count() as u64
    };
    let moves = THREADS * TURNS;
    assert_eq!(count("X", "move"), moves);
    assert_eq!(count("X", "copy"), moves);
    assert_eq!(count("X", "tell"), 3 * moves);
    assert_eq!(count("X", "callback"), 3 * moves);
    assert_eq!((count("s", "move"), count("f", "move")), (3 * moves, 3 * moves));
    assert_eq!(count("i", "access"), 3 * moves);
    assert_eq!(count("i", "decision"), moves);
    // CAST: as above.
    let ended = events.iter().filter(|event| event["args"]["outcome"] == "moved").count() as u64;
    assert_eq!(ended, moves, "none is left open");
}

#[test]
fn overlapping_moves_share_no_line_and_later_ones_reuse_it() {
    let file = traced(|tracer| {
        let [first, second] = [1, 2].map(|buffer| tracer.begin(a_move(buffer, None)));
        tracer.end(first, Outcome::Moved);
        let third = tracer.begin(a_move(3, None));
        tracer.end(second, Outcome::Failed);
        tracer.end(third, Outcome::Stayed);
        tracer.end(third, Outcome::Moved);
    });
    let events = events(&file);
    check(&events);
    let moves: BTreeMap<_, _> = events
        .iter()
        .filter(|event| event["cat"] == "move")
        .map(|event| {
            (event["args"]["buffer"].as_u64(), (line_of(event), &event["args"]["outcome"]))
        })
        .collect();
    assert_eq!(moves.len(), 3);
    let line = |buffer| moves[&Some(buffer)].0;
    assert!(line(1) != line(2) && line(1) == line(3));
    assert_eq!([1, 2, 3].map(|buffer| moves[&Some(buffer)].1), ["moved", "failed", "stayed"]);
}

#[test]
fn a_copy_that_is_made_again_follows_the_one_that_failed() {
    let file = traced(|tracer| {
        let id = tracer.begin(a_move(1, None));
        tracer.submitted(id);
        drop(tracer.callback(id, 1, DeviceId(0)));
        tracer.submitted(id);
        tracer.end(id, Outcome::Moved);
    });
    let events = events(&file);
    check(&events);
    let copies: Vec<_> = events.iter().filter(|event| event["cat"] == "copy").map(extent).collect();
    assert!(copies.len() == 2 && copies[0].1 < copies[1].0, "{copies:?}");
}

#[test]
fn only_changed_counters_are_written_and_no_limit_is_not_drawn() {
    let file = traced(|tracer| {
        let counters = Counters { budget: u64::MAX, used: 1, in_flight: 0 };
        tracer.counters(SYSTEM, counters);
        tracer.counters(SYSTEM, counters);
        tracer.counters(SYSTEM, Counters { used: 2, ..counters });
    });
    let drawn: Vec<_> = events(&file)
        .iter()
        .filter(|event| phase(event) == "C")
        .map(|event| (event["name"].to_string(), event["args"]["bytes"].as_u64()))
        .collect();
    let name = |what| format!("\"system memory, {what}\"");
    // All of them once more at the end, so that they are drawn up to it.
    let expected = [("used", 1), ("in flight", 0), ("used", 2), ("used", 2), ("in flight", 0)];
    assert_eq!(drawn, expected.map(|(what, bytes)| (name(what), Some(bytes))));
}
