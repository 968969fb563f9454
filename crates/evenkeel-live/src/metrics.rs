use std::fmt::Write as _;

use crate::{ApiCounts, CachedStore, Kept};

impl CachedStore {
    /// What was asked of the API server and what is kept, in Prometheus' text format.
    pub fn metrics(&self) -> String {
        render(&self.counts(), &self.kept(), self.unpacked())
    }
}

fn render(counts: &ApiCounts, kept: &[Kept], unpacked: u64) -> String {
    let mut text = String::new();
    let mut family = |name: &str, kind: &str, help: &str, rows: &[(String, u64)]| {
        // Writing to a String cannot fail.
        writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}").unwrap_or_default();
        for (labels, value) in rows {
            writeln!(text, "{name}{labels} {value}").unwrap_or_default();
        }
    };
    let one = |value: u64| vec![(String::new(), value)];
    let labelled = |name: &str, rows: &[(&str, u64)]| -> Vec<(String, u64)> {
        rows.iter().map(|(label, value)| (format!("{{{name}={label:?}}}"), *value)).collect()
    };
    let rows = labelled("verb", &counts.requests);
    family("evenkeel_api_requests_total", "counter", "Requests to the API server.", &rows);
    let help = "Requests without an answer, or with one that says that something is wrong.";
    family("evenkeel_api_failures_total", "counter", help, &one(counts.failed));
    let help = "Requests and watches given up because the server was silent.";
    family("evenkeel_api_silences_total", "counter", help, &one(counts.silent));
    let help = "Times all connections were dropped because one was silent.";
    family("evenkeel_api_reconnects_total", "counter", help, &one(counts.pools));
    let help = "Watches opened, the first time or again.";
    family("evenkeel_api_watches_total", "counter", help, &one(counts.watches_opened));
    let help = "Lists made again because a watch's place was forgotten, or a watch ended at once.";
    family("evenkeel_api_relists_total", "counter", help, &one(counts.watches_relisted));
    let rows = [("cache", counts.cache_hits), ("server", counts.cache_misses)];
    let help = "Reads by who answered them.";
    family("evenkeel_cache_reads_total", "counter", help, &labelled("from", &rows));
    let of_each = |value: fn(&Kept) -> u64| -> Vec<(String, u64)> {
        let rows: Vec<_> = kept.iter().map(|kept| (&*kept.query, value(kept))).collect();
        labelled("query", &rows)
    };
    let rows = of_each(|kept| u64::try_from(kept.objects).unwrap_or(u64::MAX));
    family("evenkeel_cache_objects", "gauge", "Objects kept in memory.", &rows);
    let rows = of_each(|kept| u64::try_from(kept.bytes).unwrap_or(u64::MAX));
    family("evenkeel_cache_bytes", "gauge", "Memory of the objects that are kept, packed.", &rows);
    let help = "Objects unpacked because they were read and none of the last ones.";
    family("evenkeel_cache_unpacked_total", "counter", help, &one(unpacked));
    let rows = of_each(|kept| u64::from(kept.is_fresh));
    let help = "Whether a cache answers reads: its watch is alive.";
    family("evenkeel_cache_fresh", "gauge", help, &rows);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_written_as_prometheus_reads_them() {
        let counts = ApiCounts {
            requests: vec![("get", 3), ("watch", 2)],
            failed: 1,
            silent: 0,
            pools: 0,
            watches_opened: 2,
            watches_relisted: 0,
            cache_hits: 40,
            cache_misses: 3,
        };
        let query = "ConfigMap in x".to_owned();
        let kept = Kept { query, objects: 7, bytes: 900, readers: 1, is_fresh: true };
        let text = render(&counts, &[kept], 5);
        for line in [
            "# TYPE evenkeel_api_requests_total counter",
            "evenkeel_api_requests_total{verb=\"watch\"} 2",
            "evenkeel_api_failures_total 1",
            "evenkeel_cache_reads_total{from=\"cache\"} 40",
            "evenkeel_cache_objects{query=\"ConfigMap in x\"} 7",
            "evenkeel_cache_bytes{query=\"ConfigMap in x\"} 900",
            "evenkeel_cache_unpacked_total 5",
            "evenkeel_cache_fresh{query=\"ConfigMap in x\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}: {text}");
        }
    }
}
