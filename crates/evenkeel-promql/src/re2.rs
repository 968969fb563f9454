//! Patterns in RE2's syntax, as Go reads it, in that of the `regex` crate.
//!
//! The two match alike, but they read some texts differently: a `{` that repeats nothing is itself in
//! RE2 (`/users/{id}`), classes have no operators (`[a&&b]`), `\Q...\E` quotes, and some flags and
//! escapes do not exist. Matching stays linear in the length of the text on both sides.
//! **Source**: <https://pkg.go.dev/regexp/syntax>.

use std::fmt::Write;

/// Repetitions of one expression at most, as in RE2.
const REPEAT_MAX: u32 = 1_000;

/// Names of classes of characters, as in `[[:alpha:]]`.
const POSIX: [&str; 14] = [
    "alnum", "alpha", "ascii", "blank", "cntrl", "digit", "graph", "lower", "print", "punct",
    "space", "upper", "word", "xdigit",
];

/// Says why a pattern is not RE2, else returns it in the crate's syntax.
pub(crate) fn translated(pattern: &str) -> Result<String, String> {
    let mut reader = Reader { rest: pattern, out: String::with_capacity(pattern.len() + 8) };
    let mut depth = 0_usize;
    // What stands before: nothing to repeat, an expression, or one that is repeated already.
    let mut before = Before::Nothing;
    while let Some(c) = reader.next() {
        before = match c {
            '\\' => {
                reader.escape()?;
                Before::Expression
            }
            '[' => {
                reader.class()?;
                Before::Expression
            }
            '(' => {
                let opens = reader.group()?;
                depth += usize::from(opens);
                Before::Nothing
            }
            ')' => {
                depth = depth.checked_sub(1).ok_or_else(|| "unexpected )".to_owned())?;
                reader.out.push(')');
                Before::Expression
            }
            '*' | '+' | '?' => {
                reader.repeat(before, &c.to_string())?;
                Before::Repeated
            }
            '{' => {
                if let Some(counts) = reader.counts()? {
                    reader.repeat(before, &counts)?;
                    Before::Repeated
                } else {
                    reader.out.push_str("\\{");
                    Before::Expression
                }
            }
            '|' => {
                reader.out.push(c);
                Before::Nothing
            }
            _ => {
                reader.out.push(c);
                Before::Expression
            }
        };
    }
    if depth > 0 {
        return Err("missing closing )".to_owned());
    }
    Ok(reader.out)
}

#[derive(Clone, Copy, PartialEq)]
enum Before {
    Nothing,
    Expression,
    Repeated,
}

struct Reader<'p> {
    rest: &'p str,
    out: String,
}

