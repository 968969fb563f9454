use std::collections::BTreeMap;

use bytes::Bytes;
use evenkeel_api::{FieldSelector, LabelSelector};
use http::{HeaderMap, Method, header};
use serde_json::Value;

use crate::{error::ApiError, request::Fields, table::Include};

/// A request with its body read.
pub(super) struct Request {
    pub(super) method: Method,
    pub(super) path: Vec<String>,
    pub(super) query: BTreeMap<String, String>,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    pub(super) user: User,
}

/// Who asks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct User {
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) groups: Vec<String>,
    /// `userInfo.extra`.
    pub(super) extra: BTreeMap<String, Vec<String>>,
}

/// Group of those who may do everything.
pub(super) const MASTERS: &str = "system:masters";
const EXTRA: &str = "impersonate-extra-";

impl User {
    /// Every token of this server may do everything.
    pub(super) fn master(name: &str) -> Self {
        let groups = vec![MASTERS.to_owned(), "system:authenticated".to_owned()];
        Self { name: name.to_owned(), groups, ..Self::default() }
    }

    /// Who the request is made as (`--as`). Rights are not kept here, so that only users who may do
    /// everything can be: a refusal by their rights would be missing for all others.
    pub(super) fn impersonated(self, headers: &HeaderMap) -> Result<Self, ApiError> {
        let mut wanted = Self::default();
        let mut is_wanted = false;
        for (name, value) in headers {
            let Some(part) = name.as_str().strip_prefix("impersonate-") else { continue };
            is_wanted = true;
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            match part {
                "user" => wanted.name = value,
                "uid" => wanted.uid = value,
                "group" => wanted.groups.push(value),
                _ => {
                    let key = name.as_str().strip_prefix(EXTRA).map(unescape);
                    let Some(key) = key else {
                        let problem = format!("header {name} is not known");
                        return Err(ApiError::bad_request(problem));
                    };
                    wanted.extra.entry(key).or_default().push(value);
                }
            }
        }
        if !is_wanted {
            return Ok(self);
        }
        if wanted.name.is_empty() {
            let problem = "impersonation names a group, uid or extra without a user (--as)";
            return Err(ApiError::bad_request(problem));
        }
        if !wanted.groups.iter().any(|group| group == MASTERS) {
            let message = format!(
                "users {:?} is forbidden: this cluster keeps no rights of users, so it cannot tell \
                 what this one may do; only users in group {MASTERS} can be impersonated",
                wanted.name
            );
            return Err(ApiError::new(403, "Forbidden", message));
        }
        let authenticated = "system:authenticated";
        if !wanted.groups.iter().any(|group| group == authenticated) {
            wanted.groups.push(authenticated.to_owned());
        }
        Ok(wanted)
    }
}

/// The form in which objects are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Plain,
    Table(Include),
    /// Only metadata.
    Partial,
}

impl Request {
    pub(super) fn new(
        method: Method,
        uri: &http::Uri,
        headers: HeaderMap,
        body: Bytes,
        user: User,
    ) -> Self {
        let path = uri.path().split('/').filter(|step| !step.is_empty()).map(unescape).collect();
        let pairs = uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
        let query = pairs
            .map(|pair| {
                let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                (unescape(&name.replace('+', " ")), unescape(&value.replace('+', " ")))
            })
            .collect();
        Self { method, path, query, headers, body, user }
    }

    pub(super) fn param(&self, name: &str) -> &str {
        self.query.get(name).map_or("", String::as_str)
    }

    pub(super) fn flag(&self, name: &str) -> bool {
        matches!(self.param(name), "true" | "1")
    }

