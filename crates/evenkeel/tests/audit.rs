//! `evenkeel audit` on records that the keeper or someone else has written.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a setup that fails is a test that fails")]

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use evenkeel_api::{Key, canary::Canary};
use evenkeel_base::FixedClock;
use evenkeel_control::{Action, Direction, Door as _, Outcome, Petition, Verdict};
use evenkeel_guard::{Keep, RecordDoor, Settings, SigningKey};
use futures::executor::block_on;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

const DAY: i64 = 86_400;
/// How long something may take that has to happen; generous, for machines that do much else.
const PATIENCE: Duration = Duration::from_mins(2);

/// An empty data folder.
fn folder(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("audit").join(name);
    if dir.exists() {
        fs::remove_dir_all(&dir).unwrap();
    }
    fs::create_dir_all(&dir).unwrap();
    dir
}

/// The keeper opens the record at this day and scales to these numbers. Files are closed after ten
/// days and kept for eighty.
fn record(data: &Path, day: i64, replicas: impl IntoIterator<Item = i32>) {
    let now = Timestamp::from_second(day * DAY).unwrap();
    let settings = Settings {
        dir: data.join("audit"),
        key: SigningKey::read_or_create(&data.join("keys/audit.key")).unwrap(),
        keep: Keep { age: Some(Duration::from_hours(80 * 24)), ..Keep::default() },
    };
    let door = RecordDoor::open(settings, Arc::new(FixedClock(now))).unwrap();
    for replicas in replicas {
        let action = Action::Scale { key: Key::of::<Deployment>("shop", "api"), replicas };
        let petition = Petition {
            controller: "delivery",
            object: &Key::of::<Canary>("shop", "api"),
            action: &action,
            text: &action.to_string(),
            after: None,
            reason: "StepDue",
            before: None,
            direction: Direction::Riskier,
            now,
        };
        let Verdict::Allow(id) = block_on(door.ask(&petition)) else { panic!("{action}") };
        block_on(door.settle(&id, Outcome::Done));
    }
}

fn command(data: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_evenkeel"));
    command.arg("audit").args(words).arg("--data-dir").arg(data).stdin(Stdio::null());
    command
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap()
}

/// Exit code, standard output and standard error.
fn told(ended: Output) -> (i32, String, String) {
    (ended.status.code().unwrap(), text(ended.stdout), text(ended.stderr))
}

fn audit(data: &Path, words: &[&str]) -> (i32, String, String) {
    told(command(data, words).output().unwrap())
}

fn public_key(data: &Path) -> String {
    let (code, key, complaint) = audit(data, &["key"]);
    assert_eq!(code, 0, "{complaint}");
    key.trim().to_owned()
}

/// `evenkeel audit list --follow`, killed when it is dropped.
struct Following {
    child: Child,
    rows: mpsc::Receiver<String>,
}

impl Following {
    fn start(data: &Path, words: &[&str]) -> Self {
        let mut command = command(data, &[&["list", "--follow"], words].concat());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (tell, rows) = mpsc::channel();
        thread::spawn(move || {
            // Whoever waits for rows may be gone; then the pipe is closed.
            lines.map_while(Result::ok).try_for_each(|row| tell.send(row)).unwrap_or_default();
        });
        Self { child, rows }
    }

    fn row(&self) -> String {
        self.rows.recv_timeout(PATIENCE).unwrap()
    }

    /// The next action and its outcome.
    fn action(&self) -> String {
        let row: Value = serde_json::from_str(&self.row()).unwrap();
        let word = |field: &str| row[field].as_str().unwrap().to_owned();
        format!("{} {}", word("action"), word("outcome")).trim_end().to_owned()
    }

    /// Exit code and complaint.
    fn end(mut self) -> (i32, String) {
        let until = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < until, "it did not end");
            thread::sleep(Duration::from_millis(5));
        };
        let mut complaint = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut complaint).unwrap();
        (status.code().unwrap_or_else(|| panic!("{status}: {complaint}")), complaint)
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        // It may have ended before.
        self.child.kill().unwrap_or_default();
        self.child.wait().unwrap();
    }
}

fn scaled(replicas: i32) -> String {
    format!("scale Deployment/shop/api to {replicas} done")
}

