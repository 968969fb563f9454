//! From a process of the host to one in a container: namespaces, files and user, then the program
//! in its place. Every function here works on a process with one thread that is about to end.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::{fd::OwnedFd, unix::process::CommandExt as _},
    path::Path,
    process::{Command, ExitCode, Stdio},
};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns, unshare},
    unistd::{Gid, Uid, setgid, setgroups, sethostname, setuid},
};
use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};

use super::{
    files::{SandboxFile, SpecFile, StateFile, read_json},
    view,
};
use crate::sandbox::User;

/// What the shell says of a command that it could not run.
const NOT_RUN: u8 = 126;
/// The terminal of a command that gets one. **Source**: containerd's and runc's default.
const TERMINAL: &str = "xterm";
/// The lowest descriptor that is not one of the three of every program.
const FIRST_FREE: i32 = 3;

/// Becomes the program of a run. Standard input is a pipe to the shim: it ends when the program has
/// taken over, or says first why it has not.
pub(super) fn become_program(dir: &Path) -> ExitCode {
    let report = fcntl_dupfd_cloexec(io::stdin(), FIRST_FREE);
    let error = match read_spec(dir) {
        Ok(spec) => into_program(&spec),
        Err(error) => error,
    };
    if let Ok(report) = report {
        let text = error.to_string();
        rustix::io::write(report, text.as_bytes()).map(drop).unwrap_or_default();
    }
    ExitCode::from(NOT_RUN)
}

/// Runs a command beside the program of a run, in the same namespaces and as the same user.
pub(super) fn become_neighbour(dir: &Path, words: &[String]) -> ExitCode {
    let error = match (read_spec(dir), words.split_first()) {
        (Ok(spec), Some((program, args))) => {
            let joined = if spec.sandbox.is_some() { join(dir) } else { Ok(()) };
            match joined {
                Ok(()) => take_over(&spec, Path::new(program), None, args, Stdio::inherit()),
                Err(error) => error,
            }
        }
        (Err(error), _) => error,
        (_, None) => io::Error::other("the command is empty"),
    };
    // For a person, or a probe's message.
    writeln!(io::stderr(), "{error}").unwrap_or_default();
    ExitCode::from(NOT_RUN)
}

fn read_spec(dir: &Path) -> io::Result<SpecFile> {
    read_json(&dir.join("spec.json")).ok_or_else(|| io::Error::other("spec.json cannot be read"))
}

/// Returns only when that failed.
fn into_program(spec: &SpecFile) -> io::Error {
    if let Some(sandbox) = &spec.sandbox
        && let Err(error) = move_in(sandbox)
    {
        return error;
    }
    if let (Some(_), Some(user)) = (&spec.sandbox, &spec.user)
        && let Err(error) = name_user(user)
    {
        return io::Error::other(format!("become the container's user: {error}"));
    }
    take_over(spec, &spec.program, spec.name.as_deref(), &spec.args, Stdio::null())
}

fn move_in(sandbox: &SandboxFile) -> io::Result<()> {
    let during =
        |step: &'static str| move |error: io::Error| io::Error::other(format!("{step}: {error}"));
    if let Some(network) = &sandbox.network {
        File::open(network)
            .and_then(|network| Ok(setns(network, CloneFlags::CLONE_NEWNET)?))
            .map_err(during("enter the pod's network"))?;
    }
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS)
        .map_err(io::Error::from)
        .map_err(during("make namespaces"))?;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>)
        .map_err(io::Error::from)
        .map_err(during("keep mounts to itself"))?;
    sethostname(&sandbox.hostname).map_err(io::Error::from).map_err(during("set the host name"))?;
    view::furnish(&sandbox.mounts, &sandbox.stage)
}

/// In a user namespace with one user, another one needs a namespace of its own, where the name of
/// that user is another. Root of the machine changes the user when the program takes over.
fn name_user(user: &User) -> io::Result<()> {
    if is_root_of_the_machine() {
        return Ok(());
    }
    unshare(CloneFlags::CLONE_NEWUSER)?;
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("{} 0 1", user.uid))?;
    fs::write("/proc/self/gid_map", format!("{} 0 1", user.gid))
}

/// Root of the machine becomes any user; others have become theirs before, or cannot.
pub(super) fn become_user(user: &User) -> io::Result<()> {
    if !is_root_of_the_machine() {
        return Ok(());
    }
    let groups: Vec<Gid> = user.groups.iter().copied().map(Gid::from_raw).collect();
    setgroups(&groups)?;
    setgid(Gid::from_raw(user.gid))?;
    Ok(setuid(Uid::from_raw(user.uid))?)
}

/// Whether all users of the machine are there, and not just our own.
fn is_root_of_the_machine() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    map.split_whitespace().eq(["0", "0", "4294967295"])
}

fn join(dir: &Path) -> io::Result<()> {
    let state: StateFile = read_json(&dir.join("state.json"))
        .ok_or_else(|| io::Error::other("the container does not run"))?;
    // Held before the start time is compared, so it cannot become another process's.
    let process = state.main.open().ok_or_else(|| io::Error::other("the container has ended"))?;
    let namespaces = format!("/proc/{}/ns", state.main.pid);
    let own_user = fs::read_link("/proc/self/ns/user")?;
    let user = fs::read_link(format!("{namespaces}/user"))?;
    let all = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWNS;
    // With a user namespace that is not our own we lose the right to enter the others: one call
    // for all of them.
    let all = if user == own_user { all } else { all | CloneFlags::CLONE_NEWUSER };
    Ok(setns(process, all)?)
}

/// Returns only when that failed.
fn take_over(
    spec: &SpecFile,
    program: &Path,
    name: Option<&str>,
    args: &[String],
    input: Stdio,
) -> io::Error {
    let mut command = Command::new(program);
    if let Some(name) = name {
        command.arg0(name);
    }
    command.env_clear();
    if rustix::termios::isatty(io::stdin()) {
        command.env("TERM", TERMINAL);
    }
    command.args(args).envs(&spec.env).current_dir(&spec.cwd).stdin(input);
    if let Some(user) = &spec.user
        && let Err(error) = become_user(user)
    {
        return io::Error::other(format!("become the container's user: {error}"));
    }
    let error = command.exec();
    io::Error::new(error.kind(), format!("{}: {error}", program.display()))
}

/// The end of the pipe that [`become_program`] gets, and the one that says how it went.
pub(super) fn report_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    fcntl_setfd(&read, FdFlags::CLOEXEC)?;
    Ok((read, write))
}
