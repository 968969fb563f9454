use std::collections::BTreeSet;

use evenkeel_api::Quantity;
use serde_json::{Value, json};

use super::{Check, names, volumes as volume_rules};
use crate::value::{list_at, text};

/// A pod's spec, or that of a template. `claimed`: volumes that its pods get besides those in it.
pub(super) fn spec(spec: &Value, path: &str, claimed: &[&str], check: &mut Check) {
    let mut volumes = BTreeSet::new();
    for (index, volume) in list_at(spec, "/volumes").iter().enumerate() {
        let (name, at) = (text(volume, "name"), format!("{path}.volumes[{index}].name"));
        check_name(name, &at, names::label, check);
        if !volumes.insert(name) {
            check.duplicate(&at, &json!(name));
        }
        volume_rules::source(volume, &format!("{path}.volumes[{index}]"), check);
    }
    volumes.extend(claimed);
    if list_at(spec, "/containers").is_empty() {
        check.required(&format!("{path}.containers"), "");
    }
    let mut seen = BTreeSet::new();
    for list in ["initContainers", "containers"] {
        for (index, container) in list_at(spec, &format!("/{list}")).iter().enumerate() {
            let at = format!("{path}.{list}[{index}]");
            let name = text(container, "name");
            check_name(name, &format!("{at}.name"), names::label, check);
            if !name.is_empty() && !seen.insert(name) {
                check.duplicate(&format!("{at}.name"), &json!(name));
            }
            self::container(container, &at, &volumes, check);
        }
    }
    check.one_of(spec, "restartPolicy", path, &["Always", "OnFailure", "Never"]);
    check.one_of(
        spec,
        "dnsPolicy",
        path,
        &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"],
    );
    check.at_least(spec, "terminationGracePeriodSeconds", path, 0);
    check.at_least(spec, "activeDeadlineSeconds", path, 1);
    check.labels(spec.get("nodeSelector"), &format!("{path}.nodeSelector"));
    placement(spec, path, check);
}

fn check_name(
    name: &str,
    path: &str,
    shape: fn(&str) -> Result<(), &'static str>,
    check: &mut Check,
) {
    if name.is_empty() {
        check.required(path, "");
    } else if let Err(why) = shape(name) {
        check.invalid(path, &json!(name), why);
    }
}

fn placement(spec: &Value, path: &str, check: &mut Check) {
    for (index, toleration) in list_at(spec, "/tolerations").iter().enumerate() {
        let at = format!("{path}.tolerations[{index}]");
        check.one_of(toleration, "operator", &at, &["Equal", "Exists"]);
        check.one_of(toleration, "effect", &at, &["NoSchedule", "PreferNoSchedule", "NoExecute"]);
        let operator = text(toleration, "operator");
        if text(toleration, "key").is_empty() && operator != "Exists" {
            let why = "operator must be Exists when `key` is empty, which means \"match all \
                values and all keys\"";
            check.invalid(&format!("{at}.operator"), &json!(operator), why);
        }
        if operator == "Exists" && !text(toleration, "value").is_empty() {
            let why = "value must be empty when `operator` is 'Exists'";
            check.invalid(&format!("{at}.operator"), toleration, why);
        }
    }
    for (index, spread) in list_at(spec, "/topologySpreadConstraints").iter().enumerate() {
        let at = format!("{path}.topologySpreadConstraints[{index}]");
        check.at_least(spread, "maxSkew", &at, 1);
        if text(spread, "topologyKey").is_empty() {
            check.required(&format!("{at}.topologyKey"), "can not be empty");
        }
        if text(spread, "whenUnsatisfiable").is_empty() {
            check.required(&format!("{at}.whenUnsatisfiable"), "");
        }
        check.one_of(spread, "whenUnsatisfiable", &at, &["DoNotSchedule", "ScheduleAnyway"]);
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        let list = format!("/affinity/{kind}/requiredDuringSchedulingIgnoredDuringExecution");
        for (index, term) in list_at(spec, &list).iter().enumerate() {
            if text(term, "topologyKey").is_empty() {
                let at = list.replace('/', ".");
                check.required(&format!("{path}{at}[{index}].topologyKey"), "can not be empty");
            }
        }
    }
}

