//! Tests of formats, layouts, foreign descriptions and negotiations, without Vulkan.

mod foreign;
mod foreign_fuzz;
mod format;
mod layout;
mod negotiate;
mod negotiate_random;
mod offers;
mod renegotiation;
mod replay;

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

    fn shuffle<T>(&mut self, list: &mut [T]) {
        for end in (1..list.len()).rev() {
            // CAST: below a `usize`.
            list.swap(end, self.below(end as u64 + 1) as usize);
        }
    }
}
