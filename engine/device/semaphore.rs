//! Semaphores shared between devices: created, exported as fds, imported.
//!
//! Vulkan: `VK_KHR_external_semaphore_fd`. What a driver reports about them is a fact of its adapter
//! ([`super::ExternalSemaphores`]). Which kind is used between two devices is decided in [`crate::sync`].
#![expect(unsafe_code, reason = "creating, exporting and importing semaphores of a live device")]

use std::os::fd::OwnedFd;
use std::time::Duration;

use ash::vk;

use super::calls::Call;
use super::external::SemaphoreHandle;
use super::inner::DeviceInner;
use super::spare_semaphores::Once;
use super::wait_semaphores::Waits;
use crate::error::{Error, Result};
use crate::fd::{self, Given};

/// A semaphore that no submission uses. Destroyed when dropped.
#[derive(Debug)]
pub(crate) struct OwnedSemaphore<'d> {
    device: &'d DeviceInner,
    raw: vk::Semaphore,
}

impl OwnedSemaphore<'_> {
    pub(crate) fn raw(&self) -> vk::Semaphore {
        self.raw
    }

    /// Releases it to the caller, who must destroy it.
    pub(crate) fn into_raw(self) -> vk::Semaphore {
        let raw = self.raw;
        std::mem::forget(self);
        raw
    }
}

impl Drop for OwnedSemaphore<'_> {
    fn drop(&mut self) {
        // SAFETY: live, and in no submission: those take it by `into_raw`.
        unsafe { self.device.raw().destroy_semaphore(self.raw, None) };
    }
}

impl Waits {
    /// Adds a wait for a binary semaphore with an imported payload of this handle type, which no other submission may
    /// wait for.
    pub(crate) fn once(&mut self, semaphore: OwnedSemaphore<'_>, handle: SemaphoreHandle) {
        let raw = semaphore.into_raw();
        self.semaphores.push(raw);
        self.values.push(0);
        let is_temporary = handle == SemaphoreHandle::SYNC_FD;
        self.once.push(if is_temporary { Once::imported(raw) } else { Once::last(raw) });
    }
}

impl DeviceInner {
    /// Whether the device exports, and whether it imports, semaphores as such a handle.
    pub(crate) fn shares_semaphores(
        &self,
        handle: SemaphoreHandle,
        timeline: bool,
    ) -> (bool, bool) {
        if self.semaphore_fd().is_none() {
            return (false, false);
        }
        let rows = self.adapter().external_semaphores().iter();
        let row = rows.copied().find(|row| row.handle == handle && row.timeline == timeline);
        // What a driver reports about timelines may be wrong; that of each queue has been made by now.
        let exports = |exportable| exportable && (!timeline || self.queues.export_timelines());
        row.map_or((false, false), |row| (exports(row.exportable), row.importable))
    }

