//! A world of processes, each with a run loop, around one server and one door.

use std::{
    fmt::Write as _,
    sync::{Arc, Mutex},
    time::Duration,
};

use evenkeel_api::{GroupKind, Key, Obj};
use evenkeel_control::{
    Activity, AuditId, BoxFuture, Door, Host, LeaseSettings, Objection, Observer, Outcome, Pass,
    Petition, RunLoop, Store, Verdict,
};
use futures::{channel::oneshot, executor::LocalPool, task::LocalSpawnExt as _};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::{Value, json};

use crate::{
    fixture::Fixture,
    store::{Client, Server},
    time::{Time, Watch, start},
};

pub(crate) const NS: &str = "shop";

/// What happened when, one line each.
#[derive(Clone)]
pub(crate) struct Log {
    lines: Arc<Mutex<Vec<String>>>,
    time: Arc<Time>,
}

impl Log {
    pub(crate) fn line(&self, line: &str) {
        let ms = self.time.elapsed_ms();
        let line = format!("{}.{:03} {line}", ms / 1_000, ms % 1_000);
        self.lines.lock().unwrap().push(line);
    }
}

/// How the door answers.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Answer {
    Allow,
    /// Not now; after this many seconds, or without a time.
    Hold(Option<i64>),
    Deny,
    /// Never.
    Silence,
    Panic,
}

type Rule = Box<dyn Fn(&Petition<'_>) -> Answer + Send>;

/// A door with a set answer, which logs what it was asked.
pub(crate) struct Gate {
    rule: Mutex<Rule>,
    /// Whether outcomes are recorded.
    pub(crate) settles: Mutex<bool>,
    log: Log,
    /// `text` of every petition.
    pub(crate) asked: Mutex<Vec<String>>,
    /// The text of every failure.
    pub(crate) failures: Mutex<Vec<String>>,
}

impl Gate {
    pub(crate) fn answer(&self, answer: Answer) {
        self.rule(move |_| answer);
    }

    pub(crate) fn rule(&self, rule: impl Fn(&Petition<'_>) -> Answer + Send + 'static) {
        *self.rule.lock().unwrap() = Box::new(rule);
    }
}

impl Door for Gate {
    fn ask<'a>(&'a self, petition: &'a Petition<'a>) -> BoxFuture<'a, Verdict> {
        let answer = (self.rule.lock().unwrap())(petition);
        let id = self.asked.lock().unwrap().len();
        self.asked.lock().unwrap().push(format!("{} {petition:?}", petition.text));
        let objection = |policy, reason: &str| Objection { policy, reason: reason.to_owned() };
        let objections = vec![
            objection("budget", "the error budget is spent"),
            objection("freeze", "nothing changes on a Friday"),
        ];
        let verdict = match answer {
            Answer::Allow => "allow",
            Answer::Hold(_) => "hold",
            Answer::Deny => "deny",
            Answer::Silence => "silence",
            Answer::Panic => "panic",
        };
        self.log.line(&format!("ask {}: {verdict}", petition.text));
        Box::pin(async move {
            match answer {
                Answer::Allow => Verdict::Allow(AuditId(id.to_string())),
                Answer::Hold(after) => {
                    let after = after.map(SignedDuration::from_secs);
                    let until = after.map(|after| petition.now.checked_add(after).unwrap());
                    Verdict::Hold { until, objections }
                }
                Answer::Deny => Verdict::Deny { objections },
                Answer::Silence => futures::future::pending().await,
                Answer::Panic => panic!("a defect of the door"),
            }
        })
    }

    fn settle<'a>(&'a self, _: &'a AuditId, outcome: Outcome<'a>) -> BoxFuture<'a, ()> {
        match outcome {
            Outcome::Done => self.log.line("settle done"),
            Outcome::Failed(words) => {
                self.log.line(&format!("settle failed: {words}"));
                self.failures.lock().unwrap().push(words.to_owned());
            }
        }
        let takes = *self.settles.lock().unwrap();
        Box::pin(async move {
            if !takes {
                futures::future::pending::<()>().await;
            }
        })
    }
}

/// Counts, remembers, and logs which process leads.
struct Eye {
    activity: Arc<Activity>,
    process: &'static str,
    log: Log,
}

