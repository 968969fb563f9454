//! Steps of a release whose shares are pods: what they wait for, and what an interrupted one left.

use std::time::Duration;

use evenkeel_api::labels::SHARED_SERVICE;
use evenkeel_control::{Action, Plan};
use serde_json::{Value, json};

use crate::{
    CanaryView,
    context::{Context, Turn},
    draft::Draft,
    plain, reasons,
    time::elapsed,
    workload::Workload,
};

/// More pods carry the label than the share asks for: of a step that was interrupted, or because
/// the primary has fewer pods now.
pub(crate) fn trim(view: &CanaryView, mut draft: Draft<'_>) -> Option<Plan> {
    let pct = plain::canary_pct(view);
    if !plain::shares(view) || pct >= 100 {
        return None;
    }
    let surplus = plain::surplus(view, pct);
    if surplus.is_empty() {
        return None;
    }
    draft.act_all(surplus).wake(Duration::ZERO);
    Some(draft.done(reasons::ROUTING_TO_PRIMARY))
}

/// What must be so before the canary gets this share: the primary's pods carry the label, and the
/// canary's that will are ready.
pub(crate) fn room(ctx: &Context<'_>, primary: &Workload, pct: i32) -> Option<Turn> {
    let view = ctx.view;
    if !plain::shares(view) {
        return None;
    }
    let names = &view.names;
    let mut draft = ctx.draft();
    draft.wake(ctx.rules.interval);
    let label = primary.template().pointer("/metadata/labels").and_then(|l| l.get(SHARED_SERVICE));
    if label.and_then(Value::as_str) != Some(&names.apex) {
        let labels = json!({SHARED_SERVICE: names.apex});
        let patch = json!({"spec": {"template": {"metadata": {"labels": labels}}}});
        let key = primary.obj.key().clone();
        draft.act_if_unchanged(Action::Patch { key, patch }, &primary.obj);
        draft.event(format!(
            "Rolling {}.{} once: its pods get the label {SHARED_SERVICE}, by which Service {} will \
             select them and the canary's together",
            names.target_primary, names.namespace, names.apex
        ));
        return Some(Turn::Ramp(draft.done(reasons::MAKING_OBJECTS)));
    }
    let wanted = plain::pods_for(pct, primary.replicas());
    let ready = view.ready_behind(&names.canary);
    if view.settings.confirm && ready < usize::try_from(wanted).unwrap_or_default() {
        let since = [ctx.run.ticked_at, ctx.run.confirmed_at].into_iter().flatten().max();
        let waited = since.map_or_else(Default::default, |since| elapsed(since, view.now));
        let text = format!("{ready} of {wanted} pods that {pct} % of the traffic need are ready");
        if waited > ctx.rules.interval.saturating_add(ctx.rules.deadline) {
            draft.roll_back(format!("progress deadline exceeded: {text}"));
            return Some(Turn::Now(draft.done(reasons::ROLLING_BACK)));
        }
        if ctx.target.replicas() < wanted {
            draft.act_if_unchanged(ctx.scale_target(wanted), &ctx.target.obj);
        }
        draft.waiting(format!("Waiting for {}: {text}", names.full()));
        return Some(Turn::Calm(draft.done(reasons::CANARY_UNREADY)));
    }
    None
}
