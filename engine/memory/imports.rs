//! The views of importing devices that nothing uses now, until they are used again or given back.
//!
//! An unused view is kept for a while, since an import costs system calls, and pinned pages:
//!
//! * of views that attachments have needed, four, or 16 MiB, or about a fifth of what the device's used imports have;
//! * all for [`KEEP`], by the engine's clock, after its last use;
//! * none beyond a limit, or when a driver is short of memory.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use super::domain_usage::ImportUsage;
use super::import_ledger::ImportLedger;
use super::view::View;
use super::view_slots::Unused;
use crate::device::{DeviceId, DeviceInner};

/// How long an unused view is kept: many frames, and many cycles of an eviction and a return.
pub(crate) const KEEP: Duration = Duration::from_secs(10);
/// How many unused views are kept, whatever they import.
const KEPT_VIEWS: usize = 4;
/// How many bytes unused views import that are kept, however many they are: first slabs of many size classes.
const KEPT_BYTES: u64 = 16 << 20;
/// After a pass, unused views that attachments have needed import at most this part of what is used. Until the next
/// pass as much may be added.
const KEPT_PART: u64 = 10;

/// The bytes of unused views beyond which those that attachments have needed are many.
fn many(used: u64) -> u64 {
    (used / KEPT_PART).max(KEPT_BYTES)
}

/// What owns views: an allocation.
pub(super) trait OwnsViews: Send + Sync {
    /// The device's view, if nothing uses it.
    fn unused(&self, device: DeviceId) -> Option<Unused>;

    /// Takes the view, unless it was used since `unused` was returned. Waits for no lock.
    fn take(&self, device: DeviceId, unused: Unused) -> Option<View>;

    /// Notes that the list has the view no longer. Lists it again if it is unused by now.
    fn unlisted(&self, device: DeviceId);
}

/// The imports of all devices of an engine: the ledger, and the list of unused views.
#[derive(Debug, Default)]
pub(crate) struct Imports {
    ledger: Arc<ImportLedger>,
    devices: Mutex<HashMap<DeviceId, DeviceImports>>,
    /// The number of listed views. Relaxed, as all below: a pass that is missed is made later.
    listed: AtomicUsize,
    /// Whether a device has many unused views.
    due: AtomicBool,
    /// When the last pass for old views began, in milliseconds of the engine's clock.
    aged_at: AtomicU64,
}

#[derive(Debug, Default)]
struct DeviceImports {
    /// Views that were found unused, in the order in which they were. Some may be used again.
    unused: Vec<Listed>,
    /// Bytes and number of those that were added since the last pass.
    added: (u64, usize),
    /// Bytes that were used at the last pass.
    used: u64,
}

struct Listed {
    owner: Weak<dyn OwnsViews>,
    bytes: u64,
    /// How often it had been used when a pass for old views last saw it.
    seen: Option<u32>,
}

/// Which unused views are given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GiveBack {
    /// Those of many.
    Many,
    /// Those that were not used since the pass before this one, and those of many.
    Old,
    /// All.
    All,
}

impl Imports {
    /// What a device has imported.
    pub(crate) fn usage(&self, device: &DeviceInner) -> ImportUsage {
        self.ledger.usage(device)
    }

    /// The ledger, for views that are counted in it.
    pub(super) fn ledger(&self) -> &Arc<ImportLedger> {
        &self.ledger
    }

    /// Lists an unused view of `owner`.
    pub(super) fn list(&self, device: DeviceId, owner: Weak<dyn OwnsViews>, bytes: u64) {
        let mut devices = self.devices();
        let imports = devices.entry(device).or_default();
        imports.unused.push(Listed { owner, bytes, seen: None });
        imports.added = (imports.added.0 + bytes, imports.added.1 + 1);
        if imports.added.1 > KEPT_VIEWS && imports.added.0 > many(imports.used) {
            self.due.store(true, Ordering::Relaxed);
        }
        self.listed.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether a device has so many unused views that some are to be given back now.
    pub(crate) fn is_due(&self) -> bool {
        self.due.load(Ordering::Relaxed)
    }

    /// Which unused views are to be given back at this moment of the engine's clock, if any.
    pub(crate) fn due(&self, age: impl FnOnce() -> Duration) -> Option<GiveBack> {
        if self.listed.load(Ordering::Relaxed) == 0 {
            return None;
        }
        // CAST: enough for half a billion years.
        let (now, last) = (age().as_millis() as u64, self.aged_at.load(Ordering::Relaxed));
        if now < last + KEEP.as_millis() as u64 {
            return self.is_due().then_some(GiveBack::Many);
        }
        // Of concurrent callers, one makes the pass.
        let first =
            self.aged_at.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        first.then_some(GiveBack::Old)
    }

    /// Takes unused views, of one device or of all. The caller frees them once submitted work of their devices does
    /// not use them any more. Waits for no lock that is held for long.
    pub(crate) fn take(&self, of: Option<DeviceId>, which: GiveBack) -> Vec<View> {
        let devices: Vec<_> = match of {
            Some(device) => vec![device],
            None => {
                self.due.store(false, Ordering::Relaxed);
                self.devices().keys().copied().collect()
            }
        };
        devices.into_iter().flat_map(|device| self.take_of(device, which)).collect()
    }

    fn take_of(&self, device: DeviceId, which: GiveBack) -> Vec<View> {
        let listed = {
            let mut devices = self.devices();
            let Some(imports) = devices.get_mut(&device) else { return vec![] };
            imports.added = (0, 0);
            std::mem::take(&mut imports.unused)
        };
        self.listed.fetch_sub(listed.len(), Ordering::Relaxed);
        // Without the lock: an allocation that is dropped here takes it.
        let mut unused = vec![];
        for each in listed {
            let Some(owner) = each.owner.upgrade() else { continue };
            match owner.unused(device) {
                Some(found) => unused.push((owner, each, found)),
                None => owner.unlisted(device),
            }
        }
        let unused_bytes: u64 = unused.iter().map(|(.., found)| found.bytes).sum();
        let used = self.ledger.bytes(device).saturating_sub(unused_bytes);
        let attached = unused.iter().filter(|(.., found)| found.attached);
        let (mut count, mut bytes) =
            attached.fold((0, 0), |sum, (.., found)| (sum.0 + 1, sum.1 + found.bytes));
        let (mut taken, mut kept) = (vec![], vec![]);
        for (owner, each, found) in unused {
            let of_many = found.attached && count > KEPT_VIEWS && bytes > many(used);
            let old = which == GiveBack::Old && each.seen == Some(found.uses);
            if !(of_many || old || which == GiveBack::All) {
                let seen = if which == GiveBack::Old { Some(found.uses) } else { each.seen };
                kept.push(Listed { seen, ..each });
                continue;
            }
            match owner.take(device, found) {
                Some(view) => {
                    taken.push(view);
                    owner.unlisted(device);
                    if found.attached {
                        (count, bytes) = (count - 1, bytes - found.bytes);
                    }
                }
                None => kept.push(each),
            }
        }
        self.listed.fetch_add(kept.len(), Ordering::Relaxed);
        let mut devices = self.devices();
        let imports = devices.entry(device).or_default();
        imports.used = used;
        kept.append(&mut imports.unused);
        imports.unused = kept;
        taken
    }

    fn devices(&self) -> MutexGuard<'_, HashMap<DeviceId, DeviceImports>> {
        self.devices.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Listed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Listed").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}
