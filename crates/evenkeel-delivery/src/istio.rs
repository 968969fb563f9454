//! Istio: a `VirtualService` splits traffic, a `DestinationRule` stands for each of its two hosts.
//!
//! **Source**: Flagger 1.44 `pkg/router/istio.go`: the shape of the objects, how a `VirtualService`
//! that was there before is taken over and given back. Unlike there, one that has no weights is not
//! an error that holds everything up: all traffic goes to the primary.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use evenkeel_api::{Key, Obj, canary::CanarySpec, json::canonical, weighted};
use evenkeel_control::Action;
use serde_json::{Value, json};

use crate::{services::Names, workload::TOOLKIT};

/// A weight counts as in use so long after it was stored. Istio says nothing by default; istiod
/// gathers changes for 10 s at the longest (`PILOT_DEBOUNCE_MAX`) before it sends them on.
pub(crate) const SETTLING: Duration = Duration::from_secs(10);
/// What a `VirtualService` said before it was taken over; Flagger's name, so that both can give back.
const ORIGINAL: &str = "flagger.kubernetes.app/original-configuration";
/// What `kubectl apply` said last. It may be years old where something else has kept the object since,
/// so it counts only where an earlier version, or Flagger, relied on it and noted nothing.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
const VERSION: &str = "networking.istio.io/v1beta1";

/// Whether the Canary's service is not HTTP.
fn is_tcp(spec: &CanarySpec) -> bool {
    spec.service.app_protocol.as_deref().is_some_and(|name| name.eq_ignore_ascii_case("tcp"))
}

/// The canary's share; `None` when no rule is about both, or all weights of one are 0.
pub(crate) fn canary_pct(route: &Obj, primary: &str, canary: &str) -> Option<i32> {
    let mut highest = None;
    for shares in weighted::shares(route.json()) {
        let of = |name: &str| {
            let found = shares.iter().filter(|(backend, _)| *backend == name);
            found.map(|(_, weight)| *weight).max()
        };
        let (primary, canary) = match (of(primary), of(canary)) {
            (Some(primary), Some(canary)) => (primary, canary),
            // A rule for the canary alone: somebody's requests go there whatever the others say.
            (None, Some(_)) => return None,
            (_, None) => continue,
        };
        let (primary, canary) = (primary.max(0), canary.max(0));
        let pct = canary.saturating_mul(100).checked_div(primary.saturating_add(canary))?;
        highest = highest.max(i32::try_from(pct).ok());
    }
    highest
}

/// Whether the proxies have taken the present generation up, where Istio is set to say so
/// (`Reconciled` in the status); `None` where it does not.
pub(crate) fn says(route: &Obj) -> Option<bool> {
    let status = route.json().get("status")?;
    let conditions = status.get("conditions").and_then(Value::as_array);
    let reconciled =
        conditions.into_iter().flatten().find(|condition| condition["type"] == "Reconciled")?;
    // Some versions write it as text.
    let number = |value: &Value| value.as_i64().or_else(|| value.as_str()?.parse().ok());
    let seen = [reconciled.get("observedGeneration"), status.get("observedGeneration")];
    let seen = seen.into_iter().flatten().find_map(number)?;
    Some(reconciled["status"] == "True" && seen >= route.generation())
}

/// The `VirtualService` as it should be, with this share for the canary.
pub(crate) fn virtual_service(
    spec: &CanarySpec,
    names: &Names,
    canary_pct: i32,
    owner: &Value,
) -> Value {
    let meta = spec.service.apex.clone().unwrap_or_default();
    let annotations = meta.annotations.into_iter().filter(|(name, _)| !name.contains(TOOLKIT));
    let annotations: BTreeMap<String, String> = annotations.collect();
    let mut metadata = json!({"name": names.apex, "namespace": names.namespace,
        "ownerReferences": [owner]});
    if !meta.labels.is_empty() {
        metadata["labels"] = json!(meta.labels);
    }
    if !annotations.is_empty() {
        metadata["annotations"] = json!(annotations);
    }
    json!({"apiVersion": VERSION, "kind": "VirtualService", "metadata": metadata,
        "spec": routing(spec, names, canary_pct)})
}

