//! A buffer's reference to its set, counted per thread.
//!
//! Every buffer has a reference to the set, so a single count would be written by each thread that makes or drops a buffer.
//! Buffers of one thread share a reference instead, and count in that.

use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use crate::observe::{SHARDS, Shard, note_shared_write};

/// A reference to the set of a buffer.
#[derive(Debug)]
pub(in crate::buffer) struct SetRef<S>(Arc<Share<S>>);

/// A reference that buffers share. The count of those is on a cache line of its own.
#[derive(Debug)]
#[repr(align(128))]
struct Share<S>(Arc<S>);

/// The references that the buffers of each thread share. An engine has them, so that one stays while its thread has no
/// buffer.
pub(crate) struct SetRefs<S> {
    set: Arc<S>,
    shards: Box<[OnceLock<Arc<Share<S>>>; SHARDS]>,
}

impl<S> SetRef<S> {
    /// A reference of its own.
    pub(in crate::buffer) fn new(set: &Arc<S>) -> Self {
        note_shared_write();
        Self(Arc::new(Share(Arc::clone(set))))
    }
}

impl<S> Deref for SetRef<S> {
    type Target = Arc<S>;

    #[inline]
    fn deref(&self) -> &Arc<S> {
        &self.0.0
    }
}

impl<S> SetRefs<S> {
    pub(crate) fn new(set: &Arc<S>) -> Arc<Self> {
        let shards = Box::new([const { OnceLock::new() }; SHARDS]);
        Arc::new(Self { set: Arc::clone(set), shards })
    }

    pub(in crate::buffer) fn set(&self) -> &Arc<S> {
        &self.set
    }

    /// The reference of this thread.
    pub(in crate::buffer) fn mine(&self) -> SetRef<S> {
        let shard = &self.shards[Shard::mine().index()];
        SetRef(Arc::clone(shard.get_or_init(|| SetRef::new(&self.set).0)))
    }
}

impl<S> fmt::Debug for SetRefs<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SetRefs").finish_non_exhaustive()
    }
}
