use std::{
    fs,
    io::Write as _,
    net::TcpListener,
    os::unix::fs::{DirBuilderExt as _, chown},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Once,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use rustix::process::geteuid;

/// Of its only user; it may appear nowhere.
pub(crate) const PASSWORD: &str = "pl4nted-password";
const USER: &str = "evenkeel";
const PATIENCE: Duration = Duration::from_mins(2);
static SKIPPED: Once = Once::new();

/// A PostgreSQL server of its own; it and its files go away when dropped.
pub(crate) struct Database {
    pub(crate) dir: PathBuf,
    bin: PathBuf,
    port: u16,
    server: Option<Child>,
    options: Vec<String>,
}

/// The newest installed one.
fn installed() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").ok()?;
    let number = |path: &PathBuf| path.file_name()?.to_str()?.parse::<u32>().ok();
    let newest = versions.filter_map(|entry| Some(entry.ok()?.path())).max_by_key(number)?;
    let bin = newest.join("bin");
    bin.join("initdb").exists().then_some(bin)
}

/// PostgreSQL refuses to run as root: then it runs as its own user, which the package makes.
fn unprivileged() -> Option<(u32, u32)> {
    if !geteuid().is_root() {
        return None;
    }
    let id = |what: &str| {
        let output = Command::new("id").args([what, "postgres"]).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
    };
    Some((id("-u"), id("-g")))
}

fn program(path: &Path) -> Command {
    let Some((uid, gid)) = unprivileged() else { return Command::new(path) };
    let mut command = Command::new("setpriv");
    command.args([format!("--reuid={uid}"), format!("--regid={gid}")]);
    command.arg("--clear-groups").arg(path);
    command
}

impl Database {
    pub(crate) fn start(name: &str) -> Option<Self> {
        let mut database = Self::stopped(name)?;
        database.run();
        Some(database)
    }

    /// One that is ready to run, and does not answer until then.
    pub(crate) fn stopped(name: &str) -> Option<Self> {
        let Some(bin) = installed() else {
            SKIPPED.call_once(|| {
                let text = b"skipped: no PostgreSQL (Debian package postgresql)\n";
                std::io::stderr().write_all(text).unwrap();
            });
            return None;
        };
        // Not below the home folder, which its user may not enter.
        let dir = std::env::temp_dir().join(format!("evenkeel-pg-{name}-{}", std::process::id()));
        fs::DirBuilder::new().mode(0o755).create(&dir).unwrap();
        fs::create_dir(dir.join("data")).unwrap();
        fs::write(dir.join("password"), PASSWORD).unwrap();
        if let Some((uid, gid)) = unprivileged() {
            for path in [dir.clone(), dir.join("data"), dir.join("password")] {
                chown(path, Some(uid), Some(gid)).unwrap();
            }
        }
        let made = program(&bin.join("initdb"))
            .args(["--auth=scram-sha-256", "--no-sync", "--username", USER, "--pgdata"])
            .arg(dir.join("data"))
            .arg("--pwfile")
            .arg(dir.join("password"))
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        Some(Self { dir, bin, port, server: None, options: Vec::new() })
    }

    /// Starts the server, and waits until it answers.
    pub(crate) fn run(&mut self) {
        let log = fs::File::create(self.dir.join("log")).unwrap();
        let mut command = program(&self.bin.join("postgres"));
        command.arg("-D").arg(self.dir.join("data")).args(["-p", &self.port.to_string()]);
        command.args(["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]);
        command.arg("-c").arg(format!("unix_socket_directories={}", self.dir.display()));
        command.args(&self.options).stdin(Stdio::null()).stdout(log.try_clone().unwrap());
        self.server = Some(command.stderr(log).spawn().unwrap());
        let began = Instant::now();
        while !self.psql("SELECT 1") {
            let log = fs::read_to_string(self.dir.join("log")).unwrap();
            assert!(began.elapsed() < PATIENCE, "no answer: {log}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub(crate) fn address(&self) -> String {
        let port = self.port;
        format!("postgres://{USER}:{PASSWORD}@127.0.0.1:{port}/postgres?connect_timeout=5")
    }

    pub(crate) fn psql(&self, sql: &str) -> bool {
        let run = Command::new(self.bin.join("psql"))
            .args(["--no-psqlrc", "--quiet", "-v", "ON_ERROR_STOP=1", "-c", sql])
            .arg(self.address())
            .output()
            .unwrap();
        run.status.success()
    }

    pub(crate) fn sql(&self, sql: &str) {
        assert!(self.psql(sql), "{sql}");
    }

    /// The server and every process of it; the server's is the first.
    fn processes(&self) -> Vec<Pid> {
        let server = i32::try_from(self.server.as_ref().unwrap().id()).unwrap();
        let children = fs::read_to_string(format!("/proc/{server}/task/{server}/children"));
        let children = children.unwrap_or_default();
        let pids = children.split_whitespace().map(|pid| pid.parse().unwrap());
        std::iter::once(server).chain(pids).map(Pid::from_raw).collect()
    }

    /// Ends it as a crash of the machine would, but for the disk.
    pub(crate) fn crash(&mut self) {
        self.signal(Signal::SIGKILL);
        self.server.take().unwrap().wait().unwrap();
    }

    /// Stops it in the middle of what it does, or lets it go on.
    pub(crate) fn freeze(&self, frozen: bool) {
        self.signal(if frozen { Signal::SIGSTOP } else { Signal::SIGCONT });
    }

    fn signal(&self, signal: Signal) {
        for pid in self.processes() {
            // A child may have ended meanwhile.
            kill(pid, signal).unwrap_or_default();
        }
    }

    /// Serves TLS from now on; the file with the authority of its certificate.
    pub(crate) fn serve_tls(&mut self) -> String {
        let names = vec!["127.0.0.1".to_owned()];
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        let (certificate, key) = (self.dir.join("server.crt"), self.dir.join("server.key"));
        fs::write(&certificate, made.cert.pem()).unwrap();
        fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        fs::set_permissions(&key, mode).unwrap();
        if let Some((uid, gid)) = unprivileged() {
            chown(&key, Some(uid), Some(gid)).unwrap();
        }
        self.options = ["-c", "ssl=on", "-c"].map(str::to_owned).to_vec();
        self.options.push(format!("ssl_cert_file={}", certificate.display()));
        self.options.extend(["-c".to_owned(), format!("ssl_key_file={}", key.display())]);
        self.crash();
        self.run();
        certificate.display().to_string()
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        if self.server.is_some() {
            self.crash();
        }
        // What stays is in the folder for temporary files.
        fs::remove_dir_all(&self.dir).unwrap_or_default();
    }
}
