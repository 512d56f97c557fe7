//! Where a buffer may live, said in plain rules over the routes that were proved: what tests hold the
//! engine to.

use ash::vk::MemoryPropertyFlags as Flags;
use peerbuf::{Device, DomainKind, Engine, HandleType, Provider, Route};

/// A device at a buffer, and whether it may be given another device's own memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Guest<'a> {
    pub(crate) device: &'a Device,
    pub(crate) peer_to_peer: bool,
}

/// Whether memory of this kind, of a buffer at home on `home`, can be such that everybody reaches it.
pub(crate) fn can_live(
    engine: &Engine,
    home: &Device,
    kind: DomainKind,
    guests: &[Guest<'_>],
) -> bool {
    let at_home = Guest { device: home, peer_to_peer: true };
    let everybody = || guests.iter().chain([&at_home]);
    let routes = Route::LADDER.into_iter().filter(|route| kind_of(*route) == Some(kind));
    routes.into_iter().any(|route| everybody().all(|guest| reaches(engine, home, route, *guest)))
}

/// Whether `guest` reaches memory that `route` stands for, of a buffer at home on `home`.
pub(crate) fn reaches(engine: &Engine, home: &Device, route: Route, guest: Guest<'_>) -> bool {
    let is_home = guest.device == home;
    if is_home && kind_of(route) == Some(DomainKind::Vram) {
        return true;
    }
    if is_home && matches!(route, Route::HostVisibleDmaBuf | Route::HostVisibleOpaqueFd) {
        let host_only = |flags: Flags| flags.contains(Flags::HOST_VISIBLE);
        return home
            .adapter()
            .memory_types()
            .iter()
            .any(|memory| host_only(memory.flags) && !memory.flags.contains(Flags::DEVICE_LOCAL));
    }
    if kind_of(route) == Some(DomainKind::Vram) && !guest.peer_to_peer {
        return false;
    }
    let verdict = engine.route(home, guest.device).expect("routes can be proved");
    verdict.working.iter().any(|working| working.route == route)
}

/// The route that memory of `provider` makes; `None` for a stranger's.
pub(crate) fn route_of(provider: Provider) -> Option<Route> {
    Some(match provider {
        Provider::Device { handle: HandleType::DmaBuf, domain: DomainKind::Vram, .. } => {
            Route::DmaBuf
        }
        Provider::Device { domain: DomainKind::Vram, .. } => Route::OpaqueFd,
        Provider::Device { handle: HandleType::DmaBuf, .. } => Route::HostVisibleDmaBuf,
        Provider::Device { .. } => Route::HostVisibleOpaqueFd,
        Provider::DmaHeap => Route::DmaHeap,
        Provider::Udmabuf => Route::Udmabuf,
        Provider::Memfd => Route::Memfd,
        _ => return None,
    })
}

fn kind_of(route: Route) -> Option<DomainKind> {
    match route {
        Route::DmaBuf | Route::OpaqueFd => Some(DomainKind::Vram),
        Route::Local | Route::Staged => None,
        _ => Some(DomainKind::System),
    }
}
