//! Volumes of pods that an agent runs, in real folders under virtual time.

use std::{fs, path::PathBuf};

use evenkeel_node::volumes::VolumeSettings;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolume, PersistentVolumeClaim};

use super::*;

/// A world whose node keeps files.
struct Place {
    world: World,
    root: PathBuf,
}

impl Place {
    fn new(name: &str) -> Self {
        let name = format!("evenkeel-agent-{name}-{}", std::process::id());
        let root = std::env::temp_dir().join(name);
        fs::create_dir_all(&root).unwrap();
        let root = root.canonicalize().unwrap();
        let mut world = World::new(true);
        world.config.volumes = Some(VolumeSettings {
            root: root.join("node"),
            claims: root.join("claims"),
            host_paths: Vec::new(),
        });
        Self { world, root }
    }

    async fn make(&self, body: Value) {
        let options = WriteOptions { manager: "test", ..WriteOptions::default() };
        self.world.store.create(&Obj::from_json(body).unwrap(), &options).await.unwrap();
    }

    async fn config(&self, value: &str) {
        let meta = json!({"name": "conf", "namespace": "default"});
        let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta,
            "data": {"mode": value}});
        self.make(body).await;
    }

    /// Where the only container sees this path.
    fn seen_at(&self, target: &str) -> PathBuf {
        let mounts = self.world.runtime.mounts.lock().unwrap().clone();
        let mount = mounts.iter().find(|mount| mount.target.to_str() == Some(target)).unwrap();
        mount.source.clone()
    }

    fn pods(&self) -> usize {
        fs::read_dir(self.root.join("node/pods")).map_or(0, Iterator::count)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.root).unwrap();
    }
}

const CONFIGURED: &str = "{containers: [{name: a, image: i, \
    volumeMounts: [{name: c, mountPath: /etc/app}, {name: d, mountPath: /etc/pod}, \
        {name: c, mountPath: /mode, subPath: mode}]}], \
    volumes: [{name: c, configMap: {name: conf}}, {name: d, downwardAPI: \
        {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}]}}]}";

