//! What a trace is made of, and in which order its events stand in the file.
//!
//! Every event has a moment of its own: the clock never shows the same one twice. So nothing has to be
//! guessed from the order of lines, and each line of a track goes forward in the file too: a slice is
//! written when it has ended, together with the arrows that begin on it.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io::{self, Write};
use std::mem;
use std::time::Instant;

use super::json::{Event, Ticks};
use super::tracks::{Lane, Track, Tracks};
use super::{AccessEvent, Counters, Move, Outcome};
use crate::device::DeviceId;
use crate::memory::DomainId;
use crate::observe::explain::Decision;

/// How many bytes are written at once.
const CHUNK: usize = 64 << 10;
/// The process that everything is shown under.
const PROCESS: u32 = 1;

/// Where events go, and what has to be remembered between them.
pub(super) struct Recorder {
    /// `None` after an error: nothing is traced any more.
    out: Option<Box<dyn Write + Send>>,
    /// Whole lines that are still to be written; so a file that is cut off ends with a whole line.
    lines: String,
    written: Ticks,
    clock: Clock,
    tracks: Tracks,
    open: BTreeMap<u64, OpenMove>,
    moves: u64,
    arrows: u64,
    counters: BTreeMap<DomainId, [Option<u64>; 3]>,
}

#[derive(Debug)]
struct Clock {
    began: Instant,
    last: Ticks,
}

struct OpenMove {
    what: Move,
    lane: Lane,
    begun: Ticks,
    /// In the order in which they came.
    marks: Vec<(Ticks, Mark)>,
}

enum Mark {
    /// An importer is told: a slice that ends soon, with an arrow on it.
    Told { arrow: u64, at: Ticks, end: Ticks },
    /// The copy was submitted. Its end, unless it ends with the move.
    Copy { end: Option<Ticks> },
}

/// A callback that is running.
pub(super) struct OpenCallback {
    lane: Lane,
    buffer: u64,
    begun: Ticks,
    arrow: Option<(Ticks, u64)>,
}

impl Recorder {
    pub(super) fn new(out: Box<dyn Write + Send>) -> Self {
        let mut recorder = Self {
            out: Some(out),
            lines: String::new(),
            written: Ticks::default(),
            clock: Clock { began: Instant::now(), last: Ticks::default() },
            tracks: Tracks::default(),
            open: BTreeMap::new(),
            moves: 0,
            arrows: 0,
            counters: BTreeMap::new(),
        };
        recorder.lines.push_str("[\n");
        Event::new(&mut recorder.lines, 'M')
            .number("pid", PROCESS)
            .text("name", "process_name")
            .args()
            .text("name", "peerbuf")
            .end();
        recorder
    }

    pub(super) fn name_device(&mut self, device: DeviceId, name: &str) {
        self.tracks.name_device(device, name);
    }

    pub(super) fn counters(&mut self, domain: DomainId, counters: Counters) {
        let Counters { budget, used, in_flight } = counters;
        // No budget at all is no number that anybody wants to see drawn.
        let now = [(budget != u64::MAX).then_some(budget), Some(used), Some(in_flight)];
        let before = self.counters.insert(domain, now).unwrap_or_default();
        let mut changed = now;
        for (now, before) in changed.iter_mut().zip(before) {
            *now = now.filter(|_| *now != before);
        }
        self.count(domain, changed);
    }

    fn count(&mut self, domain: DomainId, counters: [Option<u64>; 3]) {
        for (name, bytes) in ["budget", "used", "in flight"].into_iter().zip(counters) {
            if let Some(bytes) = bytes {
                let lane = self.line(Track::Domain(domain));
                let at = self.clock.tick();
                self.event('C', at, lane)
                    .text("name", format_args!("{domain}, {name}"))
                    .args()
                    .number("bytes", bytes)
                    .end();
            }
        }
    }

