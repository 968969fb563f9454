//! One life cycle as users have it: the controllers in pods as `evenkeel install` puts them there,
//! an application in pods behind a Gateway, a client that counts what fails, and Prometheus.

use std::time::{Duration, Instant};

use evenkeel_api::Key;
use k8s_openapi::api::{apps::v1::StatefulSet, coordination::v1::Lease, core::v1::Pod};
use serde_json::{Value, json};

use crate::{
    bed::Bed,
    figure,
    install::kubectl,
    node::{self, ADDRESS, Beside, IMAGE},
    objects::{self, APP, canary, deployment_key, route_key},
    soon, until,
};

const SHOP: &str = "shop";
/// Where the controllers are.
const HOME: &str = "evenkeel";
/// What Prometheus scrapes: the gateway.
const SCRAPED: &str = "127.0.0.1:9100";
const GETS: &str = "50";
const POSTS: &str = "5";
/// Requests that there are at least by the end; the releases alone take a minute.
const REQUESTS_MIN: u64 = 2_000;
/// Time between two looks at a Lease that is about to change hands.
const GLANCE: Duration = Duration::from_millis(5);

#[test]
fn a_life_cycle_with_real_pods_under_load_fails_no_request() {
    let test = "pods::a_life_cycle_with_real_pods_under_load_fails_no_request";
    let Some(bed) = node::enter(test) else { return };
    let _beside = [start_gateway(&bed), start_prometheus(&bed)];
    install(&bed);
    set_up_shop(&bed);
    bed.reaches(SHOP, "Initialized");
    let client = start_client(&bed);

    release(&bed, "2");
    bed.reaches(SHOP, "Succeeded");
    assert_eq!(version(&bed, "web-primary"), "2");

    let generation = || bed.field(&route_key(SHOP, APP), "/metadata/generation").as_i64().unwrap();
    let before = generation();
    release(&bed, "3");
    until("a quarter goes to the canary", || weight(&bed) == 25);
    let words = ["--grace-period=0", "--force"];
    figure(&format!(
        "a leader's pod removed by force: the next leads after {}",
        next(&bed, &words)
    ));
    until("both are ready again", || are_ready(&bed));
    // On a busy machine it may be further by now.
    until("half goes to the canary", || weight(&bed) == 50 || bed.phase(SHOP) != "Progressing");
    figure(&format!("a leader's pod stopped: handed over in {}", next(&bed, &["--wait=false"])));
    bed.reaches(SHOP, "Succeeded");
    assert_eq!(version(&bed, "web-primary"), "3");
    assert_eq!(generation() - before, 3, "each step was written once");

    until("both are ready again", || are_ready(&bed));
    let uids = [uid(&bed, 0), uid(&bed, 1)];
    kubectl(&bed, &["rollout", "restart", "-n", HOME, "statefulset/evenkeel"], b"");
    let words = ["rollout", "status", "-n", HOME, "statefulset/evenkeel", "--timeout=2m"];
    kubectl(&bed, &words, b"");
    assert!(uid(&bed, 0) != uids[0] && uid(&bed, 1) != uids[1], "both pods are new");
    soon("a new pod leads", || leader(&bed));

    explained_outside(&bed);
    client.finish();
    count(&bed);
    records_are_whole();
}

fn evenkeel() -> &'static str {
    env!("CARGO_BIN_EXE_evenkeel")
}

fn start_gateway(bed: &Bed) -> Beside {
    let kubeconfig = bed.file("kubeconfig");
    let words = ["gateway", "--address", ADDRESS, "--listen", SCRAPED, "--kubeconfig"];
    let words = [&words[..], &[kubeconfig.to_str().unwrap()]].concat();
    Beside::start(bed, "gateway", evenkeel(), &words)
}

fn start_prometheus(bed: &Bed) -> Beside {
    let config = json!({"global": {"scrape_interval": "1s"}, "scrape_configs": [
        {"job_name": "gateway", "static_configs": [{"targets": [SCRAPED]}]}]});
    std::fs::write(bed.file("prometheus.yaml"), config.to_string()).unwrap();
    let flag = |name: &str, file| format!("--{name}={}", bed.file(file).display());
    let words = [
        flag("config.file", "prometheus.yaml"),
        flag("storage.tsdb.path", "prometheus"),
        format!("--web.listen-address={ADDRESS}:9090"),
    ];
    Beside::start(bed, "prometheus", "prometheus", &words.each_ref().map(String::as_str))
}

