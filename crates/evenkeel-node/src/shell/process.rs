use std::{
    collections::BTreeMap,
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use evenkeel_control::BoxFuture;
use jiff::Timestamp;
use rustix::process::Signal as UnixSignal;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader, unix::AsyncFd},
    process::Command,
    sync::Mutex,
    time::timeout,
};

use super::{
    checks::{self, Get},
    command::Beside,
    files::{self, ExitFile, SandboxFile, SpecFile, StateFile, read_json},
    listener, sandbox,
};
use crate::{
    images::{Image, ImageMap, MAP_BYTES_MAX, MapFile, Program},
    probe::Outcome,
    runtime::{
        Adopted, Check, ContainerRef, ExecOutput, Exit, ProbeReply, Runtime, RuntimeError, Signal,
        StartError, StartOrder, Started,
    },
};

/// How long a shim may take to say that the program runs.
const START_MAX: Duration = Duration::from_secs(10);
/// How long a killed container may take to be gone before its files are removed anyway.
const GONE_MAX: Duration = Duration::from_secs(5);
/// Output of a command that is kept. **Source**: `maxReadLength` of the kubelet's exec probe.
const OUTPUT_BYTES_MAX: u64 = 10 * 1024;
/// The name under which our own executable is started, whatever its path.
pub(super) const OWN_NAME: &str = "evenkeel";
/// Where programs look for others.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How containers are run as processes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessSettings {
    /// Where this node keeps its files.
    pub root: PathBuf,
    /// Our own executable: `/proc/self/exe` still is it when its file has been replaced.
    pub exe: PathBuf,
    /// What makes it a shim (`["shim"]`); the directory is added.
    pub shim_args: Vec<String>,
    /// What makes it the demo workload (`["workload"]`).
    pub workload_args: Vec<String>,
    /// The file with the image map, read at every start; it may be written later.
    pub image_map: Option<PathBuf>,
    /// A log file that grows beyond it is rotated.
    pub log_bytes_max: u64,
    /// Log files kept per run.
    pub log_files_max: u32,
}

impl ProcessSettings {
    /// The usual: hidden subcommands `shim` and `workload`, logs of 5 files of 10 MiB.
    pub fn new(root: PathBuf, exe: PathBuf, image_map: Option<PathBuf>) -> Self {
        Self {
            root,
            exe,
            shim_args: vec!["shim".to_owned()],
            workload_args: vec!["workload".to_owned()],
            image_map,
            log_bytes_max: 10 << 20,
            log_files_max: 5,
        }
    }
}

/// Runs containers as processes under shims. Holds nothing but settings: what runs lies in files.
#[derive(Debug, Clone)]
pub struct ProcessRuntime {
    settings: ProcessSettings,
    /// Held while what the containers of a pod share is made or removed.
    sandboxes: Arc<Mutex<()>>,
}

impl ProcessRuntime {
    /// A runtime over the files below `settings.root`.
    pub fn new(settings: ProcessSettings) -> Self {
        Self { settings, sandboxes: Arc::default() }
    }

    fn dir(&self, container: &ContainerRef) -> PathBuf {
        files::run_dir(&self.settings.root, container)
    }

    fn state(&self, container: &ContainerRef) -> Option<StateFile> {
        read_json(&self.dir(container).join("state.json"))
    }

    fn resolve(&self, image: &str) -> Result<Image, String> {
        let place = self.settings.image_map.as_deref();
        let map = match place {
            None => ImageMap::default(),
            Some(path) => {
                let fail = |problem: String| format!("image map {}: {problem}", path.display());
                let size = match std::fs::metadata(path) {
                    Ok(file) => file.len(),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {
                        let known = ImageMap::default().resolve(image, MapFile::NotThere(path));
                        return known.map_err(|error| error.to_string());
                    }
                    Err(error) => return Err(fail(error.to_string())),
                };
                if size > MAP_BYTES_MAX {
                    return Err(fail(format!("is larger than {MAP_BYTES_MAX} bytes")));
                }
                let text =
                    std::fs::read_to_string(path).map_err(|error| fail(error.to_string()))?;
                ImageMap::parse(&text).map_err(|error| fail(error.to_string()))?
            }
        };
        let place = place.map_or(MapFile::Nowhere, MapFile::File);
        map.resolve(image, place).map_err(|error| error.to_string())
    }

