use std::os::unix::fs::PermissionsExt as _;

use evenkeel_guard::Entry;
use proptest::prelude::*;

use super::*;

/// Something done to the lines of a record.
type Tamper = fn(&mut Vec<String>);

#[test]
fn a_sound_record_is_sound_and_continues_after_a_restart() {
    let dir = recorded("sound");
    assert_eq!(finding(&dir), "lines 1 to 7");
    act(&open(&dir), 9);
    assert_eq!(finding(&dir), "lines 1 to 9");
    let entries = all(&dir);
    assert!(matches!(&entries[0].entry, Entry::Checkpoint { file: 1, lines: 0, .. }));
    assert!(matches!(&entries[8].entry, Entry::Outcome { of: Some(8), .. }));
    assert_eq!((entries[7].time, entries[8].time), (at(40), at(50)));
}

#[test]
fn nobody_else_can_read_it() {
    let dir = recorded("private");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let folder = dir.join("audit");
    assert_eq!(mode(&folder), 0o700);
    for file in ["000001.jsonl", "HEAD", "LOCK"] {
        assert_eq!(mode(&folder.join(file)), 0o600, "{file}");
    }
    // What an older version left open is closed.
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(path(&dir, 1), fs::Permissions::from_mode(0o644)).unwrap();
    drop(open(&dir));
    assert_eq!((mode(&folder), mode(&path(&dir, 1))), (0o700, 0o600));
}

#[test]
fn every_kind_of_tampering_is_found_with_its_line() {
    let table: [(&str, Tamper, &str); 8] = [
        ("edit", |l| l[3] = l[3].replace(" to 2", " to 9"), "line 4: its content does not match"),
        ("space", |l| l[3].insert(1, ' '), "line 4: its content does not match"),
        ("delete", |l| drop(l.remove(3)), "line 4: it is number 5 and does not follow on number 3"),
        ("insert", |l| l.insert(3, l[2].clone()), "line 4: it is number 3 and does not follow"),
        ("swap", |l| l.swap(3, 4), "line 4: it is number 5 and does not follow on number 3"),
        ("cut", |l| l.truncate(6), "ends with number 6, HEAD names number 7: the end was cut"),
        ("rubbish", |l| l[4] = "{}".to_owned(), "line 5: it is not a line of the record"),
        ("first", |l| drop(l.remove(0)), "line 1: it is not the first line of this file"),
    ];
    for (name, tamper, problem) in table {
        let dir = recorded(name);
        let mut all = lines(&dir);
        tamper(&mut all);
        put(&dir, &all);
        let found = finding(&dir);
        assert!(found.contains(problem), "{name}: {found}");
    }
}

#[test]
fn what_cannot_be_read_is_not_said_to_be_tampered_with() {
    // A link to itself cannot be opened, whoever asks.
    for file in ["000001.jsonl", "HEAD"] {
        let dir = recorded(&format!("unreadable-{file}"));
        let path = dir.join("audit").join(file);
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(file, &path).unwrap();
        let unsound = verify(&dir.join("audit"), &Check::default()).unwrap_err();
        assert!(matches!(&unsound, Unsound::Unreadable { path: at, .. } if *at == path));
        let reason = denied(&open(&dir));
        assert!(reason.contains("the audit record cannot be read"), "{reason}");
    }
    // No folder where one should be.
    let dir = recorded("unreadable").join("audit");
    fs::remove_dir_all(&dir).unwrap();
    fs::write(&dir, "").unwrap();
    let unsound = verify(&dir, &Check::default()).unwrap_err();
    assert!(matches!(&unsound, Unsound::Unreadable { path, .. } if *path == dir), "{unsound}");
    // Something else at the place of a file was put there.
    let dir = recorded("folder");
    fs::remove_file(path(&dir, 1)).unwrap();
    fs::create_dir(path(&dir, 1)).unwrap();
    assert!(finding(&dir).contains("it is a folder, not a regular file"));
}

