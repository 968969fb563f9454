use std::{cmp::Ordering, collections::BTreeMap, sync::Arc};

use serde_json::Value;

use super::{
    functions,
    machine::{Eval, Outcome, Stop, compare, failed},
    parse::{Ast, Fold, How, Node},
    value::{Cel, Key, List},
};

impl<'a, 'b> Eval<'a, 'b> {
    pub(super) fn value(&mut self, ast: &'b Ast) -> Outcome<'a> {
        self.spend(1)?;
        match &ast.node {
            Node::Literal(literal) => Ok(Cel::literal(literal)),
            Node::Name(name) => self.named(name),
            Node::Select { of, field, how } => self.select(of, field, *how),
            Node::Index { of, at, how } => {
                let (of, at) = (self.value(of)?, self.value(at)?);
                index(of, &at, *how)
            }
            Node::Call { name, target, args } => self.call(name, target.as_deref(), args),
            Node::List(items) => {
                let mut made = Vec::with_capacity(items.len());
                for (item, optional) in items {
                    match self.value(item)? {
                        Cel::Optional(inner) if *optional => made.extend(inner.map(|inner| *inner)),
                        value => made.push(value),
                    }
                }
                Ok(Cel::list(made))
            }
            Node::Map(entries) => self.map(entries),
            Node::If(condition, yes, no) => match self.value(condition)? {
                Cel::Bool(true) => self.value(yes),
                Cel::Bool(false) => self.value(no),
                _ => failed("no such overload"),
            },
            Node::And(left, right) => self.either(left, right, false),
            Node::Or(left, right) => self.either(left, right, true),
            Node::Not(inner) => match self.value(inner)? {
                Cel::Bool(value) => Ok(Cel::Bool(!value)),
                _ => failed("no such overload"),
            },
            Node::Minus(inner) => match self.value(inner)? {
                Cel::Int(value) => value.checked_neg().map(Cel::Int).ok_or_else(overflow),
                Cel::Double(value) => Ok(Cel::Double(-value)),
                Cel::Duration(value) => Ok(Cel::Duration(-value)),
                _ => failed("no such overload"),
            },
            Node::Binary(sign, left, right) => {
                let (left, right) = (self.value(left)?, self.value(right)?);
                self.binary(sign, left, right)
            }
            Node::Fold { fold, of, name, filter, step } => {
                let of = self.value(of)?;
                let depth = self.names.len();
                let result = self.fold(*fold, &of, name, (filter.as_deref(), step));
                self.names.truncate(depth);
                result
            }
        }
    }

    fn call(&mut self, name: &str, target: Option<&'b Ast>, args: &'b [Ast]) -> Outcome<'a> {
        let mut values = Vec::with_capacity(args.len() + 1);
        for arg in target.into_iter().chain(args) {
            // `optional.of` and the like: a namespace, not a value.
            if let Node::Name(space) = &arg.node
                && functions::is_namespace(space)
                && !self.names.iter().any(|(known, _)| known == space)
            {
                values.push(Cel::Type(functions::namespace(space)));
            } else {
                values.push(self.value(arg)?);
            }
        }
        functions::call(self, name, target.is_some(), &values)
    }

    fn map(&mut self, entries: &'b [(Ast, Ast)]) -> Outcome<'a> {
        let mut made = BTreeMap::new();
        for (key, value) in entries {
            let key = self.value(key)?;
            let Some(key) = key.key() else {
                return failed(format!("unsupported key type: {}", key.type_name()));
            };
            made.insert(key, self.value(value)?);
        }
        Ok(Cel::Map(Arc::new(made)))
    }

    fn named(&self, name: &str) -> Outcome<'a> {
        if let Some((_, value)) = self.names.iter().rev().find(|(known, _)| *known == name) {
            return Ok(value.clone());
        }
        match functions::TYPES.iter().find(|known| **known == name) {
            Some(known) => Ok(Cel::Type(known)),
            None => failed(format!("no such attribute: {name}")),
        }
    }

