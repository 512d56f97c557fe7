//! Sync files for drivers that have none: pipes that end when the work before them has ended.
//!
//! An export takes the signal out of a binary semaphore, as a wait does. Here it *is* a wait: a submission that does
//! nothing else, with a fence. A thread waits for the fence, and closes the pipe. An import lies beside the semaphore
//! until a submission waits for it; the thread of that queue waits for the pipe, and the driver sees no semaphore.

use std::collections::{HashMap, HashSet};
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use ash::vk;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::pipe::PipeFlags;

use super::device::Device;
use super::{lock, report};

/// How long the thread waits before it looks for new exports.
const SLICE: Duration = Duration::from_millis(5);

/// What a device keeps of sync files.
#[derive(Default)]
pub(super) struct SyncFiles {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    exported: Vec<Exported>,
    /// Temporary payloads. `None` has signalled already.
    imported: HashMap<vk::Semaphore, Option<OwnedFd>>,
    /// Binary semaphores whose signal the driver has, and no wait.
    signalled: HashSet<vk::Semaphore>,
    ends: bool,
}

/// A sync file that has not signalled.
struct Exported {
    fence: vk::Fence,
    /// Readers see the end of the pipe when this is closed.
    _end: OwnedFd,
}

impl SyncFiles {
    /// A submission of these binary semaphores is with the driver.
    pub(super) fn forwarded(
        &self,
        waits: impl Iterator<Item = vk::Semaphore>,
        signals: impl Iterator<Item = vk::Semaphore>,
    ) {
        let mut state = lock(&self.shared.state);
        for semaphore in waits {
            state.signalled.remove(&semaphore);
        }
        state.signalled.extend(signals);
    }

    /// Takes the payload of a semaphore that was imported; `None` if the driver has it.
    pub(super) fn take(&self, semaphore: vk::Semaphore) -> Option<Option<OwnedFd>> {
        lock(&self.shared.state).imported.remove(&semaphore)
    }

    pub(super) fn forget(&self, semaphore: vk::Semaphore) {
        let mut state = lock(&self.shared.state);
        state.imported.remove(&semaphore);
        state.signalled.remove(&semaphore);
    }

    /// Ends the thread, once all that is exported has signalled.
    pub(super) fn end(&self) {
        lock(&self.shared.state).ends = true;
        self.shared.changed.notify_all();
        if let Some(thread) = lock(&self.thread).take() {
            // A panic of the thread has been printed; there is nothing to do about it here.
            let _ = thread.join();
        }
    }

    fn start(&self, device: &Device) {
        lock(&self.thread).get_or_insert_with(|| {
            let (shared, fns) = (Arc::clone(&self.shared), device.fns.clone());
            std::thread::spawn(move || shared.run(&fns))
        });
    }
}

impl Shared {
    fn run(&self, device: &ash::Device) {
        loop {
            let state = lock(&self.state);
            let idle = |state: &mut State| state.exported.is_empty() && !state.ends;
            let state =
                self.changed.wait_while(state, idle).unwrap_or_else(PoisonError::into_inner);
            let fences: Vec<_> = state.exported.iter().map(|one| one.fence).collect();
            drop(state);
            if fences.is_empty() {
                return;
            }
            // CAST: 5 ms in nanoseconds.
            // SAFETY: this thread alone destroys the fences, and the device lives until it has ended.
            let waited = unsafe { device.wait_for_fences(&fences, false, SLICE.as_nanos() as u64) };
            if waited == Err(vk::Result::TIMEOUT) {
                continue;
            }
            // A driver that has lost its device runs nothing any more.
            let is_over = |one: &Exported| {
                // SAFETY: as above.
                waited.is_err() || unsafe { device.get_fence_status(one.fence) } == Ok(true)
            };
            let mut state = lock(&self.state);
            state.exported.retain(|one| {
                let over = is_over(one);
                if over {
                    // SAFETY: as above; its submission has ended.
                    unsafe { device.destroy_fence(one.fence, None) };
                }
                !over
            });
        }
    }
}

impl Device {
    /// Whether sync files are made here.
    pub(super) fn makes_sync_files(&self, handle: vk::ExternalSemaphoreHandleTypeFlags) -> bool {
        self.physical.fixed.sync_fd && handle == vk::ExternalSemaphoreHandleTypeFlags::SYNC_FD
    }

    /// `vkGetSemaphoreFdKHR` for a sync file.
    pub(super) unsafe fn export_sync_file(
        &self,
        semaphore: vk::Semaphore,
    ) -> Result<i32, vk::Result> {
        const FAILED: vk::Result = vk::Result::ERROR_OUT_OF_HOST_MEMORY;
        // A sync file needs a fence of the kernel's: Mesa's submit thread must have come to it.
        self.wait_until_forwarded(&[semaphore]);
        if !lock(&self.sync_files.shared.state).signalled.remove(&semaphore) {
            if !self.is_lost() {
                report::violation(
                    "sync_fd",
                    format_args!("{}: no signal of the semaphore is submitted", self.label()),
                );
            }
            return Err(FAILED);
        }
        let real = lock(&self.real_queues).values().next().cloned().ok_or(FAILED)?;
        let (file, end) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)
            .map_err(|_| vk::Result::ERROR_TOO_MANY_OBJECTS)?;
        let fence = self.fns.create_fence(&vk::FenceCreateInfo::default(), None)?;
        let (semaphores, stages) = ([semaphore], [vk::PipelineStageFlags::ALL_COMMANDS]);
        let wait =
            vk::SubmitInfo::default().wait_semaphores(&semaphores).wait_dst_stage_mask(&stages);
        {
            let _turn = lock(&real.turn);
            if let Err(code) = self.fns.queue_submit(real.raw, &[wait], fence) {
                self.fns.destroy_fence(fence, None);
                return Err(code);
            }
        }
        lock(&self.sync_files.shared.state).exported.push(Exported { fence, _end: end });
        self.sync_files.start(self);
        self.sync_files.shared.changed.notify_all();
        report::event("sync_fd", format_args!("{}: exported", self.label()));
        Ok(file.into_raw_fd())
    }

    /// `vkImportSemaphoreFdKHR` of a sync file.
    pub(super) unsafe fn import_sync_file(
        &self,
        info: &vk::ImportSemaphoreFdInfoKHR<'_>,
    ) -> vk::Result {
        if !info.flags.contains(vk::SemaphoreImportFlags::TEMPORARY) {
            report::violation(
                "sync_fd",
                format_args!("{}: an import that is not temporary", self.label()),
            );
            return vk::Result::ERROR_INVALID_EXTERNAL_HANDLE;
        }
        // The fd is the driver's from now on; −1 has signalled already.
        let file = (info.fd >= 0).then(|| OwnedFd::from_raw_fd(info.fd));
        lock(&self.sync_files.shared.state).imported.insert(info.semaphore, file);
        vk::Result::SUCCESS
    }
}

/// Waits one slice until a sync file has signalled: a pipe's other end is closed, a file of the kernel's is readable.
pub(super) fn has_signalled(file: &OwnedFd, slice: Duration) -> bool {
    // CAST: below a second.
    let slice = Timespec { tv_sec: 0, tv_nsec: slice.subsec_nanos().into() };
    let mut fds = [PollFd::new(file, PollFlags::IN)];
    rustix::event::poll(&mut fds, Some(&slice)).is_ok_and(|ready| ready > 0)
}
