//! Turns events into the text of a trace, and defines their order in the file.
//!
//! Every event has its own moment: the clock never returns the same one twice. So the order of events does not
//! depend on the order of the text, and each line of a track goes forward in the file too. A slice is written
//! when it has ended, together with the arrows that begin on it.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io::{self, Write};
use std::mem;
use std::time::Instant;

use super::event::{AccessEvent, Counters, Move, Outcome};
use super::json::{Event, Ticks};
use super::tracks::{Track, TrackLine, Tracks};
use crate::device::DeviceId;
use crate::memory::DomainId;
use crate::observe::explain::Decision;

/// Text is written when it has at least so many bytes.
const CHUNK: usize = 64 << 10;
/// The number of the process that viewers show all tracks under.
const PROCESS: u32 = 1;

/// The output of a trace, and its state between events.
pub(super) struct Recorder {
    /// `None` after the trace has ended.
    out: Option<Box<dyn Write + Send>>,
    /// The error that ended it.
    error: Option<io::Error>,
    /// Whole lines that are not written yet. So a file that is cut off ends with a whole line.
    text: String,
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
    line: TrackLine,
    begun: Ticks,
    /// In the order of their moments.
    marks: Vec<(Ticks, Mark)>,
}

enum Mark {
    /// An importer is notified: a short slice, with an arrow that begins on it.
    Notified { arrow: u64, at: Ticks, end: Ticks },
    /// The copy was submitted. `end` is `None` if the copy ends with the move.
    Copy { end: Option<Ticks> },
}

/// A running call of an importer.
pub(super) struct OpenCallback {
    line: TrackLine,
    buffer: u64,
    begun: Ticks,
    arrow: Option<(Ticks, u64)>,
}

