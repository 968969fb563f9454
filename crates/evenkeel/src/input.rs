//! Reads a folder of manifests: everything is parsed before anything is started.

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, bail};
use evenkeel_api::{Obj, ObjError};
use evenkeel_yaml::Node;
use serde_json::Value;

/// Most bytes one manifest file may have: what an API server takes in one request.
const FILE_BYTES_MAX: u64 = 3 << 20;

/// What a folder holds.
#[derive(Debug, Default)]
pub(crate) struct Input {
    /// The eksctl `ClusterConfig` documents, with where each came from.
    pub(crate) clusters: Vec<(Origin, Arc<Node>)>,
    /// Kubernetes objects, in file and document order.
    pub(crate) objects: Vec<(Origin, Obj)>,
    /// The image map, when the folder has an `images.yaml`.
    pub(crate) images: Option<PathBuf>,
    /// Documents that are not Kubernetes objects: reported, not fatal.
    pub(crate) skipped: Vec<String>,
}

/// Where a document was found. Printed as `file.yaml, document 2`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Origin {
    /// Its name in the folder.
    pub(crate) file: String,
    document: usize,
    node: Arc<Node>,
}

impl Origin {
    /// The line of the first field that a message names, `spec.replicas`, if it is in the file.
    pub(crate) fn line_of(&self, message: &str) -> Option<usize> {
        let words = message.split(|c: char| c.is_whitespace() || matches!(c, '"' | ',' | ';'));
        let fields = words.map(|word| word.trim_matches([':', '(', ')', '.']));
        let mut fields = fields.filter(|field| field.contains(['.', '[']));
        fields.find_map(|field| {
            let place = self.node.locate(field);
            place.whole.then_some(place.line)
        })
    }
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}, document {}", self.file, self.document)
    }
}

