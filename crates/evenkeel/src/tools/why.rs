//! `evenkeel why`: what a controller last decided about an object, and what it waits for.

use std::{collections::BTreeMap, process::ExitCode, time::Duration};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use evenkeel_api::{
    FieldSelector, Key, Obj,
    canary::Canary,
    slo::{BreakGlass, ErrorBudgetPolicy, PrometheusServiceLevel, SloMaintenance},
};
use evenkeel_base::Clock as _;
use evenkeel_control::{ListQuery, Pass, Read as _, StoreError, redact};
use evenkeel_live::{KubeStore, RealTime, connect};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{
    coordination::v1::Lease,
    core::v1::{Event, Pod},
};
use serde_json::{Value, json};

use super::{
    why_glass::Glass,
    why_slo,
    why_text::{EVENTS_MAX, Explanation, Leader, event_time, named},
};
use crate::{
    NOT_KNOWN,
    cli::{Output, WhyArgs},
    controllers::{DIAGNOSTICS, POD},
    install_flags, io, paths,
    tools::object_name::ObjectName,
};

/// Version of the JSON: fields are added to it, none is changed or removed.
const API_VERSION: &str = "why.evenkeel.dev/v1";
/// Longest wait for a process to answer by way of the API server.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Longest wait for its answer without: the addresses of pods may lead nowhere from here.
const DIRECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest answer that is read.
const ANSWER_MAX: usize = 1 << 20;

/// Where `run` and `install` put the Leases unless they are told otherwise.
const LEASE_NAMESPACES: [&str; 2] = ["default", install_flags::NAMESPACE];
/// Conditions of ours and of Kubernetes that say what is wrong.
const BAD_WHEN_TRUE: [&str; 3] = ["Held", "Stalled", "ReplicaFailure"];
/// Conditions of a Canary that are false while all is well: `Promoted` until a release has ended
/// (its phase says when one failed), `WeightsConfirmed` where a data plane reports no more than
/// that it has accepted a route.
const FALSE_WHEN_WELL: [&str; 2] = ["Promoted", "WeightsConfirmed"];

/// Runs `evenkeel why`; exit 1 when the object needs attention, 2 when nobody who decides about it
/// could be asked.
pub(crate) fn run(args: &WhyArgs) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(show(args))
}

async fn show(args: &WhyArgs) -> anyhow::Result<ExitCode> {
    let key = key(&args.object, &args.namespace)?;
    let kubeconfig = args.kubeconfig.clone();
    let kubeconfig = kubeconfig.or_else(|| paths::kubeconfig_of_up(args.data_dir.as_deref()));
    let store = connect(kubeconfig.as_deref())
        .await
        .context("no cluster: start `evenkeel up`, or name its kubeconfig with --kubeconfig")?;
    let found = store.get(&key).await?;
    let Some(obj) = found else {
        let resource = store.resource(&key.kind).await;
        let resource = resource.unwrap_or_else(|| key.kind.kind.to_ascii_lowercase());
        bail!(
            "{} does not exist: check the name and --namespace (kubectl get {resource} -n {})",
            named(&key),
            key.namespace
        )
    };
    let namespaces = match &args.lease_namespace {
        Some(namespace) => vec![namespace.as_str()],
        // Controllers of one namespace have their Leases there.
        None => [&*key.namespace].into_iter().chain(LEASE_NAMESPACES).collect(),
    };
    let (leaders, passes) = ask_all(&store, &namespaces, &key).await?;
    let troubled = passes.iter().any(|pass| !["done", "observed"].contains(&&*pass.result))
        || leaders.iter().any(|(_, leader)| leader.is_late)
        || needs_attention(&obj);
    let glass = if key == Key::of::<BreakGlass>(&key.namespace, &key.name) {
        Some(glass(&store, &obj).await?)
    } else {
        None
    };
    let slos = slos(&store, &key, &obj).await;
    let troubled = troubled || glass.as_ref().is_some_and(Glass::needs_attention);
    let report = || report(&key, &obj, &passes, &leaders, glass.as_ref());
    match args.output {
        Output::Table => {
            let (now, events) = (RealTime::start().now(), events(&store, &obj).await);
            let (key, obj, glass, decider) = (&key, &*obj, glass.as_ref(), decider(&key));
            let (passes, leaders, events) = (&*passes, &*leaders, &*events);
            let slos = &slos;
            let all = Explanation { now, key, obj, slos, decider, passes, leaders, events, glass };
            io::print(&all.text());
        }
        Output::Json => io::print(&format!("{:#}\n", report())),
        Output::Yaml => io::print(&serde_saphyr::to_string(&report())?),
    }
    Ok(match (is_unanswered(&key, &leaders), troubled) {
        (true, _) => ExitCode::from(NOT_KNOWN),
        (false, true) => ExitCode::FAILURE,
        (false, false) => ExitCode::SUCCESS,
    })
}