    fn select(&mut self, of: &'b Ast, field: &str, how: How) -> Outcome<'a> {
        let of = self.value(of)?;
        let (of, optional) = match of {
            Cel::Optional(None) => {
                return Ok(if how == How::Test { Cel::Bool(false) } else { of });
            }
            Cel::Optional(Some(inner)) => (*inner, true),
            of => (of, how == How::Optional),
        };
        if !matches!(of, Cel::Object(..) | Cel::Map(_)) {
            return failed("no such overload");
        }
        let found = of.field(field);
        match (how, found) {
            (How::Test, found) => Ok(Cel::Bool(found.is_some())),
            (_, found) if optional => Ok(Cel::Optional(found.map(Box::new))),
            (_, Some(found)) => Ok(found),
            (_, None) => failed(format!("no such key: {field}")),
        }
    }

    /// `&&` and `||`: the other side decides where one fails.
    fn either(&mut self, left: &'b Ast, right: &'b Ast, decisive: bool) -> Outcome<'a> {
        let left = self.truth(left);
        match left {
            Ok(value) if value == decisive => return Ok(Cel::Bool(decisive)),
            Err(Stop::Cost) => return Err(Stop::Cost),
            _ => {}
        }
        match (left, self.truth(right)) {
            (_, Ok(value)) if value == decisive => Ok(Cel::Bool(decisive)),
            (Err(stop), _) | (_, Err(stop)) => Err(stop),
            (Ok(_), Ok(_)) => Ok(Cel::Bool(!decisive)),
        }
    }

    fn truth(&mut self, ast: &'b Ast) -> Result<bool, Stop> {
        match self.value(ast)? {
            Cel::Bool(value) => Ok(value),
            _ => failed("no such overload"),
        }
    }

