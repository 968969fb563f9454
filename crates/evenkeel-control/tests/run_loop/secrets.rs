//! No secret leaves the loop: a marker is planted wherever a secret may be, every way to fail is
//! taken, and everything that people or machines may read is searched for it.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{Arc, Mutex},
    time::Duration,
};

use evenkeel_api::{Key, Obj};
use evenkeel_control::{
    Action, BoxFuture, ClearedEffect, Controller, Direction, EffectCall, EffectError, Effected,
    Effector, EventNote, EventType, HookCall, HookError, HookReply, Hooks, ListQuery, Metrics,
    MetricsError, Notification, ObserveError, Plan, Ports, Propagation, Replies, Retry, Reversal,
    Sample, StoreError, redact,
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use serde_json::{Value, json};

use crate::{
    store::Fault,
    world::{Answer, NS, World, boxed, config, config_key, widget, widget_key, widget_kind},
};

/// What must be nowhere. It is base64, as the data of a Secret must be.
const MARKER: &str = "pl4ntedX";

fn secret_key() -> Key {
    Key::of::<Secret>(NS, "db")
}

fn secret(value: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "db", "namespace": NS},
        "stringData": {"password": value}, "data": {"other": value}})
}

fn url() -> String {
    format!("https://me:{MARKER}@hooks.test/call?token={MARKER}#{MARKER}")
}

/// What a server says that quotes what it was sent.
fn quoting() -> String {
    format!("Invalid value: \"{MARKER}\": sent {} with password={MARKER}", url())
}

/// What a server says about something else, with what gives access to a third.
fn mentioning() -> String {
    format!(
        "admission webhook \"{}\" failed: Authorization: Bearer {MARKER}, password={MARKER} \
         {{\"token\":\"{MARKER}\"}}",
        url()
    )
}

fn hook() -> HookCall {
    HookCall {
        owner: "w".to_owned(),
        id: "call-1".to_owned(),
        url: url(),
        namespace: NS.to_owned(),
        body: BTreeMap::from([("key".to_owned(), json!(MARKER))]),
        timeout: Duration::from_secs(1),
        retries: 0,
        way_back: false,
    }
}

fn notification() -> Notification {
    Notification {
        id: "note-1".to_owned(),
        owner: "Widget/shop/w".to_owned(),
        namespace: NS.to_owned(),
        provider: "chat".to_owned(),
        severity: "info".to_owned(),
        message: format!("see {}", url()),
        fields: vec![("key".to_owned(), MARKER.to_owned())],
    }
}

fn effect(verb: &'static str) -> EffectCall {
    EffectCall {
        port: "leaky",
        verb,
        target: url(),
        args: json!({"key": MARKER}),
        reverts: Reversal::By { verb: "undo", args: json!({"key": MARKER}) },
    }
}

/// An effector that quotes all it knows.
struct Leaky;

impl Effector for Leaky {
    fn perform<'a>(
        &'a self,
        effect: &'a ClearedEffect<'a>,
    ) -> BoxFuture<'a, Result<Effected, EffectError>> {
        let error = |retry| EffectError::new(&mentioning(), retry);
        let (verb, shown) = (effect.call().verb, format!("{effect:?}"));
        tracing::info!(shown, "performing");
        Box::pin(async move {
            match verb {
                "later" => {
                    Ok(Effected::Pending(Box::pin(async move { Err(error(Retry::Proceed)) })))
                }
                "panics" => panic!("{}", mentioning()),
                _ => Err(error(Retry::Slowly)),
            }
        })
    }

    fn direction(&self, _: &EffectCall) -> Direction {
        Direction::Neutral
    }

    fn redact(&self, call: &EffectCall) -> String {
        format!("leaky {} {}", call.verb, call.target)
    }
}

struct Unreachable;

impl Hooks for Unreachable {
    fn call<'a>(&'a self, call: &'a HookCall) -> BoxFuture<'a, Result<HookReply, HookError>> {
        let error = HookError { url: call.url.clone(), problem: mentioning() };
        tracing::warn!(%error, shown = ?error, ?call, "hook");
        Box::pin(async { Err(error) })
    }
}

impl Replies for Unreachable {
    fn reply(&self, _: &str) -> Option<Result<HookReply, HookError>> {
        Some(Ok(HookReply { status: 500, body: MARKER.to_owned() }))
    }
}

impl Metrics for Unreachable {
    fn query<'a>(
        &'a self,
        _: &'a str,
        _: Timestamp,
    ) -> BoxFuture<'a, Result<Vec<Sample>, MetricsError>> {
        let problem = format!("error sending request for url ({})", url());
        Box::pin(async { Err(MetricsError::Unreachable { problem }) })
    }
}

