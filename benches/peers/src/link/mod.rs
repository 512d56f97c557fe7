//! Bytes from one device to another: who can do it at all, how fast, and what it costs.

mod allocators;
mod nvbandwidth;
mod ours;
mod raw;
mod table;
mod through_vulkano;
mod through_wgpu;

use std::io::Write as _;
use std::time::Duration;

use peerbuf::device::AdapterKind;
use peerbuf::{Adapter, BufferDescriptor, Device, Engine, EngineDescriptor, HandleType, Provider};

use crate::Outcome;
use crate::figure::Figure;
use crate::measure::{Compared, Plan, compare};
use table::Table;

/// Sizes that are measured; the last one is that of the rows with a target.
const SIZES: [u64; 5] = [4 << 10, 64 << 10, 1 << 20, 16 << 20, 64 << 20];

/// Two devices that share memory directly, as the contenders do by hand.
pub(crate) struct Pair {
    pub(crate) engine: Engine,
    pub(crate) near: Device,
    pub(crate) far: Device,
    pub(crate) handle: HandleType,
}

/// What copies bytes from the first device's buffer to the second one's.
pub(crate) trait Peer {
    /// Copies all bytes, and returns when the second device's buffer has them.
    fn copy(&mut self) -> Outcome<()>;

    /// Checks every byte of the second device's buffer, by that device. It had other bytes before the first copy.
    fn check(&mut self) -> Outcome<()>;
}

/// Makes a contender for buffers of some bytes.
type Make = for<'a> fn(&'a Pair, u64) -> Outcome<Box<dyn Peer + 'a>>;

