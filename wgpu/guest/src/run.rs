//! The frames, their checks, and what is reported of them.
#![expect(unsafe_code, reason = "one device for two libraries")]

use std::fmt;
use std::time::{Duration, Instant};

use peerbuf::image::Fourcc;
use peerbuf::{Adapter, AdapterSelector, Device, Engine, EngineDescriptor, Migration};
use peerbuf_wgpu::{Guest, GuestDescriptor};

use crate::Result;
use crate::args::Args;
use crate::draw::Drawing;
use crate::other::{Other, colour};
use crate::shared::Shared;

/// How long all work may take to end. It is reached only if a device hangs.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Place of red, green and blue in a texel of four bytes.
type Channels = [usize; 3];

/// What was met.
pub(crate) struct Report {
    pub(crate) draw: String,
    pub(crate) other: String,
    pub(crate) layout: String,
    pub(crate) frames: u32,
    pub(crate) checked: u32,
    pub(crate) wrong: Vec<String>,
    pub(crate) moves: u32,
    pub(crate) refused: Vec<String>,
    pub(crate) notified: u64,
    pub(crate) remade: u64,
    pub(crate) bind_groups: u32,
    /// At the end of each half.
    pub(crate) fds: [usize; 2],
    pub(crate) objects: [u64; 2],
    pub(crate) resident_kib: [u64; 2],
    pub(crate) seconds: f64,
}

/// Opens both devices, draws all frames, and closes them.
pub(crate) fn run(args: &Args) -> Result<Report> {
    let name: [u8; 4] = args
        .format
        .as_bytes()
        .try_into()
        .map_err(|_| format!("a format has four letters, as AR24: {:?}", args.format))?;
    let engine = Engine::open(&EngineDescriptor::new())?;
    let (draw, other) = choose(&engine, args)?;
    // SAFETY: the queue is used through frames alone; what a frame returns is used in its own commands; `frame` alone is
    // written, in an access that writes; nothing else of this device uses the images and the buffer.
    let guest = unsafe { Guest::open(&engine, &draw, &GuestDescriptor::default()) }?;
    let outcome = frames(args, (&engine, &guest), (&other, Fourcc::new(name)));
    // What was shared is dropped.
    match (guest.close(), outcome) {
        (Ok(()), outcome) => outcome,
        (Err(_), Err(error)) => Err(error),
        (Err((_, error)), Ok(_)) => Err(error.into()),
    }
}

/// The adapters that draw, and that write and read.
fn choose(engine: &Engine, args: &Args) -> Result<(Adapter, Adapter)> {
    let usable = || engine.adapters().iter().filter(|adapter| adapter.missing().is_empty());
    let named = |selector: Option<AdapterSelector>| -> Result<Option<Adapter>> {
        Ok(selector.map(|selector| engine.adapter(selector)).transpose()?.cloned())
    };
    let draw = match named(args.draw)? {
        Some(adapter) => adapter,
        None => usable()
            .next()
            .ok_or("no device that peerbuf can use: `peerbuf doctor` says what is missing")?
            .clone(),
    };
    let other = match named(args.other)? {
        Some(adapter) => adapter,
        None => usable()
            .find(|adapter| adapter.index() != draw.index())
            .ok_or_else(|| {
                let index = draw.index();
                format!("one device only, {}: `--other {index}` opens it twice", draw.name())
            })?
            .clone(),
    };
    Ok((draw, other))
}

fn frames(
    args: &Args,
    (engine, guest): (&Engine, &Guest),
    (adapter, format): (&Adapter, Fourcc),
) -> Result<Report> {
    let device = engine.open_device(adapter)?;
    let shared = (engine, guest, &device);
    let mut shared = Shared::new(shared, (format, args.size))?;
    let channels = channels(shared.frame.texture.format(), format)?;
    let mut drawing = Drawing::new(guest.wgpu(), shared.frame.texture.format());
    let mut other = Other::new(engine, device, args.size)?;
    let mut report = Report {
        draw: guest.device().name().to_owned(),
        other: other.device.name().to_owned(),
        layout: shared.frame.shared.layout().to_string(),
        frames: args.frames,
        checked: 0,
        wrong: vec![],
        moves: 0,
        refused: vec![],
        notified: 0,
        remade: 0,
        bind_groups: 0,
        fds: [0; 2],
        objects: [0; 2],
        resident_kib: [0; 2],
        seconds: 0.0,
    };
    let began = Instant::now();
    for number in 0..args.frames {
        other.write(engine, &mut shared, number)?;
        drawing.draw(guest, &mut shared)?;
        let read = other.read(engine, &mut shared, Some(number))?;
        report.check(read, (args.size, channels));
        if args.move_every > 0 && number % args.move_every == args.move_every - 1 {
            let turn = number / args.move_every;
            report.note(shared.move_one(turn, [guest.device(), &other.device]));
        }
        let ends = [args.frames / 2, args.frames];
        if let Some(half) = ends.iter().position(|end| *end == number + 1) {
            for _ in 0..other.depth() {
                let read = other.read(engine, &mut shared, None)?;
                report.check(read, (args.size, channels));
            }
            rest(engine, guest, &other.device)?;
            report.measure(half, engine);
        }
    }
    report.seconds = began.elapsed().as_secs_f64();
    report.notified = shared.notified.notifications();
    report.remade = shared.numbers.buffer.version()
        + shared.picture.texture.version()
        + shared.frame.texture.version();
    report.bind_groups = drawing.groups;
    Ok(report)
}

