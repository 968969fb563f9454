//! Smooth weighted round-robin: exact shares within every period, and never in clumps.

/// The state of one weighted choice.
///
/// Each turn every candidate gains its weight, the richest is chosen and pays the sum of all. Over
/// `sum / gcd` turns each is chosen exactly in proportion, from any starting point.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SmoothWeights {
    weights: Vec<u32>,
    credit: Vec<i64>,
    total: i64,
}

impl SmoothWeights {
    /// Starts without credit.
    pub fn new(weights: Vec<u32>) -> Self {
        let credit = vec![0; weights.len()];
        let total = weights.iter().map(|weight| i64::from(*weight)).sum();
        Self { weights, credit, total }
    }

    /// The weights it was made with.
    pub fn weights(&self) -> &[u32] {
        &self.weights
    }

    /// The position of the next choice; `None` when all weights are zero.
    pub fn choose(&mut self) -> Option<usize> {
        if self.total == 0 {
            return None;
        }
        if self.weights.len() == 1 {
            return Some(0);
        }
        let mut best: Option<(usize, i64)> = None;
        for (index, (credit, weight)) in self.credit.iter_mut().zip(&self.weights).enumerate() {
            *credit += i64::from(*weight);
            if *weight > 0 && best.is_none_or(|(_, most)| *credit > most) {
                best = Some((index, *credit));
            }
        }
        let (index, _) = best?;
        if let Some(credit) = self.credit.get_mut(index) {
            *credit -= self.total;
        }
        Some(index)
    }
}
