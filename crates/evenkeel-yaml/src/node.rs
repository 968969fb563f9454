//! A document as a tree that knows where everything stands.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::Error;
use crate::error::step;
use crate::scalar::{Resolved, json_number, resolve};

/// A value, with its line.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    pub(crate) line: usize,
    pub(crate) content: Content,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Content {
    Scalar(Scalar),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Scalar {
    pub(crate) text: String,
    /// Without quotes and tag: what it stands for depends on its text.
    pub(crate) plain: bool,
}

/// One `key: value` of a mapping.
#[derive(Clone, Debug, PartialEq)]
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
    /// Reads a text of one document. A text without any is null.
    ///
    /// **Errors**: not YAML, a key given twice, more than one document, or larger than a document
    /// may be.
    pub fn parse(text: &str) -> Result<Self, Error> {
        crate::compose::compose(text, 1)
    }

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

    /// Fills a Rust type as go-yaml fills a struct: text fields take the scalar as it was written,
    /// and null is the empty value.
    ///
    /// **Errors**: a field that is unknown, missing or of another type.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, Error> {
        T::deserialize(crate::read::Reader(self)).map_err(|error| error.at(self.line))
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

impl crate::Document<'_> {
    /// Reads the document; lines count from the start of the file.
    ///
    /// **Errors**: as [`Node::parse`].
    pub fn parse(&self) -> Result<Node, Error> {
        crate::compose::compose(self.text, self.line)
    }
}
