//! The budget that the driver grants this process in a device's memory (`VK_EXT_memory_budget`).
#![expect(unsafe_code, reason = "memory queries of the Vulkan instance")]

use ash::{ext, vk};

use super::adapter::Adapter;
use super::quirks::Effect;

/// What a driver reports about one heap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HeapBudget {
    /// Bytes that the process should not exceed: an estimate that changes with what other processes use.
    pub(crate) budget: u64,
    /// Bytes that the process uses, including allocations not made by peerbuf.
    pub(crate) usage: u64,
}

impl Adapter {
    /// Queries the driver about a heap; `None` if it does not report a budget, or reports a wrong one.
    pub(crate) fn heap_budget(&self, heap: usize) -> Option<HeapBudget> {
        if !self.device_extensions().contains(&ext::memory_budget::NAME)
            || self.has_quirk(Effect::BudgetIsNotReal)
        {
            return None;
        }
        let mut budgets = vk::PhysicalDeviceMemoryBudgetPropertiesEXT::default();
        let mut all = vk::PhysicalDeviceMemoryProperties2::default().push_next(&mut budgets);
        let (raw, physical) = (self.instance().raw(), self.physical());
        // SAFETY: the adapter keeps the instance of `physical` alive; the structure in the chain is that of an
        // extension which it supports.
        unsafe { raw.get_physical_device_memory_properties2(physical, &mut all) };
        let (budget, usage) = (budgets.heap_budget.get(heap)?, budgets.heap_usage.get(heap)?);
        Some(HeapBudget { budget: *budget, usage: *usage })
    }
}
