//! Purges during concurrent uses.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{SIZE, cache, pairs, plain, used, vram};
use crate::common::random::Random;
use crate::common::{Rig, bytes, soak};
use peerbuf::{Access, Error, Refault, SharedBuffer};

/// One thread causes purges while others use the buffers: a reader sees what it has written since the last
/// renewal, or zeros, or gets a typed error.
#[test]
fn uses_survive_concurrent_purges() {
    let rig = Rig::new();
    let engine = rig.engine();
    let rounds = soak::times(200, 30);
    for [home, peer] in pairs(&rig) {
        engine.model_heap(&home, 3 * SIZE).expect("of this engine");
        let caches: Vec<_> = (0..2).map(|_| cache(engine, &home)).collect();
        let attach = |cache: &SharedBuffer, device| {
            cache.attach_dynamic(device, Arc::new(Refault::new())).expect("an attachment")
        };
        let attachments = [attach(&caches[0], &home), attach(&caches[1], &peer)];
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let pressure = scope.spawn(|| {
                let mut random = Random::new(11);
                let mut round = 0;
                while round < 8 || !done.load(Ordering::Relaxed) {
                    round += 1;
                    let count = 1 + random.below(3);
                    let others: Vec<_> = (0..count)
                        .map(|seed| {
                            let other = engine.create_buffer(&home, plain("other"));
                            let other = other.expect("a buffer");
                            bytes::write(&other, seed);
                            other
                        })
                        .collect();
                    for (other, seed) in others.iter().zip(0..) {
                        bytes::assert_sequence(other, seed, "content of another buffer");
                    }
                }
            });
            // When the users end, even by a panic, the pressure thread ends.
            let over = Done(&done);
            let users: Vec<_> = caches
                .iter()
                .zip(&attachments)
                .map(|(cache, attachment)| {
                    scope.spawn(move || use_repeatedly(cache, attachment, rounds))
                })
                .collect();
            for user in users {
                user.join().expect("no panic");
            }
            drop(over);
            pressure.join().expect("no panic");
        });
        assert!(caches.iter().any(|cache| cache.generation() > 0), "a buffer was purged");
        assert!(used(engine, vram(&home)) <= 3 * SIZE);
    }
}

/// Sets the flag when dropped.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Writes a new pattern or reads the last one, `rounds` times.
fn use_repeatedly(cache: &SharedBuffer, attachment: &peerbuf::Attachment, rounds: u32) {
    let mut written = None;
    for round in 0..rounds {
        let done = attachment.map(Access::ReadWrite).and_then(|mapping| match written {
            Some(seed) => mapping.verify(seed).map(|report| {
                assert!(report.is_clean(), "round {round}: {report:?}");
                None
            }),
            None => mapping.fill(round).map(|()| Some(round)),
        });
        match done {
            Ok(now) => written = now,
            Err(Error::Stale { .. }) => {}
            Err(Error::Purged { .. }) => {
                written = None;
                match cache.repopulate() {
                    Ok(()) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            Err(error) => panic!("{error}"),
        }
    }
}
