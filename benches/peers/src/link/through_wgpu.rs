//! wgpu: two devices share nothing, so the host carries the bytes.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use peerbuf::Adapter;
use wgpu::{Buffer, BufferUsages, Device, MapMode, PollType, Queue};

use super::{Pair, Peer, fill, verify};
use crate::Outcome;

/// A device and its queue, which waits.
struct Side {
    device: Device,
    queue: Queue,
}

pub(super) struct Wgpu {
    near: Side,
    far: Side,
    size: u64,
    source: Buffer,
    read_back: Buffer,
    /// Kept for all copies; without, each one uses `Queue::write_buffer`.
    upload: Option<Buffer>,
    target: Buffer,
}

impl Wgpu {
    /// As most applications write it.
    pub(super) fn naive(pair: &Pair, size: u64) -> Outcome<Self> {
        Self::new(pair, size, false)
    }

    /// With staging buffers that are kept, and no copy but the one between their mappings.
    pub(super) fn tuned(pair: &Pair, size: u64) -> Outcome<Self> {
        Self::new(pair, size, true)
    }

    fn new(pair: &Pair, size: u64, is_tuned: bool) -> Outcome<Self> {
        let near = Side::open(pair.near.adapter())?;
        let far = Side::open(pair.far.adapter())?;
        let both = BufferUsages::COPY_SRC | BufferUsages::COPY_DST;
        let source = near.create(size, both);
        let read_back = near.create(size, BufferUsages::MAP_READ | BufferUsages::COPY_DST);
        let uploads = BufferUsages::MAP_WRITE | BufferUsages::COPY_SRC;
        let upload = is_tuned.then(|| far.create(size, uploads));
        let target = far.create(size, both);
        let mut bytes = vec![0; usize::try_from(size)?];
        fill(&mut bytes);
        near.queue.write_buffer(&source, 0, &bytes);
        near.queue.submit([]);
        near.wait()?;
        Ok(Self { near, far, size, source, read_back, upload, target })
    }
}

impl Peer for Wgpu {
    fn copy(&mut self) -> Outcome<()> {
        self.near.copy(&self.source, &self.read_back);
        self.near.map(&self.read_back, MapMode::Read)?;
        match &self.upload {
            Some(upload) => {
                // The device has ended the last copy out of it, so that this waits for nothing.
                self.far.map(upload, MapMode::Write)?;
                let from = self.read_back.get_mapped_range(..)?;
                let mut to = upload.get_mapped_range_mut(..)?;
                to.copy_from_slice(&from);
                drop((from, to));
                upload.unmap();
                self.far.copy(upload, &self.target);
            }
            None => {
                let bytes = self.read_back.get_mapped_range(..)?.to_vec();
                self.far.queue.write_buffer(&self.target, 0, &bytes);
                self.far.queue.submit([]);
            }
        }
        self.read_back.unmap();
        self.far.wait()
    }

    fn check(&mut self) -> Outcome<()> {
        let seen = self.far.create(self.size, BufferUsages::MAP_READ | BufferUsages::COPY_DST);
        self.far.copy(&self.target, &seen);
        self.far.map(&seen, MapMode::Read)?;
        let bytes = seen.get_mapped_range(..)?;
        verify(&bytes)
    }
}

impl Side {
    /// Opens the adapter that peerbuf calls by this name.
    fn open(adapter: &Adapter) -> Outcome<Self> {
        let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
        descriptor.backends = wgpu::Backends::VULKAN;
        let instance = wgpu::Instance::new(descriptor);
        let all = at_once(instance.enumerate_adapters(wgpu::Backends::VULKAN))?;
        let found = all.into_iter().find(|it| it.get_info().name == adapter.name());
        let found = found.ok_or_else(|| format!("wgpu has no adapter {}", adapter.name()))?;
        let limits = found.limits();
        let descriptor =
            wgpu::DeviceDescriptor { required_limits: limits, ..wgpu::DeviceDescriptor::default() };
        let (device, queue) = at_once(found.request_device(&descriptor))??;
        Ok(Self { device, queue })
    }

    fn create(&self, size: u64, usage: BufferUsages) -> Buffer {
        let descriptor =
            wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false };
        self.device.create_buffer(&descriptor)
    }

    /// Submits a copy.
    fn copy(&self, from: &Buffer, to: &Buffer) {
        let mut encoder = self.device.create_command_encoder(&Default::default());
        encoder.copy_buffer_to_buffer(from, 0, to, 0, from.size());
        self.queue.submit([encoder.finish()]);
    }

    /// Maps a buffer, and waits for the work that uses it.
    fn map(&self, buffer: &Buffer, mode: MapMode) -> Outcome<()> {
        let (sender, receiver) = std::sync::mpsc::channel();
        buffer.map_async(mode, .., move |mapped| {
            // The receiver waits below.
            let _ = sender.send(mapped);
        });
        self.wait()?;
        Ok(receiver.recv()??)
    }

    fn wait(&self) -> Outcome<()> {
        self.device.poll(PollType::wait_indefinitely())?;
        Ok(())
    }
}

/// The result of what is ready at its first poll, as all of wgpu's are where there is no browser.
fn at_once<T>(future: impl Future<Output = T>) -> Outcome<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => Ok(result),
        Poll::Pending => Err("wgpu is not ready at once".into()),
    }
}
