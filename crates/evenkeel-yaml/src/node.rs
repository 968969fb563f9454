//! A document as a tree that knows where everything stands.

use serde_json::{Map, Value};

use crate::error::{Error, step};
use crate::scalar::{Resolved, json_number, resolve};

/// A value, with its line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub(crate) line: usize,
    pub(crate) content: Content,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    Scalar(Scalar),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Scalar {
    pub(crate) text: String,
    /// Without quotes and tag: what it stands for depends on its text.
    pub(crate) plain: bool,
}

/// What stands at a path, or on the way there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place<'n> {
    /// The node, or the last one on the way that is there.
    pub node: &'n Node,
    /// Line of its key, or of the list item.
    pub line: usize,
    /// Whether the whole path is there.
    pub whole: bool,
    /// Steps of the path that are there.
    pub steps: usize,
}

/// One `key: value` of a mapping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub(crate) key: Scalar,
    pub(crate) key_line: usize,
    pub(crate) value: Node,
}

impl Scalar {
    pub(crate) fn resolved(&self) -> Resolved {
        if self.plain { resolve(&self.text) } else { Resolved::Text }
    }

    /// The key as it appears in JSON: booleans and numbers become text, as in sigs.k8s.io/yaml.
    /// `None` for null, which cannot be a key.
    pub(crate) fn json_key(&self) -> Option<String> {
        Some(match self.resolved() {
            Resolved::Null => return None,
            Resolved::Bool(flag) => flag.to_string(),
            Resolved::Int(number) => number.to_string(),
            Resolved::Large(number) => number.to_string(),
            Resolved::Float(number) => {
                json_number(number).map_or_else(|| self.text.clone(), |number| number.to_string())
            }
            Resolved::Text => self.text.clone(),
        })
    }
}

impl Entry {
    /// The key as it was written.
    pub fn key(&self) -> &str {
        &self.key.text
    }

    /// Line of the key, from 1.
    pub fn line(&self) -> usize {
        self.key_line
    }

    /// What stands behind it.
    pub fn value(&self) -> &Node {
        &self.value
    }
}

impl Node {
    /// Line in the file, from 1.
    pub fn line(&self) -> usize {
        self.line
    }

    /// The text of a scalar as it was written, without quotes.
    pub fn text(&self) -> Option<&str> {
        match &self.content {
            Content::Scalar(scalar) => Some(&scalar.text),
            _ => None,
        }
    }

    /// Whether it is a scalar without quotes.
    pub fn is_plain(&self) -> bool {
        matches!(&self.content, Content::Scalar(scalar) if scalar.plain)
    }

    /// Whether nothing was given.
    pub fn is_null(&self) -> bool {
        matches!(&self.content, Content::Scalar(scalar) if scalar.resolved() == Resolved::Null)
    }

    /// The entries of a mapping; none of anything else.
    pub fn entries(&self) -> &[Entry] {
        match &self.content {
            Content::Map(entries) => entries,
            _ => &[],
        }
    }

    /// The items of a list; none of anything else.
    pub fn items(&self) -> &[Node] {
        match &self.content {
            Content::List(items) => items,
            _ => &[],
        }
    }

    /// The value behind a key, by the key's name in JSON.
    pub fn get(&self, name: &str) -> Option<&Node> {
        let entry = self.entries().iter().find(|entry| {
            entry.key.text == name || entry.key.json_key().is_some_and(|key| key == name)
        });
        entry.map(|entry| &entry.value)
    }

    /// The value at a path such as `/spec/slos/0/name`, as [`Value::pointer`] finds it.
    pub fn pointer(&self, path: &str) -> Option<&Node> {
        let mut at = self;
        for part in path.split('/').skip(1) {
            let name = part.replace("~1", "/").replace("~0", "~");
            at = match &at.content {
                Content::List(items) => items.get(name.parse::<usize>().ok()?)?,
                _ => at.get(&name)?,
            };
        }
        Some(at)
    }