impl Observer for Eye {
    fn passed(&self, pass: &Pass) {
        self.activity.passed(pass);
    }
    fn planned(&self, controller: &'static str, does: &'static str) {
        self.activity.planned(controller, does);
    }
    fn predicted(&self, controller: &'static str, is_new: bool) {
        self.activity.predicted(controller, is_new);
    }
    fn acted(&self, controller: &'static str, verb: &'static str, outcome: &'static str) {
        self.activity.acted(controller, verb, outcome);
    }
    fn judged(&self, controller: &'static str, verdict: &'static str, all: &[Objection]) {
        self.activity.judged(controller, verdict, all);
    }
    fn watch_interrupted(&self, controller: &'static str) {
        self.activity.watch_interrupted(controller);
    }
    fn queued(&self, controller: &'static str, depth: usize) {
        self.activity.queued(controller, depth);
    }
    fn led(&self, lease: &Key, leads: bool) {
        self.activity.led(lease, leads);
        self.log.line(&format!("{} {}", self.process, if leads { "leads" } else { "follows" }));
    }
}

/// One process.
struct Process {
    name: &'static str,
    pool: LocalPool,
    stop: Option<oneshot::Sender<()>>,
    ended: oneshot::Receiver<()>,
    /// Not scheduled before this: a laptop asleep, a machine out of memory.
    suspended_until: Timestamp,
}

pub(crate) struct World {
    pub(crate) time: Arc<Time>,
    pub(crate) server: Server,
    pub(crate) gate: Arc<Gate>,
    pub(crate) log: Log,
    pub(crate) activity: Arc<Activity>,
    processes: Vec<Process>,
}

/// How a process is started.
pub(crate) struct Setup {
    pub(crate) name: &'static str,
    pub(crate) client: Client,
    pub(crate) watch: Watch,
    pub(crate) lease: Option<LeaseSettings>,
    pub(crate) controllers: Vec<Fixture>,
    /// A controller of another make.
    pub(crate) other: Option<Box<dyn FnOnce(RunLoop) -> RunLoop>>,
    pub(crate) host: Box<dyn FnOnce(Host) -> Host>,
}

impl World {
    pub(crate) fn new() -> Self {
        let time = Arc::<Time>::default();
        let log = Log { lines: Arc::default(), time: time.clone() };
        let gate = Gate {
            rule: Mutex::new(Box::new(|_| Answer::Allow)),
            settles: Mutex::new(true),
            log: log.clone(),
            asked: Mutex::default(),
            failures: Mutex::default(),
        };
        Self {
            server: Server::new(time.clone(), log.clone()),
            time,
            gate: Arc::new(gate),
            log,
            activity: Arc::default(),
            processes: Vec::new(),
        }
    }

    /// A world with one widget `w` and one process that runs this controller.
    pub(crate) fn of(controller: Fixture) -> Self {
        let mut world = Self::new();
        world.server.add(widget("w", "1"));
        world.boot_with(vec![controller]);
        world
    }

    pub(crate) fn setup(&self, name: &'static str, controllers: Vec<Fixture>) -> Setup {
        Setup {
            name,
            client: self.server.client(name),
            watch: Watch::new(&self.time),
            lease: None,
            controllers,
            other: None,
            host: Box::new(|host| host),
        }
    }

    pub(crate) fn boot_with(&mut self, controllers: Vec<Fixture>) {
        let setup = self.setup("one", controllers);
        self.boot(setup);
    }

    pub(crate) fn boot(&mut self, setup: Setup) {
        let store: Arc<dyn Store> = Arc::new(setup.client);
        let eye =
            Eye { activity: self.activity.clone(), process: setup.name, log: self.log.clone() };
        let host = Host::new(&store, Arc::new(setup.watch), self.time.clone())
            .with_door(self.gate.clone())
            .with_observer(Arc::new(eye));
        let mut run = RunLoop::new((setup.host)(host));
        if let Some(lease) = setup.lease {
            run = run.with_lease(lease);
        }
        for controller in setup.controllers {
            run = run.with(controller);
        }
        if let Some(other) = setup.other {
            run = other(run);
        }
        let (stop, stopped) = oneshot::channel::<()>();
        let (end, ended) = oneshot::channel();
        let pool = LocalPool::new();
        let task = async move {
            run.run_until(async { stopped.await.unwrap_or_default() }).await;
            end.send(()).unwrap_or_default();
        };
        pool.spawner().spawn_local(task).unwrap();
        self.processes.push(Process {
            name: setup.name,
            pool,
            stop: Some(stop),
            ended,
            suspended_until: Timestamp::MIN,
        });
    }

    fn process(&mut self, name: &str) -> &mut Process {
        self.processes.iter_mut().find(|process| process.name == name).unwrap()
    }

    /// Asks a process to stop.
    pub(crate) fn stop(&mut self, name: &str) {
        let stop = self.process(name).stop.take().unwrap();
        stop.send(()).unwrap_or_default();
    }

    /// Whether a process has ended by itself.
    pub(crate) fn has_ended(&mut self, name: &str) -> bool {
        self.process(name).ended.try_recv() == Ok(Some(()))
    }

    pub(crate) fn kill(&mut self, name: &str) {
        self.processes.retain(|process| process.name != name);
    }

