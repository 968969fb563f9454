//! The real `kubectl` against the server: outputs, not exit codes.
#![expect(clippy::unwrap_used, clippy::needless_pass_by_value, reason = "helpers of tests")]

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
};

use bytes::Bytes;
use evenkeel_api::{GroupKind, Key, Obj};
use evenkeel_base::{FixedClock, Rng};
use evenkeel_cluster::{ApiServer, LogError, LogRequest, LogSource, NoExec, http};
use evenkeel_control::{
    BoxFuture, BoxStream, DeleteOptions, Patch, Read as _, Subresource, Write as _, WriteOptions,
};
use futures::{StreamExt as _, executor::block_on};
use serde_json::{Value, json};

/// Two lines for every container.
struct TwoLines;

impl LogSource for TwoLines {
    fn read(
        &self,
        request: LogRequest,
    ) -> BoxFuture<'static, Result<BoxStream<'static, Bytes>, LogError>> {
        Box::pin(async move {
            if request.options.previous {
                let message = format!("previous container {:?} not found", request.container);
                return Err(LogError::NotFound(message));
            }
            let first = format!("first of {}/{}\n", request.node, request.container);
            let lines = [Bytes::from(first), Bytes::from("second\n")];
            let skip = usize::from(request.options.tail_lines == Some(1));
            Ok(futures::stream::iter(lines.into_iter().skip(skip)).boxed())
        })
    }
}

/// A server, and a folder with a kubeconfig for it.
struct Cluster {
    server: Arc<ApiServer>,
    serving: http::Serving,
    home: PathBuf,
    _runtime: tokio::runtime::Runtime,
}

impl Cluster {
    fn start(name: &str) -> Self {
        // Time stands still, so every age is 0s and every output the same.
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        let server = ApiServer::new(Arc::new(FixedClock(now)), Rng::new(7));
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let options = http::HttpOptions {
            addr: ([127, 0, 0, 1], 0).into(),
            tokens: BTreeMap::from([("secret".to_owned(), "ann".to_owned())]),
            logs: Arc::new(TwoLines),
            exec: Arc::new(NoExec),
            tls_dir: None,
        };
        let serving = runtime.block_on(http::serve(server.clone(), options)).unwrap();
        let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        if home.exists() {
            fs::remove_dir_all(&home).unwrap();
        }
        fs::create_dir_all(&home).unwrap();
        fs::write(home.join("kubeconfig"), http::kubeconfig(&serving, "secret")).unwrap();
        Self { server, serving, home, _runtime: runtime }
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new("sh");
        command
            .args(["-c", line])
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kubectl"))
            .env("HOME", &self.home)
            .env("KUBECONFIG", self.home.join("kubeconfig"))
            .env_remove("KUBECTL_EXTERNAL_DIFF");
        command
    }

    /// Everything the command prints; standard error after standard output.
    fn run(&self, line: &str) -> String {
        let output = self.command(line).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8(text).unwrap();
        assert!(!text.contains("kubectl: not found"), "this test needs kubectl in the PATH");
        text
    }

    /// Starts a command that keeps running.
    fn spawn(&self, line: &str) -> Running {
        let line = format!("exec {line}");
        let mut child = self.command(&line).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Running { child, lines }
    }

    fn create(&self, body: Value) -> Arc<Obj> {
        let obj = Obj::from_json(body).unwrap();
        block_on(self.server.create(&obj, &WriteOptions::default())).unwrap()
    }

    fn status(&self, key: &Key, status: Value) {
        let options =
            WriteOptions { subresource: Some(Subresource::Status), ..WriteOptions::default() };
        let patch = Patch::Merge(json!({"status": status}));
        block_on(self.server.patch(key, &patch, &options)).unwrap();
    }
}

struct Running {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl Running {
    /// The next line, single-spaced.
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        line.split_whitespace().collect::<Vec<_>>().join(" ")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

#[test]
fn the_session_reads_as_on_any_cluster() {
    let cluster = Cluster::start("session");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kubectl/session.txt");
    let wanted = fs::read_to_string(&path).unwrap();
    let mut said = String::new();
    for line in wanted.lines() {
        if line.starts_with('#') || (line.is_empty() && said.ends_with("rewrites it.\n")) {
            writeln!(said, "{line}").unwrap();
        } else if let Some(command) = line.strip_prefix("$ ") {
            writeln!(said, "{line}").unwrap();
            let output = cluster.run(command);
            for line in output.lines().filter(|line| !line.trim().is_empty()) {
                writeln!(said, "    {}", line.trim_end()).unwrap();
            }
        }
    }
    let port = format!(":{}", cluster.serving.addr.port());
    let said = said.replace(&port, ":PORT");
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, &said).unwrap();
    }
    let pairs = said.lines().zip(wanted.lines()).enumerate();
    let differing = pairs.filter(|(_, (said, wanted))| said != wanted);
    let differing: Vec<String> = differing
        .take(5)
        .map(|(number, (said, wanted))| format!("{}: {said:?}, not {wanted:?}", number + 1))
        .collect();
    assert!(said == wanted || std::env::var_os("UPDATE").is_some(), "{differing:#?}");
}

