use std::time::Duration;

/// What the store holds and what a query may cost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// How long samples are kept. The default outlives the usual window of 30 days by one.
    pub retention: Duration,
    /// Series held at most; one more is refused with an error in the target's status.
    pub series_max: usize,
    /// Memory for samples; the oldest go first when it is used up.
    pub memory_bytes_max: usize,
    /// Samples one query may hold: what it answers is JSON of about 100 bytes per sample.
    pub query_samples_max: u64,
    /// Sample visits one query may make; a few seconds of one core.
    pub query_visits_max: u64,
    /// Ranges include their left end, as in Prometheus 2.
    pub closed_ranges: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            retention: Duration::from_hours(31 * 24),
            series_max: 200_000,
            memory_bytes_max: 1 << 30,
            query_samples_max: 5_000_000,
            query_visits_max: 1_000_000_000,
            closed_ranges: false,
        }
    }
}

/// How targets are scraped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScrapeSettings {
    /// Time between two scrapes of one target.
    pub interval: Duration,
    /// How long one may take; never more than the interval.
    pub timeout: Duration,
    /// Bytes one exposition may have.
    pub body_bytes_max: usize,
    /// Samples one exposition may have.
    pub samples_max: usize,
    /// Labels one sample may have, the target's own included.
    pub labels_max: usize,
    /// Bytes one label value may have.
    pub label_bytes_max: usize,
    /// Targets at most: beyond it new ones are listed with an error and not scraped.
    pub targets_max: usize,
}

impl Default for ScrapeSettings {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(15),
            timeout: Duration::from_secs(10),
            body_bytes_max: 16 << 20,
            samples_max: 50_000,
            labels_max: 64,
            label_bytes_max: 4 << 10,
            targets_max: 2_000,
        }
    }
}

impl ScrapeSettings {
    /// The defaults at another interval.
    pub fn every(interval: Duration) -> Self {
        let interval = interval.max(Duration::from_millis(10));
        Self { interval, timeout: interval.min(Duration::from_secs(10)), ..Self::default() }
    }
}
