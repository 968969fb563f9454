use std::{
    cell::{Cell, RefCell},
    convert::Infallible,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    process::ExitCode,
    rc::Rc,
    time::Instant,
};

use bytes::Bytes;
use evenkeel_base::Rng;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{Request, Response, body::Incoming, header, service::service_fn};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use tokio::{
    net::{TcpListener, TcpStream},
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::{JoinSet, LocalSet},
};

use crate::{
    Answer, Execution, Ledger, LedgerError, Settings, SettingsError, access::Access,
    metrics::Metrics, respond,
};

/// Longest request body that is read.
const BODY_BYTES_MAX: usize = 1 << 20;
/// Longest Idempotency-Key. **Source**: the length payment APIs agree on.
const KEY_BYTES_MAX: usize = 255;
/// How often at most the requests are summed up in the log.
const LINE_EVERY: std::time::Duration = std::time::Duration::from_secs(1);
/// Where it listens when `PORT` is not set.
const PORT: u16 = 8080;

/// Why the server could not run.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The environment.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// `POD_IP` and `PORT`.
    #[error("POD_IP={ip:?} PORT={port:?} is not an address to listen on")]
    Address {
        /// `POD_IP` as given.
        ip: String,
        /// `PORT` as given.
        port: String,
    },
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The address is taken, or signals cannot be received.
    #[error("cannot serve on {addr}")]
    Io {
        /// The address.
        addr: SocketAddr,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

/// How a server ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// SIGTERM, and it dropped what it was doing.
    AtOnce,
    /// SIGTERM, and everything it had begun was answered.
    Gracefully,
}

/// The hidden subcommand: serves on `POD_IP:PORT` with settings from the environment until SIGTERM.
/// Exits 143 after a signal (0 if graceful), 1 when it cannot serve.
pub fn main(env: impl Fn(&str) -> Option<String>) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let served = match runtime {
        Ok(runtime) => runtime.block_on(serve_env(env)),
        Err(source) => {
            Err(ServeError::Io { addr: SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0), source })
        }
    };
    match served {
        Ok(Stopped::Gracefully) => ExitCode::SUCCESS,
        Ok(Stopped::AtOnce) => ExitCode::from(128 + 15),
        Err(error) => {
            tracing::error!(error = &error as &dyn std::error::Error, "the workload cannot run");
            complain(&error);
            ExitCode::FAILURE
        }
    }
}

async fn serve_env(env: impl Fn(&str) -> Option<String>) -> Result<Stopped, ServeError> {
    let settings = Settings::parse(&env, Timestamp::now())?;
    let ip = env("POD_IP").unwrap_or_else(|| Ipv4Addr::LOCALHOST.to_string());
    let port = env("PORT").unwrap_or_else(|| PORT.to_string());
    let (Ok(parsed_ip), Ok(parsed_port)) = (ip.parse::<IpAddr>(), port.parse::<u16>()) else {
        return Err(ServeError::Address { ip, port });
    };
    let addr = SocketAddr::new(parsed_ip, parsed_port);
    let listener =
        TcpListener::bind(addr).await.map_err(|source| ServeError::Io { addr, source })?;
    serve(settings, listener).await
}

/// A line of the log. A reader that has gone away is not an error.
fn say(line: &str) {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).unwrap_or_default();
}

/// The last message of a process that has no log set up.
fn complain(error: &ServeError) {
    use std::{error::Error as _, io::Write as _};
    let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
    // Without stderr the message is lost.
    writeln!(std::io::stderr(), "evenkeel workload: {error}{cause}").unwrap_or_default();
}

