//! The image map, read before anything is started: the nodes read it only when they need it, and
//! would report a mistake in it pod by pod.

use std::path::Path;

use anyhow::{Context as _, bail};
use evenkeel_node::images::{ImageMap, ImageMapError, MAP_BYTES_MAX};
use evenkeel_yaml::{Entry, Node};

/// **Errors**: it cannot be read, or a line of it makes no sense: file, line and field.
pub(super) fn check(file: &Path) -> anyhow::Result<()> {
    let shown = file.display().to_string();
    let size = std::fs::metadata(file).with_context(|| shown.clone())?.len();
    if size > MAP_BYTES_MAX {
        bail!("{shown}: {size} bytes, more than {MAP_BYTES_MAX}: use patterns (shop/*)");
    }
    let text = std::fs::read_to_string(file).with_context(|| shown.clone())?;
    match problem(&text) {
        None => Ok(()),
        Some(problem) => bail!("{shown}, {problem}"),
    }
}

/// What is wrong with an image map, with its line.
fn problem(text: &str) -> Option<String> {
    Some(match ImageMap::parse(text).err()? {
        // It begins with the line.
        ImageMapError::Malformed { problem } => problem,
        ImageMapError::Entry { image, problem } => {
            let line = Node::parse(text).ok().and_then(|map| {
                let mut entries = map.get("images")?.entries().iter();
                entries.find(|entry| entry.key() == image).map(Entry::line)
            });
            let line = line.map(|line| format!("line {line}: ")).unwrap_or_default();
            format!("{line}field images.{image}: {problem}")
        }
    })
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;

    use super::*;

    #[test]
    fn a_mistake_in_the_image_map_is_named_with_its_line() {
        let said = |text: &str| problem(text).unwrap_or_else(|| "read".to_owned());
        assert_eq!(said("# nothing\n"), "read");
        assert_eq!(said("images:\n  a:1: {program: /bin/a}\n"), "read");
        assert_snapshot!(said("images:\n  a:1: {program: /bin/a}\n  b:1: {program: b}\n"), @"line 3: field images.b:1: program must be an absolute path");
        assert_snapshot!(said("images:\n  a: {}\n"), @"line 2: field images.a: give exactly one of builtin and program");
        for (text, line) in [
            ("images:\n  a: {programm: /bin/a}\n", "line 2"),
            ("images:\n  a: /bin/a\n", "line 2"),
            ("images:\n- a\n", "line 2"),
            ("images: [\n", "line "),
            ("image: {}\n", "line 1"),
        ] {
            assert!(said(text).starts_with(line), "{}", said(text));
        }
    }
}