    /// Does not schedule a process for this long.
    pub(crate) fn suspend(&mut self, name: &str, wait: Duration) {
        let until = self.time.steady().checked_add(wait).unwrap();
        self.process(name).suspended_until = until;
    }

    /// Processes everything that can happen without time passing.
    pub(crate) fn settle(&mut self) {
        let marks =
            |world: &Self| (world.server.request_count(), world.log.lines.lock().unwrap().len());
        loop {
            let before = marks(self);
            let now = self.time.steady();
            for process in self.processes.iter_mut().filter(|p| p.suspended_until <= now) {
                process.pool.run_until_stalled();
            }
            if marks(self) == before {
                return;
            }
            assert!(before.0 < 100_000, "a storm of requests:\n{}", self.timeline());
        }
    }

    /// Advances to the next thing that is due, if there is one up to `end`; whether there was.
    pub(crate) fn leap(&mut self, end: Timestamp) -> bool {
        self.settle();
        let now = self.time.steady();
        let waking = self.processes.iter().map(|process| process.suspended_until);
        let waking = waking.filter(|at| *at > now && *at <= end).min();
        if self.time.leap(waking.unwrap_or(end)) {
            return true;
        }
        waking.is_some_and(|at| {
            self.time.set(at);
            true
        })
    }

    pub(crate) fn run_for(&mut self, seconds: u64) {
        let end = self.time.steady().checked_add(Duration::from_secs(seconds)).unwrap();
        while self.leap(end) {}
        self.time.set(end);
        self.settle();
    }

    /// Everything that happened, one line each; what came before a call is not shown again.
    pub(crate) fn timeline(&self) -> String {
        let mut text = String::new();
        for line in std::mem::take(&mut *self.log.lines.lock().unwrap()) {
            writeln!(text, "{line}").unwrap();
        }
        text
    }

    /// `Reason: message` of a condition of a widget, or `none`.
    pub(crate) fn condition(&self, name: &str, kind: &str) -> String {
        let widget = self.server.find(&widget_key(name)).unwrap();
        let all = widget.json().pointer("/status/conditions").and_then(Value::as_array);
        let found = all.into_iter().flatten().find(|condition| condition["type"] == kind);
        let text = |c: &Value, field: &str| c[field].as_str().unwrap_or_default().to_owned();
        found
            .map_or("none".to_owned(), |c| format!("{}: {}", text(c, "reason"), text(c, "message")))
    }

    /// `result reason: message` of the last pass over a widget.
    pub(crate) fn why(&self, name: &str) -> String {
        let passes = self.activity.why(&widget_key(name).to_string());
        let line = |pass: &Pass| {
            let now = self.time.steady();
            let next = pass.next_look.map_or("never".to_owned(), |at| {
                format!("in {}s", at.duration_since(now).as_secs())
            });
            format!("{} {} (next {next}) {}", pass.result, pass.reason, pass.message)
        };
        passes.iter().map(line).collect::<Vec<_>>().join("\n").trim_end().to_owned()
    }

    /// The most requests within any minute since `from`, watches and Leases apart.
    pub(crate) fn busiest_minute(&self) -> usize {
        let requests = self.server.requests();
        let times: Vec<i64> = requests
            .iter()
            .filter(|request| !request.key.starts_with("Lease/") && request.verb != "watch")
            .map(|request| request.at.as_millisecond())
            .collect();
        let within = |at: &i64| times.iter().filter(|t| (*at..at + 60_000).contains(*t)).count();
        times.iter().map(within).max().unwrap_or_default()
    }

    /// How often this was requested.
    pub(crate) fn count(&self, verb: &str, key: &str) -> usize {
        let requests = self.server.requests();
        requests.iter().filter(|request| request.verb == verb && request.key == key).count()
    }
}

pub(crate) fn widget(name: &str, want: &str) -> Value {
    json!({"apiVersion": "test.dev/v1", "kind": "Widget",
        "metadata": {"name": name, "namespace": NS}, "spec": {"want": want}})
}

pub(crate) fn widget_kind() -> GroupKind {
    GroupKind::new("test.dev", "Widget")
}

pub(crate) fn widget_key(name: &str) -> Key {
    Key::new(widget_kind(), NS, name)
}

pub(crate) fn config_key(name: &str) -> Key {
    Key::of::<ConfigMap>(NS, name)
}

pub(crate) fn config(name: &str, value: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": NS}, "data": {"value": value}})
}

/// An object as an action carries it.
pub(crate) fn boxed(body: Value) -> Box<Obj> {
    Box::new(Obj::from_json(body).unwrap())
}

/// Seconds since the world began.
pub(crate) fn second(at: Timestamp) -> i64 {
    at.duration_since(start()).as_secs()
}