#[test]
fn a_door_that_finds_its_end_damaged_lets_only_safer_actions_through() {
    let table: [(&str, Tamper, &str); 9] = [
        ("end-edit", |l| l[6] = l[6].replace("done", "lost"), "line 7: its content does not match"),
        ("end-cut", |l| l.truncate(6), "the end was cut"),
        ("end-rubbish", |l| l[6] = "{}".to_owned(), "line 7: it is not a line of the record"),
        ("end-gone", Vec::clear, "the end was cut"),
        ("mid-edit", |l| l[3] = l[3].replace(" to 2", " to 9"), "line 4: its content does not"),
        ("mid-zero", |l| l[3].insert(30, '\0'), "line 4: it is not readable"),
        ("mid-delete", |l| drop(l.remove(3)), "line 4: it is number 5 and does not follow on"),
        ("first-edit", |l| l[0].insert(1, ' '), "line 1: its content does not match"),
        ("first-zero", |l| l[0].insert(0, '\0'), "line 1: it is not readable"),
    ];
    for (name, tamper, problem) in table {
        let dir = recorded(name);
        let mut all = lines(&dir);
        tamper(&mut all);
        put(&dir, &all);
        let before = fs::read(path(&dir, 1)).unwrap();
        let door = open(&dir);
        let reason = denied(&door);
        assert!(reason.contains("evenkeel audit verify"), "{reason}");
        assert!(reason.contains(problem), "{name}: {reason}");
        assert!(finding(&dir).contains(problem), "{name}: both name the same place");
        assert!(matches!(ask(&door, 0, Direction::Safer), Verdict::Allow(_)), "{name}");
        drop(door);
        let after = fs::read(path(&dir, 1)).unwrap();
        assert_eq!(after, before, "{name}: a damaged record is left as it is");
    }
}

#[test]
fn a_file_that_goes_while_it_is_written_is_noticed_before_the_next_action() {
    type Change = fn(&Path);
    let gone: [(&str, Change); 3] = [
        ("removed", |file| fs::remove_file(file).unwrap()),
        ("replaced", |file| {
            // As `sed -i` does.
            let copy = file.with_extension("new");
            fs::copy(file, &copy).unwrap();
            fs::rename(&copy, file).unwrap();
        }),
        ("cut", |file| fs::OpenOptions::new().write(true).open(file).unwrap().set_len(10).unwrap()),
    ];
    for (name, tamper) in gone {
        let dir = recorded(&format!("live-{name}"));
        let door = open(&dir);
        assert!(matches!(ask(&door, 1, Direction::Riskier), Verdict::Allow(_)), "{name}");
        tamper(&path(&dir, 1));
        let verdict = ask(&door, 2, Direction::Riskier);
        assert!(!matches!(verdict, Verdict::Allow(_)), "{name}: {verdict:?}");
        assert!(format!("{verdict:?}").contains("was removed, replaced or cut"), "{verdict:?}");
        assert!(matches!(ask(&door, 0, Direction::Safer), Verdict::Allow(_)), "{name}");
    }
}

#[test]
fn missing_files_are_found() {
    let dir = recorded("no-head");
    fs::remove_file(dir.join("audit/HEAD")).unwrap();
    assert_eq!(finding(&dir), "HEAD: it is missing");
    let reason = denied(&open(&dir));
    assert!(reason.contains("HEAD is missing"), "{reason}");

    let dir = recorded("no-record");
    fs::remove_file(path(&dir, 1)).unwrap();
    assert!(finding(&dir).contains("holds no head with a valid signature | "), "{}", finding(&dir));
    assert!(finding(&dir).contains("the end was cut"), "{}", finding(&dir));

    let dir = recorded("no-first");
    fs::rename(path(&dir, 1), path(&dir, 2)).unwrap();
    let found = finding(&dir);
    assert_eq!(found, "000002.jsonl line 1: it is not the first line of this file");

    let found = finding(&folder("nothing"));
    assert_eq!(found, "000001.jsonl: there is no audit record here");
}

#[test]
fn a_head_that_is_behind_is_no_tampering_and_a_damaged_one_is() {
    let dir = recorded("old-head");
    let old = fs::read(dir.join("audit/HEAD")).unwrap();
    act(&open(&dir), 4);
    fs::write(dir.join("audit/HEAD"), old).unwrap();
    assert_eq!(finding(&dir), "lines 1 to 9");
    act(&open(&dir), 5);
    assert_eq!(finding(&dir), "lines 1 to 11");

    // One of its two places torn: the other one counts.
    let mut torn = fs::read(dir.join("audit/HEAD")).unwrap();
    torn[100..150].fill(b'x');
    fs::write(dir.join("audit/HEAD"), &torn).unwrap();
    assert_eq!(finding(&dir), "lines 1 to 11");
    torn[612..662].fill(b'x');
    fs::write(dir.join("audit/HEAD"), &torn).unwrap();
    assert_eq!(finding(&dir), "HEAD: it holds no head with a valid signature");
}

