//! What is measured together: one copy, or several at once, and the cells that come of them.

use std::sync::Barrier;
use std::time::{Duration, Instant};

use peerbuf::Error;

use super::super::run::{Cell, Counters, Ended, Hop, Key, Verdict, Verified};
use super::super::stats;
use super::leg::{Leg, Plan, Times};

/// Which copies a cell is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// One of them.
    One(usize),
    /// All: from the begin of the first until the end of the last.
    All,
}

/// What is to be measured.
#[derive(Clone, Debug)]
pub(super) struct Spec {
    pub(super) cells: Vec<(Key, Part)>,
    pub(super) plans: Vec<Plan>,
    pub(super) size: u64,
}

/// The least samples of one visit.
const LEAST: usize = 3;

/// The most samples of one visit.
const MOST: usize = 400;

/// The part of the median within which its interval is narrow.
const NARROW: f64 = 0.01;

/// Fewer rounds show no drift.
const ROUNDS: usize = 3;

/// What is measured, and what was found so far.
#[derive(Debug)]
pub(super) struct Job<'a> {
    pub(super) spec: Spec,
    legs: Vec<Leg<'a>>,
    /// For each cell and round the times.
    samples: Vec<Vec<Vec<f64>>>,
    device_samples: Vec<Vec<Vec<f64>>>,
    /// Of each round, where one copy runs at a time, the time of a copy behind a held queue.
    queued: Vec<Vec<f64>>,
    pub(super) spent: Duration,
    turn: usize,
    verified: Option<Verified>,
    counters: Option<Counters>,
    loaded: Vec<Hop>,
    pub(super) ended: Option<Ended>,
    failure: Option<String>,
    /// Whether a test has a byte changed.
    wrong_byte: bool,
}

impl<'a> Job<'a> {
    /// A job with the buffers that `legs` have, or the reason why there are none.
    pub(super) fn new(spec: Spec, legs: Result<Vec<Leg<'a>>, Error>, wrong_byte: bool) -> Self {
        let samples = vec![vec![]; spec.cells.len()];
        let (legs, failure) = match legs {
            Ok(legs) => (legs, None),
            Err(error) => (vec![], Some(error.with_causes())),
        };
        Self {
            spec,
            legs,
            device_samples: samples.clone(),
            samples,
            queued: vec![],
            spent: Duration::ZERO,
            turn: 0,
            verified: None,
            counters: None,
            loaded: vec![],
            ended: None,
            failure,
            wrong_byte,
        }
    }

    /// Whether it was never visited.
    pub(super) fn is_new(&self) -> bool {
        self.failure.is_none() && self.samples.iter().all(Vec::is_empty)
    }

    /// Whether there is something left to measure.
    pub(super) fn is_open(&self) -> bool {
        self.ended.is_none() && self.failure.is_none()
    }

    /// Measures for one more round: takes samples for `slice`, and ends the job when its intervals are narrow or `budget`
    /// is used. The first round prepares the buffers, and compares all bytes at its end. `hops` reads the links.
    pub(super) fn visit(
        &mut self,
        seed: u32,
        (slice, budget): (Duration, Duration),
        hops: &(dyn Fn() -> Vec<Hop> + Sync),
    ) {
        let first = self.is_new();
        if let Err(error) = self.measure(first, seed, slice, hops) {
            // What was measured before says nothing about the bytes that arrived.
            self.failure = Some(error.with_causes());
            return;
        }
        let narrow = |samples: &Vec<Vec<f64>>| {
            let summary = stats::summary(samples);
            samples.len() >= ROUNDS && summary.is_some_and(|it| stats::is_narrow(&it, NARROW))
        };
        if self.samples.iter().all(narrow) {
            self.ended = Some(Ended::Narrow);
        } else if self.spent >= budget {
            self.ended = Some(Ended::Time);
        }
    }

    fn measure(
        &mut self,
        first: bool,
        seed: u32,
        slice: Duration,
        hops: &(dyn Fn() -> Vec<Hop> + Sync),
    ) -> Result<(), Error> {
        if first {
            self.prepare(seed, hops)?;
        }
        let start = Instant::now();
        let mut rounds = vec![(vec![], vec![]); self.spec.cells.len()];
        let mut taken = 0;
        while taken < LEAST || start.elapsed() < slice && taken < MOST {
            let times = self.sample()?;
            let all = span(&times);
            for ((_, part), (host, device)) in self.spec.cells.iter().zip(&mut rounds) {
                match part {
                    Part::One(leg) => {
                        host.push(times[*leg].host);
                        device.extend(times[*leg].device);
                    }
                    Part::All => host.push(all),
                }
            }
            taken += 1;
        }
        if let [leg] = &self.legs[..] {
            let queued: Vec<_> = leg.queued(self.turn)?.into_iter().collect();
            if !queued.is_empty() {
                self.queued.push(queued);
            }
        }
        self.spent += start.elapsed();
        for (cell, (host, device)) in rounds.into_iter().enumerate() {
            self.samples[cell].push(host);
            if !device.is_empty() {
                self.device_samples[cell].push(device);
            }
        }
        if first {
            let mut all = Verified { bytes: 0, wrong_bytes: 0 };
            for leg in &self.legs {
                if self.wrong_byte {
                    leg.change_a_byte()?;
                }
                let found = leg.verify(seed)?;
                all.bytes += found.bytes;
                all.wrong_bytes += found.wrong_bytes;
            }
            self.verified = Some(all);
        }
        Ok(())
    }