    /// What stands at a path as people write it: `spec.slos[0].labels.team`.
    pub fn locate(&self, path: &str) -> Place<'_> {
        let mut place = Place { node: self, line: self.line, whole: true, steps: 0 };
        let mut rest = path;
        while !rest.is_empty() {
            let next = match rest.strip_prefix('[').and_then(|inner| inner.split_once(']')) {
                Some((index, tail)) => {
                    let item = index.parse::<usize>().ok().and_then(|i| place.node.items().get(i));
                    item.map(|item| (item, item.line, tail))
                }
                None => place.node.entry_of(rest),
            };
            let Some((node, line, tail)) = next else {
                place.whole = false;
                break;
            };
            rest = tail.strip_prefix('.').unwrap_or(tail);
            place = Place { node, line, whole: true, steps: place.steps + 1 };
        }
        place
    }

    /// The entry whose key a path begins with, which may have dots in it; and the rest of the path.
    fn entry_of<'p>(&self, path: &'p str) -> Option<(&Node, usize, &'p str)> {
        let fits = |entry: &&Entry| {
            let tail = path.strip_prefix(entry.key());
            tail.is_some_and(|tail| tail.is_empty() || tail.starts_with(['.', '[']))
        };
        let entry = self.entries().iter().filter(fits).max_by_key(|entry| entry.key().len())?;
        Some((&entry.value, entry.key_line, path.strip_prefix(entry.key()).unwrap_or_default()))
    }

    /// The JSON that kubectl would send for it.
    ///
    /// **Errors**: `.inf` and `.nan`, which JSON does not have.
    pub fn json(&self) -> Result<Value, Error> {
        self.json_with(&|key| key.json_key().unwrap_or_default())
    }

    /// As [`Node::json`], with keys as they were written: `on` stays `on` and is not `true`.
    ///
    /// **Errors**: as [`Node::json`].
    pub fn json_with_written_keys(&self) -> Result<Value, Error> {
        self.json_with(&|key| key.text.clone())
    }

    fn json_with(&self, name: &dyn Fn(&Scalar) -> String) -> Result<Value, Error> {
        match &self.content {
            Content::Scalar(scalar) => self.json_scalar(scalar),
            Content::List(items) => {
                let item = |(index, item): (usize, &Node)| {
                    item.json_with(name).map_err(|error| error.below(&format!("[{index}]")))
                };
                items.iter().enumerate().map(item).collect::<Result<_, _>>().map(Value::Array)
            }
            Content::Map(entries) => {
                let mut map = Map::with_capacity(entries.len());
                for Entry { key, value, .. } in entries {
                    let value = value.json_with(name);
                    let value = value.map_err(|error| error.below(&step(&key.text)))?;
                    map.insert(name(key), value);
                }
                Ok(Value::Object(map))
            }
        }
    }

    fn json_scalar(&self, scalar: &Scalar) -> Result<Value, Error> {
        Ok(match scalar.resolved() {
            Resolved::Null => Value::Null,
            Resolved::Bool(flag) => flag.into(),
            Resolved::Int(number) => number.into(),
            Resolved::Large(number) => number.into(),
            Resolved::Float(number) => json_number(number).ok_or_else(|| {
                Error::new(self.line, format!("JSON has no number {}", scalar.text))
            })?,
            Resolved::Text => Value::String(scalar.text.clone()),
        })
    }

    /// What it is, for a message: `the text "5m"`, `a list`.
    pub fn described(&self) -> String {
        match &self.content {
            Content::List(_) => "a list".to_owned(),
            Content::Map(_) => "a mapping".to_owned(),
            Content::Scalar(scalar) => match scalar.resolved() {
                Resolved::Null => "nothing".to_owned(),
                Resolved::Bool(flag) if scalar.text == flag.to_string() => {
                    format!("the boolean {flag}")
                }
                Resolved::Bool(flag) => {
                    format!("{}, which YAML reads as the boolean {flag}", scalar.text)
                }
                Resolved::Text => {
                    let short: String = scalar.text.chars().take(40).collect();
                    format!("the text {short:?}")
                }
                _ => format!("the number {}", scalar.text),
            },
        }
    }
}
