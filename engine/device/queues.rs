//! The queues of a device: the main one, and one for moves where the device has a second queue.
//!
//! Kernel counterpart: a driver's copy engine with a scheduler of its own (`ttm_device_funcs::move` on
//! `amdgpu_mman::entity`).
#![expect(unsafe_code, reason = "queues of a live device")]

use std::fmt;
use std::sync::Arc;

use ash::vk;

use super::external::SemaphoreHandle;
use super::queue::Queue;
use super::queue_lock::{QueueLock, RawQueue};
use super::spare_semaphores::SpareSemaphores;

/// Which queue of a device. Each has a timeline of its own.
///
/// Within one queue, submissions run in order. Between the two queues of a device, the later
/// submission waits for the timeline of the other. Between devices see `sync::waits`.
///
/// Both may be one `VkQueue`, which executes its submissions in order. No wait closes a cycle there: a fence is
/// made after its submission, so every submission that waits for it is made later, and is behind it in every
/// queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum QueueKind {
    /// Everything except moves, applications' work included.
    Main,
    /// Moves: evictions, returns, migrations.
    Transfer,
}

/// The family of a queue, and its index there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct QueueIndex {
    pub(super) family: u32,
    pub(super) index: u32,
}

/// A queue, and the lock that the application holds around its own uses of it.
pub(super) struct QueueChoice {
    pub(super) at: QueueIndex,
    pub(super) lock: Option<Arc<dyn QueueLock>>,
    /// The application's promise about its submissions ([`super::AdoptedDevice::waits_are_submitted`]).
    pub(super) waits_are_submitted: bool,
}

/// A device's queues.
pub(super) struct Queues {
    main: Queue,
    transfer: Option<Queue>,
    spare: Arc<SpareSemaphores>,
}

impl Queues {
    /// Gets the queues from the device. Two choices of one queue share one lock.
    ///
    /// # Safety
    ///
    /// `device` is live, was created with these queues (no flags) and with timeline semaphores on, and
    /// exports timelines as `export`, unless that is empty.
    pub(super) unsafe fn new(
        device: &ash::Device,
        main: QueueChoice,
        transfer: Option<QueueChoice>,
        export: SemaphoreHandle,
    ) -> Result<Self, vk::Result> {
        let raw = |choice| {
            let QueueChoice { at: QueueIndex { family, index }, lock, waits_are_submitted } =
                choice;
            // SAFETY: the caller says that the device was created with this queue.
            let queue = unsafe { device.get_device_queue(family, index) };
            Arc::new(RawQueue::new(queue, family, lock, waits_are_submitted))
        };
        let at = main.at;
        let main = raw(main);
        let transfer = transfer.map(|choice| {
            if choice.at == at {
                // Neither side knows what the submissions of the other one wait for.
                main.expose();
                Arc::clone(&main)
            } else {
                raw(choice)
            }
        });
        let spare = Arc::new(SpareSemaphores::default());
        let with = || (export, Arc::clone(&spare));
        // SAFETY: the caller's contract.
        let main = unsafe { Queue::new(device, main, with()) }?;
        // SAFETY: as above.
        match transfer.map(|raw| unsafe { Queue::new(device, raw, with()) }).transpose() {
            Ok(transfer) => Ok(Self { main, transfer, spare }),
            Err(code) => {
                // SAFETY: made above, and nothing was submitted to it.
                unsafe { main.destroy(device) };
                Err(code)
            }
        }
    }

    /// The queue of a kind; the main one if the device has no second queue.
    pub(super) fn get(&self, kind: QueueKind) -> &Queue {
        match (kind, &self.transfer) {
            (QueueKind::Transfer, Some(queue)) => queue,
            _ => &self.main,
        }
    }

    /// The queue that moves are submitted to.
    pub(super) fn for_moves(&self) -> QueueKind {
        if self.transfer.is_some() { QueueKind::Transfer } else { QueueKind::Main }
    }

    /// The queue other than `kind`, if there are two.
    pub(super) fn other(&self, kind: QueueKind) -> Option<&Queue> {
        match kind {
            QueueKind::Main => self.transfer.as_ref(),
            QueueKind::Transfer => self.transfer.is_some().then_some(&self.main),
        }
    }

    /// Whether the timelines of all queues can be exported.
    pub(super) fn export_timelines(&self) -> bool {
        self.iter().all(|queue| queue.timeline().exports())
    }

    /// A binary semaphore for export as `handle` that is as new.
    pub(super) fn spare_semaphore(&self, handle: SemaphoreHandle) -> Option<vk::Semaphore> {
        self.spare.take(handle)
    }

