//! An engine with a guest and another device, and an image that both use.
#![expect(unsafe_code, reason = "one device for two libraries, and raw commands")]

use std::sync::Arc;
use std::time::Duration;

use peerbuf::ash::vk;
use peerbuf::image::{Fourcc, ImagePart, ImageUsage};
use peerbuf::observe::Object;
use peerbuf::{
    Access, BufferDescriptor, Device, Engine, EngineDescriptor, Fence, ImageDescriptor, Refault,
    Scope, SharedBuffer, SharedImage,
};
use peerbuf_wgpu::{Guest, GuestBuffer, GuestDescriptor, GuestTexture};

/// Longer than anything here takes.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// Texels in a row, which no driver pads alike.
pub(crate) const SIZE: u32 = 50;

/// What wgpu does with an image.
pub(crate) const USES: ImageUsage =
    ImageUsage::COPIED_TO.union(ImageUsage::COPIED_FROM).union(ImageUsage::SAMPLED);

/// A guest, and another device.
pub(crate) struct Rig {
    pub(crate) engine: Engine,
    pub(crate) guest: Option<Guest>,
    pub(crate) other: Option<Device>,
}

/// Calls `test` with a guest on each device here, beside another device of the same adapter.
pub(crate) fn on_each_device(test: impl Fn(&Rig)) {
    let engine = open();
    let usable = engine.adapters().iter().filter(|adapter| adapter.missing().is_empty()).count();
    assert!(usable >= 2, "two devices are needed: `.ci/setup test` prepares them");
    for index in 0..engine.adapters().len() {
        let rig = Rig::new(open(), (index, index));
        test(&rig);
        rig.close();
    }
}

/// Calls `test` with a guest and another device on each pair of adapters.
pub(crate) fn on_each_pair(test: impl Fn(&Rig)) {
    let count = open().adapters().len();
    for guest in 0..count {
        for other in 0..count {
            let rig = Rig::new(open(), (guest, other));
            test(&rig);
            rig.close();
        }
    }
}

pub(crate) fn open() -> Engine {
    Engine::open(&EngineDescriptor::new()).expect("Vulkan")
}

impl Rig {
    pub(crate) fn new(engine: Engine, pair: (usize, usize)) -> Self {
        Self::described(engine, pair, &GuestDescriptor::default())
    }

    pub(crate) fn described(
        engine: Engine,
        (guest, other): (usize, usize),
        descriptor: &GuestDescriptor<'_>,
    ) -> Self {
        let guest = &engine.adapters()[guest];
        // SAFETY: the tests use the queue and what frames return as `Guest::open` requires.
        let guest = unsafe { Guest::open(&engine, guest, descriptor) };
        let guest = Some(guest.expect("a guest"));
        let other = engine.open_device(&engine.adapters()[other]).expect("a device");
        Self { engine, guest, other: Some(other) }
    }

    pub(crate) fn guest(&self) -> &Guest {
        self.guest.as_ref().expect("a guest")
    }

    pub(crate) fn other(&self) -> &Device {
        self.other.as_ref().expect("a device")
    }

    /// An image that the guest writes and reads, and the other device, too.
    pub(crate) fn image(&self) -> (SharedImage, GuestTexture) {
        let described =
            ImageDescriptor::new(Fourcc::new(*b"AB24"), SIZE, SIZE).usage(USES).name("image");
        let image = self.engine.create_image(self.guest().device(), described).expect("an image");
        let importer = Arc::new(Refault::new());
        let attachment = image.attach_dynamic(self.guest().device(), USES, importer);
        let texture = GuestTexture::new(self.guest(), attachment.expect("attached"));
        (image, texture.expect("a texture"))
    }

    /// A buffer that the guest copies to and from.
    pub(crate) fn buffer(&self) -> (SharedBuffer, GuestBuffer) {
        let described = BufferDescriptor::new(4096).name("buffer");
        let buffer = self.engine.create_buffer(self.guest().device(), described).expect("a buffer");
        let attachment = buffer.attach_dynamic(self.guest().device(), Arc::new(Refault::new()));
        let usages = wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC;
        let ours = GuestBuffer::new(self.guest(), attachment.expect("attached"), usages);
        (buffer, ours.expect("a buffer"))
    }

    /// Mappings that live in this engine.
    pub(crate) fn mappings(&self) -> u64 {
        self.engine.live().count(Object::Mapping)
    }

    /// Waits for all that is submitted, and lets wgpu call its callbacks.
    pub(crate) fn poll(&self) {
        self.guest().submitted().expect("a fence").wait(LONG).expect("it ends");
        let all = wgpu::PollType::Wait { submission_index: None, timeout: Some(LONG) };
        self.guest().wgpu().poll(all).expect("wgpu ends");
        self.guest().poll().expect("wgpu goes on");
    }

    /// Writes each word of a buffer on the other device.
    pub(crate) fn fill(&self, buffer: &SharedBuffer, word: u32) {
        let attachment = buffer.attach(self.other()).expect("attached");
        let mapping = attachment.map(Access::Write).expect("mapped");
        let raw = self.other().raw().clone();
        let filled = self.engine.submit(self.other(), |submission| {
            let view = submission.uses(&mapping, Access::Write, Scope::TRANSFER)?;
            let record = move |commands: vk::CommandBuffer| {
                // SAFETY: the buffer is declared; its offset and size are multiples of 4.
                unsafe { raw.cmd_fill_buffer(commands, view.buffer, view.offset, view.size, word) };
            };
            // SAFETY: the commands use the buffer as declared.
            unsafe { submission.record(record) };
            Ok(())
        });
        filled.expect("submitted");
    }

