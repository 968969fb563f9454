//! Ordinary programs through a Service's port. Left out where they are not installed.

use std::fs;
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{DirBuilderExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use evenkeel_gateway::engine::Protocol;

use crate::tcp::Service;

const PATIENCE: Duration = Duration::from_mins(1);

/// A server process; it goes away when dropped, and its folder with it.
struct Server {
    process: Child,
    dir: PathBuf,
    address: SocketAddr,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        fs::remove_dir_all(&self.dir).unwrap();
    }
}

fn skip(program: &str) {
    let text = format!("skipped: {program} is not installed\n");
    std::io::stderr().write_all(text.as_bytes()).unwrap();
}

fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn folder(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("evenkeel-tcp-{name}-{}", std::process::id()));
    fs::DirBuilder::new().mode(0o755).create(&dir).unwrap();
    dir
}

/// Runs a command until it succeeds; what it says.
fn answer(command: &mut Command) -> String {
    let began = Instant::now();
    loop {
        let output = command.stdin(Stdio::null()).output().unwrap();
        if output.status.success() {
            return String::from_utf8(output.stdout).unwrap().trim().to_owned();
        }
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(began.elapsed() < PATIENCE, "{command:?}: {error}");
        std::thread::yield_now();
    }
}

fn redis() -> Option<Server> {
    let (dir, address) = (folder("redis"), free());
    let process = Command::new("redis-server")
        .args(["--bind", "127.0.0.1", "--port", &address.port().to_string()])
        .args(["--save", "", "--appendonly", "no", "--dir"])
        .arg(&dir)
        .stdout(Stdio::null())
        .spawn();
    if process.is_err() {
        fs::remove_dir_all(&dir).unwrap();
    }
    Some(Server { process: process.ok()?, dir, address })
}

#[test]
fn redis_answers_through_a_service() {
    let Some(server) = redis() else { return skip("redis-server") };
    let cli = |address: SocketAddr, words: &[&str]| {
        let port = address.port().to_string();
        answer(Command::new("redis-cli").args(["-e", "-h", "127.0.0.1", "-p", &port]).args(words))
    };
    assert_eq!(cli(server.address, &["ping"]), "PONG");
    for protocol in [Protocol::Detect, Protocol::Bytes] {
        let service = Service::start(protocol, &[server.address]);
        assert_eq!(cli(service.address, &["ping"]), "PONG");
        assert_eq!(cli(service.address, &["set", "a", "1"]), "OK");
        assert_eq!(cli(service.address, &["incrby", "a", "41"]), "42");
        let big = "x".repeat(1 << 16);
        assert_eq!(cli(service.address, &["set", "b", &big]), "OK");
        assert_eq!(cli(service.address, &["get", "b"]), big);
    }
}

/// The folder of the newest PostgreSQL's programs.
fn postgres_programs() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").ok()?;
    let number = |path: &PathBuf| path.file_name()?.to_str()?.parse::<u32>().ok();
    let newest = versions.filter_map(|entry| Some(entry.ok()?.path())).max_by_key(number)?;
    Some(newest.join("bin")).filter(|bin| bin.join("initdb").exists())
}

/// PostgreSQL refuses to run as root: then it runs as its own user, which the package makes.
fn postgres_user() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let id = |what: &str| answer(Command::new("id").args([what, "postgres"])).parse().unwrap();
    Some((id("-u"), id("-g")))
}

fn postgres(bin: &Path) -> Server {
    let (dir, address, user) = (folder("postgres"), free(), postgres_user());
    let data = dir.join("data");
    fs::create_dir(&data).unwrap();
    let program = |name: &str| {
        let path = bin.join(name);
        let Some((uid, gid)) = user else { return Command::new(path) };
        let mut command = Command::new("setpriv");
        command.args([format!("--reuid={uid}"), format!("--regid={gid}")]);
        command.arg("--clear-groups").arg(path);
        command
    };
    if let Some((uid, gid)) = user {
        chown(&dir, Some(uid), Some(gid)).unwrap();
        chown(&data, Some(uid), Some(gid)).unwrap();
    }
    let mut initdb = program("initdb");
    answer(initdb.args(["--auth=trust", "--no-sync", "--username=shop", "--pgdata"]).arg(&data));
    let process = program("postgres")
        .args(["-F", "-h", "127.0.0.1", "-p", &address.port().to_string(), "-D"])
        .arg(&data)
        .arg("-k")
        .arg(&dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    Server { process, dir, address }
}

#[test]
fn postgresql_answers_through_a_service() {
    let Some(bin) = postgres_programs() else { return skip("PostgreSQL") };
    let server = postgres(&bin);
    let service = Service::start(Protocol::Detect, &[server.address]);
    let port = service.address.port().to_string();
    // With the connection over Service and gateway, from the first question on.
    let mut ready = Command::new(bin.join("pg_isready"));
    answer(ready.args(["-h", "127.0.0.1", "-p", &port]));
    let sql = |text: &str| {
        let mut psql = Command::new(bin.join("psql"));
        psql.args(["-h", "127.0.0.1", "-p", &port, "-U", "shop", "-d", "postgres"]);
        answer(psql.args(["--no-psqlrc", "-At", "-v", "ON_ERROR_STOP=1", "-c", text]))
    };
    assert_eq!(sql("SELECT 6 * 7"), "42");
    let sum = "SELECT sum(length(repeat('x', 1000))) FROM generate_series(1, 1000)";
    assert_eq!(sql(sum), "1000000");
    assert_eq!(sql("SELECT repeat('y', 3000000)").len(), 3_000_000);
}
