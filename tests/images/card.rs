//! A display of the virtual machine: the DRM card that scans an image out, and what QEMU shows.
//!
//! Kernel: `drivers/gpu/drm/tiny/cirrus.c`, `include/uapi/drm/drm.h`, `drm_mode.h`.
#![expect(unsafe_code, reason = "ioctls of DRM")]

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::ioctl::{self, Opcode, Updater, opcode};

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct ModeInfo {
    clock: u32,
    /// Display, sync start, sync end, total, skew.
    horizontal: [u16; 5],
    /// Display, sync start, sync end, total, scan.
    vertical: [u16; 5],
    refresh: u32,
    flags: u32,
    kind: u32,
    name: [u8; 32],
}

#[repr(C)]
#[derive(Default)]
struct CardResources {
    framebuffers: u64,
    crtcs: u64,
    connectors: u64,
    encoders: u64,
    count_framebuffers: u32,
    count_crtcs: u32,
    count_connectors: u32,
    count_encoders: u32,
    width: [u32; 2],
    height: [u32; 2],
}

#[repr(C)]
#[derive(Default)]
struct GetConnector {
    encoders: u64,
    modes: u64,
    properties: u64,
    values: u64,
    count_modes: u32,
    count_properties: u32,
    count_encoders: u32,
    encoder: u32,
    connector: u32,
    kind: [u32; 2],
    connection: u32,
    millimetres: [u32; 2],
    subpixel: u32,
    pad: u32,
}

#[repr(C)]
#[derive(Default)]
struct SetCrtc {
    connectors: u64,
    count_connectors: u32,
    crtc: u32,
    framebuffer: u32,
    x: u32,
    y: u32,
    gamma_size: u32,
    mode_valid: u32,
    mode: ModeInfo,
}

#[repr(C)]
#[derive(Default)]
struct AddFramebuffer {
    framebuffer: u32,
    width: u32,
    height: u32,
    fourcc: u32,
    flags: u32,
    handles: [u32; 4],
    pitches: [u32; 4],
    offsets: [u32; 4],
    modifiers: [u64; 4],
}

#[repr(C)]
struct PrimeHandle {
    handle: u32,
    flags: u32,
    fd: i32,
}

#[repr(C)]
struct CloseHandle {
    handle: u32,
    pad: u32,
}

const GET_RESOURCES: Opcode = opcode::read_write::<CardResources>(b'd', 0xa0);
const SET_CRTC: Opcode = opcode::read_write::<SetCrtc>(b'd', 0xa2);
const GET_CONNECTOR: Opcode = opcode::read_write::<GetConnector>(b'd', 0xa7);
const REMOVE_FRAMEBUFFER: Opcode = opcode::read_write::<u32>(b'd', 0xaf);
const ADD_FRAMEBUFFER: Opcode = opcode::read_write::<AddFramebuffer>(b'd', 0xb8);
const PRIME_FD_TO_HANDLE: Opcode = opcode::read_write::<PrimeHandle>(b'd', 0x2e);
const GEM_CLOSE: Opcode = opcode::write::<CloseHandle>(b'd', 0x09);

/// The card, with its only display.
pub(crate) struct Card {
    file: File,
    crtc: u32,
    connector: u32,
    mode: ModeInfo,
}

/// An image that the card scans out until this is dropped.
pub(crate) struct Shown<'a> {
    card: &'a Card,
    handle: u32,
    framebuffer: u32,
}

/// Where the rows of an image are in a dma-buf.
#[derive(Clone, Copy)]
pub(crate) struct Rows {
    pub(crate) fourcc: u32,
    pub(crate) offset: u32,
    pub(crate) pitch: u32,
}

impl Card {
    /// The name of the card. `None` if the machine has none.
    pub(crate) fn name() -> Option<String> {
        let is_it = |name: &str| {
            let link = std::fs::read_link(format!("/sys/class/drm/{name}/device/driver"));
            let driver = link.ok().and_then(|link| Some(link.file_name()?.to_owned()));
            driver.is_some_and(|driver| driver.to_string_lossy().starts_with("cirrus"))
        };
        (0..8).map(|n| format!("card{n}")).find(|name| is_it(name))
    }

    /// Opens the card, for pictures of a size. `None` if the machine has none.
    pub(crate) fn open(width: u16, height: u16) -> Option<Self> {
        let path = format!("/dev/dri/{}", Self::name()?);
        let file = OpenOptions::new().read(true).write(true).open(path).expect("the node opens");
        let (mut crtc, mut connector) = (0_u32, 0_u32);
        let mut resources = CardResources {
            crtcs: address(&raw mut crtc),
            connectors: address(&raw mut connector),
            count_crtcs: 1,
            count_connectors: 1,
            ..CardResources::default()
        };
        // SAFETY: the ioctl reads and writes this structure, and one number at each of the two addresses.
        unsafe { call::<GET_RESOURCES, _>(&file, &mut resources) };
        let counts = (resources.count_crtcs, resources.count_connectors);
        assert_eq!(counts, (1, 1), "a card with one display");
        let mut modes = [ModeInfo::default(); 64];
        // First the kernel lists the modes, then it copies as many as there is room for.
        let mut found = GetConnector { connector, ..GetConnector::default() };
        // SAFETY: the ioctl reads and writes this structure.
        unsafe { call::<GET_CONNECTOR, _>(&file, &mut found) };
        let count = found.count_modes;
        assert!(count as usize <= modes.len(), "{count} modes");
        let modes_at = address(modes.as_mut_ptr());
        let mut found = GetConnector {
            connector,
            modes: modes_at,
            count_modes: count,
            ..GetConnector::default()
        };
        // SAFETY: as above, and so many modes.
        unsafe { call::<GET_CONNECTOR, _>(&file, &mut found) };
        let fits = |mode: &&ModeInfo| (mode.horizontal[0], mode.vertical[0]) == (width, height);
        let mode = *modes.iter().find(fits).expect("the card has a mode of the size");
        Some(Self { file, crtc, connector, mode })
    }

