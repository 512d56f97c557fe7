//! What a buffer's reservation protects.

use std::ptr::NonNull;
use std::sync::Arc;

use smallvec::SmallVec;

use super::berth::Berth;
use super::clean::Clean;
use super::importer::Importer;
use super::pins::PinLine;
use super::place::Place;
use super::seats::Guest;
use crate::device::DeviceId;
use crate::memory::{Allocation, Backing, DomainId};
use crate::observe::History;
use crate::sync::{Fence, Fences, Signal};

/// The mutable part of a buffer. Kept small: there may be a million of them.
#[derive(Debug)]
pub(super) struct State {
    pub(super) place: Place,
    pub(super) fences: Fences,
    pub(super) berth: Berth,
    /// What was decided about it.
    pub(super) history: History,
    seats: SmallVec<[Seat; 2]>,
    /// How many of the seats are vacant, so that nobody looks for one where there is none; and live
    /// mappings that keep the buffer where it is, so that nobody counts. A buffer may have thousands of
    /// seats.
    vacant: u32,
    held_by_mappings: u32,
    /// Live host accesses, copies by the host, and accesses of applications that are being recorded.
    pub(super) host: u32,
    /// What few buffers have.
    rare: Option<Box<Rare>>,
}

#[derive(Debug, Default)]
struct Rare {
    /// Places it has left, that some mapping still looks at.
    ghosts: Vec<Ghost>,
    /// Signalled when a move that is under way has ended.
    moving: Option<Fence>,
    /// Pins, by attachment and reason.
    pins: Vec<Arc<PinLine>>,
    /// Live exports to strangers.
    exported: u32,
    /// How often it was revoked, so that who waits for one revocation is not taken in by the next.
    revocations: u32,
    /// Where it came from, if it would go back there.
    clean: Option<Clean>,
    /// Signalled when nobody looks at the buffer any more, while somebody waits for that.
    desertion: Option<(Fence, Signal)>,
}

/// A backing that a buffer has left, kept for mappings of its generation (kernel: TTM's ghost objects).
#[derive(Debug)]
pub(super) struct Ghost {
    pub(super) generation: u32,
    mapped: Mappings,
    place: Left,
}

/// A place that a buffer has left.
#[derive(Debug)]
enum Left {
    /// It is the mappings' until they are dropped, and until these fences have signalled.
    Kept(Backing, Fences),
    /// The buffer was evicted, and its bytes are somebody else's by now. The mappings still point at what
    /// devices see of this, though nobody may use them.
    Lost(Arc<Allocation>),
}

/// Live mappings by device.
pub(super) type Mappings = SmallVec<[(DeviceId, u32); 2]>;

/// A device's seat.
pub(super) struct Seat {
    pub(super) device: DeviceId,
    /// Whether its [`crate::Attachment`] is alive. A seat whose attachment was dropped stays until its
    /// last mapping is.
    attached: bool,
    manner: Manner,
    /// Live mappings of the current generation.
    mapped: u32,
    /// Who is told when the buffer moves; `None` for a static seat, and once nobody is attached. Boxed,
    /// since a pointer to a trait object is two words, and most seats have none.
    importer: Option<Box<Arc<dyn Importer>>>,
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

/// Which seat. Stays the same while the seat is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SeatId(u32);

impl State {
    pub(super) fn new(backing: Backing, berth: Berth) -> Self {
        Self {
            place: Place::Here(backing),
            berth,
            history: History::default(),
            fences: Fences::default(),
            seats: SmallVec::new(),
            vacant: 0,
            held_by_mappings: 0,
            host: 0,
            rare: None,
        }
    }

    // ---- seats ----

    /// Takes a seat: the last step of an attachment, after which it may be called back at any time.
    pub(super) fn sit(&mut self, guest: Guest, importer: Option<Arc<dyn Importer>>) -> SeatId {
        let manner = match importer {
            Some(_) => Manner::Dynamic { peer_to_peer: guest.peer_to_peer },
            None => Manner::Static,
        };
        let importer = importer.map(Box::new);
        let seat = Seat { device: guest.device, attached: true, manner, mapped: 0, importer };
        let vacant = match self.vacant {
            0 => None,
            _ => self.seats.iter().position(Seat::is_vacant),
        };
        let index = vacant.unwrap_or(self.seats.len());
        match vacant {
            Some(index) => {
                self.seats[index] = seat;
                self.vacant -= 1;
            }
            None => self.seats.push(seat),
        }
        // CAST: nobody has 2^32 seats.
        SeatId(index as u32)
    }

