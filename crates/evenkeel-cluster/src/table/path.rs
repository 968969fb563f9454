use serde_json::Value;

/// One step of a JSON path.
#[derive(Debug, Clone, PartialEq)]
enum Step {
    Field(String),
    Index(i64),
    All,
    /// `[?(@.field=="value")]`, and the same with `!=`.
    Filter {
        field: String,
        value: String,
        equal: bool,
    },
}

/// The JSON paths of printer columns: fields, indices, `[*]` and comparisons.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct JsonPath {
    steps: Vec<Step>,
}

impl JsonPath {
    /// Parses `.status.conditions[?(@.type=="Ready")].status`; `None` when it is more than that.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut rest = text.trim().trim_start_matches('{').trim_end_matches('}');
        rest = rest.strip_prefix('$').unwrap_or(rest);
        let mut steps = Vec::new();
        while !rest.is_empty() {
            if let Some(after) = rest.strip_prefix('[') {
                let end = closing(after)?;
                let (inner, after) = (after.get(..end)?, after.get(end + 1..)?);
                steps.push(bracket(inner.trim())?);
                rest = after;
            } else {
                let after = rest.strip_prefix('.')?;
                let (field, after) = field(after);
                if field == "*" {
                    steps.push(Step::All);
                } else if !field.is_empty() {
                    steps.push(Step::Field(field));
                }
                rest = after;
            }
        }
        Some(Self { steps })
    }

    /// Everything the path leads to.
    pub(crate) fn find<'a>(&self, body: &'a Value) -> Vec<&'a Value> {
        let mut found = vec![body];
        for step in &self.steps {
            found = found.into_iter().flat_map(|value| follow(value, step)).collect();
        }
        found
    }
}

/// Where the bracket opened before `text` closes.
fn closing(text: &str) -> Option<usize> {
    let mut quote = None;
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (None, ']') => return Some(at),
            (None, '\'' | '"') => quote = Some(c),
            (Some(open), _) if open == c => quote = None,
            _ => {}
        }
    }
    None
}

/// A field name and what follows; `\.` is a dot inside the name.
fn field(text: &str) -> (String, &str) {
    let mut name = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => name.extend(chars.next().map(|(_, c)| c)),
            '.' | '[' => return (name, text.get(at..).unwrap_or_default()),
            _ => name.push(c),
        }
    }
    (name, "")
}

fn unquoted(text: &str) -> &str {
    text.trim().trim_matches(|c| c == '"' || c == '\'')
}

fn bracket(inner: &str) -> Option<Step> {
    if inner == "*" {
        return Some(Step::All);
    }
    if let Ok(index) = inner.parse() {
        return Some(Step::Index(index));
    }
    if inner.starts_with(['\'', '"']) {
        return Some(Step::Field(unquoted(inner).to_owned()));
    }
    let test = inner.strip_prefix("?(")?.strip_suffix(')')?;
    let (equal, (left, right)) = match test.split_once("==") {
        Some(sides) => (true, sides),
        None => (false, test.split_once("!=")?),
    };
    let field = left.trim().strip_prefix("@.")?.to_owned();
    Some(Step::Filter { field, value: unquoted(right).to_owned(), equal })
}

fn follow<'a>(value: &'a Value, step: &Step) -> Vec<&'a Value> {
    match (step, value) {
        (Step::Field(name), Value::Object(fields)) => fields.get(name).into_iter().collect(),
        (Step::Index(index), Value::Array(items)) => {
            let at = if *index < 0 {
                items.len().checked_sub(usize::try_from(index.unsigned_abs()).unwrap_or(usize::MAX))
            } else {
                usize::try_from(*index).ok()
            };
            at.and_then(|at| items.get(at)).into_iter().collect()
        }
        (Step::All, Value::Array(items)) => items.iter().collect(),
        (Step::All, Value::Object(fields)) => fields.values().collect(),
        (Step::Filter { field, value, equal }, Value::Array(items)) => items
            .iter()
            .filter(|item| {
                let have = match item.get(field) {
                    Some(Value::String(text)) => text.clone(),
                    Some(other) => other.to_string(),
                    None => return false,
                };
                (have == *value) == *equal
            })
            .collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths_of_printer_columns_are_followed() {
        let body = json!({"spec": {"a.b": 1, "hosts": ["x", "y"]}, "status": {"conditions": [
            {"type": "Ready", "status": "True"}, {"type": "Old", "status": "False"}]}});
        for (path, found) in [
            (".status.conditions[?(@.type==\"Ready\")].status", "[\"True\"]"),
            (".status.conditions[?(@.type!='Ready')].type", "[\"Old\"]"),
            (".spec.hosts[*]", "[\"x\",\"y\"]"),
            (".spec.hosts[-1]", "[\"y\"]"),
            (".spec.a\\.b", "[1]"),
            ("{.spec['a.b']}", "[1]"),
            (".spec.nothing", "[]"),
        ] {
            let parsed = JsonPath::parse(path).unwrap();
            assert_eq!(json!(parsed.find(&body)).to_string(), found, "{path}");
        }
        assert_eq!(JsonPath::parse("spec"), None);
        assert_eq!(JsonPath::parse(".a[?(@.b>1)]"), None);
    }
}