fn container(container: &Value, path: &str, volumes: &BTreeSet<&str>, check: &mut Check) {
    let image = text(container, "image");
    if image.is_empty() {
        check.required(&format!("{path}.image"), "");
    } else if image.trim() != image {
        let why = "must not have leading or trailing whitespace";
        check.invalid(&format!("{path}.image"), &json!(image), why);
    }
    check.one_of(container, "imagePullPolicy", path, &["Always", "IfNotPresent", "Never"]);
    ports(container, path, check);
    env(container, path, check);
    resources(container.get("resources").unwrap_or(&Value::Null), path, check);
    volume_rules::mounts(container, path, volumes, check);
    for (name, is_once) in
        [("livenessProbe", true), ("readinessProbe", false), ("startupProbe", true)]
    {
        if let Some(probe) = container.get(name).filter(|probe| probe.is_object()) {
            self::probe(probe, &format!("{path}.{name}"), is_once, check);
        }
    }
    for name in ["postStart", "preStop"] {
        let hook = container.pointer(&format!("/lifecycle/{name}"));
        if let Some(hook) = hook.filter(|hook| hook.is_object()) {
            handler(
                hook,
                &format!("{path}.lifecycle.{name}"),
                &["exec", "httpGet", "tcpSocket", "sleep"],
                check,
            );
        }
    }
}

fn ports(container: &Value, path: &str, check: &mut Check) {
    let mut seen = BTreeSet::new();
    for (index, port) in list_at(container, "/ports").iter().enumerate() {
        let at = format!("{path}.ports[{index}]");
        match port.get("containerPort") {
            None => check.required(&format!("{at}.containerPort"), ""),
            Some(number) if *number == 0 => check.required(&format!("{at}.containerPort"), ""),
            Some(number) => check.port(number, &format!("{at}.containerPort")),
        }
        if let Some(number) = port.get("hostPort").filter(|number| **number != 0) {
            check.port(number, &format!("{at}.hostPort"));
        }
        let name = text(port, "name");
        if !name.is_empty() {
            if let Err(why) = names::port_name(name) {
                check.invalid(&format!("{at}.name"), &json!(name), why);
            }
            if !seen.insert(name) {
                check.duplicate(&format!("{at}.name"), &json!(name));
            }
        }
        check.one_of(port, "protocol", &at, &["SCTP", "TCP", "UDP"]);
    }
}

fn env(container: &Value, path: &str, check: &mut Check) {
    for (index, variable) in list_at(container, "/env").iter().enumerate() {
        let at = format!("{path}.env[{index}]");
        let name = text(variable, "name");
        if name.is_empty() {
            check.required(&format!("{at}.name"), "");
        } else if name.contains('=') || !name.chars().all(|c| c.is_ascii_graphic() || c == ' ') {
            let why = "a valid environment variable name must consist only of printable ASCII \
                characters other than '='";
            check.invalid(&format!("{at}.name"), &json!(name), why);
        }
        let from = variable.get("valueFrom").filter(|from| from.is_object());
        if from.is_some() && !text(variable, "value").is_empty() {
            let why = "may not be specified when `value` is not empty";
            check.invalid(&format!("{at}.valueFrom"), &json!(""), why);
        }
        if from.and_then(Value::as_object).is_some_and(serde_json::Map::is_empty) {
            let why = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or \
                `secretKeyRef`";
            check.invalid(&format!("{at}.valueFrom"), &json!(""), why);
        }
    }
}

fn resources(resources: &Value, path: &str, check: &mut Check) {
    let parse = |value: &Value| value.as_str().and_then(|text| Quantity::parse(text).ok());
    for part in ["limits", "requests"] {
        for (name, value) in resources.get(part).and_then(Value::as_object).into_iter().flatten() {
            let at = format!("{path}.resources.{part}[{name}]");
            match parse(value) {
                None => check.invalid(&at, value, "must be a quantity such as 250m, 2 or 1.5Gi"),
                Some(amount) if amount.millis < 0 => {
                    check.invalid(&at, value, "must be greater than or equal to 0");
                }
                Some(_) => {}
            }
        }
    }
    let limits = resources.get("limits").and_then(Value::as_object);
    for (name, limit) in limits.into_iter().flatten() {
        let request = resources.get("requests").and_then(|requests| requests.get(name));
        if let (Some(most), Some(request)) = (parse(limit), request)
            && parse(request).is_some_and(|least| least > most)
        {
            let limit = limit.as_str().unwrap_or_default();
            let why = format!("must be less than or equal to {name} limit of {limit}");
            check.invalid(&format!("{path}.resources.requests"), request, why);
        }
    }
}

