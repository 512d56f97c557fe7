//! Validation messages that are no failures, because they report a known fault of a driver.

use ash::vk::DriverId;
use peerbuf::device::Message;

/// A driver fault that makes the validation layer report usage that is correct.
pub(crate) struct Allowed {
    /// The faulty driver.
    pub(crate) driver: DriverId,
    /// The rules that the layer reports as violated.
    pub(crate) vuids: &'static [&'static str],
    /// Text that each such message contains.
    pub(crate) about: &'static str,
    /// Why the usage is correct.
    pub(crate) reason: &'static str,
}

/// The allowed faults. The list may hold driver faults only, each with its evidence.
///
/// | driver | VUIDs | reason |
/// |---|---|---|
/// | SwiftShader | `VkBufferCreateInfo-pNext-00920` and `VkImageCreateInfo-pNext-00990` when a buffer or an image for a host pointer is made, and the layer's `…-handleType-09861` when it is bound | it imports host pointers for both and reports that it does not |
/// | lavapipe | `vkCmdCopyBufferToImage-dstImage-01997`, `vkCmdCopyImageToBuffer-srcImage-01998` and `VkImageViewCreateInfo-None-02273` for an image of the modifier `LINEAR` | it lists the features of modifiers in the older of two lists alone, and the layer asks for the newer one |
pub(crate) const ALLOWED: [Allowed; 2] = [
    Allowed {
        driver: DriverId::GOOGLE_SWIFTSHADER,
        vuids: &[
            "VUID-VkBufferCreateInfo-pNext-00920",
            "VUID-VkImageCreateInfo-pNext-00990",
            "VUID-VkImportMemoryWin32HandleInfoKHR-handleType-09861",
        ],
        about: "VK_EXTERNAL_MEMORY_HANDLE_TYPE_HOST_ALLOCATION_BIT_EXT",
        reason: "SwiftShader imports host pointers for buffers and images although its VkExternalBufferProperties \
                 and VkExternalImageFormatProperties for them are empty (quirk HostImportUnreported); every probe \
                 proves it again",
    },
    Allowed {
        driver: DriverId::MESA_LLVMPIPE,
        vuids: &[
            "VUID-vkCmdCopyBufferToImage-dstImage-01997",
            "VUID-vkCmdCopyImageToBuffer-srcImage-01998",
            "VUID-VkImageViewCreateInfo-None-02273",
        ],
        about: "VK_IMAGE_TILING_DRM_FORMAT_MODIFIER_EXT",
        reason: "lavapipe fills VkDrmFormatModifierPropertiesListEXT, and leaves \
                 VkDrmFormatModifierPropertiesList2EXT empty, from which the layer takes the features of an image \
                 of a modifier (images::dma_bufs asserts that); peerbuf asks for the former before it makes one",
    },
];

/// Whether the layer reports that its own thread was not on time: it waits ten seconds, whatever the machine does
/// meanwhile. From then on it takes work that has ended for pending, so its further messages say nothing.
pub(crate) fn is_timeout_of_the_layer(message: &Message) -> bool {
    message.id.contains("INTERNAL-ERROR") && message.id.contains("state-timeout")
}

/// Whether `message` is on the list.
///
/// The layer names no device in these messages. So they are allowed if `open` contains the faulty driver; tests
/// that open only other drivers fail on them.
pub(crate) fn is_allowed(message: &Message, open: &[DriverId]) -> bool {
    ALLOWED.iter().any(|allowed| {
        open.contains(&allowed.driver)
            && allowed.vuids.contains(&message.id.as_str())
            && message.text.contains(allowed.about)
    })
}
