//! The frame of `prime` in plain Vulkan: over one shared image, or through the host.
#![expect(unsafe_code, reason = "images, imports and barriers by hand")]

use std::alloc::{Layout, alloc_zeroed, dealloc};

use ash::{ext, vk};
use peerbuf::{Adapter, Device, Engine, EngineDescriptor, Fence};
use peerbuf_apps::choose::{self, Lost};
use peerbuf_apps::commands::{barrier, layers, range};
use peerbuf_apps::gpu::Gpu;
use peerbuf_apps::host_buffer::HostBuffer;
use peerbuf_apps::prime::{Copies, Scene, Source, read_back};
use peerbuf_apps::stamp;
use peerbuf_apps::surface::Place;
use peerbuf_apps::swapchain::{State, Swapchain};

use crate::Outcome;
use crate::queue::Queue;

/// The format of the swapchain, and of every image here.
const FORMAT: vk::Format = vk::Format::B8G8R8A8_UNORM;
/// Enough for every driver's `minImportedHostPointerAlignment`.
const ALIGNMENT: usize = 1 << 16;
const GENERAL: vk::ImageLayout = vk::ImageLayout::GENERAL;

/// How a frame goes from one device to the other.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// Both devices have one image over the same bytes, or are one device.
    Shared,
    /// Read back, copied by the host, uploaded.
    Staged,
}

/// The frame by hand. Each is waited for, so that nothing is in use between two.
pub(crate) struct ByHand {
    // Dropped in this order.
    swapchain: Option<Swapchain>,
    scene: Option<Scene>,
    down: Option<HostBuffer>,
    up: Option<HostBuffer>,
    lines: Option<HostBuffer>,
    images: Vec<Image>,
    draws: Option<Queue>,
    shows: Option<Queue>,
    engine: Option<Engine>,
    gpus: Vec<Gpu>,
    bytes: Option<Bytes>,
    way: Way,
    size: [u32; 2],
    frame: u32,
}

/// Memory of the process, imported by devices.
struct Bytes(*mut u8, Layout);

impl Drop for Bytes {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout, and imported nowhere any more: images are dropped first.
        unsafe { dealloc(self.0, self.1) };
    }
}

/// An image with memory of its own or imported.
struct Image {
    device: Device,
    raw: vk::Image,
    memory: vk::DeviceMemory,
}

impl Drop for Image {
    fn drop(&mut self) {
        // SAFETY: null or live, and each frame was waited for.
        unsafe { self.device.raw().destroy_image(self.raw, None) };
        // SAFETY: as above.
        unsafe { self.device.raw().free_memory(self.memory, None) };
    }
}

impl Image {
    /// An image of a size; over the bytes, if there are any.
    fn new(
        gpu: &Gpu,
        device: &Device,
        (size, usage): ([u32; 2], vk::ImageUsageFlags),
        bytes: Option<&Bytes>,
    ) -> Outcome<Self> {
        let raw = device.raw();
        let handle = vk::ExternalMemoryHandleTypeFlags::HOST_ALLOCATION_EXT;
        let mut external = vk::ExternalMemoryImageCreateInfo::default().handle_types(handle);
        let mut info = vk::ImageCreateInfo::default()
            .image_type(vk::ImageType::TYPE_2D)
            .format(FORMAT)
            .extent(vk::Extent3D { width: size[0], height: size[1], depth: 1 })
            .mip_levels(1)
            .array_layers(1)
            .samples(vk::SampleCountFlags::TYPE_1)
            .usage(usage);
        if bytes.is_some() {
            info = info.tiling(vk::ImageTiling::LINEAR).push_next(&mut external);
        }
        let (image, memory) = (vk::Image::null(), vk::DeviceMemory::null());
        let mut this = Self { device: device.clone(), raw: image, memory };
        // SAFETY: the device is live, and has the extension for imports of host memory.
        this.raw = unsafe { raw.create_image(&info, None) }?;
        // SAFETY: the image is live.
        let needs = unsafe { raw.get_image_memory_requirements(this.raw) };
        let mut types = needs.memory_type_bits;
        let mut import = vk::ImportMemoryHostPointerInfoEXT::default().handle_type(handle);
        let mut info = vk::MemoryAllocateInfo::default().allocation_size(needs.size);
        if let Some(Bytes(address, layout)) = bytes {
            if needs.size > layout.size() as u64 {
                return Err("the image needs more bytes than both share".into());
            }
            let pointers = ext::external_memory_host::Device::new(gpu.instance(), raw);
            let mut said = vk::MemoryHostPointerPropertiesEXT::default();
            let properties = pointers.fp().get_memory_host_pointer_properties_ext;
            // SAFETY: the device has the extension; the memory is live.
            unsafe { properties(raw.handle(), handle, (*address).cast(), &mut said) }.result()?;
            types &= said.memory_type_bits;
            import = import.host_pointer((*address).cast());
            // The whole of it, a multiple of the alignment.
            info = info.allocation_size(layout.size() as u64).push_next(&mut import);
        }
        // The first type: on the devices here all are alike.
        let kind = types.trailing_zeros();
        if kind == u32::BITS {
            return Err("no memory for the image".into());
        }
        let info = info.memory_type_index(kind);
        // SAFETY: one of the types that it may have; the bytes are live, aligned, and outlive the memory.
        this.memory = unsafe { raw.allocate_memory(&info, None) }?;
        // SAFETY: the image has no memory yet, and this is large enough.
        unsafe { raw.bind_image_memory(this.raw, this.memory, 0) }?;
        Ok(this)
    }