impl Recorder {
    pub(super) fn new(out: Box<dyn Write + Send>) -> Self {
        let mut recorder = Self {
            out: Some(out),
            error: None,
            text: String::new(),
            written: Ticks::default(),
            clock: Clock { began: Instant::now(), last: Ticks::default() },
            tracks: Tracks::default(),
            open: BTreeMap::new(),
            moves: 0,
            arrows: 0,
            counters: BTreeMap::new(),
        };
        recorder.text.push_str("[\n");
        Event::new(&mut recorder.text, 'M')
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
        // A budget without a limit is not drawn.
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
                let line = self.line(Track::Domain(domain));
                let at = self.clock.tick();
                self.event('C', at, line)
                    .text("name", format_args!("{domain}, {name}"))
                    .args()
                    .number("bytes", bytes)
                    .end();
            }
        }
    }

    /// Begins a move, and returns its number.
    pub(super) fn begin(&mut self, what: Move) -> u64 {
        if self.out.is_none() {
            return 0;
        }
        let line = self.take(Track::Moves(what.device));
        let begun = self.clock.tick();
        self.moves += 1;
        self.open.insert(self.moves, OpenMove { what, line, begun, marks: vec![] });
        self.moves
    }

    pub(super) fn submitted(&mut self, number: u64) {
        if let Some(open) = self.open.get_mut(&number) {
            let [over, now] = [(); 2].map(|()| self.clock.tick());
            for (_, mark) in &mut open.marks {
                // A copy that is submitted again has failed before.
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
        let OpenMove { what, line, begun, ref marks } = *open;
        // The copy ends before the move. Viewers round when they add begins and lengths, so a copy that ends
        // with its move could be shown as ending after it.
        let copied = self.clock.tick();
        let end = self.clock.tick();
        let Move { buffer, bytes, from, to, cause, generation, .. } = what;
        self.event('X', begun, line)
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
                Mark::Notified { arrow, at: arrow_at, end } => {
                    self.part(line, at, end, "tell");
                    self.arrow('s', arrow_at, line, arrow);
                }
                Mark::Copy { end } => self.part(line, at, end.unwrap_or(copied), "copy"),
            }
        }
        self.tracks.give_back(line);
    }

    /// Writes a part of a move, as a slice within it.
    fn part(&mut self, line: TrackLine, begun: Ticks, end: Ticks, what: &str) {
        self.event('X', begun, line)
            .ticks("dur", end.since(begun))
            .text("cat", what)
            .text("name", what)
            .end();
    }

    /// Begins a call of an importer. If a move is the cause, an arrow leads from the move to the call.
    pub(super) fn callback(
        &mut self,
        number: u64,
        buffer: u64,
        importer: DeviceId,
    ) -> OpenCallback {
        let line = self.take(Track::Callbacks(importer));
        let arrow = self.open.get_mut(&number).map(|open| {
            self.arrows += 1;
            // Perfetto draws an arrow from the end of the slice that it begins on, and the move ends after the
            // call. So the arrow begins on a slice of its own, which ends before the call.
            let [begun, at, end] = [(); 3].map(|()| self.clock.tick());
            open.marks.push((begun, Mark::Notified { arrow: self.arrows, at, end }));
            self.arrows
        });
        let begun = self.clock.tick();
        let arrow = arrow.map(|id| (self.clock.tick(), id));
        OpenCallback { line, buffer, begun, arrow }
    }

    pub(super) fn called(&mut self, callback: &OpenCallback) {
        let OpenCallback { line, buffer, begun, arrow } = *callback;
        let end = self.clock.tick();
        self.event('X', begun, line)
            .ticks("dur", end.since(begun))
            .text("cat", "callback")
            .text("name", format_args!("buffer {buffer}: mappings are old"))
            .args()
            .number("buffer", buffer)
            .end();
        if let Some((at, id)) = arrow {
            self.arrow('f', at, line, id);
        }
        self.tracks.give_back(line);
    }

    pub(super) fn access(&mut self, access: AccessEvent) {
        let AccessEvent { buffer, bytes, device, domain, resident } = access;
        let line = self.line(Track::Domain(domain));
        let at = self.clock.tick();
        self.event('i', at, line)
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
        let line = self.line(Track::Domain(decision.from));
        let at = self.clock.tick();
        self.event('i', at, line)
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

    /// Writes the text if it is long or old enough. Must be called after each event.
    pub(super) fn write(&mut self) -> io::Result<()> {
        let since = self.clock.last.since(self.written);
        if self.text.len() >= CHUNK || since.0 >= Ticks::PER_SECOND {
            self.write_all()?;
        }
        Ok(())
    }

    /// Ends all open moves, and completes the file.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        while let Some((number, open)) = self.open.pop_first() {
            self.close(number, &open, Outcome::Unfinished);
            self.write()?;
        }
        // Viewers draw a counter only up to its last event.
        for (domain, counters) in mem::take(&mut self.counters) {
            self.count(domain, counters);
        }
        self.text.push_str("\n]\n");
        self.write_all()
    }

    /// Ends the trace because of `error`, or because it is complete, and drops the state.
    pub(super) fn stop(&mut self, error: Option<io::Error>) {
        self.error = error;
        self.out = None;
        self.text = String::new();
        self.open.clear();
        self.counters.clear();
    }

    /// The error that ended the trace.
    pub(super) fn error(&self) -> Option<&io::Error> {
        self.error.as_ref()
    }

    pub(super) fn has_stopped(&self) -> bool {
        self.out.is_none()
    }

    fn write_all(&mut self) -> io::Result<()> {
        self.written = self.clock.last;
        if let Some(out) = &mut self.out {
            out.write_all(self.text.as_bytes())?;
            out.flush()?;
        }
        self.text.clear();
        Ok(())
    }

    fn arrow(&mut self, phase: char, at: Ticks, line: TrackLine, id: u64) {
        let event = self.event(phase, at, line).number("id", id);
        // At both ends, `"bp": "e"` binds the arrow to the slice that is open at its moment.
        event.text("bp", 'e').text("cat", "move").text("name", "told").end();
    }

    fn event(&mut self, phase: char, at: Ticks, line: TrackLine) -> Event<'_> {
        self.text.push_str(",\n");
        Event::new(&mut self.text, phase)
            .ticks("ts", at)
            .number("pid", PROCESS)
            .number("tid", line.tid)
    }

    fn line(&mut self, track: Track) -> TrackLine {
        let (line, is_new) = self.tracks.line(track);
        self.introduce(line, is_new)
    }

    fn take(&mut self, track: Track) -> TrackLine {
        let (line, is_new) = self.tracks.take(track);
        self.introduce(line, is_new)
    }

    fn introduce(&mut self, line: TrackLine, is_new: bool) -> TrackLine {
        if is_new {
            let name = self.tracks.name(line);
            self.about(line, "thread_name").text("name", name).end();
            self.about(line, "thread_sort_index").number("sort_index", line.rank()).end();
        }
        line
    }

    fn about(&mut self, line: TrackLine, name: impl Display) -> Event<'_> {
        self.text.push_str(",\n");
        let event = Event::new(&mut self.text, 'M').number("pid", PROCESS);
        event.number("tid", line.tid).text("name", name).args()
    }
}

impl Clock {
    /// The current moment, or the next one if this was returned before.
    fn tick(&mut self) -> Ticks {
        // CAST: 2^64 nanoseconds are 584 years.
        let nanoseconds = self.began.elapsed().as_nanos() as u64;
        self.last = Ticks(nanoseconds / Ticks::NANOSECONDS).max(Ticks(self.last.0 + 1));
        self.last
    }
}
