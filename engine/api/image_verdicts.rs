//! How devices share images.

use super::engine::Engine;
use crate::device::Device;
use crate::image::{self, Fourcc, ImageVerdict, ImageVerdictError, Shape};

/// # Layouts of images
impl Engine {
    /// How two devices share images of a format and size, if `from` writes by copies and `to` samples: which layouts work,
    /// proved with texels, and for every other one the reason.
    ///
    /// Drivers are asked first. What they offer is tried at the first call: an odd image of the same format and layout is
    /// written on one device and read on the other, by a copy and by a shader, on devices that are opened for it. What was
    /// found is remembered for the format, the layout and the pair, until [`Engine::forget_routes`]. Each try ends within
    /// about the engine timeout. The best route to each kind of memory is proved before ([`Engine::route`]).
    ///
    /// Images are tried in this process, also where a program proves routes
    /// ([`crate::EngineDescriptor::probe_program`]).
    ///
    /// ```no_run
    /// use peerbuf::image::{Fourcc, LayoutResult, Shape};
    /// # fn show(engine: &peerbuf::Engine, from: &peerbuf::Device, to: &peerbuf::Device) {
    /// let verdict = engine.image_verdict(from, to, Fourcc::new(*b"AR24"), Shape::new(1920, 1080));
    /// for layout in verdict.expect("a format of the table").layouts {
    ///     let works = matches!(layout.result, LayoutResult::Proved(_));
    ///     println!("{}: {works}", layout.candidate);
    /// }
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ImageVerdictError`]; of the engine's errors [`crate::Error::ForeignEngine`], [`crate::Error::FdLimit`], and
    /// [`crate::Error::RoutesUnproved`] if no route between the devices could be tried.
    ///
    /// Locks: none may be held; this waits for devices.
    pub fn image_verdict(
        &self,
        from: &Device,
        to: &Device,
        fourcc: Fourcc,
        shape: Shape,
    ) -> Result<ImageVerdict, ImageVerdictError> {
        self.set.core.check(&from.0)?;
        self.set.core.check(&to.0)?;
        image::verdict(&self.set.core, &self.images, (&from.0, &to.0), fourcc, shape)
    }
}
