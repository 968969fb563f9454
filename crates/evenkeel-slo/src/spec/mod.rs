//! Readers: from the text of a document to [`SloGroup`]s.

mod fields;
mod openslo;
mod openslo_v1;
mod sloth;

use evenkeel_yaml::{Error, Node};
use serde_json::Value;

use crate::duration::PromDuration;
use crate::finding::{Finding, Severity};
use crate::model::{SloGroup, SpecKind};
use crate::reasons;
use crate::windows::AlertWindows;

pub(crate) use fields::Reader;
pub use sloth::RESERVED_LABELS;

/// A file as the caller read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// Name for messages, usually the path.
    pub name: String,
    /// Its whole text; may hold several documents.
    pub text: String,
}

/// How to read what Sloth would refuse or ignore.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// As Sloth does: the other casing has no effect, a window is never inferred.
    Sloth,
    /// What Sloth accepts means the same; what it refuses for its casing or a literal window
    /// is understood, and a finding says so.
    Lenient,
}

/// One document, parsed but not yet read.
#[derive(Clone, Debug)]
pub(crate) struct Parsed {
    pub(crate) source: String,
    pub(crate) kind: DocumentKind,
    pub(crate) object: String,
    pub(crate) value: Value,
    pub(crate) node: Node,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DocumentKind {
    Slos(SpecKind),
    AlertWindows,
    /// Read by other documents, like an `OpenSLO` `SLI` that an `SLO` points to.
    Referenced,
}

impl DocumentKind {
    /// Whether Sloth fills a Go struct with it, where text and keys stay as written, and does not
    /// read it as Kubernetes reads objects.
    fn is_filled_in_go(self) -> bool {
        matches!(self, Self::Slos(kind) if kind != SpecKind::Kubernetes)
    }
}

/// Parses every document of every input; what cannot be used becomes a finding.
pub(crate) fn parse_all(inputs: &[Input], findings: &mut Vec<Finding>) -> Vec<Parsed> {
    let mut out = Vec::new();
    for input in inputs {
        let documents = match evenkeel_yaml::split(&input.text) {
            Ok(documents) => documents,
            Err(error) => {
                findings.push(broken(&input.name, error));
                continue;
            }
        };
        let many = documents.len() > 1;
        for (index, document) in documents.iter().enumerate() {
            let source =
                if many { format!("{}#{}", input.name, index + 1) } else { input.name.clone() };
            let node = match document.parse() {
                Ok(node) => node,
                Err(error) => {
                    findings.push(broken(&source, error));
                    continue;
                }
            };
            match node.json() {
                Err(error) => findings.push(broken(&source, error)),
                Ok(mut value) => match classify(&value) {
                    Ok((kind, object)) => {
                        if kind.is_filled_in_go() {
                            value = node.json_with_written_keys().unwrap_or(value);
                        }
                        out.push(Parsed { source, kind, object, value, node });
                    }
                    Err(message) => findings.push(Finding {
                        line: Some(node.line()),
                        reason: reasons::UNKNOWN_KIND,
                        fix: KNOWN_KINDS.to_owned(),
                        ..broken(&source, Error { line: 0, field: String::new(), problem: message })
                    }),
                },
            }
        }
    }
    out
}

/// A document that cannot be read.
fn broken(source: &str, error: Error) -> Finding {
    Finding {
        severity: Severity::Error,
        reason: reasons::INVALID_YAML,
        source: source.to_owned(),
        line: Some(error.line),
        object: "document".to_owned(),
        field: error.field,
        message: error.problem,
        fix: String::new(),
    }
}

/// Adds the lines to findings about these documents: that of the field, or of the nearest thing
/// around it that is there.
pub(crate) fn add_lines(parsed: &[Parsed], findings: &mut [Finding]) {
    for finding in findings.iter_mut().filter(|finding| finding.line.is_none()) {
        let document = parsed.iter().find(|p| p.source == finding.source);
        finding.line = document.and_then(|p| fields::line_of(&p.node, &finding.field));
    }
}

const KNOWN_KINDS: &str = "use version prometheus/v1, sloth.slok.dev/v1 PrometheusServiceLevel or \
                           AlertWindows, openslo/v1alpha SLO, or openslo/v1 SLO";

/// What is said, after its version and kind, of a document that is something else.
pub(crate) const NOT_READ: &str = " is not a kind this command reads";

fn classify(value: &Value) -> Result<(DocumentKind, String), String> {
    let text = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or("");
    let name = value.pointer("/metadata/name").and_then(Value::as_str).unwrap_or("?");
    let kind = match (text("apiVersion"), text("kind"), text("version")) {
        ("", "", "prometheus/v1") => {
            let service = text("service");
            return Ok((
                DocumentKind::Slos(SpecKind::File),
                if service.is_empty() {
                    "service ?".to_owned()
                } else {
                    format!("service {service}")
                },
            ));
        }
        ("sloth.slok.dev/v1", "PrometheusServiceLevel", _) => {
            DocumentKind::Slos(SpecKind::Kubernetes)
        }
        ("sloth.slok.dev/v1", "AlertWindows", _) => DocumentKind::AlertWindows,
        ("openslo/v1alpha", "SLO", _) => DocumentKind::Slos(SpecKind::OpenSloV1Alpha),
        ("openslo/v1", "SLO", _) => DocumentKind::Slos(SpecKind::OpenSloV1),
        ("openslo/v1" | "openslo/v1alpha", other, _) if !other.is_empty() => {
            DocumentKind::Referenced
        }
        _ if !value.is_object() => return Err("the document is not a mapping".to_owned()),
        ("", "", "") => {
            return Err("the document has no apiVersion and kind, and no version".to_owned());
        }
        ("", "", version) => return Err(format!("version {version:?} is not known")),
        (version, kind, _) => {
            return Err(format!("{version} {kind}{NOT_READ}"));
        }
    };
    Ok((kind, format!("{}/{name}", text("kind"))))
}

/// Reads one parsed document. `None` with an error among the findings when it is unusable.
pub(crate) fn read_group(
    parsed: &Parsed,
    all: &[Parsed],
    how: ReadOptions,
    findings: &mut Vec<Finding>,
) -> Option<SloGroup> {
    let DocumentKind::Slos(kind) = parsed.kind else { return None };
    let before = findings.len();
    let mut reader = Reader::new(parsed);
    reader.as_written = parsed.kind.is_filled_in_go();
    let group = match kind {
        SpecKind::Kubernetes | SpecKind::File => sloth::read(parsed, kind, how, &mut reader),
        SpecKind::OpenSloV1Alpha => openslo::read(parsed, how, &mut reader),
        SpecKind::OpenSloV1 => openslo_v1::read(parsed, all, how, &mut reader),
    };
    findings.append(&mut reader.findings);
    let failed = findings.iter().skip(before).any(|f| f.severity == Severity::Error);
    group.filter(|_| !failed)
}

/// What a reader has to know besides the document.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReadOptions {
    pub(crate) reading: Reading,
    pub(crate) default_window: PromDuration,
}

/// Reads an `AlertWindows` document.
pub(crate) fn read_windows(parsed: &Parsed, findings: &mut Vec<Finding>) -> Option<AlertWindows> {
    match AlertWindows::from_value(&parsed.value) {
        Ok(windows) => Some(windows),
        Err(message) => {
            let mut reader = Reader::new(parsed);
            reader.error(reasons::INVALID_FIELD, "", message, "");
            findings.append(&mut reader.findings);
            None
        }
    }
}
