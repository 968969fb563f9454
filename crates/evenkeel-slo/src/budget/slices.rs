//! Many slices in little memory.
//!
//! A budget of 30 days has up to 21,600 of them, of 128 bytes each with their sums: with a thousand
//! SLOs almost three gigabytes. All but the newest are packed, into some five bytes each: most
//! begin where the one before ended, are as long as that one, and have whole numbers of events.

use std::collections::VecDeque;

use jiff::Timestamp;

use super::count::{Events, Slice, Tally};

/// Slices of a block.
const BLOCK: usize = 48;
/// Slices that are not packed, at most: a power of two, which is the room that a queue takes.
const NEWEST: usize = 64;

/// A slice with running sums over everything up to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Summed {
    pub(super) slice: Slice,
    pub(super) tally: Tally,
    pub(super) covered_ms: u64,
}

impl Summed {
    /// The next slice after these sums.
    pub(super) fn after(sums: (Tally, u64), slice: Slice) -> Self {
        let tally = sums.0.plus(slice.tally.unwrap_or_default());
        Self { slice, tally, covered_ms: sums.1 + own_ms(&slice) }
    }

    /// What was summed before it.
    pub(super) fn before(&self) -> (Tally, u64) {
        let own = self.slice.tally.unwrap_or_default();
        (self.tally.minus(own), self.covered_ms - own_ms(&self.slice))
    }
}

/// Time of a slice that has data.
fn own_ms(slice: &Slice) -> u64 {
    let length_ms = slice.to.as_millisecond() - slice.from.as_millisecond();
    slice.tally.map_or(0, |_| u64::try_from(length_ms).unwrap_or(0))
}

/// Slices with their sums, oldest first; each begins at or after the end of the one before.
#[derive(Clone, Debug, Default)]
pub(super) struct Slices {
    packed: VecDeque<Block>,
    newest: VecDeque<Summed>,
    /// So many of the first block are gone.
    gone: usize,
}

/// [`BLOCK`] slices.
#[derive(Clone, Debug)]
struct Block {
    /// Start of its first slice, and what was summed before.
    from: Timestamp,
    before: (Tally, u64),
    last: Summed,
    bytes: Box<[u8]>,
}

impl Slices {
    pub(super) fn len(&self) -> usize {
        self.packed.len() * BLOCK + self.newest.len() - self.gone
    }

    pub(super) fn back(&self) -> Option<&Summed> {
        self.newest.back().or_else(|| self.packed.back().map(|block| &block.last))
    }

    pub(super) fn get(&self, index: usize) -> Option<Summed> {
        let at = index + self.gone;
        match self.packed.get(at / BLOCK) {
            Some(block) => block.unpack().get(at % BLOCK).copied(),
            None => self.newest.get(at - self.packed.len() * BLOCK).copied(),
        }
    }

    pub(super) fn push_back(&mut self, next: Summed) {
        if self.newest.len() >= NEWEST {
            let oldest: Vec<Summed> = self.newest.drain(..BLOCK).collect();
            self.packed.extend(Block::pack(&oldest));
        }
        self.newest.push_back(next);
    }

    pub(super) fn pop_front(&mut self) {
        if self.packed.is_empty() {
            self.newest.pop_front();
            return;
        }
        self.gone += 1;
        if self.gone == BLOCK {
            self.packed.pop_front();
            self.gone = 0;
        }
    }

    /// The index of the first slice of which `is_before` is not true.
    pub(super) fn partition_point(&self, is_before: impl Fn(&Summed) -> bool) -> usize {
        let block = self.packed.partition_point(|block| is_before(&block.last));
        let inside = match self.packed.get(block) {
            Some(block) => block.unpack().partition_point(&is_before),
            None => self.newest.partition_point(&is_before),
        };
        (block * BLOCK + inside).saturating_sub(self.gone)
    }

    /// The slices from one index up to another.
    pub(super) fn range(&self, from: usize, to: usize) -> impl DoubleEndedIterator<Item = Summed> {
        self.part(from, to, |_| true)
    }

    /// Those of them in which events failed.
    pub(super) fn failed(&self, from: usize, to: usize) -> impl Iterator<Item = Summed> {
        let has_failed = |block: &Block| block.last.tally.bad() != block.before.0.bad();
        let failed = |one: &Summed| one.slice.tally.unwrap_or_default().bad() > Events::ZERO;
        self.part(from, to, has_failed).filter(failed)
    }