    fn spec(&self, order: &StartOrder, dir: &Path) -> Result<SpecFile, StartError> {
        let image = self.resolve(&order.image).map_err(StartError::Image)?;
        let own = |args: &[String]| (self.settings.exe.clone(), args.to_vec());
        let (mut program, mut args) = match &image.program {
            Program::Demo => own(&self.settings.workload_args),
            Program::Pause => {
                let (exe, mut args) = own(&self.settings.shim_args);
                args.push("--pause".to_owned());
                (exe, args)
            }
            Program::Host(path) => (path.clone(), image.args.clone()),
        };
        if let Program::Host(_) = image.program {
            if let Some((first, rest)) = order.command.split_first() {
                image
                    .check_command(&order.image, first)
                    .map_err(|error| StartError::Config(error.to_string()))?;
                program = PathBuf::from(first);
                args = rest.to_vec();
                args.extend(order.args.clone().unwrap_or_default());
            } else if let Some(given) = &order.args {
                args.clone_from(given);
            }
        } else if let Some(first) = order.command.first() {
            let problem = format!("command {first:?}: a built-in image runs only itself");
            return Err(StartError::Config(problem));
        }
        let is_own = !matches!(image.program, Program::Host(_));
        // A container's user may not look into our folders.
        let is_other = order.sandbox.is_some() || order.user.is_some();
        let home = || if is_other { "/".into() } else { dir.to_owned() };
        let mut env = BTreeMap::from([
            ("PATH".to_owned(), PATH.to_owned()),
            ("HOME".to_owned(), "/".to_owned()),
        ]);
        env.extend(image.env);
        env.extend(order.env.clone());
        Ok(SpecFile {
            namespace: order.namespace.clone(),
            pod: order.pod.clone(),
            image: order.image.clone(),
            program,
            name: is_own.then(|| OWN_NAME.to_owned()),
            args,
            env,
            cwd: order.working_dir.as_ref().map_or_else(home, PathBuf::from),
            commands: image.commands,
            log_bytes_max: self.settings.log_bytes_max,
            log_files_max: self.settings.log_files_max,
            sandbox: None,
            user: order.user.clone(),
        })
    }

