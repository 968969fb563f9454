//! Lives of pods as scripts: events on the left, effects on the right.

use std::{fmt::Write as _, sync::Arc};

use insta::assert_snapshot;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use serde::Deserialize as _;
use serde_json::json;

use super::*;
use crate::runtime::ContainerRef;

fn seconds_of(at: Timestamp) -> f64 {
    at.duration_since(Timestamp::UNIX_EPOCH).as_secs_f64()
}

fn at(seconds: f64) -> Timestamp {
    Timestamp::UNIX_EPOCH + Duration::from_secs_f64(seconds)
}

fn pod(spec: &str) -> Pod {
    let spec: serde_json::Value = serde_saphyr::from_str(spec).unwrap();
    let body = json!({"apiVersion": "v1", "kind": "Pod", "spec": spec,
        "metadata": {"name": "p", "namespace": "d", "uid": "u"}});
    Pod::deserialize(&body).unwrap()
}

/// Runs a script on a pod. A line is `SECONDS EVENT [CONTAINER [ARGUMENT]]`:
/// `up`, `no-image`, `exit CODE`, `probe KIND +|-`, `stopped` (preStop returned), `delete GRACE`,
/// `volumes [change|full]`, `no-volumes`, `label VALUE`, `gate VALUE` and `drained UID` (annotations;
/// the pod's uid is `u`), `gone`. Before each line the machine is woken as it asked.
pub(super) fn script(spec: &str, lines: &str) -> String {
    let mut object = pod(spec);
    let address = "127.64.0.2".parse().unwrap();
    let node = "127.64.0.1".parse().unwrap();
    let mut machine = PodMachine::new(Arc::new(object.clone()), address, node, at(0.0));
    let mut text = String::new();
    step(&mut machine, at(0.0), "new", &mut text);
    for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let now = at(words[0].parse().unwrap());
        while let Some(wake) = machine.wake().filter(|wake| *wake < now) {
            step(&mut machine, wake, "", &mut text);
        }
        let word = |at: usize| *words.get(at).unwrap_or(&"");
        let attempt = machine.attempt(word(2));
        let annotate = |object: &mut Pod, name: &str, value: &str| {
            let all = object.metadata.annotations.get_or_insert_default();
            all.insert(name.to_owned(), value.to_owned());
        };
        match word(1) {
            "up" => {
                let id = format!("c{attempt}");
                machine.on_start(word(2), Ok(Started { id, at: now }), now);
            }
            "no-image" => {
                machine.on_start(word(2), Err(StartError::Image("unknown".to_owned())), now);
            }
            "exit" => {
                let exit = Exit { code: word(3).parse().unwrap(), at: now, unseen: None };
                machine.on_exit(word(2), attempt, exit);
            }
            "probe" => {
                let kind = match word(3) {
                    "startup" => ProbeKind::Startup,
                    "readiness" => ProbeKind::Readiness,
                    _ => ProbeKind::Liveness,
                };
                let outcome = match word(4) {
                    "+" => Outcome::Success,
                    _ => Outcome::Failure("down".to_owned()),
                };
                machine.on_probe((word(2), attempt, kind), &outcome, now);
            }
            "stopped" => machine.on_pre_stop(word(2), Ok(())),
            "gate" => annotate(&mut object, gate::TERMINATION_GATE, word(2)),
            "drained" => annotate(&mut object, gate::DRAINED, word(2)),
            "delete" => {
                object.metadata.deletion_timestamp =
                    Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now));
                object.metadata.deletion_grace_period_seconds = word(2).parse().ok();
            }
            "gone" => machine.orphaned(now),
            "label" => {
                let labels = object.metadata.labels.get_or_insert_default();
                labels.insert("changed".to_owned(), word(2).to_owned());
            }
            "volumes" => {
                let exceeded = (word(2) == "full").then(|| "too full".to_owned());
                let changes = matches!(word(2), "change" | "full");
                let found = VolumesSetUp { changes, exceeded, ..VolumesSetUp::default() };
                machine.on_volumes(Ok(found), now);
            }
            "no-volumes" => machine.on_volumes(Err("not found".to_owned()), now),
            "look" => {}
            other => panic!("{other} is not an event"),
        }
        machine.observe(Arc::new(object.clone()), now);
        let event = words[1..].join(" ");
        step(&mut machine, now, &event, &mut text);
    }
    text
}

