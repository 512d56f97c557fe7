//! What models of buffers stand on: an engine of their own with two devices, and a look at the end whether
//! anything was left behind.
#![expect(unsafe_code, reason = "recording a fill")]

use std::sync::OnceLock;
use std::time::Duration;

use ash::vk::DriverId;
use shuttle::rand::{Rng, thread_rng};
use shuttle::sync::{Arc, Mutex};

use crate::observe::Object;
use crate::transfer::PairKey;
use crate::{
    Access, Adapter, Attachment, BufferDescriptor, Device, DomainId, Engine, EngineDescriptor,
    Error, Fence, Importer, Invalidation, Mapping, Migration, Result, SharedBuffer, Verdict,
};

/// An engine, two devices, and a buffer at home on the first that shows [`FIRST`] in every word.
pub(super) struct Stage {
    pub(super) buffer: SharedBuffer,
    pub(super) a: Device,
    pub(super) b: Device,
    pub(super) engine: Engine,
}

/// What is in every word of a stage's buffer.
pub(super) const FIRST: u32 = 0x0101_0101;
/// A size that the host may copy, and one that only devices do.
const SIZES: [u64; 2] = [1 << 10, 68 << 10];

/// What takes long and is the same every time: a loaded driver, and what was proved of its devices.
struct Warm {
    adapter: Adapter,
    to_itself: Verdict,
    to_another: Verdict,
}

static WARM: OnceLock<Warm> = OnceLock::new();

impl Stage {
    pub(super) fn new() -> Self {
        let warm = WARM.get_or_init(Warm::up);
        let engine = Engine::without_instance(&descriptor());
        let open = || engine.open_device(&warm.adapter).expect("the adapter opens");
        let (a, b) = (open(), open());
        for (other, verdict) in [(&a, &warm.to_itself), (&b, &warm.to_another)] {
            let key = PairKey::new(&a.0, &other.0);
            let known = engine.set.core.routes.verdict(key, || Ok(verdict.clone()));
            known.expect("nothing has to be proved");
        }
        let size = SIZES[usize::from(thread_rng().gen_bool(0.5))];
        let buffer = create(&engine, &a, size);
        Self { buffer, a, b, engine }
    }

    /// A further buffer, like the first one.
    pub(super) fn another(&self) -> SharedBuffer {
        create(&self.engine, &self.a, self.buffer.size())
    }

    /// Moves the buffer; `None` if somebody holds it.
    pub(super) fn move_to(&self, to: DomainId) -> Option<Migration> {
        match self.buffer.migrate(to) {
            Ok(moved) => Some(moved),
            Err(Error::Busy { .. }) => None,
            Err(error) => panic!("the move ends well, or the buffer is held: {error}"),
        }
    }

    /// Moves it into system memory, and then to the second device.
    pub(super) fn move_on(&self) -> [Option<Migration>; 2] {
        [DomainId::System, DomainId::Vram(self.b.id())].map(|to| self.move_to(to))
    }

    /// Sets every word, on the device of `seat`; maps again if the buffer has moved.
    pub(super) fn write(&self, seat: &Attachment, mapping: &mut Mapping, word: u32) {
        self.try_write(seat, mapping, word).expect("a submission ends well");
    }

    /// The same, where the buffer may not be there.
    pub(super) fn try_write(
        &self,
        seat: &Attachment,
        mapping: &mut Mapping,
        word: u32,
    ) -> Result<Fence> {
        let device = seat.device();
        self.engine.submit_remapped(&device, &mut [(seat, mapping)], |work, mapped| {
            let view = work.write(mapped[0])?;
            let raw = device.raw().clone();
            // SAFETY: the range is the mapping's, which is written; nothing else is used.
            unsafe {
                work.record(move |commands| {
                    fill(&raw, commands, view, word);
                });
            }
            Ok(())
        })
    }

    /// The word that the buffer shows everywhere.
    pub(super) fn word(&self) -> u32 {
        word(&self.buffer)
    }

