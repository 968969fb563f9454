//! Filters of a route, from JSON.

use http::{HeaderName, HeaderValue};
use serde::Deserialize;
use serde_json::Value;

use crate::engine::{Filters, HeaderChange, PathChange, Redirect, Rewrite};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Filter {
    #[serde(rename = "type")]
    kind: String,
    request_header_modifier: Option<Modifier>,
    response_header_modifier: Option<Modifier>,
    request_redirect: Option<RedirectSpec>,
    url_rewrite: Option<RewriteSpec>,
}

#[derive(Deserialize, Default)]
struct Modifier {
    #[serde(default)]
    set: Vec<Pair>,
    #[serde(default)]
    add: Vec<Pair>,
    #[serde(default)]
    remove: Vec<String>,
}

#[derive(Deserialize)]
struct Pair {
    name: String,
    value: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RedirectSpec {
    scheme: Option<String>,
    hostname: Option<String>,
    path: Option<PathSpec>,
    port: Option<u16>,
    status_code: Option<u16>,
}

#[derive(Deserialize)]
struct RewriteSpec {
    hostname: Option<String>,
    path: Option<PathSpec>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PathSpec {
    replace_full_path: Option<String>,
    replace_prefix_match: Option<String>,
}

impl From<PathSpec> for Option<PathChange> {
    fn from(spec: PathSpec) -> Self {
        let full = spec.replace_full_path.map(PathChange::Full);
        full.or(spec.replace_prefix_match.map(PathChange::Prefix))
    }
}

/// Reads a list of filters. `Err` says which one is not understood.
pub(super) fn parse(filters: &[Value]) -> Result<Filters, String> {
    let mut all = Filters::default();
    let mut seen = Vec::new();
    for filter in filters {
        let filter: Filter = serde_json::from_value(filter.clone()).map_err(|e| e.to_string())?;
        if seen.contains(&filter.kind) {
            return Err(format!("filter {} is there twice", filter.kind));
        }
        seen.push(filter.kind.clone());
        let missing = format!("filter {} has no settings", filter.kind);
        match filter.kind.as_str() {
            "RequestHeaderModifier" => {
                all.request_headers = change(&filter.request_header_modifier.ok_or(missing)?)?;
            }
            "ResponseHeaderModifier" => {
                all.response_headers = change(&filter.response_header_modifier.ok_or(missing)?)?;
            }
            "RequestRedirect" => {
                let spec = filter.request_redirect.ok_or(missing)?;
                plain([spec.hostname.as_ref(), spec.scheme.as_ref()])?;
                all.redirect = Some(Redirect {
                    scheme: spec.scheme,
                    hostname: spec.hostname,
                    path: path(spec.path)?,
                    port: spec.port,
                    status: spec.status_code.unwrap_or(302),
                });
            }
            "URLRewrite" => {
                let spec = filter.url_rewrite.ok_or(missing)?;
                plain([spec.hostname.as_ref()])?;
                let path = path(spec.path)?;
                all.rewrite = Some(Rewrite { hostname: spec.hostname, path });
            }
            other => return Err(format!("filter {other} is not supported")),
        }
    }
    Ok(all)
}

fn path(spec: Option<PathSpec>) -> Result<Option<PathChange>, String> {
    let path: Option<PathChange> = spec.and_then(Into::into);
    if let Some(PathChange::Full(text) | PathChange::Prefix(text)) = &path {
        plain([Some(text)])?;
    }
    Ok(path)
}

fn change(modifier: &Modifier) -> Result<HeaderChange, String> {
    let pair = |pair: &Pair| {
        let value = HeaderValue::from_str(&pair.value);
        Ok((
            header(&pair.name)?,
            value.map_err(|_| format!("header {} has a bad value", pair.name))?,
        ))
    };
    Ok(HeaderChange {
        set: modifier.set.iter().map(pair).collect::<Result<_, String>>()?,
        add: modifier.add.iter().map(pair).collect::<Result<_, String>>()?,
        remove: modifier.remove.iter().map(|name| header(name)).collect::<Result<_, String>>()?,
    })
}

/// Refuses what would end a line or a word of the request that it becomes part of.
fn plain<'a>(texts: impl IntoIterator<Item = Option<&'a String>>) -> Result<(), String> {
    let bad = |text: &&String| text.bytes().any(|byte| byte <= b' ' || byte == 0x7f);
    match texts.into_iter().flatten().find(bad) {
        Some(text) => Err(format!("{text:?} has characters that no path or host name has")),
        None => Ok(()),
    }
}

/// A header name as manifests write it.
pub(super) fn header(name: &str) -> Result<HeaderName, String> {
    HeaderName::from_bytes(name.as_bytes())
        .map_err(|_| format!("{name:?} is not a valid header name"))
}