/// Puts the controllers on the cluster, in a namespace that takes only restricted pods.
fn install(bed: &Bed) {
    node::offer_volumes(bed, 2);
    bed.create(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": HOME,
        "labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}));
    let output = std::process::Command::new(evenkeel())
        .args(["install", "--image", IMAGE, "--prometheus"])
        .arg(format!("http://{ADDRESS}:9090"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    kubectl(bed, &["apply", "-f", "-"], &output.stdout);
    let took = until("the controllers are ready", || are_ready(bed));
    let seconds = took.as_secs_f64();
    figure(&format!("two pods of `evenkeel install` were ready after {seconds:.1} s"));
}

/// Both replicas are, and none is still the pod that was deleted.
fn are_ready(bed: &Bed) -> bool {
    let key = Key::of::<StatefulSet>(HOME, "evenkeel");
    let leaving = bed.list::<Pod>(HOME).iter().any(|pod| pod.is_deleting());
    !leaving && bed.field(&key, "/status/readyReplicas") == 2
}

fn set_up_shop(bed: &Bed) {
    bed.create(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SHOP}}));
    bed.create(json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
        "metadata": {"name": "public", "namespace": SHOP},
        "spec": {"gatewayClassName": "evenkeel",
            "listeners": [{"name": "http", "port": 80, "protocol": "HTTP"}]}}));
    let of = |name: &str, path: &str| {
        let field = json!({"fieldPath": path});
        json!({"name": name, "valueFrom": {"fieldRef": field}})
    };
    let container = json!({"name": "main", "image": IMAGE, "args": ["workload"],
        "env": [{"name": "VERSION", "value": "1"}, {"name": "GRACEFUL", "value": "true"},
            of("POD_IP", "status.podIP"), of("POD_NAME", "metadata.name")],
        "ports": [{"containerPort": 8080}],
        "readinessProbe": {"httpGet": {"path": "/ready", "port": 8080}, "periodSeconds": 1},
        // Until every gateway has heard that it leaves.
        "lifecycle": {"preStop": {"sleep": {"seconds": 3}}},
        "securityContext": {"readOnlyRootFilesystem": true}});
    bed.create(json!({"apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": APP, "namespace": SHOP},
        "spec": {"replicas": 2, "selector": {"matchLabels": {"app": APP}},
            "template": {"metadata": {"labels": {"app": APP}},
                "spec": {"containers": [container]}}}}));
    bed.create(canary(SHOP, APP, &json!({"stepWeight": 25})));
}

/// The load: until its input ends.
fn start_client(bed: &Bed) -> Beside {
    let target = format!("{ADDRESS}:80");
    let words = ["load", "--target", &target, "--path", "/api", "--gets", GETS, "--posts", POSTS];
    Beside::start(bed, "load", evenkeel(), &words)
}

fn release(bed: &Bed, version: &str) {
    let version = format!("VERSION={version}");
    kubectl(bed, &["set", "env", "-n", SHOP, "deployment/web", &version], b"");
}

fn version(bed: &Bed, deployment: &str) -> Value {
    let path = "/spec/template/spec/containers/0/env/0/value";
    bed.field(&deployment_key(SHOP, deployment), path)
}

/// The canary's share.
fn weight(bed: &Bed) -> i64 {
    let route = bed.get(&route_key(SHOP, APP)).unwrap();
    objects::weight(route.json())
}

/// The pod that leads delivery.
fn leader(bed: &Bed) -> Option<String> {
    let holder = bed.field(&Key::of::<Lease>(HOME, "evenkeel-delivery"), "/spec/holderIdentity");
    holder.as_str().filter(|holder| !holder.is_empty()).map(str::to_owned)
}

/// Deletes the leader's pod, with these words; how long there was no leader.
fn next(bed: &Bed, words: &[&str]) -> String {
    let (first, _) = soon("one leads", || leader(bed));
    let pod = first.split('_').next().unwrap();
    let words = [&["delete", "pod", "-n", HOME, pod], words].concat();
    let gap = std::thread::scope(|scope| {
        // It is over before kubectl has ended.
        scope.spawn(|| kubectl(bed, &words, b""));
        gap_after(bed, &first)
    });
    format!("{:.0} ms", gap.as_secs_f64() * 1e3)
}

/// Waits until another one leads; how long nobody did.
fn gap_after(bed: &Bed, first: &str) -> Duration {
    let deadline = Instant::now() + crate::PATIENCE;
    let mut free = None;
    loop {
        match leader(bed) {
            None => drop(free.get_or_insert_with(Instant::now)),
            Some(now) if now != first => break,
            Some(_) => {}
        }
        assert!(Instant::now() < deadline, "nobody follows {first}");
        std::thread::sleep(GLANCE);
    }
    free.map_or(Duration::ZERO, |free| free.elapsed())
}

fn uid(bed: &Bed, number: u32) -> String {
    let key = Key::of::<Pod>(HOME, &format!("evenkeel-{number}"));
    bed.get(&key).map(|pod| pod.uid().to_owned()).unwrap_or_default()
}

/// `why` finds the leader also where no pod can be reached.
fn explained_outside(bed: &Bed) {
    soon("the leader has looked at the Canary", || {
        let (said, errors) = node::from_outside(bed, &["why", "canary/web", "-n", SHOP]);
        assert!(!errors.contains("warning"), "{errors}");
        said.contains("delivery: NothingNew").then_some(())
    });
}

/// What the client saw.
fn count(bed: &Bed) {
    let text = std::fs::read_to_string(node::log(bed, "load")).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let failures: Vec<_> = lines.iter().filter(|line| !line["failure"].is_null()).collect();
    assert!(failures.is_empty(), "{} failed: {:?}", failures.len(), failures.first());
    let last = lines.iter().filter_map(|line| line.get("second")).next_back().unwrap();
    let (sent, failed) = (last["sent_total"].as_u64().unwrap(), &last["failed_total"]);
    assert!(sent >= REQUESTS_MIN && *failed == 0, "{sent} sent, {failed} failed");
    figure(&format!(
        "{sent} requests over two releases, two changes of leader and a restart: {failed} failed"
    ));
}

/// The record of every pod that wrote one is intact.
fn records_are_whole() {
    let mut records = 0;
    for number in 0..2 {
        let at = node::volume(number);
        let files = at.join("audit").read_dir().unwrap();
        let written = files.filter(|file| {
            file.as_ref().unwrap().path().extension().is_some_and(|end| end == "jsonl")
        });
        if written.count() == 0 {
            continue;
        }
        let checked = std::process::Command::new(evenkeel())
            .args(["audit", "verify", "--data-dir"])
            .arg(at)
            .output()
            .unwrap();
        assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
        records += 1;
    }
    assert!(records > 0, "nobody has recorded anything");
}
