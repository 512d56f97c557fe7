//! Who sits at a buffer, in little memory.
//!
//! Most buffers have a static seat or two, each mapped a few times: those fit in eight bytes. Importers, more
//! seats or more mappings make a crowd of them, which lives elsewhere and takes everybody in.

use std::sync::Arc;

use super::importer::Importer;
use crate::device::DeviceId;
use crate::memory::{DomainId, Provider};

/// Somebody who wants a seat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::buffer) struct Guest {
    pub(in crate::buffer) device: DeviceId,
    pub(in crate::buffer) peer_to_peer: bool,
}

impl Guest {
    /// Whether the device wants to have memory of `provider`, if it can reach it.
    pub(in crate::buffer) fn may_be_given(self, provider: Provider) -> bool {
        let peers = matches!(provider.domain(), DomainId::Vram(device) if device != self.device);
        self.peer_to_peer || !peers
    }
}

/// A device's seat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::buffer) struct Seat {
    pub(in crate::buffer) device: DeviceId,
    /// Whether its [`crate::Attachment`] is alive. A seat whose attachment was dropped stays until its
    /// last mapping is.
    attached: bool,
    manner: Manner,
    /// Live mappings of the current generation.
    mapped: u32,
}

/// How somebody sits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    Static,
    /// With an importer; and what that said of memory that is another device's own.
    Dynamic {
        peer_to_peer: bool,
    },
}

/// Which seat. Stays the same while the seat is taken, also when few become a crowd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::buffer) struct SeatId(u32);

impl Seat {
    pub(in crate::buffer) fn is_attached(self) -> bool {
        self.attached
    }

    pub(in crate::buffer) fn is_dynamic(self) -> bool {
        self.manner != Manner::Static
    }

    pub(in crate::buffer) fn mapped(self) -> u32 {
        self.mapped
    }

    /// Whether the seat's device may be given memory that is another device's own.
    pub(in crate::buffer) fn allows_peer_to_peer(self) -> bool {
        self.manner != (Manner::Dynamic { peer_to_peer: false })
    }

    fn is_vacant(self) -> bool {
        !self.attached && self.mapped == 0
    }

    /// Its mappings that keep the buffer where it is.
    fn holds(self) -> u32 {
        if self.is_dynamic() { 0 } else { self.mapped }
    }
}

impl SeatId {
    fn index(self) -> usize {
        self.0 as usize
    }

    fn new(index: usize) -> Self {
        // CAST: nobody has 2^32 seats.
        Self(index as u32)
    }
}

// ---- few ----

/// Static seats, two at most, each with at most 255 mappings. `None` is a vacant one.
#[derive(Debug, Default)]
pub(in crate::buffer) struct Few([Option<Small>; 2]);

const _: () = assert!(size_of::<Few>() <= 8, "there may be a million of them");

/// A static seat.
#[derive(Clone, Copy, Debug)]
struct Small {
    device: DeviceId,
    attached: bool,
    mapped: u8,
}

impl Few {
    /// A static seat; `None` if both are taken.
    pub(in crate::buffer) fn sit(&mut self, device: DeviceId) -> Option<SeatId> {
        let vacant = self.0.iter().position(Option::is_none)?;
        self.0[vacant] = Some(Small { device, attached: true, mapped: 0 });
        Some(SeatId::new(vacant))
    }

    pub(in crate::buffer) fn seats(&self) -> impl Iterator<Item = Seat> {
        self.0.iter().flatten().map(|small| small.seat())
    }

    /// Live mappings of a seat.
    pub(in crate::buffer) fn mapped_by(&self, seat: SeatId) -> u32 {
        self.0[seat.index()].map_or(0, |small| u32::from(small.mapped))
    }

    /// Counts one more mapping. Whether there was room to.
    pub(in crate::buffer) fn map(&mut self, seat: SeatId) -> bool {
        let small = self.0[seat.index()].as_mut();
        let more = small.and_then(|small| Some((small.mapped.checked_add(1)?, small)));
        more.map(|(more, small)| small.mapped = more).is_some()
    }

