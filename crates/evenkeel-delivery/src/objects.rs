//! The objects that stand around a target, and what is missing of them.

use std::sync::Arc;

use evenkeel_api::{Key, Obj, canary::Phase, json};
use evenkeel_control::Action;
use serde_json::{Value, json};

use crate::{
    configs,
    context::Context,
    diff, istio, plain,
    router::Router,
    services::{self, Parents, Role},
};

/// Fields on which traffic depends.
const ESSENTIAL: [&str; 9] = [
    "spec.selector",
    "spec.ports",
    "spec.parentRefs",
    "spec.rules[0].backendRefs",
    "spec.hosts",
    "spec.gateways",
    "spec.http",
    "spec.tcp",
    "spec.trafficPolicy",
];

/// An object that is missing, or not as it should be.
#[derive(Debug, Clone)]
pub(crate) struct Drift {
    pub(crate) object: Key,
    /// Paths of the fields that differ; none when the object is missing.
    pub(crate) fields: Vec<String>,
    /// Whether traffic depends on it.
    pub(crate) essential: bool,
    /// What brings it back, as long as the object is as it was seen; `None` when nothing can.
    pub(crate) action: Option<Action>,
    /// The object, where the action was made for just this state of it.
    pub(crate) seen: Option<Arc<Obj>>,
    /// Why nothing brings it back.
    pub(crate) why: Option<String>,
}

impl Drift {
    fn missing(object: Key, action: Action) -> Self {
        let (action, seen, why) = (Some(action), None, None);
        Self { object, fields: Vec::new(), essential: true, action, seen, why }
    }

    pub(crate) fn differing(object: Key, fields: Vec<String>, action: Action) -> Self {
        let essential = is_essential(fields.iter().map(String::as_str));
        Self { object, fields, essential, action: Some(action), seen: None, why: None }
    }

    /// An object compared with what it should be; `None` when that is the same.
    fn between(have: Option<&Obj>, mut want: Value) -> Option<Self> {
        if let Some(have) = have {
            // Whatever version of the kind the server speaks.
            want["apiVersion"] = have.json()["apiVersion"].clone();
        }
        let fields = have.map(|have| diff::uncovered(have.json(), &want));
        if fields.as_ref().is_some_and(Vec::is_empty) {
            return None;
        }
        let want = object(want);
        let key = want.key().clone();
        let action = Action::Apply(Box::new(want));
        Some(match fields {
            None => Self::missing(key, action),
            Some(fields) => Self::differing(key, fields, action),
        })
    }
}

/// Whether traffic depends on one of these fields; on the object itself if none is named.
pub(crate) fn is_essential<'a>(fields: impl IntoIterator<Item = &'a str>) -> bool {
    let mut fields = fields.into_iter().peekable();
    fields.peek().is_none()
        || fields.any(|field| ESSENTIAL.iter().any(|start| field.starts_with(start)))
}

/// Everything that should stand while a Canary is initialized, and does not.
pub(crate) fn drifts(ctx: &Context<'_>) -> Vec<Drift> {
    let mut drifts = services(ctx, &[Role::Canary, Role::Primary, Role::Apex]);
    drifts.extend(route(ctx));
    drifts.extend(used_copies(ctx));
    drifts
}

/// The primary copy of the target.
pub(crate) fn primary(ctx: &Context<'_>) -> Drift {
    let namespace = &ctx.view.names.namespace;
    let primary = object(ctx.rewrite().deployment(ctx.target, namespace, ctx.owner));
    Drift::missing(primary.key().clone(), Action::Create(Box::new(primary)))
}

/// Copies of the target's configs that are not there or do not have their content.
pub(crate) fn copies(ctx: &Context<'_>) -> Vec<Drift> {
    let copy = |(key, config): (&Key, &Arc<Obj>)| {
        let name = ctx.view.copy_names.get(&configs::label(key))?;
        let key = Key::new(key.kind.clone(), &key.namespace, name);
        let Some(have) = ctx.view.config_copies.get(&key) else {
            return Some(new_copy(ctx, config, key));
        };
        let mut patch = json!({});
        for field in ["data", "binaryData"] {
            let none = &Value::Null;
            let (have, want) = (have.json().get(field), config.json().get(field));
            let change = json::difference(have.unwrap_or(none), want.unwrap_or(none));
            if let Some(change) = change {
                patch[field] = change;
            }
        }
        let fields: Vec<String> = patch.as_object()?.keys().cloned().collect();
        let action = Action::Patch { key: key.clone(), patch };
        (!fields.is_empty()).then(|| Drift::differing(key, fields, action))
    };
    ctx.view.configs.iter().filter_map(copy).collect()
}

fn new_copy(ctx: &Context<'_>, config: &Obj, key: Key) -> Drift {
    let copy = object(configs::copy(config, &key.name, ctx.owner));
    // Not applied: another Canary may make one of that name at the same time.
    Drift::missing(key, Action::Create(Box::new(copy)))
}

