use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, bail};

use crate::circles::{self, Source};

/// Lines at which a file must be split.
const LINES_MAX: usize = 900;
/// Tables and generated files that may be longer, each with its reason.
const LONG_FILES: [(&str, &str); 0] = [];
/// Words that mean unfinished work.
const UNFINISHED: [&str; 3] = ["todo!(", "unimplemented!(", "dbg!("];

/// Checks the shape of every tracked file; all findings are listed before it fails.
pub(crate) fn check() -> anyhow::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut findings = Vec::new();
    let mut crates: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
    for file in tracked(&root)? {
        let path = root.join(&file);
        let Ok(text) = fs::read_to_string(&path) else { continue };
        let name = file.display().to_string();
        let extension = path.extension().and_then(|extension| extension.to_str());
        if extension == Some("rs") {
            rust_file(&name, &text, &mut findings);
            if let Some((krate, below)) = in_crate(&name) {
                crates.entry(krate).or_default().push((below, text.clone()));
            }
        }
        let manifest = name.starts_with("crates/") && name.ends_with("Cargo.toml");
        if manifest && !text.contains("[lints]\nworkspace = true") {
            findings.push(format!("{name}: must inherit the workspace's lints"));
        }
        let by_hand = matches!(extension, Some("rs" | "md" | "toml")) && !name.contains("/tests/");
        if by_hand && text.lines().any(|line| line.ends_with(' ')) {
            findings.push(format!("{name}: a line ends in a space"));
        }
    }
    for (krate, files) in &crates {
        let sources: Vec<_> = files.iter().map(|(file, text)| Source { file, text }).collect();
        findings.extend(circles::check(krate, &sources, circles::KNOWN));
    }
    if !findings.is_empty() {
        bail!("{} findings\n{}", findings.len(), findings.join("\n"));
    }
    Ok(())
}

fn rust_file(name: &str, text: &str, findings: &mut Vec<String>) {
    let lines = text.lines().count();
    let excused = LONG_FILES.iter().any(|(file, _)| *file == name);
    if lines > LINES_MAX && !excused {
        findings.push(format!("{name}: {lines} lines, split it (limit {LINES_MAX})"));
    }
    if name.starts_with("crates/xtask") {
        return;
    }
    for (number, line) in text.lines().enumerate() {
        if UNFINISHED.iter().any(|word| line.contains(word)) {
            findings.push(format!("{name}:{}: unfinished: {}", number + 1, line.trim()));
        }
        if line.contains("#[allow(") || line.contains("#![allow(") {
            findings.push(format!("{name}:{}: use #[expect(.., reason)]", number + 1));
        }
        if line.trim() == "#[ignore]" {
            findings.push(format!("{name}:{}: an ignored test needs a reason", number + 1));
        }
    }
    if name.ends_with("src/lib.rs") && !text.starts_with("//!") {
        findings.push(format!("{name}: starts with a crate doc"));
    }
}

/// The crate of a source file, and its path below `src`.
fn in_crate(name: &str) -> Option<(String, String)> {
    let (krate, below) = name.strip_prefix("crates/")?.split_once("/src/")?;
    Some((krate.to_owned(), below.to_owned()))
}

fn tracked(root: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let listed = Command::new("git").arg("ls-files").current_dir(root).output();
    let listed = listed.context("git ls-files")?;
    let text = String::from_utf8(listed.stdout).context("file names are UTF-8")?;
    Ok(text.lines().map(PathBuf::from).collect())
}
