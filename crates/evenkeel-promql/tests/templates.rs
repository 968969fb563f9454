//! What Prometheus makes of the same alert templates.
//!
//! `templates.jsonl` has one case a line: `template`, and the `text` or `error` that Prometheus 3.15
//! gives for it, with the labels, query and URL below. Errors are only compared as such.

use evenkeel_promql::labels::Labels;
use evenkeel_promql::template::{Scope, render};
use serde_json::Value;

#[test]
fn templates_render_as_in_prometheus() {
    let labels = Labels::from_pairs([("job", "api"), ("instance", "web.example:9100")]);
    let external = Labels::from_pairs([("cluster", "eu")]);
    let query = |text: &str| -> Result<Vec<(Labels, f64)>, String> {
        let labels = |i: &str| Labels::from_pairs([("i", i), ("q", text)]);
        Ok(vec![(labels("2"), 5.0), (labels("1"), 1_500_000.0)])
    };
    let alert = Scope::alert(&labels, &external, 0.012_345_6, "http://prom.example/pre");
    let scope = Scope { query: Some(&query), now_ms: 1_700_000_000_123, ..alert };
    let mut differences = Vec::new();
    for line in include_str!("templates.jsonl").lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        let template = case["template"].as_str().unwrap();
        let ours = render(template, &scope);
        let same = match (&ours, case["text"].as_str()) {
            (Ok(text), Some(wanted)) => text == wanted,
            (Err(_), None) => true,
            _ => false,
        };
        if !same {
            differences.push(format!("{template}\n  theirs {case}\n  ours   {ours:?}"));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}
