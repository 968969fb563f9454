//! The moving parts of `bench/rules/run`: made-up counters as text, as an exporter and in our
//! store, the rules of many SLOs, and a server that scrapes, evaluates and answers.
//!
//! ```text
//! rules_bench text     SHAPE            OpenMetrics for `promtool tsdb create-blocks-from`
//! rules_bench rules    SHAPE            a rule file, 17 rules per service
//! rules_bench exporter SHAPE PORT       the same counters, now
//! rules_bench serve    SHAPE PORT EXPORTER RULES   (RULES may be "-")
//! SHAPE = END,SERVICES,PODS,RAW_S       END in seconds, RAW_S seconds of raw samples before it
//! ```

mod rules;

use std::{
    convert::Infallible,
    error::Error,
    io::{BufWriter, Write},
    net::SocketAddr,
    str::FromStr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use evenkeel_base::Clock;
use evenkeel_control::{BoxFuture, Timer};
use evenkeel_promql::{labels::Labels, rules::RuleFile, sample::Value};
use evenkeel_telemetry::{
    Limits, RuleRunner, ScrapeSettings, Scraper, Target, Telemetry,
    shell::{HttpFetch, Server},
};
use http::{Request, Response};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use jiff::{SignedDuration, Timestamp};

const STEP_S: i64 = 60;
const PERIOD_S: i64 = 30 * 86_400;
const CODES: [(&str, f64); 3] = [("200", 10.1), ("404", 0.1), ("500", 0.005)];

/// How much data.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    end_s: i64,
    services: u32,
    pods: u32,
    raw_s: i64,
}

impl FromStr for Shape {
    type Err = Box<dyn Error>;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts: Vec<&str> = text.split(',').collect();
        let [end, services, pods, raw] = parts.as_slice() else {
            return Err("a shape is END,SERVICES,PODS,RAW_S".into());
        };
        Ok(Self {
            end_s: end.parse()?,
            services: services.parse()?,
            pods: pods.parse()?,
            raw_s: raw.parse()?,
        })
    }
}

/// One counter: grows evenly forever, each from another start.
struct Counter {
    service: u32,
    pod: u32,
    code: &'static str,
    rate: f64,
    origin_s: i64,
}

impl Counter {
    #[expect(clippy::cast_precision_loss, reason = "seconds and counts below 2^52")]
    fn at(&self, second: f64) -> f64 {
        let phase = f64::from((self.service * 31 + self.pod * 17) % 997);
        (self.rate * (second - self.origin_s as f64 + phase)).floor()
    }

    fn labels(&self) -> Labels {
        Labels::from_pairs([
            ("__name__", "http_requests_total".to_owned()),
            ("job", service_name(self.service)),
            ("pod", format!("{}-{}", service_name(self.service), self.pod)),
            ("code", self.code.to_owned()),
        ])
    }

    fn text(&self) -> String {
        let job = service_name(self.service);
        let (pod, code) = (self.pod, self.code);
        format!("http_requests_total{{job=\"{job}\",pod=\"{job}-{pod}\",code=\"{code}\"}}")
    }
}

fn service_name(service: u32) -> String {
    format!("svc{service:03}")
}

impl Shape {
    fn counters(self) -> impl Iterator<Item = Counter> {
        let origin_s = self.end_s - self.raw_s - 86_400;
        (0..self.services).flat_map(move |service| {
            (0..self.pods).flat_map(move |pod| {
                CODES.map(|(code, rate)| Counter { service, pod, code, rate, origin_s })
            })
        })
    }

    fn raw_times(self) -> impl Iterator<Item = i64> {
        let start = self.end_s - self.raw_s;
        (0..=self.raw_s / STEP_S).map(move |step| start + step * STEP_S)
    }

    fn ratio_times(self) -> impl Iterator<Item = i64> {
        let start = self.end_s - PERIOD_S;
        (0..=PERIOD_S / STEP_S).map(move |step| start + step * STEP_S)
    }
}

/// A recorded error ratio, from 0 to 0.001, with six digits so that text and memory agree.
fn ratio(service: u32, second: i64) -> f64 {
    let mixed = (second / STEP_S).wrapping_mul(2_654_435_761) + i64::from(service);
    f64::from(u32::try_from(mixed.rem_euclid(1000)).unwrap_or_default()) / 1e6
}

#[expect(clippy::cast_precision_loss, reason = "seconds below 2^52")]
fn float(second: i64) -> f64 {
    second as f64
}

fn text(shape: Shape, out: &mut impl Write) -> Result<(), Box<dyn Error>> {
    writeln!(out, "# TYPE http_requests counter")?;
    for counter in shape.counters() {
        let head = counter.text();
        for second in shape.raw_times() {
            writeln!(out, "{head} {} {second}", counter.at(float(second)))?;
        }
    }
    writeln!(out, "# TYPE slo:sli_error:ratio_rate5m gauge")?;
    for service in 0..shape.services {
        let head = format!("slo:sli_error:ratio_rate5m{}", rules::recorded_labels(service));
        for second in shape.ratio_times() {
            writeln!(out, "{head} {} {second}", ratio(service, second))?;
        }
    }
    writeln!(out, "# EOF")?;
    Ok(())
}

