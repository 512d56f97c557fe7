//! `pNext` chains.

use std::ffi::c_void;

use ash::vk::{self, TaggedStructure};

/// The structure of type `T` in a chain that is read.
///
/// # Safety
/// `chain` is a valid `pNext` chain for `'a`.
pub(crate) unsafe fn find<'a, T: TaggedStructure>(chain: *const c_void) -> Option<&'a T> {
    let mut at = chain.cast::<vk::BaseInStructure<'_>>();
    while let Some(structure) = at.as_ref() {
        if structure.s_type == T::STRUCTURE_TYPE {
            return at.cast::<T>().as_ref();
        }
        at = structure.p_next;
    }
    None
}

/// The structure of type `T` in a chain that is written.
///
/// # Safety
/// `chain` is a valid `pNext` chain for `'a`, and nothing else refers to the structure.
pub(super) unsafe fn find_mut<'a, T: TaggedStructure>(chain: *mut c_void) -> Option<&'a mut T> {
    let mut at = chain.cast::<vk::BaseOutStructure<'_>>();
    while let Some(structure) = at.as_ref() {
        if structure.s_type == T::STRUCTURE_TYPE {
            return at.cast::<T>().as_mut();
        }
        at = structure.p_next;
    }
    None
}

/// Calls with a chain from which structures are taken out that the next layer may not know: some drivers do not pass
/// over them. Afterwards the chain is as before.
///
/// # Safety
/// `first` begins a valid `pNext` chain that nothing else uses meanwhile.
pub(super) unsafe fn without<R>(
    first: *mut vk::BaseOutStructure<'_>,
    kinds: &[vk::StructureType],
    call: impl FnOnce() -> R,
) -> R {
    let mut taken = Vec::new();
    let mut at = first;
    while let Some(structure) = at.as_mut() {
        let next = structure.p_next;
        match next.as_ref() {
            Some(inner) if kinds.contains(&inner.s_type) => {
                taken.push((at, next));
                structure.p_next = inner.p_next;
            }
            _ => at = next,
        }
    }
    let result = call();
    for (at, next) in taken.into_iter().rev() {
        (*at).p_next = next;
    }
    result
}

/// Copies a list out by Vulkan's two-call idiom.
///
/// # Safety
/// `count` is valid; `out` is null or has room for `count` items.
pub(super) unsafe fn write_list<T: Copy>(items: &[T], count: *mut u32, out: *mut T) -> vk::Result {
    let all = u32::try_from(items.len()).unwrap_or(u32::MAX);
    if out.is_null() {
        *count = all;
        return vk::Result::SUCCESS;
    }
    let given = (*count).min(all);
    for (at, item) in (0..given as usize).zip(items) {
        *out.add(at) = *item;
    }
    *count = given;
    if given < all { vk::Result::INCOMPLETE } else { vk::Result::SUCCESS }
}
