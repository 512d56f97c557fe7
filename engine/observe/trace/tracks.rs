//! Tracks: groups of lines on which a viewer shows events.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use crate::device::DeviceId;
use crate::memory::DomainId;

/// The number of lines of a track that are shown in order. Later lines are shown after all tracks.
const RANKED: u32 = 1000;
/// The highest rank of a line that is shown in order.
// CAST: 65535.
const LAST_RANK: u32 = 0x2_0000 + (u16::MAX as u32 + 1) * 2 * RANKED;
/// A device's name is shown beside that of a line if it has at most so many characters.
const SHORT: usize = 24;

/// The subject of a track.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Track {
    /// The counters of a domain, the uses of its buffers, and the decisions about them.
    Domain(DomainId),
    /// The moves that a device copies; `None` for the host.
    Moves(Option<DeviceId>),
    /// The calls of a device's importers.
    Callbacks(DeviceId),
}

/// A line of a track. Its slices do not overlap.
///
/// Viewers draw the slices of a line as a stack, in which slices must be nested. So a slice that begins while
/// another one is open takes the next line of its track.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TrackLine {
    /// The number of the line for viewers: the "thread".
    pub(super) tid: u32,
    track: Track,
    index: usize,
}

/// All tracks, and the names of the devices.
#[derive(Debug, Default)]
pub(super) struct Tracks {
    lines: BTreeMap<Track, TrackLines>,
    /// The number of lines beyond those that have a rank of their own.
    beyond: u32,
    devices: BTreeMap<DeviceId, String>,
}

#[derive(Debug, Default)]
struct TrackLines {
    tids: Vec<u32>,
    /// The lines on which no slice is open, the uppermost first.
    free: BinaryHeap<Reverse<usize>>,
}

impl Tracks {
    /// Sets the name of a device. Must be called before the first event on its tracks.
    pub(super) fn name_device(&mut self, device: DeviceId, name: &str) {
        self.devices.insert(device, name.to_owned());
    }

    /// The line for events without a duration. `true` if it is new and has to be introduced.
    pub(super) fn line(&mut self, track: Track) -> (TrackLine, bool) {
        let lines = self.lines.entry(track).or_default();
        let is_new = lines.tids.is_empty();
        if is_new {
            lines.open(track, &mut self.beyond);
        }
        (TrackLine { tid: lines.tids[0], track, index: 0 }, is_new)
    }

    /// Takes a line on which no slice is open, until it is given back. `true` if it is new.
    pub(super) fn take(&mut self, track: Track) -> (TrackLine, bool) {
        let lines = self.lines.entry(track).or_default();
        let is_new = lines.free.is_empty();
        if is_new {
            lines.open(track, &mut self.beyond);
        }
        let Reverse(index) = lines.free.pop().unwrap_or_default();
        (TrackLine { tid: lines.tids[index], track, index }, is_new)
    }

    pub(super) fn give_back(&mut self, line: TrackLine) {
        if let Some(lines) = self.lines.get_mut(&line.track) {
            lines.free.push(Reverse(line.index));
        }
    }

    /// The name of a line. The part that differs comes first, because viewers cut long names.
    pub(super) fn name(&self, line: TrackLine) -> String {
        let (mut name, device) = match line.track {
            Track::Domain(domain) => (domain.to_string(), None),
            Track::Moves(None) => ("moves by the host".to_owned(), None),
            Track::Moves(Some(device)) => (format!("moves by {device}"), Some(device)),
            Track::Callbacks(device) => (format!("callbacks of {device}"), Some(device)),
        };
        if line.index > 0 {
            name += &format!(", line {}", line.index + 1);
        }
        let device = device.and_then(|device| self.devices.get(&device));
        if let Some(device) = device.filter(|name| name.chars().count() <= SHORT) {
            name += &format!(" - {device}");
        }
        name
    }
}

impl TrackLine {
    /// The position of the line in a viewer that does not sort by `tid`.
    pub(super) fn rank(self) -> u32 {
        // Beyond the last rank, the order does not matter.
        let index = u32::try_from(self.index).unwrap_or(u32::MAX).min(RANKED - 1);
        self.track.rank() + index
    }
}

