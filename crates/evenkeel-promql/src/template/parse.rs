//! Text to template nodes.
//!
//! **Source**: text/template/parse of Go: unknown functions and variables are errors of the text.

use std::collections::BTreeMap;

use super::TemplateError;
use super::lex::{Token, tokens};

/// Nesting of blocks and parentheses.
const DEPTH_MAX: usize = 50;

#[derive(Clone, Debug)]
pub(super) enum Node {
    Text(String),
    Print { line: usize, pipe: Pipe },
    If { line: usize, pipe: Pipe, then: Vec<Node>, otherwise: Vec<Node> },
    With { line: usize, pipe: Pipe, then: Vec<Node>, otherwise: Vec<Node> },
    Range { line: usize, pipe: Pipe, body: Vec<Node>, otherwise: Vec<Node> },
    Template { line: usize, name: String, pipe: Option<Pipe> },
    Break { line: usize },
    Continue { line: usize },
}

impl Node {
    /// Its line, 0 for plain text.
    pub(super) fn line(&self) -> usize {
        match self {
            Self::Text(_) => 0,
            Self::Print { line, .. }
            | Self::If { line, .. }
            | Self::With { line, .. }
            | Self::Range { line, .. }
            | Self::Template { line, .. }
            | Self::Break { line }
            | Self::Continue { line } => *line,
        }
    }
}

/// Nodes of a text, and of the templates that it defines.
#[derive(Clone, Debug, Default)]
pub(super) struct Parsed {
    pub(super) nodes: Vec<Node>,
    pub(super) named: BTreeMap<String, Vec<Node>>,
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

/// A piece of the template: text, or the inside of an action.
struct Piece<'t> {
    line: usize,
    text: &'t str,
    action: bool,
}

impl Parsed {
    /// Whether nothing is read but these variables and what the text itself sets.
    pub(super) fn reads_only(&self, variables: &[&str]) -> bool {
        fn pipe(of: &Pipe, known: &[&str]) -> bool {
            of.assign.is_empty() && of.commands.iter().flatten().all(|one| term(one, known))
        }
        fn term(of: &Term, known: &[&str]) -> bool {
            match of {
                Term::Variable(name, _) => known.contains(&name.as_str()),
                Term::Function(name) => !matches!(name.as_str(), "now" | "query"),
                Term::Group(inner, _) => pipe(inner, known),
                Term::Field(_) => false,
                Term::Text(_) | Term::Int(_) | Term::Float(_) | Term::Bool(_) | Term::Nil => true,
            }
        }
        fn node(of: &Node, known: &[&str]) -> bool {
            match of {
                Node::Text(_) => true,
                Node::Print { pipe: of, .. } => pipe(of, known),
                Node::If { pipe: of, then, otherwise, .. } => {
                    pipe(of, known) && then.iter().chain(otherwise).all(|n| node(n, known))
                }
                // What they hand on as the dot is not followed.
                Node::With { .. }
                | Node::Range { .. }
                | Node::Template { .. }
                | Node::Break { .. }
                | Node::Continue { .. } => false,
            }
        }
        self.nodes.iter().all(|n| node(n, variables))
    }
}

