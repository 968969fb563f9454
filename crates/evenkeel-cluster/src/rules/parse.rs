//! The grammar of CEL.
//!
//! **Source**: `cel-spec/doc/langdef.md`; messages as `cel-go` words them.

use std::sync::Arc;

/// A place in an expression, and what stands there.
#[derive(Debug, Clone)]
pub(super) struct Ast {
    /// Characters before it.
    pub(super) at: usize,
    pub(super) node: Node,
}

type Boxed = Box<Ast>;

#[derive(Debug, Clone)]
pub(super) enum Node {
    Literal(Literal),
    Name(String),
    Select {
        of: Boxed,
        field: String,
        how: How,
    },
    Index {
        of: Boxed,
        at: Boxed,
        how: How,
    },
    Call {
        name: String,
        target: Option<Boxed>,
        args: Vec<Ast>,
    },
    /// Elements, and whether an absent one is left out.
    List(Vec<(Ast, bool)>),
    Map(Vec<(Ast, Ast)>),
    If(Boxed, Boxed, Boxed),
    And(Boxed, Boxed),
    Or(Boxed, Boxed),
    Not(Boxed),
    Minus(Boxed),
    Binary(&'static str, Boxed, Boxed),
    /// `all`, `exists`, `exists_one`, `map`, `filter`: what is walked through, the name of an
    /// element, which elements count, what is done with them.
    Fold {
        fold: Fold,
        of: Boxed,
        name: String,
        filter: Option<Boxed>,
        step: Boxed,
    },
}

/// How a field or element is got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    /// It must be there.
    Plain,
    /// `has(a.b)`.
    Test,
    /// `a.?b`, `a[?b]`.
    Optional,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fold {
    All,
    Exists,
    ExistsOne,
    Map,
    Filter,
    /// `optMap` and `optFlatMap`, on an optional value.
    OptMap,
    OptFlatMap,
}

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

/// Nesting beyond which an expression is refused, so that none exhausts the stack.
const DEPTH_MAX: usize = 64;

#[derive(Debug, Clone, PartialEq)]
enum Token {
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
const RESERVED: [&str; 17] = [
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

/// Reads an expression.
pub(super) fn parse(text: &str) -> Result<Ast, Fault> {
    let tokens = Lexer { chars: text.chars().collect(), at: 0 }.tokens()?;
    let mut parser = Parser { tokens, next: 0, depth: 0 };
    let ast = parser.expression()?;
    match parser.peek() {
        Token::End => Ok(ast),
        _ => Err(parser.unexpected("'<EOF>'")),
    }
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

struct Parser {
    tokens: Vec<(usize, Token)>,
    next: usize,
    depth: usize,
}

const RELATIONS: [&str; 7] = ["==", "!=", "<", "<=", ">", ">=", "in"];

impl Parser {
    fn peek(&self) -> &Token {
        self.tokens.get(self.next).map_or(&Token::End, |(_, token)| token)
    }

    fn at(&self) -> usize {
        self.tokens.get(self.next).or(self.tokens.last()).map_or(0, |(at, _)| *at)
    }

    fn unexpected(&self, wanted: &str) -> Fault {
        let shown = match self.peek() {
            Token::Name(name) | Token::Quoted(name) => name.clone(),
            Token::Sign(sign) => (*sign).to_owned(),
            Token::End => "<EOF>".to_owned(),
            Token::Literal(Literal::Int(value)) => value.to_string(),
            Token::Literal(Literal::Bool(value)) => value.to_string(),
            Token::Literal(Literal::Text(text)) => format!("'{text}'"),
            Token::Literal(_) => "literal".to_owned(),
        };
        let problem = format!("Syntax error: mismatched input '{shown}' expecting {wanted}");
        Fault { at: self.at(), problem }
    }

    fn take(&mut self, sign: &str) -> bool {
        let is = matches!(self.peek(), Token::Sign(next) if *next == sign);
        self.next += usize::from(is);
        is
    }

    fn expect(&mut self, sign: &str) -> Result<(), Fault> {
        if self.take(sign) { Ok(()) } else { Err(self.unexpected(&format!("'{sign}'"))) }
    }

    fn expression(&mut self) -> Result<Ast, Fault> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            let problem = "expression recursion limit exceeded".to_owned();
            return Err(Fault { at: self.at(), problem });
        }
        let condition = self.or()?;
        let at = self.at();
        let ast = if self.take("?") {
            let yes = self.or()?;
            self.expect(":")?;
            let no = self.expression()?;
            Ast { at, node: Node::If(Box::new(condition), Box::new(yes), Box::new(no)) }
        } else {
            condition
        };
        self.depth -= 1;
        Ok(ast)
    }

    fn or(&mut self) -> Result<Ast, Fault> {
        let mut left = self.and()?;
        loop {
            let at = self.at();
            if !self.take("||") {
                return Ok(left);
            }
            let right = self.and()?;
            left = Ast { at, node: Node::Or(Box::new(left), Box::new(right)) };
        }
    }

    fn and(&mut self) -> Result<Ast, Fault> {
        let mut left = self.binary(0)?;
        loop {
            let at = self.at();
            if !self.take("&&") {
                return Ok(left);
            }
            let right = self.binary(0)?;
            left = Ast { at, node: Node::And(Box::new(left), Box::new(right)) };
        }
    }

    fn binary(&mut self, level: usize) -> Result<Ast, Fault> {
        let signs: &[&'static str] = match level {
            0 => &RELATIONS,
            1 => &["+", "-"],
            2 => &["*", "/", "%"],
            _ => return self.unary(),
        };
        let mut left = self.binary(level + 1)?;
        loop {
            let at = self.at();
            let Some(sign) = signs.iter().copied().find(|sign| self.take(sign)) else {
                return Ok(left);
            };
            let right = self.binary(level + 1)?;
            left = Ast { at, node: Node::Binary(sign, Box::new(left), Box::new(right)) };
        }
    }

    fn unary(&mut self) -> Result<Ast, Fault> {
        let at = self.at();
        let sign = ["!", "-"].into_iter().find(|sign| self.take(sign));
        let Some(sign) = sign else { return self.member() };
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(Fault { at, problem: "expression recursion limit exceeded".to_owned() });
        }
        let inner = self.unary()?;
        self.depth -= 1;
        let node = match (sign, inner.node) {
            ("!", node) => Node::Not(Box::new(Ast { at: inner.at, node })),
            (_, Node::Literal(Literal::Int(value))) => Node::Literal(Literal::Int(-value)),
            (_, Node::Literal(Literal::Uint(value))) if value == 1 << 63 => {
                Node::Literal(Literal::Int(i64::MIN))
            }
            (_, Node::Literal(Literal::Double(value))) => Node::Literal(Literal::Double(-value)),
            (_, node) => Node::Minus(Box::new(Ast { at: inner.at, node })),
        };
        Ok(Ast { at, node })
    }

