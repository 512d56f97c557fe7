//! What a failure says: something about the route, or about the moment.

use std::time::Duration;

use ash::vk;
use rustix::io::Errno;

use super::control::Session;
use super::outcome::Outcome;
use crate::device::quirks::Effect;
use crate::device::{Call, HandleType};
use crate::error::Error;
use crate::memory::{DomainKind, Provider, View};
use crate::transfer::pass::Side;
use crate::transfer::refusal::RefusalReason;
use crate::transfer::untried::Untried;

/// Why an attempt did not prove a route.
pub(super) enum Unproved {
    /// The bytes were wrong.
    Refused(RefusalReason),
    /// A call failed, on or for a device. What that says is for [`Session::judge`].
    Failed(Failure),
}

/// A call that failed.
pub(super) struct Failure {
    pub(super) side: Side,
    pub(super) stage: Stage,
    pub(super) error: Error,
}

/// What was done when a call failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// The memory was allocated.
    Allocate,
    /// A device imported it.
    Import,
    /// It was used.
    Use,
}

impl From<RefusalReason> for Unproved {
    fn from(reason: RefusalReason) -> Self {
        Self::Refused(reason)
    }
}

/// Names the side of an error of a pass.
pub(super) fn on(side: Side) -> impl Fn(Error) -> Unproved {
    at(side, Stage::Use)
}

/// Names the side and the stage of an error.
pub(super) fn at(side: Side, stage: Stage) -> impl Fn(Error) -> Unproved {
    move |error| Unproved::Failed(Failure { side, stage, error })
}

/// What was tried when the failure occurred.
#[derive(Clone, Copy)]
pub(super) struct Tried {
    pub(super) provider: Provider,
    pub(super) bytes: u64,
    /// How long each pass could take at first.
    pub(super) share: Duration,
}

/// What a failure says.
pub(super) enum Judgement {
    /// The route does not work.
    Refused(RefusalReason),
    /// The same, if it happens again: a driver may be short of memory for a moment.
    RefusedIfRepeated(RefusalReason),
    /// Nothing about the route.
    Other(Outcome),
}

impl Session<'_> {
    /// Decides what a failure says about a route that shares memory. The memory is closed.
    pub(super) fn judge(&mut self, failure: Failure, tried: Tried) -> Judgement {
        let Failure { side, stage, error } = failure;
        let untried = |why| Judgement::Other(Outcome::Untried(why));
        match error {
            Error::FdLimit { .. } => Judgement::Other(Outcome::Stop(error)),
            Error::DeviceLost { call, .. } => {
                let side = self.close_lost().unwrap_or(side);
                self.against(side, |control| RefusalReason::DeviceLost { side, call, control })
            }
            Error::Timeout { after, .. } if after < tried.share / 2 => {
                untried(Untried::OutOfTime { limit: self.limit() })
            }
            // The device is put away; the control is made on another one.
            Error::Timeout { after, .. } => {
                self.against(side, |control| RefusalReason::Hung { side, after, control })
            }
            Error::OutOfMemory { code: Some(code), .. } => self.no_exportable_memory(code, tried),
            Error::Vulkan { code, .. } if stage == Stage::Import && is_shortage(code) => {
                let bytes = tried.bytes;
                self.while_memory_is_there(
                    side,
                    tried,
                    |code| RefusalReason::ImportFailed { side, bytes, code },
                    code,
                )
            }
            Error::Vulkan { call, code, .. } if is_of_work(call) => {
                match self.against(side, |control| RefusalReason::SubmissionFailed {
                    side,
                    code,
                    control,
                }) {
                    Judgement::Refused(reason) => Judgement::RefusedIfRepeated(reason),
                    other => other,
                }
            }
            Error::Vulkan { code, .. } if is_shortage(code) => untried(shortage(&error)),
            Error::Os {
                source: Errno::NOMEM | Errno::AGAIN | Errno::INTR | Errno::BUSY, ..
            }
            | Error::OutOfMemory { .. }
            | Error::Staging { .. } => untried(shortage(&error)),
            other => Judgement::Refused(RefusalReason::Failed(other.with_causes())),
        }
    }

    /// A refusal, if an empty submission without the import works on that side.
    fn against(&mut self, side: Side, reason: impl FnOnce(Duration) -> RefusalReason) -> Judgement {
        match self.control(side) {
            Ok(control) => Judgement::Refused(reason(control)),
            Err(why) => Judgement::Other(Outcome::NotReady(why)),
        }
    }

    /// The driver was out of memory for memory that can be exported.
    fn no_exportable_memory(&mut self, code: vk::Result, tried: Tried) -> Judgement {
        let bytes = tried.bytes;
        let reason = |code| RefusalReason::NoExportableMemory { bytes, code };
        let handle = handle(tried.provider);
        let quirk = Effect::NoMemoryMeansNoExport;
        match self.open(Side::First) {
            Ok(end) if handle == HandleType::DmaBuf && end.device.adapter().has_quirk(quirk) => {
                Judgement::Refused(reason(code))
            }
            _ => self.while_memory_is_there(Side::First, tried, reason, code),
        }
    }

    /// A refusal, if the device allocates as much memory that is not shared.
    fn while_memory_is_there(
        &mut self,
        side: Side,
        tried: Tried,
        reason: impl FnOnce(vk::Result) -> RefusalReason,
        code: vk::Result,
    ) -> Judgement {
        let end = match self.open(side) {
            Ok(end) => end,
            Err(why) => return Judgement::Other(Outcome::NotReady(why)),
        };
        let (handle, kind) = (handle(tried.provider), kind(tried.provider));
        match View::try_private(&end.device, tried.bytes, handle, kind) {
            Ok(()) => Judgement::RefusedIfRepeated(reason(code)),
            Err(code) => Judgement::Other(Outcome::Untried(Untried::NoMemory {
                side,
                bytes: tried.bytes,
                code,
            })),
        }
    }
}

/// What an error of a route without shared memory says: nothing but that a device is not ready.
pub(super) fn of_staged(failure: Failure) -> Outcome {
    let Failure { side, error, .. } = failure;
    match error {
        Error::FdLimit { .. } => Outcome::Stop(error),
        Error::Timeout { after, .. } => Outcome::Untried(Untried::Busy { side, waited: after }),
        Error::DeviceLost { .. } | Error::Vulkan { .. } => {
            Outcome::Untried(Untried::ControlFailed { side, cause: error.to_string() })
        }
        other => Outcome::Untried(shortage(&other)),
    }
}

fn shortage(error: &Error) -> Untried {
    let cause = std::error::Error::source(error);
    let cause = cause.map_or_else(String::new, |cause| format!(": {cause}"));
    Untried::Shortage { cause: format!("{error}{cause}") }
}

fn is_shortage(code: vk::Result) -> bool {
    use vk::Result as Code;
    matches!(
        code,
        Code::ERROR_OUT_OF_HOST_MEMORY
            | Code::ERROR_OUT_OF_DEVICE_MEMORY
            | Code::ERROR_TOO_MANY_OBJECTS
    )
}

/// Whether the call is one that runs work.
fn is_of_work(call: &str) -> bool {
    [Call::QueueSubmit, Call::WaitSemaphores].iter().any(|of| of.name() == call)
        || call == "vkGetSemaphoreCounterValue"
}

fn handle(provider: Provider) -> HandleType {
    match provider {
        Provider::Device { handle, .. } => handle,
        other => other.import_kinds(false)[0].handle(),
    }
}

fn kind(provider: Provider) -> DomainKind {
    match provider {
        Provider::Device { domain, .. } => domain,
        _ => DomainKind::System,
    }
}
