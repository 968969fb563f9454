//! Looking at a metrics server as it is: bounded answers, failures, and nothing to see.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test stops at the first surprise")]

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use evenkeel_base::{Clock, FixedClock};
use evenkeel_control::{BoxFuture, Metrics, MetricsError, Sample, Series, Span};
use evenkeel_slo::{
    Input, Options, Slo,
    budget::{Coverage, Exclusions},
    controller::{Sight, Tracker},
    load,
};
use futures::{FutureExt as _, executor::block_on};
use jiff::Timestamp;

const EVERY: Duration = Duration::from_secs(15);
const NOW: i64 = 100 * 86_400;

/// So many pods, each with 10 requests a second of which one fails, since the epoch.
struct Server {
    pods: usize,
    /// More points than this are too large an answer.
    points_max: usize,
    /// Times it has been asked.
    asked: Mutex<u32>,
    /// Does not answer these questions, counted from 1.
    deaf: Box<dyn Fn(u32) -> bool + Send + Sync>,
    /// Never answers from this question on.
    hangs_from: u32,
    /// Queries that find something at once.
    evidence: Vec<String>,
}

/// Changes a number, and says what it is then.
fn count(number: &Mutex<u32>, change: impl Fn(&mut u32)) -> u32 {
    let mut number = number.lock().unwrap();
    change(&mut number);
    *number
}

impl Server {
    fn new(pods: usize) -> Self {
        Self {
            pods,
            points_max: 600_000,
            asked: Mutex::default(),
            deaf: Box::new(|_| false),
            hangs_from: u32::MAX,
            evidence: Vec::new(),
        }
    }

    fn ask(&self) -> Result<u32, MetricsError> {
        let asked = count(&self.asked, |asked| *asked += 1);
        if (self.deaf)(asked) {
            return Err(MetricsError::Unreachable { problem: "no answer within 5s".to_owned() });
        }
        Ok(asked)
    }

    fn series(&self, expr: &str, span: Span) -> Result<Vec<Series>, MetricsError> {
        let points = span.moments().count() * self.pods;
        if points > self.points_max {
            return Err(MetricsError::Unreachable { problem: "length limit exceeded".to_owned() });
        }
        let per_second = if expr.contains("5..") { 1.0 } else { 10.0 };
        #[expect(clippy::cast_precision_loss, reason = "small numbers")]
        let value = |at: Timestamp| (at, at.as_second() as f64 * per_second);
        let pod = |n: usize| Series {
            labels: BTreeMap::from([("pod".to_owned(), format!("p{n}"))]),
            points: span.moments().map(value).collect(),
        };
        Ok((0..self.pods).map(pod).collect())
    }
}

impl Metrics for Server {
    fn query<'a>(
        &'a self,
        expr: &'a str,
        _at: Timestamp,
    ) -> BoxFuture<'a, Result<Vec<Sample>, MetricsError>> {
        Box::pin(async move {
            let found = self.evidence.iter().any(|query| query == expr);
            let sample = Sample { labels: BTreeMap::new(), value: 1.0 };
            Ok(found.then_some(sample).into_iter().collect())
        })
    }

    fn query_range<'a>(
        &'a self,
        expr: &'a str,
        span: Span,
    ) -> BoxFuture<'a, Result<Vec<Series>, MetricsError>> {
        Box::pin(async move {
            if self.ask()? >= self.hangs_from {
                futures::future::pending::<()>().await;
            }
            self.series(expr, span)
        })
    }
}

fn slo(events: bool) -> Slo {
    let sli = if events {
        "events: {error_query: 'sum(rate(x_total{app=\"a\",code=~\"5..\"}[{{.window}}]))', \
         total_query: 'sum(rate(x_total{app=\"a\"}[{{.window}}]))'}"
    } else {
        "raw: {error_ratio_query: 'errors:ratio{window=\"{{.window}}\"}'}"
    };
    let text = format!(
        "version: prometheus/v1\nservice: api\nslos:\n- name: requests\n  objective: 99.9\n  \
         sli: {{{sli}}}\n  alerting: {{page_alert: {{disable: true}}, ticket_alert: {{disable: true}}}}\n"
    );
    let inputs = [Input { name: "slo.yaml".to_owned(), text }];
    let mut findings = Vec::new();
    let loaded = load(&inputs, &Options::default(), &mut findings);
    loaded.groups.first().unwrap_or_else(|| panic!("{findings:?}")).slos[0].clone()
}

fn now() -> FixedClock {
    FixedClock(Timestamp::from_second(NOW).unwrap())
}

/// `bad/total` of the whole window.
fn counted(tracker: &Tracker) -> String {
    let mut all = tracker.histories().values();
    let (Some(history), None) = (all.next(), all.next()) else { return "nothing".to_owned() };
    let tally = history.sum(now().now(), history.window());
    format!("{}/{}", tally.bad().as_f64(), tally.total().as_f64())
}

