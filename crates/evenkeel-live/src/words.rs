//! The messages of libraries about a failure, without what they quote: the lines of a kubeconfig,
//! the output of a credential plugin.

use std::error::Error;

use kube::{
    client::AuthError,
    config::{AuthInfo, KubeconfigError},
};
use serde_saphyr::Error as YamlError;

/// An error with its causes in one line, each once.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    describe(error, None)
}

/// As [`chain`], for a user of this credential plugin.
pub(crate) fn describe(error: &(dyn Error + 'static), plugin: Option<&str>) -> String {
    // Outer errors repeat what such an error quotes.
    if let Some(words) = causes(error).find_map(|error| unquoted(error, plugin)) {
        return words;
    }
    let mut text = error.to_string();
    for cause in causes(error).skip(1) {
        let more = cause.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
    }
    text
}

/// An error and its causes, from the outside in.
fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

/// Our own message for an error whose text may contain a secret.
fn unquoted(error: &(dyn Error + 'static), plugin: Option<&str>) -> Option<String> {
    if let Some(KubeconfigError::Parse(problem)) = error.downcast_ref() {
        return Some(yaml(problem));
    }
    let problem = of_plugin(error.downcast_ref()?)?;
    let plugin = plugin.map(|command| format!(" {command:?}")).unwrap_or_default();
    Some(format!("credential plugin{plugin} {problem}"))
}

/// The command that the credentials come from.
pub(crate) fn plugin(user: &AuthInfo) -> Option<String> {
    let exec = user.exec.as_ref().and_then(|exec| exec.command.clone());
    let provider = user.auth_provider.as_ref();
    exec.or_else(|| provider.and_then(|provider| provider.config.get("cmd-path").cloned()))
}

/// What is wrong with a YAML text, and where. Nothing of the text itself: the line before may be
/// the password.
fn yaml(error: &YamlError) -> String {
    let problem = match error.without_snippet() {
        YamlError::ExternalMessage { msg, .. } => msg.clone(),
        YamlError::SerdeInvalidType { expected, .. }
        | YamlError::SerdeInvalidValue { expected, .. }
        | YamlError::SerdeInvalidLength { expected, .. } => format!("expected {expected}"),
        YamlError::SerdeUnknownVariant { expected, .. } => {
            format!("expected one of {}", expected.join(", "))
        }
        YamlError::Unexpected { expected, .. } => format!("expected {expected}"),
        YamlError::SerdeMissingField { field, .. } => format!("{field} is missing"),
        YamlError::InvalidScalar { ty, .. } => format!("invalid {ty}"),
        YamlError::DuplicateMappingKey { .. } => "a key is given twice".to_owned(),
        YamlError::UnknownAnchor { .. } => "an alias of no anchor".to_owned(),
        YamlError::Eof { .. } => "it ends too early".to_owned(),
        _ => "it cannot be understood".to_owned(),
    };
    match error.location() {
        Some(place) => format!("line {}, column {}: {problem}", place.line(), place.column()),
        None => problem,
    }
}

/// What went wrong with a credential plugin. Its output is a token, or may hold one; so may its
/// arguments and variables.
fn of_plugin(error: &AuthError) -> Option<String> {
    Some(match error {
        AuthError::AuthExecRun { out, .. } => {
            let hint = "its own messages are above; if there are none, run it by hand";
            format!("failed ({}): {hint}", out.status)
        }
        AuthError::AuthExecStart(problem) => format!("does not start: {problem}"),
        AuthError::AuthExecParse(problem) => {
            format!("printed no ExecCredential ({})", yaml(problem))
        }
        AuthError::ExecPluginFailed => "printed an ExecCredential without a status".to_owned(),
        AuthError::ParseTokenKey(_) => "printed no JSON".to_owned(),
        AuthError::MalformedTokenExpirationDate(_) => {
            "printed an expirationTimestamp that is not a time".to_owned()
        }
        _ => return None,
    })
}
