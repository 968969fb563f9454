//! Nodes to text.

use super::functions::{call, is_function};
use super::parse::{Node, Pipe, Term};
use super::{Data, Missing, Scope, TemplateError, format};
use std::collections::BTreeMap;

/// Bytes a template may write.
const OUTPUT_MAX: usize = 1 << 20;

struct Run<'s> {
    scope: &'s Scope<'s>,
    out: String,
    /// Innermost variables last.
    variables: Vec<BTreeMap<String, Data>>,
}

pub(super) fn run(nodes: &[Node], scope: &Scope<'_>) -> Result<String, TemplateError> {
    let mut variables = scope.variables.clone();
    variables.insert(String::new(), scope.root.clone());
    let mut run = Run { scope, out: String::new(), variables: vec![variables] };
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
            return call(name, args, self.scope.query);
        }
        if !rest.is_empty() || piped.is_some() {
            return Err("can't give argument to a value that is no function".to_owned());
        }
        self.term(first, dot)
    }

    fn term(&mut self, term: &Term, dot: &Data) -> Result<Data, String> {
        Ok(match term {
            Term::Field(path) => self.path(dot, path)?,
            Term::Variable(name, path) => {
                let found = self.variables.iter().rev().find_map(|frame| frame.get(name)).cloned();
                let value = found.ok_or_else(|| format!("undefined variable \"${name}\""))?;
                self.path(&value, path)?
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
        let mut at = of.clone();
        for name in path {
            at = match &at {
                Data::Map(map) => match (map.get(name), self.scope.missing) {
                    (Some(value), _) => value.clone(),
                    (None, Missing::Empty) => Data::Text(String::new()),
                    (None, Missing::Error) => {
                        return Err(format!("map has no entry for key {name:?}"));
                    }
                },
                Data::Nil => return Err(format!("nil pointer evaluating field {name}")),
                _ => return Err(format!("can't evaluate field {name}")),
            };
        }
        Ok(at)
    }
}
