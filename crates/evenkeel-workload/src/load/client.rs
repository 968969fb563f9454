use std::{
    cell::RefCell,
    net::SocketAddr,
    process::ExitCode,
    rc::Rc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, Response, body::Incoming};
use tokio::{
    sync::mpsc,
    task::{JoinSet, LocalSet},
    time::{Instant, sleep_until},
};

use super::{
    pool::{Pool, PoolError},
    records::{Failure, FailureKind, Line, Records, Settled},
};

/// The requests to send: where, which, how often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadSettings {
    /// Where the connections go.
    pub target: SocketAddr,
    /// The `Host` header.
    pub host: String,
    /// Path of every request.
    pub path: String,
    /// GETs per second.
    pub gets_per_s: u32,
    /// POSTs per second.
    pub posts_per_s: u32,
    /// Bytes in the body of a POST.
    pub post_bytes: usize,
    /// What Idempotency-Keys start with; different for every run.
    pub run: String,
    /// Name of the first phase.
    pub phase: String,
    /// A request without a whole answer after this time has failed.
    pub timeout: Duration,
}

/// A command from the parent to a running client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// The next phase begins. On stdin: `mark NAME`.
    Mark(String),
    /// Stop sending; what is on its way is settled. On stdin: `stop`, or the end of it.
    Stop,
}

/// Takes the output line by line.
pub type Sink = Box<dyn FnMut(&Line)>;

/// The hidden subcommand: `--target IP:PORT [--host H] [--path P] [--gets N] [--posts N]
/// [--post-bytes N] [--run ID] [--phase NAME] [--timeout-ms N]`. Commands come on stdin, lines of
/// JSON go to stdout. Exits 0 when it was stopped, 2 on wrong usage.
pub fn main(args: impl Iterator<Item = String>) -> ExitCode {
    let settings = match parse(args) {
        Ok(settings) => settings,
        Err(problem) => {
            complain(&problem);
            return ExitCode::from(2);
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(&error.to_string());
            return ExitCode::FAILURE;
        }
    };
    let (commands, receiver) = mpsc::unbounded_channel();
    let print: Sink = Box::new(|line| {
        use std::io::Write as _;
        let text = serde_json::to_string(line).expect("plain data serialises");
        // The load continues when nothing reads its reports: the traffic matters.
        writeln!(std::io::stdout().lock(), "{text}").unwrap_or_default();
    });
    // Ends with the process: a blocked read of stdin must not keep it.
    std::thread::spawn(move || listen(&commands));
    runtime.block_on(drive(settings, receiver, print));
    ExitCode::SUCCESS
}

fn complain(problem: &str) {
    use std::io::Write as _;
    // Without stderr the message is lost.
    writeln!(std::io::stderr(), "evenkeel load: {problem}").unwrap_or_default();
}

fn parse(mut args: impl Iterator<Item = String>) -> Result<LoadSettings, String> {
    let mut target = None;
    let mut settings = LoadSettings {
        target: SocketAddr::from(([127, 0, 0, 1], 8080)),
        host: String::new(),
        path: "/".to_owned(),
        gets_per_s: 200,
        posts_per_s: 20,
        post_bytes: 256,
        run: format!("{:x}-{:x}", epoch_ms(), std::process::id()),
        phase: "steady".to_owned(),
        timeout: Duration::from_secs(10),
    };
    while let Some(flag) = args.next() {
        let value = args.next().ok_or_else(|| format!("{flag} wants a value"))?;
        let number = || value.parse::<u32>().map_err(|_| format!("{flag} {value}: not a number"));
        match flag.as_str() {
            "--target" => {
                let addr = value.parse().map_err(|_| format!("{flag} {value}: not IP:PORT"))?;
                target = Some(addr);
            }
            "--host" => settings.host = value,
            "--path" => settings.path = value,
            "--gets" => settings.gets_per_s = number()?,
            "--posts" => settings.posts_per_s = number()?,
            "--post-bytes" => settings.post_bytes = number()? as usize,
            "--run" => settings.run = value,
            "--phase" => settings.phase = value,
            "--timeout-ms" => settings.timeout = Duration::from_millis(number()?.into()),
            _ => return Err(format!("{flag} is not a flag of the load client")),
        }
    }
    settings.target = target.ok_or("--target IP:PORT is missing")?;
    if settings.host.is_empty() {
        settings.host = settings.target.to_string();
    }
    Ok(settings)
}

