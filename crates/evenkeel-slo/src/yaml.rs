//! YAML in and out: documents split as Sloth splits them, and a writer for its output style.

use serde_json::Value;

/// One document of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Document<'a> {
    /// The text between two `---` lines.
    pub text: &'a str,
    /// Line of the file on which it starts, from 1.
    pub line: usize,
}

/// Deepest nesting that is read; Sloth's own kinds need 9.
const DEPTH_MAX: usize = 64;
/// Most nodes in one document: 100,000 SLOs of the article's size.
const NODES_MAX: usize = 8_000_000;
/// Most nodes that aliases may repeat; people repeat a label set or two.
const ALIASES_MAX: usize = 50_000;

/// Splits a file at lines that start with `---`; documents of comments and blanks are dropped.
pub(crate) fn split(text: &str) -> Vec<Document<'_>> {
    let mut out = Vec::new();
    let mut start = 0;
    let mut start_line = 1;
    let mut at = 0;
    for (index, line) in text.split_inclusive('\n').enumerate() {
        if line.starts_with("---") {
            push_document(&mut out, text, start..at, start_line);
            start = at + line.len();
            start_line = index + 2;
        }
        at += line.len();
    }
    push_document(&mut out, text, start..text.len(), start_line);
    out
}

fn push_document<'a>(
    out: &mut Vec<Document<'a>>,
    text: &'a str,
    range: std::ops::Range<usize>,
    line: usize,
) {
    let Some(text) = text.get(range) else { return };
    let blank = |l: &str| l.trim().is_empty() || l.trim_start().starts_with('#');
    if !text.lines().all(blank) {
        out.push(Document { text, line });
    }
}

/// Reads one document; the error text carries the line within the file.
pub(crate) fn parse(document: &Document<'_>) -> Result<Value, String> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: DEPTH_MAX,
            max_nodes: NODES_MAX,
            max_events: NODES_MAX * 2,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: ALIASES_MAX,
        },
        with_snippet: false,
    };
    serde_saphyr::from_str_with_options(document.text, options).map_err(|error| {
        let line = error.location().map_or(0, |l| usize::try_from(l.line()).unwrap_or(0));
        let line = document.line + line.saturating_sub(1);
        let text = error.to_string();
        let text = text.lines().next().unwrap_or("not valid YAML");
        format!("line {line}: {text}")
    })
}

/// Writes a value in block style, mappings in their own order.
pub(crate) fn write(value: &Value) -> String {
    let mut out = String::new();
    write_node(&mut out, value, 0);
    out
}

fn write_node(out: &mut String, value: &Value, indent: usize) {
    match value {
        Value::Object(map) => {
            for (index, (key, value)) in map.iter().enumerate() {
                if index > 0 {
                    pad(out, indent);
                }
                write_entry(out, key, value, indent);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    pad(out, indent);
                }
                out.push_str("- ");
                write_child(out, item, indent + 2);
            }
        }
        other => write_child(out, other, indent),
    }
}

fn write_entry(out: &mut String, key: &str, value: &Value, indent: usize) {
    write_key(out, key);
    out.push(':');
    match value {
        Value::Object(map) if !map.is_empty() => {
            out.push('\n');
            pad(out, indent + 2);
            write_node(out, value, indent + 2);
        }
        Value::Array(items) if !items.is_empty() => {
            out.push('\n');
            pad(out, indent);
            write_node(out, value, indent);
        }
        other => {
            out.push(' ');
            write_child(out, other, indent + 2);
        }
    }
}

fn write_child(out: &mut String, value: &Value, indent: usize) {
    match value {
        Value::Object(map) if map.is_empty() => out.push_str("{}\n"),
        Value::Array(items) if items.is_empty() => out.push_str("[]\n"),
        Value::Object(_) | Value::Array(_) => write_node(out, value, indent),
        Value::String(text) => {
            write_text(out, text, indent);
            out.push('\n');
        }
        Value::Number(number) => {
            let text = number.as_f64().map_or_else(|| number.to_string(), crate::number::go_f);
            out.push_str(&text);
            out.push('\n');
        }
        other => {
            out.push_str(&other.to_string());
            out.push('\n');
        }
    }
}

/// Appends `indent` spaces.
pub(crate) fn pad(out: &mut String, indent: usize) {
    const SPACES: &str = "                                ";
    match SPACES.get(..indent) {
        Some(spaces) => out.push_str(spaces),
        None => out.extend(std::iter::repeat_n(' ', indent)),
    }
}

