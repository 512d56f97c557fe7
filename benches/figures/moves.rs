//! Cost of moving a buffer with many importers, and of moving many buffers.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use peerbuf::{
    Access, Attachment, Device, DomainId, Importer, Invalidation, Mapping, SharedBuffer,
};

use crate::Outcome;
use crate::by_hand::{ByHand, check_pattern, write_pattern};
use crate::figure::Figure;
use crate::hand::{Block, Recorded};
use crate::measure::{Compared, Plan, compare};
use crate::setup::{Setup, TIMEOUT};
use crate::share::{create_on, fill, verify};

/// Small, since both sides copy the same bytes and the rest is compared.
const SIZE: u64 = 64 << 10;
const IMPORTERS: usize = 1024;
const SEED: u32 = 2026;

/// `move_1024`: to a new backing. By hand: new memory, a copy, and for each importer a new import that replaces
/// its old one.
pub(crate) fn anew(setup: &Setup) -> Outcome<Vec<Figure>> {
    let guest = guest(setup)?;
    let mut ours = Ours::new(setup, &guest)?;
    let mut by_hand = Rebuilt::new(setup, &guest)?;
    let compared = compare(
        Plan::UNEQUAL,
        || {
            ours.migrate(Remap::Each)?;
            // Returns the old backing to the driver, so that no backing is used twice.
            black_box(setup.engine.trim());
            Ok(())
        },
        || by_hand.move_anew(),
    )?;
    ours.check()?;
    by_hand.check()?;
    Ok(vec![Figure::speed(
        "move_1024",
        "move a buffer with 1024 importers",
        "copy, and every importer imported anew",
        Some(40.0),
        compared,
    )])
}

/// `move_1024_cached`: between two backings that all devices have imported. By hand both allocations and the
/// recorded copies are kept; only the importers' memory is imported anew.
pub(crate) fn known(setup: &Setup) -> Outcome<Vec<Figure>> {
    let guest = guest(setup)?;
    let mut ours = Ours::new(setup, &guest)?;
    // Keep both slabs in use and imported by every device.
    let stay = [&setup.near, &setup.far].map(|home| create_on(setup, home, SIZE));
    let stay: Vec<_> = stay.into_iter().collect::<Outcome<_>>()?;
    let mut by_hand = Rebuilt::new(setup, &guest)?;
    let cached = Cached::new(&mut by_hand)?;
    let together =
        compare(Plan::UNEQUAL, || ours.migrate(Remap::All), || by_hand.move_between(&cached))?;
    let each =
        compare(Plan::UNEQUAL, || ours.migrate(Remap::Each), || by_hand.move_between(&cached))?;
    drop(stay);
    ours.check()?;
    by_hand.check()?;
    Ok(vec![
        Figure::speed(
            "move_1024_cached",
            "the same, between two known backings, all remapped in one call",
            "copy, and every importer imported anew",
            Some(500.0),
            together,
        ),
        Figure::speed(
            "move_1024_cached_each",
            "the same, each remapped by itself",
            "copy, and every importer imported anew",
            None,
            each,
        ),
    ])
}

/// The importers' device. It is never the buffer's home, so that it must import each backing.
fn guest(setup: &Setup) -> Outcome<Device> {
    let guest = setup.engine.open_device(setup.far.adapter())?;
    for home in [&setup.near, &setup.far] {
        let buffer = create_on(setup, home, SIZE)?;
        let _attachment = buffer.attach(&guest)?;
        if buffer.provider().domain() != DomainId::Vram(home.id()) {
            return Err(format!("{} cannot see {}'s memory", guest.name(), home.name()).into());
        }
    }
    Ok(guest)
}

/// How the mappings are replaced: each by its own call, or all in one call.
#[derive(Clone, Copy)]
enum Remap {
    Each,
    All,
}

/// Counts its notifications.
#[derive(Default)]
struct Notifications(AtomicU64);

impl Importer for Notifications {
    fn invalidate_mappings(&self, _: &Invalidation<'_>) {
        // Not a read-modify-write: the reservation excludes other callers.
        self.0.store(self.0.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }
}

/// A buffer that moves between the two devices, and its importers on a third one.
struct Ours<'a> {
    guest: &'a Device,
    homes: [DomainId; 2],
    buffer: SharedBuffer,
    attachments: Vec<(Arc<Notifications>, Attachment, Mapping)>,
    moves: u64,
    /// The generation from which on notifications are counted.
    first: u32,
}