    /// Bytes of a row, as the driver places them.
    fn pitch(&self) -> u64 {
        let part =
            vk::ImageSubresource { aspect_mask: vk::ImageAspectFlags::COLOR, ..Default::default() };
        // SAFETY: a live image with linear tiling.
        unsafe { self.device.raw().get_image_subresource_layout(self.raw, part) }.row_pitch
    }
}

impl ByHand {
    /// Everything for frames of a size, that one device draws and another one presents.
    pub(crate) fn new([render, present]: [&Adapter; 2], size: [u32; 2], way: Way) -> Outcome<Self> {
        // Adopts the devices, and does nothing else.
        let engine = Engine::open(&EngineDescriptor::new())?;
        let is_one = render.index() == present.index();
        let chosen = choose::presenter(
            &engine,
            None,
            Place::Headless,
            Some(peerbuf::AdapterSelector::Index(present.index())),
            &Lost::default(),
        )?;
        // SAFETY: `drop` drops the engine before it destroys the devices.
        let shows = unsafe { chosen.gpu.adopt(&engine) }?;
        let mut gpus = vec![chosen.gpu];
        let draws = if is_one {
            shows.clone()
        } else {
            let gpu = Gpu::new(render, None)?;
            // SAFETY: as above.
            let device = unsafe { gpu.adopt(&engine) }?;
            gpus.push(gpu);
            device
        };
        let drawing = if is_one { &gpus[0] } else { &gpus[1] };
        // SAFETY: the surface is of this device's instance, and is dropped first.
        let swapchain = unsafe { Swapchain::new(&gpus[0], &shows, chosen.surface, size, false) }?;
        if swapchain.size() != size {
            return Err("the surface has another size".into());
        }
        let (attachment, source, target) = (
            vk::ImageUsageFlags::COLOR_ATTACHMENT,
            vk::ImageUsageFlags::TRANSFER_SRC,
            vk::ImageUsageFlags::TRANSFER_DST,
        );
        let (mut images, mut bytes) = (vec![], None);
        if is_one || way == Way::Staged {
            images.push(Image::new(drawing, &draws, (size, attachment | source), None)?);
        } else {
            // SAFETY: the physical device is of the instance.
            let able = unsafe {
                drawing.instance().get_physical_device_format_properties(drawing.physical(), FORMAT)
            };
            let draws_rows =
                able.linear_tiling_features.contains(vk::FormatFeatureFlags::COLOR_ATTACHMENT);
            let length = (size[0] as usize * 4).next_multiple_of(256) * (size[1] as usize + 16);
            let layout = Layout::from_size_align(length.next_multiple_of(ALIGNMENT), ALIGNMENT)?;
            // SAFETY: the layout is not empty.
            let address = unsafe { alloc_zeroed(layout) };
            if address.is_null() {
                return Err("out of memory".into());
            }
            let shared = bytes.insert(Bytes(address, layout));
            let usage = if draws_rows { attachment | source } else { target | source };
            let here = Image::new(drawing, &draws, (size, usage), Some(shared))?;
            let there = Image::new(&gpus[0], &shows, (size, source), Some(shared))?;
            if here.pitch() != there.pitch() {
                return Err("the two drivers place rows differently at this size".into());
            }
            if !draws_rows {
                images.push(Image::new(drawing, &draws, (size, attachment | source), None)?);
            }
            images.push(here);
            images.push(there);
        }
        let staging = (size[0] * size[1] * 4) as usize;
        let (mut down, mut up) = (None, None);
        if way == Way::Staged {
            down = Some(HostBuffer::new(&draws, staging, true)?);
            up = Some(HostBuffer::new(&shows, staging, false)?);
        }
        let line = (stamp::CELL * stamp::CELLS * 4) as usize;
        let this = Self {
            swapchain: Some(swapchain),
            scene: Some(Scene::new(&draws, FORMAT, true)?),
            down,
            up,
            lines: Some(HostBuffer::new(&shows, 2 * line, true)?),
            images,
            draws: Some(Queue::new(&draws)?),
            shows: Some(Queue::new(&shows)?),
            engine: Some(engine),
            gpus,
            bytes,
            way,
            size,
            frame: 0,
        };
        Ok(this)
    }

