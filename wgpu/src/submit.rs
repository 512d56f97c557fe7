//! Submitting to wgpu's queue, between the halves of the transfers.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use peerbuf::Fence;

use crate::buffer::Half;
use crate::commands::{Commands, Recorded};
use crate::error::{Error, Result};
use crate::guest::Guest;
use crate::texture::BETWEEN_FRAMES;
use crate::uses::{Named, Use, record, submit_around};

/// Submits commands of wgpu's, and what its queue was told to write, behind an acquire of all that they use and before its
/// release. What an earlier submission has left ([`crate::left::Left`]) is used, too.
///
/// # Errors
///
/// As [`crate::Frame::submit`].
pub(crate) fn submit(
    guest: &Guest,
    uses: Vec<Use<'_>>,
    commands: Vec<wgpu::CommandBuffer>,
) -> Result<Fence> {
    guest.check_wgpu()?;
    let left = guest.left().take();
    let mut running = Running::new(guest, uses);
    running.add(&left)?;
    Commands::collect(guest.commands());
    let acquire = record(guest, &running.uses, Half::Acquire)?;
    running.release = Some(record(guest, &running.uses, Half::Release)?);
    let (uses, state) = (&running.uses, &running.state);
    let done = guest.with_queue_behind(
        || {
            let fence = submit_around(guest, uses, acquire)?;
            state.is_acquired.set(true);
            Ok(fence)
        },
        |queue| submit_and_catch(guest, queue, (uses, state), commands),
    );
    let ended = running.end();
    let fence = match (done, ended) {
        (Ok(Err(panic)), _) => resume_unwind(panic),
        (Ok(Ok(done)), Some(released)) => {
            let fence = released?;
            done?;
            fence
        }
        // The queue was not reached. What was acquired is released.
        (Err(error), Some(Ok(_)) | None) | (Err(_), Some(Err(error))) => return Err(error),
        (Ok(Ok(_)), None) => return Err(Error::Refused("nothing was acquired".into())),
    };
    guest.check_wgpu()?;
    Ok(fence)
}

/// A submission between its two halves. The drop of one that was acquired releases what it uses, and ends the accesses.
struct Running<'g, 'a> {
    guest: &'g Guest,
    uses: Vec<Use<'a>>,
    /// What was left, and cannot be acquired.
    others: Vec<Named>,
    release: Option<Recorded<'g>>,
    state: State,
}

#[derive(Default)]
struct State {
    /// Whether the acquire is submitted.
    is_acquired: Cell<bool>,
    /// Whether wgpu has submitted what its queue was told to write.
    is_flushed: Cell<bool>,
}

impl<'g, 'a> Running<'g, 'a> {
    fn new(guest: &'g Guest, uses: Vec<Use<'a>>) -> Self {
        Self { guest, uses, others: vec![], release: None, state: State::default() }
    }

    /// Adds what earlier submissions have left.
    ///
    /// # Errors
    ///
    /// An access that does not begin now, and may begin later. Nothing is lost then.
    fn add(&mut self, left: &'a [Named]) -> Result<()> {
        let mut error = None;
        for named in left {
            match named.begin() {
                Ok(begun) => self.uses.push(begun),
                Err(failed) => {
                    // What has moved or lost its content is written to memory that nothing reads. wgpu keeps it.
                    self.others.push(named.clone());
                    if failed.is_retryable() && !matches!(failed, peerbuf::Error::Stale { .. }) {
                        error.get_or_insert(failed);
                    }
                }
            }
        }
        error.map_or(Ok(()), |error| Err(error.into()))
    }

    /// Releases what was acquired, and ends the accesses. Returns the fence of all; `None` if nothing was acquired.
    fn end(&mut self) -> Option<Result<Fence>> {
        let (guest, uses) = (self.guest, std::mem::take(&mut self.uses));
        let submits = !guest.device().is_lost() && guest.check_wgpu().is_ok();
        if submits && !self.state.is_flushed.get() {
            let named = uses.iter().map(|one| &one.named).filter(|named| named.may_be_written());
            guest.left().add(named.cloned().chain(self.others.drain(..)));
        }
        let release = self.release.take().filter(|_| self.state.is_acquired.replace(false))?;
        let released = submit_around(guest, &uses, release);
        let fence = released.as_ref().ok().cloned().or_else(|| guest.device().submitted().ok());
        // Without a fence the device is lost: nothing of it is waited for.
        if let Some(fence) = fence {
            uses.into_iter().for_each(|one| one.open.end(fence.clone()));
        }
        Some(released)
    }
}