/// Looks until all is counted; what each look said.
fn look(tracker: &mut Tracker, server: &Server) -> Vec<String> {
    let mut said = Vec::new();
    for _ in 0..500 {
        let looked = block_on(tracker.advance(server, &now(), EVERY));
        said.push(looked.map_or_else(|e| e.to_string(), |()| format!("{:?}", tracker.sight())));
        if !matches!(tracker.sight(), Sight::Counting(_)) {
            return said;
        }
    }
    panic!("not counted in {} looks", said.len());
}

/// 30 days at 10 requests a second and pod.
const MONTH: u64 = 30 * 86_400 * 10;

#[test]
fn a_month_is_counted_in_answers_the_server_can_give() {
    // As 80 series of which 16 MiB are too much, scaled down.
    let server = Server { points_max: 640, ..Server::new(20) };
    let mut tracker = Tracker::new(&slo(true)).unwrap();
    let said = look(&mut tracker, &server);
    assert_eq!(counted(&tracker), format!("{}/{}", MONTH * 2, MONTH * 20));
    assert!(said[0].contains("length limit"), "a first answer was too large: {said:?}");
    assert!(said.iter().any(|s| s == "Counting(50)"), "progress is shown: {said:?}");
    assert_eq!(said.last().unwrap(), "Counted");
    assert!(said.len() < 40, "{}", said.len());
    // A few series take one look, as a person waits for them.
    assert_eq!(look(&mut Tracker::new(&slo(true)).unwrap(), &Server::new(3)), ["Counted"]);
}

#[test]
fn what_was_counted_stays_counted_when_the_server_fails() {
    let mut tracker = Tracker::new(&slo(true)).unwrap();
    let server = Server { deaf: Box::new(|n| n % 7 == 0), ..Server::new(3) };
    let said = look(&mut tracker, &server);
    assert!(said.iter().any(|s| s.contains("no answer within 5s")), "{said:?}");
    assert_eq!(counted(&tracker), format!("{}/{}", MONTH * 3 / 10, MONTH * 3));
}

#[test]
fn a_look_that_is_cut_short_loses_nothing() {
    let mut tracker = Tracker::new(&slo(true)).unwrap();
    let server = Server { hangs_from: 7, ..Server::new(3) };
    let clock = now();
    assert!(tracker.advance(&server, &clock, EVERY).now_or_never().is_none(), "it hangs");
    let before = *server.asked.lock().unwrap();
    let server = Server::new(3);
    assert_eq!(look(&mut tracker, &server), ["Counted"]);
    assert_eq!(counted(&tracker), format!("{}/{}", MONTH * 3 / 10, MONTH * 3));
    let again = *server.asked.lock().unwrap();
    assert!(again < 14 - before + 2, "{before} questions were answered, {again} asked after that");
}

#[test]
fn nothing_to_see_is_no_traffic_only_when_it_would_be_seen() {
    let sight = |server: &Server, had_events: bool| {
        let mut tracker = Tracker::new(&slo(true)).unwrap().within("shop");
        if had_events {
            tracker.had_events();
        }
        let said = look(&mut tracker, server).join(" ");
        let coverage = tracker.histories().values().next().map(|history| {
            let stale = evenkeel_slo::PromDuration::from_ms(300_000);
            history.standing(now().now(), &Exclusions::default(), stale).coverage
        });
        (said, coverage)
    };
    let nobody = Server::new(0);
    let (said, coverage) = sight(&nobody, false);
    assert_eq!(said, r#"NoSeries { query: "x_total{app=\"a\"}", evidence: None }"#);
    assert_eq!(coverage, None);
    for query in [
        "count({app=\"a\"})",
        "count({__name__=\"x_total\"})",
        "count(up{namespace=\"shop\"} == 1)",
    ] {
        let scraped = Server { evidence: vec![query.to_owned()], ..Server::new(0) };
        let (said, coverage) = sight(&scraped, false);
        assert!(said.contains("evidence: Some"), "{query}: {said}");
        assert_eq!(coverage, Some(Coverage::Quiet), "{query}");
        // Its counters were there and are gone: that is not known to be no traffic.
        let (said, coverage) = sight(&scraped, true);
        assert!(said.contains("evidence: None"), "{said}");
        assert_eq!(coverage, None);
    }
}

/// A ratio of nothing by nothing.
struct Quiet;

impl Metrics for Quiet {
    fn query<'a>(
        &'a self,
        _expr: &'a str,
        _at: Timestamp,
    ) -> BoxFuture<'a, Result<Vec<Sample>, MetricsError>> {
        Box::pin(async { Ok(vec![Sample { labels: BTreeMap::new(), value: f64::NAN }]) })
    }
}

#[test]
fn a_ratio_of_no_events_is_quiet_and_not_lost() {
    let mut tracker = Tracker::new(&slo(false)).unwrap();
    for _ in 0..9 {
        block_on(tracker.advance(&Quiet, &now(), EVERY)).unwrap();
    }
    assert_eq!(tracker.sight(), &Sight::Counted);
    let history: Vec<_> = tracker.histories().values().map(Arc::clone).collect();
    let stale = evenkeel_slo::PromDuration::from_ms(300_000);
    let standing = history[0].standing(now().now(), &Exclusions::default(), stale);
    assert_eq!((standing.coverage, standing.remaining()), (Coverage::Quiet, Some(1.0)));
}
