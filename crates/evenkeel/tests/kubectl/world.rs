//! The cluster under test, kubectl, and how outputs are compared.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    sync::{
        Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, channel},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// Longest wait for something that must happen.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long to wait for the addresses of this machine when another cluster has them.
const BUSY: Duration = Duration::from_mins(10);
const PAUSE: Duration = Duration::from_millis(100);

/// One cluster at a time: with several side by side, a machine of two cores is late for everything.
static TURN: Mutex<()> = Mutex::new(());

/// A folder that goes away with its owner. While there is one, no other test has one.
pub(crate) struct Folder(PathBuf, #[expect(dead_code, reason = "held")] MutexGuard<'static, ()>);

impl Folder {
    /// An empty one.
    pub(crate) fn new(name: &str) -> anyhow::Result<Self> {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let name = format!("evenkeel-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path)?;
        Ok(Self(path, turn))
    }

    /// A path in it.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Writes a file, with its folder; returns its path.
    pub(crate) fn write(&self, name: &str, text: &str) -> anyhow::Result<String> {
        let path = self.path(name);
        fs::create_dir_all(path.parent().context("no parent")?)?;
        fs::write(&path, text).with_context(|| path.display().to_string())?;
        Ok(path.display().to_string())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap_or_default();
    }
}

/// What a command wrote, and how it ended.
#[derive(Debug)]
pub(crate) struct Said {
    /// Standard output.
    pub(crate) out: String,
    /// Standard error.
    pub(crate) err: String,
    /// The exit code.
    pub(crate) code: Option<i32>,
}

fn run(command: &mut Command, input: &str) -> anyhow::Result<Said> {
    let name = command.get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("start {name}"))?;
    child.stdin.take().context("no stdin")?.write_all(input.as_bytes()).unwrap_or_default();
    let output = child.wait_with_output()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(Said { out: text(&output.stdout), err: text(&output.stderr), code: output.status.code() })
}

/// A cluster on loopback addresses of the machine, which one at a time has.
const HOST: [&str; 2] = ["--network", "host"];

/// The program under test.
const EVENKEEL: &str = env!("CARGO_BIN_EXE_evenkeel");

fn evenkeel_up(program: &Path, manifests: &Path, data: &Path) -> Command {
    let mut command = Command::new(program);
    command.arg("up").arg(manifests).arg("--data-dir").arg(data);
    command.env("NO_COLOR", "1");
    command
}

fn is_busy(errors: &str) -> bool {
    errors.contains("another embedded cluster runs")
}

/// Runs an `evenkeel up` that has to end by itself.
pub(crate) fn refused(folder: &Folder, manifests: &str, flags: &[&str]) -> anyhow::Result<Said> {
    let deadline = Instant::now() + BUSY;
    loop {
        let data = folder.path("refused");
        let mut command = evenkeel_up(EVENKEEL.as_ref(), &folder.path(manifests), &data);
        let said = run(command.args(HOST).args(flags), "")?;
        if !is_busy(&said.err) || Instant::now() > deadline {
            return Ok(said);
        }
        std::thread::sleep(PAUSE * 10);
    }
}

/// Runs an `evenkeel up` while a cluster runs.
pub(crate) fn refused_now(folder: &Folder, manifests: &str) -> anyhow::Result<Said> {
    let (manifests, data) = (folder.path(manifests), folder.path("refused"));
    run(evenkeel_up(EVENKEEL.as_ref(), &manifests, &data).args(HOST), "")
}

/// The kubectl to use; says what to install when there is none.
pub(crate) fn kubectl_program() -> anyhow::Result<String> {
    let program = std::env::var("KUBECTL").unwrap_or_else(|_| "kubectl".to_owned());
    let found = Command::new(&program).args(["version", "--client"]).output();
    let advice = || {
        format!("{program} does not run: install Debian's kubernetes-client, or set KUBECTL to one")
    };
    ensure!(found.with_context(advice)?.status.success(), advice());
    Ok(program)
}

/// A running `evenkeel up`; stopped when dropped.
pub(crate) struct Cluster {
    up: Child,
    lines: Receiver<String>,
    kubectl: String,
    kubeconfig: String,
    data: PathBuf,
    home: PathBuf,
    errors: PathBuf,
    program: PathBuf,
}

/// The body of a good answer.
pub(crate) fn get(address: &str, path: &str) -> anyhow::Result<String> {
    ask(address, &format!("GET /{path} HTTP/1.0\r\nHost: test\r\n\r\n"))
}

/// The body of a good answer to a request with a body.
pub(crate) fn post(address: &str, path: &str, body: &str) -> anyhow::Result<String> {
    let length = body.len();
    let head = format!("POST /{path} HTTP/1.0\r\nHost: test\r\nContent-Length: {length}\r\n\r\n");
    ask(address, &format!("{head}{body}"))
}

fn ask(address: &str, request: &str) -> anyhow::Result<String> {
    let mut client = std::net::TcpStream::connect(address)?;
    client.set_read_timeout(Some(PATIENCE))?;
    client.write_all(request.as_bytes())?;
    let mut answer = String::new();
    client.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no answer")?;
    ensure!(head.split(' ').nth(1).is_some_and(|code| code.starts_with('2')), "{answer}");
    Ok(body.to_owned())
}

/// Tries until it comes true.
pub(crate) fn soon(check: impl Fn() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match check() {
            Ok(()) => return Ok(()),
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => std::thread::sleep(PAUSE),
        }
    }
}

