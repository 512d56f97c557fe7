//! Traces as a viewer takes them in.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex};

use serde_json::Value;

use super::*;
use crate::observe::explain::{Decision, Pick, Reason, What};

const VRAM: DomainId = DomainId::Vram(DeviceId(0));
const SYSTEM: DomainId = DomainId::System;

/// Bytes that outlive whoever writes them.
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

/// What is in the file when `tell` has told everything and the tracer is gone.
fn traced(tell: impl FnOnce(&Tracer)) -> Vec<u8> {
    let bytes = Bytes::default();
    let tracer = Tracer::to_writer(bytes.clone());
    tell(&tracer);
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

/// Everything that can be told, once. Ends with a move that does not end.
fn one_of_each(tracer: &Tracer) {
    tracer.device(DeviceId(0), "a \"GPU\"\n\\ Ü");
    tracer.counters(VRAM, Counters { budget: 256, used: 100, pinned: 10, in_flight: 1 });
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

/// Asserts what viewers want: lines have names, each goes forward, slices nest, arrows have two ends, each of
/// which lies within a slice.
fn check(events: &[Value]) {
    let mut last: BTreeMap<u64, u64> = BTreeMap::new();
    let mut named = BTreeSet::new();
    let mut slices: BTreeMap<u64, Vec<(u64, u64)>> = BTreeMap::new();
    let mut outer: BTreeMap<u64, BTreeMap<u64, &Value>> = BTreeMap::new();
    for event in events {
        assert_eq!(event["pid"], 1, "{event}");
        match phase(event) {
            "M" if event["name"] == "thread_name" => {
                assert!(named.insert(line_of(event)), "introduced twice: {event}");
            }
            "M" => continue,
            "X" => {
                slices.entry(line_of(event)).or_default().push(extent(event));
                if event["cat"] != "copy" {
                    outer.entry(line_of(event)).or_default().insert(extent(event).0, event);
                }
            }
            "C" | "i" | "s" | "f" => {}
            other => panic!("an event of phase {other}"),
        }
        if phase(event) != "M" {
            assert!(named.contains(&line_of(event)), "before its line had a name: {event}");
            let at = nanoseconds(event, "ts");
            let before = last.insert(line_of(event), at);
            assert!(before.is_none_or(|before| before < at), "after {before:?}: {event}");
        }
    }
    for (line, slices) in &slices {
        // They are sorted by their beginnings, as was just seen.
        let mut open: Vec<u64> = vec![];
        for &(begin, end) in slices {
            open.retain(|&until| until > begin);
            assert!(open.iter().all(|&until| end <= until), "line {line}: {begin}..{end} overlaps");
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
        for (event, category) in [(begin, "move"), (end, "callback")] {
            let at = nanoseconds(event, "ts");
            // The only one that may be open then: slices of these kinds lie side by side on their lines.
            let around = outer[&line_of(event)].range(..=at).next_back();
            let (_, slice) = around.expect("no slice has begun");
            assert!(at < extent(slice).1 && slice["cat"] == category, "no slice around {event}");
        }
    }
}

#[test]
fn one_of_each_is_what_it_should_be() {
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
            "moves by device 0 (a \"GPU\"\n\\ Ü)",
            "callbacks of device 1",
            "moves by the host",
        ]
    );
    for (name, bytes) in [("budget", 256), ("used", 100), ("pinned", 10), ("in flight", 1)] {
        let counter = named(&format!("VRAM of device 0, {name}"));
        assert_eq!((counter.len(), phase(counter[0])), (1, "C"));
        assert_eq!(counter[0]["args"], serde_json::json!({ "bytes": bytes }));
    }
    let done = named("buffer 5: eviction");
    let args = serde_json::json!({
        "move": 1, "buffer": 5, "bytes": 4096, "from": "VRAM of device 0", "to": "system memory",
        "cause": "eviction", "generation": 3, "outcome": "moved",
    });
    assert_eq!((phase(done[0]), &done[0]["args"]), ("X", &args));
    assert_eq!(named("buffer 6: eviction")[0]["args"]["outcome"], "unfinished");
    let copy = named("copy")[0];
    assert_eq!(extent(copy).1, extent(done[0]).1, "the copy ends with its move");
    assert!(extent(copy).0 > extent(done[0]).0, "and begins later");
    assert_eq!(named("buffer 5: mappings are old").len(), 1);
    assert_eq!(named("buffer 6: mappings are old").len(), 1);
    assert_eq!(named("told").len(), 2, "an arrow for the move, none for the call without one");
    let decided = named("buffer 5: evicted")[0];
    assert_eq!((phase(decided), &decided["s"]), ("i", &Value::from("t")));
    assert_eq!(decided["args"]["decision"], a_decision().to_string());
}

#[test]
fn many_threads_make_one_trace() {
    const THREADS: u64 = 8;
    const TURNS: u64 = 200;
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
                        tracer.counters(
                            VRAM,
                            Counters { budget: 1 << 30, used, pinned: 0, in_flight },
                        );
                        to_end.send(id).expect("somebody ends it");
                    }
                });
            }
            drop(to_end);
            // Others than those who began them, and late.
            scope.spawn(move || {
                ends.iter().for_each(|id| tracer.end(id, Outcome::Moved));
            });
        });
    });
    let events = events(&file);
    check(&events);
    let count = |phase_: &str, cat: &str| {
        events.iter().filter(|event| phase(event) == phase_ && event["cat"] == cat).count() as u64
    };
    let moves = THREADS * TURNS;
    assert_eq!(count("X", "move"), moves);
    assert_eq!(count("X", "copy"), moves);
    assert_eq!(count("X", "callback"), 3 * moves);
    assert_eq!((count("s", "move"), count("f", "move")), (3 * moves, 3 * moves));
    assert_eq!(count("i", "access"), 3 * moves);
    assert_eq!(count("i", "decision"), moves);
    let ended = events.iter().filter(|event| event["args"]["outcome"] == "moved").count() as u64;
    assert_eq!(ended, moves, "none is left open");
}

