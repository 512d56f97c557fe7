//! One physical device as the application sees it.

use std::ffi::CStr;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, Weak};

use ash::vk::{self, Handle};

use super::instance::{Instance, Names};
use super::layout::Layout;
use super::{lock, names, report};
use crate::config::{Switches, World};

/// One physical device. The application's handle is a pointer to it.
#[repr(C)]
pub(super) struct Physical {
    /// The loader's table, as in the driver's handle. Layers above take it as the key of the instance.
    _loader: usize,
    pub(super) raw: vk::PhysicalDevice,
    pub(super) instance: Weak<Instance>,
    /// Index in the order of enumeration.
    pub(super) index: usize,
    /// 0 for the driver's own, else the number of the copy.
    pub(super) copy: u32,
    /// How reports name it.
    pub(super) label: String,
    device_name: String,
    driver_name: String,
    pub(super) layout: Layout,
    /// The switches with which it was listed. What a device *is* does not change.
    pub(super) fixed: Switches,
    live: Live,
}

/// The switches as they are now: the control file can change them.
struct Live {
    world: Arc<World>,
    path: Option<PathBuf>,
    state: Mutex<LiveState>,
}

struct LiveState {
    stamp: Option<(u64, i64, i64)>,
    now: Arc<Switches>,
}

impl Physical {
    pub(super) unsafe fn new(
        instance: &Arc<Instance>,
        raw: vk::PhysicalDevice,
        index: usize,
        copy: u32,
        names: &Names,
        world: Arc<World>,
    ) -> Result<Arc<Self>, vk::Result> {
        let fixed = world.switches(names.subject(index), None).map_err(|error| {
            report::fault(format_args!("{error}"));
            vk::Result::ERROR_INITIALIZATION_FAILED
        })?;
        let layout = Layout::new(&instance.fns.get_physical_device_memory_properties(raw), &fixed)?;
        Ok(Arc::new(Self {
            _loader: *(raw.as_raw() as *const usize),
            raw,
            instance: Arc::downgrade(instance),
            index,
            copy,
            label: format!("device {index} ({})", names.device),
            device_name: names.device.clone(),
            driver_name: names.driver.clone(),
            layout,
            live: Live {
                world,
                path: std::env::var_os("DRIVER_SIM_CONTROL").map(PathBuf::from),
                state: Mutex::new(LiveState { stamp: None, now: Arc::new(fixed.clone()) }),
            },
            fixed,
        }))
    }

    /// The application's handle.
    pub(super) fn handle(self: &Arc<Self>) -> vk::PhysicalDevice {
        vk::PhysicalDevice::from_raw(Arc::as_ptr(self) as u64)
    }

    /// The device of a handle of the application's.
    ///
    /// # Safety
    /// The handle is one that [`Self::handle`] gave, and its instance is alive.
    pub(super) unsafe fn of<'a>(handle: vk::PhysicalDevice) -> &'a Self {
        &*(handle.as_raw() as *const Self)
    }

    /// Whether a control file may change switches while devices exist.
    pub(super) fn is_controlled(&self) -> bool {
        self.live.path.is_some()
    }

    /// The switches as they are now.
    pub(super) fn switches(&self) -> Arc<Switches> {
        let mut state = lock(&self.live.state);
        let Some(path) = &self.live.path else {
            return Arc::clone(&state.now);
        };
        let stamp =
            std::fs::metadata(path).ok().map(|meta| (meta.ino(), meta.mtime(), meta.mtime_nsec()));
        if stamp == state.stamp {
            return Arc::clone(&state.now);
        }
        state.stamp = stamp;
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let subject = crate::config::Subject {
            index: self.index,
            device: &self.device_name,
            driver: &self.driver_name,
        };
        let read =
            World::parse(&text).and_then(|later| self.live.world.switches(subject, Some(&later)));
        match read {
            Ok(switches) => state.now = Arc::new(switches),
            Err(error) => report::fault(format_args!("{}: {error}", path.display())),
        }
        Arc::clone(&state.now)
    }

    /// The version that the device reports, if it is not the driver's.
    pub(super) fn api_version(&self) -> Option<u32> {
        self.fixed.api_version.map(|version| version.0)
    }

    /// Whether a core function came with a later version than the device reports.
    pub(super) fn is_too_new(&self, name: &CStr) -> bool {
        self.api_version().is_some_and(|version| names::since(name) > version)
    }
}
