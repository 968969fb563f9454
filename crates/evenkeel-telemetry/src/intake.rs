//! The intake of one target: what it showed last time, what is new, what has vanished.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use evenkeel_promql::{
    exposition::{ExposedSample, Exposition, ExpositionError, Family, Format, Kind, parse},
    labels::{Label, Labels},
    number::stale,
    sample::Value,
    series::{AppendError, SeriesId, SeriesStore},
};

use crate::{FetchError, ScrapeSettings, Target, lines};

/// Samples from further ahead than this are refused: a wrong clock must not block a series.
const AHEAD_MS_MAX: i64 = 600_000;
/// Comment lines remembered as read, so that HELP texts cost one look-up each.
const COMMENTS_MAX: usize = 10_000;
/// Longer comment lines are read each time, not remembered.
const COMMENT_BYTES_MAX: usize = 1_000;
/// Families of one target whose help and type are remembered.
const FAMILIES_MAX: usize = 10_000;
/// A counter that is new may have counted this fast since the look before; 10,000 a second.
const NEW_PER_MS_MAX: f64 = 10.0;
/// Put before a label of the exposition that the target has too.
const EXPORTED: &str = "exported_";
/// What is written about each scrape, besides its samples.
const REPORT: [&str; 5] = [
    "up",
    "scrape_duration_seconds",
    "scrape_samples_scraped",
    "scrape_samples_post_metric_relabeling",
    "scrape_series_added",
];

/// Why a scrape gave nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScrapeError {
    /// The target gave no valid answer.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The text is not an exposition.
    #[error("the exposition is malformed: {0}")]
    Malformed(#[from] ExpositionError),
    /// Too many lines.
    #[error("the exposition has more than {limit} samples")]
    TooManySamples {
        /// The limit.
        limit: usize,
    },
    /// Too many labels on a line.
    #[error("line {line}: {count} labels with the target's own, at most {limit} are taken")]
    TooManyLabels {
        /// Line, from 1.
        line: usize,
        /// How many.
        count: usize,
        /// The limit.
        limit: usize,
    },
    /// A label's name or value is too long.
    #[error("line {line}: label {label} has {bytes} bytes, at most {limit} are taken")]
    LabelTooLong {
        /// Line, from 1.
        line: usize,
        /// The label.
        label: String,
        /// Its length.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The store does not take the series.
    #[error("line {line}: {problem}")]
    Store {
        /// Line, from 1.
        line: usize,
        /// Its words.
        problem: AppendError,
    },
}

/// What one good scrape brought.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Taken {
    /// Sample lines.
    pub(crate) samples: usize,
    /// Of them, not taken by the store.
    pub(crate) refused: usize,
    /// Series that were not there the time before.
    pub(crate) added: usize,
}

/// What the report series say about a scrape.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Report {
    pub(crate) up: bool,
    pub(crate) took: Duration,
    pub(crate) taken: Taken,
}

/// A series as the target writes it.
#[derive(Debug)]
struct Entry {
    text: Arc<str>,
    id: SeriesId,
    /// The pass it was in last; 0 for never.
    seen: u64,
    /// It carries its own times: such series end by themselves, never by a marker.
    timed: bool,
    /// A counter that the store has no sample of: it counted from zero.
    begins: bool,
}

/// A sample on its way.
struct Pending {
    entry: usize,
    value: f64,
    t_ms: Option<i64>,
}

/// The series one target showed, by their text.
#[derive(Debug, Default)]
pub(crate) struct Intake {
    entries: Vec<Entry>,
    by_text: HashMap<Arc<str>, usize>,
    comments: HashSet<Box<str>>,
    families: BTreeMap<String, Family>,
    pass: u64,
    /// When the target was last read well, in milliseconds.
    read_ms: Option<i64>,
    report: Vec<SeriesId>,
}

impl Intake {
    /// Reads an exposition into the store: all of it or, on error, nothing.
    pub(crate) fn take(
        &mut self,
        store: &mut SeriesStore,
        from: (&Target, &ScrapeSettings),
        text: (&str, Format),
        at_ms: i64,
    ) -> Result<Taken, ScrapeError> {
        let pending = self.read(store, from, text)?;
        self.pass += 1;
        let mut taken = Taken { samples: pending.len(), ..Taken::default() };
        for Pending { entry, value, t_ms } in pending {
            let entry = &mut self.entries[entry];
            taken.added += usize::from(entry.seen == 0);
            entry.seen = self.pass;
            entry.timed = t_ms.is_some();
            if std::mem::take(&mut entry.begins) && !entry.timed {
                begin(store, entry.id, self.read_ms, (value, at_ms));
            }
            let t_ms = t_ms.unwrap_or(at_ms);
            let ahead = t_ms.saturating_sub(at_ms) > AHEAD_MS_MAX;
            if ahead || store.append_to(entry.id, t_ms, Value::Float(value), 0).is_err() {
                taken.refused += 1;
            }
        }
        self.end(store, at_ms, |entry, pass| entry.seen != pass);
        self.read_ms = Some(at_ms);
        Ok(taken)
    }

