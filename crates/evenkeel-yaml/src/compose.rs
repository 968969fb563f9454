//! The parser's events to a tree.

use std::collections::{BTreeMap, BTreeSet};

use granit_parser::{ErrorKind, Event, Parser, ScalarStyle, ScanError, StrInput, Tag};

use crate::error::{Error, step};
use crate::node::{Content, Entry, Node, Scalar};
use crate::scalar::{Resolved, resolve};
use crate::split::Document;

/// Deepest nesting that is read. A CRD's schema of a Pod needs about 40.
const DEPTH_MAX: usize = 128;
/// Most values in one document: 100,000 SLOs of a usual size.
const NODES_MAX: usize = 8_000_000;
/// How much aliases may repeat; people repeat a label set or two. Unit: values, and a further one
/// for every [`ALIAS_TEXT`] bytes of text.
const ALIASES_MAX: usize = 50_000;
const ALIAS_TEXT: usize = 64;
/// Keys of a mapping that are compared one by one; more are looked up in a set.
const FEW_KEYS: usize = 16;

impl Node {
    /// Reads a text of one document. A text without any is null.
    ///
    /// **Errors**: not YAML, a key given twice, more than one document, or larger than a document
    /// may be.
    pub fn parse(text: &str) -> Result<Self, Error> {
        compose(text, 1)
    }
}

impl Document<'_> {
    /// Reads the document; lines count from the start of the file.
    ///
    /// **Errors**: as [`Node::parse`].
    pub fn parse(&self) -> Result<Node, Error> {
        compose(self.text, self.line)
    }
}

/// Reads the only document of `text`, whose first line is `first_line` of its file.
fn compose(text: &str, first_line: usize) -> Result<Node, Error> {
    let options = granit_parser::options! {
        emit_comments: false,
        // The next two as libyaml, and so go-yaml, does it.
        block_scalar_eof_without_line_feed: true,
        bom_inside_document_as_content: true,
        flow_nesting_limit: DEPTH_MAX,
        block_nesting_limit: DEPTH_MAX,
    };
    let mut composer = Composer {
        events: Parser::new_from_str_with_options(text, options),
        first_line,
        anchors: BTreeMap::new(),
        nodes: 0,
        aliased: 0,
        rendered: text.contains("{{"),
    };
    composer.document()
}

struct Composer<'t> {
    events: Parser<'t, StrInput<'t>>,
    first_line: usize,
    /// Nodes with an anchor, and what an alias of each costs.
    anchors: BTreeMap<usize, (Node, usize)>,
    nodes: usize,
    aliased: usize,
    /// Whether the text has template actions, which may be what breaks it.
    rendered: bool,
}

type Next<'t> = (Event<'t>, usize);

