//! The views of importing devices that nothing uses now, until they are used again or given back.
//!
//! An unused view is kept for a while, since an import costs system calls, and pinned pages:
//!
//! * of views that attachments have needed, four, or 64 MiB, or about a fifth of what the device's used imports have;
//! * all for [`KEEP`], by the engine's clock, after its last use;
//! * none beyond a limit, or when a driver is short of memory.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError, Weak};
use std::time::Duration;

use super::domain_usage::ImportUsage;
use super::import_ledger::ImportLedger;
use super::view::View;
use super::view_slots::Unused;
use crate::device::{DeviceId, DeviceInner, HeapBudget};

/// How long an unused view is kept: many frames, and many cycles of an eviction and a return.
pub(crate) const KEEP: Duration = Duration::from_secs(10);
/// How many unused views are kept, whatever they import.
const KEPT_VIEWS: usize = 4;
/// How many bytes unused views import that are kept, however many they are: those of buffers that are shared in turn for
/// a short time each.
const KEPT_BYTES: u64 = 64 << 20;
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

    /// Takes the view, unless it was used since `unused` was returned, the allocation is locked, or a copy has the view.
    /// Waits for no lock.
    fn take(&self, device: DeviceId, unused: Unused) -> Option<View>;

    /// Notes that the list has the view no longer. Lists it again if it is unused by now.
    fn unlisted(&self, device: DeviceId);
}

/// The imports of all devices of an engine: the ledger, and the list of unused views.
#[derive(Debug, Default)]
pub(crate) struct Imports {
    ledger: Arc<ImportLedger>,
    /// Held by a pass until the views that it takes are freed or retired. Taken before the lock of the devices; a pass
    /// waits for neither an allocation's lock nor a reservation.
    passing: Mutex<()>,
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

/// The right to make a pass over the unused views, until it is dropped. Its owner frees or retires first what it has taken:
/// another thread that is short of imports then finds no view that is neither listed, nor used, nor retired.
#[derive(Debug)]
pub(crate) struct Pass<'a> {
    imports: &'a Imports,
    /// Whether the pass of another thread had to end first.
    waited: bool,
    _alone: MutexGuard<'a, ()>,
}

/// What a pass has taken.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    pub(crate) views: Vec<View>,
    /// How many unused views were to be taken and were not: their allocation is locked, or a copy is being recorded.
    pub(crate) refused: usize,
}

impl Imports {
    /// What a device has imported.
    pub(crate) fn usage(&self, device: &DeviceInner) -> ImportUsage {
        self.ledger.usage(device)
    }

    /// Notes what the driver of a device reports about the heap of [`super::import_heap`].
    pub(crate) fn reported(&self, device: DeviceId, budget: HeapBudget) {
        self.ledger.reported(device, budget);
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

    /// Which unused views are to be given back at this moment of the engine's clock, if any, and the pass for it. `None` if
    /// another thread makes one. Costs a load if no view is unused.
    pub(crate) fn due(&self, age: impl FnOnce() -> Duration) -> Option<(Pass<'_>, GiveBack)> {
        if self.listed.load(Ordering::Relaxed) == 0 {
            return None;
        }
        // CAST: enough for half a billion years.
        let (now, last) = (age().as_millis() as u64, self.aged_at.load(Ordering::Relaxed));
        if now < last + KEEP.as_millis() as u64 {
            if !self.is_due() {
                return None;
            }
            return Some((self.try_pass()?, GiveBack::Many));
        }
        let pass = self.try_pass()?;
        // Of concurrent callers, one makes the pass.
        let first =
            self.aged_at.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        first.then_some((pass, GiveBack::Old))
    }

    /// The right to make a pass, after that of another thread, which waits for nothing.
    pub(crate) fn pass(&self) -> Pass<'_> {
        self.try_pass().unwrap_or_else(|| {
            let alone = self.passing.lock().unwrap_or_else(PoisonError::into_inner);
            Pass { imports: self, waited: true, _alone: alone }
        })
    }

