use std::sync::Arc;

use evenkeel_api::{Key, Obj};
use evenkeel_control::{ListQuery, Patch, Propagation, Subresource};
use serde_json::{Value, json};

use super::{
    reply::{self, Reply},
    request::{Form, Request, unsupported},
    route::{Router, Target},
};
use crate::{
    LogError, LogOptions, LogRequest, base64,
    error::ApiError,
    request::{DeleteRequest, Deleted, WriteContext},
    subresource::scale_of,
    table,
    value::{list_at, text, text_at},
};

impl Target {
    pub(super) fn key(&self) -> Key {
        Key::new(self.resource.kind.id.clone(), &self.namespace, &self.name)
    }

    fn api_version(&self) -> String {
        match self.resource.group() {
            "" => self.version.clone(),
            group => format!("{group}/{}", self.version),
        }
    }

    /// The body in the version that the URL names.
    pub(super) fn versioned(&self, obj: &Obj) -> Value {
        let mut body = obj.json().clone();
        if *self.version != *self.resource.kind.version {
            body["apiVersion"] = json!(self.api_version());
        }
        body
    }

    fn query(&self, request: &Request) -> Result<ListQuery, ApiError> {
        let (labels, mut fields) = request.selectors()?;
        if !self.name.is_empty() {
            let name = ("metadata.name".to_owned(), self.name.clone(), true);
            fields.requirements.push(name);
        }
        check_fields(self, &fields)?;
        let namespace = (!self.namespace.is_empty()).then(|| self.namespace.as_str().into());
        Ok(ListQuery { kind: self.resource.kind.id.clone(), namespace, labels, fields })
    }
}

/// Fields that may select beyond `metadata.name` and `metadata.namespace`.
const SELECTABLE: [(&str, &[&str]); 7] = [
    (
        "Pod",
        &[
            "spec.nodeName",
            "status.phase",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.podIP",
            "status.nominatedNodeName",
        ],
    ),
    (
        "Event",
        &[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ],
    ),
    ("Node", &["spec.unschedulable"]),
    ("Namespace", &["status.phase"]),
    ("Secret", &["type"]),
    ("ReplicaSet", &["status.replicas"]),
    ("Job", &["status.successful"]),
];

fn check_fields(target: &Target, fields: &evenkeel_api::FieldSelector) -> Result<(), ApiError> {
    let kind = &*target.resource.kind.id.kind;
    let own = SELECTABLE.iter().find(|(known, _)| *known == kind).map_or(&[][..], |row| row.1);
    for (path, _, _) in &fields.requirements {
        let fine = matches!(path.as_str(), "metadata.name" | "metadata.namespace")
            || own.contains(&path.as_str());
        if !fine {
            return Err(ApiError::bad_request(format!("field label not supported: {path}")));
        }
    }
    Ok(())
}

impl Router {
    fn context(request: &Request, target: &Target) -> Result<WriteContext, ApiError> {
        let manager = match request.param("fieldManager") {
            "" => request
                .headers
                .get(http::header::USER_AGENT)
                .and_then(|agent| agent.to_str().ok())
                .and_then(|agent| agent.split('/').next())
                .unwrap_or("unknown")
                .to_owned(),
            manager => manager.to_owned(),
        };
        Ok(WriteContext {
            subresource: match target.subresource.as_str() {
                "status" => Some(Subresource::Status),
                "scale" => Some(Subresource::Scale),
                _ => None,
            },
            expect: None,
            manager,
            dry_run: request.dry_run()?,
            fields: request.fields()?,
            is_trusted: false,
            ..WriteContext::default()
        })
    }

