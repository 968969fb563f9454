//! Functions that work on labels.

use super::QueryError;
use super::eval::{Data, Evaluator, Merge, Series};
use crate::ast::{Expr, Span};
use crate::labels::{Labels, METRIC_NAME, is_valid_label_name, quote};
use crate::matcher::anchored_within;
use std::cmp::Ordering;

/// Bytes a label value made by a query may have: nested calls can double it each time.
const LABEL_BYTES_MAX: usize = 64 << 10;
/// Bytes that count as one held sample.
const SAMPLE_BYTES: usize = 16;
/// Compiled size a pattern may have.
const REGEX_BYTES_MAX: usize = 2 << 20;

impl Evaluator<'_> {
    pub(super) fn label_replace(&mut self, args: &[Expr]) -> Result<Data, QueryError> {
        let target = Self::literal(&args[1])?;
        let replacement = go_template(&Self::literal(&args[2])?);
        let source = Self::literal(&args[3])?;
        let pattern = Self::literal(&args[4])?;
        let mut left = REGEX_BYTES_MAX;
        let regex = anchored_within(&pattern, &mut left).map_err(|_| {
            QueryError::Execution(format!(
                "invalid regular expression in label_replace(): {pattern}"
            ))
        })?;
        if !is_valid_label_name(&target) {
            let reason = format!("invalid destination label name in label_replace(): {target}");
            return Err(QueryError::Execution(reason));
        }
        self.work_on(REGEX_BYTES_MAX - left)?;
        let series = self.vector(&args[0])?;
        let references = replacement.matches('$').count();
        self.relabel(series, &target, |labels| {
            let value = labels.get(&source);
            let Some(captures) = regex.captures(value) else { return Ok(None) };
            let most = replacement.len().saturating_add(value.len().saturating_mul(references));
            check_length(most)?;
            let mut new = String::new();
            captures.expand(&replacement, &mut new);
            Ok(Some(new))
        })
    }

    pub(super) fn label_join(&mut self, args: &[Expr]) -> Result<Data, QueryError> {
        let target = Self::literal(&args[1])?;
        let separator = Self::literal(&args[2])?;
        let mut sources = Vec::new();
        for arg in args.iter().skip(3) {
            let source = Self::literal(arg)?;
            if !is_valid_label_name(&source) {
                let reason = format!("invalid source label name in label_join(): {source}");
                return Err(QueryError::Execution(reason));
            }
            sources.push(source);
        }
        if !is_valid_label_name(&target) {
            let reason = format!("invalid destination label name in label_join(): {target}");
            return Err(QueryError::Execution(reason));
        }
        let series = self.vector(&args[0])?;
        self.relabel(series, &target, |labels| {
            let values: Vec<&str> = sources.iter().map(|s| labels.get(s)).collect();
            let separators = separator.len().saturating_mul(values.len().saturating_sub(1));
            check_length(separators + values.iter().map(|v| v.len()).sum::<usize>())?;
            Ok(Some(values.join(&separator)))
        })
    }

    fn relabel(
        &mut self,
        series: Vec<Series>,
        target: &str,
        value: impl Fn(&Labels) -> Result<Option<String>, QueryError>,
    ) -> Result<Data, QueryError> {
        let mut merge = Merge::default();
        for mut one in series {
            if let Some(value) = value(&one.labels)? {
                self.charge(value.len() / SAMPLE_BYTES)?;
                one.labels = one.labels.with(target, &value);
                if target == METRIC_NAME {
                    one.drop_name = false;
                }
            }
            merge.add(one)?;
        }
        Ok(Data::Vector(merge.finish()))
    }

    pub(super) fn sort_by_label(
        &mut self,
        name: &str,
        args: &[Expr],
        span: Span,
    ) -> Result<Data, QueryError> {
        let mut labels = Vec::new();
        for arg in args.iter().skip(1) {
            let label = Self::literal(arg)?;
            if !is_valid_label_name(&label) {
                let reason = format!("invalid label name {}", quote(&label));
                return Err(QueryError::Execution(reason));
            }
            labels.push(label);
        }
        let mut series = self.vector(&args[0])?;
        if self.steps.count() == 1 {
            let descending = name == "sort_by_label_desc";
            series.sort_by(|a, b| {
                let order = by_labels(&a.labels, &b.labels, &labels);
                if descending { order.reverse() } else { order }
            });
        }
        self.note_sort(&args[0], span);
        Ok(Data::Vector(series))
    }
}

fn check_length(bytes: usize) -> Result<(), QueryError> {
    if bytes <= LABEL_BYTES_MAX {
        return Ok(());
    }
    let reason = format!("a label value would have more than {LABEL_BYTES_MAX} bytes");
    Err(QueryError::Execution(reason))
}

fn by_labels(a: &Labels, b: &Labels, names: &[String]) -> Ordering {
    names
        .iter()
        .map(|name| natural(a.get(name), b.get(name)))
        .find(|order| *order != Ordering::Equal)
        // If all given labels are equal, the whole label sets decide.
        .unwrap_or_else(|| a.cmp(b))
}

/// Natural order: runs of digits compare as numbers.
fn natural(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a, b);
    loop {
        let (x, y) = match (a.chars().next(), b.chars().next()) {
            (None, None) => return Ordering::Equal,
            (None, Some(_)) => return Ordering::Less,
            (Some(_), None) => return Ordering::Greater,
            (Some(x), Some(y)) => (x, y),
        };
        if x.is_ascii_digit() && y.is_ascii_digit() {
            let (na, rest_a) = digits(a);
            let (nb, rest_b) = digits(b);
            let (ta, tb) = (na.trim_start_matches('0'), nb.trim_start_matches('0'));
            let order = ta.len().cmp(&tb.len()).then_with(|| ta.cmp(tb));
            let order = order.then_with(|| na.len().cmp(&nb.len()));
            if order != Ordering::Equal {
                return order;
            }
            (a, b) = (rest_a, rest_b);
            continue;
        }
        if x != y {
            return x.cmp(&y);
        }
        a = a.get(x.len_utf8()..).unwrap_or_default();
        b = b.get(y.len_utf8()..).unwrap_or_default();
    }
}

fn digits(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text.split_at_checked(end).unwrap_or((text, ""))
}

/// `$1` and `${name}` as Go reads them: `$1x` names the group `1x`, a lone `$` stays.
fn go_template(text: &str) -> String {
    // The regex crate reads templates the same way, except that it wants `$$` for a `$` that starts
    // no name; Go keeps `$$` as one `$` as well, so nothing is left to translate.
    text.to_owned()
}
