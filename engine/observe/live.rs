//! Counters of live objects: every test ends with them where they began.

use std::sync::atomic::{AtomicI64, Ordering};

use super::shard::{SHARDS, Shard};

/// Something that is born and dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(usize)]
#[non_exhaustive]
pub enum Object {
    /// A Vulkan device, opened or adopted.
    Device,
    /// An exportable allocation: a slab or a dedicated one.
    Allocation,
    /// A device's view of an allocation: one `VkDeviceMemory` with its `VkBuffer`.
    View,
    /// A [`crate::SharedBuffer`], all its handles counted as one.
    Buffer,
    /// An [`crate::Attachment`].
    Attachment,
    /// A [`crate::Mapping`].
    Mapping,
    /// A [`crate::HostAccess`].
    HostAccess,
    /// A [`crate::ForeignExport`].
    ForeignExport,
    /// A [`crate::Pin`].
    Pin,
}

impl Object {
    /// Every kind, in the order of their numbers.
    pub const ALL: [Self; 9] = [
        Self::Device,
        Self::Allocation,
        Self::View,
        Self::Buffer,
        Self::Attachment,
        Self::Mapping,
        Self::HostAccess,
        Self::ForeignExport,
        Self::Pin,
    ];
}

/// How many objects of each kind are alive in one engine: [`crate::Engine::live`].
#[derive(Debug)]
pub struct Live(Box<[Row; SHARDS]>);

/// What one thread has seen born, less what it has seen die: it may be the other way round. On cache
/// lines of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Row([AtomicI64; Object::ALL.len()]);

impl Live {
    /// How many are alive.
    pub fn count(&self, object: Object) -> u64 {
        let all = self.0.iter().map(|row| row.0[object as usize].load(Ordering::Relaxed));
        // CAST: while threads are at it the sum may miss a birth and see the death, so it can be
        // negative for a moment.
        all.sum::<i64>().max(0) as u64
    }

    /// How many are alive in all, devices and what the engine keeps warm included.
    pub fn total(&self) -> u64 {
        Object::ALL.into_iter().map(|object| self.count(object)).sum()
    }

    pub(crate) fn born(&self, object: Object) {
        self.add(object, 1);
    }

    pub(crate) fn died(&self, object: Object) {
        self.add(object, -1);
    }

    // Relaxed: a statistic; nothing is read because of it.
    fn add(&self, object: Object, change: i64) {
        let shard = Shard::mine();
        let counter = &self.0[shard.index()].0[object as usize];
        if shard.is_exclusive() {
            // Nobody else writes here.
            counter.store(counter.load(Ordering::Relaxed) + change, Ordering::Relaxed);
        } else {
            counter.fetch_add(change, Ordering::Relaxed);
        }
    }
}

impl Default for Live {
    fn default() -> Self {
        Self(Box::new(std::array::from_fn(|_| Row::default())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_born_in_one_thread_may_die_in_another() {
        let live = Live::default();
        let turns = 0..100;
        std::thread::scope(|scope| {
            for _ in 0..70 {
                scope.spawn(|| turns.clone().for_each(|_| live.born(Object::Pin)));
            }
        });
        assert_eq!((live.count(Object::Pin), live.count(Object::Buffer)), (7000, 0));
        std::thread::scope(|scope| {
            for _ in 0..35 {
                scope.spawn(|| turns.clone().for_each(|_| live.died(Object::Pin)));
            }
        });
        assert_eq!(live.total(), 3500);
    }
}
