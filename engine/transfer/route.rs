//! What is known of the routes between two devices: which were proved, how fast, and which one to use.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::capability::has_extension;
use super::refusal::{Refusal, Route};
use crate::device::{DeviceId, DeviceInner, HandleType, Uuid};
use crate::error::Result;
use crate::memory::{DomainKind, ImportKind, Provider};

impl Route {
    /// The provider whose memory this route shares, if `exporter` is its first device. `None` for routes
    /// without a provider.
    pub(crate) fn provider(self, exporter: DeviceId) -> Option<Provider> {
        let exported = |handle, domain| Provider::Device { device: exporter, handle, domain };
        Some(match self {
            Self::DmaBuf => exported(HandleType::DmaBuf, DomainKind::Vram),
            Self::OpaqueFd => exported(HandleType::OpaqueFd, DomainKind::Vram),
            Self::HostVisibleDmaBuf => exported(HandleType::DmaBuf, DomainKind::System),
            Self::HostVisibleOpaqueFd => exported(HandleType::OpaqueFd, DomainKind::System),
            Self::DmaHeap => Provider::DmaHeap,
            Self::Udmabuf => Provider::Udmabuf,
            Self::Memfd => Provider::Memfd,
            Self::Anonymous => Provider::Anonymous,
            Self::Local | Self::Staged => return None,
        })
    }

    /// The route by which an external handle is imported.
    pub(crate) fn of_foreign(handle: HandleType) -> Self {
        match handle {
            HandleType::DmaBuf => Self::DmaBuf,
            HandleType::OpaqueFd => Self::OpaqueFd,
            HandleType::HostPointer => Self::Memfd,
        }
    }

    /// The route that shares memory of `provider`.
    pub(crate) fn of(provider: Provider) -> Option<Self> {
        Self::LADDER
            .iter()
            .copied()
            .find(|route| route.provider(DeviceId(0)) == Some(provider.of_device(DeviceId(0))))
    }
}

/// A route that was proved, and how fast it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Working {
    /// The route.
    pub route: Route,
    /// How long the second device took to read the probe's bytes once the route was warm. This is one pass
    /// over the bytes; for [`Route::Staged`] the copy before it is included.
    pub read: Duration,
    /// How the second device imported the memory; `None` for routes without an import.
    pub(crate) import: Option<ImportKind>,
}

/// Everything known about the routes from one device to another.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Verdict {
    /// The route to use. [`Route::Staged`] if the devices cannot share memory.
    pub route: Route,
    /// Whether the route was proved with data, in both directions.
    pub verified: bool,
    /// All routes that were proved, best first.
    pub working: Vec<Working>,
    /// All other routes, with the reason.
    pub refused: Vec<Refusal>,
    /// Size of the probe in bytes.
    pub probe_bytes: u64,
}

/// How much faster a route must be to be preferred to one higher on the ladder.
const WORTH_IT: u32 = 2;

impl Verdict {
    /// Chooses among the working routes: the highest on the ladder, unless another one is twice as fast.
    /// For a device and itself, [`Route::Local`] always wins.
    pub(crate) fn new(working: Vec<Working>, refused: Vec<Refusal>, probe_bytes: u64) -> Self {
        let chosen = working.iter().copied().reduce(|best, next| {
            let faster = best.route != Route::Local
                && next.route.is_shared()
                && next.read * WORTH_IT < best.read;
            if faster { next } else { best }
        });
        Self {
            route: chosen.map_or(Route::Staged, |chosen| chosen.route),
            verified: chosen.is_some(),
            working,
            refused,
            probe_bytes,
        }
    }

    /// How the second device imports memory of `provider`; `None` if no import of it was proved.
    pub(crate) fn import_kind(&self, provider: Provider) -> Option<ImportKind> {
        let route = Route::of(provider)?;
        self.working.iter().find(|working| working.route == route)?.import
    }
}

/// Identifies a pair of devices by what a verdict depends on: hardware and drivers, not this opening of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PairKey {
    from: AdapterKey,
    to: AdapterKey,
    same_device: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct AdapterKey {
    device: Uuid,
    driver: Uuid,
    version: u32,
    /// Per handle type, whether the device has its extensions enabled: an adopted device may lack extensions
    /// that its adapter has.
    enabled: [bool; HandleType::ALL.len()],
}

impl PairKey {
    pub(crate) fn new(from: &DeviceInner, to: &DeviceInner) -> Self {
        let key = |device: &DeviceInner| AdapterKey {
            device: device.adapter().device_uuid(),
            driver: device.adapter().driver_uuid(),
            version: device.adapter().driver_version(),
            enabled: std::array::from_fn(|at| has_extension(device, HandleType::ALL[at])),
        };
        Self { from: key(from), to: key(to), same_device: std::ptr::eq(from, to) }
    }
}

/// Cache of verdicts, per pair of devices and driver version.
///
/// A list and not a map: there are few pairs, every move asks, and hashing a key takes longer than comparing
/// a dozen of them.
#[derive(Debug, Default)]
pub(crate) struct Routes(Mutex<Vec<(PairKey, Arc<Verdict>)>>);

impl Routes {
    /// Returns the verdict on a pair; calls `prove` if there is none yet.
    ///
    /// `prove` runs without the lock, because it waits for GPUs. If two threads prove the same pair at the
    /// same time, the first verdict is kept. If `prove` fails, nothing is cached.
    pub(crate) fn verdict(
        &self,
        key: PairKey,
        prove: impl FnOnce() -> Result<Verdict>,
    ) -> Result<Arc<Verdict>> {
        let lock = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let find = |list: &[(PairKey, Arc<Verdict>)]| {
            list.iter().find(|(of, _)| *of == key).map(|(_, verdict)| Arc::clone(verdict))
        };
        if let Some(verdict) = find(&lock()) {
            return Ok(verdict);
        }
        let verdict = Arc::new(prove()?);
        let mut list = lock();
        if let Some(first) = find(&list) {
            return Ok(first);
        }
        list.push((key, Arc::clone(&verdict)));
        Ok(verdict)
    }

    /// The cached verdict on a pair, if there is one.
    pub(crate) fn known(&self, key: &PairKey) -> Option<Arc<Verdict>> {
        let list = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        list.iter().find(|(of, _)| of == key).map(|(_, verdict)| Arc::clone(verdict))
    }

    /// Empties the cache, so that the next use proves again.
    pub(crate) fn forget(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn working(route: Route, micros: u64) -> Working {
        Working { route, read: Duration::from_micros(micros), import: None }
    }

    fn check(routes: &[(Route, u64)], expected: Route) {
        let list = routes.iter().map(|&(route, micros)| working(route, micros)).collect();
        assert_eq!(Verdict::new(list, vec![], 0).route, expected, "{routes:?}");
    }

    #[test]
    fn the_ladder_decides_unless_another_route_is_twice_as_fast() {
        check(&[], Route::Staged);
        check(&[(Route::DmaBuf, 100), (Route::Memfd, 51)], Route::DmaBuf);
        check(&[(Route::DmaBuf, 100), (Route::Memfd, 49)], Route::Memfd);
        check(&[(Route::Memfd, 100), (Route::Staged, 1)], Route::Memfd);
        check(&[(Route::Staged, 100)], Route::Staged);
        check(&[(Route::Local, 100), (Route::Memfd, 1)], Route::Local);
    }

    #[test]
    fn a_provider_makes_one_route_for_every_exporter() {
        for &route in Route::LADDER {
            let Some(provider) = route.provider(DeviceId(3)) else {
                continue;
            };
            assert_eq!(Route::of(provider), Some(route));
        }
    }
}
