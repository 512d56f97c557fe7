//! Images that are attached, mapped, written, read and dropped while they are laid out anew and moved. On a real device.
#![expect(unsafe_code, reason = "recording a clear")]

use ash::vk;
use shuttle::sync::Arc;

use super::stage::{Notified, Stage};
use super::together;
use crate::image::{Fourcc, Padding};
use crate::{
    Access, DomainId, Error, ImageAttachment, ImageDescriptor, ImageMapping, ImagePart, RawImage,
    Result, SharedImage,
};

/// Enough interleavings to find each bug that was planted on purpose many times over.
const RUNS: usize = 60;

/// Texels that the host writes first, and that a device writes.
const FIRST: u8 = 0x11;
const SECOND: u8 = 0x99;

/// An image of the first device, with texels of [`FIRST`], that the second one has attached.
struct Images {
    attachment: ImageAttachment,
    notified: Arc<Notified>,
    image: SharedImage,
    stage: Stage,
}

impl Images {
    fn new() -> Arc<Self> {
        let stage = Stage::new();
        let fourcc = Fourcc::new(*b"R8  ");
        stage.engine.images.assume_rows(fourcc, [stage.a.id(), stage.b.id()]);
        // The driver places rows without padding.
        let descriptor = ImageDescriptor::new(fourcc, 62, 18);
        let image = stage.engine.create_image(&stage.a, descriptor).expect("there is memory");
        let all = vec![FIRST; 62 * 18];
        image.write_texels(ImagePart::default(), &all).expect("the image is idle");
        let notified = Arc::<Notified>::default();
        let importer = Arc::clone(&notified) as Arc<dyn crate::Importer>;
        let attachment = image.attach_dynamic(&stage.b, image.usage(), importer);
        let attachment = attachment.expect("both devices reach the image");
        Arc::new(Self { attachment, notified, image, stage })
    }

    /// Pads the rows, and takes the padding away again, unless the image is busy.
    fn lay_out_twice(&self) {
        for padding in [Padding::CROSSING, Padding::NONE] {
            unless_busy(self.image.lay_out(padding));
        }
    }

    /// The second device fills the image.
    fn fill(&self, mapping: &mut ImageMapping) {
        let device = self.attachment.device();
        let mut images = [(&self.attachment, mapping)];
        let filled = self.stage.engine.submit_images_remapped(
            &device,
            &mut images,
            &mut [],
            |work, images, _| {
                let image = images[0].write(work)?;
                let raw = device.raw().clone();
                // SAFETY: the command is valid for the image, which was declared, and uses nothing else.
                unsafe { work.record(move |commands| clear(&raw, commands, image)) };
                Ok(())
            },
        );
        drop(filled.expect("the submission succeeds"));
    }

    /// The one value that all texels have. Two at a time would be a torn move, or rows at wrong places.
    fn texel(&self) -> u8 {
        let all = self.image.read_texels(ImagePart::default()).expect("the host reads");
        assert!(all.iter().all(|texel| *texel == all[0]), "all texels have one value");
        all[0]
    }

    /// Checks the texels, that the importer was notified of each generation, and that no object is left.
    fn finish(self: Arc<Self>, last: u8) {
        let this = Arc::into_inner(self).expect("the threads have ended");
        assert_eq!(this.texel(), last);
        let mut notified = this.notified.list();
        // A move that was given up is notified of again.
        notified.dedup();
        assert_eq!(notified, (0..this.image.generation()).collect::<Vec<_>>());
        let Self { attachment, notified, image, stage } = this;
        drop((attachment, notified, image));
        stage.finish();
    }
}

/// Records a clear.
fn clear(raw: &ash::Device, commands: vk::CommandBuffer, image: RawImage) {
    let color = vk::ClearColorValue { float32: [f32::from(SECOND) / 255.0; 4] };
    let range = [vk::ImageSubresourceRange {
        aspect_mask: vk::ImageAspectFlags::COLOR,
        base_mip_level: 0,
        level_count: 1,
        base_array_layer: 0,
        layer_count: 1,
    }];
    // SAFETY: the image is the device's, in this layout, and can be copied to.
    unsafe { raw.cmd_clear_color_image(commands, image.image, image.layout, &color, &range) };
}

fn unless_busy<T>(result: Result<T>) -> Option<T> {
    match result {
        Ok(done) => Some(done),
        Err(Error::Busy { .. }) => None,
        Err(error) => panic!("it succeeds, or the image is busy: {error}"),
    }
}

/// A mapping has the layout of its generation, and a device's write is in all texels, whatever layout it was made in.
#[test]
fn map_and_write_against_new_layouts() {
    super::sample(RUNS, || {
        let images = Images::new();
        let done = together(
            &images,
            [
                |images| {
                    images.lay_out_twice();
                    false
                },
                |images| {
                    let mapping = unless_busy(images.attachment.map(Access::ReadWrite));
                    let Some(mut mapping) = mapping else { return false };
                    let layout = mapping.layout();
                    match mapping.view() {
                        Ok(_) => {}
                        Err(Error::Stale { current, .. }) => {
                            assert!(current > mapping.generation());
                        }
                        Err(error) => panic!("{error}"),
                    }
                    assert_eq!(mapping.layout(), layout, "it names its own");
                    images.fill(&mut mapping);
                    true
                },
            ],
        );
        let last = if done[1] { SECOND } else { FIRST };
        let pitch = images.image.layout().planes()[0].pitch;
        assert!([62, 256].contains(&pitch), "{pitch}");
        images.finish(last);
    });
}

/// The host reads one value everywhere while the rows get other places.
#[test]
fn reads_of_the_host_against_new_layouts_and_moves() {
    super::sample(RUNS, || {
        let images = Images::new();
        together(
            &images,
            [
                |images| images.lay_out_twice(),
                |images| assert_eq!((images.texel(), images.texel()), (FIRST, FIRST)),
                |images| {
                    unless_busy(images.image.migrate(DomainId::System));
                },
            ],
        );
        images.finish(FIRST);
    });
}

/// Attachments come and go while the image is laid out anew, and one is dropped with its mapping last.
#[test]
fn attach_and_drop_against_new_layouts() {
    super::sample(RUNS, || {
        let images = Images::new();
        together(
            &images,
            [
                |images| images.lay_out_twice(),
                |images| {
                    let image = &images.image;
                    let importer = Arc::<Notified>::default() as Arc<dyn crate::Importer>;
                    let made = image.attach_dynamic(&images.stage.b, image.usage(), importer);
                    let Some(another) = unless_busy(made) else { return };
                    let mapping = unless_busy(another.map(Access::Read));
                    let explained = image.explain();
                    let mut listed = explained.attachments.iter();
                    assert!(listed.any(|one| one.attachment == another.id()));
                    drop(another);
                    drop(mapping);
                },
                |images| {
                    // A static mapping keeps the image and its layout.
                    let Some(fixed) = unless_busy(images.image.attach(&images.stage.a)) else {
                        return;
                    };
                    let Some(mapping) = unless_busy(fixed.map(Access::Read)) else { return };
                    let layout = images.image.layout();
                    assert_eq!(mapping.layout(), layout);
                    mapping.view().expect("a static mapping stays current");
                    assert_eq!(images.image.layout(), layout);
                },
            ],
        );
        images.finish(FIRST);
    });
}
