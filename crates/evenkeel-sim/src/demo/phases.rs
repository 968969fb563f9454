//! Plays the script under virtual time.

use std::time::Duration;

use evenkeel_base::Rng;
use evenkeel_control::{WatchEvent, WriteOptions};
use futures::StreamExt as _;

use super::{
    Outcome, Safeguards,
    happened::Happened,
    judge,
    ledger::{self, LedgerRecord},
    pods::{self, is_ready, restarts_of},
    report::Report,
    script::{BACK_PATIENCE, DEAD, Event, KILL_AT_WEIGHT, PHASES, Phase, Release, Verdict},
    stage::{Broken, PACE, Stage},
    timeline::Moment,
};
use crate::world::time::{Trace, VirtualTime, locked, millis};

/// A kill comes up to this much later than it could.
const ODD_MS: u64 = 4_000;

/// Plays all phases; without a safeguard it ends after the first phase that shows the damage.
pub(super) async fn play(seed: u64, safeguards: Safeguards) -> Outcome {
    let time = std::sync::Arc::new(VirtualTime::begin());
    let trace = Trace::new(time.clone());
    let rng = Rng::new(seed);
    let report = match Stage::set(time, trace.clone(), &rng, safeguards).await {
        Ok(stage) => play_on(stage, &mut rng.child("victims"), safeguards).await,
        Err(error) => {
            Report { phases: Vec::new(), unexplained: None, broken: Some(error.to_string()) }
        }
    };
    Outcome { trace: trace.text(), report }
}

async fn play_on(mut stage: Stage, victims: &mut Rng, safeguards: Safeguards) -> Report {
    let all_on = safeguards.retries && safeguards.drain && safeguards.confirmation;
    let mut report = Report { phases: Vec::new(), unexplained: None, broken: None };
    let mut all = Vec::new();
    for phase in &PHASES {
        match one(&mut stage, phase, victims).await {
            Ok(happened) => all.push(happened),
            Err(error) => {
                report.broken = Some(format!("{}: {error}", phase.name));
                break;
            }
        }
        let record = locked(&stage.clients).record();
        let shown = |last| judge::shows_damage(last, &record, &PACE);
        if !all_on && all.last().is_some_and(shown) {
            break;
        }
    }
    stage.stop_load().await;
    let ledger = if all_on && report.broken.is_none() {
        let changes = all.iter().filter_map(ledger::change_of).collect();
        let told = ledger::settled(&stage.store, &changes, PACE.patience).await;
        if told.is_none() {
            report.broken = Some(ledger::SILENT.to_owned());
        }
        told
    } else {
        None
    };
    let record = locked(&stage.clients).record();
    let row = |happened| judge::row(happened, &record, ledger.as_ref(), &PACE);
    report.phases = all.iter().map(row).collect();
    report.unexplained = ledger.as_ref().map(LedgerRecord::unexplained);
    report
}

async fn one(stage: &mut Stage, phase: &Phase, victims: &mut Rng) -> Result<Happened, Broken> {
    stage.trace.say(&format!("== {}", phase.name));
    locked(&stage.clients).mark(phase.name);
    let began = millis(stage.time.elapsed());
    let from = stage.canary.len().saturating_sub(1);
    let mut killed_at = None;
    let verdict = match phase.event {
        Event::Nothing => {
            tokio::time::sleep(PACE.quiet).await;
            Verdict::Undisturbed
        }
        Event::Release(release) => {
            apply(stage, &release).await?;
            stage.canary.verdict(from, PACE.patience).await
        }
        Event::PodKilled => {
            killed_at = Some(kill_pod(stage, victims).await?);
            tokio::time::sleep(PACE.quiet).await;
            Verdict::Undisturbed
        }
        Event::ControllersKilled(release) => {
            apply(stage, &release).await?;
            let ramping = |now: &Moment| now.is_ramping(KILL_AT_WEIGHT);
            let middle = stage.canary.wait_since(from, PACE.patience, ramping).await;
            middle.ok_or_else(|| {
                Broken::new(
                    "the release made no progress, so the controllers were not killed halfway",
                )
            })?;
            stage.kill_controllers().await;
            tokio::time::sleep(DEAD).await;
            stage.start_controllers();
            stage.canary.verdict(from, PACE.patience).await
        }
    };
    stage.trace.say(&format!("== {}: {}", phase.name, verdict.as_str()));
    let span_ms = (began, millis(stage.time.elapsed()));
    let moments = stage.canary.since(from);
    Ok(Happened { phase: *phase, moments, killed_at, verdict, span_ms, host_stall_ms: None })
}

/// Releases a version, as `kubectl apply` of the changed manifest does.
async fn apply(stage: &Stage, release: &Release) -> Result<(), Broken> {
    let (key, patch) = pods::release(&stage.deployment(Some(release))?);
    let options = WriteOptions { manager: "demo", ..WriteOptions::default() };
    stage.store.patch(&key, &patch, &options).await?;
    stage.trace.say(&format!("{} applied", release.version));
    Ok(())
}

/// Kills the process of one pod that serves, and waits until the pod serves again.
async fn kill_pod(stage: &Stage, victims: &mut Rng) -> Result<i64, Broken> {
    let query = pods::primary().map_err(|error| Broken::new(&error.to_string()))?;
    let serving = stage.store.list(&query).await?.items;
    let ready: Vec<_> = serving.iter().filter(|pod| is_ready(pod)).collect();
    let count = u64::try_from(ready.len()).unwrap_or_default();
    let chosen = usize::try_from(victims.below(count)).unwrap_or_default();
    let pod = ready.get(chosen).ok_or_else(|| Broken::new("no pod of the primary is ready"))?;
    let restarts = restarts_of(pod);
    let mut events = stage.store.watch(query);
    // Not in step with anything else.
    let odd = Duration::from_millis(victims.below(ODD_MS));
    tokio::time::sleep(PACE.apart + odd).await;
    let at = millis(stage.time.elapsed());
    stage.trace.say(&format!("SIGKILL to the process of {}", pod.name()));
    if !stage.fleet.kill(pod.name()) {
        return Err(Broken::new("the pod to kill has no process"));
    }
    let back = async {
        while let Some(event) = events.next().await {
            if let Ok(WatchEvent::Applied(now)) = event
                && now.key() == pod.key()
                && restarts_of(&now) > restarts
                && is_ready(&now)
            {
                return;
            }
        }
    };
    let waited = tokio::time::timeout(BACK_PATIENCE, back).await;
    waited.map_err(|_| Broken::new(&format!("{} does not come back", pod.key())))?;
    stage.trace.say(&format!("{} serves again", pod.name()));
    Ok(at)
}
