//! The in-memory series store: append, select by matchers, forget by age, all within stated limits.

use crate::columns::Columns;
use crate::labels::{Label, Labels};
use crate::matcher::Matcher;
use crate::sample::Value;
use crate::storage::{Needs, SelectedSeries, Storage, StorageError, TimeRange};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Series a store takes unless set otherwise: a label explosion must end in an error, not in a
/// full machine.
pub const SERIES_MAX: usize = 1_000_000;
/// Labels one series may have.
pub const LABELS_MAX: usize = 128;
/// Handle of a series; valid until the series is pruned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeriesId {
    slot: u32,
    generation: u32,
}

/// A sample that was not taken.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum AppendError {
    /// Older than the newest sample of the series.
    #[error("out of order sample at {t_ms} ms, the series is at {newest_ms} ms")]
    OutOfOrder {
        /// Time of the refused sample.
        t_ms: i64,
        /// Time of the newest sample.
        newest_ms: i64,
    },
    /// Same time as the newest sample, other value.
    #[error("duplicate sample at {t_ms} ms with another value")]
    Duplicate {
        /// Time of the refused sample.
        t_ms: i64,
    },
    /// The store is full.
    #[error("the store holds its {limit} series, {labels} is one more")]
    TooManySeries {
        /// The limit.
        limit: usize,
        /// The refused series.
        labels: Labels,
    },
    /// The label set is too long.
    #[error("{count} labels, at most {LABELS_MAX} are taken")]
    TooManyLabels {
        /// How many it has.
        count: usize,
    },
    /// The handle's series was pruned.
    #[error("the series is gone")]
    Gone,
}

#[derive(Clone, Debug, Default)]
struct Series {
    labels: Labels,
    columns: Columns,
    revision: u64,
}

#[derive(Clone, Debug, Default)]
struct Slot {
    generation: u32,
    series: Option<Series>,
}

/// Series and their samples in memory.
#[derive(Clone, Debug)]
pub struct SeriesStore {
    slots: Vec<Slot>,
    free: Vec<u32>,
    by_labels: HashMap<Labels, u32>,
    /// name -> value -> slots, sorted.
    postings: BTreeMap<Arc<str>, BTreeMap<Arc<str>, Vec<u32>>>,
    series_max: usize,
    revision: u64,
    /// Of all distinct label names and values.
    label_bytes: usize,
}

impl Default for SeriesStore {
    fn default() -> Self {
        Self::new()
    }
}

impl SeriesStore {
    /// An empty store for [`SERIES_MAX`] series.
    pub fn new() -> Self {
        Self::with_limit(SERIES_MAX)
    }

