//! Upstream's `PromQL` test scripts, with the failures that are known. The list may only shrink: a
//! script that fails less than listed fails this test too, so that the list is brought up to date.

use evenkeel_promql::testscript::{run, test_options};
use std::path::Path;

/// File and number of evaluations that are known to fail.
const KNOWN_FAILURES: &[(&str, usize)] = &[];

#[test]
fn upstream_scripts_pass_except_for_known_failures() {
    scripts_pass("promqltest", 14);
}

#[test]
fn our_own_scripts_pass() {
    scripts_pass("scripts", 6);
}

fn scripts_pass(folder: &str, count_min: usize) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(folder);
    let mut names: Vec<String> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| Path::new(name).extension().is_some_and(|e| e == "test"))
        .collect();
    names.sort();
    assert!(names.len() >= count_min, "the scripts are there");
    let mut differences = Vec::new();
    for name in names {
        let script = std::fs::read_to_string(folder.join(&name)).unwrap();
        let report = run(&script, &test_options());
        let known = KNOWN_FAILURES.iter().find(|(n, _)| *n == name).map_or(0, |(_, n)| *n);
        if report.failures.len() != known {
            let mut text = format!(
                "{name}: passed {}, failed {}, known {known}",
                report.passed,
                report.failures.len()
            );
            for f in report.failures.iter().take(400) {
                let line = format!("\n  {name}:{} {}\n      {}", f.line, f.query, f.reason);
                text.push_str(&line);
            }
            differences.push(text);
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}