fn pod(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"containers": [{"name": "web", "image": "web:1"}]}})
}

fn key(group: &str, kind: &str, name: &str) -> Key {
    Key::new(GroupKind::new(group, kind), "default", name)
}

#[test]
fn a_watch_shows_a_pod_from_birth_to_death_and_its_logs() {
    let cluster = Cluster::start("watch");
    let mut watch = cluster.spawn("kubectl get pods -w");
    // The first line comes with the first pod: kubectl prints nothing for an empty list.
    let listed = cluster.run("kubectl get pods");
    assert_eq!(listed, "No resources found in default namespace.\n");
    cluster.create(pod("a"));
    assert_eq!(watch.line(), "NAME READY STATUS RESTARTS AGE");
    assert_eq!(watch.line(), "a 0/1 Pending 0 0s");
    let a = key("", "Pod", "a");
    let binding = json!({"target": {"name": "n1"}});
    block_on(cluster.server.post(&a, Subresource::Binding, &binding)).unwrap();
    assert_eq!(watch.line(), "a 0/1 Pending 0 0s");
    cluster.status(
        &a,
        json!({"phase": "Running", "podIP": "127.64.0.2", "containerStatuses": [
        {"name": "web", "ready": true, "restartCount": 0, "image": "web:1", "imageID": "",
            "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}}]}),
    );
    assert_eq!(watch.line(), "a 1/1 Running 0 0s");
    assert_eq!(cluster.run("kubectl logs a"), "first of n1/web\nsecond\n");
    assert_eq!(cluster.run("kubectl logs a --tail=1"), "second\n");
    let previous = cluster.run("kubectl logs a -p");
    assert!(previous.contains("previous container \"web\" not found"), "{previous}");
    block_on(cluster.server.delete(&a, &DeleteOptions::default())).unwrap();
    assert_eq!(watch.line(), "a 1/1 Terminating 0 0s");
    let mut deletion = cluster.spawn("kubectl delete pod a");
    assert_eq!(deletion.line(), "pod \"a\" deleted");
    let now = DeleteOptions { grace_seconds: Some(0), ..DeleteOptions::default() };
    block_on(cluster.server.delete(&a, &now)).unwrap();
    assert_eq!(watch.line(), "a 1/1 Terminating 0 0s");
    assert!(deletion.child.wait().unwrap().success());
}

#[test]
fn a_rollout_is_followed_to_its_end() {
    let cluster = Cluster::start("rollout");
    cluster.run("kubectl apply -f web.yaml");
    let web = key("apps", "Deployment", "web");
    let status = |updated: i64, available: i64| {
        let all = json!({"observedGeneration": 1, "replicas": 3, "updatedReplicas": updated,
            "readyReplicas": available, "availableReplicas": available});
        cluster.status(&web, all);
    };
    status(1, 1);
    let mut rollout = cluster.spawn("kubectl rollout status deployment/web");
    let updating = "Waiting for deployment \"web\" rollout to finish:";
    assert_eq!(rollout.line(), format!("{updating} 1 out of 3 new replicas have been updated..."));
    status(3, 2);
    assert_eq!(rollout.line(), format!("{updating} 2 of 3 updated replicas are available..."));
    status(3, 3);
    assert_eq!(rollout.line(), "deployment \"web\" successfully rolled out");
}

#[test]
fn events_are_listed_and_described_with_their_object() {
    let cluster = Cluster::start("events");
    let obj = cluster.create(pod("a"));
    cluster.create(json!({"apiVersion": "v1", "kind": "Event",
        "metadata": {"name": "a.1", "namespace": "default"},
        "involvedObject": {"apiVersion": "v1", "kind": "Pod", "name": "a",
            "namespace": "default", "uid": obj.uid()},
        "reason": "FailedScheduling", "message": "0/3 nodes are available", "type": "Warning",
        "source": {"component": "scheduler"}, "count": 2,
        "firstTimestamp": "2026-01-01T00:00:00Z", "lastTimestamp": "2026-01-01T00:00:00Z"}));
    let listed = cluster.run("kubectl get events");
    let row: Vec<&str> = listed.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(row.join(" "), "0s Warning FailedScheduling pod/a 0/3 nodes are available");
    let described = cluster.run("kubectl describe pod a");
    assert!(described.contains("0/3 nodes are available"), "{described}");
}

#[test]
fn who_has_no_token_learns_nothing() {
    let cluster = Cluster::start("anonymous");
    let config = fs::read_to_string(cluster.home.join("kubeconfig")).unwrap();
    let config = config.replace("token: \"secret\"", "token: \"guess\"");
    fs::write(cluster.home.join("kubeconfig"), config).unwrap();
    let refused = cluster.run("kubectl get pods");
    assert!(refused.contains("You must be logged in to the server"), "{refused}");
    let raw = cluster.run("kubectl get --raw /version");
    assert!(raw.contains("Unauthorized"), "{raw}");
    assert_eq!(cluster.run("kubectl get --raw /readyz"), "ok");
}

#[test]
fn a_drain_evicts_and_waits() {
    let cluster = Cluster::start("drain");
    cluster.create(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}}));
    let mut body = pod("a");
    body["metadata"]["ownerReferences"] = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet",
        "name": "web", "uid": "1", "controller": true}]);
    cluster.create(json!({"apiVersion": "apps/v1", "kind": "ReplicaSet",
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {"selector": {"matchLabels": {"app": "web"}}, "template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "web", "image": "web:1"}]}}}}));
    cluster.create(body);
    let a = key("", "Pod", "a");
    let binding = json!({"target": {"name": "n1"}});
    block_on(cluster.server.post(&a, Subresource::Binding, &binding)).unwrap();
    let mut drain = cluster.spawn("kubectl drain n1 --timeout=60s 2>&1");
    assert_eq!(drain.line(), "node/n1 cordoned");
    assert_eq!(drain.line(), "evicting pod default/a");
    let nodes = cluster.run("kubectl get nodes");
    assert!(nodes.contains("Unknown,SchedulingDisabled"), "{nodes}");
    // The eviction is under way: the node agent ends it.
    let mut watch = cluster.server.watch(evenkeel_control::ListQuery::all(a.kind.clone()));
    while let Some(event) = block_on(watch.next()) {
        if let evenkeel_control::WatchEvent::Applied(obj) = event.unwrap()
            && obj.is_deleting()
        {
            break;
        }
    }
    let now = DeleteOptions { grace_seconds: Some(0), ..DeleteOptions::default() };
    block_on(cluster.server.delete(&a, &now)).unwrap();
    assert_eq!(drain.line(), "pod/a evicted");
    assert_eq!(drain.line(), "node/n1 drained");
}

#[test]
fn a_drain_says_which_pod_a_budget_keeps() {
    let cluster = Cluster::start("budget");
    cluster.create(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}}));
    cluster.create(pod("a"));
    let a = key("", "Pod", "a");
    block_on(cluster.server.post(&a, Subresource::Binding, &json!({"target": {"name": "n1"}})))
        .unwrap();
    cluster.status(
        &a,
        json!({"phase": "Running",
        "conditions": [{"type": "Ready", "status": "True"}]}),
    );
    cluster.create(json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
        "metadata": {"name": "all", "namespace": "default"},
        "spec": {"minAvailable": 1, "selector": {}}}));
    let said = cluster.run("kubectl drain n1 --force --timeout=1s 2>&1");
    let why = "error when evicting pods/\"a\" -n \"default\" (will retry after 5s): Cannot evict pod \
               as it would violate the pod's disruption budget.";
    assert!(said.contains(why), "{said}");
    assert!(said.contains("global timeout reached: 1s"), "{said}");
}

