//! Numbers of a fixed width, one behind the other.

/// Bits that the largest of the numbers needs.
pub(super) fn width(numbers: &[u64]) -> u8 {
    let all = numbers.iter().fold(0, |all, n| all | n);
    (u64::BITS - all.leading_zeros()) as u8
}

/// Writes numbers below `2^width`.
pub(super) fn write(out: &mut Vec<u8>, numbers: &[u64], width: u8) {
    let (mut held, mut bits) = (0_u128, 0_u32);
    for n in numbers {
        held |= u128::from(*n) << bits;
        bits += u32::from(width);
        while bits >= 8 {
            out.push(held as u8);
            held >>= 8;
            bits -= 8;
        }
    }
    if bits > 0 {
        out.push(held as u8);
    }
}

/// Bytes that `count` numbers take.
pub(super) fn size(count: usize, width: u8) -> usize {
    (count * usize::from(width)).div_ceil(8)
}

/// Reads numbers as `write` wrote them; the bytes end behind the last one.
pub(super) fn read(bytes: &[u8], numbers: &mut [u64], width: u8) {
    if width == 0 {
        numbers.fill(0);
        return;
    }
    let mask = u64::MAX >> (64 - u32::from(width));
    for (i, n) in numbers.iter_mut().enumerate() {
        let bit = i * usize::from(width);
        let (at, shift) = (bit / 8, bit % 8);
        let mut word = [0_u8; 16];
        if let Some(whole) = bytes.get(at..at + 16) {
            word.copy_from_slice(whole);
        } else {
            let rest = bytes.get(at..).unwrap_or_default();
            word[..rest.len()].copy_from_slice(rest);
        }
        *n = (u128::from_le_bytes(word) >> shift) as u64 & mask;
    }
}

/// Writes a number in groups of seven bits, low ones first.
pub(super) fn write_varint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

/// Folds the sign into the lowest bit.
pub(super) fn zigzag(n: i64) -> u64 {
    ((n << 1) ^ (n >> 63)) as u64
}

/// Undoes [`zigzag`].
pub(super) fn unzigzag(n: u64) -> i64 {
    (n >> 1) as i64 ^ -((n & 1) as i64)
}

/// Reads what was written, front to back. Past the end everything is zero.
pub(super) struct Reader<'b> {
    pub(super) bytes: &'b [u8],
}

impl<'b> Reader<'b> {
    pub(super) fn byte(&mut self) -> u8 {
        let (first, rest) = self.bytes.split_first().map_or((0, self.bytes), |(b, r)| (*b, r));
        self.bytes = rest;
        first
    }

    pub(super) fn varint(&mut self) -> u64 {
        let (mut n, mut shift) = (0, 0);
        loop {
            let byte = self.byte();
            n |= u64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte < 0x80 || shift > 63 {
                return n;
            }
        }
    }

    pub(super) fn take(&mut self, count: usize) -> &'b [u8] {
        let (taken, rest) = self.bytes.split_at(count.min(self.bytes.len()));
        self.bytes = rest;
        taken
    }
}
