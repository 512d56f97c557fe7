//! Copies of all sizes, each against the fastest single way to copy as many bytes.
#![expect(unsafe_code, reason = "stores that bypass the caches")]

use std::hint::black_box;
use std::time::Duration;

use peerbuf::CopyRegion;

use crate::Outcome;
use crate::by_hand::{ByHand, write_pattern};
use crate::figure::{Figure, time};
use crate::hand::Recorded;
use crate::measure::{Compared, Contender, Plan, compare_all, is_quick};
use crate::setup::{Setup, TIMEOUT};
use crate::share::{create_on, fill, verify};

const SEED: u32 = 2026;
const SIZES: std::ops::RangeInclusive<u32> = 12..=28;

/// With `--quick` every second size up to this one is measured.
const QUICK_SIZE: u32 = 24;

/// No round of a size begins later than this after its first one, but for a few.
const BUDGET: Duration = Duration::from_millis(1500);

/// `copy_best_way`: sizes from 4 KiB to 256 MiB by powers of two. Each is compared with `memcpy` on the heap, with
/// stores that bypass the caches, and with one recorded copy. The value is that of the worst size.
pub(crate) fn copy(setup: &Setup) -> Outcome<Vec<Figure>> {
    let mut worst: Option<Compared> = None;
    let mut all = Vec::new();
    let is_measured = |bits: &u32| !is_quick() || bits.is_multiple_of(2) && *bits <= QUICK_SIZE;
    for bits in SIZES.filter(is_measured) {
        let (way, compared) = against_best(setup, 1 << bits)?;
        let (ours, theirs) = (time(compared.ours), time(compared.baseline));
        let ratio = compared.ratio.median;
        let size = format!("{} KiB", (1u64 << bits) >> 10);
        all.push(format!("{size:>10}  {ratio:.2} × {way:<14}  {ours:>10}  {theirs:>10}"));
        if worst.is_none_or(|worst| ratio < worst.ratio.median) {
            worst = Some(compared);
        }
    }
    let compared = worst.ok_or("no size")?;
    let what = "copy of the worst size";
    let figure = Figure::speed("copy_best_way", what, "the best way by hand", Some(0.9), compared);
    Ok(vec![figure.with_detail(all)])
}

/// Compares with each way, and returns the one that was fastest.
fn against_best(setup: &Setup, size: u64) -> Outcome<(&'static str, Compared)> {
    let (near, far) = (&setup.near, &setup.far);
    let plan = if size < 1 << 20 { Plan::SHORT } else { Plan::LONG };
    let from = create_on(setup, near, size)?;
    let to = create_on(setup, far, size)?;
    fill(&from, near, SEED)?;
    fill(&to, far, !SEED)?;
    let ours = || Ok(setup.engine.copy(&from, &to, CopyRegion::first(size))?.wait(TIMEOUT)?);
    // The first copy may measure.
    ours()?;
    let bytes = usize::try_from(size)?;
    let source = vec![0xa5u8; bytes];
    let [mut cached, mut streamed] = [(); 2].map(|()| vec![0x5au8; bytes]);
    let mut memcpy = || {
        black_box(&mut cached).copy_from_slice(black_box(&source));
        Ok(())
    };
    let mut past = || {
        past_the_cache(black_box(&mut streamed), black_box(&source));
        Ok(())
    };
    let sources = ByHand::new(near, far, setup.handle, size)?;
    let targets = ByHand::new(far, near, setup.handle, size)?;
    let block = sources.create()?;
    write_pattern(near, &block, size)?;
    let seen = sources.share(&block)?;
    let target = targets.create()?;
    let recorded = Recorded::copy(far, &seen, &target, size)?;
    let mut device = || recorded.run();
    let ways: [Contender<'_>; 3] = [&mut memcpy, &mut past, &mut device];
    let compared = compare_all(plan, BUDGET, ours, ways)?;
    verify(&to, far, SEED)?;
    let best = |a: &(_, Compared), b: &(_, Compared)| a.1.ratio.median.total_cmp(&b.1.ratio.median);
    let ways = ["memcpy", "past the cache", "device"].into_iter().zip(compared);
    ways.min_by(best).ok_or_else(|| "no way".into())
}

/// Copies with non-temporal stores. Without them it is `memcpy`.
#[cfg(target_arch = "x86_64")]
fn past_the_cache(to: &mut [u8], from: &[u8]) {
    use std::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_sfence, _mm_stream_si128};
    let head = to.as_ptr().align_offset(16).min(to.len());
    to[..head].copy_from_slice(&from[..head]);
    let (to, from) = (&mut to[head..], &from[head..]);
    let (to, to_rest) = to.as_chunks_mut::<16>();
    let (from, from_rest) = from.as_chunks::<16>();
    for (to, from) in to.iter_mut().zip(from) {
        let (to, from): (*mut __m128i, *const __m128i) =
            (to.as_mut_ptr().cast(), from.as_ptr().cast());
        // SAFETY: 16 bytes are readable there.
        let vector = unsafe { _mm_loadu_si128(from) };
        // SAFETY: 16 bytes are writable there, and the address is aligned, since the head was split off.
        unsafe { _mm_stream_si128(to, vector) };
    }
    // SAFETY: a fence has no requirements.
    unsafe { _mm_sfence() };
    to_rest.copy_from_slice(from_rest);
}

#[cfg(not(target_arch = "x86_64"))]
fn past_the_cache(to: &mut [u8], from: &[u8]) {
    to.copy_from_slice(from);
}