    /// The slices from one index up to another, as far as their blocks are asked for.
    fn part(
        &self,
        from: usize,
        to: usize,
        asks: fn(&Block) -> bool,
    ) -> impl DoubleEndedIterator<Item = Summed> {
        let (from, to) = (from + self.gone, (to + self.gone).max(from + self.gone));
        let packed = self.packed.len();
        let blocks = (from / BLOCK).min(packed)..to.div_ceil(BLOCK).min(packed);
        let inside = move |number: usize| {
            let block = self.packed.get(number).filter(|block| asks(block));
            let mut all = block.map(Block::unpack).unwrap_or_default();
            all.truncate(to - number * BLOCK);
            all.drain(..from.saturating_sub(number * BLOCK).min(all.len()));
            all
        };
        let newest = |at: usize| at.saturating_sub(packed * BLOCK).min(self.newest.len());
        let newest = self.newest.range(newest(from)..newest(to)).copied();
        blocks.flat_map(inside).chain(newest)
    }

    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = Summed> {
        self.range(0, self.len())
    }
}

impl FromIterator<Summed> for Slices {
    fn from_iter<T: IntoIterator<Item = Summed>>(all: T) -> Self {
        let mut slices = Self::default();
        for next in all {
            slices.push_back(next);
        }
        slices
    }
}

/// It does not begin where the one before ended.
const GAP: u8 = 1;
/// It is as long as the one before.
const AS_LONG: u8 = 2;
/// It has data.
const DATA: u8 = 4;
/// Some events failed.
const BAD: u8 = 8;
/// Its events are whole ones.
const WHOLE: u8 = 16;
/// Its times are whole milliseconds.
const MILLIS: u8 = 32;

const MICROS: u128 = 1_000_000;
const NANOS: u128 = 1_000_000;

impl Block {
    fn pack(all: &[Summed]) -> Option<Self> {
        let (first, last) = (all.first()?, all.last()?);
        let from = first.slice.from;
        let (mut end, mut length, mut bytes) = (from, 0, Vec::new());
        for Summed { slice, .. } in all {
            let (gap, new) = (nanos(end, slice.from), nanos(slice.from, slice.to));
            let tally = slice.tally.unwrap_or_default();
            let (bad, total) = (tally.bad().micros(), tally.total().micros());
            let mut flags = 0;
            let mut flag = |is_set: bool, flag: u8| {
                flags |= if is_set { flag } else { 0 };
                is_set
            };
            let has_gap = flag(gap > 0, GAP);
            let is_as_long = flag(new == length, AS_LONG);
            let has_data = flag(slice.tally.is_some(), DATA);
            let has_bad = flag(bad > 0, BAD);
            let is_whole = flag(bad.is_multiple_of(MICROS) && total.is_multiple_of(MICROS), WHOLE);
            let in_millis = flag(gap.is_multiple_of(NANOS) && new.is_multiple_of(NANOS), MILLIS);
            let (events, time) =
                (if is_whole { MICROS } else { 1 }, if in_millis { NANOS } else { 1 });
            bytes.push(flags);
            for (is_there, number) in [
                (has_gap, gap / time),
                (!is_as_long, new / time),
                (has_data, total / events),
                (has_bad, bad / events),
            ] {
                if is_there {
                    put(number, &mut bytes);
                }
            }
            (end, length) = (slice.to, new);
        }
        Some(Self { from, before: first.before(), last: *last, bytes: bytes.into() })
    }

    fn unpack(&self) -> Vec<Summed> {
        let mut all = Vec::with_capacity(BLOCK);
        let (mut end, mut length, mut sums) = (self.from, 0, self.before);
        let mut bytes = self.bytes.iter().copied();
        while let Some(flags) = bytes.next() {
            let has = |flag: u8| flags & flag != 0;
            let mut number =
                |is_there: bool, unit: u128| if is_there { take(&mut bytes) * unit } else { 0 };
            let time = if has(MILLIS) { NANOS } else { 1 };
            let events = if has(WHOLE) { MICROS } else { 1 };
            let gap = number(has(GAP), time);
            let new = number(!has(AS_LONG), time);
            length = if has(AS_LONG) { length } else { new };
            let total = Events::from_micros(number(has(DATA), events));
            let bad = Events::from_micros(number(has(BAD), events));
            let from = later(end, gap);
            let to = later(from, length);
            let tally = has(DATA).then(|| Tally::new(bad, total));
            let next = Summed::after(sums, Slice { from, to, tally });
            (end, sums) = (to, (next.tally, next.covered_ms));
            all.push(next);
        }
        all
    }
}

