//! What frames without an event cost, as counts: calls, waits of the host, copies.

use peerbuf::device::Call;
use peerbuf::observe::StallCause;
use peerbuf::{Engine, Fence};
use serde_json::{Map, Value, json};

/// Frames at the start that are not counted: the images of the ring are mapped and drawn into once.
const WARM_UP: u32 = 20;

/// Counters of an engine at one moment.
#[derive(Clone, Debug)]
struct Counters {
    calls: Vec<u64>,
    stalls: u64,
    host_copied: u64,
}

impl Counters {
    fn of(engine: &Engine) -> Self {
        let calls = engine.calls();
        Self {
            calls: Call::ALL.iter().map(|call| calls.made(*call)).collect(),
            stalls: StallCause::ALL.iter().map(|cause| engine.stalls(*cause).waits).sum(),
            host_copied: calls.host_copied_bytes(),
        }
    }
}

/// The sums of all steady frames.
#[derive(Debug, Default)]
pub(crate) struct Steady {
    before: Option<Counters>,
    frames: u64,
    calls: Vec<u64>,
    stalls: u64,
    /// Frames that were shown before they were drawn, so that the thread that presents waited.
    late: u64,
    host_copied: u64,
    /// Copies between shared bytes and images of a device's own.
    own_copies: u64,
}

impl Steady {
    /// A frame begins, once older ones have left room for it.
    pub(crate) fn begin(&mut self, engine: &Engine, frame: u32, has_event: bool) {
        self.before = (frame >= WARM_UP && !has_event).then(|| Counters::of(engine));
    }

    /// A frame is shown for which a host thread passes a signal on.
    pub(crate) fn shows(&mut self, drawn: &Fence) {
        let is_late = self.before.is_some() && !matches!(drawn.is_signalled(), Ok(true));
        self.late += u64::from(is_late);
    }

    /// It was presented. Each image of a device's own that it used costs one copy.
    pub(crate) fn end(&mut self, engine: &Engine, own_images: u64) {
        let Some(before) = self.before.take() else { return };
        let after = Counters::of(engine);
        self.frames += 1;
        self.calls.resize(after.calls.len(), 0);
        for (at, sum) in self.calls.iter_mut().enumerate() {
            *sum += after.calls[at] - before.calls[at];
        }
        self.stalls += after.stalls - before.stalls;
        self.host_copied += after.host_copied - before.host_copied;
        self.own_copies += own_images;
    }

    /// Copies for each frame.
    pub(crate) fn copies(&self) -> f64 {
        self.own_copies as f64 / self.frames.max(1) as f64
    }

    /// Waits for each frame.
    pub(crate) fn stalls(&self) -> f64 {
        (self.stalls + self.late) as f64 / self.frames.max(1) as f64
    }

    /// Calls for each frame, but for submissions, their command buffers, and questions and waits for timelines.
    pub(crate) fn calls(&self) -> f64 {
        use Call::{BeginCommandBuffer, GetSemaphoreCounterValue, QueueSubmit, WaitSemaphores};
        let is_free = |call: &Call| {
            matches!(
                call,
                QueueSubmit | BeginCommandBuffer | GetSemaphoreCounterValue | WaitSemaphores
            )
        };
        let counted = Call::ALL.iter().zip(&self.calls).filter(|(call, _)| !is_free(call));
        counted.map(|(_, made)| *made).sum::<u64>() as f64 / self.frames.max(1) as f64
    }

    /// The sums, and how often each call was made.
    pub(crate) fn json(&self) -> Value {
        let calls: Map<_, _> = Call::ALL
            .iter()
            .zip(&self.calls)
            .map(|(call, made)| (call.name().to_owned(), json!(made)))
            .collect();
        json!({
            "frames": self.frames, "calls": calls, "stalls": self.stalls, "late": self.late,
            "host_copied_bytes": self.host_copied, "own_copies": self.own_copies,
        })
    }
}