impl Drop for Running<'_, '_> {
    fn drop(&mut self) {
        let _ended = self.end();
    }
}

/// What came of wgpu's submission; the outer error is a panic of a callback of the application's.
type Caught = Result<Result<()>, Box<dyn Any + Send>>;

/// As [`submit_wgpu`]. wgpu calls callbacks of the application, which may panic; the frame ends all the same.
fn submit_and_catch(
    guest: &Guest,
    queue: &wgpu::Queue,
    (uses, state): (&[Use<'_>], &State),
    commands: Vec<wgpu::CommandBuffer>,
) -> Caught {
    let submit = || submit_wgpu(guest, queue, (uses, state), commands);
    catch_unwind(AssertUnwindSafe(submit)).inspect_err(|_| {
        // It is not known how far wgpu came. A second transition does nothing.
        let again = || end_layouts(guest, queue, (uses, state));
        if catch_unwind(AssertUnwindSafe(again)).is_err() {
            uses.iter().for_each(|one| one.named.what.doubt());
        }
    })
}

/// Submits to wgpu's queue, whose lock is held: the commands, and the transition to the state between frames.
///
/// If one of several command buffers is refused, wgpu has noted the layouts behind those before it, which do not run either.
/// So each is submitted by itself, and the last one together with the transition, which notes nothing if that one is refused.
///
/// # Errors
///
/// [`Error::Refused`]. The command buffers before the refused one run, and so does the transition. [`Error::Wgpu`] if wgpu
/// has no memory, or failed: it has given the device up then.
fn submit_wgpu(
    guest: &Guest,
    queue: &wgpu::Queue,
    (uses, state): (&[Use<'_>], &State),
    mut commands: Vec<wgpu::CommandBuffer>,
) -> Result<()> {
    let device = guest.wgpu();
    let last = commands.pop();
    let mut before = commands.into_iter();
    let mut refused = before.find_map(|one| submit_checked(device, queue, vec![one], state));
    if refused.is_none() {
        let together = last.into_iter().chain([transition(device, uses)]);
        refused = submit_checked(device, queue, together.collect(), state);
    }
    let Some(error) = refused else { return Ok(()) };
    end_layouts(guest, queue, (uses, state));
    match error {
        wgpu::Error::Validation { .. } => Err(Error::Refused(error.to_string())),
        error => {
            guest.note_wgpu_lost();
            Err(Error::wgpu("wgpu::Queue::submit")(error))
        }
    }
}

/// Submits the transition alone, with what the queue was told to write, which is of this frame.
fn end_layouts(guest: &Guest, queue: &wgpu::Queue, (uses, state): (&[Use<'_>], &State)) {
    let device = guest.wgpu();
    if submit_checked(device, queue, vec![transition(device, uses)], state).is_some() {
        uses.iter().for_each(|one| one.named.what.doubt());
        submit_checked(device, queue, vec![], state);
    }
}

/// The command buffer of wgpu's that brings all textures into the state between frames.
fn transition(device: &wgpu::Device, uses: &[Use<'_>]) -> wgpu::CommandBuffer {
    let described = wgpu::CommandEncoderDescriptor { label: Some("peerbuf: end of frame") };
    let mut encoder = device.create_command_encoder(&described);
    encoder.transition_resources(
        std::iter::empty(),
        uses.iter().filter_map(|one| one.named.what.texture()).map(|texture| {
            wgpu::TextureTransition { texture, selector: None, state: BETWEEN_FRAMES }
        }),
    );
    encoder.finish()
}

/// Submits, and returns what wgpu has against it; then none of it runs.
fn submit_checked(
    device: &wgpu::Device,
    queue: &wgpu::Queue,
    commands: Vec<wgpu::CommandBuffer>,
    state: &State,
) -> Option<wgpu::Error> {
    use wgpu::ErrorFilter::{Internal, OutOfMemory, Validation};
    // All kinds: what no scope gets goes to a handler, whose default panics.
    let scopes = [OutOfMemory, Internal, Validation].map(|filter| device.push_error_scope(filter));
    queue.submit(commands);
    let mut error = None;
    // The last one first.
    for scope in scopes.into_iter().rev() {
        let mut popped = pin!(scope.pop());
        // It is ready at once but on the web.
        if let Poll::Ready(found) = popped.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            error = error.or(found);
        }
    }
    if error.is_none() {
        state.is_flushed.set(true);
    }
    error
}