impl Track {
    /// The position of the first line of the track: domains first, then device by device.
    fn rank(self) -> u32 {
        let device = |device: DeviceId| 0x2_0000 + u32::from(device.0) * 2 * RANKED;
        match self {
            Self::Domain(DomainId::Vram(id)) => u32::from(id.0),
            Self::Domain(DomainId::System) => 0x1_0000,
            Self::Moves(None) => 0x1_0001,
            Self::Moves(Some(id)) => device(id),
            Self::Callbacks(id) => device(id) + RANKED,
        }
    }
}

impl TrackLines {
    /// Adds a line. Its number follows its rank, because Perfetto sorts by the number.
    fn open(&mut self, track: Track, beyond: &mut u32) {
        self.free.push(Reverse(self.tids.len()));
        let index = u32::try_from(self.tids.len()).ok().filter(|&index| index < RANKED);
        let rank = index.map_or_else(
            || {
                *beyond += 1;
                LAST_RANK + *beyond
            },
            |index| track.rank() + index,
        );
        // The numbers begin at 2, because viewers treat a line with the number of its process, 1, specially.
        self.tids.push(rank + 2);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn lines_are_taken_from_above_and_reused() {
        let (mut tracks, track) = (Tracks::default(), Track::Moves(Some(DeviceId(0))));
        let taken: Vec<_> = (0..3).map(|_| tracks.take(track)).collect();
        assert!(taken.iter().all(|&(_, is_new)| is_new));
        let [first, second, third] = [taken[0].0, taken[1].0, taken[2].0];
        assert!(first.tid != second.tid && second.tid != third.tid && first.tid != third.tid);
        tracks.give_back(third);
        tracks.give_back(first);
        assert_eq!(tracks.take(track), (first, false));
        assert_eq!(tracks.take(track), (third, false));
        assert!(tracks.take(track).1, "a fourth one");
    }

    #[test]
    fn names_contain_the_device_and_the_number() {
        let mut tracks = Tracks::default();
        let track = Track::Moves(Some(DeviceId(3)));
        let (first, second) = (tracks.take(track).0, tracks.take(track).0);
        assert_eq!(tracks.name(first), "moves by device 3");
        assert_eq!(tracks.name(second), "moves by device 3, line 2");
        tracks.name_device(DeviceId(3), "Ünicorn");
        assert_eq!(tracks.name(first), "moves by device 3 - Ünicorn");
        assert_eq!(tracks.name(second), "moves by device 3, line 2 - Ünicorn");
        tracks.name_device(DeviceId(3), "Ünicorn, the second of that name");
        assert_eq!(tracks.name(second), "moves by device 3, line 2", "too long to be shown");
        let domain = tracks.line(Track::Domain(DomainId::Vram(DeviceId(3)))).0;
        assert_eq!(tracks.name(domain), "VRAM of device 3");
    }

    #[test]
    fn numbers_follow_the_rank_in_any_order_of_creation() {
        let [one, last] = [DeviceId(1), DeviceId(u16::MAX)];
        let in_order = [
            Track::Domain(DomainId::Vram(DeviceId(0))),
            Track::Domain(DomainId::Vram(last)),
            Track::Domain(DomainId::System),
            Track::Moves(None),
            Track::Moves(Some(DeviceId(0))),
            Track::Callbacks(DeviceId(0)),
            Track::Moves(Some(one)),
            Track::Callbacks(one),
            Track::Moves(Some(last)),
            Track::Callbacks(last),
        ];
        let mut tracks = Tracks::default();
        let mut lines: Vec<_> = in_order.iter().rev().map(|&track| tracks.line(track).0).collect();
        lines.reverse();
        assert!(lines.is_sorted_by(|a, b| a.tid < b.tid), "{lines:?}");
        assert!(lines.is_sorted_by(|a, b| a.rank() < b.rank()), "{lines:?}");
        assert!(lines[0].tid > 1, "1 is the process");
    }

    #[test]
    fn all_lines_have_different_numbers() {
        let mut tracks = Tracks::default();
        let [first, last] = [DeviceId(0), DeviceId(u16::MAX)];
        let many = [None, Some(first), Some(last)].map(Track::Moves);
        let many = many.into_iter().chain([first, last].map(Track::Callbacks));
        let mut tids = BTreeSet::new();
        for track in many {
            for _ in 0..=RANKED + 1 {
                let line = tracks.take(track).0;
                assert!(tids.insert(line.tid), "{line:?}");
            }
        }
    }
}
