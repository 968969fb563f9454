//! The programs of a control plane, killed and started again, and its history, forgotten.

use std::{
    fs::OpenOptions,
    io::{Read as _, Write as _},
    net::TcpStream,
    process::{Command, Stdio},
};

use nix::sys::signal::{Signal, kill};
use serde_json::{Value, json};

use crate::{
    bed::{Bed, folder},
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
        let pid = bed.pid("apiserver");
        let words = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
        let words = words.split('\0').filter(|word| !word.is_empty()).map(str::to_owned);
        let killed = Self { bed, words: words.collect(), is_up: false };
        kill(pid, Signal::SIGKILL).unwrap();
        until("the API server is gone", || {
            let words = std::fs::read_to_string(format!("/proc/{pid}/cmdline"));
            words.is_ok_and(|words| words.is_empty()) || kill(pid, None).is_err()
        });
        killed
    }

    pub(crate) fn start_again(mut self) {
        self.start();
        let ready = || self.bed.runtime.block_on(self.bed.store.is_ready());
        until("the API server is ready", ready);
    }

    fn start(&mut self) {
        if std::mem::replace(&mut self.is_up, true) {
            return;
        }
        let name = format!("{}-apiserver", self.bed.name);
        let log = folder().join("log").join(format!("{name}.log"));
        let log = OpenOptions::new().append(true).open(log).unwrap();
        // In a session of its own, as `tests/realk8s/up` starts it: `down` ends it.
        let mut child = Command::new("setsid")
            .args(&self.words)
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

    /// Where etcd answers.
    fn etcd(&self) -> String {
        let at = self.words.iter().position(|word| word == "--etcd-servers").unwrap();
        self.words[at + 1].trim_start_matches("http://").to_owned()
    }

    /// Makes etcd forget all that was before now.
    pub(crate) fn compact(&self) {
        let etcd = self.etcd();
        let found = post(&etcd, "/v3/kv/range", &json!({"key": "AA=="}));
        let revision = found.pointer("/header/revision").unwrap().clone();
        post(&etcd, "/v3/kv/compaction", &json!({"revision": revision}));
    }
}

impl Drop for Killed<'_> {
    fn drop(&mut self) {
        self.start();
    }
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
