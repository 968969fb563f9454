//! Traffic goes back to the primary, whatever else cannot be done.

use std::time::Duration;

use evenkeel_control::Plan;

use crate::{
    CanaryView,
    context::{Context, Obstacle, Turn},
    draft::{Draft, Severity},
    reasons, rollback,
    router::Router,
    routing,
    services::Names,
    time::LOOK_AGAIN,
};

/// A Canary that cannot be acted on. A rollback that is due is done all the same, and a version in
/// the middle of its run is taken out of traffic: its weight never stays where it happens to be
/// while it is not judged.
pub(crate) fn fall_back(view: &CanaryView, obstacle: Obstacle) -> Plan {
    let Obstacle { reason, message } = obstacle;
    let mut draft = Draft::new(view);
    // A phase that cannot be read may be any.
    let hidden = ["phase", ""].iter().any(|part| view.status.misfit(part).is_some());
    let running = view.status.phase.is_release() || hidden;
    if running && view.weight_unread().is_some() {
        return rollback::await_weight(view, draft);
    }
    if running && view.run.rollback.is_some() {
        draft.problem(reason, message);
        return match rollback::roll_back(view, draft) {
            Turn::Now(plan) | Turn::Calm(plan) | Turn::Ramp(plan) => plan,
        };
    }
    // So that the next look finds our part of the status, if the server keeps it.
    draft.run.clean_since = view.run.clean_since.or(Some(view.now));
    let exposed = view.pct() != 0 && owns_route(view);
    // After a promotion that failed, the canary serves: it loses its traffic only when it is gone.
    let at_risk = running || (exposed && reason == reasons::TARGET_MISSING);
    if !at_risk {
        draft.problem(reason, message).wake(LOOK_AGAIN);
        return draft.done(reason);
    }
    if exposed && !view.primary_serves() {
        let text = format!(
            "{message}. The canary keeps its {} % of the traffic: {}",
            view.pct(),
            view.primary_lack()
        );
        draft.problem(reason, text).wake(view.rules.interval);
        return draft.done(reason);
    }
    draft.problem(reason, format!("{message}. Until then all traffic goes to the primary"));
    // The run goes on from the beginning of its ramp.
    draft.run.started_at = view.run.started_at.or(Some(view.now));
    if !exposed {
        draft.wake(LOOK_AGAIN);
        return draft.done(reason);
    }
    draft.act(view.set_weight(0)).weight(0).wake(view.rules.interval);
    let text = format!("Routing all traffic of {} to the primary", view.names.full());
    draft.alert(Severity::Warn, &text).warning(text);
    draft.done(reasons::ROUTING_TO_PRIMARY)
}

/// A route of a name that the spec does not have any more still sends requests to the canary, and
/// those are not judged: they go back to the primary.
pub(crate) fn quiet_stray_route(view: &CanaryView) -> Option<Plan> {
    let stray = view.stray_route.as_ref()?;
    let names = Names::around(stray.obj.name(), &view.names);
    // One that does not say has no rule that could be set.
    let pct = routing::canary_pct(&stray.obj, &names).unwrap_or_default();
    if pct == 0 || stray.primary_ready == 0 {
        return None;
    }
    let key = stray.obj.key().clone();
    let mut draft = Draft::new(view);
    draft.warning(format!(
        "{key} no longer belongs to this Canary but sent {pct} % of its traffic to the canary: all of \
         it goes to {}; delete the route when it is no longer used",
        names.primary
    ));
    draft.act(routing::set_weight(key, &names, 0)).wake(Duration::ZERO);
    Some(draft.done(reasons::ROUTING_TO_PRIMARY))
}

/// A route without shares for the two versions sends requests nobody knows where: all of them go to
/// the primary.
pub(crate) fn weigh_route(view: &CanaryView, mut draft: Draft<'_>) -> Option<Plan> {
    let route = view.unweighted_route()?;
    if !view.primary_serves() {
        return Some(rollback::hold_until_primary_serves(view, draft));
    }
    draft.warning(format!(
        "{} does not contain routes with weights for {} and {}: all traffic goes to the primary",
        route.key(),
        view.names.primary,
        view.names.canary
    ));
    draft.act(view.set_weight(0)).weight(0).wake(Duration::ZERO);
    Some(draft.done(reasons::ROUTING_TO_PRIMARY))
}

/// The primary is gone in the middle of a run: its share of the requests is not answered. The
/// canary does, if it can.
pub(crate) fn without_primary(ctx: &Context<'_>) -> Turn {
    let view = ctx.view;
    let mut draft = ctx.draft();
    let message = format!(
        "Deployment/{}/{} is gone, and the target is not the version it ran: put the target back \
         to it, or delete and create the Canary",
        view.names.namespace, view.names.target_primary
    );
    let dead = view.ready_behind(&view.names.primary) == 0;
    let able = ctx.target.available() > 0 && view.ready_behind(&view.names.canary) > 0;
    let apex = view.services.contains_key(&view.names.apex);
    let routed = view.route.is_some() || (view.router == Router::Service && apex);
    if dead && able && routed && view.pct() < 100 {
        draft.act(view.set_weight(100)).weight(100);
        let text = format!("Routing all traffic to canary {}: {message}", view.names.full());
        draft.alert(Severity::Error, &text).warning(text);
    }
    draft.problem(reasons::PRIMARY_MISSING, message).wake(LOOK_AGAIN);
    Turn::Now(draft.done(reasons::PRIMARY_MISSING))
}

/// Whether the route is ours to write: of two Canaries with one target the older one has it.
fn owns_route(view: &CanaryView) -> bool {
    let owner = view.route.as_ref().and_then(|route| route.controller());
    owner.is_none_or(|owner| owner.uid == view.obj.uid())
}
