//! Vulkan objects that every compute pipeline of peerbuf needs.
#![expect(unsafe_code, reason = "layouts, shader modules and pipelines of a live device")]

use ash::vk;

use crate::device::DeviceInner;

/// A layout with one descriptor for compute shaders at each binding from 0 on, of the kinds given. The caller owns it.
pub(super) fn set_layout(
    device: &DeviceInner,
    kinds: &[vk::DescriptorType],
) -> Result<vk::DescriptorSetLayout, vk::Result> {
    let bindings: Vec<_> = (0..)
        .zip(kinds)
        .map(|(binding, kind)| {
            vk::DescriptorSetLayoutBinding::default()
                .binding(binding)
                .descriptor_type(*kind)
                .descriptor_count(1)
                .stage_flags(vk::ShaderStageFlags::COMPUTE)
        })
        .collect();
    let info = vk::DescriptorSetLayoutCreateInfo::default().bindings(&bindings);
    // SAFETY: the device is live; no two bindings have one number.
    unsafe { device.raw().create_descriptor_set_layout(&info, None) }
}

/// The pipeline of a shader, SPIR-V in bytes, whose entry point is `main`. The caller owns it. Drivers compile for tens
/// of milliseconds.
///
/// # Safety
///
/// The shader is valid for the device, and `layout` is a live pipeline layout of the device that has what the shader
/// uses.
pub(super) unsafe fn compute_pipeline(
    device: &DeviceInner,
    layout: vk::PipelineLayout,
    shader: &[u8],
) -> Result<vk::Pipeline, vk::Result> {
    let raw = device.raw();
    let words: Vec<u32> =
        shader.as_chunks().0.iter().map(|word| u32::from_le_bytes(*word)).collect();
    let info = vk::ShaderModuleCreateInfo::default().code(&words);
    // SAFETY: by the caller's contract the code is valid.
    let module = unsafe { raw.create_shader_module(&info, None) }?;
    let stage = vk::PipelineShaderStageCreateInfo::default()
        .stage(vk::ShaderStageFlags::COMPUTE)
        .module(module)
        .name(c"main");
    let info = [vk::ComputePipelineCreateInfo::default().stage(stage).layout(layout)];
    // SAFETY: the module is live and its entry point is `main`; the layout fits by the caller's contract.
    let made = unsafe { raw.create_compute_pipelines(vk::PipelineCache::null(), &info, None) };
    // SAFETY: pipelines do not need their module once they are made.
    unsafe { raw.destroy_shader_module(module, None) };
    made.map(|made| made[0]).map_err(|(_, code)| code)
}
