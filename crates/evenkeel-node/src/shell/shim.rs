//! The process between the agent and a container: small, patient, without a runtime.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::process::{CommandExt as _, ExitStatusExt as _},
    },
    path::Path,
    process::{Child, Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{OFlags, fcntl_getfl, fcntl_setfl},
    io::Errno,
    process::{
        Pid, PidfdFlags, Signal, WaitOptions, kill_process, kill_process_group, pidfd_open,
        set_child_subreaper, setsid, waitpid,
    },
};

use super::{
    enter,
    files::{ExitFile, SpecFile, StateFile, read_json, write_json},
    identity::Identity,
    logfile::{LogFile, Stream},
};

/// Bytes read from a container at once.
const READ_BYTES: usize = 16 * 1024;
/// How often orphans of the container are reaped even if it prints nothing.
const REAP_S: i64 = 60;
/// What a shim starts in place of a program that has namespaces of its own.
pub(super) const ENTER: &str = "--enter";
/// What runs a command beside such a program.
pub(super) const BESIDE: &str = "--beside";
/// Longest explanation of why a program did not start.
const WHY_BYTES: u64 = 4096;
/// Rounds of killing what the program leaves behind; each kills every child that is left.
const SWEEPS_MAX: u32 = 100;

/// The hidden subcommand: `shim DIR` runs what `DIR/spec.json` says and stays until it has ended;
/// the first line on stdout is `ok`, or why not. `shim --pause` waits for a signal. `shim --enter
/// DIR` is what a shim starts for a container with namespaces, `shim --beside DIR COMMAND` what an
/// agent starts to run a command in one.
pub fn shim_main(mut args: impl Iterator<Item = String>) -> ExitCode {
    match args.next().as_deref() {
        Some("--pause") => loop {
            std::thread::park();
        },
        Some(ENTER) => match args.next() {
            Some(dir) => enter::become_program(Path::new(&dir)),
            None => ExitCode::from(2),
        },
        Some(BESIDE) => match args.next() {
            Some(dir) => enter::become_neighbour(Path::new(&dir), &args.collect::<Vec<_>>()),
            None => ExitCode::from(2),
        },
        Some(dir) => match run(Path::new(dir)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                say(&error.to_string());
                ExitCode::FAILURE
            }
        },
        None => ExitCode::from(2),
    }
}

/// Reports to the agent. It may be gone: then the line is lost.
fn say(line: &str) {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{}", line.replace('\n', " ")).and_then(|()| stdout.flush()).unwrap_or(());
}

fn run(dir: &Path) -> io::Result<()> {
    // A terminal's Ctrl-C and a dying agent's group must not reach us.
    setsid()?;
    set_child_subreaper(Some(rustix::process::getpid()))?;
    let spec: SpecFile = read_json(&dir.join("spec.json"))
        .ok_or_else(|| io::Error::other("spec.json cannot be read"))?;
    let log = dir.join("output.log");
    let log = LogFile::open(&log, spec.log_bytes_max, spec.log_files_max)?;
    let is_elsewhere = spec.sandbox.is_some() || spec.user.is_some();
    let mut child = if is_elsewhere { start_inside(dir)? } else { start(&spec)? };
    drop(spec);
    let result = supervise(dir, &mut child, log);
    if result.is_err() {
        // Without records it must not run.
        ignore(child.kill().and_then(|()| child.wait()));
    }
    result
}

fn start(spec: &SpecFile) -> io::Result<Child> {
    let mut command = Command::new(&spec.program);
    if let Some(name) = &spec.name {
        command.arg0(name);
    }
    command
        .args(&spec.args)
        .env_clear()
        .envs(&spec.env)
        .current_dir(&spec.cwd)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .map_err(|error| io::Error::other(format!("{}: {error}", spec.program.display())))
}

/// Starts our own executable, which moves into the container and becomes its program.
fn start_inside(dir: &Path) -> io::Result<Child> {
    let (report, reporter) = enter::report_pipe()?;
    let mut child = Command::new("/proc/self/exe")
        .arg0("evenkeel")
        .args(["shim", ENTER])
        .arg(dir)
        .env_clear()
        .stdin(reporter)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()?;
    // Before it can become the program: nobody would know of it if we ended now.
    note(dir, &child)?;
    let mut why = String::new();
    File::from(report).take(WHY_BYTES).read_to_string(&mut why)?;
    if why.is_empty() {
        return Ok(child);
    }
    child.wait()?;
    std::fs::remove_file(dir.join("state.json"))?;
    Err(io::Error::other(why))
}

