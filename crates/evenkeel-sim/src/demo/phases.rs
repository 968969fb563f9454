//! Plays the script under virtual time.

use std::time::Duration;

use evenkeel_api::{GroupKind, Key, LabelSelector, Obj};
use evenkeel_base::Rng;
use evenkeel_control::{ListQuery, Patch, WatchEvent, WriteOptions};
use futures::StreamExt as _;
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use serde_json::Value;

use super::{
    Outcome, Safeguards,
    judge::{self, Happened, PACE},
    report::Report,
    script::{Event, PHASES, Phase, Release, Verdict},
    stage::{Broken, Stage},
    time::{Trace, VirtualTime, locked, millis},
    timeline::Moment,
};

/// Weight at which the controllers are killed: in the middle of the ramp.
const KILL_AT_WEIGHT: i32 = 20;
/// How long the controllers stay dead.
const DEAD: Duration = Duration::from_secs(5);
/// No request takes longer than this while no slow release is out.
const SETTLED_MS: u64 = 1_000;
/// Longest wait for a killed pod.
const BACK_PATIENCE: Duration = Duration::from_mins(1);

/// Plays all phases; without a safeguard it ends after the first phase that shows the damage.
pub(super) async fn play(seed: u64, safeguards: Safeguards) -> Outcome {
    let time = std::sync::Arc::new(VirtualTime::begin());
    let trace = Trace::new(time.clone());
    let rng = Rng::new(seed);
    let report = match Stage::set(time, trace.clone(), &rng, safeguards).await {
        Ok(stage) => play_on(stage, &mut rng.child("victims"), safeguards).await,
        Err(error) => Report { phases: Vec::new(), broken: Some(error.to_string()) },
    };
    Outcome { trace: trace.text(), report }
}

async fn play_on(mut stage: Stage, victims: &mut Rng, safeguards: Safeguards) -> Report {
    let all_on = safeguards.retries && safeguards.drain && safeguards.confirmation;
    let mut report = Report { phases: Vec::new(), broken: None };
    let mut all = Vec::new();
    for phase in &PHASES {
        match one(&mut stage, phase, victims).await {
            Ok(happened) => all.push(happened),
            Err(error) => {
                report.broken = Some(format!("{}: {error}", phase.name));
                break;
            }
        }
        if !all_on && shows_damage(&stage, all.last()) {
            break;
        }
    }
    stage.stop_load().await;
    let clients = locked(&stage.clients);
    report.phases = all.iter().map(|happened| judge::row(happened, &clients)).collect();
    report
}

fn shows_damage(stage: &Stage, last: Option<&Happened>) -> bool {
    let clients = locked(&stage.clients);
    let shown = last.is_some_and(|last| {
        let row = judge::row(last, &clients);
        row.failed > 0 || row.verdict != row.expect || !row.blind_steps.is_empty()
    });
    shown || clients.failures.iter().any(|failure| failure.post && failure.status != 500)
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
            decided(stage, from).await
        }
        Event::PodKilled => {
            killed_at = Some(kill_pod(stage, victims).await?);
            tokio::time::sleep(PACE.quiet).await;
            Verdict::Undisturbed
        }
        Event::ControllersKilled(release) => {
            apply(stage, &release).await?;
            let ramping = |now: &Moment| now.phase == "Progressing" && now.weight >= KILL_AT_WEIGHT;
            let middle = stage.canary.wait_since(from, PACE.patience, ramping).await;
            middle.ok_or_else(|| {
                Broken::new("the release does not get on, so there is no middle to kill it in")
            })?;
            stage.kill_controllers().await;
            tokio::time::sleep(DEAD).await;
            stage.start_controllers();
            decided(stage, from).await
        }
    };
    stage.trace.say(&format!("== {}: {}", phase.name, verdict.as_str()));
    let span_ms = (began, millis(stage.time.elapsed()));
    let moments = stage.canary.since(from);
    Ok(Happened { phase: *phase, moments, killed_at, verdict, span_ms })
}

/// Releases a version, as `kubectl apply` of the changed manifest does.
async fn apply(stage: &Stage, release: &Release) -> Result<(), Broken> {
    let manifest = stage.deployment(Some(release))?;
    let key = Key::of::<Deployment>("default", "api-service");
    let template = manifest.pointer("/spec/template").cloned().unwrap_or_default();
    let patch = Patch::Strategic(serde_json::json!({"spec": {"template": template}}));
    let options = WriteOptions { manager: "demo", ..WriteOptions::default() };
    stage.store.patch(&key, &patch, &options).await?;
    stage.trace.say(&format!("{} applied", release.version));
    Ok(())
}

/// Follows a release to its end.
async fn decided(stage: &Stage, from: usize) -> Verdict {
    let search = async {
        // The end of the release before is not the end of this one.
        let running = |now: &Moment| !now.is_decided();
        let (began, _) = stage.canary.wait_since(from, PACE.patience, running).await?;
        stage.canary.wait_since(began, PACE.patience, Moment::is_decided).await
    };
    match search.await {
        Some((_, end)) if end.phase == "Succeeded" => Verdict::Promoted,
        Some(_) => Verdict::RolledBack,
        None => Verdict::Undecided,
    }
}

/// Kills the process of one pod that serves, and waits until the pod serves again.
async fn kill_pod(stage: &Stage, victims: &mut Rng) -> Result<i64, Broken> {
    let labels = LabelSelector::parse("app=api-service-primary")
        .map_err(|error| Broken::new(&error.to_string()))?;
    let query = ListQuery::all(GroupKind::of::<Pod>()).within("default").with_labels(labels);
    let pods = stage.store.list(&query).await?.items;
    let ready: Vec<_> = pods.iter().filter(|pod| is_ready(pod)).collect();
    let count = u64::try_from(ready.len()).unwrap_or_default();
    let chosen = usize::try_from(victims.below(count)).unwrap_or_default();
    let pod = ready.get(chosen).ok_or_else(|| Broken::new("no pod of the primary is ready"))?;
    let restarts = restarts_of(pod);
    let mut events = stage.store.watch(query);
    // Not in step with anything else, and when no request of the phase before is under way.
    let wait = SETTLED_MS + victims.below(SETTLED_MS * 4);
    tokio::time::sleep(Duration::from_millis(wait)).await;
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

fn restarts_of(pod: &Obj) -> i64 {
    let count = pod.json().pointer("/status/containerStatuses/0/restartCount");
    count.and_then(Value::as_i64).unwrap_or_default()
}

fn is_ready(pod: &Obj) -> bool {
    let ready = pod.json().pointer("/status/containerStatuses/0/ready");
    ready.and_then(Value::as_bool).unwrap_or_default() && !pod.is_deleting()
}