    /// Creates a timeline at `value` that is not shared with other devices.
    pub(crate) fn create_timeline(&self, value: u64) -> Result<OwnedSemaphore<'_>> {
        let kind = vk::SemaphoreTypeCreateInfo::default()
            .semaphore_type(vk::SemaphoreType::TIMELINE)
            .initial_value(value);
        self.create_semaphore(kind, SemaphoreHandle::empty())
    }

    /// Creates a binary semaphore, exportable as `handle` unless that is empty, or takes one that is as new.
    pub(crate) fn create_binary(&self, handle: SemaphoreHandle) -> Result<OwnedSemaphore<'_>> {
        if let Some(raw) = self.queues.spare_semaphore(handle) {
            return Ok(OwnedSemaphore { device: self, raw });
        }
        let kind = vk::SemaphoreTypeCreateInfo::default().semaphore_type(vk::SemaphoreType::BINARY);
        self.create_semaphore(kind, handle)
    }

    fn create_semaphore(
        &self,
        mut kind: vk::SemaphoreTypeCreateInfo<'_>,
        handle: SemaphoreHandle,
    ) -> Result<OwnedSemaphore<'_>> {
        const CALL: Call = Call::CreateSemaphore;
        let mut export = vk::ExportSemaphoreCreateInfo::default().handle_types(handle);
        let mut info = vk::SemaphoreCreateInfo::default().push_next(&mut kind);
        if !handle.is_empty() {
            info = info.push_next(&mut export);
        }
        let made = self.calls().enter(CALL).and_then(|()| {
            // SAFETY: the device is live, with timeline semaphores on; the handle type is one that the
            // adapter exports (VUID-VkExportSemaphoreCreateInfo-handleTypes-01124): callers check
            // `shares_semaphores` first.
            unsafe { self.raw().create_semaphore(&info, None) }
        });
        made.map(|raw| OwnedSemaphore { device: self, raw })
            .map_err(|code| self.error(CALL.name(), code))
    }

    /// Exports the payload of `semaphore`; `Ok(None)` if the driver reports that it has signalled already (a
    /// `SYNC_FD` of −1).
    ///
    /// # Safety
    ///
    /// `semaphore` is one of this device, created for export as `handle`. For a `SYNC_FD` a signal of
    /// it, and of everything that it depends on, has been submitted
    /// (VUID-VkSemaphoreGetFdInfoKHR-handleType-03254), and nothing waits for it.
    pub(crate) unsafe fn export_semaphore(
        &self,
        semaphore: vk::Semaphore,
        handle: SemaphoreHandle,
    ) -> Result<Option<OwnedFd>> {
        const CALL: Call = Call::GetSemaphoreFd;
        let ext = self.semaphore_fd().ok_or_else(|| no_semaphore_fd(self))?;
        let info = vk::SemaphoreGetFdInfoKHR::default().semaphore(semaphore).handle_type(handle);
        let raw = self.calls().enter(CALL).and_then(|()| {
            // SAFETY: the caller's contract.
            unsafe { ext.get_semaphore_fd(&info) }
        });
        let raw = raw.map_err(|code| self.error(CALL.name(), code))?;
        if raw == -1 && handle == SemaphoreHandle::SYNC_FD {
            return Ok(None);
        }
        // SAFETY: the driver returned it to this caller, who owns it.
        unsafe { fd::own(raw, CALL.name()) }.map(Some)
    }

    /// Imports the payload of an fd into `semaphore`: permanently, or, for a `SYNC_FD`, until it is waited for.
    ///
    /// # Safety
    ///
    /// `semaphore` is one of this device that nothing uses yet, of the kind that was exported; an
    /// `OPAQUE_FD` is of the same driver and device (VUID-VkImportSemaphoreFdInfoKHR-fd-01544).
    pub(crate) unsafe fn import_semaphore(
        &self,
        semaphore: vk::Semaphore,
        handle: SemaphoreHandle,
        fd: OwnedFd,
    ) -> Result<()> {
        const CALL: Call = Call::ImportSemaphoreFd;
        let ext = self.semaphore_fd().ok_or_else(|| no_semaphore_fd(self))?;
        let temporary = if handle == SemaphoreHandle::SYNC_FD {
            vk::SemaphoreImportFlags::TEMPORARY
        } else {
            vk::SemaphoreImportFlags::empty()
        };
        // The driver owns the fd once, and only if, the import succeeded.
        let given = Given::new(fd).map_err(|errno| Error::os("fstat", errno))?;
        let info = vk::ImportSemaphoreFdInfoKHR::default()
            .semaphore(semaphore)
            .handle_type(handle)
            .flags(temporary)
            .fd(given.raw());
        let done = self.calls().enter(CALL).and_then(|()| {
            // SAFETY: the caller's contract; sync fds are imported temporarily
            // (VUID-VkImportSemaphoreFdInfoKHR-handleType-07307).
            unsafe { ext.import_semaphore_fd(&info) }
        });
        done.map_err(|code| {
            // SAFETY: the import failed, or was not made ("Importing a semaphore payload from a file descriptor
            // transfers ownership", on success).
            unsafe { given.take_back(CALL.name()) };
            self.error(CALL.name(), code)
        })
    }

    /// Destroys the binary semaphores of a submission to this device that is not made.
    pub(crate) fn discard(&self, waits: Waits) {
        for Once { raw, .. } in waits.once {
            // SAFETY: by the invariant of `Waits` a live one of this device, and no submission uses it.
            unsafe { self.raw().destroy_semaphore(raw, None) };
        }
    }

    /// Waits until timelines of this device have reached their values; `Ok(false)` if `timeout` passes first.
    pub(super) fn wait_for_timelines(
        &self,
        semaphores: &[vk::Semaphore],
        values: &[u64],
        timeout: Duration,
    ) -> Result<bool, vk::Result> {
        let info = vk::SemaphoreWaitInfo::default().semaphores(semaphores).values(values);
        let nanos = u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX);
        // SAFETY: live timelines of this device: the callers keep those that mirror others (`begin_wait_for_signals`).
        match unsafe { self.raw().wait_semaphores(&info, nanos) } {
            Ok(()) => Ok(true),
            Err(vk::Result::TIMEOUT) => Ok(false),
            Err(code) => Err(code),
        }
    }

    /// The value of one of this device's timelines.
    pub(crate) fn timeline_value(&self, semaphore: vk::Semaphore) -> Result<u64> {
        // SAFETY: by the callers' invariant a live timeline of this device.
        unsafe { self.raw().get_semaphore_counter_value(semaphore) }
            .map_err(|code| self.error("vkGetSemaphoreCounterValue", code))
    }

    /// Signals one of this device's timelines from the host.
    ///
    /// # Safety
    ///
    /// `semaphore` is a live timeline of this device that only the caller signals, and `value` is larger
    /// than its own (VUID-VkSemaphoreSignalInfo-value-03258).
    pub(crate) unsafe fn signal_timeline(
        &self,
        semaphore: vk::Semaphore,
        value: u64,
    ) -> Result<()> {
        let info = vk::SemaphoreSignalInfo::default().semaphore(semaphore).value(value);
        // SAFETY: the caller's contract.
        unsafe { self.raw().signal_semaphore(&info) }
            .map_err(|code| self.error("vkSignalSemaphore", code))
    }
}

fn no_semaphore_fd(device: &DeviceInner) -> Error {
    Error::Unsupported {
        device: device.name().to_owned(),
        missing: "VK_KHR_external_semaphore_fd".into(),
    }
}
