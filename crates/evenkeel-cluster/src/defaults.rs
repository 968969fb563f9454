//! What the API server fills in where a manifest leaves a field out.
//!
//! **Source**: `SetDefaults_*` in `pkg/apis/*/v1/defaults.go` and the default admission plugins.

use serde_json::{Map, Value, json};

use crate::{
    resource::Resource,
    value::{list_at, object_in, text, text_at},
};

/// Defaults of every write.
pub(crate) fn apply(resource: &Resource, body: &mut Value) {
    match (resource.group(), &*resource.kind.id.kind) {
        ("", "Pod") => pod(body),
        ("", "Service") => service(body),
        ("", "Secret") => secret(body),
        ("", "Namespace") => namespace(body),
        ("", "PersistentVolumeClaim") => {
            set_text(object_in(body, "spec"), "volumeMode", "Filesystem");
        }
        ("", "PersistentVolume") => {
            let spec = object_in(body, "spec");
            set_text(spec, "volumeMode", "Filesystem");
            set_text(spec, "persistentVolumeReclaimPolicy", "Retain");
            if let Some(Value::Object(source)) = spec.get_mut("hostPath") {
                set(source, "type", || json!(""));
            }
        }
        ("storage.k8s.io", "StorageClass") => {
            if let Some(fields) = body.as_object_mut() {
                set_text(fields, "reclaimPolicy", "Delete");
                set_text(fields, "volumeBindingMode", "Immediate");
            }
        }
        ("apps", "Deployment") => deployment(body),
        ("apps", "ReplicaSet") => {
            set(object_in(body, "spec"), "replicas", || json!(1));
            template(body, "/spec/template/spec");
        }
        ("apps", "StatefulSet") => stateful_set(body),
        ("apps", "DaemonSet") => daemon_set(body),
        ("batch", "Job") => job(body),
        ("batch", "CronJob") => cron_job(body),
        ("autoscaling", "HorizontalPodAutoscaler") => {
            set(object_in(body, "spec"), "minReplicas", || json!(1));
        }
        ("discovery.k8s.io", "EndpointSlice") => {
            for port in items(body, "/ports") {
                set(port, "name", || json!(""));
                set(port, "protocol", || json!("TCP"));
            }
        }
        _ => {}
    }
}

/// What happens to new objects only; they have their uid and name already.
pub(crate) fn on_create(resource: &Resource, body: &mut Value) {
    match (resource.group(), &*resource.kind.id.kind) {
        ("", "Pod") => new_pod(body),
        ("batch", "Job") => new_job(body),
        ("batch", "CronJob") => body["status"] = json!({}),
        ("apps", "DaemonSet") => {
            object_in(&mut body["metadata"], "annotations")
                .insert(TEMPLATE_NUMBER.to_owned(), json!("1"));
        }
        ("", "Namespace") => body["status"] = json!({"phase": "Active"}),
        ("", "PersistentVolumeClaim" | "PersistentVolume") => {
            body["status"] = json!({"phase": "Pending"});
        }
        _ => {}
    }
}

/// Annotation that counts the templates that a `DaemonSet` has had.
const TEMPLATE_NUMBER: &str = "deprecated.daemonset.template.generation";

/// What depends on what was there before.
///
/// **Source**: `PrepareForUpdate` in `pkg/registry/apps/daemonset/strategy.go`.
pub(crate) fn on_update(resource: &Resource, old: &Value, new: &mut Value) {
    if !resource.is("apps", "DaemonSet") {
        return;
    }
    let number = old.pointer("/metadata/annotations").map_or("", |all| text(all, TEMPLATE_NUMBER));
    let number = number.parse::<i64>().unwrap_or_default();
    let is_new = old.pointer("/spec/template") != new.pointer("/spec/template");
    object_in(&mut new["metadata"], "annotations")
        .insert(TEMPLATE_NUMBER.to_owned(), json!((number + i64::from(is_new)).to_string()));
}

