//! Sums over blocks of samples, so that windows of days do not read every sample again.
//!
//! A block covers [`BLOCK`] neighbouring samples of a series. Rates, sums and means over a window
//! then take the whole blocks inside of it and only the samples at its two ends. Counter increases
//! without fractions come out bit for bit as sample by sample; sums of fractions within 1e-12 of
//! the sum of absolute values (a property test holds both).

use crate::number::kahan_add;

/// Samples in a block: long enough that a month at one minute has a few hundred, short enough that
/// the ends stay cheap.
pub const BLOCK: usize = 128;

/// Values from here on might overflow in a sum.
const REGULAR_MAX: f64 = 1e290;

/// Whether sums over blocks may stand for a value: finite, far from overflow, no end marker.
pub fn is_regular(value: f64) -> bool {
    value.abs() < REGULAR_MAX
}

/// What is known about one full block of samples.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Block {
    /// Compensated sum of the values.
    pub sum: f64,
    /// What the sum lost.
    pub lost: f64,
    /// Sum of the values before each drop inside of the block.
    pub dropped: f64,
    /// The last value of the block before, if the first one of this is lower; else 0.
    pub dropped_at_start: f64,
    /// The last value.
    pub last: f64,
    /// Only floats that pass [`is_regular`].
    pub regular: bool,
}

impl Block {
    /// Of its values and the one before them.
    pub fn of(values: &[f64], before: Option<f64>) -> Self {
        let mut block = Self { regular: true, ..Self::default() };
        let mut previous = before;
        for (i, v) in values.iter().enumerate() {
            block.regular &= is_regular(*v);
            (block.sum, block.lost) = kahan_add(*v, block.sum, block.lost);
            match previous {
                Some(p) if *v < p && i == 0 => block.dropped_at_start = p,
                Some(p) if *v < p => block.dropped += p,
                _ => {}
            }
            previous = Some(*v);
        }
        block.last = values.last().copied().unwrap_or_default();
        block.regular &= before.is_none_or(is_regular);
        block
    }
}

/// Blocks below a run of samples.
#[derive(Clone, Copy, Debug, Default)]
pub struct Blocks<'b> {
    all: &'b [Block],
    /// Position of the run's first sample, counted from the first sample of the first block.
    first: usize,
}

/// A run of samples cut at block borders: samples before `head_end`, whole blocks, samples from
/// `tail_start` on.
#[derive(Clone, Copy, Debug)]
pub struct Cut<'b> {
    /// End of the samples before the first whole block.
    pub head_end: usize,
    /// The whole blocks.
    pub whole: &'b [Block],
    /// Start of the samples after the last whole block.
    pub tail_start: usize,
}

/// Whole blocks whose samples were left out of a run: all regular, at least one.
#[derive(Clone, Copy, Debug)]
pub struct Gap<'b> {
    /// Position of the first sample after the gap, among those that are there; never the first or
    /// the end.
    pub at: usize,
    /// The blocks.
    pub whole: &'b [Block],
}

impl<'b> From<Gap<'b>> for Cut<'b> {
    fn from(gap: Gap<'b>) -> Self {
        Self { head_end: gap.at, whole: gap.whole, tail_start: gap.at }
    }
}

impl<'b> Blocks<'b> {
    /// Of a series' blocks, for samples from position `first` on.
    pub fn new(all: &'b [Block], first: usize) -> Self {
        Self { all, first }
    }

    /// For samples that start `by` later.
    #[must_use]
    pub fn skip(self, by: usize) -> Self {
        Self { first: self.first + by, ..self }
    }

    /// Cuts a run of `len` samples; `None` if it holds no whole block, or not only regular ones.
    pub fn cut(self, len: usize) -> Option<Cut<'b>> {
        let from = self.first.div_ceil(BLOCK);
        let to = ((self.first + len) / BLOCK).min(self.all.len());
        let whole = self.all.get(from..to).filter(|whole| !whole.is_empty())?;
        if !whole.iter().all(|block| block.regular) {
            return None;
        }
        let (head_end, tail_start) = (from * BLOCK - self.first, to * BLOCK - self.first);
        Some(Cut { head_end, whole, tail_start })
    }
}

/// Compensated sum over a run; `None` where each sample has to be looked at.
pub fn sum(values: &[f64], cut: Cut<'_>) -> Option<(f64, f64)> {
    let add = |state: (f64, f64), v: f64| kahan_add(v, state.0, state.1);
    let mut state = values[..cut.head_end].iter().fold((0.0, 0.0), |s, v| add(s, *v));
    for block in cut.whole {
        state = add(add(state, block.sum), block.lost);
    }
    state = values[cut.tail_start..].iter().fold(state, |s, v| add(s, *v));
    state.0.is_finite().then_some(state)
}

/// Sum of the values before each drop in a run.
pub fn dropped(values: &[f64], cut: Cut<'_>) -> f64 {
    let mut total = drops(&values[..cut.head_end]);
    for (i, block) in cut.whole.iter().enumerate() {
        // The run's first sample has nothing before it.
        if i > 0 || cut.head_end > 0 {
            total += block.dropped_at_start;
        }
        total += block.dropped;
    }
    let tail = &values[cut.tail_start..];
    if let (Some(block), Some(first)) = (cut.whole.last(), tail.first())
        && *first < block.last
    {
        total += block.last;
    }
    total + drops(tail)
}

fn drops(values: &[f64]) -> f64 {
    values.windows(2).filter(|pair| pair[1] < pair[0]).map(|pair| pair[0]).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks_of(values: &[f64]) -> Vec<Block> {
        let before = |k: usize| k.checked_sub(1).map(|_| values[k * BLOCK - 1]);
        values.chunks_exact(BLOCK).enumerate().map(|(k, v)| Block::of(v, before(k))).collect()
    }

    proptest::proptest! {
        #[test]
        fn blocks_equal_a_look_at_every_sample(
            steps in proptest::collection::vec(-3_i32..40, 1..2_000),
            from in 0_usize..2_000,
            len in 0_usize..2_000,
            fraction in proptest::bool::ANY,
        ) {
            let mut value = 0.0;
            let scale = if fraction { 0.1 } else { 1.0 };
            let values: Vec<f64> = steps
                .iter()
                .map(|step| {
                    value = if *step < 0 { 0.0 } else { value + f64::from(*step) * scale };
                    value
                })
                .collect();
            let all = blocks_of(&values);
            let from = from.min(values.len() - 1);
            let run = &values[from..(from + len).min(values.len())];
            let blocks = Blocks::new(&all, from);
            let cut = blocks.cut(run.len());
            if let Some(total) = cut.map(|cut| dropped(run, cut)) {
                if fraction {
                    proptest::prop_assert!((total - drops(run)).abs() <= 1e-12 * drops(run).abs());
                } else {
                    proptest::prop_assert_eq!(total.to_bits(), drops(run).to_bits());
                }
            }
            if let Some((sum, lost)) = cut.and_then(|cut| sum(run, cut)) {
                let naive = run.iter().fold((0.0, 0.0), |s, v| kahan_add(*v, s.0, s.1));
                let size: f64 = run.iter().map(|v| v.abs()).sum();
                proptest::prop_assert!((sum + lost - naive.0 - naive.1).abs() <= 1e-12 * size);
            }
        }
    }
}
