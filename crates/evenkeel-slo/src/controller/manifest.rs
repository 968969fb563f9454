use std::{collections::BTreeMap, sync::Arc};

use evenkeel_api::{Obj, beside};
use evenkeel_base::stable_hash;
use serde_json::Value;

use crate::{
    finding::{Finding, has_errors},
    generate::{Mode, Options, generate, load},
    model::Slo,
    render::RuleSet,
    spec::Input,
};

/// What is written in an object, read once.
#[derive(Debug, Clone, Default)]
pub(crate) struct Manifest {
    pub(super) generation: i64,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
    /// Its rules, in short; `None` after an error.
    pub(crate) rules: Option<RulesMark>,
    /// What reading it had to say.
    pub(crate) findings: Vec<Finding>,
    pub(super) slos: Vec<Slo>,
}

/// What is remembered of an object's rules. They take some 30 kB an SLO and are asked for only when
/// those in the cluster differ; then they are generated again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RulesMark {
    /// SLOs in them.
    pub(crate) slos: usize,
    digest: u64,
}

impl RulesMark {
    fn of(set: &RuleSet) -> Self {
        Self { slos: set.slos, digest: digest(&groups(set)) }
    }

    /// Whether the rules as they stand are these.
    pub(crate) fn is_of(self, rules: &RulesRead) -> bool {
        rules.groups == Some(self.digest)
    }
}

/// What is remembered of a `PrometheusRule` as it stands.
#[derive(Debug, Clone)]
pub(crate) struct RulesRead {
    owners: Vec<String>,
    groups: Option<u64>,
}

impl RulesRead {
    pub(super) fn of(obj: &Obj) -> Self {
        let owners = obj.meta().owner_references.iter().flatten();
        Self {
            owners: owners.map(|owner| owner.uid.clone()).collect(),
            groups: obj.json().pointer("/spec/groups").map(digest),
        }
    }

    /// Whether the object with this uid is an owner.
    pub(crate) fn is_owned_by(&self, uid: &str) -> bool {
        self.owners.iter().any(|owner| owner == uid)
    }
}

/// The groups of rules as they stand in a `PrometheusRule`.
pub(super) fn groups(set: &RuleSet) -> Value {
    serde_json::to_value(&set.groups).unwrap_or_default()
}

/// The same for values that are equal: the order of fields does not count.
fn digest(value: &Value) -> u64 {
    fn write(value: &Value, out: &mut Vec<u8>) {
        match value {
            Value::Object(fields) => {
                let mut fields: Vec<_> = fields.iter().collect();
                fields.sort_unstable_by_key(|(name, _)| *name);
                out.extend(b"{");
                for (name, value) in fields {
                    out.extend(name.as_bytes());
                    out.extend(b"\0");
                    write(value, out);
                }
                out.extend(b"}");
            }
            Value::Array(items) => {
                out.extend(b"[");
                for item in items {
                    write(item, out);
                }
                out.extend(b"]");
            }
            Value::String(text) => {
                out.extend(b"\"");
                out.extend(text.as_bytes());
                out.extend(b"\0");
            }
            other => out.extend(format!("{other}\0").as_bytes()),
        }
    }
    let mut out = Vec::new();
    write(value, &mut out);
    stable_hash(&out)
}

impl Manifest {
    /// Whether it is still what stands in the object.
    pub(super) fn is_of(&self, obj: &Obj) -> bool {
        let none = BTreeMap::new();
        let meta = obj.meta();
        self.generation == obj.generation()
            && self.labels == *meta.labels.as_ref().unwrap_or(&none)
            && annotations(obj).eq(&self.annotations)
    }
}

/// Those that its author wrote: ours are no part of what its rules carry on.
fn annotations(obj: &Obj) -> impl Iterator<Item = (&String, &String)> {
    let all = obj.meta().annotations.iter().flatten();
    all.filter(|(name, _)| !beside::is_bookkeeping(name))
}

/// The SLOs and rules of an object, and everything there is to say about it.
pub(super) fn read(obj: &Obj) -> Arc<Manifest> {
    let (inputs, options) = asked(obj);
    let (group, rules, findings) = match generate(&inputs, &options) {
        Ok(mut output) => (output.groups.pop(), output.sets.pop(), output.findings),
        Err(findings) => {
            // The budget of what can be read is counted all the same.
            let mut read = Vec::new();
            let group = load(&inputs, &options, &mut read).groups.pop();
            (group.filter(|_| !has_errors(&read)), None, findings)
        }
    };
    Arc::new(Manifest {
        generation: obj.generation(),
        labels: obj.meta().labels.clone().unwrap_or_default(),
        annotations: annotations(obj).map(|(name, text)| (name.clone(), text.clone())).collect(),
        rules: rules.as_ref().map(RulesMark::of),
        findings,
        slos: group.map_or_else(Vec::new, |group| group.slos),
    })
}

/// The rules of an object; `None` after an error.
pub(super) fn rules(obj: &Obj) -> Option<RuleSet> {
    let (inputs, options) = asked(obj);
    generate(&inputs, &options).ok()?.sets.pop()
}

fn asked(obj: &Obj) -> ([Input; 1], Options) {
    let mut body = obj.json().clone();
    if let Some(Value::Object(all)) = body.pointer_mut("/metadata/annotations") {
        all.retain(|name, _| !beside::is_bookkeeping(name));
    }
    let input = Input { name: obj.key().to_string(), text: body.to_string() };
    let version = env!("CARGO_PKG_VERSION").to_owned();
    ([input], Options { mode: Mode::Controller, version, ..Options::default() })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_evenkeel_notes_on_an_object_is_no_part_of_its_rules() {
        let obj = |status: &str| {
            let body = json!({"apiVersion": "sloth.slok.dev/v1", "kind": "PrometheusServiceLevel",
                "metadata": {"name": "api", "namespace": "shop", "generation": 1, "annotations": {
                    "team": "shop", "evenkeel.dev/managed": "true", "evenkeel.dev/status": status}},
                "spec": {"service": "api", "slos": [{"name": "errors", "objective": 99.9,
                    "sli": {"raw": {"errorRatioQuery": "errors[{{.window}}]"}},
                    "alerting": {"name": "A"}}]}});
            Obj::from_json(body).unwrap()
        };
        let set = rules(&obj("1")).unwrap();
        assert_eq!(
            set.object.unwrap().annotations,
            BTreeMap::from([("team".into(), "shop".into())])
        );
        assert!(read(&obj("1")).is_of(&obj("2")));
    }

    #[test]
    fn rules_are_the_same_whatever_the_order_of_their_fields() {
        let one = json!([{"name": "a", "rules": [{"expr": "1", "labels": {"x": "y", "z": ""}}]}]);
        let two = json!([{"rules": [{"labels": {"z": "", "x": "y"}, "expr": "1"}], "name": "a"}]);
        assert_eq!(digest(&one), digest(&two));
        let others = [
            json!([{"name": "a", "rules": [{"expr": "2", "labels": {"x": "y", "z": ""}}]}]),
            json!([{"name": "a", "rules": [{"expr": 1, "labels": {"x": "y", "z": ""}}]}]),
            json!([{"name": "a", "rules": [{"expr": "1", "labels": {"x": "yz", "": ""}}]}]),
            json!([{"name": "a", "rules": [], "expr": "1"}]),
            json!([]),
            json!(null),
        ];
        for other in others {
            assert_ne!(digest(&one), digest(&other), "{other}");
        }
    }
}
