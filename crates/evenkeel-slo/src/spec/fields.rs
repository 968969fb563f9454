//! Typed access to the fields of a document, in either casing, with findings instead of errors.

use evenkeel_yaml::Node;
use serde_json::{Map, Value};

use super::Parsed;
use crate::finding::{Finding, Severity};
use crate::model::Labels;
use crate::reasons;

/// Which spelling of a field counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Casing {
    /// `errorQuery`; `error_query` is ignored, and both together are an error.
    Camel,
    /// `error_query`; `errorQuery` is ignored.
    Snake,
    /// Both; `error_query` is reported, and both together are an error.
    Either,
    /// `errorQuery`, and not a word about the other one.
    CamelQuietly,
}

/// A field in both spellings.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Name {
    pub(crate) camel: &'static str,
    pub(crate) snake: &'static str,
}

impl Name {
    pub(crate) const fn of(camel: &'static str, snake: &'static str) -> Self {
        Self { camel, snake }
    }

    pub(crate) const fn plain(name: &'static str) -> Self {
        Self { camel: name, snake: name }
    }
}

/// Collects findings about one object while it is read.
pub(crate) struct Reader<'p> {
    parsed: &'p Parsed,
    pub(crate) casing: Casing,
    /// Text fields take scalars as they were written: `1.10` stays `1.10`.
    pub(crate) as_written: bool,
    pub(crate) findings: Vec<Finding>,
}

impl<'p> Reader<'p> {
    pub(crate) fn new(parsed: &'p Parsed) -> Self {
        Self { parsed, casing: Casing::Camel, as_written: false, findings: Vec::new() }
    }