impl Cluster {
    /// Starts one on the host's network, when no other has this machine's addresses.
    pub(crate) fn start(folder: &Folder, kubectl: &str) -> anyhow::Result<Self> {
        Self::start_as(folder, kubectl, None, &HOST)
    }

    /// Starts one as another user, with flags.
    pub(crate) fn start_as(
        folder: &Folder,
        kubectl: &str,
        user: Option<u32>,
        flags: &[&str],
    ) -> anyhow::Result<Self> {
        let deadline = Instant::now() + BUSY;
        let (data, errors) = (folder.path("data"), folder.path("stderr"));
        let program = folder.path("evenkeel");
        if !program.exists() {
            // Where a link does not reach, a copy does.
            fs::hard_link(EVENKEEL, &program)
                .or_else(|_| fs::copy(EVENKEEL, &program).map(drop))?;
        }
        loop {
            let mut command = evenkeel_up(&program, &folder.path("manifests"), &data);
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(File::create(&errors)?);
            command.args(flags);
            if let Some(user) = user {
                std::os::unix::fs::chown(folder.path(""), Some(user), Some(user))?;
                command.uid(user).gid(user).env("HOME", folder.path("home"));
            }
            let mut up = command.spawn()?;
            let lines = lines_of(up.stdout.take().context("no stdout")?);
            let mut cluster = Self {
                up,
                lines,
                kubectl: kubectl.to_owned(),
                kubeconfig: String::new(),
                data: data.clone(),
                home: folder.path("home"),
                errors: errors.clone(),
                program: program.clone(),
            };
            match cluster.line("kubeconfig: ") {
                Ok(path) => {
                    cluster.kubeconfig = path;
                    return Ok(cluster);
                }
                Err(_) if is_busy(&cluster.complaints()?) && Instant::now() < deadline => {
                    drop(cluster);
                    std::thread::sleep(PAUSE * 10);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The rest of the next line of standard output, which has to start with `prefix`.
    pub(crate) fn line(&self, prefix: &str) -> anyhow::Result<String> {
        let line = self.lines.recv_timeout(PATIENCE * 2);
        let line = line.map_err(|_| self.complaints().unwrap_or_default());
        let line = line.map_err(|text| anyhow::anyhow!("no line {prefix:?}; stderr: {text}"))?;
        let rest = line.strip_prefix(prefix).with_context(|| format!("{prefix:?} wanted: {line}"));
        Ok(rest?.to_owned())
    }

    /// What `up` wrote on standard error so far.
    pub(crate) fn complaints(&self) -> anyhow::Result<String> {
        Ok(fs::read_to_string(&self.errors)?)
    }

    /// The process id of `up`.
    pub(crate) fn process(&self) -> u32 {
        self.up.id()
    }

    fn command(&self, words: &str) -> Command {
        let mut command = Command::new(&self.kubectl);
        command.args(words.split_whitespace());
        command.env("KUBECONFIG", &self.kubeconfig).env("HOME", &self.home);
        command
    }

    /// Runs kubectl.
    pub(crate) fn kubectl(&self, words: &str, input: &str) -> anyhow::Result<Said> {
        run(&mut self.command(words), input)
    }

    /// Runs kubectl with these words, which may have spaces in them.
    pub(crate) fn kubectl_words(&self, words: &[&str]) -> anyhow::Result<Said> {
        run(self.command("").args(words), "")
    }

    /// Runs kubectl: it has to write `wanted` on standard output, nothing on standard error, and
    /// end with 0. See [`differs`] for how they are compared.
    pub(crate) fn says(&self, words: &str, wanted: &str) -> anyhow::Result<()> {
        self.applies(words, "", wanted)
    }

    /// As [`Cluster::says`], with standard input.
    pub(crate) fn applies(&self, words: &str, input: &str, wanted: &str) -> anyhow::Result<()> {
        let said = self.kubectl(words, input)?;
        ensure!(said.code == Some(0) && said.err.is_empty(), "kubectl {words}: {said:?}");
        match differs(&said.out, wanted) {
            None => Ok(()),
            Some(place) => bail!("kubectl {words}: {place}\n{}", said.out),
        }
    }

    /// Runs kubectl: among what it writes on standard output there have to be these lines, in this
    /// order.
    pub(crate) fn mentions(&self, words: &str, wanted: &str) -> anyhow::Result<()> {
        let said = self.kubectl(words, "")?;
        ensure!(said.code == Some(0) && said.err.is_empty(), "kubectl {words}: {said:?}");
        let mut lines = said.out.lines();
        for line in wanted.lines().filter(|line| !line.trim().is_empty()) {
            let found = lines.any(|have| like(have, line));
            ensure!(found, "kubectl {words}: no line {line:?}, or not there, in\n{}", said.out);
        }
        Ok(())
    }

    /// Runs kubectl: it has to end with 1 and these lines on standard error.
    pub(crate) fn refuses(&self, words: &str, input: &str, wanted: &str) -> anyhow::Result<()> {
        let said = self.kubectl(words, input)?;
        ensure!(said.code == Some(1) && said.out.is_empty(), "kubectl {words}: {said:?}");
        match differs(&said.err, wanted) {
            None => Ok(()),
            Some(place) => bail!("kubectl {words}: {place}\n{}", said.err),
        }
    }

    /// Starts a `kubectl get --watch`.
    pub(crate) fn watch(&self, words: &str) -> anyhow::Result<Watch> {
        let mut command = self.command(words);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let lines = lines_of(child.stdout.take().context("no stdout")?);
        Ok(Watch { child, lines })
    }

    /// Removes the program's file, as an update does that puts another one there.
    pub(crate) fn replace_program(&self) -> anyhow::Result<()> {
        fs::remove_file(&self.program).context("remove the program")
    }

    /// The process ids of the node agents.
    pub(crate) fn agents(&self) -> Vec<u32> {
        let ours = descendants(self.up.id()).into_iter();
        ours.filter(|process| process.role() == "agent").map(|process| process.id).collect()
    }

    /// Kills a node agent; returns its process id.
    pub(crate) fn kill_an_agent(&self) -> anyhow::Result<u32> {
        let agent = self.agents().into_iter().next().context("no agent")?;
        kill(Pid::from_raw(i32::try_from(agent)?), Signal::SIGKILL)?;
        Ok(agent)
    }

    /// Kills `up`: all that it has started has to go by itself, but for what runs in pods, which the
    /// next one takes over.
    pub(crate) fn kill(mut self) -> anyhow::Result<()> {
        let ours = descendants(self.up.id());
        self.up.kill()?;
        self.up.wait()?;
        soon(|| {
            let left = processes().into_iter();
            let left = left.filter(|process| ours.iter().any(|own| own.is(process)));
            let left = left.filter(|process| matches!(&*process.role(), "up" | "agent"));
            let left = left.map(|process| process.line).collect::<Vec<_>>();
            ensure!(left.is_empty(), "left running: {left:#?}");
            Ok(())
        })
    }

    /// Stops `up` and returns the command lines of its processes that are left. All of them are
    /// this program.
    pub(crate) fn stop(self) -> anyhow::Result<Vec<String>> {
        let ours = descendants(self.up.id());
        let roles = ours.iter().map(Process::role).collect::<Vec<_>>();
        for role in ["up", "agent", "shim", "workload"] {
            ensure!(roles.iter().any(|have| have == role), "no {role} among {roles:?}");
        }
        for process in &ours {
            ensure!(process.name == "evenkeel", "{process:?} has no name that says what it is");
        }
        self.end()
    }

    /// Stops `up` and returns the command lines of its processes that are left.
    pub(crate) fn end(mut self) -> anyhow::Result<Vec<String>> {
        let ours = descendants(self.up.id());
        kill(Pid::from_raw(i32::try_from(self.up.id())?), Signal::SIGTERM)?;
        let ended = self.up.wait()?;
        ensure!(ended.success(), "up ended with {ended}: {}", self.complaints()?);
        let data = self.data.display().to_string();
        let left = processes().into_iter();
        let left = left.filter(|process| {
            ours.iter().any(|own| own.is(process)) || process.line.contains(&data)
        });
        Ok(left.map(|process| process.line).collect())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let (Ok(None), Ok(pid)) = (self.up.try_wait(), i32::try_from(self.up.id())) {
            kill(Pid::from_raw(pid), Signal::SIGTERM).unwrap_or_default();
            self.up.wait().map(drop).unwrap_or_default();
        }
    }
}

/// A running `kubectl get --watch`.
pub(crate) struct Watch {
    child: Child,
    lines: Receiver<String>,
}

impl Watch {
    /// Waits for such a line; lines before it are skipped.
    pub(crate) fn sees(&self, wanted: &str) -> anyhow::Result<()> {
        let mut seen = Vec::new();
        while let Ok(line) = self.lines.recv_timeout(PATIENCE) {
            if like(&line, wanted) {
                return Ok(());
            }
            seen.push(line);
        }
        bail!("the watch shows no line {wanted:?} but {seen:#?}")
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.child.kill().unwrap_or_default();
        self.child.wait().map(drop).unwrap_or_default();
    }
}

fn lines_of(stream: ChildStdout) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    receiver
}

/// Where two texts differ, line by line; empty lines do not count.
fn differs(have: &str, wanted: &str) -> Option<String> {
    let filled = |text: &str| {
        let lines = text.lines().filter(|line| !line.trim().is_empty());
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let (have, wanted) = (filled(have), filled(wanted));
    for (have, wanted) in have.iter().zip(&wanted) {
        if !like(have, wanted) {
            return Some(format!("line {have:?} instead of {wanted:?}"));
        }
    }
    (have.len() != wanted.len())
        .then(|| format!("{} lines instead of {}", have.len(), wanted.len()))
}

/// Whether a line is as wanted: word by word, `*` in a word stands for any text, even none, and `*`
/// as a word for one or more words.
fn like(have: &str, wanted: &str) -> bool {
    let have: Vec<&str> = have.split_whitespace().collect();
    let wanted: Vec<&str> = wanted.split_whitespace().collect();
    words_fit(&have, &wanted)
}

fn words_fit(have: &[&str], wanted: &[&str]) -> bool {
    match (have.split_first(), wanted.split_first()) {
        (None, None) => true,
        (Some((word, have)), Some((form, rest))) => {
            fits(word, form) && (words_fit(have, rest) || *form == "*" && words_fit(have, wanted))
        }
        _ => false,
    }
}

fn fits(word: &str, form: &str) -> bool {
    match form.split_once('*') {
        None => word == form,
        Some((start, rest)) => word.strip_prefix(start).is_some_and(|tail| {
            tail.char_indices()
                .map(|(at, _)| at)
                .chain([tail.len()])
                .any(|at| tail.split_at_checked(at).is_some_and(|(_, tail)| fits(tail, rest)))
        }),
    }
}

/// A process, distinguished from a later one with its number by when it started.
#[derive(Debug, Clone)]
struct Process {
    id: u32,
    parent: u32,
    name: String,
    started: String,
    line: String,
}

impl Process {
    fn is(&self, other: &Self) -> bool {
        (self.id, &self.started) == (other.id, &other.started)
    }

    /// The first argument: `up`, `agent`, ...
    fn role(&self) -> String {
        self.line.split(' ').nth(1).unwrap_or_default().to_owned()
    }
}

fn processes() -> Vec<Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| process(&entry.path())).collect()
}

/// `None` if there is no such process, and for one that has ended and only waits for its parent.
fn process(dir: &Path) -> Option<Process> {
    let id = dir.file_name()?.to_str()?.parse().ok()?;
    let stat = fs::read_to_string(dir.join("stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    if matches!(*fields.first()?, "Z" | "X") {
        return None;
    }
    let name = stat.split_once('(')?.1.rsplit_once(')')?.0.to_owned();
    let line = fs::read(dir.join("cmdline")).ok()?;
    let line = String::from_utf8_lossy(&line).replace('\0', " ");
    Some(Process {
        id,
        parent: fields.get(1)?.parse().ok()?,
        name,
        started: (*fields.get(19)?).into(),
        line,
    })
}

fn descendants(root: u32) -> Vec<Process> {
    let all = processes();
    let mut found: Vec<Process> =
        all.iter().filter(|process| process.id == root).cloned().collect();
    let mut next = 0;
    while let Some(parent) = found.get(next).map(|process| process.id) {
        found.extend(all.iter().filter(|process| process.parent == parent).cloned());
        next += 1;
    }
    found
}