/// Selects a Job's pods by its uid, so that no other pods are taken for them: without a selector,
/// `kubectl logs job/NAME` picks any pod of the namespace.
///
/// **Source**: `generateSelector` in `pkg/registry/batch/job/strategy.go`.
fn new_job(body: &mut Value) {
    const CONTROLLER_UID: &str = "batch.kubernetes.io/controller-uid";
    if body.pointer("/spec/manualSelector") == Some(&json!(true)) {
        return;
    }
    let uid = text_at(body, "/metadata/uid").to_owned();
    let name = text_at(body, "/metadata/name").to_owned();
    let labels = [
        (CONTROLLER_UID, &uid),
        ("batch.kubernetes.io/job-name", &name),
        ("controller-uid", &uid),
        ("job-name", &name),
    ];
    let spec = object_in(body, "spec");
    spec.insert("selector".to_owned(), json!({"matchLabels": {CONTROLLER_UID: &uid}}));
    let template = spec.entry("template").or_insert_with(|| json!({}));
    let own = object_in(template, "metadata").entry("labels").or_insert_with(|| json!({}));
    for (label, value) in labels {
        own[label] = json!(value);
    }
    // A Job without labels gets those of its pods. **Source**: `SetDefaults_Job`.
    let labels = own.clone();
    let metadata = object_in(body, "metadata");
    if metadata.get("labels").and_then(Value::as_object).is_none_or(Map::is_empty) {
        metadata.insert("labels".to_owned(), labels);
    }
}

fn set(fields: &mut Map<String, Value>, name: &str, value: impl FnOnce() -> Value) {
    if fields.get(name).is_none_or(Value::is_null) {
        fields.insert(name.to_owned(), value());
    }
}

/// The same, where the empty text also means "not said".
fn set_text(fields: &mut Map<String, Value>, name: &str, value: &str) {
    if fields.get(name).and_then(Value::as_str).is_none_or(str::is_empty) {
        fields.insert(name.to_owned(), json!(value));
    }
}

/// The same, where 0 also means "not said".
fn set_number(fields: &mut Map<String, Value>, name: &str, value: i64) {
    if fields.get(name).and_then(Value::as_i64).is_none_or(|number| number == 0) {
        fields.insert(name.to_owned(), json!(value));
    }
}

fn items<'a>(
    body: &'a mut Value,
    pointer: &str,
) -> impl Iterator<Item = &'a mut Map<String, Value>> + use<'a> {
    body.pointer_mut(pointer)
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
        .filter_map(Value::as_object_mut)
}

fn deployment(body: &mut Value) {
    let spec = object_in(body, "spec");
    set(spec, "replicas", || json!(1));
    set(spec, "revisionHistoryLimit", || json!(10));
    set(spec, "progressDeadlineSeconds", || json!(600));
    set(spec, "strategy", || json!({}));
    let spec = &mut body["spec"];
    let strategy = object_in(spec, "strategy");
    set_text(strategy, "type", "RollingUpdate");
    if text_at(&body["spec"], "/strategy/type") == "RollingUpdate" {
        let rolling = object_in(&mut body["spec"]["strategy"], "rollingUpdate");
        set(rolling, "maxUnavailable", || json!("25%"));
        set(rolling, "maxSurge", || json!("25%"));
    }
    template(body, "/spec/template/spec");
}

fn stateful_set(body: &mut Value) {
    let spec = object_in(body, "spec");
    set(spec, "replicas", || json!(1));
    set(spec, "revisionHistoryLimit", || json!(10));
    set_text(spec, "podManagementPolicy", "OrderedReady");
    let strategy = object_in(&mut body["spec"], "updateStrategy");
    set_text(strategy, "type", "RollingUpdate");
    if strategy.get("type") == Some(&json!("RollingUpdate")) {
        let rolling = object_in(&mut body["spec"]["updateStrategy"], "rollingUpdate");
        set(rolling, "partition", || json!(0));
    }
    let retention = object_in(&mut body["spec"], "persistentVolumeClaimRetentionPolicy");
    set_text(retention, "whenDeleted", "Retain");
    set_text(retention, "whenScaled", "Retain");
    for claim in items(body, "/spec/volumeClaimTemplates") {
        set_text(claim, "apiVersion", "v1");
        set_text(claim, "kind", "PersistentVolumeClaim");
        set(claim, "status", || json!({"phase": "Pending"}));
        if let Some(Value::Object(spec)) = claim.get_mut("spec") {
            set_text(spec, "volumeMode", "Filesystem");
        }
    }
    template(body, "/spec/template/spec");
}

