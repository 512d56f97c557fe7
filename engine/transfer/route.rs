//! Routes between two devices, what is known of them, and why others were refused.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::prove::has_extension;
use crate::device::{DeviceId, DeviceInner, HandleType, Uuid};
use crate::error::Result;
use crate::memory::{DomainKind, ImportKind, Provider};

/// How bytes get from one device to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Route {
    /// Both are the same device.
    Local,
    /// The first exports its memory as a dma-buf, the second imports it.
    DmaBuf,
    /// The first exports its memory as an opaque fd, the second imports it.
    OpaqueFd,
    /// Both import a dma-buf from a dma-heap, or its mapping.
    DmaHeap,
    /// Both import a dma-buf from udmabuf, or its mapping.
    Udmabuf,
    /// The first exports host-visible memory as a dma-buf.
    HostVisibleDmaBuf,
    /// The first exports host-visible memory as an opaque fd.
    HostVisibleOpaqueFd,
    /// Both import the mapping of a memfd.
    Memfd,
    /// They share nothing; bytes go through private staging memory of each.
    Staged,
}

impl Route {
    /// The ladder, best first (ARCHITECTURE.md, "Where memory comes from").
    pub const LADDER: [Self; 8] = [
        Self::DmaBuf,
        Self::OpaqueFd,
        Self::DmaHeap,
        Self::Udmabuf,
        Self::HostVisibleDmaBuf,
        Self::HostVisibleOpaqueFd,
        Self::Memfd,
        Self::Staged,
    ];

    /// The short name used in reports and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::DmaBuf => "dma_buf",
            Self::OpaqueFd => "opaque_fd",
            Self::DmaHeap => "dma_heap",
            Self::Udmabuf => "udmabuf",
            Self::HostVisibleDmaBuf => "host_visible_dma_buf",
            Self::HostVisibleOpaqueFd => "host_visible_opaque_fd",
            Self::Memfd => "memfd",
            Self::Staged => "staged",
        }
    }

    /// Whether both devices see the same bytes, without a copy.
    pub const fn is_shared(self) -> bool {
        !matches!(self, Self::Staged)
    }

    /// The provider whose memory makes this route from `exporter`; `None` for those without one.
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
            Self::Local | Self::Staged => return None,
        })
    }

    /// The route by which a stranger's handle comes in.
    pub(crate) fn of_foreign(handle: HandleType) -> Self {
        match handle {
            HandleType::DmaBuf => Self::DmaBuf,
            HandleType::OpaqueFd => Self::OpaqueFd,
            HandleType::HostPointer => Self::Memfd,
        }
    }

    /// The route that a provider's memory makes.
    pub(crate) fn of(provider: Provider) -> Option<Self> {
        Self::LADDER
            .into_iter()
            .find(|route| route.provider(DeviceId(0)) == Some(provider.of_device(DeviceId(0))))
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A route that was tried or considered, and why it is not used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The route.
    pub route: Route,
    /// Why not.
    pub reason: RefusalReason,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.route, self.reason)
    }
}

/// One of the two devices of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The one that the route leads from; the exporter, where there is one.
    First,
    /// The one that it leads to.
    Second,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::First => "first",
            Self::Second => "second",
        })
    }
}

/// Why a route is not used. The devices are named by their side, since what is known of a pair holds for
/// every opening of the same two adapters.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RefusalReason {
    /// The first device's driver says that it cannot export this.
    #[error("the first device does not export {0}")]
    NotExportable(HandleType),
    /// A driver says that it cannot import this.
    #[error("the {side} device does not import {handle}")]
    NotImportable {
        /// Whose driver.
        side: Side,
        /// The handle type.
        handle: HandleType,
    },
    /// Opaque fds are only for the same driver on the same device. Drivers do not check this: one was
    /// seen to accept the other's fd and to damage what is behind it.
    #[error("only for the same driver and device; theirs is {theirs}, ours {ours}")]
    OtherDriver {
        /// UUID of the exporting driver, or of its device where the drivers are equal.
        theirs: Uuid,
        /// The same of the importing one.
        ours: Uuid,
    },
    /// The machine lacks something.
    #[error("{0}")]
    Missing(&'static str),
    /// All of the first device's memory is its own, so there is no other to export.
    #[error("the first device has no host-visible memory besides its own")]
    NoHostMemory,
    /// The buffer may not live there.
    #[error("the buffer's placement excludes {0}")]
    Placement(DomainKind),
    /// The second device's importer does not want another device's own memory, or the buffer's owner does
    /// not want it there.
    #[error("no peer-to-peer: the importer does not offer it, or the buffer's owner forbids it")]
    NoPeerToPeer,
    /// A call failed.
    #[error("{0}")]
    Failed(String),
    /// The import was accepted, and the bytes that arrived were not those that were written.
    #[error("accepted, but {wrong} of {words} words were wrong, the first at byte {first_wrong}")]
    WrongBytes {
        /// Words that were written and read back.
        words: u64,
        /// How many of them were wrong.
        wrong: u64,
        /// Offset in bytes of the first wrong one.
        first_wrong: u64,
    },
}