#[tokio::test(start_paused = true)]
async fn a_pod_waits_for_its_config_map_and_sees_its_changes() {
    let place = Place::new("config");
    let world = &place.world;
    let _agent = world.start();
    let key = world.pod("web", CONFIGURED, None).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let pod = world.store.get(&key).await.unwrap().unwrap();
    let status = &pod.json()["status"];
    assert_eq!(status["phase"], "Pending");
    let waiting = &status["containerStatuses"][0]["state"]["waiting"];
    assert_eq!(waiting["reason"], "ContainerCreating");
    // At 0, 0.5 and 1.5 s.
    assert_eq!(world.events().await, ["FailedMount 3"]);
    assert_eq!(world.runtime.said(), "");

    place.config("slow").await;
    world.until_ready(&key, "True").await;
    let file = place.seen_at("/etc/app").join("mode");
    let fixed = place.seen_at("/mode");
    assert_eq!(fs::read_to_string(&file).unwrap(), "slow");
    assert!(world.runtime.mounts.lock().unwrap().iter().all(|mount| mount.read_only));
    let labels = place.seen_at("/etc/pod").join("labels");
    assert_eq!(fs::read_to_string(&labels).unwrap(), "");

    let before = world.server.revision();
    tokio::time::sleep(Duration::from_mins(5)).await;
    assert_eq!(world.server.revision(), before, "a write without a reason");
    let opened = fs::File::open(&fixed).unwrap();
    let map = Key::of::<ConfigMap>("default", "conf");
    world.patch(&map, json!({"data": {"mode": "fast"}}), None).await;
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert_eq!(fs::read_to_string(&file).unwrap(), "fast");
    // What was mounted by its path in the volume stays what it was.
    assert_eq!(std::io::read_to_string(opened).unwrap(), "slow");
    world.patch(&key, json!({"metadata": {"labels": {"tier": "front"}}}), None).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(fs::read_to_string(&labels).unwrap(), "tier=\"front\"");

    world.delete(&key, None).await;
    world.until(&key, |pod| pod.is_none()).await;
    assert_eq!(place.pods(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_fills_its_volume_is_evicted() {
    let place = Place::new("evict");
    let world = &place.world;
    let agent = world.start();
    let spec = "{containers: [{name: a, image: i, volumeMounts: [{name: t, mountPath: /tmp}]}], \
        volumes: [{name: t, emptyDir: {sizeLimit: 4Ki}}]}";
    let key = world.pod("web", spec, None).await;
    world.until_ready(&key, "True").await;
    fs::write(place.seen_at("/tmp").join("log"), vec![1; 100_000]).unwrap();
    let evicted =
        |pod: Option<&Obj>| pod.is_some_and(|pod| pod.json()["status"]["reason"] == "Evicted");
    world.until(&key, evicted).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let check = |status: &Value| {
        assert_eq!(status["phase"], "Failed");
        assert_eq!(status["message"], "Usage of EmptyDir volume \"t\" exceeds the limit \"4Ki\". ");
        let ended = &status["containerStatuses"][0]["state"]["terminated"];
        assert_eq!(ended["exitCode"], 143);
        let all = status["conditions"].as_array().unwrap();
        let disrupted = all.iter().find(|it| it["type"] == "DisruptionTarget").unwrap();
        assert_eq!(disrupted["reason"], "TerminationByKubelet");
    };
    check(&world.store.get(&key).await.unwrap().unwrap().json()["status"]);
    assert!(world.events().await.contains(&"Evicted 1".to_owned()));
    // The next agent leaves it as it is.
    agent.abort();
    assert!(agent.await.is_err());
    let _agent = world.start();
    tokio::time::sleep(Duration::from_mins(1)).await;
    check(&world.store.get(&key).await.unwrap().unwrap().json()["status"]);
    assert_eq!(world.runtime.said().matches("start").count(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_left_of_a_pod_that_went_meanwhile_is_removed() {
    let place = Place::new("left");
    let world = &place.world;
    let agent = world.start();
    let key = world.pod("web", CONFIGURED, None).await;
    place.config("slow").await;
    world.until_ready(&key, "True").await;
    agent.abort();
    assert!(agent.await.is_err());
    // Its containers are gone, too: only the folders tell of it.
    world.runtime.runs.lock().unwrap().clear();
    world.delete(&key, Some(0)).await;
    assert_eq!(place.pods(), 1);
    let _agent = world.start();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(place.pods(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_folder_of_a_claim_outlives_its_pod_and_goes_with_its_volume() {
    let place = Place::new("claim");
    let world = &place.world;
    let _agent = world.start();
    place
        .make(json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"name": "data", "namespace": "default"},
        "spec": {"accessModes": ["ReadWriteOnce"], "volumeName": "pv", "storageClassName": "standard",
            "resources": {"requests": {"storage": "1Gi"}}}}))
        .await;
    let volume = |name: &str, policy: &str, node: &str| {
        json!({"apiVersion": "v1", "kind": "PersistentVolume",
        "metadata": {"name": name, "finalizers": ["evenkeel.dev/local-folder"]},
        "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"],
            "storageClassName": "standard", "persistentVolumeReclaimPolicy": policy,
            "csi": {"driver": "evenkeel.dev/local-folder", "volumeHandle": "default_data_1"},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]}]}}}})
    };
    place.make(volume("pv", "Delete", "n1")).await;
    place.make(volume("kept", "Retain", "n1")).await;
    // Those of a node that is no more, and of one that is there but not here.
    place.make(volume("left", "Delete", "gone")).await;
    place.make(volume("other", "Delete", "n2")).await;
    place
        .make(json!({"apiVersion": "v1", "kind": "Node",
        "metadata": {"name": "n2", "labels": {"kubernetes.io/hostname": "n2"}}}))
        .await;
    let spec = "{containers: [{name: a, image: i, volumeMounts: [{name: d, mountPath: /data}]}], \
        volumes: [{name: d, persistentVolumeClaim: {claimName: data}}]}";
    let key = world.pod("db", spec, None).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(world.events().await, ["FailedMount 2"]);
    let claim = Key::of::<PersistentVolumeClaim>("default", "data");
    world.patch(&claim, json!({"status": {"phase": "Bound"}}), Some(Subresource::Status)).await;
    world.until_ready(&key, "True").await;
    let folder = place.root.join("claims/default_data_1");
    assert_eq!(place.seen_at("/data"), folder);
    fs::write(folder.join("row"), "1").unwrap();
    world.delete(&key, None).await;
    world.until(&key, |pod| pod.is_none()).await;
    assert_eq!((place.pods(), folder.join("row").exists()), (0, true));

    let other = Key::of::<PersistentVolume>("", "other");
    world.delete(&other, None).await;
    tokio::time::sleep(Duration::from_mins(3)).await;
    assert!(world.store.get(&other).await.unwrap().is_some() && folder.exists());
    // Only a policy that says so costs data.
    for (name, is_kept) in [("kept", true), ("pv", false)] {
        let volume = Key::of::<PersistentVolume>("", name);
        world.delete(&volume, None).await;
        world.until(&volume, |volume| volume.is_none()).await;
        assert_eq!(folder.exists(), is_kept, "{name}");
    }
    fs::create_dir(&folder).unwrap();
    let left = Key::of::<PersistentVolume>("", "left");
    world.delete(&left, None).await;
    world.until(&left, |volume| volume.is_none()).await;
    world.delete(&Key::of::<Node>("", "n2"), None).await;
    world.until(&other, |volume| volume.is_none()).await;
    assert!(!folder.exists() && place.root.join("claims").exists());
}
