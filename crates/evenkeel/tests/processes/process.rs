//! `evenkeel` as a process.

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use rustix::process::{Resource, Rlimit, prlimit};
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
        self.run_logging(name, lease, Some("trace"))
    }

    /// The same, with this level of logs, or with what is logged when nobody says otherwise.
    pub(crate) fn run_logging(&self, name: &str, lease: &str, level: Option<&str>) -> Run {
        let prometheus = format!("http://{}", self.prometheus.addr);
        let (mut command, folder) = self.command(name, &prometheus, lease);
        match level {
            Some(level) => command.env("EVENKEEL_LOG", level),
            None => command.env_remove("EVENKEEL_LOG"),
        };
        Self::started(command, folder)
    }

    /// The same, with its record in a database.
    pub(crate) fn run_recording(&self, name: &str, lease: &str, record: &str, key: &Path) -> Run {
        let prometheus = format!("http://{}", self.prometheus.addr);
        let (mut command, folder) = self.command(name, &prometheus, lease);
        command.args(["--record", record, "--audit-key"]).arg(key);
        Self::started(command, folder)
    }

    fn started(mut command: Command, folder: PathBuf) -> Run {
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

    /// What an `evenkeel run` says that does not start, because no file may get any content.
    pub(crate) fn starved_run(&self) -> String {
        let (command, _) = self.command("starved", "http://127.0.0.1:9", "15s");
        let mut starved = Command::new("sh");
        starved.args(["-c", "ulimit -f 0; exec \"$@\"", "sh"]).arg(command.get_program());
        starved.args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => starved.env(name, value),
                None => starved.env_remove(name),
            };
        }
        let ended = starved.env("EVENKEEL_LOG", "warn").output().unwrap();
        assert_eq!(ended.status.code(), Some(1), "{ended:?}");
        String::from_utf8(ended.stderr).unwrap()
    }

    /// What `evenkeel run` and `evenkeel why` say that have no cluster: with this kubeconfig, and
    /// this proxy in the environment.
    pub(crate) fn without_cluster(&self, name: &str, kubeconfig: &str, proxy: &str) -> [String; 2] {
        let folder = self.home.join(name);
        fs::create_dir_all(&folder).unwrap();
        let file = folder.join("kubeconfig");
        fs::write(&file, kubeconfig).unwrap();
        let (mut run, mut why) = (self.evenkeel(), self.evenkeel());
        run.args(["run", "--prometheus", "http://127.0.0.1:9", "--data-dir"]);
        run.arg(folder.join("data")).stderr(File::create(folder.join("stderr")).unwrap());
        why.args(["why", "canary/shop"]).stderr(File::create(folder.join("why")).unwrap());
        for command in [&mut run, &mut why] {
            command.env("HTTPS_PROXY", proxy).arg("--kubeconfig").arg(&file);
            assert!(!command.status().unwrap().success(), "{name}");
        }
        ["stderr", "why"].map(|said| fs::read_to_string(folder.join(said)).unwrap())
    }

    /// What `evenkeel audit` says about the record in a folder.
    pub(crate) fn audit(&self, data: &Path, words: &[&str]) -> String {
        let mut command = self.evenkeel();
        command.arg("audit").args(words).arg("--data-dir").arg(data);
        let answer = command.env("EVENKEEL_LOG", "warn").output().unwrap();
        assert!(answer.status.success(), "audit {words:?}: {answer:?}");
        String::from_utf8(answer.stdout).unwrap()
    }

    /// What `evenkeel why` says about a Canary, as `output`, and on stderr. It does not go through
    /// the line.
    pub(crate) fn why(&self, ns: &str, name: &str, output: &str) -> (String, String) {
        let (_, text, complaints) = self.ask_why(ns, name, output);
        (text, complaints)
    }

    /// The same with its exit code.
    pub(crate) fn why_code(&self, ns: &str, name: &str) -> (Option<i32>, String, String) {
        self.ask_why(ns, name, "table")
    }

    fn ask_why(&self, ns: &str, name: &str, output: &str) -> (Option<i32>, String, String) {
        let answer = self
            .evenkeel()
            .env("EVENKEEL_LOG", "warn")
            .args(["why", &format!("canary/{name}"), "-n", ns, "-o", output, "--kubeconfig"])
            .arg(self.home.join("direct.kubeconfig"))
            .output()
            .unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (answer.status.code(), text(answer.stdout), text(answer.stderr))
    }

    /// The last pass over a Canary, as `evenkeel why` has it.
    pub(crate) fn last_pass(&self, ns: &str, name: &str) -> Value {
        let (report, complaints) = self.why(ns, name, "json");
        let report: Value =
            serde_json::from_str(&report).unwrap_or_else(|_| panic!("{complaints}"));
        report["passes"][0].clone()
    }
}

/// What the process answers at a path that has said where it listens; `None` when it is gone.
pub(crate) fn ask(said: &str, path: &str) -> Option<String> {
    let url = said.lines().find_map(|line| line.strip_prefix("diagnostics: http://"))?;
    let mut stream = TcpStream::connect(url.split('/').next()?).ok()?;
    write!(stream, "GET /{path} HTTP/1.0\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

/// A process that is killed when dropped.
pub(crate) struct Run {
    child: Child,
    folder: PathBuf,
}

impl Run {
    /// Its data folder, with the record.
    pub(crate) fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
    }

    /// From now on it can write nothing to any file, or everything again.
    pub(crate) fn fill_disk(&self, full: bool) {
        let limit = Rlimit { current: full.then_some(0), maximum: None };
        prlimit(rustix::process::Pid::from_child(&self.child).into(), Resource::Fsize, limit)
            .unwrap();
    }

    fn stdout(&self) -> String {
        fs::read_to_string(self.folder.join("stdout")).unwrap()
    }

    /// What it has logged so far.
    pub(crate) fn stderr(&self) -> String {
        fs::read_to_string(self.folder.join("stderr")).unwrap()
    }

    /// What it answers at a path.
    pub(crate) fn answer(&self, path: &str) -> String {
        ask(&self.stdout(), path).unwrap()
    }

    /// Ends it in order; all that it has logged.
    pub(crate) fn end(mut self) -> String {
        self.signal(Signal::SIGTERM);
        assert!(self.child.wait().unwrap().success(), "{}", self.stderr());
        self.stderr()
    }

    /// What it says at `/metrics`; kept in a file too.
    pub(crate) fn metrics(&self) -> String {
        let answer = self.answer("metrics");
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
