//! Proving routes: write a pattern on one side, read it back on the other, both ways.
//!
//! A successful import proves nothing: NVIDIA/open-gpu-kernel-modules#1037 (imports that hang or lose
//! the data), #1324 (writes silently dropped under an IOMMU), and SwiftShader with another driver's
//! opaque fd. So a route counts when data has gone through it.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ash::vk;

use super::mover::{Unfinished, staged_copy};
use super::pass::{Attempt, PassReport, Passes, Watch, Work};
use super::route::{Refusal, RefusalReason, Route, Side, Verdict, Working};
use super::span::Span;
use crate::device::{Call, DeviceInner, HandleType};
use crate::error::{Error, Result};
use crate::memory::staging::Staging;
use crate::memory::{Allocation, ImportKind, Origin, Provider, View, has_host_only_memory};
use crate::sync::Fence;

/// Bytes that are sent through a route to prove it.
const PROBE: u64 = 1 << 20;

/// How often a warm read is timed.
const READS: u32 = 5;

/// One side of a route.
#[derive(Clone, Debug)]
pub(crate) struct End {
    pub(crate) device: Arc<DeviceInner>,
    pub(crate) staging: Arc<Staging>,
    pub(crate) passes: Arc<Passes>,
}

/// Why a route was not proved.
enum Unproved {
    /// It does not work, and the next time it will not either.
    Refused(RefusalReason),
    /// It could not be tried: says nothing about the route.
    Untried(Error),
}

impl From<RefusalReason> for Unproved {
    fn from(reason: RefusalReason) -> Self {
        Self::Refused(reason)
    }
}

impl From<Error> for Unproved {
    /// A driver's `OUT_OF_DEVICE_MEMORY` is its way of saying no (lavapipe without udmabuf), and a
    /// time-out is what a route that hangs looks like; but what our own ledger or the process' limits
    /// refuse, what a lost device does not do, and a queue that is short of memory for a moment, is no
    /// word on the route.
    fn from(error: Error) -> Self {
        match error {
            Error::FdLimit { .. }
            | Error::DeviceLost { .. }
            | Error::Staging { .. }
            | Error::OutOfMemory { code: None, .. } => Self::Untried(error),
            Error::Vulkan { call, code, .. } if is_shortage(call, code) => Self::Untried(error),
            other => Self::Refused(RefusalReason::Failed(other.to_string())),
        }
    }
}

/// Whether a queue was short of memory: that passes.
fn is_shortage(call: &str, code: vk::Result) -> bool {
    let short = [vk::Result::ERROR_OUT_OF_HOST_MEMORY, vk::Result::ERROR_OUT_OF_DEVICE_MEMORY];
    [Call::QueueSubmit, Call::WaitSemaphores].iter().any(|of| of.name() == call)
        && short.contains(&code)
}

/// Tries every route from `from` to `to`. `origin` says how a provider makes memory; `timeout` bounds
/// each wait.
///
/// # Errors
///
/// What kept a route from being tried at all: no descriptors, no memory, a lost device.
pub(crate) fn prove_all(
    from: &End,
    to: &End,
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
        "route"
    );
    Ok(verdict)
}

/// A device reaches its own exports without any route, and needs no staging.
fn ladder(same: bool) -> impl Iterator<Item = Route> {
    let local = same.then_some(Route::Local);
    local.into_iter().chain(Route::LADDER.into_iter().filter(move |route| {
        !same || matches!(route, Route::DmaHeap | Route::Udmabuf | Route::Memfd)
    }))
}