/// Copies that the primary's pods use: one that is gone is made again from what was promoted, and
/// one that other Canaries made belongs to this one, too, so that it does not go with theirs.
fn used_copies(ctx: &Context<'_>) -> Vec<Drift> {
    let target = &ctx.view.names.target;
    let unread = &ctx.view.unread;
    let known = |key: &&Key| {
        let of = |source: &Key| {
            configs::copy_of(source) == **key || configs::own_copy_of(source, target) == **key
        };
        !unread.copies.contains_key(key) && !unread.configs.keys().any(of)
    };
    let drift = |key: &Key| {
        let source = ctx.view.configs.iter().find(|(source, _)| {
            configs::copy_of(source) == *key || configs::own_copy_of(source, target) == *key
        });
        match (ctx.view.config_copies.get(key), source) {
            (Some(copy), _) => shared_copy(ctx, copy),
            (None, Some((source, config))) if is_as_promoted(ctx, source) => {
                Some(new_copy(ctx, config, key.clone()))
            }
            (None, source) => {
                let source = source
                    .map_or("its source is not used by the target".to_owned(), |s| {
                        format!("{} has changed since it was promoted", s.0)
                    });
                let why = format!("{source}; put it back to what it was, or release a version");
                Some(Drift {
                    object: key.clone(),
                    fields: Vec::new(),
                    // A release brings new copies, and must not wait for this one.
                    essential: false,
                    action: None,
                    seen: None,
                    why: Some(why),
                })
            }
        }
    };
    ctx.view.used_copies.iter().filter(known).filter_map(drift).collect()
}

fn is_as_promoted(ctx: &Context<'_>, source: &Key) -> bool {
    let label = configs::label(source);
    // Statuses of before know only what was taken up last, which at rest is what was promoted.
    let settled = matches!(ctx.status.phase, Phase::Initialized | Phase::Succeeded);
    let known = if ctx.run.promoted_configs.is_empty() && settled {
        ctx.status.tracked_configs.as_ref()
    } else {
        Some(&ctx.run.promoted_configs)
    };
    let promoted = known.and_then(|known| known.get(&label));
    promoted.is_some_and(|promoted| ctx.config_hashes.get(&label) == Some(promoted))
}

fn shared_copy(ctx: &Context<'_>, copy: &Arc<Obj>) -> Option<Drift> {
    let uid = ctx.view.obj.uid();
    let made_by_canary = configs::canaries(copy).next().is_some();
    if !made_by_canary || configs::canaries(copy).any(|owner| owner == uid) {
        return None;
    }
    let mut owners = copy.json().pointer("/metadata/ownerReferences")?.as_array()?.clone();
    let mut owner = ctx.owner.clone();
    // An object has one controller at most.
    owner["controller"] = false.into();
    owners.push(owner);
    let key = copy.key().clone();
    let patch = json!({"metadata": {"ownerReferences": owners}});
    let action = Action::Patch { key: key.clone(), patch };
    let fields = vec!["metadata.ownerReferences".to_owned()];
    Some(Drift { seen: Some(copy.clone()), ..Drift::differing(key, fields, action) })
}

/// The Services of these roles that are not there or not as they should be.
pub(crate) fn services(ctx: &Context<'_>, roles: &[Role]) -> Vec<Drift> {
    let (spec, names) = (&ctx.view.canary.spec, &ctx.view.names);
    let unread = &ctx.view.unread.services;
    let known = |role: &&Role| !unread.contains_key(names.of(**role));
    let drift = |role: &Role| {
        let mut want = services::service(spec, names, *role, ctx.target, ctx.owner);
        let have = ctx.view.services.get(names.of(*role)).map(AsRef::as_ref);
        match have.filter(|have| *role == Role::Apex && !is_owned(have)) {
            // An apex that was there before is only pointed elsewhere, never taken over.
            Some(have) => want = services::adopted_apex(spec, ctx.target, have),
            None => drop_others(&mut want, have, "/spec/selector"),
        }
        if *role == Role::Apex && (is_rescued(ctx) || plain::is_in_use(ctx.view)) {
            want["spec"].as_object_mut()?.shift_remove("selector");
        }
        Drift::between(have, want)
    };
    roles.iter().filter(known).filter_map(drift).collect()
}

/// What splits the traffic, where it is not there or not as it should be; weights are never touched
/// here.
pub(crate) fn route(ctx: &Context<'_>) -> Vec<Drift> {
    match ctx.view.router {
        Router::Gateway => http_route(ctx).into_iter().collect(),
        Router::Istio => mesh_routes(ctx),
        Router::Service => labels(ctx),
    }
}

/// Pods that get requests by a label and do not have it.
fn labels(ctx: &Context<'_>) -> Vec<Drift> {
    let drift = |action: Action| {
        let Action::Patch { key, .. } = &action else { return None };
        let key = key.clone();
        Some(Drift::differing(key, vec!["metadata.labels".to_owned()], action))
    };
    plain::unlabelled(ctx.view).into_iter().filter_map(drift).collect()
}

