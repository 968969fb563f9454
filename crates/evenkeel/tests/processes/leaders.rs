//! One of several processes leads.

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use jiff::Timestamp;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::cluster::{Cluster, PLANTED, soon};

/// A leader may be silent for this long.
const LEASE: &str = "3s";

/// Takes the webhook of an event, and notes its message.
fn hear(request: &Request<Bytes>) -> (String, Response<Full<Bytes>>) {
    let body: Value = serde_json::from_slice(request.body()).unwrap_or_default();
    let message = body.pointer("/metadata/eventMessage").and_then(Value::as_str);
    (message.unwrap_or_default().to_owned(), Response::new(Full::default()))
}

/// A Canary of nothing: enough to see who looks at it.
fn create(cluster: &Cluster, name: &str) {
    cluster.create(json!({"apiVersion": "flagger.app/v1beta1", "kind": "Canary",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
            "service": {"port": 80}, "analysis": {"interval": "30s", "threshold": 3,
                "maxWeight": 50, "stepWeight": 10}}}));
}

fn time(stamp: &Value) -> Timestamp {
    stamp.as_str().unwrap().parse().unwrap()
}

/// Waits until a controller has said something about a Canary.
fn looked_at(cluster: &Cluster, name: &str) {
    let conditions = || cluster.canary("default", name)["status"]["conditions"].clone();
    soon(|| conditions()[0]["reason"].is_string());
}

#[test]
#[ignore = "one of `all_at_once`"]
pub(crate) fn one_of_two_processes_leads_and_the_other_takes_over() {
    let cluster = Cluster::start("one_leads");
    let first = cluster.run("first", LEASE);
    soon(|| !cluster.leader().is_empty());
    let one = cluster.leader();
    let second = cluster.run("second", LEASE);
    create(&cluster, "a");
    looked_at(&cluster, "a");
    assert_eq!(cluster.leader(), one);
    // The command finds the leader by its Lease and shows its last decision.
    let pass = cluster.last_pass("default", "a");
    assert_eq!(
        (&pass["controller"], &pass["reason"]),
        (&json!("delivery"), &json!("TargetMissing"))
    );
    let (text, _) = cluster.why("default", "a", "table");
    assert!(text.contains("delivery: TargetMissing") && text.contains("next look"), "{text}");

    // Killed: the other one waits for the Lease to expire, and no longer.
    first.signal(Signal::SIGKILL);
    soon(|| cluster.leader() != one);
    let two = cluster.leader();
    create(&cluster, "b");
    looked_at(&cluster, "b");

    // Told to stop: it gives the Lease back, and nobody waits.
    let third = cluster.run_logging("third", LEASE, None);
    let follows =
        format!("another process leads lease=Lease/default/evenkeel-delivery leader={two:?}");
    soon(|| third.stderr().contains(&follows));
    second.signal(Signal::SIGTERM);
    soon(|| !["", two.as_str()].contains(&cluster.leader().as_str()));
    create(&cluster, "c");
    looked_at(&cluster, "c");
    // Who leads is told without asking for it.
    let leads =
        "leadership gained: this process acts lease=Lease/default/evenkeel-delivery leader=";
    soon(|| third.stderr().contains(&format!("{leads}{:?}", cluster.leader())));
    third.signal(Signal::SIGTERM);
    soon(|| third.stderr().contains("leadership given back"));
    cluster.has_kept_its_secret();
}

#[test]
#[ignore = "one of `all_at_once`"]
pub(crate) fn when_the_leader_is_killed_in_a_release_the_other_goes_on_within_the_lease() {
    let cluster = Cluster::start("killed");
    cluster.install("default", "shop", 30);
    let receiver = cluster.receive(hear);
    let url = format!("http://{}/", receiver.addr);
    let hook = json!({"name": "log", "type": "event", "url": url});
    let canary = cluster.canary("default", "shop");
    let mut hooks = canary["spec"]["analysis"]["webhooks"].as_array().cloned().unwrap_or_default();
    hooks.push(hook);
    cluster.patch_canary("default", "shop", json!({"spec": {"analysis": {"webhooks": hooks}}}));
    let first = cluster.run("first", LEASE);
    soon(|| !cluster.leader().is_empty());
    let one = cluster.leader();
    let _second = cluster.run("second", LEASE);
    cluster.reach("default", "shop", "Initialized");
    assert_eq!(cluster.leader(), one);
    cluster.release("default", "shop", 2);
    cluster.reach_weight("default", "shop", 20);
    first.signal(Signal::SIGKILL);
    let renewed = time(&cluster.lease()["renewTime"]);
    soon(|| cluster.leader() != one);
    let waited = time(&cluster.lease()["acquireTime"]).duration_since(renewed).as_secs();
    // Not before the Lease has expired, and soon after it; a machine that does much else takes
    // longer than an idle one.
    assert!((3..30).contains(&waited), "{waited} s after the last renewal");
    cluster.reach("default", "shop", "Succeeded");
    // Every event is told, and once: but for the one that was being told by who was killed.
    let expected = [
        "Initialization done! shop.default",
        "New revision detected! Scaling up shop.default",
        "Advance shop.default canary weight 10",
        "Advance shop.default canary weight 30",
        "Promotion completed! Scaling down shop.default",
    ];
    soon(|| expected.iter().all(|message| receiver.told().contains_key(*message)));
    // Who was killed may have set this weight and not have noted it yet.
    let either = [
        "Advance shop.default canary weight 20",
        "Found canary weight 20 of shop.default in the route, going on from there",
    ];
    soon(|| either.iter().any(|message| receiver.told().contains_key(*message)));
    let told = receiver.told();
    let again: usize = told.values().map(|times| times - 1).sum();
    assert!(again <= 1, "{told:#?}");
    // No step twice, none lost.
    assert_eq!(cluster.weights("default", "shop"), [0, 10, 20, 30, 0]);
    assert_eq!(cluster.flags("default", "shop"), [] as [[String; 3]; 0]);
    cluster.has_kept_its_secret();
}

