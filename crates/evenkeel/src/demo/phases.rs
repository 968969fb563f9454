//! Plays the script.

use std::time::Duration;

use anyhow::{Context as _, bail};
use evenkeel_api::LabelSelector;
use evenkeel_control::{ListQuery, WriteOptions};
use evenkeel_sim::demo::{
    happened::Happened,
    judge,
    ledger::{self, LedgerRecord},
    pods::{self, is_ready, restarts_of},
    report::Report,
    script::{BACK_PATIENCE, DEAD, Event, KILL_AT_WEIGHT, PHASES, Pace, Phase, Release, Verdict},
    timeline::Moment,
};
use futures::StreamExt as _;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{
    clients::Clients,
    now_ms,
    stage::{Settings, Stage},
};
use crate::io;

/// Longest wait for the ledger after the last release: a few scrapes and looks.
const LEDGER_PATIENCE: Duration = Duration::from_mins(2);

/// Plays all phases; without a safeguard it ends after the first phase that shows the damage.
pub(super) async fn play(stage: &mut Stage<'_>, settings: Settings) -> Report {
    let Settings { pace, without } = settings;
    let mut report = Report { phases: Vec::new(), unexplained: None, broken: None };
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
                report.broken = Some(format!("{}: {}", phase.name, io::words(&error)));
                break;
            }
        }
        let clients = stage.clients.lock();
        report_failures(&clients, phase.name);
        let record = clients.record();
        let shown = |last| judge::shows_damage(last, &record, &pace);
        if without.is_some() && all.last().is_some_and(shown) {
            break;
        }
    }
    if let Err(error) = stage.stop_load().await {
        report.broken.get_or_insert_with(|| io::words(&error));
    }
    let ledger = if without.is_none() && report.broken.is_none() {
        io::complain("waiting for the SLO's ledger to settle the last release ...");
        let changes = all.iter().filter_map(ledger::change_of).collect();
        let settled = ledger::settled(&stage.store, &changes, LEDGER_PATIENCE).await;
        if settled.is_none() {
            report.broken = Some(ledger::SILENT.to_owned());
        }
        settled
    } else {
        None
    };
    let record = stage.clients.lock().record();
    let row = |happened| judge::row(happened, &record, ledger.as_ref(), &pace);
    report.phases = all.iter().map(row).collect();
    report.unexplained = ledger.as_ref().map(LedgerRecord::unexplained);
    report
}

async fn one(stage: &mut Stage<'_>, phase: &Phase) -> anyhow::Result<Happened> {
    let pace = stage.pace();
    io::complain(&format!("{}: {}", phase.name, plan(&phase.event, &pace)));
    let began = now_ms();
    let from = stage.canary.len().saturating_sub(1);
    stage.stalls.take_ms();
    let twice_before = executed_twice(stage)?;
    let mut killed_at = None;
    let verdict = match phase.event {
        Event::Nothing => {
            tokio::time::sleep(pace.quiet).await;
            Verdict::Undisturbed
        }
        Event::Release(release) => {
            apply(stage, &release).await?;
            stage.canary.verdict(from, pace.patience).await
        }
        Event::PodKilled => {
            tokio::time::sleep(pace.apart).await;
            killed_at = Some(kill_pod(stage).await?);
            tokio::time::sleep(pace.quiet).await;
            Verdict::Undisturbed
        }
        Event::ControllersKilled(release) => {
            apply(stage, &release).await?;
            let ramping = |now: &Moment| now.is_ramping(KILL_AT_WEIGHT);
            let middle = stage.canary.wait_since(from, pace.patience, ramping).await;
            middle.context(
                "the release made no progress, so the controllers were not killed halfway",
            )?;
            let pid = stage.kill_controllers().await?;
            io::complain(&format!("  controllers killed: SIGKILL to process {pid}"));
            tokio::time::sleep(DEAD).await;
            let pid = stage.restart_controllers().await?.unwrap_or_default();
            io::complain(&format!("  controllers started again: process {pid}"));
            stage.canary.verdict(from, pace.patience).await
        }
    };
    io::complain(&format!("  {} at {:.3}", verdict.as_str(), jiff::Timestamp::now()));
    let twice = executed_twice(stage)?.saturating_sub(twice_before);
    stage.clients.lock().executed_twice.insert(phase.name, twice);
    Ok(Happened {
        phase: *phase,
        moments: stage.canary.since(from),
        killed_at,
        verdict,
        span_ms: (began, now_ms()),
        host_stall_ms: Some(stage.stalls.take_ms()),
    })
}

/// What is about to happen, printed for people who watch.
fn plan(event: &Event, pace: &Pace) -> String {
    match event {
        Event::Nothing => format!("nothing happens for {} s", pace.quiet.as_secs()),
        Event::Release(Release { version, error_rate, .. }) if *error_rate > 0.0 => {
            format!("{version} is applied; {:.0} % of its answers are 500", 100.0 * error_rate)
        }
        Event::Release(Release { version, slow_rate, slow_ms, .. }) if *slow_rate > 0.0 => {
            let pct = 100.0 * slow_rate;
            format!("{version} is applied; {pct:.0} % of its answers take {slow_ms} ms")
        }
        Event::Release(Release { version, .. }) => format!("{version} is applied"),
        Event::PodKilled => "one pod's process is killed".to_owned(),
        Event::ControllersKilled(Release { version, .. }) => {
            format!("{version} is applied; the controllers are killed on the way")
        }
    }
}

/// Releases a version, as `kubectl apply` of the changed manifest does.
async fn apply(stage: &Stage<'_>, release: &Release) -> anyhow::Result<()> {
    let manifest = serde_saphyr::from_str(&stage.deployment(Some(release)))?;
    let (key, patch) = pods::release(&manifest);
    let options = WriteOptions { manager: "demo", ..WriteOptions::default() };
    stage.store.patch(&key, &patch, &options).await.context("apply the release")?;
    Ok(())
}

/// Reports what failed in a phase, equal failures as one line.
fn report_failures(clients: &Clients, phase: &str) {
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

fn executed_twice(stage: &Stage<'_>) -> anyhow::Result<u64> {
    let executions = evenkeel_workload::executions(&stage.ledger())?;
    let mut keys: Vec<_> = executions.iter().map(|execution| execution.key.as_str()).collect();
    let all = keys.len();
    keys.sort_unstable();
    keys.dedup();
    Ok(u64::try_from(all - keys.len()).unwrap_or(u64::MAX))
}

/// Kills the process of one pod that serves, and waits until the pod serves again.
async fn kill_pod(stage: &Stage<'_>) -> anyhow::Result<i64> {
    let query = pods::primary()?;
    let serving = stage.store.list(&query).await?;
    let Some(pod) = serving.items.iter().find(|pod| is_ready(pod)) else {
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
    tokio::time::timeout(BACK_PATIENCE, back)
        .await
        .with_context(|| format!("{} does not come back", pod.key()))?;
    Ok(at)
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
