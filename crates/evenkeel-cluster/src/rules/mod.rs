//! Rules of custom kinds: `x-kubernetes-validations`, in CEL.
//!
//! ```text
//! a definition is written:  schema -> RuleTree::compile -> parse, check   (or it is refused)
//! an object is written:     RuleTree::check -> eval, with a limit of steps
//! ```
//! A kind without rules has no tree and costs nothing. What cannot be compiled, or uses something
//! that is not here, refuses the definition by name; no rule is ever ignored.
//!
//! **Source**: `apiextensions-apiserver/pkg/apiserver/schema/cel`, for order, words and paths.
//!
//! Not here: the estimate of what a rule may cost at most (steps are counted when it runs), and
//! the functions in `functions::ABSENT`.

mod check;
mod eval;
mod functions;
mod lexer;
mod machine;
mod methods;
mod parse;
mod value;

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::{
    error::Cause,
    value::{list_at, text},
};
use check::{Check, Type};
use eval::map_keys;
use lexer::Fault;
use machine::{Eval, Stop};
use parse::Ast;
use value::Cel;

/// Steps that all rules for one object may take: some tens of milliseconds. The API server's own
/// limit allows a second.
const STEPS_MAX: usize = 1_000_000;
/// Depth of a schema beyond which rules are refused.
const DEPTH_MAX: usize = 64;
/// Longest message that an expression may give, as in Kubernetes.
const MESSAGE_BYTES_MAX: usize = 5 * 1024;

/// The rules of a schema and of what is below it.
#[derive(Default)]
pub(crate) struct RuleTree {
    rules: Vec<Rule>,
    properties: BTreeMap<String, RuleTree>,
    items: Option<Box<RuleTree>>,
    others: Option<Box<RuleTree>>,
}

struct Rule {
    text: String,
    ast: Ast,
    message: String,
    /// Gives the message.
    message_ast: Option<Ast>,
    reason: &'static str,
    /// Such as `.min`, behind the path of the value.
    path: String,
    uses_old: bool,
    /// `oldSelf` is there even when there was nothing before.
    optional_old: bool,
}

/// Reasons that a rule may give; the first one is that of a rule without.
const REASONS: [&str; 4] =
    ["FieldValueInvalid", "FieldValueForbidden", "FieldValueRequired", "FieldValueDuplicate"];

/// What a place of a schema is for those below it.
#[derive(Clone, Copy)]
struct Place {
    is_root: bool,
    depth: usize,
    /// Whether a value there can be told from the others, so that it has one before.
    is_correlatable: bool,
}

impl RuleTree {
    /// Compiles the rules of a schema; `None` when it has none.
    pub(crate) fn compile(schema: &Value, path: &str, causes: &mut Vec<Cause>) -> Option<Self> {
        let place = Place { is_root: true, depth: 0, is_correlatable: true };
        compile(schema, path, place, causes)
    }

    /// Everything in which an object breaks the rules, `old` being what was there before. What was
    /// wrong before and is the same is told as a warning.
    pub(crate) fn check(
        &self,
        schema: &Value,
        body: &Value,
        old: Option<&Value>,
        warnings: &mut Vec<String>,
    ) -> Vec<Cause> {
        let mut run = Run { steps_left: STEPS_MAX, is_over: false, causes: Vec::new(), warnings };
        run.walk(self, (schema, body, old), "");
        run.causes
    }
}

fn flag(value: &Value, name: &str) -> bool {
    value.get(name) == Some(&Value::Bool(true))
}

fn compile(schema: &Value, path: &str, place: Place, causes: &mut Vec<Cause>) -> Option<RuleTree> {
    if place.depth > DEPTH_MAX || !schema.is_object() {
        return None;
    }
    let mut tree = RuleTree::default();
    for (index, rule) in list_at(schema, "/x-kubernetes-validations").iter().enumerate() {
        let path = format!("{path}.x-kubernetes-validations[{index}]");
        tree.rules.extend(compile_rule(rule, schema, &path, place, causes));
    }
    let below = Place { is_root: false, depth: place.depth + 1, ..place };
    for (name, inner) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        let path = format!("{path}.properties[{name}]");
        if let Some(inner) = compile(inner, &path, below, causes) {
            tree.properties.insert(name.clone(), inner);
        }
    }
    if let Some(inner) = schema.get("additionalProperties") {
        let path = format!("{path}.additionalProperties");
        tree.others = compile(inner, &path, below, causes).map(Box::new);
    }
    if let Some(inner) = schema.get("items") {
        let is_correlatable =
            place.is_correlatable && text(schema, "x-kubernetes-list-type") == "map";
        let below = Place { is_correlatable, ..below };
        tree.items = compile(inner, &format!("{path}.items"), below, causes).map(Box::new);
    }
    let is_empty = tree.rules.is_empty()
        && tree.properties.is_empty()
        && tree.items.is_none()
        && tree.others.is_none();
    (!is_empty).then_some(tree)
}

