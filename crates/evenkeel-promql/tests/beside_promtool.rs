//! Rule tests here and with `promtool`: the same verdict on each file, and on each file with one of
//! its expectations spoilt.
#![expect(clippy::unwrap_used, reason = "a step that fails fails the test")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use evenkeel_promql::{engine::Options, test_rules::run};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rules")
}

/// Name and text of every file of tests.
fn files() -> Vec<(String, String)> {
    let entries = fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = entries
        .filter(|path| path.to_str().unwrap().ends_with(".test.yml"))
        .map(|path| {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            (name, fs::read_to_string(path).unwrap())
        })
        .collect();
    files.sort();
    files
}

/// What fails of a file of tests; `Err` when it cannot be run. Prometheus 2 counts samples at both
/// ends of a range.
fn ours(tests: &str, closed_ranges: bool) -> Result<Vec<String>, String> {
    let mut read = |name: &str| {
        let text = fs::read_to_string(folder().join(name)).map_err(|error| error.to_string())?;
        Ok(vec![(name.to_owned(), text)])
    };
    let options = Options { closed_ranges, ..Options::default() };
    run(tests, &mut read, &options).map(|report| report.failures)
}

/// Whether promtool passes it, and its words.
fn theirs(name: &str, tests: &str) -> (bool, String) {
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join("beside-promtool");
    fs::create_dir_all(&place).unwrap();
    for entry in fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, place.join(path.file_name().unwrap())).unwrap();
    }
    let file = place.join(name);
    fs::write(&file, tests).unwrap();
    let output = Command::new("promtool").args(["test", "rules"]).arg(&file).output().unwrap();
    let words = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    (output.status.success(), words.into_owned())
}

/// The file with one expected value, label or text changed, once for each.
fn spoilt(tests: &str) -> Vec<String> {
    let expects = ["value: ", "summary: ", "description: ", "text: ", "query: ", "severity: "];
    let lines: Vec<&str> = tests.lines().collect();
    let mut all = Vec::new();
    for (n, line) in lines.iter().enumerate() {
        let Some((before, after)) = expects.iter().find_map(|field| line.split_once(field)) else {
            continue;
        };
        let field = line.strip_prefix(before).and_then(|rest| rest.strip_suffix(after)).unwrap();
        // Within the quotes, if there are any.
        let (quote, after) = match after.strip_prefix(['\'', '"']) {
            Some(rest) => (after.strip_suffix(rest).unwrap(), rest),
            None => ("", after),
        };
        let mut changed = lines.clone();
        let line = format!("{before}{field}{quote}9{after}");
        changed[n] = &line;
        all.push(changed.join("\n"));
    }
    all
}

#[test]
fn every_file_passes() {
    for (name, tests) in files() {
        for closed_ranges in [false, true] {
            assert_eq!(ours(&tests, closed_ranges), Ok(Vec::new()), "{name}");
        }
    }
}

#[test]
fn an_expectation_that_is_wrong_fails() {
    let mut spoilt_files = 0;
    for (name, tests) in files() {
        for tests in spoilt(&tests) {
            spoilt_files += 1;
            let failures = ours(&tests, false).unwrap();
            assert_eq!(failures.len(), 1, "{name}: {failures:?}\n{tests}");
        }
    }
    assert!(spoilt_files > 25, "{spoilt_files}");
}

#[test]
fn promtool_comes_to_the_same_verdict() {
    let Ok(version) = Command::new("promtool").arg("--version").output() else { return };
    let version =
        String::from_utf8_lossy(&version.stdout) + String::from_utf8_lossy(&version.stderr);
    let closed_ranges = version.contains("version 2.");
    for (name, tests) in files() {
        let variants = std::iter::once(tests.clone()).chain(spoilt(&tests));
        for (n, tests) in variants.enumerate() {
            let (passed, words) = theirs(&format!("{n}-{name}"), &tests);
            let ours = ours(&tests, closed_ranges);
            assert_eq!(
                ours.as_ref().is_ok_and(Vec::is_empty),
                passed,
                "{ours:?}\n{words}\n{tests}"
            );
        }
    }
}
