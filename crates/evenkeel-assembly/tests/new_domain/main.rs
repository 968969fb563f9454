//! A new domain of three files gets watch, door, record, Lease, metrics, `why` and the cache from
//! the assembly; no other code knows it. A test of `evenkeel-sim` runs it with faults.
#![expect(clippy::unwrap_used, reason = "a step that fails fails the test")]

mod cached;
mod decide;
mod greeter;
mod view;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use evenkeel_api::{Key, Obj};
use evenkeel_assembly::{Assembly, Leases, Settings};
use evenkeel_base::{Clock, Rng};
use evenkeel_cluster::ApiServer;
use evenkeel_control::{Activity, BoxFuture, Host, Store, Timer, WriteOptions};
use evenkeel_guard::MemoryDoor;
use futures::{
    channel::oneshot,
    executor::{LocalPool, block_on},
    task::LocalSpawnExt as _,
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{coordination::v1::Lease, core::v1::ConfigMap};
use serde_json::json;

use greeter::GREETER;

/// Virtual time that advances when all tasks wait.
#[derive(Default)]
struct Time(Mutex<(Timestamp, Alarms)>);

/// When each sleeper is due.
type Alarms = Vec<(Timestamp, oneshot::Sender<()>)>;

impl Clock for Time {
    fn now(&self) -> Timestamp {
        self.0.lock().unwrap().0
    }
}

impl Timer for Time {
    fn sleep(&self, wait: Duration) -> BoxFuture<'static, ()> {
        let mut time = self.0.lock().unwrap();
        let due = time.0 + SignedDuration::try_from(wait).unwrap();
        let (fire, fired) = oneshot::channel();
        time.1.push((due, fire));
        Box::pin(async { fired.await.unwrap_or_default() })
    }
}

impl Time {
    /// Runs everything until `end`.
    fn pass(&self, pool: &mut LocalPool, span: Duration) {
        let end = self.now() + SignedDuration::try_from(span).unwrap();
        loop {
            pool.run_until_stalled();
            let mut time = self.0.lock().unwrap();
            time.1.retain(|(_, fire)| !fire.is_canceled());
            time.1.sort_by_key(|(due, _)| *due);
            if time.1.first().is_none_or(|(due, _)| *due > end) {
                time.0 = end;
                return;
            }
            let (due, fire) = time.1.remove(0);
            time.0 = time.0.max(due);
            // The sleeper may be gone.
            fire.send(()).unwrap_or_default();
        }
    }
}

/// A user asks for a greeting.
fn asks(name: &str) -> Obj {
    let asks = json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": "default"}, "data": {"name": name}});
    Obj::from_json(asks).unwrap()
}

fn settings() -> Settings {
    Settings { confirm: true, metric_servers: None, look_every: Duration::from_secs(15) }
}

#[test]
fn a_new_domain_is_one_entry() {
    let time = Arc::new(Time::default());
    time.0.lock().unwrap().0 = Timestamp::from_second(1_700_000_000).unwrap();
    let store: Arc<dyn Store> = ApiServer::new(time.clone(), Rng::new(1)).store();
    let options = WriteOptions { manager: "test", ..WriteOptions::default() };
    block_on(store.create(&asks("ann"), &options)).unwrap();

    let door = Arc::new(MemoryDoor::new(time.clone()));
    let activity = Arc::<Activity>::default();
    let host = Host::new(&store, time.clone(), time.clone())
        .with_door(door.clone())
        .with_observer(activity.clone());
    let leases = Leases {
        namespace: "default".to_owned(),
        identity: "me".to_owned(),
        duration: Duration::from_secs(15),
        annotations: BTreeMap::from([("where".to_owned(), "here".to_owned())]),
    };
    let mut pool = LocalPool::new();
    let (stop, stopped) = oneshot::channel();
    let assembly = Assembly::new(host, settings())
        .with_domain(GREETER)
        .only(&["greeter".to_owned()])
        .with_leases(leases);
    let running = assembly.run_until(async { stopped.await.unwrap_or_default() });
    pool.spawner().spawn_local(running).unwrap();
    time.pass(&mut pool, Duration::from_secs(5));

    // Watch, decision and deed.
    let greeting = Key::of::<ConfigMap>("default", "ann-greeting");
    let greeting = block_on(store.get(&greeting)).unwrap().unwrap();
    assert_eq!(greeting.json().pointer("/data/text"), Some(&json!("Hello ann")));
    // Door and record: the questions and their outcomes.
    let lines = serde_json::to_string(&door.lines()).unwrap();
    assert!(lines.contains("greeter") && lines.contains("create"), "{lines}");
    assert_eq!(door.lines().len(), 2, "{lines}");
    // Lease.
    let lease = Key::of::<Lease>("default", "evenkeel-greeter");
    let holder = |store: &Arc<dyn Store>| {
        let lease = block_on(store.get(&lease)).unwrap().unwrap();
        assert_eq!(lease.annotation("where"), Some("here"));
        lease.json().pointer("/spec/holderIdentity").cloned().unwrap()
    };
    assert_eq!(holder(&store), json!("me"));
    // Metrics and `why`.
    let metrics = activity.metrics();
    let counted = "evenkeel_actions_total{controller=\"greeter\",verb=\"create\",outcome=\"done\"}";
    assert!(metrics.contains(&format!("{counted} 1")), "{metrics}");
    assert!(metrics.contains("evenkeel_leader{lease=\"Lease/default/evenkeel-greeter\"} 1"));
    let why = activity.why("ConfigMap/default/ann");
    assert_eq!((why[0].result.as_str(), why[0].reason.as_str()), ("done", "Greeting"));
    // An orderly end releases the Lease.
    stop.send(()).unwrap();
    time.pass(&mut pool, Duration::from_secs(1));
    assert_eq!(holder(&store), json!(""));
}
