//! Counters of live objects. Every test checks at its end that they are where they were at its start.

use std::fmt;
use std::sync::atomic::{AtomicI64, Ordering};

use super::shard::{SHARDS, Shard};

/// A kind of object that is created and dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(usize)]
#[non_exhaustive]
pub enum Object {
    /// A Vulkan device, opened or adopted.
    Device,
    /// An exportable allocation: a slab, or the dedicated memory of one buffer.
    Allocation,
    /// A device's view of an allocation: one `VkDeviceMemory` with its `VkBuffer`.
    View,
    /// A `VkImage` of peerbuf's.
    Image,
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
    /// All kinds, in order.
    pub const ALL: &[Self] = &[
        Self::Device,
        Self::Allocation,
        Self::View,
        Self::Image,
        Self::Buffer,
        Self::Attachment,
        Self::Mapping,
        Self::HostAccess,
        Self::ForeignExport,
        Self::Pin,
    ];
}

/// How many objects of each kind are alive in one engine: [`crate::Engine::live`].
pub struct Live(Box<[Row; SHARDS]>);

/// For each kind, the objects that one thread has created, less those that it has dropped. Negative if the
/// thread dropped objects of other threads. Each row has its own cache lines.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Row([AtomicI64; Object::ALL.len()]);

impl Live {
    /// The number of live objects of a kind.
    pub fn count(&self, object: Object) -> u64 {
        let all = self.0.iter().map(|row| row.0[object as usize].load(Ordering::Relaxed));
        // CAST: while other threads create and drop objects, the sum may miss a creation and include the
        // drop. So it can be negative for a moment.
        all.sum::<i64>().max(0) as u64
    }

    /// The number of all live objects, including devices and what the engine keeps for reuse.
    pub fn total(&self) -> u64 {
        Object::ALL.iter().copied().map(|object| self.count(object)).sum()
    }

    pub(crate) fn born(&self, object: Object) {
        self.add(object, 1);
    }

    pub(crate) fn died(&self, object: Object) {
        self.add(object, -1);
    }

    // Relaxed: a statistic. No other memory is read because of its value.
    fn add(&self, object: Object, change: i64) {
        let shard = Shard::mine();
        let counter = &self.0[shard.index()].0[object as usize];
        if shard.is_exclusive() {
            // No other thread writes this row.
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

/// Prints the sums, not the rows of the threads.
impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Live ")?;
        let counts = Object::ALL.iter().copied().map(|object| (object, self.count(object)));
        f.debug_map().entries(counts).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_may_be_dropped_on_another_thread() {
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

    #[test]
    fn debug_prints_sums() {
        let live = Live::default();
        live.born(Object::Buffer);
        live.born(Object::Pin);
        let text = format!("{live:?}");
        assert!(text.starts_with("Live {Device: 0, ") && text.contains("Buffer: 1"), "{text}");
        assert!(text.ends_with("Pin: 1}"), "{text}");
    }
}
