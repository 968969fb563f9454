//! Objects without what is another value every time.

use std::{fmt::Write as _, sync::OnceLock};

use regex::Regex;
use serde_json::{Value, json};

/// Fields that are left out: no two runs have the same, or only one side has them.
const LEFT_OUT: [&str; 14] = [
    "uid",
    "resourceVersion",
    "creationTimestamp",
    "deletionTimestamp",
    "managedFields",
    "selfLink",
    "lastProbeTime",
    "kubectl.kubernetes.io/last-applied-configuration",
    "firstTimestamp",
    "lastTimestamp",
    "eventTime",
    "reportingInstance",
    "namespace",
    "deletionGracePeriodSeconds",
];

/// The objects of a kind, or parts of them, in an order that does not depend on their names.
pub(crate) fn show(objects: &[Value], pointers: &[&str]) -> String {
    let mut shown: Vec<String> = objects.iter().map(|object| one(object, pointers)).collect();
    shown.sort();
    if shown.iter().all(|text| text.contains("involvedObject") || text.starts_with("event ")) {
        // The same note may have come once or several times.
        shown.dedup();
    }
    shown.concat()
}

fn one(object: &Value, pointers: &[&str]) -> String {
    if object["kind"] == "Event" {
        let about = &object["involvedObject"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        if pointers.iter().all(|kind| *kind != text(&about["kind"])) {
            return String::new();
        }
        let line = format!(
            "event {}/{} {} {}: {}\n",
            text(&about["kind"]),
            text(&about["name"]),
            text(&object["type"]),
            text(&object["reason"]),
            text(&object["message"])
        );
        return calm_text(&line);
    }
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let deleting = object["metadata"].get("deletionTimestamp").is_some();
    let mut object = object.clone();
    calm(&mut object);
    object.sort_all_objects();
    let mut text =
        format!("{}{}\n", calm_text(name), if deleting { " (being deleted)" } else { "" });
    let parts: Vec<(&str, Option<&Value>)> = if pointers.is_empty() {
        vec![("", Some(&object))]
    } else {
        pointers.iter().map(|pointer| (*pointer, object.pointer(pointer))).collect()
    };
    for (pointer, part) in parts {
        let Some(part) = part else { continue };
        let shown = serde_json::to_string_pretty(part).unwrap();
        for (number, line) in shown.lines().enumerate() {
            let head = if number == 0 && !pointer.is_empty() { pointer } else { "" };
            let space = if head.is_empty() { "" } else { " " };
            writeln!(text, "  {head}{space}{}", calm_text(line)).unwrap();
        }
    }
    text
}

fn calm_text(text: &str) -> String {
    static PATTERNS: OnceLock<Vec<(Regex, &'static str)>> = OnceLock::new();
    let patterns = PATTERNS.get_or_init(|| {
        let rows = [
            (r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "UID"),
            (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", "TIME"),
            // The hash of a DaemonSet's template is one of Go's memory; nobody else can compute it.
            (r#"(controller-revision-hash": )"[a-z0-9]{8,10}""#, "${1}HASH"),
            (r"\b(agent|twice)-[bcdfghjklmnpqrstvwxz2456789]{8,10}\b", "${1}-HASH"),
            // A generated name: five of the letters that make no words.
            (r"\b([a-z0-9-]+)-[bcdfghjklmnpqrstvwxz2456789]{5}\b", "${1}-NAME"),
            // Times of a CronJob's runs, in minutes.
            (r"\b([a-z-]+)-\d{8}\b", "${1}-MINUTES"),
        ];
        let compile = |(from, to)| (Regex::new(from).unwrap(), to);
        rows.into_iter().map(compile).collect()
    });
    let mut text = text.to_owned();
    for (pattern, instead) in patterns {
        text = pattern.replace_all(&text, *instead).into_owned();
    }
    text
}

fn calm(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|name, value| !LEFT_OUT.contains(&name.as_str()) && !value.is_null());
            fields.values_mut().for_each(calm);
            // What is left of them when kubectl's own is left out.
            fields.retain(|name, value| name != "annotations" || *value != json!({}));
        }
        Value::Array(items) => items.iter_mut().for_each(calm),
        _ => {}
    }
}
