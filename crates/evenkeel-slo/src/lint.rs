//! `evenkeel slo lint` and `evenkeel slo export --sloth`: what Sloth would say, and what to hand it.

use std::collections::BTreeSet;

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::finding::{Condition, Finding, Severity, conditions, has_errors};
use crate::generate::{Options, generate_group, load_parsed, report_duplicates};
use crate::model::{Alert, Labels, PluginChain, Sli, Slo, SloGroup, SpecKind};
use crate::spec::{
    DocumentKind, Input, NOT_READ, Parsed, ReadOptions, Reading, add_lines, parse_all, read_group,
};
use crate::windows::Catalogue;
use crate::{reasons, yaml};

/// Everything there is to say about the inputs.
#[derive(Clone, Debug, Serialize)]
pub struct LintReport {
    /// One per SLO document, in order.
    pub objects: Vec<LintedObject>,
    /// All findings, also those that belong to no object.
    pub findings: Vec<Finding>,
}

/// One document with SLOs.
#[derive(Clone, Debug, Serialize)]
pub struct LintedObject {
    /// Where it is, `file.yaml#2`.
    pub source: String,
    /// `Kind/name`.
    pub object: String,
    /// What Sloth itself would answer.
    pub sloth: SlothVerdict,
    /// What evenkeel makes of it.
    pub conditions: Vec<Condition>,
    /// The manifest in a form Sloth accepts, when it does not accept this one and it can be
    /// corrected without guessing.
    pub corrected: Option<String>,
}

/// Sloth's answer to a document as written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", tag = "verdict")]
pub enum SlothVerdict {
    /// It generates rules.
    Accepted,
    /// It stops with this message.
    Refused {
        /// Sloth's words, as far as they are known.
        message: String,
    },
}

impl LintReport {
    /// True when something has to be corrected: the exit code is 1.
    pub fn failed(&self) -> bool {
        has_errors(&self.findings)
    }
}

/// Checks the inputs with evenkeel's rules and with Sloth's.
pub fn lint(inputs: &[Input], options: &Options) -> LintReport {
    let mut findings = Vec::new();
    let parsed = parse_all(inputs, &mut findings);
    skip_others(&parsed, &mut findings);
    let loaded = load_parsed(&parsed, options, &mut findings);
    let mut objects = Vec::new();
    let slo_documents = parsed.iter().filter(|p| matches!(p.kind, DocumentKind::Slos(_)));
    for document in slo_documents {
        let group = loaded.groups.iter().find(|g| g.source == document.source);
        let from = findings.len();
        if let Some(group) = group {
            generate_group(group, &loaded.catalogue, options, &mut findings);
        }
        let own: Vec<_> = findings
            .iter()
            .enumerate()
            .filter(|(i, f)| *i >= from || f.source == document.source)
            .map(|(_, f)| f.clone())
            .collect();
        let sloth = sloth_verdict(document, &parsed, &loaded.catalogue, options);
        let correctable = sloth != SlothVerdict::Accepted && !has_errors(&own);
        objects.push(LintedObject {
            source: document.source.clone(),
            object: document.object.clone(),
            corrected: group.filter(|_| correctable).map(|g| yaml::write(&exported(g))),
            conditions: conditions(&own),
            sloth,
        });
    }
    report_duplicates(&loaded.groups, Severity::Error, &mut findings);
    add_lines(&parsed, &mut findings);
    LintReport { objects, findings }
}

