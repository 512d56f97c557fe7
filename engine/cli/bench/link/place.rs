//! Where the two ends of a copy are, and the buffers there.

use std::collections::HashMap;
use std::sync::Arc;

use peerbuf::transfer::pattern_word;
use peerbuf::{Access, Attachment, BufferDescriptor, Device, Engine, Placement, SharedBuffer};

use super::super::run::{End, Verified};

/// A kind of memory, with the devices by their positions in the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Place {
    /// A device's own memory.
    Own(usize),
    /// System memory that the host reads and writes, and one device imports.
    Host(usize),
    /// System memory that two devices see. The first one writes it, the second one reads it.
    Between(usize, usize),
}

impl Place {
    /// Which end of a copy writes the source there.
    fn producer(self) -> End {
        match self {
            Self::Own(device) | Self::Between(device, _) => end(device),
            Self::Host(_) => End::Host,
        }
    }

    /// Which end of a copy reads the destination there.
    pub(super) fn consumer(self) -> End {
        match self {
            Self::Own(device) | Self::Between(_, device) => end(device),
            Self::Host(_) => End::Host,
        }
    }
}

/// The end that a device is.
pub(super) fn end(device: usize) -> End {
    // CAST: an engine takes fewer devices.
    End::Device(device as u32)
}

/// What a buffer is used for; no two uses of one run share a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Role {
    Source,
    /// The destination of the copy with this number, among those that run at once.
    Target(usize),
}

/// A buffer, and the devices that are attached to it.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) buffer: SharedBuffer,
    attachments: Vec<(usize, Attachment)>,
}

/// Buffers of one size at one place, which are used in turn.
pub(super) type Pieces = Arc<Vec<Piece>>;

/// The buffers of a run, made at their first use.
#[derive(Debug)]
pub(super) struct Pool<'a> {
    engine: &'a Engine,
    devices: &'a [Device],
    all: HashMap<(Place, u64, Role), Pieces>,
}

/// Bytes over which the buffers of one end rotate: more than the caches of most processors.
const ROTATED: u64 = 64 << 20;

/// The most buffers of one end.
const MOST_PIECES: u64 = 8;

/// How many buffers of a size are used in turn.
fn pieces(size: u64) -> u64 {
    (ROTATED / size.max(1)).clamp(1, MOST_PIECES)
}

impl<'a> Pool<'a> {
    pub(super) fn new(engine: &'a Engine, devices: &'a [Device]) -> Self {
        Self { engine, devices, all: HashMap::new() }
    }

    /// The buffers of `size` bytes at a place.
    pub(super) fn get(&mut self, place: Place, size: u64, role: Role) -> peerbuf::Result<Pieces> {
        if let Some(pieces) = self.all.get(&(place, size, role)) {
            return Ok(Arc::clone(pieces));
        }
        let made = (0..pieces(size)).map(|_| self.create(place, size)).collect::<Result<_, _>>()?;
        let pieces = Arc::new(made);
        self.all.insert((place, size, role), Arc::clone(&pieces));
        Ok(pieces)
    }

    /// Drops all buffers, and gives their memory back.
    pub(super) fn clear(&mut self) {
        self.all.clear();
        self.engine.trim();
    }

    pub(super) fn create(&self, place: Place, size: u64) -> peerbuf::Result<Piece> {
        let (home, placement) = match place {
            Place::Own(home) => (home, Placement::Vram),
            Place::Host(home) | Place::Between(home, _) => (home, Placement::System),
        };
        let descriptor = BufferDescriptor::new(size).placement(placement).name("bench");
        let buffer = self.engine.create_buffer(&self.devices[home], descriptor)?;
        let mut attachments = vec![(home, buffer.attach(&self.devices[home])?)];
        match place {
            // Those that can reach it there keep their view of it, so that no copy has to import it.
            Place::Own(_) => {
                let others = (0..self.devices.len()).filter(|other| *other != home);
                attachments.extend(
                    others.filter_map(|other| {
                        Some((other, buffer.attach(&self.devices[other]).ok()?))
                    }),
                );
            }
            Place::Between(_, other) => {
                attachments.push((other, buffer.attach(&self.devices[other])?));
            }
            Place::Host(_) => {}
        }
        Ok(Piece { buffer, attachments })
    }
}

impl Piece {
    /// Writes the pattern of `seed`, by the producer of a place.
    pub(super) fn fill(&self, place: Place, seed: u32) -> peerbuf::Result<()> {
        self.fill_by(place.producer(), seed)
    }

    /// Writes other bytes than those of the pattern of `seed`, by the consumer of a place.
    pub(super) fn spoil(&self, place: Place, seed: u32) -> peerbuf::Result<()> {
        self.fill_by(place.consumer(), !seed)
    }

    fn fill_by(&self, by: End, seed: u32) -> peerbuf::Result<()> {
        if let Some(attachment) = self.attachment(by) {
            return attachment.map(Access::Write)?.fill(seed);
        }
        let access = self.buffer.host_access(Access::Write)?;
        let mut part = vec![0; PART];
        for offset in (0..self.buffer.size()).step_by(PART) {
            let part = &mut part[..part_len(self.buffer.size(), offset)];
            write_pattern(part, offset, seed);
            access.write(offset, part)?;
        }
        access.end()
    }

    /// Compares all bytes with the pattern of `seed`, through the consumer of a place.
    pub(super) fn verify(&self, place: Place, seed: u32) -> peerbuf::Result<Verified> {
        let bytes = self.buffer.size();
        if let Some(attachment) = self.attachment(place.consumer()) {
            let found = attachment.map(Access::Read)?.verify(seed)?;
            return Ok(Verified { bytes: found.words * 4, wrong_bytes: found.wrong * 4 });
        }
        let access = self.buffer.host_access(Access::Read)?;
        let (mut part, mut expected) = (vec![0; PART], vec![0; PART]);
        let mut wrong_bytes = 0;
        for offset in (0..bytes).step_by(PART) {
            let len = part_len(bytes, offset);
            let (part, expected) = (&mut part[..len], &mut expected[..len]);
            access.read(offset, part)?;
            write_pattern(expected, offset, seed);
            if part != expected {
                wrong_bytes += part.iter().zip(&*expected).filter(|(a, b)| a != b).count() as u64;
            }
        }
        access.end()?;
        Ok(Verified { bytes, wrong_bytes })
    }

    /// The attachment of an end that is a device.
    fn attachment(&self, of: End) -> Option<&Attachment> {
        let found = self.attachments.iter().find(|(device, _)| end(*device) == of);
        found.map(|(_, attachment)| attachment)
    }
}

/// Bytes that the host writes or compares at a time.
const PART: usize = 1 << 20;

/// The length of the part at `offset`.
fn part_len(bytes: u64, offset: u64) -> usize {
    // CAST: at most `PART`.
    (bytes - offset).min(PART as u64) as usize
}

/// Writes the part of the pattern that begins at a byte: a multiple of 4.
fn write_pattern(part: &mut [u8], offset: u64, seed: u32) {
    // CAST: passes, whose pattern this is, take up to 16 GiB.
    let first = (offset / 4) as u32;
    let (words, _) = part.as_chunks_mut::<4>();
    for (index, word) in (first..).zip(words) {
        *word = pattern_word(seed, index).to_ne_bytes();
    }
}
