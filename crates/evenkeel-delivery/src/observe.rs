use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use evenkeel_api::{
    GroupKind, Key, LabelSelector, Obj, Requirement,
    canary::{Canary, MetricTemplate, TemplateRef},
    httproute::{Gateway, HttpRoute, ParentRef},
};
use evenkeel_control::{ListQuery, ObserveError, Ports, StoreError};
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Service, discovery::v1::EndpointSlice};

use crate::{
    CanaryView, Settings, configs, context::Need, decide::advance, view::RouteSeen,
    workload::Workload,
};

/// Things that deciding may ask for in one observation: more than any spec has checks.
const NEEDS_MAX: usize = 256;
/// The label that ties an `EndpointSlice` to its Service.
const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// Looks at everything that one Canary depends on.
pub(crate) async fn observe(
    key: &Key,
    ports: &Ports,
    settings: Settings,
) -> Result<Option<CanaryView>, ObserveError> {
    let Some(obj) = ports.read.get(key).await? else { return Ok(None) };
    let mut view = CanaryView::new(obj, settings, ports.clock.now())?;
    let names = view.names.clone();
    view.conflicting_canary = conflicting_canary(&view, ports).await?;
    if let Some(target) = ports.read.get(&key.sibling::<Deployment>(&names.target)).await? {
        view.target = Some(Workload::of(target)?);
    }
    if let Some(primary) = ports.read.get(&key.sibling::<Deployment>(&names.target_primary)).await?
    {
        view.primary = Some(Workload::of(primary)?);
    }
    for name in [&names.apex, &names.primary, &names.canary] {
        if let Some(service) = ports.read.get(&key.sibling::<Service>(name)).await? {
            view.services.insert(name.clone(), service);
        }
    }
    if let Some(route) = ports.read.get(&key.sibling::<HttpRoute>(&names.apex)).await? {
        view.route = Some(RouteSeen::of(route)?);
    }
    view.endpoints = endpoints(&view, ports).await?;
    gateways(&mut view, ports).await?;
    tracked(&mut view, ports).await?;
    templates(&mut view, ports).await?;
    answers(&mut view, ports).await;
    Ok(Some(view))
}

/// An older Canary with the same target in the same namespace; the name decides between equals.
async fn conflicting_canary(
    view: &CanaryView,
    ports: &Ports,
) -> Result<Option<String>, StoreError> {
    let query = ListQuery::all(GroupKind::of::<Canary>()).within(view.obj.namespace());
    let age = |obj: &Obj| {
        let created = obj.meta().creation_timestamp.as_ref().map(|time| time.0);
        (created, obj.name().to_owned())
    };
    let mine = age(&view.obj);
    let rivals = ports.read.list(&query).await?.items;
    let older = rivals.iter().find(|rival| {
        rival.uid() != view.obj.uid()
            && !rival.is_deleting()
            && age(rival) < mine
            && rival
                .get::<Canary>()
                .is_ok_and(|rival| rival.spec.target_ref == view.canary.spec.target_ref)
    });
    Ok(older.map(|older| older.key().to_string()))
}

/// Names of the ready pods behind each of the three Services.
async fn endpoints(
    view: &CanaryView,
    ports: &Ports,
) -> Result<BTreeMap<String, BTreeSet<String>>, ObserveError> {
    let names = &view.names;
    let services = vec![names.apex.clone(), names.primary.clone(), names.canary.clone()];
    let labels =
        LabelSelector { requirements: vec![Requirement::In(SERVICE_LABEL.to_owned(), services)] };
    let query = ListQuery::all(GroupKind::of::<EndpointSlice>())
        .within(view.obj.namespace())
        .with_labels(labels);
    let mut ready: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for slice in ports.read.list(&query).await?.items {
        let service = slice.label(SERVICE_LABEL).unwrap_or_default().to_owned();
        let pods = ready.entry(service).or_default();
        for endpoint in &slice.get::<EndpointSlice>()?.endpoints {
            let serves = endpoint.conditions.as_ref().is_none_or(|c| c.ready != Some(false));
            let pod = endpoint.target_ref.as_ref().and_then(|target| target.name.clone());
            pods.extend(pod.filter(|_| serves));
        }
    }
    Ok(ready)
}

/// Which of the named Gateways exist: the article's `public-gateway` may well not.
async fn gateways(view: &mut CanaryView, ports: &Ports) -> Result<(), StoreError> {
    let service = &view.canary.spec.service;
    let mut wanted: Vec<ParentRef> = Vec::new();
    for name in service.gateways.iter().filter(|name| *name != "mesh") {
        let (namespace, name) = match name.split_once('/') {
            Some((namespace, name)) => (Some(namespace.to_owned()), name),
            None => (None, name.as_str()),
        };
        wanted.push(ParentRef { namespace, name: name.to_owned(), ..ParentRef::default() });
    }
    wanted.extend(service.gateway_refs.iter().cloned());
    for gateway in wanted {
        let is_gateway = gateway.kind.as_deref().is_none_or(|kind| kind == "Gateway");
        let namespace = gateway.namespace.as_deref().unwrap_or(view.obj.namespace());
        let key = Key::of::<Gateway>(namespace, &gateway.name);
        let found = match ports.read.get(&key).await {
            Ok(found) => found.is_some(),
            // A cluster without the Gateway API has no Gateways.
            Err(StoreError::Refused { .. } | StoreError::NotFound { .. }) => false,
            Err(error) => return Err(error),
        };
        if found || !is_gateway {
            view.gateways.push(gateway);
        } else {
            view.gateways_missing.push(key.to_string());
        }
    }
    Ok(())
}

async fn tracked(view: &mut CanaryView, ports: &Ports) -> Result<(), StoreError> {
    let Some(target) = &view.target else { return Ok(()) };
    for key in configs::named_by(target.template(), view.obj.namespace()) {
        // What is missing is the pod's business to complain about.
        let Some(config) = ports.read.get(&key).await? else { continue };
        let copy = configs::copy_of(&key);
        if let Some(found) = ports.read.get(&copy).await? {
            view.config_copies.insert(copy, found);
        }
        view.configs.insert(key, config);
    }
    view.config_hashes = configs::hashes(&view.configs);
    Ok(())
}

async fn templates(view: &mut CanaryView, ports: &Ports) -> Result<(), StoreError> {
    let canary = view.canary.clone();
    let named =
        canary.spec.analysis.metrics.iter().filter_map(|metric| metric.template_ref.clone());
    for reference in named.collect::<BTreeSet<TemplateRef>>() {
        let namespace = reference.namespace.as_deref().unwrap_or(view.obj.namespace());
        let key = Key::of::<MetricTemplate>(namespace, &reference.name);
        let found: Option<Arc<Obj>> = ports.read.get(&key).await?;
        if let Some(template) = found.and_then(|found| found.get::<MetricTemplate>().ok()) {
            view.templates.insert(reference, template);
        }
    }
    Ok(())
}

/// Looks up what deciding asks for, one thing after the other, so that nothing is queried that
/// does not matter now.
async fn answers(view: &mut CanaryView, ports: &Ports) {
    for _ in 0..NEEDS_MAX {
        match advance(view) {
            Ok(_) => return,
            Err(Need::Reply(id)) => {
                let reply = ports.replies.reply(&id);
                view.replies.insert(id, reply);
            }
            Err(Need::Answer(query)) => {
                let answer = ports.metrics.query(&query, view.now).await;
                view.answers.insert(query, answer);
            }
        }
    }
}