    /// A move begins; its number.
    pub(super) fn begin(&mut self, what: Move) -> u64 {
        if self.out.is_none() {
            return 0;
        }
        let lane = self.take(Track::Moves(what.device));
        let begun = self.clock.tick();
        self.moves += 1;
        self.open.insert(self.moves, OpenMove { what, lane, begun, marks: vec![] });
        self.moves
    }

    pub(super) fn submitted(&mut self, number: u64) {
        if let Some(open) = self.open.get_mut(&number) {
            let [over, now] = [(); 2].map(|()| self.clock.tick());
            for (_, mark) in &mut open.marks {
                // What is submitted again has failed before.
                if let Mark::Copy { end } = mark {
                    end.get_or_insert(over);
                }
            }
            open.marks.push((now, Mark::Copy { end: None }));
        }
    }

    pub(super) fn end(&mut self, number: u64, outcome: Outcome) {
        if let Some(open) = self.open.remove(&number) {
            self.close(number, &open, outcome);
        }
    }

    fn close(&mut self, number: u64, open: &OpenMove, outcome: Outcome) {
        let OpenMove { what, lane, begun, ref marks } = *open;
        // The copy ends earlier: viewers add begins and lengths in ways that round, and what ends with its
        // move might then end after it.
        let copied = self.clock.tick();
        let end = self.clock.tick();
        let Move { buffer, bytes, from, to, cause, generation, .. } = what;
        self.event('X', begun, lane)
            .ticks("dur", end.since(begun))
            .text("cat", "move")
            .text("name", format_args!("buffer {buffer}: {cause}"))
            .args()
            .number("move", number)
            .number("buffer", buffer)
            .number("bytes", bytes)
            .text("from", from)
            .text("to", to)
            .text("cause", cause)
            .number("generation", generation)
            .text("outcome", outcome.name())
            .end();
        for &(at, ref mark) in marks {
            match *mark {
                Mark::Told { arrow, at: arrow_at, end } => {
                    self.part(lane, at, end, "tell");
                    self.arrow('s', arrow_at, lane, arrow);
                }
                Mark::Copy { end } => self.part(lane, at, end.unwrap_or(copied), "copy"),
            }
        }
        self.tracks.give_back(lane);
    }

    /// A part of a move, as a slice within it.
    fn part(&mut self, lane: Lane, begun: Ticks, end: Ticks, what: &str) {
        self.event('X', begun, lane)
            .ticks("dur", end.since(begun))
            .text("cat", what)
            .text("name", what)
            .end();
    }

    /// An importer is called. If that is because of a move, an arrow leads from the move to the call.
    pub(super) fn callback(
        &mut self,
        number: u64,
        buffer: u64,
        importer: DeviceId,
    ) -> OpenCallback {
        let lane = self.take(Track::Callbacks(importer));
        let arrow = self.open.get_mut(&number).map(|open| {
            self.arrows += 1;
            // Perfetto draws an arrow from the end of its slice, and the move ends after the call. So the
            // arrow has a slice of its own, which has ended when the call begins.
            let [told, at, end] = [(); 3].map(|()| self.clock.tick());
            open.marks.push((told, Mark::Told { arrow: self.arrows, at, end }));
            self.arrows
        });
        let begun = self.clock.tick();
        let arrow = arrow.map(|id| (self.clock.tick(), id));
        OpenCallback { lane, buffer, begun, arrow }
    }

    pub(super) fn called(&mut self, callback: &OpenCallback) {
        let OpenCallback { lane, buffer, begun, arrow } = *callback;
        let end = self.clock.tick();
        self.event('X', begun, lane)
            .ticks("dur", end.since(begun))
            .text("cat", "callback")
            .text("name", format_args!("buffer {buffer}: mappings are old"))
            .args()
            .number("buffer", buffer)
            .end();
        if let Some((at, id)) = arrow {
            self.arrow('f', at, lane, id);
        }
        self.tracks.give_back(lane);
    }