    /// The name of a field as this kind of document spells it.
    fn spelled(&self, name: Name) -> &'static str {
        if self.casing == Casing::Snake { name.snake } else { name.camel }
    }

    /// The text of the scalar at a path, as it was written.
    fn written(&self, path: &str, key: &str) -> Option<String> {
        let around = self.parsed.node.locate(path);
        Some(around.node.get(key).filter(|_| around.whole)?.text()?.to_owned())
    }

    pub(crate) fn error(&mut self, reason: &'static str, field: &str, message: String, fix: &str) {
        self.push(Severity::Error, reason, field, (message, fix));
    }

    pub(crate) fn warn(&mut self, reason: &'static str, field: &str, message: String, fix: &str) {
        self.push(Severity::Warning, reason, field, (message, fix));
    }

    fn push(
        &mut self,
        severity: Severity,
        reason: &'static str,
        field: &str,
        (message, fix): (String, &str),
    ) {
        self.findings.push(Finding {
            severity,
            reason,
            source: self.parsed.source.clone(),
            line: None,
            object: self.parsed.object.clone(),
            field: field.to_owned(),
            message,
            fix: fix.to_owned(),
        });
    }

    /// The field under the spelling that counts; null counts as absent.
    pub(crate) fn get<'a>(
        &mut self,
        map: &'a Map<String, Value>,
        path: &str,
        name: Name,
    ) -> Option<&'a Value> {
        let present = |key: &str| map.get(key).filter(|v| !v.is_null());
        if name.camel == name.snake {
            return present(name.camel);
        }
        let (camel, snake) = (present(name.camel), present(name.snake));
        if camel.is_some()
            && snake.is_some()
            && matches!(self.casing, Casing::Camel | Casing::Either)
        {
            self.error(
                reasons::FIELD_CASING_CONFLICT,
                &join(path, name.camel),
                format!("{} and {} are both given", name.camel, name.snake),
                &format!("keep {} only", name.camel),
            );
            return camel;
        }
        match self.casing {
            Casing::CamelQuietly => camel,
            Casing::Camel => {
                if snake.is_some() {
                    self.ignored(path, name.snake, name.camel);
                }
                camel
            }
            Casing::Snake => {
                if camel.is_some() {
                    self.ignored(path, name.camel, name.snake);
                }
                snake
            }
            Casing::Either => {
                if snake.is_some() {
                    self.warn(
                        reasons::DEPRECATED_FIELD_CASING,
                        &join(path, name.snake),
                        format!("{} is read as {}", name.snake, name.camel),
                        &format!("write {}", name.camel),
                    );
                }
                camel.or(snake)
            }
        }
    }

    fn ignored(&mut self, path: &str, found: &str, wanted: &str) {
        self.warn(
            reasons::IGNORED_FIELD,
            &join(path, found),
            format!("{found} has no effect here, as in Sloth"),
            &format!("write {wanted}"),
        );
    }

    /// Warns about every key that is none of these.
    pub(crate) fn unknown(&mut self, map: &Map<String, Value>, path: &str, known: &[Name]) {
        for key in map.keys() {
            if !known.iter().any(|n| n.camel == key || n.snake == key) {
                self.warn(
                    reasons::UNKNOWN_FIELD,
                    &join(path, key),
                    format!("{key} is not a field here and has no effect"),
                    "remove it or correct its name",
                );
            }
        }
    }

    /// A mapping. `None` also after an error about its type.
    pub(crate) fn object<'a>(
        &mut self,
        map: &'a Map<String, Value>,
        path: &str,
        name: Name,
    ) -> Option<&'a Map<String, Value>> {
        let value = self.get(map, path, name)?;
        if value.is_object() {
            return value.as_object();
        }
        self.wrong_type(&join(path, self.spelled(name)), value, "a mapping");
        None
    }

    /// A list; empty when absent or of the wrong type.
    pub(crate) fn list<'a>(
        &mut self,
        map: &'a Map<String, Value>,
        path: &str,
        name: Name,
    ) -> &'a [Value] {
        match self.get(map, path, name) {
            None => &[],
            Some(Value::Array(items)) => items,
            Some(other) => {
                self.wrong_type(&join(path, self.spelled(name)), other, "a list");
                &[]
            }
        }
    }

    /// A string; empty when absent or of the wrong type.
    pub(crate) fn text(&mut self, map: &Map<String, Value>, path: &str, name: Name) -> String {
        match self.get(map, path, name) {
            None => String::new(),
            Some(Value::String(text)) => text.clone(),
            Some(Value::Number(_) | Value::Bool(_)) if self.as_written => {
                self.written(path, self.spelled(name)).unwrap_or_default()
            }
            Some(other) => {
                self.wrong_type(&join(path, self.spelled(name)), other, "a string");
                String::new()
            }
        }
    }

    /// A number; 0 when absent or of the wrong type, which Sloth's own checks then refuse.
    pub(crate) fn number(&mut self, map: &Map<String, Value>, path: &str, name: Name) -> f64 {
        match self.get(map, path, name) {
            None => 0.0,
            Some(value) => value.as_f64().unwrap_or_else(|| {
                self.wrong_type(&join(path, self.spelled(name)), value, "a number");
                0.0
            }),
        }
    }

    /// A boolean; false when absent or of the wrong type.
    pub(crate) fn flag(&mut self, map: &Map<String, Value>, path: &str, name: Name) -> bool {
        match self.get(map, path, name) {
            None => false,
            Some(Value::Bool(flag)) => *flag,
            Some(other) => {
                self.wrong_type(&join(path, self.spelled(name)), other, "true or false");
                false
            }
        }
    }

    /// A map of strings. Numbers and booleans stay as they were written, as Sloth's reader takes
    /// them from a file; in the Kubernetes kind, where an API server refuses them, with a warning.
    pub(crate) fn labels(
        &mut self,
        map: &Map<String, Value>,
        path: &str,
        name: &'static str,
    ) -> Labels {
        let mut out = Labels::new();
        let Some(labels) = self.object(map, path, Name::plain(name)) else { return out };
        let path = join(path, name);
        for (key, value) in labels {
            let text = match value {
                Value::String(text) => text.clone(),
                Value::Null => String::new(),
                Value::Bool(_) | Value::Number(_) => {
                    self.written(&path, key).unwrap_or_else(|| value.to_string())
                }
                other => {
                    self.wrong_type(&join(&path, key), other, "a string");
                    continue;
                }
            };
            if !self.as_written && !value.is_string() && !value.is_null() {
                let kind = if value.is_boolean() { "a boolean" } else { "a number" };
                self.warn(
                    reasons::LABEL_NOT_STRING,
                    &join(&path, key),
                    format!("{text} is {kind} in YAML, and an API server refuses it here"),
                    &format!("put it in quotes: {key}: {text:?}"),
                );
            }
            out.insert(key.clone(), text);
        }
        out
    }

    fn wrong_type(&mut self, field: &str, found: &Value, wanted: &str) {
        let place = self.parsed.node.locate(field);
        let node = place.whole.then_some(place.node);
        let described = node.map_or_else(|| found.to_string(), Node::described);
        let fix = match node {
            Some(node) if wanted == "a string" && node.is_plain() => {
                format!("put it in quotes: {:?}", node.text().unwrap_or_default())
            }
            _ => format!("give {wanted}"),
        };
        let message = format!("must be {wanted}, not {described}");
        self.error(reasons::INVALID_FIELD, field, message, &fix);
    }
}

/// `path.name`, or the name alone at the top.
pub(crate) fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// The line of a field, or of what is nearest around it. `None` for a field of another document.
pub(super) fn line_of(root: &Node, path: &str) -> Option<usize> {
    let found = root.locate(path);
    let elsewhere = found.steps == 0 && path.contains('/');
    (!elsewhere).then_some(found.line)
}
