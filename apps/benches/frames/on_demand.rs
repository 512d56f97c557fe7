//! The tour of `stream` in plain Vulkan: a tile that is not there is created and uploaded at once, and the least recently used
//! ones make room.
#![expect(unsafe_code, reason = "images and uploads by hand")]

use std::collections::HashMap;

use ash::vk;
use peerbuf::{AdapterSelector, Device, Engine, EngineDescriptor, Fence};
use peerbuf_apps::choose::{self, Lost};
use peerbuf_apps::commands::{barrier, range, region};
use peerbuf_apps::gpu::Gpu;
use peerbuf_apps::host_buffer::HostBuffer;
use peerbuf_apps::picture::Shot;
use peerbuf_apps::stream::{Checks, Commands, Part, Shown, TILE, TILE_BYTES, TileId, World, tour};
use peerbuf_apps::surface::Place;
use peerbuf_apps::swapchain::{State, Swapchain};

use crate::Outcome;
use crate::queue::Queue;

const FORMAT: vk::Format = vk::Format::B8G8R8A8_UNORM;

/// The tour by hand. Each frame is waited for, so that nothing is in use between two.
pub(crate) struct OnDemand {
    swapchain: Option<Swapchain>,
    tiles: HashMap<TileId, Tile>,
    uploads: Option<HostBuffer>,
    queue: Option<Queue>,
    engine: Option<Engine>,
    gpu: Option<Gpu>,
    device: Option<Device>,
    /// All texels of the map, in the host's memory.
    texels: HashMap<TileId, Vec<u8>>,
    world: World,
    size: [u32; 2],
    frames: u32,
    frame: u32,
    room: usize,
    /// Tiles that were brought in.
    pub(crate) brought: u64,
}

struct Tile {
    raw: vk::Image,
    memory: vk::DeviceMemory,
    used: u32,
}

impl OnDemand {
    /// A map of some levels, of which `room` tiles fit.
    pub(crate) fn new(
        adapter: usize,
        (world, size): (World, [u32; 2]),
        (frames, room): (u32, usize),
    ) -> Outcome<Self> {
        let engine = Engine::open(&EngineDescriptor::new())?;
        let asked = Some(AdapterSelector::Index(adapter));
        let chosen = choose::presenter(&engine, None, Place::Headless, asked, &Lost::default())?;
        // SAFETY: `drop` drops the engine before it destroys the device.
        let device = unsafe { chosen.gpu.adopt(&engine) }?;
        // SAFETY: the surface is of this device's instance, and is dropped first.
        let swapchain =
            unsafe { Swapchain::new(&chosen.gpu, &device, chosen.surface, size, false) }?;
        if swapchain.size() != size {
            return Err("the surface has another size".into());
        }
        let texels = world.tiles().map(|id| (id, world.texels(id))).collect();
        Ok(Self {
            swapchain: Some(swapchain),
            tiles: HashMap::new(),
            uploads: Some(HostBuffer::new(&device, room * TILE_BYTES as usize, false)?),
            queue: Some(Queue::new(&device)?),
            engine: Some(engine),
            gpu: Some(chosen.gpu),
            device: Some(device),
            texels,
            world,
            size,
            frames,
            frame: 0,
            room,
            brought: 0,
        })
    }

    /// One frame, until it is in its image of the swapchain. With `checks` every tile on the screen is compared.
    pub(crate) fn frame(&mut self, checks: Option<&mut Checks>) -> Outcome<()> {
        let camera = tour(self.world, self.frame, self.frames, self.size);
        let visible = camera.visible(self.world, camera.level(self.world), self.size);
        let fresh = self.make_room_and_create(&visible)?;
        let parts: Vec<Part> =
            visible.iter().filter_map(|tile| camera.part(*tile, *tile, self.size)).collect();
        let parts_of = (&mut self.swapchain, &mut self.queue, &self.uploads, &self.device);
        let (Some(swapchain), Some(queue), Some(uploads), Some(device)) = parts_of else {
            return Err("it has ended".into());
        };
        let State::Done(acquired) = swapchain.acquire()? else {
            return Err("the surface has changed".into());
        };
        let mut shot = match &checks {
            Some(_) => Some(Shot::new(device, self.size)?),
            None => None,
        };
        let image = |part: &Part| Some((self.tiles.get(&part.tile)?.raw, part.source, part.target));
        let commands = Commands {
            blits: parts.iter().filter_map(image).collect(),
            target: acquired.image,
            size: self.size,
            overlay: None,
            bare: shot.as_ref().map(Shot::raw),
            picture: None,
        };
        queue.record(|device, recorded| {
            for (at, id) in fresh.iter().enumerate() {
                if let Some(tile) = self.tiles.get(id) {
                    upload(device, recorded, (tile.raw, uploads.raw()), at as u64 * TILE_BYTES);
                }
            }
            // SAFETY: recorded for the device; tiles are live and in GENERAL, the target was acquired.
            unsafe { commands.record(device, recorded) };
        })?;
        queue.submit(Some([acquired.acquired, acquired.rendered]))?;
        swapchain.submitted(&acquired, &Fence::signalled());
        swapchain.present(&acquired)?;
        queue.wait()?;
        if let (Some(checks), Some(shot)) = (checks, shot.take()) {
            let shown = Shown { parts, size: self.size, frame: self.frame };
            checks.submitted(shot, &Fence::signalled(), shown);
            checks.finish()?;
        }
        self.frame += 1;
        Ok(())
    }