    /// The seats that are taken.
    pub(super) fn seats(&self) -> impl Iterator<Item = &Seat> {
        self.seats.iter().filter(|seat| !seat.is_vacant())
    }

    /// Those who are to be told of a move: whose attachments are alive.
    pub(super) fn importers(&self) -> impl Iterator<Item = (DeviceId, &dyn Importer)> {
        // Leaving takes the importer out.
        self.seats.iter().filter_map(|seat| Some((seat.device, &**seat.importer.as_deref()?)))
    }

    /// Whether a device already has a static seat.
    pub(super) fn has_static_seat(&self, device: DeviceId) -> bool {
        let mut attached = self.seats().filter(|seat| seat.attached);
        attached.any(|seat| seat.device == device && seat.manner == Manner::Static)
    }

    /// Live mappings of a seat, of the current generation.
    pub(super) fn mapped_by(&self, seat: SeatId) -> u32 {
        self.seats[seat.0 as usize].mapped
    }

    pub(super) fn map(&mut self, seat: SeatId) {
        let seat = &mut self.seats[seat.0 as usize];
        seat.mapped += 1;
        if seat.manner == Manner::Static {
            self.held_by_mappings += 1;
        }
    }

    /// Gives the seat up, but for its mappings. The importer is for the caller to drop, without the
    /// reservation: it is somebody else's code, and may own things whose drop takes it.
    pub(super) fn leave(&mut self, seat: SeatId) -> Option<Box<Arc<dyn Importer>>> {
        let left = &mut self.seats[seat.0 as usize];
        left.attached = false;
        let importer = left.importer.take();
        if let Some(rare) = &mut self.rare {
            rare.pins.retain(|line| !line.leave(seat));
        }
        self.sweep(seat);
        importer
    }

    /// Forgets a mapping. Returns the place that it was the last to look at, if the buffer has left it.
    pub(super) fn unmap(
        &mut self,
        seat: SeatId,
        device: DeviceId,
        mapped: u32,
        current: u32,
    ) -> Option<(Fences, Backing)> {
        if mapped == current {
            let unmapped = &mut self.seats[seat.0 as usize];
            unmapped.mapped -= 1;
            if unmapped.manner == Manner::Static {
                self.held_by_mappings -= 1;
            }
            self.sweep(seat);
            return None;
        }
        let ghosts = &mut self.rare.as_mut()?.ghosts;
        let index = ghosts.iter().position(|ghost| ghost.generation == mapped)?;
        let left = &mut ghosts[index].mapped;
        if let Some((_, count)) = left.iter_mut().find(|(of, count)| *of == device && *count > 0) {
            *count -= 1;
        }
        left.retain(|(_, count)| *count > 0);
        if !left.is_empty() {
            return None;
        }
        let left = match ghosts.swap_remove(index).place {
            Left::Kept(backing, fences) => (fences, backing),
            Left::Lost(_) => return None,
        };
        match self.clean_mut() {
            Some(clean) => clean.take_in(mapped, left),
            None => Some(left),
        }
    }

    /// Looks whether a seat has become vacant, just now.
    fn sweep(&mut self, seat: SeatId) {
        if !self.seats[seat.0 as usize].is_vacant() {
            return;
        }
        self.vacant += 1;
        self.drop_vacant_tail();
    }

    fn drop_vacant_tail(&mut self) {
        while self.seats.last().is_some_and(Seat::is_vacant) {
            self.seats.pop();
            self.vacant -= 1;
        }
        debug_assert_eq!(
            (self.vacant, self.held_by_mappings),
            self.seats.iter().fold((0, 0), |(vacant, held), seat| {
                let holds = if seat.manner == Manner::Static { seat.mapped } else { 0 };
                (vacant + u32::from(seat.is_vacant()), held + holds)
            }),
            "vacant seats and static mappings are counted as they come and go"
        );
    }

    // ---- pins ----

