//! Nodes to text.

use super::functions::call;
use super::parse::{Node, Parsed, Pipe, Term};
use super::{Data, Missing, OUTPUT_MAX, Scope, TemplateError, format};
use std::collections::BTreeMap;

/// Bytes of values a template may handle, copies included: bounds its time and memory.
const WORK_BYTES_MAX: usize = 128 << 20;
/// Bytes of one value: the answer of a query over some ten thousand series.
const VALUE_BYTES_MAX: usize = 16 << 20;
/// What a step costs besides its values, in bytes.
const STEP_BYTES: usize = 64;
/// What a query or a regular expression costs, in bytes.
const COSTLY_BYTES: usize = 64 << 10;
/// How much more a byte costs that a regular expression looks at than one that is copied.
const MATCHING: usize = 16;

/// Blocks within each other, templates that run themselves included.
const DEPTH_MAX: usize = 300;

/// What a missing key stands for where that is not an error.
static EMPTY: Data = Data::Text(String::new());

struct Run<'s> {
    parsed: &'s Parsed,
    scope: &'s Scope<'s>,
    out: String,
    /// Innermost variables last.
    variables: Vec<BTreeMap<String, Data>>,
    /// Bytes handled so far.
    work: usize,
    /// Blocks around.
    depth: usize,
}

/// How a node ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flow {
    Next,
    Break,
    Continue,
}

pub(super) fn run(parsed: &Parsed, scope: &Scope<'_>) -> Result<String, TemplateError> {
    let mut variables = scope.variables.clone();
    variables.insert(String::new(), scope.root.clone());
    let out = String::new();
    let mut run = Run { parsed, scope, out, variables: vec![variables], work: 0, depth: 0 };
    run.block(&parsed.nodes, &scope.root)?;
    Ok(run.out)
}

