//! Formats and uses of peerbuf, as wgpu names them.

use peerbuf::SharedImage;
use peerbuf::ash::vk;
use peerbuf::image::ImageUsage;
use wgpu::{BufferUsages, TextureFormat, TextureUsages};

use crate::error::{Error, Result};

/// Pairs of the same bytes. Formats with several planes are not among them: wgpu imports no such image.
const FORMATS: [(vk::Format, TextureFormat); 9] = [
    (vk::Format::R8_UNORM, TextureFormat::R8Unorm),
    (vk::Format::R8G8_UNORM, TextureFormat::Rg8Unorm),
    (vk::Format::R8G8B8A8_UNORM, TextureFormat::Rgba8Unorm),
    (vk::Format::B8G8R8A8_UNORM, TextureFormat::Bgra8Unorm),
    (vk::Format::A2B10G10R10_UNORM_PACK32, TextureFormat::Rgb10a2Unorm),
    (vk::Format::R16_UNORM, TextureFormat::R16Unorm),
    (vk::Format::R16G16_UNORM, TextureFormat::Rg16Unorm),
    (vk::Format::R16G16B16A16_UNORM, TextureFormat::Rgba16Unorm),
    (vk::Format::R16G16B16A16_SFLOAT, TextureFormat::Rgba16Float),
];

/// The texture format of an image.
///
/// Where the fourcc has no alpha (XR24), the fourth channel is undefined when it is read, and what is written to it is
/// ignored by others: a shader replaces it by one.
///
/// # Errors
///
/// [`Error::Format`].
pub fn texture_format(image: &SharedImage) -> Result<TextureFormat> {
    let format = image.format().vulkan().format;
    let found = FORMATS.iter().find(|(known, _)| *known == format);
    found.map(|(_, wgpu)| *wgpu).ok_or(Error::Format { fourcc: image.fourcc(), format })
}

/// The uses that wgpu may make of a texture. It has no names for those without a filter and without blending: the rules of
/// [`crate::Guest::open`] forbid both where the attachment does not name them.
pub(crate) fn texture_usages(usage: ImageUsage) -> TextureUsages {
    let rows = [
        (ImageUsage::COPIED_FROM, TextureUsages::COPY_SRC),
        (ImageUsage::BLITTED_FROM, TextureUsages::COPY_SRC),
        (ImageUsage::COPIED_TO, TextureUsages::COPY_DST),
        (ImageUsage::BLITTED_TO, TextureUsages::COPY_DST),
        (ImageUsage::SAMPLED, TextureUsages::TEXTURE_BINDING),
        (ImageUsage::FILTERED, TextureUsages::TEXTURE_BINDING),
        (ImageUsage::STORAGE, TextureUsages::STORAGE_BINDING),
        (ImageUsage::DRAWN, TextureUsages::RENDER_ATTACHMENT),
        (ImageUsage::BLENDED, TextureUsages::RENDER_ATTACHMENT),
    ];
    let named = rows.into_iter().filter(|(ours, _)| usage.contains(*ours));
    named.fold(TextureUsages::empty(), |all, (_, wgpu)| all | wgpu)
}

/// The uses of a Vulkan buffer for those of wgpu.
///
/// # Errors
///
/// [`Error::BufferUsage`] with those that a shared buffer cannot have.
pub(crate) fn buffer_usages(usages: BufferUsages) -> Result<vk::BufferUsageFlags> {
    use vk::BufferUsageFlags as Flags;
    let rows = [
        (BufferUsages::COPY_SRC, Flags::TRANSFER_SRC),
        (BufferUsages::COPY_DST, Flags::TRANSFER_DST),
        (BufferUsages::INDEX, Flags::INDEX_BUFFER),
        (BufferUsages::VERTEX, Flags::VERTEX_BUFFER),
        (BufferUsages::UNIFORM, Flags::UNIFORM_BUFFER),
        (BufferUsages::STORAGE, Flags::STORAGE_BUFFER),
        // wgpu checks indirect arguments with a shader, which reads them.
        (BufferUsages::INDIRECT, Flags::INDIRECT_BUFFER | Flags::STORAGE_BUFFER),
    ];
    let known = rows.iter().fold(BufferUsages::empty(), |all, (wgpu, _)| all | *wgpu);
    let unknown = usages - known;
    if usages.is_empty() || !unknown.is_empty() {
        return Err(Error::BufferUsage(unknown));
    }
    let named = rows.into_iter().filter(|(wgpu, _)| usages.contains(*wgpu));
    Ok(named.fold(Flags::empty(), |all, (_, flags)| all | flags))
}