/// The inputs in a form Sloth accepts, one YAML document per source document.
///
/// What only evenkeel knows is left out and reported. `Err`: all findings.
pub fn export_sloth(
    inputs: &[Input],
    options: &Options,
) -> Result<(String, Vec<Finding>), Vec<Finding>> {
    let report = lint(inputs, options);
    if report.failed() {
        return Err(report.findings);
    }
    let mut findings = Vec::new();
    let parsed = parse_all(inputs, &mut findings);
    skip_others(&parsed, &mut findings);
    let loaded = load_parsed(&parsed, options, &mut findings);
    let documents: Vec<_> = loaded.groups.iter().map(|g| yaml::write(&exported(g))).collect();
    for group in &loaded.groups {
        for slo in &group.slos {
            let lost = [(slo.own_window, "window"), (!slo.group_by.is_empty(), "groupBy")];
            for (_, field) in lost.into_iter().filter(|(lost, _)| *lost) {
                findings.push(Finding {
                    severity: Severity::Warning,
                    reason: reasons::EXTENSION_FIELD,
                    source: group.source.clone(),
                    line: None,
                    object: group.object.clone(),
                    field: format!("{}.{field}", slo.path),
                    message: format!("Sloth has no {field}; it is left out"),
                    fix: if field == "window" {
                        format!("run sloth with --default-slo-period {}", slo.window)
                    } else {
                        String::new()
                    },
                });
            }
        }
    }
    add_lines(&parsed, &mut findings);
    Ok((documents.join("---\n"), findings))
}

/// Replaces the errors about documents of other kinds by one note: manifests of a service are often
/// kept in one file. Where nothing is an SLO, or the kind may be one that is misspelled, the errors
/// stay.
fn skip_others(parsed: &[Parsed], findings: &mut Vec<Finding>) {
    if !parsed.iter().any(|one| matches!(one.kind, DocumentKind::Slos(_))) {
        return;
    }
    let is_other = |finding: &Finding| {
        finding.reason == reasons::UNKNOWN_KIND
            && finding.message.ends_with(NOT_READ)
            && !SLO_GROUPS.iter().any(|group| finding.message.starts_with(group))
    };
    let (others, kept): (Vec<_>, Vec<_>) = findings.drain(..).partition(is_other);
    *findings = kept;
    let Some(first) = others.first() else { return };
    let kinds: BTreeSet<&str> =
        others.iter().filter_map(|it| it.message.strip_suffix(NOT_READ)).collect();
    let documents = if others.len() == 1 { "document is" } else { "documents are" };
    findings.push(Finding {
        severity: Severity::Info,
        message: format!(
            "{} {documents} no SLO and skipped: {}",
            others.len(),
            kinds.into_iter().collect::<Vec<_>>().join(", ")
        ),
        fix: String::new(),
        ..first.clone()
    });
}

/// API groups whose documents are SLOs.
const SLO_GROUPS: [&str; 2] = ["sloth.slok.dev/", "openslo/"];

/// What Sloth answers: its reader, its checks, its catalogue, without our leniency.
fn sloth_verdict(
    document: &Parsed,
    all: &[Parsed],
    catalogue: &Catalogue,
    options: &Options,
) -> SlothVerdict {
    let refused = |message: String| SlothVerdict::Refused { message };
    if document.kind == DocumentKind::Slos(SpecKind::OpenSloV1) {
        let message = "invalid spec, could not load with any of the supported spec types";
        return refused(message.to_owned());
    }
    let how = ReadOptions { reading: Reading::Sloth, default_window: options.default_window };
    let mut findings = Vec::new();
    let strict = Options { reading: Reading::Sloth, ..options.clone() };
    if let Some(group) = read_group(document, all, how, &mut findings) {
        generate_group(&group, catalogue, &strict, &mut findings);
    }
    // Sloth counts a grouping label as an unknown field, so it never complains about one.
    let first = findings.into_iter().find(|f| f.severity == Severity::Error);
    first.map_or(SlothVerdict::Accepted, |f| refused(f.message))
}

