//! Times of frames, by way.

use std::time::Duration;

use crate::canvas::Colour;
use crate::overlay::KEPT;

/// How frames go from one device to the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// In memory that both devices see, or with a copy on one side.
    Shared,
    /// Through the host.
    Staged,
}

impl Way {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Shared => "shared",
            Self::Staged => "staged",
        }
    }

    pub(crate) fn other(self) -> Self {
        match self {
            Self::Shared => Self::Staged,
            Self::Staged => Self::Shared,
        }
    }
}

/// The times of all frames.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stats {
    times: Vec<(Way, Duration)>,
}

impl Stats {
    pub(crate) fn add(&mut self, way: Way, time: Duration) {
        self.times.push((way, time));
    }

    /// The last ones, oldest first: shared ones green, staged ones blue.
    pub(crate) fn graph(&self) -> Vec<(Colour, Duration)> {
        let last = &self.times[self.times.len().saturating_sub(KEPT)..];
        let colour = |way| if way == Way::Shared { Colour::Green } else { Colour::Blue };
        last.iter().map(|(way, time)| (colour(*way), *time)).collect()
    }

    /// A share of the frames of a way takes at most this long; `None` without frames.
    pub(crate) fn share(&self, way: Way, permille: usize) -> Option<Duration> {
        let of = self.times.iter().filter(|(used, _)| *used == way).map(|(_, time)| *time);
        let mut times: Vec<_> = of.collect();
        times.sort_unstable();
        let last = times.len().checked_sub(1)?;
        times.get((times.len() * permille / 1000).min(last)).copied()
    }

    /// The same of the last frames alone.
    pub(crate) fn recent(&self, way: Way) -> Option<Duration> {
        let of = self.times.iter().rev().filter(|(used, _)| *used == way).take(KEPT);
        let mut times: Vec<_> = of.map(|(_, time)| *time).collect();
        times.sort_unstable();
        times.get(times.len() / 2).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_of_one_way_alone() {
        let mut stats = Stats::default();
        for time in 1..=100 {
            stats.add(Way::Shared, Duration::from_millis(time));
        }
        stats.add(Way::Staged, Duration::from_secs(9));
        assert_eq!(stats.share(Way::Shared, 500), Some(Duration::from_millis(51)));
        assert_eq!(stats.share(Way::Shared, 1000), Some(Duration::from_millis(100)));
        assert_eq!(stats.recent(Way::Staged), Some(Duration::from_secs(9)));
        assert_eq!(Stats::default().share(Way::Shared, 500), None);
    }
}