impl Reader<'_> {
    fn next(&mut self) -> Option<char> {
        let mut chars = self.rest.chars();
        let next = chars.next();
        self.rest = chars.as_str();
        next
    }

    fn accept(&mut self, text: &str) -> bool {
        let rest = self.rest.strip_prefix(text);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn literal(&mut self, c: char) {
        write!(self.out, "\\x{{{:x}}}", u32::from(c)).unwrap_or_default();
    }

    /// An operator that repeats, with the `?` that makes it lazy.
    fn repeat(&mut self, before: Before, operator: &str) -> Result<(), String> {
        match before {
            Before::Nothing => {
                return Err(format!("missing argument to repetition operator: {operator}"));
            }
            Before::Repeated => {
                return Err(format!("invalid nested repetition operator: {operator}"));
            }
            Before::Expression => self.out.push_str(operator),
        }
        if self.accept("?") {
            self.out.push('?');
        }
        Ok(())
    }

    /// `n}`, `n,}` or `n,m}` behind a brace; nothing, and nothing read, if it is something else.
    fn counts(&mut self) -> Result<Option<String>, String> {
        let Some((inside, rest)) = self.rest.split_once('}') else { return Ok(None) };
        let (least, most) = inside.split_once(',').unwrap_or((inside, inside));
        let number = |text: &str| {
            let plain = text.bytes().all(|b| b.is_ascii_digit()) && !text.is_empty();
            let plain = plain && (text.len() == 1 || !text.starts_with('0'));
            plain.then(|| text.parse().unwrap_or(u32::MAX))
        };
        let (Some(least), most) = (number(least), (most, number(most))) else { return Ok(None) };
        if most.1.is_none() && !most.0.is_empty() {
            return Ok(None);
        }
        let highest = most.1.unwrap_or(least);
        if least > REPEAT_MAX || highest > REPEAT_MAX || highest < least {
            return Err(format!("invalid repeat count: {{{inside}}}"));
        }
        let counts = format!("{{{inside}}}");
        self.rest = rest;
        Ok(Some(counts))
    }

    /// Behind `(`: whether a group opens (else flags were set).
    fn group(&mut self) -> Result<bool, String> {
        self.out.push('(');
        if !self.accept("?") {
            return Ok(true);
        }
        let bad = |text: &str| Err(format!("invalid or unsupported Perl syntax: (?{text}"));
        for start in ["P<", "<"] {
            if let Some(named) = self.rest.strip_prefix(start) {
                let Some((name, rest)) = named.split_once('>') else { return bad(self.rest) };
                if name.is_empty() || !name.chars().all(|c| c == '_' || c.is_ascii_alphanumeric()) {
                    return Err(format!("invalid named capture: {name}"));
                }
                write!(self.out, "?P<{name}>").unwrap_or_default();
                self.rest = rest;
                return Ok(true);
            }
        }
        let end = self.rest.find([':', ')']);
        let Some((flags, behind)) = end.and_then(|end| self.rest.split_at_checked(end)) else {
            return bad(self.rest);
        };
        let set = flags.strip_prefix('-').unwrap_or(flags);
        let known = |text: &str| text.chars().all(|c| "imsU".contains(c));
        let sound = match set.split_once('-') {
            Some((on, off)) => {
                known(on) && known(off) && !off.is_empty() && set.len() == flags.len()
            }
            None => known(set) && (!set.is_empty() || flags.is_empty()),
        };
        if !sound || (flags.is_empty() && behind.starts_with(')')) {
            return bad(self.rest);
        }
        write!(self.out, "?{flags}").unwrap_or_default();
        self.rest = behind;
        let opens = self.next() == Some(':');
        self.out.push(if opens { ':' } else { ')' });
        Ok(opens)
    }

    /// Behind a backslash outside of a class.
    fn escape(&mut self) -> Result<(), String> {
        if self.accept("Q") {
            let (quoted, rest) = self.rest.split_once("\\E").unwrap_or((self.rest, ""));
            quoted.chars().for_each(|c| self.literal(c));
            self.rest = rest;
            return Ok(());
        }
        // Words are ASCII in RE2; the crate has no such `\B` over texts.
        for (written, read) in [("A", "\\A"), ("b", "(?-u:\\b)"), ("B", "\\B"), ("z", "\\z")] {
            if self.accept(written) {
                self.out.push_str(read);
                return Ok(());
            }
        }
        if self.class_escape()? {
            return Ok(());
        }
        let c = self.character()?;
        self.literal(c);
        Ok(())
    }

    /// A class behind a backslash (`\d`, `\pL`), if there is one.
    fn class_escape(&mut self) -> Result<bool, String> {
        let Some(c) = self.rest.chars().next() else { return Ok(false) };
        if "dswDSW".contains(c) {
            // In RE2 these are ASCII.
            let ascii = match c {
                'd' => "[0-9]",
                'D' => "[^0-9]",
                's' => "[\\t\\n\\f\\r ]",
                'S' => "[^\\t\\n\\f\\r ]",
                'w' => "[0-9A-Za-z_]",
                _ => "[^0-9A-Za-z_]",
            };
            self.out.push_str(ascii);
            self.next();
            return Ok(true);
        }
        if c != 'p' && c != 'P' {
            return Ok(false);
        }
        self.next();
        self.out.push('\\');
        self.out.push(c);
        match self.next() {
            Some('{') => {
                let Some((name, rest)) = self.rest.split_once('}') else {
                    return Err(format!("invalid character class range: \\{c}{{{}", self.rest));
                };
                write!(self.out, "{{{name}}}").unwrap_or_default();
                self.rest = rest;
            }
            Some(name) => self.out.push(name),
            None => return Err(format!("invalid character class range: \\{c}")),
        }
        Ok(true)
    }

    /// The character that is written behind a backslash.
    fn character(&mut self) -> Result<char, String> {
        let Some(c) = self.next() else {
            return Err("trailing backslash at end of expression".to_owned());
        };
        let bad = || Err(format!("invalid escape sequence: \\{c}"));
        let code = match c {
            '0'..='7' => {
                let octal = |c: char| c.to_digit(8);
                let mut value = octal(c).unwrap_or_default();
                let mut digits = 1;
                while let Some(digit) = self.rest.chars().next().and_then(octal) {
                    if digits == 3 {
                        break;
                    }
                    value = value * 8 + digit;
                    digits += 1;
                    self.next();
                }
                // A single one would be a reference to a group.
                if c != '0' && digits == 1 {
                    return bad();
                }
                value
            }
            'x' => {
                let digits = if self.accept("{") {
                    let Some((digits, rest)) = self.rest.split_once('}') else { return bad() };
                    self.rest = rest;
                    digits
                } else {
                    let Some((digits, rest)) = self.rest.split_at_checked(2) else { return bad() };
                    self.rest = rest;
                    digits
                };
                let hex = digits.chars().all(|c| c.is_ascii_hexdigit());
                match u32::from_str_radix(digits, 16) {
                    Ok(value) if hex => value,
                    _ => return bad(),
                }
            }
            'a' => 0x07,
            'f' => 0x0c,
            'n' => 0x0a,
            'r' => 0x0d,
            't' => 0x09,
            'v' => 0x0b,
            c if c.is_ascii() && !c.is_ascii_alphanumeric() => u32::from(c),
            _ => return bad(),
        };
        char::from_u32(code).map_or_else(bad, Ok)
    }

    /// Behind `[`.
    fn class(&mut self) -> Result<(), String> {
        let whole = self.rest;
        let missing = || format!("missing closing ]: [{whole}");
        self.out.push('[');
        if self.accept("^") {
            self.out.push('^');
        }
        let mut first = true;
        loop {
            if self.accept("]") {
                if !first {
                    self.out.push(']');
                    return Ok(());
                }
                self.range(']')?;
            } else if let Some((name, rest)) =
                self.rest.strip_prefix("[:").and_then(|rest| rest.split_once(":]"))
            {
                if !POSIX.contains(&name.trim_start_matches('^')) {
                    return Err(format!("invalid character class range: [:{name}:]"));
                }
                write!(self.out, "[:{name}:]").unwrap_or_default();
                self.rest = rest;
            } else if self.accept("\\") {
                if !self.class_escape()? {
                    let low = self.character()?;
                    self.range(low)?;
                }
            } else {
                let low = self.next().ok_or_else(missing)?;
                self.range(low)?;
            }
            first = false;
        }
    }

    /// A character inside a class, or the range that it begins.
    fn range(&mut self, low: char) -> Result<(), String> {
        self.literal(low);
        if !self.rest.starts_with('-') || self.rest.starts_with("-]") || self.rest.len() == 1 {
            return Ok(());
        }
        self.next();
        let high = if self.accept("\\") { self.character()? } else { self.next().unwrap_or(low) };
        if high < low {
            return Err(format!("invalid character class range: {low}-{high}"));
        }
        self.out.push('-');
        self.literal(high);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::translated;

    fn hits(pattern: &str, text: &str) -> Option<bool> {
        let pattern = translated(pattern).ok()?;
        regex::Regex::new(&format!("^(?s:{pattern})$")).ok().map(|regex| regex.is_match(text))
    }

    #[test]
    fn what_is_a_pattern_in_re2_matches_as_there() {
        for (pattern, text) in [
            ("/users/{id}/.*", "/users/{id}/posts"),
            ("{|a", "a"),
            ("a{,3}", "a{,3}"),
            ("a{2}|x", "aa"),
            (r"\Qa.b\E+", "a.b"),
            ("[a&&b]+", "a&b"),
            ("[[a]+", "[a"),
            ("[]a]+", "]a"),
            ("[a~~b-]", "-"),
            (r"[\d\-x]+", "1-x"),
            (r"\07|\141\x62\x{63}", "abc"),
            (r"\<a\_\/", "<a_/"),
            ("(?i)ABC(?-i:d)", "abcd"),
            ("(?P<x>a)(?<y>b)", "ab"),
            ("[[:alpha:]]+(?U)a+", "xaa"),
            (r"\pL\p{Greek}", "a\u{3b1}"),
            ("a|", ""),
        ] {
            assert_eq!(hits(pattern, text), Some(true), "{pattern} {text}");
        }
        // Digits and words are ASCII.
        assert_eq!(hits(r"\d", "\u{663}"), Some(false));
        assert_eq!(hits(r"\w", "\u{e9}"), Some(false));
    }

    #[test]
    fn what_is_none_is_refused() {
        for pattern in [
            "a)|(b",
            "(a",
            "a**",
            "a++",
            "a{2}{3}",
            "*a",
            "(?x)a",
            "(?=a)",
            "(?u)a",
            "(?)",
            "a{1001}",
            "a{3,2}",
            "[a--z]",
            "[a",
            r"\1",
            r"\u0061",
            r"\C",
            r"\",
            "[[:foo:]]",
            "[b-a]",
            r"\e",
        ] {
            assert_eq!(hits(pattern, "a"), None, "{pattern}");
        }
    }
}