    /// Ends every series: the target did not answer, or is gone.
    pub(crate) fn lose(&mut self, store: &mut SeriesStore, at_ms: i64) {
        self.end(store, at_ms, |_, _| true);
    }

    /// Writes `up` and the other report series.
    pub(crate) fn report(
        &mut self,
        store: &mut SeriesStore,
        target: &Target,
        report: Report,
        at_ms: i64,
    ) {
        let live =
            self.report.len() == REPORT.len() && self.report.iter().all(|id| store.is_live(*id));
        if !live {
            let ids = REPORT.iter().map(|name| store.series(&target.labels.with("__name__", name)));
            // A full store has no room for these either; the target's status shows that.
            self.report = ids.collect::<Result<_, _>>().unwrap_or_default();
        }
        let samples = count(report.taken.samples);
        let values = [
            f64::from(u8::from(report.up)),
            report.took.as_secs_f64(),
            samples,
            samples,
            count(report.taken.added),
        ];
        for (id, value) in self.report.iter().zip(values) {
            // Refused only when the clock stepped back: the next scrape is newer again.
            store.append_to(*id, at_ms, Value::Float(value), 0).unwrap_or_default();
        }
    }

    /// Ends every series and the report.
    pub(crate) fn retire(&mut self, store: &mut SeriesStore, at_ms: i64) {
        self.lose(store, at_ms);
        for id in self.report.drain(..) {
            store.append_to(id, at_ms, Value::Float(stale()), 0).unwrap_or_default();
        }
    }

    /// The metadata that the target sent about its metrics.
    pub(crate) fn families(&self) -> &BTreeMap<String, Family> {
        &self.families
    }

    /// Marks the end of the series that `is_over`, and forgets them.
    fn end(&mut self, store: &mut SeriesStore, at_ms: i64, is_over: fn(&Entry, u64) -> bool) {
        let pass = self.pass;
        if !self.entries.iter().any(|entry| is_over(entry, pass)) {
            return;
        }
        for entry in self.entries.iter().filter(|entry| is_over(entry, pass)) {
            if entry.seen > 0 && !entry.timed {
                // Refused when the series lives on under another spelling, or is pruned.
                store.append_to(entry.id, at_ms, Value::Float(stale()), 0).unwrap_or_default();
            }
        }
        self.entries.retain(|entry| !is_over(entry, pass));
        let texts = self.entries.iter().enumerate();
        self.by_text = texts.map(|(at, entry)| (Arc::clone(&entry.text), at)).collect();
    }

    fn read(
        &mut self,
        store: &mut SeriesStore,
        (target, settings): (&Target, &ScrapeSettings),
        (text, format): (&str, Format),
    ) -> Result<Vec<Pending>, ScrapeError> {
        if format == Format::OpenMetrics && !text.trim_end().ends_with("# EOF") {
            // The error comes from the real parser.
            parse(text, format)?;
        }
        let mut pending = Vec::with_capacity(self.entries.len());
        for (at, line) in text.split('\n').enumerate() {
            let line = line.strip_suffix('\r').unwrap_or(line);
            if let Some(raw) = lines::cut(line, format)
                && let Some(entry) = self.by_text.get(raw.series).copied()
                && store.is_live(self.entries[entry].id)
            {
                pending.push(Pending { entry, value: raw.value, t_ms: raw.t_ms });
            } else if line.is_empty() || self.comments.contains(line) {
                continue;
            } else {
                let reader = Reader { target, settings, format, line: at + 1 };
                pending.extend(self.learn(store, &reader, line)?);
            }
            if pending.len() > settings.samples_max {
                return Err(ScrapeError::TooManySamples { limit: settings.samples_max });
            }
        }
        Ok(pending)
    }

    /// Reads a line that is new here.
    fn learn(
        &mut self,
        store: &mut SeriesStore,
        reader: &Reader<'_>,
        line: &str,
    ) -> Result<Option<Pending>, ScrapeError> {
        let exposition = reader.parse(line)?;
        for (name, mut family) in exposition.families {
            let limit = reader.settings.label_bytes_max;
            let room = self.families.len() < FAMILIES_MAX || self.families.contains_key(&name);
            if !room || name.len() > limit {
                continue;
            }
            for text in [&mut family.help, &mut family.unit] {
                text.truncate(text.floor_char_boundary(limit));
            }
            let known = self.families.entry(name).or_default();
            if family.kind != Kind::Unknown {
                known.kind = family.kind;
            }
            if !family.help.is_empty() {
                known.help = family.help;
            }
            if !family.unit.is_empty() {
                known.unit = family.unit;
            }
        }
        let Some(sample) = exposition.samples.into_iter().next() else {
            if line.len() <= COMMENT_BYTES_MAX {
                if self.comments.len() >= COMMENTS_MAX {
                    self.comments.clear();
                }
                self.comments.insert(line.into());
            }
            return Ok(None);
        };
        let labels = reader.labels(&sample)?;
        let id = store
            .series(&labels)
            .map_err(|problem| ScrapeError::Store { line: reader.line, problem })?;
        let begins = is_counter(&self.families, &sample.labels) && store.newest(&labels).is_none();
        // The text of the series; a line with an exemplar is not cut and has none to remember by.
        let text = lines::cut(line, reader.format).map_or(line, |raw| raw.series);
        let entry = match self.by_text.get(text).copied() {
            // It was pruned, and is there again.
            Some(entry) => {
                self.entries[entry].id = id;
                entry
            }
            None => self.remember(text, id, begins),
        };
        Ok(Some(Pending { entry, value: sample.value, t_ms: sample.t_ms }))
    }