#[test]
fn overlapping_moves_share_no_line_and_later_ones_use_it_again() {
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
fn only_what_has_changed_is_counted_again_and_no_bound_is_not_drawn() {
    let file = traced(|tracer| {
        let counters = Counters { budget: u64::MAX, used: 1, pinned: 0, in_flight: 0 };
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
    let expected = [("used", 1), ("pinned", 0), ("in flight", 0), ("used", 2)];
    assert_eq!(drawn, expected.map(|(what, bytes)| (name(what), Some(bytes))));
}

#[test]
fn a_file_that_was_cut_off_is_an_array_without_its_end() {
    let whole = traced(one_of_each);
    let text = str::from_utf8(&whole).expect("UTF-8");
    for (cut, _) in text.match_indices('\n') {
        // What `chrome://tracing` does to an array that does not end.
        let cut = text[..cut].trim_end_matches(['\n', ',']);
        let mended = if cut.ends_with(']') { cut.to_owned() } else { format!("{cut}]") };
        let events: Vec<Value> = serde_json::from_str(&mended).expect(cut);
        assert!(events.len() < text.lines().count());
    }
}

/// Keeps what was written at once apart.
#[derive(Clone, Default)]
struct Chunks(Arc<Mutex<Vec<Vec<u8>>>>);

impl Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no writer panics").push(bytes.to_vec());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn memory_is_bounded_and_the_file_always_ends_with_a_whole_line() {
    let chunks = Chunks::default();
    let tracer = Tracer::to_writer(chunks.clone());
    (0..10_000).for_each(|buffer| tracer.access(an_access(buffer)));
    {
        let chunks = chunks.0.lock().expect("no writer panics");
        assert!(chunks.len() >= 10, "{} chunks", chunks.len());
        for chunk in &*chunks {
            assert!(chunk.len() < 80 << 10, "{} bytes at once", chunk.len());
            assert_eq!(chunk.last(), Some(&b'}'));
        }
    }
    drop(tracer);
    assert_eq!(
        events(&chunks.0.lock().expect("no writer panics").concat()).len(),
        10_000 + 1 + 2 * 4
    );
}

#[test]
fn accesses_are_read_back_as_they_were() {
    let mut told: Vec<_> = (0..1000).map(an_access).collect();
    told.push(AccessEvent {
        buffer: u64::MAX,
        bytes: u64::MAX,
        device: DeviceId(u16::MAX),
        ..told[1]
    });
    told.push(AccessEvent { domain: DomainId::Vram(DeviceId(u16::MAX)), ..told[2] });
    let file = traced(|tracer| {
        one_of_each(tracer);
        told.iter().for_each(|&access| tracer.access(access));
    });
    let all = [&[an_access(1)], &*told].concat();
    assert_eq!(read(&*file).expect("a trace"), all);
    // Cut off anywhere, it still tells what is there.
    let end = file.len() - 2000;
    for cut in (2..4000).chain(end..file.len()) {
        let accesses = read(&file[..cut]).expect("a trace that was cut off");
        assert_eq!(accesses, all[..accesses.len()]);
        let whole_lines = file[..cut].iter().filter(|&&byte| byte == b'\n').count();
        let lines = file[..cut].split(|&byte| byte == b'\n').take(whole_lines);
        let there = lines.filter(|line| line.windows(14).any(|part| part == br#""cat":"access""#));
        assert!(accesses.len() >= there.count(), "cut at {cut}");
    }
}

#[test]
fn what_is_no_trace_is_refused() {
    assert!(read(&b""[..]).expect("nothing").is_empty());
    let access =
        r#"{"ph":"i","cat":"access","args":{"buffer":1,"bytes":2,"device":0,"domain":"hell"}}"#;
    for (line, wrong) in [
        (1, "{\"traceEvents\":[]}".to_owned()),
        (2, "[\n{\"ph\":\"i\"\n{\"ph\":\"i\"}\n]\n".to_owned()),
        (2, format!("[\n{access}\n]\n")),
    ] {
        let error = read(wrong.as_bytes()).expect_err(&wrong);
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert_eq!(error.to_string(), format!("line {line} is none of a trace"));
    }
}

/// Counts warnings.
struct Warnings(Arc<AtomicUsize>);

impl tracing::Subscriber for Warnings {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() == tracing::Level::WARN
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, _: &tracing::Event<'_>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

fn warnings(work: impl FnOnce()) -> usize {
    let count = Arc::new(AtomicUsize::new(0));
    tracing::subscriber::with_default(Warnings(Arc::clone(&count)), work);
    count.load(Ordering::Relaxed)
}

/// Takes so many bytes, and then none.
struct Full {
    left: usize,
    refused: Arc<AtomicUsize>,
}

impl Write for Full {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.left.min(bytes.len()) {
            0 => {
                self.refused.fetch_add(1, Ordering::Relaxed);
                Err(io::ErrorKind::StorageFull.into())
            }
            taken => {
                self.left -= taken;
                Ok(taken)
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn an_error_ends_the_trace_and_nothing_else() {
    for left in [0, 1, 100_000] {
        let refused = Arc::new(AtomicUsize::new(0));
        let tracer = Tracer::to_writer(Full { left, refused: Arc::clone(&refused) });
        let warned = warnings(|| {
            let open = tracer.begin(a_move(1, None));
            let callback = tracer.callback(open, 1, DeviceId(0));
            for _ in 0..1000 {
                one_of_each(&tracer);
            }
            drop(callback);
            tracer.end(open, Outcome::Moved);
            drop(tracer);
        });
        assert_eq!((warned, refused.load(Ordering::Relaxed)), (1, 1), "{left} bytes");
    }
}

#[test]
fn a_full_device_and_a_closed_pipe_are_such_errors() {
    let full = Tracer::to_file("/dev/full".as_ref()).expect("it can be opened");
    let (reader, writer) = io::pipe().expect("a pipe");
    drop(reader);
    for tracer in [full, Tracer::to_writer(writer)] {
        assert!(tracer.is_on());
        assert_eq!(warnings(|| drop(tracer)), 1);
    }
}

#[test]
fn who_traces_nothing_is_told_nothing() {
    let tracer = Tracer::off();
    assert!(!tracer.is_on());
    let warned = warnings(|| one_of_each(&tracer));
    assert_eq!((warned, tracer.begin(a_move(1, None))), (0, MoveId::NONE));
    assert_eq!(size_of::<Tracer>(), 8);
}

/// A folder that goes with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("peerbuf-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a folder");
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).expect("it was made here");
    }
}

#[test]
fn engines_that_trace_at_a_time_have_files_of_their_own() {
    let folder = Folder::new("trace");
    let [path, second, third] = ["a.json", "a.2.json", "a.3.json"].map(|name| folder.0.join(name));
    std::fs::write(
        &path,
        "what another run has written, which is longer than what comes now, by far",
    )
    .expect("a file");
    let tracers = [1, 2, 3].map(|buffer| {
        let tracer = Tracer::to_file(&path).expect("a file that can be written");
        tracer.access(an_access(buffer));
        tracer
    });
    drop(tracers);
    for (path, buffer) in [(&path, 1), (&second, 2), (&third, 3)] {
        let file = std::fs::read(path).expect("a trace");
        assert_eq!(read(&*file).expect("a trace"), [an_access(buffer)]);
    }
    drop(Tracer::to_file(&path).expect("free again"));
    assert!(read(&*std::fs::read(&path).expect("a trace")).expect("a trace").is_empty());
    let nowhere = folder.0.join("none").join("a.json");
    assert_eq!(
        Tracer::to_file(&nowhere).expect_err("no such folder").kind(),
        io::ErrorKind::NotFound
    );
}

/// By itself it asks for whatever the tests were started with; the next one starts it with a file's name.
#[test]
fn the_environment_says_whether() {
    let name = std::env::var_os("PEERBUF_TRACE").filter(|name| !name.is_empty());
    let tracer = Tracer::from_env();
    assert!(!tracer.is_on() || name.is_some());
    tracer.access(an_access(4));
}

#[test]
fn the_environment_says_where() {
    let folder = Folder::new("environment");
    let run = |path: &std::path::Path| {
        let mut child = std::process::Command::new(std::env::current_exe().expect("this program"));
        let name = "observe::trace::tests::the_environment_says_whether";
        let child = child.args(["--exact", name]).env("PEERBUF_TRACE", path);
        let output = child.output().expect("it runs");
        assert!(output.status.success(), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"), "{output:?}");
    };
    let path = folder.0.join("a b.json");
    run(&path);
    let file = std::fs::read(&path).expect("a trace");
    assert_eq!(read(&*file).expect("a trace"), [an_access(4)]);
    // Nothing, and what cannot be written, are passed over.
    run("".as_ref());
    run(&folder.0.join("none").join("a.json"));
}