/// What the controller sees: secrets, typed and not, and what a hook answered.
#[derive(Debug)]
struct View {
    secret: Arc<Obj>,
    #[expect(dead_code, reason = "it is there to be printed")]
    typed: Secret,
    #[expect(dead_code, reason = "it is there to be printed")]
    reply: Option<Result<HookReply, HookError>>,
}

/// Plans one action on behalf of the widget.
struct Planner {
    make: fn(&Obj) -> Action,
    asks_metrics: bool,
    panics: bool,
}

impl Controller for Planner {
    type View = View;

    fn name(&self) -> &'static str {
        "planner"
    }

    fn owns(&self) -> ListQuery {
        ListQuery::all(widget_kind())
    }

    async fn observe(&self, _: &Key, ports: &Ports) -> Result<Option<View>, ObserveError> {
        if self.asks_metrics {
            ports.metrics.query("up", ports.clock.now()).await?;
        }
        let Some(secret) = ports.read.get(&secret_key()).await? else { return Ok(None) };
        let typed = Secret::clone(&*secret.get::<Secret>()?);
        Ok(Some(View { secret, typed, reply: ports.replies.reply("call-1") }))
    }

    fn decide(&self, view: &View) -> Plan {
        assert!(!self.panics, "{}", mentioning());
        let action = (self.make)(&view.secret);
        let note = EventNote {
            about: widget_key("w"),
            kind: EventType::Normal,
            reason: "Called",
            message: format!("called {}", url()),
        };
        let plan = Plan::act("Leaking", vec![action]).with_event(note);
        tracing::debug!(?plan, "planned");
        plan
    }
}

/// Everything that is logged, at every level; a line begins with it.
#[derive(Clone, Default)]
pub(crate) struct Lines(pub(crate) Arc<Mutex<String>>);

impl tracing::Subscriber for Lines {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        struct Fields<'a>(&'a mut String);
        impl tracing::field::Visit for Fields<'_> {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                write!(self.0, "{field}={value:?} ").unwrap();
            }
        }
        let mut text = self.0.lock().unwrap();
        write!(text, "{} ", event.metadata().level()).unwrap();
        event.record(&mut Fields(&mut text));
        text.push('\n');
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

type Make = fn(&Obj) -> Action;

/// Every verb on a Secret, and every effect.
fn actions() -> Vec<(&'static str, Make)> {
    vec![
        ("create", |_| Action::Create(boxed(secret(&MARKER.repeat(2))))),
        ("apply", |_| Action::Apply(boxed(secret(&MARKER.repeat(2))))),
        ("patch", |_| Action::Patch {
            key: secret_key(),
            patch: json!({"data": {"password": MARKER.repeat(2)}}),
        }),
        ("delete", |obj| Action::Delete {
            key: secret_key(),
            uid: obj.uid().to_owned(),
            propagation: Propagation::Background,
        }),
        ("create", |_| Action::Create(boxed(config("other", MARKER)))),
        ("none", |_| hook().into()),
        ("none", |_| notification().into()),
        ("none", |_| Action::Effect(effect("fails"))),
        ("none", |_| Action::Effect(effect("later"))),
        ("none", |_| Action::Effect(effect("panics"))),
        ("none", |_| Action::Effect(EffectCall { port: "unknown", ..effect("fails") })),
    ]
}

/// The faults of a request to the server, quoting what was sent as far as a server can know.
fn faults(object: &str) -> Vec<Option<Fault>> {
    let (object, problem) = (object.to_owned(), || match object {
        "Secret/shop/db" => quoting(),
        _ => mentioning(),
    });
    let errors = [
        StoreError::Invalid { object: object.clone(), problem: problem() },
        StoreError::Refused { object: object.clone(), problem: problem() },
        StoreError::Conflict { object: object.clone(), problem: problem() },
        StoreError::Busy { object: object.clone(), problem: problem() },
        StoreError::Unreachable { object, problem: problem() },
    ];
    let mut faults = vec![None, Some(Fault::Silence), Some(Fault::Panic)];
    faults.extend(errors.into_iter().map(|error| Some(Fault::Answer(error))));
    faults
}

