//! Float samples of one series in few bytes: the newest as they are, all others packed.
//!
//! ```text
//! chunk chunk chunk ... | open: groups of a chunk to be | tail: up to 16 samples as they are
//! block block block ...   one of each for BLOCK samples, with what long windows need
//! ```
//!
//! Nothing is lost: every bit of every value comes back. A window is read by unpacking only the
//! chunks at its ends where sums over blocks are enough.

mod bits;
mod group;

use crate::blocks::{BLOCK, Block, Blocks, Gap, is_regular};
use crate::number::is_stale;
use crate::storage::{Needs, Samples, TimeRange};
use bits::Reader;
use group::{GROUP, State};
use std::borrow::Cow;

/// `BLOCK` samples.
#[derive(Clone, Debug)]
struct Chunk {
    start_ms: i64,
    bytes: Box<[u8]>,
}

/// The samples.
#[derive(Clone, Debug, Default)]
pub(crate) struct Packed {
    chunks: Vec<Chunk>,
    /// Of the chunks.
    blocks: Vec<Block>,
    open: Vec<u8>,
    /// Samples in `open`.
    open_len: usize,
    open_start_ms: i64,
    /// Behind `open`.
    state: State,
    /// Never empty if there is any sample.
    times: Vec<i64>,
    floats: Vec<f64>,
}

/// Unpacked samples.
#[derive(Default)]
struct Columns {
    times: Vec<i64>,
    floats: Vec<f64>,
}

impl Columns {
    fn with_capacity(count: usize) -> Self {
        Self { times: Vec::with_capacity(count), floats: Vec::with_capacity(count) }
    }

    fn truncate_after(&mut self, t_ms: i64) {
        let keep = self.times.partition_point(|t| *t <= t_ms);
        self.times.truncate(keep);
        self.floats.truncate(keep);
    }

    fn drop_before(&mut self, t_ms: i64) -> usize {
        let gone = self.times.partition_point(|t| *t < t_ms);
        self.times.drain(..gone);
        self.floats.drain(..gone);
        gone
    }

    /// Whether a sample after `t_ms` is more than an end marker.
    fn counts_after(&self, t_ms: i64) -> bool {
        self.times.iter().zip(&self.floats).any(|(t, v)| *t > t_ms && !is_stale(*v))
    }
}

impl Packed {
    /// Number of samples.
    pub(crate) fn len(&self) -> usize {
        self.packed_len() + self.times.len()
    }

    fn packed_len(&self) -> usize {
        self.chunks.len() * BLOCK + self.open_len
    }

    /// The newest sample.
    pub(crate) fn newest(&self) -> Option<(i64, f64)> {
        Some((*self.times.last()?, *self.floats.last()?))
    }

    /// Adds a sample that is newer than all others.
    pub(crate) fn push(&mut self, t_ms: i64, value: f64) {
        if self.times.len() == GROUP {
            self.pack();
        }
        self.times.push(t_ms);
        self.floats.push(value);
    }

    /// Packs the tail.
    fn pack(&mut self) {
        let before = (self.open_len > 0).then_some(self.state);
        if before.is_none() {
            self.open_start_ms = self.times[0];
        }
        let mut bytes = Vec::with_capacity(2 * GROUP * size_of::<i64>());
        self.state = group::encode(&mut bytes, before, &self.times, &self.floats);
        self.open.reserve_exact(bytes.len());
        self.open.extend_from_slice(&bytes);
        self.open_len += self.times.len();
        self.times.clear();
        self.floats.clear();
        if self.open_len == BLOCK {
            self.seal();
        }
    }

    fn seal(&mut self) {
        let mut columns = Columns::with_capacity(BLOCK);
        let bytes = std::mem::take(&mut self.open).into_boxed_slice();
        unpack(&bytes, self.open_start_ms, BLOCK, &mut columns);
        let before = self.blocks.last().map(|block| block.last);
        grow(&mut self.blocks);
        self.blocks.push(Block::of(&columns.floats, before));
        grow(&mut self.chunks);
        self.chunks.push(Chunk { start_ms: self.open_start_ms, bytes });
        self.open_len = 0;
    }

    /// Forgets whole chunks from before a time, unless they are a small part.
    pub(crate) fn drop_before(&mut self, t_ms: i64, share: usize) {
        if self.newest().is_none_or(|(newest_ms, _)| newest_ms < t_ms) {
            *self = Self::default();
            return;
        }
        let next_start = |i: usize| self.segment_start(i + 1).unwrap_or(i64::MAX);
        let gone = (0..self.chunks.len()).take_while(|i| next_start(*i) <= t_ms).count();
        if gone > 0 && gone * BLOCK >= self.len() / share {
            self.chunks.drain(..gone);
            self.blocks.drain(..gone);
        }
    }

