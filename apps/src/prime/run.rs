//! A run from the first frame to the last, and what is said about it.

use serde_json::json;

use crate::Result;
use crate::choose::Lost;
use crate::program::{self, Key, Program};
use crate::surface::Place;

use super::args::Args;
use super::frame::{Prime, Wish};
use super::loss::Carried;
use super::open::On;
use super::stats::Way;

/// The program.
#[derive(Debug)]
pub struct Session {
    /// `None` if the presenting device was lost, and no other one presents.
    on: Option<On>,
    args: Args,
    place: Place,
    lost: Lost,
}

/// Runs the program.
///
/// # Errors
///
/// What ended it, or what was wrong with the run, as a sentence.
pub fn run(args: &Args) -> Result<()> {
    let open = |place| -> Result<Box<dyn Program>> { Ok(Box::new(Session::open(args, place)?)) };
    if args.headless {
        program::without_display(open)
    } else {
        program::in_window("prime", args.size.0, open)
    }
}

impl Session {
    /// Opens the devices, and everything that the first frame needs.
    ///
    /// # Errors
    ///
    /// No device draws or presents there; the error of a call.
    pub fn open(args: &Args, place: Place) -> Result<Self> {
        let mut lost = Lost::default();
        let on = On::open(args, place, &mut lost, Carried::default())?;
        Ok(Self { on: Some(on), args: args.clone(), place, lost })
    }

    /// Waits until the last frame was copied into its image of the swapchain.
    ///
    /// # Errors
    ///
    /// The work fails, or has not ended for a minute.
    pub fn wait(&self) -> Result<()> {
        self.on.as_ref().map_or(Ok(()), |on| on.prime.wait())
    }

    /// Lets the next frame go the other way.
    ///
    /// # Errors
    ///
    /// There is none.
    pub fn switch(&mut self) -> Result<()> {
        self.attempt(|prime| prime.wish(Wish::Switch))
    }

    /// Copies of peerbuf's for each steady frame: between shared bytes and images of a device's own.
    pub fn steady_copies(&self) -> f64 {
        self.on.as_ref().map_or(0.0, |on| on.prime.steady.copies())
    }

    /// Calls of peerbuf's for each steady frame which allocate, import, create, export, or enter the kernel.
    pub fn steady_calls(&self) -> f64 {
        self.on.as_ref().map_or(0.0, |on| on.prime.steady.calls())
    }

    /// Waits of the submitting thread for each steady frame: those that peerbuf counts, and those for a frame that is shown
    /// before it is drawn, where a host thread passes signals on.
    pub fn host_waits(&self) -> f64 {
        self.on.as_ref().map_or(0.0, |on| on.prime.steady.stalls())
    }

    /// Ends it.
    ///
    /// # Errors
    ///
    /// What was wrong with the run.
    pub fn end(self: Box<Self>) -> Result<()> {
        let Some(mut on) = self.on else { return Ok(()) };
        let finished = on.prime.finish().map(|(_, wrong)| wrong.join("\n"));
        on.close();
        let wrong = finished?;
        if wrong.is_empty() { Ok(()) } else { Err(wrong.into()) }
    }

    /// Does something, and goes on with other devices if the presenting one is lost.
    fn attempt(&mut self, work: impl FnOnce(&mut Prime) -> Result<()>) -> Result<()> {
        let on = self.on.as_mut().ok_or("the device that presented was lost")?;
        match work(&mut on.prime) {
            Err(error) if on.prime.has_lost_presenter(&*error) => self.go_on(&*error),
            done => done,
        }
    }

    fn go_on(&mut self, error: &dyn std::error::Error) -> Result<()> {
        let Some(on) = self.on.take() else { return Ok(()) };
        let (frame, presenter) = (on.prime.frame, on.presenter.clone());
        let name = presenter.name();
        self.lost.note(&presenter);
        // The window's surface belongs to the lost device.
        let mut carried = on.close();
        carried.events.push(format!("frame {frame}: {error}; {name} presents no more"));
        let on = On::open(&self.args, self.place, &mut self.lost, carried).map_err(|other| {
            format!(
                "frame {frame}: {error}; {name} presented, and no other device goes on: {other}"
            )
        })?;
        self.on = Some(on);
        Ok(())
    }
}

