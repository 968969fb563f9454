//! Releases among faults: the scenario that every seed plays differently.

use std::{sync::Arc, time::Duration};

use evenkeel_api::{GroupKind, Key, Obj, canary::Canary, httproute::HttpRoute};
use evenkeel_base::Rng;
use evenkeel_control::StoreError;
use k8s_openapi::api::apps::v1::Deployment;
use serde_json::{Value, json};

use super::{Breach, Menu, Quality, Traffic, World, checks::STEP_PCT};

const NS: &str = "default";
/// The services of every world.
const SERVICES: [&str; 2] = ["shop", "shop-api"];
/// How long the faults last.
const FAULTS_FOR: Duration = Duration::from_mins(12);
/// Between two looks of the scenario.
const LOOK: Duration = Duration::from_secs(1);
/// By then everything has healed, whatever was wrong before.
const HEALED_WITHIN: Duration = Duration::from_hours(2);

/// A good version.
pub const GOOD: Quality = Quality { error_ratio: Some(0.0), p99_ms: 20.0 };
/// A version that fails one request in five.
pub const BAD: Quality = Quality { error_ratio: Some(0.2), p99_ms: 20.0 };

/// What came of one seed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Which one.
    pub seed: u64,
    /// What must not have been; empty when all is well.
    pub breaches: Vec<Breach>,
    /// Service, phase and weights: the same for the same seed.
    pub trace: Vec<String>,
    /// Times that a process was killed or died.
    pub deaths: usize,
}

/// Plays one seed.
pub fn play(seed: u64) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without I/O needs nothing from the system");
    runtime.block_on(async {
        let mut deaths = 0;
        let traffic = Arc::<Traffic>::default();
        let mut breaches = Vec::new();
        let mut trace = Vec::new();
        match World::new(seed, traffic.clone()).await {
            Ok(mut world) => {
                if let Err(error) = scenario(&mut world, &traffic, seed, &mut deaths).await {
                    breaches.push(Breach { at_ms: 0, what: error });
                }
                breaches.extend(world.checks.breaches());
                for service in SERVICES {
                    let weights = world.checks.weights(service);
                    trace.push(format!("{service} {} {weights:?}", phase(&world, service).await));
                }
            }
            Err(error) => breaches.push(Breach { at_ms: 0, what: error.to_string() }),
        }
        Outcome { seed, breaches, trace, deaths }
    })
}

async fn scenario(
    world: &mut World,
    traffic: &Traffic,
    seed: u64,
    deaths: &mut usize,
) -> Result<(), String> {
    let mut rng = Rng::new(seed).child("scenario");
    let text = |error: StoreError| error.to_string();
    for service in SERVICES {
        traffic.set(service, GOOD);
        install(world, service).await.map_err(text)?;
    }
    let processes = 1 + rng.below(2);
    for _ in 0..processes {
        world.start();
    }
    until(world, Duration::from_mins(30), &["Initialized"]).await?;
    // A release of each service; which one is bad is drawn.
    for service in SERVICES {
        let bad = rng.below(2) == 1;
        let image = format!("evenkeel/demo:{}", if bad { "bad" } else { "v2" });
        if bad {
            world.checks.forbid_image(&image);
            traffic.set(service, BAD);
        }
        release(world, service, &image).await.map_err(text)?;
    }
    let end = world.time.elapsed() + FAULTS_FOR;
    let mut change_at = Duration::ZERO;
    while world.time.elapsed() < end {
        if world.time.elapsed() >= change_at {
            world.set_all(&draw(&mut rng));
            change_at = world.time.elapsed() + Duration::from_secs(10 + rng.below(110));
        }
        tokio::time::sleep(LOOK).await;
        *deaths += revive(world, &mut rng);
    }
    world.set_all(&Menu::default());
    let ended = until(world, HEALED_WITHIN, &["Succeeded", "Failed"]).await;
    *deaths += world.bury();
    ended?;
    for service in SERVICES {
        healed(world, service).await?;
    }
    Ok(())
}

/// Processes that are dead are started again; now and then one is killed.
fn revive(world: &mut World, rng: &mut Rng) -> usize {
    let mut deaths = world.bury();
    if deaths == 0 && rng.below(240) == 0 {
        let number = world.processes.keys().next().copied();
        if let Some(number) = number {
            world.kill(number);
        }
        deaths = 1;
    }
    for _ in 0..deaths {
        world.start();
    }
    deaths
}

