//! The Helm chart, made of the same objects as `evenkeel install` prints.

use std::path::Path;

use anyhow::Context as _;
use evenkeel_assembly::domains;
use serde_json::{Value, json};

use super::{
    parts::{grants, labels, lease_rules, resources, rule},
    place::NAME_MAX,
    template::{Filling, When},
    word,
};
use crate::manage::ManageArg;

/// On top of every file that takes comments.
const MADE: &str = "# Made by `evenkeel chart`; do not edit.\n";

/// What can be chosen.
const MANAGE: [ManageArg; 3] = [ManageArg::Auto, ManageArg::Annotated, ManageArg::All];

const NOTES: &str = "\
The controllers are starting:

  kubectl rollout status -n {{ .Release.Namespace }} statefulset/{{ include \"evenkeel.name\" . }}
  evenkeel why canary/NAME -n NAMESPACE

Before `helm uninstall`, delete the Canaries that shall be reverted. After it, run this, which
removes what Helm does not know: Leases, finalizers on Canaries, volumes if you want so.

  evenkeel uninstall -n {{ .Release.Namespace }}
  {{- with .Values.only }} --only {{ join \",\" . }}{{ end }}
  {{- with .Values.watchNamespace }} --watch-namespace {{ . }}{{ end }}
";

/// Writes the chart, in place of what is there.
pub(crate) fn write(dir: &Path) -> anyhow::Result<()> {
    for (name, text) in files() {
        let path = dir.join(name);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        }
        std::fs::write(&path, text).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

/// Every file of the chart, by its path in it.
fn files() -> Vec<(&'static str, String)> {
    vec![
        ("Chart.yaml", description()),
        ("values.yaml", values()),
        ("values.schema.json", format!("{:#}\n", schema())),
        ("crds/evenkeel.yaml", evenkeel_api::crds_yaml(false)),
        ("templates/_helpers.tpl", names()),
        ("templates/evenkeel.yaml", format!("{MADE}{}", objects())),
        ("templates/NOTES.txt", NOTES.to_owned()),
    ]
}

fn description() -> String {
    let version = env!("CARGO_PKG_VERSION");
    format!(
        "{MADE}apiVersion: v2\nname: evenkeel\nversion: {version}\nappVersion: \"{version}\"\n\
         description: Releases, SLOs and error budgets on any Kubernetes\n\
         kubeVersion: \">=1.27.0-0\"\n"
    )
}

fn values() -> String {
    let groups: Vec<_> = domains().iter().map(|domain| domain.name).collect();
    format!(
        "{MADE}\
# Image with the program as its entry point; required.
image: \"\"
# Prometheus that has the gateway's or mesh's metrics, as pods reach it; required.
prometheus: \"\"
# Only these groups of controllers, and their rights: {groups}; empty means all.
only: []
# Look after this namespace alone, with rights in it alone.
watchNamespace: \"\"
# Which Canaries and SLOs are acted on: {manage}, as of `evenkeel run --manage`; the others
# are only observed.
manage: {auto}
# Processes, of which one leads each group.
replicas: 2
resources: {resources}
# The volume for the record of each process; it cannot be changed later.
storage:
  size: 2Gi
  # Empty: the default StorageClass of the cluster.
  className: \"\"
# Secret for one record of all replicas in PostgreSQL, instead of one on the volume of each: `url` as
# of `evenkeel run --record`, and the private key `audit.key`.
recordSecret: \"\"
# Also a ServiceMonitor, for the Prometheus operator.
serviceMonitor: false
",
        groups = groups.join(", "),
        manage = MANAGE.map(word).join(", "),
        auto = word(ManageArg::Auto),
        resources = resources(),
    )
}

/// What the values may be, as the flags of `install` are checked.
fn schema() -> Value {
    let groups: Vec<_> = domains().iter().map(|domain| domain.name).collect();
    let text = |pattern: &str| json!({"type": "string", "pattern": pattern});
    json!({
        "$schema": "https://json-schema.org/draft-07/schema#",
        "type": "object",
        "additionalProperties": false,
        "properties": {
            "global": {"type": "object"},
            "image": text("^[A-Za-z0-9._/:@-]*$"),
            "prometheus": {"type": "string"},
            "only": {"type": "array", "items": {"enum": groups}},
            "watchNamespace": text("^([a-z0-9]([-a-z0-9]*[a-z0-9])?)?$"),
            "manage": {"enum": MANAGE.map(word)},
            "replicas": {"type": "integer", "minimum": 1, "maximum": 9},
            "resources": {"type": "object"},
            "storage": {
                "type": "object",
                "additionalProperties": false,
                "properties": {
                    "size": text("^[1-9][0-9]*([kMGT]|[KMGT]i)?$"),
                    "className": text("^([a-z0-9]([-.a-z0-9]*[a-z0-9])?)?$"),
                }
            },
            "recordSecret": text("^([a-z0-9]([-.a-z0-9]*[a-z0-9])?)?$"),
            "serviceMonitor": {"type": "boolean"},
        }
    })
}

/// As `Place` names the objects.
fn names() -> String {
    let groups: Vec<_> = domains().iter().map(|domain| format!("\"{}\"", domain.name)).collect();
    format!(
        r#"{{{{- /* Made by `evenkeel chart`; do not edit. */ -}}}}
{{{{- define "evenkeel.groups" -}}}}
{{{{- $groups := list }}}}
{{{{- range list {groups} }}}}
{{{{- if has . $.Values.only }}}}{{{{ $groups = append $groups . }}}}{{{{ end }}}}
{{{{- end }}}}
{{{{- join "-" $groups }}}}
{{{{- end }}}}

{{{{- define "evenkeel.name" -}}}}
{{{{- $name := "evenkeel" }}}}
{{{{- with include "evenkeel.groups" . }}}}{{{{ $name = printf "%s-%s" $name . }}}}{{{{ end }}}}
{{{{- if and .Values.watchNamespace (ne .Values.watchNamespace .Release.Namespace) }}}}
{{{{- $name = printf "%s-ns-%s" $name .Values.watchNamespace }}}}
{{{{- end }}}}
{{{{- if gt (len $name) {max} }}}}
{{{{- fail (printf "%s is too long a name: install into the namespace that is watched" $name) }}}}
{{{{- end }}}}
{{{{- $name }}}}
{{{{- end }}}}

{{{{- define "evenkeel.role" -}}}}
evenkeel-{{{{ .Release.Namespace }}}}{{{{ with include "evenkeel.groups" . }}}}:{{{{ . }}}}{{{{ end }}}}
{{{{- end }}}}
"#,
        groups = groups.join(" "),
        max = NAME_MAX,
    )
}

/// The template of `install`, with Helm's expressions where it has values.
fn objects() -> String {
    let name = "{{ include \"evenkeel.name\" . }}";
    let text = |expression: &str| format!("{{{{ {expression} }}}}");
    let required = |what: &str, name: &str| format!("required \"{name}: {what}\" .Values.{name}");
    let image = required("an image with evenkeel as its entry point", "image");
    let prometheus = required("the URL of a Prometheus, as pods reach it", "prometheus");
    let texts = vec![
        ("namespace", text(".Release.Namespace")),
        ("name", name.to_owned()),
        ("role", text("include \"evenkeel.role\" .")),
        ("watched", text(".Values.watchNamespace")),
        ("only", text("include \"evenkeel.groups\" . | replace \"-\" \",\"")),
        ("manage", text(".Values.manage")),
        ("labels", labels(name)),
        ("rules", rules(false)),
        ("rules_within", rules(true)),
        ("lease_rules", lease_rules()),
        ("prometheus", text(&format!("printf \"--prometheus=%s\" ({prometheus}) | quote"))),
        ("image", text(&image)),
        ("replicas", text(".Values.replicas")),
        ("resources", text(".Values.resources | toJson")),
        ("storage", text(".Values.storage.size")),
        ("storage_class", text(".Values.storage.className")),
        ("record", text(".Values.recordSecret")),
    ];
    let when = |expression: &str| When::If(expression.to_owned());
    let conditions = vec![
        ("cluster", when("not .Values.watchNamespace")),
        ("watched", when(".Values.watchNamespace")),
        ("only", when(".Values.only")),
        ("manage", when(&format!("ne .Values.manage \"{}\"", word(ManageArg::Auto)))),
        ("service_monitor", when(".Values.serviceMonitor")),
        ("storage_class", when(".Values.storage.className")),
        ("shared", when(".Values.recordSecret")),
        ("files", when("not .Values.recordSecret")),
    ];
    Filling { texts, conditions }.manifest()
}

/// Every right under the condition that one of its groups runs; only those that a Role can grant
/// `within` a namespace.
fn rules(within: bool) -> String {
    let mut grants = grants();
    grants.retain(|grant| !within || grant.is_of_a_namespace());
    let lines = grants.into_iter().map(|grant| {
        let line = rule(&grant.right);
        if grant.groups.is_empty() {
            return line;
        }
        let has = grant.groups.iter().map(|group| format!(" (has \"{group}\" .Values.only)"));
        let has: String = has.collect();
        format!("{{{{- if or (not .Values.only){has} }}}}\n{line}\n{{{{- end }}}}")
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chart_in_the_repository_is_what_is_made() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../charts/evenkeel");
        for (name, text) in files() {
            let there = std::fs::read_to_string(dir.join(name)).unwrap_or_default();
            assert!(there == text, "{name} differs: run `cargo run -- chart charts/evenkeel`");
        }
    }
}
