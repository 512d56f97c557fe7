//! Steps 3, 4, 6 and 11: exports and imports by hand, one call at a time.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use ash::vk;
use peerbuf::HandleType;
use rustix::ioctl;
use rustix::mm::{MapFlags, ProtFlags};
use serde_json::json;

use crate::gpu::{From, Gpu, Machine, Piece, Result, is_cpu, label};
use crate::{Outcome, code, found};

type Kind = vk::ExternalMemoryHandleTypeFlags;
type SemaphoreKind = vk::ExternalSemaphoreHandleTypeFlags;

const ANY: vk::MemoryPropertyFlags = vk::MemoryPropertyFlags::empty();
const DEVICE_LOCAL: vk::MemoryPropertyFlags = vk::MemoryPropertyFlags::DEVICE_LOCAL;
const WORD: u32 = 0x5eed_0001;

fn name(kind: Kind) -> &'static str {
    if kind == Kind::DMA_BUF_EXT { "dma_buf" } else { "opaque_fd" }
}

/// The machine, and a device by hand on each adapter.
fn machine() -> std::result::Result<(&'static Machine, Vec<Option<Gpu>>), peerbuf::Error> {
    let machine = Machine::open(&peerbuf::EngineDescriptor::new())?;
    let gpus = machine.devices.iter().map(|device| Gpu::new(device).ok()).collect();
    Ok((machine, gpus))
}

/// Step 3: create, export, import on a second device of the same GPU and on every other one, read the bytes there.
pub(crate) fn fds() -> Outcome {
    let (machine, gpus) = machine()?;
    let names = names(machine);
    for (from, exporter) in gpus.iter().enumerate() {
        let Some(exporter) = exporter else { continue };
        for kind in [Kind::DMA_BUF_EXT, Kind::OPAQUE_FD] {
            let exported = match reports(&machine.devices[from], kind) {
                true => export(exporter, kind),
                false => Err(vk::Result::ERROR_FEATURE_NOT_PRESENT),
            };
            let Ok((piece, placed)) = &exported else {
                found(
                    &json!({ "from": names[from], "handle": name(kind), "export": code(&exported) }),
                );
                continue;
            };
            for (to, device) in machine.devices.iter().enumerate() {
                // Opaque fds are for the same device alone: others may damage what is behind them.
                if to != from && kind == Kind::OPAQUE_FD {
                    continue;
                }
                let begin = Instant::now();
                let (import, read) = import_and_read(exporter, piece, kind, device);
                found(&json!({
                    "from": names[from], "to": names[to], "second_device_of_the_same": to == from,
                    "handle": name(kind), "memory": placed, "export": "ok", "import": import,
                    "read": read, "seconds": begin.elapsed().as_secs_f64(),
                }));
            }
        }
    }
    Ok(())
}

fn names(machine: &Machine) -> Vec<String> {
    machine.devices.iter().enumerate().map(|(at, device)| label(at, device.adapter())).collect()
}

/// Whether the driver reports that it exports memory so. Without that the call is not valid.
fn reports(device: &peerbuf::Device, kind: Kind) -> bool {
    let rows = device.adapter().external_buffers().iter();
    let handle = if kind == Kind::DMA_BUF_EXT { HandleType::DmaBuf } else { HandleType::OpaqueFd };
    rows.filter(|row| row.handle == handle).any(|row| row.exportable)
}

/// 4 MiB of the device's memory, filled, and exportable.
fn export(gpu: &Gpu, kind: Kind) -> Result<(Piece, &'static str)> {
    let local = gpu.piece(4 << 20, DEVICE_LOCAL, From::New(kind)).map(|piece| (piece, "device"));
    let (piece, placed) =
        local.or_else(|_| Ok((gpu.piece(4 << 20, ANY, From::New(kind))?, "any")))?;
    gpu.fill(&piece, WORD)?;
    gpu.export(&piece, kind)?;
    Ok((piece, placed))
}