/// The leaders of all domains, and what they last decided about an object.
async fn ask_all(
    store: &KubeStore,
    namespaces: &[&str],
    key: &Key,
) -> anyhow::Result<(Vec<(&'static str, Leader)>, Vec<Pass>)> {
    let (mut leaders, mut passes) = (Vec::new(), Vec::new());
    // Whether the process at an address has answered: two domains may share one.
    let mut asked: BTreeMap<Option<String>, bool> = BTreeMap::new();
    for domain in evenkeel_assembly::domains() {
        let Some(mut leader) = leader(store, namespaces, domain.name).await? else { continue };
        leader.answers = match asked.get(&leader.url) {
            Some(answers) => *answers,
            None if leader.url.is_none() => false,
            None => match ask(store, &leader, key).await {
                Ok(more) => {
                    passes.extend(more);
                    true
                }
                Err(error) => {
                    let (domain, words) = (domain.name, io::words(&error));
                    io::complain(&format!("warning: the leader of {domain} {words}"));
                    false
                }
            },
        };
        asked.insert(leader.url.clone(), leader.answers);
        leaders.push((domain.name, leader));
    }
    passes.sort_by(|a: &Pass, b| a.controller.cmp(&b.controller));
    passes.dedup();
    Ok((leaders, passes))
}

/// The domain that decides about an object; none about objects that are only read.
fn decider(key: &Key) -> Option<&'static str> {
    let is = |other: fn(&str, &str) -> Key| *key == other(&key.namespace, &key.name);
    if is(Key::of::<Canary>) {
        return Some("delivery");
    }
    let slo = is(Key::of::<PrometheusServiceLevel>) || is(Key::of::<ErrorBudgetPolicy>);
    slo.then_some("slo")
}

/// Whether nobody who decides about an object could be asked. That a leader has not renewed its
/// Lease in time is an answer: nobody acts.
fn is_unanswered(key: &Key, leaders: &[(&str, Leader)]) -> bool {
    let Some(decider) = decider(key) else { return false };
    let found = leaders.iter().find(|(domain, _)| *domain == decider);
    found.is_none_or(|(_, leader)| !leader.answers && !leader.is_late)
}

fn key(object: &str, namespace: &str) -> anyhow::Result<Key> {
    let object = ObjectName::parse(object)?;
    let namespace = object.namespace.as_deref().unwrap_or(namespace);
    let kinds: [fn(&str, &str) -> Key; 5] = [
        Key::of::<Canary>,
        Key::of::<PrometheusServiceLevel>,
        Key::of::<ErrorBudgetPolicy>,
        Key::of::<SloMaintenance>,
        Key::of::<BreakGlass>,
    ];
    let mut keys = kinds.iter().map(|key| key(namespace, &object.name));
    keys.find(|key| object.is_kind(&key.kind.kind)).with_context(|| {
        format!(
            "evenkeel decides nothing about kind {:?}: use canary, slo, errorbudgetpolicy, \
             slomaintenance or breakglass",
            object.given_kind()
        )
    })
}

