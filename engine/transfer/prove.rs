//! Proves routes: writes a pattern on one side and reads it back on the other, in both directions.
//!
//! A successful import proves nothing: NVIDIA/open-gpu-kernel-modules#1037 (imports that hang or lose
//! the data), #1324 (writes silently dropped under an IOMMU), and SwiftShader with another driver's
//! opaque fd. So a route is used only once data has gone through it.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ash::vk;

use super::capability::{can_export, can_import};
use super::compute::{Attempt, ComputeKernels, PassReport, Watch, Work};
use super::path::{Unfinished, staged_copy};
use super::refusal::{Refusal, RefusalReason, Route, Side};
use super::route::{Verdict, Working};
use super::span::Span;
use crate::device::{Call, DeviceInner, HandleType};
use crate::error::{Error, Result};
use crate::memory::staging::Staging;
use crate::memory::{Allocation, ImportKind, Origin, Provider, View, has_host_only_memory};
use crate::sync::Fence;

/// Bytes sent through a route to prove it.
const PROBE: u64 = 1 << 20;

/// How often a warm read is timed.
const READS: u32 = 5;

/// One side of a route: a device, and what a proof uses on it.
#[derive(Clone, Debug)]
pub(crate) struct RouteEnd {
    pub(crate) device: Arc<DeviceInner>,
    pub(crate) staging: Arc<Staging>,
    pub(crate) kernels: Arc<ComputeKernels>,
}

/// Why a route was not proved.
enum Unproved {
    /// The route does not work; a later attempt would fail in the same way.
    Refused(RefusalReason),
    /// The route could not be tried. This says nothing about the route.
    Untried(Error),
}

impl From<RefusalReason> for Unproved {
    fn from(reason: RefusalReason) -> Self {
        Self::Refused(reason)
    }
}

impl From<Error> for Unproved {
    /// Decides whether an error says something about the route.
    ///
    /// A driver's `OUT_OF_DEVICE_MEMORY` is a refusal (lavapipe without udmabuf), and a time-out is how a route
    /// that hangs appears. Errors of our own ledger, of the process' limits, of a lost device, and of a queue
    /// that is short of memory for a moment say nothing about the route.
    fn from(error: Error) -> Self {
        match error {
            Error::FdLimit { .. }
            | Error::DeviceLost { .. }
            | Error::Staging { .. }
            | Error::OutOfMemory { code: None, .. } => Self::Untried(error),
            Error::Vulkan { call, code, .. } if is_shortage(call, code) => Self::Untried(error),
            other => Self::Refused(RefusalReason::Failed(other.with_causes())),
        }
    }
}

/// Whether a queue was short of memory, which is temporary.
fn is_shortage(call: &str, code: vk::Result) -> bool {
    let short = [vk::Result::ERROR_OUT_OF_HOST_MEMORY, vk::Result::ERROR_OUT_OF_DEVICE_MEMORY];
    [Call::QueueSubmit, Call::WaitSemaphores].iter().any(|of| of.name() == call)
        && short.contains(&code)
}

/// Tries every route from `from` to `to`. `origin` returns how a provider allocates memory; `timeout` bounds
/// each wait.
///
/// # Errors
///
/// The reason why a route could not be tried at all: no descriptors, no memory, a lost device.
pub(crate) fn prove_all(
    from: &RouteEnd,
    to: &RouteEnd,
    origin: impl Fn(Provider) -> Origin,
    timeout: Duration,
) -> Result<Verdict> {
    let same = Arc::ptr_eq(&from.device, &to.device);
    let (mut working, mut refused) = (Vec::new(), Vec::new());
    for route in ladder(same) {
        match prove(route, from, to, &origin, timeout) {
            Ok(proof) => working.push(proof),
            Err(Unproved::Refused(reason)) => refused.push(Refusal { route, reason }),
            Err(Unproved::Untried(error)) => return Err(error),
        }
    }
    let verdict = Verdict::new(working, refused, PROBE);
    tracing::info!(
        from = from.device.name(),
        to = to.device.name(),
        route = verdict.route.name(),
        "route chosen"
    );
    Ok(verdict)
}

