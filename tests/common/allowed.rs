//! The validation messages that are not failures: those of one driver's fault, with its name.

use ash::vk::DriverId;
use peerbuf::device::Message;

/// A fault of a driver that makes the layer complain about what works.
pub(crate) struct Allowed {
    /// Whose fault it is.
    pub(crate) driver: DriverId,
    /// The rules that seem to be broken.
    pub(crate) vuids: &'static [&'static str],
    /// What such a message mentions, whatever else it says.
    pub(crate) about: &'static str,
    /// Why nothing is wrong.
    pub(crate) reason: &'static str,
}

/// The whole list. It may hold nothing but faults of drivers, each with its evidence.
///
/// | driver | VUIDs | reason |
/// |---|---|---|
/// | SwiftShader | `VkBufferCreateInfo-pNext-00920` when a buffer for a host pointer is made, and the layer's `…-handleType-09861` when it is bound | it imports host pointers for buffers and reports that it does not |
pub(crate) const ALLOWED: [Allowed; 1] = [Allowed {
    driver: DriverId::GOOGLE_SWIFTSHADER,
    vuids: &[
        "VUID-VkBufferCreateInfo-pNext-00920",
        "VUID-VkImportMemoryWin32HandleInfoKHR-handleType-09861",
    ],
    about: "VK_EXTERNAL_MEMORY_HANDLE_TYPE_HOST_ALLOCATION_BIT_EXT",
    reason: "SwiftShader imports host pointers for buffers although its VkExternalBufferProperties \
             for them are empty (quirk HostImportUnreported); every probe proves it again",
}];

/// Whether `message` is on the list.
///
/// The layer names no device in these messages, so they are allowed where a device of the driver is
/// among `open`; tests of other drivers alone do not get away with them.
pub(crate) fn is_allowed(message: &Message, open: &[DriverId]) -> bool {
    ALLOWED.iter().any(|allowed| {
        open.contains(&allowed.driver)
            && allowed.vuids.contains(&message.id.as_str())
            && message.text.contains(allowed.about)
    })
}