    /// Submits work on the other device that does not end before [`Held::release`].
    pub(crate) fn hold(&self) -> Held {
        let device = self.other().clone();
        let mut kind =
            vk::SemaphoreTypeCreateInfo::default().semaphore_type(vk::SemaphoreType::TIMELINE);
        let info = vk::SemaphoreCreateInfo::default().push_next(&mut kind);
        // SAFETY: the device has timeline semaphores.
        let timeline = unsafe { device.raw().create_semaphore(&info, None) }.expect("a semaphore");
        let held = self.engine.submit(&device, |submission| {
            // SAFETY: live until the work has ended, and signalled by the drop of what is returned here.
            unsafe { submission.wait_semaphore(timeline, 1) };
            Ok(())
        });
        Held { fence: held.expect("submitted"), timeline, device }
    }

    /// Closes the guest, and drops the rest.
    pub(crate) fn close(mut self) {
        let guest = self.guest.take().expect("a guest");
        self.other = None;
        let engine = self.engine.clone();
        drop(self);
        if let Err((_, error)) = guest.close() {
            panic!("everything is dropped: {error}");
        }
        assert_eq!(engine.live().count(Object::Mapping), 0, "mappings that wgpu has kept");
    }
}

/// Records copies that take longer than a thread needs to go on.
pub(crate) fn copy_much(rig: &Rig, encoder: &mut wgpu::CommandEncoder) {
    const SIZE: u64 = 32 << 20;
    let [one, two] = [(); 2].map(|()| {
        rig.guest().wgpu().create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: SIZE,
            usage: wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC,
            mapped_at_creation: false,
        })
    });
    for _ in 0..16 {
        encoder.copy_buffer_to_buffer(&one, 0, &two, 0, SIZE);
        encoder.copy_buffer_to_buffer(&two, 0, &one, 0, SIZE);
    }
}

/// Work of a device that ends when this is dropped.
pub(crate) struct Held {
    pub(crate) fence: Fence,
    timeline: vk::Semaphore,
    device: Device,
}

impl Held {
    pub(crate) fn release(self) {}
}

impl Drop for Held {
    fn drop(&mut self) {
        let signal = vk::SemaphoreSignalInfo::default().semaphore(self.timeline).value(1);
        // SAFETY: a timeline, whose value is 0.
        unsafe { self.device.raw().signal_semaphore(&signal) }.expect("signalled");
        self.fence.wait(LONG).expect("it ends");
        // SAFETY: the only work that uses it has ended.
        unsafe { self.device.raw().destroy_semaphore(self.timeline, None) };
    }
}

/// Writes `value` into each byte of a texture in a frame of its own.
pub(crate) fn write(rig: &Rig, texture: &mut GuestTexture, value: u8) {
    submit_write(rig, texture, value);
}

/// As [`write`]; returns the fence of the frame.
pub(crate) fn submit_write(rig: &Rig, texture: &mut GuestTexture, value: u8) -> Fence {
    let mut frame = rig.guest().frame();
    let now = frame.texture(texture, Access::Write).expect("a texture");
    let device = rig.guest().wgpu();
    let bytes = wgpu::util::DeviceExt::create_buffer_init(
        device,
        &wgpu::util::BufferInitDescriptor {
            label: None,
            contents: &vec![value; (256 * SIZE) as usize],
            usage: wgpu::BufferUsages::COPY_SRC,
        },
    );
    let mut encoder = device.create_command_encoder(&Default::default());
    let from = wgpu::TexelCopyBufferInfo { buffer: &bytes, layout: rows() };
    encoder.copy_buffer_to_texture(from, now.as_image_copy(), now.size());
    frame.submit([encoder.finish()]).expect("submitted")
}

/// Rows of texels in a buffer, as wgpu requires them.
pub(crate) fn rows() -> wgpu::TexelCopyBufferLayout {
    wgpu::TexelCopyBufferLayout { offset: 0, bytes_per_row: Some(256), rows_per_image: None }
}

/// Asserts that each byte of a buffer is `value`.
pub(crate) fn assert_bytes(buffer: &SharedBuffer, value: u8) {
    let mut read = vec![0; 4096];
    let access = buffer.host_access(Access::Read).expect("read by the host");
    access.read(0, &mut read).expect("read");
    access.end().expect("ended");
    assert!(read.iter().all(|byte| *byte == value), "{value}: {:?}", &read[..4]);
}

/// Asserts that each byte of an image is `value`.
pub(crate) fn assert_texels(image: &SharedImage, value: u8) {
    let texels = image.read_texels(ImagePart::default()).expect("texels");
    assert_eq!(texels.len(), (SIZE * SIZE * 4) as usize);
    let wrong = texels.iter().position(|byte| *byte != value);
    assert_eq!(wrong.map(|at| (at, texels[at])), None, "the first byte that is not {value}");
}