    fn fold(
        &mut self,
        fold: Fold,
        of: &Cel<'a>,
        name: &'b str,
        (filter, step): (Option<&'b Ast>, &'b Ast),
    ) -> Outcome<'a> {
        if let (Fold::OptMap | Fold::OptFlatMap, Cel::Optional(inner)) = (fold, of) {
            let Some(inner) = inner else { return Ok(Cel::Optional(None)) };
            self.names.push((name, (**inner).clone()));
            let value = self.value(step)?;
            return Ok(if fold == Fold::OptMap { Cel::some(value) } else { value });
        }
        let items: Vec<Cel<'a>> = match of {
            Cel::List(items) => items.iter().collect(),
            Cel::Object(fields, _) => fields.keys().map(|key| Cel::text(key.as_str())).collect(),
            Cel::Map(entries) => entries.keys().map(Key::value).collect(),
            _ => return failed("no such overload"),
        };
        self.spend(items.len())?;
        let mut made = Vec::new();
        let mut fitting = 0_usize;
        let mut stop = None;
        for item in items {
            self.names.push((name, item.clone()));
            let result = match fold {
                Fold::Map => {
                    let counts = filter.is_none_or(|filter| self.truth(filter) == Ok(true));
                    if counts {
                        made.push(self.value(step)?);
                    }
                    Ok(true)
                }
                _ => self.truth(step),
            };
            self.names.pop();
            match (fold, result) {
                (_, Err(Stop::Cost)) => return Err(Stop::Cost),
                (Fold::All, Ok(false)) => return Ok(Cel::Bool(false)),
                (Fold::Exists, Ok(true)) => return Ok(Cel::Bool(true)),
                (Fold::All | Fold::Exists, Err(why)) => stop = Some(why),
                (_, Err(why)) => return Err(why),
                (Fold::Filter, Ok(true)) => made.push(item),
                (Fold::ExistsOne, Ok(true)) => fitting += 1,
                _ => {}
            }
        }
        match (fold, stop) {
            (_, Some(stop)) => Err(stop),
            (Fold::All, None) => Ok(Cel::Bool(true)),
            (Fold::Exists, None) => Ok(Cel::Bool(false)),
            (Fold::ExistsOne, None) => Ok(Cel::Bool(fitting == 1)),
            (_, None) => Ok(Cel::list(made)),
        }
    }

    fn binary(&mut self, sign: &str, left: Cel<'a>, right: Cel<'a>) -> Outcome<'a> {
        match sign {
            "==" => Ok(Cel::Bool(self.equal(&left, &right)?)),
            "!=" => Ok(Cel::Bool(!self.equal(&left, &right)?)),
            "in" => match &right {
                Cel::List(items) => {
                    for item in items.iter() {
                        if self.equal(&left, &item)? {
                            return Ok(Cel::Bool(true));
                        }
                    }
                    Ok(Cel::Bool(false))
                }
                Cel::Object(fields, _) => match &left {
                    Cel::Text(name) => Ok(Cel::Bool(fields.contains_key(&**name))),
                    _ => Ok(Cel::Bool(false)),
                },
                Cel::Map(entries) => {
                    Ok(Cel::Bool(left.key().is_some_and(|key| entries.contains_key(&key))))
                }
                _ => failed("no such overload"),
            },
            "<" | "<=" | ">" | ">=" => {
                let order = compare(&left, &right);
                let Ok(order) = order else { return failed("no such overload") };
                Ok(Cel::Bool(match sign {
                    "<" => order == Some(Ordering::Less),
                    "<=" => matches!(order, Some(Ordering::Less | Ordering::Equal)),
                    ">" => order == Some(Ordering::Greater),
                    _ => matches!(order, Some(Ordering::Greater | Ordering::Equal)),
                }))
            }
            _ => self.arithmetic(sign, left, right),
        }
    }

    fn arithmetic(&mut self, sign: &str, left: Cel<'a>, right: Cel<'a>) -> Outcome<'a> {
        match (sign, left, right) {
            ("/", Cel::Int(_), Cel::Int(0)) | ("/", Cel::Uint(_), Cel::Uint(0)) => {
                failed("division by zero")
            }
            ("%", Cel::Int(_), Cel::Int(0)) | ("%", Cel::Uint(_), Cel::Uint(0)) => {
                failed("modulus by zero")
            }
            (sign, Cel::Int(a), Cel::Int(b)) => match sign {
                "+" => a.checked_add(b),
                "-" => a.checked_sub(b),
                "*" => a.checked_mul(b),
                "/" => a.checked_div(b),
                _ => a.checked_rem(b),
            }
            .map(Cel::Int)
            .ok_or_else(overflow),
            (sign, Cel::Uint(a), Cel::Uint(b)) => match sign {
                "+" => a.checked_add(b),
                "-" => a.checked_sub(b),
                "*" => a.checked_mul(b),
                "/" => a.checked_div(b),
                _ => a.checked_rem(b),
            }
            .map(Cel::Uint)
            .ok_or_else(|| Stop::Failed("unsigned integer overflow".to_owned())),
            ("+", Cel::Double(a), Cel::Double(b)) => Ok(Cel::Double(a + b)),
            ("-", Cel::Double(a), Cel::Double(b)) => Ok(Cel::Double(a - b)),
            ("*", Cel::Double(a), Cel::Double(b)) => Ok(Cel::Double(a * b)),
            ("/", Cel::Double(a), Cel::Double(b)) => Ok(Cel::Double(a / b)),
            ("+", Cel::Text(a), Cel::Text(b)) => {
                self.spend((a.len() + b.len()) / 10)?;
                Ok(Cel::text(format!("{a}{b}")))
            }
            ("+", Cel::Bytes(a), Cel::Bytes(b)) => {
                self.spend((a.len() + b.len()) / 10)?;
                Ok(Cel::Bytes([&*a, &*b].concat().into()))
            }
            ("+", Cel::List(a), Cel::List(b)) => self.joined(&a, &b),
            ("+", Cel::Duration(a), Cel::Duration(b)) => Ok(Cel::Duration(a + b)),
            ("-", Cel::Duration(a), Cel::Duration(b)) => Ok(Cel::Duration(a - b)),
            ("+", Cel::Time(at), Cel::Duration(by)) | ("+", Cel::Duration(by), Cel::Time(at)) => {
                moved(at, by)
            }
            ("-", Cel::Time(at), Cel::Duration(by)) => moved(at, -by),
            ("-", Cel::Time(a), Cel::Time(b)) => {
                Ok(Cel::Duration(a.as_nanosecond() - b.as_nanosecond()))
            }
            _ => failed("no such overload"),
        }
    }

    /// `+` of two lists; a set gets no element twice, and of a map's elements the second one wins.
    fn joined(&mut self, a: &List<'a>, b: &List<'a>) -> Outcome<'a> {
        self.spend(a.len() + b.len())?;
        let mut made: Vec<Cel<'a>> = a.iter().collect();
        let List::Found(_, schema) = a else {
            made.extend(b.iter());
            return Ok(Cel::list(made));
        };
        let keys = map_keys(schema);
        for item in b.iter() {
            let mut place = None;
            if a.is_unordered() {
                for (index, have) in made.iter().enumerate() {
                    let same = if keys.is_empty() {
                        self.equal(have, &item)?
                    } else {
                        let mut same = true;
                        for key in &keys {
                            same &= match (have.field(key), item.field(key)) {
                                (Some(a), Some(b)) => self.equal(&a, &b)?,
                                (a, b) => a.is_none() && b.is_none(),
                            };
                        }
                        same
                    };
                    if same {
                        place = Some(index);
                    }
                }
            }
            match place.and_then(|place| made.get_mut(place)) {
                Some(old) => *old = item,
                None => made.push(item),
            }
        }
        Ok(Cel::list(made))
    }
}