    /// The line for pins of a seat for a reason, made by `make` if there is none; forgets what nobody
    /// uses.
    pub(super) fn pin_line(
        &mut self,
        seat: SeatId,
        reason: &str,
        make: impl FnOnce() -> Arc<PinLine>,
    ) -> Arc<PinLine> {
        let pins = &mut self.rare.get_or_insert_default().pins;
        if let Some(line) = pins.iter().find(|line| line.is_of(seat, reason)) {
            return Arc::clone(line);
        }
        pins.retain(|line| !line.is_idle());
        let line = make();
        pins.push(Arc::clone(&line));
        line
    }

    /// Those that may have pins.
    pub(super) fn pin_lines(&self) -> &[Arc<PinLine>] {
        self.rare.as_ref().map_or(&[], |rare| &rare.pins)
    }

    /// Takes out a line that nobody uses any more.
    pub(super) fn forget_pins(&mut self, line: NonNull<PinLine>) -> Option<Arc<PinLine>> {
        let pins = &mut self.rare.as_mut()?.pins;
        let index = pins.iter().position(|other| std::ptr::eq(&**other, line.as_ptr()))?;
        Some(pins.swap_remove(index))
    }

    /// From here on a pin takes the reservation first, until one has found the bytes in place. Returns
    /// how many there are.
    pub(super) fn close_pins(&self) -> u64 {
        self.pin_lines().iter().map(|line| line.close()).sum::<u64>() + u64::from(self.exported())
    }

    /// Live pins, those of exports among them.
    pub(super) fn pinned(&self) -> u64 {
        self.pin_lines().iter().map(|line| line.pins()).sum::<u64>() + u64::from(self.exported())
    }

    // ---- moving ----

    /// Places it has left, that some mapping still looks at.
    pub(super) fn ghosts(&self) -> impl Iterator<Item = &Ghost> {
        self.rare.iter().flat_map(|rare| &rare.ghosts)
    }

    /// Live mappings that keep the buffer where it is.
    pub(super) fn static_mappings(&self) -> u32 {
        self.held_by_mappings
    }

    /// Signalled when the move that is under way has ended; `None` if there is none.
    pub(super) fn moving(&self) -> Option<&Fence> {
        self.rare.as_ref()?.moving.as_ref()
    }

    pub(super) fn set_moving(&mut self, gate: Option<Fence>) {
        if gate.is_some() || self.rare.is_some() {
            self.rare.get_or_insert_default().moving = gate;
        }
    }

    /// The clean copy, if there is one.
    pub(super) fn clean(&self) -> Option<&Clean> {
        self.rare.as_ref()?.clean.as_ref()
    }

    pub(super) fn clean_mut(&mut self) -> Option<&mut Clean> {
        self.rare.as_mut()?.clean.as_mut()
    }

    /// Returns the one that there was.
    pub(super) fn set_clean(&mut self, clean: Option<Clean>) -> Option<Clean> {
        if clean.is_none() && self.rare.is_none() {
            return None;
        }
        std::mem::replace(&mut self.rare.get_or_insert_default().clean, clean)
    }

    /// Leaves the old backing for `new`, which may be nowhere. What is returned can be retired; what mappings
    /// still look at is kept until they are gone, unless the place is needed at once because the buffer is
    /// `evicted`.
    pub(super) fn leave_for(
        &mut self,
        new: Place,
        old_generation: u32,
        copied: Fences,
        evicted: bool,
    ) -> Option<(Fences, Backing)> {
        let old = self.place.take();
        self.place = new;
        let mut mapped = Mappings::new();
        // Seats of one device often stand side by side: they are counted together.
        let mut run = (DeviceId(0), 0);
        let mut vacant = 0;
        for seat in &mut self.seats {
            let of_this = std::mem::take(&mut seat.mapped);
            if seat.device != run.0 {
                count(&mut mapped, run.0, run.1);
                run = (seat.device, 0);
            }
            run.1 += of_this;
            // Only its mappings kept the seat.
            vacant += u32::from(!seat.attached && of_this > 0);
        }
        count(&mut mapped, run.0, run.1);
        self.vacant += vacant;
        // Static ones do not let the buffer move.
        self.held_by_mappings = 0;
        self.drop_vacant_tail();
        // From nowhere it leaves nothing.
        let old = old?;
        if mapped.is_empty() {
            return Some((copied, old));
        }
        let (place, left) = if evicted {
            (Left::Lost(Arc::clone(old.allocation())), Some((copied, old)))
        } else {
            (Left::Kept(old, copied), None)
        };
        let ghost = Ghost { generation: old_generation, mapped, place };
        self.rare.get_or_insert_default().ghosts.push(ghost);
        left
    }

