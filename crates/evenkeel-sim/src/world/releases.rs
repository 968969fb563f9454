//! Releases among faults: the scenario that every seed plays differently.
//!
//! ```text
//! faults    two services are released again and again, well and badly, while stores, pods, the
//!           gateway and processes fail: nothing unsafe may happen
//! none      whatever was under way ends, and no trace of the faults is left
//! after     some seeds go on: a good release is promoted, a bad one rolled back, a Canary deleted
//! ```

use std::{
    ops::Range,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use evenkeel_api::{GroupKind, Key, Obj, canary::Canary, httproute::HttpRoute};
use evenkeel_base::Rng;
use evenkeel_control::StoreError;
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Service, discovery::v1::EndpointSlice};
use serde_json::{Value, json};

use super::{
    Breach, Menu, Quality, Troubles, World,
    time::{locked, millis},
    traffic::{ERRORS_PCT_MAX, P99_MS_MAX},
};

const NS: &str = "default";
/// The services of every world.
const SERVICES: [&str; 2] = ["shop", "shop-api"];
/// How many pods each has.
const REPLICAS: i64 = 2;
/// How long the faults last.
const FAULTS_FOR: Duration = Duration::from_mins(6);
/// Between two looks of the scenario.
const LOOK: Duration = Duration::from_secs(2);
/// By then everything has healed, whatever was wrong before.
const HEALED_WITHIN: Duration = Duration::from_hours(2);

/// A good version.
pub const GOOD: Quality = Quality { error_ratio: Some(0.0), p99_ms: 20.0 };
/// A version that fails one request in five.
pub const BAD: Quality = Quality { error_ratio: Some(0.2), p99_ms: 20.0 };
/// A version that nobody can wait for.
const SLOW: Quality = Quality { error_ratio: Some(0.0), p99_ms: 800.0 };
/// A version of which nothing is known.
const UNKNOWN: Quality = Quality { error_ratio: None, p99_ms: 20.0 };

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

/// Plays seeds on all processors, each in a world of its own; outcomes in the order of seeds.
pub fn play_all(seeds: Range<u64>) -> Vec<Outcome> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let (next, outcomes) = (AtomicU64::new(seeds.start), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if !seeds.contains(&seed) {
                        return;
                    }
                    let outcome = play(seed);
                    locked(&outcomes).push(outcome);
                }
            });
        }
    });
    let mut outcomes = std::mem::take(&mut *locked(&outcomes));
    outcomes.sort_by_key(|outcome| outcome.seed);
    outcomes
}

/// Plays one seed.
pub fn play(seed: u64) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without I/O needs nothing from the system");
    runtime.block_on(async {
        let mut outcome = Outcome { seed, breaches: Vec::new(), trace: Vec::new(), deaths: 0 };
        let world = match World::new(seed).await {
            Ok(world) => world,
            Err(error) => {
                outcome.breaches.push(Breach { at_ms: 0, what: error.to_string() });
                return outcome;
            }
        };
        let rng = Rng::new(seed).child("scenario");
        let more = Rng::new(seed).child("more");
        // The seeds of earlier defects play as they did.
        let panics = (seed % 4 == 1).then(|| Rng::new(seed).child("panics"));
        let refusals = (seed % 5 == 3).then(|| Rng::new(seed).child("refusals"));
        let (versions, deaths) = (0, 0);
        let mut scenario = Scenario { world, rng, more, panics, refusals, versions, deaths };
        let ended = scenario.play().await;
        let Scenario { world, deaths, .. } = scenario;
        outcome.breaches = world.checks.breaches();
        if let Err(what) = ended {
            let at_ms = millis(world.time.elapsed());
            outcome.breaches.push(Breach { at_ms, what });
        }
        for service in SERVICES {
            let weights = world.checks.weights(service);
            outcome.trace.push(format!("{service} {} {weights:?}", phase(&world, service).await));
        }
        outcome.deaths = deaths;
        outcome
    })
}

struct Scenario {
    world: World,
    rng: Rng,
    /// For what was thought of later: what a seed drew before, it draws still.
    more: Rng,
    /// For panics, in one seed of four.
    panics: Option<Rng>,
    /// For rights to read that are taken away, in one seed of five.
    refusals: Option<Rng>,
    versions: u32,
    deaths: usize,
}