/// The result of the import, and what a copy from it says: the submission may fail where the import did not.
fn import_and_read(
    exporter: &Gpu,
    piece: &Piece,
    kind: Kind,
    device: &peerbuf::Device,
) -> (String, String) {
    let import = || -> Result<(Gpu, Piece)> {
        let reader = Gpu::new(device)?;
        let fd = exporter.export(piece, kind)?;
        let imported = reader.piece(piece.size, ANY, From::Fd(kind, fd))?;
        Ok((reader, imported))
    };
    match import() {
        Err(error) => (format!("{error:?}"), "not tried".into()),
        Ok((reader, imported)) => match reader.wrong_words(&imported, WORD) {
            Ok(0) => ("ok".into(), "right".into()),
            Ok(wrong) => ("ok".into(), format!("{wrong} words wrong")),
            Err(error) => ("ok".into(), format!("{error:?}")),
        },
    }
}

/// Step 4: host memory of several kinds, imported by address.
pub(crate) fn host_pointers() -> Outcome {
    let (machine, gpus) = machine()?;
    let names = names(machine);
    for (at, gpu) in gpus.iter().enumerate() {
        let Some(gpu) = gpu else { continue };
        if machine.devices[at].adapter().host_pointer_alignment().is_none() {
            found(&json!({ "device": names[at], "import": "no VK_EXT_external_memory_host" }));
            continue;
        }
        for source in ["anonymous", "memfd", "udmabuf", "dma_heap"] {
            for size in [4 << 10, 64 << 10, 1 << 20, 64 << 20] {
                let bytes = match host_memory(source, size) {
                    Ok(bytes) => bytes,
                    Err(error) => {
                        found(&json!({ "device": names[at], "source": source, "memory": error }));
                        break;
                    }
                };
                let begin = Instant::now();
                let imported = gpu.piece(size as u64, ANY, From::Host(bytes));
                let seconds = begin.elapsed().as_secs_f64();
                let bytes_seen = imported.as_ref().map(|piece| both_ways(gpu, piece, bytes));
                found(&json!({
                    "device": names[at], "source": source, "size": size, "seconds": seconds,
                    "import": code(&imported), "bytes": bytes_seen.unwrap_or_default(),
                }));
            }
        }
    }
    Ok(())
}

/// Host memory that lives as long as the process.
fn host_memory(source: &str, size: usize) -> std::result::Result<&'static [u8], String> {
    use rustix::fs::{MemfdFlags, SealFlags};
    let text = |error: rustix::io::Errno| error.to_string();
    let protection = ProtFlags::READ | ProtFlags::WRITE;
    let map = |fd: &OwnedFd| {
        // SAFETY: a new mapping of the whole file.
        unsafe { rustix::mm::mmap(std::ptr::null_mut(), size, protection, MapFlags::SHARED, fd, 0) }
    };
    let memfd = || {
        let fd =
            rustix::fs::memfd_create("hardware", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        rustix::fs::ftruncate(&fd, size as u64)?;
        rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK)?;
        Ok(fd)
    };
    let at = match source {
        // SAFETY: a new mapping.
        "anonymous" => unsafe {
            rustix::mm::mmap_anonymous(std::ptr::null_mut(), size, protection, MapFlags::PRIVATE)
        },
        "memfd" => memfd().and_then(|fd| map(&fd)),
        "udmabuf" => memfd().and_then(|fd| udmabuf(&fd, size)).and_then(|fd| map(&fd)),
        _ => dma_heap(size).and_then(|fd| map(&fd)),
    };
    // SAFETY: the mapping has `size` bytes and is never unmapped. The device and the host write it in turn.
    Ok(unsafe { std::slice::from_raw_parts(at.map_err(text)?.cast(), size) })
}

fn node(path: &str) -> rustix::io::Result<OwnedFd> {
    use rustix::fs::{Mode, OFlags};
    rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
}

