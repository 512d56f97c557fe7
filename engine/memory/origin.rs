//! Origins: what an allocation is created from, and the translation of its errors.

use std::sync::Arc;

use super::device_set::DeviceSet;
use super::domain::Domain;
use super::domain_id::DomainKind;
use super::imports::Imports;
use super::memory_type::MemoryPriority;
use super::provider::Provider;
use super::view_error::ViewError;
use crate::device::{Call, Calls, DeviceInner, HandleType};
use crate::error::{Error, Result};
use crate::observe::Live;

/// What an allocation is created from: the provider, its exporter if it has one, the domain that counts it, and the
/// devices that share its buffers.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    pub(crate) provider: Provider,
    pub(crate) exporter: Option<Arc<DeviceInner>>,
    pub(crate) domain: Arc<Domain>,
    pub(crate) calls: Arc<Calls>,
    pub(crate) live: Arc<Live>,
    /// The ledger of imports, with the list of unused views.
    pub(crate) imports: Arc<Imports>,
    pub(crate) sharers: DeviceSet,
    pub(crate) priority: MemoryPriority,
}

impl Origin {
    /// That of memfds of all devices, for tests.
    #[cfg(test)]
    pub(super) fn of_memfds(domain: &Arc<Domain>) -> Self {
        Self {
            provider: Provider::Memfd,
            exporter: None,
            domain: Arc::clone(domain),
            calls: Arc::default(),
            live: Arc::default(),
            imports: Arc::default(),
            sharers: DeviceSet::ALL,
            priority: MemoryPriority::DEFAULT,
        }
    }

    /// The kind of memory that imports of it are counted as.
    pub(super) fn domain_kind(&self) -> DomainKind {
        self.provider.domain().kind()
    }

    /// The same, for an allocation with a priority of its own.
    pub(super) fn with_priority(&self, priority: MemoryPriority) -> Self {
        Self { priority, ..self.clone() }
    }

    /// Counts `size` bytes as allocated; returns how many to release later.
    pub(super) fn hold(&self, size: u64) -> Result<u64> {
        self.domain.hold(size).map(|()| size).map_err(|held| self.out_of_memory(size, held))
    }

    /// Checks that the driver's budget allows an allocation of `size` bytes for buffers. What routes are proved with is
    /// not checked: an eviction may have to prove one.
    pub(super) fn check_driver_budget(&self, size: u64) -> Result<()> {
        let checked = self.domain.check_driver_budget(size);
        checked.map_err(|held| self.out_of_memory(size, held))
    }

    fn out_of_memory(&self, requested: u64, used: u64) -> Error {
        Error::OutOfMemory {
            domain: self.domain.id(),
            requested,
            budget: self.domain.budget(),
            used,
            code: None,
            failures: Box::default(),
        }
    }

    /// Translates an error of an import. Only memory from outside this engine is reported as a foreign fd.
    pub(super) fn import_error(
        &self,
        device: &DeviceInner,
        handle: HandleType,
        error: ViewError,
    ) -> Error {
        match error {
            error if matches!(self.provider, Provider::Foreign(_)) => {
                error.importing(device, handle)
            }
            ViewError::Vulkan(code) => device.error(Call::ImportMemory.name(), code),
            ViewError::RefusedFile { code, size, file } => Error::Unsupported {
                device: device.name().to_owned(),
                missing: format!(
                    "imports of {size} bytes from a file of {file} bytes ({}: {code:?})",
                    Call::ImportMemory.name()
                ),
            },
            ViewError::NoMemoryType => Error::Unsupported {
                device: device.name().to_owned(),
                missing: format!("a memory type for {}", self.provider),
            },
            error => error.importing(device, handle),
        }
    }

    /// Translates an error of an allocation of `size` bytes on `device`.
    pub(super) fn allocation_error(
        &self,
        device: &DeviceInner,
        error: ViewError,
        size: u64,
    ) -> Error {
        use ash::vk::Result as Code;
        let code = match error {
            ViewError::Vulkan(code) => code,
            ViewError::NoMemoryType => {
                return Error::Unsupported {
                    device: device.name().to_owned(),
                    missing: format!("a memory type for {}", self.provider),
                };
            }
            other => return other.importing(device, HandleType::OpaqueFd),
        };
        match code {
            // There may be no more than `maxMemoryAllocationCount` allocations, often 4096. Freeing some helps.
            Code::ERROR_OUT_OF_DEVICE_MEMORY
            | Code::ERROR_OUT_OF_HOST_MEMORY
            | Code::ERROR_TOO_MANY_OBJECTS => Error::fd_limit(Call::AllocateMemory.name())
                .unwrap_or_else(|| Error::OutOfMemory {
                    domain: self.domain.id(),
                    requested: size,
                    budget: self.domain.budget(),
                    used: self.domain.used(),
                    code: Some(code),
                    failures: Box::default(),
                }),
            code => device.error(Call::AllocateMemory.name(), code),
        }
    }
}
