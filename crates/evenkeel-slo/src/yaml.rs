//! A writer for YAML in the style of Sloth's output. Reading is `evenkeel_yaml`'s.

use serde_json::Value;

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
            let read = evenkeel_yaml::Node::parse(&yaml).and_then(|node| node.json());
            assert_eq!(read, Ok(value), "{text:?} as\n{yaml}");
        }
    }
}
