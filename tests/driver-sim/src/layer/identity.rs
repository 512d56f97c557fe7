//! What a device says it is: `VkPhysicalDeviceProperties` and the structures in its chain.

use std::ffi::{CStr, c_char, c_void};

use ash::vk;

use super::chain::find_mut;
use super::physical::Physical;
use crate::config::Kind;

impl Physical {
    /// Changes the properties that the driver filled in.
    pub(super) fn change_properties(&self, to: &mut vk::PhysicalDeviceProperties) {
        let (is, all) = (&self.fixed.identity, &self.fixed);
        to.api_version =
            self.api_version().map_or(to.api_version, |version| version.min(to.api_version));
        set(&mut to.vendor_id, is.vendor);
        set(&mut to.device_id, is.device);
        set(&mut to.driver_version, is.driver_version);
        let kind = is.kind.or(all.integrated.then_some(Kind::Integrated));
        set(
            &mut to.device_type,
            kind.map(|kind| match kind {
                Kind::Discrete => vk::PhysicalDeviceType::DISCRETE_GPU,
                Kind::Integrated => vk::PhysicalDeviceType::INTEGRATED_GPU,
                Kind::Virtual => vk::PhysicalDeviceType::VIRTUAL_GPU,
                Kind::Cpu => vk::PhysicalDeviceType::CPU,
            }),
        );
        if let Some(name) = &is.name {
            write_text(&mut to.device_name, name);
        } else if self.copy > 0 {
            let name = to.device_name_as_c_str().unwrap_or_default().to_string_lossy().into_owned();
            write_text(&mut to.device_name, &format!("{name} #{}", self.copy + 1));
        }
        to.pipeline_cache_uuid[0] ^= self.copy_byte();
        set(&mut to.limits.max_memory_allocation_count, all.max_allocation_count);
        set(&mut to.limits.non_coherent_atom_size, all.non_coherent);
    }

