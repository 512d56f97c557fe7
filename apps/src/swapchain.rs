//! A swapchain: images are acquired, copied into by submissions of the engine, and presented.
#![expect(unsafe_code, reason = "swapchains and semaphores of a live device")]

use std::collections::VecDeque;
use std::rc::Rc;

use ash::{khr, vk};
use peerbuf::image::Fourcc;
use peerbuf::{Device, Error, Fence};

use crate::gpu::Gpu;
use crate::in_use::{has_ended, is_idle};
use crate::surface::Surface;
use crate::{Result, TIMEOUT};

/// A swapchain whose images are copied to and from.
///
/// # Invariants
///
/// All handles are live objects of `device`. `waited` has the semaphores that a submission waits for, with its fence.
pub struct Swapchain {
    loader: khr::swapchain::Device,
    surface: Rc<Surface>,
    device: Device,
    mode: vk::PresentModeKHR,
    format: vk::SurfaceFormatKHR,
    raw: vk::SwapchainKHR,
    extent: vk::Extent2D,
    images: Vec<vk::Image>,
    /// Signalled when an image may be presented; one for each image.
    rendered: Vec<vk::Semaphore>,
    free: Vec<vk::Semaphore>,
    /// The one that the last acquisition signals, until a submission waits for it.
    lent: Option<vk::Semaphore>,
    waited: VecDeque<(vk::Semaphore, Fence)>,
}

/// An image of a swapchain, to be copied into and presented.
#[derive(Clone, Copy, Debug)]
pub struct Acquired {
    index: u32,
    /// The image. Its content is undefined.
    pub image: vk::Image,
    /// Signalled when the image may be written. A submission waits for it ([`Swapchain::submitted`]).
    pub acquired: vk::Semaphore,
    /// To be signalled by that submission.
    pub rendered: vk::Semaphore,
}

/// What became of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State<T> {
    /// It was carried out.
    Done(T),
    /// The surface has another size: make the swapchain again.
    OutOfDate,
}

/// The formats that frames can have: bytes of the surface, and of a shared image.
const FORMATS: [(vk::Format, [u8; 4]); 4] = [
    (vk::Format::B8G8R8A8_UNORM, *b"XR24"),
    (vk::Format::B8G8R8A8_SRGB, *b"XR24"),
    (vk::Format::R8G8B8A8_UNORM, *b"XB24"),
    (vk::Format::R8G8B8A8_SRGB, *b"XB24"),
];

impl Swapchain {
    /// A swapchain of a size. A surface that has a size of its own decides itself.
    ///
    /// # Errors
    ///
    /// The surface has no format with eight bits for each colour, or no images that can be copied to; the error of a
    /// call.
    ///
    /// # Safety
    ///
    /// The surface is of the device's instance, and the swapchain is dropped before [`Gpu::destroy`].
    pub unsafe fn new(
        gpu: &Gpu,
        device: &Device,
        surface: Surface,
        size: [u32; 2],
        vsync: bool,
    ) -> Result<Self> {
        let format = suitable(&surface.formats()?)?;
        let modes = surface.modes()?;
        let immediate = [vk::PresentModeKHR::MAILBOX, vk::PresentModeKHR::IMMEDIATE];
        let mode = immediate.into_iter().find(|mode| !vsync && modes.contains(mode));
        let mut this = Self {
            loader: khr::swapchain::Device::new(gpu.instance(), device.raw()),
            surface: Rc::new(surface),
            device: device.clone(),
            // Every surface has this mode.
            mode: mode.unwrap_or(vk::PresentModeKHR::FIFO),
            format,
            raw: vk::SwapchainKHR::null(),
            extent: vk::Extent2D::default(),
            images: vec![],
            rendered: vec![],
            free: vec![],
            lent: None,
            waited: VecDeque::new(),
        };
        this.resize(size)?;
        Ok(this)
    }