impl Program for Session {
    fn size(&self) -> [u32; 2] {
        self.on.as_ref().map_or([0; 2], |on| on.prime.size())
    }

    fn wanted_size(&self) -> Option<[u32; 2]> {
        let every = self.args.resize_every.filter(|every| *every > 0)?;
        let frame = self.on.as_ref()?.prime.frame;
        if frame == 0 || !frame.is_multiple_of(every) {
            return None;
        }
        // Some in which devices pad rows alike, and some in which they do not.
        let step = frame / every % 4;
        let [width, height] = self.args.size.0;
        Some([width.saturating_sub(step * 37).max(1), height.saturating_sub(step * 21).max(1)])
    }

    fn resize(&mut self, size: [u32; 2]) -> Result<()> {
        self.attempt(|prime| prime.resize(size))
    }

    fn next(&mut self) -> Result<()> {
        self.attempt(Prime::next)
    }

    fn is_over(&self) -> bool {
        let frame = self.on.as_ref().map(|on| on.prime.frame);
        self.args.frames.is_some_and(|frames| frame.is_none_or(|frame| frame >= frames))
    }

    fn key(&mut self, key: Key) -> Result<()> {
        let wish = match key {
            Key::Letter('S') => Wish::Switch,
            Key::Letter('M') => Wish::Move,
            Key::Letter('E') => Wish::Evict,
            Key::Letter('B') => Wish::Budget,
            _ => return Ok(()),
        };
        self.attempt(|prime| prime.wish(wish))
    }

    fn close(self: Box<Self>) -> Result<()> {
        let Self { on, args, .. } = *self;
        // What was lost was said.
        let Some(mut on) = on else { return Ok(()) };
        let said = say(&mut on.prime, &args);
        on.close();
        said
    }
}

#[expect(clippy::print_stdout, reason = "what the program is asked for")]
fn say(prime: &mut Prime, args: &Args) -> Result<()> {
    let milliseconds =
        |way, permille| prime.stats.share(way, permille).map(|time| time.as_secs_f64() * 1e3);
    let ways = [Way::Shared, Way::Staged].map(|way| {
        (way.name(), milliseconds(way, 500), milliseconds(way, 990), milliseconds(way, 1000))
    });
    let [render, present] = prime.devices().map(|device| device.name().to_owned());
    let (frames, moves, notified) = (prime.frame, prime.moves, prime.notified());
    let (events, steady) = (prime.events.clone(), prime.steady.json());
    let (waits_by, [early, late]) = (prime.waits_by(), prime.held.map(|held| held.json()));
    let (checked, wrong) = prime.finish()?;
    if args.json {
        let ways: serde_json::Map<_, _> = ways
            .into_iter()
            .map(|(name, median, p99, longest)| {
                (name.to_owned(), json!({ "median_ms": median, "p99_ms": p99, "max_ms": longest }))
            })
            .collect();
        let all = json!({
            "render": render, "present": present, "frames": frames, "ways": ways, "moves": moves,
            "notified": notified, "events": events, "checked": checked, "wrong": wrong,
            "waits_by": waits_by, "steady": steady, "held": { "second_third": early, "last_third": late },
        });
        println!("{all:#}");
    } else {
        println!("{frames} frames: {render} drew, {present} presented");
        for (name, median, p99, longest) in ways {
            if let (Some(median), Some(p99), Some(longest)) = (median, p99, longest) {
                println!(
                    "  {name}: median {median:.2} ms, p99 {p99:.2} ms, longest {longest:.2} ms"
                );
            }
        }
        println!("  {moves} moves, {notified} callbacks");
        for event in &events {
            println!("  {event}");
        }
        if args.verify {
            println!("  {checked} frames checked, {} wrong", wrong.len());
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n").into()) }
}
