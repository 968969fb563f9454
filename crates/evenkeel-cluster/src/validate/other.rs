use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{Check, names};
use crate::{
    rules::RuleTree,
    value::{list_at, number_at, text, text_at},
};

pub(super) fn service(body: &Value, check: &mut Check) {
    let spec = body.get("spec").unwrap_or(&Value::Null);
    check.one_of(spec, "type", "spec", &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"]);
    check.one_of(spec, "sessionAffinity", "spec", &["ClientIP", "None"]);
    check.labels(spec.get("selector"), "spec.selector");
    let ports = list_at(spec, "/ports");
    let is_headless = text(spec, "clusterIP") == "None";
    let is_name = text(spec, "type") == "ExternalName";
    if is_name && text(spec, "externalName").is_empty() {
        check.required("spec.externalName", "");
    }
    if ports.is_empty() && !is_headless && !is_name {
        check.required("spec.ports", "");
    }
    let (mut by_name, mut by_number) = (BTreeSet::new(), BTreeSet::new());
    for (index, port) in ports.iter().enumerate() {
        let at = format!("spec.ports[{index}]");
        let name = text(port, "name");
        if name.is_empty() && ports.len() > 1 {
            check.required(&format!("{at}.name"), "");
        } else if !name.is_empty() {
            if let Err(why) = names::label(name) {
                check.invalid(&format!("{at}.name"), &json!(name), why);
            }
            if !by_name.insert(name) {
                check.duplicate(&format!("{at}.name"), &json!(name));
            }
        }
        let number = port.get("port").unwrap_or(&Value::Null);
        check.port(number, &format!("{at}.port"));
        check.one_of(port, "protocol", &at, &["SCTP", "TCP", "UDP"]);
        if let Some(target) = port.get("targetPort") {
            check.port_or_name(target, &format!("{at}.targetPort"));
        }
        if !by_number.insert((number.as_i64(), text(port, "protocol"))) {
            check.duplicate(&at, port);
        }
    }
}

pub(super) fn service_updated(old: &Value, new: &Value, check: &mut Check) {
    let (had, have) = (text_at(old, "/spec/clusterIP"), text_at(new, "/spec/clusterIP"));
    let is_same_kind = text_at(new, "/spec/type") != "ExternalName"
        && text_at(old, "/spec/type") != "ExternalName";
    if is_same_kind && !had.is_empty() && !have.is_empty() && had != have {
        check.invalid("spec.clusterIPs[0]", &json!([have]), "may not change once set");
    }
}

pub(super) fn data(body: &Value, check: &mut Check) {
    for part in ["data", "binaryData"] {
        for name in body.get(part).and_then(Value::as_object).into_iter().flatten() {
            if let Err(why) = names::config_key(name.0) {
                check.invalid(&format!("{part}[{}]", name.0), &json!(name.0), why);
            }
        }
    }
}

pub(super) fn immutable_data(old: &Value, new: &Value, check: &mut Check) {
    if old.get("immutable") != Some(&Value::Bool(true)) {
        return;
    }
    for part in ["data", "binaryData", "immutable"] {
        if old.get(part) != new.get(part) {
            check.forbidden(part, "field is immutable when `immutable` is set");
        }
    }
}

pub(super) fn disruption_budget(body: &Value, check: &mut Check) {
    let spec = body.get("spec").unwrap_or(&Value::Null);
    let has = |name: &str| spec.get(name).is_some_and(|value| !value.is_null());
    if has("minAvailable") && has("maxUnavailable") {
        let why = "minAvailable and maxUnavailable cannot be both set";
        check.invalid("spec", &json!({}), why);
    }
    for name in ["minAvailable", "maxUnavailable"] {
        let value = spec.get(name).unwrap_or(&Value::Null);
        let is_percent = value.as_str().is_some_and(|text| {
            text.strip_suffix('%').is_some_and(|number| number.parse::<u8>().is_ok())
        });
        let is_number = value.as_i64().is_some_and(|number| number >= 0);
        if has(name) && !is_percent && !is_number {
            let why = "must be a number, 0 or more, or a percentage such as 50%";
            check.invalid(&format!("spec.{name}"), value, why);
        }
    }
}

pub(super) fn endpoint_slice(body: &Value, check: &mut Check) {
    if text(body, "addressType").is_empty() {
        check.required("addressType", "");
    }
    let allowed = ["FQDN", "IPv4", "IPv6"];
    if !text(body, "addressType").is_empty() && !allowed.contains(&text(body, "addressType")) {
        check.invalid("addressType", &body["addressType"], "must be FQDN, IPv4 or IPv6");
    }
    for (index, endpoint) in list_at(body, "/endpoints").iter().enumerate() {
        if list_at(endpoint, "/addresses").is_empty() {
            let why = "must contain at least 1 address";
            check.required(&format!("endpoints[{index}].addresses"), why);
        }
    }
}

pub(super) fn definition(body: &Value, check: &mut Check) {
    let spec = body.get("spec").unwrap_or(&Value::Null);
    let (plural, group) = (text_at(spec, "/names/plural"), text(spec, "group"));
    for (value, path) in [
        (group, "spec.group"),
        (plural, "spec.names.plural"),
        (text_at(spec, "/names/kind"), "spec.names.kind"),
    ] {
        if value.is_empty() {
            check.required(path, "");
        }
    }
    if text_at(body, "/metadata/name") != format!("{plural}.{group}") {
        let why = format!("must be spec.names.plural+\".\"+spec.group ({plural}.{group})");
        check.invalid("metadata.name", &json!(text_at(body, "/metadata/name")), why);
    }
    if text(spec, "scope").is_empty() {
        check.required("spec.scope", "");
    }
    check.one_of(spec, "scope", "spec", &["Cluster", "Namespaced"]);
    let versions = list_at(spec, "/versions");
    let stored = versions.iter().filter(|version| version.get("storage") == Some(&json!(true)));
    if stored.count() != 1 {
        let why = "must have exactly one version marked as storage version";
        check.invalid("spec.versions", &json!(versions.len()), why);
    }
    for (index, version) in versions.iter().enumerate() {
        let at = format!("spec.versions[{index}]");
        if let Err(why) = names::service(text(version, "name")) {
            check.invalid(&format!("{at}.name"), &json!(text(version, "name")), why);
        }
        let schema = version.pointer("/schema/openAPIV3Schema");
        if !schema.is_some_and(Value::is_object) {
            check.required(&format!("{at}.schema.openAPIV3Schema"), "schemas are required");
        } else if schema.is_some_and(|schema| text(schema, "type") != "object") {
            let why = "must be object at the root";
            check.required(&format!("{at}.schema.openAPIV3Schema.type"), why);
        }
        if let Some(schema) = schema {
            // The schema of the only version is shown as that of all.
            let path = match versions.len() {
                1 => "spec.validation.openAPIV3Schema".to_owned(),
                _ => format!("{at}.schema.openAPIV3Schema"),
            };
            RuleTree::compile(schema, &path, &mut check.causes);
        }
        for (number, column) in list_at(version, "/additionalPrinterColumns").iter().enumerate() {
            let at = format!("{at}.additionalPrinterColumns[{number}]");
            for name in ["name", "type", "jsonPath"] {
                if text(column, name).is_empty() {
                    check.required(&format!("{at}.{name}"), "");
                }
            }
            if number_at(column, "/priority").is_some_and(|priority| priority < 0) {
                check.invalid(&format!("{at}.priority"), &column["priority"], "must be 0 or more");
            }
        }
    }
}