    /// Makes the swapchain again, for a size that is not 0. It waits for the device. A surface that has no texels at the
    /// moment, as that of a minimised window may be, keeps its swapchain.
    ///
    /// # Errors
    ///
    /// The error of a call.
    pub fn resize(&mut self, [width, height]: [u32; 2]) -> Result<()> {
        let able = self.surface.capabilities()?;
        let needed = vk::ImageUsageFlags::TRANSFER_DST | vk::ImageUsageFlags::TRANSFER_SRC;
        if !able.supported_usage_flags.contains(needed) {
            return Err("images of the surface cannot be copied to and from".into());
        }
        // While the window is minimised, the old swapchain stays.
        let Some(extent) = extent(&able, [width, height]) else {
            let is_first = self.raw == vk::SwapchainKHR::null();
            let what = "the window has no texels: show it before the program starts";
            return if is_first { Err(what.into()) } else { Ok(()) };
        };
        let count = (able.min_image_count + 1).min(if able.max_image_count == 0 {
            u32::MAX
        } else {
            able.max_image_count
        });
        let info = vk::SwapchainCreateInfoKHR::default()
            .surface(self.surface.raw())
            .min_image_count(count)
            .image_format(self.format.format)
            .image_color_space(self.format.color_space)
            .image_extent(extent)
            .image_array_layers(1)
            .image_usage(needed)
            .pre_transform(able.current_transform)
            .composite_alpha(opaque(able.supported_composite_alpha))
            .present_mode(self.mode)
            .clipped(false)
            .old_swapchain(self.raw);
        if !self.idle() {
            return Err("the device has not ended its work for a minute".into());
        }
        // SAFETY: the surface is live, and has this format, mode, usage and size. The old swapchain is this one's own.
        let raw = unsafe { self.loader.create_swapchain(&info, None) }?;
        self.destroy_swapchain();
        self.destroy_lent();
        self.raw = raw;
        self.extent = extent;
        // SAFETY: the swapchain is live.
        self.images = unsafe { self.loader.get_swapchain_images(raw) }?;
        while self.rendered.len() < self.images.len() {
            let semaphore = self.semaphore()?;
            self.rendered.push(semaphore);
        }
        Ok(())
    }

    /// Its size in texels.
    pub fn size(&self) -> [u32; 2] {
        [self.extent.width, self.extent.height]
    }

    /// The format that a shared image needs, so that it can be copied into an image of the swapchain.
    pub fn fourcc(&self) -> Fourcc {
        let found = FORMATS.iter().find(|(format, _)| *format == self.format.format);
        Fourcc::new(found.map_or(*b"XR24", |(_, fourcc)| *fourcc))
    }

    /// Acquires an image. It waits while the surface has none: this is what paces a program.
    ///
    /// # Errors
    ///
    /// The surface has none for a minute; the error of the call.
    pub fn acquire(&mut self) -> Result<State<Acquired>> {
        let acquired = self.unused_semaphore()?;
        let timeout = u64::try_from(TIMEOUT.as_nanos())?;
        let null = vk::Fence::null();
        // SAFETY: the swapchain is live and used by this thread alone; the semaphore is unsignalled, and nothing waits
        // for it. Fewer images are acquired than the surface may lend, since each is presented before the next one.
        let answer = unsafe { self.loader.acquire_next_image(self.raw, timeout, acquired, null) };
        match answer {
            Ok((index, _)) => {
                let at = index as usize;
                self.lent = Some(acquired);
                let (image, rendered) = (self.images[at], self.rendered[at]);
                Ok(State::Done(Acquired { index, image, acquired, rendered }))
            }
            Err(code) => {
                self.free.push(acquired);
                match code {
                    vk::Result::ERROR_OUT_OF_DATE_KHR => Ok(State::OutOfDate),
                    vk::Result::TIMEOUT | vk::Result::NOT_READY => Err(
                        "the surface has given no image for a minute: is the compositor stopped?"
                            .into(),
                    ),
                    _ => Err(code.into()),
                }
            }
        }
    }

