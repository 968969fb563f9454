//! Pod Security Standards, as a namespace's labels ask for them.
//!
//! **Source**: `k8s.io/pod-security-admission`: which checks there are, their order and words. The
//! checks are those of Kubernetes 1.32 and later; older versions of the standards are refused.

mod checks;

use std::collections::BTreeMap;

use evenkeel_api::{GroupKind, Key};
use serde_json::Value;

use checks::violations;

use crate::{
    error::{ApiError, Cause},
    resource::Resource,
    state::State,
    value::{text, text_at},
};

const LABELS: &str = "pod-security.kubernetes.io/";
/// Versions of the standards whose checks these are.
const VERSIONS: [&str; 3] = ["latest", "v1.32", "v1.33"];
/// Pods of a namespace looked at when its level rises, as in Kubernetes.
const PODS_MAX: usize = 3_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
enum Level {
    #[default]
    Privileged,
    Baseline,
    Restricted,
}

/// A level and the version of the standards, as shown.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Standard {
    level: Level,
    version: String,
}

impl std::fmt::Display for Standard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let level = match self.level {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        };
        let version = if self.version.is_empty() { "latest" } else { &self.version };
        write!(f, "{level}:{version}")
    }
}

/// What is enforced, and what is warned about.
fn policy(namespace: &Value) -> (Standard, Standard) {
    let label = |mode: &str| {
        let labels = namespace.pointer("/metadata/labels");
        labels.map(|labels| text(labels, &format!("{LABELS}{mode}"))).unwrap_or_default()
    };
    let standard = |mode: &str| Standard {
        level: match label(mode) {
            "restricted" => Level::Restricted,
            "baseline" => Level::Baseline,
            _ => Level::Privileged,
        },
        version: label(&format!("{mode}-version")).to_owned(),
    };
    let (enforce, mut warn) = (standard("enforce"), standard("warn"));
    if label("warn").is_empty() && enforce.level > warn.level {
        warn.level = enforce.level;
        if warn.version.is_empty() {
            warn.version.clone_from(&enforce.version);
        }
    }
    (enforce, warn)
}

/// Labels of a namespace that name no level or no version.
fn label_faults(namespace: &Value) -> Vec<Cause> {
    let labels = namespace.pointer("/metadata/labels").and_then(Value::as_object);
    let mut causes = Vec::new();
    for mode in ["enforce", "audit", "warn"] {
        for (suffix, known, why) in [
            (
                "",
                &["privileged", "baseline", "restricted"][..],
                "must be one of privileged, baseline, restricted",
            ),
            ("-version", &VERSIONS[..], "must be \"latest\" or \"v1.x\""),
        ] {
            let name = format!("{LABELS}{mode}{suffix}");
            let Some(value) = labels.and_then(|labels| labels.get(&name)) else { continue };
            let value = value.as_str().unwrap_or_default();
            if known.contains(&value) {
                continue;
            }
            let is_older = value.strip_prefix("v1.").is_some_and(|n| n.parse::<u32>().is_ok());
            let why = if is_older {
                "this cluster checks pods as Kubernetes 1.33 does: use latest, v1.32 or v1.33"
            } else {
                why
            };
            causes.push(Cause {
                reason: "FieldValueInvalid",
                field: format!("metadata.labels[{name}]"),
                message: format!("Invalid value: {value:?}: {why}"),
            });
        }
    }
    causes
}

/// Where the pod is in an object: path of its metadata and of its spec.
fn pod_paths(resource: &Resource) -> Option<(&'static str, &'static str)> {
    Some(match (resource.group(), &*resource.kind.id.kind) {
        ("", "Pod") => ("/metadata", "/spec"),
        ("apps", "Deployment" | "ReplicaSet" | "StatefulSet" | "DaemonSet") | ("batch", "Job") => {
            ("/spec/template/metadata", "/spec/template/spec")
        }
        ("batch", "CronJob") => {
            ("/spec/jobTemplate/spec/template/metadata", "/spec/jobTemplate/spec/template/spec")
        }
        _ => return None,
    })
}

