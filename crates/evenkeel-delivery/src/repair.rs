//! Objects that are not as they should be are brought back, at first at once and then ever more
//! rarely: a server that does not keep a field, or another controller that changes it back, must not
//! make us write without end. What does not last becomes a condition.

use std::time::Duration;

use evenkeel_api::canary::RepairStatus;
use evenkeel_control::Plan;
use jiff::Timestamp;

use crate::{
    context::Context,
    draft::Draft,
    objects::{self, Drift},
    reasons,
    time::{elapsed, later},
};

/// Pause after the first attempt; doubles with each further one. Longer than a cache lags.
const PAUSE_MIN: Duration = Duration::from_secs(5);
/// Longest pause: a person who fixes the cause does not want to wait longer.
const PAUSE_MAX: Duration = Duration::from_mins(5);
/// So many attempts must have failed before a condition is set: one may be a cache that lags.
const ATTEMPTS_MIN: u32 = 2;
/// An attempt is remembered for so long after the object was as it should be, so that a controller
/// that changes it back every few seconds does not start us anew each time.
const MEMORY: Duration = Duration::from_mins(10);
/// Attempts that are remembered at most: more than a Canary has objects.
const REPAIRS_MAX: usize = 32;

/// What goes before a plan that waits or adds risk; `None` when it may go on.
pub(crate) fn before(ctx: &Context<'_>, adds_risk: bool) -> Option<Plan> {
    let drifts = objects::drifts(ctx);
    let due: Vec<&Drift> = drifts.iter().filter(|drift| is_due(ctx, drift)).collect();
    if !due.is_empty() {
        let mut draft = ctx.draft();
        for drift in due.iter().filter(|drift| past(ctx, drift).is_none()) {
            draft.event(format!("Repairing {}", words(drift)));
        }
        carry_out(ctx, &mut draft, &due);
        return Some(draft.done(reasons::MAKING_OBJECTS));
    }
    let shown = ctx.status.conditions.iter().find(|c| c.type_ == reasons::IN_SYNC);
    let message = message(ctx, &drifts);
    let old = ctx.run.repairs.iter().any(|repair| is_over(ctx, repair, &drifts));
    if shown.map(|condition| condition.message.as_str()) != message.as_deref() || old {
        let mut draft = ctx.draft();
        draft.run.repairs.retain(|repair| !is_over(ctx, repair, &drifts));
        draft.in_sync(message).wake(Duration::ZERO);
        return Some(draft.done(reasons::REPAIRS_NOTED));
    }
    let (what, until) = unsettled(ctx, &drifts).filter(|_| adds_risk)?;
    let mut draft = ctx.draft();
    draft.waiting(format!("Waiting for {what}"));
    draft.wake(elapsed(ctx.view.now, until));
    Some(draft.done(reasons::REPAIR_PENDING))
}

/// Something on which traffic depends that is not as it should be, or was so short a time ago that
/// it may be changed back; and when to look again.
fn unsettled(ctx: &Context<'_>, drifts: &[Drift]) -> Option<(String, Timestamp)> {
    if let Some(drift) = drifts.iter().find(|drift| drift.essential) {
        let repair = past(ctx, drift);
        return Some((words(drift), repair.map_or(ctx.view.now, due_at)));
    }
    let repair = ctx.run.repairs.iter().find(|repair| {
        let fields = repair.fields.split_whitespace();
        is_lasting(ctx, repair, drifts) && objects::is_essential(fields)
    })?;
    Some((format!("{} to stay as it should be", repair.object), due_at(repair)))
}

/// Makes or repairs what is missing while a target is taken over. Returns why the plan ends here;
/// `None` when it may go on.
pub(crate) fn make(
    ctx: &Context<'_>,
    draft: &mut Draft<'_>,
    drifts: &[Drift],
) -> Option<&'static str> {
    let due: Vec<&Drift> = drifts.iter().filter(|drift| is_due(ctx, drift)).collect();
    if !due.is_empty() {
        carry_out(ctx, draft, &due);
        return Some(reasons::MAKING_OBJECTS);
    }
    draft.in_sync(message(ctx, drifts));
    if let Some(wait) = next_attempt(ctx, drifts) {
        draft.wake(wait);
    }
    let drift = drifts.iter().find(|drift| drift.essential)?;
    draft.waiting(format!("Waiting for {}", words(drift)));
    Some(reasons::REPAIR_PENDING)
}