/// Appends a string scalar without its line end: plain, quoted, or as a literal block whose
/// lines are indented by `indent`.
pub(crate) fn write_text(out: &mut String, text: &str, indent: usize) {
    if is_plain(text) {
        out.push_str(text);
    } else if is_block(text) {
        let stripped = text.trim_end_matches('\n');
        let newlines = text.len() - stripped.len();
        out.push_str(match newlines {
            0 => "|-",
            1 => "|",
            _ => "|+",
        });
        for line in stripped.split('\n') {
            out.push('\n');
            if !line.is_empty() {
                pad(out, indent);
                out.push_str(line);
            }
        }
        out.extend(std::iter::repeat_n('\n', newlines.saturating_sub(1)));
    } else if text.chars().all(|c| !c.is_control()) && !text.contains('\'') {
        out.push('\'');
        out.push_str(text);
        out.push('\'');
    } else {
        // JSON strings are YAML double-quoted scalars.
        out.push_str(&Value::String(text.to_owned()).to_string());
    }
}

/// Appends a key: plain or quoted, never a block.
pub(crate) fn write_key(out: &mut String, key: &str) {
    if is_plain(key) {
        out.push_str(key);
    } else {
        out.push_str(&Value::String(key.to_owned()).to_string());
    }
}

/// A literal block reads back exactly: more than one line, no odd characters, no leading blank.
fn is_block(text: &str) -> bool {
    text.contains('\n')
        && !text.starts_with([' ', '\n', '\t'])
        && text.chars().all(|c| c == '\n' || c == '\t' || !c.is_control())
        && !text.chars().any(|c| matches!(c, '\u{feff}' | '\u{2028}' | '\u{2029}' | '\u{85}'))
        && !text.lines().any(|l| l.starts_with('\t'))
}

/// Plain without any doubt: a letter, slash or bracket first, harmless characters, no keyword.
fn is_plain(text: &str) -> bool {
    const KEYWORDS: [&str; 9] = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    let mut last = 0;
    for byte in text.bytes() {
        let harmless = if last == 0 {
            byte.is_ascii_alphabetic() || byte == b'/' || byte == b'('
        } else {
            byte.is_ascii_alphanumeric()
                || b"_-./:()$+*=~<>".contains(&byte)
                || (byte == b' ' && last != b':')
        };
        if !harmless {
            return false;
        }
        last = byte;
    }
    // The longest keyword has five letters.
    let keyword = || KEYWORDS.iter().any(|k| text.eq_ignore_ascii_case(k));
    !matches!(last, 0 | b':' | b' ') && (text.len() > 5 || !keyword())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_split_at_lines_of_three_dashes() {
        let text = "# only a comment\n---\na: 1\n--- # next\n\n---\nb: |\n  x\n";
        let docs: Vec<_> = split(text).into_iter().map(|d| (d.line, d.text)).collect();
        assert_eq!(docs, [(3, "a: 1\n"), (7, "b: |\n  x\n")]);
    }

    #[test]
    fn what_is_written_reads_back_the_same() {
        let texts = [
            "plain",
            "yes",
            "5m",
            "",
            " lead",
            "a: b",
            "a:",
            "x\ny\n",
            "x\ny",
            "x\n\ny\n\n",
            "\nx",
            "it's",
            "tab\tin",
            "#c",
            "1 - (x)",
            "sum(rate(x{a=~\"5..\"}[5m]))\n",
            "- a",
            "é\u{1}",
            "{{.window}}",
            "~",
            "0.5",
            "a #b",
            "(\n  1 - x\n)",
            "x \ny",
            "[a]",
            "\"q\"",
            "a\r\nb",
        ];
        for text in texts {
            let value = serde_json::json!({ "k": [text, { "n": { text: text } }], "l": text });
            let yaml = write(&value);
            let document = Document { text: &yaml, line: 1 };
            assert_eq!(parse(&document), Ok(value), "{text:?} as\n{yaml}");
        }
    }

    #[test]
    fn errors_name_the_line_of_the_file() {
        let docs = split("a: 1\n---\nb: [1\nc: 2\n");
        let error = parse(docs.last().unwrap()).unwrap_err();
        assert!(error.starts_with("line "), "{error}");
        let deep = "[".repeat(500);
        assert!(parse(&Document { text: &deep, line: 1 }).is_err());
    }
}