impl<'a> Ours<'a> {
    fn new(setup: &Setup, guest: &'a Device) -> Outcome<Self> {
        let buffer = create_on(setup, &setup.near, SIZE)?;
        fill(&buffer, &setup.near, SEED)?;
        let homes = [&setup.near, &setup.far].map(|home| DomainId::Vram(home.id()));
        let attachment = |_| {
            let notified = Arc::<Notifications>::default();
            let attachment =
                buffer.attach_dynamic(guest, Arc::clone(&notified) as Arc<dyn Importer>)?;
            let mapping = attachment.map(Access::Read)?;
            Ok((notified, attachment, mapping))
        };
        let attachments: Vec<_> = (0..IMPORTERS).map(attachment).collect::<Outcome<_>>()?;
        // An attach may have moved it.
        attachments.iter().for_each(|(notified, ..)| notified.0.store(0, Ordering::Relaxed));
        let first = buffer.generation();
        Ok(Self { guest, homes, buffer, attachments, moves: 0, first })
    }

    /// Moves the buffer to the other device and replaces the mapping of every importer.
    fn migrate(&mut self, how: Remap) -> Outcome<()> {
        self.moves += 1;
        // CAST: 0 or 1.
        self.buffer.migrate(self.homes[(self.moves % 2) as usize])?;
        match how {
            Remap::Each => {
                for (_, attachment, mapping) in &mut self.attachments {
                    attachment.remap(mapping)?;
                }
            }
            Remap::All => {
                let attachments = self.attachments.iter_mut();
                let mut pairs: Vec<_> =
                    attachments.map(|(_, attachment, mapping)| (&*attachment, mapping)).collect();
                self.buffer.remap_all(&mut pairs)?;
            }
        }
        for (_, _, mapping) in &self.attachments {
            black_box(mapping.view()?);
        }
        Ok(())
    }

    /// Checks that every importer was notified of every move and reads every byte.
    fn check(&self) -> Outcome<()> {
        // A compaction may have moved it as well.
        let moves = u64::from(self.buffer.generation() - self.first);
        for (notified, _, mapping) in &self.attachments {
            let notified = notified.0.load(Ordering::Relaxed);
            if notified != moves {
                return Err(format!("{notified} notifications of {moves} moves").into());
            }
            let report = mapping.verify(SEED)?;
            if !report.is_clean() {
                return Err(format!("wrong bytes after a move: {report:?}").into());
            }
        }
        verify(&self.buffer, self.guest, SEED)
    }
}