impl State {
    /// Refuses a pod that its namespace does not allow, and warns about what will not be allowed.
    pub(crate) fn check_security(
        &self,
        resource: &Resource,
        old: Option<&Value>,
        new: &Value,
        warnings: &mut Vec<String>,
    ) -> Result<(), ApiError> {
        if resource.is("", "Namespace") {
            return self.check_namespace_labels(old, new, warnings);
        }
        let Some((meta, spec)) = pod_paths(resource) else { return Ok(()) };
        let key =
            Key::new(GroupKind::new("", "Namespace"), "", text_at(new, "/metadata/namespace"));
        let Some(namespace) = self.find(&key) else { return Ok(()) };
        let is_pod = resource.is("", "Pod");
        if is_pod && old.is_some_and(|old| old.get("spec") == new.get("spec")) {
            return Ok(());
        }
        let (enforce, warn) = policy(namespace.json());
        let (Some(spec), none) = (new.pointer(spec), Value::Null) else { return Ok(()) };
        let meta = new.pointer(meta).unwrap_or(&none);
        if is_pod {
            let found = violations(enforce.level, meta, spec);
            if !found.is_empty() {
                let problem = format!("violates PodSecurity \"{enforce}\": {}", details(&found));
                let name = text_at(new, "/metadata/name");
                return Err(ApiError::forbidden("", "pods", name, &problem));
            }
        }
        let found = violations(warn.level, meta, spec);
        if !found.is_empty() {
            warnings.push(format!("would violate PodSecurity \"{warn}\": {}", details(&found)));
        }
        Ok(())
    }

    fn check_namespace_labels(
        &self,
        old: Option<&Value>,
        new: &Value,
        warnings: &mut Vec<String>,
    ) -> Result<(), ApiError> {
        let name = text_at(new, "/metadata/name");
        let causes = label_faults(new);
        if !causes.is_empty() && old.is_none_or(|old| label_faults(old) != causes) {
            return Err(ApiError::invalid("", "Namespace", name, causes));
        }
        let Some(old) = old else { return Ok(()) };
        let (before, enforce) = (policy(old).0, policy(new).0);
        let rises = enforce.level > before.level || enforce.version != before.version;
        if !rises || enforce.level == Level::Privileged {
            return Ok(());
        }
        let mut pods: BTreeMap<String, (String, usize)> = BTreeMap::new();
        let all = self.objects(&GroupKind::new("", "Pod"), Some(name)).take(PODS_MAX);
        for pod in all {
            let body = pod.json();
            let none = Value::Null;
            let meta = body.get("metadata").unwrap_or(&none);
            let found = violations(enforce.level, meta, body.get("spec").unwrap_or(&none));
            if !found.is_empty() {
                let reasons: Vec<String> = found.into_iter().map(|(reason, _)| reason).collect();
                let first = pods.entry(reasons.join(", ")).or_insert((pod.name().to_owned(), 0));
                first.1 += 1;
            }
        }
        if pods.is_empty() {
            return Ok(());
        }
        warnings.push(format!(
            "existing pods in namespace {name:?} violate the new PodSecurity enforce level \
             \"{enforce}\""
        ));
        let mut lines: Vec<String> = pods
            .into_iter()
            .map(|(reasons, (first, count))| match count {
                1 => format!("{first}: {reasons}"),
                2 => format!("{first} (and 1 other pod): {reasons}"),
                _ => format!("{first} (and {} other pods): {reasons}", count - 1),
            })
            .collect();
        lines.sort();
        warnings.extend(lines);
        Ok(())
    }
}

fn details(found: &[(String, String)]) -> String {
    let words: Vec<String> = found
        .iter()
        .map(
            |(reason, detail)| {
                if detail.is_empty() { reason.clone() } else { format!("{reason} ({detail})") }
            },
        )
        .collect();
    words.join(", ")
}