/// A contender, and what is known of it without measuring.
pub(crate) struct Contender {
    pub(crate) name: &'static str,
    /// How the bytes travel.
    pub(crate) how: &'static str,
    /// Whether a second device can use the first one's memory in place.
    pub(crate) shares: &'static str,
    /// How often each byte is written until it has arrived.
    pub(crate) copies_per_byte: u32,
    /// Bytes of memory for each byte that both devices use: in place, if they can, else with all that the copy needs.
    pub(crate) memory_per_byte: u32,
    /// The id of its row, and the least ratio.
    pub(crate) row: (&'static str, Option<f64>),
    make: Make,
}

const CONTENDERS: [Contender; 6] = [
    Contender {
        name: "ash, by hand",
        how: "one recorded copy out of an imported fd",
        shares: "by hand",
        copies_per_byte: 1,
        memory_per_byte: 1,
        row: ("link_ash", None),
        make: |pair, size| Ok(Box::new(raw::ByHand::new(pair, size)?)),
    },
    Contender {
        name: "vulkano 0.35",
        how: "one recorded copy out of an imported fd",
        shares: "by its API, step by step",
        copies_per_byte: 1,
        memory_per_byte: 1,
        row: ("link_vulkano", None),
        make: |pair, size| Ok(Box::new(through_vulkano::Vulkano::new(pair, size)?)),
    },
    Contender {
        name: "vk-mem 0.5",
        how: "one recorded copy out of an imported fd",
        shares: "fds by hand, a pool for each buffer",
        copies_per_byte: 1,
        memory_per_byte: 1,
        row: ("link_vma", None),
        make: |pair, size| Ok(Box::new(allocators::Vma::new(pair, size)?)),
    },
    Contender {
        name: "gpu-allocator 0.28",
        how: "to staging memory, memcpy, out of staging memory",
        shares: "no",
        copies_per_byte: 3,
        memory_per_byte: 4,
        row: ("link_gpu_allocator", None),
        make: |pair, size| Ok(Box::new(allocators::Staged::new(pair, size)?)),
    },
    Contender {
        name: "wgpu 30, tuned",
        how: "kept staging buffers, mapped each time; one memcpy between them",
        shares: "no",
        copies_per_byte: 3,
        memory_per_byte: 4,
        row: ("link_wgpu_tuned", Some(2.8)),
        make: |pair, size| Ok(Box::new(through_wgpu::Wgpu::tuned(pair, size)?)),
    },
    Contender {
        name: "wgpu 30, naive",
        how: "read back to a new `Vec`, `Queue::write_buffer`",
        shares: "no",
        copies_per_byte: 4,
        memory_per_byte: 5,
        row: ("link_wgpu_naive", Some(14.0)),
        make: |pair, size| Ok(Box::new(through_wgpu::Wgpu::naive(pair, size)?)),
    },
];

/// A contender's times, by size; or why it has none.
pub(crate) struct Row {
    pub(crate) contender: &'static Contender,
    pub(crate) times: Outcome<Vec<(u64, Compared)>>,
}

/// Measures all contenders, or, with the two files, prints nvbandwidth's cells beside those of a saved run.
pub(crate) fn run(as_json: bool, files: &[String]) -> Outcome<()> {
    match files {
        [] => {}
        [theirs, ours] => {
            let text = nvbandwidth::beside(theirs.as_ref(), ours.as_ref())?;
            return Ok(write!(std::io::stdout(), "{text}")?);
        }
        _ => return Err(
            "link takes no file, or what `nvbandwidth -j` and `peerbuf bench link --json` printed"
                .into(),
        ),
    }
    let pair = Pair::new()?;
    let rows: Vec<_> = CONTENDERS
        .iter()
        .map(|contender| {
            eprintln!("peers: {}", contender.name);
            Row { contender, times: times(&pair, contender) }
        })
        .collect();
    Table { pair: &pair, rows: &rows }.print(as_json)?;
    match rows.iter().filter(|row| row.times.is_err()).count() {
        0 => Ok(()),
        failed => Err(format!("{failed} contenders have no times").into()),
    }
}

/// Measures a contender at each size, with peerbuf beside it in the same rounds.
fn times(pair: &Pair, contender: &Contender) -> Outcome<Vec<(u64, Compared)>> {
    let of_size = |&size: &u64| {
        let mut ours = ours::Ours::new(pair, size)?;
        let mut theirs = (contender.make)(pair, size)?;
        let plan = match size {
            ..0x10_0000 => Plan::SHORT,
            0x10_0000..0x400_0000 => Plan::LONG,
            _ => Plan::MILLISECONDS,
        };
        let compared = compare(plan, || ours.copy(), || theirs.copy())?;
        ours.check()?;
        theirs.check()?;
        Ok((size, compared))
    };
    SIZES.iter().map(of_size).collect()
}

/// The rows with a ratio at the largest size.
pub(crate) fn figures(rows: &[Row]) -> Vec<Figure> {
    let figure = |row: &Row| {
        let (id, target) = row.contender.row;
        let &(_, compared) = row.times.as_ref().ok()?.last()?;
        let what = "64 MiB from device to device";
        Some(Figure::speed(id, what, row.contender.name, target, compared))
    };
    rows.iter().filter_map(figure).collect()
}

impl Pair {
    /// The first two GPUs; with one, or none, one adapter twice.
    fn new() -> Outcome<Self> {
        let engine = Engine::open(&EngineDescriptor::new())?;
        let mut adapters: Vec<&Adapter> =
            engine.adapters().iter().filter(|adapter| adapter.missing().is_empty()).collect();
        adapters.sort_by_key(|adapter| rank(adapter));
        let first = *adapters.first().ok_or("no adapter can be used")?;
        let second = adapters.get(1).copied().filter(|it| it.kind() != AdapterKind::Cpu);
        let near = engine.open_device(first)?;
        let far = engine.open_device(second.unwrap_or(first))?;
        let buffer = engine.create_buffer(&near, BufferDescriptor::new(4096))?;
        let _attachment = buffer.attach(&far)?;
        let Provider::Device { handle, .. } = buffer.provider() else {
            let by = buffer.provider();
            return Err(format!("the devices share by {by}, which is not done by hand here").into());
        };
        Ok(Self { engine, near, far, handle })
    }
}

/// GPUs first, then lavapipe, then any other.
pub(crate) fn rank(adapter: &Adapter) -> (bool, bool) {
    let is_lavapipe = adapter.driver_name().contains("llvmpipe");
    (adapter.kind() == AdapterKind::Cpu, !is_lavapipe)
}

/// Longest wait for a device.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(60);

/// The word at a position, of a pattern that has no word twice. All contenders but peerbuf copy it.
pub(crate) fn word(index: usize) -> [u8; 8] {
    // The factor is odd, so that the product is different for each index.
    (index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()
}

/// Fills memory with the pattern.
pub(crate) fn fill(bytes: &mut [u8]) {
    for (index, at) in bytes.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        *at = word(index);
    }
}

/// Compares memory with the pattern.
pub(crate) fn verify(bytes: &[u8]) -> Outcome<()> {
    let words = bytes.as_chunks::<8>().0.iter().enumerate();
    match words.filter(|(index, at)| **at != word(*index)).count() {
        0 => Ok(()),
        wrong => Err(format!("{wrong} words are wrong").into()),
    }
}
