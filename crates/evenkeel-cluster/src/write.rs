use std::sync::Arc;

use evenkeel_api::{Key, Obj};
use evenkeel_base::{name_suffix, uid};
use evenkeel_control::{Patch, Subresource};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::{
    apply, conform,
    crd::{self, CRD},
    defaults,
    error::{ApiError, Cause},
    patch,
    request::{Write, Written},
    resource::{Resource, Service},
    state::State,
    validate,
    value::{meta_mut, number_at, set_or_remove, stamp, text, text_at},
};

/// Attempts to find a free generated name. 27^5 names: a second one is rare, an eighth a bug.
const NAME_ATTEMPTS: usize = 8;

impl State {
    /// Gives the body the next revision, stores it and notifies the watchers.
    pub(crate) fn commit(&mut self, mut body: Value, now: Timestamp) -> Result<Arc<Obj>, ApiError> {
        let revision = self.revision + 1;
        meta_mut(&mut body).insert("resourceVersion".to_owned(), json!(revision.to_string()));
        let obj = Arc::new(Obj::from_json(body)?);
        self.revision = revision;
        self.put(obj.clone(), now);
        Ok(obj)
    }

    pub(crate) fn create(
        &mut self,
        write: Write<'_>,
        namespace: &str,
        mut body: Value,
    ) -> Result<Written, ApiError> {
        let Write { now, resource, context } = write;
        check_identity(resource, namespace, &mut body)?;
        let meta = meta_mut(&mut body);
        if meta.get("resourceVersion").and_then(Value::as_str).is_some_and(|text| !text.is_empty())
        {
            let problem = "resourceVersion should not be set on objects to be created";
            return Err(ApiError::bad_request(problem));
        }
        for field in SYSTEM_FIELDS {
            meta.shift_remove(*field);
        }
        let name = self.name_for(resource, namespace, meta)?;
        self.check_namespace(resource, namespace, &name)?;
        if self.find(&Key::new(resource.kind.id.clone(), namespace, &name)).is_some() {
            return Err(ApiError::exists(resource.group(), resource.plural(), &name));
        }
        if resource.kind.has_status
            && let Some(fields) = body.as_object_mut()
        {
            fields.shift_remove("status");
        }
        let mut warnings = Vec::new();
        body = conform::conform(resource, (body, None), context, false, &mut warnings)?;
        defaults::apply(resource, &mut body);
        passive_warnings(resource, &body, &mut warnings);
        let id = uid(&mut self.rng);
        let managed = context.managed.clone().or_else(|| apply::first(write, &body));
        let meta = meta_mut(&mut body);
        if let Some(managed) = managed {
            meta.insert("managedFields".to_owned(), managed);
        }
        meta.insert("uid".to_owned(), json!(id));
        meta.insert("creationTimestamp".to_owned(), json!(stamp(now)));
        if resource.has_generation {
            meta.insert("generation".to_owned(), json!(1));
        }
        defaults::on_create(resource, &mut body);
        drop_empty_lists(&mut body);
        if resource.is(CRD.0, CRD.1) {
            crd::default(&mut body);
            crd::establish(&mut body, now);
        }
        validate::created(resource, &body)?;
        self.check_security(resource, None, &body, &mut warnings)?;
        let allocated = self.allocate(resource, &mut body, None)?;
        if context.dry_run {
            self.release(&allocated);
            meta_mut(&mut body).insert("resourceVersion".to_owned(), json!(""));
            return Ok(Written { obj: Arc::new(Obj::from_json(body)?), warnings });
        }
        if resource.is(CRD.0, CRD.1) {
            crd::check_names(&self.registry, &Obj::from_json(body.clone())?)?;
        }
        let obj = self.commit(body, now)?;
        self.registered(resource, &obj);
        if resource.is("", "Event") {
            self.forget_events(resource, now)?;
        }
        Ok(Written { obj, warnings })
    }