/// The routes to try, best first. A device accesses its own exports without a route, and needs no staging.
fn ladder(same: bool) -> impl Iterator<Item = Route> {
    let local = same.then_some(Route::Local);
    local.into_iter().chain(Route::LADDER.iter().copied().filter(move |route| {
        let of_host = [Route::DmaHeap, Route::Udmabuf, Route::Memfd, Route::Anonymous];
        !same || of_host.contains(route)
    }))
}

fn prove(
    route: Route,
    from: &RouteEnd,
    to: &RouteEnd,
    origin: &impl Fn(Provider) -> Origin,
    timeout: Duration,
) -> Result<Working, Unproved> {
    match route {
        Route::Local => prove_local(from, origin, timeout),
        Route::Staged => prove_staged(from, to, origin, timeout),
        shared => {
            let Some(provider) = shared.provider(from.device.id()) else {
                unreachable!("every shared route has a provider")
            };
            prove_shared(shared, provider, from, to, origin, timeout)
        }
    }
}

/// Tries every pair of ways in which the two devices can import the memory, until one carries data.
fn prove_shared(
    route: Route,
    provider: Provider,
    from: &RouteEnd,
    to: &RouteEnd,
    origin: &impl Fn(Provider) -> Origin,
    timeout: Duration,
) -> Result<Working, Unproved> {
    check_stated(provider, &from.device, &to.device)?;
    let mut last = None;
    for (ours, theirs) in import_pairs(provider, &from.device, &to.device)? {
        match try_import(&origin(provider), from, to, ours, theirs, timeout) {
            Ok(read) => {
                return Ok(Working { route, read, import: Some(theirs) });
            }
            Err(Unproved::Refused(reason)) => last = Some(reason.into()),
            Err(untried) => return Err(untried),
        }
    }
    Err(last.unwrap_or(RefusalReason::Missing("no way to import it").into()))
}

/// Checks what the drivers report, without trying.
fn check_stated(
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
    if domain == crate::memory::DomainKind::System && !has_host_only_memory(from) {
        return Err(RefusalReason::NoHostMemory);
    }
    if !can_export(from, handle) {
        return Err(RefusalReason::NotExportable(handle));
    }
    if handle == HandleType::OpaqueFd
        && let Some((theirs, ours)) = from.adapter().differing_uuid(to.adapter())
    {
        return Err(RefusalReason::OtherDriver { theirs, ours });
    }
    Ok(())
}

