//! A Canary is deleted: its target takes over again.

use std::time::Duration;

use evenkeel_api::{
    canary::Phase,
    labels::{CANARY_WEIGHT, SHARED_SERVICE},
    weighted,
};
use evenkeel_base::format_duration;
use evenkeel_control::{Action, Plan, Propagation};
use serde_json::json;

use crate::{
    CanaryView,
    context::{Context, Obstacle},
    diff,
    draft::Draft,
    istio, plain, reasons, route,
    router::Router,
    routing::CONFIRMATION_SLOW,
    taken::is_external,
    time::{LOOK_AGAIN, elapsed},
    workload::Readiness,
};

/// Holds a Canary back until its target serves again. Flagger's name, so that both agree.
pub const FINALIZER: &str = "finalizer.flagger.app";

/// How to end a deletion that waits.
const WITHOUT_GIVING_BACK: &str =
    "To delete it without giving the traffic back, take its finalizer finalizer.flagger.app off";

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
    let served = has_served(ctx);
    let lack = target_lack(ctx);
    // A route that does not send anything to either version was never taken over.
    let weighted = ctx.view.route.is_some() && ctx.view.unweighted_route().is_none();
    if let Some(lack) = lack.as_ref().filter(|_| served) {
        // Amid a release: users must not meet a version that is not ready for as long as that takes.
        if weighted && (1..100).contains(&ctx.view.pct()) && primary_serves(ctx) {
            draft.act(ctx.view.set_weight(0)).weight(0);
            return draft.done(reasons::REVERTING);
        }
        await_target(ctx, &mut draft, lack);
        return draft.done(reasons::CANARY_UNREADY);
    }
    if weighted && ctx.view.pct() != 100 {
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
            say_slow(ctx, &mut draft);
            return draft.done(reasons::CONFIRMATION_PENDING);
        }
        draft.act(action);
        draft.tick().wake(ctx.view.forgetting());
        return draft.done(reasons::REVERTING);
    }
    let apex = ctx.view.services.contains_key(&names.apex);
    let awaited = served || lack.is_none();
    if ctx.view.router == Router::Service && awaited && apex && !apex_on_target(ctx) {
        say_slow(ctx, &mut draft);
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

/// Whether users were ever sent to the primary: then the target must be ready before it takes over.
/// A Canary that never got so far is deleted without a wait.
///
/// Not whether the primary serves in this look: a pod that is being replaced is back in a moment,
/// and its users would be sent to a target that has only just been scaled up. So what is kept
/// counts: the status, and, where that was lost, the objects that are made once the primary is ready.
fn has_served(ctx: &Context<'_>) -> bool {
    let (view, status) = (ctx.view, ctx.status);
    let named = !status.last_promoted_spec.is_empty() || !status.last_applied_spec.is_empty();
    // Where there is none, there is nothing to keep for them.
    if view.primary.is_none() && !view.unread.primary {
        return false;
    }
    let available = primary_serves(ctx);
    let routed = view.route.iter().flat_map(|route| weighted::shares(route.json())).flatten();
    named
        || available
        || view.ready_behind(&view.names.primary) > 0
        || plain::has_primary(view)
        || routed.into_iter().any(|(backend, _)| backend == view.names.primary)
}

/// Whether a pod of the primary serves now.
fn primary_serves(ctx: &Context<'_>) -> bool {
    ctx.view.primary.as_ref().is_some_and(|primary| primary.available() > 0)
}

/// What the target still needs before it can take over, in words; `None` when it can.
fn target_lack(ctx: &Context<'_>) -> Option<String> {
    match ctx.canary_readiness() {
        Readiness::Ready => {}
        Readiness::Pending(text) | Readiness::Stuck(text) => return Some(text),
    }
    let (service, needed) = (&ctx.view.names.canary, ctx.target.needed(100));
    (!ctx.reachable(service, needed))
        .then(|| format!("{needed} ready pods behind Service {service}"))
}

/// Waits for the target. Nothing is given back to one that is not ready, however long that takes:
/// the primary, the last thing that served, would be gone. After the deadline of a release a person
/// is told, and how to delete the Canary all the same.
fn await_target(ctx: &Context<'_>, draft: &mut Draft<'_>, lack: &str) {
    let full = ctx.view.names.full();
    let deadline = ctx.rules.deadline;
    let waited = waited(ctx);
    if waited < deadline {
        draft.waiting(format!("Waiting for {full} to be ready before it takes over"));
        draft.wake(deadline.saturating_sub(waited));
        return;
    }
    let message = format!(
        "{full} is still not ready to take over after {} (spec.progressDeadlineSeconds): waiting \
         for {lack}. Until it is, the Canary is not deleted: its primary would go with it, and \
         nothing would be left that serves. Correct Deployment/{}/{}. {WITHOUT_GIVING_BACK}",
        format_duration(deadline),
        ctx.view.names.namespace,
        ctx.view.names.target
    );
    draft.problem(reasons::CANARY_UNREADY, message);
}

/// Says what a deletion waits for once the traffic has been sent to the target.
fn say_slow(ctx: &Context<'_>, draft: &mut Draft<'_>) {
    if waited(ctx) < CONFIRMATION_SLOW {
        draft.wake(CONFIRMATION_SLOW);
        return;
    }
    let names = &ctx.view.names;
    let what = if ctx.view.route.is_some() && !ctx.view.confirmed() {
        format!("the gateway confirms that {} has all traffic", names.full())
    } else {
        format!("Service {} has endpoints of {} only", names.apex, names.target)
    };
    draft.stalled(format!(
        "Waiting until {what}, before the Canary is deleted. {WITHOUT_GIVING_BACK}"
    ));
}

/// How long the deletion has been as it is now.
fn waited(ctx: &Context<'_>) -> Duration {
    let transition = ctx.status.last_transition_time.as_ref().map(|time| time.0);
    let asked = ctx.view.obj.meta().deletion_timestamp.as_ref().map(|time| time.0);
    let since = [transition, asked].into_iter().flatten().max();
    since.map_or(Duration::ZERO, |since| elapsed(since, ctx.view.now))
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
         without replicas. {WITHOUT_GIVING_BACK}"
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
    // Without a Service, or behind a name of another server, there are no pods to wait for.
    !ctx.view.settings.confirm
        || ctx.view.services.get(&names.apex).is_none_or(|apex| is_external(apex))
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
