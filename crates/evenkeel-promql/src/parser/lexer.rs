//! Text to tokens.

use super::ParseError;
use crate::ast::Span;
use crate::labels::raw_byte_char;
use crate::number::parse_duration_ms;

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    End,
    /// A name or keyword; may contain colons outside of braces.
    Word(String),
    /// A number.
    Number(f64),
    /// A duration such as `5m`; milliseconds.
    Duration(i64),
    /// A quoted text, unescaped.
    Text(String),
    /// Operators and punctuation.
    Sign(&'static str),
}

#[derive(Clone, Debug)]
pub(super) struct Lexeme {
    pub(super) token: Token,
    pub(super) span: Span,
}

/// Longest first.
const SIGNS: [&str; 28] = [
    "==", "!=", "<=", ">=", "=~", "!~", "</", ">/", "+", "-", "*", "/", "%", "^", "=", "<", ">",
    "(", ")", "{", "}", "[", "]", ",", "@", ":", ";", "!",
];

struct Lexer<'a> {
    text: &'a str,
    at: usize,
    brackets: usize,
    braces: usize,
}

/// All tokens of a query, an end marker last.
pub(super) fn lex(text: &str) -> Result<Vec<Lexeme>, ParseError> {
    let mut lexer = Lexer { text, at: 0, brackets: 0, braces: 0 };
    let mut out = Vec::new();
    loop {
        lexer.skip_space();
        let start = lexer.at;
        let token = lexer.next_token()?;
        let end = token == Token::End;
        out.push(Lexeme { token, span: Span { start, end: lexer.at } });
        if end {
            return Ok(out);
        }
    }
}

