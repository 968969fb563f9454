use evenkeel_api::Obj;
use evenkeel_control::{
    Action, Direction, OwnHold, Petition, Prediction, Withheld, redact as words,
};

use crate::{
    Opinion,
    record::{Asked, Entry, Objected, State, sha256},
    redact,
};

/// Longest action text in a line: enough for a person, whatever is put into a name.
const ACTION_BYTES_MAX: usize = 512;
/// Longest text of what is written: a route or a small workload fits.
const BODY_BYTES_MAX: usize = 4096;
/// Longest error text.
const ERROR_BYTES_MAX: usize = 1024;

/// The line that says that this was asked and how it was answered.
pub(crate) fn ask(petition: &Petition<'_>, opinion: &Opinion, objections: &[Objected]) -> Entry {
    let (verdict, why) = match opinion {
        Opinion::Allow | Opinion::AllowBecause { .. } => ("allow", None),
        Opinion::Hold { reason, .. } => ("hold", Some(reason.clone())),
        Opinion::Deny { reason } => ("deny", Some(reason.clone())),
    };
    let after = petition.after.filter(|_| !is_about_secret(petition.action));
    Entry::Ask(Box::new(Asked {
        controller: petition.controller.to_owned(),
        object: petition.object.to_string(),
        verb: petition.action.verb().to_owned(),
        action: cut(petition.text.to_owned(), ACTION_BYTES_MAX),
        reason: petition.reason.to_owned(),
        direction: petition.direction.as_str().to_owned(),
        verdict: verdict.to_owned(),
        why,
        objections: objections.to_vec(),
        before: petition.before.as_deref().map(state),
        after: after.map(|after| sha256(after.to_string().as_bytes())),
        body: body(petition.action),
    }))
}

/// The line about what a controller does not begin by a rule of its own.
pub(crate) fn withheld(hold: &OwnHold<'_>) -> Entry {
    let Withheld { what, policy, why, .. } = hold.withheld;
    let (verdict, reason) = ("hold".to_owned(), error(why, false));
    let policy = (*policy).to_owned();
    Entry::Ask(Box::new(Asked {
        controller: hold.controller.to_owned(),
        object: hold.object.to_string(),
        verb: "start".to_owned(),
        action: cut(what.clone(), ACTION_BYTES_MAX),
        reason: hold.reason.to_owned(),
        direction: Direction::Riskier.as_str().to_owned(),
        verdict: verdict.clone(),
        why: Some(reason.clone()),
        objections: vec![Objected { policy, verdict, reason }],
        before: None,
        after: None,
        body: None,
    }))
}

/// The line about what would be done with an object that is only observed.
pub(crate) fn foreseen(prediction: &Prediction<'_>) -> Entry {
    Entry::Ask(Box::new(Asked {
        controller: prediction.controller.to_owned(),
        object: prediction.object.to_string(),
        verb: "predict".to_owned(),
        action: cut(prediction.text.to_owned(), ACTION_BYTES_MAX),
        reason: prediction.reason.to_owned(),
        direction: Direction::Neutral.as_str().to_owned(),
        verdict: "observe".to_owned(),
        why: None,
        objections: Vec::new(),
        before: None,
        after: None,
        body: None,
    }))
}

/// The error of an action, as it may be recorded.
pub(crate) fn error(error: &str, about_secret: bool) -> String {
    if about_secret {
        return cut(outside_quotes(error), ERROR_BYTES_MAX);
    }
    cut(words::text(error), ERROR_BYTES_MAX)
}

/// Whether what it writes is secret: neither that nor its digest, which can be guessed, is kept.
pub(crate) fn is_about_secret(action: &Action) -> bool {
    action.target().is_some_and(words::is_secret)
}

fn state(obj: &Obj) -> State {
    let digest = if words::is_secret(obj.key()) {
        String::new()
    } else {
        sha256(obj.json().to_string().as_bytes())
    };
    State { revision: obj.revision().to_string(), digest }
}

/// What is written, unless the action's text says all of it. Arguments of effects are not kept:
/// only their effector knows what is secret in them.
fn body(action: &Action) -> Option<String> {
    let (key, body) = match action {
        Action::Create(obj) | Action::Apply(obj) => (obj.key(), obj.json()),
        Action::Patch { key, patch } => (key, patch),
        Action::Delete { .. }
        | Action::Evict { .. }
        | Action::Scale { .. }
        | Action::Bind { .. }
        | Action::SetWeights { .. }
        | Action::Effect(_) => return None,
    };
    Some(cut(redact::body(key, body)?.to_string(), BODY_BYTES_MAX))
}

/// What is left of a text about an object that holds secrets: nothing that is quoted or in braces.
fn outside_quotes(about: &str) -> String {
    let mut out = String::with_capacity(about.len());
    let mut rest = about;
    while let Some(at) = rest.find(['"', '\'', '`', '{', '[']) {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        out.push_str(words::MASK);
        let mut inside = from.chars();
        let close = match inside.next() {
            Some('{') => '}',
            Some('[') => ']',
            Some(quote) => quote,
            None => break,
        };
        // To the last closing mark: what lies between may contain more of them.
        rest = inside.as_str().rsplit_once(close).map_or("", |(_, rest)| rest);
    }
    out.push_str(rest);
    words::text(&out)
}

fn cut(mut text: String, bytes_max: usize) -> String {
    if text.len() > bytes_max {
        text.truncate(text.floor_char_boundary(bytes_max));
        text.push_str(" ...");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_quoted_is_left_about_a_secret() {
        let table = [
            (r#"patch Secret/a/b {"data":{"p":"x"}}: refused"#, "patch Secret/a/b ***: refused"),
            ("invalid: data: 'pl4nted'", "invalid: data: ***"),
            ("cut {\"p\": pl4nted", "cut ***"),
            ("no answer from the API server", "no answer from the API server"),
        ];
        for (said, shown) in table {
            assert_eq!(error(said, true), shown);
        }
    }
}
