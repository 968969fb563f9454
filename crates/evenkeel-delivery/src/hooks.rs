//! Asking webhooks: who is asked, what is sent, what an answer means.

use std::{collections::BTreeMap, fmt, time::Duration};

use evenkeel_api::canary::{PendingEvent, Phase};
use evenkeel_control::{HookCall, HookError, HookReply, Plan, redact};
use serde_json::{Value, json};

use crate::{
    context::{Context, Need},
    diff,
    draft::Draft,
    reasons,
    rules::{HookKind, HookRule},
};

/// Pause before a webhook's reply is looked for: it is there as soon as the call has returned.
pub(crate) const REPLY_WAIT: Duration = Duration::from_millis(100);

/// Longest wait for an approval before the version is given up: a forgotten gate must not keep a
/// half-released version forever.
pub(crate) const APPROVAL_WAIT_MAX: Duration = Duration::from_hours(24);

/// What the webhooks of one kind say together.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Approval {
    /// All agree.
    Given,
    /// This one does not; its name and why.
    Withheld(String, No),
    /// This one must be asked first.
    Ask(HookCall),
}

/// What a webhook says that does not agree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum No {
    /// Its answer.
    Answer(String),
    /// None came: why.
    Silence(String),
}

impl No {
    /// The webhook's name, and why no answer comes from it where that is so: a person who is asked
    /// to approve must know when approving does not help.
    pub(crate) fn of(&self, name: &str) -> String {
        match self {
            Self::Answer(_) => name.to_owned(),
            Self::Silence(why) => format!("{name}, which does not answer: {why}"),
        }
    }
}

impl fmt::Display for No {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Answer(words) | Self::Silence(words)) = self;
        f.write_str(words)
    }
}

enum Said {
    Nothing(HookCall),
    Yes,
    No(No),
}

/// Asks the webhooks of a kind in order; the first that does not agree ends it. For a prediction
/// nobody is asked: what the metrics say is what it is about.
pub(crate) fn approval(ctx: &Context<'_>, kind: HookKind, phase: Phase) -> Result<Approval, Need> {
    if ctx.view.is_observed() {
        return Ok(Approval::Given);
    }
    for hook in ctx.rules.hooks(kind) {
        match reply(ctx, hook, phase)? {
            Said::Nothing(call) => return Ok(Approval::Ask(call)),
            Said::Yes => {}
            Said::No(why) => return Ok(Approval::Withheld(hook.name.clone(), why)),
        }
    }
    Ok(Approval::Given)
}

/// Whether a webhook of type `rollback` says yes; a call when none does and one was not asked yet.
pub(crate) fn rollback_wanted(ctx: &Context<'_>, phase: Phase) -> Result<Option<Approval>, Need> {
    let mut unasked = None;
    if ctx.view.is_observed() {
        return Ok(None);
    }
    for hook in ctx.rules.hooks(HookKind::Rollback) {
        match reply(ctx, hook, phase)? {
            Said::Nothing(call) => unasked = unasked.or(Some(Approval::Ask(call))),
            Said::Yes => return Ok(Some(Approval::Given)),
            Said::No(_) => {}
        }
    }
    Ok(unasked)
}

fn reply(ctx: &Context<'_>, hook: &HookRule, phase: Phase) -> Result<Said, Need> {
    let call = call(ctx, hook, phase);
    Ok(match replied(ctx, &call.id)? {
        None => Said::Nothing(call),
        Some(Ok(reply)) if (200..=202).contains(&reply.status) => Said::Yes,
        Some(Ok(HookReply { status, body })) => {
            let body = redact::Secrets::of_url(&hook.url).text(body.trim());
            let words = if body.is_empty() { String::new() } else { format!(": {body}") };
            Said::No(No::Answer(format!("HTTP {status}{words}")))
        }
        Some(Err(error)) => Said::No(No::Silence(error.to_string())),
    })
}

fn replied(ctx: &Context<'_>, id: &str) -> Result<Option<Result<HookReply, HookError>>, Need> {
    let known = ctx.view.replies.get(id).cloned();
    known.ok_or_else(|| Need::Reply(id.to_owned()))
}

/// The call of this tick: made once, whatever happens to us in between.
fn call(ctx: &Context<'_>, hook: &HookRule, phase: Phase) -> HookCall {
    let run = ctx.run;
    let place = format!("{}/{}/{}", ctx.revision, run.tick, hook.kind.as_str());
    call_at(ctx, hook, phase, &place, json!(hook.metadata))
}

fn call_at(
    ctx: &Context<'_>,
    hook: &HookRule,
    phase: Phase,
    place: &str,
    metadata: Value,
) -> HookCall {
    let checksum = diff::hash(&json!([ctx.config_hashes, ctx.revision]));
    let body = BTreeMap::from([
        ("name".to_owned(), json!(ctx.view.obj.name())),
        ("namespace".to_owned(), json!(ctx.view.obj.namespace())),
        ("phase".to_owned(), json!(phase.as_str())),
        ("checksum".to_owned(), json!(checksum)),
        ("metadata".to_owned(), metadata),
    ]);
    HookCall {
        owner: ctx.view.obj.key().to_string(),
        id: format!("{}/{place}{}/{}", ctx.view.obj.uid(), twin(ctx, hook), hook.name),
        url: hook.url.clone(),
        namespace: ctx.view.obj.namespace().to_owned(),
        body,
        timeout: hook.timeout,
        retries: hook.retries,
        way_back: hook.kind == HookKind::Rollback,
    }
}

/// Distinguishes a webhook from earlier ones of the same name and type: each is asked separately.
fn twin(ctx: &Context<'_>, hook: &HookRule) -> String {
    let mut namesakes = ctx.rules.hooks(hook.kind).filter(|other| other.name == hook.name);
    let before = namesakes.position(|other| other == hook).unwrap_or_default();
    if before == 0 { String::new() } else { format!("+{before}") }
}

/// The next event webhook that has not received this event; `None` when all have.
pub(crate) fn event_call(
    ctx: &Context<'_>,
    event: &PendingEvent,
) -> Result<Option<HookCall>, Need> {
    for hook in ctx.rules.hooks(HookKind::Event) {
        let mut metadata = json!(hook.metadata);
        metadata["eventMessage"] = json!(event.message);
        metadata["eventType"] = json!(event.kind);
        metadata["timestamp"] = json!(event.at.as_millisecond().to_string());
        let hash = diff::hash(&json!([event.kind, event.message]));
        let place = format!("event/{}-{hash}", event.at.as_millisecond());
        let call = call_at(ctx, hook, ctx.status.phase, &place, metadata);
        // Whatever it answered, it has received the event.
        if replied(ctx, &call.id)?.is_none() {
            return Ok(Some(call));
        }
    }
    Ok(None)
}

pub(crate) fn ask(ctx: &Context<'_>, call: HookCall) -> Plan {
    let mut draft = Draft::new(ctx.view);
    draft.act(call.into()).wake(REPLY_WAIT);
    draft.done(reasons::ASKING_HOOK)
}