/// `UDMABUF_CREATE` of `include/uapi/linux/udmabuf.h`.
fn udmabuf(memfd: &OwnedFd, size: usize) -> rustix::io::Result<OwnedFd> {
    #[repr(C)]
    struct Create {
        memfd: u32,
        flags: u32,
        offset: u64,
        size: u64,
    }
    struct Request(Create);
    // SAFETY: UDMABUF_CREATE reads exactly this structure and returns an fd.
    unsafe impl ioctl::Ioctl for Request {
        type Output = OwnedFd;
        const IS_MUTATING: bool = false;

        fn opcode(&self) -> ioctl::Opcode {
            ioctl::opcode::write::<Create>(b'u', 0x42)
        }

        fn as_ptr(&mut self) -> *mut std::ffi::c_void {
            (&raw mut self.0).cast()
        }

        unsafe fn output_from_ptr(
            out: i32,
            _: *mut std::ffi::c_void,
        ) -> rustix::io::Result<OwnedFd> {
            // SAFETY: the kernel made the fd for this process.
            Ok(unsafe { OwnedFd::from_raw_fd(out) })
        }
    }
    let device = node("/dev/udmabuf")?;
    // UDMABUF_FLAGS_CLOEXEC
    let request =
        Create { memfd: memfd.as_raw_fd() as u32, flags: 1, offset: 0, size: size as u64 };
    // SAFETY: the node is udmabuf's.
    unsafe { ioctl::ioctl(&device, Request(request)) }
}

/// `DMA_HEAP_IOCTL_ALLOC` of `include/uapi/linux/dma-heap.h`.
fn dma_heap(size: usize) -> rustix::io::Result<OwnedFd> {
    #[repr(C)]
    struct Allocate {
        len: u64,
        fd: u32,
        fd_flags: u32,
        heap_flags: u64,
    }
    const CODE: ioctl::Opcode = ioctl::opcode::read_write::<Allocate>(b'H', 0);
    let device = node("/dev/dma_heap/system")?;
    // O_RDWR | O_CLOEXEC
    let mut request = Allocate { len: size as u64, fd: 0, fd_flags: 0o2_000_002, heap_flags: 0 };
    // SAFETY: DMA_HEAP_IOCTL_ALLOC reads and writes exactly this structure, and stores an fd of this process.
    unsafe {
        ioctl::ioctl(&device, ioctl::Updater::<CODE, _>::new(&mut request))?;
        Ok(OwnedFd::from_raw_fd(request.fd as i32))
    }
}

/// Fills by the host and reads by the device, then the other way round.
fn both_ways(gpu: &Gpu, piece: &Piece, bytes: &[u8]) -> String {
    let words = bytes.len() / 4;
    let at = bytes.as_ptr().cast::<u32>().cast_mut();
    // SAFETY: `at` has so many words; the device does not use them now.
    (0..words).for_each(|nth| unsafe { at.add(nth).write_volatile(WORD) });
    match gpu.wrong_words(piece, WORD) {
        Ok(0) => {}
        Ok(wrong) => return format!("the device reads {wrong} words wrong"),
        Err(error) => return format!("the device's read failed: {error:?}"),
    }
    if let Err(error) = gpu.fill(piece, !WORD) {
        return format!("the device's write failed: {error:?}");
    }
    // SAFETY: as above; the fill has ended.
    let wrong = (0..words).filter(|&nth| unsafe { at.add(nth).read_volatile() } != !WORD).count();
    if wrong == 0 {
        "right both ways".into()
    } else {
        format!("the host reads {wrong} words wrong")
    }
}

/// Step 6: how fast the exporter reads its memory before, during and after an import.
pub(crate) fn drag() -> Outcome {
    let (machine, gpus) = machine()?;
    let names = names(machine);
    for (from, to) in machine.pairs() {
        // Of one GPU with itself, a second device.
        let (Some(exporter), Ok(importer)) = (&gpus[from], Gpu::new(&machine.devices[to])) else {
            continue;
        };
        for kind in [Kind::DMA_BUF_EXT, Kind::OPAQUE_FD] {
            if from != to && kind == Kind::OPAQUE_FD {
                continue;
            }
            let size = if is_cpu(&machine.devices[from]) { 16 << 20 } else { 256 << 20 };
            let line = match reports(&machine.devices[from], kind) {
                true => speeds(exporter, &importer, kind, size),
                false => Err(vk::Result::ERROR_FEATURE_NOT_PRESENT),
            };
            found(&json!({
                "from": names[from], "to": names[to], "handle": name(kind), "size": size,
                "gb_per_second": line.as_ref().ok(), "result": code(&line),
            }));
        }
    }
    Ok(())
}