impl Run<'_> {
    fn block(&mut self, nodes: &[Node], dot: &Data) -> Result<Flow, TemplateError> {
        if self.depth >= DEPTH_MAX {
            let line = nodes.first().map_or(0, Node::line);
            let reason = format!("exceeded maximum template depth ({DEPTH_MAX})");
            return Err(TemplateError { line, reason });
        }
        self.depth += 1;
        self.variables.push(BTreeMap::new());
        let outcome = self.nodes(nodes, dot);
        self.variables.pop();
        self.depth -= 1;
        outcome
    }

    fn nodes(&mut self, nodes: &[Node], dot: &Data) -> Result<Flow, TemplateError> {
        for node in nodes {
            let flow = self.node(node, dot)?;
            if flow != Flow::Next {
                return Ok(flow);
            }
        }
        Ok(Flow::Next)
    }

    fn node(&mut self, node: &Node, dot: &Data) -> Result<Flow, TemplateError> {
        let fail = |line: usize| move |reason: String| TemplateError { line, reason };
        self.charge(STEP_BYTES).map_err(fail(node.line()))?;
        match node {
            Node::Text(text) => self.write(text, 0)?,
            Node::Print { line, pipe } => {
                let value = self.pipe(pipe, dot).map_err(fail(*line))?;
                if pipe.assign.is_empty() {
                    self.write(&format::print(&value), *line)?;
                }
            }
            Node::If { line, pipe, then, otherwise } => {
                let frame = self.variables.len();
                self.variables.push(BTreeMap::new());
                let value = self.pipe(pipe, dot).map_err(fail(*line))?;
                let flow = self.block(if value.is_true() { then } else { otherwise }, dot)?;
                self.variables.truncate(frame);
                return Ok(flow);
            }
            Node::With { line, pipe, then, otherwise } => {
                let frame = self.variables.len();
                self.variables.push(BTreeMap::new());
                let value = self.pipe(pipe, dot).map_err(fail(*line))?;
                let flow = if value.is_true() {
                    self.block(then, &value)?
                } else {
                    self.block(otherwise, dot)?
                };
                self.variables.truncate(frame);
                return Ok(flow);
            }
            Node::Range { line, pipe, body, otherwise } => {
                let value = self.pipe(pipe, dot).map_err(fail(*line))?;
                return match self.range(*line, pipe, value, body)? {
                    Some(flow) => Ok(flow),
                    None => self.block(otherwise, dot),
                };
            }
            Node::Template { line, name, pipe } => {
                let value = match pipe {
                    Some(pipe) => self.pipe(pipe, dot).map_err(fail(*line))?,
                    None => Data::Nil,
                };
                self.template(*line, name, &value)?;
            }
            Node::Break { .. } => return Ok(Flow::Break),
            Node::Continue { .. } => return Ok(Flow::Continue),
        }
        Ok(Flow::Next)
    }

    /// Runs another template, which sees no variable but `$`.
    fn template(&mut self, line: usize, name: &str, dot: &Data) -> Result<(), TemplateError> {
        let Some(nodes) = self.parsed.named.get(name) else {
            return Err(TemplateError { line, reason: format!("template {name:?} not defined") });
        };
        self.charge(dot.bytes()).map_err(|reason| TemplateError { line, reason })?;
        let own = vec![BTreeMap::from([(String::new(), dot.clone())])];
        let outer = std::mem::replace(&mut self.variables, own);
        self.block(nodes, dot)?;
        self.variables = outer;
        Ok(())
    }

    /// Runs the body for each item; `None` if there was none.
    fn range(
        &mut self,
        line: usize,
        pipe: &Pipe,
        value: Data,
        body: &[Node],
    ) -> Result<Option<Flow>, TemplateError> {
        let fail = |reason: String| TemplateError { line, reason };
        // Each item is copied into its variable.
        self.charge(value.bytes()).map_err(fail)?;
        let items: Box<dyn Iterator<Item = (Data, Data)>> = match value {
            Data::List(list) => {
                Box::new(list.into_iter().enumerate().map(|(i, v)| (Data::Int(i as i64), v)))
            }
            Data::Map(map) => Box::new(map.into_iter().map(|(k, v)| (Data::Text(k), v))),
            Data::Int(count) if pipe.assign.len() > 1 => {
                let reason = format!("can't use {count} to iterate over more than one variable");
                return Err(fail(reason));
            }
            Data::Int(count) => Box::new((0..count).map(|i| (Data::Int(i), Data::Int(i)))),
            Data::Nil => Box::new(std::iter::empty()),
            other => {
                return Err(fail(format!("range can't iterate over {}", format::print(&other))));
            }
        };
        let mut any = None;
        for (key, item) in items {
            any = Some(Flow::Next);
            self.charge(STEP_BYTES).map_err(fail)?;
            let mut variables = BTreeMap::new();
            match pipe.assign.as_slice() {
                [one] => {
                    variables.insert(one.clone(), item.clone());
                }
                [first, second] => {
                    variables.insert(first.clone(), key);
                    variables.insert(second.clone(), item.clone());
                }
                _ => {}
            }
            self.variables.push(variables);
            let flow = self.block(body, &item);
            self.variables.pop();
            if flow? == Flow::Break {
                break;
            }
        }
        Ok(any)
    }

    fn charge(&mut self, bytes: usize) -> Result<(), String> {
        self.work = self.work.saturating_add(bytes);
        if self.work <= WORK_BYTES_MAX {
            return Ok(());
        }
        Err(format!("the template handles more than {WORK_BYTES_MAX} bytes"))
    }

    /// Counts a value, and refuses one that is too large.
    fn bounded(&mut self, value: Data) -> Result<Data, String> {
        let bytes = value.bytes();
        self.charge(bytes)?;
        if bytes > VALUE_BYTES_MAX {
            return Err(format!("a value exceeds {VALUE_BYTES_MAX} bytes"));
        }
        Ok(value)
    }

    fn write(&mut self, text: &str, line: usize) -> Result<(), TemplateError> {
        self.out.push_str(text);
        if self.out.len() > OUTPUT_MAX {
            let reason = format!("the output exceeds {OUTPUT_MAX} bytes");
            return Err(TemplateError { line, reason });
        }
        Ok(())
    }

    fn pipe(&mut self, pipe: &Pipe, dot: &Data) -> Result<Data, String> {
        let mut value = None;
        for command in &pipe.commands {
            value = Some(self.command(command, value, dot)?);
        }
        let value = value.unwrap_or_default();
        if let [name] = pipe.assign.as_slice() {
            self.charge(value.bytes())?;
            self.assign(name, &value, pipe.declares)?;
        }
        Ok(value)
    }

    fn assign(&mut self, name: &str, value: &Data, declares: bool) -> Result<(), String> {
        let frame = if declares {
            self.variables.last_mut()
        } else {
            self.variables.iter_mut().rev().find(|frame| frame.contains_key(name))
        };
        let frame = frame.ok_or_else(|| format!("undefined variable: ${name}"))?;
        frame.insert(name.to_owned(), value.clone());
        Ok(())
    }

    fn command(&mut self, terms: &[Term], piped: Option<Data>, dot: &Data) -> Result<Data, String> {
        let Some((first, rest)) = terms.split_first() else { return Ok(Data::Nil) };
        if matches!(first, Term::Nil) {
            return Err("nil is not a command".to_owned());
        }
        if let Term::Function(name) = first {
            let mut args = Vec::with_capacity(rest.len() + 1);
            for term in rest {
                let value = self.term(term, dot)?;
                let decides = match name.as_str() {
                    "and" => !value.is_true(),
                    "or" => value.is_true(),
                    _ => false,
                };
                if decides {
                    return Ok(value);
                }
                args.push(value);
            }
            args.extend(piped);
            let bytes = args.iter().map(Data::bytes).sum::<usize>();
            if bytes > VALUE_BYTES_MAX {
                return Err(format!("the arguments of {name} exceed {VALUE_BYTES_MAX} bytes"));
            }
            match name.as_str() {
                "query" => self.charge(COSTLY_BYTES)?,
                "reReplaceAll" | "match" => self.charge(COSTLY_BYTES + MATCHING * bytes)?,
                _ => {}
            }
            let value = call(name, args, self.scope)?;
            return self.bounded(value);
        }
        if !rest.is_empty() || piped.is_some() {
            return Err("can't give argument to non-function".to_owned());
        }
        self.term(first, dot)
    }

    fn term(&mut self, term: &Term, dot: &Data) -> Result<Data, String> {
        let value = self.term_value(term, dot)?;
        self.bounded(value)
    }

    fn term_value(&mut self, term: &Term, dot: &Data) -> Result<Data, String> {
        Ok(match term {
            Term::Field(path) => self.path(dot, path)?,
            Term::Variable(name, path) => {
                let found = self.variables.iter().rev().find_map(|frame| frame.get(name));
                let value = found.ok_or_else(|| format!("undefined variable \"${name}\""))?;
                self.path(value, path)?
            }
            Term::Function(_) => self.command(std::slice::from_ref(term), None, dot)?,
            Term::Text(text) => Data::Text(text.clone()),
            Term::Int(n) => Data::Int(*n),
            Term::Float(v) => Data::Float(*v),
            Term::Bool(b) => Data::Bool(*b),
            Term::Nil => Data::Nil,
            Term::Group(pipe, path) => {
                let value = self.pipe(pipe, dot)?;
                self.path(&value, path)?
            }
        })
    }

    fn path(&self, of: &Data, path: &[String]) -> Result<Data, String> {
        let mut at = of;
        for name in path {
            at = match at {
                Data::Map(map) => match (map.get(name), self.scope.missing) {
                    (Some(value), _) => value,
                    (None, Missing::Empty) => &EMPTY,
                    (None, Missing::Error) => {
                        return Err(format!("map has no entry for key {name:?}"));
                    }
                },
                Data::Record(fields) => fields
                    .iter()
                    .find(|(field, _)| *field == name.as_str())
                    .map(|(_, value)| value)
                    .ok_or_else(|| format!("can't evaluate field {name}"))?,
                Data::Nil => return Err(format!("nil data; no entry for key {name:?}")),
                _ => return Err(format!("can't evaluate field {name}")),
            };
        }
        Ok(at.clone())
    }
}