    /// One frame, until it is in its image of the swapchain. With `check` its number is read back and compared.
    pub(crate) fn frame(&mut self, check: bool) -> Outcome<()> {
        let (size, frame, way) = (self.size, self.frame, self.way);
        let parts = (&mut self.swapchain, &mut self.scene, &mut self.draws, &mut self.shows);
        let (Some(swapchain), Some(scene), Some(draws), Some(shows)) = parts else {
            return Err("it has ended".into());
        };
        let State::Done(acquired) = swapchain.acquire()? else {
            return Err("the surface has changed".into());
        };
        let drawn = self.images[0].raw;
        let target = scene.target(drawn, FORMAT, size)?;
        let is_one = draws.device == shows.device && way == Way::Shared;
        // With two devices: where the first one leaves the frame, and where the second one finds it.
        let shared = (way == Way::Shared && !is_one).then(|| {
            let last = self.images.len() - 1;
            [self.images[last - 1].raw, self.images[last].raw]
        });
        let down = self.down.as_ref().map(HostBuffer::raw);
        let draw = |device: &Device, commands: vk::CommandBuffer| {
            to_general(device, commands, drawn);
            // SAFETY: recorded for the device; the target lives until the frame has ended.
            unsafe { scene.record(commands, &target, frame) };
            if let Some([here, _]) = shared {
                drawn_to_copy(device, commands);
                if here != drawn {
                    to_general(device, commands, here);
                    copy(device, commands, [drawn, here], size);
                }
                hand_over(device, commands, here, true);
            } else if let Some(down) = down {
                // SAFETY: as above; the buffer is as large.
                unsafe { read_back(device, commands, drawn, down, size) };
            } else {
                drawn_to_copy(device, commands);
            }
        };
        let lines = self.lines.as_ref().filter(|_| check).map(HostBuffer::raw);
        let source = match (way, &self.up) {
            (Way::Staged, Some(up)) => Source::Buffer(up.raw()),
            _ => Source::Image(shared.map_or(drawn, |[_, there]| there)),
        };
        let overlay = None;
        let copies = Copies { source, target: acquired.image, size, overlay, lines, picture: None };
        let show = |device: &Device, commands: vk::CommandBuffer| {
            if let Some([_, there]) = shared {
                hand_over(device, commands, there, false);
            }
            // SAFETY: recorded for the device; all is as large as is said, and the target was acquired.
            unsafe { copies.record(device, commands) };
        };
        if is_one {
            // One submission does both.
            shows.record(|device, commands| {
                draw(device, commands);
                show(device, commands);
            })?;
        } else {
            draws.run(draw)?;
            if let (Some(down), Some(up)) = (&self.down, &mut self.up) {
                // SAFETY: no device uses either: the drawing one has ended, the other one had before.
                unsafe { up.copy_from(down) };
            }
            shows.record(show)?;
        }
        shows.submit(Some([acquired.acquired, acquired.rendered]))?;
        swapchain.submitted(&acquired, &Fence::signalled());
        swapchain.present(&acquired)?;
        shows.wait()?;
        self.frame += 1;
        if check { self.check(frame) } else { Ok(()) }
    }

