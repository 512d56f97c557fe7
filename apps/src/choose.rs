//! Which devices draw and present, and why others do not.
#![expect(unsafe_code, reason = "devices and surfaces of the program's own")]

use peerbuf::{Adapter, AdapterSelector, Engine};

use crate::Result;
use crate::gpu::Gpu;
use crate::surface::{Place, Surface};

/// A device that presents, with its surface.
#[derive(Debug)]
pub struct Presenter {
    // Dropped in this order.
    /// The surface.
    pub surface: Surface,
    /// The device.
    pub gpu: Gpu,
    /// Its adapter.
    pub adapter: Adapter,
}

/// The adapter that is asked for, or the first one that can be used.
///
/// # Errors
///
/// There is none.
pub fn adapter(engine: &Engine, asked: Option<AdapterSelector>) -> Result<Adapter> {
    let chosen = match asked {
        Some(selector) => Some(engine.adapter(selector)?),
        None => engine.adapters().iter().find(|adapter| adapter.missing().is_empty()),
    };
    Ok(chosen
        .ok_or("no device that peerbuf can use: `peerbuf doctor` says what is missing")?
        .clone())
}

/// The device that presents: the one that is asked for, or else another one than `render`, or else that one.
///
/// # Errors
///
/// None can present there; each is named with the reason.
pub fn presenter(
    engine: &Engine,
    render: Option<&Adapter>,
    place: Place,
    asked: Option<AdapterSelector>,
) -> Result<Presenter> {
    let candidates: Vec<Adapter> = match asked {
        Some(selector) => vec![engine.adapter(selector)?.clone()],
        None => {
            let draws = |one: &&Adapter| render.is_some_and(|render| one.index() == render.index());
            let all = engine.adapters();
            let others = all.iter().filter(|one| !draws(one));
            others.chain(render).filter(|one| one.missing().is_empty()).cloned().collect()
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
