//! The inside of an action to tokens.

use crate::labels::raw_byte_char;

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    Word(String),
    Field(String),
    Dot,
    Variable(String),
    Text(String),
    Int(i64),
    Float(f64),
    Open,
    Close,
    Pipe,
    Declare,
    Assign,
    Comma,
}

pub(super) fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut out: Vec<Token> = Vec::new();
    let mut rest = text;
    let mut glued = false;
    while let Some(c) = rest.chars().next() {
        let mut take = c.len_utf8();
        let word_end =
            |t: &str| t.find(|c: char| c != '_' && !c.is_alphanumeric()).unwrap_or(t.len());
        let after = rest.get(take..).unwrap_or_default();
        let mut glue = false;
        match c {
            c if c.is_whitespace() => {}
            '(' => out.push(Token::Open),
            ')' => {
                out.push(Token::Close);
                glue = true;
            }
            '|' => out.push(Token::Pipe),
            ',' => out.push(Token::Comma),
            '=' => out.push(Token::Assign),
            ':' if after.starts_with('=') => {
                take += 1;
                out.push(Token::Declare);
            }
            '.' if word_end(after) > 0 && !after.starts_with(|c: char| c.is_ascii_digit()) => {
                let end = word_end(after);
                let name = after.get(..end).unwrap_or_default();
                out.push(Token::Field(if glued { format!(".{name}") } else { name.to_owned() }));
                take += end;
                glue = true;
            }
            '.' => out.push(Token::Dot),
            '$' => {
                let end = word_end(after);
                out.push(Token::Variable(after.get(..end).unwrap_or_default().to_owned()));
                take += end;
                glue = true;
            }
            '"' | '`' => {
                let (value, length) = quoted(rest, c)?;
                out.push(Token::Text(value));
                take = length;
            }
            '\'' => {
                let (value, length) = quoted(rest, c)?;
                out.push(Token::Int(character(&value)?));
                take = length;
            }
            c if c.is_ascii_digit()
                || ((c == '-' || c == '+') && after.starts_with(|c: char| c.is_ascii_digit())) =>
            {
                take = number_end(rest);
                out.push(number(rest.get(..take).unwrap_or_default())?);
            }
            c if c == '_' || c.is_alphabetic() => {
                take = word_end(rest);
                out.push(Token::Word(rest.get(..take).unwrap_or_default().to_owned()));
            }
            other => return Err(format!("unexpected {other:?}")),
        }
        glued = glue;
        rest = rest.get(take..).unwrap_or_default();
    }
    Ok(out)
}

/// The value of a character constant.
fn character(text: &str) -> Result<i64, String> {
    let mut chars = text.chars();
    match (chars.next(), chars.next()) {
        (Some(c), None) => Ok(i64::from(u32::from(c))),
        _ => Err("malformed character constant".to_owned()),
    }
}

/// How many bytes a number at the start of `text` takes, its sign included.
fn number_end(text: &str) -> usize {
    let mut last = '\0';
    let is_hex = text.trim_start_matches(['-', '+']).starts_with("0x");
    let stop = text.char_indices().find(|(at, c)| {
        let is_sign = matches!(c, '-' | '+');
        let signs_exponent = is_sign && !is_hex && matches!(last, 'e' | 'E');
        last = *c;
        let continues = c.is_ascii_alphanumeric() || matches!(c, '.' | '_');
        !(continues || signs_exponent || (*at == 0 && is_sign))
    });
    stop.map_or(text.len(), |(at, _)| at)
}

/// A number as Go writes them: `0x1F`, `0b11`, `017`, `1_000`, `1e3`.
fn number(text: &str) -> Result<Token, String> {
    let bad = || format!("bad number syntax: {text:?}");
    let (sign, digits) = match text.strip_prefix(['-', '+']) {
        Some(digits) => (if text.starts_with('-') { "-" } else { "" }, digits),
        None => ("", text),
    };
    let plain = digits.replace('_', "");
    let prefix = plain.get(..2).unwrap_or_default().to_ascii_lowercase();
    let (radix, rest) = match prefix.as_str() {
        "0x" => (16, plain.get(2..)),
        "0o" => (8, plain.get(2..)),
        "0b" => (2, plain.get(2..)),
        _ if plain.len() > 1 && plain.starts_with('0') => (8, plain.get(1..)),
        _ => (10, Some(plain.as_str())),
    };
    if let Ok(n) = i64::from_str_radix(&format!("{sign}{}", rest.unwrap_or_default()), radix) {
        return Ok(Token::Int(n));
    }
    if !digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') || plain.ends_with('_') {
        return Err(bad());
    }
    crate::number::parse_float(&format!("{sign}{plain}")).map(Token::Float).ok_or_else(bad)
}

/// A quoted text at the start of `text`: its value and how many bytes it takes.
fn quoted(text: &str, quote: char) -> Result<(String, usize), String> {
    let unterminated = || match quote {
        '\'' => "unterminated character constant".to_owned(),
        '`' => "unterminated raw quoted string".to_owned(),
        _ => "unterminated quoted string".to_owned(),
    };
    let mut out = String::new();
    let mut chars = text.char_indices();
    chars.next();
    while let Some((i, c)) = chars.next() {
        if c == quote {
            return Ok((out, i + c.len_utf8()));
        }
        if c == '\n' && quote != '`' {
            return Err(unterminated());
        }
        if c != '\\' || quote == '`' {
            out.push(c);
            continue;
        }
        let (_, kind) = chars.next().ok_or_else(unterminated)?;
        let mut digits = |count: usize, radix: u32, first: Option<char>| {
            let more = count - usize::from(first.is_some());
            let text: String =
                first.into_iter().chain(chars.by_ref().take(more).map(|(_, c)| c)).collect();
            let value = u32::from_str_radix(&text, radix).map_err(|_| "invalid syntax".to_owned());
            value.and_then(|v| if text.len() == count { Ok(v) } else { Err(unterminated()) })
        };
        let byte = |value: u32| u8::try_from(value).map_err(|_| "invalid syntax".to_owned());
        let plain = |byte: u8| if byte.is_ascii() { char::from(byte) } else { raw_byte_char(byte) };
        out.push(match kind {
            'a' => '\x07',
            'b' => '\x08',
            'f' => '\x0c',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'v' => '\x0b',
            '\\' => '\\',
            'x' => plain(byte(digits(2, 16, None)?)?),
            '0'..='7' => plain(byte(digits(3, 8, Some(kind))?)?),
            'u' => char::from_u32(digits(4, 16, None)?).ok_or("invalid syntax")?,
            'U' => char::from_u32(digits(8, 16, None)?).ok_or("invalid syntax")?,
            c if c == quote => c,
            _ => return Err("invalid syntax".to_owned()),
        });
    }
    Err(unterminated())
}