fn probe(probe: &Value, path: &str, is_once: bool, check: &mut Check) {
    handler(probe, path, &["exec", "httpGet", "tcpSocket", "grpc"], check);
    check.at_least(probe, "initialDelaySeconds", path, 0);
    for name in ["timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"] {
        check.at_least(probe, name, path, 1);
    }
    if let Some(seconds) = probe.get("terminationGracePeriodSeconds") {
        if !is_once {
            check.invalid(
                &format!("{path}.terminationGracePeriodSeconds"),
                seconds,
                "must not be set for readinessProbes",
            );
        }
        check.at_least(probe, "terminationGracePeriodSeconds", path, 1);
    }
    let successes = probe.get("successThreshold").unwrap_or(&Value::Null);
    if is_once && successes.as_i64().is_some_and(|number| number > 1) {
        check.invalid(&format!("{path}.successThreshold"), successes, "must be 1");
    }
}

/// What a probe or a hook does: exactly one thing.
fn handler(body: &Value, path: &str, kinds: &[&str], check: &mut Check) {
    let said: Vec<&&str> =
        kinds.iter().filter(|kind| body.get(**kind).is_some_and(|v| !v.is_null())).collect();
    match said.as_slice() {
        [] => check.required(path, "must specify a handler type"),
        [_] => {}
        [_, more @ ..] => {
            for kind in more {
                let why = "may not specify more than 1 handler type";
                check.forbidden(&format!("{path}.{kind}"), why);
            }
        }
    }
    if let Some(get) = body.get("httpGet") {
        let port = get.get("port").unwrap_or(&Value::Null);
        check.port_or_name(port, &format!("{path}.httpGet.port"));
        check.one_of(get, "scheme", &format!("{path}.httpGet"), &["HTTP", "HTTPS"]);
    }
    if let Some(socket) = body.get("tcpSocket") {
        let port = socket.get("port").unwrap_or(&Value::Null);
        check.port_or_name(port, &format!("{path}.tcpSocket.port"));
    }
    if let Some(exec) = body.get("exec")
        && list_at(exec, "/command").is_empty()
    {
        check.required(&format!("{path}.exec.command"), "");
    }
}

/// Fields of a pod that may change after its creation.
const MUTABLE: &str = "pod updates may not change fields other than \
    `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,\
    `spec.tolerations` (only additions to existing tolerations),\
    `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// A change of a pod. Rules for new pods are not applied again: only images may have changed.
pub(super) fn updated(old: &Value, new: &Value, check: &mut Check) {
    let frozen = |body: &Value| {
        let mut spec = body.get("spec").cloned().unwrap_or_default();
        for list in ["containers", "initContainers"] {
            let containers = spec.get_mut(list).and_then(Value::as_array_mut);
            for container in containers.into_iter().flatten() {
                container["image"] = Value::Null;
                // Follows the image's tag when it was left to the server.
                container["imagePullPolicy"] = Value::Null;
            }
        }
        for name in ["activeDeadlineSeconds", "tolerations"] {
            spec[name] = Value::Null;
        }
        spec
    };
    let kept = list_at(new, "/spec/tolerations");
    let has_all = list_at(old, "/spec/tolerations").iter().all(|had| kept.contains(had));
    if frozen(old) != frozen(new) || !has_all {
        check.forbidden("spec", MUTABLE);
    }
    for list in ["containers", "initContainers"] {
        for (index, container) in list_at(new, &format!("/spec/{list}")).iter().enumerate() {
            if text(container, "image").is_empty() {
                check.required(&format!("spec.{list}[{index}].image"), "");
            }
        }
    }
}
