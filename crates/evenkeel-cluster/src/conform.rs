use evenkeel_api::misfit;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize as _;
use serde_json::Value;

use crate::{
    custom::Custom,
    error::{ApiError, Cause},
    request::{Fields, WriteContext},
    resource::{Body, Resource},
    schema,
};

/// Unknown fields named in one message, so that a body of nonsense does not become the message.
const UNKNOWN_MAX: usize = 20;

/// Brings a body into the form of its kind: types are checked, unknown fields dropped (or refused),
/// and for custom kinds the schema's defaults are filled in and its rules enforced.
pub(crate) fn conform(
    resource: &Resource,
    (body, old): (Value, Option<&Value>),
    context: &WriteContext,
    is_status: bool,
    warnings: &mut Vec<String>,
) -> Result<Value, ApiError> {
    let mut unknown = Vec::new();
    let conformed = match &resource.body {
        Body::Typed(codec) => {
            let fits = codec(&body);
            let typed = fits.map_err(|problem| {
                let decode = |body: &Value| codec(body).err();
                unfit(resource, &misfit::described(&decode, &body, &problem))
            })?;
            missing(&body, &typed, "", &mut unknown);
            typed
        }
        Body::Custom(custom) => {
            let mut told = Told { unknown: &mut unknown, warnings };
            by_schema(resource, custom, (body, old), is_status, &mut told)?
        }
    };
    if unknown.is_empty() || context.fields == Fields::Ignore {
        return Ok(conformed);
    }
    unknown.truncate(UNKNOWN_MAX);
    let named = unknown.iter().map(|path| format!("unknown field {path:?}"));
    if context.fields == Fields::Warn || is_status {
        warnings.extend(named);
        return Ok(conformed);
    }
    let named: Vec<String> = named.collect();
    Err(unfit(resource, &format!("strict decoding error: {}", named.join(", "))))
}

fn unfit(resource: &Resource, problem: &str) -> ApiError {
    let (kind, version) = (&resource.kind.id.kind, &resource.kind.version);
    ApiError::bad_request(format!(
        "{kind} in version {version:?} cannot be handled as a {kind}: {problem}"
    ))
}

/// Paths that are in `given` and not in `kept`.
fn missing(given: &Value, kept: &Value, path: &str, unknown: &mut Vec<String>) {
    match (given, kept) {
        (Value::Object(given), Value::Object(kept)) => {
            for (name, value) in given.iter().filter(|(_, value)| !value.is_null()) {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                match kept.get(name) {
                    Some(kept) => missing(value, kept, &path, unknown),
                    None => unknown.push(path),
                }
            }
        }
        (Value::Array(given), Value::Array(kept)) => {
            for (index, (given, kept)) in given.iter().zip(kept).enumerate() {
                missing(given, kept, &format!("{path}[{index}]"), unknown);
            }
        }
        _ => {}
    }
}

/// What the writer is told beside the outcome.
struct Told<'t> {
    unknown: &'t mut Vec<String>,
    warnings: &'t mut Vec<String>,
}

/// Faults after which rules are not looked at: they rely on what is broken.
const BLOCKING: [&str; 4] =
    ["FieldValueRequired", "FieldValueTooLong", "FieldValueTooMany", "FieldValueTypeInvalid"];

fn not_checked() -> Cause {
    let message = "Invalid value: null: some validation rules were not checked because the object \
                   was invalid; correct the existing errors to complete validation";
    Cause { reason: "FieldValueInvalid", field: "<nil>".to_owned(), message: message.to_owned() }
}

fn by_schema(
    resource: &Resource,
    custom: &Custom,
    (mut body, old): (Value, Option<&Value>),
    is_status: bool,
    told: &mut Told<'_>,
) -> Result<Value, ApiError> {
    let unknown = &mut *told.unknown;
    let meta = body.get("metadata").cloned().unwrap_or_default();
    let typed = ObjectMeta::deserialize(&meta)
        .and_then(|typed| serde_json::to_value(&typed))
        .map_err(|error| unfit(resource, &format!("metadata: {error}")))?;
    missing(&meta, &typed, "metadata", unknown);
    body["metadata"] = typed;
    let Some(version) = custom.version(&resource.kind.version) else { return Ok(body) };
    schema::prune(&version.schema, &mut body, unknown);
    schema::default(&version.schema, &mut body);
    let mut causes = schema::validate(&version.schema, &body);
    if is_status {
        causes.retain(|cause| cause.field.starts_with("status"));
    }
    if let Some(rules) = &version.rules {
        if causes.iter().any(|cause| BLOCKING.contains(&cause.reason)) {
            causes.push(not_checked());
        } else {
            causes.extend(rules.check(&version.schema, &body, old, told.warnings));
        }
    }
    if causes.is_empty() {
        return Ok(body);
    }
    let name = body.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
    Err(ApiError::invalid(resource.group(), &resource.kind.id.kind, name, causes))
}
