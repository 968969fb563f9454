use std::sync::Arc;

use evenkeel_api::Kind;
use http::{Method, header};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use serde_json::json;

use super::{
    discovery, openapi,
    reply::{self, Reply},
    request::{Request, User},
    review,
};
use crate::{
    ApiServer, ExecSource, LogSource,
    error::ApiError,
    resource::{Resource, Service},
};

/// Largest body, as the API server limits it.
const BODY_BYTES_MAX: usize = 3 * 1024 * 1024;

/// What every connection shares.
pub(super) struct Router {
    pub(super) server: Arc<ApiServer>,
    pub(super) tokens: Vec<(String, String)>,
    pub(super) logs: Arc<dyn LogSource>,
    pub(super) exec: Arc<dyn ExecSource>,
}

/// A URL below a group version, taken apart.
pub(super) struct Target {
    pub(super) resource: Arc<Resource>,
    pub(super) version: String,
    /// Empty for all namespaces and for kinds without one.
    pub(super) namespace: String,
    /// Empty for the collection.
    pub(super) name: String,
    /// Empty for the object itself.
    pub(super) subresource: String,
}

impl Router {
    pub(super) async fn handle(&self, request: http::Request<Incoming>) -> Reply {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let reply = match self.answer(request).await {
            Ok(reply) => reply,
            Err(error) => reply::error(&error),
        };
        tracing::debug!(%method, path, code = reply.status().as_u16(), "answered");
        reply
    }

    async fn answer(&self, request: http::Request<Incoming>) -> Result<Reply, ApiError> {
        let (mut parts, body) = request.into_parts();
        let path = parts.uri.path();
        // Says only that the process runs; tools that ask for it have no token.
        if ["/readyz", "/livez", "/healthz"].iter().any(|known| path.starts_with(known)) {
            return Ok(reply::bytes(200, "text/plain; charset=utf-8", "ok"));
        }
        let user = self.user(&parts.headers)?.impersonated(&parts.headers)?;
        if let Some(target) = self.exec_target(path)? {
            let upgrade = parts.extensions.remove();
            return self.exec(&parts, upgrade, &target);
        }
        let body = Limited::new(body, BODY_BYTES_MAX).collect().await.map_err(|error| {
            ApiError::new(413, "RequestEntityTooLarge", format!("the body was not read: {error}"))
        })?;
        let body = body.to_bytes();
        let request = Request::new(parts.method, &parts.uri, parts.headers, body, user);
        self.dispatch(&request).await
    }

    /// The pod whose container a command is to run in, if that is what the path says.
    fn exec_target(&self, path: &str) -> Result<Option<Target>, ApiError> {
        let steps: Vec<&str> = path.split('/').filter(|step| !step.is_empty()).collect();
        match steps.as_slice() {
            ["api", "v1", rest @ .., "exec"] => {
                let rest: Vec<&str> = rest.iter().copied().chain(["exec"]).collect();
                self.target("", "v1", &rest).map(Some)
            }
            _ => Ok(None),
        }
    }

