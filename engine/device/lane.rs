//! The lanes of a device: its main queue, and beside it one for moves, where there is one.
//!
//! Kernel counterpart: a driver's copy engine with a scheduler of its own (`ttm_device_funcs::move` on
//! `amdgpu_mman::entity`).
#![expect(unsafe_code, reason = "queues of a live device")]

use std::fmt;
use std::sync::Arc;

use ash::vk;

use super::queue::Queue;
use super::queue_lock::{QueueLock, RawQueue};
use super::semaphore::SemaphoreHandle;

/// One of a device's queues, with a timeline of its own.
///
/// Within a lane the queue keeps the order. Between two lanes, of one device or of two, somebody has to wait;
/// within a device that is a wait for the other lane's timeline, which is the same `VkDevice`'s.
///
/// Both may be lanes of one `VkQueue`, which works off what it is given in its order. No wait closes a cycle
/// there: a fence is made when its submission has been made, so whoever waits for it is submitted later, and
/// stands behind it in every queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Lane {
    /// Everything else, applications' work first of all.
    Main,
    /// Moves: evictions, returns, migrations.
    Transfer,
}

/// A queue of a device, by its numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct QueueIndex {
    pub(super) family: u32,
    pub(super) index: u32,
}

/// A queue, and the lock that an application takes around its own uses.
pub(super) struct QueueChoice {
    pub(super) at: QueueIndex,
    pub(super) lock: Option<Arc<dyn QueueLock>>,
}

/// A device's lanes.
pub(super) struct Lanes {
    main: Queue,
    transfer: Option<Queue>,
}

impl Lanes {
    /// Takes the queues. Choices of the same one have one lock.
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
        let raw = |QueueChoice { at: QueueIndex { family, index }, lock }| {
            // SAFETY: the caller says that the device was created with this queue.
            let queue = unsafe { device.get_device_queue(family, index) };
            Arc::new(RawQueue::new(queue, family, lock))
        };
        let at = main.at;
        let main = raw(main);
        let transfer = transfer.map(|choice| {
            if choice.at == at {
                // Neither lane knows what the other one's submissions before it wait for.
                main.expose();
                Arc::clone(&main)
            } else {
                raw(choice)
            }
        });
        // SAFETY: the caller's contract.
        let main = unsafe { Queue::new(device, main, export) }?;
        // SAFETY: as above.
        match transfer.map(|raw| unsafe { Queue::new(device, raw, export) }).transpose() {
            Ok(transfer) => Ok(Self { main, transfer }),
            Err(code) => {
                // SAFETY: made above, and nothing was submitted to it.
                unsafe { main.destroy(device) };
                Err(code)
            }
        }
    }

    /// The queue of a lane; the main one for a lane that the device does not have.
    pub(super) fn get(&self, lane: Lane) -> &Queue {
        match (lane, &self.transfer) {
            (Lane::Transfer, Some(queue)) => queue,
            _ => &self.main,
        }
    }

    /// Where moves go.
    pub(super) fn for_moves(&self) -> Lane {
        if self.transfer.is_some() { Lane::Transfer } else { Lane::Main }
    }

    /// The other one than `lane`, if there are two.
    pub(super) fn beside(&self, lane: Lane) -> Option<&Queue> {
        match lane {
            Lane::Main => self.transfer.as_ref(),
            Lane::Transfer => self.transfer.is_some().then_some(&self.main),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Queue> {
        std::iter::once(&self.main).chain(&self.transfer)
    }
}

impl fmt::Debug for Lanes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// A second queue for copies, beside the first one of family `main`: of a family that does nothing else, as
/// those of copy engines, before one that computes as well; then a further one of the main family.
pub(super) fn beside(families: &[vk::QueueFamilyProperties], main: u32) -> Option<QueueIndex> {
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

/// Engines for pictures copy on the side, if they say so; those are left alone.
const VIDEO: vk::QueueFlags = vk::QueueFlags::from_raw(
    vk::QueueFlags::VIDEO_DECODE_KHR.as_raw()
        | vk::QueueFlags::VIDEO_ENCODE_KHR.as_raw()
        | vk::QueueFlags::OPTICAL_FLOW_NV.as_raw(),
);

/// Whether queues with such flags copy: those that draw or compute do, whether or not they say so.
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

    fn beside_first(families: &[(vk::QueueFlags, u32)]) -> Option<(u32, u32)> {
        let families: Vec<_> = families
            .iter()
            .map(|&(flags, count)| {
                vk::QueueFamilyProperties::default().queue_flags(flags).queue_count(count)
            })
            .collect();
        beside(&families, 0).map(|at| (at.family, at.index))
    }

    #[test]
    fn a_copy_engine_goes_before_everything_else() {
        let sparse = vk::QueueFlags::SPARSE_BINDING;
        let discrete = [(G | C | T | sparse, 16), (V | T, 1), (G | C | T, 8), (C | T, 8), (T, 2)];
        assert_eq!(beside_first(&discrete), Some((4, 0)));
        assert_eq!(beside_first(&[(G | C | T, 1), (C | T, 4), (T | sparse, 2)]), Some((2, 0)));
    }

    #[test]
    fn else_whoever_draws_least() {
        assert_eq!(beside_first(&[(G | C | T, 4), (C | T, 4)]), Some((1, 0)));
        assert_eq!(beside_first(&[(G | C | T, 1), (G | C, 1)]), Some((1, 0)));
        assert_eq!(beside_first(&[(G | C, 2)]), Some((0, 1)), "those that draw need not say it");
        assert_eq!(beside_first(&[(C | T, 2), (G | C | T, 1)]), Some((0, 1)));
    }

    #[test]
    fn and_nothing_where_there_is_one_queue_only() {
        assert_eq!(beside_first(&[(G | C | T, 1)]), None);
        assert_eq!(beside_first(&[(G | C | T, 1), (V | T, 1)]), None);
        assert_eq!(beside_first(&[(G | C | T, 1), (vk::QueueFlags::SPARSE_BINDING, 1)]), None);
        assert_eq!(beside_first(&[(G | C | T, 1), (T, 0)]), None);
        assert_eq!(beside_first(&[]), None);
    }
}
