//! The pattern that the kernels write, and what a verification of it found.

/// The result of verifying a pattern.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PassReport {
    /// How many 32-bit words were compared.
    pub words: u64,
    /// How many of them were wrong.
    pub wrong: u64,
    /// Offset in bytes of the first wrong one.
    pub first_wrong: Option<u64>,
}

impl PassReport {
    /// Whether every word was right.
    pub fn is_clean(&self) -> bool {
        self.wrong == 0
    }

    /// The reports of two consecutive pieces as one.
    pub(super) fn and(self, other: Self) -> Self {
        Self {
            words: self.words + other.words,
            wrong: self.wrong + other.wrong,
            first_wrong: self.first_wrong.or(other.first_wrong),
        }
    }
}

/// Word `index` of the pattern of `seed`, as the shaders compute it.
pub fn pattern_word(seed: u32, index: u32) -> u32 {
    let mut x = index.wrapping_mul(0x9e37_79b9).wrapping_add(seed);
    x = (x ^ (x >> 16)).wrapping_mul(0x7feb_352d);
    x = (x ^ (x >> 15)).wrapping_mul(0x846c_a68b);
    x ^ (x >> 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_depends_on_position_and_seed() {
        let words: Vec<_> = (0..1000).map(|index| pattern_word(7, index)).collect();
        let distinct: std::collections::HashSet<_> = words.iter().collect();
        assert_eq!(distinct.len(), words.len());
        assert!((0..1000).all(|index| pattern_word(8, index) != words[index as usize]));
        assert_ne!(words[0], 0, "zeroed memory does not match the pattern");
    }

    #[test]
    fn reports_add_up_and_keep_the_first() {
        let clean = PassReport { words: 10, wrong: 0, first_wrong: None };
        let wrong = PassReport { words: 10, wrong: 3, first_wrong: Some(44) };
        assert_eq!(clean.and(wrong), PassReport { words: 20, wrong: 3, first_wrong: Some(44) });
        assert!(clean.is_clean() && !clean.and(wrong).is_clean());
    }
}