/// Waits until all work has ended, and gives back what is kept for later.
fn rest(engine: &Engine, guest: &Guest, other: &Device) -> Result<()> {
    // First, since wgpu panics if it polls a lost device.
    guest.submitted()?.wait(TIMEOUT)?;
    guest.wgpu().poll(wgpu::PollType::Wait { submission_index: None, timeout: Some(TIMEOUT) })?;
    other.submitted()?.wait(TIMEOUT)?;
    // What wgpu has dropped.
    guest.poll()?;
    engine.trim();
    Ok(())
}

/// Where a format of four bytes has its colours.
fn channels(format: wgpu::TextureFormat, name: Fourcc) -> Result<Channels> {
    match format {
        wgpu::TextureFormat::Bgra8Unorm => Ok([2, 1, 0]),
        wgpu::TextureFormat::Rgba8Unorm => Ok([0, 1, 2]),
        _ => Err(format!("this program checks AR24, XR24, AB24 and XB24, and not {name}").into()),
    }
}

impl Report {
    /// Compares each texel with what it must be.
    fn check(&mut self, read: Option<(u32, Vec<u8>)>, (size, channels): (u32, Channels)) {
        let Some((number, texels)) = read else { return };
        self.checked += 1;
        let [red, green] = colour(number);
        let blue = |x: u32, y: u32| number.wrapping_add(x).wrapping_add(3 * y).to_le_bytes()[0];
        let mut places = (0..size).flat_map(|y| (0..size).map(move |x| (x, y)));
        let wrong = texels.as_chunks::<4>().0.iter().find_map(|texel| {
            let (x, y) = places.next()?;
            let (is, must) = (channels.map(|channel| texel[channel]), [red, green, blue(x, y)]);
            (is != must).then(|| format!("frame {number}, {x}, {y}: {is:?} instead of {must:?}"))
        });
        self.wrong.extend(wrong);
    }

    fn note(&mut self, moved: peerbuf::Result<Migration>) {
        match moved {
            Ok(Migration::Done { .. }) => self.moves += 1,
            Ok(_) => {}
            Err(error) => {
                let text = error.to_string();
                if !self.refused.contains(&text) {
                    self.refused.push(text);
                }
            }
        }
    }

    /// What is held at the end of a half, when nothing runs.
    fn measure(&mut self, half: usize, engine: &Engine) {
        self.fds[half] = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
        self.objects[half] = engine.live().total();
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        self.resident_kib[half] = kib.unwrap_or(0);
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "draw": self.draw,
            "other": self.other,
            "layout": self.layout,
            "frames": self.frames,
            "checked": self.checked,
            "wrong": self.wrong,
            "moves": self.moves,
            "refused": self.refused,
            "notified": self.notified,
            "remade": self.remade,
            "bind_groups": self.bind_groups,
            "fds": self.fds,
            "objects": self.objects,
            "resident_kib": self.resident_kib,
            "seconds": self.seconds,
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} draws with wgpu, {} writes and reads", self.draw, self.other)?;
        writeln!(f, "the frame is in {}", self.layout)?;
        writeln!(
            f,
            "{} frames in {:.1} s, {} checked, {} wrong",
            self.frames,
            self.seconds,
            self.checked,
            self.wrong.len()
        )?;
        write!(
            f,
            "{} moves, {} notifications, {} objects of wgpu's made, {} bind groups",
            self.moves, self.notified, self.remade, self.bind_groups
        )?;
        for line in self.wrong.iter().take(10).chain(&self.refused) {
            write!(f, "\n  {line}")?;
        }
        Ok(())
    }
}
