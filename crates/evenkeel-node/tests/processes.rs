//! Real processes under real shims. This file is its own shim: `processes shim DIR`.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a setup that fails is a test that fails")]

use std::{
    collections::BTreeMap,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

use evenkeel_node::{
    probe::Outcome,
    runtime::{Check, ContainerRef, Runtime, Signal, StartError, StartOrder},
    shell::{LogQuery, ProcessRuntime, ProcessSettings, read_logs, shim_main, stop_all},
};
use futures::StreamExt as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

const MAP: &str = "
images:
  sh: {program: /bin/sh, args: [-c, 'echo unset'], commands: [/bin/cat]}
  none: {program: /does/not/exist}
";

struct World {
    root: PathBuf,
    runtime: ProcessRuntime,
}

impl World {
    fn new(name: &str) -> Self {
        let root = std::env::temp_dir().join(format!("evenkeel-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&root).unwrap();
        std::fs::write(root.join("images.yaml"), MAP).unwrap();
        Self::at(&root)
    }

    fn at(root: &Path) -> Self {
        let mut settings = ProcessSettings::new(
            root.to_owned(),
            std::env::current_exe().unwrap(),
            Some(root.join("images.yaml")),
        );
        settings.log_bytes_max = 1000;
        Self { root: root.to_owned(), runtime: ProcessRuntime::new(settings) }
    }

    fn order(script: &str, attempt: u32) -> StartOrder {
        StartOrder {
            container: container(attempt),
            namespace: "d".to_owned(),
            pod: "p".to_owned(),
            ip: "127.0.0.1".parse().unwrap(),
            image: "sh".to_owned(),
            command: Vec::new(),
            args: Some(vec!["-c".to_owned(), script.to_owned()]),
            env: BTreeMap::from([("WHO".to_owned(), "me".to_owned())]),
            working_dir: None,
            mounts: Vec::new(),
            sandbox: None,
            user: None,
        }
    }

    async fn start(&self, script: &str, attempt: u32) -> ContainerRef {
        let order = Self::order(script, attempt);
        self.runtime.start(&order).await.unwrap();
        order.container
    }

    /// A pid or a start time out of `state.json`.
    fn number(&self, attempt: u32, path: &str) -> i32 {
        let file = self.root.join(format!("pods/u/c/{attempt}/state.json"));
        let state: serde_json::Value =
            serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
        state.pointer(path).unwrap().as_i64().unwrap().try_into().unwrap()
    }

    async fn logs(&self, change: impl FnOnce(&mut LogQuery)) -> String {
        let mut query = LogQuery {
            root: self.root.clone(),
            uid: "u".to_owned(),
            container: "c".to_owned(),
            ..LogQuery::default()
        };
        change(&mut query);
        match read_logs(&query) {
            Ok(stream) => {
                let chunks: Vec<_> = stream.collect().await;
                String::from_utf8(chunks.concat()).unwrap()
            }
            Err(error) => error.to_string(),
        }
    }

    /// Waits until the log has this line.
    async fn says(&self, line: &str) {
        let query = LogQuery {
            root: self.root.clone(),
            uid: "u".to_owned(),
            container: "c".to_owned(),
            follow: true,
            ..LogQuery::default()
        };
        let mut text = String::new();
        let mut stream = read_logs(&query).unwrap();
        while let Some(chunk) = stream.next().await {
            text.push_str(std::str::from_utf8(&chunk).unwrap());
            if text.lines().any(|have| have == line) {
                return;
            }
        }
        panic!("{line:?} is not in {text:?}");
    }
}

impl Drop for World {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.root).unwrap_or(());
    }
}

fn container(attempt: u32) -> ContainerRef {
    ContainerRef { pod_uid: "u".to_owned(), container: "c".to_owned(), attempt }
}

fn lives(pid: i32) -> bool {
    // A zombie that is not waited for does not live.
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit_once(')').unwrap().1.trim_start().starts_with('Z'))
}