impl<'t> Composer<'t> {
    fn next(&mut self) -> Result<Next<'t>, Error> {
        match self.events.next() {
            None => Ok((Event::StreamEnd, self.first_line)),
            Some(Ok((event, span))) => Ok((event, self.line(span.start.line()))),
            Some(Err(error)) => {
                let line = self.line(error.marker().line());
                Err(Error::new(line, explained(&error)))
            }
        }
    }

    fn line(&self, line: usize) -> usize {
        self.first_line + line.saturating_sub(1)
    }

    fn document(&mut self) -> Result<Node, Error> {
        let nothing = Scalar { text: String::new(), plain: true };
        let mut found = Node { line: self.first_line, content: Content::Scalar(nothing) };
        let mut documents = 0;
        loop {
            let (event, line) = self.next()?;
            match event {
                Event::StreamEnd => return Ok(found),
                Event::StreamStart | Event::DocumentEnd => {}
                Event::DocumentStart(..) if documents == 0 => documents = 1,
                Event::DocumentStart(..) => {
                    let problem = "a second document begins here; give it a file of its own";
                    return Err(Error::new(line, problem));
                }
                event => found = self.node(event, line, 0)?,
            }
        }
    }

    fn node(&mut self, event: Event<'t>, line: usize, depth: usize) -> Result<Node, Error> {
        if depth > DEPTH_MAX {
            return Err(Error::new(line, format!("nested deeper than {DEPTH_MAX} levels")));
        }
        self.nodes += 1;
        if self.nodes > NODES_MAX {
            return Err(Error::new(line, format!("more than {NODES_MAX} values in one document")));
        }
        let (content, anchor) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                let plain = style == ScalarStyle::Plain;
                let scalar = scalar(text.into_owned(), plain, tag.as_deref());
                let scalar = scalar.map_err(|problem| Error::new(line, problem))?;
                (Content::Scalar(scalar), anchor)
            }
            Event::SequenceStart(_, anchor, _) => (Content::List(self.list(depth)?), anchor),
            Event::MappingStart(_, anchor, _) => (Content::Map(self.map(depth)?), anchor),
            Event::Alias(id) => return self.alias(id, line),
            _ => return Err(Error::new(line, "a value was expected here")),
        };
        let node = Node { line, content };
        if anchor > 0 {
            let cost = cost(&node);
            self.nodes += cost;
            self.anchors.insert(anchor, (node.clone(), cost));
        }
        Ok(node)
    }

    fn alias(&mut self, id: usize, line: usize) -> Result<Node, Error> {
        let Some((node, cost)) = self.anchors.get(&id) else {
            return Err(Error::new(line, "the alias repeats a value that contains it"));
        };
        self.aliased += cost;
        if self.aliased > ALIASES_MAX {
            let problem = format!("aliases repeat more than {ALIASES_MAX} values");
            return Err(Error::new(line, problem));
        }
        Ok(Node { line, content: node.content.clone() })
    }

    fn list(&mut self, depth: usize) -> Result<Vec<Node>, Error> {
        let mut items = Vec::new();
        loop {
            let below = |error: Error| error.below(&format!("[{}]", items.len()));
            let (event, line) = self.next().map_err(below)?;
            if matches!(event, Event::SequenceEnd) {
                return Ok(items);
            }
            let item = self.node(event, line, depth + 1).map_err(below)?;
            items.push(item);
        }
    }

    fn map(&mut self, depth: usize) -> Result<Vec<Entry>, Error> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut merged: Vec<Node> = Vec::new();
        let mut names = Names::default();
        loop {
            let (event, key_line) = self.next()?;
            if matches!(event, Event::MappingEnd) {
                break;
            }
            let key = self.node(event, key_line, depth + 1)?;
            let Content::Scalar(key) = key.content else {
                let template = "; a template that was not rendered?";
                let hint = if self.rendered { template } else { "" };
                let kind = if key.items().is_empty() { "mapping" } else { "list" };
                return Err(Error::new(key_line, format!("a {kind} cannot be a key{hint}")));
            };
            let below = |error: Error| error.below(&step(&key.text));
            let (event, line) = self.next().map_err(below)?;
            let value = self.node(event, line, depth + 1).map_err(below)?;
            if key.plain && key.text == "<<" {
                merged.extend(merge(value, key_line)?);
                continue;
            }
            let Some(name) = key.json_key() else {
                return Err(Error::new(key_line, "a value has no key before its colon"));
            };
            if let Some(first_line) = names.add(name, key_line) {
                let problem = format!("is given twice, first in line {first_line}");
                return Err(below(Error::new(key_line, problem)));
            }
            entries.push(Entry { key, key_line, value });
        }
        for node in merged {
            let Content::Map(more) = node.content else { continue };
            for entry in more {
                let name = entry.key.json_key().unwrap_or_default();
                // Keys that are written out win over merged ones.
                if names.add(name, entry.key_line).is_none() {
                    entries.push(entry);
                }
            }
        }
        Ok(entries)
    }
}