    /// One object in the form that the client wants.
    fn show(
        &self,
        request: &Request,
        target: &Target,
        code: u16,
        obj: &Obj,
    ) -> Result<Reply, ApiError> {
        if target.subresource == "scale" {
            return Ok(reply::json(code, &scale_of(&target.resource, obj)));
        }
        let body = match request.form()? {
            Form::Plain => return Ok(reply::json(code, &target.versioned(obj))),
            Form::Partial => table::partial(obj.json()),
            Form::Table(include) => {
                let (resource, version) = (&target.resource, &*target.version);
                let row = table::row(resource, version, obj, include, self.server.now());
                json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1",
                    "metadata": {"resourceVersion": obj.revision().to_string()},
                    "columnDefinitions": table::columns(resource, version), "rows": [row]})
            }
        };
        Ok(reply::json(code, &body))
    }

    pub(super) fn get(&self, request: &Request, target: &Target) -> Result<Reply, ApiError> {
        let obj = self.server.get_now(&target.key())?;
        self.show(request, target, 200, &obj)
    }

    pub(super) fn get_scale(&self, target: &Target) -> Result<Reply, ApiError> {
        let obj = self.server.get_now(&target.key())?;
        Ok(reply::json(200, &scale_of(&target.resource, &obj)))
    }

    pub(super) fn list(&self, request: &Request, target: &Target) -> Result<Reply, ApiError> {
        let query = target.query(request)?;
        let wanted: Option<u64> = request.number("resourceVersion")?;
        let listed = self.server.list_now(&query)?;
        let present: u64 = listed.revision.0.parse().unwrap_or(u64::MAX);
        if wanted.is_some_and(|wanted| wanted > present) {
            let message = "Too large resource version: this server has been restarted; list again";
            return Err(ApiError::new(504, "Timeout", message));
        }
        let (items, next) = page(request, &listed.items)?;
        let mut meta = json!({"resourceVersion": listed.revision.to_string()});
        if let Some(next) = next {
            meta["continue"] = json!(next);
            meta["remainingItemCount"] = json!(remaining(&listed.items, items));
        }
        let now = self.server.now();
        let (resource, version) = (&target.resource, &*target.version);
        let body = match request.form()? {
            Form::Plain => {
                let items: Vec<Value> = items.iter().map(|obj| target.versioned(obj)).collect();
                json!({"kind": format!("{}List", resource.kind.id.kind),
                    "apiVersion": target.api_version(), "metadata": meta, "items": items})
            }
            Form::Partial => {
                let items: Vec<Value> =
                    items.iter().map(|obj| table::partial(obj.json())).collect();
                json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1",
                    "metadata": meta, "items": items})
            }
            Form::Table(include) => {
                let rows: Vec<Value> = items
                    .iter()
                    .map(|obj| table::row(resource, version, obj, include, now))
                    .collect();
                json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": meta,
                    "columnDefinitions": table::columns(resource, version), "rows": rows})
            }
        };
        Ok(reply::json(200, &body))
    }

    pub(super) fn watch(&self, request: &Request, target: &Target) -> Result<Reply, ApiError> {
        super::watch::open(&self.server, request, target, target.query(request)?)
    }

    pub(super) async fn create(
        &self,
        request: &Request,
        target: &Target,
    ) -> Result<Reply, ApiError> {
        let context = Self::context(request, target)?;
        let mut body = request.value()?;
        fill_in(target, &mut body);
        let namespace = match target.namespace.as_str() {
            "" if target.resource.is_namespaced() => {
                return Err(ApiError::method_not_allowed(
                    "an object of this kind is created in a namespace",
                ));
            }
            namespace => namespace,
        };
        let written = self.server.create_body(&target.resource, namespace, body, &context).await?;
        let reply = self.show(request, target, 201, &written.obj)?;
        Ok(reply::with_warnings(reply, &written.warnings))
    }

    pub(super) async fn update(
        &self,
        request: &Request,
        target: &Target,
    ) -> Result<Reply, ApiError> {
        let context = Self::context(request, target)?;
        let mut body = request.value()?;
        if target.subresource != "scale" {
            fill_in(target, &mut body);
        }
        let written =
            self.server.patch_object(&target.key(), &Patch::Replace(body), &context).await?;
        let reply = self.show(request, target, 200, &written.obj)?;
        Ok(reply::with_warnings(reply, &written.warnings))
    }

    pub(super) async fn patch(
        &self,
        request: &Request,
        target: &Target,
    ) -> Result<Reply, ApiError> {
        let context = Self::context(request, target)?;
        let body = request.value()?;
        let patch = match request.media() {
            "application/merge-patch+json" => Patch::Merge(body),
            "application/strategic-merge-patch+json" => Patch::Strategic(body),
            "application/json-patch+json" => Patch::Json(body),
            "application/apply-patch+yaml" => {
                return self.apply(request, target, body, &context).await;
            }
            other => return Err(unsupported(other)),
        };
        let written = self.server.patch_object(&target.key(), &patch, &context).await?;
        let reply = self.show(request, target, 200, &written.obj)?;
        Ok(reply::with_warnings(reply, &written.warnings))
    }

    async fn apply(
        &self,
        request: &Request,
        target: &Target,
        body: Value,
        context: &WriteContext,
    ) -> Result<Reply, ApiError> {
        if request.param("fieldManager").is_empty() {
            let message = "fieldManager is required for apply patch";
            return Err(ApiError::bad_request(message));
        }
        let force = request.flag("force");
        let (written, is_new) = self.server.apply_body(&target.key(), body, force, context).await?;
        let code = if is_new { 201 } else { 200 };
        let reply = self.show(request, target, code, &written.obj)?;
        Ok(reply::with_warnings(reply, &written.warnings))
    }

    pub(super) async fn delete(
        &self,
        request: &Request,
        target: &Target,
    ) -> Result<Reply, ApiError> {
        let wanted = delete_request(request)?;
        match self.server.delete_object(&target.key(), &wanted).await? {
            Deleted::Marked(obj) => self.show(request, target, 200, &obj),
            Deleted::Gone(obj) => {
                let mut details = json!({"name": obj.name(), "kind": target.resource.plural(),
                    "uid": obj.uid()});
                if !target.resource.group().is_empty() {
                    details["group"] = json!(target.resource.group());
                }
                Ok(reply::json(
                    200,
                    &json!({"kind": "Status", "apiVersion": "v1", "metadata": {},
                    "status": "Success", "details": details}),
                ))
            }
        }
    }

    pub(super) async fn delete_collection(
        &self,
        request: &Request,
        target: &Target,
    ) -> Result<Reply, ApiError> {
        let wanted = delete_request(request)?;
        let listed = self.server.list_now(&target.query(request)?)?;
        let mut begun = Vec::new();
        for obj in &listed.items {
            begun.push(self.server.begin_delete(obj.key(), &wanted)?);
        }
        let mut items = Vec::new();
        for (answer, receipt) in begun {
            receipt.settled().await?;
            match answer {
                Ok(Deleted::Gone(obj) | Deleted::Marked(obj)) => items.push(target.versioned(&obj)),
                Err(error) if error.code == 404 => {}
                Err(error) => return Err(error),
            }
        }
        Ok(reply::json(
            200,
            &json!({"kind": format!("{}List", target.resource.kind.id.kind),
            "apiVersion": target.api_version(),
            "metadata": {"resourceVersion": self.server.revision().to_string()},
            "items": items}),
        ))
    }

    pub(super) async fn post(&self, request: &Request, target: &Target) -> Result<Reply, ApiError> {
        let body = request.value()?;
        let context = Self::context(request, target)?;
        let subresource = match target.subresource.as_str() {
            "binding" => Subresource::Binding,
            _ => Subresource::Eviction,
        };
        self.server.post_body(&target.key(), subresource, &body, &context).await?;
        Ok(reply::json(
            201,
            &json!({"kind": "Status", "apiVersion": "v1", "metadata": {},
            "status": "Success", "code": 201}),
        ))
    }

    pub(super) async fn log(&self, request: &Request, target: &Target) -> Result<Reply, ApiError> {
        let pod = self.server.get_now(&target.key())?;
        let container = container_of(&pod, request.param("container"))?;
        let node = text_at(pod.json(), "/spec/nodeName");
        if node.is_empty() {
            return Err(ApiError::bad_request(format!(
                "pod {:?} is not on a node yet: there are no logs; see kubectl describe pod {}",
                pod.name(),
                pod.name()
            )));
        }
        let options = LogOptions {
            follow: request.flag("follow"),
            tail_lines: request.number("tailLines")?,
            previous: request.flag("previous"),
            since_seconds: request.number("sinceSeconds")?,
            timestamps: request.flag("timestamps"),
            limit_bytes: request.number("limitBytes")?,
        };
        let wanted = LogRequest {
            namespace: pod.namespace().to_owned(),
            pod: pod.name().to_owned(),
            uid: pod.uid().to_owned(),
            node: node.to_owned(),
            container,
            options,
        };
        match self.logs.read(wanted).await {
            Ok(chunks) => Ok(reply::stream("text/plain", chunks)),
            Err(LogError::NotFound(problem)) => Err(ApiError::bad_request(problem)),
            Err(LogError::Unreachable(problem)) => {
                Err(ApiError::new(500, "InternalError", problem))
            }
        }
    }
}