fn kill_9(pid: i32) {
    assert!(Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
}

async fn a_container_runs_and_reports_how_it_ended() {
    let world = World::new("runs");
    let run = world.start("echo hello $WHO; echo oops >&2; exit 3", 0).await;
    let exit = world.runtime.wait(&run).await;
    assert_eq!((exit.code, exit.unseen), (3, None));
    assert_eq!(world.logs(|_| ()).await, "hello me\noops\n");
    // Asked again, it says the same.
    assert_eq!(world.runtime.wait(&run).await.code, 3);
}

async fn logs_of_the_run_before_are_kept_and_older_ones_are_not() {
    let world = World::new("previous");
    assert!(world.logs(|_| ()).await.contains("has no logs"));
    for attempt in 0..3 {
        let run = world.start(&format!("echo run {attempt}"), attempt).await;
        world.runtime.wait(&run).await;
    }
    assert_eq!(world.logs(|_| ()).await, "run 2\n");
    assert_eq!(world.logs(|query| query.previous = true).await, "run 1\n");
    assert!(!world.root.join("pods/u/c/0").exists());
}

async fn logs_are_cut_as_asked_also_over_rotated_files() {
    let world = World::new("cut");
    let run = world.start("for i in $(seq 1 40); do echo line $i; done; printf end", 0).await;
    world.runtime.wait(&run).await;
    assert!(world.root.join("pods/u/c/0/output.log.1").exists());
    assert_eq!(world.logs(|_| ()).await.lines().count(), 41);
    assert_eq!(world.logs(|q| q.tail_lines = Some(2)).await, "line 40\nend\n");
    assert_eq!(world.logs(|q| q.limit_bytes = Some(8)).await, "line 1\nl");
    assert_eq!(world.logs(|q| q.tail_lines = Some(0)).await, "");
    let future = jiff::Timestamp::now() + std::time::Duration::from_mins(1);
    assert_eq!(world.logs(|q| q.since = Some(future)).await, "");
    let stamped = world.logs(|q| (q.timestamps, q.tail_lines) = (true, Some(1))).await;
    let (time, text) = stamped.split_once(' ').unwrap();
    assert!(time.ends_with('Z') && time.parse::<jiff::Timestamp>().is_ok() && text == "end\n");
}

async fn following_ends_with_the_container() {
    let world = World::new("follow");
    let run = world.start("echo one; sleep 0.3; echo two", 0).await;
    assert_eq!(world.logs(|query| query.follow = true).await, "one\ntwo\n");
    assert_eq!(world.runtime.wait(&run).await.code, 0);
}

async fn signals_end_a_container_with_their_number() {
    let world = World::new("signals");
    let run = world.start("echo up; exec sleep 1000", 0).await;
    world.says("up").await;
    world.runtime.signal(&run, Signal::Term).await;
    assert_eq!(world.runtime.wait(&run).await.code, 143);

    let run = world.start("trap '' TERM; echo up; while :; do sleep 1; done", 1).await;
    world.says("up").await;
    world.runtime.signal(&run, Signal::Term).await;
    world.runtime.signal(&run, Signal::Kill).await;
    assert_eq!(world.runtime.wait(&run).await.code, 137);

    // A kill -9 from outside is seen as well.
    let run = world.start("exec sleep 1000", 2).await;
    kill_9(world.number(2, "/main/pid"));
    let exit = world.runtime.wait(&run).await;
    assert_eq!((exit.code, exit.unseen), (137, None));
}

async fn nothing_of_a_container_outlives_it() {
    let world = World::new("outlive");
    // One child in its group, one that went its own way.
    let script = "sleep 1000 & echo $! > a; setsid sleep 1000 & echo $! > b; echo up; wait";
    let run = world.start(script, 0).await;
    world.says("up").await;
    let pid = |name: &str| -> i32 {
        let file = world.root.join("pods/u/c/0").join(name);
        std::fs::read_to_string(file).unwrap().trim().parse().unwrap()
    };
    let (child, stray) = (pid("a"), pid("b"));
    assert!(lives(child) && lives(stray));
    world.runtime.signal(&run, Signal::Term).await;
    assert_eq!(world.runtime.wait(&run).await.code, 143);
    assert!(!lives(child) && !lives(stray));
}

async fn a_shim_that_is_killed_takes_its_program_along() {
    let world = World::new("shim");
    let run = world.start("exec sleep 1000", 0).await;
    let (shim, main) = (world.number(0, "/shim/pid"), world.number(0, "/main/pid"));
    kill_9(shim);
    let exit = world.runtime.wait(&run).await;
    assert!(exit.code == 137 && exit.unseen.is_some(), "{exit:?}");
    world.runtime.remove("u").await;
    assert!(!lives(main) && !world.root.join("pods/u").exists());
}

async fn containers_survive_their_agent_and_are_found_again() {
    let world = World::new("adopt");
    // Another process starts it and is killed.
    let mut agent = Command::new(std::env::current_exe().unwrap())
        .arg("agent")
        .arg(&world.root)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut word = [0; 3];
    std::io::Read::read_exact(agent.stdout.as_mut().unwrap(), &mut word).unwrap();
    agent.kill().unwrap();
    agent.wait().unwrap();

    let main = world.number(0, "/main/pid");
    assert!(lives(main));
    let found = world.runtime.adopt().await;
    assert_eq!(found.len(), 1);
    assert!(found[0].container == container(0) && found[0].exit.is_none(), "{found:?}");
    assert!(found[0].started.id.starts_with(&format!("process://{main}-")));
    world.runtime.signal(&found[0].container, Signal::Term).await;
    assert_eq!(world.runtime.wait(&found[0].container).await.code, 143);
    let found = world.runtime.adopt().await;
    assert_eq!(found[0].exit.as_ref().unwrap().code, 143);
}

async fn a_pid_that_was_used_again_is_left_alone() {
    let world = World::new("reused");
    let run = world.start("exec sleep 1000", 0).await;
    let main = world.number(0, "/main/pid");
    let file = world.root.join("pods/u/c/0/state.json");
    let mut state: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let real = std::fs::read(&file).unwrap();
    // As if both pids belonged to later processes now.
    state["main"]["start"] = 1.into();
    state["shim"]["start"] = 1.into();
    std::fs::write(&file, state.to_string()).unwrap();
    world.runtime.signal(&run, Signal::Kill).await;
    let found = world.runtime.adopt().await;
    assert!(found[0].exit.as_ref().unwrap().unseen.is_some());
    assert!(lives(main), "a stranger was killed");
    std::fs::write(&file, real).unwrap();
    stop_all(&world.root).await;
    assert!(!lives(main));
}

async fn what_cannot_start_says_why() {
    let world = World::new("refused");
    let mut order = World::order("true", 0);
    "nginx:1".clone_into(&mut order.image);
    let error = world.runtime.start(&order).await.unwrap_err();
    assert!(
        matches!(&error, StartError::Image(text) if text.contains("nginx:1")
        && text.contains("images.yaml") && text.contains("program:")),
        "{error}"
    );
    "none".clone_into(&mut order.image);
    let error = world.runtime.start(&order).await.unwrap_err();
    assert!(matches!(&error, StartError::Run(text) if text.contains("/does/not/exist")), "{error}");
    "sh".clone_into(&mut order.image);
    order.command = vec!["/bin/rm".to_owned()];
    let error = world.runtime.start(&order).await.unwrap_err();
    assert!(matches!(&error, StartError::Config(text) if text.contains("/bin/rm")), "{error}");
    // The same run can be tried again.
    order.command = vec!["/bin/cat".to_owned(), "/dev/null".to_owned()];
    order.args = None;
    world.runtime.start(&order).await.unwrap();
    assert_eq!(world.runtime.wait(&order.container).await.code, 0);
}

async fn commands_run_beside_a_container_if_the_map_allows_them() {
    let world = World::new("exec");
    let run = world.start("echo text > file; echo up; exec sleep 1000", 0).await;
    world.says("up").await;
    let exec = async |command: &str| {
        let command: Vec<String> = command.split_whitespace().map(str::to_owned).collect();
        match world.runtime.probe(&run, &Check::Exec { command }).await.outcome {
            Outcome::Success => "success".to_owned(),
            Outcome::Failure(text) => format!("failure: {text}"),
            Outcome::Error(text) => format!("error: {text}"),
        }
    };
    assert_eq!(exec("/bin/cat file").await, "success");
    assert!(exec("/bin/cat missing").await.starts_with("failure: "));
    assert!(exec("/bin/rm file").await.contains("not allowed"));
    // Done without a program.
    assert_eq!(exec("true").await, "success");
    assert_eq!(exec("/bin/false").await, "failure: ");
    assert_eq!(exec("sleep 0.01").await, "success");
    let cat = ["/bin/cat".to_owned(), "file".to_owned()];
    let output = world.runtime.exec(&run, &cat).await.unwrap();
    assert_eq!((output.code, output.output.as_str()), (0, "text\n"));
    world.runtime.remove("u").await;
}

async fn probes_over_sockets() {
    let world = World::new("sockets");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 1000];
            let count = stream.read(&mut request).await.unwrap();
            let request = String::from_utf8_lossy(&request[..count]).into_owned();
            let answer = match request.split_whitespace().nth(1).unwrap_or_default() {
                "/ok" => "200 OK",
                "/moved" => "302 Found\r\nLocation: /bad",
                "/away" => "302 Found\r\nLocation: http://elsewhere.example/",
                "/host" if request.contains("\r\nHost: x.example\r\n") => "204 No Content",
                _ => "500 Oops",
            };
            let answer = format!("HTTP/1.1 {answer}\r\nConnection: close\r\n\r\n");
            stream.write_all(answer.as_bytes()).await.unwrap_or(());
        }
    });
    let http = async |path: &str, port: u16| {
        let check = Check::Http {
            scheme: "HTTP".to_owned(),
            host: "127.0.0.1".to_owned(),
            port,
            path: path.to_owned(),
            headers: vec![("Host".to_owned(), "x.example".to_owned())],
        };
        world.runtime.probe(&container(0), &check).await.outcome
    };
    assert_eq!(http("/ok", port).await, Outcome::Success);
    assert_eq!(http("/host", port).await, Outcome::Success);
    assert_eq!(http("/away", port).await, Outcome::Success);
    let failed = Outcome::Failure("HTTP probe failed with statuscode: 500".to_owned());
    assert_eq!(http("/bad", port).await, failed);
    assert_eq!(http("/moved", port).await, failed);
    let host = "127.0.0.1".to_owned();
    let tcp = Check::Tcp { host: host.clone(), port };
    assert_eq!(world.runtime.probe(&container(0), &tcp).await.outcome, Outcome::Success);
    server.abort();
    assert!(server.await.is_err());
    let gone = world.runtime.probe(&container(0), &Check::Tcp { host, port }).await.outcome;
    assert!(matches!(gone, Outcome::Failure(text) if text.contains("refused")));
    assert!(matches!(http("/ok", port).await, Outcome::Failure(_)));
}

