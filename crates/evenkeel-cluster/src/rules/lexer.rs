//! The words of CEL.
//!
//! **Source**: `cel-spec/doc/langdef.md`; messages as `cel-go` words them.

use std::sync::Arc;

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Literal {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    Text(Arc<str>),
    Bytes(Arc<[u8]>),
}

/// What is wrong, and behind how many characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) at: usize,
    pub(super) problem: String,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token {
    Name(String),
    /// In backquotes.
    Quoted(String),
    Literal(Literal),
    Sign(&'static str),
    End,
}

const SIGNS: [&str; 24] = [
    "==", "!=", "<=", ">=", "&&", "||", "<", ">", "+", "-", "*", "/", "%", "!", "?", ":", ".", ",",
    "(", ")", "[", "]", "{", "}",
];
/// Words that no name may be.
pub(super) const RESERVED: [&str; 17] = [
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

/// The tokens of an expression, each with its place.
pub(super) fn tokens(text: &str) -> Result<Vec<(usize, Token)>, Fault> {
    Lexer { chars: text.chars().collect(), at: 0 }.tokens()
}

struct Lexer {
    chars: Vec<char>,
    at: usize,
}

impl Lexer {
    fn peek(&self, ahead: usize) -> char {
        self.chars.get(self.at + ahead).copied().unwrap_or('\0')
    }

    fn take_while(&mut self, keep: impl Fn(char) -> bool) -> String {
        let start = self.at;
        while self.at < self.chars.len() && keep(self.peek(0)) {
            self.at += 1;
        }
        self.chars.get(start..self.at).unwrap_or_default().iter().collect()
    }

    fn tokens(mut self) -> Result<Vec<(usize, Token)>, Fault> {
        let mut tokens = Vec::new();
        loop {
            self.take_while(char::is_whitespace);
            if self.peek(0) == '/' && self.peek(1) == '/' {
                self.take_while(|c| c != '\n');
                continue;
            }
            let start = self.at;
            if start >= self.chars.len() {
                tokens.push((start, Token::End));
                return Ok(tokens);
            }
            tokens.push((start, self.token()?));
        }
    }

    fn token(&mut self) -> Result<Token, Fault> {
        let start = self.at;
        let c = self.peek(0);
        if c.is_ascii_digit() || (c == '.' && self.peek(1).is_ascii_digit()) {
            return self.number();
        }
        let prefix: usize = match (c.to_ascii_lowercase(), self.peek(1).to_ascii_lowercase()) {
            ('r' | 'b', _) if matches!(self.peek(1), '"' | '\'') => 1,
            ('r', 'b') | ('b', 'r') if matches!(self.peek(2), '"' | '\'') => 2,
            _ => 0,
        };
        if prefix > 0 || matches!(c, '"' | '\'') {
            let kind: String = (0..prefix).map(|n| self.peek(n).to_ascii_lowercase()).collect();
            self.at += prefix;
            return self.text(kind.contains('r'), kind.contains('b'));
        }
        if c == '`' {
            self.at += 1;
            let name = self.take_while(|c| c != '`');
            self.at += 1;
            return Ok(Token::Quoted(name));
        }
        if c.is_alphabetic() || c == '_' {
            let name = self.take_while(|c| c.is_ascii_alphanumeric() || c == '_');
            return Ok(match name.as_str() {
                "null" => Token::Literal(Literal::Null),
                "true" => Token::Literal(Literal::Bool(true)),
                "false" => Token::Literal(Literal::Bool(false)),
                "in" => Token::Sign("in"),
                _ => Token::Name(name),
            });
        }
        let fits = |sign: &&&str| sign.chars().enumerate().all(|(n, c)| self.peek(n) == c);
        let Some(sign) = SIGNS.iter().find(fits) else {
            let problem = format!("Syntax error: token recognition error at: '{c}'");
            return Err(Fault { at: start, problem });
        };
        self.at += sign.len();
        Ok(Token::Sign(sign))
    }

    fn number(&mut self) -> Result<Token, Fault> {
        let start = self.at;
        let fault = |problem: &str| Fault { at: start, problem: problem.to_owned() };
        if self.peek(0) == '0' && matches!(self.peek(1), 'x' | 'X') {
            self.at += 2;
            let digits = self.take_while(|c| c.is_ascii_hexdigit());
            if matches!(self.peek(0), 'u' | 'U') {
                self.at += 1;
                let value = u64::from_str_radix(&digits, 16);
                let value = value.map_err(|_| fault("invalid uint literal"))?;
                return Ok(Token::Literal(Literal::Uint(value)));
            }
            let value = i64::from_str_radix(&digits, 16);
            let value = value.map_err(|_| fault("invalid int literal"))?;
            return Ok(Token::Literal(Literal::Int(value)));
        }
        let mut text = self.take_while(|c| c.is_ascii_digit());
        let mut is_whole = true;
        if self.peek(0) == '.' && self.peek(1).is_ascii_digit() {
            is_whole = false;
            self.at += 1;
            text = format!("{text}.{}", self.take_while(|c| c.is_ascii_digit()));
        }
        let exponent = usize::from(matches!(self.peek(1), '+' | '-'));
        if matches!(self.peek(0), 'e' | 'E') && self.peek(1 + exponent).is_ascii_digit() {
            is_whole = false;
            self.at += 1;
            let sign = if exponent == 1 { self.peek(0).to_string() } else { String::new() };
            self.at += exponent;
            text = format!("{text}e{sign}{}", self.take_while(|c| c.is_ascii_digit()));
        }
        if is_whole && matches!(self.peek(0), 'u' | 'U') {
            self.at += 1;
            let value = text.parse().map_err(|_| fault("invalid uint literal"))?;
            return Ok(Token::Literal(Literal::Uint(value)));
        }
        if is_whole {
            // The smallest number has no positive counterpart.
            let value = text.parse::<u64>().ok().filter(|value| *value <= 1 << 63);
            let value = value.ok_or_else(|| fault("invalid int literal"))?;
            return Ok(Token::Literal(match i64::try_from(value) {
                Ok(value) => Literal::Int(value),
                Err(_) => Literal::Uint(value),
            }));
        }
        let value = text.parse().map_err(|_| fault("invalid double literal"))?;
        Ok(Token::Literal(Literal::Double(value)))
    }

    fn text(&mut self, is_raw: bool, is_bytes: bool) -> Result<Token, Fault> {
        let start = self.at;
        let quote = self.peek(0);
        let count = if self.peek(1) == quote && self.peek(2) == quote { 3 } else { 1 };
        self.at += count;
        let mut bytes = Vec::new();
        while !(0..count).all(|n| self.peek(n) == quote) {
            if self.at >= self.chars.len() || (count == 1 && self.peek(0) == '\n') {
                let shown: String = self.chars.get(start..).unwrap_or_default().iter().collect();
                let problem = format!("Syntax error: token recognition error at: '{shown}'");
                return Err(Fault { at: start, problem });
            }
            if self.peek(0) == '\\' && !is_raw {
                self.escape(is_bytes, &mut bytes)?;
            } else {
                let mut utf8 = [0; 4];
                bytes.extend_from_slice(self.peek(0).encode_utf8(&mut utf8).as_bytes());
                self.at += 1;
            }
        }
        self.at += count;
        if is_bytes {
            return Ok(Token::Literal(Literal::Bytes(bytes.into())));
        }
        Ok(Token::Literal(Literal::Text(String::from_utf8_lossy(&bytes).into())))
    }

    fn escape(&mut self, is_bytes: bool, bytes: &mut Vec<u8>) -> Result<(), Fault> {
        let start = self.at;
        let fault = || Fault { at: start, problem: "Syntax error: invalid escape".to_owned() };
        let c = self.peek(1);
        self.at += 2;
        let plain = match c {
            'n' => '\n',
            't' => '\t',
            'r' => '\r',
            'a' => '\u{7}',
            'b' => '\u{8}',
            'f' => '\u{c}',
            'v' => '\u{b}',
            '\\' | '"' | '\'' | '`' | '?' => c,
            'x' | 'X' | 'u' | 'U' | '0'..='3' => {
                let (digits, radix) = match c {
                    'x' | 'X' => (2, 16),
                    'u' => (4, 16),
                    'U' => (8, 16),
                    _ => (3, 8),
                };
                if radix == 8 {
                    self.at -= 1;
                }
                let code = self.chars.get(self.at..self.at + digits).ok_or_else(fault)?;
                let code: String = code.iter().collect();
                let code = u32::from_str_radix(&code, radix).map_err(|_| fault())?;
                self.at += digits;
                if is_bytes && digits < 4 {
                    bytes.push(u8::try_from(code).map_err(|_| fault())?);
                    return Ok(());
                }
                char::from_u32(code).ok_or_else(fault)?
            }
            _ => return Err(fault()),
        };
        bytes.extend_from_slice(plain.encode_utf8(&mut [0; 4]).as_bytes());
        Ok(())
    }
}
