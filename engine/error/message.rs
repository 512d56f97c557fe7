//! Parts of error messages.

use ash::vk;

use crate::residency::EvictionFailures;

/// The driver's code, if there is one.
pub(super) fn driver_code(code: Option<vk::Result>) -> String {
    code.map_or_else(String::new, |code| format!(" (driver: {code:?})"))
}

/// What could not be evicted, and what for.
pub(super) fn failures_of(failures: &EvictionFailures) -> String {
    match (failures.is_empty(), failures.needed_by()) {
        (true, None) => String::new(),
        (true, Some(_)) => format!("; {failures}"),
        (false, _) => format!("; obstacles: {failures}"),
    }
}