/// Serves until SIGTERM: any GET, POST with an Idempotency-Key, `/health`, `/ready`, `/metrics`.
///
/// A POST whose key is in the ledger is answered 200 with `Idempotent-Replay: true` and not
/// executed again. By default a SIGTERM ends the process with requests in it: draining is the job
/// of the component that sends them here.
pub async fn serve(settings: Settings, listener: TcpListener) -> Result<Stopped, ServeError> {
    let addr = listener.local_addr().unwrap_or_else(|_| ([0, 0, 0, 0], 0).into());
    let io = |source| ServeError::Io { addr, source };
    let mut terminate = signal(SignalKind::terminate()).map_err(io)?;
    let graceful = settings.graceful;
    let ledger = settings.ledger.as_deref().map(Ledger::open).transpose()?;
    let seed = u64::from(std::process::id()) ^ settings.started.as_nanosecond().cast_bits();
    let server = Rc::new(Server {
        settings,
        ledger: RefCell::new(ledger),
        metrics: RefCell::default(),
        access: RefCell::default(),
        rng: RefCell::new(Rng::new(seed)),
        count: Cell::new(0),
        stopping: Cell::new(false),
    });
    let (version, pod) = (&server.settings.version, &server.settings.pod);
    say(&format!("version {version} of pod {pod} listens on {addr}"));
    let (stop, stopped) = watch::channel(false);
    let local = LocalSet::new();
    local
        .run_until(async move {
            let mut connections = JoinSet::new();
            loop {
                tokio::select! {
                    biased;
                    _ = terminate.recv() => break,
                    Some(_) = connections.join_next() => {}
                    accepted = listener.accept() => match accepted {
                        Ok((stream, _)) => {
                            let task = connection(server.clone(), stream, stopped.clone());
                            connections.spawn_local(task);
                        }
                        // Out of descriptors: those in use will be given back.
                        Err(error) => {
                            tracing::warn!(%error, "connection not accepted");
                            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
                        }
                    },
                }
            }
            server.say_access();
            say("stopping");
            if !graceful {
                return Ok(Stopped::AtOnce);
            }
            server.stopping.set(true);
            drop(listener);
            stop.send_replace(true);
            while connections.join_next().await.is_some() {}
            Ok(Stopped::Gracefully)
        })
        .await
}

/// Bits of a wide number that are good enough for a seed.
trait CastBits {
    fn cast_bits(self) -> u64;
}

impl CastBits for i128 {
    fn cast_bits(self) -> u64 {
        u64::try_from(self & i128::from(u64::MAX)).unwrap_or_default()
    }
}

async fn connection(server: Rc<Server>, stream: TcpStream, mut stop: watch::Receiver<bool>) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "no TCP_NODELAY");
    }
    let service = service_fn(move |request| {
        let server = server.clone();
        async move { Ok::<_, Infallible>(server.answer(request).await) }
    });
    let mut serving = std::pin::pin!(
        hyper::server::conn::http1::Builder::new()
            .max_buf_size(16 * 1024)
            .serve_connection(TokioIo::new(stream), service)
    );
    let ended = tokio::select! {
        biased;
        ended = serving.as_mut() => ended,
        _ = stop.wait_for(|stop| *stop) => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended badly");
    }
}

struct Server {
    settings: Settings,
    ledger: RefCell<Option<Ledger>>,
    metrics: RefCell<Metrics>,
    access: RefCell<Access>,
    rng: RefCell<Rng>,
    count: Cell<u64>,
    stopping: Cell<bool>,
}

impl Server {
    fn say_access(&self) {
        if let Some(line) = self.access.borrow_mut().take() {
            say(&line);
        }
    }

