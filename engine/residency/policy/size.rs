//! Sizes in four bytes, and arrays that grow in small steps.

/// A buffer's size in four bytes: exact below 2 GiB, and in steps of 64 KiB above. It is rounded down, so that
/// too much is evicted rather than too little.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Size(u32);

impl Size {
    pub(super) const ZERO: Self = Self(0);

    const STEP_BITS: u32 = 16;
    const IN_STEPS: u32 = 1 << 31;

    pub(super) fn new(bytes: u64) -> Self {
        if bytes < u64::from(Self::IN_STEPS) {
            // CAST: below 2³¹.
            return Self(bytes as u32);
        }
        let steps = (bytes >> Self::STEP_BITS).min(u64::from(Self::IN_STEPS - 1));
        // CAST: below 2³¹.
        Self(steps as u32 | Self::IN_STEPS)
    }

    pub(super) fn bytes(self) -> u64 {
        if self.0 < Self::IN_STEPS {
            return u64::from(self.0);
        }
        u64::from(self.0 & !Self::IN_STEPS) << Self::STEP_BITS
    }
}

/// Makes `list` long enough for `index`. It grows by a thirty-second, not by a factor of two, because the
/// memory for a million buffers counts.
pub(super) fn grow<T: Clone + Default>(list: &mut Vec<T>, index: usize) {
    if index < list.len() {
        return;
    }
    let len = index + 1;
    if len > list.capacity() {
        list.reserve_exact(len + len / 32 + 16 - list.len());
    }
    list.resize(len, T::default());
}