    /// Changes the structures behind the properties.
    ///
    /// # Safety
    /// `chain` is the `pNext` chain of `VkPhysicalDeviceProperties2` that the driver filled in.
    pub(super) unsafe fn change_chain(&self, chain: *mut c_void) {
        if let Some(to) = find_mut::<vk::PhysicalDeviceIDProperties<'_>>(chain) {
            self.change_uuids(&mut to.device_uuid, &mut to.driver_uuid);
        }
        if let Some(to) = find_mut::<vk::PhysicalDeviceVulkan11Properties<'_>>(chain) {
            self.change_uuids(&mut to.device_uuid, &mut to.driver_uuid);
            set(&mut to.max_memory_allocation_size, self.fixed.max_allocation.map(|size| size.0));
        }
        if let Some(to) = find_mut::<vk::PhysicalDeviceMaintenance3Properties<'_>>(chain) {
            set(&mut to.max_memory_allocation_size, self.fixed.max_allocation.map(|size| size.0));
        }
        if let Some(to) = find_mut::<vk::PhysicalDeviceMaintenance4Properties<'_>>(chain) {
            set(&mut to.max_buffer_size, self.fixed.max_buffer_size.map(|size| size.0));
        }
        if let Some(to) = find_mut::<vk::PhysicalDeviceVulkan13Properties<'_>>(chain) {
            set(&mut to.max_buffer_size, self.fixed.max_buffer_size.map(|size| size.0));
        }
        if let Some(to) = find_mut::<vk::PhysicalDeviceDriverProperties<'_>>(chain) {
            self.change_driver(&mut to.driver_id, &mut to.driver_name, &mut to.driver_info);
        }
        if let Some(to) = find_mut::<vk::PhysicalDeviceVulkan12Properties<'_>>(chain) {
            self.change_driver(&mut to.driver_id, &mut to.driver_name, &mut to.driver_info);
        }
        if let Some(to) = find_mut::<vk::PhysicalDeviceExternalMemoryHostPropertiesEXT<'_>>(chain) {
            set(&mut to.min_imported_host_pointer_alignment, self.fixed.host_pointer_alignment);
        }
        if let (Some(to), Some([domain, bus, device, function])) = (
            find_mut::<vk::PhysicalDevicePCIBusInfoPropertiesEXT<'_>>(chain),
            self.fixed.identity.pci,
        ) {
            (to.pci_domain, to.pci_bus) = (domain, bus);
            (to.pci_device, to.pci_function) = (device, function);
        }
        if let (Some(to), Some(minor)) = (
            find_mut::<vk::PhysicalDeviceDrmPropertiesEXT<'_>>(chain),
            self.fixed.identity.render_node,
        ) {
            // DRM_MAJOR of `include/drm/drm_file.h`; a primary node is 128 below its render node.
            const DRM_MAJOR: i64 = 226;
            (to.has_render, to.render_major, to.render_minor) = (vk::TRUE, DRM_MAJOR, minor);
            (to.has_primary, to.primary_major, to.primary_minor) =
                (vk::TRUE, DRM_MAJOR, minor - 128);
        }
    }

    fn change_uuids(&self, device: &mut [u8; 16], driver: &mut [u8; 16]) {
        device[0] ^= self.copy_byte();
        set(device, self.fixed.identity.device_uuid.map(|byte| [byte; 16]));
        set(driver, self.fixed.identity.driver_uuid.map(|byte| [byte; 16]));
    }

    fn change_driver(&self, id: &mut vk::DriverId, name: &mut [c_char], info: &mut [c_char]) {
        let is = &self.fixed.identity;
        set(id, is.driver.map(vk::DriverId::from_raw));
        if let Some(text) = &is.driver_name {
            write_text(name, text);
        }
        if let Some(text) = &is.driver_info {
            write_text(info, text);
        }
    }

    /// What makes a copy's identifiers differ from those of the device.
    fn copy_byte(&self) -> u8 {
        // CAST: there are few copies.
        self.copy as u8
    }

    /// Structures that the layer fills in instead of the driver.
    pub(super) fn own_structures(&self) -> Vec<vk::StructureType> {
        let is = &self.fixed.identity;
        let pci = is.pci.map(|_| vk::StructureType::PHYSICAL_DEVICE_PCI_BUS_INFO_PROPERTIES_EXT);
        let drm = is.render_node.map(|_| vk::StructureType::PHYSICAL_DEVICE_DRM_PROPERTIES_EXT);
        pci.into_iter().chain(drm).collect()
    }

    /// Extensions that are listed though the driver lacks them: the layer answers their queries.
    pub(super) fn added_extensions(&self) -> impl Iterator<Item = &'static CStr> {
        let fixed = &self.fixed;
        [
            (fixed.budget_percent.is_some(), vk::EXT_MEMORY_BUDGET_NAME),
            (fixed.tiled_modifier.is_some(), vk::EXT_IMAGE_DRM_FORMAT_MODIFIER_NAME),
            (fixed.sync_fd, vk::KHR_EXTERNAL_SEMAPHORE_FD_NAME),
            (fixed.identity.pci.is_some(), vk::EXT_PCI_BUS_INFO_NAME),
            (fixed.identity.render_node.is_some(), vk::EXT_PHYSICAL_DEVICE_DRM_NAME),
        ]
        .into_iter()
        .filter_map(|(is, name)| is.then_some(name))
    }

    /// Whether an extension of the driver's is not listed.
    pub(super) fn hides(&self, name: &CStr) -> bool {
        let fixed = &self.fixed;
        let name = name.to_bytes();
        fixed.hide_extensions.iter().any(|hidden| hidden.as_bytes() == name)
            || fixed.no_external_memory_host && name == vk::EXT_EXTERNAL_MEMORY_HOST_NAME.to_bytes()
            || fixed.no_dma_buf && name == vk::EXT_EXTERNAL_MEMORY_DMA_BUF_NAME.to_bytes()
    }
}

fn set<T>(to: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *to = value;
    }
}

/// Writes text and a zero byte, cut to the room.
fn write_text(to: &mut [c_char], text: &str) {
    to.fill(0);
    let room = to.len() - 1;
    for (to, byte) in to[..room].iter_mut().zip(text.bytes()) {
        // CAST: a byte of text is one of C's characters, whatever their sign is here.
        *to = byte as c_char;
    }
}