/// One thing goes wrong, or several.
fn draw(rng: &mut Rng) -> Menu {
    let mut menu = Menu::default();
    for _ in 0..=rng.below(2) {
        match rng.below(12) {
            0 => menu.silent = true,
            1 => menu.stale_pct = 30,
            2 => menu.slow_pct = 30,
            3 => menu.conflict_pct = 40,
            4 => menu.lost_answer_pct = 30,
            5 => menu.held_back_pct = 40,
            6 => menu.watches_end = true,
            7 => drop(menu.forbidden.insert(GroupKind::of::<HttpRoute>())),
            8 => drop(menu.forbidden.insert(GroupKind::of::<Deployment>())),
            9 => drop(menu.invalid.insert(GroupKind::of::<Canary>())),
            10 => menu.dies_after = Some(rng.below(12)),
            _ => {}
        }
    }
    menu
}

/// A service with its Canary: steps of 10 % up to 50 %, a check every 30 seconds.
pub async fn install(world: &World, service: &str) -> Result<(), StoreError> {
    world
        .create(json!({"apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": service, "namespace": NS},
            "spec": {"replicas": 2, "selector": {"matchLabels": {"app": service}},
                "template": {"metadata": {"labels": {"app": service}},
                    "spec": {"containers": [{"name": "app", "image": "evenkeel/demo:v1",
                        "ports": [{"containerPort": 8080}]}]}}}}))
        .await?;
    world
        .create(json!({"apiVersion": "flagger.app/v1beta1", "kind": "Canary",
            "metadata": {"name": service, "namespace": NS},
            "spec": {"targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": service},
                "service": {"port": 80, "targetPort": 8080},
                "analysis": {"interval": "30s", "threshold": 3, "maxWeight": 50,
                    "stepWeight": STEP_PCT, "metrics": [
                        {"name": "request-success-rate", "interval": "30s",
                            "thresholdRange": {"min": 99}},
                        {"name": "request-duration", "interval": "30s",
                            "thresholdRange": {"max": 500}}]}}}))
        .await
}

/// A new version of a service.
pub async fn release(world: &World, service: &str, image: &str) -> Result<(), StoreError> {
    let key = Key::of::<Deployment>(NS, service);
    let container = json!({"name": "app", "image": image, "ports": [{"containerPort": 8080}]});
    world.patch(&key, json!({"spec": {"template": {"spec": {"containers": [container]}}}})).await
}

/// A service's Canary.
pub async fn canary(world: &World, service: &str) -> Option<Arc<Obj>> {
    world.store.get(&Key::of::<Canary>(NS, service)).await.ok().flatten()
}

/// The phase of a service's Canary; empty when there is none yet.
pub async fn phase(world: &World, service: &str) -> String {
    let canary = canary(world, service).await;
    let phase = canary.as_ref().and_then(|c| c.json().pointer("/status/phase")?.as_str());
    phase.unwrap_or_default().to_owned()
}

async fn until(world: &World, limit: Duration, phases: &[&str]) -> Result<(), String> {
    let end = world.time.elapsed() + limit;
    loop {
        let mut reached = true;
        for service in SERVICES {
            reached &= phases.contains(&phase(world, service).await.as_str());
        }
        if reached {
            return Ok(());
        }
        if world.time.elapsed() > end {
            let mut now = Vec::new();
            for service in SERVICES {
                let canary = canary(world, service).await;
                let status = canary.and_then(|c| c.json().get("status").cloned());
                now.push(format!("{service}: {}", status.unwrap_or_default()));
            }
            return Err(format!("not {phases:?} within {limit:?}: {}", now.join("; ")));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// After the faults: no traffic for a canary, and no condition that says that something is wrong.
async fn healed(world: &World, service: &str) -> Result<(), String> {
    let last = world.checks.weights(service).last().copied();
    if last != Some(0) {
        return Err(format!("{service}: the canary is left with {last:?} %"));
    }
    let canary = canary(world, service).await;
    let conditions = canary.and_then(|c| c.json().pointer("/status/conditions").cloned());
    let flagged = conditions.unwrap_or_default().as_array().into_iter().flatten().any(|c| {
        ["Held", "Stalled"].contains(&c.get("type").and_then(Value::as_str).unwrap_or_default())
    });
    if flagged {
        return Err(format!("{service}: a condition of the faults is left"));
    }
    Ok(())
}