fn cause(reason: &'static str, field: String, message: String) -> Cause {
    Cause { reason, field, message }
}

fn compile_rule(
    rule: &Value,
    schema: &Value,
    path: &str,
    place: Place,
    causes: &mut Vec<Cause>,
) -> Option<Rule> {
    let source = text(rule, "rule").trim();
    let mut refuse = |field: &str, shown: &str, problem: String| {
        let message = format!("Invalid value: {shown:?}: {problem}");
        causes.push(cause("FieldValueInvalid", format!("{path}.{field}"), message));
    };
    if source.is_empty() {
        let field = format!("{path}.rule");
        causes.push(cause(
            "FieldValueRequired",
            field,
            "Required value: rule is not specified".to_owned(),
        ));
        return None;
    }
    let reason = text(rule, "reason");
    let Some(reason) = REASONS.into_iter().find(|known| *known == reason || reason.is_empty())
    else {
        refuse("reason", reason, "is not a reason that a rule may have".to_owned());
        return None;
    };
    let optional_old = flag(rule, "optionalOldSelf");
    let (ast, uses_old) = match compiled(source, schema, place.is_root, optional_old) {
        Ok((ast, kind, uses_old)) if kind.is_bool() => (ast, uses_old),
        Ok(_) => {
            refuse("rule", source, "must evaluate to a bool".to_owned());
            return None;
        }
        Err(fault) => {
            refuse("rule", source, fault_text(source, &fault));
            return None;
        }
    };
    if uses_old && !place.is_correlatable {
        let problem = "oldSelf cannot be used on the uncorrelatable portion of the schema";
        refuse("rule", source, problem.to_owned());
        return None;
    }
    let message_source = text(rule, "messageExpression").trim();
    let mut message_ast = None;
    if !message_source.is_empty() {
        match compiled(message_source, schema, place.is_root, optional_old) {
            Ok((ast, kind, _)) if kind.is_text() => message_ast = Some(ast),
            Ok(_) => {
                refuse("messageExpression", message_source, "must evaluate to a string".to_owned());
                return None;
            }
            Err(fault) => {
                let problem = format!("messageExpression {}", fault_text(message_source, &fault));
                refuse("messageExpression", message_source, problem);
                return None;
            }
        }
    }
    let field_path = text(rule, "fieldPath");
    if !field_path.is_empty() && !leads_somewhere(schema, field_path) {
        refuse("fieldPath", field_path, "fieldPath must be a valid path".to_owned());
        return None;
    }
    Some(Rule {
        text: source.to_owned(),
        ast,
        message: text(rule, "message").trim().to_owned(),
        message_ast,
        reason,
        path: field_path.to_owned(),
        uses_old,
        optional_old,
    })
}

/// Whether `.a.b` or `.a['b']` is a field of the schema.
fn leads_somewhere(schema: &Value, path: &str) -> bool {
    let plain = path.replace("['", ".").replace("']", "");
    let Some(steps) = plain.strip_prefix('.') else { return false };
    let mut place = Some(schema);
    for step in steps.split('.') {
        let step = value::unescape(step);
        place = place.and_then(|schema| {
            let named = schema.get("properties").and_then(|all| all.get(&step));
            named.or_else(|| schema.get("additionalProperties"))
        });
    }
    place.is_some()
}

fn compiled<'s>(
    source: &str,
    schema: &'s Value,
    is_root: bool,
    optional_old: bool,
) -> Result<(Ast, Type<'s>, bool), Fault> {
    let ast = parse::parse(source)?;
    let own = if is_root { Type::Root(schema) } else { Type::of(schema) };
    let old = if optional_old { Type::Optional(Box::new(own.clone())) } else { own.clone() };
    let mut check = Check { names: vec![("self", own), ("oldSelf", old)], uses_old: false };
    let kind = check.kind(&ast)?;
    let uses_old = check.uses_old;
    Ok((ast, kind, uses_old))
}

/// As `cel-go` shows where an expression is wrong.
fn fault_text(source: &str, fault: &Fault) -> String {
    let before: String = source.chars().take(fault.at).collect();
    let line = before.matches('\n').count();
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count();
    let shown = source.lines().nth(line).unwrap_or_default();
    format!(
        "compilation failed: ERROR: <input>:{}:{}: {}\n | {shown}\n | {}^",
        line + 1,
        column + 1,
        fault.problem,
        ".".repeat(column)
    )
}

/// One object under its rules.
struct Run<'w> {
    steps_left: usize,
    /// Nothing more is looked at.
    is_over: bool,
    causes: Vec<Cause>,
    warnings: &'w mut Vec<String>,
}