fn listen(commands: &mpsc::UnboundedSender<Command>) {
    for line in std::io::stdin().lines().map_while(Result::ok) {
        let command = match line.trim().split_once(' ') {
            Some(("mark", name)) => Command::Mark(name.trim().to_owned()),
            None if line.trim() == "stop" => Command::Stop,
            _ => {
                complain(&format!("{line:?} is not a command (mark NAME, stop)"));
                continue;
            }
        };
        if commands.send(command).is_err() {
            return;
        }
    }
    // The parent is gone or has closed the pipe: the receiver sees the end by the drop.
}

/// Runs until stopped by a command (or until `commands` ends), then settles what is on its way.
/// Every request is reported exactly once, by time of sending.
pub async fn drive(
    settings: LoadSettings,
    mut commands: mpsc::UnboundedReceiver<Command>,
    mut sink: Sink,
) {
    let mut records = Records::new(&settings.phase, epoch_ms());
    let run = Rc::new(Run {
        pool: Pool::new(settings.target),
        body: Bytes::from(vec![b'x'; settings.post_bytes]),
        settings,
        keys: RefCell::new(0),
    });
    let mut paces = [
        Pace::new(run.settings.gets_per_s, Duration::ZERO),
        // Not on the beat of the GETs.
        Pace::new(run.settings.posts_per_s, Duration::from_micros(2_300)),
    ];
    LocalSet::new()
        .run_until(async move {
            let mut requests = JoinSet::new();
            let mut tick = Instant::now() + Duration::from_secs(1);
            let mut stopping = false;
            while !stopping || !requests.is_empty() {
                let due = paces.iter().filter_map(Pace::due).min().filter(|_| !stopping);
                tokio::select! {
                    biased;
                    command = commands.recv(), if !stopping => match command {
                        Some(Command::Mark(name)) => records.mark(&name, epoch_ms()),
                        Some(Command::Stop) | None => {
                            stopping = true;
                            records.finish(epoch_ms());
                        }
                    },
                    Some(ended) = requests.join_next() => {
                        let end: Settled = ended.expect("request tasks neither panic nor abort");
                        records.settled(&end);
                        if let Some(failure) = end.failure {
                            sink(&Line::Failure(failure));
                        }
                    }
                    () = sleep_until(tick) => {
                        tick += Duration::from_secs(1);
                        sink(&Line::Second(records.second(epoch_ms())));
                    }
                    () = sleep_until(due.unwrap_or(tick)), if due.is_some() => {
                        for (is_post, pace) in [false, true].into_iter().zip(&mut paces) {
                            while let Some(intended) = pace.take(Instant::now()) {
                                let (phase, name) = records.sent(is_post);
                                let request = run.clone().request(Planned {
                                    phase, name, is_post, intended,
                                });
                                requests.spawn_local(request);
                            }
                        }
                    }
                }
                for report in records.finished() {
                    sink(&Line::Phase(report));
                }
            }
            sink(&Line::Second(records.second(epoch_ms())));
        })
        .await;
}

/// Intended send times at a fixed rate, from the start on, without drift.
struct Pace {
    start: Instant,
    per_s: u32,
    count: u64,
}

impl Pace {
    fn new(per_s: u32, offset: Duration) -> Self {
        Self { start: Instant::now() + offset, per_s, count: 0 }
    }

    fn due(&self) -> Option<Instant> {
        let nanos = self.count.checked_mul(1_000_000_000)?.checked_div(self.per_s.into())?;
        Some(self.start + Duration::from_nanos(nanos))
    }

