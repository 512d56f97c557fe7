//! The providers whose memory routes share.

use super::refusal::Route;
use crate::device::{DeviceId, HandleType};
use crate::memory::{DomainKind, Provider};

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

    /// The kind of memory that it shares; `None` if it shares none.
    pub(crate) fn kind(self) -> Option<DomainKind> {
        match self {
            Self::Local => Some(DomainKind::Vram),
            route => route.provider(DeviceId(0)).map(|provider| provider.domain().kind()),
        }
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

#[cfg(test)]
mod tests {
    use super::*;

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