fn routing(spec: &CanarySpec, names: &Names, canary_pct: i32) -> Value {
    let service = &spec.service;
    let to = |host: &str, weight: i32| {
        let mut to = json!({"destination": {"host": host}, "weight": weight});
        // A Service with several ports must be named with one of them.
        if service.port_discovery {
            to["destination"]["port"] = json!({"number": service.port});
        }
        to
    };
    let route = json!([to(&names.primary, 100 - canary_pct), to(&names.canary, canary_pct)]);
    let mut routing = json!({});
    if !service.other.get("delegation").is_some_and(|on| *on == true) {
        let mut hosts = service.hosts.clone();
        if !hosts.iter().any(|host| *host == names.apex || host == "*") {
            hosts.push(names.apex.clone());
        }
        let mesh = vec!["mesh".to_owned()];
        let gateways = if service.gateways.is_empty() { &mesh } else { &service.gateways };
        routing = json!({"hosts": hosts, "gateways": gateways});
    }
    if is_tcp(spec) {
        let ports = service.matches.iter().filter_map(|of| of.get("port"));
        let ports: Vec<_> = ports.map(|port| json!({"port": port})).collect();
        let mut rule = json!({"route": route});
        if !ports.is_empty() {
            rule["match"] = json!(ports);
        }
        routing["tcp"] = json!([rule]);
        return routing;
    }
    let mut rule = json!({"route": route});
    if !service.matches.is_empty() {
        rule["match"] = json!(service.matches);
    }
    if let Some(timeout) = &service.timeout {
        rule["timeout"] = json!(timeout);
    }
    for field in ["retries", "corsPolicy", "headers"] {
        if let Some(value) = service.other.get(field).filter(|value| !value.is_null()) {
            rule[field] = value.clone();
        }
    }
    if let Some(rewrite) = service.other.get("rewrite").and_then(Value::as_object) {
        // The kind of a rewrite is the Gateway API's.
        let mut rewrite = rewrite.clone();
        rewrite.shift_remove("type");
        rule["rewrite"] = Value::Object(rewrite);
    }
    routing["http"] = json!([rule]);
    routing
}

/// The rules for connections to one of the two hosts.
pub(crate) fn destination_rule(
    spec: &CanarySpec,
    namespace: &str,
    host: &str,
    owner: &Value,
) -> Value {
    let mut rule = json!({"host": host});
    if let Some(policy) = spec.service.other.get("trafficPolicy").filter(|it| !it.is_null()) {
        rule["trafficPolicy"] = policy.clone();
    }
    json!({"apiVersion": VERSION, "kind": "DestinationRule",
        "metadata": {"name": host, "namespace": namespace, "ownerReferences": [owner]},
        "spec": rule})
}

/// Fields of the spec that are not as they should be; weights and mirrors do not count.
pub(crate) fn differing(have: &Obj, want: &Value) -> Vec<String> {
    let empty = json!({});
    let (have, want) = (have.json().get("spec").unwrap_or(&empty), &want["spec"]);
    let fields = |of: &Value| {
        let fields = of.as_object().into_iter().flatten();
        let fields = fields.filter(|(_, value)| **value != json!([]) && !value.is_null());
        let fields = fields.map(|(name, value)| (name.clone(), canonical(&without_weights(value))));
        fields.collect::<BTreeMap<_, _>>()
    };
    let (have, want) = (fields(have), fields(want));
    let names = have.keys().chain(want.keys().filter(|name| !have.contains_key(*name)));
    let differing = names.filter(|name| have.get(*name) != want.get(*name));
    differing.map(|name| format!("spec.{name}")).collect()
}

fn without_weights(rules: &Value) -> Value {
    let mut rules = rules.clone();
    for rule in rules.as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut) {
        for mirror in ["mirror", "mirrorPercentage"] {
            rule.shift_remove(mirror);
        }
        let route = rule.get_mut("route").and_then(Value::as_array_mut);
        for to in route.into_iter().flatten().filter_map(Value::as_object_mut) {
            to.shift_remove("weight");
        }
    }
    rules
}

/// Brings an object to this spec, and nothing else of what it has; the first time what it said before
/// is noted on it.
pub(crate) fn replace(have: &Obj, spec: &Value, metadata: &Value) -> Action {
    let mut patch = json!({"spec": whole(have, spec)});
    for field in ["labels", "annotations"] {
        if let Some(value) = metadata.get(field) {
            patch["metadata"][field] = value.clone();
        }
    }
    if let Some(before) = to_note(have, spec) {
        patch["metadata"]["annotations"][ORIGINAL] = before.to_string().into();
    }
    Action::Patch { key: have.key().clone(), patch }
}

/// What is to be noted before an object is brought to this spec; `None` when nothing was there before,
/// or it is noted already.
fn to_note(have: &Obj, spec: &Value) -> Option<Value> {
    if is_made_by_a_canary(have) {
        return None;
    }
    if is_brought_to(have, spec) {
        return applied(have).filter(|_| noted(have).is_none());
    }
    let present = have.json().get("spec").cloned().unwrap_or_default();
    // Its owner has applied something newer meanwhile.
    let is_newer = || applied(have).is_some_and(|spec| canonical(&spec) == canonical(&present));
    (noted(have).is_none() || is_newer()).then_some(present)
}

