//! Names of results and flags, as profiles write them.

use ash::vk;
use serde::Deserialize;
use serde::de::{Deserializer, Error};

/// An error code of a Vulkan call, written as its name without `VK_ERROR_`, in lower case: `device_lost`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code(pub vk::Result);

const CODES: [(&str, vk::Result); 8] = [
    ("device_lost", vk::Result::ERROR_DEVICE_LOST),
    ("out_of_host_memory", vk::Result::ERROR_OUT_OF_HOST_MEMORY),
    ("out_of_device_memory", vk::Result::ERROR_OUT_OF_DEVICE_MEMORY),
    ("initialization_failed", vk::Result::ERROR_INITIALIZATION_FAILED),
    ("invalid_external_handle", vk::Result::ERROR_INVALID_EXTERNAL_HANDLE),
    ("too_many_objects", vk::Result::ERROR_TOO_MANY_OBJECTS),
    ("feature_not_present", vk::Result::ERROR_FEATURE_NOT_PRESENT),
    ("memory_map_failed", vk::Result::ERROR_MEMORY_MAP_FAILED),
];

impl<'de> Deserialize<'de> for Code {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let name = String::deserialize(from)?;
        CODES.iter().find(|(known, _)| *known == name).map(|(_, code)| Code(*code)).ok_or_else(
            || D::Error::custom(format!("\"{name}\" is no error code; known are {CODES:?}")),
        )
    }
}

/// Flags of a memory type, written as their names without prefix: `"DEVICE_LOCAL | HOST_VISIBLE"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TypeFlags(pub vk::MemoryPropertyFlags);

impl<'de> Deserialize<'de> for TypeFlags {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        use vk::MemoryPropertyFlags as F;
        let text = String::deserialize(from)?;
        let mut flags = F::empty();
        for name in text.split('|').map(str::trim).filter(|name| !name.is_empty()) {
            flags |= match name {
                "DEVICE_LOCAL" => F::DEVICE_LOCAL,
                "HOST_VISIBLE" => F::HOST_VISIBLE,
                "HOST_COHERENT" => F::HOST_COHERENT,
                "HOST_CACHED" => F::HOST_CACHED,
                "DEVICE_COHERENT_AMD" => F::DEVICE_COHERENT_AMD,
                "DEVICE_UNCACHED_AMD" => F::DEVICE_UNCACHED_AMD,
                _ => {
                    return Err(D::Error::custom(format!(
                        "\"{name}\" is no flag of a memory type"
                    )));
                }
            };
        }
        Ok(TypeFlags(flags))
    }
}

/// Flags of a queue family: `"GRAPHICS | COMPUTE | TRANSFER"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FamilyFlags(pub vk::QueueFlags);

impl<'de> Deserialize<'de> for FamilyFlags {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        use vk::QueueFlags as F;
        let text = String::deserialize(from)?;
        let mut flags = F::empty();
        for name in text.split('|').map(str::trim).filter(|name| !name.is_empty()) {
            flags |= match name {
                "GRAPHICS" => F::GRAPHICS,
                "COMPUTE" => F::COMPUTE,
                "TRANSFER" => F::TRANSFER,
                "SPARSE_BINDING" => F::SPARSE_BINDING,
                "VIDEO_DECODE" => F::VIDEO_DECODE_KHR,
                _ => {
                    return Err(D::Error::custom(format!(
                        "\"{name}\" is no flag of a queue family"
                    )));
                }
            };
        }
        Ok(FamilyFlags(flags))
    }
}

/// A version of Vulkan, written as `"1.1"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApiVersion(pub u32);

impl<'de> Deserialize<'de> for ApiVersion {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let parts: Vec<u32> = text.split('.').filter_map(|part| part.parse().ok()).collect();
        match parts[..] {
            [major, minor] => Ok(ApiVersion(vk::make_api_version(0, major, minor, 0))),
            _ => Err(D::Error::custom(format!("\"{text}\" is no version such as \"1.1\""))),
        }
    }
}
