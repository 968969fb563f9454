//! A small writer of the Prometheus text format.

use super::Kind;
use crate::labels::is_legacy_metric_name;
use crate::number::format_float;
use std::fmt::Write;

/// Builds an exposition family by family.
#[derive(Clone, Debug, Default)]
pub struct Writer {
    out: String,
}

/// A classic histogram to write.
#[derive(Clone, Copy, Debug)]
pub struct BucketCounts<'a> {
    /// Upper bounds, ascending, without +Inf.
    pub bounds: &'a [f64],
    /// Observations per bucket (not cumulative), one more than bounds: the last is beyond all
    /// bounds.
    pub counts: &'a [u64],
    /// Sum of observations.
    pub sum: f64,
}

impl Writer {
    /// An empty exposition.
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts a family: its HELP and TYPE lines.
    pub fn family(&mut self, name: &str, kind: Kind, help: &str) -> &mut Self {
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        let kind = if kind == Kind::Unknown { "untyped" } else { kind.as_str() };
        let name = bare_or_quoted(name);
        self.line(format_args!("# HELP {name} {help}"));
        self.line(format_args!("# TYPE {name} {kind}"));
        self
    }

    /// One sample of a counter or gauge.
    pub fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64) -> &mut Self {
        let head = head(name, labels, None);
        let value = format_float(value);
        self.line(format_args!("{head} {value}"));
        self
    }

    /// All lines of a classic histogram.
    pub fn histogram(
        &mut self,
        name: &str,
        labels: &[(&str, &str)],
        buckets: BucketCounts<'_>,
    ) -> &mut Self {
        let mut total: u64 = 0;
        let bounds = buckets.bounds.iter().copied().chain([f64::INFINITY]);
        for (i, bound) in bounds.enumerate() {
            total = total.saturating_add(buckets.counts.get(i).copied().unwrap_or_default());
            let bound = format_float(bound);
            let head = head(&format!("{name}_bucket"), labels, Some(("le", &bound)));
            self.line(format_args!("{head} {total}"));
        }
        self.sample(&format!("{name}_sum"), labels, buckets.sum);
        let head = head(&format!("{name}_count"), labels, None);
        self.line(format_args!("{head} {total}"));
        self
    }

    /// The text.
    pub fn finish(self) -> String {
        self.out
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        // Writing to a string cannot fail.
        self.out.write_fmt(line).unwrap_or_default();
        self.out.push('\n');
    }
}

fn head(name: &str, labels: &[(&str, &str)], extra: Option<(&str, &str)>) -> String {
    let legacy = is_legacy_metric_name(name);
    let mut parts: Vec<String> = Vec::new();
    if !legacy {
        parts.push(format!("\"{}\"", escape(name)));
    }
    for (label, value) in labels.iter().copied().chain(extra) {
        parts.push(format!("{}=\"{}\"", bare_or_quoted(label), escape(value)));
    }
    let name = if legacy { name } else { "" };
    if parts.is_empty() { name.to_owned() } else { format!("{name}{{{}}}", parts.join(",")) }
}

fn bare_or_quoted(name: &str) -> String {
    if is_legacy_metric_name(name) { name.to_owned() } else { format!("\"{}\"", escape(name)) }
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