fn prove(
    route: Route,
    from: &End,
    to: &End,
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

/// Tries the ways in which both devices can take the memory in, until one carries data.
fn prove_shared(
    route: Route,
    provider: Provider,
    from: &End,
    to: &End,
    origin: &impl Fn(Provider) -> Origin,
    timeout: Duration,
) -> Result<Working, Unproved> {
    check_stated(provider, &from.device, &to.device)?;
    let mut last = None;
    for (ours, theirs) in ways(provider, &from.device, &to.device)? {
        match try_way(&origin(provider), from, to, ours, theirs, timeout) {
            Ok(read) => {
                return Ok(Working { route, read, take: Some(theirs) });
            }
            Err(Unproved::Refused(reason)) => last = Some(reason.into()),
            Err(untried) => return Err(untried),
        }
    }
    Err(last.unwrap_or(RefusalReason::Missing("no way to take it in").into()))
}

/// What can be known without trying.
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

/// The pairs of ways in which the two devices may take the memory in, best first.
fn ways(
    provider: Provider,
    from: &DeviceInner,
    to: &DeviceInner,
) -> Result<Vec<(ImportKind, ImportKind)>, RefusalReason> {
    let able = |device: &DeviceInner, side| -> Result<Vec<ImportKind>, RefusalReason> {
        let takes: Vec<_> = provider
            .import_kinds()
            .iter()
            .copied()
            .filter(|take| can_take(device, *take))
            .collect();
        if takes.is_empty() {
            let handle = provider.import_kinds()[0].handle();
            return Err(RefusalReason::NotImportable { side, handle });
        }
        Ok(takes)
    };
    let theirs = able(to, Side::Second)?;
    // The exporter has its view already, whatever it could import.
    let exports = matches!(provider, Provider::Device { .. });
    let ours = if exports { vec![provider.import_kinds()[0]] } else { able(from, Side::First)? };
    Ok(ours.iter().flat_map(|&our| theirs.iter().map(move |&their| (our, their))).collect())
}

/// Whether the driver says that it exports the handle type.
pub(crate) fn can_export(device: &DeviceInner, handle: HandleType) -> bool {
    device.adapter().external_buffer(handle).exportable && has_extension(device, handle)
}

/// Whether the driver says that it can take memory in this way.
pub(crate) fn can_take(device: &DeviceInner, take: ImportKind) -> bool {
    let handle = take.handle();
    device.adapter().external_buffer(handle).importable && has_extension(device, handle)
}

/// An adopted device may lack extensions that its adapter has.
pub(super) fn has_extension(device: &DeviceInner, handle: HandleType) -> bool {
    match handle {
        HandleType::DmaBuf => device.memory_fd().is_some() && device.has_dma_buf(),
        HandleType::OpaqueFd => device.memory_fd().is_some(),
        HandleType::HostPointer => device.memory_host().is_some(),
    }
}

fn try_way(
    origin: &Origin,
    from: &End,
    to: &End,
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

/// Memory that a probe is using. It is freed when the passes on it are over; if one of them does not
/// end, never.
struct Probe {
    allocation: Option<Arc<Allocation>>,
    timeout: Duration,
    submitted: RefCell<Vec<Fence>>,
}

impl Probe {
    fn new(allocation: Arc<Allocation>, timeout: Duration) -> Self {
        Self { allocation: Some(allocation), timeout, submitted: RefCell::default() }
    }

    /// Runs a pass on the memory.
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
        // A wait may fail for reasons of its own, so it is tried more than once; only a fence that has
        // signalled, or a lost device, says that nothing is running.
        const TRIES: u32 = 3;
        let over = |fence: &Fence| {
            (0..TRIES).any(|_| match fence.wait(self.timeout) {
                Ok(()) => true,
                Err(error) => error.is_device_lost(),
            })
        };
        if !self.submitted.borrow().iter().all(over) {
            tracing::warn!("a probe did not end; its memory is leaked");
            std::mem::forget(self.allocation.take());
        }
    }
}

/// Writes on one side and reads on the other, then the other way round; measures warm reads.
fn there_and_back(
    probe: &Probe,
    from: &End,
    near: Span<'_>,
    to: &End,
    far: Span<'_>,
) -> Result<Duration, Unproved> {
    const SEEDS: [u32; 2] = [0x7065_6572, 0x6275_6621];
    probe.run(|watch| from.passes.fill(near, SEEDS[0], watch))?;
    check(probe.run(|watch| to.passes.verify(far, SEEDS[0], watch))?)?;
    let mut read = Duration::MAX;
    // The best of some: one wake-up of a thread that comes late costs more than the probe itself, and
    // the choice among routes depends on a factor of two.
    for _ in 0..READS {
        let start = Instant::now();
        check(probe.run(|watch| to.passes.verify(far, SEEDS[0], watch))?)?;
        read = read.min(start.elapsed());
    }
    probe.run(|watch| to.passes.fill(far, SEEDS[1], watch))?;
    check(probe.run(|watch| from.passes.verify(near, SEEDS[1], watch))?)?;
    Ok(read)
}

fn prove_local(
    end: &End,
    origin: &impl Fn(Provider) -> Origin,
    timeout: Duration,
) -> Result<Working, Unproved> {
    let (allocation, view) = private(end, origin)?;
    let probe = Probe::new(allocation, timeout);
    let read = there_and_back(&probe, end, span(&view), end, span(&view))?;
    Ok(Working { route: Route::Local, read, take: None })
}

fn prove_staged(
    from: &End,
    to: &End,
    origin: &impl Fn(Provider) -> Origin,
    timeout: Duration,
) -> Result<Working, Unproved> {
    const SEED: u32 = 0x7374_6167;
    let ((source, near), (target, far)) = (private(from, origin)?, private(to, origin)?);
    let (source, target) = (Probe::new(source, timeout), Probe::new(target, timeout));
    let (near, far) = (span(&near), span(&far));
    source.run(|watch| from.passes.fill(near, SEED, watch))?;
    let start = Instant::now();
    let copied = staged_copy((near, &from.staging), (far, &to.staging), timeout);
    copied.map_err(|Unfinished { error, reading, writing }| {
        source.submitted.borrow_mut().extend(reading);
        target.submitted.borrow_mut().extend(writing);
        error
    })?;
    check(target.run(|watch| to.passes.verify(far, SEED, watch))?)?;
    let read = start.elapsed();
    Ok(Working { route: Route::Staged, read, take: None })
}

/// Memory that only this device needs to see: whatever it can export, or else take in.
fn private(
    end: &End,
    origin: &impl Fn(Provider) -> Origin,
) -> Result<(Arc<Allocation>, Arc<View>), Unproved> {
    let device = &end.device;
    let providers = [Route::DmaBuf, Route::OpaqueFd, Route::DmaHeap, Route::Udmabuf, Route::Memfd];
    let mut last = RefusalReason::Missing("no memory that the device can use");
    for provider in providers.into_iter().filter_map(|route| route.provider(device.id())) {
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
    let ways = ways(provider, device, device)?;
    let allocation = Allocation::create(&origin(provider), PROBE)?;
    let view = allocation.view(device, ways[0].1)?;
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
