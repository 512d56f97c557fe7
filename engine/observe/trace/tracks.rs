//! Tracks: the lines on which a viewer shows events.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use crate::device::DeviceId;
use crate::memory::DomainId;

/// Lines of a track that are shown in order: as many as anybody will look at.
const RANKED: u32 = 1000;
/// No line that is shown in order has a higher rank.
// CAST: 65535.
const LAST_RANK: u32 = 0x2_0000 + (u16::MAX as u32 + 1) * 2 * RANKED;
/// So many characters of a device's name may follow that of a line.
const SHORT: usize = 24;

/// What a track is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Track {
    /// What is decided about a place, and who uses what is in it.
    Domain(DomainId),
    /// The moves that a device copies; `None` is the host.
    Moves(Option<DeviceId>),
    /// The calls of a device's importers.
    Callbacks(DeviceId),
}

/// A line of a track: what happens on it does not overlap.
///
/// Viewers draw the slices of one line as a stack, which those that overlap without being nested break. So
/// a slice that begins while another one is open takes the next line of its track.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lane {
    /// The number by which a viewer knows it: the "thread".
    pub(super) tid: u32,
    track: Track,
    index: usize,
}

/// The tracks there are, and the names of the devices.
#[derive(Debug, Default)]
pub(super) struct Tracks {
    lanes: BTreeMap<Track, Lanes>,
    /// The lines beyond those that have a rank of their own.
    beyond: u32,
    devices: BTreeMap<DeviceId, String>,
}

#[derive(Debug, Default)]
struct Lanes {
    tids: Vec<u32>,
    /// Those on which no slice is open, the uppermost first.
    free: BinaryHeap<Reverse<usize>>,
}

impl Tracks {
    /// Says what a device is called, before anything happens on its tracks.
    pub(super) fn name_device(&mut self, device: DeviceId, name: &str) {
        self.devices.insert(device, name.to_owned());
    }

    /// The line for events that take no time. True if it is new, and has to be introduced.
    pub(super) fn line(&mut self, track: Track) -> (Lane, bool) {
        let lanes = self.lanes.entry(track).or_default();
        let is_new = lanes.tids.is_empty();
        if is_new {
            lanes.open(track, &mut self.beyond);
        }
        (Lane { tid: lanes.tids[0], track, index: 0 }, is_new)
    }

    /// A line on which nothing is open, until it is given back. True if it is new.
    pub(super) fn take(&mut self, track: Track) -> (Lane, bool) {
        let lanes = self.lanes.entry(track).or_default();
        let is_new = lanes.free.is_empty();
        if is_new {
            lanes.open(track, &mut self.beyond);
        }
        let Reverse(index) = lanes.free.pop().unwrap_or_default();
        (Lane { tid: lanes.tids[index], track, index }, is_new)
    }

    pub(super) fn give_back(&mut self, lane: Lane) {
        if let Some(lanes) = self.lanes.get_mut(&lane.track) {
            lanes.free.push(Reverse(lane.index));
        }
    }

    /// What a viewer calls a line. It cuts long ones: what tells a line from others comes first.
    pub(super) fn name(&self, lane: Lane) -> String {
        let (mut name, device) = match lane.track {
            Track::Domain(domain) => (domain.to_string(), None),
            Track::Moves(None) => ("moves by the host".to_owned(), None),
            Track::Moves(Some(device)) => (format!("moves by {device}"), Some(device)),
            Track::Callbacks(device) => (format!("callbacks of {device}"), Some(device)),
        };
        if lane.index > 0 {
            name += &format!(", line {}", lane.index + 1);
        }
        let device = device.and_then(|device| self.devices.get(&device));
        if let Some(device) = device.filter(|name| name.chars().count() <= SHORT) {
            name += &format!(" - {device}");
        }
        name
    }
}

impl Lane {
    /// Where a viewer shows it, if it does not go by `tid`.
    pub(super) fn rank(self) -> u32 {
        // Beyond the last rank the order does not matter.
        let index = u32::try_from(self.index).unwrap_or(u32::MAX).min(RANKED - 1);
        self.track.rank() + index
    }
}

impl Track {
    /// Where a viewer shows its first line: places first, then device by device.
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

impl Lanes {
    /// Opens one more. Its number follows its rank, because that is what Perfetto sorts by.
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
        // From 2: a viewer takes a line with the number of its process, 1, for something special.
        self.tids.push(rank + 2);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn lines_are_taken_from_above_and_used_again() {
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
    fn names_say_whose_and_which() {
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
        let place = tracks.line(Track::Domain(DomainId::Vram(DeviceId(3)))).0;
        assert_eq!(tracks.name(place), "VRAM of device 3");
    }

    #[test]
    fn numbers_go_by_rank_whatever_came_first() {
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
        let mut lanes: Vec<_> = in_order.iter().rev().map(|&track| tracks.line(track).0).collect();
        lanes.reverse();
        assert!(lanes.is_sorted_by(|a, b| a.tid < b.tid), "{lanes:?}");
        assert!(lanes.is_sorted_by(|a, b| a.rank() < b.rank()), "{lanes:?}");
        assert!(lanes[0].tid > 1, "1 is the process");
    }

    #[test]
    fn no_two_lines_have_one_number_however_many_there_are() {
        let mut tracks = Tracks::default();
        let [first, last] = [DeviceId(0), DeviceId(u16::MAX)];
        let many = [None, Some(first), Some(last)].map(Track::Moves);
        let many = many.into_iter().chain([first, last].map(Track::Callbacks));
        let mut tids = BTreeSet::new();
        for track in many {
            for _ in 0..=RANKED + 1 {
                let lane = tracks.take(track).0;
                assert!(tids.insert(lane.tid), "{lane:?}");
            }
        }
    }
}