    pub(in crate::buffer) fn unmap(&mut self, seat: SeatId) {
        self.change(seat, |small| small.mapped -= 1);
    }

    /// Gives the seat up, but for its mappings.
    pub(in crate::buffer) fn leave(&mut self, seat: SeatId) {
        self.change(seat, |small| small.attached = false);
    }

    /// Forgets all mappings, and tells of them: those of a place that the buffer leaves.
    pub(in crate::buffer) fn forget_mappings(&mut self, mut tell: impl FnMut(DeviceId, u32)) {
        for place in &mut self.0 {
            let Some(small) = place else { continue };
            tell(small.device, u32::from(std::mem::take(&mut small.mapped)));
            place.take_if(|small| small.seat().is_vacant());
        }
    }

    fn change(&mut self, seat: SeatId, change: impl FnOnce(&mut Small)) {
        let place = &mut self.0[seat.index()];
        debug_assert!(place.is_some(), "whoever has a seat's number sits there");
        if let Some(small) = place {
            change(small);
        }
        place.take_if(|small| small.seat().is_vacant());
    }
}

impl Small {
    fn seat(self) -> Seat {
        let Self { device, attached, mapped } = self;
        Seat { device, attached, manner: Manner::Static, mapped: u32::from(mapped) }
    }
}

// ---- a crowd ----

/// Seats of any kind and number; none of them while few suffice.
#[derive(Debug, Default)]
pub(in crate::buffer) struct Crowd {
    chairs: Vec<Chair>,
    /// How many are vacant, so that nobody looks for one where there is none; and live mappings that keep
    /// the buffer where it is, so that nobody counts. A buffer may have thousands of seats.
    vacant: u32,
    held_by_mappings: u32,
}

/// A seat for anybody.
pub(in crate::buffer) struct Chair {
    seat: Seat,
    /// Who is told when the buffer moves; `None` for a static seat, and once nobody is attached.
    importer: Option<Arc<dyn Importer>>,
}

impl Crowd {
    pub(in crate::buffer) fn is_empty(&self) -> bool {
        self.chairs.is_empty()
    }

    /// Takes everybody in, who keep their numbers.
    pub(in crate::buffer) fn take_in(&mut self, few: &mut Few) {
        if few.seats().next().is_none() {
            return;
        }
        debug_assert!(self.is_empty(), "they sit in one place only");
        for place in std::mem::take(few).0 {
            let vacant = Small { device: DeviceId(0), attached: false, mapped: 0 };
            let seat = place.unwrap_or(vacant).seat();
            self.held_by_mappings += seat.holds();
            self.vacant += u32::from(seat.is_vacant());
            self.push(Chair { seat, importer: None });
        }
        self.drop_vacant_tail();
    }

    pub(in crate::buffer) fn sit(
        &mut self,
        guest: Guest,
        importer: Option<Arc<dyn Importer>>,
    ) -> SeatId {
        let manner = match importer {
            Some(_) => Manner::Dynamic { peer_to_peer: guest.peer_to_peer },
            None => Manner::Static,
        };
        let seat = Seat { device: guest.device, attached: true, manner, mapped: 0 };
        let vacant = match self.vacant {
            0 => None,
            _ => self.chairs.iter().position(|chair| chair.seat.is_vacant()),
        };
        let index = vacant.unwrap_or(self.chairs.len());
        let chair = Chair { seat, importer };
        match vacant {
            Some(index) => {
                self.chairs[index] = chair;
                self.vacant -= 1;
            }
            None => self.push(chair),
        }
        SeatId::new(index)
    }

    fn push(&mut self, chair: Chair) {
        if self.chairs.capacity() == 0 {
            // Many crowds are one importer, or two; a list begins with four.
            self.chairs.reserve_exact(2);
        }
        self.chairs.push(chair);
    }

