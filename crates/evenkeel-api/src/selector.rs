use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;

use crate::Obj;

/// Why a selector text or object was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("selector {text:?}: {problem}")]
pub struct SelectorError {
    /// The selector as given.
    pub text: String,
    /// What is wrong with it.
    pub problem: String,
}

/// One condition on a label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Requirement {
    /// The label has one of these values.
    In(String, Vec<String>),
    /// The label is absent or has none of these values.
    NotIn(String, Vec<String>),
    /// The label is there.
    Exists(String),
    /// The label is absent.
    Absent(String),
}

impl Requirement {
    fn holds<'a>(&self, label: &impl Fn(&str) -> Option<&'a str>) -> bool {
        let is_one_of = |key: &str, values: &[String]| {
            label(key).is_some_and(|have| values.iter().any(|value| value == have))
        };
        match self {
            Self::In(key, values) => is_one_of(key, values),
            Self::NotIn(key, values) => !is_one_of(key, values),
            Self::Exists(key) => label(key).is_some(),
            Self::Absent(key) => label(key).is_none(),
        }
    }
}

/// A conjunction of label requirements.
///
/// The empty selector has two meanings in Kubernetes; here it is explicit: [`Self::matches`] is
/// true for everything, and [`Self::is_empty`] lets a caller refuse it before acting.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LabelSelector {
    /// All must hold.
    pub requirements: Vec<Requirement>,
}

impl LabelSelector {
    /// Parses the text form: `a=b,c!=d,e in (f,g),h,!i`. An empty text selects everything.
    ///
    /// **Errors**: a part that is no requirement, an empty one among them: whoever deletes by `,`
    /// did not mean everything.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut requirements = Vec::new();
        if text.trim().is_empty() {
            return Ok(Self { requirements });
        }
        for part in split_outside_parentheses(text) {
            let part = part.trim();
            requirements.push(parse_requirement(part).ok_or_else(|| SelectorError {
                text: text.to_owned(),
                problem: format!(
                    "{part:?} is not a requirement (key=value, key in (a,b), key, !key)"
                ),
            })?);
        }
        Ok(Self { requirements })
    }

    /// A selector for exactly these labels.
    pub fn from_labels(labels: &BTreeMap<String, String>) -> Self {
        let equal =
            |(key, value): (&String, &String)| Requirement::In(key.clone(), vec![value.clone()]);
        Self { requirements: labels.iter().map(equal).collect() }
    }

    /// Reads the object form (`matchLabels`, `matchExpressions`).
    ///
    /// **Errors**: an unknown operator, or values that do not go with it.
    pub fn from_object(selector: &meta::LabelSelector) -> Result<Self, SelectorError> {
        let mut all = selector.match_labels.as_ref().map_or_else(Self::default, Self::from_labels);
        for expression in selector.match_expressions.iter().flatten() {
            let key = expression.key.clone();
            let values = expression.values.clone().unwrap_or_default();
            all.requirements.push(match (expression.operator.as_str(), values.is_empty()) {
                ("In", false) => Requirement::In(key, values),
                ("NotIn", false) => Requirement::NotIn(key, values),
                ("Exists", true) => Requirement::Exists(key),
                ("DoesNotExist", true) => Requirement::Absent(key),
                (operator, _) => {
                    return Err(SelectorError {
                        text: key,
                        problem: format!("operator {operator} with {} values", values.len()),
                    });
                }
            });
        }
        Ok(all)
    }

    /// Whether these labels satisfy every requirement.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.matches_by(|name| labels.get(name).map(String::as_str))
    }

    /// As [`Self::matches`], for labels that are kept in another form.
    pub fn matches_by<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.requirements.iter().all(|requirement| requirement.holds(&label))
    }

    /// Whether there is no requirement at all. Nothing may act on such a selector.
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }
}

fn split_outside_parentheses(text: &str) -> Vec<&str> {
    let mut depth = 0_i32;
    text.split(move |c| {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        c == ',' && depth == 0
    })
    .collect()
}