    /// Notes the submission that waits for an acquired image.
    pub fn submitted(&mut self, acquired: &Acquired, fence: &Fence) {
        self.lent = None;
        self.waited.push_back((acquired.acquired, fence.clone()));
    }

    /// Presents an image behind the submission that signals its semaphore.
    ///
    /// # Errors
    ///
    /// The error of the call.
    pub fn present(&mut self, acquired: &Acquired) -> Result<State<()>> {
        let (waits, swapchains, indices) = ([acquired.rendered], [self.raw], [acquired.index]);
        let info = vk::PresentInfoKHR::default()
            .wait_semaphores(&waits)
            .swapchains(&swapchains)
            .image_indices(&indices);
        let presented = self.device.with_queue(|queue| {
            // SAFETY: the queue's lock is held; the semaphore's signal is submitted with all that it depends on, since
            // the device was adopted as one that presents; the image is acquired, and in the layout for presents.
            unsafe { self.loader.queue_present(queue, &info) }
        });
        match presented {
            // One that is suboptimal shows all the same. The program compares sizes itself.
            Ok(_) => Ok(State::Done(())),
            Err(vk::Result::ERROR_OUT_OF_DATE_KHR) => Ok(State::OutOfDate),
            Err(code) => Err(code.into()),
        }
    }

    fn unused_semaphore(&mut self) -> Result<vk::Semaphore> {
        while let Some((semaphore, fence)) = self.waited.front() {
            // A lost device gets new ones.
            if !matches!(fence.is_signalled(), Ok(true) | Err(Error::WorkFailed { .. })) {
                break;
            }
            self.free.push(*semaphore);
            self.waited.pop_front();
        }
        match self.free.pop() {
            Some(free) => Ok(free),
            None => self.semaphore(),
        }
    }

    fn semaphore(&self) -> Result<vk::Semaphore> {
        let info = vk::SemaphoreCreateInfo::default();
        // SAFETY: the device is live.
        Ok(unsafe { self.device.raw().create_semaphore(&info, None) }?)
    }

    /// Waits until the queue has nothing to do, presents included. `false`: its work has not ended within a minute.
    fn idle(&self) -> bool {
        let ended = match self.device.submitted() {
            Ok(all) => has_ended(&self.device, &all),
            Err(error) => error.is_device_lost() && has_ended(&self.device, &Fence::signalled()),
        };
        // Presents alone are left, for which there are no fences.
        ended && is_idle(&self.device)
    }

    /// Destroys the semaphore of an image that no submission has used, once its swapchain is destroyed.
    fn destroy_lent(&mut self) {
        if let Some(semaphore) = self.lent.take() {
            // SAFETY: live; no queue waits for it, and nothing signals it any more.
            unsafe { self.device.raw().destroy_semaphore(semaphore, None) };
        }
    }

    fn destroy_swapchain(&self) {
        // SAFETY: null or live; the queue is idle, so no image is being presented.
        unsafe { self.loader.destroy_swapchain(self.raw, None) };
    }
}

impl Drop for Swapchain {
    fn drop(&mut self) {
        if !self.idle() {
            // The swapchain is in use, and so is its surface.
            std::mem::forget(Rc::clone(&self.surface));
            return;
        }
        self.destroy_swapchain();
        self.destroy_lent();
        let waited = self.waited.drain(..).map(|(semaphore, _)| semaphore);
        for semaphore in waited.chain(self.free.drain(..)).chain(self.rendered.drain(..)) {
            // SAFETY: live, and the queue is idle.
            unsafe { self.device.raw().destroy_semaphore(semaphore, None) };
        }
    }
}

