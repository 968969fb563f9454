//! What a `CustomResourceDefinition` says about its kind.

use std::sync::Arc;

use serde_json::Value;

use crate::{rules::RuleTree, value::text};

/// A kind defined by a `CustomResourceDefinition`.
pub(crate) struct Custom {
    versions: Vec<CustomVersion>,
}

/// What a `CustomResourceDefinition` says about one version.
pub(crate) struct CustomVersion {
    name: Arc<str>,
    /// `openAPIV3Schema`.
    pub(crate) schema: Value,
    /// `additionalPrinterColumns`.
    pub(crate) columns: Vec<PrinterColumn>,
    pub(crate) scale: Option<ScalePaths>,
    /// Of `x-kubernetes-validations`; `None` when there are none.
    pub(crate) rules: Option<RuleTree>,
}

/// One of `additionalPrinterColumns`.
#[derive(Debug, Clone)]
pub(crate) struct PrinterColumn {
    pub(crate) name: String,
    pub(crate) kind: String,
    pub(crate) format: String,
    pub(crate) description: String,
    pub(crate) priority: i64,
    pub(crate) json_path: String,
}

/// Where a custom kind keeps its replicas, as JSON paths (`.spec.replicas`).
#[derive(Debug, Clone)]
pub(crate) struct ScalePaths {
    pub(crate) spec: String,
    pub(crate) status: String,
    pub(crate) selector: Option<String>,
}

impl Custom {
    /// The version of that name; the first one when there is none.
    pub(crate) fn version(&self, name: &str) -> Option<&CustomVersion> {
        self.versions.iter().find(|version| &*version.name == name).or(self.versions.first())
    }

    /// Reads the spec of a `CustomResourceDefinition`.
    pub(crate) fn parse(spec: &Value) -> Self {
        let versions = spec.get("versions").and_then(Value::as_array);
        Self { versions: versions.into_iter().flatten().map(CustomVersion::parse).collect() }
    }
}

impl CustomVersion {
    fn parse(version: &Value) -> Self {
        let field = |value: &Value, name: &str| text(value, name).to_owned();
        let columns = version.get("additionalPrinterColumns").and_then(Value::as_array);
        let columns = columns.into_iter().flatten().map(|column| PrinterColumn {
            name: field(column, "name"),
            kind: field(column, "type"),
            format: field(column, "format"),
            description: field(column, "description"),
            priority: column.get("priority").and_then(Value::as_i64).unwrap_or_default(),
            json_path: field(column, "jsonPath"),
        });
        let scale = version.pointer("/subresources/scale").map(|scale| ScalePaths {
            spec: field(scale, "specReplicasPath"),
            status: field(scale, "statusReplicasPath"),
            selector: scale.get("labelSelectorPath").and_then(Value::as_str).map(str::to_owned),
        });
        let schema = version.pointer("/schema/openAPIV3Schema").cloned().unwrap_or_default();
        // Those that cannot be compiled have been refused with the definition.
        let rules = RuleTree::compile(&schema, "", &mut Vec::new());
        Self {
            name: text(version, "name").into(),
            schema,
            rules,
            columns: columns.collect(),
            scale,
        }
    }
}