impl Lexer<'_> {
    fn rest(&self) -> &str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn byte(&self, ahead: usize) -> u8 {
        self.text.as_bytes().get(self.at + ahead).copied().unwrap_or_default()
    }

    fn fail<T>(&self, start: usize, reason: impl Into<String>) -> Result<T, ParseError> {
        let span = Span { start, end: self.at.max(start) };
        Err(ParseError::new(self.text, span, reason))
    }

    fn skip_space(&mut self) {
        loop {
            match self.byte(0) {
                b' ' | b'\t' | b'\n' | b'\r' => self.at += 1,
                b'#' => {
                    let line = self.rest().find('\n').unwrap_or(self.rest().len());
                    self.at += line;
                }
                _ => return,
            }
        }
    }

    fn next_token(&mut self) -> Result<Token, ParseError> {
        let byte = self.byte(0);
        if self.at >= self.text.len() {
            return Ok(Token::End);
        }
        if byte == b'"' || byte == b'\'' || byte == b'`' {
            return self.quoted(byte);
        }
        if byte.is_ascii_digit() || (byte == b'.' && self.byte(1).is_ascii_digit()) {
            return self.number();
        }
        let colons = self.brackets == 0 && self.braces == 0;
        if byte == b'_' || byte.is_ascii_alphabetic() || (colons && byte == b':') {
            return Ok(Token::Word(self.word(colons)));
        }
        let found = SIGNS.iter().find(|sign| self.rest().starts_with(**sign)).copied();
        let Some(sign) = found else {
            let c = self.rest().chars().next().unwrap_or_default();
            return self.fail(self.at, format!("unexpected character: {}", go_char(c)));
        };
        self.nest(sign);
        self.at += sign.len();
        Ok(Token::Sign(sign))
    }

    fn nest(&mut self, sign: &str) {
        match sign {
            "[" => self.brackets += 1,
            "]" => self.brackets = self.brackets.saturating_sub(1),
            "{" => self.braces += 1,
            "}" => self.braces = self.braces.saturating_sub(1),
            _ => {}
        }
    }

    fn word(&mut self, colons: bool) -> String {
        let start = self.at;
        while {
            let b = self.byte(0);
            b == b'_' || b.is_ascii_alphanumeric() || (colons && b == b':')
        } {
            self.at += 1;
        }
        self.text.get(start..self.at).unwrap_or_default().to_owned()
    }

    fn number(&mut self) -> Result<Token, ParseError> {
        let start = self.at;
        let hex = self.byte(0) == b'0' && matches!(self.byte(1), b'x' | b'X');
        if hex {
            self.at += 2;
            self.skip_while(|b| b.is_ascii_hexdigit() || b == b'_');
        } else {
            self.skip_while(|b| b.is_ascii_digit() || b == b'_');
            if self.byte(0) == b'.' {
                self.at += 1;
                self.skip_while(|b| b.is_ascii_digit() || b == b'_');
            }
            let sign = usize::from(matches!(self.byte(1), b'+' | b'-'));
            if matches!(self.byte(0), b'e' | b'E') && self.byte(1 + sign).is_ascii_digit() {
                self.at += 1 + sign;
                self.skip_while(|b| b.is_ascii_digit() || b == b'_');
            }
        }
        let after_number = self.at;
        self.skip_while(|b| b.is_ascii_alphanumeric() || b == b'_');
        let all = self.text.get(start..self.at).unwrap_or_default();
        if self.at != after_number {
            return match parse_duration_ms(all) {
                Some(ms) => Ok(Token::Duration(ms)),
                None => self.fail(start, format!("bad number or duration syntax: {all:?}")),
            };
        }
        let plain = all.replace('_', "");
        let value = if hex {
            let digits = plain.get(2..).unwrap_or_default();
            u64::from_str_radix(digits, 16).ok().map(|v| v as f64)
        } else {
            plain.parse::<f64>().ok()
        };
        match value {
            Some(value) => Ok(Token::Number(value)),
            None => self.fail(start, format!("bad number or duration syntax: {all:?}")),
        }
    }

    fn skip_while(&mut self, keep: impl Fn(u8) -> bool) {
        while self.at < self.text.len() && keep(self.byte(0)) {
            self.at += 1;
        }
    }

    fn quoted(&mut self, quote: u8) -> Result<Token, ParseError> {
        let start = self.at;
        self.at += 1;
        let mut out = String::new();
        loop {
            let Some(c) = self.rest().chars().next() else {
                return self.fail(start, "unterminated quoted string");
            };
            self.at += c.len_utf8();
            match c {
                _ if c == char::from(quote) => return Ok(Token::Text(out)),
                '\n' if quote != b'`' => return self.fail(start, "unterminated quoted string"),
                '\\' if quote != b'`' => self.escape(start, quote, &mut out)?,
                c => out.push(c),
            }
        }
    }

    /// Go's escapes. Bytes that form no UTF-8 stay as stand-in characters.
    fn escape(&mut self, start: usize, quote: u8, out: &mut String) -> Result<(), ParseError> {
        let Some(c) = self.rest().chars().next() else {
            return self.fail(start, "escape sequence not terminated");
        };
        self.at += c.len_utf8();
        let simple = match c {
            'a' => '\u{7}',
            'b' => '\u{8}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'v' => '\u{b}',
            '\\' => '\\',
            c if c == char::from(quote) => c,
            'x' => {
                self.at -= 2;
                self.raw_bytes(start, out)?;
                return Ok(());
            }
            '0'..='7' => {
                self.at -= 1;
                let value = self.digits(start, 3, 8)?;
                raw_or_ascii(value, out);
                return Ok(());
            }
            'u' => return self.code_point(start, 4, out),
            'U' => return self.code_point(start, 8, out),
            c => return self.fail(start, format!("unknown escape sequence {}", go_char(c))),
        };
        out.push(simple);
        Ok(())
    }

    /// A run of `\xNN`: as UTF-8 if it is, else byte by byte.
    fn raw_bytes(&mut self, start: usize, out: &mut String) -> Result<(), ParseError> {
        let mut bytes = Vec::new();
        while self.rest().starts_with("\\x") {
            self.at += 2;
            bytes.push(self.digits(start, 2, 16)? as u8);
        }
        match std::str::from_utf8(&bytes) {
            Ok(text) => out.push_str(text),
            Err(_) => bytes.iter().for_each(|b| raw_or_ascii(u32::from(*b), out)),
        }
        Ok(())
    }

    fn code_point(
        &mut self,
        start: usize,
        digits: usize,
        out: &mut String,
    ) -> Result<(), ParseError> {
        let value = self.digits(start, digits, 16)?;
        match char::from_u32(value) {
            Some(c) => out.push(c),
            None => return self.fail(start, "escape sequence is an invalid Unicode code point"),
        }
        Ok(())
    }

    fn digits(&mut self, start: usize, count: usize, radix: u32) -> Result<u32, ParseError> {
        let digits = self.text.get(self.at..self.at + count);
        match digits.and_then(|d| u32::from_str_radix(d, radix).ok()) {
            Some(value) => {
                self.at += count;
                Ok(value)
            }
            None => self.fail(start, "illegal character in escape sequence"),
        }
    }
}

fn raw_or_ascii(value: u32, out: &mut String) {
    match u8::try_from(value) {
        Ok(byte) if byte.is_ascii() => out.push(char::from(byte)),
        Ok(byte) => out.push(raw_byte_char(byte)),
        Err(_) => out.push(char::REPLACEMENT_CHARACTER),
    }
}

/// A character as Go's `%q` prints it.
fn go_char(c: char) -> String {
    format!("'{}'", c.escape_debug())
}