    async fn launch(&self, order: &StartOrder) -> Result<Started, StartError> {
        let dir = self.dir(&order.container);
        let mut spec = self.spec(order, &dir)?;
        let failed = |what: &str, error: &io::Error| StartError::Run(format!("{what}: {error}"));
        if dir.exists() {
            // A start of this run that did not succeed.
            kill(&dir).await;
            std::fs::remove_dir_all(&dir).map_err(|error| failed("old files", &error))?;
        }
        spec.sandbox = self.sandbox(order).await?;
        files::make_private_dir(&dir)
            .and_then(|()| files::write_json(&dir.join("spec.json"), &spec))
            .map_err(|error| failed("files of the container", &error))?;
        self.forget_old_runs(&order.container);
        let mut shim = Command::new(&self.settings.exe)
            .arg0(OWN_NAME)
            .args(&self.settings.shim_args)
            .arg(&dir)
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .current_dir("/")
            .spawn()
            .map_err(|error| failed("shim", &error))?;
        let mut word = String::new();
        if let Some(stdout) = shim.stdout.take() {
            let mut stdout = BufReader::new(stdout);
            match timeout(START_MAX, stdout.read_line(&mut word)).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Err(failed("shim", &error)),
                Err(_) => {
                    // First what it may have started: it becomes the program otherwise.
                    kill(&dir).await;
                    shim.start_kill().map_err(|error| failed("shim", &error))?;
                    return Err(StartError::Run("the shim does not answer".to_owned()));
                }
            }
        }
        // From here on the shim is known by its files; tokio reaps it when it has ended.
        drop(shim);
        match (word.trim(), self.state(&order.container)) {
            ("ok", Some(state)) => Ok(Started { id: state.id(), at: state.at }),
            ("", _) | ("ok", None) => Err(StartError::Run("the shim has failed".to_owned())),
            (problem, _) => Err(StartError::Run(problem.to_owned())),
        }
    }

    /// Where the container runs: made by the first one of its pod.
    async fn sandbox(&self, order: &StartOrder) -> Result<Option<SandboxFile>, StartError> {
        if let (None, Some(mount)) = (&order.sandbox, order.mounts.first()) {
            return Err(StartError::Config(format!(
                "volumes need a cluster with a network of its own: here a container sees the files \
                 of the host, and nothing can be mounted on {} for it alone",
                mount.target.display()
            )));
        }
        let (root, order) = (self.settings.root.clone(), order.clone());
        // One at a time: containers of a pod start together. It waits for the kernel.
        let _turn = self.sandboxes.lock().await;
        let prepared = tokio::task::spawn_blocking(move || sandbox::prepare(&root, &order)).await;
        let prepared = prepared.map_err(io::Error::other).and_then(|prepared| prepared);
        prepared
            .map_err(|error| StartError::Run(format!("what the pod's containers share: {error}")))
    }

    /// Whether the network that it is in has gone with an earlier cluster.
    fn is_lost(&self, container: &ContainerRef) -> bool {
        let spec: Option<SpecFile> = read_json(&self.dir(container).join("spec.json"));
        let network = spec.and_then(|spec| spec.sandbox?.network);
        network.is_some_and(|network| !evenkeel_network::is_connected(&network))
    }

    /// Why a probe would say nothing about its container.
    fn misled(&self, container: &ContainerRef, check: &Check) -> Option<String> {
        let (Check::Http { host, port, .. } | Check::Tcp { host, port }) = check else {
            return None;
        };
        let spec: SpecFile = read_json(&self.dir(container).join("spec.json"))?;
        let shim = self.state(container)?.shim;
        // With a network of its own a pod has all addresses for itself; and a manifest may ask for
        // another host on purpose.
        let is_own = spec.env.get("POD_IP") == Some(host);
        if spec.sandbox.is_some() || !is_own {
            return None;
        }
        listener::misleading(host.parse().ok()?, *port, shim.pid)
    }

    async fn remove_sandbox(&self, pod_uid: &str) {
        let (root, uid) = (self.settings.root.clone(), pod_uid.to_owned());
        let _turn = self.sandboxes.lock().await;
        let removed = tokio::task::spawn_blocking(move || sandbox::remove(&root, &uid)).await;
        if let Err(error) = removed.map_err(io::Error::other).and_then(|removed| removed) {
            tracing::warn!(object = pod_uid, %error, "the pod's network was not removed");
        }
    }

    /// Only the last run and the one before it keep their logs.
    fn forget_old_runs(&self, container: &ContainerRef) {
        let dir = files::pod_dir(&self.settings.root, &container.pod_uid);
        let dir = dir.join(&container.container);
        for run in files::attempts(&dir) {
            if run + 1 < container.attempt
                && let Err(error) = std::fs::remove_dir_all(dir.join(run.to_string()))
            {
                tracing::warn!(object = container.container, %error, "old run not removed");
            }
        }
    }

    async fn run_command(
        &self,
        container: &ContainerRef,
        command: &[String],
    ) -> Result<ExecOutput, String> {
        if let Some(seconds) = harmless(command) {
            tokio::time::sleep(seconds?).await;
            let code = i32::from(command.first().is_some_and(|name| name.ends_with("false")));
            return Ok(ExecOutput { code, output: String::new() });
        }
        let exe = &self.settings.exe;
        let dir = self.dir(container);
        let beside = Beside::of(exe, &self.settings.shim_args, &dir, command)?;
        let program = command.first().map_or("", String::as_str);
        let mut child = Command::new(beside.program)
            .arg0(OWN_NAME)
            .args(beside.args)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("{program}: {error}"))?;
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let read_out = async {
            if let Some(pipe) = stdout {
                pipe.take(OUTPUT_BYTES_MAX).read_to_end(&mut out).await?;
            }
            io::Result::Ok(())
        };
        let read_err = async {
            if let Some(pipe) = stderr {
                pipe.take(OUTPUT_BYTES_MAX).read_to_end(&mut err).await?;
            }
            io::Result::Ok(())
        };
        let (first, second, status) = tokio::join!(read_out, read_err, child.wait());
        first.and(second).map_err(|error| format!("{program}: {error}"))?;
        let status = status.map_err(|error| format!("{program}: {error}"))?;
        out.extend(err);
        out.truncate(usize::try_from(OUTPUT_BYTES_MAX).unwrap_or(usize::MAX));
        let output = String::from_utf8_lossy(&out).into_owned();
        Ok(ExecOutput { code: status.code().unwrap_or(137), output })
    }
}

