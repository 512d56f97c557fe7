//! Tests of formats, layouts, and foreign descriptions, without Vulkan.

mod foreign;
mod foreign_fuzz;
mod format;
mod layout;

/// Sebastiano Vigna's splitmix64; the same seed gives the same numbers.
#[derive(Clone, Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`, which is not 0.
    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// A random element of `list`, which is not empty.
    fn pick<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        // CAST: below a `usize`.
        &list[self.below(list.len() as u64) as usize]
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}