fn daemon_set(body: &mut Value) {
    set(object_in(body, "spec"), "revisionHistoryLimit", || json!(10));
    let strategy = object_in(&mut body["spec"], "updateStrategy");
    set_text(strategy, "type", "RollingUpdate");
    if strategy.get("type") == Some(&json!("RollingUpdate")) {
        let rolling = object_in(&mut body["spec"]["updateStrategy"], "rollingUpdate");
        set(rolling, "maxUnavailable", || json!(1));
        set(rolling, "maxSurge", || json!(0));
    }
    template(body, "/spec/template/spec");
}

/// **Source**: `SetDefaults_Job`.
fn job(body: &mut Value) {
    let spec = object_in(body, "spec");
    if spec.get("completions").is_none() && spec.get("parallelism").is_none() {
        set(spec, "completions", || json!(1));
    }
    set(spec, "parallelism", || json!(1));
    let limit = if spec.contains_key("backoffLimitPerIndex") { i32::MAX } else { 6 };
    set(spec, "backoffLimit", || json!(limit));
    set(spec, "suspend", || json!(false));
    set(spec, "manualSelector", || json!(false));
    set_text(spec, "completionMode", "NonIndexed");
    let has_policy = spec.contains_key("podFailurePolicy");
    set_text(
        spec,
        "podReplacementPolicy",
        if has_policy { "Failed" } else { "TerminatingOrFailed" },
    );
    for rule in items(body, "/spec/podFailurePolicy/rules") {
        let patterns = rule.get_mut("onPodConditions").and_then(Value::as_array_mut);
        for pattern in patterns.into_iter().flatten().filter_map(Value::as_object_mut) {
            set_text(pattern, "status", "True");
        }
    }
    template(body, "/spec/template/spec");
}

fn cron_job(body: &mut Value) {
    let spec = object_in(body, "spec");
    set_text(spec, "concurrencyPolicy", "Allow");
    set(spec, "suspend", || json!(false));
    set(spec, "successfulJobsHistoryLimit", || json!(3));
    set(spec, "failedJobsHistoryLimit", || json!(1));
    set(spec, "jobTemplate", || json!({}));
    object_in(&mut body["spec"]["jobTemplate"], "metadata");
    template(body, "/spec/jobTemplate/spec/template/spec");
}

fn service(body: &mut Value) {
    let spec = object_in(body, "spec");
    set_text(spec, "sessionAffinity", "None");
    set_text(spec, "type", "ClusterIP");
    if spec.get("type") != Some(&json!("ExternalName")) {
        set_text(spec, "internalTrafficPolicy", "Cluster");
    }
    let is_outside = matches!(text_at(body, "/spec/type"), "NodePort" | "LoadBalancer");
    if is_outside {
        set_text(object_in(body, "spec"), "externalTrafficPolicy", "Cluster");
    }
    if text_at(body, "/spec/sessionAffinity") == "ClientIP" {
        let config = object_in(&mut body["spec"], "sessionAffinityConfig");
        set(config, "clientIP", || json!({"timeoutSeconds": 10_800}));
    }
    for port in items(body, "/spec/ports") {
        set_text(port, "protocol", "TCP");
        let number = port.get("port").cloned().unwrap_or_default();
        let unsaid = port.get("targetPort").is_none_or(|at| at == 0 || at == "");
        if unsaid {
            port.insert("targetPort".to_owned(), number);
        }
    }
}

/// `stringData` is written in plain and kept encoded.
fn secret(body: &mut Value) {
    let Some(fields) = body.as_object_mut() else { return };
    set_text(fields, "type", "Opaque");
    if let Some(Value::Object(plain)) = fields.shift_remove("stringData") {
        let data = object_in(body, "data");
        for (name, text) in plain {
            let encoded = crate::base64::encode(text.as_str().unwrap_or_default().as_bytes());
            data.insert(name, json!(encoded));
        }
    }
}

fn namespace(body: &mut Value) {
    let name = text_at(body, "/metadata/name").to_owned();
    let labels = object_in(&mut body["metadata"], "labels");
    labels.insert("kubernetes.io/metadata.name".to_owned(), json!(name));
    set(object_in(body, "spec"), "finalizers", || json!(["kubernetes"]));
}

fn template(body: &mut Value, pointer: &str) {
    if let Some(spec) = body.pointer_mut(pointer) {
        pod_spec(spec);
    }
}

