//! Fields of a pod as text, for downwardAPI volumes and the environment.

use std::{collections::BTreeMap, fmt::Write as _};

use evenkeel_api::Quantity;
use k8s_openapi::api::core::v1::{Container, Pod, ResourceFieldSelector};

/// A field of a pod's metadata.
///
/// **Source**: `ExtractFieldPathAsString` in `pkg/fieldpath/fieldpath.go`.
pub(crate) fn metadata_field(pod: &Pod, path: &str) -> Result<String, String> {
    let meta = &pod.metadata;
    let maps = [("metadata.labels", &meta.labels), ("metadata.annotations", &meta.annotations)];
    for (name, map) in maps {
        let empty = BTreeMap::new();
        let map = map.as_ref().unwrap_or(&empty);
        if path == name {
            return Ok(format_map(map));
        }
        let key = path.strip_prefix(name).and_then(|rest| rest.strip_prefix("['"));
        if let Some(key) = key.and_then(|rest| rest.strip_suffix("']")) {
            return Ok(map.get(key).cloned().unwrap_or_default());
        }
    }
    let value = match path {
        "metadata.name" => &meta.name,
        "metadata.namespace" => &meta.namespace,
        "metadata.uid" => &meta.uid,
        _ => return Err(format!("unsupported fieldPath: {path}")),
    };
    Ok(value.clone().unwrap_or_default())
}

/// `key="value"` per line, in order of keys. **Source**: `FormatMap` there.
fn format_map(map: &BTreeMap<String, String>) -> String {
    let lines: Vec<String> =
        map.iter().map(|(key, value)| format!("{key}={}", quoted(value))).collect();
    lines.join("\n")
}

/// As Go's `%q`.
fn quoted(text: &str) -> String {
    let mut out = String::from('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            // Writing to a String cannot fail.
            c if u32::from(c) < 0x20 || u32::from(c) == 0x7f => {
                write!(out, "\\x{:02x}", u32::from(c)).unwrap_or_default();
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// An amount that a container may use or asks for, divided and rounded up. A limit that is not set
/// is all that the node has.
///
/// **Source**: `ExtractContainerResourceValue` in `pkg/api/v1/resource/helpers.go`.
pub(crate) fn resource_value(
    container: &Container,
    field: &ResourceFieldSelector,
    allocatable: &BTreeMap<String, String>,
) -> Result<String, String> {
    let fail = || format!("unsupported container resource : {}", field.resource);
    let (list, name) = field.resource.split_once('.').ok_or_else(fail)?;
    let is_known =
        matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-");
    if !is_known || !matches!(list, "limits" | "requests") {
        return Err(fail());
    }
    let amounts = container.resources.as_ref().and_then(|resources| match list {
        "limits" => resources.limits.as_ref(),
        _ => resources.requests.as_ref(),
    });
    let stated = amounts.and_then(|amounts| amounts.get(name)).map(|amount| amount.0.as_str());
    let of_node = || allocatable.get(name).filter(|_| list == "limits").map(String::as_str);
    let text = stated.or_else(of_node).unwrap_or("0");
    let parse = |text: &str| Quantity::parse(text).map_err(|error| error.to_string());
    let amount = parse(text)?.millis;
    let divisor = field.divisor.as_ref().map_or(Ok(0), |d| parse(&d.0).map(|d| d.millis))?;
    let divisor = if divisor == 0 { 1_000 } else { divisor };
    let divided = amount.div_euclid(divisor) + i128::from(amount.rem_euclid(divisor) > 0);
    Ok(divided.to_string())
}