#[test]
fn kinds_are_explained_and_what_is_not_there_says_so() {
    let cluster = Cluster::start("explain");
    let said = cluster.run("kubectl explain deployment.spec.replicas");
    assert!(said.contains("FIELD: replicas <integer>"), "{said}");
    let said = cluster.run("kubectl explain pod.spec.containers.livenessProbe.httpGet");
    assert!(said.contains("path\t<string>"), "{said}");
    cluster.create(pod("a"));
    let said = cluster.run("kubectl debug a --image=busybox --profile=general");
    assert!(said.contains("ephemeral containers are disabled for this cluster"), "{said}");
    let said = cluster.run("kubectl exec a -- ls");
    assert!(said.contains("pod a does not have a host assigned"), "{said}");
    let volumes = "{\"spec\":{\"volumes\":[{\"name\":\"v\",\"emptyDir\":{}}]}}";
    let said = cluster.run(&format!("kubectl run b --image=b:1 --overrides='{volumes}'"));
    assert_eq!(said, "pod/b created\n");
}

#[test]
fn claims_volumes_and_classes_print_as_upstream_prints_them() {
    let cluster = Cluster::start("storage");
    cluster.create(json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
        "metadata": {"name": "standard",
            "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
        "provisioner": "evenkeel.dev/local-folder"}));
    cluster.create(json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"name": "data", "namespace": "default"},
        "spec": {"accessModes": ["ReadWriteOnce"], "volumeName": "disk",
            "storageClassName": "standard", "resources": {"requests": {"storage": "1Gi"}}}}));
    cluster.create(json!({"apiVersion": "v1", "kind": "PersistentVolume",
        "metadata": {"name": "disk"},
        "spec": {"accessModes": ["ReadWriteOnce", "ReadOnlyMany"], "hostPath": {"path": "/srv"},
            "claimRef": {"namespace": "default", "name": "data"}, "storageClassName": "standard",
            "capacity": {"storage": "2Gi"}}}));
    let claim = Key::of::<k8s_openapi::api::core::v1::PersistentVolumeClaim>("default", "data");
    cluster.status(
        &claim,
        json!({"phase": "Bound", "accessModes": ["ReadWriteOnce"],
        "capacity": {"storage": "2Gi"}}),
    );
    insta::assert_snapshot!(cluster.run("kubectl get sc; kubectl get pv; kubectl get pvc -o wide"), @r"
    NAME                 PROVISIONER                 RECLAIMPOLICY   VOLUMEBINDINGMODE   ALLOWVOLUMEEXPANSION   AGE
    standard (default)   evenkeel.dev/local-folder   Delete          Immediate           false                  0s
    NAME   CAPACITY   ACCESS MODES   RECLAIM POLICY   STATUS    CLAIM          STORAGECLASS   VOLUMEATTRIBUTESCLASS   REASON   AGE
    disk   2Gi        RWO,ROX        Retain           Pending   default/data   standard       <unset>                          0s
    NAME   STATUS   VOLUME   CAPACITY   ACCESS MODES   STORAGECLASS   VOLUMEATTRIBUTESCLASS   AGE   VOLUMEMODE
    data   Bound    disk     2Gi        RWO            standard       <unset>                 0s    Filesystem
    ");
    let said = cluster.run(
        "kubectl patch pvc data --type merge -p \
        '{\"spec\":{\"accessModes\":[\"ReadWriteMany\"]}}'",
    );
    insta::assert_snapshot!(said, @r#"The PersistentVolumeClaim "data" is invalid: spec: Forbidden: spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims"#);
}

#[test]
fn long_lists_come_in_pages_and_old_watches_have_to_list_again() {
    let cluster = Cluster::start("pages");
    for name in ["a", "b", "c"] {
        cluster.create(json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": name, "namespace": "default"}}));
    }
    let names = cluster.run("kubectl get configmaps --chunk-size=1 -o name");
    assert_eq!(names, "configmap/a\nconfigmap/b\nconfigmap/c\n");
    let page = cluster.run("kubectl get --raw '/api/v1/configmaps?limit=2'");
    let page: Value = serde_json::from_str(&page).unwrap();
    assert_eq!(page["metadata"]["remainingItemCount"], 1);
    let a = key("", "ConfigMap", "a");
    for turn in 0..1_200 {
        let patch = Patch::Merge(json!({"data": {"turn": turn.to_string()}}));
        block_on(cluster.server.patch(&a, &patch, &WriteOptions::default())).unwrap();
    }
    let watch = "kubectl get --raw '/api/v1/configmaps?watch=true&resourceVersion=";
    let old = cluster.run(&format!("{watch}7&timeoutSeconds=1'"));
    assert!(old.contains("too old resource version: 7"), "{old}");
    let from = cluster.server.revision().0.parse::<u64>().unwrap() - 1;
    let recent = cluster.run(&format!("{watch}{from}&timeoutSeconds=1'"));
    assert!(recent.starts_with("{\"type\":\"MODIFIED\""), "{recent}");
    let list = "&sendInitialEvents=true&resourceVersionMatch=NotOlderThan";
    let initial = format!("{watch}0{list}&allowWatchBookmarks=true&timeoutSeconds=1'");
    let initial = cluster.run(&initial);
    let kinds: Vec<Value> =
        initial.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()).collect();
    let words: Vec<&str> = kinds.iter().filter_map(|event| event["type"].as_str()).collect();
    assert_eq!(words, ["ADDED", "ADDED", "ADDED", "BOOKMARK"]);
    let end = &kinds[3]["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"];
    assert_eq!(end, "true");
}
