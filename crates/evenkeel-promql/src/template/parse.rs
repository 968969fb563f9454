//! Text to template nodes.

use super::TemplateError;
use crate::labels::raw_byte_char;

/// Nesting of blocks and parentheses.
const DEPTH_MAX: usize = 50;

#[derive(Clone, Debug)]
pub(super) enum Node {
    Text(String),
    Print { line: usize, pipe: Pipe },
    If { line: usize, pipe: Pipe, then: Vec<Node>, otherwise: Vec<Node> },
    With { line: usize, pipe: Pipe, then: Vec<Node>, otherwise: Vec<Node> },
    Range { line: usize, pipe: Pipe, body: Vec<Node>, otherwise: Vec<Node> },
}

impl Node {
    /// Its line, 0 for plain text.
    pub(super) fn line(&self) -> usize {
        match self {
            Self::Text(_) => 0,
            Self::Print { line, .. }
            | Self::If { line, .. }
            | Self::With { line, .. }
            | Self::Range { line, .. } => *line,
        }
    }
}

/// `$a, $b := cmd | cmd`
#[derive(Clone, Debug)]
pub(super) struct Pipe {
    /// Variables that are set, and whether they are new.
    pub(super) assign: Vec<String>,
    pub(super) declares: bool,
    pub(super) commands: Vec<Vec<Term>>,
}

#[derive(Clone, Debug)]
pub(super) enum Term {
    /// `.` or `.a.b`
    Field(Vec<String>),
    /// `$x` or `$x.a.b`
    Variable(String, Vec<String>),
    Function(String),
    Text(String),
    Int(i64),
    Float(f64),
    Bool(bool),
    Nil,
    /// `( ... )` or `( ... ).a`
    Group(Box<Pipe>, Vec<String>),
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
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

/// A piece of the template: text, or the inside of an action.
struct Piece<'t> {
    line: usize,
    text: &'t str,
    action: bool,
}

pub(super) fn parse(text: &str) -> Result<Vec<Node>, TemplateError> {
    let pieces = pieces(text)?;
    let mut parser = Blocks { pieces: &pieces, at: 0, depth: 0 };
    let (nodes, end) = parser.block()?;
    match end {
        None => Ok(nodes),
        Some((line, word)) => {
            Err(TemplateError { line, reason: format!("unexpected {{{{{word}}}}}") })
        }
    }
}

fn pieces(text: &str) -> Result<Vec<Piece<'_>>, TemplateError> {
    let mut out = Vec::new();
    let mut rest = text;
    let mut line = 1;
    let mut trim_next = false;
    let lines = |t: &str| t.matches('\n').count();
    while !rest.is_empty() {
        let (before, tail) = match rest.split_once("{{") {
            Some((before, tail)) => (before, Some(tail)),
            None => (rest, None),
        };
        let mut shown = if trim_next { before.trim_start() } else { before };
        let Some(tail) = tail else {
            out.push(Piece { line, text: shown, action: false });
            break;
        };
        let trims = tail.starts_with("- ") || tail.starts_with("-\n") || tail.starts_with("-\t");
        if trims {
            shown = shown.trim_end();
        }
        out.push(Piece { line, text: shown, action: false });
        line += lines(before);
        let end = action_end(tail)
            .ok_or_else(|| TemplateError { line, reason: "unclosed action".to_owned() })?;
        let (inside, after) = tail.split_at_checked(end).unwrap_or((tail, ""));
        let mut body = if trims { inside.get(1..).unwrap_or_default() } else { inside };
        trim_next = body.ends_with(" -") || body.ends_with("\n-") || body.ends_with("\t-");
        if trim_next {
            body = body.strip_suffix('-').unwrap_or(body);
        }
        out.push(Piece { line, text: body.trim(), action: true });
        line += lines(inside);
        rest = after.get(2..).unwrap_or_default();
    }
    Ok(out)
}

/// Where `}}` stands outside of quotes.
fn action_end(text: &str) -> Option<usize> {
    let mut quote: Option<char> = None;
    let mut escaped = false;
    for (i, c) in text.char_indices() {
        if escaped {
            escaped = false;
            continue;
        }
        match (quote, c) {
            (Some('"'), '\\') => escaped = true,
            (Some(q), c) if q == c => quote = None,
            (None, '"' | '`') => quote = Some(c),
            (None, '}') if text.get(i..).is_some_and(|t| t.starts_with("}}")) => return Some(i),
            _ => {}
        }
    }
    None
}