fn parse_requirement(part: &str) -> Option<Requirement> {
    let key = |text: &str| {
        let text = text.trim();
        let fine = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
        (!text.is_empty() && text.chars().all(fine)).then(|| text.to_owned())
    };
    let value = |text: &str| {
        let text = text.trim();
        let fine = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        text.chars().all(fine).then(|| text.to_owned())
    };
    let set = |text: &str| {
        let inner = text.trim().strip_prefix('(')?.strip_suffix(')')?;
        inner.split(',').map(value).collect::<Option<Vec<_>>>()
    };
    if let Some((left, right)) = part.split_once("!=") {
        return Some(Requirement::NotIn(key(left)?, vec![value(right)?]));
    }
    if let Some((left, right)) = part.split_once("==").or_else(|| part.split_once('=')) {
        return Some(Requirement::In(key(left)?, vec![value(right)?]));
    }
    if let Some((left, right)) = part.split_once(" notin ") {
        return Some(Requirement::NotIn(key(left)?, set(right)?));
    }
    if let Some((left, right)) = part.split_once(" in ") {
        return Some(Requirement::In(key(left)?, set(right)?));
    }
    match part.strip_prefix('!') {
        Some(rest) => Some(Requirement::Absent(key(rest)?)),
        None => Some(Requirement::Exists(key(part)?)),
    }
}

/// A conjunction of `path=value` and `path!=value` over an object's fields.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FieldSelector {
    /// Path (`spec.nodeName`), value, and whether it must be equal.
    pub requirements: Vec<(String, String, bool)>,
}

impl FieldSelector {
    /// Parses the text form: `spec.nodeName=n1,status.phase!=Failed`.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut requirements = Vec::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let unequal = part.split_once("!=").map(|(path, value)| (path, value, false));
            let equal = || part.split_once("==").or_else(|| part.split_once('='));
            let (path, value, equal) = unequal
                .or_else(|| equal().map(|(path, value)| (path, value, true)))
                .ok_or_else(|| SelectorError {
                    text: text.to_owned(),
                    problem: format!("{part:?} is not path=value or path!=value"),
                })?;
            requirements.push((path.trim().to_owned(), value.trim().to_owned(), equal));
        }
        Ok(Self { requirements })
    }

    /// Requires one field to have one value.
    #[must_use]
    pub fn equal(path: &str, value: &str) -> Self {
        Self { requirements: vec![(path.to_owned(), value.to_owned(), true)] }
    }

    /// Whether the object's fields satisfy every requirement; an absent field is the empty text.
    pub fn matches(&self, obj: &Obj) -> bool {
        self.requirements.iter().all(|(path, want, equal)| {
            let field = path.split('.').try_fold(obj.json(), |value, step| value.get(step));
            let have = match field {
                None | Some(serde_json::Value::Null) => String::new(),
                Some(serde_json::Value::String(text)) => text.clone(),
                Some(other) => other.to_string(),
            };
            (have == *want) == *equal
        })
    }

    /// Whether there is no requirement.
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(text: &str) -> BTreeMap<String, String> {
        text.split_whitespace()
            .filter_map(|pair| pair.split_once('='))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect()
    }

    #[test]
    fn label_selectors_match_as_kubectl_does() {
        for (selector, set, matches) in [
            ("app=web", "app=web", true),
            ("app==web,tier!=db", "app=web tier=front", true),
            ("tier!=db", "app=web", true),
            ("app in (web, api),!old", "app=api", true),
            ("app notin (web)", "app=web", false),
            ("app", "tier=x", false),
            ("", "app=web", true),
        ] {
            let parsed = LabelSelector::parse(selector).unwrap();
            assert_eq!(parsed.matches(&labels(set)), matches, "{selector} on {set}");
        }
        for broken in ["a b", ",", "app=web,", "app=web,,tier=x", "a===", "a=b c", "a in (b,c d)"] {
            assert!(LabelSelector::parse(broken).is_err(), "{broken}");
        }
        assert_eq!(LabelSelector::parse(" ").unwrap(), LabelSelector::default());
        assert!(LabelSelector::parse("").unwrap().is_empty());
    }

    #[test]
    fn field_selectors_read_nested_fields() {
        let body = serde_json::json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "a"}, "spec": {"nodeName": "n1"}});
        let pod = Obj::from_json(body).unwrap();
        let hit = |text: &str| FieldSelector::parse(text).unwrap().matches(&pod);
        assert!(hit("spec.nodeName=n1,metadata.name=a"));
        assert!(hit("status.phase!=Failed") && hit("status.phase="));
        assert!(!hit("spec.nodeName!=n1"));
    }
}