/// A schema, what is there, and what was there.
type Pair<'a> = (&'a Value, &'a Value, Option<&'a Value>);

impl Run<'_> {
    fn walk(&mut self, tree: &RuleTree, (schema, body, old): Pair<'_>, path: &str) {
        if body.is_null() || self.is_over {
            return;
        }
        let old = old.filter(|old| !old.is_null());
        for rule in &tree.rules {
            self.rule(rule, (schema, body, old), path);
            if self.is_over {
                return;
            }
        }
        match body {
            Value::Object(fields) => self.fields(tree, (schema, fields, old), path),
            Value::Array(items) => {
                let Some(inner) = &tree.items else { return };
                let below = schema.get("items").unwrap_or(&Value::Null);
                let is_map = text(schema, "x-kubernetes-list-type") == "map";
                let keys = map_keys(schema);
                for (index, item) in items.iter().enumerate() {
                    let before = old.filter(|_| is_map).and_then(Value::as_array);
                    let before = before.and_then(|all| {
                        let same =
                            |old: &&Value| keys.iter().all(|key| old.get(key) == item.get(key));
                        all.iter().find(same)
                    });
                    self.walk(inner, (below, item, before), &format!("{path}[{index}]"));
                }
            }
            _ => {}
        }
    }

    fn fields(
        &mut self,
        tree: &RuleTree,
        (schema, fields, old): (&Value, &Map<String, Value>, Option<&Value>),
        path: &str,
    ) {
        for (name, value) in fields {
            let (inner, below, at) = if let Some(inner) = tree.properties.get(name) {
                let at = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                (inner, value::property(schema, name), at)
            } else if let Some(inner) = &tree.others {
                (&**inner, value::property(schema, name), format!("{path}[{name}]"))
            } else {
                continue;
            };
            self.walk(inner, (below, value, old.and_then(|old| old.get(name))), &at);
        }
    }

    fn rule(&mut self, rule: &Rule, (schema, body, old): Pair<'_>, path: &str) {
        if rule.uses_old && old.is_none() && !rule.optional_old {
            return;
        }
        let own = Cel::of(body, schema);
        let before = old.map(|old| Cel::of(old, schema));
        let before = match (rule.optional_old, before) {
            (true, before) => Some(Cel::Optional(before.map(Box::new))),
            (false, before) => before,
        };
        let mut names = vec![("self", own)];
        names.extend(before.map(|before| ("oldSelf", before)));
        let mut eval = Eval { names, steps_left: self.steps_left, patterns: BTreeMap::default() };
        let outcome = eval.value(&rule.ast);
        let told = match outcome {
            Ok(Cel::Bool(true)) => None,
            Ok(_) => {
                let message = rule.message_ast.as_ref().and_then(|ast| eval.value(ast).ok());
                let message = match message {
                    Some(Cel::Text(said)) => said.trim().to_owned(),
                    _ => String::new(),
                };
                let fine = !message.is_empty()
                    && message.len() <= MESSAGE_BYTES_MAX
                    && !message.contains('\n');
                Some((rule.reason, if fine { message } else { rule.words() }))
            }
            Err(Stop::Cost) => {
                self.is_over = true;
                let problem = format!(
                    "'operation cancelled: actual cost limit exceeded': no further validation \
                     rules will be run due to call cost exceeds limit for rule: {}",
                    rule.text
                );
                Some(("FieldValueInvalid", problem))
            }
            Err(Stop::Failed(problem)) => {
                let words = rule.words();
                let problem = if problem.starts_with("no such overload") {
                    format!(
                        "'{problem}': call arguments did not match a supported operator, function \
                         or macro signature for rule: {words}"
                    )
                } else {
                    format!("{problem} evaluating rule: {words}")
                };
                Some(("FieldValueInvalid", problem))
            }
        };
        self.steps_left = eval.steps_left;
        let Some((reason, problem)) = told else { return };
        let kind = text(schema, "type");
        let message = match reason {
            "FieldValueForbidden" => format!("Forbidden: {problem}"),
            "FieldValueRequired" => format!("Required value: {problem}"),
            "FieldValueDuplicate" => format!("Duplicate value: {kind:?}: {problem}"),
            _ => format!("Invalid value: {kind:?}: {problem}"),
        };
        let field = format!("{path}{}", rule.path);
        let field = field.trim_start_matches('.');
        let field = if field.is_empty() { "<nil>" } else { field };
        if !rule.uses_old && !self.is_over && old == Some(body) {
            self.warnings.push(format!("{field}: {message}"));
        } else {
            self.causes.push(cause(reason, field.to_owned(), message));
        }
    }
}

impl Rule {
    /// What is said when it is broken.
    fn words(&self) -> String {
        if self.message.is_empty() {
            format!("failed rule: {}", self.text)
        } else {
            self.message.clone()
        }
    }
}

#[cfg(test)]
mod tests;
