//! Importers that record their notifications.

use std::sync::{Arc, Mutex, PoisonError};

use peerbuf::{Importer, Invalidation};

/// Records the generation of every notification. The test itself replaces the mappings.
#[derive(Debug)]
pub(crate) struct Recorder {
    generations: Mutex<Vec<u32>>,
    peer_to_peer: bool,
}

impl Recorder {
    /// Creates a recorder that accepts another device's memory if `peer_to_peer` is set.
    pub(crate) fn new(peer_to_peer: bool) -> Arc<Self> {
        Arc::new(Self { generations: Mutex::default(), peer_to_peer })
    }

    /// The generations that notifications have invalidated, in order.
    pub(crate) fn invalidated(&self) -> Vec<u32> {
        self.generations.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Importer for Recorder {
    fn invalidate_mappings(&self, invalidation: &Invalidation<'_>) {
        let mut generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        generations.push(invalidation.generation());
    }

    fn allow_peer2peer(&self) -> bool {
        self.peer_to_peer
    }
}