    /// Fills the buffers, uses each of them once, and reads the links meanwhile.
    fn prepare(&mut self, seed: u32, hops: &(dyn Fn() -> Vec<Hop> + Sync)) -> Result<(), Error> {
        self.legs.iter().try_for_each(|leg| leg.prepare(seed))?;
        let turns = self.legs.iter().map(Leg::turns).max().unwrap_or(1);
        let (loaded, used) = std::thread::scope(|scope| {
            let reading = scope.spawn(hops);
            let used = (0..turns).try_for_each(|_| self.sample().map(drop));
            (reading.join().unwrap_or_default(), used)
        });
        self.loaded = loaded;
        used?;
        if let [leg] = &self.legs[..] {
            self.counters = Some(leg.count(self.turn)?);
        }
        Ok(())
    }

    /// Copies once by every leg, all at the same time.
    fn sample(&mut self) -> Result<Vec<Times>, Error> {
        let turn = self.turn;
        self.turn += 1;
        if let [leg] = &self.legs[..] {
            return Ok(vec![leg.copy(turn)?]);
        }
        let ready = &Barrier::new(self.legs.len());
        std::thread::scope(|scope| {
            let copy = |leg: &'_ Leg<'a>| {
                ready.wait();
                leg.copy(turn)
            };
            let threads: Vec<_> =
                self.legs.iter().map(|leg| scope.spawn(move || copy(leg))).collect();
            // A panic of a thread is one of the program.
            let join = |thread: std::thread::ScopedJoinHandle<'_, _>| {
                thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            threads.into_iter().map(join).collect()
        })
    }

    /// The median time of the first cell, in nanoseconds.
    pub(super) fn median(&self) -> Option<f64> {
        stats::summary(&self.samples[0]).map(|summary| summary.median_ns)
    }

    /// The cells, judged by nothing yet. `stopped` says why the run has ended, if it has.
    pub(super) fn into_cells(self, stopped: Option<&str>) -> Vec<Cell> {
        let single = self.legs.len() == 1;
        let copies = self.spec.plans.len() as u64;
        let (size, failure) = (self.spec.size, self.failure);
        let ended = self.ended;
        let queued_summary = stats::summary(&self.queued).filter(|_| failure.is_none());
        let results = self.samples.into_iter().zip(self.device_samples);
        let cells = self.spec.cells.into_iter().zip(results);
        cells
            .map(|((key, part), (samples_ns, device))| {
                let bytes = if part == Part::All { size * copies } else { size };
                // A job that failed has no result, whatever it measured before.
                let samples_ns = if failure.is_some() { vec![] } else { samples_ns };
                let summary = stats::summary(&samples_ns);
                let is_measured = summary.is_some();
                let left_out =
                    || stopped.filter(|_| !is_measured).map(|why| format!("left out: {why}"));
                Cell {
                    key,
                    bytes: is_measured.then_some(bytes),
                    summary,
                    device_summary: stats::summary(&device).filter(|_| is_measured),
                    queued_summary: queued_summary.filter(|_| is_measured),
                    samples_ns,
                    ended: is_measured.then(|| ended.unwrap_or(Ended::Stopped)),
                    bound: None,
                    bound_at_best: None,
                    verdict: Verdict::NotMeasured,
                    causes: vec![],
                    loaded: self.loaded.clone(),
                    host_cached: None,
                    verified: self.verified.filter(|_| is_measured),
                    counters: self.counters.filter(|_| is_measured && single),
                    note: failure.clone().or_else(left_out),
                }
            })
            .collect()
    }
}

/// From the begin of the first copy until the end of the last one, in nanoseconds: a thread may begin late.
fn span(times: &[Times]) -> f64 {
    let begin = times.iter().map(|times| times.within.0).min();
    let end = times.iter().map(|times| times.within.1).max();
    // CAST: far below 2⁵³.
    begin.zip(end).map_or(0.0, |(begin, end)| (end - begin).as_nanos() as f64)
}

/// A cell of a way that is not there.
pub(super) fn missing(key: Key, why: String) -> Cell {
    Cell {
        key,
        bytes: None,
        summary: None,
        device_summary: None,
        queued_summary: None,
        samples_ns: vec![],
        ended: None,
        bound: None,
        bound_at_best: None,
        verdict: Verdict::NotMeasured,
        causes: vec![],
        loaded: vec![],
        host_cached: None,
        verified: None,
        counters: None,
        note: Some(why),
    }
}
