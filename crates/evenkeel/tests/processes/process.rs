//! `evenkeel` as a process.

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    net::TcpStream,
    path::PathBuf,
    process::{Child, Command},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use crate::cluster::{Cluster, soon};

impl Cluster {
    fn evenkeel(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_evenkeel"));
        command.env("HOME", &self.home).env_remove("KUBECONFIG").env("NO_COLOR", "1");
        // As much as anybody may ever switch on.
        command.env("EVENKEEL_LOG", "trace");
        command
    }

    /// The command of an `evenkeel run`, and the folder for its output and data.
    fn command(&self, name: &str, prometheus: &str, lease: &str) -> (Command, PathBuf) {
        let folder = self.home.join(name);
        fs::create_dir_all(&folder).unwrap();
        let output = |file: &str| File::create(folder.join(file)).unwrap();
        let mut command = self.evenkeel();
        command
            .args(["run", "--prometheus", prometheus, "--lease-duration", lease, "--kubeconfig"])
            .arg(self.home.join("kubeconfig"))
            .arg("--data-dir")
            .arg(folder.join("data"))
            .stdout(output("stdout"))
            .stderr(output("stderr"));
        (command, folder)
    }

    /// An `evenkeel run` that may be replaced when it has not renewed its Leases for this long.
    pub(crate) fn run(&self, name: &str, lease: &str) -> Run {
        let prometheus = format!("http://{}", self.prometheus.addr);
        let (mut command, folder) = self.command(name, &prometheus, lease);
        let run = Run { child: command.spawn().unwrap(), folder };
        soon(|| run.stdout().lines().any(|line| line == "controllers: running"));
        run
    }

    /// What an `evenkeel run` says that does not start.
    pub(crate) fn refused_run(&self, prometheus: &str) -> String {
        let (mut command, folder) = self.command("refused", prometheus, "15s");
        assert!(!command.status().unwrap().success());
        fs::read_to_string(folder.join("stderr")).unwrap()
    }

    /// What `evenkeel why` says about a Canary, as `output`, and on stderr. It does not go through
    /// the line.
    pub(crate) fn why(&self, ns: &str, name: &str, output: &str) -> (String, String) {
        let answer = self
            .evenkeel()
            .env("EVENKEEL_LOG", "warn")
            .args(["why", &format!("canary/{name}"), "-n", ns, "-o", output, "--kubeconfig"])
            .arg(self.home.join("direct.kubeconfig"))
            .output()
            .unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (text(answer.stdout), text(answer.stderr))
    }

    /// The last pass over a Canary, as `evenkeel why` has it.
    pub(crate) fn last_pass(&self, ns: &str, name: &str) -> Value {
        let (report, complaints) = self.why(ns, name, "json");
        let report: Value =
            serde_json::from_str(&report).unwrap_or_else(|_| panic!("{complaints}"));
        report["passes"][0].clone()
    }
}

/// A process that is killed when dropped.
pub(crate) struct Run {
    child: Child,
    folder: PathBuf,
}

impl Run {
    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
    }

    fn stdout(&self) -> String {
        fs::read_to_string(self.folder.join("stdout")).unwrap()
    }

    /// What it has logged so far.
    pub(crate) fn stderr(&self) -> String {
        fs::read_to_string(self.folder.join("stderr")).unwrap()
    }

    /// What it says at `/metrics`; kept in a file too.
    pub(crate) fn metrics(&self) -> String {
        let said = self.stdout();
        let url = said.lines().find_map(|line| line.strip_prefix("diagnostics: http://"));
        let (address, path) = url.unwrap().split_once('/').unwrap();
        let mut stream = TcpStream::connect(address).unwrap();
        write!(stream, "GET /{path} HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        fs::write(self.folder.join("metrics"), &answer).unwrap();
        answer
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // It may have ended before.
        self.child.kill().unwrap_or_default();
        self.child.wait().unwrap();
    }
}