#[test]
fn a_cut_end_is_found_whatever_is_left_of_head() {
    let dir = recorded("cut-and-blanked");
    act(&open(&dir), 4);
    let (whole, head) = (lines(&dir), fs::read(dir.join("audit/HEAD")).unwrap());
    let places = [0..512, 512..1024];
    for blank in [0, b' ', b'x', b'\n'] {
        for place in places.clone() {
            for kept in 1..whole.len() {
                let mut blanked = head.clone();
                blanked[place.clone()].fill(blank);
                fs::write(dir.join("audit/HEAD"), blanked).unwrap();
                put(&dir, &whole[..kept]);
                assert!(finding(&dir).contains("the end was cut"), "{kept}: {}", finding(&dir));
                assert!(denied(&open(&dir)).contains("the end was cut"), "{kept}");
            }
        }
    }
    // Or torn off.
    fs::write(dir.join("audit/HEAD"), &head[..512]).unwrap();
    assert!(finding(&dir).contains("the end was cut"), "{}", finding(&dir));
    put(&dir, &whole);
    assert_eq!(finding(&dir), "lines 1 to 9");
}

#[test]
fn an_older_head_beside_the_newest_one_goes_when_the_record_is_opened() {
    let dir = recorded("head-of-earlier-versions");
    let head = dir.join("audit/HEAD");
    let older = fs::read(&head).unwrap();
    act(&open(&dir), 4);
    // Two places, written in turn, as earlier versions did; or the newest one alone.
    let newest = fs::read(&head).unwrap();
    for left in [[&older[..512], &newest[..512]].concat(), newest[..512].to_vec()] {
        fs::write(&head, &left).unwrap();
        assert_eq!(finding(&dir), "lines 1 to 9");
        drop(open(&dir));
        assert!(fs::read(&head).unwrap() == newest, "both places hold the newest one");
    }
    assert_eq!(finding(&dir), "lines 1 to 9");
}

#[test]
fn a_crash_in_the_middle_of_a_line_is_mended_and_is_no_tampering() {
    let begun = "{\"v\":2,\"seq\":8,\"time\":\"\u{fc}";
    for rest in ["{\"v\":2,\"se", begun, "\0\0\0\0\0\0", "{\"v\"\0\0\0"] {
        let dir = recorded("torn");
        let whole = fs::read(path(&dir, 1)).unwrap();
        // Also in the middle of a character.
        let rest = rest
            .strip_suffix('\u{fc}')
            .map_or(rest.as_bytes().to_vec(), |rest| [rest.as_bytes(), &[0xc3]].concat());
        fs::write(path(&dir, 1), [&whole[..], &rest].concat()).unwrap();
        let torn = |dir: &Path| verify(&dir.join("audit"), &Check::default()).unwrap().torn;
        assert_eq!(finding(&dir), "lines 1 to 7");
        let place = torn(&dir).map(|torn| (torn.file, torn.line, torn.bytes));
        assert_eq!(place, Some(("000001.jsonl".to_owned(), 8, rest.len())));
        act(&open(&dir), 4);
        assert_eq!(finding(&dir), "lines 1 to 9");
        assert_eq!(torn(&dir), None);
    }
}

#[test]
fn what_no_crash_leaves_at_the_end_is_tampering() {
    let table = [
        ("junk", "it has no end"),
        ("junk\n", "it is not a line of the record"),
        ("\n", "it is not a line of the record"),
        ("{\"v\":2,\"action\":\"x", "it has no end"),
        ("{\"v\":2,\"seq\":9,\"time\":\"", "it has no end"),
        ("{\"v\":2,\"seq\":8,\"time\":\"x\"} # by hand", "it has no end"),
        ("\0\0\0\njunk", "it is not a line of the record"),
        ("{\"v\"\0\0\n\0", "it is not a line of the record"),
    ];
    for (rest, problem) in table {
        let dir = recorded("junk");
        let whole = fs::read_to_string(path(&dir, 1)).unwrap();
        fs::write(path(&dir, 1), format!("{whole}{rest}")).unwrap();
        let expected = format!("000001.jsonl line 8: {problem}");
        assert_eq!(finding(&dir), expected, "{rest:?}");
        let reason = denied(&open(&dir));
        assert!(reason.contains(&expected), "{rest:?}: {reason}");
    }
    // In a file of its own, too.
    let dir = recorded("junk-file");
    fs::write(path(&dir, 2), "junk").unwrap();
    assert_eq!(finding(&dir), "000002.jsonl line 1: it has no end");
    let reason = denied(&open(&dir));
    assert!(reason.contains("000002.jsonl line 1: it has no end"), "{reason}");
}

