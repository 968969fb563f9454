//! Spreads endpoints over slices with as few writes as possible.

use std::collections::BTreeMap;

use evenkeel_api::{Obj, json::difference};
use evenkeel_base::{Rng, name_suffix, stable_hash};
use evenkeel_control::{Action, Plan, Propagation};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};
use serde_json::{Value, json};

use super::{HEADLESS, MANAGED_BY, MANAGER, SERVICE_NAME, View};
use crate::{
    reasons,
    seen::{Seen, json},
};

/// Most endpoints in one slice. **Source**: `--max-endpoints-per-slice`.
const ENDPOINTS_MAX: usize = 100;

/// Ports as they are compared: pods that serve a named port elsewhere need slices of their own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct PortsKey(String);

impl PortsKey {
    pub(crate) fn of(ports: &[EndpointPort]) -> Self {
        let one = |port: &EndpointPort| {
            let EndpointPort { app_protocol, name, port, protocol } = port;
            format!("{name:?} {protocol:?} {port:?} {app_protocol:?}")
        };
        let mut all: Vec<String> = ports.iter().map(one).collect();
        all.sort();
        Self(all.join(","))
    }
}

/// The endpoints that share their ports.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    pub(crate) ports: Vec<EndpointPort>,
    /// By uid of the pod.
    pub(crate) endpoints: BTreeMap<String, Endpoint>,
}

pub(crate) fn reconcile(view: &View, mut wanted: BTreeMap<PortsKey, Wanted>) -> Plan {
    let mut plan = Plan::idle(reasons::SETTLED);
    let mut spare: Vec<&Seen<EndpointSlice>> = Vec::new();
    let mut used = Vec::new();
    for slice in view.slices.iter().filter(|slice| !slice.obj.is_deleting()) {
        let key = PortsKey::of(slice.ports.as_deref().unwrap_or_default());
        let kept = wanted.get_mut(&key).map(|group| keep(slice, group)).unwrap_or_default();
        if kept.is_empty() { spare.push(slice) } else { used.push((slice, key, kept)) }
    }
    let mut count = used.len();
    for (slice, key, kept) in used {
        if let Some(group) = wanted.get_mut(&key) {
            let kept = fill(kept, group);
            write(view, slice, (&group.ports, kept), &mut plan);
        }
    }
    for group in wanted.values_mut() {
        while !group.endpoints.is_empty() {
            let endpoints = fill(Vec::new(), group);
            // A slice that is not needed any more is used again, rather than deleted.
            count += 1;
            if spare.is_empty() {
                create(view, (&group.ports, endpoints), count, &mut plan);
            } else {
                write(view, spare.remove(0), (&group.ports, endpoints), &mut plan);
            }
        }
    }
    if count == 0 {
        // A Service without endpoints keeps one empty slice: a client may be watching it.
        match spare.first().copied() {
            Some(slice) => {
                spare.remove(0);
                write(view, slice, (&[], Vec::new()), &mut plan);
            }
            None => create(view, (&[], Vec::new()), 1, &mut plan),
        }
    }
    for slice in spare {
        plan.actions.push(Action::Delete {
            key: slice.key().clone(),
            uid: slice.uid().to_owned(),
            propagation: Propagation::Background,
        });
    }
    if !plan.actions.is_empty() {
        plan.reason = reasons::ENDPOINTS_CHANGED;
    }
    plan
}

/// The endpoints of a slice that are still wanted, as they are now, in their present order.
fn keep(slice: &EndpointSlice, group: &mut Wanted) -> Vec<Endpoint> {
    let uids = slice.endpoints.iter().filter_map(|old| old.target_ref.as_ref()?.uid.as_deref());
    uids.filter_map(|uid| group.endpoints.remove(uid)).take(ENDPOINTS_MAX).collect()
}

fn fill(mut endpoints: Vec<Endpoint>, group: &mut Wanted) -> Vec<Endpoint> {
    while endpoints.len() < ENDPOINTS_MAX
        && let Some((_, endpoint)) = group.endpoints.pop_first()
    {
        endpoints.push(endpoint);
    }
    endpoints
}

type Content<'a> = (&'a [EndpointPort], Vec<Endpoint>);

fn body(view: &View, (ports, endpoints): Content<'_>) -> Value {
    let service = &view.service;
    let mut labels: BTreeMap<String, String> = service.obj.labels().clone();
    labels.remove(HEADLESS);
    labels.insert(SERVICE_NAME.to_owned(), service.name().to_owned());
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    let cluster_ip = service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref());
    if cluster_ip == Some("None") {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    json!({"addressType": "IPv4", "endpoints": json(&endpoints), "ports": json(&ports),
        "metadata": {"labels": labels}})
}

fn write(view: &View, slice: &Seen<EndpointSlice>, content: Content<'_>, plan: &mut Plan) {
    let labels = slice.obj.labels();
    let old = json!({"addressType": slice.address_type, "endpoints": json(&slice.endpoints),
        "ports": json(slice.ports.as_ref().unwrap_or(&Vec::new())),
        "metadata": {"labels": labels}});
    if let Some(patch) = difference(&old, &body(view, content)) {
        plan.actions.push(Action::Patch { key: slice.key().clone(), patch });
        plan.assumed.push(slice.assumed());
    }
}

/// As with pods, the name is drawn from what was seen: a stale view cannot make a slice twice.
fn create(view: &View, content: Content<'_>, nth: usize, plan: &mut Plan) {
    let service = &view.service;
    let seed = format!("{} {} {nth} {:?}", service.uid(), service.obj.revision(), view.slices);
    let mut rng = Rng::new(stable_hash(seed.as_bytes()));
    let mut slice = body(view, content);
    slice["apiVersion"] = "discovery.k8s.io/v1".into();
    slice["kind"] = "EndpointSlice".into();
    slice["metadata"]["name"] = format!("{}-{}", service.name(), name_suffix(&mut rng)).into();
    slice["metadata"]["generateName"] = format!("{}-", service.name()).into();
    slice["metadata"]["namespace"] = service.obj.namespace().into();
    slice["metadata"]["ownerReferences"] = json!([service.obj.owner_reference()]);
    let slice = Obj::from_json(slice).expect("a slice has kind and metadata");
    plan.actions.push(Action::Create(Box::new(slice)));
}