    // ---- strangers ----

    /// An fd of the buffer goes out, which pins it.
    pub(super) fn hand_out(&mut self) {
        self.rare.get_or_insert_default().exported += 1;
    }

    /// An export has ended.
    pub(super) fn take_back(&mut self) {
        if let Some(rare) = &mut self.rare {
            rare.exported -= 1;
        }
    }

    /// Live exports to strangers.
    pub(super) fn exported(&self) -> u32 {
        self.rare.as_ref().map_or(0, |rare| rare.exported)
    }

    // ---- revoking ----

    pub(super) fn begin_revocation(&mut self) {
        let revocations = &mut self.rare.get_or_insert_default().revocations;
        *revocations = revocations.wrapping_add(1);
    }

    /// Which revocation the last one is.
    pub(super) fn revocation(&self) -> u32 {
        self.rare.as_ref().map_or(0, |rare| rare.revocations)
    }

    /// Live mappings of every generation, by device.
    pub(super) fn mappings(&self) -> Mappings {
        let mut all = Mappings::new();
        for seat in &self.seats {
            count(&mut all, seat.device, seat.mapped);
        }
        for (device, mapped) in self.ghosts().flat_map(Ghost::mapped) {
            count(&mut all, device, mapped);
        }
        all
    }

    /// Whether somebody holds a mapping, of whatever generation, or an access.
    pub(super) fn is_looked_at(&self) -> bool {
        let ghosts = self.ghosts().next().is_some();
        self.host > 0 || ghosts || self.seats.iter().any(|seat| seat.mapped > 0)
    }

    /// Signalled when nobody does any more. Only while nobody new can come, and somebody does.
    pub(super) fn when_deserted(&mut self) -> Fence {
        let desertion = &mut self.rare.get_or_insert_default().desertion;
        desertion.get_or_insert_with(Fence::host).0.clone()
    }

    /// To be called when a mapping or an access has ended: the signal of those who wait for the last one,
    /// if this was it. For the caller to drop, without the reservation, which they take next.
    pub(super) fn deserted(&mut self) -> Option<Signal> {
        self.rare.as_ref()?.desertion.as_ref()?;
        if self.is_looked_at() {
            return None;
        }
        self.rare.as_mut()?.desertion.take().map(|(_, signal)| signal)
    }
}

/// Adds to the mappings of a device.
fn count(mappings: &mut Mappings, device: DeviceId, mapped: u32) {
    match mappings.iter_mut().find(|(of, _)| *of == device) {
        Some((_, count)) => *count += mapped,
        None if mapped > 0 => mappings.push((device, mapped)),
        None => {}
    }
}

impl Ghost {
    /// Where it is.
    pub(super) fn domain(&self) -> DomainId {
        match &self.place {
            Left::Kept(backing, _) => backing.domain(),
            Left::Lost(allocation) => allocation.provider().domain(),
        }
    }

    /// Bytes that it has in use.
    pub(super) fn bytes(&self) -> u64 {
        match &self.place {
            Left::Kept(backing, _) => backing.footprint(),
            Left::Lost(_) => 0,
        }
    }

    /// Which devices still look at it, and with how many mappings.
    pub(super) fn mapped(&self) -> impl Iterator<Item = (DeviceId, u32)> {
        self.mapped.iter().copied()
    }
}

impl Seat {
    pub(super) fn is_attached(&self) -> bool {
        self.attached
    }

    pub(super) fn is_dynamic(&self) -> bool {
        self.manner != Manner::Static
    }

    pub(super) fn mapped(&self) -> u32 {
        self.mapped
    }

    fn is_vacant(&self) -> bool {
        !self.attached && self.mapped == 0
    }

    /// Whether the seat's device may be given memory that is another device's own.
    pub(super) fn allows_peer_to_peer(&self) -> bool {
        self.manner != (Manner::Dynamic { peer_to_peer: false })
    }
}

impl std::fmt::Debug for Seat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Seat")
            .field("device", &self.device)
            .field("attached", &self.attached)
            .field("mapped", &self.mapped)
            .field("manner", &self.manner)
            .finish()
    }
}
