//! The devices of a run, and everything that the first frame needs. A device that is lost meanwhile is left out.
#![expect(unsafe_code, reason = "devices of the program's own")]

use ash::vk;
use peerbuf::{Adapter, Device, Engine, EngineDescriptor, Error};

use crate::Result;
use crate::choose::{self, Lost, Presenter};
use crate::gpu::Gpu;
use crate::surface::{Place, Surface};
use crate::swapchain::Swapchain;

use super::args::Args;
use super::frame::Prime;
use super::loss::Carried;

/// The program on its devices.
pub(super) struct On {
    pub(super) prime: Box<Prime>,
    pub(super) engine: Engine,
    gpus: Vec<Gpu>,
    pub(super) presenter: Adapter,
}

/// Why there is no program on some devices.
struct NotOpened {
    error: Box<dyn std::error::Error>,
    /// The device that was lost meanwhile.
    lost: Option<Adapter>,
}

impl On {
    /// Opens the devices. If one is lost meanwhile, it is noted, and others are opened.
    ///
    /// # Errors
    ///
    /// No device draws or presents there; the error of a call.
    pub(super) fn open(
        args: &Args,
        place: Place,
        lost: &mut Lost,
        mut carried: Carried,
    ) -> Result<Self> {
        // Each turn leaves out one device more.
        loop {
            let NotOpened { error, lost: adapter } =
                match Self::open_once(args, place, lost, carried.clone()) {
                    Ok(on) => return Ok(on),
                    Err(failed) => failed,
                };
            let Some(adapter) = adapter else { return Err(error) };
            let name = adapter.name();
            carried.events.push(format!("before frame {}: {error}; without {name}", carried.frame));
            lost.note(&adapter);
        }
    }

    fn open_once(
        args: &Args,
        place: Place,
        lost: &Lost,
        mut carried: Carried,
    ) -> Result<Self, NotOpened> {
        let other = |error| NotOpened { error, lost: None };
        let engine = Engine::open(&EngineDescriptor::new()).map_err(|error| other(error.into()))?;
        let render = choose::adapter(&engine, args.render, lost).map_err(other)?;
        let Presenter { surface, gpu, adapter } =
            choose::presenter(&engine, Some(&render), place, args.present, lost).map_err(other)?;
        let by = |adapter: &Adapter, error: Box<dyn std::error::Error>| NotOpened {
            lost: is_loss(&*error).then(|| adapter.clone()),
            error,
        };
        // SAFETY: `close` drops the engine before it destroys the devices.
        let present = unsafe { gpu.adopt(&engine) }.map_err(|error| by(&adapter, error))?;
        let mut gpus = vec![];
        let drawing = if render.index() == adapter.index() {
            let asked = args.render.is_some() && args.present.is_some();
            if !asked {
                let name = adapter.name();
                let event = format!("{name} draws and presents: no other device here presents");
                carried.events.push(event);
            }
            present.clone()
        } else {
            let drawing = Gpu::new(&render, None).map_err(|error| by(&render, error))?;
            // SAFETY: as above.
            let device = unsafe { drawing.adopt(&engine) }.map_err(|error| by(&render, error))?;
            gpus.push(drawing);
            device
        };
        let devices = [&drawing, &present];
        match Self::begin((&engine, &gpu), devices, surface, args, carried) {
            Ok(prime) => {
                gpus.push(gpu);
                Ok(Self { prime: Box::new(prime), engine, gpus, presenter: adapter })
            }
            Err(error) => {
                let is_presenter = drawing == present || present.is_lost();
                let is_loss = is_loss(&*error) || drawing.is_lost() || present.is_lost();
                let adapter = if is_presenter { adapter } else { render };
                let lost = is_loss.then_some(adapter);
                drop((drawing, present));
                gpus.push(gpu);
                end(engine, gpus);
                Err(NotOpened { error, lost })
            }
        }
    }

    fn begin(
        (engine, gpu): (&Engine, &Gpu),
        devices: [&Device; 2],
        surface: Surface,
        args: &Args,
        carried: Carried,
    ) -> Result<Prime> {
        // SAFETY: the surface is of this device's instance, and is dropped with the swapchain before the device.
        let swapchain =
            unsafe { Swapchain::new(gpu, devices[1], surface, args.size.0, args.vsync) }?;
        Prime::new(engine, devices, swapchain, args, carried)
    }

    /// Ends what there is on its devices.
    pub(super) fn close(self) -> Carried {
        let Self { prime, engine, gpus, .. } = self;
        let carried = prime.carry();
        end(engine, gpus);
        carried
    }
}

/// Drops the engine, then destroys its devices. Everything else on them is dropped or leaked.
fn end(engine: Engine, gpus: Vec<Gpu>) {
    drop(engine);
    for gpu in gpus {
        // SAFETY: by the contract of this function.
        unsafe { gpu.destroy() };
    }
}

fn is_loss(error: &(dyn std::error::Error + 'static)) -> bool {
    use Error::{DeviceLost, Poisoned, WorkFailed};
    let by_engine = error.downcast_ref::<Error>().is_some_and(|error| {
        matches!(error, DeviceLost { .. } | Poisoned { .. } | WorkFailed { .. })
    });
    by_engine || error.downcast_ref() == Some(&vk::Result::ERROR_DEVICE_LOST)
}

impl std::fmt::Debug for On {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("On").field("presenter", &self.presenter).finish_non_exhaustive()
    }
}
