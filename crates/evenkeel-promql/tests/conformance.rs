//! Upstream's `PromQL` test scripts, with the failures that are known. The list may only shrink: a
//! script that fails less than listed fails this test too, so that the list is brought up to date.

use evenkeel_promql::testscript::{run, test_options};
use std::path::Path;

/// File and number of evaluations that are known to fail.
const KNOWN_FAILURES: &[(&str, usize)] = &[];

#[test]
fn upstream_scripts_pass_except_for_known_failures() {
    assert_eq!(differences("promqltest", 14).unwrap(), "");
}

#[test]
fn our_own_scripts_pass() {
    assert_eq!(differences("scripts", 6).unwrap(), "");
}

/// What fails in the scripts of a folder, of which there are at least so many.
fn differences(folder: &str, count_min: usize) -> std::io::Result<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(folder);
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(&folder)? {
        paths.push(entry?.path());
    }
    paths.retain(|path| path.extension().is_some_and(|e| e == "test"));
    paths.sort();
    assert!(paths.len() >= count_min, "the scripts are there");
    let mut differences = Vec::new();
    for path in paths {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let report = run(&std::fs::read_to_string(&path)?, &test_options());
        let known = KNOWN_FAILURES.iter().find(|(n, _)| *n == name).map_or(0, |(_, n)| *n);
        if report.failures.len() == known {
            continue;
        }
        let (passed, failed) = (report.passed, report.failures.len());
        differences.push(format!("{name}: passed {passed}, failed {failed}, known {known}"));
        for f in report.failures {
            let (line, query, reason) = (f.line, f.query, f.reason);
            differences.push(format!("  {name}:{line} {query}\n      {reason}"));
        }
    }
    Ok(differences.join("\n"))
}