struct Blocks<'t> {
    pieces: &'t [Piece<'t>],
    at: usize,
    depth: usize,
}

/// The `end`, `else` or `else if ...` that a block stops at, with its line.
type End = Option<(usize, String)>;

impl Blocks<'_> {
    fn block(&mut self) -> Result<(Vec<Node>, End), TemplateError> {
        let mut nodes = Vec::new();
        while let Some(piece) = self.pieces.get(self.at) {
            self.at += 1;
            if !piece.action {
                if !piece.text.is_empty() {
                    nodes.push(Node::Text(piece.text.to_owned()));
                }
                continue;
            }
            let line = piece.line;
            let word = piece.text.split_whitespace().next().unwrap_or_default();
            let rest = piece.text.strip_prefix(word).unwrap_or_default();
            match word {
                "" if piece.text.is_empty() => {
                    return Err(TemplateError {
                        line,
                        reason: "missing value for command".to_owned(),
                    });
                }
                _ if piece.text.starts_with("/*") => {}
                "end" | "else" => return Ok((nodes, Some((line, piece.text.to_owned())))),
                "if" | "with" | "range" => nodes.push(self.control(line, word, rest)?),
                "define" | "template" | "block" | "break" | "continue" => {
                    let reason = format!("`{word}` is not supported");
                    return Err(TemplateError { line, reason });
                }
                _ => nodes.push(Node::Print { line, pipe: pipe(piece.text, line)? }),
            }
        }
        Ok((nodes, None))
    }

    fn control(&mut self, line: usize, word: &str, rest: &str) -> Result<Node, TemplateError> {
        if self.depth >= DEPTH_MAX {
            return Err(TemplateError { line, reason: "nested too deeply".to_owned() });
        }
        self.depth += 1;
        let pipe = pipe(rest, line)?;
        let (then, end) = self.block()?;
        let mut otherwise = Vec::new();
        match end {
            None => {
                return Err(TemplateError { line, reason: format!("{{{{{word}}}}} has no end") });
            }
            Some((_, text)) if text == "end" => {}
            Some((else_line, text)) => {
                let inner = text.strip_prefix("else").unwrap_or_default().trim();
                if inner.is_empty() {
                    let (nodes, end) = self.block()?;
                    otherwise = nodes;
                    if end.is_none_or(|(_, text)| text != "end") {
                        let reason = format!("{{{{{word}}}}} has no end");
                        return Err(TemplateError { line, reason });
                    }
                } else {
                    // `else if` shares its end with the outer block.
                    let word = inner.split_whitespace().next().unwrap_or_default();
                    let rest = inner.strip_prefix(word).unwrap_or_default();
                    otherwise.push(self.control(else_line, word, rest)?);
                }
            }
        }
        self.depth -= 1;
        Ok(match word {
            "if" => Node::If { line, pipe, then, otherwise },
            "with" => Node::With { line, pipe, then, otherwise },
            _ => Node::Range { line, pipe, body: then, otherwise },
        })
    }
}

fn pipe(text: &str, line: usize) -> Result<Pipe, TemplateError> {
    let tokens = tokens(text).map_err(|reason| TemplateError { line, reason })?;
    let mut at = 0;
    let pipe = read_pipe(&tokens, &mut at, 0).map_err(|reason| TemplateError { line, reason })?;
    if at < tokens.len() {
        let reason = format!("unexpected {:?} in `{text}`", tokens[at]);
        return Err(TemplateError { line, reason });
    }
    Ok(pipe)
}