/// Clients may leave out what the URL says already.
fn fill_in(target: &Target, body: &mut Value) {
    if let Some(fields) = body.as_object_mut() {
        if fields.get("apiVersion").is_none_or(|text| text == "") {
            fields.insert("apiVersion".to_owned(), json!(target.api_version()));
        }
        if fields.get("kind").is_none_or(|text| text == "") {
            fields.insert("kind".to_owned(), json!(&*target.resource.kind.id.kind));
        }
    }
}

/// The container that is meant by this name; an empty one is the only one.
pub(super) fn container_of(pod: &Obj, asked: &str) -> Result<String, ApiError> {
    let lists = ["/spec/containers", "/spec/initContainers"];
    let names: Vec<&str> = lists
        .iter()
        .flat_map(|list| list_at(pod.json(), list))
        .map(|container| text(container, "name"))
        .collect();
    let marked = pod.annotation("kubectl.kubernetes.io/default-container").unwrap_or_default();
    let asked = if asked.is_empty() { marked } else { asked };
    match (asked, names.as_slice()) {
        ("", [only]) => Ok((*only).to_owned()),
        ("", _) => Err(ApiError::bad_request(format!(
            "a container name must be specified for pod {}, choose one of: [{}]",
            pod.name(),
            names.join(" ")
        ))),
        (name, names) if names.contains(&name) => Ok(name.to_owned()),
        (name, _) => Err(ApiError::bad_request(format!(
            "container {name} is not valid for pod {}",
            pod.name()
        ))),
    }
}

