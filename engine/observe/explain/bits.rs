//! Numbers packed into two words.

use crate::device::DeviceId;

/// Bits of a size: ten of a mantissa of eleven (the first is always 1 and not written), and an exponent.
pub(super) const SIZE: u32 = 16;
/// Bits of the number of a device. All ones means no device.
pub(super) const DEVICE: u32 = 10;

const NO_DEVICE: u64 = (1 << DEVICE) - 1;

/// Numbers written one after the other, and read in the same order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Bits {
    bits: u128,
    at: u32,
}

impl Bits {
    pub(super) fn read([high, low]: [u64; 2]) -> Self {
        Self { bits: u128::from(high) << 64 | u128::from(low), at: 0 }
    }

    pub(super) fn words(self) -> [u64; 2] {
        // CAST: the two halves.
        [(self.bits >> 64) as u64, self.bits as u64]
    }

    /// Writes `number`, or the largest number of that width if it is larger.
    pub(super) fn put(&mut self, number: impl Into<u64>, width: u32) {
        let number = number.into().min(u64::MAX >> (64 - width));
        self.bits |= u128::from(number) << self.at;
        self.at += width;
        debug_assert!(self.at <= u128::BITS, "{} bits", self.at);
    }

    pub(super) fn take(&mut self, width: u32) -> u64 {
        // CAST: at most 64 bits are left by the mask.
        let number = (self.bits >> self.at) as u64 & (u64::MAX >> (64 - width));
        self.at += width;
        number
    }

    /// Reads a number of at most 32 bits.
    pub(super) fn count(&mut self, width: u32) -> u32 {
        debug_assert!(width <= u32::BITS);
        // CAST: at most 32 bits.
        self.take(width) as u32
    }

    pub(super) fn put_device(&mut self, device: Option<DeviceId>) {
        let number = device.map_or(NO_DEVICE, |device| u64::from(device.0).min(NO_DEVICE - 1));
        self.put(number, DEVICE);
    }

    pub(super) fn device(&mut self) -> Option<DeviceId> {
        let number = self.take(DEVICE);
        // CAST: ten bits.
        (number != NO_DEVICE).then_some(DeviceId(number as u16))
    }

    /// Writes a size to three digits. `u64::MAX` is kept exactly.
    pub(super) fn put_size(&mut self, bytes: u64) {
        self.put(shortened(bytes), SIZE);
    }

    pub(super) fn size(&mut self) -> u64 {
        lengthened(self.take(SIZE))
    }
}

/// Rounds a size to eleven significant bits, and packs those and their shift.
fn shortened(bytes: u64) -> u64 {
    if bytes < 1 << 10 {
        return bytes;
    }
    let shift = 53 - bytes.leading_zeros();
    let half = if shift == 0 { 0 } else { 1 << (shift - 1) };
    // Rounding may carry into a twelfth bit. Then the mantissa is 0 and the exponent one more, which is right.
    let Some(rounded) = bytes.checked_add(half) else { return u64::MAX };
    let mantissa = rounded >> shift;
    (u64::from(shift) << 10) + mantissa
}

fn lengthened(short: u64) -> u64 {
    let (exponent, mantissa) = (short >> 10, short & 0x3ff);
    match exponent {
        0 => mantissa,
        1..=54 => (mantissa | 1 << 10) << (exponent - 1),
        _ => u64::MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_exact_to_three_digits() {
        let mut sizes: Vec<u64> =
            (0..64).flat_map(|bit| [1 << bit, (1 << bit) - 1, 3 << bit]).collect();
        sizes.extend([1_234_567, 0x7ff << 40, (0x7ff << 40) + 1, (1 << 63) + 1]);
        for bytes in sizes {
            let back = lengthened(shortened(bytes));
            let error = bytes.abs_diff(back);
            assert!(error <= bytes / 2048, "{bytes} became {back}");
            assert_eq!(lengthened(shortened(back)), back, "and once more changes nothing");
            assert!(shortened(bytes) < 1 << SIZE || shortened(bytes) == u64::MAX);
        }
        assert_eq!(lengthened(shortened(250 << 20)), 250 << 20);
        let mut bits = Bits::default();
        bits.put_size(u64::MAX);
        assert_eq!(Bits::read(bits.words()).size(), u64::MAX);
    }

    #[test]
    fn numbers_are_read_as_written_and_too_large_ones_are_clamped() {
        let mut bits = Bits::default();
        bits.put(5_u64, 4);
        bits.put(99_u64, 6);
        bits.put_device(None);
        bits.put_device(Some(DeviceId(7)));
        bits.put_device(Some(DeviceId(60_000)));
        bits.put(u64::MAX, 64);
        bits.put(u64::MAX, 24);
        let mut bits = Bits::read(bits.words());
        assert_eq!((bits.take(4), bits.take(6)), (5, 63));
        assert_eq!((bits.device(), bits.device()), (None, Some(DeviceId(7))));
        assert_eq!(bits.device(), Some(DeviceId(1022)));
        assert_eq!((bits.take(64), bits.take(24)), (u64::MAX, (1 << 24) - 1));
    }
}