fn pod(body: &mut Value) {
    set(object_in(body, "spec"), "enableServiceLinks", || json!(true));
    for list in ["/spec/containers", "/spec/initContainers"] {
        for container in items(body, list) {
            let limits = container.get("resources").and_then(|all| all.get("limits")).cloned();
            let Some(Value::Object(limits)) = limits else { continue };
            let Some(resources) = container.get_mut("resources") else { continue };
            let requests = object_in(resources, "requests");
            for (name, limit) in limits {
                requests.entry(name).or_insert(limit);
            }
        }
    }
    pod_spec(&mut body["spec"]);
}

fn pod_spec(spec: &mut Value) {
    if let Some(fields) = spec.as_object_mut() {
        set_text(fields, "dnsPolicy", "ClusterFirst");
        set_text(fields, "restartPolicy", "Always");
        set_text(fields, "schedulerName", "default-scheduler");
        set(fields, "terminationGracePeriodSeconds", || json!(30));
        set(fields, "securityContext", || json!({}));
    }
    for list in ["/containers", "/initContainers"] {
        for container in items(spec, list) {
            self::container(container);
        }
    }
    for volume in items(spec, "/volumes") {
        if volume.len() == 1 {
            volume.insert("emptyDir".to_owned(), json!({}));
        }
        for source in ["configMap", "secret", "downwardAPI", "projected"] {
            if let Some(Value::Object(source)) = volume.get_mut(source) {
                set(source, "defaultMode", || json!(420));
            }
        }
        volume_sources(volume);
        if let Some(Value::Object(source)) = volume.get_mut("hostPath") {
            set(source, "type", || json!(""));
        }
    }
}

/// What the sources inside of a volume's source leave out.
fn volume_sources(volume: &mut Map<String, Value>) {
    let field_refs = |items: Option<&mut Value>| {
        for item in items.and_then(Value::as_array_mut).into_iter().flatten() {
            if let Some(Value::Object(field)) = item.get_mut("fieldRef") {
                set_text(field, "apiVersion", "v1");
            }
            if let Some(Value::Object(field)) = item.get_mut("resourceFieldRef") {
                set(field, "divisor", || json!("0"));
            }
        }
    };
    field_refs(volume.get_mut("downwardAPI").and_then(|source| source.get_mut("items")));
    let sources = volume.get_mut("projected").and_then(|source| source.get_mut("sources"));
    for source in sources.and_then(Value::as_array_mut).into_iter().flatten() {
        field_refs(source.get_mut("downwardAPI").and_then(|source| source.get_mut("items")));
        if let Some(Value::Object(token)) = source.get_mut("serviceAccountToken") {
            set(token, "expirationSeconds", || json!(3_600));
        }
    }
    let template = volume.get_mut("ephemeral").and_then(|it| it.get_mut("volumeClaimTemplate"));
    if let Some(template) = template {
        set_text(object_in(template, "spec"), "volumeMode", "Filesystem");
    }
}

fn container(container: &mut Map<String, Value>) {
    set_text(container, "terminationMessagePath", "/dev/termination-log");
    set_text(container, "terminationMessagePolicy", "File");
    let image = container.get("image").and_then(Value::as_str).unwrap_or_default();
    let policy = if is_latest(image) { "Always" } else { "IfNotPresent" };
    set_text(container, "imagePullPolicy", policy);
    set(container, "resources", || json!({}));
    let mut ports = container.get_mut("ports").and_then(Value::as_array_mut);
    for port in ports.iter_mut().flat_map(|ports| ports.iter_mut()) {
        if let Some(port) = port.as_object_mut() {
            set_text(port, "protocol", "TCP");
        }
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let Some(Value::Object(fields)) = container.get_mut(probe) else { continue };
        set_number(fields, "timeoutSeconds", 1);
        set_number(fields, "periodSeconds", 10);
        set_number(fields, "successThreshold", 1);
        set_number(fields, "failureThreshold", 3);
        http_get(fields);
    }
    for hook in ["postStart", "preStop"] {
        let hook = container.get_mut("lifecycle").and_then(|all| all.get_mut(hook));
        if let Some(Value::Object(hook)) = hook {
            http_get(hook);
        }
    }
    let mut env = container.get_mut("env").and_then(Value::as_array_mut);
    for variable in env.iter_mut().flat_map(|env| env.iter_mut()) {
        if let Some(Value::Object(field)) = variable.pointer_mut("/valueFrom/fieldRef") {
            set_text(field, "apiVersion", "v1");
        }
    }
}

