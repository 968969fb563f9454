//! What sigs.k8s.io/yaml, with which kubectl reads, makes of the same texts.
//!
//! `kubernetes.jsonl` has one case a line: `yaml`, and the `json` or `error` that `YAMLToJSON` of
//! sigs.k8s.io/yaml 1.6.0 gives for it.

use evenkeel_yaml::Node;
use serde_json::Value;

/// Where we differ: we refuse what contains a text, or read `Some` value instead.
///
/// Go silently loses data in the first four. In the fifth, a merged key that comes later
/// wins over the one that is written out; every other reader, go-yaml 3 among them, has it the
/// other way round. In the last, Go ends a line at U+2028, as YAML 1.1 did.
const DIFFERENT: [(&str, Result<&str, &str>); 7] = [
    ("k: 1\nk: 2\n", Err("given twice, first in line 1")),
    ("a: {x: 1, x: 2}\n", Err("given twice")),
    ("a: 1\n---\nb: 2\n", Err("second document")),
    ("a: 1\n...\nb: 2\n", Err("second document")),
    ("base: &b {x: 1}\na:\n  x: 5\n  <<: *b\n", Ok(r#"{"base":{"x":1},"a":{"x":5}}"#)),
    ("a: !!binary aGk=\n", Err("!!binary")),
    ("a: x\u{2028}y\n", Ok("{\"a\":\"x\u{2028}y\"}")),
];

#[test]
fn texts_are_read_as_kubernetes_reads_them() {
    let mut differences = Vec::new();
    for line in include_str!("kubernetes.jsonl").lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        let text = case["yaml"].as_str().unwrap();
        let ours = Node::parse(text).and_then(|node| node.json());
        let different = DIFFERENT.iter().find(|(known, _)| *known == text);
        let fine = match (&ours, case.get("json"), different) {
            (Err(error), _, Some((_, Err(why)))) => error.problem.contains(why),
            (Ok(value), _, Some((_, Ok(json)))) => {
                *value == serde_json::from_str::<Value>(json).unwrap()
            }
            (Ok(value), Some(wanted), None) => value == wanted,
            (Err(_), None, None) => case.get("error").is_some(),
            _ => false,
        };
        if !fine {
            differences.push(format!("{text:?}\n  theirs {case}\n  ours   {ours:?}"));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}