    pub(super) fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, ApiError> {
        match self.param(name) {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|_| {
                ApiError::bad_request(format!("parameter {name}={text:?} is not a number"))
            }),
        }
    }

    pub(super) fn dry_run(&self) -> Result<bool, ApiError> {
        match self.param("dryRun") {
            "" => Ok(false),
            "All" => Ok(true),
            other => Err(ApiError::bad_request(format!(
                "parameter dryRun={other:?} is not supported: it can only be All"
            ))),
        }
    }

    pub(super) fn fields(&self) -> Result<Fields, ApiError> {
        match self.param("fieldValidation") {
            "" | "Warn" => Ok(Fields::Warn),
            "Ignore" => Ok(Fields::Ignore),
            "Strict" => Ok(Fields::Strict),
            other => Err(ApiError::bad_request(format!(
                "parameter fieldValidation={other:?} is not supported: it can be Ignore, Warn or \
                 Strict"
            ))),
        }
    }

    pub(super) fn selectors(&self) -> Result<(LabelSelector, FieldSelector), ApiError> {
        let bad = |error: evenkeel_api::SelectorError| ApiError::bad_request(error.to_string());
        let labels = LabelSelector::parse(self.param("labelSelector")).map_err(bad)?;
        Ok((labels, FieldSelector::parse(self.param("fieldSelector")).map_err(bad)?))
    }

    /// The forms of the Accept header, best first.
    fn accepted(&self) -> Vec<&str> {
        let accept = self.headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
        accept.unwrap_or("*/*").split(',').map(str::trim).collect()
    }

    /// Which form the client wants, of those that this server has.
    pub(super) fn form(&self) -> Result<Form, ApiError> {
        for accepted in self.accepted() {
            let mut parts = accepted.split(';').map(str::trim);
            let media = parts.next().unwrap_or_default();
            if !matches!(media, "application/json" | "*/*" | "application/*") {
                continue;
            }
            let parameters: BTreeMap<&str, &str> =
                parts.filter_map(|part| part.split_once('=')).collect();
            match parameters.get("as").copied() {
                None => return Ok(Form::Plain),
                Some("Table") => return Ok(Form::Table(self.include()?)),
                Some("PartialObjectMetadata" | "PartialObjectMetadataList") => {
                    return Ok(Form::Partial);
                }
                Some(_) => {}
            }
        }
        Err(ApiError::new(
            406,
            "NotAcceptable",
            "only the following media types are accepted: application/json",
        ))
    }

    fn include(&self) -> Result<Include, ApiError> {
        match self.param("includeObject") {
            "" | "Metadata" => Ok(Include::Metadata),
            "None" => Ok(Include::None),
            "Object" => Ok(Include::Object),
            other => Err(ApiError::bad_request(format!(
                "parameter includeObject={other:?} can be None, Metadata or Object"
            ))),
        }
    }

    /// Whether the aggregated discovery document is understood.
    pub(super) fn wants_aggregated(&self) -> bool {
        self.accepted().iter().any(|accepted| {
            accepted.contains("as=APIGroupDiscoveryList")
                && accepted.contains("v=v2")
                && !accepted.contains("v=v2beta1")
        })
    }

    /// Media type of the body.
    pub(super) fn media(&self) -> &str {
        let media = self.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        media.unwrap_or("application/json").split(';').next().unwrap_or_default().trim()
    }

    /// The body as JSON, whatever it is written in.
    pub(super) fn value(&self) -> Result<Value, ApiError> {
        match self.media() {
            "application/yaml" | "application/apply-patch+yaml" => yaml(&self.body),
            "application/vnd.kubernetes.protobuf" => crate::protobuf::decode(&self.body),
            "application/cbor" | "application/apply-patch+cbor" => Err(unsupported(self.media())),
            _ => serde_json::from_slice(&self.body).map_err(|error| {
                ApiError::bad_request(format!("the body is not valid JSON: {error}"))
            }),
        }
    }
}

pub(super) fn unsupported(media: &str) -> ApiError {
    ApiError::new(
        415,
        "UnsupportedMediaType",
        format!(
            "the body is {media}, this server reads application/json, application/yaml and, for \
             the kinds kubectl creates, application/vnd.kubernetes.protobuf"
        ),
    )
}

fn yaml(body: &[u8]) -> Result<Value, ApiError> {
    let text = std::str::from_utf8(body)
        .map_err(|error| ApiError::bad_request(format!("the body is not text: {error}")))?;
    evenkeel_yaml::Node::parse(text)
        .and_then(|node| node.json())
        .map_err(|error| ApiError::bad_request(format!("the body is not valid YAML: {error}")))
}

/// Undoes percent encoding; what is not valid stays as it is.
pub(super) fn unescape(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let hex = bytes.get(at + 1..at + 3).and_then(|hex| std::str::from_utf8(hex).ok());
        let escaped = hex.filter(|_| *byte == b'%').and_then(|h| u8::from_str_radix(h, 16).ok());
        at += if escaped.is_some() { 3 } else { 1 };
        plain.push(escaped.unwrap_or(*byte));
    }
    String::from_utf8_lossy(&plain).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(uri: &str, accept: &'static str) -> Request {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, accept.parse().unwrap());
        let uri = uri.parse().unwrap();
        Request::new(Method::GET, &uri, headers, Bytes::new(), User::default())
    }

    #[test]
    fn paths_and_queries_are_unescaped() {
        let request = request("/api/v1/a%20b?fieldSelector=metadata.name%3Dx&watch=true&x=a+b", "");
        assert_eq!(request.path, ["api", "v1", "a b"]);
        assert_eq!(request.param("fieldSelector"), "metadata.name=x");
        assert!(request.flag("watch") && request.param("x") == "a b");
        assert!(request.number::<u64>("x").is_err());
    }

    #[test]
    fn the_first_form_that_is_known_wins() {
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
        assert_eq!(request("/", table).form(), Ok(Form::Table(Include::Metadata)));
        assert_eq!(request("/", "application/json").form(), Ok(Form::Plain));
        let both = "application/vnd.kubernetes.protobuf,application/json";
        assert_eq!(request("/", both).form(), Ok(Form::Plain));
        assert_eq!(
            request("/", "application/vnd.kubernetes.protobuf").form().unwrap_err().code,
            406
        );
    }
}