/// What a `BreakGlass` opens, by the policies and the Canaries of its namespace.
async fn glass(store: &KubeStore, obj: &Obj) -> anyhow::Result<Glass> {
    let namespace = obj.namespace();
    let policies = store.list(&ListQuery::of::<ErrorBudgetPolicy>().within(namespace)).await?;
    let canaries = store.list(&ListQuery::of::<Canary>().within(namespace)).await?;
    let now = RealTime::start().now();
    Ok(Glass::of(obj, &policies.items, &canaries.items, now))
}

/// How the budgets of an SLO stand. What they allow stands in the Canaries: it is left out where
/// these may not be read.
async fn slos(store: &KubeStore, key: &Key, obj: &Obj) -> Vec<String> {
    if *key != Key::of::<PrometheusServiceLevel>(&key.namespace, &key.name) {
        return Vec::new();
    }
    let canaries = store.list(&ListQuery::of::<Canary>().within(obj.namespace())).await;
    match canaries {
        Ok(listed) => why_slo::lines(obj, &listed.items),
        Err(error) => {
            let words = io::words(&error.into());
            io::complain(&format!("warning: what it allows to Canaries is not known: {words}"));
            why_slo::lines(obj, &[])
        }
    }
}

/// Its last Events, oldest first. They are an extra: the rest is printed without them too.
async fn events(store: &KubeStore, obj: &Obj) -> Vec<Value> {
    let query = ListQuery::of::<Event>()
        .within(obj.namespace())
        .with_fields(FieldSelector::equal("involvedObject.uid", obj.uid()));
    let found = match store.list(&query).await {
        Ok(found) => found.items,
        Err(error) => {
            let words = io::words(&error.into());
            io::complain(&format!("warning: its Events cannot be listed: {words}"));
            return Vec::new();
        }
    };
    let mut events: Vec<Value> = found.iter().map(|event| event.json().clone()).collect();
    events.sort_by_key(event_time);
    let old = events.len().saturating_sub(EVENTS_MAX);
    events.drain(..old);
    events
}

/// The leader of a domain, by its Lease in the first namespace where one is held; else by the
/// first that was left behind.
async fn leader(
    store: &KubeStore,
    namespaces: &[&str],
    domain: &str,
) -> anyhow::Result<Option<Leader>> {
    let now = RealTime::start().now();
    let mut found: Option<Leader> = None;
    for namespace in namespaces {
        let key = Key::of::<Lease>(namespace, &evenkeel_assembly::lease_name(domain));
        if found.as_ref().is_some_and(Leader::leads) {
            break;
        }
        let Some(lease) = store.get(&key).await? else { continue };
        let leader = leader_of(&lease, now);
        if found.is_none() || leader.leads() {
            found = Some(leader);
        }
    }
    Ok(found)
}