/// The same by hand.
struct Rebuilt<'a> {
    guest: &'a Device,
    /// Sharing from each home to the importers' device, and to the other home, which copies.
    to_guest: [ByHand<'a>; 2],
    across: [ByHand<'a>; 2],
    copies: [Recorded<'a>; 2],
    /// Index of the current home.
    at: usize,
    block: Option<Block<'a>>,
    importers: Vec<Block<'a>>,
}

impl<'a> Rebuilt<'a> {
    fn new(setup: &'a Setup, guest: &'a Device) -> Outcome<Self> {
        let (near, far, handle) = (&setup.near, &setup.far, setup.handle);
        let to_guest =
            [ByHand::new(near, guest, handle, SIZE)?, ByHand::new(far, guest, handle, SIZE)?];
        let across = [ByHand::new(near, far, handle, SIZE)?, ByHand::new(far, near, handle, SIZE)?];
        let block = to_guest[0].create()?;
        write_pattern(near, &block, SIZE)?;
        let copies = [Recorded::new(near)?, Recorded::new(far)?];
        let mut this =
            Self { guest, to_guest, across, copies, at: 0, block: None, importers: vec![] };
        this.importers = this.import(&block)?;
        this.block = Some(block);
        Ok(this)
    }

    fn import(&self, block: &Block<'_>) -> Outcome<Vec<Block<'a>>> {
        (0..IMPORTERS).map(|_| self.to_guest[self.at].share(block)).collect()
    }

    fn move_anew(&mut self) -> Outcome<()> {
        let old = self.block.take().ok_or("the buffer has no memory")?;
        let crossing = self.across[self.at].share(&old)?;
        self.at = 1 - self.at;
        let new = self.to_guest[self.at].create()?;
        let copy = &self.copies[self.at];
        copy.record(&crossing, &new, SIZE)?;
        copy.run()?;
        self.importers = self.import(&new)?;
        self.block = Some(new);
        Ok(())
    }

    fn move_between(&mut self, cached: &Cached<'_>) -> Outcome<()> {
        self.at = 1 - self.at;
        self.copies[self.at].run()?;
        self.importers = self.import(&cached.blocks[self.at])?;
        Ok(())
    }

    fn check(&self) -> Outcome<()> {
        self.importers.iter().try_for_each(|block| check_pattern(self.guest, block, SIZE))
    }
}

/// Two allocations that are kept, each imported by the other home.
struct Cached<'a> {
    blocks: [Block<'a>; 2],
    _crossings: [Block<'a>; 2],
}

impl<'a> Cached<'a> {
    /// Uses the buffer's current block as the first one, and records the copies.
    fn new(by_hand: &mut Rebuilt<'a>) -> Outcome<Self> {
        let first = by_hand.block.take().ok_or("the buffer has no memory")?;
        let blocks = [first, by_hand.to_guest[1].create()?];
        let crossings =
            [by_hand.across[0].share(&blocks[0])?, by_hand.across[1].share(&blocks[1])?];
        for at in [0, 1] {
            by_hand.copies[at].record(&crossings[1 - at], &blocks[at], SIZE)?;
        }
        Ok(Self { blocks, _crossings: crossings })
    }
}

const BATCH: usize = 64;

/// `batch_64`: moves 64 small buffers to the other device, where each has an importer. By hand: 64 recorded copies
/// between memory that both sides have imported, each submitted and waited for.
///
/// `batch_64_device`: the same in memory that the host cannot map, so that a device copies.
pub(crate) fn batch(setup: &Setup) -> Outcome<Vec<Figure>> {
    let by_host = compare_batch(setup)?;
    // Slabs that the host has already mapped stay mapped, so unused ones are freed first.
    setup.engine.trim();
    setup.engine.calls().set_unmappable_device_memory(true);
    let by_device = compare_batch(setup);
    setup.engine.calls().set_unmappable_device_memory(false);
    Ok(vec![
        Figure::speed(
            "batch_64",
            "move 64 buffers of 4 … 64 KiB",
            "64 times a recorded copy, submitted and waited for",
            Some(10.0),
            by_host,
        ),
        Figure::speed(
            "batch_64_device",
            "the same, if the host cannot map the memory",
            "64 times a recorded copy, submitted and waited for",
            None,
            by_device?,
        ),
    ])
}

fn compare_batch(setup: &Setup) -> Outcome<Compared> {
    let sizes = || (0..BATCH).map(|index| (4 << 10) << (index % 5));
    let mut ours = sizes().map(|size| Small::new(setup, size)).collect::<Outcome<Vec<_>>>()?;
    let by_hand = sizes().map(|size| Pair::new(setup, size)).collect::<Outcome<Vec<_>>>()?;
    let homes = [&setup.near, &setup.far].map(|home| DomainId::Vram(home.id()));
    let (mut turn, mut their_turn) = (0, 0);
    let compared = compare(
        Plan::MICROSECONDS,
        || {
            turn = 1 - turn;
            let moves: Vec<_> = ours.iter().map(|small| (&small.buffer, homes[turn])).collect();
            for moved in setup.engine.migrate_many(&moves) {
                moved?;
            }
            for small in &mut ours {
                small.attachment.remap(&mut small.mapping)?;
            }
            ours.iter().try_for_each(|small| {
                black_box(small.mapping.view()?);
                Ok(())
            })
        },
        || {
            their_turn = 1 - their_turn;
            by_hand.iter().try_for_each(|pair| pair.copies[their_turn].run())
        },
    )?;
    ours.iter().try_for_each(|small| verify(&small.buffer, &setup.far, SEED))?;
    by_hand.iter().try_for_each(|pair| check_pattern(&setup.far, &pair.blocks[1], pair.size))?;
    Ok(compared)
}

const MANY: u64 = 4096;
const MANY_SIZE: u64 = 4 << 10;

/// `migrate_4096_small`: moves 4096 buffers of 4 KiB to the other device and back. By hand: as many copies between two
/// allocations that both devices have imported, recorded anew, in one submission that is waited for.
pub(crate) fn small(setup: &Setup) -> Outcome<Vec<Figure>> {
    let ours = (0..MANY)
        .map(|_| {
            let buffer = create_on(setup, &setup.near, MANY_SIZE)?;
            fill_by_host(&buffer)?;
            Ok(buffer)
        })
        .collect::<Outcome<Vec<_>>>()?;
    let by_hand = Pair::new(setup, MANY * MANY_SIZE)?;
    let homes = [&setup.near, &setup.far].map(|home| DomainId::Vram(home.id()));
    let (mut turn, mut their_turn) = (0, 0);
    let compared = compare(
        Plan::LONG,
        || {
            turn = 1 - turn;
            let moves: Vec<_> = ours.iter().map(|buffer| (buffer, homes[turn])).collect();
            for moved in setup.engine.migrate_many(&moves) {
                moved?;
            }
            ours.iter().try_for_each(|buffer| Ok(buffer.wait(Access::Read, TIMEOUT)?))
        },
        || {
            their_turn = 1 - their_turn;
            let (to, from) = (&by_hand.blocks[their_turn], &by_hand.crossings[1 - their_turn]);
            let copies = &by_hand.copies[their_turn];
            copies.record_parts(from, to, MANY * MANY_SIZE, MANY_SIZE)?;
            copies.run()
        },
    )?;
    check_pattern(&setup.far, &by_hand.blocks[1], by_hand.size)?;
    ours.iter().try_for_each(check_by_host)?;
    Ok(vec![Figure::speed(
        "migrate_4096_small",
        "move 4096 buffers of 4 KiB",
        "4096 copies recorded and submitted at once",
        Some(0.9),
        compared,
    )])
}

fn fill_by_host(buffer: &SharedBuffer) -> Outcome<()> {
    let host = buffer.host_access(Access::Write)?;
    host.fill(0, usize::try_from(MANY_SIZE)?, 0xa5)?;
    Ok(host.end()?)
}

fn check_by_host(buffer: &SharedBuffer) -> Outcome<()> {
    let mut bytes = vec![0; usize::try_from(MANY_SIZE)?];
    let host = buffer.host_access(Access::Read)?;
    host.read(0, &mut bytes)?;
    host.end()?;
    if bytes.iter().all(|&byte| byte == 0xa5) { Ok(()) } else { Err("wrong bytes".into()) }
}

/// A small buffer, and its importer on the other device.
struct Small {
    buffer: SharedBuffer,
    attachment: Attachment,
    mapping: Mapping,
}

impl Small {
    fn new(setup: &Setup, size: u64) -> Outcome<Self> {
        let buffer = create_on(setup, &setup.near, size)?;
        fill(&buffer, &setup.near, SEED)?;
        let attachment = buffer.attach_dynamic(&setup.far, Arc::<Notifications>::default())?;
        let mapping = attachment.map(Access::Read)?;
        Ok(Self { buffer, attachment, mapping })
    }
}

/// Memory of each device, imported by the other one, and copies in both directions.
struct Pair<'a> {
    size: u64,
    copies: [Recorded<'a>; 2],
    /// Each home's own memory, and the other one's view of it.
    blocks: [Block<'a>; 2],
    crossings: [Block<'a>; 2],
}

impl<'a> Pair<'a> {
    fn new(setup: &'a Setup, size: u64) -> Outcome<Self> {
        let (near, far, handle) = (&setup.near, &setup.far, setup.handle);
        let ends = [ByHand::new(near, far, handle, size)?, ByHand::new(far, near, handle, size)?];
        let blocks = [ends[0].create()?, ends[1].create()?];
        let crossings = [ends[0].share(&blocks[0])?, ends[1].share(&blocks[1])?];
        write_pattern(near, &blocks[0], size)?;
        let copies = [
            Recorded::copy(near, &crossings[1], &blocks[0], size)?,
            Recorded::copy(far, &crossings[0], &blocks[1], size)?,
        ];
        // One copy first, so that both allocations have the bytes.
        copies[1].run()?;
        Ok(Self { size, copies, blocks, crossings })
    }
}