/// The parser's problem as a message that says what to do.
fn explained(error: &ScanError) -> String {
    let known = match error.kind() {
        ErrorKind::ExpectedDocumentStart => {
            "this line does not belong to what is above it: it is indented less than the \
             first line, or has no key"
        }
        ErrorKind::ExpectedBlockMappingKey | ErrorKind::InvalidIndentation => {
            "a key was expected here; check the indentation"
        }
        ErrorKind::ExpectedBlockSequenceEntry => {
            "a list item (- ...) was expected here; check the indentation"
        }
        ErrorKind::SimpleKeyExpected | ErrorKind::InvalidSimpleKey => {
            "a colon and a blank are missing behind the key"
        }
        ErrorKind::MappingValueNotAllowed => {
            "a value cannot have a colon and a blank in it: put it in quotes, or check the \
             indentation"
        }
        ErrorKind::InvalidColonPlacement => {
            "a colon cannot stand here: a bracket above is not closed, or the value needs \
             quotes"
        }
        ErrorKind::TabInBlockIndentation
        | ErrorKind::TabInIndentation
        | ErrorKind::TabNotAllowed => "a tab is used for indentation; use blanks",
        ErrorKind::UnknownAnchor => "the alias stands for no anchor above it",
        ErrorKind::RecursionLimitExceeded => {
            return format!("nested deeper than {DEPTH_MAX} levels");
        }
        other => return other.to_string(),
    };
    known.to_owned()
}

/// The scalar with its tag carried out.
fn scalar(text: String, plain: bool, tag: Option<&Tag>) -> Result<Scalar, String> {
    let Some(tag) = tag else { return Ok(Scalar { text, plain }) };
    let name = tag.suffix_in_namespace("tag:yaml.org,2002:").unwrap_or_default();
    let resolved = resolve(&text);
    let fits = match &*name {
        "binary" => return Err("the tag !!binary is not read here".to_owned()),
        "null" => resolved == Resolved::Null,
        "bool" => matches!(resolved, Resolved::Bool(_)),
        "int" => matches!(resolved, Resolved::Int(_) | Resolved::Large(_)),
        "float" => matches!(resolved, Resolved::Int(_) | Resolved::Large(_) | Resolved::Float(_)),
        _ => return Ok(Scalar { text, plain: false }),
    };
    if fits { Ok(Scalar { text, plain: true }) } else { Err(format!("{text:?} is not a !!{name}")) }
}

/// What `<<` merges: a mapping, or a list of mappings of which the first wins.
fn merge(value: Node, line: usize) -> Result<Vec<Node>, Error> {
    let is_map = |node: &Node| matches!(node.content, Content::Map(_));
    match value.content {
        Content::Map(_) => Ok(vec![value]),
        Content::List(items) if items.iter().all(is_map) => Ok(items),
        _ => Err(Error::new(line, "<< needs a mapping, or a list of mappings")),
    }
}

/// The names of a mapping's keys, with their lines.
#[derive(Default)]
struct Names {
    few: Vec<(String, usize)>,
    many: BTreeSet<String>,
}

impl Names {
    /// Adds a name, or gives the line of the one that is there.
    fn add(&mut self, name: String, line: usize) -> Option<usize> {
        let is_known = if self.few.len() <= FEW_KEYS {
            self.few.iter().any(|(known, _)| *known == name)
        } else {
            if self.many.is_empty() {
                self.many = self.few.iter().map(|(known, _)| known.clone()).collect();
            }
            !self.many.insert(name.clone())
        };
        if is_known {
            return self.few.iter().find(|(known, _)| *known == name).map(|(_, line)| *line);
        }
        self.few.push((name, line));
        None
    }
}

fn cost(node: &Node) -> usize {
    match &node.content {
        Content::Scalar(scalar) => 1 + scalar.text.len() / ALIAS_TEXT,
        Content::List(items) => 1 + items.iter().map(cost).sum::<usize>(),
        Content::Map(entries) => {
            let of_entry = |entry: &Entry| 1 + cost(&entry.value);
            1 + entries.iter().map(of_entry).sum::<usize>()
        }
    }
}
