//! The files that an entry of `rule_files` stands for: a name, or a pattern as Go's
//! `filepath.Glob` reads it.

use std::path::{Path, PathBuf};

use crate::io::complain;

/// Files one pattern may match.
const FILES_MAX: usize = 10_000;

/// Name and text of each file that `pattern`, relative to `folder`, stands for, in name order.
///
/// A pattern that matches nothing is only a warning, as in promtool.
pub(super) fn read(folder: &Path, pattern: &str) -> Result<Vec<(String, String)>, String> {
    let paths = if pattern.contains(['*', '?', '[']) {
        let found = matching(folder, pattern)?;
        if found.is_empty() {
            complain(&format!("no file matches {pattern}"));
        }
        found
    } else {
        vec![folder.join(pattern)]
    };
    let mut files = Vec::new();
    for path in paths {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(&path).map_err(|error| format!("{name}: {error}"))?;
        files.push((name, text));
    }
    Ok(files)
}

fn matching(folder: &Path, pattern: &str) -> Result<Vec<PathBuf>, String> {
    let rooted = pattern.starts_with('/');
    let mut found = vec![if rooted { PathBuf::from("/") } else { folder.to_owned() }];
    for part in pattern.split('/').filter(|part| !part.is_empty()) {
        let mut next = Vec::new();
        for path in &found {
            if !part.contains(['*', '?', '[']) {
                next.push(path.join(part));
                continue;
            }
            let Ok(listing) = std::fs::read_dir(path) else { continue };
            let names = listing.flatten().map(|entry| entry.file_name());
            let mut names: Vec<String> = names.filter_map(|name| name.into_string().ok()).collect();
            names.sort();
            for name in names {
                if matches(part, &name)? {
                    next.push(path.join(name));
                }
            }
        }
        if next.len() > FILES_MAX {
            return Err(format!("{pattern} matches more than {FILES_MAX} files"));
        }
        found = next;
    }
    found.retain(|path| path.exists());
    Ok(found)
}

/// Whether a name matches a pattern of `*`, `?`, `[a-z]`, `[^a-z]` and `\`.
fn matches(pattern: &str, name: &str) -> Result<bool, String> {
    let pattern: Vec<char> = pattern.chars().collect();
    let name: Vec<char> = name.chars().collect();
    // Where to continue when a star has to match one character more.
    let mut retry: Option<(usize, usize)> = None;
    let (mut p, mut n) = (0, 0);
    loop {
        let step = match pattern.get(p) {
            Some('*') => {
                retry = Some((p, n));
                p += 1;
                continue;
            }
            Some(_) => one(&pattern, p, name.get(n).copied())?,
            None if n == name.len() => return Ok(true),
            None => None,
        };
        if let Some(end) = step {
            (p, n) = (end, n + 1);
            continue;
        }
        match retry {
            Some((star, from)) if from < name.len() => {
                retry = Some((star, from + 1));
                (p, n) = (star + 1, from + 1);
            }
            _ => return Ok(false),
        }
    }
}

/// Where the pattern continues if its piece at `at` matches the character.
fn one(pattern: &[char], at: usize, c: Option<char>) -> Result<Option<usize>, String> {
    let bad = || format!("syntax error in pattern {}", pattern.iter().collect::<String>());
    match pattern.get(at) {
        Some('?') => Ok(c.map(|_| at + 1)),
        Some('\\') => {
            let wanted = pattern.get(at + 1).ok_or_else(bad)?;
            Ok((c == Some(*wanted)).then_some(at + 2))
        }
        Some('[') => {
            let mut next = at + 1;
            let negated = pattern.get(next) == Some(&'^');
            next += usize::from(negated);
            let mut found = false;
            let first = next;
            while pattern.get(next) != Some(&']') || next == first {
                let low = *pattern.get(next).ok_or_else(bad)?;
                next += 1;
                let mut high = low;
                if pattern.get(next) == Some(&'-') {
                    high = *pattern.get(next + 1).ok_or_else(bad)?;
                    next += 2;
                }
                found |= c.is_some_and(|c| low <= c && c <= high);
            }
            Ok((c.is_some() && found != negated).then_some(next + 1))
        }
        Some(literal) => Ok((c == Some(*literal)).then_some(at + 1)),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_go() {
        for (pattern, name, matched) in [
            ("*.yml", "a.yml", true),
            ("*.yml", "a.yaml", false),
            ("*", "", true),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "aXbYbZ", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("[a-c]x", "bx", true),
            ("[^a-c]x", "bx", false),
            ("[^a-c]x", "dx", true),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("r[0-9]*.yaml", "r1-shop.yaml", true),
        ] {
            assert_eq!(matches(pattern, name), Ok(matched), "{pattern} {name}");
        }
        assert!(matches("[a", "a").is_err() && matches("[", "a").is_err());
    }

    #[test]
    fn a_pattern_names_files_below_the_tests_folder() {
        let names = |pattern: &str| -> Vec<String> {
            let found = matching(Path::new("src"), pattern).unwrap();
            found.iter().map(|path| path.display().to_string()).collect()
        };
        assert_eq!(names("tools/rule_f*.rs"), ["src/tools/rule_files.rs"]);
        assert_eq!(names("t*s/rule_?iles.rs"), ["src/tools/rule_files.rs"]);
        assert_eq!(names("nothing/*.rs"), [""; 0]);
    }
}