    pub(super) fn access(&mut self, access: AccessEvent) {
        let AccessEvent { buffer, bytes, device, domain, resident } = access;
        let lane = self.line(Track::Domain(domain));
        let at = self.clock.tick();
        self.event('i', at, lane)
            .text("s", 't')
            .text("cat", "access")
            .text("name", format_args!("buffer {buffer}: used"))
            .args()
            .number("buffer", buffer)
            .number("bytes", bytes)
            .number("device", device.0)
            .text("domain", domain)
            .flag("resident", resident)
            .end();
    }

    pub(super) fn decision(&mut self, buffer: u64, decision: &Decision) {
        let lane = self.line(Track::Domain(decision.from));
        let at = self.clock.tick();
        self.event('i', at, lane)
            .text("s", 't')
            .text("cat", "decision")
            .text("name", format_args!("buffer {buffer}: decided: {}", decision.what))
            .args()
            .number("buffer", buffer)
            .number("bytes", decision.bytes)
            .text("from", decision.from)
            .text("to", decision.to)
            .number("when", decision.when)
            .text("decision", decision)
            .end();
    }

    /// Writes what is due. To be called after each event.
    pub(super) fn write(&mut self) -> io::Result<()> {
        let since = self.clock.last.since(self.written);
        if self.lines.len() >= CHUNK || since.0 >= Ticks::PER_SECOND {
            self.write_all()?;
        }
        Ok(())
    }

    /// Closes what is open, and makes a whole of the file.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        while let Some((number, open)) = self.open.pop_first() {
            self.close(number, &open, Outcome::Unfinished);
            self.write()?;
        }
        // Viewers draw a counter as far as its last value stands.
        for (domain, counters) in mem::take(&mut self.counters) {
            self.count(domain, counters);
        }
        self.lines.push_str("\n]\n");
        self.write_all()
    }

    /// Traces nothing any more, and remembers nothing.
    pub(super) fn stop(&mut self) {
        self.out = None;
        self.lines = String::new();
        self.open.clear();
        self.counters.clear();
    }

    pub(super) fn has_stopped(&self) -> bool {
        self.out.is_none()
    }

    fn write_all(&mut self) -> io::Result<()> {
        self.written = self.clock.last;
        if let Some(out) = &mut self.out {
            out.write_all(self.lines.as_bytes())?;
            out.flush()?;
        }
        self.lines.clear();
        Ok(())
    }

    fn arrow(&mut self, phase: char, at: Ticks, lane: Lane, id: u64) {
        let event = self.event(phase, at, lane).number("id", id);
        // An arrow belongs to the slice that is open at its moment, at both ends.
        event.text("bp", 'e').text("cat", "move").text("name", "told").end();
    }

    fn event(&mut self, phase: char, at: Ticks, lane: Lane) -> Event<'_> {
        self.lines.push_str(",\n");
        Event::new(&mut self.lines, phase)
            .ticks("ts", at)
            .number("pid", PROCESS)
            .number("tid", lane.tid)
    }

    fn line(&mut self, track: Track) -> Lane {
        let (lane, is_new) = self.tracks.line(track);
        self.introduce(lane, is_new)
    }

    fn take(&mut self, track: Track) -> Lane {
        let (lane, is_new) = self.tracks.take(track);
        self.introduce(lane, is_new)
    }

    fn introduce(&mut self, lane: Lane, is_new: bool) -> Lane {
        if is_new {
            let name = self.tracks.name(lane);
            self.about(lane, "thread_name").text("name", name).end();
            self.about(lane, "thread_sort_index").number("sort_index", lane.rank()).end();
        }
        lane
    }

    fn about(&mut self, lane: Lane, name: impl Display) -> Event<'_> {
        self.lines.push_str(",\n");
        let event = Event::new(&mut self.lines, 'M').number("pid", PROCESS);
        event.number("tid", lane.tid).text("name", name).args()
    }
}

impl Clock {
    /// Now, and later than the last time.
    fn tick(&mut self) -> Ticks {
        // CAST: 2^64 nanoseconds are 584 years.
        let nanoseconds = self.began.elapsed().as_nanos() as u64;
        self.last = Ticks(nanoseconds / Ticks::NANOSECONDS).max(Ticks(self.last.0 + 1));
        self.last
    }
}
