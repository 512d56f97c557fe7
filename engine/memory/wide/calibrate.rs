//! Finding out what is fastest on this processor, once.
//!
//! On two private pieces of 1 MiB, so that no more than 2 MiB have to be touched for the first time, which
//! is what such a measurement mostly costs. Pieces that are as large as the copies in question would have
//! to be several times the last-level cache; pieces somewhat larger than the cache are the worst choice,
//! because some of them are still in it. Instead the pieces are flushed from all caches before each copy
//! that is to find them in none. That gives the same order as copies that rotate through 256 MiB, with
//! a spread of 2 %, and does not depend on how large a cache is.

use std::fmt;
use std::hint::black_box;
use std::time::{Duration, Instant};

use super::kernel::{Kernel, PLAIN, available};
#[cfg(all(target_arch = "x86_64", not(miri)))]
use super::x86::flush;

/// Bytes of a piece.
const PIECE: usize = 1 << 20;

/// How often each kernel is tried. The best time counts: nothing makes a copy faster by chance.
const ROUNDS: usize = 4;

/// No round begins later than this.
const BUDGET: Duration = Duration::from_millis(4);

/// What was found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measured {
    pub(crate) copy: Choice,
    pub(crate) fill: Choice,
    /// How long it took to find out.
    pub(crate) took: Duration,
}

/// Which kernel to take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Choice {
    /// For as many bytes as a cache may hold, and whoever comes next may want to find there.
    pub(crate) cached: &'static Kernel,
    /// For more.
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
    /// Measures.
    pub(super) fn now() -> Self {
        let start = Instant::now();
        let kernels = available();
        if kernels.len() == 1 {
            let (copy, fill) = (Choice::PLAIN, Choice::PLAIN);
            return Self { copy, fill, took: start.elapsed() };
        }
        let mut pieces = Pieces::new();
        // Two budgets from here on, so that the second is not what the first has left.
        let copy = pieces.choose(&kernels, Pieces::copy);
        let fill = pieces.choose(&kernels, Pieces::fill);
        Self { copy, fill, took: start.elapsed() }
    }
}

/// Private memory to try the kernels on.
struct Pieces {
    source: Vec<u8>,
    target: Vec<u8>,
}

impl Pieces {
    fn new() -> Self {
        // Not zero: memory that has only been read may be one and the same page of zeros.
        Self { source: vec![0xa5; PIECE], target: vec![0x5a; PIECE] }
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
                    times.cached.add(|| run(self, times.kernel));
                }
            }
        }
        // Nobody knows whether the bytes of a smaller copy are in a cache, so both count.
        let either = |times: &Times| times.flushed.0 + times.cached.0;
        Choice {
            cached: best(times.iter().filter(|times| times.kernel.is_cached), either),
            streamed: best(times.iter(), |times| times.flushed.0),
        }
    }

    #[cfg(all(target_arch = "x86_64", not(miri)))]
    fn flush(&self) {
        for piece in [&self.source, &self.target] {
            // SAFETY: a live `Vec` of so many bytes.
            unsafe { flush(piece.as_ptr(), piece.len()) };
        }
    }

    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    fn flush(&self) {
        // There is nothing to choose from, so nothing is measured.
    }

    fn copy(&mut self, kernel: &Kernel) {
        let target = black_box(self.target.as_mut_ptr());
        // SAFETY: two live `Vec`s of so many bytes, of which one is ours alone; the kernel is available.
        unsafe { kernel.copy(target, black_box(self.source.as_ptr()), PIECE) };
    }

    fn fill(&mut self, kernel: &Kernel) {
        // SAFETY: as for the copy.
        unsafe { kernel.fill(black_box(self.target.as_mut_ptr()), 0, PIECE) };
    }
}

/// The best times of a kernel.
struct Times {
    kernel: &'static Kernel,
    /// With the pieces in no cache.
    flushed: Best,
    /// With the pieces where the same kernel left them just before.
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

/// The first one that no other beats by more than a twentieth, so that noise does not decide among equals,
/// and the plain one stays unless there is a reason.
fn best<'a>(
    mut candidates: impl Iterator<Item = &'a Times>,
    time: impl Fn(&Times) -> Duration,
) -> &'static Kernel {
    let Some(first) = candidates.next() else { return &PLAIN };
    let better = |best: &'a Times, next: &'a Times| {
        if time(next) * 20 < time(best) * 19 { next } else { best }
    };
    candidates.fold(first, better).kernel
}
