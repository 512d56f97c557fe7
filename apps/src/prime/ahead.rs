//! A frame that is drawn before it is shown, where a host thread passes signals from one device on to the other: a present
//! must not be submitted before the signals that it depends on (VUID-vkQueuePresentKHR-pWaitSemaphores-03268), so the thread
//! that presents would wait for the drawing. Drawn one frame ahead, it has the time of a frame.

use peerbuf::{Fence, WaitRoute};

use crate::Result;

use super::frame::Prime;
use super::stats::Way;

/// A frame in an image of the ring.
#[derive(Debug)]
pub(super) struct Drawn {
    /// The index of the image.
    pub(super) at: usize,
    pub(super) fence: Fence,
}

impl Prime {
    /// The present frame: drawn ahead, or now. The next one is drawn as well, but not in a frame that has more to do.
    pub(super) fn drawn(&mut self, has_event: bool) -> Result<Drawn> {
        // What was drawn ahead was not copied out for the way through the host.
        let shown = match self.ahead.take().filter(|_| self.way == Way::Shared) {
            Some(ahead) => ahead,
            None => {
                let at = self.ring.take(None);
                Drawn { at, fence: self.draw(at, self.frame)? }
            }
        };
        if self.is_bridged() {
            self.steady.shows(&shown.fence);
            if !has_event && !self.is_last() && self.ring.slots.len() > 1 {
                let at = self.ring.take(Some(shown.at));
                self.ahead = Some(Drawn { at, fence: self.draw(at, self.frame + 1)? });
            }
        }
        Ok(shown)
    }

    /// Whether a host thread passes on the signal that an image is drawn.
    fn is_bridged(&self) -> bool {
        let route = self.engine.wait_route(&self.render, &self.present);
        self.way == Way::Shared && matches!(route, Ok(WaitRoute::Bridge))
    }
}
