//! The documents of a file, cut as kubectl cuts them.

use crate::error::Error;

/// One document of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Document<'a> {
    /// The text between two lines that start with `---`.
    pub text: &'a str,
    /// Line of the file on which the text starts, from 1.
    pub line: usize,
}

/// Cuts a file at its lines that start with `---`; documents of comments and blanks are left out.
///
/// **Errors**: something other than a comment follows the dashes.
/// **Source**: `YAMLReader` of k8s.io/apimachinery.
pub fn split(text: &str) -> Result<Vec<Document<'_>>, Error> {
    let mut documents = Vec::new();
    let (mut start, mut start_line, mut at) = (0, 1, 0);
    for (index, line) in text.split_inclusive('\n').enumerate() {
        // A byte-order mark may stand before the first line.
        if let Some(rest) = line.trim_start_matches('\u{feff}').strip_prefix("---") {
            let rest = rest.trim();
            if !rest.is_empty() && !rest.starts_with('#') {
                let problem = "only a comment may follow the dashes: start the document on the \
                               next line";
                return Err(Error::new(index + 1, problem));
            }
            documents.extend(document(text.get(start..at), start_line));
            start = at + line.len();
            start_line = index + 2;
        }
        at += line.len();
    }
    documents.extend(document(text.get(start..), start_line));
    Ok(documents)
}

fn document(text: Option<&str>, line: usize) -> Option<Document<'_>> {
    let text = text?;
    let is_blank = |line: &str| {
        let line = line.trim_start_matches('\u{feff}').trim();
        line.is_empty() || line.starts_with('#') || line == "..."
    };
    (!text.lines().all(is_blank)).then_some(Document { text, line })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_cut_at_lines_of_three_dashes() {
        let cut = |text: &'static str| -> Vec<(usize, &'static str)> {
            split(text).unwrap().into_iter().map(|d| (d.line, d.text)).collect()
        };
        let text = "# only a comment\n---\na: 1\n--- # next\n\n---\nb: |\n  x\n  ---\n";
        assert_eq!(cut(text), [(3, "a: 1\n"), (7, "b: |\n  x\n  ---\n")]);
        assert_eq!(cut("\u{feff}---\r\na: 1\r\n---\r\nb: 2"), [(2, "a: 1\r\n"), (4, "b: 2")]);
        assert_eq!(cut("---\n---\n"), []);
        let error = split("a: 1\n--- b: 2\n").unwrap_err();
        assert_eq!(error.line, 2);
    }
}