    /// All seats, some of which may be vacant.
    pub(in crate::buffer) fn chairs(&self) -> &[Chair] {
        &self.chairs
    }

    /// Live mappings of static seats.
    pub(in crate::buffer) fn static_mappings(&self) -> u32 {
        self.held_by_mappings
    }

    /// Live mappings of a seat.
    pub(in crate::buffer) fn mapped_by(&self, seat: SeatId) -> u32 {
        self.chairs[seat.index()].seat.mapped
    }

    pub(in crate::buffer) fn map(&mut self, seat: SeatId) {
        let seat = &mut self.chairs[seat.index()].seat;
        seat.mapped += 1;
        self.held_by_mappings += u32::from(!seat.is_dynamic());
    }

    pub(in crate::buffer) fn unmap(&mut self, seat: SeatId) {
        let unmapped = &mut self.chairs[seat.index()].seat;
        unmapped.mapped -= 1;
        self.held_by_mappings -= u32::from(!unmapped.is_dynamic());
        self.sweep(seat);
    }

    /// Gives the seat up, but for its mappings.
    pub(in crate::buffer) fn leave(&mut self, seat: SeatId) -> Option<Arc<dyn Importer>> {
        let left = &mut self.chairs[seat.index()];
        left.seat.attached = false;
        let importer = left.importer.take();
        self.sweep(seat);
        importer
    }

    /// Forgets all mappings, and tells of them: those of a place that the buffer leaves.
    pub(in crate::buffer) fn forget_mappings(&mut self, mut tell: impl FnMut(DeviceId, u32)) {
        // Seats of one device often stand side by side: they are counted together.
        let (mut run, mut vacated) = ((DeviceId(0), 0), 0);
        for Chair { seat, .. } in &mut self.chairs {
            let of_this = std::mem::take(&mut seat.mapped);
            if seat.device != run.0 {
                tell(run.0, run.1);
                run = (seat.device, 0);
            }
            run.1 += of_this;
            // Only its mappings kept the seat.
            vacated += u32::from(!seat.attached && of_this > 0);
        }
        tell(run.0, run.1);
        self.vacant += vacated;
        self.held_by_mappings = 0;
        self.drop_vacant_tail();
    }

    /// Looks whether a seat has become vacant, just now.
    fn sweep(&mut self, seat: SeatId) {
        if self.chairs[seat.index()].seat.is_vacant() {
            self.vacant += 1;
            self.drop_vacant_tail();
        }
    }

    fn drop_vacant_tail(&mut self) {
        while self.chairs.last().is_some_and(|chair| chair.seat.is_vacant()) {
            self.chairs.pop();
            self.vacant -= 1;
        }
        debug_assert_eq!(
            (self.vacant, self.held_by_mappings),
            self.chairs.iter().fold((0, 0), |(vacant, held), Chair { seat, .. }| {
                (vacant + u32::from(seat.is_vacant()), held + seat.holds())
            }),
            "vacant seats and static mappings are counted as they come and go"
        );
    }
}

impl Chair {
    /// The seat, if it is taken.
    pub(in crate::buffer) fn taken(&self) -> Option<Seat> {
        Some(self.seat).filter(|seat| !seat.is_vacant())
    }

    /// The importer, if there is one whose attachment is alive.
    pub(in crate::buffer) fn importer(&self) -> Option<(DeviceId, &dyn Importer)> {
        Some((self.seat.device, self.importer.as_deref()?))
    }
}

