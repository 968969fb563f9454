//! Rule files: `groups:` as in Prometheus, also as the spec of a `PrometheusRule` object.

use crate::labels::is_valid_label_name;
use crate::number::parse_duration_ms;
use crate::parser::parse;
use crate::template::Template;
use serde::{Deserialize, Deserializer};
use std::collections::{BTreeMap, BTreeSet};

/// Rules one file may have.
const RULES_MAX: usize = 200_000;

/// A rule file that is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleFileError {
    /// The text is not YAML of this shape.
    #[error("{reason}")]
    Yaml {
        /// What is wrong, with line and field.
        reason: String,
    },
    /// A group or rule is not valid.
    #[error("group {group:?}, rule {rule}, {name:?}: {reason}")]
    Rule {
        /// The group.
        group: String,
        /// The rule's number in it, from 1; 0 for the group itself.
        rule: usize,
        /// The rule's name.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// A rule file.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleFile {
    /// Its groups.
    #[serde(default)]
    pub groups: Vec<GroupSpec>,
}

/// A group of rules that are evaluated one after the other at the same time.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupSpec {
    /// Name, unique in its file.
    #[serde(default)]
    pub name: String,
    /// Distance between evaluations in milliseconds.
    #[serde(default, deserialize_with = "duration")]
    pub interval: Option<i64>,
    /// How far back queries look, in milliseconds.
    #[serde(default, deserialize_with = "duration")]
    pub query_offset: Option<i64>,
    /// Most series or alerts a rule may give; 0 for no limit.
    #[serde(default)]
    pub limit: usize,
    /// Labels for all rules.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Rules in the order of evaluation.
    #[serde(default)]
    pub rules: Vec<RuleSpec>,
    /// Accepted for Thanos' sake, not used.
    #[serde(default)]
    pub partial_response_strategy: Option<String>,
}

/// A recording or alerting rule.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleSpec {
    /// Metric name of a recording rule.
    #[serde(default)]
    pub record: Option<String>,
    /// Name of an alerting rule.
    #[serde(default)]
    pub alert: Option<String>,
    /// The query.
    #[serde(default)]
    pub expr: String,
    /// How long an alert stays pending, milliseconds.
    #[serde(default, rename = "for", deserialize_with = "duration")]
    pub hold: Option<i64>,
    /// How long an alert keeps firing without its cause, milliseconds.
    #[serde(default, deserialize_with = "duration")]
    pub keep_firing_for: Option<i64>,
    /// Labels of the result; templates for alerts.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Annotations of alerts; templates.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
}

impl RuleFile {
    /// Reads and checks a file.
    pub fn parse(yaml: &str) -> Result<Self, RuleFileError> {
        let file: Self = evenkeel_yaml::from_str(yaml)
            .map_err(|e| RuleFileError::Yaml { reason: e.to_string() })?;
        file.check()?;
        Ok(file)
    }

    /// Checks names, queries, labels and templates.
    pub fn check(&self) -> Result<(), RuleFileError> {
        let mut names = BTreeSet::new();
        let mut rules = 0;
        for group in &self.groups {
            let bad = |rule: usize, name: &str, reason: String| {
                let (group, name) = (group.name.clone(), name.to_owned());
                Err(RuleFileError::Rule { group, rule, name, reason })
            };
            if group.name.is_empty() {
                return bad(0, "", "groupname must not be empty".to_owned());
            }
            if !names.insert(&group.name) {
                return bad(0, "", "groupname is repeated in the same file".to_owned());
            }
            rules += group.rules.len();
            if rules > RULES_MAX {
                return bad(0, "", format!("more than {RULES_MAX} rules"));
            }
            for (i, rule) in group.rules.iter().enumerate() {
                if let Err(reason) = rule.check() {
                    return bad(i + 1, rule.name(), reason);
                }
            }
        }
        Ok(())
    }
}

impl RuleSpec {
    /// The metric or alert name.
    pub fn name(&self) -> &str {
        self.record.as_deref().or(self.alert.as_deref()).unwrap_or_default()
    }

    fn check(&self) -> Result<(), String> {
        match (&self.record, &self.alert) {
            (Some(_), Some(_)) => {
                return Err("only one of 'record' and 'alert' must be set".to_owned());
            }
            (None, None) => return Err("one of 'record' or 'alert' must be set".to_owned()),
            _ => {}
        }
        if self.name().is_empty() {
            return Err("the name must not be empty".to_owned());
        }
        if self.expr.is_empty() {
            return Err("field 'expr' must be set in rule".to_owned());
        }
        parse(&self.expr).map_err(|e| format!("could not parse expression: {e}"))?;
        if let Some(record) = &self.record {
            let stray = [
                ("for", self.hold.is_some()),
                ("keep_firing_for", self.keep_firing_for.is_some()),
                ("annotations", !self.annotations.is_empty()),
            ];
            if let Some((field, _)) = stray.iter().find(|(_, set)| *set) {
                return Err(format!("invalid field '{field}' in recording rule"));
            }
            if record.contains(['{', '}']) {
                return Err(format!(
                    "braces present in the recording rule name; should it be in expr?: {record}"
                ));
            }
        }
        for (label, value) in &self.labels {
            let reserved = label == crate::labels::METRIC_NAME;
            if reserved || !is_valid_label_name(label) {
                return Err(format!("invalid label name: {label}"));
            }
            if self.alert.is_some() {
                Template::parse(value).map_err(|e| format!("label {label:?}: {e}"))?;
            }
        }
        for (name, value) in &self.annotations {
            Template::parse(value).map_err(|e| format!("annotation {name:?}: {e}"))?;
        }
        Ok(())
    }
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    let Some(text) = Option::<String>::deserialize(deserializer)? else { return Ok(None) };
    parse_duration_ms(&text)
        .map(Some)
        .ok_or_else(|| serde::de::Error::custom(format!("not a valid duration string: {text:?}")))
}
