//! Byte sequences that tests write and compare.

use peerbuf::{Access, SharedBuffer};

/// Byte `index` of the sequence of `seed`. It is never zero, and the sequence has no short period.
pub(crate) fn byte(seed: u64, index: u64) -> u8 {
    word(seed, index / 8)[(index % 8) as usize]
}

/// Eight bytes of the sequence of `seed` at once: tests make gigabytes of it in builds that optimise little.
fn word(seed: u64, number: u64) -> [u8; 8] {
    let mixed = (number ^ seed.rotate_left(17)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ mixed >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93);
    ((mixed ^ mixed >> 32) | 0x0101_0101_0101_0101).to_le_bytes()
}

/// The first `len` bytes of the sequence of `seed`.
pub(crate) fn sequence(seed: u64, len: u64) -> Vec<u8> {
    // CAST: tests' buffers fit memory.
    let mut bytes = vec![0; len as usize];
    for (number, part) in (0..).zip(bytes.chunks_mut(8)) {
        part.copy_from_slice(&word(seed, number)[..part.len()]);
    }
    bytes
}

/// Writes the sequence of `seed` to all of `buffer` from the host.
pub(crate) fn write(buffer: &SharedBuffer, seed: u64) {
    let access = buffer.host_access(Access::Write).expect("host access");
    access.write(0, &sequence(seed, buffer.size())).expect("the range is the whole buffer");
    access.end().expect("the access ends");
}

/// Reads all bytes of `buffer` from the host.
pub(crate) fn read(buffer: &SharedBuffer) -> Vec<u8> {
    // CAST: as in `sequence`.
    let mut bytes = vec![0xee; buffer.size() as usize];
    let access = buffer.host_access(Access::Read).expect("host access");
    access.read(0, &mut bytes).expect("the range is the whole buffer");
    access.end().expect("the access ends");
    bytes
}

/// Asserts that `actual` is `expected`, and reports the first difference.
pub(crate) fn assert_same(actual: &[u8], expected: &[u8], what: &str) {
    assert_eq!(actual.len(), expected.len(), "{what}: length");
    // One comparison of memory, which this build's loop over bytes is not.
    if actual == expected {
        return;
    }
    if let Some(at) = actual.iter().zip(expected).position(|(a, b)| a != b) {
        let wrong = actual.iter().zip(expected).filter(|(a, b)| a != b).count();
        panic!(
            "{what}: {wrong} of {} bytes wrong, the first at {at}: {:#x}, not {:#x}",
            actual.len(),
            actual[at],
            expected[at]
        );
    }
}

/// Asserts that the host reads the sequence of `seed` in all of `buffer`.
pub(crate) fn assert_sequence(buffer: &SharedBuffer, seed: u64, what: &str) {
    assert_same(&read(buffer), &sequence(seed, buffer.size()), what);
}

/// Asserts that the host reads zeros in all of `buffer`.
pub(crate) fn assert_zero(buffer: &SharedBuffer, what: &str) {
    // CAST: as in `sequence`.
    assert_same(&read(buffer), &vec![0; buffer.size() as usize], what);
}