    /// Whether nothing is left when the last of it goes.
    pub(super) fn finish(self) {
        let live = Arc::clone(self.engine.live());
        drop(self);
        for object in Object::ALL {
            assert_eq!(live.count(object), 0, "{object:?} still alive");
        }
    }
}

fn fill(raw: &ash::Device, commands: ash::vk::CommandBuffer, view: crate::RawView, word: u32) {
    // SAFETY: the range lies within the buffer, which is a transfer destination like all of peerbuf's.
    unsafe { raw.cmd_fill_buffer(commands, view.buffer, view.offset, view.size, word) };
}

fn create(engine: &Engine, home: &Device, size: u64) -> SharedBuffer {
    let buffer = engine.create_buffer(home, BufferDescriptor::new(size));
    let buffer = buffer.expect("there is memory");
    let access = buffer.host_access(Access::Write).expect("nobody uses it");
    access.write(0, &FIRST.to_ne_bytes().repeat(size as usize / 4)).expect("all of it");
    access.end().expect("it ends well");
    buffer
}

/// The word that `buffer` shows everywhere. More than one at a time would be a torn move; nobody writes.
pub(super) fn word(buffer: &SharedBuffer) -> u32 {
    let words = words(buffer);
    assert!(words.iter().all(|word| *word == words[0]), "the bytes are of one moment");
    words[0]
}

/// All words of `buffer`.
pub(super) fn words(buffer: &SharedBuffer) -> Vec<u32> {
    let mut bytes = vec![0; buffer.size() as usize];
    let access = buffer.host_access(Access::Read).expect("the host can read it");
    access.read(0, &mut bytes).expect("all of it");
    access.end().expect("it ends well");
    bytes.as_chunks().0.iter().map(|word| u32::from_ne_bytes(*word)).collect()
}

impl Warm {
    fn up() -> Self {
        let engine = Engine::open(&descriptor()).expect("there is a Vulkan driver");
        let usable = || engine.adapters().iter().filter(|adapter| adapter.missing().is_empty());
        // The one that opens devices in the shortest time.
        let quick = usable().find(|adapter| adapter.driver_id() == DriverId::GOOGLE_SWIFTSHADER);
        let adapter = quick.or_else(|| usable().next()).expect("one can be used").clone();
        let open = || engine.open_device(&adapter).expect("the adapter opens");
        let (a, b) = (open(), open());
        let prove = |to| Verdict::clone(&engine.route(&a, to).expect("they are proved"));
        let (to_itself, to_another) = (prove(&a), prove(&b));
        assert!(to_another.route.is_shared(), "two devices of one driver share memory");
        Self { adapter, to_itself, to_another }
    }
}

/// The bound of waits for a driver; waits for other threads of a model have none.
pub(super) const DRIVER: Duration = Duration::from_secs(60);

fn descriptor() -> EngineDescriptor {
    EngineDescriptor::new().timeout(DRIVER)
}

/// An importer that remembers which generations it was told of.
#[derive(Default)]
pub(super) struct Told(Mutex<Vec<u32>>);

impl Told {
    pub(super) fn list(&self) -> Vec<u32> {
        self.0.lock().expect("nobody panicked").clone()
    }

    pub(super) fn has(&self, generation: u32) -> bool {
        self.list().contains(&generation)
    }
}

impl Importer for Told {
    fn invalidate_mappings(&self, invalidation: &Invalidation<'_>) {
        self.0.lock().expect("nobody panicked").push(invalidation.generation());
    }
}

/// Attaches a device with an importer of its own.
pub(super) fn attach_told(
    buffer: &SharedBuffer,
    device: &Device,
) -> Result<(Attachment, Arc<Told>)> {
    let told = Arc::<Told>::default();
    let seat = buffer.attach_dynamic(device, Arc::clone(&told) as Arc<dyn Importer>)?;
    Ok((seat, told))
}
