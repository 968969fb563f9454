//! Rules of a route, from the manifest's form to the engine's.

use std::sync::Arc;
use std::time::Duration;

use evenkeel_api::httproute::{BackendRef, HttpRoute, HttpRouteMatch, HttpRouteRule, ValueMatch};
use evenkeel_base::parse_duration;
use http::Method;
use serde_json::Value;

use super::Finding;
use super::filters::{self, header};
use super::pools::Pools;
use crate::engine::{Backend, Filters, Match, PathMatch, Pattern, RetryRule, Rule, TextMatch};
use crate::reasons::{
    ACCEPTED, BACKEND_NOT_FOUND, INVALID_KIND, REF_NOT_PERMITTED, RESOLVED_REFS, UNSUPPORTED_VALUE,
};
use crate::view::{Name, View};

/// A route in the engine's form, and what is wrong with it.
pub(super) struct Translated {
    pub(super) rules: Vec<Rule>,
    pub(super) accepted: Finding,
    pub(super) resolved: Finding,
}

/// Translates a route. A rule that is not understood answers 500, as the Gateway API demands: it must
/// not be served as if the part that is not understood were not there.
pub(super) fn translate(view: &View, name: &Name, route: &HttpRoute, pools: &Pools) -> Translated {
    let id: Arc<str> = format!("{}/{}", name.0, name.1).into();
    let mut accepted = Finding::good(ACCEPTED);
    let mut resolved = Finding::good(RESOLVED_REFS);
    let mut rules = Vec::new();
    for (index, spec) in route.spec.rules.iter().enumerate() {
        let base = Rule { route: Arc::clone(&id), index, ..Rule::default() };
        match rule(base.clone(), spec) {
            Ok(mut rule) => {
                if spec.other.get("retry").is_some_and(|retry| retry.get("backoff").is_some()) {
                    accepted.note(&format!(
                        "spec.rules[{index}].retry.backoff is not used: a retry goes to another \
                         endpoint at once"
                    ));
                }
                for backend in &spec.backend_refs {
                    if let Some(words) = affinity(view, &name.0, backend) {
                        resolved.note(&words);
                    }
                    let target = target(view, &name.0, backend, pools);
                    let mut target = target.unwrap_or_else(|finding| {
                        resolved = finding;
                        Backend { pool: None, ..Backend::new(0, weight(backend)) }
                    });
                    match backend_filters(&rule, backend) {
                        Ok(filters) => target.filters = filters,
                        Err(problem) => {
                            accepted = unsupported(index, &problem);
                            target.pool = None;
                        }
                    }
                    rule.backends.push(target);
                }
                rules.push(rule);
            }
            Err(problem) => {
                accepted = unsupported(index, &problem);
                // The matches may be the problem; without them the rule would catch everything.
                if let Ok(matches) = spec.matches.iter().map(condition).collect() {
                    rules.push(Rule { matches, ..base });
                }
            }
        }
    }
    if route.spec.rules.is_empty() {
        rules.push(Rule { route: id, ..Rule::default() });
    }
    Translated { rules, accepted, resolved }
}

fn unsupported(index: usize, problem: &str) -> Finding {
    Finding::bad(UNSUPPORTED_VALUE, format!("spec.rules[{index}]: {problem}; change or remove it"))
}

fn rule(base: Rule, spec: &HttpRouteRule) -> Result<Rule, String> {
    let timeouts = spec.timeouts.clone().unwrap_or_default();
    if spec.other.contains_key("sessionPersistence") {
        return Err("sessionPersistence is not supported".to_owned());
    }
    let rule = Rule {
        matches: spec.matches.iter().map(condition).collect::<Result<_, _>>()?,
        filters: filters::parse(&spec.filters)?,
        timeout: timeout(timeouts.request.as_deref())?,
        attempt_timeout: timeout(timeouts.backend_request.as_deref())?,
        retry: retry(spec.other.get("retry")),
        ..base
    };
    check_prefixes(&rule, &rule.filters)?;
    Ok(rule)
}

/// The message about a backend that wants each client to stay with one endpoint.
fn affinity(view: &View, namespace: &str, backend: &BackendRef) -> Option<String> {
    let home = backend.namespace.as_deref().unwrap_or(namespace);
    let service = view.services.get(&(home.to_owned(), backend.name.clone()))?;
    let wanted = service.spec.as_ref()?.session_affinity.as_deref()?;
    (wanted != "None").then(|| {
        format!(
            "sessionAffinity {wanted} of Service/{home}/{} is not used: requests are spread over \
             all its endpoints",
            backend.name
        )
    })
}

/// A prefix can only be replaced where the rule matches by one.
fn check_prefixes(rule: &Rule, filters: &Filters) -> Result<(), String> {
    let other = |one: &Match| matches!(one.path, Some(PathMatch::Exact(_) | PathMatch::Pattern(_)));
    if filters.replaces_prefix() && rule.matches.iter().any(other) {
        return Err("replacePrefixMatch needs matches of type PathPrefix".to_owned());
    }
    Ok(())
}