fn fill(telemetry: &Telemetry, shape: Shape) -> Result<(), Box<dyn Error>> {
    let mut store = telemetry.write();
    for counter in shape.counters() {
        let id = store.series(&counter.labels())?;
        for second in shape.raw_times() {
            store.append_to(id, second * 1000, Value::Float(counter.at(float(second))), 0)?;
        }
    }
    for service in 0..shape.services {
        let id = store.series(&rules::recorded_series(service))?;
        for second in shape.ratio_times() {
            store.append_to(id, second * 1000, Value::Float(ratio(service, second)), 0)?;
        }
    }
    Ok(())
}

async fn exporter(shape: Shape, address: SocketAddr) -> Result<(), Box<dyn Error>> {
    let listener = tokio::net::TcpListener::bind(address).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(async move {
            let service = service_fn(move |_: Request<Incoming>| async move {
                let now = RealTime::start().now().as_second();
                let mut body = b"# TYPE http_requests_total counter\n".to_vec();
                for counter in shape.counters() {
                    // Writing to memory cannot fail.
                    let line = (counter.text(), counter.at(float(now)));
                    writeln!(body, "{} {}", line.0, line.1).unwrap_or_default();
                }
                let mut response = Response::new(Full::new(Bytes::from(body)));
                let kind = http::HeaderValue::from_static("text/plain; version=0.0.4");
                response.headers_mut().insert(http::header::CONTENT_TYPE, kind);
                Ok::<_, Infallible>(response)
            });
            // The peer hangs up when it is stopped.
            drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
        });
    }
}

async fn serve(
    shape: Shape,
    address: SocketAddr,
    exporter: &str,
    rules: &str,
) -> Result<(), Box<dyn Error>> {
    let limits = Limits {
        closed_ranges: true,
        series_max: 1_000_000,
        memory_bytes_max: 8 << 30,
        retention: Duration::from_hours(60 * 24),
        ..Limits::default()
    };
    let telemetry = Telemetry::new(limits);
    fill(&telemetry, shape)?;
    let time = Arc::new(RealTime::start());
    let settings = ScrapeSettings {
        samples_max: 1_000_000,
        body_bytes_max: 256 << 20,
        ..ScrapeSettings::every(Duration::from_secs(30))
    };
    let fetch = Arc::new(HttpFetch::new(&settings));
    let mut target = Target::fixed("sim", exporter);
    target.labels = Labels::empty();
    target.honor_labels = true;
    let mut scraper = Scraper::new(
        telemetry.clone(),
        settings,
        fetch,
        Arc::<RealTime>::clone(&time),
        Arc::<RealTime>::clone(&time),
    );
    if rules != "-" {
        let file = RuleFile::parse(&std::fs::read_to_string(rules)?)?;
        telemetry.set_rules(rules, &file, time.now().as_millisecond())?;
        scraper = scraper.with_target(target);
    }
    let runner = RuleRunner::new(
        telemetry.clone(),
        Arc::<RealTime>::clone(&time),
        Arc::<RealTime>::clone(&time),
    );
    let server = Server::bind(address, telemetry, time).await?;
    futures::join!(server.run(), scraper.run(), runner.run());
    Ok(())
}

/// The wall clock and tokio's timers.
struct RealTime {
    started: Timestamp,
    since: Instant,
}

impl RealTime {
    #[expect(clippy::disallowed_methods, reason = "a benchmark runs in real time")]
    fn start() -> Self {
        Self { started: Timestamp::now(), since: Instant::now() }
    }
}

impl Clock for RealTime {
    fn now(&self) -> Timestamp {
        let passed = SignedDuration::try_from(self.since.elapsed()).unwrap_or(SignedDuration::MAX);
        self.started.checked_add(passed).unwrap_or(Timestamp::MAX)
    }
}

impl Timer for RealTime {
    fn sleep(&self, wait: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(wait))
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let here = |port: &str| -> Result<SocketAddr, Box<dyn Error>> {
        Ok(SocketAddr::from(([127, 0, 0, 1], port.parse()?)))
    };
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let mut out = BufWriter::with_capacity(1 << 20, std::io::stdout().lock());
    match args.as_slice() {
        ["text", shape] => text(shape.parse()?, &mut out)?,
        ["rules", shape] => rules::write(shape.parse::<Shape>()?.services, &mut out)?,
        ["exporter", shape, port] => runtime.block_on(exporter(shape.parse()?, here(port)?))?,
        ["serve", shape, port, exporter, rules] => {
            runtime.block_on(serve(shape.parse()?, here(port)?, exporter, rules))?;
        }
        _ => return Err("see the top of the source for the usage".into()),
    }
    out.flush()?;
    Ok(())
}
