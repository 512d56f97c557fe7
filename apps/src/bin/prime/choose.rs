//! Which devices draw and present, and why others do not.
#![expect(unsafe_code, reason = "devices and surfaces of the program's own")]

use peerbuf::{Adapter, Engine};
use peerbuf_apps::Result;
use peerbuf_apps::gpu::Gpu;
use peerbuf_apps::surface::{Place, Surface};

use crate::args::Args;

/// A device that presents, with its surface.
pub(crate) struct Presenter {
    // Dropped in this order.
    pub(crate) surface: Surface,
    pub(crate) gpu: Gpu,
    pub(crate) adapter: Adapter,
}

/// The adapter that draws.
pub(crate) fn renderer(engine: &Engine, args: &Args) -> Result<Adapter> {
    let adapters = engine.adapters();
    let chosen = match args.render {
        Some(selector) => Some(engine.adapter(selector)?),
        None => adapters.iter().find(|adapter| adapter.missing().is_empty()),
    };
    Ok(chosen
        .ok_or("no device that peerbuf can use: `peerbuf doctor` says what is missing")?
        .clone())
}

/// The adapter that presents: the one that is asked for, or another one than draws, or that one.
pub(crate) fn presenter(
    engine: &Engine,
    render: &Adapter,
    place: Place,
    args: &Args,
) -> Result<Presenter> {
    let candidates: Vec<Adapter> = match args.present {
        Some(selector) => vec![engine.adapter(selector)?.clone()],
        None => {
            let others = engine.adapters().iter().filter(|one| one.index() != render.index());
            others.chain([render]).filter(|one| one.missing().is_empty()).cloned().collect()
        }
    };
    let mut reasons = vec![];
    for adapter in candidates {
        match present_on(&adapter, place) {
            Ok((gpu, surface)) => return Ok(Presenter { surface, gpu, adapter }),
            Err(error) => reasons.push(format!("{}: {error}", adapter.name())),
        }
    }
    Err(format!("no device can present here.\n  {}", reasons.join("\n  ")).into())
}

fn present_on(adapter: &Adapter, place: Place) -> Result<(Gpu, Surface)> {
    if let Some(reason) = place.refuses(adapter) {
        return Err(reason.into());
    }
    let gpu = Gpu::new(adapter, Some(&place.extensions()?))?;
    // SAFETY: the program drops its surface before its window and before the device is destroyed.
    match unsafe { Surface::new(&gpu, place) } {
        Ok(surface) => Ok((gpu, surface)),
        Err(error) => {
            // SAFETY: nothing was created on it.
            unsafe { gpu.destroy() };
            Err(error)
        }
    }
}
