//! A Canary is deleted: its target takes over again.

use std::time::Duration;

use evenkeel_api::{
    canary::Phase,
    labels::{CANARY_WEIGHT, SHARED_SERVICE},
};
use evenkeel_control::{Action, Plan, Propagation};
use serde_json::json;

use crate::{
    CanaryView,
    context::{Context, Obstacle},
    diff,
    draft::Draft,
    istio, plain, reasons, route,
    router::Router,
    taken::is_external,
    time::{LOOK_AGAIN, elapsed},
    workload::Readiness,
};

/// Holds a Canary back until its target serves again. Flagger's name, so that both agree.
pub const FINALIZER: &str = "finalizer.flagger.app";

/// The Canary goes: the target takes over again, without a gap, before anything is deleted.
pub(crate) fn revert(ctx: &Context<'_>) -> Plan {
    let names = &ctx.view.names;
    let mut draft = ctx.draft();
    draft.phase(Phase::Terminating).wake(ctx.rules.interval);
    if !ctx.view.obj.meta().finalizers.iter().flatten().any(|name| name == FINALIZER) {
        return Plan::idle(reasons::REVERTING);
    }
    if ctx.view.unread.has_traffic() {
        // The apex must be given back before anything is deleted.
        let names = ctx.view.unread.names();
        draft.stalled(format!("Waiting to give back the traffic until this can be read: {names}"));
        draft.wake(LOOK_AGAIN);
        return draft.done(reasons::READ_FAILED);
    }
    if ctx.target.replicas() == 0 {
        let replicas = ctx.view.primary.as_ref().map_or(1, |p| p.replicas().max(1));
        draft.act_if_unchanged(ctx.scale_target(replicas), &ctx.target.obj);
        return draft.done(reasons::REVERTING);
    }
    let ready = ctx.canary_readiness() == Readiness::Ready;
    let served = primary_serves(ctx);
    if served && (!ready || !ctx.reachable(&names.canary, ctx.target.needed(100))) {
        draft.waiting(format!("Waiting for {} to be ready before it takes over", names.full()));
        return draft.done(reasons::CANARY_UNREADY);
    }
    if ctx.view.route.is_some() && ctx.view.pct() != 100 {
        draft.act(ctx.view.set_weight(100)).weight(100);
        return draft.done(reasons::REVERTING);
    }
    if let Some(action) = release_apex(ctx) {
        draft.act(action);
        return draft.done(reasons::REVERTING);
    }
    if let Some(action) = release_route(ctx) {
        let asked = ctx.view.router != Router::Gateway
            || ctx.view.route.as_deref().is_some_and(route::is_accepted);
        if served && ((asked && !ctx.view.confirmed()) || !apex_on_target(ctx)) {
            return draft.done(reasons::CONFIRMATION_PENDING);
        }
        draft.act(action);
        draft.tick().wake(ctx.view.forgetting());
        return draft.done(reasons::REVERTING);
    }
    let apex = ctx.view.services.contains_key(&names.apex);
    if ctx.view.router == Router::Service && served && apex && !apex_on_target(ctx) {
        return draft.done(reasons::CONFIRMATION_PENDING);
    }
    if let Some(left) = until_route_is_forgotten(ctx) {
        draft.wake(left);
        return draft.done(reasons::REVERTING);
    }
    draft.phase(Phase::Terminated);
    remove_finalizer(&mut draft, ctx.view);
    draft.done(reasons::REVERTING)
}

/// Whether the primary has something that the target must take over first. Where nothing of it is
/// ready, as of a Canary that never got so far, a deletion waits for nothing.
fn primary_serves(ctx: &Context<'_>) -> bool {
    let view = ctx.view;
    let available = view.primary.as_ref().is_some_and(|primary| primary.available() > 0);
    available || view.ready_behind(&view.names.primary) > 0
}

/// Something the way back depends on may be there and cannot be read: the primary serves on, and the
/// garbage collector would take it while the target may have no replicas.
pub(crate) fn wait_until_readable(view: &CanaryView, obstacle: Obstacle) -> Plan {
    if !view.obj.meta().finalizers.iter().flatten().any(|name| name == FINALIZER) {
        return Plan::idle(reasons::REVERTING);
    }
    let mut draft = Draft::new(view);
    let Obstacle { reason, message } = obstacle;
    let message = format!(
        "{message}. Until that can be read, the Canary is not deleted: its target could be left \
         without replicas. To delete it without giving the traffic back, take its finalizer \
         {FINALIZER} off"
    );
    draft.problem(reason, message).phase(Phase::Terminating).wake(LOOK_AGAIN);
    draft.done(reason)
}

