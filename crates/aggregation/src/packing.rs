//! Numbers of a few bits in bytes, low bits first (spec: aggregation, section 3).

/// Appends numbers below 2^`bits`, and zero bits up to a whole byte. `bits` is at most 12.
pub(crate) fn pack(bits: u32, numbers: impl IntoIterator<Item = u16>, out: &mut Vec<u8>) {
    let mut pending = 0_u32;
    let mut pending_bits = 0;
    for number in numbers {
        pending |= u32::from(number) << pending_bits;
        pending_bits += bits;
        while pending_bits >= 8 {
            out.push(low_byte(pending));
            pending >>= 8;
            pending_bits -= 8;
        }
    }
    if pending_bits > 0 {
        out.push(low_byte(pending));
    }
}

fn low_byte(number: u32) -> u8 {
    number.to_le_bytes()[0]
}

/// Reads `count` numbers of `bits` bits; `bytes` must hold them.
pub(crate) fn unpack(bits: u32, count: usize, bytes: &[u8]) -> impl Iterator<Item = u16> {
    let mut bytes = bytes.iter();
    let mut pending = 0_u32;
    let mut pending_bits = 0;
    let mask = (1_u32 << bits) - 1;
    (0..count).map(move |_| {
        while pending_bits < bits {
            let byte = bytes.next().expect("the length was checked");
            pending |= u32::from(*byte) << pending_bits;
            pending_bits += 8;
        }
        let number = pending & mask;
        pending >>= bits;
        pending_bits -= bits;
        u16::try_from(number).expect("a number has at most 12 bits")
    })
}

/// Returns whether the bits of the last byte behind `count` numbers are zero.
pub(crate) fn is_padded_with_zeros(bits: u32, count: usize, bytes: &[u8]) -> bool {
    let used = (count * bits as usize) % 8;
    used == 0 || bytes.last().is_some_and(|last| last >> used == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_indices_take_three_bytes() {
        let mut bytes = Vec::new();
        pack(12, [0xabc, 0x123, 0xfed], &mut bytes);
        assert_eq!(bytes, [0xbc, 0x3a, 0x12, 0xed, 0x0f]);
        let numbers: Vec<u16> = unpack(12, 3, &bytes).collect();
        assert_eq!(numbers, [0xabc, 0x123, 0xfed]);
        assert!(is_padded_with_zeros(12, 3, &bytes));
        bytes[4] |= 0x10;
        assert!(!is_padded_with_zeros(12, 3, &bytes));
    }

    #[test]
    fn the_first_number_stands_in_the_low_bits() {
        for (bits, numbers, expected) in [
            (2, &[1_u16, 2, 3, 0, 2][..], &[0b0011_1001_u8, 0b10][..]),
            (4, &[0x7, 0x9, 0x1][..], &[0x97, 0x01][..]),
        ] {
            let mut bytes = Vec::new();
            pack(bits, numbers.iter().copied(), &mut bytes);
            assert_eq!(bytes, expected);
            let again: Vec<u16> = unpack(bits, numbers.len(), &bytes).collect();
            assert_eq!(again, numbers);
        }
    }
}