    fn remember(&mut self, text: &str, id: SeriesId, begins: bool) -> usize {
        let text: Arc<str> = text.into();
        self.entries.push(Entry { text: Arc::clone(&text), id, seen: 0, timed: false, begins });
        let entry = self.entries.len() - 1;
        self.by_text.insert(text, entry);
        entry
    }
}

/// Gives a counter the zero that it began with, at the time of the last look, when it was not there.
///
/// Most libraries show a counter only when it has counted once. Without the zero `rate()` and
/// `increase()` would not see what it counted until then: the first errors of a new version.
/// Prometheus does the same with the created time of a series (`created-timestamp-zero-ingestion`).
fn begin(store: &mut SeriesStore, id: SeriesId, read_ms: Option<i64>, (value, at_ms): (f64, i64)) {
    // At the first look it is unknown since when it counts.
    let Some(read_ms) = read_ms else { return };
    // What is this much was restored from somewhere, or passed on.
    if value <= NEW_PER_MS_MAX * count_ms(at_ms - read_ms) {
        // Refused when the same series is in the text twice: then it has begun.
        store.append_to(id, read_ms, Value::Float(0.0), 0).unwrap_or_default();
    }
}

/// Whether a series only grows from zero, by what its target says or else by its name.
fn is_counter(families: &BTreeMap<String, Family>, labels: &Labels) -> bool {
    let name = labels.get("__name__");
    let kind = |name: &str| families.get(name).map(|family| family.kind).unwrap_or_default();
    match kind(name) {
        Kind::Counter => return true,
        Kind::Unknown => {}
        _ => return false,
    }
    let is = |suffix: &str, kinds: &[Kind]| {
        name.strip_suffix(suffix).is_some_and(|family| kinds.contains(&kind(family)))
    };
    is("_total", &[Kind::Counter, Kind::Unknown])
        || is("_bucket", &[Kind::Histogram])
        || is("_count", &[Kind::Histogram, Kind::Summary])
        || is("_sum", &[Kind::Histogram, Kind::Summary])
}

/// What is needed to understand a line.
struct Reader<'a> {
    target: &'a Target,
    settings: &'a ScrapeSettings,
    format: Format,
    line: usize,
}

impl Reader<'_> {
    fn parse(&self, line: &str) -> Result<Exposition, ScrapeError> {
        let parsed = match self.format {
            Format::Text => parse(line, self.format),
            Format::OpenMetrics if line == "# EOF" => parse(line, self.format),
            Format::OpenMetrics => parse(&format!("{line}\n# EOF"), self.format),
        };
        parsed.map_err(|error| ExpositionError { line: self.line, ..error }.into())
    }

    /// The sample's labels with those of the target.
    fn labels(&self, sample: &ExposedSample) -> Result<Labels, ScrapeError> {
        let (own, exposed) = (&self.target.labels, &sample.labels);
        let labels = if self.target.honor_labels {
            own.merged(exposed)
        } else {
            let kept = exposed.iter().map(|label| {
                if !own.has(&label.name) {
                    return label.clone();
                }
                let mut name = format!("{EXPORTED}{}", label.name);
                while own.has(&name) || exposed.has(&name) {
                    name.insert_str(0, EXPORTED);
                }
                Label { name: name.into(), value: Arc::clone(&label.value) }
            });
            own.iter().cloned().chain(kept).collect()
        };
        let line = self.line;
        let limit = self.settings.labels_max;
        if labels.len() > limit {
            return Err(ScrapeError::TooManyLabels { line, count: labels.len(), limit });
        }
        let limit = self.settings.label_bytes_max;
        let length = |label: &Label| label.value.len().max(label.name.len());
        if let Some(long) = labels.iter().find(|label| length(label) > limit) {
            let bytes = length(long);
            let name = &*long.name;
            let label = name.get(..name.floor_char_boundary(limit)).unwrap_or(name).to_owned();
            return Err(ScrapeError::LabelTooLong { line, label, bytes, limit });
        }
        Ok(labels)
    }
}

#[expect(clippy::cast_precision_loss, reason = "times between two scrapes stay far below 2^52")]
fn count_ms(ms: i64) -> f64 {
    ms as f64
}

#[expect(clippy::cast_precision_loss, reason = "counts of samples stay far below 2^52")]
fn count(n: usize) -> f64 {
    n as f64
}

#[cfg(test)]
mod tests;