/// Commands that hooks and probes often have, and that we run ourselves, so that they need no
/// permission: `true`, `false`, `sleep N`, also under `sh -c`. How long it takes.
fn harmless(command: &[String]) -> Option<Result<Duration, String>> {
    let words: Vec<&str> = command.iter().map(String::as_str).collect();
    let words = match words.as_slice() {
        ["sh" | "/bin/sh" | "bash" | "/bin/bash", "-c", script] => {
            script.split_whitespace().collect()
        }
        _ => words,
    };
    match words.as_slice() {
        ["true" | "/bin/true" | "false" | "/bin/false"] => Some(Ok(Duration::ZERO)),
        ["sleep" | "/bin/sleep" | "/usr/bin/sleep", seconds] => {
            let seconds = seconds.trim_end_matches('s').parse().ok();
            let time = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
            Some(time.ok_or_else(|| "sleep: invalid time".to_owned()))
        }
        _ => None,
    }
}

/// Ends whatever runs in the directory of a run, and waits until it and its shim are gone.
async fn kill(dir: &Path) {
    let Some(state) = read_json::<StateFile>(&dir.join("state.json")) else { return };
    let shim = state.shim.open();
    kill_main(&state).await;
    if let Some(shim) = shim
        && timeout(GONE_MAX, ended(shim)).await.is_err()
    {
        tracing::warn!(pid = state.shim.pid, "the shim of a killed container stays, killing it");
        state.shim.signal(UnixSignal::KILL);
    }
}

/// Kills a program and waits until it is dead.
async fn kill_main(state: &StateFile) {
    let Some(main) = state.main.open() else { return };
    state.main.kill_group();
    if timeout(GONE_MAX, ended(main)).await.is_err() {
        tracing::error!(pid = state.main.pid, "a process survives SIGKILL; is its disk hanging?");
    }
}

/// Ready when the process behind a pidfd has ended.
pub(super) async fn ended(pidfd: OwnedFd) {
    #[expect(deprecated, reason = "an OwnedFd keeps its descriptor, so this use is sound")]
    let watched = AsyncFd::new(pidfd);
    let result = match &watched {
        Ok(pidfd) => pidfd.readable().await.map(drop),
        Err(error) => Err(io::Error::from(error.kind())),
    };
    if let Err(error) = result {
        tracing::error!(%error, "a process cannot be watched");
    }
}

/// How a run ended if its shim is gone.
async fn exit_of(dir: &Path, state: Option<&StateFile>) -> Exit {
    if let Some(ExitFile { code, at }) = read_json(&dir.join("exit.json")) {
        return Exit { code, at, unseen: None };
    }
    // The program is not watched any more: it must not run on unseen.
    if let Some(state) = state {
        kill_main(state).await;
    }
    let unseen = Some("the shim of the container is gone, its program was killed".to_owned());
    Exit { code: 137, at: Timestamp::now(), unseen }
}

