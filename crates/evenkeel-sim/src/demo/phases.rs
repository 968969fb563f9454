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
use crate::world::{
    Quality, World,
    time::{locked, millis},
};

/// A kill comes up to this much later than it could.
const ODD_MS: u64 = 4_000;

/// Plays all phases; without a safeguard it ends after the first phase that shows the damage.
pub(super) async fn play(seed: u64, safeguards: Safeguards) -> Outcome {
    let broken =
        |problem: String| Report { phases: Vec::new(), unexplained: None, broken: Some(problem) };
    let world = match World::bare(seed).await {
        Ok(world) => world,
        Err(error) => return Outcome { trace: String::new(), report: broken(error.to_string()) },
    };
    let (trace, mut victims) = (world.trace.clone(), world.rng.child("victims"));
    let report = match Stage::set(world, safeguards).await {
        Ok(stage) => play_on(stage, &mut victims, safeguards).await,
        Err(error) => broken(error.to_string()),
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
        let told = ledger::settled(&stage.world.store, &changes, PACE.patience).await;
        if told.is_none() {
            report.broken = Some(ledger::SILENT.to_owned());
        }
        told
    } else {
        None
    };
    if all_on && report.broken.is_none() {
        let breach = stage.world.checks.breaches().into_iter().next();
        report.broken = breach.map(|breach| format!("at {} ms: {}", breach.at_ms, breach.what));
    }
    let record = locked(&stage.clients).record();
    let row = |happened| judge::row(happened, &record, ledger.as_ref(), &PACE);
    report.phases = all.iter().map(row).collect();
    report.unexplained = ledger.as_ref().map(LedgerRecord::unexplained);
    report
}

async fn one(stage: &mut Stage, phase: &Phase, victims: &mut Rng) -> Result<Happened, Broken> {
    stage.world.trace.say(&format!("== {}", phase.name));
    locked(&stage.clients).mark(phase.name);
    let began = millis(stage.world.time.elapsed());
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
            stage.kill_controllers();
            tokio::time::sleep(DEAD).await;
            stage.start_controllers();
            stage.canary.verdict(from, PACE.patience).await
        }
    };
    stage.world.trace.say(&format!("== {}: {}", phase.name, verdict.as_str()));
    let span_ms = (began, millis(stage.world.time.elapsed()));
    let moments = stage.canary.since(from);
    Ok(Happened { phase: *phase, moments, killed_at, verdict, span_ms, host_stall_ms: None })
}

/// Releases a version, as `kubectl apply` of the changed manifest does.
pub(super) async fn apply(stage: &Stage, release: &Release) -> Result<(), Broken> {
    let (key, patch) = pods::release(&stage.deployment(Some(release))?);
    let quality = Quality { error_ratio: Some(release.error_rate), p99_ms: 0.0 };
    stage.world.traffic.set(&key.name, quality);
    let options = WriteOptions { manager: "demo", ..WriteOptions::default() };
    stage.world.store.patch(&key, &patch, &options).await?;
    stage.world.trace.say(&format!("{} applied", release.version));
    Ok(())
}

/// Kills the process of one pod that serves, and waits until the pod serves again.
async fn kill_pod(stage: &Stage, victims: &mut Rng) -> Result<i64, Broken> {
    let query = pods::primary().map_err(|error| Broken::new(&error.to_string()))?;
    let serving = stage.world.store.list(&query).await?.items;
    let ready: Vec<_> = serving.iter().filter(|pod| is_ready(pod)).collect();
    let count = u64::try_from(ready.len()).unwrap_or_default();
    let chosen = usize::try_from(victims.below(count)).unwrap_or_default();
    let pod = ready.get(chosen).ok_or_else(|| Broken::new("no pod of the primary is ready"))?;
    let restarts = restarts_of(pod);
    let mut events = stage.world.store.watch(query);
    // Not in step with anything else.
    let odd = Duration::from_millis(victims.below(ODD_MS));
    tokio::time::sleep(PACE.apart + odd).await;
    let at = millis(stage.world.time.elapsed());
    stage.world.trace.say(&format!("SIGKILL to the process of {}", pod.name()));
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
    stage.world.trace.say(&format!("{} serves again", pod.name()));
    Ok(at)
}