    /// All samples.
    pub(crate) fn columns(&self) -> (Vec<i64>, Vec<f64>) {
        let mut all = Columns::with_capacity(self.len());
        for segment in 0..self.chunks.len() + 2 {
            self.unpack_segment(segment, &mut all);
        }
        (all.times, all.floats)
    }

    /// Start of a chunk, of the open one, or of the tail; `None` behind the last one.
    fn segment_start(&self, segment: usize) -> Option<i64> {
        let open = self.chunks.len();
        let open_start = (self.open_len > 0).then_some(self.open_start_ms);
        let tail_start = self.times.first().copied();
        match self.chunks.get(segment) {
            Some(chunk) => Some(chunk.start_ms),
            None if segment == open => open_start.or(tail_start),
            None if segment == open + 1 => tail_start,
            None => None,
        }
    }

    /// The last segment that starts at or before a time.
    fn segment_at(&self, t_ms: i64) -> Option<usize> {
        let open = self.chunks.len();
        if self.times.first().is_some_and(|t| *t <= t_ms) {
            return Some(open + 1);
        }
        if self.open_len > 0 && self.open_start_ms <= t_ms {
            return Some(open);
        }
        self.chunks.partition_point(|chunk| chunk.start_ms <= t_ms).checked_sub(1)
    }

    fn unpack_segment(&self, segment: usize, out: &mut Columns) {
        match self.chunks.get(segment) {
            Some(chunk) => unpack(&chunk.bytes, chunk.start_ms, BLOCK, out),
            None if segment == self.chunks.len() => {
                unpack(&self.open, self.open_start_ms, self.open_len, out);
            }
            None => {
                out.times.extend_from_slice(&self.times);
                out.floats.extend_from_slice(&self.floats);
            }
        }
    }

    /// Whether there is a sample in a range.
    pub(crate) fn touches(&self, range: TimeRange) -> bool {
        !self.samples(TimeRange { start_ms: range.start_ms, ..range }, Needs::Newest).is_empty()
    }

    /// The samples of a range, or those of it that are needed.
    pub(crate) fn samples(&self, range: TimeRange, needs: Needs) -> Samples<'_> {
        let Some(last) = self.segment_at(range.end_ms) else { return Samples::default() };
        if last > self.chunks.len()
            && (needs == Needs::Newest
                || self.packed_len() == 0
                || self.times.first().is_some_and(|t| *t <= range.start_ms))
        {
            return self.tail(range);
        }
        let first = match needs {
            Needs::Newest => last,
            Needs::All | Needs::Ends => self.segment_at(range.start_ms).unwrap_or_default(),
        };
        if needs == Needs::Ends
            && let Some(samples) = self.ends(range, first, last)
        {
            return samples;
        }
        let mut out = Columns::with_capacity((last - first + 1) * BLOCK);
        self.unpack_segment(first, &mut out);
        let skipped = out.drop_before(range.start_ms);
        for segment in first + 1..=last {
            self.unpack_segment(segment, &mut out);
        }
        out.truncate_after(range.end_ms);
        let blocks = Blocks::new(&self.blocks, first.min(self.chunks.len()) * BLOCK + skipped);
        Samples {
            times: Cow::Owned(out.times),
            floats: Cow::Owned(out.floats),
            blocks: (!self.blocks.is_empty()).then_some(blocks),
            ..Samples::default()
        }
    }

    fn tail(&self, range: TimeRange) -> Samples<'_> {
        let from = self.times.partition_point(|t| *t < range.start_ms);
        let to = self.times.partition_point(|t| *t <= range.end_ms).max(from);
        Samples {
            times: Cow::Borrowed(&self.times[from..to]),
            floats: Cow::Borrowed(&self.floats[from..to]),
            ..Samples::default()
        }
    }

    /// The samples at the ends, around a gap of whole blocks; `None` if there is no such gap.
    ///
    /// At both sides of the gap there is a sample that is not an end marker.
    fn ends(&self, range: TimeRange, first: usize, last: usize) -> Option<Samples<'_>> {
        let mut head = Columns::with_capacity(2 * BLOCK + GROUP);
        let mut gap_start = first;
        while !head.counts_after(range.start_ms) {
            if gap_start >= last.min(self.chunks.len()) {
                return None;
            }
            self.unpack_segment(gap_start, &mut head);
            gap_start += 1;
        }
        head.drop_before(range.start_ms);
        let mut gap_end = last.min(self.chunks.len());
        let mut tail = Columns::default();
        loop {
            for segment in gap_end..=last {
                self.unpack_segment(segment, &mut tail);
            }
            tail.truncate_after(range.end_ms);
            if tail.counts_after(range.start_ms) {
                break;
            }
            tail = Columns::default();
            gap_end = gap_end.checked_sub(1)?;
        }
        let whole = self.blocks.get(gap_start..gap_end).filter(|whole| !whole.is_empty())?;
        if !whole.iter().all(|block| block.regular) {
            return None;
        }
        let gap = Gap { at: head.times.len(), whole };
        head.times.append(&mut tail.times);
        head.floats.append(&mut tail.floats);
        if !head.floats.iter().all(|v| is_regular(*v) || is_stale(*v)) {
            return None;
        }
        Some(Samples {
            times: Cow::Owned(head.times),
            floats: Cow::Owned(head.floats),
            gap: Some(gap),
            ..Samples::default()
        })
    }
}