    /// Creates what is missing, and writes its texels where they are uploaded from. Returns it in that order.
    fn make_room_and_create(&mut self, wanted: &[TileId]) -> Outcome<Vec<TileId>> {
        let (Some(device), Some(uploads)) = (&self.device, &mut self.uploads) else {
            return Err("it has ended".into());
        };
        for id in wanted {
            if let Some(tile) = self.tiles.get_mut(id) {
                tile.used = self.frame;
            }
        }
        let mut fresh = vec![];
        for id in wanted {
            if self.tiles.contains_key(id) {
                continue;
            }
            while self.tiles.len() >= self.room {
                let oldest = self.tiles.iter().min_by_key(|(id, tile)| (tile.used, **id));
                let oldest = oldest.map(|(id, _)| *id).ok_or("no room for one tile")?;
                self.tiles.remove(&oldest).iter().for_each(|tile| destroy(device, tile));
            }
            let tile = create(device, self.frame)?;
            self.tiles.insert(*id, tile);
            let texels = self.texels.get(id).ok_or("no such tile")?;
            // SAFETY: each frame is waited for, so that no device uses the buffer.
            unsafe { uploads.write_at(fresh.len() * TILE_BYTES as usize, texels) };
            fresh.push(*id);
        }
        self.brought += fresh.len() as u64;
        Ok(fresh)
    }
}

fn create(device: &Device, used: u32) -> Outcome<Tile> {
    let raw = device.raw();
    let info = vk::ImageCreateInfo::default()
        .image_type(vk::ImageType::TYPE_2D)
        .format(FORMAT)
        .extent(vk::Extent3D { width: TILE, height: TILE, depth: 1 })
        .mip_levels(1)
        .array_layers(1)
        .samples(vk::SampleCountFlags::TYPE_1)
        .usage(vk::ImageUsageFlags::TRANSFER_SRC | vk::ImageUsageFlags::TRANSFER_DST);
    // SAFETY: the device is live.
    let image = unsafe { raw.create_image(&info, None) }?;
    // SAFETY: the image is live.
    let needs = unsafe { raw.get_image_memory_requirements(image) };
    let info = vk::MemoryAllocateInfo::default()
        .allocation_size(needs.size)
        .memory_type_index(needs.memory_type_bits.trailing_zeros());
    // SAFETY: a type that the image may have.
    let memory = unsafe { raw.allocate_memory(&info, None) }?;
    // SAFETY: the image has no memory yet, and this is large enough.
    unsafe { raw.bind_image_memory(image, memory, 0) }?;
    Ok(Tile { raw: image, memory, used })
}

fn destroy(device: &Device, tile: &Tile) {
    // SAFETY: live, and each frame was waited for.
    unsafe { device.raw().destroy_image(tile.raw, None) };
    // SAFETY: as above.
    unsafe { device.raw().free_memory(tile.memory, None) };
}

fn upload(
    device: &Device,
    commands: vk::CommandBuffer,
    (image, from): (vk::Image, vk::Buffer),
    offset: u64,
) {
    let (none, written, general) = (
        vk::ImageLayout::UNDEFINED,
        vk::ImageLayout::TRANSFER_DST_OPTIMAL,
        vk::ImageLayout::GENERAL,
    );
    debug_assert_eq!(range().level_count, 1);
    let all = [region(offset, [0, 0], [TILE, TILE])];
    // SAFETY: being recorded; the whole image is written.
    unsafe { barrier(device, commands, image, [none, written]) };
    // SAFETY: as above; the buffer has the texels from the offset on.
    unsafe { device.raw().cmd_copy_buffer_to_image(commands, from, image, written, &all) };
    // SAFETY: as above.
    unsafe { barrier(device, commands, image, [written, general]) };
}

impl Drop for OnDemand {
    fn drop(&mut self) {
        self.swapchain = None;
        if let Some(device) = self.device.take() {
            self.tiles.drain().for_each(|(_, tile)| destroy(&device, &tile));
        }
        (self.uploads, self.queue) = (None, None);
        self.engine = None;
        if let Some(gpu) = self.gpu.take() {
            // SAFETY: everything on the device was dropped.
            unsafe { gpu.destroy() };
        }
    }
}
