//! Byte sequences that tests write and compare.

use peerbuf::{Access, SharedBuffer};

/// Byte `index` of the sequence of `seed`. It is never zero, and the sequence has no short period.
pub(crate) fn byte(seed: u64, index: u64) -> u8 {
    let mixed = (index ^ seed.rotate_left(17)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    // CAST: the top byte, with its lowest bit set.
    (mixed >> 56) as u8 | 1
}

/// The first `len` bytes of the sequence of `seed`.
pub(crate) fn sequence(seed: u64, len: u64) -> Vec<u8> {
    (0..len).map(|index| byte(seed, index)).collect()
}

/// Writes the sequence of `seed` to all of `buffer` from the host.
pub(crate) fn write(buffer: &SharedBuffer, seed: u64) {
    let access = buffer.host_access(Access::Write).expect("host access");
    access.write(0, &sequence(seed, buffer.size())).expect("the range is the whole buffer");
    access.end().expect("the access ends");
}

/// Reads all bytes of `buffer` from the host.
pub(crate) fn read(buffer: &SharedBuffer) -> Vec<u8> {
    // CAST: tests' buffers fit memory.
    let mut bytes = vec![0xee; buffer.size() as usize];
    let access = buffer.host_access(Access::Read).expect("host access");
    access.read(0, &mut bytes).expect("the range is the whole buffer");
    access.end().expect("the access ends");
    bytes
}

/// Asserts that `actual` is `expected`, and reports the first difference.
pub(crate) fn assert_same(actual: &[u8], expected: &[u8], what: &str) {
    assert_eq!(actual.len(), expected.len(), "{what}: length");
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
    // CAST: as in `read`.
    assert_same(&read(buffer), &vec![0; buffer.size() as usize], what);
}