fn read_pipe(tokens: &[Token], at: &mut usize, depth: usize) -> Result<Pipe, String> {
    if depth > DEPTH_MAX {
        return Err("nested too deeply".to_owned());
    }
    let mut pipe = Pipe { assign: Vec::new(), declares: false, commands: Vec::new() };
    let mut look = *at;
    let mut names = Vec::new();
    while let Some(Token::Variable(name)) = tokens.get(look) {
        names.push(name.clone());
        look += 1;
        match tokens.get(look) {
            Some(Token::Comma) => look += 1,
            Some(Token::Declare | Token::Assign) => {
                pipe.declares = tokens[look] == Token::Declare;
                pipe.assign = std::mem::take(&mut names);
                *at = look + 1;
                break;
            }
            _ => break,
        }
    }
    loop {
        let mut terms = Vec::new();
        while let Some(term) = read_term(tokens, at, depth)? {
            terms.push(term);
        }
        if terms.is_empty() {
            return Err("missing value for command".to_owned());
        }
        pipe.commands.push(terms);
        if tokens.get(*at) != Some(&Token::Pipe) {
            return Ok(pipe);
        }
        *at += 1;
    }
}

fn read_term(tokens: &[Token], at: &mut usize, depth: usize) -> Result<Option<Term>, String> {
    let Some(token) = tokens.get(*at) else { return Ok(None) };
    *at += 1;
    let term = match token {
        Token::Word(word) => match word.as_str() {
            "true" => Term::Bool(true),
            "false" => Term::Bool(false),
            "nil" => Term::Nil,
            _ => Term::Function(word.clone()),
        },
        Token::Dot => Term::Field(fields(tokens, at)),
        Token::Field(name) => {
            let mut path = vec![name.clone()];
            path.extend(fields(tokens, at));
            Term::Field(path)
        }
        Token::Variable(name) => Term::Variable(name.clone(), fields(tokens, at)),
        Token::Text(text) => Term::Text(text.clone()),
        Token::Int(n) => Term::Int(*n),
        Token::Float(v) => Term::Float(*v),
        Token::Open => {
            let inner = read_pipe(tokens, at, depth + 1)?;
            if tokens.get(*at) != Some(&Token::Close) {
                return Err("unclosed parenthesis".to_owned());
            }
            *at += 1;
            Term::Group(Box::new(inner), fields(tokens, at))
        }
        Token::Close | Token::Pipe | Token::Declare | Token::Assign | Token::Comma => {
            *at -= 1;
            return Ok(None);
        }
    };
    Ok(Some(term))
}

/// Fields directly behind a variable or parenthesis arrive as one token each.
fn fields(tokens: &[Token], at: &mut usize) -> Vec<String> {
    let mut path = Vec::new();
    while let Some(Token::Field(name)) = tokens.get(*at) {
        // A blank before the dot makes it an argument of its own; those carry a marker.
        let Some(name) = name.strip_prefix('.') else { break };
        path.push(name.to_owned());
        *at += 1;
    }
    path
}

fn tokens(text: &str) -> Result<Vec<Token>, String> {
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
            c if c.is_ascii_digit()
                || ((c == '-' || c == '+') && after.starts_with(|c: char| c.is_ascii_digit())) =>
            {
                let end = after
                    .find(|c: char| !c.is_ascii_alphanumeric() && c != '.')
                    .unwrap_or(after.len());
                take += end;
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

fn number(text: &str) -> Result<Token, String> {
    if let Ok(n) = text.parse::<i64>() {
        return Ok(Token::Int(n));
    }
    crate::number::parse_float(text)
        .map(Token::Float)
        .ok_or_else(|| format!("bad number syntax: {text:?}"))
}

/// A quoted text at the start of `text`: its value and how many bytes it takes.
fn quoted(text: &str, quote: char) -> Result<(String, usize), String> {
    let mut out = String::new();
    let mut chars = text.char_indices().skip(1);
    while let Some((i, c)) = chars.next() {
        if c == quote {
            return Ok((out, i + 1));
        }
        if c != '\\' || quote == '`' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some((_, 'n')) => out.push('\n'),
            Some((_, 't')) => out.push('\t'),
            Some((_, 'r')) => out.push('\r'),
            Some((_, 'x')) => {
                let digits: String = chars.by_ref().take(2).map(|(_, c)| c).collect();
                let byte = u8::from_str_radix(&digits, 16).map_err(|_| "bad escape".to_owned())?;
                out.push(if byte.is_ascii() { char::from(byte) } else { raw_byte_char(byte) });
            }
            Some((_, c)) => out.push(c),
            None => break,
        }
    }
    Err("unterminated quoted string".to_owned())
}