fn delete_request(request: &Request) -> Result<DeleteRequest, ApiError> {
    let body = if request.body.is_empty() { Value::Null } else { request.value()? };
    let propagation = match (text(&body, "propagationPolicy"), request.param("propagationPolicy")) {
        ("", said) | (said, _) => match said {
            "Foreground" => Some(Propagation::Foreground),
            "Background" => Some(Propagation::Background),
            "Orphan" => Some(Propagation::Orphan),
            "" if body.get("orphanDependents") == Some(&Value::Bool(true)) => {
                Some(Propagation::Orphan)
            }
            "" => None,
            other => {
                return Err(ApiError::bad_request(format!(
                    "propagationPolicy {other:?} is not Foreground, Background or Orphan"
                )));
            }
        },
    };
    let precondition = |name: &str| {
        let value = body.pointer(&format!("/preconditions/{name}"));
        value.and_then(Value::as_str).map(str::to_owned)
    };
    Ok(DeleteRequest {
        uid: precondition("uid"),
        revision: precondition("resourceVersion"),
        grace_seconds: match body.get("gracePeriodSeconds").and_then(Value::as_i64) {
            Some(seconds) => Some(seconds),
            None => request.number("gracePeriodSeconds")?,
        },
        propagation,
        dry_run: request.dry_run()? || !list_at(&body, "/dryRun").is_empty(),
    })
}

/// The part of a list that was asked for, and the token for the next one. Pages after the first
/// show the present state, not that of the first page.
fn page<'a>(
    request: &Request,
    items: &'a [Arc<Obj>],
) -> Result<(&'a [Arc<Obj>], Option<String>), ApiError> {
    let limit: usize = request.number("limit")?.unwrap_or(0);
    let from = match request.param("continue") {
        "" => 0,
        token => {
            let bad = || ApiError::bad_request("continue key is not valid");
            let plain = base64::decode(token).and_then(|bytes| String::from_utf8(bytes).ok());
            let plain = plain.ok_or_else(bad)?;
            let (namespace, name) = plain.split_once('/').ok_or_else(bad)?;
            items.partition_point(|obj| (obj.namespace(), obj.name()) <= (namespace, name))
        }
    };
    let rest = items.get(from..).unwrap_or_default();
    if limit == 0 || rest.len() <= limit {
        return Ok((rest, None));
    }
    let shown = rest.get(..limit).unwrap_or_default();
    let token = shown
        .last()
        .map(|last| base64::encode(format!("{}/{}", last.namespace(), last.name()).as_bytes()));
    Ok((shown, token))
}

fn remaining(all: &[Arc<Obj>], shown: &[Arc<Obj>]) -> usize {
    let last = shown.last().map(|obj| (obj.namespace(), obj.name()));
    let seen = all.partition_point(|obj| Some((obj.namespace(), obj.name())) <= last);
    all.len() - seen
}