/// One document in Sloth's notation: the Kubernetes kind stays one, all else takes the file form.
fn exported(group: &SloGroup) -> Value {
    let kubernetes = group.kind == SpecKind::Kubernetes;
    let service = group.slos.first().map_or("", |s| s.service.as_str());
    let shared = shared_labels(&group.slos);
    let mut spec = Map::new();
    if !kubernetes {
        spec.insert("version".to_owned(), json!("prometheus/v1"));
    }
    spec.insert("service".to_owned(), json!(service));
    if !shared.is_empty() {
        spec.insert("labels".to_owned(), json!(shared));
    }
    let slos: Vec<_> = group.slos.iter().map(|s| exported_slo(s, &shared, kubernetes)).collect();
    spec.insert("slos".to_owned(), Value::Array(slos));
    if !kubernetes {
        return Value::Object(spec);
    }
    let meta = &group.metadata;
    let mut metadata = Map::from_iter([("name".to_owned(), json!(meta.name))]);
    if !meta.namespace.is_empty() {
        metadata.insert("namespace".to_owned(), json!(meta.namespace));
    }
    for (key, labels) in [("labels", &meta.labels), ("annotations", &meta.annotations)] {
        if !labels.is_empty() {
            metadata.insert(key.to_owned(), json!(labels));
        }
    }
    json!({
        "apiVersion": "sloth.slok.dev/v1",
        "kind": "PrometheusServiceLevel",
        "metadata": metadata,
        "spec": spec,
    })
}

/// Labels that every SLO has with the same value.
fn shared_labels(slos: &[Slo]) -> Labels {
    let Some((first, rest)) = slos.split_first() else { return Labels::new() };
    let everywhere = |k: &String, v: &String| rest.iter().all(|s| s.labels.get(k) == Some(v));
    first
        .labels
        .iter()
        .filter(|(k, v)| everywhere(k, v))
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect()
}

fn exported_slo(slo: &Slo, shared: &Labels, camel: bool) -> Value {
    let key = |camel_key: &str, snake_key: &str| {
        if camel { camel_key.to_owned() } else { snake_key.to_owned() }
    };
    let mut out = Map::new();
    out.insert("name".to_owned(), json!(slo.name));
    out.insert("objective".to_owned(), json!(slo.objective));
    if !slo.description.is_empty() {
        out.insert("description".to_owned(), json!(slo.description));
    }
    let own: Labels = slo
        .labels
        .iter()
        .filter(|(k, v)| shared.get(*k) != Some(v))
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect();
    if !own.is_empty() {
        out.insert("labels".to_owned(), json!(own));
    }
    if slo.plugins != PluginChain::default() {
        out.insert("plugins".to_owned(), exported_chain(&slo.plugins));
    }
    out.insert("sli".to_owned(), exported_sli(&slo.sli, &key));
    let mut alerting = Map::new();
    if let Some(alert) = slo.page_alert.as_ref().or(slo.ticket_alert.as_ref()) {
        alerting.insert("name".to_owned(), json!(alert.name));
    }
    let alerts = [
        (key("pageAlert", "page_alert"), &slo.page_alert),
        (key("ticketAlert", "ticket_alert"), &slo.ticket_alert),
    ];
    for (name, alert) in alerts {
        alerting.insert(name, exported_alert(alert.as_ref()));
    }
    out.insert("alerting".to_owned(), Value::Object(alerting));
    Value::Object(out)
}

fn exported_sli(sli: &Sli, key: &dyn Fn(&str, &str) -> String) -> Value {
    match (&sli.events, &sli.raw) {
        (Some(events), _) => json!({ "events": {
            key("errorQuery", "error_query"): events.error_query,
            key("totalQuery", "total_query"): events.total_query,
        } }),
        (None, Some(raw)) => json!({ "raw": { key("errorRatioQuery", "error_ratio_query"): raw } }),
        (None, None) => json!({}),
    }
}

fn exported_alert(alert: Option<&Alert>) -> Value {
    let Some(alert) = alert else { return json!({ "disable": true }) };
    let mut out = Map::new();
    for (key, labels) in [("labels", &alert.labels), ("annotations", &alert.annotations)] {
        if !labels.is_empty() {
            out.insert(key.to_owned(), json!(labels));
        }
    }
    Value::Object(out)
}

fn exported_chain(chain: &PluginChain) -> Value {
    let plugins: Vec<_> = chain
        .plugins
        .iter()
        .map(|p| json!({ "id": p.id, "priority": p.priority, "config": p.config }))
        .collect();
    json!({ "overridePrevious": chain.override_previous, "chain": plugins })
}
