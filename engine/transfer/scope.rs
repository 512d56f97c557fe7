//! The stages and accesses of a use.
//!
//! Vulkan: "Supported access types" (`VkAccessFlagBits`).

use ash::vk;

/// The stages and accesses for which ownership is acquired or released: the device's side of the barrier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scope {
    /// The stages that use the buffer.
    pub stages: vk::PipelineStageFlags,
    /// How they use it.
    pub access: vk::AccessFlags,
}

impl Scope {
    /// All stages, all accesses.
    pub const ALL: Self = Self {
        stages: vk::PipelineStageFlags::ALL_COMMANDS,
        access: vk::AccessFlags::from_raw(
            vk::AccessFlags::MEMORY_READ.as_raw() | vk::AccessFlags::MEMORY_WRITE.as_raw(),
        ),
    };
    /// No stage, no access.
    pub(crate) const NONE: Self =
        Self { stages: vk::PipelineStageFlags::empty(), access: vk::AccessFlags::empty() };
    /// Copies.
    pub const TRANSFER: Self = Self {
        stages: vk::PipelineStageFlags::TRANSFER,
        access: vk::AccessFlags::from_raw(
            vk::AccessFlags::TRANSFER_READ.as_raw() | vk::AccessFlags::TRANSFER_WRITE.as_raw(),
        ),
    };
    /// Compute passes.
    pub const COMPUTE: Self = Self {
        stages: vk::PipelineStageFlags::COMPUTE_SHADER,
        access: vk::AccessFlags::from_raw(
            vk::AccessFlags::SHADER_READ.as_raw() | vk::AccessFlags::SHADER_WRITE.as_raw(),
        ),
    };
}

impl Scope {
    /// The given stages and accesses. Accesses that none of the stages makes are replaced, as in
    /// [`Scope::matched`].
    pub fn new(stages: vk::PipelineStageFlags, access: vk::AccessFlags) -> Self {
        Self { stages, access }.matched()
    }

    /// The same stages, with accesses that they can make
    /// (VUID-vkCmdPipelineBarrier-dstAccessMask-02816, -srcAccessMask-02815).
    ///
    /// Accesses that none of the stages makes become `MEMORY_READ` or `MEMORY_WRITE`, which are valid with every
    /// stage and include them. Barriers use a scope in this form.
    #[must_use]
    pub fn matched(self) -> Self {
        use vk::AccessFlags as A;
        let fits = self.access & accesses_of(self.stages);
        let rest = self.access & !fits;
        let mut access = fits;
        if rest.intersects(READS) || rest.intersects(!(READS | WRITES)) {
            access |= A::MEMORY_READ;
        }
        // What is unknown may write.
        if rest.intersects(!READS) {
            access |= A::MEMORY_WRITE;
        }
        Self { stages: self.stages, access }
    }

    /// The union of both scopes.
    pub(crate) fn and(self, other: Self) -> Self {
        Self { stages: self.stages | other.stages, access: self.access | other.access }
    }
}

/// Accesses that only read.
const READS: vk::AccessFlags = {
    use vk::AccessFlags as A;
    A::from_raw(
        A::INDIRECT_COMMAND_READ.as_raw()
            | A::INDEX_READ.as_raw()
            | A::VERTEX_ATTRIBUTE_READ.as_raw()
            | A::UNIFORM_READ.as_raw()
            | A::INPUT_ATTACHMENT_READ.as_raw()
            | A::SHADER_READ.as_raw()
            | A::COLOR_ATTACHMENT_READ.as_raw()
            | A::DEPTH_STENCIL_ATTACHMENT_READ.as_raw()
            | A::TRANSFER_READ.as_raw()
            | A::HOST_READ.as_raw()
            | A::MEMORY_READ.as_raw(),
    )
};

/// Accesses that only write.
const WRITES: vk::AccessFlags = {
    use vk::AccessFlags as A;
    A::from_raw(
        A::SHADER_WRITE.as_raw()
            | A::COLOR_ATTACHMENT_WRITE.as_raw()
            | A::DEPTH_STENCIL_ATTACHMENT_WRITE.as_raw()
            | A::TRANSFER_WRITE.as_raw()
            | A::HOST_WRITE.as_raw()
            | A::MEMORY_WRITE.as_raw(),
    )
};

/// The core accesses that at least one of the stages makes. Stages of extensions make only memory accesses here.
fn accesses_of(stages: vk::PipelineStageFlags) -> vk::AccessFlags {
    use vk::{AccessFlags as A, PipelineStageFlags as S};
    let shaders = S::VERTEX_SHADER
        | S::TESSELLATION_CONTROL_SHADER
        | S::TESSELLATION_EVALUATION_SHADER
        | S::GEOMETRY_SHADER
        | S::FRAGMENT_SHADER
        | S::COMPUTE_SHADER
        | S::ALL_GRAPHICS
        | S::ALL_COMMANDS;
    let graphics = S::ALL_GRAPHICS | S::ALL_COMMANDS;
    let table = [
        (S::DRAW_INDIRECT | graphics, A::INDIRECT_COMMAND_READ),
        (S::VERTEX_INPUT | graphics, A::INDEX_READ | A::VERTEX_ATTRIBUTE_READ),
        (shaders, A::UNIFORM_READ | A::SHADER_READ | A::SHADER_WRITE),
        (S::FRAGMENT_SHADER | graphics, A::INPUT_ATTACHMENT_READ),
        (
            S::COLOR_ATTACHMENT_OUTPUT | graphics,
            A::COLOR_ATTACHMENT_READ | A::COLOR_ATTACHMENT_WRITE,
        ),
        (
            S::EARLY_FRAGMENT_TESTS | S::LATE_FRAGMENT_TESTS | graphics,
            A::DEPTH_STENCIL_ATTACHMENT_READ | A::DEPTH_STENCIL_ATTACHMENT_WRITE,
        ),
        (S::TRANSFER | S::ALL_COMMANDS, A::TRANSFER_READ | A::TRANSFER_WRITE),
        (S::HOST, A::HOST_READ | A::HOST_WRITE),
    ];
    let made = table.into_iter().filter(|(by, _)| stages.intersects(*by));
    made.fold(A::MEMORY_READ | A::MEMORY_WRITE, |all, (_, access)| all | access)
}

#[cfg(test)]
mod tests {
    use super::*;
    use vk::{AccessFlags as A, PipelineStageFlags as S};

    #[test]
    fn accesses_that_the_stages_make_are_kept() {
        for scope in [Scope::ALL, Scope::NONE, Scope::TRANSFER, Scope::COMPUTE] {
            assert_eq!(scope.matched(), scope);
        }
        let vertex = Scope { stages: S::VERTEX_INPUT, access: A::VERTEX_ATTRIBUTE_READ };
        assert_eq!(vertex.matched(), vertex);
    }

    #[test]
    fn other_accesses_become_memory_accesses() {
        let matched = Scope::new(S::TRANSFER, A::SHADER_WRITE | A::TRANSFER_READ);
        assert_eq!(matched.access, A::TRANSFER_READ | A::MEMORY_WRITE);
        assert_eq!(Scope::new(S::HOST, A::INDEX_READ).access, A::MEMORY_READ);
        let unknown = A::from_raw(1 << 30);
        assert_eq!(Scope::new(S::TRANSFER, unknown).access, A::MEMORY_READ | A::MEMORY_WRITE);
    }
}
