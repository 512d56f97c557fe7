//! The first buffer that two devices share, in processes that have just begun.
#![expect(unsafe_code, reason = "commands that peerbuf lets the application record")]

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use ash::vk;
use peerbuf::{Access, BufferDescriptor, Engine, EngineDescriptor, HandleType};

use crate::Outcome;
use crate::figure::Figure;
use crate::first_share_by_hand::by_hand;
use crate::hand::Block;
use crate::measure::{Rounds, rounds_of};
use crate::setup::{Setup, TIMEOUT};

/// Rounds of two processes of each contender. The number is odd, so that the median is one of them.
const ROUNDS: usize = 31;
/// Size of the shared buffer.
pub(crate) const SIZE: u64 = 4096;
/// The word that passes from one device to the other.
pub(crate) const WORD: u32 = 0x7065_6572;

/// `first_share`: Vulkan is loaded, two devices are opened, the first one writes a word to a new buffer, and the second one
/// reads it. `first_share_known`: the same, with the routes that another process has proved.
pub(crate) fn cold(setup: &Setup) -> Outcome<Vec<Figure>> {
    let pair = Pair {
        near: setup.near.adapter().index(),
        far: setup.far.adapter().index(),
        handle: setup.handle,
    };
    let file = std::env::temp_dir().join(format!("peerbuf-figures-{}", std::process::id()));
    // The first one proves the routes.
    pair.time(Who::Ours(Some(&file)))?;
    let against_hand = |ours: Who<'_>| -> Outcome<_> {
        let mut rounds = Rounds::default();
        // The files of the drivers are read from disk once.
        pair.time(ours)?;
        pair.time(Who::Hand)?;
        for _ in 0..rounds_of(ROUNDS) {
            let first = pair.time(ours)?;
            let theirs = pair.time(Who::Hand)? + pair.time(Who::Hand)?;
            rounds.add(first + pair.time(ours)?, theirs);
        }
        Ok(rounds.summary())
    };
    let cold = against_hand(Who::Ours(None))?;
    let known = against_hand(Who::Ours(Some(&file)));
    // Another run has another name.
    let _ = std::fs::remove_file(&file);
    let (what, by) = ("a new process: open, two devices, first shared buffer", "the same by hand");
    Ok(vec![
        Figure::speed("first_share", what, by, Some(0.75), cold),
        Figure::speed("first_share_known", "the same, routes remembered", by, Some(0.95), known?),
    ])
}

/// The adapters of the two devices, by their place in the loader's list, and how they share memory.
#[derive(Clone, Copy)]
pub(crate) struct Pair {
    pub(crate) near: usize,
    pub(crate) far: usize,
    pub(crate) handle: HandleType,
}

#[derive(Clone, Copy)]
enum Who<'a> {
    Hand,
    /// With a file of routes.
    Ours(Option<&'a Path>),
}

/// The first argument of a process that is measured.
const CHILD: &str = "--first-share";

impl Pair {
    /// The seconds that a new process takes.
    fn time(self, who: Who<'_>) -> Outcome<f64> {
        let Self { near, far, handle } = self;
        let mut command = Command::new(std::env::current_exe()?);
        command.args([CHILD, &near.to_string(), &far.to_string(), handle.name()]);
        match who {
            Who::Hand => command.arg("hand"),
            Who::Ours(None) => command.arg("ours"),
            Who::Ours(Some(file)) => command.arg("ours").arg(file),
        };
        let output = command.output()?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
        }
        Ok(String::from_utf8(output.stdout)?.trim().parse()?)
    }

    /// The first share with peerbuf.
    fn with_peerbuf(self, file: Option<PathBuf>, start: Instant) -> Outcome<()> {
        let descriptor = EngineDescriptor::new().timeout(TIMEOUT);
        let engine = Engine::open(&match file {
            Some(file) => descriptor.route_cache(file),
            None => descriptor,
        })?;
        let open = |index: usize| engine.open_device(&engine.adapters()[index]);
        let (near, far) = (&open(self.near)?, &open(self.far)?);
        let buffer = engine.create_buffer(near, BufferDescriptor::new(SIZE))?;
        let (writer, reader) = (buffer.attach(near)?, buffer.attach(far)?);
        let (written, read) = (writer.map(Access::Write)?, reader.map(Access::Read)?);
        engine.submit(near, |submission| {
            let view = submission.write(&written)?;
            let fill = move |commands| {
                // SAFETY: being recorded, within the declared range.
                unsafe { near.raw().cmd_fill_buffer(commands, view.buffer, view.offset, 4, WORD) };
            };
            // SAFETY: it records one valid command on what was declared.
            unsafe { submission.record(fill) };
            Ok(())
        })?;
        let mut found = Block::staging(far, 4)?;
        let to = found.range(4).buffer;
        let fence = engine.submit(far, |submission| {
            let view = submission.read(&read)?;
            let region = [vk::BufferCopy { src_offset: view.offset, dst_offset: 0, size: 4 }];
            let copy = move |commands| {
                // SAFETY: as above; `found` lives longer than the work.
                unsafe { far.raw().cmd_copy_buffer(commands, view.buffer, to, &region) };
            };
            // SAFETY: it records one valid command on what was declared and on this device's own buffer.
            unsafe { submission.record(copy) };
            Ok(())
        })?;
        fence.wait(TIMEOUT)?;
        let found = found.with_bytes(4, |bytes| <[u8; 4]>::try_from(&*bytes))?;
        print_time(start, u32::from_ne_bytes(found?))
    }
}

/// Prints the seconds since `start`, if the word that was read is right.
pub(crate) fn print_time(start: Instant, found: u32) -> Outcome<()> {
    let seconds = start.elapsed().as_secs_f64();
    if found != WORD {
        return Err(format!("wrong word {found:#x}").into());
    }
    Ok(writeln!(io::stdout(), "{seconds}")?)
}

/// What a process that is measured does.
pub(crate) struct Child {
    pair: Pair,
    by_hand: bool,
    file: Option<PathBuf>,
}

impl Child {
    /// `None` if the arguments are not those of such a process.
    pub(crate) fn parse(arguments: &[String]) -> Option<Self> {
        let [child, near, far, handle, who, file @ ..] = arguments else { return None };
        let handle = *HandleType::ALL.iter().find(|of| of.name() == handle)?;
        let pair = Pair { near: near.parse().ok()?, far: far.parse().ok()?, handle };
        let file = file.first().map(PathBuf::from);
        (child == CHILD).then(|| Self { pair, by_hand: who == "hand", file })
    }

    /// Does it, and prints the seconds until the word is read. What ends afterwards is not measured.
    pub(crate) fn run(self) -> Outcome<()> {
        let start = Instant::now();
        match self.by_hand {
            true => by_hand(self.pair, start),
            false => self.pair.with_peerbuf(self.file, start),
        }
    }
}