/// Time from one moment to a later one. Unit: nanoseconds.
fn nanos(from: Timestamp, to: Timestamp) -> u128 {
    u128::try_from(to.as_nanosecond() - from.as_nanosecond()).unwrap_or(0)
}

fn later(from: Timestamp, nanos: u128) -> Timestamp {
    let to = i128::try_from(nanos).ok().and_then(|nanos| from.as_nanosecond().checked_add(nanos));
    to.and_then(|to| Timestamp::from_nanosecond(to).ok()).unwrap_or(Timestamp::MAX)
}

/// Seven bits a byte, the lowest first; all but the last have the highest bit set.
fn put(mut number: u128, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    out.push(number.to_le_bytes()[0]);
}

fn take(bytes: &mut impl Iterator<Item = u8>) -> u128 {
    let (mut number, mut shift) = (0, 0);
    for byte in bytes {
        number |= u128::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 || shift >= u128::BITS {
            break;
        }
    }
    number
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Gap before it and length in milliseconds, nanoseconds on top, bad and all events.
    type Row = (u64, u64, u64, Option<(u128, u128)>);

    fn any_row() -> impl Strategy<Value = Row> {
        let gap = prop_oneof![8 => Just(0_u64), 1 => 1..100_000_u64];
        let length = prop_oneof![8 => Just(15_000_u64), 1 => 1..10_000_000_u64];
        let nanos = prop_oneof![8 => Just(0_u64), 1 => 0..1_000_000_u64];
        let events = prop_oneof![
            4 => Just((0, 0)),
            4 => (0..100_u128, 0..1_000_u128).prop_map(|(a, b)| (a * MICROS, b * MICROS)),
            1 => (0..u128::MAX >> 20, 0..u128::MAX >> 20),
        ];
        (gap, length, nanos, prop::option::weighted(0.9, events))
    }

    fn summed(rows: &[Row]) -> Vec<Summed> {
        let (mut end, mut sums) = (Timestamp::UNIX_EPOCH, (Tally::default(), 0));
        let mut all = Vec::new();
        for (gap, length, extra, events) in rows {
            let from = later(end, u128::from(*gap) * NANOS);
            let to = later(from, u128::from(*length) * NANOS + u128::from(*extra));
            let tally = events.map(|(bad, total)| {
                Tally::new(Events::from_micros(bad), Events::from_micros(total))
            });
            let next = Summed::after(sums, Slice { from, to, tally });
            (end, sums) = (to, (next.tally, next.covered_ms));
            all.push(next);
        }
        all
    }

    proptest! {
        #[test]
        fn packed_slices_are_as_a_plain_list_of_them(
            rows in prop::collection::vec(any_row(), 0..400),
            gone in 0..400_usize,
            picks in prop::collection::vec(0..400_usize, 6),
        ) {
            let mut plain = summed(&rows);
            let mut slices: Slices = plain.iter().copied().collect();
            for _ in 0..gone.min(plain.len()) {
                plain.remove(0);
                slices.pop_front();
            }
            prop_assert_eq!(slices.len(), plain.len());
            prop_assert_eq!(slices.back(), plain.last());
            prop_assert_eq!(slices.iter().collect::<Vec<_>>(), plain.clone());
            for pick in picks {
                prop_assert_eq!(slices.get(pick), plain.get(pick).copied());
                let Some(at) = plain.get(pick).map(|one| one.slice.to) else { continue };
                let before = |one: &Summed| one.slice.to <= at;
                let point = plain.partition_point(before);
                prop_assert_eq!(slices.partition_point(before), point);
                let (from, to) = (pick.min(point / 2), point);
                let part: Vec<_> = slices.range(from, to).collect();
                prop_assert_eq!(&part[..], &plain[from..to]);
                let failed = part.iter().filter(|one| {
                    one.slice.tally.is_some_and(|tally| tally.bad() > Events::ZERO)
                });
                prop_assert!(slices.failed(from, to).eq(failed.copied()));
                let mut back: Vec<_> = slices.range(from, to).rev().collect();
                back.reverse();
                prop_assert_eq!(part, back);
            }
        }
    }

    #[test]
    fn a_month_of_looks_takes_little_memory() {
        let row = |n: u64| (0, 120_000, 0, Some((u128::from(n % 50 / 49) * MICROS, 700 * MICROS)));
        let slices: Slices =
            summed(&(0..21_600).map(row).collect::<Vec<_>>()).into_iter().collect();
        let bytes: usize = slices.packed.iter().map(|b| size_of::<Block>() + b.bytes.len()).sum();
        assert!(bytes + NEWEST * size_of::<Summed>() < 225_000, "{bytes}");
    }
}