fn step(machine: &mut PodMachine, now: Timestamp, event: &str, text: &mut String) {
    let effects: Vec<String> = machine.poll(now).iter().map(effect).collect();
    let seconds = seconds_of(now);
    let status = summary(machine, now);
    let effects = effects.join(" ");
    if event.is_empty() && effects.is_empty() && text.ends_with(&format!("| {status}\n")) {
        return;
    }
    writeln!(text, "{seconds:>5} {event:<22} -> {effects:<28} | {status}").unwrap();
}

fn effect(effect: &Effect) -> String {
    match effect {
        Effect::Start { container, attempt } => format!("start({container}#{attempt})"),
        Effect::PostStart { container, .. } => format!("post-start({container})"),
        Effect::PreStop { container, limit, .. } => format!("pre-stop({container} {limit:?})"),
        Effect::Signal { container, signal } => format!("{signal:?}({container})"),
        Effect::Probe { container, kind, .. } => format!("{kind:?}({container})"),
        Effect::SetUpVolumes => "volumes".to_owned(),
        Effect::Finish => "finish".to_owned(),
        Effect::Record(note) => format!("!{}", note.reason),
    }
}

fn summary(machine: &mut PodMachine, now: Timestamp) -> String {
    let status = machine.status(now);
    let mut text = status.phase.unwrap_or_default();
    for container in status
        .init_container_statuses
        .into_iter()
        .flatten()
        .chain(status.container_statuses.into_iter().flatten())
    {
        let state = container.state.unwrap_or_default();
        let state = match (state.waiting, state.running, state.terminated) {
            (Some(waiting), _, _) => waiting.reason.unwrap_or_default(),
            (_, Some(_), _) => "Running".to_owned(),
            (_, _, Some(end)) => format!("{}:{}", end.reason.unwrap_or_default(), end.exit_code),
            _ => "?".to_owned(),
        };
        let ready = if container.ready { "+" } else { "" };
        write!(text, " {}={state}{ready}", container.name).unwrap();
    }
    let ready = status.conditions.unwrap().iter().any(|c| c.type_ == "Ready" && c.status == "True");
    if ready { text + " READY" } else { text }
}

