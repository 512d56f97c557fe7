//! Which devices draw and present, and why others do not.
#![expect(unsafe_code, reason = "devices and surfaces of the program's own")]

use peerbuf::device::Uuid;
use peerbuf::{Adapter, AdapterSelector, Engine};

use crate::Result;
use crate::gpu::Gpu;
use crate::surface::{Place, Surface};

/// Devices that were lost. They are told apart by identifier and number, since two cards may have one identifier.
#[derive(Clone, Debug, Default)]
pub struct Lost(Vec<(Uuid, usize)>);

impl Lost {
    /// Notes that one was lost.
    pub fn note(&mut self, adapter: &Adapter) {
        self.0.push((adapter.device_uuid(), adapter.index()));
    }

    /// Why a device cannot be used; `None` if it can.
    fn refuses(&self, adapter: &Adapter) -> Option<String> {
        if self.0.contains(&(adapter.device_uuid(), adapter.index())) {
            return Some("it was lost".to_owned());
        }
        let missing = adapter.missing();
        (!missing.is_empty()).then(|| format!("it lacks {}", missing.join(", ")))
    }
}

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

/// The adapter that is asked for, or the first one that can be used. One that was lost is not taken.
///
/// # Errors
///
/// There is none.
pub fn adapter(engine: &Engine, asked: Option<AdapterSelector>, lost: &Lost) -> Result<Adapter> {
    if let Some(selector) = asked {
        let adapter = engine.adapter(selector)?;
        match lost.refuses(adapter) {
            None => return Ok(adapter.clone()),
            Some(refused) if lost.0.is_empty() => {
                let name = adapter.name();
                return Err(
                    format!("{name} cannot draw: {refused}; `peerbuf doctor` says more").into()
                );
            }
            Some(_) => {}
        }
    }
    let mut reasons = vec![];
    for adapter in engine.adapters() {
        match lost.refuses(adapter) {
            None => return Ok(adapter.clone()),
            Some(refused) => reasons.push(format!("{}: {refused}", adapter.name())),
        }
    }
    let reasons = reasons.join("\n  ");
    Err(format!("no device can draw: `peerbuf doctor` says what is missing\n  {reasons}").into())
}

/// The device that presents: the one that is asked for, or else another one than `render`, or else that one. One that was
/// lost is not taken.
///
/// # Errors
///
/// None can present there. Each is named with the reason, and what to do is said.
pub fn presenter(
    engine: &Engine,
    render: Option<&Adapter>,
    place: Place,
    asked: Option<AdapterSelector>,
    lost: &Lost,
) -> Result<Presenter> {
    let asked = asked.map(|selector| engine.adapter(selector)).transpose()?;
    let candidates: Vec<Adapter> = match asked {
        Some(asked) if lost.0.is_empty() => vec![asked.clone()],
        _ => {
            let draws = |one: &&Adapter| render.is_some_and(|render| one.index() == render.index());
            let all = engine.adapters();
            let others = all.iter().filter(|one| !draws(one));
            others.chain(render).cloned().collect()
        }
    };
    let mut reasons = vec![];
    for adapter in candidates {
        match present_on(&adapter, place, lost) {
            Ok((gpu, surface)) => return Ok(Presenter { surface, gpu, adapter }),
            Err(error) => reasons.push(format!("{}: {error}", adapter.name())),
        }
    }
    let what = match place {
        Place::Headless => {
            "install a driver that presents without a display (VK_EXT_headless_surface)"
        }
        Place::Window(..) => "name another device, try another window system, or pass --headless",
    };
    Err(format!("no device can present here: {what}\n  {}", reasons.join("\n  ")).into())
}

fn present_on(adapter: &Adapter, place: Place, lost: &Lost) -> Result<(Gpu, Surface)> {
    let refused = lost.refuses(adapter).or_else(|| place.refuses(adapter).map(str::to_owned));
    if let Some(reason) = refused {
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
