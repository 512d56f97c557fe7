//! The pools of an engine, one per provider.

use std::sync::{Arc, OnceLock};

use super::pool::Pool;
use super::provider::Provider;

/// A list that only grows, so that a look-up needs neither a lock nor a reference count: every new buffer looks
/// up its pool.
#[derive(Debug, Default)]
pub(crate) struct Pools(OnceLock<Box<Node>>);

#[derive(Debug)]
struct Node {
    pool: Arc<Pool>,
    next: Pools,
}

impl Pools {
    /// The pool of `provider`, made by `make` if there is none yet.
    pub(crate) fn get(&self, provider: Provider, make: impl Fn() -> Arc<Pool>) -> &Arc<Pool> {
        let mut rest = self;
        loop {
            // Of two threads that reach the end, one appends; the other one checks the appended node.
            let node =
                rest.0.get_or_init(|| Box::new(Node { pool: make(), next: Self::default() }));
            if node.pool.provider() == provider {
                return &node.pool;
            }
            rest = &node.next;
        }
    }

    /// All pools.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Pool>> {
        let first = self.0.get();
        std::iter::successors(first, |node| node.next.0.get()).map(|node| &node.pool)
    }
}
