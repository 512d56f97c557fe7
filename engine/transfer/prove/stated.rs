//! What drivers and the machine report about a route, before it is tried.

use super::super::capability::{can_export, can_import};
use super::super::pass::Side;
use super::super::refusal::{RefusalReason, Route};
use crate::device::{DeviceInner, HandleType};
use crate::memory::{DomainKind, ImportKind, Provider, has_host_only_memory};

/// Checks what is reported about a route.
///
/// # Errors
///
/// The reason why the route cannot work.
pub(super) fn check(
    route: Route,
    from: &DeviceInner,
    to: &DeviceInner,
) -> Result<(), RefusalReason> {
    let Some(provider) = route.provider(from.id()) else { return Ok(()) };
    check_provider(provider, from, to)?;
    import_pairs(provider, from, to).map(|_| ())
}

/// Checks what is reported about memory of `provider`.
pub(super) fn check_provider(
    provider: Provider,
    from: &DeviceInner,
    to: &DeviceInner,
) -> Result<(), RefusalReason> {
    if let Some(missing) = provider.missing_on_host() {
        return Err(RefusalReason::Missing(missing));
    }
    let Provider::Device { handle, domain, .. } = provider else {
        return Ok(());
    };
    if domain == DomainKind::System && !has_host_only_memory(from) {
        return Err(RefusalReason::NoHostMemory);
    }
    if !can_export(from, handle) {
        return Err(RefusalReason::NotExportable(handle));
    }
    match handle {
        HandleType::OpaqueFd => same_device(from, to),
        _ => Ok(()),
    }
}

/// Checks that both are one device under one driver, as far as is reported.
fn same_device(from: &DeviceInner, to: &DeviceInner) -> Result<(), RefusalReason> {
    let (from, to) = (from.adapter(), to.adapter());
    if let Some((theirs, ours)) = from.differing_uuid(to) {
        return Err(RefusalReason::OtherDriver { theirs, ours });
    }
    if let Some((theirs, ours)) = from.differing_pci(to) {
        return Err(RefusalReason::OtherPciAddress { theirs, ours });
    }
    if let Some((theirs, ours)) = from.differing_drm(to) {
        return Err(RefusalReason::OtherDrmNode { theirs, ours });
    }
    Ok(())
}

/// The pairs of ways in which the two devices can import the memory, best first.
pub(super) fn import_pairs(
    provider: Provider,
    from: &DeviceInner,
    to: &DeviceInner,
) -> Result<Vec<(ImportKind, ImportKind)>, RefusalReason> {
    let able = |device: &DeviceInner, side| -> Result<Vec<ImportKind>, RefusalReason> {
        let kinds: Vec<_> = provider
            .imports_of(device)
            .iter()
            .copied()
            .filter(|kind| can_import(device, *kind))
            .collect();
        if kinds.is_empty() {
            let handle = provider.imports_of(device)[0].handle();
            return Err(RefusalReason::NotImportable { side, handle });
        }
        Ok(kinds)
    };
    let theirs = able(to, Side::Second)?;
    // The exporter already has a view of its own memory, whatever it could import.
    let exports = matches!(provider, Provider::Device { .. });
    let ours = if exports { vec![provider.imports_of(from)[0]] } else { able(from, Side::First)? };
    Ok(ours.iter().flat_map(|&our| theirs.iter().map(move |&their| (our, their))).collect())
}