async fn pause_waits_for_its_signal() {
    let world = World::new("pause");
    let mut order = World::order("", 0);
    (order.image, order.args) = ("evenkeel/pause:1".to_owned(), None);
    world.runtime.start(&order).await.unwrap();
    world.runtime.signal(&order.container, Signal::Term).await;
    assert_eq!(world.runtime.wait(&order.container).await.code, 143);
}

fn say(line: &str) {
    let mut stdout = std::io::stdout();
    stdout.write_all(format!("{line}\n").as_bytes()).unwrap();
}

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let filter = match args.next().as_deref() {
        Some("shim") => return shim_main(args),
        Some("agent") => {
            let world = World::at(Path::new(&args.next().unwrap()));
            runtime().block_on(async {
                world.start("exec sleep 1000", 0).await;
                std::io::stdout().write_all(b"up\n").unwrap();
                std::future::pending::<()>().await;
            });
            return ExitCode::SUCCESS;
        }
        Some(name) if !name.starts_with('-') => name.to_owned(),
        _ => String::new(),
    };
    let mut run = 0;
    macro_rules! tests {
        ($($test:ident)*) => { $(
            if stringify!($test).contains(&filter) {
                runtime().block_on($test());
                say(&format!("test {} ... ok", stringify!($test)));
                run += 1;
            }
        )* };
    }
    tests! {
        a_container_runs_and_reports_how_it_ended
        logs_of_the_run_before_are_kept_and_older_ones_are_not
        logs_are_cut_as_asked_also_over_rotated_files
        following_ends_with_the_container
        signals_end_a_container_with_their_number
        nothing_of_a_container_outlives_it
        a_shim_that_is_killed_takes_its_program_along
        containers_survive_their_agent_and_are_found_again
        a_pid_that_was_used_again_is_left_alone
        what_cannot_start_says_why
        commands_run_beside_a_container_if_the_map_allows_them
        probes_over_sockets
        pause_waits_for_its_signal
    }
    say(&format!("test result: ok. {run} passed"));
    ExitCode::SUCCESS
}
