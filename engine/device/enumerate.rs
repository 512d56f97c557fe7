//! The list of adapters of an instance.
#![expect(unsafe_code, reason = "physical-device queries of the Vulkan instance")]

use std::sync::Arc;

use ash::vk;

use super::adapter::{Adapter, Facts};
use super::instance::{Instance, Validation};
use crate::error::{Error, Result};

impl Adapter {
    /// The adapters of this machine, in the loader's order, whether or not any of them can be used.
    /// [`crate::Engine::open`] has the same list, and fails without a usable one.
    ///
    /// # Errors
    ///
    /// [`Error::NoLoader`]; [`Error::NoDevice`] if the loader finds no driver; [`Error::Vulkan`].
    pub fn list() -> Result<Vec<Self>> {
        Self::all(&Instance::create(Validation::Off, None)?)
    }

    /// The adapters of an instance, in the loader's order. An adapter whose facts cannot be read is listed with its
    /// name and the error ([`Adapter::read_error`]), so that one driver's failure hides no other driver.
    pub(crate) fn all(instance: &Arc<Instance>) -> Result<Vec<Self>> {
        let list = instance.physical_devices()?.into_iter().enumerate();
        let read = |(index, physical)| {
            Self::read(instance, physical, index).unwrap_or_else(|error| {
                let adapter = Self::unread(instance, physical, index, error);
                let why = adapter.why_unusable().unwrap_or_default();
                tracing::warn!(name = adapter.name(), why, "an adapter cannot be read");
                adapter
            })
        };
        Ok(list.map(read).collect())
    }

    /// An adapter whose facts could not be read: its name, kind and versions, and the error.
    fn unread(
        instance: &Arc<Instance>,
        physical: vk::PhysicalDevice,
        index: usize,
        error: Error,
    ) -> Self {
        // SAFETY: `physical` was enumerated from the live instance.
        let basic = unsafe { instance.raw().get_physical_device_properties(physical) };
        Self(Arc::new(Facts {
            missing: vec!["facts that can be read"],
            read_error: Some(error),
            ..Facts::basic(instance, physical, index, &basic)
        }))
    }

    /// The error that ended the reading of the adapter's facts. Such an adapter cannot be opened:
    /// [`Adapter::missing`] is not empty, and the facts beside name, kind and versions are empty.
    pub fn read_error(&self) -> Option<&Error> {
        self.0.read_error.as_ref()
    }

    /// Fails if something is known to prevent that the adapter is opened.
    pub(super) fn check_openable(&self) -> Result<()> {
        let device = || self.name().to_owned();
        match (self.read_error(), self.missing()) {
            (Some(Error::Vulkan { call, code, .. }), _) => {
                Err(Error::Vulkan { device: device(), call, code: *code })
            }
            (_, [missing, ..]) => {
                Err(Error::Unsupported { device: device(), missing: (*missing).to_owned() })
            }
            (_, []) => Ok(()),
        }
    }

    /// Why the adapter cannot be opened, in one line without its name; `None` if nothing is known to prevent it.
    pub fn why_unusable(&self) -> Option<String> {
        match (self.read_error(), self.missing()) {
            (Some(Error::Vulkan { call, code, .. }), _) => {
                Some(format!("its driver failed: {call} returned {code:?}"))
            }
            (Some(error), _) => Some(format!("its driver failed: {}", error.with_causes())),
            (None, []) => None,
            (None, missing) => Some(format!("lacks {}", missing.join(", "))),
        }
    }
}
