//! What reading, checking and generating have to say about a manifest: one value per remark.

use std::fmt;

use serde::Serialize;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing; nothing has to change.
    Info,
    /// Works, but not as its author may believe.
    Warning,
    /// Nothing is generated before this is fixed.
    Error,
}

/// One remark about one field of one object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// Machine-readable reason, one of [`crate::reasons`].
    pub reason: &'static str,
    /// Where the text came from, `file.yaml#2` for the second document of a file; empty where the
    /// object says it all.
    pub source: String,
    /// Line in the file, from 1, where it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    /// `Kind/name`, as far as it is known.
    pub object: String,
    /// Path of the field inside the object, `spec.slos[0].objective`; empty for the whole object.
    pub field: String,
    /// What is the matter.
    pub message: String,
    /// What to do about it; empty when the message says it all.
    pub fix: String,
}

impl Finding {
    /// For an object of a cluster: its source is its full name, and it has no lines.
    #[must_use]
    pub fn of_cluster(mut self) -> Self {
        (self.object, self.line) = (std::mem::take(&mut self.source), None);
        self
    }

    /// The text for those who have the object before them: field, message and fix.
    fn in_object(&self) -> String {
        let field = if self.field.is_empty() { String::new() } else { format!("{}: ", self.field) };
        let fix = if self.fix.is_empty() { String::new() } else { format!(" ({})", self.fix) };
        format!("{field}{}{fix}", self.message)
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.severity {
            Severity::Info => "info",
            Severity::Warning => "warning",
            Severity::Error => "error",
        };
        write!(f, "{level}:")?;
        if !self.source.is_empty() {
            write!(f, " {}", self.source)?;
            if let Some(line) = self.line {
                write!(f, ":{line}")?;
            }
        }
        write!(f, " {}", self.object)?;
        if !self.field.is_empty() {
            write!(f, " {}", self.field)?;
        }
        write!(f, ": {} ({})", self.message, self.reason)?;
        if !self.fix.is_empty() {
            write!(f, "; fix: {}", self.fix)?;
        }
        Ok(())
    }
}

/// Type of the condition that sums all findings up.
pub(crate) const VALID: &str = "Valid";

/// A Kubernetes-style condition for the status of an SLO object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Condition {
    /// Type of the condition: the reason of the findings it sums up.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// `True` or `False`.
    pub status: &'static str,
    /// Machine-readable reason.
    pub reason: &'static str,
    /// Every finding of that reason with field and fix, joined by `; `.
    pub message: String,
}

/// Sums findings up as conditions: one per reason in order of first appearance, then `Valid`.
pub fn conditions(findings: &[Finding]) -> Vec<Condition> {
    let mut out: Vec<Condition> = Vec::new();
    for finding in findings {
        let message = finding.in_object();
        match out.iter_mut().find(|c| c.kind == finding.reason) {
            Some(known) => {
                known.message.push_str("; ");
                known.message.push_str(&message);
            }
            None => out.push(Condition {
                kind: finding.reason,
                status: "True",
                reason: finding.reason,
                message,
            }),
        }
    }
    let errors = findings.iter().filter(|f| f.severity == Severity::Error).count();
    out.push(if errors == 0 {
        Condition {
            kind: VALID,
            status: "True",
            reason: "Accepted",
            message: "rules are generated".to_owned(),
        }
    } else {
        Condition {
            kind: VALID,
            status: "False",
            reason: "Refused",
            message: format!("{errors} error(s); no rules are generated"),
        }
    });
    out
}

/// True when one of them is an error.
pub fn has_errors(findings: &[Finding]) -> bool {
    findings.iter().any(|f| f.severity == Severity::Error)
}