#[test]
fn a_pod_without_probes_is_ready_as_soon_as_it_runs() {
    assert_snapshot!(script("{containers: [{name: a, image: i}]}", "0.1 up a"), @r"
      0 new                    -> start(a#0)                   | Pending a=ContainerCreating
    0.1 up a                   -> !Pulled !Created !Started    | Running a=Running+ READY
    ");
}

#[test]
fn readiness_follows_its_probe_and_liveness_restarts() {
    let spec = "{containers: [{name: a, readinessProbe: {tcpSocket: {port: 80}}, \
                livenessProbe: {tcpSocket: {port: 80}, failureThreshold: 1}}]}";
    let lines = "0 up a
        0.1 probe a readiness +
        0.2 probe a liveness +
        10.1 probe a readiness +
        10.2 probe a liveness -
        10.5 exit a 143
        10.6 up a";
    assert_snapshot!(script(spec, lines), @r"
       0 new                    -> start(a#0)                   | Pending a=ContainerCreating
       0 up a                   -> Readiness(a) Liveness(a) !Pulled !Created !Started | Running a=Running
     0.1 probe a readiness +    ->                              | Running a=Running+ READY
     0.2 probe a liveness +     ->                              | Running a=Running+ READY
      10                        -> Readiness(a) Liveness(a)     | Running a=Running+ READY
    10.1 probe a readiness +    ->                              | Running a=Running+ READY
    10.2 probe a liveness -     -> Term(a) !Unhealthy !Killing  | Running a=Running+ READY
    10.5 exit a 143             -> start(a#1)                   | Running a=Error:143
    10.6 up a                   -> Readiness(a) Liveness(a) !Pulled !Created !Started | Running a=Running
    ");
}

#[test]
fn the_other_probes_wait_for_the_startup_probe() {
    let spec = "{containers: [{name: a, startupProbe: {tcpSocket: {port: 80}, periodSeconds: 1}, \
                readinessProbe: {tcpSocket: {port: 80}}}]}";
    let lines = "0 up a
        0.1 probe a startup -
        1.1 probe a startup +
        1.2 probe a readiness +";
    assert_snapshot!(script(spec, lines), @r"
      0 new                    -> start(a#0)                   | Pending a=ContainerCreating
      0 up a                   -> Startup(a) !Pulled !Created !Started | Running a=Running
    0.1 probe a startup -      -> !Unhealthy                   | Running a=Running
      1                        -> Startup(a)                   | Running a=Running
    1.1 probe a startup +      -> Readiness(a)                 | Running a=Running
    1.2 probe a readiness +    ->                              | Running a=Running+ READY
    ");
}

#[test]
fn a_crash_loop_waits_longer_each_time_and_forgets_after_ten_minutes() {
    let lines = "0 up a
        1 exit a 1
        1.1 up a
        2 exit a 1
        12.1 up a
        13 exit a 1
        33.1 up a
        700 exit a 1
        700 up a";
    assert_snapshot!(script("{containers: [{name: a}]}", lines), @r"
       0 new                    -> start(a#0)                   | Pending a=ContainerCreating
       0 up a                   -> !Pulled !Created !Started    | Running a=Running+ READY
       1 exit a 1               -> start(a#1)                   | Running a=Error:1
     1.1 up a                   -> !Pulled !Created !Started    | Running a=Running+ READY
       2 exit a 1               -> !BackOff                     | Running a=CrashLoopBackOff
      12                        -> start(a#2)                   | Running a=Error:1
    12.1 up a                   -> !Pulled !Created !Started    | Running a=Running+ READY
      13 exit a 1               -> !BackOff                     | Running a=CrashLoopBackOff
      33                        -> start(a#3)                   | Running a=Error:1
    33.1 up a                   -> !Pulled !Created !Started    | Running a=Running+ READY
     700 exit a 1               -> start(a#4)                   | Running a=Error:1
     700 up a                   -> !Pulled !Created !Started    | Running a=Running+ READY
    ");
}

#[test]
fn restart_policies_decide_what_an_end_means() {
    let run = |policy: &str, code: i32| {
        let spec = format!("{{restartPolicy: {policy}, containers: [{{name: a}}]}}");
        script(&spec, &format!("0 up a\n5 exit a {code}")).lines().last().unwrap().to_owned()
    };
    assert_snapshot!(run("Always", 0), @"    5 exit a 0               -> start(a#1)                   | Running a=Completed:0");
    assert_snapshot!(run("OnFailure", 0), @"    5 exit a 0               ->                              | Succeeded a=Completed:0");
    assert_snapshot!(run("OnFailure", 1), @"    5 exit a 1               -> start(a#1)                   | Running a=Error:1");
    assert_snapshot!(run("Never", 0), @"    5 exit a 0               ->                              | Succeeded a=Completed:0");
    assert_snapshot!(run("Never", 3), @"    5 exit a 3               ->                              | Failed a=Error:3");
}

#[test]
fn init_containers_run_in_turn_and_sidecars_stay() {
    let spec = "{initContainers: [{name: one}, {name: side, restartPolicy: Always}, {name: two}], \
                containers: [{name: a}]}";
    let lines = "0 up one
        1 exit one 0
        1 up side
        1 up two
        2 exit two 1
        2 up two
        3 exit two 0
        3 up a
        9 delete 30
        10 exit a 0
        11 exit side 0";
    assert_snapshot!(script(spec, lines), @r"
     0 new                    -> start(one#0)                 | Pending one=ContainerCreating side=ContainerCreating two=ContainerCreating a=PodInitializing
     0 up one                 -> !Pulled !Created !Started    | Pending one=Running side=ContainerCreating two=ContainerCreating a=PodInitializing
     1 exit one 0             -> start(side#0)                | Pending one=Completed:0+ side=ContainerCreating two=ContainerCreating a=PodInitializing
     1 up side                -> start(two#0) !Pulled !Created !Started | Pending one=Completed:0+ side=Running+ two=ContainerCreating a=PodInitializing
     1 up two                 -> !Pulled !Created !Started    | Pending one=Completed:0+ side=Running+ two=Running a=PodInitializing
     2 exit two 1             -> start(two#1)                 | Pending one=Completed:0+ side=Running+ two=Error:1 a=PodInitializing
     2 up two                 -> !Pulled !Created !Started    | Pending one=Completed:0+ side=Running+ two=Running a=PodInitializing
     3 exit two 0             -> start(a#0)                   | Pending one=Completed:0+ side=Running+ two=Completed:0+ a=ContainerCreating
     3 up a                   -> !Pulled !Created !Started    | Running one=Completed:0+ side=Running+ two=Completed:0+ a=Running+ READY
     9 delete 30              -> Term(a) !Killing             | Running one=Completed:0+ side=Running+ two=Completed:0+ a=Running+ READY
    10 exit a 0               -> Term(side) !Killing          | Succeeded one=Completed:0+ side=Running+ two=Completed:0+ a=Completed:0
    11 exit side 0            -> finish                       | Succeeded one=Completed:0+ side=Completed:0 two=Completed:0+ a=Completed:0
    ");
}

#[test]
fn a_failed_init_container_fails_a_pod_that_never_restarts() {
    let spec = "{restartPolicy: Never, initContainers: [{name: one}], containers: [{name: a}]}";
    assert_snapshot!(script(spec, "0 up one\n1 exit one 2"), @r"
    0 new                    -> start(one#0)                 | Pending one=ContainerCreating a=PodInitializing
    0 up one                 -> !Pulled !Created !Started    | Pending one=Running a=PodInitializing
    1 exit one 2             ->                              | Failed one=Error:2 a=PodInitializing
    ");
}

#[test]
fn deletion_runs_the_hook_then_asks_then_kills_at_the_end_of_grace() {
    let spec = "{containers: [{name: a, lifecycle: {preStop: {sleep: {seconds: 5}}}}]}";
    assert_snapshot!(script(spec, "0 up a\n10 delete 30\n15 stopped a\n41 look\n41 exit a 137"), @r"
     0 new                    -> start(a#0)                   | Pending a=ContainerCreating
     0 up a                   -> !Pulled !Created !Started    | Running a=Running+ READY
    10 delete 30              -> pre-stop(a 30s) !Killing     | Running a=Running+ READY
    15 stopped a              -> Term(a)                      | Running a=Running+ READY
    40                        -> Kill(a)                      | Running a=Running+ READY
    41 look                   ->                              | Running a=Running+ READY
    41 exit a 137             -> finish                       | Failed a=Error:137
    ");
    // The hook takes all of the grace period: two seconds more.
    assert_snapshot!(script(spec, "0 up a\n10 delete 4\n17 exit a 137"), @r"
     0 new                    -> start(a#0)                   | Pending a=ContainerCreating
     0 up a                   -> !Pulled !Created !Started    | Running a=Running+ READY
    10 delete 4               -> pre-stop(a 4s) !Killing      | Running a=Running+ READY
    14                        -> Term(a)                      | Running a=Running+ READY
    16                        -> Kill(a)                      | Running a=Running+ READY
    17 exit a 137             -> finish                       | Failed a=Error:137
    ");
    // No grace.
    assert_snapshot!(script(spec, "0 up a\n10 delete 0\n10 exit a 137"), @r"
     0 new                    -> start(a#0)                   | Pending a=ContainerCreating
     0 up a                   -> !Pulled !Created !Started    | Running a=Running+ READY
    10 delete 0               -> Kill(a) !Killing             | Running a=Running+ READY
    10 exit a 137             -> finish                       | Failed a=Error:137
    ");
}

#[test]
fn a_gated_pod_is_stopped_when_the_gateway_has_emptied_it_or_time_is_up() {
    let spec = "{containers: [{name: a}]}";
    let lines =
        "0 gate gateway\n0 up a\n10 delete 30\n11 drained other\n12 drained u\n12.1 exit a 0";
    assert_snapshot!(script(spec, lines), @r"
       0 new                    -> start(a#0)                   | Pending a=ContainerCreating
       0 gate gateway           ->                              | Pending a=ContainerCreating
       0 up a                   -> !Pulled !Created !Started    | Running a=Running+ READY
      10 delete 30              -> !Draining                    | Running a=Running+ READY
      11 drained other          ->                              | Running a=Running+ READY
      12 drained u              -> Term(a) !Killing             | Running a=Running+ READY
    12.1 exit a 0               -> finish                       | Succeeded a=Completed:0
    ");
    assert_snapshot!(script(spec, "0 gate gateway\n0 up a\n10 delete 30\n41 exit a 137"), @r"
     0 new                    -> start(a#0)                   | Pending a=ContainerCreating
     0 gate gateway           ->                              | Pending a=ContainerCreating
     0 up a                   -> !Pulled !Created !Started    | Running a=Running+ READY
    10 delete 30              -> !Draining                    | Running a=Running+ READY
    38                        -> Term(a) !Killing             | Running a=Running+ READY
    40                        -> Kill(a)                      | Running a=Running+ READY
    41 exit a 137             -> finish                       | Failed a=Error:137
    ");
    // A gate that no component opens holds nothing up, and an event says so.
    assert_snapshot!(script(spec, "0 gate backup\n0 up a\n10 delete 30"), @r"
     0 new                    -> start(a#0)                   | Pending a=ContainerCreating
     0 gate backup            ->                              | Pending a=ContainerCreating
     0 up a                   -> !Pulled !Created !Started    | Running a=Running+ READY
    10 delete 30              -> Term(a) !UnknownGate !Killing | Running a=Running+ READY
    ");
    // Without gate: at once.
    assert_snapshot!(script(spec, "0 up a\n10 delete 30"), @r"
     0 new                    -> start(a#0)                   | Pending a=ContainerCreating
     0 up a                   -> !Pulled !Created !Started    | Running a=Running+ READY
    10 delete 30              -> Term(a) !Killing             | Running a=Running+ READY
    ");
}

#[test]
fn while_deleting_readiness_is_probed_and_liveness_is_not() {
    let spec = "{containers: [{name: a, readinessProbe: {tcpSocket: {port: 80}}, \
                livenessProbe: {tcpSocket: {port: 80}}}]}";
    let lines = "0 up a
        0.1 probe a readiness +
        0.1 probe a liveness +
        9 delete 30
        10.5 look
        10.6 probe a readiness -";
    assert_snapshot!(script(spec, lines), @r"
       0 new                    -> start(a#0)                   | Pending a=ContainerCreating
       0 up a                   -> Readiness(a) Liveness(a) !Pulled !Created !Started | Running a=Running
     0.1 probe a readiness +    ->                              | Running a=Running+ READY
     0.1 probe a liveness +     ->                              | Running a=Running+ READY
       9 delete 30              -> Term(a) !Killing             | Running a=Running+ READY
      10                        -> Readiness(a)                 | Running a=Running+ READY
    10.5 look                   ->                              | Running a=Running+ READY
    10.6 probe a readiness -    -> !Unhealthy                   | Running a=Running+ READY
    ");
}

#[test]
fn an_unknown_image_is_looked_up_again_with_back_off() {
    let lines = "0 no-image a\n11 no-image a\n40 up a";
    assert_snapshot!(script("{containers: [{name: a, image: x}]}", lines), @r"
     0 new                    -> start(a#0)                   | Pending a=ContainerCreating
     0 no-image a             -> !Failed                      | Pending a=ErrImagePull
     2                        ->                              | Pending a=ImagePullBackOff
    10                        -> start(a#0)                   | Pending a=ContainerCreating
    11 no-image a             -> !Failed                      | Pending a=ErrImagePull
    23                        ->                              | Pending a=ImagePullBackOff
    31                        -> start(a#0)                   | Pending a=ContainerCreating
    40 up a                   -> !Pulled !Created !Started    | Running a=Running+ READY
    ");
}

#[test]
fn a_pod_whose_object_is_gone_is_stopped_without_events() {
    assert_snapshot!(script("{containers: [{name: a}]}", "0 up a\n5 gone\n8 exit a 137"), @r"
    0 new                    -> start(a#0)                   | Pending a=ContainerCreating
    0 up a                   -> !Pulled !Created !Started    | Running a=Running+ READY
    5 gone                   -> Term(a) !Killing             | Running a=Running+ READY
    7                        -> Kill(a)                      | Running a=Running+ READY
    8 exit a 137             -> finish                       | Failed a=Error:137
    ");
}

#[test]
fn an_agent_that_comes_back_keeps_what_ran() {
    let spec = "{containers: [{name: a, readinessProbe: {tcpSocket: {port: 80}}}, {name: b}]}";
    let (ip, node) = ("127.64.0.2".parse().unwrap(), "127.64.0.1".parse().unwrap());
    let mut object = pod(spec);
    let mut machine = PodMachine::new(Arc::new(object.clone()), ip, node, at(0.0));
    machine.poll(at(0.0));
    for name in ["a", "b"] {
        let started = Started { id: format!("id-{name}"), at: at(1.0) };
        machine.on_start(name, Ok(started), at(1.0));
    }
    machine.poll(at(1.0));
    machine.on_probe(("a", 0, ProbeKind::Readiness), &Outcome::Success, at(1.0));
    object.status = Some(machine.status(at(2.0)));

    let container = ContainerRef { pod_uid: "u".to_owned(), container: "a".to_owned(), attempt: 0 };
    let started = Started { id: "id-a".to_owned(), at: at(1.0) };
    let found = [Adopted { container, started, exit: None }];
    let mut again = PodMachine::new(Arc::new(object), ip, node, at(60.0));
    again.adopt(&found, at(60.0));
    assert_snapshot!(summary(&mut again, at(60.0)), @"Running a=Running+ b=ContainerStatusUnknown:137");
    let effects: Vec<String> = again.poll(at(60.0)).iter().map(effect).collect();
    assert_snapshot!(effects.join(" "), @"Readiness(a) start(b#1)");
}

/// What may happen to a pod, as numbers that a property can shrink.
fn happen(machine: &mut PodMachine, what: (u8, u8), now: Timestamp) {
    let container = ["side", "init", "a", "b"][usize::from(what.1 % 4)];
    let attempt = machine.attempt(container);
    let id = format!("{container}{attempt}");
    match what.0 % 7 {
        0 => machine.on_start(container, Ok(Started { id, at: now }), now),
        1 => machine.on_start(container, Err(StartError::Run("no".to_owned())), now),
        2 | 3 => {
            let code = i32::from(what.1 % 2);
            machine.on_exit(container, attempt, Exit { code, at: now, unseen: None });
        }
        4 => machine.on_pre_stop(container, Ok(())),
        kind => {
            let kind = if kind == 5 { ProbeKind::Liveness } else { ProbeKind::Readiness };
            let outcome =
                if what.1 < 128 { Outcome::Success } else { Outcome::Failure("down".to_owned()) };
            machine.on_probe((container, attempt, kind), &outcome, now);
        }
    }
}

proptest::proptest! {
    /// Whatever happens in whatever order: asking twice gives nothing new, the machine never
    /// wants to be woken in the past, equal states give equal statuses, and a deleted pod whose
    /// containers obey ends.
    #[test]
    fn any_life_is_consistent_and_ends(
        events in proptest::collection::vec((proptest::num::u8::ANY, proptest::num::u8::ANY, 0_u64..40), 0..60),
    ) {
        let spec = "{initContainers: [{name: side, restartPolicy: Always}, {name: init}], \
                    containers: [{name: a, livenessProbe: {tcpSocket: {port: 1}}, \
                    readinessProbe: {tcpSocket: {port: 1}}}, \
                    {name: b, lifecycle: {preStop: {sleep: {seconds: 1}}}}]}";
        let mut object = pod(spec);
        let ip: IpAddr = "127.64.0.2".parse().unwrap();
        let mut now = at(0.0);
        let mut machine = PodMachine::new(Arc::new(object.clone()), ip, ip, now);
        let mut starting: Vec<String> = Vec::new();
        for (what, which, seconds) in events {
            let effects = machine.poll(now);
            starting.extend(effects.into_iter().filter_map(|effect| match effect {
                Effect::Start { container, .. } => Some(container),
                _ => None,
            }));
            proptest::prop_assert_eq!(machine.poll(now), []);
            proptest::prop_assert!(machine.wake().is_none_or(|wake| wake > now), "it would spin");
            let status = machine.status(now);
            proptest::prop_assert_eq!(&status, &machine.status(now + Duration::from_secs(1)));
            now += Duration::from_secs(seconds);
            // Answers to starts come only when there was one.
            let container = ["side", "init", "a", "b"][usize::from(which % 4)];
            let asked = starting.iter().position(|name| name == container);
            match (what % 7 < 2, asked) {
                (true, None) => {}
                (true, Some(at)) => {
                    starting.remove(at);
                    happen(&mut machine, (what, which), now);
                }
                _ => happen(&mut machine, (what, which), now),
            }
        }
        object.metadata.deletion_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now));
        machine.observe(Arc::new(object), now);
        for _ in 0..200 {
            for effect in machine.poll(now) {
                match effect {
                    Effect::Finish => return Ok(()),
                    Effect::Start { container, .. } => starting.push(container),
                    Effect::Signal { container, signal: Signal::Kill } => {
                        let attempt = machine.attempt(&container);
                        let exit = Exit { code: 137, at: now, unseen: None };
                        machine.on_exit(&container, attempt, exit);
                    }
                    _ => {}
                }
            }
            if let Some(container) = starting.pop() {
                machine.on_start(&container, Ok(Started { id: "late".to_owned(), at: now }), now);
            } else {
                now = machine.wake().unwrap_or(now).max(now);
            }
        }
        proptest::prop_assert!(false, "the pod does not end");
    }
}