    /// An empty store for `series_max` series.
    pub fn with_limit(series_max: usize) -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            by_labels: HashMap::new(),
            postings: BTreeMap::new(),
            series_max,
            revision: 0,
            label_bytes: 0,
        }
    }

    /// Bytes of all distinct label names and values.
    pub fn label_bytes(&self) -> usize {
        self.label_bytes
    }

    /// Number of series.
    pub fn len(&self) -> usize {
        self.by_labels.len()
    }

    /// Whether there is no series.
    pub fn is_empty(&self) -> bool {
        self.by_labels.is_empty()
    }

    /// Number of samples.
    pub fn samples_len(&self) -> usize {
        self.live().map(|(_, s)| s.columns.len()).sum()
    }

    /// Grows with every sample taken; equal numbers mean nothing was appended between.
    pub fn revision_total(&self) -> u64 {
        self.revision
    }

    /// Appends one float sample.
    pub fn append(
        &mut self,
        labels: &Labels,
        t_ms: i64,
        value: f64,
    ) -> Result<SeriesId, AppendError> {
        self.append_value(labels, t_ms, Value::Float(value), 0)
    }

    /// Appends one sample of any kind with the start time of its counter (0 = unknown).
    pub fn append_value(
        &mut self,
        labels: &Labels,
        t_ms: i64,
        value: Value,
        start_ms: i64,
    ) -> Result<SeriesId, AppendError> {
        let id = self.series(labels)?;
        self.append_to(id, t_ms, value, start_ms)?;
        Ok(id)
    }

    /// Appends to a known series, without a look-up of its labels.
    pub fn append_to(
        &mut self,
        id: SeriesId,
        t_ms: i64,
        value: Value,
        start_ms: i64,
    ) -> Result<(), AppendError> {
        let slot = self.slots.get_mut(id.slot as usize).ok_or(AppendError::Gone)?;
        if slot.generation != id.generation {
            return Err(AppendError::Gone);
        }
        let series = slot.series.as_mut().ok_or(AppendError::Gone)?;
        if let Some(newest_ms) = series.columns.newest_ms() {
            if t_ms < newest_ms {
                return Err(AppendError::OutOfOrder { t_ms, newest_ms });
            }
            if t_ms == newest_ms {
                let same = series.columns.repeats_newest(&value);
                return if same { Ok(()) } else { Err(AppendError::Duplicate { t_ms }) };
            }
        }
        self.revision += 1;
        series.revision = self.revision;
        series.columns.push(t_ms, value, start_ms);
        Ok(())
    }

    /// The handle of a series, which is created if it does not exist.
    pub fn series(&mut self, labels: &Labels) -> Result<SeriesId, AppendError> {
        if let Some(slot) = self.by_labels.get(labels).copied() {
            return Ok(SeriesId { slot, generation: self.slots[slot as usize].generation });
        }
        if self.by_labels.len() >= self.series_max {
            return Err(AppendError::TooManySeries {
                limit: self.series_max,
                labels: labels.clone(),
            });
        }
        if labels.len() > LABELS_MAX {
            return Err(AppendError::TooManyLabels { count: labels.len() });
        }
        Ok(self.create(labels))
    }

    /// Whether a handle still stands for a series.
    pub fn is_live(&self, id: SeriesId) -> bool {
        self.slots
            .get(id.slot as usize)
            .is_some_and(|slot| slot.generation == id.generation && slot.series.is_some())
    }

    fn create(&mut self, labels: &Labels) -> SeriesId {
        // Names and values repeat across series: share the ones the index already has.
        let labels: Labels = labels.iter().map(|label| self.interned(label)).collect();
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            (self.slots.len() - 1) as u32
        });
        for label in &labels {
            let values = self.postings.entry(Arc::clone(&label.name)).or_insert_with(|| {
                self.label_bytes += label.name.len();
                BTreeMap::new()
            });
            let list = values.entry(Arc::clone(&label.value)).or_insert_with(|| {
                self.label_bytes += label.value.len();
                Vec::new()
            });
            let at = list.partition_point(|s| *s < slot);
            list.insert(at, slot);
        }
        self.by_labels.insert(labels.clone(), slot);
        let entry = &mut self.slots[slot as usize];
        entry.series = Some(Series { labels, ..Series::default() });
        SeriesId { slot, generation: entry.generation }
    }

    fn interned(&self, label: &Label) -> Label {
        let Some((name, values)) = self.postings.get_key_value(&*label.name) else {
            return label.clone();
        };
        let value = values.get_key_value(&*label.value).map_or(&label.value, |(value, _)| value);
        Label { name: Arc::clone(name), value: Arc::clone(value) }
    }

    /// Forgets samples before a time (in batches, so a few older ones may stay) and series without
    /// samples.
    pub fn prune(&mut self, before_ms: i64) {
        for slot in 0..self.slots.len() {
            let Some(series) = self.slots[slot].series.as_mut() else { continue };
            series.columns.drop_before(before_ms);
            if series.columns.len() == 0 {
                self.remove(slot as u32);
            }
        }
    }

    /// Drops all series that pass the matchers; returns how many.
    pub fn delete(&mut self, matchers: &[Matcher]) -> usize {
        let slots = self.matching(matchers);
        for slot in &slots {
            self.remove(*slot);
        }
        slots.len()
    }

    fn remove(&mut self, slot: u32) {
        let entry = &mut self.slots[slot as usize];
        let Some(series) = entry.series.take() else { return };
        entry.generation = entry.generation.wrapping_add(1);
        self.revision += 1;
        self.by_labels.remove(&series.labels);
        self.free.push(slot);
        for label in &series.labels {
            let Some(values) = self.postings.get_mut(&label.name) else { continue };
            if let Some(list) = values.get_mut(&label.value) {
                list.retain(|s| *s != slot);
                if list.is_empty() {
                    values.remove(&label.value);
                    self.label_bytes -= label.value.len();
                }
            }
            if values.is_empty() {
                self.label_bytes -= label.name.len();
                self.postings.remove(&label.name);
            }
        }
    }

    /// Label sets of the series that pass the matchers and have a sample in the range.
    pub fn label_sets(&self, matchers: &[Matcher], range: TimeRange) -> Vec<Labels> {
        self.matching(matchers)
            .into_iter()
            .filter_map(|slot| self.slots[slot as usize].series.as_ref())
            .filter(|series| series.columns.touches(range))
            .map(|series| series.labels.clone())
            .collect()
    }

    /// All label names, sorted.
    pub fn label_names(&self) -> Vec<Arc<str>> {
        self.postings.keys().cloned().collect()
    }

    /// All values of a label, sorted.
    pub fn label_values(&self, name: &str) -> Vec<Arc<str>> {
        self.postings.get(name).map(|values| values.keys().cloned().collect()).unwrap_or_default()
    }

    /// The newest sample of a series: time and value.
    pub fn newest(&self, labels: &Labels) -> Option<(i64, Value)> {
        let slot = self.by_labels.get(labels)?;
        let series = self.slots[*slot as usize].series.as_ref()?;
        series.columns.newest()
    }

    fn live(&self) -> impl Iterator<Item = (u32, &Series)> {
        self.slots.iter().enumerate().filter_map(|(i, s)| Some((i as u32, s.series.as_ref()?)))
    }

    /// Slots of the series that pass all matchers, in order.
    fn matching(&self, matchers: &[Matcher]) -> Vec<u32> {
        let passes = |slot: &u32| {
            self.slots[*slot as usize]
                .series
                .as_ref()
                .is_some_and(|series| matchers.iter().all(|m| m.matches_labels(&series.labels)))
        };
        match self.narrowest(matchers) {
            Some(lists) => {
                let count = lists.iter().map(|list| list.len()).sum();
                let mut found: Vec<u32> = Vec::with_capacity(count);
                found.extend(lists.iter().flat_map(|list| list.iter()).filter(|s| passes(s)));
                if lists.len() > 1 {
                    found.sort_unstable();
                }
                found
            }
            None => self.live().map(|(slot, _)| slot).filter(passes).collect(),
        }
    }

    /// Lists of slots (without overlap) that contain all series that pass, as few as the index can
    /// say; `None` if it cannot say at all.
    fn narrowest(&self, matchers: &[Matcher]) -> Option<Vec<&Vec<u32>>> {
        let size = |lists: &Vec<&Vec<u32>>| lists.iter().map(|list| list.len()).sum::<usize>();
        let mut best: Option<Vec<&Vec<u32>>> = None;
        let mut patterns = Vec::new();
        for matcher in matchers.iter().filter(|m| !m.matches("")) {
            let Some(literals) = matcher.literals() else {
                patterns.push(matcher);
                continue;
            };
            let values = self.postings.get(&matcher.name);
            let mut lists: Vec<&Vec<u32>> = Vec::with_capacity(literals.len());
            for (i, value) in literals.iter().enumerate() {
                if !literals[..i].contains(value) {
                    lists.extend(values.and_then(|values| values.get(*value)));
                }
            }
            if best.as_ref().is_none_or(|b| size(&lists) < size(b)) {
                best = Some(lists);
            }
        }
        for matcher in patterns {
            // Trying a pattern on every value costs more than a look at a few series.
            let values = self.postings.get(&matcher.name);
            let tries = values.map_or(0, BTreeMap::len);
            if best.as_ref().is_some_and(|b| size(b) <= tries.max(16)) {
                continue;
            }
            let passing = values.into_iter().flatten().filter(|(v, _)| matcher.matches(v));
            let lists: Vec<&Vec<u32>> = passing.map(|(_, list)| list).collect();
            if best.as_ref().is_none_or(|b| size(&lists) < size(b)) {
                best = Some(lists);
            }
        }
        best
    }
}

