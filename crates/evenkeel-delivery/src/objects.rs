//! The objects that stand around a target, and what is missing of them.

use evenkeel_api::Obj;
use evenkeel_control::Action;
use serde_json::{Value, json};

use crate::{
    configs,
    context::Context,
    diff,
    services::{self, Role},
};

pub(crate) fn make_primary(ctx: &Context<'_>) -> Action {
    let namespace = &ctx.view.names.namespace;
    let primary = ctx.rewrite().deployment(ctx.target, namespace, ctx.owner);
    Action::Create(Box::new(object(primary)))
}

/// Copies of configs that are not there or not as they should be.
pub(crate) fn missing_copies(ctx: &Context<'_>) -> Vec<Action> {
    let tracked = ctx.view.configs.values().filter(|config| configs::is_tracked(config));
    tracked
        .filter_map(|config| {
            let want = configs::copy(config, ctx.owner);
            let key = configs::copy_of(config.key());
            let Some(have) = ctx.view.config_copies.get(&key) else {
                return Some(Action::Apply(Box::new(object(want))));
            };
            let mut patch = json!({});
            for field in ["data", "binaryData"] {
                let none = &Value::Null;
                let (have, want) = (have.json().get(field), want.get(field));
                if let Some(change) = diff::between(have.unwrap_or(none), want.unwrap_or(none)) {
                    patch[field] = change;
                }
            }
            (patch != json!({})).then_some(Action::Patch { key, patch })
        })
        .collect()
}

/// The Services of these roles that are not there or not as they should be.
pub(crate) fn missing_services(ctx: &Context<'_>, roles: &[Role]) -> Vec<Action> {
    let spec = &ctx.view.canary.spec;
    roles
        .iter()
        .filter_map(|role| {
            let service =
                |owner| services::service(spec, &ctx.view.names, *role, ctx.target, owner);
            let want = service(Some(ctx.owner));
            let name = want.pointer("/metadata/name").and_then(Value::as_str)?;
            let have = ctx.view.services.get(name);
            // An apex that was there before is only pointed elsewhere, never taken over.
            let foreign = |have: &Obj| have.controller().is_none_or(|owner| owner.kind != "Canary");
            let want = match have {
                Some(have) if *role == Role::Apex && foreign(have) => service(None),
                _ => want,
            };
            missing(have.map(|have| have.json()), want)
        })
        .collect()
}

/// The route, if it is not there or not as it should be; its weights are never touched here.
pub(crate) fn missing_route(ctx: &Context<'_>) -> Option<Action> {
    let have = ctx.view.route.as_ref().map(|route| route.obj.json());
    let spec = &ctx.view.canary.spec;
    let (names, gateways) = (&ctx.view.names, &ctx.view.gateways);
    let mut want = services::route(spec, names, gateways, ctx.pct(), ctx.owner);
    if let Some(have) = have {
        // What the spec no longer says must go, too.
        if have.pointer("/spec/hostnames").is_some() && want["spec"]["hostnames"].is_null() {
            want["spec"]["hostnames"] = Value::Null;
        }
        let stale = ["filters", "timeouts"].iter().any(|field| {
            let of = |route: &Value| {
                let value = route.pointer(&format!("/spec/rules/0/{field}")).cloned();
                value.filter(|value| *value != json!([]) && !value.is_null())
            };
            of(have).is_some() && of(&want).is_none()
        });
        if stale {
            let patch = json!({"spec": want["spec"]});
            return Some(Action::Patch { key: ctx.route_key(), patch });
        }
    }
    missing(have, want)
}

/// Everything that should stand while a Canary is initialized, and does not.
pub(crate) fn repairs(ctx: &Context<'_>) -> Vec<Action> {
    let mut actions = missing_services(ctx, &[Role::Canary, Role::Primary, Role::Apex]);
    actions.extend(missing_route(ctx));
    actions
}

/// What makes or repairs an object; `None` when it is as it should be.
fn missing(have: Option<&Value>, want: Value) -> Option<Action> {
    let fine = have.is_some_and(|have| diff::covers(have, &want));
    (!fine).then(|| Action::Apply(Box::new(object(want))))
}

/// An object of our own making.
fn object(body: Value) -> Obj {
    Obj::from_json(body).expect("it is built with apiVersion, kind and metadata")
}