/// A route that was proved, and how fast it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Working {
    /// The route.
    pub route: Route,
    /// How long it took until the second device had looked at the probe's bytes, once the route was warm:
    /// a pass over what it sees, and for [`Route::Staged`] the copy before it.
    pub read: Duration,
    pub(crate) take: Option<ImportKind>,
}

/// All that is known of the ways from one device to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The route to use. [`Route::Staged`] when nothing can be shared.
    pub route: Route,
    /// Whether it was proved with data, in both directions.
    pub verified: bool,
    /// All routes that were proved, best first.
    pub working: Vec<Working>,
    /// All others, with the reason.
    pub refused: Vec<Refusal>,
    /// Size of the probe in bytes.
    pub probe_bytes: u64,
}

/// How much faster a route must be to be preferred to one that stands higher on the ladder.
const WORTH_IT: u32 = 2;

impl Verdict {
    /// Chooses among what works: the highest on the ladder, unless another one is twice as fast. A
    /// device has no better way to itself than its own.
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

    /// How the second device takes in memory of `provider`; `None` if that was not proved.
    pub(crate) fn take(&self, provider: Provider) -> Option<ImportKind> {
        let route = Route::of(provider)?;
        self.working.iter().find(|working| working.route == route)?.take
    }
}

/// Two devices, for what can be known about them: drivers and hardware, not this opening of them.
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
    /// What the device was opened for, per handle type: an adopted one may lack extensions that its
    /// adapter has.
    enabled: [bool; HandleType::ALL.len()],
}

impl PairKey {
    pub(crate) fn new(from: &DeviceInner, to: &DeviceInner) -> Self {
        let key = |device: &DeviceInner| AdapterKey {
            device: device.adapter().device_uuid(),
            driver: device.adapter().driver_uuid(),
            version: device.adapter().driver_version(),
            enabled: HandleType::ALL.map(|handle| has_extension(device, handle)),
        };
        Self { from: key(from), to: key(to), same_device: std::ptr::eq(from, to) }
    }
}

/// The verdicts that were reached, per pair and driver version. A list: there are few, every move asks,
/// and hashing a key takes longer than comparing a dozen.
#[derive(Debug, Default)]
pub(crate) struct Routes(Mutex<Vec<(PairKey, Arc<Verdict>)>>);

impl Routes {
    /// The verdict on a pair, reached by `prove` if there is none yet.
    ///
    /// `prove` runs without the lock: it waits for GPUs. Two threads may prove the same pair at the
    /// same time; the first verdict stays. A proof that could not be made leaves nothing behind.
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

    /// The verdict on a pair, if there is one.
    pub(crate) fn known(&self, key: &PairKey) -> Option<Arc<Verdict>> {
        let list = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        list.iter().find(|(of, _)| of == key).map(|(_, verdict)| Arc::clone(verdict))
    }

    /// Forgets everything, so that the next use proves again.
    pub(crate) fn forget(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn working(route: Route, micros: u64) -> Working {
        Working { route, read: Duration::from_micros(micros), take: None }
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
    fn a_provider_makes_one_route_whoever_exports() {
        for route in Route::LADDER {
            let Some(provider) = route.provider(DeviceId(3)) else {
                continue;
            };
            assert_eq!(Route::of(provider), Some(route));
        }
    }
}
