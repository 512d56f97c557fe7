//! Work that a drop must do under a reservation, deferred while another thread holds it.
//!
//! An application may drop a mapping anywhere: under its own queue lock, which peerbuf's threads take under a
//! reservation, or in a callback that peerbuf calls under one. Such a drop waits for no lock. It tries the
//! reservation; if that is not free, the work is listed here. Each owner carries out what is listed for its
//! reservation when it takes it, and each thread that releases one tries what is listed.

use std::any::Any;
use std::cell::Cell;
use std::ptr::NonNull;
// Not those of `primitive`: each lock and unlock reads the length, and the models that try every interleaving of a lock
// would take ten times as long.
use std::sync::atomic::{AtomicUsize, Ordering};

use super::lock_order::{is_anything_held, leave};
use super::primitive::{Arc, Mutex, lock, thread_local};

/// The owner of a reservation, which keeps it alive.
pub(crate) trait Owner: Any + Send + Sync {
    /// Takes the reservation if it is free, and releases it.
    fn try_lock_once(&self);
}

/// Work on the value of a reservation. It returns what must be dropped without the reservation.
///
/// It is called with the value of the reservation that it was listed for, whose lock its caller has.
pub(super) type Work = Box<dyn FnOnce(NonNull<()>) -> Option<Box<dyn Any>> + Send>;

struct Entry {
    /// The address of the reservation.
    reservation: usize,
    owner: Arc<dyn Owner>,
    work: Work,
}

/// The deferred work of an engine. Each lock and unlock reads its length, so no word that is often written is beside it.
#[derive(Default)]
#[repr(align(128))]
pub(super) struct Deferred {
    /// The length of the list. Sequentially consistent, as are the operations that take and release a reservation:
    /// either the thread that lists work finds the reservation free, or its owner finds the work when it releases.
    length: AtomicUsize,
    /// How many entries were ever listed. Changed with the list locked.
    added: AtomicUsize,
    list: Mutex<Vec<Entry>>,
}

thread_local! {
    /// Whether this thread is trying what is listed: the locks that it takes for that do not try again.
    static TRYING: Cell<bool> = const { Cell::new(false) };
}

impl Deferred {
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.length.load(Ordering::SeqCst) == 0
    }

    /// Lists work for the reservation at this address, which `owner` keeps alive.
    pub(super) fn add(&self, reservation: usize, owner: Arc<dyn Owner>, work: Work) {
        let mut list = lock(&self.list);
        list.push(Entry { reservation, owner, work });
        self.added.fetch_add(1, Ordering::SeqCst);
        self.length.store(list.len(), Ordering::SeqCst);
    }

    /// Carries out what is listed for the reservation at this address, which this thread has just locked, on its
    /// value.
    #[cold]
    pub(super) fn apply(&self, reservation: usize, value: NonNull<()>) {
        let ours = |entry: &mut Entry| entry.reservation == reservation;
        let due: Vec<_> = {
            let mut list = lock(&self.list);
            let due = list.extract_if(.., ours).collect();
            self.length.store(list.len(), Ordering::SeqCst);
            due
        };
        for Entry { owner, work, .. } in due {
            if let Some(left) = work(value) {
                leave(left);
            }
            // Its drop may be that of the buffer.
            leave(Box::new(owner));
        }
    }

    /// Tries the reservations for which something is listed. To be called by a thread that has released one.
    ///
    /// A thread that lists work while this thread holds the reservation for its attempt relies on this thread to try
    /// again. So this ends when nothing was listed meanwhile.
    #[cold]
    pub(super) fn try_all(&self) {
        if is_anything_held() {
            return;
        }
        let Some(_trying) = Trying::begin() else { return };
        loop {
            let mut owners: Vec<Arc<dyn Owner>> = Vec::new();
            let added = {
                let list = lock(&self.list);
                for entry in list.iter() {
                    if !owners.iter().any(|known| Arc::ptr_eq(known, &entry.owner)) {
                        owners.push(Arc::clone(&entry.owner));
                    }
                }
                self.added.load(Ordering::SeqCst)
            };
            owners.iter().for_each(|owner| owner.try_lock_once());
            if self.added.load(Ordering::SeqCst) == added {
                return;
            }
        }
    }
}

/// Says that this thread is trying what is listed, until it is dropped, also by a panic.
struct Trying;

impl Trying {
    /// `None` if it is trying already.
    fn begin() -> Option<Self> {
        (!TRYING.with(|trying| trying.replace(true))).then_some(Self)
    }
}

impl Drop for Trying {
    fn drop(&mut self) {
        TRYING.with(|trying| trying.set(false));
    }
}

/// Drops `object` as soon as this thread holds no reservation.
pub(crate) fn drop_unlocked(object: Box<dyn Any>) {
    if is_anything_held() {
        leave(object);
    }
}

impl std::fmt::Debug for Deferred {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Deferred").field("length", &self.length).finish_non_exhaustive()
    }
}