impl std::fmt::Debug for Chair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.seat.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::state::Invalidation;

    const A: DeviceId = DeviceId(7);
    const B: DeviceId = DeviceId(8);

    fn taken(crowd: &Crowd) -> Vec<Seat> {
        crowd.chairs().iter().filter_map(Chair::taken).collect()
    }

    fn importers(crowd: &Crowd) -> usize {
        crowd.chairs().iter().filter_map(Chair::importer).count()
    }

    struct Nobody;
    impl Importer for Nobody {
        fn invalidate_mappings(&self, _: &Invalidation<'_>) {}
    }

    fn told(forget: impl FnOnce(&mut dyn FnMut(DeviceId, u32))) -> Vec<(DeviceId, u32)> {
        let mut told = vec![];
        forget(&mut |device, mapped| told.extend((mapped > 0).then_some((device, mapped))));
        told
    }

    #[test]
    fn a_seat_is_kept_by_its_attachment_and_by_its_mappings() {
        let mut few = Few::default();
        let a = few.sit(A).expect("there are two");
        let b = few.sit(B).expect("there are two");
        assert_eq!(few.sit(A), None);
        assert!(few.map(a) && few.map(a));
        few.leave(a);
        few.leave(b);
        let left: Vec<_> = few.seats().collect();
        assert_eq!(left.len(), 1);
        assert_eq!((left[0].device, left[0].is_attached(), left[0].mapped()), (A, false, 2));
        assert_eq!(few.sit(B), Some(b), "the one that is vacant");
        few.unmap(a);
        assert_eq!((few.mapped_by(a), few.sit(A)), (1, None));
        few.unmap(a);
        assert_eq!(few.sit(A), Some(a));
    }

    #[test]
    fn a_place_that_is_left_takes_its_mappings_along() {
        let (mut few, mut crowd) = (Few::default(), Crowd::default());
        for device in [A, B] {
            let seat = few.sit(device).expect("there are two");
            assert!(few.map(seat));
            let guest = Guest { device, peer_to_peer: true };
            let seat = crowd.sit(guest, None);
            crowd.map(seat);
        }
        few.leave(SeatId(1));
        crowd.leave(SeatId(1));
        assert_eq!(told(|tell| few.forget_mappings(tell)), [(A, 1), (B, 1)]);
        assert_eq!(told(|tell| crowd.forget_mappings(tell)), [(A, 1), (B, 1)]);
        for seats in [few.seats().collect::<Vec<_>>(), taken(&crowd)] {
            assert_eq!(seats.len(), 1, "nobody keeps the other one");
            assert_eq!((seats[0].device, seats[0].mapped()), (A, 0));
        }
        assert_eq!(crowd.static_mappings(), 0);
    }

    #[test]
    fn few_count_as_far_as_they_can_and_say_where_that_ends() {
        let mut few = Few::default();
        let seat = few.sit(A).expect("there are two");
        for _ in 0..255 {
            assert!(few.map(seat));
        }
        assert!(!few.map(seat), "no room for one more");
        assert_eq!(few.mapped_by(seat), 255);
    }

    #[test]
    fn a_crowd_takes_few_in_as_they_sit() {
        let mut few = Few::default();
        let [a, b] = [A, B].map(|device| few.sit(device).expect("there are two"));
        assert!(few.map(b));
        few.leave(a);
        let before: Vec<_> = few.seats().collect();
        let mut crowd = Crowd::default();
        crowd.take_in(&mut few);
        assert_eq!(few.seats().count(), 0);
        assert_eq!(taken(&crowd), before);
        assert_eq!((crowd.mapped_by(b), crowd.static_mappings()), (1, 1));
        let guest = Guest { device: A, peer_to_peer: false };
        assert_eq!(crowd.sit(guest, Some(Arc::new(Nobody))), a, "the vacant one");
        crowd.map(a);
        assert_eq!((importers(&crowd), crowd.static_mappings()), (1, 1));
        assert!(crowd.leave(a).is_some() && importers(&crowd) == 0);
        crowd.leave(b);
        crowd.unmap(b);
        crowd.unmap(a);
        assert!(crowd.is_empty(), "few may sit again");
        crowd.take_in(&mut few);
        assert!(crowd.is_empty(), "nobody was there");
    }
}