/// `0s` switches a limit off; the engine's default is then what remains.
fn timeout(text: Option<&str>) -> Result<Option<Duration>, String> {
    let Some(text) = text else { return Ok(None) };
    let timeout = parse_duration(text).map_err(|error| format!("timeouts: {error}"))?;
    Ok(Some(timeout).filter(|timeout| !timeout.is_zero()))
}

fn retry(spec: Option<&Value>) -> Option<RetryRule> {
    let spec = spec?;
    let codes = spec.get("codes").and_then(Value::as_array).into_iter().flatten();
    let codes = codes.filter_map(|code| u16::try_from(code.as_u64()?).ok()).collect();
    let attempts = spec.get("attempts").and_then(Value::as_u64);
    Some(RetryRule { codes, attempts: attempts.map(|n| u8::try_from(n).unwrap_or(u8::MAX)) })
}

fn condition(spec: &HttpRouteMatch) -> Result<Match, String> {
    let method = spec.method.as_deref().map(|text| Method::from_bytes(text.as_bytes()));
    Ok(Match {
        path: spec.path.as_ref().map(path).transpose()?,
        method: method.transpose().map_err(|_| "method is malformed".to_owned())?,
        headers: spec
            .headers
            .iter()
            .map(|one| Ok((header(&one.name)?, text(one)?)))
            .collect::<Result<_, String>>()?,
        query: spec
            .query_params
            .iter()
            .map(|one| Ok((one.name.clone(), text(one)?)))
            .collect::<Result<_, String>>()?,
    })
}

fn path(spec: &ValueMatch) -> Result<PathMatch, String> {
    let value = if spec.value.is_empty() { "/" } else { &spec.value };
    match spec.kind.as_deref().unwrap_or("PathPrefix") {
        "Exact" => Ok(PathMatch::Exact(value.to_owned())),
        "PathPrefix" => Ok(PathMatch::Prefix(value.to_owned())),
        "RegularExpression" => Ok(PathMatch::Pattern(pattern(value)?)),
        other => Err(format!("path match type {other} is not supported")),
    }
}

fn text(spec: &ValueMatch) -> Result<TextMatch, String> {
    match spec.kind.as_deref().unwrap_or("Exact") {
        "Exact" => Ok(TextMatch::Exact(spec.value.clone())),
        "RegularExpression" => Ok(TextMatch::Pattern(pattern(&spec.value)?)),
        other => Err(format!("match type {other} of {} is not supported", spec.name)),
    }
}

fn pattern(text: &str) -> Result<Pattern, String> {
    Pattern::new(text)
        .map_err(|error| format!("{text:?} is not a valid regular expression: {error}"))
}

fn weight(spec: &BackendRef) -> u32 {
    u32::try_from(spec.weight.unwrap_or(1)).unwrap_or(0)
}

fn backend_filters(rule: &Rule, spec: &BackendRef) -> Result<Filters, String> {
    let filters = filters::parse(&spec.filters).and_then(|filters| {
        check_prefixes(rule, &filters)?;
        Ok(filters)
    });
    filters.map_err(|problem| format!("backend {}: {problem}", spec.name))
}

/// The backend that a reference means. `Err` says why there is none.
fn target(
    view: &View,
    namespace: &str,
    spec: &BackendRef,
    pools: &Pools,
) -> Result<Backend, Finding> {
    let kind = (spec.group.as_deref().unwrap_or(""), spec.kind.as_deref().unwrap_or("Service"));
    if kind != ("", "Service") {
        let message = format!("backend {} is a {}; only Services are supported", spec.name, kind.1);
        return Err(Finding::bad(INVALID_KIND, message));
    }
    let home = spec.namespace.as_deref().unwrap_or(namespace);
    let name = format!("Service/{home}/{}", spec.name);
    let granted = || {
        let mut grants = view.grants.iter().filter(|(grant, _)| grant.0 == home);
        grants.any(|(_, grant)| grant.lets_route_use(namespace, &spec.name))
    };
    if home != namespace && !granted() {
        let message = format!(
            "{name} is in another namespace and no ReferenceGrant there lets HTTPRoutes of \
             {namespace} use it; create one"
        );
        return Err(Finding::bad(REF_NOT_PERMITTED, message));
    }
    let port = spec.port.and_then(|port| u16::try_from(port).ok());
    let pool = port.and_then(|port| pools.find(home, &spec.name, port));
    let Some(pool) = pool else {
        let port = spec.port.map_or_else(|| "no port".to_owned(), |port| format!("port {port}"));
        let message = format!("{name} with {port} does not exist; create it or correct the route");
        return Err(Finding::bad(BACKEND_NOT_FOUND, message));
    };
    Ok(Backend::new(pool, weight(spec)))
}