#[test]
fn what_is_followed_goes_on_over_new_files_until_it_is_told_to_stop() {
    let data = folder("followed");
    record(&data, 0, [1]);
    let following = Following::start(&data, &["-o", "json"]);
    assert_eq!(following.action(), scaled(1));
    record(&data, 1, [2, 3]);
    assert_eq!([following.action(), following.action()], [scaled(2), scaled(3)]);
    // The first file is closed, then the oldest are dropped.
    record(&data, 12, [4]);
    assert!(data.join("audit/000002.jsonl").exists());
    assert_eq!(following.action(), scaled(4));
    record(&data, 103, [5]);
    assert!(!data.join("audit/000001.jsonl").exists());
    let mut both = [following.action(), following.action()];
    both.sort();
    assert_eq!(both, ["lines 1 to 7 dropped".to_owned(), scaled(5)]);
    // As the words about a damaged record advise.
    fs::rename(data.join("audit"), data.join("old")).unwrap();
    record(&data, 104, [6, 7]);
    assert_eq!([following.action(), following.action()], [scaled(6), scaled(7)]);
    kill(Pid::from_raw(following.child.id().try_into().unwrap()), Signal::SIGINT).unwrap();
    assert_eq!(following.end(), (0, String::new()));
}

#[test]
fn what_is_followed_ends_when_nobody_reads_it_any_more() {
    let data = folder("closed");
    record(&data, 0, [1]);
    let mut following = Following::start(&data, &[]);
    assert!(following.row().starts_with("SEQ "));
    assert!(following.row().contains("scale Deployment to 1"));
    // Whoever reads closes the pipe as soon as there is a row that nobody wants.
    let (_, nobody) = mpsc::channel();
    drop(std::mem::replace(&mut following.rows, nobody));
    record(&data, 1, [2]);
    assert_eq!(following.end(), (0, String::new()));

    // The same while nothing is written.
    let mut child = command(&data, &["list", "--follow"]);
    let mut child = child.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut reader = BufReader::new(child.stdout.take().unwrap());
    let mut head = String::new();
    reader.read_line(&mut head).unwrap();
    assert!(head.starts_with("SEQ "), "{head}");
    drop(reader);
    let (_, rows) = mpsc::channel();
    assert_eq!(Following { child, rows }.end(), (0, String::new()));
}