fn leader_of(lease: &Obj, now: Timestamp) -> Leader {
    let text = |path: &str| {
        lease.json().pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let renewed = text("/spec/renewTime");
    let seconds = lease.json().pointer("/spec/leaseDurationSeconds").and_then(Value::as_i64);
    let lasts = SignedDuration::from_secs(seconds.unwrap_or_default());
    Leader {
        holder: text("/spec/holderIdentity"),
        is_late: renewed.parse().is_ok_and(|at: Timestamp| now.duration_since(at) > lasts),
        renewed,
        url: lease.annotation(DIAGNOSTICS).map(str::to_owned),
        pod: lease.annotation(POD).map(str::to_owned),
        answers: false,
    }
}

/// Asks the leader itself, or else the API server to ask it.
async fn ask(store: &KubeStore, leader: &Leader, key: &Key) -> anyhow::Result<Vec<Pass>> {
    let url = leader.url.as_deref().unwrap_or_default();
    let path = format!("/why?object={key}");
    let direct = tokio::time::timeout(DIRECT_TIMEOUT, get(format!("{url}{path}"))).await;
    let direct = direct.context("no answer in time").and_then(|answer| answer);
    let Err(error) = direct else { return direct };
    let silent = format!("does not answer at {} ({})", redact::url(url), io::words(&error));
    let Some((pod, port)) = pod_of(leader) else { bail!(silent) };
    let through = tokio::time::timeout(TIMEOUT, store.ask_pod(&pod, port, &path)).await;
    match through.context("no answer in time") {
        Ok(Ok(body)) => Ok(serde_json::from_slice(&body)?),
        // It is no pod.
        Ok(Err(StoreError::NotFound { .. })) => bail!(silent),
        Ok(Err(error)) => {
            bail!("{silent}, nor through the API server ({})", io::words(&error.into()))
        }
        Err(error) => bail!("{silent}, nor through the API server ({error})"),
    }
}

async fn get(url: String) -> anyhow::Result<Vec<Pass>> {
    let client: Client<_, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let answer = client.request(http::Request::get(url).body(Empty::new())?).await?;
    let body = Limited::new(answer.into_body(), ANSWER_MAX).collect().await;
    let body = body.map_err(|error| anyhow::anyhow!("{error}"))?;
    Ok(serde_json::from_slice(&body.to_bytes())?)
}

/// The pod that a leader runs in, if it does, and the port of its diagnostics. A leader before it
/// may have left the name of its own pod: a pod's host has its name, and the identity begins with
/// that.
fn pod_of(leader: &Leader) -> Option<(Key, u16)> {
    let (namespace, name) = leader.pod.as_deref()?.split_once('/')?;
    let (host, _) = leader.holder.rsplit_once('_')?;
    let uri: http::Uri = leader.url.as_deref()?.parse().ok()?;
    (host == name).then_some((Key::of::<Pod>(namespace, name), uri.port_u16()?))
}

/// Whether an object says of itself that it is not as it should be: it is held or stalled, a
/// condition that ought to be true is false, or its last release failed.
fn needs_attention(obj: &Obj) -> bool {
    let conditions = obj.json().pointer("/status/conditions").and_then(Value::as_array);
    let is_bad = |condition: &Value| {
        let text = |field: &str| condition.get(field).and_then(Value::as_str).unwrap_or_default();
        let bad = if BAD_WHEN_TRUE.contains(&text("type")) { "True" } else { "False" };
        text("status") == bad && !FALSE_WHEN_WELL.contains(&text("type"))
    };
    let phase = obj.json().pointer("/status/phase").and_then(Value::as_str);
    phase == Some("Failed") || conditions.into_iter().flatten().any(is_bad)
}

fn report(
    key: &Key,
    obj: &Obj,
    passes: &[Pass],
    leaders: &[(&str, Leader)],
    glass: Option<&Glass>,
) -> Value {
    let leaders: Vec<_> = leaders
        .iter()
        .map(|(domain, leader)| {
            json!({"domain": domain, "holder": leader.holder, "renewed": leader.renewed,
                "late": leader.is_late, "answers": leader.answers})
        })
        .collect();
    let mut report = json!({"apiVersion": API_VERSION, "object": key.to_string(),
        "passes": passes, "leaders": leaders,
        "conditions": obj.json().pointer("/status/conditions")});
    if let (Some(fields), Some(glass)) = (report.as_object_mut(), glass) {
        fields.insert("breakGlass".to_owned(), json!(glass));
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_object_says_against_itself_needs_attention() {
        let needs = |status: Value| {
            let body = json!({"apiVersion": "flagger.app/v1beta1", "kind": "Canary",
                "metadata": {"name": "api", "namespace": "shop"}, "status": status});
            needs_attention(&Obj::from_json(body).unwrap())
        };
        let condition = |kind: &str, status: &str| json!({"phase": "Waiting", "conditions": [{"type": kind, "status": status}]});
        for (kind, status) in [
            ("Held", "True"),
            ("Stalled", "True"),
            ("Accepted", "False"),
            ("Valid", "False"),
            ("BudgetAllows", "False"),
            ("MetricsAvailable", "False"),
        ] {
            assert!(needs(condition(kind, status)), "{kind} {status}");
        }
        assert!(needs(json!({"phase": "Failed"})));
        for (kind, status) in [
            ("Held", "False"),
            ("Accepted", "True"),
            ("Promoted", "False"),
            ("WeightsConfirmed", "False"),
            ("Accepted", "Unknown"),
        ] {
            assert!(!needs(condition(kind, status)), "{kind} {status}");
        }
        assert!(!needs(json!({"phase": "Succeeded"})) && !needs(json!(null)));
    }

    #[test]
    fn a_lease_that_nobody_renews_has_no_leader() {
        let leads = |renewed: &str, holder: &str| {
            let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                "metadata": {"name": "evenkeel-slo", "namespace": "evenkeel"},
                "spec": {"holderIdentity": holder, "leaseDurationSeconds": 15,
                    "renewTime": renewed}});
            let now = "2026-03-01T03:05:00Z".parse().unwrap();
            leader_of(&Obj::from_json(lease).unwrap(), now).leads()
        };
        assert!(leads("2026-03-01T03:04:46.000000Z", "host-7"));
        assert!(!leads("2026-03-01T03:04:44.000000Z", "host-7"));
        assert!(!leads("2026-03-01T03:04:59.000000Z", ""));
    }

    #[test]
    fn without_the_one_who_decides_there_is_no_answer() {
        let leader = |answers: bool, is_late: bool| {
            let (holder, renewed) = ("host-7".to_owned(), String::new());
            Leader { holder, renewed, is_late, url: None, pod: None, answers }
        };
        let canary = Key::of::<Canary>("shop", "api");
        let slo = Key::of::<PrometheusServiceLevel>("shop", "api");
        let one_silent = [("delivery", leader(false, false)), ("slo", leader(true, false))];
        assert!(is_unanswered(&canary, &one_silent) && !is_unanswered(&slo, &one_silent));
        assert!(is_unanswered(&slo, &one_silent[..1]), "nobody runs the controllers of SLOs");
        assert!(is_unanswered(&canary, &[]));
        assert!(!is_unanswered(&canary, &[("delivery", leader(false, true))]), "nobody acts");
        // Nothing is decided about it: what it opens stands in other objects.
        assert!(!is_unanswered(&Key::of::<BreakGlass>("shop", "fix"), &one_silent[..1]));
    }

    #[test]
    fn a_leader_is_asked_in_its_own_pod() {
        let pod = |holder: &str, pod: Option<&str>| {
            let (holder, url) = (holder.to_owned(), Some("http://[fd00::1]:9091".to_owned()));
            let (renewed, pod) = (String::new(), pod.map(str::to_owned));
            let leader = Leader { holder, renewed, is_late: false, url, pod, answers: false };
            pod_of(&leader).map(|(pod, port)| format!("{pod} {port}"))
        };
        let named = Some("ops/evenkeel-0");
        assert_eq!(pod("evenkeel-0_b7ab16", named).as_deref(), Some("Pod/ops/evenkeel-0 9091"));
        for (holder, named) in [("evenkeel-1_b7ab16", named), ("evenkeel-0_b7ab16", None)] {
            assert_eq!(pod(holder, named), None);
        }
    }

    #[test]
    fn a_kind_that_nothing_is_decided_about_is_quoted_as_it_was_given() {
        for given in ["deploy", "Deployments.apps", "canar"] {
            let error = key(&format!("{given}/api"), "shop").unwrap_err().to_string();
            assert!(error.contains(&format!("about kind {given:?}: use canary")), "{error}");
        }
        assert_eq!(key("SLO/api", "shop").unwrap().namespace.to_string(), "shop");
    }
}