    /// Destroys the semaphores that no submission uses.
    ///
    /// # Safety
    ///
    /// `device` is the one given to [`Queues::new`].
    pub(super) unsafe fn destroy_spare(&self, device: &ash::Device) {
        // SAFETY: the caller's contract: all semaphores that the queues keep are of this device.
        unsafe { self.spare.destroy(device) };
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Queue> {
        std::iter::once(&self.main).chain(&self.transfer)
    }
}

impl fmt::Debug for Queues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// Chooses a second queue, for copies; the first one is queue 0 of family `main`.
///
/// Preferred are families that only copy (copy engines), then those that also compute, then a second queue of
/// the main family.
pub(super) fn choose_transfer(
    families: &[vk::QueueFamilyProperties],
    main: u32,
) -> Option<QueueIndex> {
    let choices = (0..).zip(families).filter_map(|(family, properties)| {
        let flags = properties.queue_flags;
        let draws = flags.contains(vk::QueueFlags::GRAPHICS);
        let computes = flags.contains(vk::QueueFlags::COMPUTE);
        let rank = (draws, computes, family == main);
        let index = u32::from(family == main);
        let able = copies(flags) && !flags.intersects(VIDEO) && index < properties.queue_count;
        able.then_some((rank, QueueIndex { family, index }))
    });
    choices.min_by_key(|(rank, _)| *rank).map(|(_, at)| at)
}

/// Video engines may report that they copy; their queues are not used.
const VIDEO: vk::QueueFlags = vk::QueueFlags::from_raw(
    vk::QueueFlags::VIDEO_DECODE_KHR.as_raw()
        | vk::QueueFlags::VIDEO_ENCODE_KHR.as_raw()
        | vk::QueueFlags::OPTICAL_FLOW_NV.as_raw(),
);

/// Whether queues with these flags copy. Graphics and compute queues do, whether or not they report it.
pub(super) fn copies(flags: vk::QueueFlags) -> bool {
    use vk::QueueFlags as Flags;
    flags.intersects(Flags::TRANSFER | Flags::COMPUTE | Flags::GRAPHICS)
}

#[cfg(test)]
mod tests {
    use super::*;

    const G: vk::QueueFlags = vk::QueueFlags::GRAPHICS;
    const C: vk::QueueFlags = vk::QueueFlags::COMPUTE;
    const T: vk::QueueFlags = vk::QueueFlags::TRANSFER;
    const V: vk::QueueFlags = vk::QueueFlags::VIDEO_DECODE_KHR;

    fn choose(families: &[(vk::QueueFlags, u32)]) -> Option<(u32, u32)> {
        let families: Vec<_> = families
            .iter()
            .map(|&(flags, count)| {
                vk::QueueFamilyProperties::default().queue_flags(flags).queue_count(count)
            })
            .collect();
        choose_transfer(&families, 0).map(|at| (at.family, at.index))
    }

    #[test]
    fn a_copy_engine_is_preferred() {
        let sparse = vk::QueueFlags::SPARSE_BINDING;
        let discrete = [(G | C | T | sparse, 16), (V | T, 1), (G | C | T, 8), (C | T, 8), (T, 2)];
        assert_eq!(choose(&discrete), Some((4, 0)));
        assert_eq!(choose(&[(G | C | T, 1), (C | T, 4), (T | sparse, 2)]), Some((2, 0)));
    }

    #[test]
    fn without_a_copy_engine_compute_is_preferred_to_graphics() {
        assert_eq!(choose(&[(G | C | T, 4), (C | T, 4)]), Some((1, 0)));
        assert_eq!(choose(&[(G | C | T, 1), (G | C, 1)]), Some((1, 0)));
        assert_eq!(choose(&[(G | C, 2)]), Some((0, 1)), "graphics queues need not report TRANSFER");
        assert_eq!(choose(&[(C | T, 2), (G | C | T, 1)]), Some((0, 1)));
    }

    #[test]
    fn nothing_is_chosen_where_there_is_one_queue() {
        assert_eq!(choose(&[(G | C | T, 1)]), None);
        assert_eq!(choose(&[(G | C | T, 1), (V | T, 1)]), None);
        assert_eq!(choose(&[(G | C | T, 1), (vk::QueueFlags::SPARSE_BINDING, 1)]), None);
        assert_eq!(choose(&[(G | C | T, 1), (T, 0)]), None);
        assert_eq!(choose(&[]), None);
    }
}