fn index<'a>(of: Cel<'a>, at: &Cel<'a>, how: How) -> Outcome<'a> {
    let (of, optional) = match of {
        Cel::Optional(None) => return Ok(of),
        Cel::Optional(Some(inner)) => (*inner, true),
        of => (of, how == How::Optional),
    };
    let found = match (&of, at) {
        (Cel::List(items), at) => {
            let index = match at {
                Cel::Int(index) => usize::try_from(*index).ok(),
                Cel::Uint(index) => usize::try_from(*index).ok(),
                _ => return failed("no such overload"),
            };
            index.and_then(|index| items.get(index))
        }
        (Cel::Object(fields, schema), Cel::Text(name)) => fields.get(&**name).map(|value| {
            let below = super::value::property(schema, name);
            Cel::of(value, below)
        }),
        (Cel::Map(entries), at) => at.key().and_then(|key| entries.get(&key).cloned()),
        _ => return failed("no such overload"),
    };
    match found {
        found if optional => Ok(Cel::Optional(found.map(Box::new))),
        Some(found) => Ok(found),
        None if matches!(of, Cel::List(_)) => {
            failed(format!("index out of bounds: {}", functions::shown(at)))
        }
        None => failed(format!("no such key: {}", functions::shown(at))),
    }
}

/// Fields that tell the elements of a list apart.
pub(super) fn map_keys(schema: &Value) -> Vec<&str> {
    let keys = schema.get("x-kubernetes-list-map-keys").and_then(Value::as_array);
    keys.into_iter().flatten().filter_map(Value::as_str).collect()
}

fn overflow() -> Stop {
    Stop::Failed("integer overflow".to_owned())
}

fn moved<'a>(at: jiff::Timestamp, by: i128) -> Outcome<'a> {
    let moved = jiff::Timestamp::from_nanosecond(at.as_nanosecond() + by);
    moved.map(Cel::Time).map_err(|_| Stop::Failed("timestamp overflow".to_owned()))
}
