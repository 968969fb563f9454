//! Reads a folder of manifests: everything is parsed before anything is started.

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use evenkeel_api::Obj;
use serde_json::Value;

/// Most bytes one manifest file may have: what an API server takes in one request.
const FILE_BYTES_MAX: u64 = 3 << 20;

/// What a folder holds.
#[derive(Debug, Default)]
pub(crate) struct Input {
    /// Text of the eksctl `ClusterConfig` documents, with where each came from.
    pub(crate) clusters: Vec<(Origin, String)>,
    /// Kubernetes objects, in file and document order.
    pub(crate) objects: Vec<(Origin, Obj)>,
    /// The image map, when the folder has an `images.yaml`.
    pub(crate) images: Option<PathBuf>,
    /// Documents that are no Kubernetes objects: said, not fatal.
    pub(crate) skipped: Vec<String>,
}

/// Where a document was found. Printed as `file.yaml, document 2`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Origin {
    file: String,
    document: usize,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}, document {}", self.file, self.document)
    }
}

/// Reads every `.yaml`, `.yml` and `.json` file of `dir`, in name order.
///
/// **Errors**: the folder or a file cannot be read, or a document is no valid YAML: the file, the
/// document and the parser's position are named, and nothing is started.
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
            "folder {place} is not there: name the folder with your manifests, or make it"
        ),
        ErrorKind::NotADirectory => {
            let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
            let parent = parent.unwrap_or(Path::new(".")).display().to_string();
            anyhow::anyhow!("{place} is a file: name the folder with your manifests, like {parent}")
        }
        _ => anyhow::anyhow!("folder {place} cannot be read: {error}: check its permissions"),
    }
}

fn read_text(file: &str, text: &str, input: &mut Input) -> anyhow::Result<()> {
    for (index, document) in documents(text).into_iter().enumerate() {
        let origin = Origin { file: file.to_owned(), document: index + 1 };
        let value: Value = serde_saphyr::from_str(&document)
            .map_err(|error| anyhow::anyhow!("{origin} is not valid YAML: {error}"))?;
        if value.is_null() {
            continue;
        }
        let field = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default();
        let (api_version, kind) = (field("apiVersion"), field("kind"));
        if kind == "ClusterConfig" && api_version.starts_with("eksctl.io/") {
            input.clusters.push((origin, document));
        } else if kind == "List" && api_version == "v1" {
            for item in value.get("items").and_then(Value::as_array).into_iter().flatten() {
                input.objects.push((origin.clone(), object(&origin, item.clone())?));
            }
        } else if api_version.is_empty() && kind.is_empty() {
            let why = "has neither apiVersion nor kind, so it is no Kubernetes object";
            input.skipped.push(format!("{origin} {why}: skipped"));
        } else {
            input.objects.push((origin.clone(), object(&origin, value)?));
        }
    }
    Ok(())
}

fn object(origin: &Origin, value: Value) -> anyhow::Result<Obj> {
    Obj::from_json(value).with_context(|| origin.to_string())
}

/// Splits a file at its `---` lines; comments-only documents are dropped.
fn documents(text: &str) -> Vec<String> {
    let mut all = vec![String::new()];
    for line in text.lines() {
        if line == "---" || line.starts_with("--- ") {
            all.push(String::new());
        } else if let Some(last) = all.last_mut() {
            last.push_str(line);
            last.push('\n');
        }
    }
    let says_something = |document: &String| {
        document.lines().any(|line| !line.trim().is_empty() && !line.trim().starts_with('#'))
    };
    all.retain(says_something);
    all
}

/// The order in which objects must be made: what others need comes first.
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
    use super::*;

    #[test]
    fn a_folder_that_is_none_says_what_to_name() {
        let error = |dir: &str| read(Path::new(dir)).unwrap_err().to_string();
        assert_eq!(
            error("no/such"),
            "folder no/such is not there: name the folder with your manifests, or make it"
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
    fn broken_yaml_names_the_file_and_the_document() {
        let error = parse("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n---\na: [1,\n");
        let text = format!("{:#}", error.unwrap_err());
        assert!(text.contains("shop.yaml, document 2"), "{text}");
        let text = format!("{:#}", parse("apiVersion: v1\nkind: Pod\n").unwrap_err());
        assert!(text.contains("metadata is missing"), "{text}");
    }
}