    /// Shows an image of the size of the display.
    pub(crate) fn show(&self, dma_buf: BorrowedFd<'_>, rows: Rows) -> Shown<'_> {
        let mut prime = PrimeHandle { handle: 0, flags: 0, fd: dma_buf.as_raw_fd() };
        // SAFETY: the ioctl reads and writes this structure.
        unsafe { call::<PRIME_FD_TO_HANDLE, _>(&self.file, &mut prime) };
        let mut add = AddFramebuffer {
            width: self.mode.horizontal[0].into(),
            height: self.mode.vertical[0].into(),
            fourcc: rows.fourcc,
            handles: [prime.handle, 0, 0, 0],
            pitches: [rows.pitch, 0, 0, 0],
            offsets: [rows.offset, 0, 0, 0],
            ..AddFramebuffer::default()
        };
        // SAFETY: the ioctl reads and writes this structure.
        unsafe { call::<ADD_FRAMEBUFFER, _>(&self.file, &mut add) };
        let shown = Shown { card: self, handle: prime.handle, framebuffer: add.framebuffer };
        let mut connector = self.connector;
        let mut set = SetCrtc {
            connectors: address(&raw mut connector),
            count_connectors: 1,
            crtc: self.crtc,
            framebuffer: shown.framebuffer,
            mode_valid: 1,
            mode: self.mode,
            ..SetCrtc::default()
        };
        // SAFETY: the ioctl reads and writes this structure, and reads one number at the address.
        unsafe { call::<SET_CRTC, _>(&self.file, &mut set) };
        shown
    }
}

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        // SAFETY: the ioctl reads this number, and ends the scan-out.
        unsafe { call::<REMOVE_FRAMEBUFFER, _>(&self.card.file, &mut self.framebuffer) };
        let close = CloseHandle { handle: self.handle, pad: 0 };
        // SAFETY: the ioctl reads this structure.
        let request = unsafe { ioctl::Setter::<GEM_CLOSE, _>::new(close) };
        // SAFETY: a node of DRM.
        unsafe { ioctl::ioctl(&self.card.file, request) }.expect("the handle is open");
    }
}

/// Calls an ioctl of DRM.
///
/// # Safety
///
/// The kernel reads and writes `argument`, and what addresses in it lead to.
unsafe fn call<const OPCODE: Opcode, T>(card: &File, argument: &mut T) {
    // SAFETY: the caller's contract.
    let request = unsafe { Updater::<OPCODE, _>::new(argument) };
    // SAFETY: a node of DRM.
    unsafe { ioctl::ioctl(card, request) }.unwrap_or_else(|error| panic!("{OPCODE:#x}: {error}"));
}

fn address<T>(at: *mut T) -> u64 {
    at.expose_provenance() as u64
}

/// What QEMU shows now: the checksum and the length of its screendump. `.ci/vm` reads a name from the second serial port,
/// and answers with what `cksum` prints.
pub(crate) fn screendump(name: &str) -> (u32, u64) {
    let mut port =
        OpenOptions::new().read(true).write(true).open("/dev/ttyS1").expect("a second serial port");
    port.write_all(format!("{name}\n").as_bytes()).expect("it is written");
    let mut answer = vec![];
    while !answer.ends_with(b"\n") {
        let mut byte = [0];
        port.read_exact(&mut byte).expect("an answer");
        answer.push(byte[0]);
    }
    let answer = String::from_utf8(answer).expect("text");
    let mut words = answer.split_whitespace();
    let sum = words.next().and_then(|word| word.parse().ok());
    let length = words.next().and_then(|word| word.parse().ok());
    sum.zip(length).unwrap_or_else(|| panic!("no checksum and length: {answer:?}"))
}

/// The checksum and the length that `cksum` prints of these bytes (POSIX).
pub(crate) fn cksum(bytes: &[u8]) -> (u32, u64) {
    const POLYNOMIAL: u32 = 0x04c1_1db7;
    let table: Vec<u32> = (0..256_u32)
        .map(|byte| {
            (0..8).fold(byte << 24, |sum, _| match sum >> 31 {
                0 => sum << 1,
                _ => sum << 1 ^ POLYNOMIAL,
            })
        })
        .collect();
    let add = |sum: u32, byte: u8| sum << 8 ^ table[(sum >> 24) as usize ^ usize::from(byte)];
    let length = bytes.len() as u64;
    let of_length = length.to_le_bytes();
    let significant = 8 - length.leading_zeros() as usize / 8;
    let all = bytes.iter().chain(&of_length[..significant]);
    (!all.fold(0, |sum, byte| add(sum, *byte)), length)
}

#[test]
fn checksums_are_those_of_the_command() {
    // As `printf 123456789 | cksum` prints it.
    assert_eq!(cksum(b"123456789"), (930_766_865, 9));
    assert_eq!(cksum(b""), (4_294_967_295, 0));
}
