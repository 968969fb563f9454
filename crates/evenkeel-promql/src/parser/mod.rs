//! Text to a checked syntax tree, with positions and messages as upstream words them.

mod check;
mod durations;
mod expr;
mod lexer;
mod print;
mod selector;

use crate::ast::{Query, Span};
use crate::matcher::{Matcher, REGEX_BYTES_QUERY_MAX};
use lexer::{Lexeme, Token, lex};
use std::sync::Arc;

/// Bytes one query may have.
pub const QUERY_BYTES_MAX: usize = 1 << 20;
/// Nesting one query may have: what evaluates it is recursive.
pub(crate) const HEIGHT_MAX: u16 = 200;

/// A query that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{line}:{column}: parse error: {reason}")]
pub struct ParseError {
    /// Where.
    pub span: Span,
    /// Line, from 1.
    pub line: usize,
    /// Column in bytes, from 1.
    pub column: usize,
    /// What is wrong there.
    pub reason: String,
}

impl ParseError {
    fn new(text: &str, span: Span, reason: impl Into<String>) -> Self {
        let (line, column) = position(text, span.start);
        Self { span, line, column, reason: reason.into() }
    }
}

/// Line and column, both from 1, of a byte in a text.
pub fn position(text: &str, byte: usize) -> (usize, usize) {
    let before = text.as_bytes().get(..byte).unwrap_or(text.as_bytes());
    let line = before.split(|b| *b == b'\n').count();
    let column = before.iter().rev().take_while(|b| **b != b'\n').count() + 1;
    (line, column)
}

/// Reads a query.
pub fn parse(text: &str) -> Result<Query, ParseError> {
    let mut parser = Parser::new(text)?;
    if parser.peek() == &Token::End {
        let span = Span { start: 0, end: 0 };
        return Err(ParseError::new(text, span, "no expression found in input"));
    }
    let expr = parser.expression(0)?;
    parser.finish()?;
    check::check(text, &expr)?;
    Ok(Query { text: Arc::from(text), expr })
}

/// Reads a bare selector such as `up{job="a"}`, as `match[]` takes it.
pub fn parse_selector(text: &str) -> Result<Vec<Matcher>, ParseError> {
    let mut parser = Parser::new(text)?;
    let selector = parser.bare_selector()?;
    parser.finish()?;
    Ok(selector.matchers)
}

pub(crate) struct Parser<'a> {
    text: &'a str,
    tokens: Vec<Lexeme>,
    at: usize,
    depth: u16,
    /// Room that is left for compiled patterns.
    regex_bytes: usize,
}

impl<'a> Parser<'a> {
    fn new(text: &'a str) -> Result<Self, ParseError> {
        if text.len() > QUERY_BYTES_MAX {
            let reason = format!("the query is longer than {QUERY_BYTES_MAX} bytes");
            return Err(ParseError::new(text, Span::default(), reason));
        }
        Ok(Self { text, tokens: lex(text)?, at: 0, depth: 0, regex_bytes: REGEX_BYTES_QUERY_MAX })
    }

    fn lexeme(&self, ahead: usize) -> &Lexeme {
        // The last token is the end marker and stays.
        &self.tokens[(self.at + ahead).min(self.tokens.len() - 1)]
    }

    fn peek(&self) -> &Token {
        &self.lexeme(0).token
    }

    fn span(&self) -> Span {
        self.lexeme(0).span
    }

    /// End of the token before.
    fn last_end(&self) -> usize {
        self.at.checked_sub(1).map_or(0, |before| self.tokens[before].span.end)
    }

    fn advance(&mut self) -> Lexeme {
        let lexeme = self.lexeme(0).clone();
        self.at = (self.at + 1).min(self.tokens.len() - 1);
        lexeme
    }

    fn is_sign(&self, sign: &str) -> bool {
        matches!(self.peek(), Token::Sign(s) if *s == sign)
    }

    fn accept(&mut self, sign: &str) -> bool {
        let found = self.is_sign(sign);
        if found {
            self.advance();
        }
        found
    }

    fn expect(&mut self, sign: &'static str, context: &str) -> Result<(), ParseError> {
        if self.accept(sign) {
            return Ok(());
        }
        Err(self.unexpected(context, &format!("{sign:?}")))
    }

    /// The word at the cursor in lower case, if there is one.
    fn keyword(&self, ahead: usize) -> Option<String> {
        match &self.lexeme(ahead).token {
            Token::Word(word) => Some(word.to_ascii_lowercase()),
            _ => None,
        }
    }

    fn accept_keyword(&mut self, keyword: &str) -> bool {
        let found = self.keyword(0).is_some_and(|word| word == keyword);
        if found {
            self.advance();
        }
        found
    }

    fn unexpected(&self, context: &str, expected: &str) -> ParseError {
        let what = match self.peek() {
            Token::End => "end of input".to_owned(),
            Token::Word(word) => format!("identifier {word:?}"),
            Token::Number(_) => {
                format!("number {:?}", self.slice(self.span()))
            }
            Token::Duration(_) => format!("duration {:?}", self.slice(self.span())),
            Token::Text(_) => format!("string {:?}", self.slice(self.span())),
            Token::Sign(sign) => format!("{sign:?}"),
        };
        let context = if context.is_empty() { String::new() } else { format!(" in {context}") };
        let expected =
            if expected.is_empty() { String::new() } else { format!(", expected {expected}") };
        self.error(self.span(), format!("unexpected {what}{context}{expected}"))
    }

    fn slice(&self, span: Span) -> &str {
        self.text.get(span.start..span.end).unwrap_or_default()
    }

    fn error(&self, span: Span, reason: impl Into<String>) -> ParseError {
        ParseError::new(self.text, span, reason)
    }

    fn finish(&mut self) -> Result<(), ParseError> {
        match self.peek() {
            Token::End => Ok(()),
            _ => Err(self.unexpected("", "")),
        }
    }

    /// Guards recursion of the parser itself.
    fn nested<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, ParseError>,
    ) -> Result<T, ParseError> {
        if self.depth >= HEIGHT_MAX {
            return Err(self.error(self.span(), "the query is nested too deeply"));
        }
        self.depth += 1;
        let out = read(self);
        self.depth -= 1;
        out
    }
}

#[cfg(test)]
mod tests;
