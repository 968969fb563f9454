//! Out of traffic: the way back that nothing may hold up.

use evenkeel_api::canary::Phase;
use evenkeel_base::format_duration;
use evenkeel_control::{Action, Plan};

use crate::{
    CanaryView,
    context::Turn,
    draft::{Draft, Severity},
    reasons,
    router::Router,
    routing::CONFIRMATION_SLOW,
    time::{LOOK_AGAIN, elapsed},
};

/// The version goes: out of traffic, confirmed by the gateway, then down to zero.
///
/// It needs nothing but the view, so that it can be done when nothing else can.
pub(crate) fn roll_back(view: &CanaryView, mut draft: Draft<'_>) -> Turn {
    let Some(rollback) = &view.run.rollback else {
        return Turn::Now(draft.done(reasons::ROLLED_BACK));
    };
    if view.weight_unread().is_some() {
        return Turn::Now(await_weight(view, draft));
    }
    let full = view.names.full();
    if view.pct() != 0 {
        if !view.primary_serves() {
            return Turn::Now(hold_until_primary_serves(view, draft));
        }
        draft.act(view.set_weight(0));
        if view.settings.confirm {
            // People hear of it now: what is left to do may be held, or take long.
            let cause = &rollback.cause;
            let message = format!("Rolling back {full}, its traffic goes to the primary: {cause}");
            draft.alert(Severity::Error, &message);
            draft.weight(0).wake(view.rules.interval);
            return Turn::Now(draft.done(reasons::ROLLING_BACK));
        }
    } else if !view.confirmed() {
        return Turn::Calm(await_zero(view, draft));
    }
    if view.target_unreadable {
        // It may still run. The rollback is over when it does not.
        draft.wake(LOOK_AGAIN);
        return Turn::Calm(draft.done(reasons::UNREADABLE));
    }
    // A target that another Canary has, too, is not ours to stop.
    let target = view.target.as_ref().filter(|_| view.conflicting_canary.is_none());
    if let Some(target) = target.filter(|target| target.replicas() != 0) {
        draft.act(Action::Scale { key: target.obj.key().clone(), replicas: 0 });
    }
    let took = elapsed(rollback.since, view.now);
    draft.phase(Phase::Failed).tick().weight(0).quiet();
    draft.status.iterations = 0;
    draft.run.outcome = Some(format!(
        "Canary analysis failed, Deployment scaled to zero. {}.",
        sentence(&rollback.cause)
    ));
    draft.run.rollback = None;
    draft.run.rollback_seconds = Some(took.as_secs_f64());
    draft.run.after_hooks_due = view.has_after_hooks();
    draft.warning(format!("Canary failed! Scaling down {full}"));
    let message = format!(
        "Rolled back {full} in {} from the decision until no request reached it: {}",
        format_duration(took),
        rollback.cause
    );
    let has_alerted = view.run.alerted_at.is_some_and(|at| at >= rollback.since);
    let severity = if has_alerted { Severity::Info } else { Severity::Error };
    draft.alert(severity, &message).warning(message);
    Turn::Now(draft.done(reasons::ROLLED_BACK))
}

/// No replica of the primary is available to take the canary's traffic back.
pub(crate) fn hold_until_primary_serves(view: &CanaryView, mut draft: Draft<'_>) -> Plan {
    let message = format!(
        "{} cannot be taken out of traffic: {}; the weights stay as they are until one is",
        view.names.full(),
        view.primary_lack()
    );
    if view.run.note.as_ref() != Some(&message) {
        draft.alert(Severity::Error, &message);
    }
    draft.stalled(message).wake(view.rules.interval);
    draft.done(reasons::PRIMARY_UNREADY)
}

/// The canary still runs while the gateway may still send it requests.
pub(crate) fn await_zero(view: &CanaryView, mut draft: Draft<'_>) -> Plan {
    let since = view.run.rollback.as_ref().map(|rollback| rollback.since);
    let since = since.or(view.run.ticked_at).unwrap_or(view.now);
    if elapsed(since, view.now) >= CONFIRMATION_SLOW {
        let (full, apex) = (view.names.full(), &view.names.apex);
        let generation = view.route.as_ref().map(|route| route.generation());
        let state = generation.map(|generation| format!(" in generation {generation}"));
        draft.stalled(match view.router {
            Router::Service => format!(
                "Waiting until Service {apex} has no endpoints of {full}; it keeps running until \
                 then. Look at the EndpointSlices of the Service"
            ),
            router => format!(
                "Waiting for the gateway to confirm that {full} gets no traffic; it keeps running \
                 until then. Look at the status of {} {apex}{}",
                router.kind().kind,
                state.unwrap_or_default()
            ),
        });
    }
    draft.wake(CONFIRMATION_SLOW);
    draft.done(reasons::CONFIRMATION_PENDING)
}

/// A cause as the beginning of a sentence.
fn sentence(cause: &str) -> String {
    let mut chars = cause.chars();
    let first = chars.next().map(|first| first.to_uppercase().to_string());
    first.unwrap_or_default() + chars.as_str()
}

/// Which share of the traffic the version has is not known: it may have what it had last. It cannot
/// be judged, nor taken out of traffic, and nothing is said to be so that is not known.
pub(crate) fn await_weight(view: &CanaryView, mut draft: Draft<'_>) -> Plan {
    let (full, pct) = (view.names.full(), view.pct());
    let error = view.weight_unread().unwrap_or_default();
    let may = if pct == 0 {
        "should get no traffic (the last known weight is 0 %), which is not certain".to_owned()
    } else {
        format!("may still get {pct} % of the traffic (the last known weight)")
    };
    let due = match &view.run.rollback {
        Some(rollback) => format!(". It is to be rolled back: {}", rollback.cause),
        None => String::new(),
    };
    let route = view.route_key();
    let message = format!(
        "{error}. {full} {may}: it cannot be judged or taken out of traffic until {route} can be \
         read{due}"
    );
    let reason = reasons::WEIGHT_UNKNOWN;
    let accepted = view.status.conditions.iter().find(|c| c.type_ == reasons::ACCEPTED);
    if accepted.is_none_or(|condition| condition.reason != reason) {
        draft.alert(Severity::Error, &message);
    }
    draft.problem(reason, message).wake(LOOK_AGAIN);
    draft.done(reason)
}
