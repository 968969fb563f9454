//! The grammar of CEL.
//!
//! **Source**: `cel-spec/doc/langdef.md`; messages as `cel-go` words them.

use std::collections::VecDeque;

use super::lexer::{Fault, Literal, RESERVED, Token, tokens};

/// A place in an expression, and what stands there.
#[derive(Debug, Clone)]
pub(super) struct Ast {
    /// Characters before it.
    pub(super) at: usize,
    pub(super) node: Node,
    /// Nodes from here down to the deepest leaf.
    height: usize,
}

impl Ast {
    fn new(at: usize, node: Node) -> Self {
        let height = 1 + node.parts().into_iter().map(|part| part.height).max().unwrap_or(0);
        Self { at, node, height }
    }
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

impl Node {
    /// What it is made of.
    fn parts(&self) -> Vec<&Ast> {
        match self {
            Self::Literal(_) | Self::Name(_) => Vec::new(),
            Self::Select { of, .. } | Self::Not(of) | Self::Minus(of) => vec![of],
            Self::Index { of, at, .. } => vec![of, at],
            Self::And(left, right) | Self::Or(left, right) | Self::Binary(_, left, right) => {
                vec![left, right]
            }
            Self::If(condition, yes, no) => vec![condition, yes, no],
            Self::Call { target, args, .. } => target.as_deref().into_iter().chain(args).collect(),
            Self::List(items) => items.iter().map(|(item, _)| item).collect(),
            Self::Map(entries) => entries.iter().flat_map(|(key, value)| [key, value]).collect(),
            Self::Fold { of, filter, step, .. } => {
                [of, step].into_iter().chain(filter).map(|part| &**part).collect()
            }
        }
    }
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

/// Nesting beyond which an expression is refused, so that none exhausts the stack.
const DEPTH_MAX: usize = 64;
/// The same for the tree that comes of it, which long chains of operators and fields make deep.
const HEIGHT_MAX: usize = 250;
/// Longest expression, in characters. The same as in Kubernetes.
const LENGTH_MAX: usize = 100_000;

/// Reads an expression.
pub(super) fn parse(text: &str) -> Result<Ast, Fault> {
    let length = text.chars().count();
    if length > LENGTH_MAX {
        let problem =
            format!("expression code point size exceeds limit: size: {length}, limit {LENGTH_MAX}");
        return Err(Fault { at: 0, problem });
    }
    let tokens = tokens(text)?;
    let mut parser = Parser { tokens, next: 0, depth: 0 };
    let ast = parser.expression()?;
    match parser.peek() {
        Token::End => Ok(ast),
        _ => Err(parser.unexpected("'<EOF>'")),
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
        self.deeper(self.at())?;
        let condition = self.or()?;
        let at = self.at();
        let ast = if self.take("?") {
            let yes = self.or()?;
            self.expect(":")?;
            let no = self.expression()?;
            made(at, Node::If(Box::new(condition), Box::new(yes), Box::new(no)))?
        } else {
            condition
        };
        self.depth -= 1;
        Ok(ast)
    }

    fn deeper(&mut self, at: usize) -> Result<(), Fault> {
        self.depth += 1;
        if self.depth > DEPTH_MAX { Err(too_deep(at)) } else { Ok(()) }
    }

    fn or(&mut self) -> Result<Ast, Fault> {
        self.chain("||", Node::Or, Self::and)
    }

    fn and(&mut self) -> Result<Ast, Fault> {
        self.chain("&&", Node::And, |parser| parser.binary(0))
    }

    /// Operands of `&&` or `||`, which may be many: a tree that is as low as can be.
    fn chain(
        &mut self,
        sign: &str,
        join: fn(Boxed, Boxed) -> Node,
        operand: fn(&mut Self) -> Result<Ast, Fault>,
    ) -> Result<Ast, Fault> {
        let (first, mut more) = (operand(self)?, VecDeque::new());
        loop {
            let at = self.at();
            if !self.take(sign) {
                return balanced(first, &mut more, join);
            }
            more.push_back((at, operand(self)?));
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
            left = made(at, Node::Binary(sign, Box::new(left), Box::new(right)))?;
        }
    }

    fn unary(&mut self) -> Result<Ast, Fault> {
        let at = self.at();
        let sign = ["!", "-"].into_iter().find(|sign| self.take(sign));
        let Some(sign) = sign else { return self.member() };
        self.deeper(at)?;
        let inner = self.unary()?;
        self.depth -= 1;
        let negative = match &inner.node {
            Node::Literal(Literal::Int(value)) => value.checked_neg().map(Literal::Int),
            // The smallest integer has no positive one.
            Node::Literal(Literal::Uint(value)) if *value == 1 << 63 => {
                Some(Literal::Int(i64::MIN))
            }
            Node::Literal(Literal::Double(value)) => Some(Literal::Double(-value)),
            _ => None,
        };
        match (sign, negative) {
            ("!", _) => made(at, Node::Not(Box::new(inner))),
            (_, Some(literal)) => made(at, Node::Literal(literal)),
            (_, None) => made(at, Node::Minus(Box::new(inner))),
        }
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
                    ast = made(at, node)?;
                }
            } else if self.take("[") {
                let how = if self.take("?") { How::Optional } else { How::Plain };
                let index = self.expression()?;
                self.expect("]")?;
                let node = Node::Index { of: Box::new(ast), at: Box::new(index), how };
                ast = made(at, node)?;
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
                made(at, Node::Literal(literal))
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
                made(at, Node::Name(name))
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
                made(at, Node::List(items))
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
                made(at, Node::Map(entries))
            }
            _ => Err(self.unexpected(wanted)),
        }
    }
}

fn too_deep(at: usize) -> Fault {
    Fault { at, problem: "expression recursion limit exceeded".to_owned() }
}

fn made(at: usize, node: Node) -> Result<Ast, Fault> {
    let ast = Ast::new(at, node);
    if ast.height > HEIGHT_MAX { Err(too_deep(at)) } else { Ok(ast) }
}

/// Joins operands in their order; each but the first comes with the place of its operator.
fn balanced(
    first: Ast,
    more: &mut VecDeque<(usize, Ast)>,
    join: fn(Boxed, Boxed) -> Node,
) -> Result<Ast, Fault> {
    let mut behind = more.split_off(more.len() / 2);
    let Some((at, middle)) = behind.pop_front() else { return Ok(first) };
    let left = balanced(first, more, join)?;
    let right = balanced(middle, &mut behind, join)?;
    made(at, join(Box::new(left), Box::new(right)))
}

/// A call, or what it stands for.
fn call(at: usize, name: String, target: Option<Ast>, mut args: Vec<Ast>) -> Result<Ast, Fault> {
    let fault = |problem: &str| Err(Fault { at, problem: problem.to_owned() });
    let fold = match (name.as_str(), args.len()) {
        ("has", 1) if target.is_none() => {
            return match args.pop() {
                Some(Ast { node: Node::Select { of, field, how: How::Plain }, .. }) => {
                    made(at, Node::Select { of, field, how: How::Test })
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
        _ => return made(at, Node::Call { name, target: target.map(Box::new), args }),
    };
    let Some(of) = target.map(Box::new) else {
        return made(at, Node::Call { name, target: None, args });
    };
    let step = args.pop().map(Box::new);
    let filter = if args.len() == 2 { args.pop().map(Box::new) } else { None };
    match (args.pop(), step) {
        (Some(Ast { node: Node::Name(name), .. }), Some(step)) => {
            made(at, Node::Fold { fold, of, name, filter, step })
        }
        _ => fault("argument must be a simple name"),
    }
}