#[test]
fn what_is_no_part_of_the_record_is_named() {
    for name in ["notes.txt", "1.jsonl", "000001.jsonl.bak", "HEAD~", ".hidden"] {
        let dir = recorded("foreign");
        fs::write(dir.join("audit").join(name), "").unwrap();
        let expected = format!("{name}: it is no part of the record: move it elsewhere");
        assert_eq!(finding(&dir), expected);
    }
    let dir = recorded("foreign-folder");
    fs::create_dir(dir.join("audit/old")).unwrap();
    assert_eq!(finding(&dir), "old: it is no part of the record: move it elsewhere");
}

/// Something that stands where a file should be.
type Stand = fn(&Path);

#[test]
fn what_is_no_regular_file_is_named_and_nobody_waits_for_it() {
    let stands: [(&str, Stand); 3] = [
        ("a named pipe", |path| {
            assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success());
        }),
        ("a folder", |path| fs::create_dir(path).unwrap()),
        ("a device", |path| std::os::unix::fs::symlink("/dev/zero", path).unwrap()),
    ];
    for (what, stand) in stands {
        let at = |file: &str| {
            let dir = recorded("no-file");
            fs::remove_file(dir.join(file)).unwrap();
            stand(&dir.join(file));
            dir
        };
        let problem = format!("it is {what}, not a regular file");
        for file in ["HEAD", "000001.jsonl"] {
            let dir = at(&format!("audit/{file}"));
            let expected = format!("{file}: {problem}");
            assert!(finding(&dir).starts_with(&expected), "{}", finding(&dir));
            let reason = denied(&open(&dir));
            assert!(reason.contains(&expected), "{reason}");
        }
        let dir = at("audit/LOCK");
        let Err(OpenError::Io { path, source }) = try_open(&dir, Keep::default(), 0) else {
            panic!()
        };
        assert_eq!((path, source.to_string()), (dir.join("audit/LOCK"), problem.clone()));
        let dir = at("keys/audit.key");
        let error = SigningKey::read_or_create(&dir.join("keys/audit.key")).unwrap_err();
        assert!(error.to_string().ends_with("keys/audit.key"), "{error}");
        assert_eq!(std::error::Error::source(&error).unwrap().to_string(), problem);
    }
}

#[test]
fn two_processes_cannot_write_one_record() {
    let dir = recorded("twice");
    let _first = open(&dir);
    let second = try_open(&dir, Keep::default(), 0);
    assert!(matches!(second, Err(OpenError::InUse { .. })));
}

#[test]
fn a_record_put_back_to_an_older_state_is_found_by_a_copy_of_head() {
    let dir = recorded("put-back");
    let (old_head, old) = (fs::read(dir.join("audit/HEAD")).unwrap(), lines(&dir));
    act(&open(&dir), 4);
    let copy = fs::read(dir.join("audit/HEAD")).unwrap();
    let key = key(&dir);
    let problem = |unsound| match unsound {
        Unsound::Tampered(tampering) => tampering.problem,
        Unsound::Unreadable { .. } => panic!("{unsound}"),
    };
    let compared = |copy: &[u8]| {
        let check = Check { key: Some(&key), copy_of_head: Some(copy) };
        verify(&dir.join("audit"), &check).map_or_else(problem, |ok| ok.last.to_string())
    };
    assert_eq!(compared(&copy), "9");
    assert_eq!(compared(&old_head), "9", "an older copy is as good");
    fs::write(dir.join("audit/HEAD"), old_head).unwrap();
    put(&dir, &old);
    assert_eq!(finding(&dir), "lines 1 to 7", "nothing in the folder shows it");
    assert_eq!(
        compared(&copy),
        "the record ends with number 7, the copy of HEAD names number 9: it was put back to an \
         older state"
    );
    assert_eq!(compared(b"rubbish"), "it is not one of this record");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..Default::default() })]
    #[test]
    fn no_single_changed_byte_goes_unseen(at in 0_usize..8000, bit in 0_u8..7) {
        static RECORD: std::sync::OnceLock<(PathBuf, Vec<u8>)> = std::sync::OnceLock::new();
        let (dir, sound) = RECORD.get_or_init(|| {
            let dir = recorded("bytes");
            let sound = fs::read(path(&dir, 1)).unwrap();
            (dir, sound)
        });
        let mut bytes = sound.clone();
        let at = at % bytes.len();
        bytes[at] ^= 1 << bit;
        fs::write(path(dir, 1), bytes).unwrap();
        prop_assert!(verify(&dir.join("audit"), &Check::default()).is_err(), "byte {}", at);
    }
}
