#![expect(clippy::print_stdout, reason = "an example prints its results")]
#![expect(unsafe_code, reason = "only this program knows the origin of the fd that it imports")]
//! Two processes share a buffer: an fd travels over a Unix socket, and each side's device writes what
//! the other side's device then checks.
//!
//! `cargo run --example two_processes`

use std::error::Error;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use std::{env, io};

use peerbuf::{
    Access, Adapter, BufferDescriptor, Engine, EngineDescriptor, ForeignInfo, HandleType,
    Validation,
};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, send, sendmsg, socketpair,
};

type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

const SIZE: u64 = 4 << 20;
/// Seeds of the patterns that the parent's and the child's device write.
const PARENTS_SEED: u32 = 1;
const CHILDS_SEED: u32 = 2;
/// Timeout of every wait for the other process. Waits for devices have the engine's timeout.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The child's answer if every word that it read was right.
const ALL_RIGHT: &[u8] = b"all right";

fn main() -> Result<()> {
    match env::args().nth(1).as_deref() {
        Some("child") => child(),
        _ => parent(),
    }
}

fn parent() -> Result<()> {
    let engine = Engine::open(&EngineDescriptor::new().validation(Validation::IfPresent))?;
    // Prefer an adapter that exports dma-bufs, which any driver may import.
    let exports = |adapter: &&Adapter| adapter.external_buffer(HandleType::DmaBuf).exportable;
    let adapters = engine.adapters();
    let adapter = adapters.iter().find(exports).or(adapters.first()).ok_or("no adapter")?;
    let device = engine.open_device(adapter)?;
    let buffer = engine.create_buffer(&device, BufferDescriptor::new(SIZE).name("letter"))?;

    // An export may first move the buffer out of its slab, so it comes before the mapping. The buffer stays in
    // place until `export` is dropped.
    let export = buffer.export_foreign()?;
    let info = export.info();
    println!("parent: {SIZE} bytes on {}, to be shared as {}", device.name(), info.handle);
    let attachment = buffer.attach(&device)?;
    let mapping = attachment.map(Access::ReadWrite)?;
    mapping.fill(PARENTS_SEED)?;

    let (socket, mut process) = start_child()?;
    send_fd(&socket, export.as_fd(), &info)?;
    let answer = receive_text(&socket);
    // The child's end of the socket closes when the child exits. If that takes too long, the child is killed.
    if answer.is_err() || receive_text(&socket).is_err() {
        process.kill()?;
    }
    let status = process.wait()?;
    if answer? != ALL_RIGHT || !status.success() {
        return Err(format!("the child has failed ({status})").into());
    }

    let report = mapping.verify(CHILDS_SEED)?;
    println!("parent: read {} words of the child's, {} wrong", report.words, report.wrong);
    if report.is_clean() { Ok(()) } else { Err("the child's words did not arrive".into()) }
}

fn child() -> Result<()> {
    // The parent has made the socket this process's standard input.
    let stdin = io::stdin();
    set_socket_timeout(&stdin, Timeout::Recv, Some(TIMEOUT))?;
    let (fd, info) = receive_fd(stdin.as_fd())?;

    let engine = Engine::open(&EngineDescriptor::new().validation(Validation::IfPresent))?;
    let device = engine.open_device(adapter_for(&engine, &info)?)?;
    // SAFETY: the fd came from the parent, which runs the same program and sent the facts of this export.
    // The messages on the socket order the two processes: the parent's device has finished before the fd
    // is sent, and the parent reads the buffer only after the child's answer.
    let buffer = unsafe { engine.import_foreign(&device, fd.as_fd(), info, Some("letter")) }?;
    println!("child:  imported it on {}", device.name());

    let attachment = buffer.attach(&device)?;
    let mapping = attachment.map(Access::ReadWrite)?;
    let report = mapping.verify(PARENTS_SEED)?;
    println!("child:  read {} words of the parent's, {} wrong", report.words, report.wrong);
    if !report.is_clean() {
        return Err("the parent's words did not arrive".into());
    }
    mapping.fill(CHILDS_SEED)?;
    send(&stdin, ALL_RIGHT, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// The adapter that exported the memory, if this process sees it too. Otherwise another one that can import
/// such memory; an `OPAQUE_FD` can be imported on its own adapter only.
fn adapter_for<'a>(engine: &'a Engine, info: &ForeignInfo) -> Result<&'a Adapter> {
    let same = |adapter: &&Adapter| {
        (adapter.device_uuid(), adapter.driver_uuid()) == (info.device_uuid, info.driver_uuid)
    };
    let able = |adapter: &&Adapter| {
        info.handle != HandleType::OpaqueFd && adapter.external_buffer(info.handle).importable
    };
    let adapters = engine.adapters();
    let found = adapters.iter().find(same).or_else(|| adapters.iter().find(able));
    Ok(found.ok_or("no adapter imports such memory")?)
}

/// Starts this program again, with one end of a new socket as its standard input.
fn start_child() -> Result<(OwnedFd, Child)> {
    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    set_socket_timeout(&ours, Timeout::Recv, Some(TIMEOUT))?;
    set_socket_timeout(&ours, Timeout::Send, Some(TIMEOUT))?;
    let child =
        Command::new(env::current_exe()?).arg("child").stdin(Stdio::from(theirs)).spawn()?;
    Ok((ours, child))
}

/// Sends an fd and its facts as one packet.
fn send_fd(socket: &OwnedFd, fd: BorrowedFd<'_>, info: &ForeignInfo) -> Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fds = [fd];
    if !ancillary.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err("no room for the fd".into());
    }
    sendmsg(socket, &[IoSlice::new(&info.to_bytes())], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

fn receive_fd(socket: BorrowedFd<'_>) -> Result<(OwnedFd, ForeignInfo)> {
    let mut bytes = [0; ForeignInfo::BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut bytes)],
        &mut ancillary,
        // The kernel sets close-on-exec as it installs the fd.
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let fd = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    if received.bytes != bytes.len() {
        return Err(format!("a packet of {} bytes from the parent", received.bytes).into());
    }
    let info = ForeignInfo::from_bytes(&bytes).ok_or("import information of an unknown kind")?;
    Ok((fd.ok_or("a packet without an fd")?, info))
}

/// Receives the next packet; it is empty if the other process has closed its end.
fn receive_text(socket: &OwnedFd) -> Result<Vec<u8>> {
    let mut bytes = [0; 64];
    let (_, len) = rustix::net::recv(socket, &mut bytes[..], RecvFlags::empty())?;
    Ok(bytes[..len].to_vec())
}