/// Lets the planner work in a world of its own; everything that may be read afterwards.
fn read_all(planner: Planner, prepare: impl FnOnce(&World)) -> String {
    // Panics are lines, too.
    redact::panics();
    let lines = Lines::default();
    let guard = tracing::subscriber::set_default(lines.clone());
    let mut world = World::new();
    world.server.add(widget("w", "1"));
    world.server.add(secret(MARKER));
    prepare(&world);
    let mut setup = world.setup("one", Vec::new());
    setup.host = Box::new(|host| {
        host.with_hooks(Arc::new(Unreachable))
            .with_metrics(Arc::new(Unreachable))
            .with_effector("leaky", Arc::new(Leaky))
    });
    setup.other = Some(Box::new(|run| run.with(planner)));
    world.boot(setup);
    world.run_for(100);
    drop(guard);
    let mut all = std::mem::take(&mut *lines.0.lock().unwrap());
    let ways =
        ["planned", "decided", "observation incomplete", "observing took longer", "pass panicked"];
    assert!(ways.iter().any(|way| all.contains(way)), "{all}");
    for obj in world.server.all() {
        if obj.key() != &secret_key() && obj.key() != &config_key("other") {
            writeln!(all, "{}", obj.json()).unwrap();
        }
    }
    writeln!(all, "{}", world.activity.metrics()).unwrap();
    let passes = world.activity.why(&widget_key("w").to_string());
    writeln!(all, "{} {passes:?}", serde_json::to_string(&passes).unwrap()).unwrap();
    writeln!(all, "{:?}", world.gate.asked.lock().unwrap()).unwrap();
    writeln!(all, "{:?}", world.gate.failures.lock().unwrap()).unwrap();
    all + &world.timeline()
}

fn assert_clean(all: &str, what: &str) {
    let leaks: Vec<_> = all.lines().filter(|line| line.contains(MARKER)).collect();
    assert!(leaks.is_empty(), "{what}:\n{}", leaks.join("\n"));
}

#[test]
fn no_action_that_fails_shows_a_secret() {
    for (row, (verb, make)) in actions().into_iter().enumerate() {
        let kinds = if row == 4 {
            ["ConfigMap", "ConfigMap/shop/other"]
        } else {
            ["Secret", "Secret/shop/db"]
        };
        for (column, fault) in faults(kinds[1]).into_iter().enumerate() {
            let planner = Planner { make, asks_metrics: false, panics: false };
            let all = read_all(planner, |world| {
                if let Some(fault) = fault {
                    world.server.fault(verb, kinds[0], fault);
                }
            });
            assert!(all.contains("planned"), "row {row}, column {column}: {all}");
            assert_clean(&all, &format!("row {row}, column {column}"));
        }
    }
}

#[test]
fn no_look_that_fails_shows_a_secret() {
    for (column, fault) in faults("Secret/shop/db").into_iter().flatten().enumerate() {
        let planner = Planner { make: actions()[0].1, asks_metrics: false, panics: false };
        let all = read_all(planner, |world| world.server.fault("get", "Secret", fault));
        assert_clean(&all, &format!("column {column}"));
    }
    let planner = Planner { make: actions()[0].1, asks_metrics: true, panics: false };
    let all = read_all(planner, |_| {});
    assert!(all.contains("metrics server: "), "{all}");
    assert_clean(&all, "metrics");
    let planner = Planner { make: actions()[0].1, asks_metrics: false, panics: false };
    let malformed = |world: &World| {
        world.server.change(&secret_key(), |body| body["data"]["bad"] = json!({"is": MARKER}));
    };
    let all = read_all(planner, malformed);
    assert!(all.contains("does not fit Secret"), "{all}");
    assert_clean(&all, "malformed");
}

#[test]
fn no_verdict_and_no_panic_shows_a_secret() {
    for (row, (_, make)) in actions().into_iter().enumerate() {
        for answer in [Answer::Hold(None), Answer::Deny, Answer::Silence] {
            let planner = Planner { make, asks_metrics: false, panics: false };
            let all = read_all(planner, |world| world.gate.answer(answer));
            assert_clean(&all, &format!("row {row}"));
        }
    }
    let planner = Planner { make: actions()[0].1, asks_metrics: false, panics: true };
    let all = read_all(planner, |_| {});
    assert!(all.contains("Panicked"), "{all}");
    assert_clean(&all, "panic");
}

#[test]
fn no_debug_of_what_is_sent_shows_a_secret() {
    let patch = json!({"data": MARKER});
    let patches = [
        evenkeel_control::Patch::Merge(patch.clone()),
        evenkeel_control::Patch::Json(patch.clone()),
        evenkeel_control::Patch::Strategic(patch.clone()),
        evenkeel_control::Patch::Replace(patch),
    ];
    let reply = HookReply { status: 200, body: MARKER.to_owned() };
    let error = StoreError::Invalid { object: "Secret/shop/db".into(), problem: quoting() };
    let made: Vec<_> = actions().iter().map(|(_, make)| make(&boxed(secret(MARKER)))).collect();
    let texts = [
        format!("{patches:?} {reply:?} {:?} {:?}", hook(), notification()),
        format!("{error} {error:?} {:?}", ObserveError::from(error.clone())),
        format!("{:?} {:?}", effect("x"), effect("x").reverts),
        format!("{:?}", HookError { url: url(), problem: mentioning() }),
        format!("{made:?}"),
    ];
    for text in texts {
        assert_clean(&text, "debug");
    }
}
