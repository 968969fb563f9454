//! Records of the first format, which had no signatures, are read and continued.

use evenkeel_guard::Entry;

use super::*;

/// A record of four lines as the first version wrote it.
fn old_record(name: &str) -> PathBuf {
    let dir = folder(name);
    let mut prev = "0".repeat(64);
    let mut lines = Vec::new();
    let contents = [
        r#""kind":"ask","controller":"delivery","object":"Canary/shop/api","verb":"patch","action":"patch Canary/shop/api {\"spec\":{}}","reason":"StepDue","direction":"riskier","verdict":"allow","after":"6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b""#,
        r#""kind":"outcome","of":1,"outcome":"done""#,
        r#""kind":"ask","controller":"delivery","object":"Canary/shop/api","verb":"scale","action":"scale Deployment/shop/api to 2","reason":"StepDue","direction":"riskier","verdict":"hold","why":"freeze","before":{"revision":"7","digest":"d4735e3a265e16eee03f59718b9b5d03019c07d8b6c51f90da3a666eec13ab35"}"#,
        r#""late":true,"kind":"lost","lines":2"#,
    ];
    for (seq, content) in (1..).zip(contents) {
        let line = format!(
            r#"{{"v":1,"seq":{seq},"time":"1970-01-01T00:00:40Z",{content},"prev":"{prev}""#
        );
        prev = sha256(&line);
        lines.push(format!("{line},\"hash\":\"{prev}\"}}"));
    }
    fs::create_dir(dir.join("audit")).unwrap();
    put(&dir, &lines);
    fs::write(dir.join("audit/HEAD"), format!("1 {:020} {prev}\n", 4)).unwrap();
    dir
}

#[test]
fn it_still_verifies_and_says_that_it_is_not_signed() {
    let dir = old_record("old");
    assert_eq!(
        finding(&dir),
        "lines 1 to 4 | with the key: 000001.jsonl: all of it is of format 1, which was not \
         signed yet"
    );
    let summary = verify(&dir.join("audit"), &Check::default()).unwrap();
    assert_eq!((summary.unsigned, summary.key), (4, None));
}

#[test]
fn it_is_continued_in_a_signed_file() {
    let dir = old_record("continued");
    act(&open(&dir), 3);
    assert_eq!(finding(&dir), "lines 1 to 7");
    let summary = verify(&dir.join("audit"), &Check::default()).unwrap();
    assert_eq!((summary.unsigned, summary.files, summary.key), (4, 2, Some(key(&dir))));
    let entries = all(&dir);
    assert_eq!((entries[3].v, entries[4].v), (1, 2));
    assert!(matches!(entries[4].entry, Entry::Checkpoint { file: 2, lines: 4, .. }));
    act(&open(&dir), 4);
    assert_eq!(finding(&dir), "lines 1 to 9");
}

#[test]
fn a_torn_last_line_does_not_stay_in_the_middle() {
    let dir = old_record("old-torn");
    let whole = fs::read_to_string(path(&dir, 1)).unwrap();
    fs::write(path(&dir, 1), format!("{whole}{{\"v\":1")).unwrap();
    act(&open(&dir), 3);
    assert_eq!(finding(&dir), "lines 1 to 7");
}

#[test]
fn old_lines_behind_signed_ones_are_found() {
    let dir = old_record("downgrade");
    act(&open(&dir), 3);
    let text = fs::read_to_string(path(&dir, 2)).unwrap();
    let last = text.lines().last().unwrap();
    let hash = last.rsplit_once("\"hash\":\"").unwrap().1.trim_end_matches("\"}");
    let content = format!(
        r#"{{"v":1,"seq":8,"time":"1970-01-01T00:00:40Z","kind":"lost","lines":1,"prev":"{hash}""#
    );
    let hash = sha256(&content);
    fs::write(path(&dir, 2), format!("{text}{content},\"hash\":\"{hash}\"}}\n")).unwrap();
    let found = finding(&dir);
    assert!(found.contains("line 4: it is of format 1, behind signed lines"), "{found}");
}

#[test]
fn a_damaged_one_is_not_continued() {
    let dir = old_record("old-damaged");
    let text = fs::read_to_string(path(&dir, 1)).unwrap();
    fs::write(path(&dir, 1), text.replace("\"hold\"", "\"deny\"")).unwrap();
    let reason = denied(&open(&dir));
    assert!(reason.contains("its content does not match"), "{reason}");
}
