use std::{
    fs::File,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    bed::{Bed, folder},
    soon, until,
};

/// Users that the API server knows besides its own programs, as `tests/realk8s/up` makes them.
const USERS: u32 = 40;
static USER: AtomicU32 = AtomicU32::new(0);

/// `evenkeel run` as a process with a user of its own; killed when dropped.
pub(crate) struct Evenkeel {
    child: Child,
    /// As the audit log names it.
    pub(crate) user: String,
    log: PathBuf,
    diagnostics: String,
}

/// How it is started.
pub(crate) struct Start<'a> {
    /// Port on 127.0.0.1 that takes the server's place.
    pub(crate) through: Option<u16>,
    pub(crate) prometheus: &'a str,
    /// A leader may be silent for this long.
    pub(crate) lease: &'a str,
    /// Another user than one of its own: as the audit log names it, and its kubeconfig entry.
    pub(crate) login: Option<(&'a str, &'a str)>,
    /// Which objects it acts on.
    pub(crate) manage: &'a str,
    pub(crate) environment: &'a [(&'a str, &'a str)],
    /// Further flags.
    pub(crate) flags: &'a [&'a str],
}

impl<'a> Start<'a> {
    pub(crate) fn with(prometheus: &'a str) -> Self {
        Self {
            through: None,
            prometheus,
            lease: "15s",
            login: None,
            manage: "auto",
            environment: &[],
            flags: &[],
        }
    }
}

impl Evenkeel {
    pub(crate) fn start(bed: &Bed, start: &Start<'_>) -> Self {
        let number = USER.fetch_add(1, Ordering::Relaxed) + 1;
        assert!(number <= USERS, "tests/realk8s/up makes too few users");
        let own = format!("client-{number}");
        let token = format!("{{token: token-of-{own}}}");
        let (user, login) = start.login.unwrap_or((&own, &token));
        let kubeconfig = std::fs::read_to_string(bed.file("kubeconfig")).unwrap();
        let mut kubeconfig = kubeconfig.replace("{token: token-of-admin}", login);
        if let Some(port) = start.through {
            kubeconfig =
                kubeconfig.replace(&format!(":{}", port_of(&kubeconfig)), &format!(":{port}"));
        }
        let home = folder().join(&own);
        if home.exists() {
            std::fs::remove_dir_all(&home).unwrap();
        }
        std::fs::create_dir_all(&home).unwrap();
        std::fs::write(home.join("kubeconfig"), kubeconfig).unwrap();
        let log = home.join("log");
        let output = File::create(&log).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_evenkeel"))
            .env("HOME", &home)
            .env_remove("KUBECONFIG")
            .env("NO_COLOR", "1")
            .envs(start.environment.iter().copied())
            .args(["run", "--kubeconfig"])
            .arg(home.join("kubeconfig"))
            .args(["--prometheus", start.prometheus, "--lease-duration", start.lease])
            .args(["--manage", start.manage])
            .arg("--data-dir")
            .arg(home.join("data"))
            .args(start.flags)
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap();
        let user = user.to_owned();
        let mut run = Self { child, user, log, diagnostics: String::new() };
        let (address, _) = soon("evenkeel run starts", || {
            let text = run.log();
            assert!(run.child.try_wait().unwrap().is_none(), "it ended: {text}");
            let address = text.lines().find_map(|line| line.strip_prefix("diagnostics: http://"));
            let address = address?.split('/').next()?.to_owned();
            text.contains("controllers: running").then_some(address)
        });
        run.diagnostics = address;
        run
    }

    /// All that it has printed.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap())
    }

    /// Kills it as a crash would.
    pub(crate) fn crash(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Tells it to stop, and waits until it has.
    pub(crate) fn stop(&mut self) {
        kill(self.pid(), Signal::SIGTERM).unwrap();
        until("it has stopped", || self.child.try_wait().unwrap().is_some());
    }

    /// A counter or gauge of its `/metrics`, summed over its labels.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let mut stream = TcpStream::connect(&self.diagnostics).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let values = text.lines().filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            let is_it = rest.starts_with('{') || rest.starts_with(' ');
            is_it.then(|| line.rsplit(' ').next()?.parse::<f64>().ok()).flatten()
        });
        values.sum()
    }

    /// Seconds of processor time so far.
    pub(crate) fn cpu_seconds(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let after = stat.rsplit(')').next().unwrap();
        let fields: Vec<&str> = after.split_whitespace().collect();
        let ticks: f64 = [11, 12].iter().map(|at| fields[*at].parse::<f64>().unwrap()).sum();
        ticks / 100.0
    }
}

/// What `evenkeel why` says of an object.
pub(crate) fn why(bed: &Bed, object: &str, namespace: &str) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_evenkeel"))
        .env("NO_COLOR", "1")
        .args(["why", object, "--namespace", namespace, "--lease-namespace", "default"])
        .arg("--kubeconfig")
        .arg(bed.file("kubeconfig"))
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

impl Drop for Evenkeel {
    fn drop(&mut self) {
        // It may have ended before.
        self.child.kill().unwrap_or_default();
        self.child.wait().unwrap();
    }
}

/// The port of the server in a kubeconfig.
pub(crate) fn port_of(kubeconfig: &str) -> u16 {
    let (_, after) = kubeconfig.split_once("https://127.0.0.1:").unwrap();
    after.split('"').next().unwrap().parse().unwrap()
}
