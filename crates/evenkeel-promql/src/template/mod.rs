//! A small engine for Go's `text/template`, as far as alert labels and annotations use it:
//! `{{ $labels.job }} is at {{ $value | humanizePercentage }}`, `if`, `range`, `with`, variables,
//! and the functions that Prometheus adds. Templates cannot read anything but what they are given.

mod format;
mod functions;
mod parse;
mod run;

pub use functions::QueryFn;

use crate::labels::Labels;
use std::collections::BTreeMap;

/// A value inside of a template.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Data {
    /// Nothing.
    #[default]
    Nil,
    /// True or false.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A float.
    Float(f64),
    /// A text.
    Text(String),
    /// Named values.
    Map(BTreeMap<String, Data>),
    /// Several values.
    List(Vec<Data>),
}

impl Data {
    /// About how much memory it takes. Unit: bytes.
    pub(crate) fn bytes(&self) -> usize {
        let own = std::mem::size_of::<Self>();
        own + match self {
            Self::Text(text) => text.len(),
            Self::List(list) => list.iter().map(Self::bytes).sum(),
            Self::Map(map) => map.iter().map(|(k, v)| own + k.len() + v.bytes()).sum(),
            _ => 0,
        }
    }

    /// A map of texts.
    pub fn labels(labels: &Labels) -> Self {
        Self::Map(labels.to_map().into_iter().map(|(k, v)| (k, Self::Text(v))).collect())
    }

    /// Whether a condition on it holds: not zero, not empty.
    pub fn is_true(&self) -> bool {
        match self {
            Self::Nil => false,
            Self::Bool(b) => *b,
            Self::Int(n) => *n != 0,
            Self::Float(v) => *v != 0.0,
            Self::Text(text) => !text.is_empty(),
            Self::Map(map) => !map.is_empty(),
            Self::List(list) => !list.is_empty(),
        }
    }
}

/// What a missing key of a map stands for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Missing {
    /// An empty text, as in alert templates.
    #[default]
    Empty,
    /// An error.
    Error,
}

/// A template that cannot be read or run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct TemplateError {
    /// Line in the template, from 1.
    pub line: usize,
    /// What is wrong there.
    pub reason: String,
}

/// What a template may use.
#[derive(Default)]
pub struct Scope<'s> {
    /// The dot.
    pub root: Data,
    /// Variables by name, without the `$`.
    pub variables: BTreeMap<String, Data>,
    /// What a missing key stands for.
    pub missing: Missing,
    /// Answers `query "..."`.
    pub query: Option<&'s QueryFn<'s>>,
}

impl Scope<'_> {
    /// What alert templates see: `$labels`, `$externalLabels`, `$value`, and the same below the
    /// dot.
    pub fn alert(labels: &Labels, external: &Labels, value: f64) -> Self {
        let (labels, external) = (Data::labels(labels), Data::labels(external));
        let value = Data::Float(value);
        let url = Data::Text(String::new());
        let pairs = |names: [&str; 4]| -> BTreeMap<String, Data> {
            let values = [&labels, &external, &value, &url];
            names.iter().zip(values).map(|(n, v)| ((*n).to_owned(), v.clone())).collect()
        };
        Self {
            root: Data::Map(pairs(["Labels", "ExternalLabels", "Value", "ExternalURL"])),
            variables: pairs(["labels", "externalLabels", "value", "externalURL"]),
            ..Self::default()
        }
    }
}

/// A parsed template.
#[derive(Clone, Debug)]
pub struct Template {
    nodes: Vec<parse::Node>,
}

impl Template {
    /// Reads a template.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        Ok(Self { nodes: parse::parse(text)? })
    }

    /// Fills it in.
    pub fn render(&self, scope: &Scope<'_>) -> Result<String, TemplateError> {
        run::run(&self.nodes, scope)
    }
}

/// Reads and fills in at once.
pub fn render(text: &str, scope: &Scope<'_>) -> Result<String, TemplateError> {
    if !text.contains("{{") {
        return Ok(text.to_owned());
    }
    Template::parse(text)?.render(scope)
}

#[cfg(test)]
mod tests;
