use std::sync::OnceLock;

use regex::Regex;
use serde_json::Value;

use crate::servers::Side;

/// Fields that are another value every time.
const VOLATILE: [&str; 12] = [
    "uid",
    "resourceVersion",
    "creationTimestamp",
    "deletionTimestamp",
    "time",
    "lastTransitionTime",
    "lastUpdateTime",
    "lastProbeTime",
    "startTime",
    "continue",
    "renewTime",
    "selfLink",
];

/// An answer without what is another value every time.
pub(crate) fn text(command: &str, said: &str, side: &Side) -> String {
    static PATTERNS: OnceLock<Vec<(Regex, &'static str)>> = OnceLock::new();
    let patterns = PATTERNS.get_or_init(|| {
        let rows = [
            (r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "UID"),
            (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "TIME"),
            (r#"(resourceVersion"?: )"?\d+"?"#, "${1}RV"),
            (r"\b(\d+[dhm])?\d+[smhd]$", "AGE"),
            (r"\b(\d+[dhm])?\d+[smhd](\s{2,})", "AGE${2}"),
            (r"0x[0-9a-f]{6,}", "POINTER"),
            (r"(in record \(|current: )\d+", "${1}RV"),
            (r"kube-api-access-[a-z0-9]{5}", "kube-api-access-NAME"),
            (r"(\S) {3,}", "${1}   "),
            (r"\bgen-[a-z0-9]{5}\b", "gen-NAME"),
            (r"\b10\.96\.\d+\.\d+|\b127\.192\.\d+\.\d+", "CLUSTER-IP"),
        ];
        let compile = |(from, to)| (Regex::new(from).unwrap(), to);
        rows.into_iter().map(compile).collect()
    });
    // Go's comparisons, shown in messages, have spaces that do not break in half of all processes.
    let said = said.replace(&side.url, "SERVER").replace('\u{a0}', " ");
    let mut lines = Vec::new();
    for line in said.lines() {
        match serde_json::from_str::<Value>(line) {
            Ok(mut value) if value.is_object() => {
                calm(&mut value);
                if !command.contains("managed") {
                    unmanage(&mut value);
                }
                value.sort_all_objects();
                let shown = serde_json::to_string_pretty(&value).unwrap();
                lines.extend(shown.lines().map(str::to_owned));
            }
            _ => lines.push(line.to_owned()),
        }
    }
    let mut text = String::new();
    for line in &lines {
        let mut line = line.clone();
        for (pattern, instead) in patterns {
            line = pattern.replace_all(&line, *instead).into_owned();
        }
        let line = line.trim_end();
        if !line.is_empty() {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

fn calm(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            if fields.get("details").is_some_and(|details| *details == serde_json::json!({})) {
                fields.remove("details");
            }
            for (name, value) in fields {
                if VOLATILE.contains(&name.as_str()) && (value.is_string() || value.is_number()) {
                    *value = Value::String(name.to_uppercase());
                } else {
                    calm(value);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(calm),
        _ => {}
    }
}

/// Who owns which field is shown only where it is asked for.
fn unmanage(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.remove("managedFields");
            fields.values_mut().for_each(unmanage);
        }
        Value::Array(items) => items.iter_mut().for_each(unmanage),
        _ => {}
    }
}
