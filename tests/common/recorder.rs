//! Importers that note what they are told.

use std::sync::{Arc, Mutex, PoisonError};

use peerbuf::{Importer, Invalidation};

/// Notes the generation of every callback; its mappings are replaced by the test, which knows that they
/// are old.
#[derive(Debug)]
pub(crate) struct Recorder {
    told: Mutex<Vec<u32>>,
    peer_to_peer: bool,
}

impl Recorder {
    /// One that offers to live with another device's own memory, or that does not.
    pub(crate) fn new(peer_to_peer: bool) -> Arc<Self> {
        Arc::new(Self { told: Mutex::default(), peer_to_peer })
    }

    /// The generations that it was told are old, in order.
    pub(crate) fn told(&self) -> Vec<u32> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Importer for Recorder {
    fn invalidate_mappings(&self, invalidation: &Invalidation<'_>) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.push(invalidation.generation());
    }

    fn allow_peer2peer(&self) -> bool {
        self.peer_to_peer
    }
}