impl Storage for SeriesStore {
    fn select(
        &self,
        matchers: &[Matcher],
        range: TimeRange,
        needs: Needs,
    ) -> Result<Vec<SelectedSeries<'_>>, StorageError> {
        let mut out = Vec::new();
        for slot in self.matching(matchers) {
            let Some(series) = self.slots[slot as usize].series.as_ref() else { continue };
            let samples = series.columns.samples(range, needs);
            if !samples.is_empty() {
                out.push(SelectedSeries { labels: series.labels.clone(), samples });
            }
        }
        Ok(out)
    }

    fn revision(&self, matchers: &[Matcher]) -> Option<u64> {
        let slots = self.matching(matchers);
        // The count takes part so that a pruned series is noticed too.
        let newest = slots
            .iter()
            .filter_map(|slot| self.slots[*slot as usize].series.as_ref())
            .map(|series| series.revision)
            .max()
            .unwrap_or_default();
        Some(newest.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(slots.len() as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matcher::MatchOp;

    const ALL: TimeRange = TimeRange { start_ms: i64::MIN, end_ms: i64::MAX };

    fn store() -> SeriesStore {
        let mut store = SeriesStore::new();
        for (job, code) in [("api", "200"), ("api", "500"), ("web", "200")] {
            let labels = Labels::from_pairs([("__name__", "hits"), ("job", job), ("code", code)]);
            for t in 0..100 {
                store.append(&labels, t * 1000, t as f64).unwrap();
            }
        }
        store
    }

    fn selected(store: &SeriesStore, name: &str, op: MatchOp, value: &str) -> usize {
        store.select(&[Matcher::new(name, op, value).unwrap()], ALL, Needs::All).unwrap().len()
    }

    #[test]
    fn matchers_find_series() {
        let store = store();
        assert_eq!(selected(&store, "job", MatchOp::Equal, "api"), 2);
        assert_eq!(selected(&store, "job", MatchOp::NotEqual, "api"), 1);
        assert_eq!(selected(&store, "job", MatchOp::Regex, "api|web"), 3);
        assert_eq!(selected(&store, "code", MatchOp::Regex, "2.."), 2);
        assert_eq!(selected(&store, "absent", MatchOp::Equal, ""), 3);
        assert_eq!(selected(&store, "absent", MatchOp::NotEqual, ""), 0);
    }

    #[test]
    fn old_and_double_samples_are_refused() {
        let mut store = store();
        let labels = Labels::from_pairs([("__name__", "hits"), ("job", "api"), ("code", "200")]);
        let late = store.append(&labels, 5, 1.0);
        assert_eq!(late, Err(AppendError::OutOfOrder { t_ms: 5, newest_ms: 99_000 }));
        assert_eq!(
            store.append(&labels, 99_000, 1.0),
            Err(AppendError::Duplicate { t_ms: 99_000 })
        );
        assert!(store.append(&labels, 99_000, 99.0).is_ok());
    }

    #[test]
    fn pruned_series_vanish_and_their_handles_with_them() {
        let mut store = store();
        let labels = Labels::from_pairs([("__name__", "fresh")]);
        let id = store.append(&labels, 200_000, 1.0).unwrap();
        store.prune(150_000);
        assert_eq!((store.len(), store.samples_len()), (1, 1));
        assert!(store.is_live(id));
        assert_eq!(store.label_bytes(), "__name__".len() + "fresh".len());
        store.prune(250_000);
        assert!(!store.is_live(id) && store.label_names().is_empty());
        assert_eq!(store.label_bytes(), 0);
        assert_eq!(store.append_to(id, 300_000, Value::Float(1.0), 0), Err(AppendError::Gone));
    }

    #[test]
    fn the_limit_on_series_holds() {
        let mut store = SeriesStore::with_limit(1);
        store.append(&Labels::named("a"), 0, 1.0).unwrap();
        let refused = store.append(&Labels::named("b"), 0, 1.0).unwrap_err().to_string();
        insta::assert_snapshot!(refused, @r#"the store holds its 1 series, {__name__="b"} is one more"#);
    }

    #[test]
    fn the_revision_shows_whether_inputs_changed() {
        let mut store = store();
        let web = [Matcher::equal("job", "web")];
        let before = store.revision(&web);
        store.append(&Labels::from_pairs([("job", "api")]), 1, 1.0).unwrap();
        assert_eq!(before, store.revision(&web));
        store.append(&Labels::from_pairs([("job", "web")]), 1, 1.0).unwrap();
        assert_ne!(before, store.revision(&web));
    }
}
