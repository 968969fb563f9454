use serde_json::Value;

use super::{
    functions::{self, Gives},
    lexer::{Fault, Literal},
    machine,
    parse::{Ast, Fold, How, Node},
    value::unescape,
};

/// What is known of a value before there is one.
#[derive(Debug, Clone)]
pub(super) enum Type<'s> {
    /// Anything.
    Any,
    Plain(&'static str),
    List(Box<Type<'s>>),
    Map(Box<Type<'s>>),
    Object(&'s Value),
    /// The whole object: of its metadata, only the names are to be seen.
    Root(&'s Value),
    Optional(Box<Type<'s>>),
}

impl<'s> Type<'s> {
    pub(super) fn of(schema: &'s Value) -> Self {
        let flag = |name: &str| schema.get(name) == Some(&Value::Bool(true));
        let text = |name: &str| schema.get(name).and_then(Value::as_str).unwrap_or_default();
        if flag("x-kubernetes-int-or-string") || flag("nullable") {
            return Self::Any;
        }
        match (text("type"), text("format")) {
            ("boolean", _) => Self::Plain("bool"),
            ("integer", _) => Self::Plain("int"),
            ("number", _) => Self::Plain("double"),
            ("string", "date-time" | "date") => Self::Plain("google.protobuf.Timestamp"),
            ("string", "duration") => Self::Plain("google.protobuf.Duration"),
            ("string", "byte") => Self::Plain("bytes"),
            ("string", _) => Self::Plain("string"),
            ("array", _) => {
                let items = schema.get("items").map_or(Self::Any, Self::of);
                Self::List(Box::new(items))
            }
            ("object", _) => match schema.get("additionalProperties") {
                Some(others) if others.is_object() => Self::Map(Box::new(Self::of(others))),
                Some(_) => Self::Map(Box::new(Self::Any)),
                None => Self::Object(schema),
            },
            _ => Self::Any,
        }
    }

    pub(super) fn is_bool(&self) -> bool {
        matches!(self, Self::Any | Self::Plain("bool"))
    }

    pub(super) fn is_text(&self) -> bool {
        matches!(self, Self::Any | Self::Plain("string"))
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Any => "dyn",
            Self::Plain(name) => name,
            Self::List(_) => "list",
            Self::Map(_) => "map",
            Self::Object(_) | Self::Root(_) => "object",
            Self::Optional(_) => "optional_type",
        }
    }

    fn field(&self, name: &str) -> Option<Type<'s>> {
        match self {
            Self::Any => Some(Self::Any),
            Self::Map(of) => Some((**of).clone()),
            Self::Root(schema) => match name {
                "metadata" => Some(Self::Any),
                "apiVersion" | "kind" => Some(Self::Plain("string")),
                _ => Self::Object(schema).field(name),
            },
            Self::Object(schema) => {
                let properties = schema.get("properties")?;
                Some(Self::of(properties.get(unescape(name))?))
            }
            Self::Optional(inner) => inner.field(name).map(|found| Self::Optional(Box::new(found))),
            Self::Plain(_) | Self::List(_) => None,
        }
    }
}

/// Looks for what makes no sense whatever the object is.
pub(super) struct Check<'s, 'b> {
    pub(super) names: Vec<(&'b str, Type<'s>)>,
    pub(super) uses_old: bool,
}

fn fault<T>(at: usize, problem: String) -> Result<T, Fault> {
    Err(Fault { at, problem })
}

impl<'s, 'b> Check<'s, 'b> {
    pub(super) fn kind(&mut self, ast: &'b Ast) -> Result<Type<'s>, Fault> {
        match &ast.node {
            Node::Literal(literal) => Ok(Type::Plain(match literal {
                Literal::Null => return Ok(Type::Any),
                Literal::Bool(_) => "bool",
                Literal::Int(_) => "int",
                Literal::Uint(_) => "uint",
                Literal::Double(_) => "double",
                Literal::Text(_) => "string",
                Literal::Bytes(_) => "bytes",
            })),
            Node::Name(name) => self.name(ast.at, name),
            Node::Select { of, field, how } => self.select(ast.at, of, field, *how),
            Node::Index { of, at, how } => {
                let of = self.kind(of)?;
                self.kind(at)?;
                let found = match of {
                    Type::List(of) | Type::Map(of) => *of,
                    _ => Type::Any,
                };
                Ok(if *how == How::Optional { Type::Optional(Box::new(found)) } else { found })
            }
            Node::Call { name, target, args } => self.call(ast.at, name, target.as_deref(), args),
            Node::List(items) => {
                let mut of = None;
                for (item, _) in items {
                    of = Some(self.kind(item)?);
                }
                Ok(Type::List(Box::new(of.filter(|_| items.len() == 1).unwrap_or(Type::Any))))
            }
            Node::Map(entries) => {
                for (key, value) in entries {
                    self.kind(key)?;
                    self.kind(value)?;
                }
                Ok(Type::Map(Box::new(Type::Any)))
            }
            Node::If(condition, yes, no) => {
                self.truth(ast.at, "_?_:_", condition)?;
                let (yes, no) = (self.kind(yes)?, self.kind(no)?);
                Ok(if yes.name() == no.name() { yes } else { Type::Any })
            }
            Node::And(left, right) => self.truths(ast.at, "_&&_", left, right),
            Node::Or(left, right) => self.truths(ast.at, "_||_", left, right),
            Node::Not(inner) => {
                self.truth(ast.at, "!_", inner)?;
                Ok(Type::Plain("bool"))
            }
            Node::Minus(inner) => self.kind(inner),
            Node::Binary(sign, left, right) => self.binary(ast.at, sign, left, right),
            Node::Fold { fold, of, name, filter, step } => {
                self.fold(ast.at, *fold, of, (name, filter.as_deref(), step))
            }
        }
    }

    fn select(&mut self, at: usize, of: &'b Ast, field: &str, how: How) -> Result<Type<'s>, Fault> {
        let of = self.kind(of)?;
        let Some(found) = of.field(field) else {
            let has_fields = matches!(of, Type::Object(_) | Type::Root(_) | Type::Optional(_));
            return fault(
                at,
                if has_fields {
                    format!("undefined field '{field}'")
                } else {
                    format!("type '{}' does not support field selection", of.name())
                },
            );
        };
        Ok(match (how, found) {
            (How::Test, _) => Type::Plain("bool"),
            (How::Optional, Type::Optional(inner)) => Type::Optional(inner),
            (How::Optional, found) => Type::Optional(Box::new(found)),
            (How::Plain, found) => found,
        })
    }

    fn fold(
        &mut self,
        at: usize,
        fold: Fold,
        of: &'b Ast,
        (name, filter, step): (&'b str, Option<&'b Ast>, &'b Ast),
    ) -> Result<Type<'s>, Fault> {
        let of = self.kind(of)?;
        let item = match (&of, fold) {
            (Type::Map(_), _) => Type::Plain("string"),
            (Type::List(of), _) | (Type::Optional(of), Fold::OptMap | Fold::OptFlatMap) => {
                (**of).clone()
            }
            (Type::Any | Type::Object(_), _) => Type::Any,
            (of, _) => {
                let of = of.name();
                let problem = format!(
                    "expression of type '{of}' cannot be range of a comprehension (must be list, \
                     map, or dynamic)"
                );
                return fault(at, problem);
            }
        };
        self.names.push((name, item));
        if let Some(filter) = filter {
            self.truth(at, "filter", filter)?;
        }
        let step = self.kind(step)?;
        self.names.pop();
        Ok(match (fold, of) {
            (Fold::All | Fold::Exists | Fold::ExistsOne, _) => Type::Plain("bool"),
            (Fold::Filter, Type::Map(_)) => Type::List(Box::new(Type::Plain("string"))),
            (Fold::Filter, of) => of,
            (Fold::Map, _) => Type::List(Box::new(step)),
            (Fold::OptMap, _) => Type::Optional(Box::new(step)),
            (Fold::OptFlatMap, _) => step,
        })
    }

    fn name(&mut self, at: usize, name: &str) -> Result<Type<'s>, Fault> {
        if let Some((_, kind)) = self.names.iter().rev().find(|(known, _)| *known == name) {
            self.uses_old |= name == "oldSelf";
            return Ok(kind.clone());
        }
        if functions::TYPES.contains(&name) {
            return Ok(Type::Any);
        }
        fault(at, format!("undeclared reference to '{name}' (in container '')"))
    }

    fn truth(&mut self, at: usize, sign: &str, ast: &'b Ast) -> Result<(), Fault> {
        let kind = self.kind(ast)?;
        if kind.is_bool() {
            return Ok(());
        }
        let kind = kind.name();
        fault(at, format!("found no matching overload for '{sign}' applied to '({kind})'"))
    }

    fn truths(
        &mut self,
        at: usize,
        sign: &str,
        left: &'b Ast,
        right: &'b Ast,
    ) -> Result<Type<'s>, Fault> {
        self.truth(at, sign, left)?;
        self.truth(at, sign, right)?;
        Ok(Type::Plain("bool"))
    }

    fn binary(
        &mut self,
        at: usize,
        sign: &str,
        left: &'b Ast,
        right: &'b Ast,
    ) -> Result<Type<'s>, Fault> {
        let (left, right) = (self.kind(left)?, self.kind(right)?);
        if let (Type::Plain(a), Type::Plain(b)) = (&left, &right) {
            let numbers = |name: &str| matches!(name, "int" | "uint" | "double");
            let times = |name: &str| name.starts_with("google.protobuf.");
            let fits = match sign {
                "in" => false,
                "<" | "<=" | ">" | ">=" => a == b || (numbers(a) && numbers(b)),
                "+" | "-" => a == b || (times(a) && times(b)),
                _ => a == b,
            };
            if !fits {
                let sign = if sign == "in" { "@in".to_owned() } else { format!("_{sign}_") };
                let problem =
                    format!("found no matching overload for '{sign}' applied to '({a}, {b})'");
                return fault(at, problem);
            }
        }
        Ok(match sign {
            "+" | "-" | "*" | "/" | "%" => match (left, right) {
                (Type::Plain(a), Type::Plain(b)) if a != b => Type::Any,
                (left, _) => left,
            },
            _ => Type::Plain("bool"),
        })
    }

    fn call(
        &mut self,
        at: usize,
        name: &str,
        target: Option<&'b Ast>,
        args: &'b [Ast],
    ) -> Result<Type<'s>, Fault> {
        let gives = functions::gives(name, target.is_some(), args.len())
            .or_else(|problem| fault(at, problem))?;
        let is_space = |ast: &Ast| {
            matches!(&ast.node, Node::Name(space) if functions::is_namespace(space)
                && !self.names.iter().any(|(known, _)| known == space))
        };
        let target = match target {
            Some(target) if !is_space(target) => Some(self.kind(target)?),
            _ => None,
        };
        let mut first = None;
        for arg in args {
            let kind = self.kind(arg)?;
            first = first.or(Some(kind));
        }
        if let (
            "matches" | "find" | "findAll",
            Some(Ast { node: Node::Literal(Literal::Text(pattern)), .. }),
        ) = (name, args.last())
        {
            machine::regex(pattern).or_else(|problem| fault(at, problem))?;
        }
        let of_text = matches!(
            name,
            "startsWith"
                | "endsWith"
                | "lowerAscii"
                | "upperAscii"
                | "trim"
                | "split"
                | "replace"
                | "substring"
                | "charAt"
                | "find"
                | "findAll"
        );
        if of_text
            && let Some(target) = &target
            && !target.is_text()
        {
            let target = target.name();
            let problem = format!("found no matching overload for '{name}' applied to '{target}'");
            return fault(at, problem);
        }
        let any = |kind: Option<Type<'s>>| kind.unwrap_or(Type::Any);
        Ok(match gives {
            Gives::Bool => Type::Plain("bool"),
            Gives::Int => Type::Plain("int"),
            Gives::Uint => Type::Plain("uint"),
            Gives::Double => Type::Plain("double"),
            Gives::Text => Type::Plain("string"),
            Gives::Texts => Type::List(Box::new(Type::Plain("string"))),
            Gives::Bytes => Type::Plain("bytes"),
            Gives::Duration => Type::Plain("google.protobuf.Duration"),
            Gives::Time => Type::Plain("google.protobuf.Timestamp"),
            Gives::Quantity => Type::Plain("kubernetes.Quantity"),
            Gives::Url => Type::Plain("kubernetes.URL"),
            Gives::Optional => Type::Optional(Box::new(any(first))),
            Gives::Any => match (name, target) {
                ("value" | "orValue", Some(Type::Optional(inner))) => *inner,
                ("or", Some(kind)) => kind,
                ("min" | "max" | "sum", Some(Type::List(of))) => *of,
                _ => Type::Any,
            },
        })
    }
}