impl Scenario {
    async fn play(&mut self) -> Result<(), String> {
        self.world.domains = vec!["delivery".to_owned()];
        for service in SERVICES {
            self.world.traffic.set(service, GOOD);
            install(&self.world, service).await.map_err(|error| error.to_string())?;
        }
        for _ in 0..=self.rng.below(2) {
            self.world.start();
        }
        for service in SERVICES {
            self.reach(service, Duration::from_mins(30), async |world, service| {
                let phase = phase(world, service).await;
                if phase == "Initialized" { Ok(()) } else { Err(phase) }
            })
            .await?;
            self.release_any(service).await?;
        }
        self.fail().await?;
        for service in SERVICES {
            self.reach(service, HEALED_WITHIN, healed).await?;
        }
        for service in SERVICES {
            // A promotion that failed leaves the traffic with the canary until a new version.
            let stuck = self.world.checks.weights(service).last() != Some(&0);
            if stuck || self.refusals.is_some() || self.rng.below(8) == 0 {
                self.go_on(service).await?;
            }
        }
        self.deaths += self.world.bury();
        Ok(())
    }

    /// Everything goes wrong for a while, and versions go on coming.
    async fn fail(&mut self) -> Result<(), String> {
        let end = self.world.time.elapsed() + FAULTS_FOR;
        let mut change_at = Duration::ZERO;
        while self.world.time.elapsed() < end {
            if self.world.time.elapsed() >= change_at {
                let mut menu = draw(&mut self.rng);
                draw_more(&mut self.more, &mut menu);
                self.panics.iter_mut().for_each(|rng| draw_panic(rng, &mut menu));
                self.refusals.iter_mut().for_each(|rng| draw_refusals(rng, &mut menu));
                self.world.set_all(&menu);
                self.world.trouble(&draw_troubles(&mut self.rng));
                let service = SERVICES[usize::from(self.rng.below(2) == 1)];
                match self.rng.below(8) {
                    0 => self.release_any(service).await?,
                    1 => {
                        let quality = self.draw_quality();
                        self.world.traffic.set(service, quality);
                    }
                    _ => {}
                }
                change_at =
                    self.world.time.elapsed() + Duration::from_secs(10 + self.rng.below(110));
            }
            tokio::time::sleep(LOOK).await;
            self.deaths += revive(&mut self.world, &mut self.rng);
        }
        self.world.set_all(&Menu::default());
        self.world.trouble(&Troubles::default());
        Ok(())
    }

    /// After all faults: a good version is promoted, a bad one is not, and all can be taken away.
    async fn go_on(&mut self, service: &str) -> Result<(), String> {
        let good = self.release(service, GOOD).await?;
        self.reach(service, HEALED_WITHIN, async |world, service| {
            healed(world, service).await?;
            let image = image(world, &format!("{service}-primary")).await;
            let phase = phase(world, service).await;
            if phase == "Succeeded" && image == good {
                Ok(())
            } else {
                Err(format!("{phase}, {image} serves and not {good}"))
            }
        })
        .await?;
        let bad = self.release(service, BAD).await?;
        self.world.checks.forbid_image(&bad);
        self.refuse_for_a_while().await;
        self.reach(service, HEALED_WITHIN, async |world, service| {
            healed(world, service).await?;
            let phase = phase(world, service).await;
            if phase == "Failed" { Ok(()) } else { Err(phase) }
        })
        .await?;
        self.world
            .delete(&Key::of::<Canary>(NS, service))
            .await
            .map_err(|error| error.to_string())?;
        self.refuse_for_a_while().await;
        self.reach(service, HEALED_WITHIN, taken_away).await
    }

    /// Perhaps some kinds may not be read for some time, as when a role was edited.
    async fn refuse_for_a_while(&mut self) {
        let Some(rng) = &mut self.refusals else { return };
        tokio::time::sleep(Duration::from_secs(rng.below(120))).await;
        let mut menu = Menu::default();
        draw_refusals(rng, &mut menu);
        self.world.set_all(&menu);
        tokio::time::sleep(Duration::from_secs(30 + rng.below(600))).await;
        self.world.set_all(&Menu::default());
    }

