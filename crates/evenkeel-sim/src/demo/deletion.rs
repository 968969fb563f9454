//! A Canary that is deleted while clients send requests.

use std::time::Duration;

use evenkeel_api::{GroupKind, Key, canary::Canary, httproute::HttpRoute};
use evenkeel_control::{DeleteOptions, ListQuery};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Pod, Service},
};
use serde_json::Value;

use super::{
    Safeguards,
    phases::apply,
    pods::is_ready,
    record::{ClientRecord, Second},
    script::Release,
    stage::{PACE, Stage},
    timeline::Moment,
};
use crate::world::{
    World,
    time::{locked, millis},
};

const V2: Release = Release { version: "v2", error_rate: 0.0, slow_rate: 0.0, slow_ms: 0 };
const SAFE: Safeguards = Safeguards { retries: true, drain: true, confirmation: true };
const PATIENCE: Duration = Duration::from_mins(5);

fn play(story: impl AsyncFnOnce(Stage)) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let world = World::bare(7).await.unwrap();
        let stage = Stage::set(world, SAFE).await.unwrap();
        locked(&stage.clients).mark("deletion");
        story(stage).await;
    });
}

impl Stage {
    async fn exists(&self, key: &Key) -> bool {
        self.world.store.get(key).await.unwrap().is_some()
    }

    /// Pods whose name begins like this, with whether each is ready.
    async fn pods(&self, of: &str) -> Vec<bool> {
        let query = ListQuery::all(GroupKind::of::<Pod>()).within("default");
        let pods = self.world.store.list(&query).await.unwrap().items;
        pods.iter().filter(|pod| pod.name().starts_with(of)).map(|pod| is_ready(pod)).collect()
    }

    async fn delete(&self, key: &Key) {
        self.world.store.delete(key, &DeleteOptions::default()).await.unwrap();
    }

    async fn until(&self, what: &str, is_so: impl AsyncFn(&Self) -> bool) {
        let end = self.world.time.elapsed() + PATIENCE;
        while !is_so(self).await {
            let trace = self.world.trace.text();
            assert!(self.world.time.elapsed() < end, "{what}: {trace}");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    /// Ends the load; what clients saw.
    async fn seen(&mut self) -> ClientRecord {
        self.stop_load().await;
        locked(&self.clients).record()
    }
}

/// A moment of a release.
type IsSo = fn(&Moment) -> bool;

fn canary() -> Key {
    Key::of::<Canary>("default", "api-service")
}

fn target() -> Key {
    Key::of::<Deployment>("default", "api-service")
}

/// A release, until the Canary says this.
async fn release_until(stage: &Stage, is_so: impl Fn(&Moment) -> bool) {
    let from = stage.canary.len().saturating_sub(1);
    apply(stage, &V2).await.unwrap();
    stage.canary.wait_since(from, PACE.patience, is_so).await.unwrap();
    tokio::time::sleep(Duration::from_millis(700)).await;
}

#[test]
fn a_canary_is_deleted_at_any_time_without_a_failed_request() {
    let moments: [(&str, IsSo); 4] = [
        ("v1", |_| true),
        ("v2", |now| now.is_ramping(10)),
        ("v2", |now| now.is_ramping(50)),
        ("v2", |now| now.phase == "Promoting"),
    ];
    for (number, (version, is_so)) in moments.into_iter().enumerate() {
        play(async |mut stage| {
            if version == "v2" {
                release_until(&stage, is_so).await;
            }
            stage.delete(&canary()).await;
            stage.until("the Canary is gone", async |s| !s.exists(&canary()).await).await;
            let primary = "api-service-primary";
            stage.until("its pods are gone", async |s| s.pods(primary).await.is_empty()).await;
            tokio::time::sleep(Duration::from_mins(1)).await;
            let record = stage.seen().await;
            assert_eq!(record.failures, [], "{number}");
            let phase = record.phases.last().unwrap();
            assert!(phase.sent > 10_000 && phase.executed_twice == 0, "{number}: {phase:?}");
            // The target serves everybody, as it was before there was a Canary.
            let last = record.seconds.iter().rev().nth(1).unwrap();
            assert_eq!(last.versions.keys().collect::<Vec<_>>(), [version], "{number}");
            assert_eq!(stage.pods("api-service-").await, [true; 3], "{number}");
            for gone in [
                Key::of::<HttpRoute>("default", "api-service"),
                Key::of::<Deployment>("default", primary),
                Key::of::<Service>("default", primary),
                Key::of::<Service>("default", "api-service-canary"),
            ] {
                assert!(!stage.exists(&gone).await, "{number}: {gone}");
            }
            let apex = Key::of::<Service>("default", "api-service");
            let apex = stage.world.store.get(&apex).await.unwrap().unwrap();
            let selector = apex.json().pointer("/spec/selector/app").and_then(Value::as_str);
            assert_eq!(selector, Some("api-service"), "{number}");
        });
    }
}

#[test]
fn a_canary_and_its_deployment_that_are_deleted_together_end_without_a_broken_request() {
    for (number, canary_first) in [true, false].into_iter().enumerate() {
        for amid in [false, true] {
            play(async |mut stage| {
                if amid {
                    release_until(&stage, |now| now.is_ramping(20)).await;
                }
                let both = if canary_first { [canary(), target()] } else { [target(), canary()] };
                let deleted_at = millis(stage.world.time.elapsed());
                for key in &both {
                    stage.delete(key).await;
                }
                stage.until("the Canary is gone", async |s| !s.exists(&canary()).await).await;
                stage.until("all pods are gone", async |s| s.pods("api-").await.is_empty()).await;
                tokio::time::sleep(Duration::from_secs(10)).await;
                let record = stage.seen().await;
                // The address is gone from one moment on, and not found; what was under way by then
                // is answered. Nobody meets a pod that has ended.
                let first = record.failures.iter().map(|failure| failure.at).min().unwrap();
                let other = record.failures.iter().find(|failure| failure.status != Some(404));
                assert_eq!(other, None, "{number} {amid}");
                assert!(deleted_at <= first, "{number} {amid}: {first}");
                let answered = |second: &&Second| !second.versions.is_empty();
                let last = record.seconds.iter().rev().find(answered).unwrap().from;
                assert!(last <= first + 1_000, "{number} {amid}: {first}, answers until {last}");
                let route = Key::of::<HttpRoute>("default", "api-service");
                assert!(!stage.exists(&route).await, "{number} {amid}");
            });
        }
    }
}