    async fn answer(self: &Rc<Self>, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let path = request.uri().path().to_owned();
        match path.as_str() {
            "/metrics" => {
                let text = self.metrics.borrow().render(&self.settings.service);
                let mut response = self.reply(200, text);
                let kind = header::HeaderValue::from_static("text/plain; version=0.0.4");
                response.headers_mut().insert(header::CONTENT_TYPE, kind);
                return response;
            }
            "/ready" | "/readyz" if self.stopping.get() => {
                return self.reply(503, r#"{"status":"stopping"}"#.to_owned());
            }
            _ => {}
        }
        let (began, method) = (Instant::now(), request.method().clone());
        let key =
            request.headers().get("idempotency-key").map(|key| key.to_str().map(str::to_owned));
        let response = if Limited::new(request.into_body(), BODY_BYTES_MAX).collect().await.is_err()
        {
            self.reply(413, r#"{"error":"the body is incomplete or over 1 MiB"}"#.to_owned())
        } else {
            match key.transpose() {
                Ok(key) => self.work(method.as_str(), &path, key).await,
                Err(_) => self.bad_key(),
            }
        };
        let status = response.status().as_u16();
        if !path.starts_with("/health") && !path.starts_with("/ready") {
            let took = began.elapsed();
            self.metrics.borrow_mut().observe(method.as_str(), &path, status, took);
            if self.access.borrow_mut().observe(method.as_str(), &path, status, took) {
                let server = self.clone();
                tokio::task::spawn_local(async move {
                    tokio::time::sleep(LINE_EVERY).await;
                    server.say_access();
                });
            }
        }
        response
    }

    async fn work(&self, method: &str, path: &str, key: Option<String>) -> Response<Full<Bytes>> {
        let fine = |key: &String| {
            (1..=KEY_BYTES_MAX).contains(&key.len()) && key.bytes().all(|b| b.is_ascii_graphic())
        };
        if key.as_ref().is_some_and(|key| !fine(key)) {
            return self.bad_key();
        }
        let number = self.count.get() + 1;
        self.count.set(number);
        let asked = crate::Request { number, method, path };
        let answer = respond(&self.settings, &asked, Timestamp::now(), &mut self.rng.borrow_mut());
        if answer.executes
            && let Some(key) = &key
            && let Some(known) =
                self.ledger.borrow_mut().as_mut().map(|ledger| ledger.contains(key))
        {
            match known {
                Ok(true) => return self.replay(),
                Ok(false) => {}
                Err(error) => return self.broken_ledger(&error),
            }
        }
        if !answer.latency.is_zero() {
            tokio::time::sleep(answer.latency).await;
        }
        if method == "POST" && !answer.executes {
            self.metrics.borrow_mut().transaction("order", answer.status);
        }
        if answer.executes {
            self.execute(answer, key)
        } else {
            self.reply(answer.status, answer.body)
        }
    }

    /// The effect of a POST. After the processing time and just before the answer, so that a
    /// killed instance has either not executed it or recorded that it did.
    fn execute(&self, answer: Answer, key: Option<String>) -> Response<Full<Bytes>> {
        let Settings { version, pod, .. } = &self.settings;
        // Without a key every request is one of its own.
        let key = key.unwrap_or_else(|| format!("none-{pod}-{}", self.count.get()));
        let millis = Timestamp::now().as_millisecond();
        let execution = Execution { millis, version: version.clone(), pod: pod.clone(), key };
        let executed = match self.ledger.borrow_mut().as_mut() {
            Some(ledger) => ledger.execute(&execution),
            None => Ok(true),
        };
        match executed {
            Ok(true) => {
                self.metrics.borrow_mut().transaction("order", answer.status);
                self.reply(answer.status, answer.body)
            }
            Ok(false) => self.replay(),
            Err(error) => self.broken_ledger(&error),
        }
    }

    fn replay(&self) -> Response<Full<Bytes>> {
        let mut response = self.reply(200, r#"{"replay":true}"#.to_owned());
        let yes = header::HeaderValue::from_static("true");
        response.headers_mut().insert("idempotent-replay", yes);
        response
    }

    fn bad_key(&self) -> Response<Full<Bytes>> {
        let body = r#"{"error":"Idempotency-Key must be 1 to 255 printable characters"}"#;
        self.reply(400, body.to_owned())
    }

    fn broken_ledger(&self, error: &LedgerError) -> Response<Full<Bytes>> {
        tracing::error!(error = error as &dyn std::error::Error, "request not executed");
        self.reply(503, r#"{"error":"the ledger cannot be written"}"#.to_owned())
    }

    fn reply(&self, status: u16, body: String) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::new(Bytes::from(body)));
        *response.status_mut() =
            hyper::StatusCode::from_u16(status).expect("only valid statuses are answered");
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
        for (name, value) in [("x-version", &self.settings.version), ("x-pod", &self.settings.pod)]
        {
            if let Ok(value) = header::HeaderValue::from_str(value) {
                headers.insert(name, value);
            }
        }
        response
    }
}