    /// A version that may be good or bad, for all its life or not.
    async fn release_any(&mut self, service: &str) -> Result<(), String> {
        let quality = self.draw_quality();
        self.release(service, quality).await.map(drop)
    }

    async fn release(&mut self, service: &str, quality: Quality) -> Result<String, String> {
        self.versions += 1;
        let image = format!("evenkeel/demo:v{}", self.versions + 1);
        self.world.traffic.set(service, quality);
        release(&self.world, service, &image).await.map_err(|error| error.to_string())?;
        Ok(image)
    }

    fn draw_quality(&mut self) -> Quality {
        match self.rng.below(8) {
            0..4 => GOOD,
            4 | 5 => BAD,
            6 => SLOW,
            _ => UNKNOWN,
        }
    }

    async fn reach(
        &mut self,
        service: &str,
        limit: Duration,
        is_so: impl AsyncFn(&World, &str) -> Result<(), String>,
    ) -> Result<(), String> {
        let end = self.world.time.elapsed() + limit;
        while let Err(problem) = is_so(&self.world, service).await {
            if self.world.time.elapsed() > end {
                let canary = canary(&self.world, service).await;
                let status = canary.and_then(|c| c.json().get("status").cloned());
                let status = status.unwrap_or_default();
                let passes = self.last_passes(service).await;
                return Err(format!("{service} after {limit:?}: {problem}; {status}; {passes}"));
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }
}

impl Scenario {
    /// What each process last did about a service's Canary, and who leads.
    async fn last_passes(&self, service: &str) -> String {
        let leader = self.world.leader("delivery").await.unwrap_or_default();
        let object = Key::of::<Canary>(NS, service).to_string();
        let passes = self.world.processes.iter().map(|(number, process)| {
            let (dead, asked) = (process.store.is_dead(), process.store.requests());
            let why = process.activity.why(&object);
            format!("process-{number}: dead {dead}, {asked:?}, {why:?}")
        });
        passes.fold(format!("{leader} leads"), |all, one| format!("{all}; {one}"))
    }
}

/// Processes that are dead are started again; now and then one is killed.
fn revive(world: &mut World, rng: &mut Rng) -> usize {
    let mut deaths = world.bury();
    if deaths == 0 && rng.below(120) == 0 {
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
            5 => menu.told_twice_pct = 40,
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

/// And perhaps one of these: what is not heard of, or may not be read.
fn draw_more(rng: &mut Rng, menu: &mut Menu) {
    match rng.below(12) {
        0 | 1 => menu.dropped_pct = 30,
        2 => drop(menu.unreadable.insert(GroupKind::of::<HttpRoute>())),
        3 => drop(menu.unreadable.insert(GroupKind::of::<Canary>())),
        4 => drop(menu.unreadable.insert(GroupKind::of::<Deployment>())),
        _ => {}
    }
}

/// And kinds that a release or a deletion looks at and may not read.
fn draw_refusals(rng: &mut Rng, menu: &mut Menu) {
    for kind in [
        GroupKind::of::<Canary>(),
        GroupKind::of::<Deployment>(),
        GroupKind::of::<EndpointSlice>(),
        GroupKind::of::<HttpRoute>(),
        GroupKind::of::<Service>(),
    ] {
        if rng.below(4) == 0 {
            menu.unreadable.insert(kind);
        }
    }
}

/// Perhaps a defect of ours, which one object shows.
fn draw_panic(rng: &mut Rng, menu: &mut Menu) {
    let service = SERVICES[usize::from(rng.below(2) == 1)];
    let key = match rng.below(6) {
        0 | 1 => Key::of::<Canary>(NS, service),
        2 => Key::of::<HttpRoute>(NS, service),
        3 => Key::of::<Deployment>(NS, service),
        _ => return,
    };
    menu.panics_on.insert(key);
}

/// Beside the processes, perhaps the gateway or some pods.
fn draw_troubles(rng: &mut Rng) -> Troubles {
    let mut troubles = Troubles::default();
    let service = SERVICES[usize::from(rng.below(2) == 1)];
    match rng.below(10) {
        0 | 1 => troubles.unconfirmed = true,
        2 => drop(troubles.broken.insert(service.to_owned())),
        3 => drop(troubles.broken.insert(format!("{service}-primary"))),
        _ => {}
    }
    troubles
}

/// A service with its Canary: steps of 10 % up to 50 %, a check every 30 seconds.
pub async fn install(world: &World, service: &str) -> Result<(), StoreError> {
    world
        .create(json!({"apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": service, "namespace": NS},
            "spec": {"replicas": REPLICAS, "selector": {"matchLabels": {"app": service}},
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
                    "stepWeight": 10, "metrics": [
                        {"name": "request-success-rate", "interval": "30s",
                            "thresholdRange": {"min": 100.0 - ERRORS_PCT_MAX}},
                        {"name": "request-duration", "interval": "30s",
                            "thresholdRange": {"max": P99_MS_MAX}}]}}}))
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

/// What runs in a Deployment; empty when there is none.
async fn image(world: &World, deployment: &str) -> String {
    let found = world.store.get(&Key::of::<Deployment>(NS, deployment)).await.ok().flatten();
    let image = found
        .as_ref()
        .and_then(|d| d.json().pointer("/spec/template/spec/containers/0/image")?.as_str());
    image.unwrap_or_default().to_owned()
}

/// How many pods are wanted of a Deployment, and how many are ready.
async fn pods(world: &World, deployment: &str) -> Option<(i64, i64)> {
    let found = world.store.get(&Key::of::<Deployment>(NS, deployment)).await.ok().flatten()?;
    let number = |path| found.json().pointer(path).and_then(Value::as_i64).unwrap_or_default();
    Some((number("/spec/replicas"), number("/status/readyReplicas")))
}

/// After the faults: the release has ended, no traffic is left for a canary, which is gone, and no
/// condition says that something is wrong.
async fn healed(world: &World, service: &str) -> Result<(), String> {
    let phase = phase(world, service).await;
    let last = world.checks.weights(service).last().copied();
    let primary = pods(world, &format!("{service}-primary")).await;
    let target = pods(world, service).await;
    if !["Succeeded", "Failed"].contains(&phase.as_str()) {
        return Err(format!("the release does not end: {phase}"));
    }
    if primary != Some((REPLICAS, REPLICAS)) {
        return Err(format!("the primary has {primary:?}"));
    }
    // A promotion that failed; its version goes on serving.
    let kept = last == Some(100) && phase == "Failed" && target == Some((REPLICAS, REPLICAS));
    if !kept && (last, target) != (Some(0), Some((0, 0))) {
        return Err(format!("the canary is left with {last:?} % and {target:?}"));
    }
    let canary = canary(world, service).await;
    let conditions = canary.and_then(|c| c.json().pointer("/status/conditions").cloned());
    let flagged = conditions.unwrap_or_default().as_array().into_iter().flatten().any(|c| {
        ["Held", "Stalled"].contains(&c.get("type").and_then(Value::as_str).unwrap_or_default())
    });
    if flagged && !kept {
        return Err("a condition of the faults is left".to_owned());
    }
    Ok(())
}

/// A Canary is gone, and its target serves as it did before.
///
/// **Errors**: what is not so yet.
pub async fn taken_away(world: &World, service: &str) -> Result<(), String> {
    let target = pods(world, service).await;
    let apex = world.store.get(&Key::of::<Service>(NS, service)).await.ok().flatten();
    let selector = apex.as_ref().and_then(|apex| apex.json().pointer("/spec/selector/app"));
    let route = world.store.get(&Key::of::<HttpRoute>(NS, service)).await.ok().flatten();
    if canary(world, service).await.is_some() || route.is_some() {
        return Err("the Canary or its route is left".to_owned());
    }
    if target != Some((REPLICAS, REPLICAS)) || selector != Some(&json!(service)) {
        return Err(format!("the target has {target:?}, the Service selects {selector:?}"));
    }
    Ok(())
}
