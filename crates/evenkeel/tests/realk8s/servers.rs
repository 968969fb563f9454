//! The programs of a control plane, killed and started again, others in their place, and its history,
//! forgotten.

use std::{
    fs::OpenOptions,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    process::{Command, Stdio},
    time::Instant,
};

use nix::sys::signal::{Signal, kill};
use serde_json::{Value, json};

use crate::{
    PATIENCE, PAUSE,
    bed::{Bed, folder, pid},
    process::port_of,
    until,
};

/// An API server that was killed; it is started again at the end, whatever happens.
pub(crate) struct Killed<'a> {
    bed: &'a Bed,
    words: Vec<String>,
    is_up: bool,
}

impl<'a> Killed<'a> {
    pub(crate) fn server_of(bed: &'a Bed) -> Self {
        let killed = Self { bed, words: words(bed), is_up: false };
        assert!(stop(bed, Signal::SIGKILL), "the API server is gone");
        killed
    }

    pub(crate) fn start_again(mut self) {
        self.is_up = true;
        start(self.bed, &self.words);
        until("the API server is ready", || is_ready(self.bed));
    }
}

impl Drop for Killed<'_> {
    fn drop(&mut self) {
        if !self.is_up {
            start(self.bed, &self.words);
        }
    }
}

/// Another API server in the place of a bed's own, which comes back at the end.
pub(crate) struct Replaced<'a> {
    bed: &'a Bed,
    own: Vec<String>,
}

impl<'a> Replaced<'a> {
    /// Ends the one that runs as an upgrade does, and starts one with its words so changed.
    pub(crate) fn with(bed: &'a Bed, change: impl FnOnce(&mut Vec<String>)) -> Self {
        let own = words(bed);
        let replaced = Self { bed, own: own.clone() };
        let mut words = own;
        change(&mut words);
        assert!(stop(bed, Signal::SIGTERM), "the API server ends");
        start(bed, &words);
        until("the other API server is ready", || is_ready(bed));
        replaced
    }
}

impl Drop for Replaced<'_> {
    fn drop(&mut self) {
        let is_stopped = stop(self.bed, Signal::SIGKILL);
        start(self.bed, &self.own);
        let is_back = is_stopped && wait(|| is_ready(self.bed));
        assert!(is_back || std::thread::panicking(), "the API server does not come back");
    }
}

fn is_ready(bed: &Bed) -> bool {
    bed.runtime.block_on(bed.store.is_ready())
}

/// As [`until`], for what must not panic.
fn wait(mut check: impl FnMut() -> bool) -> bool {
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        if check() {
            return true;
        }
        std::thread::sleep(PAUSE);
    }
    false
}

/// The words that started a bed's API server.
fn words(bed: &Bed) -> Vec<String> {
    let words = std::fs::read_to_string(format!("/proc/{}/cmdline", bed.pid("apiserver"))).unwrap();
    words.split('\0').filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// Ends a bed's API server; whether it has gone, and its port is free for the next one.
fn stop(bed: &Bed, signal: Signal) -> bool {
    let pid = bed.pid("apiserver");
    let port = port_of(&std::fs::read_to_string(bed.file("kubeconfig")).unwrap());
    // It may have ended by itself.
    kill(pid, signal).unwrap_or_default();
    wait(|| {
        let words = std::fs::read_to_string(format!("/proc/{pid}/cmdline"));
        words.is_ok_and(|words| words.is_empty()) || kill(pid, None).is_err()
    }) && wait(|| TcpListener::bind(("127.0.0.1", port)).is_ok())
}

fn start(bed: &Bed, words: &[String]) {
    let name = format!("{}-apiserver", bed.name);
    let log = folder().join("log").join(format!("{name}.log"));
    let log = OpenOptions::new().append(true).open(log).unwrap();
    // In a session of its own, as `tests/realk8s/up` starts it: `down` ends it.
    let mut child = Command::new("setsid")
        .args(words)
        .current_dir(folder())
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap();
    let pid = child.id().to_string();
    std::fs::write(folder().join("run").join(format!("{name}.pid")), pid).unwrap();
    std::thread::spawn(move || child.wait());
}

/// Makes etcd forget all that was before now. It is the etcd of all beds: whoever has heard of
/// everything since does not notice.
pub(crate) fn compact() {
    let etcd = etcd();
    let found = post(&etcd, "/v3/kv/range", &json!({"key": "AA=="}));
    let revision = found.pointer("/header/revision").unwrap().clone();
    post(&etcd, "/v3/kv/compaction", &json!({"revision": revision}));
}

/// Where etcd answers.
fn etcd() -> String {
    let words = std::fs::read_to_string(format!("/proc/{}/cmdline", pid("etcd").unwrap())).unwrap();
    let mut words = words.split('\0').skip_while(|word| *word != "--advertise-client-urls");
    words.nth(1).unwrap().trim_start_matches("http://").to_owned()
}

fn post(server: &str, path: &str, body: &Value) -> Value {
    let (mut stream, body) = (TcpStream::connect(server).unwrap(), body.to_string());
    let head = format!(
        "POST {path} HTTP/1.0\r\nHost: {server}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.contains(" 200 "), "{answer}");
    serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
}
