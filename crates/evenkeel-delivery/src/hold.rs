//! What waits for objects that could not be read, and for how long.
//!
//! A failed read says nothing about its object: neither that it is gone nor that it is as it was.
//! So the version that runs is judged by what is known, and may be taken out of traffic. What needs
//! the object waits: whether a new release began is not known without the content of the target's
//! configs, and nothing is promoted without it.

use evenkeel_api::canary::Phase;
use evenkeel_control::Plan;

use crate::{
    context::{Context, Turn},
    hooks::APPROVAL_WAIT_MAX,
    reasons,
    time::{LOOK_AGAIN, elapsed},
};

/// What waits for the content of the target's configs at rest: whether a release began.
pub(crate) fn start(ctx: &Context<'_>) -> Option<Plan> {
    (!ctx.view.unread.configs.is_empty()).then(|| ctx.wait(reasons::READ_FAILED, LOOK_AGAIN))
}

/// What waits for anything at all: no user depends on it yet, or everything must be known for it.
pub(crate) fn all(ctx: &Context<'_>) -> Option<Plan> {
    let unread = &ctx.view.unread;
    let needed = unread.has_content() || unread.has_traffic();
    needed.then(|| ctx.wait(reasons::READ_FAILED, LOOK_AGAIN))
}

/// New risk waits for what traffic depends on.
pub(crate) fn risk(ctx: &Context<'_>) -> Option<Plan> {
    if !ctx.view.unread.has_traffic() {
        return None;
    }
    let mut draft = ctx.draft();
    draft.waiting(format!("Waiting until this can be read: {}", ctx.view.unread.names()));
    draft.wake(LOOK_AGAIN);
    Some(draft.done(reasons::READ_FAILED))
}

/// A promotion waits for the content that it copies, but not forever. The version is judged again
/// in each interval meanwhile, as while an approval is waited for.
pub(crate) fn promotion(ctx: &Context<'_>) -> Option<Turn> {
    if !ctx.view.unread.has_content() {
        return None;
    }
    let full = ctx.view.names.full();
    let what = ctx.view.unread.names();
    let mut draft = ctx.draft();
    // While an approval was waited for, the stamp is the start of that wait, which is over.
    let approved = ctx.status.phase == Phase::WaitingPromotion;
    let since = ctx.run.waiting_since.filter(|_| !approved).unwrap_or(ctx.view.now);
    if elapsed(since, ctx.view.now) > APPROVAL_WAIT_MAX {
        draft.roll_back(format!("what its promotion copies could not be read: {what}"));
        return Some(Turn::Now(draft.done(reasons::ROLLING_BACK)));
    }
    draft.phase(Phase::Progressing).tick().run.note.clone_from(&ctx.run.note);
    draft.run.waiting_since = Some(since);
    draft.waiting(format!("Waiting to promote {full} until its configs can be read: {what}"));
    draft.wake(ctx.rules.interval);
    Some(Turn::Calm(draft.done(reasons::READ_FAILED)))
}
