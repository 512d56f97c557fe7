//! Tracks: the lines on which a viewer shows events.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use crate::device::DeviceId;
use crate::memory::DomainId;

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
    count: u32,
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
            lanes.open(&mut self.count);
        }
        (Lane { tid: lanes.tids[0], track, index: 0 }, is_new)
    }

    /// A line on which nothing is open, until it is given back. True if it is new.
    pub(super) fn take(&mut self, track: Track) -> (Lane, bool) {
        let lanes = self.lanes.entry(track).or_default();
        let is_new = lanes.free.is_empty();
        if is_new {
            lanes.open(&mut self.count);
        }
        let Reverse(index) = lanes.free.pop().unwrap_or_default();
        (Lane { tid: lanes.tids[index], track, index }, is_new)
    }

    pub(super) fn give_back(&mut self, lane: Lane) {
        if let Some(lanes) = self.lanes.get_mut(&lane.track) {
            lanes.free.push(Reverse(lane.index));
        }
    }

    /// What a viewer calls a line.
    pub(super) fn name(&self, lane: Lane) -> String {
        let mut name = match lane.track {
            Track::Domain(domain) => domain.to_string(),
            Track::Moves(None) => "moves by the host".to_owned(),
            Track::Moves(Some(device)) => format!("moves by {}", self.device(device)),
            Track::Callbacks(device) => format!("callbacks of {}", self.device(device)),
        };
        if lane.index > 0 {
            name += &format!(", line {}", lane.index + 1);
        }
        name
    }

    /// With its number, which tells it from others of that name.
    fn device(&self, device: DeviceId) -> String {
        match self.devices.get(&device) {
            Some(name) => format!("{device} ({name})"),
            None => device.to_string(),
        }
    }
}

impl Lane {
    /// Where a viewer shows it: places first, then device by device.
    pub(super) fn rank(self) -> u32 {
        // As many as anybody will look at; beyond that the order does not matter.
        let index = u32::try_from(self.index).unwrap_or(u32::MAX).min(999);
        let device = |device: DeviceId| u32::from(device.0) * 2000;
        match self.track {
            Track::Domain(DomainId::Vram(id)) => u32::from(id.0),
            Track::Domain(DomainId::System) => 0x1_0000,
            Track::Moves(None) => 0x1_0001 + index,
            Track::Moves(Some(id)) => 0x2_0000 + device(id) + index,
            Track::Callbacks(id) => 0x2_0000 + device(id) + 1000 + index,
        }
    }
}

impl Lanes {
    fn open(&mut self, count: &mut u32) {
        *count += 1;
        self.free.push(Reverse(self.tids.len()));
        // From 2: a viewer takes a line with the number of its process, 1, for something special.
        self.tids.push(*count + 1);
    }
}

#[cfg(test)]
mod tests {
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
        tracks.name_device(DeviceId(3), "Ünicorn");
        assert_eq!(tracks.name(second), "moves by device 3 (Ünicorn), line 2");
        let place = tracks.line(Track::Domain(DomainId::Vram(DeviceId(3)))).0;
        assert_eq!(tracks.name(place), "VRAM of device 3");
    }
}