    /// Applies a patch to what is there.
    pub(crate) fn patch(
        &mut self,
        write: Write<'_>,
        key: &Key,
        change: &Patch,
    ) -> Result<Written, ApiError> {
        let old = self.found(write.resource, key)?;
        if write.context.subresource == Some(Subresource::Scale) {
            return self.patch_scale(write, &old, change);
        }
        let new = patch::apply(write.resource, old.json(), change)?;
        self.update(write, &old, new)
    }

    pub(crate) fn found(&self, resource: &Resource, key: &Key) -> Result<Arc<Obj>, ApiError> {
        self.find(key)
            .cloned()
            .ok_or_else(|| ApiError::not_found(resource.group(), resource.plural(), &key.name))
    }

    /// Puts a new body in place of `old`: what the writer may not change is kept, what it left to
    /// the server is filled in, and nothing happens when nothing is different.
    pub(crate) fn update(
        &mut self,
        write: Write<'_>,
        old: &Arc<Obj>,
        mut new: Value,
    ) -> Result<Written, ApiError> {
        let Write { now, resource, context } = write;
        let conflict = |problem: &str| {
            ApiError::conflict(resource.group(), resource.plural(), old.name(), problem)
        };
        check_identity(resource, old.namespace(), &mut new)?;
        if text_at(&new, "/metadata/name") != old.name() {
            let problem = "the name of the object does not match the name on the URL";
            return Err(name_is_fixed(resource, old, &new)
                .unwrap_or_else(|| ApiError::bad_request(problem)));
        }
        let uid = text_at(&new, "/metadata/uid");
        if !uid.is_empty() && uid != old.uid() {
            return Err(conflict(&format!(
                "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
                old.uid()
            )));
        }
        let seen = text_at(&new, "/metadata/resourceVersion");
        let expected = context.expect.as_ref().map_or("", |revision| &revision.0);
        for revision in [seen, expected] {
            if !revision.is_empty() && *revision != *old.revision().0 {
                return Err(conflict(
                    "the object has been modified; please apply your changes to the latest \
                     version and try again",
                ));
            }
        }
        let mut warnings = Vec::new();
        let is_status = context.subresource == Some(Subresource::Status);
        let mut new = separate(resource, old, new, is_status);
        keep_system_fields(old, &mut new);
        if new == *old.json() {
            return Ok(Written { obj: old.clone(), warnings });
        }
        if !(is_status && context.is_trusted) {
            let pair = (new, Some(old.json()));
            new = conform::conform(resource, pair, context, is_status, &mut warnings)?;
        }
        if !is_status {
            defaults::apply(resource, &mut new);
            defaults::on_update(resource, old.json(), &mut new);
            if resource.is(CRD.0, CRD.1) {
                crd::default(&mut new);
            }
            validate::updated(resource, old.json(), &new)?;
            self.check_security(resource, Some(old.json()), &new, &mut warnings)?;
        }
        if !context.is_apply {
            apply::track(write, old, &mut new, is_status);
        }
        let allocated = self.allocate(resource, &mut new, Some(old.json()))?;
        if new == *old.json() {
            return Ok(Written { obj: old.clone(), warnings });
        }
        if resource.has_generation && desired_differs(resource, old.json(), &new) {
            meta_mut(&mut new).insert("generation".to_owned(), json!(old.generation() + 1));
        }
        if context.dry_run {
            self.release(&allocated);
            return Ok(Written { obj: Arc::new(Obj::from_json(new)?), warnings });
        }
        self.release_dropped(resource, old.json(), &new);
        if is_finished(resource, &new) {
            let last = self.commit_removal(resource, new, now)?;
            return Ok(Written { obj: last, warnings });
        }
        let obj = self.commit(new, now)?;
        self.registered(resource, &obj);
        self.settle_namespace(resource, &obj, now)?;
        Ok(Written { obj, warnings })
    }

