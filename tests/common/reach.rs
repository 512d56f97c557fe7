//! The rules by which tests expect a buffer to be placed, stated over the routes that were proved.

use ash::vk::MemoryPropertyFlags as Flags;
use peerbuf::device::AdapterKind;
use peerbuf::transfer::Verdict;
use peerbuf::{Device, DomainKind, Engine, HandleType, Provider, Route};

use super::say;

/// An attached device, and whether it accepts another device's memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AttachCaps<'a> {
    pub(crate) device: &'a Device,
    pub(crate) peer_to_peer: bool,
}

/// Whether a buffer with home `home` can have memory of this kind that every device in `attached` reaches.
pub(crate) fn can_live(
    engine: &Engine,
    home: &Device,
    kind: DomainKind,
    attached: &[AttachCaps<'_>],
) -> bool {
    let home_device = AttachCaps { device: home, peer_to_peer: true };
    let all = || attached.iter().chain([&home_device]);
    let routes = Route::LADDER.iter().copied().filter(|route| kind_of(*route) == Some(kind));
    routes.into_iter().any(|route| all().all(|caps| reaches(engine, home, route, *caps)))
}

/// Whether `caps` reaches memory of `route` that belongs to a buffer with home `home`.
pub(crate) fn reaches(engine: &Engine, home: &Device, route: Route, caps: AttachCaps<'_>) -> bool {
    let is_home = caps.device == home;
    if is_home && kind_of(route) == Some(DomainKind::Vram) {
        return true;
    }
    if is_home && matches!(route, Route::HostVisibleDmaBuf | Route::HostVisibleOpaqueFd) {
        return has_system_memory(home);
    }
    if kind_of(route) == Some(DomainKind::Vram) && !caps.peer_to_peer {
        return false;
    }
    let verdict = engine.route(home, caps.device).expect("routes can be proved");
    verdict.working.iter().any(|working| working.route == route)
}

/// The route that memory of `provider` takes; `None` for external memory.
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
        Provider::Anonymous => Route::Anonymous,
        _ => return None,
    })
}

/// The route over pages of the host that works: a driver that refuses memory with a file behind it has anonymous
/// memory in place of memfds.
pub(crate) fn host_route(verdict: &Verdict) -> Option<Route> {
    let routes = [Route::DmaHeap, Route::Udmabuf, Route::Memfd, Route::Anonymous];
    routes.into_iter().find(|route| verdict.working.iter().any(|works| works.route == *route))
}

/// Whether a device has system memory of its own, which it reaches without a route: host-visible memory beside its
/// video memory.
pub(crate) fn has_system_memory(device: &Device) -> bool {
    let is_host =
        |flags: Flags| flags.contains(Flags::HOST_VISIBLE) && !flags.contains(Flags::DEVICE_LOCAL);
    device.adapter().memory_types().iter().any(|memory| is_host(memory.flags))
}

/// Whether a device's own memory is system memory, and counted there, too.
pub(crate) fn is_integrated(device: &Device) -> bool {
    device.adapter().kind() == AdapterKind::Integrated
}

/// Whether the host maps a discrete device's own memory: there is none that it cannot map, which is used first.
pub(crate) fn host_sees_vram(device: &Device) -> bool {
    let types = device.adapter().memory_types().iter();
    let mut local = types.filter(|memory| memory.flags.contains(Flags::DEVICE_LOCAL));
    local.all(|memory| memory.flags.contains(Flags::HOST_VISIBLE))
}

/// Whether a device imports addresses at which a file is mapped. RADV and AMDVLK refuse them.
pub(crate) fn imports_files(engine: &Engine, device: &Device) -> bool {
    let verdict = engine.route(device, device).expect("routes can be proved");
    let imports = verdict.working.iter().any(|works| works.route == Route::Memfd);
    if !imports {
        say(&format!("{} imports no memfds", device.name()));
    }
    imports
}

fn kind_of(route: Route) -> Option<DomainKind> {
    match route {
        Route::DmaBuf | Route::OpaqueFd => Some(DomainKind::Vram),
        Route::Local | Route::Staged => None,
        _ => Some(DomainKind::System),
    }
}