    fn member(&mut self) -> Result<Ast, Fault> {
        let mut ast = self.primary()?;
        loop {
            let at = self.at();
            if self.take(".") {
                let how = if self.take("?") { How::Optional } else { How::Plain };
                let (name, quoted) = match self.peek().clone() {
                    Token::Name(name) => (name, false),
                    Token::Quoted(name) => (name, true),
                    // A field may be called like an operator.
                    Token::Sign("in") => ("in".to_owned(), false),
                    _ => return Err(self.unexpected("IDENTIFIER")),
                };
                self.next += 1;
                let open = self.at();
                if how == How::Plain && !quoted && self.take("(") {
                    let args = self.arguments(")")?;
                    ast = call(open, name, Some(ast), args)?;
                } else {
                    let node = Node::Select { of: Box::new(ast), field: name, how };
                    ast = Ast { at, node };
                }
            } else if self.take("[") {
                let how = if self.take("?") { How::Optional } else { How::Plain };
                let index = self.expression()?;
                self.expect("]")?;
                let node = Node::Index { of: Box::new(ast), at: Box::new(index), how };
                ast = Ast { at, node };
            } else {
                return Ok(ast);
            }
        }
    }

    fn arguments(&mut self, end: &str) -> Result<Vec<Ast>, Fault> {
        let mut all = Vec::new();
        while !self.take(end) {
            all.push(self.expression()?);
            if !self.take(",") {
                self.expect(end)?;
                break;
            }
        }
        Ok(all)
    }