/// The pairs of ways in which the two devices can import the memory, best first.
fn import_pairs(
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

fn try_import(
    origin: &Origin,
    from: &RouteEnd,
    to: &RouteEnd,
    ours: ImportKind,
    theirs: ImportKind,
    timeout: Duration,
) -> Result<Duration, Unproved> {
    let allocation = Allocation::create(origin, PROBE)?;
    let views = allocation
        .view(&from.device, ours)
        .and_then(|ours| allocation.view(&to.device, theirs).map(|theirs| (ours, theirs)))?;
    let probe = Probe::new(allocation, timeout);
    there_and_back(&probe, from, span(&views.0), to, span(&views.1))
}

/// Memory that a probe uses. It is freed once the passes on it are over. If one of them does not end, it is
/// leaked.
struct Probe {
    allocation: Option<Arc<Allocation>>,
    timeout: Duration,
    submitted: RefCell<Vec<Fence>>,
}

impl Probe {
    fn new(allocation: Arc<Allocation>, timeout: Duration) -> Self {
        Self { allocation: Some(allocation), timeout, submitted: RefCell::default() }
    }

    /// Runs a pass on the memory, and keeps its fence.
    fn run<R>(&self, pass: impl FnOnce(&Watch<'_>) -> Result<R>) -> Result<R, Unproved> {
        let submit = |work: Work<'_>| {
            let fence = work()?;
            self.submitted.borrow_mut().push(fence.clone());
            Ok(Attempt::Submitted(fence))
        };
        Ok(pass(&Watch { timeout: self.timeout, submit: &submit })?)
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        // A wait may fail for reasons of its own, so it is tried more than once. Only a signalled fence or a
        // lost device means that nothing is running.
        const TRIES: u32 = 3;
        let over = |fence: &Fence| {
            (0..TRIES).any(|_| match fence.wait(self.timeout) {
                Ok(()) => true,
                Err(error) => error.is_device_lost(),
            })
        };
        if !self.submitted.borrow().iter().all(over) {
            tracing::warn!("route probe still running after its timeout; its memory is leaked");
            std::mem::forget(self.allocation.take());
        }
    }
}

/// Writes on one side and reads on the other, then in the other direction. Returns the time of a warm read.
fn there_and_back(
    probe: &Probe,
    from: &RouteEnd,
    near: Span<'_>,
    to: &RouteEnd,
    far: Span<'_>,
) -> Result<Duration, Unproved> {
    const SEEDS: [u32; 2] = [0x7065_6572, 0x6275_6621];
    probe.run(|watch| from.kernels.fill(near, SEEDS[0], watch))?;
    check(probe.run(|watch| to.kernels.verify(far, SEEDS[0], watch))?)?;
    let mut read = Duration::MAX;
    // The best of several reads: one late wake-up of a thread costs more than the probe itself, and the choice
    // among routes depends on a factor of two.
    for _ in 0..READS {
        let start = Instant::now();
        check(probe.run(|watch| to.kernels.verify(far, SEEDS[0], watch))?)?;
        read = read.min(start.elapsed());
    }
    probe.run(|watch| to.kernels.fill(far, SEEDS[1], watch))?;
    check(probe.run(|watch| from.kernels.verify(near, SEEDS[1], watch))?)?;
    Ok(read)
}

fn prove_local(
    end: &RouteEnd,
    origin: &impl Fn(Provider) -> Origin,
    timeout: Duration,
) -> Result<Working, Unproved> {
    let (allocation, view) = private(end, origin)?;
    let probe = Probe::new(allocation, timeout);
    let read = there_and_back(&probe, end, span(&view), end, span(&view))?;
    Ok(Working { route: Route::Local, read, import: None })
}

fn prove_staged(
    from: &RouteEnd,
    to: &RouteEnd,
    origin: &impl Fn(Provider) -> Origin,
    timeout: Duration,
) -> Result<Working, Unproved> {
    const SEED: u32 = 0x7374_6167;
    let ((source, near), (target, far)) = (private(from, origin)?, private(to, origin)?);
    let (source, target) = (Probe::new(source, timeout), Probe::new(target, timeout));
    let (near, far) = (span(&near), span(&far));
    source.run(|watch| from.kernels.fill(near, SEED, watch))?;
    let start = Instant::now();
    let copied = staged_copy((near, &from.staging), (far, &to.staging), timeout);
    copied.map_err(|Unfinished { error, reading, writing }| {
        source.submitted.borrow_mut().extend(reading);
        target.submitted.borrow_mut().extend(writing);
        error
    })?;
    check(target.run(|watch| to.kernels.verify(far, SEED, watch))?)?;
    let read = start.elapsed();
    Ok(Working { route: Route::Staged, read, import: None })
}

/// Memory that only this device needs to access: memory that it can export, or else import.
fn private(
    end: &RouteEnd,
    origin: &impl Fn(Provider) -> Origin,
) -> Result<(Arc<Allocation>, Arc<View>), Unproved> {
    let device = &end.device;
    let of_device = [Route::DmaBuf, Route::OpaqueFd];
    let of_host = [Route::DmaHeap, Route::Udmabuf, Route::Memfd, Route::Anonymous];
    let providers = of_device.into_iter().chain(of_host);
    let mut last = RefusalReason::Missing("no memory that the device can use");
    for provider in providers.filter_map(|route| route.provider(device.id())) {
        match try_private(provider, device, origin) {
            Ok(made) => return Ok(made),
            Err(Unproved::Refused(reason)) => last = reason,
            Err(untried) => return Err(untried),
        }
    }
    Err(last.into())
}

fn try_private(
    provider: Provider,
    device: &Arc<DeviceInner>,
    origin: &impl Fn(Provider) -> Origin,
) -> Result<(Arc<Allocation>, Arc<View>), Unproved> {
    check_stated(provider, device, device)?;
    let imports = import_pairs(provider, device, device)?;
    let allocation = Allocation::create(&origin(provider), PROBE)?;
    let view = allocation.view(device, imports[0].1)?;
    Ok((allocation, view))
}

fn span(view: &View) -> Span<'_> {
    Span { view, offset: 0, len: PROBE }
}

fn check(report: PassReport) -> Result<(), RefusalReason> {
    match report.first_wrong {
        None => Ok(()),
        Some(first_wrong) => {
            Err(RefusalReason::WrongBytes { words: report.words, wrong: report.wrong, first_wrong })
        }
    }
}