    fn user(&self, headers: &http::HeaderMap) -> Result<User, ApiError> {
        let given = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.strip_prefix("Bearer "))
            .unwrap_or_default();
        let known = self.tokens.iter().find(|(token, _)| same(token, given.trim()));
        known.map(|(_, user)| User::master(user)).ok_or_else(|| {
            ApiError::new(401, "Unauthorized", "Unauthorized: send a bearer token of this server")
        })
    }

    async fn dispatch(&self, request: &Request) -> Result<Reply, ApiError> {
        let path: Vec<&str> = request.path.iter().map(String::as_str).collect();
        let server = &self.server;
        match path.as_slice() {
            [] => Ok(reply::json(
                200,
                &json!({"paths": ["/api", "/apis", "/healthz", "/livez",
                "/openapi/v3", "/readyz", "/version"]}),
            )),
            ["version"] => Ok(reply::json(200, &discovery::version())),
            ["api"] if request.wants_aggregated() => Ok(discovery::aggregated(server, true)),
            ["apis"] if request.wants_aggregated() => Ok(discovery::aggregated(server, false)),
            ["api"] => Ok(reply::json(200, &discovery::core_versions())),
            ["apis"] => Ok(reply::json(200, &discovery::groups(server))),
            ["api", version] => discovery::resources(server, "", version),
            ["apis", "events.k8s.io", ..] => {
                Err(ApiError::not_served("Events are served as kind Event of v1 only"))
            }
            ["apis", group] => discovery::group(server, group),
            ["apis", group, version] => discovery::resources(server, group, version),
            ["openapi", "v3"] => Ok(reply::json(200, &openapi::index(server))),
            ["openapi", "v2"] => openapi::version_two(request),
            ["openapi", "v3", "api", version] => openapi::document(server, "", version),
            ["openapi", "v3", "apis", group, version] => openapi::document(server, group, version),
            ["api", version, rest @ ..] => self.below(request, "", version, rest).await,
            ["apis", group, version, rest @ ..] => self.below(request, group, version, rest).await,
            // A copy holds every Secret: it is for who may do everything, as each token here does.
            ["evenkeel", "snapshot"] if request.method == Method::GET => {
                let copy = crate::journal::to_snapshot(&server.kept());
                Ok(reply::bytes(200, "application/octet-stream", copy))
            }
            ["metrics"] => Err(ApiError::not_served(
                "/metrics is not served by this API server: see /metrics of evenkeel up",
            )),
            _ => Err(ApiError::no_resource()),
        }
    }

    async fn below(
        &self,
        request: &Request,
        group: &str,
        version: &str,
        rest: &[&str],
    ) -> Result<Reply, ApiError> {
        if let Some(review) = review::answer(request, group, version, rest)? {
            return Ok(review);
        }
        let target = self.target(group, version, rest)?;
        if let Service::Refused(why) = target.resource.service {
            return Err(ApiError::method_not_allowed(format!(
                "{} is not served: {why}",
                target.resource.kind.id
            )));
        }
        let is_collection = target.name.is_empty();
        match (&request.method, is_collection, target.subresource.as_str()) {
            (&Method::GET, _, "") if request.flag("watch") => self.watch(request, &target),
            (&Method::GET, true, _) => self.list(request, &target),
            (&Method::POST, true, _) => self.create(request, &target).await,
            (&Method::DELETE, true, _) => self.delete_collection(request, &target).await,
            (&Method::GET, false, "" | "status") => self.get(request, &target),
            (&Method::GET, false, "scale") => self.get_scale(&target),
            (&Method::GET, false, "log") => self.log(request, &target).await,
            (&Method::PUT, false, "" | "status" | "scale") => self.update(request, &target).await,
            (&Method::PATCH, false, "" | "status" | "scale") => self.patch(request, &target).await,
            (&Method::DELETE, false, "") => self.delete(request, &target).await,
            (&Method::POST, false, "binding" | "eviction") => self.post(request, &target).await,
            (_, false, "attach" | "portforward" | "proxy" | "token") => {
                let instead = match &*target.subresource {
                    "attach" => "see kubectl logs -f, or kubectl exec",
                    "token" => "the user of its kubeconfig may do everything",
                    _ => "use a Gateway, or kubectl exec",
                };
                Err(ApiError::method_not_allowed(format!(
                    "{} is not implemented in this cluster: {instead}",
                    target.subresource
                )))
            }
            (method, _, subresource) => Err(ApiError::method_not_allowed(format!(
                "the server does not allow {method} on {} {subresource}",
                target.resource.plural()
            ))),
        }
    }

    fn target(&self, group: &str, version: &str, rest: &[&str]) -> Result<Target, ApiError> {
        let (namespace, rest) = match rest {
            // A namespace itself, with or without its own subresources.
            ["namespaces", _] | ["namespaces", _, "status" | "finalize"] => ("", rest),
            ["namespaces", namespace, rest @ ..] => (*namespace, rest),
            rest => ("", rest),
        };
        let (plural, name, subresource) = match rest {
            [plural] => (*plural, "", ""),
            [plural, name] => (*plural, *name, ""),
            [plural, name, subresource] => (*plural, *name, *subresource),
            _ => return Err(ApiError::no_resource()),
        };
        let found = self.server.resource_at(group, version, plural);
        let resource = found.ok_or_else(ApiError::no_resource)?;
        let unplaced = resource.is_namespaced() && !name.is_empty() && namespace.is_empty();
        let misplaced = !resource.is_namespaced() && !namespace.is_empty();
        if unplaced || misplaced {
            return Err(ApiError::no_resource());
        }
        if !has_subresource(&resource.kind, subresource) {
            return Err(ApiError::no_resource());
        }
        Ok(Target {
            resource,
            version: version.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            subresource: subresource.to_owned(),
        })
    }
}

fn has_subresource(kind: &Kind, subresource: &str) -> bool {
    let is_pod = kind.id.group.is_empty() && &*kind.id.kind == "Pod";
    match subresource {
        "" => true,
        "status" => kind.has_status,
        "scale" => kind.has_scale,
        "binding" | "eviction" | "log" | "exec" | "attach" | "portforward" | "proxy" => is_pod,
        "token" => &*kind.id.kind == "ServiceAccount",
        _ => false,
    }
}

/// Compares in constant time, so that the time taken does not show where the difference is.
fn same(token: &str, given: &str) -> bool {
    let (token, given) = (token.as_bytes(), given.as_bytes());
    token.len() == given.len()
        && !token.is_empty()
        && token.iter().zip(given).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
}
