//! Asking webhooks: who is asked, what is sent, what an answer means.

use std::collections::BTreeMap;

use evenkeel_api::canary::{Phase, UntoldEvent};
use evenkeel_control::{HookCall, HookError, HookReply};
use serde_json::{Value, json};

use crate::{
    decide::{Context, Need},
    diff,
    rules::{HookKind, HookRule},
};

/// What the webhooks of one kind say together.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Leave {
    /// All agree.
    Granted,
    /// This one does not; its name and its words.
    Refused(String, String),
    /// This one must be asked first.
    Ask(HookCall),
}

impl Context<'_> {
    /// Asks the webhooks of a kind in order; the first that does not agree ends it.
    pub(crate) fn leave(&self, kind: HookKind, phase: Phase) -> Result<Leave, Need> {
        for hook in self.rules.hooks(kind) {
            match self.reply(hook, phase)? {
                Said::Nothing(call) => return Ok(Leave::Ask(call)),
                Said::Yes => {}
                Said::No(why) => return Ok(Leave::Refused(hook.name.clone(), why)),
            }
        }
        Ok(Leave::Granted)
    }

    /// The first webhook of type `rollback` that says yes; a call when one was not asked yet.
    pub(crate) fn rollback_wanted(&self, phase: Phase) -> Result<Option<Leave>, Need> {
        for hook in self.rules.hooks(HookKind::Rollback) {
            match self.reply(hook, phase)? {
                Said::Nothing(call) => return Ok(Some(Leave::Ask(call))),
                Said::Yes => return Ok(Some(Leave::Granted)),
                Said::No(_) => {}
            }
        }
        Ok(None)
    }

    fn reply(&self, hook: &HookRule, phase: Phase) -> Result<Said, Need> {
        let call = self.call(hook, phase);
        Ok(match self.replied(&call.id)? {
            None => Said::Nothing(call),
            Some(Ok(reply)) if (200..=202).contains(&reply.status) => Said::Yes,
            Some(Ok(HookReply { status, body })) => {
                let body = body.trim();
                let words = if body.is_empty() { String::new() } else { format!(": {body}") };
                Said::No(format!("HTTP {status}{words}"))
            }
            Some(Err(error)) => Said::No(error.to_string()),
        })
    }

    fn replied(&self, id: &str) -> Result<Option<Result<HookReply, HookError>>, Need> {
        let known = self.view.replies.get(id).cloned();
        known.ok_or_else(|| Need::Reply(id.to_owned()))
    }

    /// The call of this tick: made once, whatever happens to us in between.
    fn call(&self, hook: &HookRule, phase: Phase) -> HookCall {
        let run = self.view.status().evenkeel.unwrap_or_default();
        let place = format!("{}/{}/{}", self.revision, run.tick, hook.kind.as_str());
        self.calling(hook, phase, &place, json!(hook.metadata))
    }

    fn calling(&self, hook: &HookRule, phase: Phase, place: &str, metadata: Value) -> HookCall {
        let checksum = diff::mark(&json!([self.marks, self.revision]));
        let body = BTreeMap::from([
            ("name".to_owned(), json!(self.view.obj.name())),
            ("namespace".to_owned(), json!(self.view.obj.namespace())),
            ("phase".to_owned(), json!(phase.as_str())),
            ("checksum".to_owned(), json!(checksum)),
            ("metadata".to_owned(), metadata),
        ]);
        HookCall {
            owner: self.view.obj.key().to_string(),
            id: format!("{}/{place}/{}", self.view.obj.uid(), hook.name),
            url: hook.url.clone(),
            namespace: self.view.obj.namespace().to_owned(),
            body,
            timeout: hook.timeout,
            retries: hook.retries,
        }
    }

    /// The next event webhook that has not been told this event; `None` when all have.
    pub(crate) fn untold(&self, event: &UntoldEvent) -> Result<Option<HookCall>, Need> {
        for hook in self.rules.hooks(HookKind::Event) {
            let mut metadata = json!(hook.metadata);
            metadata["eventMessage"] = json!(event.message);
            metadata["eventType"] = json!(event.kind);
            metadata["timestamp"] = json!(event.at.as_millisecond().to_string());
            let mark = diff::mark(&json!([event.kind, event.message]));
            let place = format!("event/{}-{mark}", event.at.as_millisecond());
            let call = self.calling(hook, self.view.status().phase, &place, metadata);
            // Whatever it answered, it has been told.
            if self.replied(&call.id)?.is_none() {
                return Ok(Some(call));
            }
        }
        Ok(None)
    }
}

enum Said {
    Nothing(HookCall),
    Yes,
    No(String),
}