fn http_get(fields: &mut Map<String, Value>) {
    if let Some(Value::Object(get)) = fields.get_mut("httpGet") {
        set_text(get, "path", "/");
        set_text(get, "scheme", "HTTP");
    }
}

/// Whether the image has the tag `latest`, said or unsaid.
fn is_latest(image: &str) -> bool {
    if image.contains('@') {
        return false;
    }
    let last = image.rsplit('/').next().unwrap_or_default();
    last.split_once(':').is_none_or(|(_, tag)| tag == "latest")
}

/// Seconds that a pod stays on a node that is not ready or not reachable.
const STAYS_SECONDS: i64 = 300;

fn new_pod(body: &mut Value) {
    let qos = qos_class(body);
    body["status"] = json!({"phase": "Pending", "qosClass": qos});
    let spec = object_in(body, "spec");
    set(spec, "priority", || json!(0));
    set_text(spec, "preemptionPolicy", "PreemptLowerPriority");
    let mut tolerations = list_at(&body["spec"], "/tolerations").to_vec();
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let covers = |have: &Value| {
            let same = text(have, "key") == key
                || (text(have, "key").is_empty() && text(have, "operator") == "Exists");
            same && matches!(text(have, "effect"), "" | "NoExecute")
        };
        if !tolerations.iter().any(covers) {
            tolerations.push(json!({"key": key, "operator": "Exists", "effect": "NoExecute",
                "tolerationSeconds": STAYS_SECONDS}));
        }
    }
    object_in(body, "spec").insert("tolerations".to_owned(), Value::Array(tolerations));
}

/// `Guaranteed`, `Burstable` or `BestEffort`.
fn qos_class(pod: &Value) -> &'static str {
    let containers = list_at(pod, "/spec/containers").iter();
    let (mut any, mut all) = (false, true);
    for container in containers.chain(list_at(pod, "/spec/initContainers")) {
        for name in ["cpu", "memory"] {
            let of = |part: &str| {
                let value = container.pointer(&format!("/resources/{part}/{name}"))?.as_str()?;
                evenkeel_api::Quantity::parse(value).ok()
            };
            let (request, limit) = (of("requests"), of("limits"));
            any |= request.is_some() || limit.is_some();
            all &= limit.is_some() && request == limit;
        }
    }
    match (any, all) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

/// Seconds of grace a pod of this body gets.
#[cfg(test)]
fn grace(pod: &Value) -> Option<i64> {
    crate::value::number_at(pod, "/spec/terminationGracePeriodSeconds")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_pod_gets_what_the_api_server_gives_it() {
        let mut body = json!({"metadata": {"name": "a"}, "spec": {"containers": [{"name": "a",
            "image": "web", "ports": [{"containerPort": 80}],
            "resources": {"limits": {"cpu": "1", "memory": "1Gi"}},
            "readinessProbe": {"httpGet": {"port": 80}, "periodSeconds": 0}}]}});
        pod(&mut body);
        new_pod(&mut body);
        assert_eq!(grace(&body), Some(30));
        let container = &body["spec"]["containers"][0];
        assert_eq!(container["imagePullPolicy"], "Always");
        assert_eq!(container["resources"]["requests"]["memory"], "1Gi");
        assert_eq!(
            container["readinessProbe"],
            json!({"httpGet": {"port": 80, "path": "/", "scheme": "HTTP"}, "periodSeconds": 10,
                "timeoutSeconds": 1, "successThreshold": 1, "failureThreshold": 3})
        );
        assert_eq!(body["status"]["qosClass"], "Guaranteed");
        assert_eq!(list_at(&body, "/spec/tolerations").len(), 2);
    }

    #[test]
    fn only_latest_is_pulled_every_time() {
        for (image, latest) in [
            ("web", true),
            ("web:latest", true),
            ("host:5000/web", true),
            ("host:5000/web:v1", false),
            ("web@sha256:00", false),
        ] {
            assert_eq!(is_latest(image), latest, "{image}");
        }
    }
}
