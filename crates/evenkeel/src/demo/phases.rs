//! Plays the script.

use std::time::Duration;

use anyhow::{Context as _, bail};
use evenkeel_api::{GroupKind, Key, LabelSelector};
use evenkeel_control::{ListQuery, Patch, WriteOptions};
use evenkeel_sim::demo::{
    report::Report,
    script::{Event, PHASES, Phase, Release, Verdict},
};
use futures::StreamExt as _;
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{
    canary::Moment,
    clients::Clients,
    judge::{self, Happened},
    stage::{PACE, Stage},
};
use crate::{cli::Safeguard, io};

/// Weight at which the controllers are killed: in the middle of the ramp.
const KILL_AT_WEIGHT: i32 = 20;
/// How long a phase runs before its kill, so that the requests it hits were sent in that phase.
const BEFORE_KILL: Duration = Duration::from_secs(2);
/// How long the controllers stay dead.
const DEAD: Duration = Duration::from_secs(5);

/// Plays all phases; without a safeguard it ends after the first phase that shows the damage.
pub(super) async fn play(stage: &mut Stage, without: Option<Safeguard>) -> Report {
    let mut report = Report { phases: Vec::new(), broken: None };
    let mut all = Vec::new();
    for (index, phase) in PHASES.iter().enumerate() {
        let outcome = async {
            if index > 0 {
                stage.mark(phase.name).await?;
            }
            one(stage, phase).await
        };
        match outcome.await {
            Ok(happened) => all.push(happened),
            Err(error) => {
                report.broken = Some(format!("{}: {error:#}", phase.name));
                break;
            }
        }
        let clients = stage.clients.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        tell_failures(&clients, phase.name);
        let shown = all.last().is_some_and(|last| {
            let row = judge::row(last, &clients);
            let failed =
                clients.failures.iter().any(|f| f.phase == phase.name && f.method == "GET");
            failed || row.verdict != row.expect || !row.blind_steps.is_empty()
        });
        let dropped = clients.failures.iter().any(|f| f.method == "POST" && f.status != Some(500));
        drop(clients);
        if without.is_some() && (shown || dropped) {
            break;
        }
    }
    if let Err(error) = stage.stop_load().await {
        report.broken.get_or_insert_with(|| format!("{error:#}"));
    }
    let clients = stage.clients.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    report.phases = all.iter().map(|happened| judge::row(happened, &clients)).collect();
    report
}

fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

async fn one(stage: &mut Stage, phase: &Phase) -> anyhow::Result<Happened> {
    io::complain(&format!("{}:", phase.name));
    let began = now_ms();
    let from = stage.canary.len().saturating_sub(1);
    let twice_before = executed_twice(stage)?;
    let mut killed_at = None;
    let verdict = match phase.event {
        Event::Nothing => {
            tokio::time::sleep(PACE.quiet).await;
            Verdict::Undisturbed
        }
        Event::Release(release) => {
            apply(stage, &release).await?;
            decided(stage, from).await
        }
        Event::PodKilled => {
            tokio::time::sleep(BEFORE_KILL).await;
            killed_at = Some(kill_pod(stage).await?);
            tokio::time::sleep(PACE.quiet).await;
            Verdict::Undisturbed
        }
        Event::ControllersKilled(release) => {
            apply(stage, &release).await?;
            let ramping = |now: &Moment| now.phase == "Progressing" && now.weight >= KILL_AT_WEIGHT;
            stage
                .canary
                .wait_since(from, PACE.patience, ramping)
                .await
                .context("the release does not get on, so there is no middle to kill it in")?;
            let pid = stage.kill_controllers().await?;
            io::complain(&format!("  controllers killed: SIGKILL to process {pid}"));
            tokio::time::sleep(DEAD).await;
            let pid = stage.restart_controllers().await?.unwrap_or_default();
            io::complain(&format!("  controllers started again: process {pid}"));
            decided(stage, from).await
        }
    };
    io::complain(&format!("  {} at {:.3}", verdict.as_str(), jiff::Timestamp::now()));
    Ok(Happened {
        phase: *phase,
        moments: stage.canary.since(from),
        killed_at,
        executed_twice: executed_twice(stage)?.saturating_sub(twice_before),
        verdict,
        span_ms: (began, now_ms()),
    })
}

/// Releases a version, as `kubectl apply` of the changed manifest does.
async fn apply(stage: &Stage, release: &Release) -> anyhow::Result<()> {
    let manifest: serde_json::Value = serde_saphyr::from_str(&stage.deployment(Some(release)))?;
    let key = Key::of::<Deployment>("default", "api-service");
    let template = manifest.pointer("/spec/template").cloned().unwrap_or_default();
    let patch = Patch::Strategic(serde_json::json!({"spec": {"template": template}}));
    let options = WriteOptions { manager: "demo", ..WriteOptions::default() };
    stage.store.patch(&key, &patch, &options).await.context("apply the release")?;
    Ok(())
}

