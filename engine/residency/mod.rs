//! Who stays and who goes: the part of the engine that chooses, and knows nothing of Vulkan.
//!
//! Kernel counterpart: `ttm_resource.c`'s lists and `ttm_bo.c`'s walk over them.

pub mod policy;
