//! A device is lost: the other one goes on.

use peerbuf::Error;
use peerbuf::ash::vk;

use crate::Result;

use super::checks::Checks;
use super::frame::{Prime, drawn_format};
use super::scene::Scene;
use super::stats::Stats;

/// What goes on when the presenting device is lost.
#[derive(Clone, Debug, Default)]
pub(crate) struct Carried {
    pub(super) stats: Stats,
    pub(super) frame: u32,
    pub(super) moves: u64,
    pub(crate) events: Vec<String>,
    pub(super) checked: u64,
    pub(super) wrong: Vec<String>,
}

impl Prime {
    /// Ends it, with what goes on on other devices.
    pub(crate) fn carry(mut self) -> Carried {
        self.give_up_frames();
        let Checks { checked, wrong, .. } = &mut self.checks;
        Carried {
            stats: std::mem::take(&mut self.stats),
            frame: self.frame,
            moves: self.moves,
            events: std::mem::take(&mut self.events),
            checked: *checked,
            wrong: std::mem::take(wrong),
        }
    }

    /// Waits for frames in flight no more, and notes those that a lost device has taken with it.
    fn give_up_frames(&mut self) {
        self.in_flight.clear();
        let failed = self.checks.give_up();
        if failed > 0 {
            self.events.push(format!("{failed} frames were lost with the device"));
        }
    }

    /// Goes on with the presenting device alone, if it is the drawing one that failed.
    pub(super) fn after(&mut self, error: Box<dyn std::error::Error>) -> Result<()> {
        let is_loss = error.downcast_ref::<Error>().is_some_and(|error| self.is_loss(error));
        if !is_loss || self.render == self.present || self.has_lost_presenter(&*error) {
            return Err(error);
        }
        self.events.push(format!(
            "frame {}: {error}; {} goes on alone",
            self.frame,
            self.present.name()
        ));
        self.give_up_frames();
        self.engine.unplug(&self.render)?;
        self.render = self.present.clone();
        // An image that was acquired for the failed frame goes back with the old swapchain.
        self.resize_to(self.size())?;
        self.scene = Scene::new(&self.render, drawn_format(&mut self.ring)?, self.args.bare)?;
        Ok(())
    }

    /// Whether the presenting device is lost, as far as is known by an error.
    pub(crate) fn has_lost_presenter(&self, error: &(dyn std::error::Error + 'static)) -> bool {
        let code = error.downcast_ref::<vk::Result>();
        self.present.is_lost() || code == Some(&vk::Result::ERROR_DEVICE_LOST)
    }

    fn is_loss(&self, error: &Error) -> bool {
        use Error::{DeviceLost, Poisoned, WorkFailed};
        let is_loss = matches!(error, DeviceLost { .. } | Poisoned { .. } | WorkFailed { .. });
        self.render.is_lost() || is_loss
    }
}