/// Time until an attempt at one of these is due.
fn next_attempt(ctx: &Context<'_>, drifts: &[Drift]) -> Option<Duration> {
    let left = |drift: &Drift| Some(elapsed(ctx.view.now, due_at(past(ctx, drift)?)));
    drifts.iter().filter_map(left).min()
}

fn carry_out(ctx: &Context<'_>, draft: &mut Draft<'_>, due: &[&Drift]) {
    for drift in due {
        let Some(action) = drift.action.clone() else { continue };
        match &drift.seen {
            Some(seen) => draft.act_if_unchanged(action, seen),
            None => draft.act(action),
        };
        let attempts = past(ctx, drift).map_or(0, |repair| repair.attempts);
        let repairs = &mut draft.run.repairs;
        repairs.retain(|repair| !is_about(repair, drift));
        if repairs.len() >= REPAIRS_MAX {
            repairs.remove(0);
        }
        repairs.push(RepairStatus {
            object: drift.object.to_string(),
            fields: drift.fields.join(" "),
            attempts: attempts.saturating_add(1),
            at: ctx.view.now,
            generation: ctx.view.obj.generation(),
        });
    }
    draft.wake(PAUSE_MIN);
}

fn past<'a>(ctx: &Context<'a>, drift: &Drift) -> Option<&'a RepairStatus> {
    ctx.run.repairs.iter().find(|repair| is_of_now(ctx, repair) && is_about(repair, drift))
}

/// Whether it was an attempt at what the Canary asks for now. What a person changes in the Canary
/// is carried out at once, however often, and nobody has changed it back.
fn is_of_now(ctx: &Context<'_>, repair: &RepairStatus) -> bool {
    repair.generation == ctx.view.obj.generation()
}

fn is_about(repair: &RepairStatus, drift: &Drift) -> bool {
    repair.object == drift.object.to_string() && repair.fields == drift.fields.join(" ")
}

fn due_at(repair: &RepairStatus) -> Timestamp {
    let doublings = repair.attempts.saturating_sub(1).min(16);
    later(repair.at, PAUSE_MIN.saturating_mul(1 << doublings).min(PAUSE_MAX))
}

fn is_due(ctx: &Context<'_>, drift: &Drift) -> bool {
    drift.action.is_some() && past(ctx, drift).is_none_or(|repair| due_at(repair) <= ctx.view.now)
}

/// Whether it did not last after attempts enough: it is still so, or was changed back each time
/// and may be changed back again.
fn is_lasting(ctx: &Context<'_>, repair: &RepairStatus, drifts: &[Drift]) -> bool {
    let again = ctx.view.now < due_at(repair);
    let still = drifts.iter().any(|drift| is_about(repair, drift));
    is_of_now(ctx, repair) && repair.attempts >= ATTEMPTS_MIN && (again || still)
}

/// Whether an attempt need not be remembered any longer.
fn is_over(ctx: &Context<'_>, repair: &RepairStatus, drifts: &[Drift]) -> bool {
    !is_of_now(ctx, repair)
        || elapsed(repair.at, ctx.view.now) > MEMORY
            && !drifts.iter().any(|drift| is_about(repair, drift))
}

fn words(drift: &Drift) -> String {
    if drift.fields.is_empty() {
        return format!("{}, which is missing", drift.object);
    }
    format!("{}: {}", drift.object, drift.fields.join(", "))
}

/// What does not last, for the condition.
fn message(ctx: &Context<'_>, drifts: &[Drift]) -> Option<String> {
    let lasting = ctx.run.repairs.iter().filter(|repair| is_lasting(ctx, repair, drifts));
    let said = lasting.map(|repair| {
        let fields = repair.fields.replace(' ', ", ");
        let fields = if fields.is_empty() { "missing".to_owned() } else { fields };
        format!("{} ({fields}; set {} times)", repair.object, repair.attempts)
    });
    let said: Vec<_> = said.collect();
    let lasting = (!said.is_empty()).then(|| {
        format!(
            "{} keeps being changed back: the API server or another controller does not keep \
             it",
            said.join(", ")
        )
    });
    let lost = drifts.iter().filter_map(|drift| {
        let why = drift.why.as_ref()?;
        Some(format!("{} is missing and cannot be made again: {why}", drift.object))
    });
    let all: Vec<_> = lasting.into_iter().chain(lost).collect();
    (!all.is_empty()).then(|| all.join(". "))
}