/// Reads a text in which these variables and functions are known.
pub(super) fn parse(
    text: &str,
    variables: &[&str],
    is_function: fn(&str) -> bool,
) -> Result<Parsed, TemplateError> {
    let pieces = pieces(text)?;
    let known = variables.iter().map(|name| (*name).to_owned()).chain([String::new()]);
    let mut parser = Blocks {
        pieces: &pieces,
        at: 0,
        depth: 0,
        ranges: 0,
        is_function,
        known: known.collect(),
        named: BTreeMap::new(),
    };
    let (nodes, end) = parser.block()?;
    match end {
        None => Ok(Parsed { nodes, named: parser.named }),
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
        let end = action_end(tail, trims)
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
fn action_end(text: &str, trims: bool) -> Option<usize> {
    let inside = if trims { text.get(1..)?.trim_start() } else { text };
    if inside.starts_with("/*") {
        let comment = text.find("*/")?;
        return text.get(comment..)?.find("}}").map(|end| comment + end);
    }
    let mut quote: Option<char> = None;
    let mut escaped = false;
    for (i, c) in text.char_indices() {
        if escaped {
            escaped = false;
            continue;
        }
        match (quote, c) {
            (Some('"' | '\''), '\\') => escaped = true,
            (Some(q), c) if q == c => quote = None,
            (None, '"' | '`' | '\'') => quote = Some(c),
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
    /// Ranges around, of the same template.
    ranges: usize,
    is_function: fn(&str) -> bool,
    /// Variables that can be used, the innermost last.
    known: Vec<String>,
    named: BTreeMap<String, Vec<Node>>,
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
            let word = piece.text.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
            if matches!(word, "end" | "else") {
                return Ok((nodes, Some((line, piece.text.to_owned()))));
            }
            if piece.text.starts_with("/*") {
                continue;
            }
            let rest = piece.text.strip_prefix(word).unwrap_or_default();
            nodes.extend(self.action(line, word, rest, piece.text)?);
        }
        Ok((nodes, None))
    }

    /// One action; `None` for one that only defines a template.
    fn action(
        &mut self,
        line: usize,
        word: &str,
        rest: &str,
        text: &str,
    ) -> Result<Option<Node>, TemplateError> {
        let fail = |reason: String| Err(TemplateError { line, reason });
        Ok(Some(match word {
            "if" | "with" | "range" => self.control(line, word, rest)?,
            "define" if self.depth == 0 => {
                let (name, tokens) = named(rest, line, "define")?;
                if let Some(token) = tokens.first() {
                    return fail(format!("unexpected {token:?} in define clause"));
                }
                self.define(line, "define", name)?;
                return Ok(None);
            }
            "define" => return fail("unexpected <define> in command".to_owned()),
            "block" => {
                let (name, tokens) = named(rest, line, "block")?;
                let pipe = Some(self.pipe(&tokens, line, text)?);
                self.define(line, "block", name.clone())?;
                Node::Template { line, name, pipe }
            }
            "template" => {
                let (name, tokens) = named(rest, line, "template")?;
                let pipe = match tokens.as_slice() {
                    [] => None,
                    tokens => Some(self.pipe(tokens, line, text)?),
                };
                Node::Template { line, name, pipe }
            }
            "break" | "continue" if rest.is_empty() => {
                if self.ranges == 0 {
                    return fail(format!("{{{{{word}}}}} outside {{{{range}}}}"));
                }
                if word == "break" { Node::Break { line } } else { Node::Continue { line } }
            }
            _ => Node::Print { line, pipe: self.pipe_of(text, line)? },
        }))
    }

    /// Reads the body of a template; it sees none of the variables around it.
    fn define(&mut self, line: usize, word: &str, name: String) -> Result<(), TemplateError> {
        self.deeper(line)?;
        let known = std::mem::replace(&mut self.known, vec![String::new()]);
        let ranges = std::mem::take(&mut self.ranges);
        let (nodes, end) = self.block()?;
        if end.is_none_or(|(_, text)| text != "end") {
            return Err(TemplateError { line, reason: format!("{{{{{word}}}}} has no end") });
        }
        (self.known, self.ranges) = (known, ranges);
        self.depth -= 1;
        let is_empty = |nodes: &[Node]| {
            nodes.iter().all(|n| matches!(n, Node::Text(text) if text.trim().is_empty()))
        };
        match self.named.get(&name) {
            Some(there) if is_empty(&nodes) && !is_empty(there) => {}
            Some(there) if !is_empty(there) => {
                let reason = format!("multiple definition of template {name:?}");
                return Err(TemplateError { line, reason });
            }
            _ => {
                self.named.insert(name, nodes);
            }
        }
        Ok(())
    }

    fn deeper(&mut self, line: usize) -> Result<(), TemplateError> {
        if self.depth >= DEPTH_MAX {
            return Err(TemplateError { line, reason: "nested too deeply".to_owned() });
        }
        self.depth += 1;
        Ok(())
    }

    fn control(&mut self, line: usize, word: &str, rest: &str) -> Result<Node, TemplateError> {
        self.deeper(line)?;
        let known = self.known.len();
        let pipe = self.pipe_of(rest, line)?;
        self.ranges += usize::from(word == "range");
        let (then, end) = self.block()?;
        self.ranges -= usize::from(word == "range");
        let otherwise = self.otherwise(line, word, end)?;
        self.known.truncate(known);
        self.depth -= 1;
        Ok(match word {
            "if" => Node::If { line, pipe, then, otherwise },
            "with" => Node::With { line, pipe, then, otherwise },
            _ => Node::Range { line, pipe, body: then, otherwise },
        })
    }

    /// What stands between `else` and `end`.
    fn otherwise(&mut self, line: usize, word: &str, end: End) -> Result<Vec<Node>, TemplateError> {
        let endless = || TemplateError { line, reason: format!("{{{{{word}}}}} has no end") };
        let (else_line, text) = end.ok_or_else(endless)?;
        let inner = match text.strip_prefix("else") {
            Some(inner) => inner.trim(),
            None if text == "end" => return Ok(Vec::new()),
            None => {
                let reason = format!("unexpected `{text}`");
                return Err(TemplateError { line: else_line, reason });
            }
        };
        if inner.is_empty() {
            let (nodes, end) = self.block()?;
            return if end.is_some_and(|(_, text)| text == "end") {
                Ok(nodes)
            } else {
                Err(endless())
            };
        }
        // `else if` shares its end with the outer block.
        let inner_word = inner.split_whitespace().next().unwrap_or_default();
        if word == "range" || inner_word != word {
            let reason = format!("unexpected `{text}` in {word}");
            return Err(TemplateError { line: else_line, reason });
        }
        let rest = inner.strip_prefix(inner_word).unwrap_or_default();
        Ok(vec![self.control(else_line, inner_word, rest)?])
    }

    fn pipe_of(&mut self, text: &str, line: usize) -> Result<Pipe, TemplateError> {
        let tokens = tokens(text).map_err(|reason| TemplateError { line, reason })?;
        self.pipe(&tokens, line, text)
    }

    fn pipe(&mut self, tokens: &[Token], line: usize, text: &str) -> Result<Pipe, TemplateError> {
        let fail = |reason: String| TemplateError { line, reason };
        let mut at = 0;
        let pipe = read_pipe(tokens, &mut at, 0).map_err(fail)?;
        if let Some(token) = tokens.get(at) {
            return Err(fail(format!("unexpected {token:?} in `{text}`")));
        }
        if pipe.declares {
            self.known.extend(pipe.assign.iter().cloned());
        }
        self.check(&pipe).map_err(fail)?;
        Ok(pipe)
    }

    /// Whether all functions and variables are known.
    fn check(&self, pipe: &Pipe) -> Result<(), String> {
        for term in pipe.commands.iter().flatten() {
            match term {
                Term::Function(name) if !(self.is_function)(name) => {
                    return Err(format!("function {name:?} not defined"));
                }
                Term::Variable(name, _) if !self.known.contains(name) => {
                    return Err(format!("undefined variable \"${name}\""));
                }
                Term::Group(inner, _) => self.check(inner)?,
                _ => {}
            }
        }
        Ok(())
    }
}

/// The name behind `define`, `block` or `template`, and what follows it.
fn named(rest: &str, line: usize, word: &str) -> Result<(String, Vec<Token>), TemplateError> {
    let fail = |reason: String| TemplateError { line, reason };
    let mut tokens = tokens(rest).map_err(fail)?;
    if tokens.is_empty() {
        return Err(fail(format!("missing name in {word} clause")));
    }
    match tokens.remove(0) {
        Token::Text(name) => Ok((name, tokens)),
        other => Err(fail(format!("unexpected {other:?} in {word} clause"))),
    }
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
