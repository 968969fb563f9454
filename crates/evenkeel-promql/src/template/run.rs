//! Nodes to text.

use super::functions::{call, is_function};
use super::parse::{Node, Pipe, Term};
use super::{Data, Missing, Scope, TemplateError, format};
use std::collections::BTreeMap;

/// Bytes a template may write.
pub(super) const OUTPUT_MAX: usize = 1 << 20;
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

/// What a missing key stands for where that is no error.
static EMPTY: Data = Data::Text(String::new());

struct Run<'s> {
    scope: &'s Scope<'s>,
    out: String,
    /// Innermost variables last.
    variables: Vec<BTreeMap<String, Data>>,
    /// Bytes handled so far.
    work: usize,
}

pub(super) fn run(nodes: &[Node], scope: &Scope<'_>) -> Result<String, TemplateError> {
    let mut variables = scope.variables.clone();
    variables.insert(String::new(), scope.root.clone());
    let mut run = Run { scope, out: String::new(), variables: vec![variables], work: 0 };
    run.block(nodes, &scope.root)?;
    Ok(run.out)
}

impl Run<'_> {
    fn block(&mut self, nodes: &[Node], dot: &Data) -> Result<(), TemplateError> {
        self.variables.push(BTreeMap::new());
        let outcome = nodes.iter().try_for_each(|node| self.node(node, dot));
        self.variables.pop();
        outcome
    }

    fn node(&mut self, node: &Node, dot: &Data) -> Result<(), TemplateError> {
        let fail = |line: usize| move |reason: String| TemplateError { line, reason };
        self.charge(STEP_BYTES).map_err(fail(node.line()))?;
        match node {
            Node::Text(text) => self.write(text, 0),
            Node::Print { line, pipe } => {
                let value = self.pipe(pipe, dot).map_err(fail(*line))?;
                if pipe.assign.is_empty() {
                    self.write(&format::print(&value), *line)?;
                }
                Ok(())
            }
            Node::If { line, pipe, then, otherwise } => {
                let value = self.pipe(pipe, dot).map_err(fail(*line))?;
                self.block(if value.is_true() { then } else { otherwise }, dot)
            }
            Node::With { line, pipe, then, otherwise } => {
                let value = self.pipe(pipe, dot).map_err(fail(*line))?;
                if value.is_true() { self.block(then, &value) } else { self.block(otherwise, dot) }
            }
            Node::Range { line, pipe, body, otherwise } => {
                let value = self.pipe(pipe, dot).map_err(fail(*line))?;
                self.range(*line, pipe, value, body)?.map_or_else(|| self.block(otherwise, dot), Ok)
            }
        }
    }

    /// Runs the body for each item; `None` if there was none.
    fn range(
        &mut self,
        line: usize,
        pipe: &Pipe,
        value: Data,
        body: &[Node],
    ) -> Result<Option<()>, TemplateError> {
        // Each item is copied into its variable.
        self.charge(value.bytes()).map_err(|reason| TemplateError { line, reason })?;
        let items: Vec<(Data, Data)> = match value {
            Data::List(list) => {
                list.into_iter().enumerate().map(|(i, v)| (Data::Int(i as i64), v)).collect()
            }
            Data::Map(map) => map.into_iter().map(|(k, v)| (Data::Text(k), v)).collect(),
            Data::Nil => Vec::new(),
            other => {
                let reason = format!("range can't iterate over {}", format::print(&other));
                return Err(TemplateError { line, reason });
            }
        };
        if items.is_empty() {
            return Ok(None);
        }
        for (key, item) in items {
            self.charge(STEP_BYTES).map_err(|reason| TemplateError { line, reason })?;
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
            let outcome = self.block(body, &item);
            self.variables.pop();
            outcome?;
        }
        Ok(Some(()))
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
            self.assign(name, &value, pipe.declares);
        }
        Ok(value)
    }

    fn assign(&mut self, name: &str, value: &Data, declares: bool) {
        let frames = &mut self.variables;
        let at =
            if declares { None } else { frames.iter().rposition(|frame| frame.contains_key(name)) };
        let at = at.unwrap_or(frames.len().saturating_sub(1));
        if let Some(frame) = frames.get_mut(at) {
            frame.insert(name.to_owned(), value.clone());
        }
    }

    fn command(&mut self, terms: &[Term], piped: Option<Data>, dot: &Data) -> Result<Data, String> {
        let Some((first, rest)) = terms.split_first() else { return Ok(Data::Nil) };
        if let Term::Function(name) = first {
            if !is_function(name) {
                return Err(format!("function {name:?} not defined"));
            }
            let mut args = Vec::with_capacity(rest.len() + 1);
            for term in rest {
                args.push(self.term(term, dot)?);
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
            let value = call(name, args, self.scope.query)?;
            return self.bounded(value);
        }
        if !rest.is_empty() || piped.is_some() {
            return Err("can't give argument to a value that is no function".to_owned());
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
                Data::Nil => return Err(format!("nil pointer evaluating field {name}")),
                _ => return Err(format!("can't evaluate field {name}")),
            };
        }
        Ok(at.clone())
    }
}
