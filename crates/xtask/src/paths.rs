//! The paths that a file of Rust uses. Enough of the grammar for our own sources.

/// What a `use` brings in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Imported {
    /// The name it has from then on.
    pub(crate) name: String,
    /// Its path, as written.
    pub(crate) path: Vec<String>,
}

/// The code of a file: comments, texts and test modules are blanked.
pub(crate) fn code(text: &str) -> String {
    without_tests(&plain(text))
}

/// What the code imports, and the paths beginning at `crate`, `super` or `self` besides.
pub(crate) fn read(code: &str) -> (Vec<Imported>, Vec<Vec<String>>) {
    let tokens = tokens(code);
    let (mut imported, mut inline) = (Vec::new(), Vec::new());
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        match *token {
            "use" => {
                at = tree(&tokens, at + 1, &[], &mut imported);
                continue;
            }
            "crate" | "super" | "self" if tokens.get(at + 1) == Some(&"::") => {
                let mut path = vec![(*token).to_owned()];
                while tokens.get(at + 1) == Some(&"::")
                    && let Some(step) = tokens.get(at + 2).filter(|step| is_name(step))
                {
                    path.push((*step).to_owned());
                    at += 2;
                }
                inline.push(path);
            }
            _ => {}
        }
        at += 1;
    }
    (imported, inline)
}

/// Reads one tree of a `use` at `at`; answers where it ends.
fn tree(tokens: &[&str], mut at: usize, prefix: &[String], imported: &mut Vec<Imported>) -> usize {
    let mut path = prefix.to_vec();
    while let Some(token) = tokens.get(at) {
        at += 1;
        match *token {
            "::" => {}
            "*" => return at,
            "{" => {
                while let Some(token) = tokens.get(at) {
                    match *token {
                        "}" => return at + 1,
                        "," => at += 1,
                        _ => at = tree(tokens, at, &path, imported),
                    }
                }
            }
            // Bounds such as `use<'a>`.
            step if !is_name(step) => return at,
            "self" if !path.is_empty() => break,
            step => {
                path.push(step.to_owned());
                if tokens.get(at) != Some(&"::") {
                    break;
                }
            }
        }
    }
    let mut name = path.last().cloned().unwrap_or_default();
    if tokens.get(at) == Some(&"as") {
        name = tokens.get(at + 1).map(|name| (*name).to_owned()).unwrap_or_default();
        at += 2;
    }
    imported.push(Imported { name, path });
    at
}

fn is_name(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Names, `::`, and single signs.
fn tokens(code: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    let mut rest = code.trim_start();
    while let Some(first) = rest.chars().next() {
        let is_part = |c: char| c.is_alphanumeric() || c == '_';
        let length = if is_part(first) {
            rest.find(|c| !is_part(c)).unwrap_or(rest.len())
        } else if rest.starts_with("::") {
            2
        } else {
            first.len_utf8()
        };
        let (token, after) = rest.split_at(length);
        tokens.push(token);
        rest = after.trim_start();
    }
    tokens
}

/// Blanks comments, strings and characters.
fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if let Some(after) = rest.strip_prefix("/*") {
            after.find("*/").map_or(rest.len(), |end| end + 4)
        } else if first == 'r' && !out.ends_with(|c: char| c.is_alphanumeric() || c == '_') {
            raw_string(rest)
        } else if first == '"' {
            quoted(rest, '"')
        } else if first == '\'' {
            character(rest)
        } else {
            0
        };
        if skipped == 0 {
            out.push(first);
            rest = rest.split_at(first.len_utf8()).1;
        } else {
            out.push(' ');
            rest = rest.split_at(skipped).1;
        }
    }
    out
}

/// Length of a raw string; 0 when there is none.
fn raw_string(rest: &str) -> usize {
    let after = rest.trim_start_matches('r');
    let hashes = after.len() - after.trim_start_matches('#').len();
    let end = format!("\"{}", "#".repeat(hashes));
    let body = after.trim_start_matches('#').strip_prefix('"');
    body.filter(|_| rest.len() - after.len() == 1)
        .map_or(0, |body| body.find(&end).map_or(rest.len(), |at| at + 2 + hashes + end.len()))
}

/// Length of what stands between two signs, backslashes heeded.
fn quoted(rest: &str, sign: char) -> usize {
    let mut signs = rest.char_indices().skip(1);
    while let Some((at, c)) = signs.next() {
        match c {
            '\\' => {
                signs.next();
            }
            _ if c == sign => return at + c.len_utf8(),
            _ => {}
        }
    }
    rest.len()
}

/// Length of a character; 0 for a lifetime.
fn character(rest: &str) -> usize {
    let mut signs = rest.chars().skip(1);
    match (signs.next(), signs.next()) {
        (Some('\\'), _) | (Some(_), Some('\'')) => quoted(rest, '\''),
        _ => 0,
    }
}

/// Blanks `#[cfg(test)] mod name { ... }`.
fn without_tests(code: &str) -> String {
    const MARK: &str = "#[cfg(test)]";
    let mut out = String::with_capacity(code.len());
    let mut rest = code;
    while let Some(at) = rest.find(MARK) {
        let (before, after) = rest.split_at(at);
        out.push_str(before);
        let after = after.split_at(MARK.len()).1;
        // An item ends with its braces, or before them with a semicolon.
        let (open, end) = (after.find('{'), after.find(';'));
        rest = match (open, end) {
            (Some(open), end) if end.is_none_or(|end| open < end) => {
                after.split_at(open + block(after.split_at(open).1)).1
            }
            (_, Some(end)) => after.split_at(end + 1).1,
            _ => "",
        };
    }
    out.push_str(rest);
    out
}

/// Length of a block in braces.
fn block(text: &str) -> usize {
    let mut depth = 0_usize;
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 {
            return at + c.len_utf8();
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn imports(code: &str) -> String {
        let (imported, _) = read(code);
        let text =
            imported.iter().map(|import| format!("{}={}", import.name, import.path.join("::")));
        text.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn trees_of_use_are_spelt_out() {
        assert_eq!(imports("use a::b;"), "b=a::b");
        let tree = "pub(crate) use crate::{a, b::{self, C as D, e::*}, f};";
        assert_eq!(imports(tree), "a=crate::a b=crate::b D=crate::b::C f=crate::f");
        assert_eq!(
            imports("use super::x::{A, B,}; fn f() { use y as z; }"),
            "A=super::x::A B=super::x::B z=y"
        );
    }

    #[test]
    fn paths_in_code_are_found() {
        let (_, inline) =
            read("fn f(x: crate::a::B<super::C>) { self::d(); self.e(); crate::g!(1) }");
        let joined: Vec<_> = inline.iter().map(|path| path.join("::")).collect();
        assert_eq!(joined, ["crate::a::B", "super::C", "self::d", "crate::g"]);
    }

    #[test]
    fn text_that_is_not_code_is_blank() {
        let text =
            "a /* b */ \"c\\\"d\" 'e' '\\'' '\"' r#\"f\"g\"# br\"h\" &'static str // i\nfor x";
        let blanked = code(text);
        let words: Vec<_> = tokens(&blanked).into_iter().filter(|t| is_name(t)).collect();
        assert_eq!(words, ["a", "br", "static", "str", "for", "x"]);
        assert_eq!(
            code("x #[cfg(test)] mod t { { } } y").split_whitespace().collect::<Vec<_>>(),
            ["x", "y"]
        );
        assert_eq!(code("x #[cfg(test)]\nmod tests; y").trim_end(), "x  y");
    }
}