/// Whether an object was brought to this spec before, as far as it shows: an earlier version noted
/// nothing where there was something applied.
fn is_brought_to(have: &Obj, spec: &Value) -> bool {
    let backends = |route: &Value| -> BTreeSet<String> {
        weighted::shares(route).flatten().map(|(name, _)| name.to_owned()).collect()
    };
    let wanted = backends(&json!({"spec": spec}));
    let routed = !wanted.is_empty() && backends(have.json()).is_superset(&wanted);
    routed || was_of_another_host(have)
}

/// Whether a `DestinationRule` has its host from us: it was applied with another one.
fn was_of_another_host(rule: &Obj) -> bool {
    let host = rule.json().pointer("/spec/host").and_then(Value::as_str);
    let applied = applied(rule);
    let before = applied.as_ref().and_then(|spec| spec.get("host")?.as_str());
    host == Some(rule.name()) && before.is_some() && before != host
}

/// Whether it was made for a Canary: then nothing was there before.
pub(crate) fn is_made_by_a_canary(route: &Obj) -> bool {
    route.controller().is_some_and(|owner| owner.kind == "Canary")
}

/// As [`replace`], made from a Canary.
pub(crate) fn rewrite(spec: &CanarySpec, names: &Names, canary_pct: i32, have: &Obj) -> Action {
    replace(have, &routing(spec, names, canary_pct), &Value::Null)
}

/// A spec as a merge patch that leaves nothing else.
fn whole(have: &Obj, spec: &Value) -> Value {
    let mut spec = spec.clone();
    let fields = have.json().get("spec").and_then(Value::as_object);
    for name in fields.into_iter().flat_map(|fields| fields.keys()) {
        if spec.get(name).is_none() {
            spec[name] = Value::Null;
        }
    }
    spec
}

/// What gives a `VirtualService` back that was there before; `None` when it is as it was.
///
/// One that was never changed for the Canary is left alone. Where nobody has noted what it said, it
/// gets what was applied last, or sends everything to the apex Service.
pub(crate) fn restoration(spec: &CanarySpec, names: &Names, have: &Obj) -> Option<Action> {
    let before = noted(have).or_else(|| {
        canary_pct(have, &names.primary, &names.canary)?;
        if let Some(applied) = applied(have) {
            return Some(applied);
        }
        let mut plain = routing(spec, names, 0);
        for (rules, destinations) in weighted::RULES {
            let rules = plain.get_mut(rules).and_then(Value::as_array_mut);
            for rule in rules.into_iter().flatten() {
                rule[destinations] = json!([{"destination": {"host": names.apex}}]);
            }
        }
        Some(plain)
    })?;
    give_back(have, &before)
}

/// What gives a `DestinationRule` back that was there before; `None` when it is as it was.
pub(crate) fn rule_restoration(have: &Obj) -> Option<Action> {
    let before = noted(have).or_else(|| applied(have).filter(|_| was_of_another_host(have)))?;
    give_back(have, &before)
}

/// What an object said before a Canary had it, as it was noted.
fn noted(have: &Obj) -> Option<Value> {
    serde_json::from_str(annotation(have, ORIGINAL)?).ok().filter(Value::is_object)
}

/// What its owner applied last.
fn applied(have: &Obj) -> Option<Value> {
    let applied: Value = serde_json::from_str(annotation(have, LAST_APPLIED)?).ok()?;
    applied.get("spec").filter(|spec| spec.is_object()).cloned()
}

fn give_back(have: &Obj, before: &Value) -> Option<Action> {
    let same = have.json().get("spec").map(canonical) == Some(canonical(before));
    let is_noted = annotation(have, ORIGINAL).is_some();
    if same && !is_noted {
        return None;
    }
    let mut patch = json!({"spec": whole(have, before)});
    if is_noted {
        patch["metadata"]["annotations"][ORIGINAL] = Value::Null;
    }
    Some(Action::Patch { key: have.key().clone(), patch })
}

fn annotation<'a>(obj: &'a Obj, name: &str) -> Option<&'a str> {
    obj.json().pointer("/metadata/annotations")?.get(name)?.as_str()
}

/// Keys of the two `DestinationRule`s.
pub(crate) fn rule_keys(names: &Names) -> [Key; 2] {
    [&names.canary, &names.primary]
        .map(|name| Key::new(weighted::destination_rule(), &names.namespace, name))
}