#[test]
fn what_is_followed_ends_when_it_is_told_to_although_its_reader_takes_nothing() {
    let data = folder("unread");
    // More than a pipe and the reader hold.
    record(&data, 0, 1..=400);
    let mut child = command(&data, &["list", "--follow", "-o", "json"]);
    let mut child = child.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut reader = BufReader::new(child.stdout.take().unwrap());
    let mut row = String::new();
    reader.read_line(&mut row).unwrap();
    assert!(row.contains("scale Deployment/shop/api to 1"), "{row}");
    kill(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
    let (_, rows) = mpsc::channel();
    assert_eq!(Following { child, rows }.end(), (0, String::new()));
    drop(reader);
}

#[test]
fn what_cannot_be_read_while_it_is_followed_is_no_answer() {
    let data = folder("followed-unreadable");
    record(&data, 0, [1]);
    let following = Following::start(&data, &["-o", "json"]);
    assert_eq!(following.action(), scaled(1));
    let dir = data.join("audit");
    fs::rename(&dir, data.join("old")).unwrap();
    // No folder: the system refuses to list it, whoever asks.
    fs::write(&dir, "").unwrap();
    let (code, complaint) = following.end();
    let named = format!("{} cannot be read, so nothing is known about it", dir.display());
    assert!(code == 2 && complaint.contains(&named), "{code} {complaint}");
}

#[test]
fn a_named_pipe_in_place_of_the_record_is_refused_and_nobody_waits_for_it() {
    let data = folder("pipe");
    record(&data, 0, [1]);
    let file = data.join("audit/000001.jsonl");
    fs::remove_file(&file).unwrap();
    assert!(Command::new("mkfifo").arg(&file).status().unwrap().success());
    for words in [&["verify"][..], &["list"], &["list", "--follow"], &["show", "2"]] {
        let (code, _, complaint) = audit(&data, words);
        let problem = "000001.jsonl: it is a named pipe, not a regular file";
        assert!(code == 1 && complaint.contains(problem), "{words:?}: {code} {complaint}");
    }
}

#[test]
fn a_record_is_verified_with_its_key_however_the_key_is_given() {
    let data = folder("sound");
    record(&data, 0, [1, 2, 3]);
    let key = public_key(&data);
    fs::write(data.join("public"), &key).unwrap();
    let (_, pem, _) = audit(&data, &["key", "--pem"]);
    fs::write(data.join("pem"), pem).unwrap();
    let files = ["public", "pem"].map(|file| data.join(file).to_str().unwrap().to_owned());
    for given in files.iter().chain([&key]) {
        let (code, said, complaint) = audit(&data, &["verify", "--key", given]);
        let proven = said.contains(&format!("signed with {key}, the given key"));
        assert!(code == 0 && proven && said.contains("lines 1 to 7 in 1 file, intact"), "{said}");
        assert_eq!(complaint, "");
    }
    // By the shell's pipes: what must not lie in a file need not.
    let piped = "exec \"$0\" audit verify --data-dir \"$1\" --key <(cat \"$1/public\") \
                 --head <(cat \"$1/audit/HEAD\")";
    let (code, said, complaint) = through_shell(piped, &data);
    assert!(code == 0 && said.contains("the given key"), "{code} {said} {complaint}");
    let piped = "exec \"$0\" audit key --audit-key <(cat \"$1/keys/audit.key\")";
    assert_eq!(through_shell(piped, &data), (0, format!("{key}\n"), String::new()));
    // A pipe with too much in it is not read to its end.
    let endless = "exec \"$0\" audit verify --data-dir \"$1\" --key <(exec cat /dev/zero)";
    let (code, _, complaint) = through_shell(endless, &data);
    assert!(code == 2 && complaint.contains("larger than 16384 bytes"), "{code} {complaint}");
    for nothing in ["no-such-key", "keys/audit.key"] {
        let given = data.join(nothing);
        let (code, _, complaint) = audit(&data, &["verify", "--key", given.to_str().unwrap()]);
        assert!(code == 2 && complaint.contains("nor an Ed25519 public key"), "{complaint}");
    }
}

/// Runs a line of bash, in which `$0` is `evenkeel` and `$1` the data folder.
fn through_shell(line: &str, data: &Path) -> (i32, String, String) {
    let mut shell = Command::new("bash");
    shell.args(["-c", line, env!("CARGO_BIN_EXE_evenkeel")]).arg(data).stdin(Stdio::null());
    told(shell.output().unwrap())
}

#[test]
fn a_record_that_was_rewritten_without_the_key_is_found_with_it() {
    let (data, forger) = (folder("forged"), folder("forger"));
    record(&data, 0, [1, 2, 3]);
    let (key, file) = (public_key(&data), data.join("audit/000001.jsonl"));
    let verify = |words: &[&str]| audit(&data, &[&["verify"], words].concat());

    // One line is edited in its place.
    let sound = fs::read_to_string(&file).unwrap();
    fs::write(&file, sound.replace("shop/api to 2", "shop/api to 9")).unwrap();
    for words in [&[][..], &["--key", &key]] {
        let (code, _, complaint) = verify(words);
        let place = format!("{}: 000001.jsonl line 4: ", data.join("audit").display());
        assert!(code == 1 && complaint.starts_with(&place), "{code} {complaint}");
    }

    // Everything is written anew, by somebody who has the program and another key.
    record(&forger, 0, [1, 9, 3]);
    fs::remove_dir_all(data.join("audit")).unwrap();
    fs::rename(forger.join("audit"), data.join("audit")).unwrap();
    let (code, said, _) = verify(&[]);
    assert!(code == 0 && said.contains("lines 1 to 7 in 1 file, intact"), "it hangs together");
    assert!(said.contains("A record that was rewritten as a whole is found with --key"), "{said}");
    let (code, said, complaint) = verify(&["--key", &key]);
    let problem = format!(
        "{}: 000001.jsonl line 1: from here it is signed with the key {}, not with {key}",
        data.join("audit").display(),
        public_key(&forger)
    );
    assert!(code == 1 && complaint.starts_with(&problem), "{code} {complaint}");
    assert_eq!(said, "");
}