/// Time that the gateways still have to forget the route, which is gone.
///
/// Where the status does not keep when that was, as under a schema without those fields, the
/// deletion itself was asked for some time before.
fn until_route_is_forgotten(ctx: &Context<'_>) -> Option<Duration> {
    let transition = ctx.status.last_transition_time.as_ref().map(|time| time.0);
    let asked = ctx.view.obj.meta().deletion_timestamp.as_ref().map(|time| time.0);
    let (since, wait) = match (ctx.run.ticked_at.or(transition), asked) {
        (Some(noted), _) => (noted, ctx.view.forgetting()),
        (None, asked) => (asked?, LOOK_AGAIN),
    };
    wait.checked_sub(elapsed(since, ctx.view.now)).filter(|left| !left.is_zero())
}

/// Puts our finalizer on. Only `revertOnDeletion: false` lets a deletion take everything down:
/// that is what the field says, and by Flagger's default it would be an outage.
pub(crate) fn hold_deletion(ctx: &Context<'_>) -> Option<Action> {
    let mut all = ctx.view.obj.meta().finalizers.clone().unwrap_or_default();
    let wanted = ctx.view.canary.spec.revert_on_deletion != Some(false);
    if !wanted || all.iter().any(|name| name == FINALIZER) {
        return None;
    }
    all.push(FINALIZER.to_owned());
    let key = ctx.view.obj.key().clone();
    Some(Action::Patch { key, patch: json!({"metadata": {"finalizers": all}}) })
}

/// Takes the route away, or gives it back as it was before the Canary; `None` when that is done.
fn release_route(ctx: &Context<'_>) -> Option<Action> {
    let view = ctx.view;
    let mut others = view.route_parts.values().filter(|rule| !istio::is_made_by_a_canary(rule));
    if view.router == Router::Istio
        && let Some(action) = others.find_map(|rule| istio::rule_restoration(rule))
    {
        return Some(action);
    }
    let route = view.route.as_ref()?;
    if view.router == Router::Istio && !istio::is_made_by_a_canary(route) {
        return istio::restoration(&view.canary.spec, &view.names, route);
    }
    Some(Action::Delete {
        key: route.key().clone(),
        uid: route.uid().to_owned(),
        propagation: Propagation::Background,
    })
}

/// Points the apex to the target again and frees it from the Canary, so that it stays.
fn release_apex(ctx: &Context<'_>) -> Option<Action> {
    let apex = ctx.view.services.get(&ctx.view.names.apex)?;
    if is_external(apex) {
        // It never was pointed anywhere.
        return None;
    }
    let mut patch = json!({"spec": {"selector": ctx.target.selector_of_canary()}});
    patch["spec"]["selector"][SHARED_SERVICE] = serde_json::Value::Null;
    let owned = apex.controller().is_some_and(|owner| owner.uid == ctx.view.obj.uid());
    if diff::uncovered(apex.json(), &patch).is_empty() && !owned {
        return None;
    }
    if plain::asked(apex.json()).is_some() {
        patch["metadata"]["annotations"][CANARY_WEIGHT] = serde_json::Value::Null;
    }
    if owned {
        patch["metadata"]["ownerReferences"] = json!([]);
    }
    Some(Action::Patch { key: apex.key().clone(), patch })
}

fn apex_on_target(ctx: &Context<'_>) -> bool {
    let names = &ctx.view.names;
    let (target, primary) = (format!("{}-", names.target), format!("{}-", names.target_primary));
    let pods = ctx.view.endpoints.get(&names.apex);
    // Behind a name of another server there are no pods to wait for.
    !ctx.view.settings.confirm
        || ctx.view.services.get(&names.apex).is_some_and(|apex| is_external(apex))
        || pods.is_some_and(|pods| {
            let ours = |pod: &String| pod.starts_with(&target) && !pod.starts_with(&primary);
            !pods.is_empty() && pods.iter().all(ours)
        })
}

/// Takes our finalizer off.
pub(crate) fn remove_finalizer(draft: &mut Draft<'_>, view: &CanaryView) {
    let all = view.obj.meta().finalizers.clone().unwrap_or_default();
    if !all.iter().any(|name| name == FINALIZER) {
        return;
    }
    let rest: Vec<_> = all.into_iter().filter(|name| name != FINALIZER).collect();
    let key = view.obj.key().clone();
    draft.act(Action::Patch { key, patch: json!({"metadata": {"finalizers": rest}}) });
}
