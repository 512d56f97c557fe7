//! When to negotiate again. Imports nothing of this crate.
//!
//! Compositors that sent new layouts whenever something changed made their clients allocate again and again
//! (cosmic-comp#1928). So an image gets a new layout at once only if an attachment could not use it otherwise; for a
//! better layout it waits, and longer after each change.

use std::num::NonZeroU32;
use std::time::Duration;

/// When an image negotiates again: a small value beside the image. Times are those of the engine's clock, and are
/// rounded up to tenths of a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Renegotiation {
    /// When a wish for a better layout is due. `None` without one.
    due: Option<NonZeroU32>,
    /// No change for the better before this.
    not_before: u32,
    /// What `not_before` is moved by at the next change.
    pause: u32,
    /// How often in a row the wish was put off.
    put_off: u8,
}

/// What a change of the attachments asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Negotiate before the attachment is used.
    Now,
    /// Negotiate at this time or later, between two uses.
    At(Duration),
}

impl Renegotiation {
    /// How long the attachments must have been the same before the image gets a better layout.
    pub const QUIET: Duration = Duration::from_secs(1);
    /// The shortest time between two changes for the better. It doubles with each change.
    pub const FIRST_PAUSE: Duration = Duration::from_secs(2);
    /// The longest one.
    pub const LONGEST_PAUSE: Duration = Duration::from_secs(256);

    /// An image whose layout was just negotiated.
    pub const fn new() -> Self {
        // CAST: two seconds in tenths.
        Self {
            due: None,
            not_before: 0,
            pause: Self::FIRST_PAUSE.as_secs() as u32 * 10,
            put_off: 0,
        }
    }

    /// A device attaches. `takes_part`: it can use the image in the layout that it has, directly or by copies. If it cannot,
    /// a negotiation is due at once.
    pub fn attached(&mut self, now: Duration, takes_part: bool) -> When {
        if takes_part {
            return self.wish(now);
        }
        self.put_off = 0;
        self.due = Some(Self::AT_ONCE);
        When::Now
    }

    /// A device detaches; the layout that the others would agree on may be a better one.
    pub fn detached(&mut self, now: Duration) -> When {
        self.wish(now)
    }

    /// Whether there is a wish for a better layout, due or not.
    pub const fn has_wish(&self) -> bool {
        self.due.is_some()
    }

    /// Whether it is time to negotiate for a better layout.
    pub fn is_due(&self, now: Duration) -> bool {
        self.due.is_some_and(|due| due == Self::AT_ONCE || time(due.get()) <= now)
    }

    /// The attachments have negotiated. `changed`: the image gets another layout.
    pub fn negotiated(&mut self, now: Duration, changed: bool) {
        self.due = None;
        self.put_off = 0;
        if changed {
            self.not_before = tenths(now).saturating_add(self.pause);
            self.pause = self.pause.saturating_mul(2).min(tenths(Self::LONGEST_PAUSE));
        }
    }

    /// The image could not get a better layout now: something keeps it in place, or devices could not be asked. The wish
    /// stays, and is due after [`Renegotiation::QUIET`], after twice as long if it is put off again, and so on.
    pub fn put_off(&mut self, now: Duration) -> When {
        let pause = Self::QUIET * (1 << self.put_off.min(Self::MOST_DOUBLINGS));
        self.put_off = self.put_off.saturating_add(1);
        self.wish_after(now, pause)
    }

    /// The time of a negotiation that does not wait. No wish for a better layout is due so early.
    const AT_ONCE: NonZeroU32 = NonZeroU32::MIN;
    /// After so many the quiet is as long as [`Renegotiation::LONGEST_PAUSE`].
    const MOST_DOUBLINGS: u8 = 8;

    /// A later change of the attachments puts the wish off: the quiet begins anew.
    fn wish(&mut self, now: Duration) -> When {
        if self.due == Some(Self::AT_ONCE) {
            return When::Now;
        }
        self.put_off = 0;
        self.wish_after(now, Self::QUIET)
    }

    fn wish_after(&mut self, now: Duration, pause: Duration) -> When {
        let due = tenths(now.saturating_add(pause)).max(self.not_before).max(1);
        self.due = NonZeroU32::new(due);
        When::At(time(due))
    }
}

impl Default for Renegotiation {
    fn default() -> Self {
        Self::new()
    }
}

/// Tenths of a second, rounded up; the end of thirteen years for all that is later.
fn tenths(time: Duration) -> u32 {
    u32::try_from(time.as_millis().div_ceil(100)).unwrap_or(u32::MAX)
}

fn time(tenths: u32) -> Duration {
    Duration::from_millis(u64::from(tenths) * 100)
}