fn mesh_routes(ctx: &Context<'_>) -> Vec<Drift> {
    let (view, names) = (ctx.view, &ctx.view.names);
    let spec = &view.canary.spec;
    let rule = |key: Key| {
        let want = istio::destination_rule(spec, &names.namespace, &key.name, ctx.owner);
        let have = view.route_parts.get(&key).map(AsRef::as_ref);
        match have.map(|have| istio::differing(have, &want)) {
            Some(fields) if fields.is_empty() => None,
            Some(fields) => {
                let action = istio::replace(have?, &want["spec"], &Value::Null);
                Some(Drift::differing(key, fields, action))
            }
            None => Drift::between(None, want),
        }
    };
    let mut drifts: Vec<_> = istio::rule_keys(names).into_iter().filter_map(rule).collect();
    let want = istio::virtual_service(spec, names, view.pct(), ctx.owner);
    let Some(have) = view.route.as_deref() else {
        drifts.extend(Drift::between(None, want));
        return drifts;
    };
    let mut fields = istio::differing(have, &want);
    for field in ["labels", "annotations"] {
        let (have, want) = (&have.json()["metadata"][field], &want["metadata"][field]);
        if !diff::uncovered(have, want).is_empty() {
            fields.push(format!("metadata.{field}"));
        }
    }
    if !fields.is_empty() {
        let action = istio::replace(have, &want["spec"], &want["metadata"]);
        let seen = view.route.clone();
        let drift = Drift::differing(have.key().clone(), fields, action);
        drifts.push(Drift { seen, ..drift });
    }
    drifts
}

fn http_route(ctx: &Context<'_>) -> Option<Drift> {
    if ctx.view.unread.services.contains_key(&ctx.view.names.apex) {
        // How many ports it has is not known.
        return None;
    }
    let have = ctx.view.route.as_deref();
    let spec = &ctx.view.canary.spec;
    let names = &ctx.view.names;
    let parents = Parents { gateways: &ctx.view.gateways, apex_ports: apex_ports(ctx) };
    let mut want = services::route(spec, names, &parents, ctx.view.pct(), ctx.owner);
    let Some(have) = have else { return Drift::between(None, want) };
    // What the spec no longer says must go, too.
    if have.json().pointer("/spec/hostnames").is_some() && want["spec"]["hostnames"].is_null() {
        want["spec"]["hostnames"] = Value::Null;
    }
    let stale = ["filters", "timeouts"].into_iter().filter(|field| {
        let of = |route: &Value| {
            let value = route.pointer(&format!("/spec/rules/0/{field}")).cloned();
            value.filter(|value| *value != json!([]) && !value.is_null())
        };
        of(have.json()).is_some() && of(&want).is_none()
    });
    let stale: Vec<String> = stale.map(|field| format!("spec.rules[0].{field}")).collect();
    if stale.is_empty() {
        return Drift::between(Some(have), want);
    }
    let key = ctx.view.route_key();
    let action = Action::Patch { key: key.clone(), patch: json!({"spec": want["spec"]}) };
    Some(Drift::differing(key, stale, action))
}

/// How many ports the apex has, or will have.
fn apex_ports(ctx: &Context<'_>) -> usize {
    let count = |service: &Value| service.pointer("/spec/ports")?.as_array().map(Vec::len);
    let (spec, names) = (&ctx.view.canary.spec, &ctx.view.names);
    let adopted = ctx.view.services.get(&names.apex).filter(|apex| !is_owned(apex));
    let ports = match adopted {
        Some(apex) => count(apex.json()),
        None => count(&services::service(spec, names, Role::Apex, ctx.target, ctx.owner)),
    };
    ports.unwrap_or(1)
}

/// Whether the apex sends everything to the canary because nothing of the primary is ready.
fn is_rescued(ctx: &Context<'_>) -> bool {
    let (view, names) = (ctx.view, &ctx.view.names);
    let ready = |service: &str| view.ready_behind(service) > 0;
    view.router == Router::Service
        && !matches!(view.status.phase, Phase::New | Phase::Initializing)
        && view.pct() != 0
        && !ready(&names.primary)
        && ready(&names.canary)
}

fn is_owned(service: &Obj) -> bool {
    service.controller().is_some_and(|owner| owner.kind == "Canary")
}

/// What else is there must go: a selector means all of its labels.
fn drop_others(want: &mut Value, have: Option<&Obj>, pointer: &str) {
    let have = have.and_then(|have| have.json().pointer(pointer)).and_then(Value::as_object);
    let Some(fields) = want.pointer_mut(pointer).and_then(Value::as_object_mut) else { return };
    for name in have.into_iter().flat_map(|have| have.keys()) {
        fields.entry(name.clone()).or_insert(Value::Null);
    }
}

/// An object of our own making.
fn object(body: Value) -> Obj {
    Obj::from_json(body).expect("it is built with apiVersion, kind and metadata")
}
