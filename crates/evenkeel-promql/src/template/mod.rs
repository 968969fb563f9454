//! A small engine for Go's `text/template`, as far as alert labels and annotations use it:
//! `{{ $labels.job }} is at {{ $value | humanizePercentage }}`, `if`, `range`, `with`, `define`,
//! variables, and the functions that Prometheus adds. Templates cannot read anything but what they are given.

mod format;
mod functions;
mod lex;
mod parse;
mod run;
mod text;

pub use functions::QueryFn;

use crate::labels::Labels;
use std::collections::BTreeMap;

/// Bytes a template may write.
const OUTPUT_MAX: usize = 1 << 20;

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
    /// A value with fixed fields, such as a sample.
    Record(Vec<(&'static str, Data)>),
}

impl Data {
    /// About how much memory it takes. Unit: bytes.
    pub(crate) fn bytes(&self) -> usize {
        let own = std::mem::size_of::<Self>();
        own + match self {
            Self::Text(text) => text.len(),
            Self::List(list) => list.iter().map(Self::bytes).sum(),
            Self::Map(map) => map.iter().map(|(k, v)| own + k.len() + v.bytes()).sum(),
            Self::Record(fields) => fields.iter().map(|(_, v)| own + v.bytes()).sum(),
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
            Self::Record(_) => true,
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
    /// What `now` gives. Unit: milliseconds since the epoch.
    pub now_ms: i64,
    /// What `externalURL` gives.
    pub external_url: String,
}

/// The variables of alert templates, without the `$`.
const ALERT_VARIABLES: [&str; 4] = ["labels", "externalLabels", "externalURL", "value"];

impl Scope<'_> {
    /// What alert templates see: `$labels`, `$externalLabels`, `$value`, `$externalURL`, and the
    /// same below the dot.
    pub fn alert(labels: &Labels, external: &Labels, value: f64, external_url: &str) -> Self {
        let values = [
            Data::labels(labels),
            Data::labels(external),
            Data::Text(external_url.to_owned()),
            Data::Float(value),
        ];
        let fields = ["Labels", "ExternalLabels", "ExternalURL", "Value"];
        let names = ALERT_VARIABLES.map(str::to_owned).into_iter();
        Self {
            root: Data::Record(fields.into_iter().zip(values.clone()).collect()),
            variables: names.zip(values).collect(),
            external_url: external_url.to_owned(),
            ..Self::default()
        }
    }
}

/// A parsed template.
#[derive(Clone, Debug)]
pub struct Template {
    parsed: parse::Parsed,
}

impl Template {
    /// Reads a template in which the variables of alerts are known.
    ///
    /// **Errors**: what Go's `text/template` refuses, unknown functions and variables included.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        Self::parse_with(text, &ALERT_VARIABLES)
    }

    /// As [`Template::parse`], with these variables instead, without their `$`.
    pub fn parse_with(text: &str, variables: &[&str]) -> Result<Self, TemplateError> {
        Ok(Self { parsed: parse::parse(text, variables, functions::is_function)? })
    }

    /// Reads a plain template of Go: no variables but its own, no functions of Prometheus.
    pub fn parse_go(text: &str) -> Result<Self, TemplateError> {
        Ok(Self { parsed: parse::parse(text, &[], functions::is_go_function)? })
    }

    /// Fills it in.
    pub fn render(&self, scope: &Scope<'_>) -> Result<String, TemplateError> {
        run::run(&self.parsed, scope)
    }

    /// Whether its text is the same as long as the labels are: no value, time or query.
    pub fn reads_only_labels(&self) -> bool {
        self.parsed.reads_only(&["labels"])
    }
}

/// Reads and fills in at once.
pub fn render(text: &str, scope: &Scope<'_>) -> Result<String, TemplateError> {
    if !text.contains("{{") {
        return Ok(text.to_owned());
    }
    let variables: Vec<&str> = scope.variables.keys().map(String::as_str).collect();
    Template::parse_with(text, &variables)?.render(scope)
}

#[cfg(test)]
mod tests;