/// Stopped, not gone: its Lease holds, and it decides nothing.
#[test]
#[ignore = "one of `all_at_once`"]
pub(crate) fn why_has_no_answer_while_the_leader_does_not_answer() {
    let cluster = Cluster::start("stopped");
    let run = cluster.run("run", "60s");
    soon(|| !cluster.leader().is_empty());
    create(&cluster, "a");
    looked_at(&cluster, "a");
    run.signal(Signal::SIGSTOP);
    let (code, text, complaints) = cluster.why_code("default", "a");
    assert_eq!(code, Some(2), "{text}{complaints}");
    let said = "the leader of delivery does not answer: what follows is from the object alone";
    assert!(text.contains(said) && !text.contains("no reachable controller"), "{text}");
    assert!(complaints.contains("the leader of delivery does not answer at http"), "{complaints}");
    run.signal(Signal::SIGCONT);
    soon(|| cluster.why_code("default", "a").0 != Some(2));
    let (text, _) = cluster.why("default", "a", "table");
    assert!(text.contains("delivery: TargetMissing"), "{text}");
    cluster.has_kept_its_secret();
}

/// The address of a metrics server is shown in logs and errors; so it must not have a password.
#[test]
#[ignore = "one of `all_at_once`"]
pub(crate) fn an_address_with_a_password_is_refused_and_not_repeated() {
    let cluster = Cluster::start("password");
    let complaint = cluster.refused_run(&format!("http://ann:{PLANTED}@127.0.0.1:9090"));
    assert!(complaint.contains("must not have a user and password"), "{complaint}");
    cluster.has_kept_its_secret();
}

/// A kubeconfig of a cluster elsewhere, whose user has these fields.
fn kubeconfig(user: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: a\n\
         contexts: [{{name: a, context: {{cluster: a, user: a}}}}]\n\
         clusters: [{{name: a, cluster: {{server: 'https://127.0.0.2:9'}}}}]\n\
         users:\n- name: a\n  user:\n{user}"
    )
}

/// A user whose credentials come from a command that runs this, alone or in front of a person.
fn exec(mode: &str, script: &str) -> String {
    kubeconfig(&format!(
        "    exec: {{apiVersion: client.authentication.k8s.io/v1, interactiveMode: {mode},\n      \
         env: [{{name: A, value: {PLANTED}}}], command: sh, args: [-c, '{script}']}}\n"
    ))
}

/// Proxies, credential plugins and kubeconfigs have passwords, and libraries quote them.
#[test]
#[ignore = "one of `all_at_once`"]
pub(crate) fn what_keeps_a_process_from_its_cluster_is_said_without_what_is_secret_in_it() {
    let cluster = Cluster::start("credentials");
    let token = format!("    token: {PLANTED}\n");
    let elsewhere = kubeconfig(&token).replace("127.0.0.2", "cluster.test");
    let proxy = format!("http://ann:{PLANTED}@proxy.test:3128");
    let in_file = elsewhere.replace("9'", &format!("9', proxy-url: '{proxy}'"));
    let fails = format!("echo {PLANTED}; echo {PLANTED} >&2; exit 3");
    let babbles = format!("echo {{token: [{PLANTED}");
    // Once for TLS, once for the first token; then it fails.
    let counter = cluster.home.join("asked").display().to_string();
    let fails_later = format!(
        "echo x >>{counter}; if [ $(wc -l <{counter}) -gt 2 ]; then rm {counter}; echo {PLANTED}; \
         exit 4; fi; echo \"{{kind: ExecCredential, status: {{token: {PLANTED}, \
         expirationTimestamp: 2001-02-03T04:05:06Z}}}}\""
    );
    let cases = [
        ("proxy", elsewhere, &*proxy, "proxy http://***@proxy.test:3128/ is configured"),
        ("proxy_in_file", in_file, "", "proxy http://***@proxy.test:3128/ is configured"),
        ("fails", exec("Never", &fails), "", "plugin \"sh\" failed (exit status: 3)"),
        ("asks", exec("IfAvailable", &fails.replace(">&2", "")), "", "failed (exit status: 3)"),
        ("babbles", exec("Never", &babbles), "", "plugin \"sh\" printed no ExecCredential (line 1"),
        ("broken", kubeconfig(&format!("{token}    exec: 3\n")), "", "kubeconfig: line 10, column"),
    ];
    for (name, kubeconfig, proxy, expected) in cases {
        for said in cluster.without_cluster(name, &kubeconfig, proxy) {
            assert!(said.contains(expected), "{name}: {said}");
        }
    }
    let [run, why] = cluster.without_cluster("fails_later", &exec("Never", &fails_later), "");
    assert!(run.contains("does not answer"), "{run}");
    assert!(why.contains("plugin \"sh\" failed (exit status: 4)"), "{why}");
    cluster.has_kept_its_secret();
}
