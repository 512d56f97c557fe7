//! What a run holds once its work has ended: the same after each part of it, or something is leaked.

use peerbuf::observe::Object;
use peerbuf::{Access, DomainId, Engine, Error};
use serde_json::{Map, Value, json};

use crate::{Result, TIMEOUT};

use super::frame::Prime;

/// What is held at one moment, when nothing runs.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Held {
    fds: u64,
    /// By kind.
    objects: [u64; Object::ALL.len()],
    resident: u64,
}

impl Held {
    fn now(engine: &Engine) -> Self {
        let fds = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
        let pages = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
        let pages: u64 = pages.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
        let mut objects = [0; Object::ALL.len()];
        for (count, kind) in objects.iter_mut().zip(Object::ALL) {
            *count = engine.live().count(*kind);
        }
        Self { fds: fds as u64, objects, resident: pages << 12 }
    }

    pub(crate) fn json(self) -> Value {
        let kinds = Object::ALL.iter().zip(self.objects);
        let kinds: Map<_, _> =
            kinds.map(|(kind, count)| (format!("{kind:?}"), json!(count))).collect();
        let all: u64 = self.objects.iter().sum();
        json!({ "fds": self.fds, "objects": all, "kinds": kinds, "resident_bytes": self.resident })
    }
}

impl Prime {
    /// At the end of the second third of a run, and at its end, notes what is held.
    pub(super) fn note_held(&mut self) -> Result<()> {
        let Some(frames) = self.args.frames.filter(|_| self.args.json) else { return Ok(()) };
        let done = u64::from(self.frame) + 1;
        let ends = [2, 3].map(|thirds| u64::from(frames) * thirds / 3);
        if let Some(part) = ends.iter().position(|end| *end == done) {
            self.rest()?;
            self.held[part] = Held::now(&self.engine);
            self.has_rested = true;
        }
        Ok(())
    }

    /// Waits until all work has ended, and gives back what is kept for later. Images are where they were made, so that
    /// what is left does not depend on how often each has moved.
    fn rest(&mut self) -> Result<()> {
        for fence in self.in_flight.drain(..) {
            fence.wait(TIMEOUT)?;
        }
        self.checks.finish()?;
        for slot in &mut self.ring.slots {
            match slot.image.migrate(DomainId::Vram(slot.image.home().id())) {
                // It never was there.
                Ok(_) | Err(Error::Unreachable { .. }) => {}
                Err(error) => return Err(error.into()),
            }
            slot.image.buffer().wait(Access::Write, TIMEOUT)?;
            for part in [Some(&mut slot.draw), slot.show.as_mut()].into_iter().flatten() {
                part.attachment.remap(&mut part.mapping)?;
            }
            slot.drawn.take().into_iter().for_each(|drawn| self.scene.forget(drawn));
        }
        // What the mappings of before used is free once the devices have ended all that they were given.
        for device in [&self.render, &self.present] {
            device.submitted()?.wait(TIMEOUT)?;
        }
        self.scene.sweep();
        self.engine.trim();
        Ok(())
    }
}