    /// The right to make a pass, unless another thread has it.
    pub(crate) fn try_pass(&self) -> Option<Pass<'_>> {
        let alone = match self.passing.try_lock() {
            Err(TryLockError::WouldBlock) => return None,
            Ok(alone) => alone,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
        };
        Some(Pass { imports: self, waited: false, _alone: alone })
    }

    /// Forgets a device that has left. It has neither imports nor unused views.
    pub(crate) fn forget(&self, device: DeviceId) {
        let forgotten = self.devices().remove(&device);
        if let Some(imports) = forgotten {
            self.listed.fetch_sub(imports.unused.len(), Ordering::Relaxed);
        }
        self.ledger.forget(device);
    }

    fn take_of(&self, device: DeviceId, which: GiveBack) -> Taken {
        let listed = {
            let mut devices = self.devices();
            let Some(imports) = devices.get_mut(&device) else { return Taken::default() };
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
        let (mut taken, mut kept) = (Taken::default(), vec![]);
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
                    taken.views.push(view);
                    owner.unlisted(device);
                    if found.attached {
                        (count, bytes) = (count - 1, bytes - found.bytes);
                    }
                }
                None => {
                    taken.refused += 1;
                    kept.push(each);
                }
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

impl Pass<'_> {
    /// Whether the pass of another thread had to end first, which may have given views back.
    pub(crate) fn has_waited(&self) -> bool {
        self.waited
    }

    /// Takes unused views, of one device or of all. The caller frees them once submitted work of their devices does
    /// not use them any more.
    pub(crate) fn take(&self, of: Option<DeviceId>, which: GiveBack) -> Taken {
        let devices: Vec<_> = match of {
            Some(device) => vec![device],
            None => {
                self.imports.due.store(false, Ordering::Relaxed);
                self.imports.devices().keys().copied().collect()
            }
        };
        let mut all = Taken::default();
        for device in devices {
            let Taken { views, refused } = self.imports.take_of(device, which);
            all.views.extend(views);
            all.refused += refused;
        }
        all
    }
}

impl std::fmt::Debug for Listed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Listed").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const DEVICE: DeviceId = DeviceId(1);

    /// An owner of one unused view. `looked_at` is called when a pass looks at it.
    struct Owner<F> {
        looked_at: F,
        taken: AtomicUsize,
    }

    impl<F: Fn() + Send + Sync> OwnsViews for Owner<F> {
        fn unused(&self, _: DeviceId) -> Option<Unused> {
            (self.looked_at)();
            Some(Unused { uses: 1, attached: true, bytes: 1 })
        }

        fn take(&self, _: DeviceId, _: Unused) -> Option<View> {
            self.taken.fetch_add(1, Ordering::Relaxed);
            None
        }

        fn unlisted(&self, _: DeviceId) {}
    }

    #[test]
    fn a_thread_that_is_short_of_imports_finds_the_views_that_another_pass_looks_at() {
        let imports = Imports::default();
        let (began, begins) = mpsc::channel();
        let (go_on, goes_on) = mpsc::channel::<()>();
        let goes_on = Mutex::new(goes_on);
        let owner = Arc::new(Owner {
            looked_at: move || {
                let _ = began.send(());
                // Only the first pass is held up: after that the sender is gone.
                let _ = goes_on.lock().map(|goes_on| goes_on.recv());
            },
            taken: AtomicUsize::new(0),
        });
        std::thread::scope(|scope| {
            let listed: Weak<Owner<_>> = Arc::downgrade(&owner);
            imports.list(DEVICE, listed, 1);
            let first = scope.spawn(|| imports.pass().take(None, GiveBack::Many));
            begins.recv().expect("the first pass looks at the view");
            assert!(imports.try_pass().is_none(), "a drop of an attachment does not wait");
            let second = scope.spawn(|| {
                let pass = imports.pass();
                (pass.has_waited(), pass.take(Some(DEVICE), GiveBack::All))
            });
            for _ in 0..100 {
                if second.is_finished() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            drop(go_on);
            let kept = first.join().expect("no panic");
            assert_eq!((kept.views.len(), kept.refused), (0, 0), "one is not many");
            let (_, taken) = second.join().expect("no panic");
            assert_eq!(taken.refused, 1, "it was found, and this owner refuses it");
        });
        assert_eq!(owner.taken.load(Ordering::Relaxed), 1);
    }
}