/// Speeds of reading: before the import, with it, after the importer has used it, without it.
fn speeds(exporter: &Gpu, importer: &Gpu, kind: Kind, size: u64) -> Result<[f64; 4]> {
    let shared = exporter
        .piece(size, DEVICE_LOCAL, From::New(kind))
        .or_else(|_| exporter.piece(size, ANY, From::New(kind)))?;
    let target = exporter.piece(size, DEVICE_LOCAL, From::New(Kind::empty()))?;
    exporter.fill(&shared, WORD)?;
    let speed = || -> Result<f64> {
        let mut best = Duration::MAX;
        for _ in 0..5 {
            best = best.min(exporter.copy(&shared, &target)?);
        }
        Ok(size as f64 / best.as_secs_f64() / 1e9)
    };
    let before = speed()?;
    let imported = importer.piece(size, ANY, From::Fd(kind, exporter.export(&shared, kind)?))?;
    let with = speed()?;
    importer.fill(&imported, !WORD)?;
    let used = speed()?;
    importer.free(imported);
    let after = speed()?;
    exporter.free(shared);
    exporter.free(target);
    Ok([before, with, used, after])
}

/// Step 11: a sync file from each device to each other one.
pub(crate) fn sync_fd() -> Outcome {
    let (machine, gpus) = machine()?;
    let names = names(machine);
    for (from, to) in machine.pairs() {
        let (Some(first), Ok(second)) = (&gpus[from], Gpu::new(&machine.devices[to])) else {
            continue;
        };
        // A semaphore of a kind that a device does not report breaks a rule (VUID-VkExportSemaphoreCreateInfo-handleTypes-01124).
        let row = |at: usize| {
            let adapter = machine.devices[at].adapter();
            let mut rows = adapter.external_semaphores().iter();
            let wanted = ash::khr::external_semaphore_fd::NAME;
            let row = rows.find(|row| row.handle == SemaphoreKind::SYNC_FD && !row.timeline);
            row.filter(|_| adapter.device_extensions().contains(&wanted))
        };
        let result = if row(from).is_some_and(|row| row.exportable)
            && row(to).is_some_and(|row| row.importable)
        {
            pass_on(first, &second)
        } else {
            Err(vk::Result::ERROR_EXTENSION_NOT_PRESENT)
        };
        found(&json!({
            "from": names[from], "to": names[to], "result": code(&result),
            "seconds": result.ok().map(|time| time.as_secs_f64()),
        }));
    }
    Ok(())
}

fn pass_on(first: &Gpu, second: &Gpu) -> Result<Duration> {
    let kind = SemaphoreKind::SYNC_FD;
    let begin = Instant::now();
    let signal = [first.semaphore(false, kind)?];
    let done = first.submit(vk::SubmitInfo::default().signal_semaphores(&signal))?;
    let info = vk::SemaphoreGetFdInfoKHR::default().semaphore(signal[0]).handle_type(kind);
    let wait = [second.semaphore(false, SemaphoreKind::empty())?];
    // SAFETY: the signal has been submitted; the importer takes the fd, −1 included.
    unsafe {
        let fd = first.semaphores.get_semaphore_fd(&info)?;
        let import = vk::ImportSemaphoreFdInfoKHR::default()
            .semaphore(wait[0])
            .handle_type(kind)
            .flags(vk::SemaphoreImportFlags::TEMPORARY)
            .fd(fd);
        second.semaphores.import_semaphore_fd(&import)?;
    }
    let stages = [vk::PipelineStageFlags::ALL_COMMANDS];
    let info = vk::SubmitInfo::default().wait_semaphores(&wait).wait_dst_stage_mask(&stages);
    let over = second.submit(info)?;
    second.wait(over, Duration::from_secs(5))?;
    first.wait(done, Duration::from_secs(5))?;
    Ok(begin.elapsed())
}
