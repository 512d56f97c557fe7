//! What is measured now, and for how long still, on a terminal.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A line on standard error. It is hidden if that is not a terminal.
#[derive(Debug)]
pub(super) struct Progress(ProgressBar);

impl Progress {
    pub(super) fn new(silent: bool) -> Self {
        if silent {
            return Self(ProgressBar::hidden());
        }
        let style = ProgressStyle::with_template("{prefix:>6} {wide_msg}");
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        Self(bar.with_style(style.expect("the template is well-formed")))
    }

    /// Says what is done now.
    pub(super) fn say(&self, what: &str) {
        self.0.set_message(what.to_owned());
        self.0.tick();
    }

    /// Says what is measured now, and how long the block still takes.
    pub(super) fn measure(&self, what: &str, left: Duration) {
        self.0.set_prefix(format!("~{} s", left.as_secs() + 1));
        self.say(what);
    }

    pub(super) fn end(&self) {
        self.0.finish_and_clear();
    }
}
