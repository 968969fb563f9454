//! One object of the file: its fields, and where they stand.

use evenkeel_yaml::Node;
use serde_json::Value;

use super::{ClusterConfigError, Warning};

/// Reads one object of the file, and says where it is when something is wrong.
pub(super) struct Reader<'a> {
    pub(super) object: String,
    /// Path of the body in the object, `metadata.`; empty for the object itself.
    pub(super) path: &'static str,
    pub(super) body: &'a Value,
    /// The same in the file, if it came from one.
    pub(super) node: Option<&'a Node>,
}

impl<'a> Reader<'a> {
    pub(super) fn wrong<T>(
        &self,
        field: &str,
        problem: impl Into<String>,
        fix: impl Into<String>,
    ) -> Result<T, ClusterConfigError> {
        Err(ClusterConfigError::Field {
            line: self.line(field),
            object: self.object.clone(),
            field: self.full(field),
            problem: problem.into(),
            fix: fix.into(),
        })
    }

    pub(super) fn warning(
        &self,
        field: &str,
        problem: impl Into<String>,
        fix: impl Into<String>,
    ) -> Warning {
        Warning {
            line: self.line(field),
            object: self.object.clone(),
            field: self.full(field),
            problem: problem.into(),
            fix: fix.into(),
        }
    }

    /// The field with the path of the body before it.
    fn full(&self, field: &str) -> String {
        let field = field.strip_prefix(self.path).unwrap_or(field);
        format!("{}{field}", self.path)
    }

    /// Line of a field, or of what is nearest around it; 0 when not known.
    pub(super) fn line(&self, field: &str) -> usize {
        let field = field.strip_prefix(self.path).unwrap_or(field);
        self.node.map_or(0, |node| node.locate(field).line)
    }

    /// A value as the file has it, with what YAML makes of it: `n, which YAML reads as ...`.
    pub(super) fn described(&self, field: &str, value: &Value) -> String {
        let place = self.node.map(|node| node.locate(field)).filter(|place| place.whole);
        place.map_or_else(|| value.to_string(), |place| place.node.described())
    }

    /// The text of a scalar as the file has it.
    pub(super) fn written(&self, field: &str, value: &Value) -> String {
        let place = self.node.map(|node| node.locate(field)).filter(|place| place.whole);
        let text = place.and_then(|place| place.node.text()).map(str::to_owned);
        text.unwrap_or_else(|| value.to_string())
    }

    pub(super) fn field(&self, name: &str) -> Option<&'a Value> {
        self.body.get(name).filter(|value| !value.is_null())
    }

    pub(super) fn text(&self, name: &str) -> Result<Option<String>, ClusterConfigError> {
        match self.field(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(other) => self.wrong(
                name,
                format!("must be text, not {}", self.described(name, other)),
                format!("write {name}: {:?}", self.written(name, other)),
            ),
        }
    }

    pub(super) fn count(&self, name: &str) -> Result<Option<u64>, ClusterConfigError> {
        match self.field(name) {
            None => Ok(None),
            Some(value) => match value.as_u64() {
                Some(number) => Ok(Some(number)),
                None => self.wrong(
                    name,
                    format!(
                        "must be a whole number, 0 or more, not {}",
                        self.described(name, value)
                    ),
                    format!("write for example {name}: 3"),
                ),
            },
        }
    }

    pub(super) fn texts(&self, name: &str) -> Result<Vec<String>, ClusterConfigError> {
        let fix = format!("write {name}: [\"one\", \"two\"]");
        match self.field(name) {
            None => Ok(Vec::new()),
            Some(Value::Array(items)) => items
                .iter()
                .map(|item| {
                    let problem = || format!("must be a list of texts, not of {item}");
                    let text = item.as_str().map(str::to_owned);
                    text.map_or_else(|| self.wrong(name, problem(), fix.clone()), Ok)
                })
                .collect(),
            Some(other) => {
                let problem = format!("must be a list, not {}", self.described(name, other));
                self.wrong(name, problem, fix)
            }
        }
    }

    /// Warns about fields that eksctl does not know here.
    pub(super) fn check_fields(&self, known: &[&str], warnings: &mut Vec<Warning>) {
        for name in self.body.as_object().into_iter().flatten().map(|(name, _)| name) {
            if known.contains(&name.as_str()) {
                continue;
            }
            let alike = known.iter().find(|known| known.eq_ignore_ascii_case(name));
            let fix = match alike {
                Some(known) => format!("write {known}"),
                None => "remove it".to_owned(),
            };
            warnings.push(self.warning(name, "eksctl refuses this field here", fix));
        }
    }
}