/// Notes which processes these are.
fn note(dir: &Path, child: &Child) -> io::Result<()> {
    let gone = || io::Error::other("the process vanished at once");
    let state = StateFile {
        shim: Identity::own().ok_or_else(gone)?,
        // A zombie still has its start time, so even a program that ended at once has one.
        main: Identity::of(Pid::from_child(child).as_raw_nonzero().get()).ok_or_else(gone)?,
        at: Timestamp::now(),
    };
    write_json(&dir.join("state.json"), &state)
}

fn supervise(dir: &Path, child: &mut Child, log: LogFile) -> io::Result<()> {
    let pid = Pid::from_child(child);
    note(dir, child)?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    let mut pump = Pump::new(child, log)?;
    say("ok");
    pump.until_end(&pidfd, pid);
    // Before it is waited for, its pid and its group cannot be reused.
    ignore(kill_process_group(pid, Signal::KILL));
    let status = child.wait()?;
    sweep();
    pump.finish();
    let killed = status.signal().map(|signal| 128 + signal);
    let code = status.code().or(killed).unwrap_or(255);
    write_json(&dir.join("exit.json"), &ExitFile { code, at: Timestamp::now() })
}

/// Kills and reaps what the program has left behind.
fn sweep() {
    for _ in 0..SWEEPS_MAX {
        let left = children();
        if left.is_empty() {
            return;
        }
        for pid in left {
            // Our own child, not yet waited for: the pid is still its own.
            ignore(kill_process(pid, Signal::KILL));
            ignore(waitpid(Some(pid), WaitOptions::empty()));
        }
    }
}

/// Waits for processes that the container has orphaned, as pid 1 of a container would.
fn reap_orphans(main: Pid) {
    for pid in children().into_iter().filter(|pid| *pid != main) {
        ignore(waitpid(Some(pid), WaitOptions::NOHANG));
    }
}

/// Children of this process, adopted ones included. It has one thread.
fn children() -> Vec<Pid> {
    let own = std::process::id();
    let list = std::fs::read_to_string(format!("/proc/self/task/{own}/children"));
    let pids = list.unwrap_or_default();
    pids.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect()
}

/// For calls whose failure means that there was nothing left to do.
fn ignore<T, E>(_: Result<T, E>) {}

/// Carries output into the log.
struct Pump {
    log: LogFile,
    sources: Vec<(OwnedFd, Stream, bool)>,
    buffer: Vec<u8>,
}

impl Pump {
    fn new(child: &mut Child, log: LogFile) -> io::Result<Self> {
        let stdout = child.stdout.take().map(|pipe| (OwnedFd::from(pipe), Stream::new("stdout")));
        let stderr = child.stderr.take().map(|pipe| (OwnedFd::from(pipe), Stream::new("stderr")));
        let mut sources = Vec::new();
        for (fd, stream) in [stdout, stderr].into_iter().flatten() {
            fcntl_setfl(&fd, fcntl_getfl(&fd)? | OFlags::NONBLOCK)?;
            sources.push((fd, stream, true));
        }
        Ok(Self { log, sources, buffer: vec![0; READ_BYTES] })
    }

    /// Reads until the process behind `pidfd` has ended.
    fn until_end(&mut self, pidfd: &OwnedFd, main: Pid) {
        let timeout = Timespec { tv_sec: REAP_S, tv_nsec: 0 };
        let mut reaped = Instant::now();
        loop {
            let mut fds = vec![PollFd::new(pidfd, PollFlags::IN)];
            let open = self.sources.iter().filter(|(_, _, open)| *open);
            fds.extend(open.map(|(fd, _, _)| PollFd::new(fd, PollFlags::IN)));
            match poll(&mut fds, Some(&timeout)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(_) => return,
            }
            let ended = !fds[0].revents().is_empty();
            drop(fds);
            if ended {
                return;
            }
            self.read_all();
            if reaped.elapsed() >= Duration::from_secs(REAP_S.unsigned_abs()) {
                reap_orphans(main);
                reaped = Instant::now();
            }
        }
    }

    /// Takes what there is; a stream that has ended is not looked at again.
    fn read_all(&mut self) {
        for (fd, stream, open) in &mut self.sources {
            while *open {
                match rustix::io::read(fd.as_fd(), &mut self.buffer) {
                    Ok(0) => *open = false,
                    Ok(count) => {
                        let bytes = self.buffer.get(..count).unwrap_or_default();
                        // A full disk must not stop the container: it loses lines instead.
                        self.log.take(stream, bytes, Timestamp::now()).unwrap_or(());
                    }
                    Err(Errno::INTR) => {}
                    Err(Errno::AGAIN) => break,
                    Err(_) => *open = false,
                }
            }
        }
    }

    fn finish(&mut self) {
        self.read_all();
        for (_, stream, _) in &mut self.sources {
            self.log.end(stream, Timestamp::now()).unwrap_or(());
        }
    }
}
