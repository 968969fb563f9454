//! How fast the store is in this process, and how much memory it takes:
//! `cargo run --release -p evenkeel-cluster --example measure`.

use std::{
    io::Write as _,
    sync::Arc,
    time::{Duration, Instant},
};

use evenkeel_api::{GroupKind, Key, Obj};
use evenkeel_base::{Clock, Rng};
use evenkeel_cluster::ApiServer;
use evenkeel_control::{ListQuery, Patch, Read as _, Subresource, Write as _, WriteOptions};
use futures::{FutureExt as _, StreamExt as _, executor::block_on};
use jiff::Timestamp;
use serde_json::json;

struct WallClock;

impl Clock for WallClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}

/// Objects and writes per measurement.
const COUNT: usize = 10_000;

fn key(number: usize) -> Key {
    Key::new(GroupKind::new("", "Pod"), "default", &format!("web-{number}"))
}

/// Resident memory in MB, where the system reports it.
fn memory_mb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kilobytes.unwrap_or_default() / 1024
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut out = std::io::stdout();
    let mut say = |what: &str, took: Duration| {
        let rate = f64::from(u32::try_from(COUNT).unwrap_or(u32::MAX)) / took.as_secs_f64();
        writeln!(out, "{what:<44} {rate:>9.0}/s   {:>4} MB", memory_mb())
    };
    let server = ApiServer::new(Arc::new(WallClock), Rng::new(1));
    let options = WriteOptions::default();
    let start = Instant::now();
    for number in 0..COUNT {
        let pod = Obj::from_json(json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": format!("web-{number}"), "namespace": "default",
                "labels": {"app": "web", "pod-template-hash": "abc"}},
            "spec": {"containers": [{"name": "web", "image": "evenkeel/demo:v1",
                "ports": [{"containerPort": 8080}],
                "readinessProbe": {"httpGet": {"path": "/health", "port": 8080}},
                "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}}}]}}))?;
        block_on(server.create(&pod, &options))?;
    }
    say("create a pod", start.elapsed())?;
    let status = WriteOptions { subresource: Some(Subresource::Status), ..WriteOptions::default() };
    for watchers in [0, 10, 100] {
        let query = ListQuery::all(GroupKind::new("", "Pod")).within("default");
        let mut feeds: Vec<_> = (0..watchers).map(|_| server.watch(query.clone())).collect();
        for feed in &mut feeds {
            while feed.next().now_or_never().is_some() {}
        }
        let start = Instant::now();
        for number in 0..COUNT {
            let address = format!("127.64.{watchers}.1");
            let patch = json!({"status": {"phase": "Running", "podIP": address,
                "conditions": [{"type": "Ready", "status": "True"}]}});
            block_on(server.patch(&key(number), &Patch::Merge(patch), &status))?;
            for feed in &mut feeds {
                while feed.next().now_or_never().is_some() {}
            }
        }
        say(&format!("patch a status, sent to {watchers} watchers"), start.elapsed())?;
    }
    let start = Instant::now();
    for number in 0..COUNT {
        block_on(server.get(&key(number)))?;
    }
    say("get a pod", start.elapsed())?;
    Ok(())
}
