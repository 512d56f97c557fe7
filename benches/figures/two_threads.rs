//! What a second thread adds: buffers made, shared and looked at by two threads over one.

use std::hint::black_box;

use peerbuf::{Access, BufferDescriptor, Device, SharedBuffer};

use crate::Outcome;
use crate::figure::Figure;
use crate::setup::Setup;
use crate::threads::second_thread;

const SIZE: u64 = 4096;
const TARGET: f64 = 1.7;

/// `threads_create`, `threads_share`, `threads_host`: on one device, and each thread on a device of its own.
pub(crate) fn over_one(setup: &Setup) -> Outcome<Vec<Figure>> {
    let [near, far] = [&setup.near, &setup.far];
    // Which device is the home of a thread's buffers.
    let shared = move |_: usize| near;
    let own = move |thread: usize| if thread == 0 { near } else { far };
    let looked_at = [near, far].map(|home| make(setup, home)).into_iter();
    let looked_at: Vec<SharedBuffer> = looked_at.collect::<Outcome<_>>()?;
    let create = |home: &Device| make(setup, home).map(drop);
    let share = |home: &Device| {
        let buffer = make(setup, home)?;
        let reader = if home == near { far } else { near };
        black_box(buffer.attach(reader)?);
        Ok(())
    };
    let look = |buffer: &SharedBuffer| -> Outcome<()> {
        let access = buffer.host_access(Access::Write)?;
        access.write(0, &[1; 16])?;
        Ok(access.end()?)
    };
    let figure = |id, what, ratio| {
        let baseline = "one thread, per second";
        Figure::speed(id, what, baseline, Some(TARGET), ratio)
    };
    Ok(vec![
        figure(
            "threads_create",
            "two threads create and drop 4 KiB on one device",
            second_thread(|thread| create(shared(thread)))?,
        ),
        figure(
            "threads_create_own",
            "the same, each on a device of its own",
            second_thread(|thread| create(own(thread)))?,
        ),
        figure(
            "threads_share",
            "two threads create, share and drop 4 KiB on one device",
            second_thread(|thread| share(shared(thread)))?,
        ),
        figure(
            "threads_share_own",
            "the same, each on a device of its own",
            second_thread(|thread| share(own(thread)))?,
        ),
        figure(
            "threads_host",
            "two threads begin, write 16 bytes and end, each in a buffer of its own",
            second_thread(|thread| look(&looked_at[thread]))?,
        ),
    ])
}

fn make(setup: &Setup, home: &Device) -> Outcome<SharedBuffer> {
    Ok(setup.engine.create_buffer(home, BufferDescriptor::new(SIZE))?)
}