/// The size of a swapchain: what the surface says, or else what the program wants, since Wayland leaves the size to it. `None`
/// if the surface has no texels: no swapchain can be made then (VUID-VkSwapchainCreateInfoKHR-imageExtent-01689).
fn extent(able: &vk::SurfaceCapabilitiesKHR, [width, height]: [u32; 2]) -> Option<vk::Extent2D> {
    let (least, most) = (able.min_image_extent, able.max_image_extent);
    let extent = match able.current_extent.width {
        u32::MAX => vk::Extent2D {
            width: width.max(least.width).min(most.width),
            height: height.max(least.height).min(most.height),
        },
        _ => able.current_extent,
    };
    (extent.width > 0 && extent.height > 0).then_some(extent)
}

/// The first of the formats here that a surface has.
///
/// # Errors
///
/// It has none. Those that it has are named.
fn suitable(formats: &[vk::SurfaceFormatKHR]) -> Result<vk::SurfaceFormatKHR> {
    let found = FORMATS
        .iter()
        .find_map(|(wanted, _)| formats.iter().find(|format| format.format == *wanted));
    let names: Vec<_> = formats.iter().map(|format| format!("{:?}", format.format)).collect();
    Ok(*found.ok_or_else(|| {
        let offered = names.join(", ");
        format!(
            "the surface has no format with eight bits for each colour, only {offered}: present on another device, or \
             under another window system"
        )
    })?)
}

/// How the surface is composed: as if the frames were opaque, if it can.
fn opaque(supported: vk::CompositeAlphaFlagsKHR) -> vk::CompositeAlphaFlagsKHR {
    let wanted = [vk::CompositeAlphaFlagsKHR::OPAQUE, vk::CompositeAlphaFlagsKHR::INHERIT];
    let found = wanted.into_iter().find(|wanted| supported.contains(*wanted));
    found.unwrap_or(vk::CompositeAlphaFlagsKHR::PRE_MULTIPLIED)
}

impl std::fmt::Debug for Swapchain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Swapchain").field("extent", &self.extent).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offered(formats: &[vk::Format]) -> Vec<vk::SurfaceFormatKHR> {
        let one =
            |format: &vk::Format| vk::SurfaceFormatKHR { format: *format, ..Default::default() };
        formats.iter().map(one).collect()
    }

    #[test]
    fn a_surface_with_unknown_formats_alone_is_a_sentence_with_their_names() {
        let formats = offered(&[vk::Format::R5G6B5_UNORM_PACK16, vk::Format::R16G16B16A16_SFLOAT]);
        let error = suitable(&formats).expect_err("no format fits").to_string();
        assert!(error.contains("R5G6B5_UNORM_PACK16, R16G16B16A16_SFLOAT"), "{error}");
        assert!(error.contains("present on another device"), "{error}");
    }

    #[test]
    fn a_surface_without_texels_gets_no_swapchain() {
        let size = |width, height| vk::Extent2D { width, height };
        let able = |now, most| vk::SurfaceCapabilitiesKHR {
            current_extent: now,
            max_image_extent: most,
            ..Default::default()
        };
        for (now, most, expected) in [
            (size(0, 0), size(0, 0), None),
            (size(5, 0), size(9, 9), None),
            (size(5, 7), size(9, 9), Some(size(5, 7))),
            (size(u32::MAX, u32::MAX), size(9, 9), Some(size(3, 9))),
            (size(u32::MAX, u32::MAX), size(0, 0), None),
        ] {
            assert_eq!(extent(&able(now, most), [3, 20]), expected, "{now:?}");
        }
    }

    #[test]
    fn of_known_formats_the_first_one_of_the_list_here_is_taken() {
        let formats = offered(&[
            vk::Format::R5G6B5_UNORM_PACK16,
            vk::Format::R8G8B8A8_SRGB,
            vk::Format::B8G8R8A8_UNORM,
        ]);
        let format = suitable(&formats).expect("two fit").format;
        assert_eq!(format, vk::Format::B8G8R8A8_UNORM);
    }
}