    fn name_for(
        &mut self,
        resource: &Resource,
        namespace: &str,
        meta: &mut Map<String, Value>,
    ) -> Result<String, ApiError> {
        let field = |meta: &Map<String, Value>, name: &str| {
            meta.get(name).and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        let name = field(meta, "name");
        if !name.is_empty() {
            return Ok(name);
        }
        let prefix = field(meta, "generateName");
        if prefix.is_empty() {
            let cause = Cause {
                reason: "FieldValueRequired",
                field: "metadata.name".to_owned(),
                message: "Required value: name or generateName is required".to_owned(),
            };
            return Err(ApiError::invalid(
                resource.group(),
                &resource.kind.id.kind,
                "",
                vec![cause],
            ));
        }
        // Kubernetes cuts the prefix so that a label value can hold the whole name.
        let prefix: String = prefix.chars().take(58).collect();
        for _ in 0..NAME_ATTEMPTS {
            let name = format!("{prefix}{}", name_suffix(&mut self.rng));
            if self.find(&Key::new(resource.kind.id.clone(), namespace, &name)).is_none() {
                meta.insert("name".to_owned(), json!(name));
                return Ok(name);
            }
        }
        let message = format!("no free name found for generateName {prefix:?}; try again");
        Err(ApiError::new(409, "AlreadyExists", message))
    }

    fn check_namespace(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
    ) -> Result<(), ApiError> {
        if !resource.is_namespaced() {
            return Ok(());
        }
        let kind = evenkeel_api::GroupKind::new("", "Namespace");
        match self.find(&Key::new(kind, "", namespace)) {
            None => Err(ApiError::not_found("", "namespaces", namespace)),
            Some(found) if found.is_deleting() => {
                let problem = format!(
                    "unable to create new content in namespace {namespace} because it is being \
                     terminated"
                );
                let mut error =
                    ApiError::forbidden(resource.group(), resource.plural(), name, &problem);
                error.causes.push(Cause {
                    reason: "NamespaceTerminating",
                    field: "metadata.namespace".to_owned(),
                    message: format!("namespace {namespace} is being terminated"),
                });
                Err(error)
            }
            Some(_) => Ok(()),
        }
    }

    /// A stored `CustomResourceDefinition` defines its kind from now on.
    fn registered(&mut self, resource: &Resource, obj: &Obj) {
        if resource.is(CRD.0, CRD.1)
            && let Some(defined) = crd::resource(obj)
        {
            self.registry_mut().insert(defined);
        }
    }
}

/// Metadata that only the server sets.
const SYSTEM_FIELDS: &[&str] = &[
    "uid",
    "resourceVersion",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "generation",
    "selfLink",
    "managedFields",
];

/// The body must be of the kind and namespace that the request names; an unset namespace is set.
fn check_identity(resource: &Resource, namespace: &str, body: &mut Value) -> Result<(), ApiError> {
    let (api_version, kind) = (text(body, "apiVersion"), text(body, "kind"));
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let served = resource.kind.versions.iter().any(|served| **served == *version);
    if group != resource.group() || *kind != *resource.kind.id.kind || !served {
        return Err(ApiError::bad_request(format!(
            "the object provided is {api_version}/{kind}, the request is for {}/{}",
            resource.kind.api_version(),
            resource.kind.id.kind
        )));
    }
    if *version != *resource.kind.version {
        body["apiVersion"] = json!(resource.kind.api_version());
    }
    let meta = meta_mut(body);
    let given = meta.get("namespace").and_then(Value::as_str).unwrap_or_default();
    if !resource.is_namespaced() {
        meta.shift_remove("namespace");
        return Ok(());
    }
    if namespace.is_empty() {
        let message = format!("{}: an object of this kind needs a namespace", resource.kind.id);
        return Err(ApiError::bad_request(message));
    }
    if !given.is_empty() && given != namespace {
        return Err(ApiError::bad_request(format!(
            "the namespace of the provided object does not match the namespace sent on the \
             request ({given:?} and {namespace:?})"
        )));
    }
    if given.is_empty() {
        meta.insert("namespace".to_owned(), json!(namespace));
    }
    Ok(())
}

fn name_is_fixed(resource: &Resource, old: &Obj, new: &Value) -> Option<ApiError> {
    let name = text_at(new, "/metadata/name");
    let cause = Cause {
        reason: "FieldValueInvalid",
        field: "metadata.name".to_owned(),
        message: format!("Invalid value: {name:?}: field is immutable"),
    };
    (!name.is_empty()).then(|| {
        ApiError::invalid(resource.group(), &resource.kind.id.kind, old.name(), vec![cause])
    })
}

/// A write to the main resource leaves status alone, a write to status everything else.
fn separate(resource: &Resource, old: &Obj, mut new: Value, is_status: bool) -> Value {
    if is_status {
        let status = new.get_mut("status").map(Value::take);
        let mut kept = old.json().clone();
        if let Some(fields) = kept.as_object_mut() {
            set_or_remove(fields, "status", status);
        }
        return kept;
    }
    if resource.kind.has_status
        && let Some(fields) = new.as_object_mut()
    {
        set_or_remove(fields, "status", old.json().get("status").cloned());
    }
    new
}

fn keep_system_fields(old: &Obj, new: &mut Value) {
    let meta = meta_mut(new);
    for field in SYSTEM_FIELDS {
        if *field == "managedFields" && meta.contains_key(*field) {
            continue;
        }
        let kept = old.json().pointer("/metadata").and_then(|meta| meta.get(*field)).cloned();
        set_or_remove(meta, field, kept);
    }
    drop_empty_lists(new);
}

/// An empty list of owners or finalizers is none at all, as Go leaves it out.
fn drop_empty_lists(body: &mut Value) {
    let meta = meta_mut(body);
    for field in ["ownerReferences", "finalizers"] {
        if meta.get(field).and_then(Value::as_array).is_some_and(Vec::is_empty) {
            meta.shift_remove(field);
        }
    }
}

/// Whether anything but metadata and status is different.
fn desired_differs(resource: &Resource, old: &Value, new: &Value) -> bool {
    let desired = |body: &Value| -> Vec<(String, Value)> {
        let fields = body.as_object().into_iter().flatten();
        let mut fields: Vec<_> = fields
            .filter(|(name, _)| {
                *name != "metadata" && !(*name == "status" && resource.kind.has_status)
            })
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        fields.sort_by(|a, b| a.0.cmp(&b.0));
        fields
    };
    desired(old) != desired(new)
}

/// Whether an object marked as being deleted has nothing left that holds it.
pub(crate) fn is_finished(resource: &Resource, body: &Value) -> bool {
    let meta = body.get("metadata").unwrap_or(&Value::Null);
    let held = meta.get("finalizers").and_then(Value::as_array).is_some_and(|all| !all.is_empty());
    let waits = resource.is("", "Namespace")
        || number_at(meta, "/deletionGracePeriodSeconds").is_some_and(|seconds| seconds > 0);
    meta.get("deletionTimestamp").is_some_and(|at| !at.is_null()) && !held && !waits
}

/// Warns the writer about what has no effect here. Nothing without effect is stored silently.
fn passive_warnings(resource: &Resource, body: &Value, warnings: &mut Vec<String>) {
    let (kind, name) = (&resource.kind.id.kind, text_at(body, "/metadata/name"));
    // Clients create these in passing and expect nothing more than that they exist.
    let expected = resource.is("", "ServiceAccount") || resource.is("", "Endpoints");
    if resource.service == Service::Passive && !expected {
        warnings.push(format!(
            "{kind} {name:?} is stored, but nothing in this cluster acts on this kind"
        ));
    }
    let service = text_at(body, "/spec/type");
    if resource.is("", "Service") && matches!(service, "NodePort" | "LoadBalancer") {
        warnings.push(format!(
            "Service {name:?} has type {service}: this cluster answers on its cluster address \
             only; node ports and load balancers are not served"
        ));
    }
}