/// Reads every `.yaml`, `.yml` and `.json` file of `dir`, in name order.
///
/// **Errors**: the folder or a file cannot be read, or a document is not valid YAML or not an
/// object: file, line and field are named, and nothing is started.
pub(crate) fn read(dir: &Path) -> anyhow::Result<Input> {
    let mut files = Vec::new();
    let listing = fs::read_dir(dir).map_err(|error| unreadable(dir, &error))?;
    for entry in listing {
        let path = entry?.path();
        let known = path.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json");
        if known && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    if files.is_empty() {
        bail!(
            "{} has no .yaml, .yml or .json file: put your manifests there (a ClusterConfig and \
             your objects), or see `evenkeel demo`",
            dir.display()
        );
    }
    let mut input = Input::default();
    for file in files {
        if file.file_stem().is_some_and(|stem| stem == "images") {
            input.images = Some(file);
            continue;
        }
        let size = fs::metadata(&file)?.len();
        if size > FILE_BYTES_MAX {
            bail!("{}: {size} bytes, more than {FILE_BYTES_MAX}: split it", file.display());
        }
        let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        read_text(&name, &text, &mut input)?;
    }
    Ok(input)
}

fn unreadable(dir: &Path, error: &std::io::Error) -> anyhow::Error {
    let place = dir.display();
    match error.kind() {
        ErrorKind::NotFound => anyhow::anyhow!(
            "folder {place} does not exist: name the folder with your manifests, or create it"
        ),
        ErrorKind::NotADirectory => {
            let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
            let parent = parent.unwrap_or(Path::new(".")).display().to_string();
            anyhow::anyhow!("{place} is a file: name the folder with your manifests, like {parent}")
        }
        _ => anyhow::anyhow!("folder {place} cannot be read: {error}: check its permissions"),
    }
}

/// Adds the documents of a file.
pub(crate) fn read_text(file: &str, text: &str, input: &mut Input) -> anyhow::Result<()> {
    let broken = |error: evenkeel_yaml::Error| anyhow::anyhow!("{file}, {error}");
    for (index, document) in evenkeel_yaml::split(text).map_err(broken)?.iter().enumerate() {
        let node = Arc::new(document.parse().map_err(broken)?);
        let origin = Origin { file: file.to_owned(), document: index + 1, node: node.clone() };
        let value = node.json().map_err(broken)?;
        if value.is_null() {
            continue;
        }
        let field = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default();
        let (api_version, kind) = (field("apiVersion"), field("kind"));
        if kind == "ClusterConfig" && api_version.starts_with("eksctl.io/") {
            input.clusters.push((origin, node));
        } else if kind == "List" && api_version == "v1" {
            let items = value.get("items").and_then(Value::as_array).into_iter().flatten();
            for (item, of) in items.zip(node.get("items").map_or(&[][..], Node::items)) {
                let origin = Origin { node: Arc::new(of.clone()), ..origin.clone() };
                input.objects.push((origin, object(file, item.clone(), of)?));
            }
        } else if api_version.is_empty() && kind.is_empty() {
            let why = "has neither apiVersion nor kind, so it is not a Kubernetes object";
            input.skipped.push(format!("{origin} {why}: skipped"));
        } else {
            input.objects.push((origin, object(file, value, &node)?));
        }
    }
    Ok(())
}

/// The object, or what is wrong with it, with file and line.
fn object(file: &str, value: Value, node: &Node) -> anyhow::Result<Obj> {
    Obj::from_json(value).map_err(|error| {
        let ObjError::Malformed { object, field, problem } = &error else {
            return anyhow::anyhow!("{file}, line {}: {error}", node.line());
        };
        let place = node.locate(field);
        let line = place.line;
        let quoted = place.node.text().filter(|_| place.whole && place.node.is_plain());
        match quoted {
            Some(text) if problem.starts_with("must be text") => anyhow::anyhow!(
                "{file}, line {line}: {object}: field {field} must be text, not {}: put it in \
                 quotes: {text:?}",
                place.node.described()
            ),
            _ => anyhow::anyhow!("{file}, line {line}: {object}: field {field} {problem}"),
        }
    })
}

/// The order in which objects must be created: objects that others need come first.
pub(crate) fn rank(obj: &Obj) -> u8 {
    match &*obj.key().kind.kind {
        "Namespace" => 0,
        "CustomResourceDefinition" => 1,
        "ConfigMap" | "Secret" | "ServiceAccount" | "GatewayClass" => 2,
        "Gateway" | "Service" => 3,
        _ => 4,
    }
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;

    use super::*;

    #[test]
    fn a_path_that_is_not_a_folder_says_what_to_name() {
        let error = |dir: &str| read(Path::new(dir)).unwrap_err().to_string();
        assert_eq!(
            error("no/such"),
            "folder no/such does not exist: name the folder with your manifests, or create it"
        );
        assert_eq!(
            error("src/input.rs"),
            "src/input.rs is a file: name the folder with your manifests, like src"
        );
        assert!(error("src/up").starts_with("src/up has no .yaml, .yml or .json file: put your"));
    }

    fn parse(text: &str) -> anyhow::Result<Input> {
        let mut input = Input::default();
        read_text("shop.yaml", text, &mut input).map(|()| input)
    }

    #[test]
    fn documents_are_sorted_into_what_they_are() {
        let input = parse(
            "# a comment\n---\napiVersion: eksctl.io/v1alpha5\nkind: ClusterConfig\n---\n\
             apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n---\nmonitoring-stack: {}\n",
        )
        .unwrap();
        assert_eq!((input.clusters.len(), input.objects.len()), (1, 1));
        assert!(input.skipped[0].starts_with("shop.yaml, document 3 has neither"));
    }

    #[test]
    fn broken_yaml_names_file_line_object_and_field() {
        let object = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\n";
        let said = |text: &str| match parse(text) {
            Ok(_) => "read".to_owned(),
            Err(error) => format!("{error:#}"),
        };
        let with = |more: &str| said(&format!("{object}{more}"));
        assert_snapshot!(with("---\na: [1,\n"), @"shop.yaml, line 6: field a[1]: unclosed bracket '['");
        assert_snapshot!(said("apiVersion: v1\nkind: Pod\n"), @"shop.yaml, line 1: Pod/: field metadata is missing");
        assert_snapshot!(with("  labels: {x: y}\n"), @r#"shop.yaml, line 5: ConfigMap/a: field metadata.labels.x must be text, not y, which YAML reads as the boolean true: put it in quotes: "y""#);
        assert_snapshot!(with("  annotations:\n    a.b/c: 010\n"), @r#"shop.yaml, line 6: ConfigMap/a: field metadata.annotations.a.b/c must be text, not the number 010: put it in quotes: "010""#);
        assert_snapshot!(with("  labels: [a]\n"), @"shop.yaml, line 5: ConfigMap/a: field metadata.labels must be a mapping, not a list");
        assert_snapshot!(said(&object.replace("name: a", "name: n")), @r#"shop.yaml, line 4: ConfigMap/: field metadata.name must be text, not n, which YAML reads as the boolean false: put it in quotes: "n""#);
        assert_snapshot!(with("  name: b\n"), @"shop.yaml, line 5: field metadata.name: is given twice, first in line 4");
        assert_snapshot!(with("kind: Secret\n"), @"shop.yaml, line 5: field kind: is given twice, first in line 2");
        assert_snapshot!(with("data: {a: 1, a: 2}\n"), @"shop.yaml, line 5: field data.a: is given twice, first in line 5");
        assert_snapshot!(with("data:\n\ta: 1\n"), @"shop.yaml, line 6: field data: a tab is used for indentation; use blanks");
        assert_snapshot!(said(&object.replace("kind: ConfigMap", "kind: no")), @r#"shop.yaml, line 2: object/a: field kind must be text, not no, which YAML reads as the boolean false: put it in quotes: "no""#);
        assert_snapshot!(with("--- more\n"), @"shop.yaml, line 5: only a comment may follow the dashes: start the document on the next line");
        let list = "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Pod\n  metadata:\n    name: on\n";
        assert_snapshot!(said(list), @r#"shop.yaml, line 7: Pod/: field metadata.name must be text, not on, which YAML reads as the boolean true: put it in quotes: "on""#);
    }

    #[test]
    fn manifests_that_kubectl_accepts_are_read() {
        let text = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\n  annotations:\n    note:\n\
                    \x20   text: \"one\n    two: three\"\n  labels: {x: , y: 'y'}\ndata:\n  on: 'yes'\n";
        let input = parse(text).unwrap();
        let [(_, obj)] = input.objects.as_slice() else { panic!("one object") };
        assert_eq!(obj.annotation("note"), Some(""));
        assert_eq!(obj.annotation("text"), Some("one two: three"));
        assert_eq!((obj.label("x"), obj.json()["data"]["true"].as_str()), (Some(""), Some("yes")));
    }
}
