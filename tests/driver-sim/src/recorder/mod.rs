//! A second layer of the library, `VK_LAYER_PEERBUF_recorder`: it changes nothing, and finds wrong uses of images that
//! several devices share.
//!
//! It keeps the layout, the owner and the last uses of each image, whichever devices have a `VkImage` of it, and judges
//! submissions in the order in which they run.
//!
//! | file | what it does |
//! |---|---|
//! | `clock`, `area`, `bytes` | what ended before what; which texels; which memory is the same |
//! | `part`, `places` | the state of an image, and the rules |
//! | `order` | submissions, semaphores and fences |
//! | `abi`, `device`, `objects`, `commands`, `passes`, `submit` | the calls of Vulkan |
//!
//! **Contract of every entry point.** As that of the other layer (`layer/mod.rs`): the caller follows Vulkan's rules of
//! valid usage. All `unsafe extern "system"` functions of this module rely on that and on nothing else.

mod abi;
mod area;
mod bytes;
mod clock;
mod commands;
mod device;
mod objects;
mod order;
mod part;
mod passes;
mod places;
mod submit;

pub use abi::recorder_negotiate;

use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use order::World;

static WORLD: LazyLock<Mutex<World>> = LazyLock::new(Mutex::default);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Changes what is known of the devices, and reports what was found.
fn world<R>(change: impl FnOnce(&mut World) -> R) -> R {
    let mut world = lock(&WORLD);
    let result = change(&mut world);
    let findings = std::mem::take(&mut world.findings);
    drop(world);
    for finding in findings {
        device::report(&finding);
    }
    result
}
