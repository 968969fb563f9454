//! `evenkeel why`: what a controller last decided about an object, and what it waits for.

use std::{process::ExitCode, time::Duration};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use evenkeel_api::{
    FieldSelector, Key, Obj,
    canary::Canary,
    slo::{BreakGlass, ErrorBudgetPolicy, PrometheusServiceLevel, SloMaintenance},
};
use evenkeel_base::Clock as _;
use evenkeel_control::{ListQuery, Pass, Read as _, redact};
use evenkeel_live::{KubeStore, RealTime, connect};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{coordination::v1::Lease, core::v1::Event};
use serde_json::{Value, json};

use super::why_text::{EVENTS_MAX, Explanation, Leader, event_time, named};
use crate::{
    cli::{Output, WhyArgs},
    controllers::DIAGNOSTICS,
    io, paths,
    tools::object_name::ObjectName,
};

/// Version of the JSON: fields are added to it, none is changed or removed.
const API_VERSION: &str = "why.evenkeel.dev/v1";
/// Longest wait for a process to answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Longest answer that is read.
const ANSWER_MAX: usize = 1 << 20;

/// Runs `evenkeel why`; exit 1 when the object needs attention.
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
    let mut leaders = Vec::new();
    let mut passes = Vec::new();
    for domain in evenkeel_assembly::domains() {
        let Some(leader) = leader(&store, &args.lease_namespace, domain.name).await? else {
            continue;
        };
        if let Some(url) = &leader.url {
            match ask(url, &key).await {
                Ok(more) => passes.extend(more),
                Err(error) => io::complain(&format!(
                    "warning: the leader of {} does not answer at {} ({}): what follows is from \
                     the object alone",
                    domain.name,
                    redact::url(url),
                    io::words(&error)
                )),
            }
        }
        leaders.push((domain.name, leader));
    }
    // Two domains may share a process.
    passes.sort_by(|a: &Pass, b| a.controller.cmp(&b.controller));
    passes.dedup();
    let troubled = passes.iter().any(|pass| pass.result != "done")
        || leaders.iter().any(|(_, leader)| leader.is_late)
        || !flags(&obj).is_empty();
    match args.output {
        Output::Table => {
            let (now, events) = (RealTime::start().now(), events(&store, &obj).await);
            let (key, obj) = (&key, &*obj);
            let (passes, leaders, events) = (&*passes, &*leaders, &*events);
            io::print(&Explanation { now, key, obj, passes, leaders, events }.text());
        }
        Output::Json => io::print(&format!("{:#}\n", report(&key, &obj, &passes, &leaders))),
        Output::Yaml => {
            io::print(&serde_saphyr::to_string(&report(&key, &obj, &passes, &leaders))?);
        }
    }
    Ok(if troubled { ExitCode::FAILURE } else { ExitCode::SUCCESS })
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

async fn leader(
    store: &KubeStore,
    namespace: &str,
    domain: &str,
) -> anyhow::Result<Option<Leader>> {
    let key = Key::of::<Lease>(namespace, &evenkeel_assembly::lease_name(domain));
    let Some(lease) = store.get(&key).await? else { return Ok(None) };
    let text = |path: &str| {
        lease.json().pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let renewed = text("/spec/renewTime");
    let seconds = lease.json().pointer("/spec/leaseDurationSeconds").and_then(Value::as_i64);
    let lasts = SignedDuration::from_secs(seconds.unwrap_or_default());
    let now = RealTime::start().now();
    Ok(Some(Leader {
        holder: text("/spec/holderIdentity"),
        is_late: renewed.parse().is_ok_and(|at: Timestamp| now.duration_since(at) > lasts),
        renewed,
        url: lease.annotation(DIAGNOSTICS).map(str::to_owned),
    }))
}

async fn ask(url: &str, key: &Key) -> anyhow::Result<Vec<Pass>> {
    let client: Client<_, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let request = http::Request::get(format!("{url}/why?object={key}")).body(Empty::new())?;
    let exchange = async {
        let answer = client.request(request).await?;
        let body = Limited::new(answer.into_body(), ANSWER_MAX).collect().await;
        let body = body.map_err(|error| anyhow::anyhow!("{error}"))?;
        anyhow::Ok(serde_json::from_slice(&body.to_bytes())?)
    };
    tokio::time::timeout(TIMEOUT, exchange).await.context("no answer in time")?
}

/// The conditions that the loop sets on an object that is held up.
fn flags(obj: &Obj) -> Vec<&Value> {
    let conditions = obj.json().pointer("/status/conditions").and_then(Value::as_array);
    let is_flag = |condition: &&Value| {
        let text = |field: &str| condition.get(field).and_then(Value::as_str).unwrap_or_default();
        ["Held", "Stalled"].contains(&text("type")) && text("status") == "True"
    };
    conditions.into_iter().flatten().filter(is_flag).collect()
}

fn report(key: &Key, obj: &Obj, passes: &[Pass], leaders: &[(&str, Leader)]) -> Value {
    let leaders: Vec<_> = leaders
        .iter()
        .map(|(domain, leader)| {
            json!({"domain": domain, "holder": leader.holder, "renewed": leader.renewed,
                "late": leader.is_late})
        })
        .collect();
    json!({"apiVersion": API_VERSION, "object": key.to_string(), "passes": passes,
        "leaders": leaders, "conditions": obj.json().pointer("/status/conditions")})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_that_nothing_is_decided_about_is_quoted_as_it_was_given() {
        for given in ["deploy", "Deployments.apps", "canar"] {
            let error = key(&format!("{given}/api"), "shop").unwrap_err().to_string();
            assert!(error.contains(&format!("about kind {given:?}: use canary")), "{error}");
        }
        assert_eq!(key("SLO/api", "shop").unwrap().namespace.to_string(), "shop");
    }
}