/// Follows a release to its end, with a line per change.
async fn decided(stage: &Stage, from: usize) -> Verdict {
    let progress = async {
        let mut told = from + 1;
        loop {
            for moment in stage.canary.since(told) {
                told += 1;
                say(stage, &moment);
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    };
    // The end of the release before is not the end of this one.
    let started = stage.canary.wait_since(from, PACE.patience, |now| !now.is_decided());
    let search = async {
        let began = started.await?;
        let ended = |now: &Moment| now.is_decided() && now.at >= began.at;
        stage.canary.wait_since(from, PACE.patience, ended).await
    };
    let end = tokio::select! {
        biased;
        end = search => end,
        () = progress => None,
    };
    match end {
        Some(end) if end.phase == "Succeeded" => Verdict::Promoted,
        Some(_) => Verdict::RolledBack,
        None => Verdict::Undecided,
    }
}

fn say(stage: &Stage, moment: &Moment) {
    let clients = stage.clients.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let last = clients.seconds.last();
    let rate = last.map_or(0, |second| second.sent);
    let failed = last.map_or(0, |second| second.failed_total);
    io::complain(&format!(
        "  {:<12} weight {:>3} %  failed checks {}  {rate} requests/s  {failed} failed so far",
        moment.phase, moment.weight, moment.failed_checks
    ));
}

/// Says what failed in a phase, alike ones together.
fn tell_failures(clients: &Clients, phase: &str) {
    let mut kinds = std::collections::BTreeMap::new();
    for failure in clients.failures.iter().filter(|failure| failure.phase == phase) {
        let answer = match (failure.status, &failure.problem) {
            (Some(status), _) => format!("answered {status}"),
            (None, Some(problem)) => format!("{:?}: {problem}", failure.kind),
            (None, None) => format!("{:?}", failure.kind),
        };
        let who = failure.endpoint.as_deref().unwrap_or("the gateway");
        let version = failure.version.as_deref().unwrap_or("-");
        let text = format!("{} {answer} by {who} (version {version})", failure.method);
        let at = jiff::Timestamp::from_millisecond(failure.at).unwrap_or_default();
        kinds.entry(text).or_insert_with(|| (0, at)).0 += 1;
    }
    for (text, (count, first)) in kinds {
        io::complain(&format!("  failed: {count} x {text}, first at {first:.3}"));
    }
}

fn executed_twice(stage: &Stage) -> anyhow::Result<u64> {
    let executions = evenkeel_workload::executions(&stage.ledger())?;
    let mut keys: Vec<_> = executions.iter().map(|execution| execution.key.as_str()).collect();
    let all = keys.len();
    keys.sort_unstable();
    keys.dedup();
    Ok(u64::try_from(all - keys.len()).unwrap_or(u64::MAX))
}

/// Kills the process of one pod that serves, and waits until the pod serves again.
async fn kill_pod(stage: &Stage) -> anyhow::Result<i64> {
    let labels = LabelSelector::parse("app=api-service-primary")?;
    let query = ListQuery::all(GroupKind::of::<Pod>()).within("default").with_labels(labels);
    let pods = stage.store.list(&query).await?;
    let Some(pod) = pods.items.iter().find(|pod| is_ready(pod)) else {
        bail!("no pod of the primary is ready");
    };
    let pid = workload_of(pod.name())?;
    io::complain(&format!("  {} killed: SIGKILL to process {pid}", pod.key()));
    let restarts = restarts_of(pod);
    let at = now_ms();
    kill(Pid::from_raw(pid), Signal::SIGKILL).with_context(|| format!("kill process {pid}"))?;
    let one = ListQuery { labels: LabelSelector::default(), ..query };
    let one = one.with_fields(evenkeel_api::FieldSelector::equal("metadata.name", pod.name()));
    let mut events = stage.store.watch(one);
    let back = async {
        while let Some(event) = events.next().await {
            if let Ok(evenkeel_control::WatchEvent::Applied(now)) = event
                && restarts_of(&now) > restarts
                && is_ready(&now)
            {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_mins(1), back)
        .await
        .with_context(|| format!("{} does not come back", pod.key()))?;
    Ok(at)
}

fn restarts_of(pod: &evenkeel_api::Obj) -> i64 {
    let count = pod.json().pointer("/status/containerStatuses/0/restartCount");
    count.and_then(serde_json::Value::as_i64).unwrap_or_default()
}

fn is_ready(pod: &evenkeel_api::Obj) -> bool {
    let ready = pod.json().pointer("/status/containerStatuses/0/ready");
    ready.and_then(serde_json::Value::as_bool).unwrap_or_default() && !pod.is_deleting()
}

/// The process that runs a pod's workload: ours by program, the pod's by environment.
fn workload_of(pod: &str) -> anyhow::Result<i32> {
    let wanted = format!("POD_NAME={pod}");
    for entry in std::fs::read_dir("/proc").context("read /proc")? {
        let path = entry?.path();
        let number = path.file_name().and_then(|name| name.to_str()?.parse::<i32>().ok());
        let Some(pid) = number else { continue };
        // Processes come and go while we look; one that has gone is not it.
        let read = |file: &str| std::fs::read(path.join(file)).unwrap_or_default();
        let has = |bytes: &[u8], word: &str| {
            bytes.split(|byte| *byte == 0).any(|part| part == word.as_bytes())
        };
        if has(&read("cmdline"), "workload") && has(&read("environ"), &wanted) {
            return Ok(pid);
        }
    }
    bail!("no process runs pod {pod}")
}
