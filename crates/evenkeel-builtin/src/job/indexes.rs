//! Completion indexes, as the status writes them: `1,3-5,7`.
//!
//! **Source**: `indexed_job_utils.go`.

use std::{collections::BTreeSet, fmt};

/// Annotation and label with a pod's completion index.
pub(crate) const INDEX: &str = "batch.kubernetes.io/job-completion-index";

/// A set of indexes as ordered ranges that do not touch, ends included.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Indexes(Vec<(i64, i64)>);

impl Indexes {
    /// Reads what the status says; what is not below `completions` is left out.
    pub(crate) fn parse(text: &str, completions: i64) -> Self {
        let mut all = Self::default();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (Ok(first), Ok(last)) = (first.parse(), last.parse()) else { continue };
            if first < completions {
                all.add((first, i64::min(last, completions - 1)));
            }
        }
        all
    }

    /// Adds a range that does not begin before any that is there.
    fn add(&mut self, (first, last): (i64, i64)) {
        match self.0.last_mut() {
            Some((_, end)) if first <= *end + 1 => *end = last.max(*end),
            _ => self.0.push((first, last)),
        }
    }

    /// Both together.
    pub(crate) fn union(&self, other: &Self) -> Self {
        let mut ranges: Vec<_> = self.0.iter().chain(&other.0).copied().collect();
        ranges.sort_unstable();
        let mut all = Self::default();
        for range in ranges {
            all.add(range);
        }
        all
    }

    pub(crate) fn total(&self) -> i64 {
        self.0.iter().map(|(first, last)| last - first + 1).sum()
    }

    pub(crate) fn has(&self, index: i64) -> bool {
        let at = self.0.partition_point(|(_, last)| *last < index);
        self.0.get(at).is_some_and(|(first, _)| *first <= index)
    }

    /// How many of these the other one has.
    pub(crate) fn shared(&self, other: &Self) -> i64 {
        let within = |(first, last): &(i64, i64)| {
            let parts = other.0.iter();
            parts.map(|(from, to)| (last.min(to) - first.max(from) + 1).max(0)).sum::<i64>()
        };
        self.0.iter().map(within).sum()
    }

    /// The first `count` indexes below `completions` that are not in it.
    pub(crate) fn missing(&self, count: usize, completions: i64) -> Vec<i64> {
        let mut found = Vec::new();
        let mut next = 0;
        for (first, last) in self.0.iter().copied().chain([(completions, completions)]) {
            while next < first.min(completions) && found.len() < count {
                found.push(next);
                next += 1;
            }
            next = next.max(last + 1);
        }
        found
    }
}

impl FromIterator<i64> for Indexes {
    fn from_iter<I: IntoIterator<Item = i64>>(indexes: I) -> Self {
        let ordered: BTreeSet<i64> = indexes.into_iter().collect();
        let mut all = Self::default();
        for index in ordered {
            all.add((index, index));
        }
        all
    }
}

impl fmt::Display for Indexes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, (first, last)) in self.0.iter().enumerate() {
            f.write_str(if number > 0 { "," } else { "" })?;
            match last - first {
                0 => write!(f, "{first}")?,
                1 => write!(f, "{first},{last}")?,
                _ => write!(f, "{first}-{last}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ranges_are_written_as_upstream_writes_them() {
        let written = |indexes: &[i64]| indexes.iter().copied().collect::<Indexes>().to_string();
        assert_eq!(written(&[]), "");
        assert_eq!(written(&[3, 1]), "1,3");
        assert_eq!(written(&[1, 2]), "1,2");
        assert_eq!(written(&[7, 1, 3, 4, 5]), "1,3-5,7");
        assert_eq!(Indexes::parse("1,3-5,7", 5).to_string(), "1,3,4");
        assert_eq!(Indexes::parse("x,1,2,3", 9).to_string(), "1-3");
    }

    proptest! {
        #[test]
        fn they_are_sets(
            a in prop::collection::btree_set(0..40_i64, 0..30),
            b in prop::collection::btree_set(0..40_i64, 0..30),
            count in 0..50_usize,
        ) {
            let (one, other): (Indexes, Indexes) =
                (a.iter().copied().collect(), b.iter().copied().collect());
            let both: Vec<i64> = a.union(&b).copied().collect();
            let union = one.union(&other);
            prop_assert_eq!(&union, &both.iter().copied().collect::<Indexes>());
            prop_assert_eq!(&union, &Indexes::parse(&union.to_string(), 40));
            prop_assert_eq!(union.total(), i64::try_from(both.len()).unwrap());
            prop_assert_eq!(one.shared(&other), i64::try_from(a.intersection(&b).count()).unwrap());
            let missing: Vec<i64> = (0..40).filter(|at| !union.has(*at)).take(count).collect();
            prop_assert_eq!(union.missing(count, 40), missing);
        }
    }
}
