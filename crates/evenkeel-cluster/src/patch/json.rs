use serde_json::Value;

use crate::error::ApiError;

/// Operations in one patch, as the API server limits them.
const OPERATIONS_MAX: usize = 10_000;
/// Bytes that one patch may copy, as the API server limits them: copies of copies double each time.
const COPIED_BYTES_MAX: usize = 3 << 20;

/// RFC 6902. All operations happen, or none.
pub(super) fn apply(old: &Value, operations: &Value) -> Result<Value, ApiError> {
    let Some(operations) = operations.as_array() else {
        return Err(ApiError::bad_request("a JSON patch is a list of operations"));
    };
    if operations.len() > OPERATIONS_MAX {
        return Err(ApiError::new(
            413,
            "RequestEntityTooLarge",
            "too many operations in the patch",
        ));
    }
    let mut new = old.clone();
    let mut copied = 0;
    for (index, operation) in operations.iter().enumerate() {
        step(&mut new, operation, &mut copied).map_err(|problem| {
            let message = format!("JSON patch operation {index} {operation}: {problem}");
            ApiError::new(422, "Invalid", message)
        })?;
    }
    Ok(new)
}

fn step(
    target: &mut Value,
    operation: &Value,
    copied_bytes: &mut usize,
) -> Result<(), &'static str> {
    let field = |name: &str| operation.get(name).and_then(Value::as_str);
    let path = field("path").ok_or("path is missing")?;
    let value = || operation.get("value").cloned().ok_or("value is missing");
    match field("op").ok_or("op is missing")? {
        "add" => add(target, path, value()?),
        "remove" => remove(target, path).map(drop),
        "replace" => {
            *target.pointer_mut(path).ok_or("there is nothing at the path")? = value()?;
            Ok(())
        }
        "move" => {
            let moved = remove(target, field("from").ok_or("from is missing")?)?;
            add(target, path, moved)
        }
        "copy" => {
            let from = field("from").ok_or("from is missing")?;
            let found = target.pointer(from).ok_or("there is nothing at from")?;
            *copied_bytes = copied_bytes.saturating_add(bytes(found));
            if *copied_bytes > COPIED_BYTES_MAX {
                return Err("the patch copies too much");
            }
            let copied = found.clone();
            add(target, path, copied)
        }
        "test" => {
            let same = target.pointer(path).unwrap_or(&Value::Null) == &value()?;
            if same { Ok(()) } else { Err("the test does not hold") }
        }
        _ => Err("unknown op (add, remove, replace, move, copy, test)"),
    }
}

/// About how much memory a value takes.
fn bytes(value: &Value) -> usize {
    let own = size_of::<Value>();
    own + match value {
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(bytes).sum(),
        Value::Object(fields) => fields.iter().map(|(k, v)| own + k.len() + bytes(v)).sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
    }
}

/// Splits a pointer into its parent and its last, unescaped, step.
fn split(path: &str) -> Result<(&str, String), &'static str> {
    let (parent, last) = path.rsplit_once('/').ok_or("the path must start with /")?;
    Ok((parent, last.replace("~1", "/").replace("~0", "~")))
}

fn add(target: &mut Value, path: &str, value: Value) -> Result<(), &'static str> {
    if path.is_empty() {
        *target = value;
        return Ok(());
    }
    let (parent, last) = split(path)?;
    match target.pointer_mut(parent).ok_or("the parent of the path is not there")? {
        Value::Object(fields) => {
            fields.insert(last, value);
            Ok(())
        }
        Value::Array(items) if last == "-" => {
            items.push(value);
            Ok(())
        }
        Value::Array(items) => {
            let index: usize = last.parse().map_err(|_| "the index is not a number")?;
            if index > items.len() {
                return Err("the index is beyond the end");
            }
            items.insert(index, value);
            Ok(())
        }
        _ => Err("the parent of the path is neither object nor list"),
    }
}

fn remove(target: &mut Value, path: &str) -> Result<Value, &'static str> {
    let (parent, last) = split(path)?;
    match target.pointer_mut(parent).ok_or("there is nothing at the path")? {
        Value::Object(fields) => fields.shift_remove(&last).ok_or("there is nothing at the path"),
        Value::Array(items) => {
            let index: usize = last.parse().map_err(|_| "the index is not a number")?;
            if index >= items.len() {
                return Err("the index is beyond the end");
            }
            Ok(items.remove(index))
        }
        _ => Err("the parent of the path is neither object nor list"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn operations_do_what_the_rfc_says_or_say_why_not() {
        let old = json!({"a": {"b": [1, 2]}, "c~/": 3});
        for (operations, outcome) in [
            (json!([{"op": "add", "path": "/a/b/1", "value": 9}]), "[1,9,2]"),
            (json!([{"op": "add", "path": "/a/b/-", "value": 9}]), "[1,2,9]"),
            (json!([{"op": "remove", "path": "/a/b/0"}]), "[2]"),
            (json!([{"op": "replace", "path": "/a/b", "value": "x"}]), "\"x\""),
            (json!([{"op": "copy", "from": "/c~0~1", "path": "/a/b/0"}]), "[3,1,2]"),
            (json!([{"op": "move", "from": "/a/b/0", "path": "/a/b/1"}]), "[2,1]"),
            (json!([{"op": "test", "path": "/a/b/0", "value": 1}]), "[1,2]"),
        ] {
            let new = apply(&old, &operations).unwrap();
            assert_eq!(new["a"]["b"].to_string(), outcome, "{operations}");
        }
        for (operations, problem) in [
            (json!([{"op": "remove", "path": "/x"}]), "there is nothing at the path"),
            (json!([{"op": "test", "path": "/a/b/0", "value": 2}]), "the test does not hold"),
            (json!([{"op": "add", "path": "/a/b/7", "value": 2}]), "beyond the end"),
            (json!([{"op": "jump", "path": "/a"}]), "unknown op"),
            (json!({}), "a list of operations"),
        ] {
            let error = apply(&old, &operations).unwrap_err();
            assert!(error.message.contains(problem), "{operations}: {error}");
        }
    }

    #[test]
    fn copies_of_copies_are_refused() {
        let copy = json!({"op": "copy", "from": "/a", "path": "/a/-"});
        let error = apply(&json!({"a": [1]}), &Value::Array(vec![copy; 60])).unwrap_err();
        assert!(error.message.contains("copies too much"), "{error}");
    }
}