fn unpack(bytes: &[u8], start_ms: i64, count: usize, out: &mut Columns) {
    let mut reader = Reader { bytes };
    let mut state = State::at(start_ms);
    for at in (0..count).step_by(GROUP) {
        let position = (&mut state, at == 0);
        group::decode(&mut reader, position, GROUP, &mut out.times, &mut out.floats);
    }
}

/// Doubling would leave half of a large store empty.
fn grow<T>(list: &mut Vec<T>) {
    if list.len() == list.capacity() {
        list.reserve_exact((list.len() / 4).max(4));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALL: TimeRange = TimeRange { start_ms: i64::MIN, end_ms: i64::MAX };

    fn bits(floats: &[f64]) -> Vec<u64> {
        floats.iter().map(|v| v.to_bits()).collect()
    }

    fn value() -> impl Strategy<Value = f64> {
        prop_oneof![
            4 => (0_u32..50).prop_map(f64::from),
            2 => (-1_000_000_i32..1_000_000).prop_map(|n| f64::from(n) / 1e6),
            2 => any::<u64>().prop_map(f64::from_bits),
            1 => (-9_007_199_254_740_993_i64..=9_007_199_254_740_993).prop_map(|n| n as f64),
            1 => prop::sample::select(vec![
                0.0, -0.0, f64::NAN, f64::INFINITY, crate::number::stale(), f64::MIN_POSITIVE
            ]),
        ]
    }

    /// Runs of one kind, because groups of one kind are written shorter.
    fn samples() -> impl Strategy<Value = Vec<(u64, f64)>> {
        let run = prop_oneof![
            (value(), 1_usize..200).prop_map(|(v, n)| vec![(30_000, v); n]),
            prop::collection::vec((29_990_u64..30_010, value()), 1..60),
            prop::collection::vec((1_u64..1 << 40, (0_u32..9).prop_map(f64::from)), 1..60),
            prop::collection::vec((Just(60_000), value()), 1..60),
        ];
        prop::collection::vec(run, 1..9).prop_map(|runs| runs.concat())
    }

    proptest! {
        #[test]
        fn every_bit_comes_back(
            start_ms in prop_oneof![Just(i64::MIN), Just(0), any::<i32>().prop_map(i64::from)],
            samples in samples(),
            from in 0_usize..600,
            len in 0_usize..600,
        ) {
            let mut packed = Packed::default();
            let (mut times, mut floats) = (Vec::new(), Vec::new());
            let mut t_ms = start_ms;
            for (step, v) in samples {
                t_ms = t_ms.wrapping_add(step as i64);
                packed.push(t_ms, v);
                times.push(t_ms);
                floats.push(v);
            }
            let (back_times, back_floats) = packed.columns();
            prop_assert_eq!(&back_times, &times);
            prop_assert_eq!(bits(&back_floats), bits(&floats));
            let from = from.min(times.len() - 1);
            let to = (from + len).min(times.len() - 1);
            for (start_ms, end_ms) in [(times[from], times[to]), (times[from] + 1, times[to] + 1)] {
                let range = TimeRange { start_ms, end_ms };
                let wanted: Vec<usize> =
                    (0..times.len()).filter(|i| (start_ms..=end_ms).contains(&times[*i])).collect();
                let part = packed.samples(range, Needs::All);
                prop_assert_eq!(&part.times[..], wanted.iter().map(|i| times[*i]).collect::<Vec<_>>());
                let floats: Vec<f64> = wanted.iter().map(|i| floats[*i]).collect();
                prop_assert_eq!(bits(&part.floats), bits(&floats));
                prop_assert_eq!(packed.touches(range), !wanted.is_empty());
                let newest = packed.samples(range, Needs::Newest);
                prop_assert_eq!(newest.times.last(), part.times.last());
                let ends = packed.samples(range, Needs::Ends);
                prop_assert_eq!(ends.count(), wanted.len());
                prop_assert_eq!(ends.times.last(), part.times.last());
                prop_assert_eq!(ends.times.first(), part.times.first());
            }
        }
    }

    #[test]
    fn a_counter_takes_a_tenth() {
        let mut packed = Packed::default();
        for i in 0..10_000_i64 {
            packed.push(i * 30_000, (i * 300 + i % 7) as f64);
        }
        let bytes: usize = packed.chunks.iter().map(|chunk| chunk.bytes.len()).sum();
        assert!(bytes < 10_000 * 16 / 10, "{bytes}");
        assert_eq!(packed.samples(ALL, Needs::Ends).count(), 10_000);
    }
}
