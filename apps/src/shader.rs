//! Shaders in WGSL, compiled at start.
#![expect(unsafe_code, reason = "a shader module of a live device")]

use ash::vk;
use naga::back::spv;
use naga::valid::{Capabilities, ValidationFlags, Validator};

use crate::Result;

/// A module with the entry points of a WGSL text. The caller owns it.
///
/// # Errors
///
/// The text is not valid; the error of the call.
pub fn module(device: &ash::Device, text: &str) -> Result<vk::ShaderModule> {
    let parsed = naga::front::wgsl::parse_str(text)?;
    let info =
        Validator::new(ValidationFlags::all(), Capabilities::IMMEDIATES).validate(&parsed)?;
    let words = spv::write_vec(&parsed, &info, &spv::Options::default(), None)?;
    let info = vk::ShaderModuleCreateInfo::default().code(&words);
    // SAFETY: the device is live; the code was validated.
    Ok(unsafe { device.create_shader_module(&info, None) }?)
}