    fn check(&self, frame: u32) -> Outcome<()> {
        let lines = self.lines.as_ref().ok_or("it has ended")?;
        // SAFETY: the frame was waited for.
        let bytes = unsafe { lines.bytes() };
        let shown = [0, bytes.len() / 2].map(|at| stamp::number(&bytes[at..at + bytes.len() / 2]));
        if shown == [frame; 2] {
            Ok(())
        } else {
            Err(format!("frame {frame} by hand shows {shown:?}").into())
        }
    }
}

impl Drop for ByHand {
    fn drop(&mut self) {
        self.swapchain = None;
        self.scene = None;
        (self.down, self.up, self.lines) = (None, None, None);
        self.images.clear();
        (self.draws, self.shows) = (None, None);
        self.engine = None;
        for gpu in self.gpus.drain(..) {
            // SAFETY: everything on the devices was dropped.
            unsafe { gpu.destroy() };
        }
        self.bytes = None;
    }
}

/// Ahead of drawing, or of a copy, that overwrites an image.
fn to_general(device: &Device, commands: vk::CommandBuffer, image: vk::Image) {
    let all = [vk::ImageMemoryBarrier::default()
        .dst_access_mask(vk::AccessFlags::COLOR_ATTACHMENT_WRITE | vk::AccessFlags::TRANSFER_WRITE)
        .new_layout(GENERAL)
        .src_queue_family_index(vk::QUEUE_FAMILY_IGNORED)
        .dst_queue_family_index(vk::QUEUE_FAMILY_IGNORED)
        .image(image)
        .subresource_range(range())];
    let from = vk::PipelineStageFlags::TRANSFER;
    let to = vk::PipelineStageFlags::COLOR_ATTACHMENT_OUTPUT | vk::PipelineStageFlags::TRANSFER;
    let none = vk::DependencyFlags::empty();
    // SAFETY: being recorded; a live image.
    unsafe { device.raw().cmd_pipeline_barrier(commands, from, to, none, &[], &[], &all) };
}

/// Between drawing and a copy.
fn drawn_to_copy(device: &Device, commands: vk::CommandBuffer) {
    let all = [vk::MemoryBarrier::default()
        .src_access_mask(vk::AccessFlags::COLOR_ATTACHMENT_WRITE)
        .dst_access_mask(vk::AccessFlags::TRANSFER_READ)];
    let (from, to) =
        (vk::PipelineStageFlags::COLOR_ATTACHMENT_OUTPUT, vk::PipelineStageFlags::TRANSFER);
    let none = vk::DependencyFlags::empty();
    // SAFETY: being recorded.
    unsafe { device.raw().cmd_pipeline_barrier(commands, from, to, none, &all, &[], &[]) };
}

/// Releases an image to the other device, or acquires it from there.
fn hand_over(device: &Device, commands: vk::CommandBuffer, image: vk::Image, is_release: bool) {
    let (ours, outside) = (device.queue_family(), vk::QUEUE_FAMILY_FOREIGN_EXT);
    let written = vk::AccessFlags::COLOR_ATTACHMENT_WRITE | vk::AccessFlags::TRANSFER_WRITE;
    let none = vk::AccessFlags::empty();
    let (from, to, before, after) = if is_release {
        (ours, outside, written, none)
    } else {
        (outside, ours, none, vk::AccessFlags::TRANSFER_READ)
    };
    let all = [vk::ImageMemoryBarrier::default()
        .src_access_mask(before)
        .dst_access_mask(after)
        .old_layout(GENERAL)
        .new_layout(GENERAL)
        .src_queue_family_index(from)
        .dst_queue_family_index(to)
        .image(image)
        .subresource_range(range())];
    let stages = vk::PipelineStageFlags::ALL_COMMANDS;
    let flags = vk::DependencyFlags::empty();
    // SAFETY: being recorded; a live image.
    unsafe { device.raw().cmd_pipeline_barrier(commands, stages, stages, flags, &[], &[], &all) };
}

fn copy(
    device: &Device,
    commands: vk::CommandBuffer,
    [from, to]: [vk::Image; 2],
    [width, height]: [u32; 2],
) {
    let all = [vk::ImageCopy::default()
        .src_subresource(layers())
        .dst_subresource(layers())
        .extent(vk::Extent3D { width, height, depth: 1 })];
    // SAFETY: being recorded; both are live, as large, and in GENERAL.
    unsafe { device.raw().cmd_copy_image(commands, from, GENERAL, to, GENERAL, &all) };
    // SAFETY: as above; the layout stays.
    unsafe { barrier(device, commands, to, [GENERAL; 2]) };
}
