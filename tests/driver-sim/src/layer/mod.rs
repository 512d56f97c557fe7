//! The Vulkan layer.
//!
//! **Contract of every entry point.** The loader, a layer above or the application calls it under Vulkan's rules of
//! valid usage: handles are alive and of the stated kind, pointers are valid for what the call reads and writes,
//! and calls that need external synchronisation have it. All `unsafe extern "system"` functions of this module
//! rely on that and on nothing else.
//!
//! Physical devices and queues are wrapped: the application holds pointers to [`physical::Physical`] and
//! [`queue::Queue`]. That makes it possible to list one device twice and to give a device more queues than its
//! driver has. All other handles are the driver's.

pub(crate) mod abi;
mod binary_signals;
pub(crate) mod chain;
mod commands;
mod create;
mod device;
mod external;
mod forward;
mod identity;
mod import;
mod instance;
mod layout;
mod mapping;
mod memory;
mod names;
mod origin;
mod physical;
mod query;
mod queue;
mod report;
mod requirements;
mod semaphore;
mod submit;
mod sync_files;
mod tiled_barriers;
mod tiled_queries;
mod tiling;
mod wait;
mod worker;

pub use abi::vkNegotiateLoaderLayerInterfaceVersion;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks a mutex. Nothing in the layer panics while it holds one, and no state depends on it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Text of a call's name for the next layer. The name ends in a zero byte.
macro_rules! cname {
    ($name:literal) => {
        // No name has a zero byte inside.
        const {
            match std::ffi::CStr::from_bytes_with_nul(concat!($name, "\0").as_bytes()) {
                Ok(name) => name,
                Err(_) => panic!(),
            }
        }
    };
}
use cname;
