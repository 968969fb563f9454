use evenkeel_control::{Action, Petition};

use crate::{
    Opinion,
    record::{Entry, State, direction_text, sha256},
};

/// Longest action text in a line: enough for a person, whatever somebody puts into a patch.
const TEXT_BYTES_MAX: usize = 1024;

/// The line that says that this was asked and how it was answered.
pub(crate) fn ask(petition: &Petition<'_>, opinion: &Opinion) -> Entry {
    let (verdict, why) = match opinion {
        Opinion::Allow => ("allow", None),
        Opinion::Hold { reason, .. } => ("hold", Some(reason.clone())),
        Opinion::Deny { reason } => ("deny", Some(reason.clone())),
    };
    let before = petition.before.as_ref().map(|obj| State {
        revision: obj.revision().to_string(),
        digest: sha256(obj.json().to_string().as_bytes()),
    });
    Entry::Ask {
        controller: petition.controller.to_owned(),
        object: petition.object.to_string(),
        verb: petition.action.verb().to_owned(),
        action: text(petition.text),
        reason: petition.reason.to_owned(),
        direction: direction_text(petition.direction).to_owned(),
        verdict: verdict.to_owned(),
        why,
        before,
        after: payload(petition.action).map(|payload| sha256(payload.as_bytes())),
    }
}

/// The action in words, cut to a bound.
fn text(text: &str) -> String {
    let mut text = text.to_owned();
    if text.len() > TEXT_BYTES_MAX {
        text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
        text.push_str(" ...");
    }
    text
}

fn payload(action: &Action) -> Option<String> {
    match action {
        Action::Create(obj) | Action::Apply(obj) => Some(obj.json().to_string()),
        Action::Patch { patch, .. } => Some(patch.to_string()),
        Action::SetWeights { weights, .. } => serde_json::to_string(weights).ok(),
        Action::Effect(call) => Some(call.args.to_string()),
        Action::Scale { replicas, .. } => Some(replicas.to_string()),
        Action::Bind { node, .. } => Some(node.clone()),
        Action::Delete { .. } | Action::Evict { .. } => None,
    }
}
