//! Measures which kernels are fastest on this processor, once.
//!
//! The kernels run on two private pieces of 2 MiB. So only 4 MiB are touched for the first time, which is a
//! quarter of the total cost. Smaller pieces would not do: up to the size of a core's own cache a C library copies
//! differently than beyond it. Pieces as large as real copies would have to be several times the last-level
//! cache. Pieces slightly larger than the cache are the worst choice, because parts of them are still in it.
//! Instead, the pieces are flushed from all caches before each uncached measurement. This gives the same order as
//! copies that rotate through 256 MiB, with a spread of 2 %, and does not depend on the size of a cache.

use std::fmt;
use std::hint::black_box;
use std::time::{Duration, Instant};

use super::kernel::{Kernel, PLAIN};
use super::kernels::available;
#[cfg(all(target_arch = "x86_64", not(miri)))]
use super::x86::flush;

/// Bytes of a piece.
const PIECE: usize = 2 << 20;

/// How often each kernel is measured. The best time counts, since noise only ever makes a copy slower.
const ROUNDS: usize = 3;

/// No round of a choice starts later than this after its first round.
const BUDGET: Duration = Duration::from_millis(4);

/// The result of the measurement.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measured {
    pub(crate) copy: Choice,
    pub(crate) fill: Choice,
    /// How long the measurement took.
    pub(crate) took: Duration,
}

/// The kernels to use for one operation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Choice {
    /// For sizes that a cache may hold, so that the next reader may find the bytes there.
    pub(crate) cached: &'static Kernel,
    /// For larger sizes.
    pub(crate) streamed: &'static Kernel,
}

impl Choice {
    const PLAIN: Self = Self { cached: &PLAIN, streamed: &PLAIN };
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {} if large", self.cached, self.streamed)
    }
}

impl Measured {
    /// Measures the available kernels.
    pub(super) fn now() -> Self {
        let start = Instant::now();
        let kernels = available();
        if kernels.len() == 1 {
            let (copy, fill) = (Choice::PLAIN, Choice::PLAIN);
            return Self { copy, fill, took: start.elapsed() };
        }
        let mut pieces = Pieces::new();
        let copy = pieces.choose(&kernels, Pieces::copy);
        let fill = pieces.choose(&kernels, Pieces::fill);
        Self { copy, fill, took: start.elapsed() }
    }
}

/// Private memory to measure the kernels on.
struct Pieces {
    source: Piece,
    target: Piece,
}

impl Pieces {
    fn new() -> Self {
        Self { source: Piece::new(0xa5), target: Piece::new(0x5a) }
    }

    fn choose(&mut self, kernels: &[&'static Kernel], run: fn(&mut Self, &Kernel)) -> Choice {
        let start = Instant::now();
        let mut times: Vec<_> = kernels.iter().map(|&kernel| Times::new(kernel)).collect();
        for round in 0..ROUNDS {
            if round > 0 && start.elapsed() > BUDGET {
                break;
            }
            for times in &mut times {
                self.flush();
                times.flushed.add(|| run(self, times.kernel));
                if times.kernel.is_cached {
                    // More often, since this is shorter, so that an interruption weighs more.
                    (0..3).for_each(|_| times.cached.add(|| run(self, times.kernel)));
                }
            }
        }
        // Whether the bytes of a smaller copy are in a cache is not known, so both times count.
        let either = |times: &Times| times.flushed.0 + times.cached.0;
        Choice {
            cached: best(times.iter().filter(|times| times.kernel.is_cached), either),
            streamed: best(times.iter(), |times| times.flushed.0),
        }
    }

    #[cfg(all(target_arch = "x86_64", not(miri)))]
    fn flush(&self) {
        for piece in [&self.source, &self.target] {
            // SAFETY: by the type's invariant that many bytes are there.
            unsafe { flush(piece.start, PIECE) };
        }
    }

    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    fn flush(&self) {
        // There is only one kernel, so nothing is measured.
    }

    fn copy(&mut self, kernel: &Kernel) {
        // SAFETY: by the type's invariant that many bytes are at both; the kernel is available.
        unsafe { kernel.copy(black_box(self.target.start), black_box(self.source.start), PIECE) };
    }

    fn fill(&mut self, kernel: &Kernel) {
        // SAFETY: as for the copy.
        unsafe { kernel.fill(black_box(self.target.start), 0, PIECE) };
    }
}

/// Memory that starts at a page, like that of buffers. If it does not, or if source and destination start at
/// different offsets in a cache line, other kernels are the fastest.
///
/// # Invariants
///
/// [`PIECE`] bytes from `start` on lie within `memory`, which is never moved and not used otherwise.
struct Piece {
    start: *mut u8,
    _memory: Vec<u8>,
}

impl Piece {
    fn new(byte: u8) -> Self {
        const PAGE: usize = 4096;
        // Not zero: memory that was only read may be backed by one shared page of zeros.
        let mut memory = vec![byte; PIECE + PAGE];
        // INVARIANT: less than a page is skipped, and the memory is a page longer than the piece.
        let start = memory.as_mut_ptr().wrapping_add(memory.as_ptr().align_offset(PAGE));
        Self { start, _memory: memory }
    }
}

/// The best times of a kernel.
struct Times {
    kernel: &'static Kernel,
    /// With the pieces in no cache.
    flushed: Best,
    /// With the pieces in the caches as the previous run of the same kernel left them.
    cached: Best,
}

impl Times {
    fn new(kernel: &'static Kernel) -> Self {
        Self { kernel, flushed: Best(Duration::MAX), cached: Best(Duration::MAX) }
    }
}

/// The shortest of several times.
struct Best(Duration);

impl Best {
    fn add(&mut self, work: impl FnOnce()) {
        let start = Instant::now();
        work();
        self.0 = self.0.min(start.elapsed());
    }
}

/// Chooses the fastest kernel. A later one must be faster than those before it by 3 %, so that noise does not
/// decide among equals, and the plain kernel is kept unless another one is clearly faster.
fn best<'a>(
    mut candidates: impl Iterator<Item = &'a Times>,
    time: impl Fn(&Times) -> Duration,
) -> &'static Kernel {
    let Some(first) = candidates.next() else { return &PLAIN };
    let better = |best: &'a Times, next: &'a Times| {
        if time(next) * 100 < time(best) * 97 { next } else { best }
    };
    candidates.fold(first, better).kernel
}

#[cfg(test)]
mod tests {
    use super::*;

    static OTHER: Kernel = Kernel { name: "other", ..PLAIN };
    static THIRD: Kernel = Kernel { name: "third", ..PLAIN };

    fn chosen(micros: [u64; 3]) -> &'static str {
        let time = |(kernel, micros)| Times {
            kernel,
            flushed: Best(Duration::from_micros(micros)),
            cached: Best(Duration::MAX),
        };
        let times: Vec<_> = [&PLAIN, &OTHER, &THIRD].into_iter().zip(micros).map(time).collect();
        best(times.iter(), |times| times.flushed.0).name
    }

    #[test]
    fn the_plain_kernel_is_kept_among_equals() {
        assert_eq!(chosen([100, 100, 100]), "plain");
        assert_eq!(chosen([100, 98, 98]), "plain");
        assert_eq!(chosen([100, 110, 200]), "plain");
    }

    #[test]
    fn the_fastest_is_chosen_and_the_first_of_the_fastest() {
        assert_eq!(chosen([100, 70, 200]), "other");
        assert_eq!(chosen([100, 70, 50]), "third");
        assert_eq!(chosen([100, 70, 69]), "other");
    }
}
