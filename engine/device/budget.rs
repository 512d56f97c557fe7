//! How much of a device's memory the driver leaves to this process (`VK_EXT_memory_budget`).
#![expect(unsafe_code, reason = "asking the driver")]

use ash::{ext, vk};

use super::adapter::Adapter;
use super::quirks::Effect;

/// What a driver says of the heap that is the device's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HeapBudget {
    /// Bytes that the process should not go beyond: an estimate, which changes with what others do.
    pub(crate) budget: u64,
    /// Bytes that the process has, whoever in it allocated them.
    pub(crate) usage: u64,
}

impl Adapter {
    /// Asks the driver; `None` where it does not say, or says what is not so.
    pub(crate) fn heap_budget(&self) -> Option<HeapBudget> {
        if !self.device_extensions().contains(&ext::memory_budget::NAME)
            || self.has_quirk(Effect::BudgetIsNotReal)
        {
            return None;
        }
        // The heap that a device's domain stands for: the largest of its own.
        let heaps = self.heaps().iter().enumerate().filter(|(_, heap)| heap.device_local);
        let (index, _) = heaps.max_by_key(|(_, heap)| heap.size)?;
        let mut budgets = vk::PhysicalDeviceMemoryBudgetPropertiesEXT::default();
        let mut all = vk::PhysicalDeviceMemoryProperties2::default().push_next(&mut budgets);
        let (raw, physical) = (self.instance().raw(), self.physical());
        // SAFETY: the adapter keeps the instance alive that `physical` is of; the structure in the chain is
        // that of an extension which it has.
        unsafe { raw.get_physical_device_memory_properties2(physical, &mut all) };
        Some(HeapBudget { budget: budgets.heap_budget[index], usage: budgets.heap_usage[index] })
    }
}