    fn take(&mut self, now: Instant) -> Option<Instant> {
        let due = self.due().filter(|due| *due <= now)?;
        self.count += 1;
        Some(due)
    }
}

struct Planned {
    phase: usize,
    name: String,
    is_post: bool,
    intended: Instant,
}

struct Run {
    settings: LoadSettings,
    pool: Pool,
    body: Bytes,
    keys: RefCell<u64>,
}

struct Trouble {
    kind: FailureKind,
    status: Option<u16>,
    problem: Option<String>,
}

impl Run {
    async fn request(self: Rc<Self>, planned: Planned) -> Settled {
        let late = planned.intended.elapsed();
        let at = epoch_ms() - i64::try_from(late.as_millis()).unwrap_or_default();
        let key = planned.is_post.then(|| self.next_key());
        let deadline = planned.intended + self.settings.timeout;
        let mut seen = Seen::default();
        let exchange = self.exchange(key.as_deref(), &mut seen);
        let trouble = match tokio::time::timeout_at(deadline, exchange).await {
            Ok(Ok(())) => None,
            Ok(Err(trouble)) => Some(trouble),
            Err(_) => Some(Trouble { kind: FailureKind::Timeout, status: None, problem: None }),
        };
        let took = planned.intended.elapsed();
        let failure = trouble.map(|trouble| Failure {
            at,
            after_ms: (took.as_secs_f64() * 1e6).round() / 1e3,
            phase: planned.name,
            method: if planned.is_post { "POST" } else { "GET" }.to_owned(),
            key,
            kind: trouble.kind,
            status: trouble.status,
            endpoint: seen.endpoint,
            version: seen.version.clone(),
            problem: trouble.problem,
        });
        let Planned { phase, is_post, .. } = planned;
        Settled { phase, is_post, took, version: seen.version, failure }
    }

    fn next_key(&self) -> String {
        let mut keys = self.keys.borrow_mut();
        *keys += 1;
        format!("{}-{}", self.settings.run, *keys)
    }

    async fn exchange(self: &Rc<Self>, key: Option<&str>, seen: &mut Seen) -> Result<(), Trouble> {
        let LoadSettings { host, path, .. } = &self.settings;
        let mut request = Request::builder().uri(path).header(hyper::header::HOST, host);
        let mut body = Bytes::new();
        if let Some(key) = key {
            request = request
                .method("POST")
                .header("idempotency-key", key)
                .header(hyper::header::CONTENT_TYPE, "application/octet-stream");
            body = self.body.clone();
        }
        let broken = |kind, problem| Trouble { kind, status: None, problem: Some(problem) };
        let request = request
            .body(Full::new(body))
            .map_err(|error| broken(FailureKind::Connect, error.to_string()))?;
        let (response, sender) = self.pool.send(request).await.map_err(|error| match error {
            PoolError::Connect(problem) => broken(FailureKind::Connect, problem),
            PoolError::Broken(problem) => broken(FailureKind::Broken, problem),
        })?;
        seen.read(&response);
        let status = response.status();
        let mut body = response.into_body();
        while let Some(frame) = body.frame().await {
            if let Err(error) = frame {
                return Err(Trouble {
                    kind: FailureKind::Broken,
                    status: Some(status.as_u16()),
                    problem: Some(error.to_string()),
                });
            }
        }
        let run = self.clone();
        tokio::task::spawn_local(async move { run.pool.keep(sender).await });
        if status.is_success() {
            return Ok(());
        }
        let status = Some(status.as_u16());
        Err(Trouble { kind: FailureKind::Status, status, problem: None })
    }
}

/// What is read from the headers of an answer.
#[derive(Default)]
struct Seen {
    endpoint: Option<String>,
    version: Option<String>,
}

impl Seen {
    fn read(&mut self, response: &Response<Incoming>) {
        let header =
            |name| response.headers().get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
        self.endpoint = header("x-evenkeel-endpoint").or_else(|| header("x-pod"));
        self.version = header("x-version");
    }
}

fn epoch_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
