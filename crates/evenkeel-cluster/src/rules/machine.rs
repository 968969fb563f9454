//! What one evaluation has and counts, and when two values are equal.

use std::{cmp::Ordering, collections::BTreeMap};

use regex::{Regex, RegexBuilder};

use super::value::{Cel, Key, List, property};

/// Why an expression has no value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stop {
    /// The expression makes no sense for this value.
    Failed(String),
    /// It took too long.
    Cost,
}

/// Memory of one compiled regular expression; those of schemas need a few kilobytes.
const PATTERN_BYTES_MAX: usize = 1 << 20;
/// What it costs to compile a regular expression, beside its length.
const PATTERN_STEPS: usize = 100;

pub(super) type Outcome<'a> = Result<Cel<'a>, Stop>;

pub(super) fn failed<T>(problem: impl Into<String>) -> Result<T, Stop> {
    Err(Stop::Failed(problem.into()))
}

/// One evaluation: the names in scope, and the steps that are left.
pub(super) struct Eval<'a, 'b> {
    pub(super) names: Vec<(&'b str, Cel<'a>)>,
    pub(super) steps_left: usize,
    /// Compiled already.
    pub(super) patterns: BTreeMap<String, Regex>,
}

impl<'a> Eval<'a, '_> {
    /// Counts what is about to be done.
    pub(super) fn spend(&mut self, steps: usize) -> Result<(), Stop> {
        self.steps_left = self.steps_left.checked_sub(steps).ok_or(Stop::Cost)?;
        Ok(())
    }

    pub(super) fn pattern(&mut self, pattern: &str) -> Result<&Regex, Stop> {
        self.spend(pattern.len())?;
        if !self.patterns.contains_key(pattern) {
            // Far more than looking: what is compiled once more costs accordingly.
            self.spend(PATTERN_STEPS)?;
            let compiled = regex(pattern).map_err(Stop::Failed)?;
            self.patterns.insert(pattern.to_owned(), compiled);
        }
        self.patterns.get(pattern).ok_or(Stop::Cost)
    }

    pub(super) fn equal(&mut self, a: &Cel<'a>, b: &Cel<'a>) -> Result<bool, Stop> {
        self.spend(1)?;
        Ok(match (a, b) {
            (Cel::Null, Cel::Null) => true,
            (Cel::Bool(a), Cel::Bool(b)) => a == b,
            (Cel::Text(a), Cel::Text(b)) => {
                self.spend(a.len().min(b.len()) / 10)?;
                a == b
            }
            (Cel::Bytes(a), Cel::Bytes(b)) => {
                self.spend(a.len().min(b.len()) / 10)?;
                a == b
            }
            (Cel::Type(a), Cel::Type(b)) => a == b,
            (Cel::Url(a), Cel::Url(b)) => a == b,
            (Cel::List(a), Cel::List(b)) => {
                if a.len() != b.len() {
                    return Ok(false);
                }
                if a.is_unordered() || b.is_unordered() {
                    return self.same_elements(a, b);
                }
                for (a, b) in a.iter().zip(b.iter()) {
                    if !self.equal(&a, &b)? {
                        return Ok(false);
                    }
                }
                true
            }
            (Cel::Object(..) | Cel::Map(_), Cel::Object(..) | Cel::Map(_)) => {
                let (a, b) = (entries(a), entries(b));
                if a.len() != b.len() {
                    return Ok(false);
                }
                for (key, a) in &a {
                    let Some(b) = b.get(key) else { return Ok(false) };
                    if !self.equal(a, b)? {
                        return Ok(false);
                    }
                }
                true
            }
            (Cel::Optional(a), Cel::Optional(b)) => match (a, b) {
                (None, None) => true,
                (Some(a), Some(b)) => self.equal(a, b)?,
                _ => false,
            },
            _ => compare(a, b) == Ok(Some(Ordering::Equal)),
        })
    }

    fn same_elements(&mut self, a: &List<'a>, b: &List<'a>) -> Result<bool, Stop> {
        for item in a.iter() {
            let mut found = false;
            for other in b.iter() {
                found |= self.equal(&item, &other)?;
            }
            if !found {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

fn entries<'a>(value: &Cel<'a>) -> BTreeMap<Key, Cel<'a>> {
    match value {
        Cel::Map(entries) => (**entries).clone(),
        Cel::Object(fields, schema) => fields
            .iter()
            .map(|(name, value)| {
                let below = property(schema, name);
                (Key::Text(name.as_str().into()), Cel::of(value, below))
            })
            .collect(),
        _ => BTreeMap::new(),
    }
}

/// A regular expression, compiled.
pub(super) fn regex(pattern: &str) -> Result<Regex, String> {
    let compiled = RegexBuilder::new(pattern).size_limit(PATTERN_BYTES_MAX).build();
    compiled.map_err(|error| format!("error parsing regexp: {error}"))
}

/// Two values that have no order.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unordered;

/// How two values are ordered; `None` when one of them is not a number.
#[expect(clippy::cast_precision_loss, reason = "as CEL compares numbers of different types")]
pub(super) fn compare(a: &Cel<'_>, b: &Cel<'_>) -> Result<Option<Ordering>, Unordered> {
    let whole = |value: &Cel<'_>| match value {
        Cel::Int(value) => Some(i128::from(*value)),
        Cel::Uint(value) => Some(i128::from(*value)),
        _ => None,
    };
    if let (Some(a), Some(b)) = (whole(a), whole(b)) {
        return Ok(Some(a.cmp(&b)));
    }
    let number = |value: &Cel<'_>| match value {
        Cel::Double(value) => Some(*value),
        other => whole(other).map(|value| value as f64),
    };
    if let (Some(a), Some(b)) = (number(a), number(b)) {
        return Ok(a.partial_cmp(&b));
    }
    match (a, b) {
        (Cel::Bool(a), Cel::Bool(b)) => Ok(Some(a.cmp(b))),
        (Cel::Text(a), Cel::Text(b)) => Ok(Some(a.cmp(b))),
        (Cel::Bytes(a), Cel::Bytes(b)) => Ok(Some(a.cmp(b))),
        (Cel::Duration(a), Cel::Duration(b)) | (Cel::Quantity(a), Cel::Quantity(b)) => {
            Ok(Some(a.cmp(b)))
        }
        (Cel::Time(a), Cel::Time(b)) => Ok(Some(a.cmp(b))),
        _ => Err(Unordered),
    }
}

pub(super) fn no_overload<'a>() -> Outcome<'a> {
    failed("no such overload")
}

pub(super) fn int<'a>(number: usize) -> Cel<'a> {
    Cel::Int(i64::try_from(number).unwrap_or(i64::MAX))
}