impl Runtime for ProcessRuntime {
    fn adopt(&self) -> BoxFuture<'_, Vec<Adopted>> {
        Box::pin(async move {
            let mut found = Vec::new();
            let pods = self.settings.root.join("pods");
            for pod_uid in files::names(&pods) {
                for container in files::names(&pods.join(&pod_uid)) {
                    let dir = pods.join(&pod_uid).join(&container);
                    let Some(attempt) = files::attempts(&dir).pop() else { continue };
                    let (pod_uid, container) = (pod_uid.clone(), container.clone());
                    let container = ContainerRef { pod_uid, container, attempt };
                    let dir = dir.join(attempt.to_string());
                    let Some(state) = self.state(&container) else { continue };
                    let is_lost = self.is_lost(&container);
                    let exit = if state.shim.lives() && !is_lost {
                        None
                    } else {
                        if is_lost {
                            kill(&dir).await;
                        }
                        Some(exit_of(&dir, Some(&state)).await)
                    };
                    let started = Started { id: state.id(), at: state.at };
                    found.push(Adopted { container, started, exit });
                }
            }
            found
        })
    }

    fn start<'a>(&'a self, order: &'a StartOrder) -> BoxFuture<'a, Result<Started, StartError>> {
        Box::pin(self.launch(order))
    }

    fn wait<'a>(&'a self, container: &'a ContainerRef) -> BoxFuture<'a, Exit> {
        Box::pin(async move {
            let dir = self.dir(container);
            let state = self.state(container);
            if let Some(shim) = state.as_ref().and_then(|state| state.shim.open()) {
                ended(shim).await;
            }
            exit_of(&dir, state.as_ref()).await
        })
    }

    fn signal<'a>(&'a self, container: &'a ContainerRef, signal: Signal) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let Some(state) = self.state(container) else { return };
            let reached = match signal {
                Signal::Term => state.main.signal(UnixSignal::TERM),
                Signal::Kill => state.main.kill_group(),
            };
            tracing::debug!(object = container.container, ?signal, reached, "signalled");
        })
    }

    fn exec<'a>(
        &'a self,
        container: &'a ContainerRef,
        command: &'a [String],
    ) -> BoxFuture<'a, Result<ExecOutput, RuntimeError>> {
        Box::pin(async move {
            let output = self.run_command(container, command).await;
            output
                .map_err(|problem| RuntimeError { container: container.container.clone(), problem })
        })
    }

    fn probe<'a>(
        &'a self,
        container: &'a ContainerRef,
        check: &'a Check,
    ) -> BoxFuture<'a, ProbeReply> {
        Box::pin(async move {
            if let Some(problem) = self.misled(container, check) {
                return ProbeReply { outcome: Outcome::Failure(problem), steady_until: None };
            }
            let outcome = match check {
                Check::Http { scheme, host, port, path, headers }
                    if scheme.eq_ignore_ascii_case("http") =>
                {
                    checks::http(&Get { host, port: *port, path, headers }).await
                }
                Check::Http { .. } => {
                    Outcome::Error("HTTPS probes are not implemented; use tcpSocket".to_owned())
                }
                Check::Grpc { .. } => {
                    Outcome::Error("gRPC probes are not implemented; use tcpSocket".to_owned())
                }
                Check::Tcp { host, port } => checks::tcp(host, *port).await,
                Check::Exec { command } => match self.run_command(container, command).await {
                    Ok(output) if output.code == 0 => Outcome::Success,
                    Ok(output) => Outcome::Failure(output.output.trim().to_owned()),
                    Err(problem) => Outcome::Error(problem),
                },
            };
            ProbeReply { outcome, steady_until: None }
        })
    }

    fn remove<'a>(&'a self, pod_uid: &'a str) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let dir = files::pod_dir(&self.settings.root, pod_uid);
            kill_pod(&dir).await;
            self.remove_sandbox(pod_uid).await;
            match std::fs::remove_dir_all(&dir) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(object = pod_uid, %error, "files of the pod not removed");
                }
                _ => {}
            }
        })
    }
}

async fn kill_pod(dir: &Path) {
    for container in files::names(dir) {
        let dir = dir.join(container);
        for run in files::attempts(&dir) {
            kill(&dir.join(run.to_string())).await;
        }
    }
}

/// Kills every container below `root` (a node's files), for a host that goes down with all of its
/// nodes. The files stay, so that the next agent sees how everything ended.
pub async fn stop_all(root: &Path) {
    let pods = root.join("pods");
    for uid in files::names(&pods) {
        kill_pod(&pods.join(uid)).await;
    }
}