    fn primary(&mut self) -> Result<Ast, Fault> {
        let at = self.at();
        let token = self.peek().clone();
        let wanted = "{'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, \
                      NUM_UINT, STRING, BYTES, IDENTIFIER}";
        match token {
            Token::Literal(literal) => {
                self.next += 1;
                Ok(Ast { at, node: Node::Literal(literal) })
            }
            Token::Name(name) => {
                self.next += 1;
                if RESERVED.contains(&name.as_str()) {
                    return Err(Fault { at, problem: format!("reserved identifier: {name}") });
                }
                let open = self.at();
                if self.take("(") {
                    let args = self.arguments(")")?;
                    return call(open, name, None, args);
                }
                Ok(Ast { at, node: Node::Name(name) })
            }
            Token::Sign("(") => {
                self.next += 1;
                let inner = self.expression()?;
                self.expect(")")?;
                Ok(inner)
            }
            Token::Sign("[") => {
                self.next += 1;
                let mut items = Vec::new();
                while !self.take("]") {
                    let optional = self.take("?");
                    items.push((self.expression()?, optional));
                    if !self.take(",") {
                        self.expect("]")?;
                        break;
                    }
                }
                Ok(Ast { at, node: Node::List(items) })
            }
            Token::Sign("{") => {
                self.next += 1;
                let mut entries = Vec::new();
                while !self.take("}") {
                    let key = self.expression()?;
                    self.expect(":")?;
                    entries.push((key, self.expression()?));
                    if !self.take(",") {
                        self.expect("}")?;
                        break;
                    }
                }
                Ok(Ast { at, node: Node::Map(entries) })
            }
            _ => Err(self.unexpected(wanted)),
        }
    }
}

/// A call, or what it stands for.
fn call(at: usize, name: String, target: Option<Ast>, mut args: Vec<Ast>) -> Result<Ast, Fault> {
    let fault = |problem: &str| Err(Fault { at, problem: problem.to_owned() });
    let fold = match (name.as_str(), args.len()) {
        ("has", 1) if target.is_none() => {
            return match args.pop() {
                Some(Ast { node: Node::Select { of, field, how: How::Plain }, .. }) => {
                    Ok(Ast { at, node: Node::Select { of, field, how: How::Test } })
                }
                _ => fault("invalid argument to has() macro"),
            };
        }
        ("all", 2) => Fold::All,
        ("exists", 2) => Fold::Exists,
        ("exists_one" | "existsOne", 2) => Fold::ExistsOne,
        ("map", 2 | 3) => Fold::Map,
        ("filter", 2) => Fold::Filter,
        ("optMap", 2) => Fold::OptMap,
        ("optFlatMap", 2) => Fold::OptFlatMap,
        _ => return Ok(Ast { at, node: Node::Call { name, target: target.map(Box::new), args } }),
    };
    let Some(of) = target.map(Box::new) else {
        return Ok(Ast { at, node: Node::Call { name, target: None, args } });
    };
    let step = args.pop().map(Box::new);
    let filter = if args.len() == 2 { args.pop().map(Box::new) } else { None };
    match (args.pop(), step) {
        (Some(Ast { node: Node::Name(name), .. }), Some(step)) => {
            Ok(Ast { at, node: Node::Fold { fold, of, name, filter, step } })
        }
        _ => fault("argument must be a simple name"),
    }
}
