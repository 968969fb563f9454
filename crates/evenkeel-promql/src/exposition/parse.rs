//! The parser of both formats.

use super::line::{Bad, Cursor};
use super::{BYTES_MAX, Exemplar, ExposedSample, Exposition, ExpositionError, Format, Kind};
use crate::labels::{BUCKET_LABEL, Label, Labels, METRIC_NAME};
use crate::number::{format_bound, parse_float};
use std::sync::Arc;

/// Labels one line may have.
const LABELS_MAX: usize = crate::series::LABELS_MAX;

/// Reads a whole exposition; the first malformed line is an error, as a scrape fails as a whole.
pub fn parse(text: &str, format: Format) -> Result<Exposition, ExpositionError> {
    if text.len() > BYTES_MAX {
        let reason =
            format!("the exposition has {} bytes, at most {BYTES_MAX} are read", text.len());
        return Err(ExpositionError { line: 1, column: 1, reason });
    }
    let mut out = Exposition::default();
    let mut ended = false;
    let mut line_number = 0;
    for raw in text.split('\n') {
        line_number += 1;
        let line = raw.strip_suffix('\r').unwrap_or(raw);
        let fail =
            |(at, reason): Bad| ExpositionError { line: line_number, column: at + 1, reason };
        if ended && !line.is_empty() {
            return Err(fail((0, "there is text after `# EOF`".to_owned())));
        }
        if format == Format::OpenMetrics && line == "# EOF" {
            ended = true;
            continue;
        }
        parse_line(line, format, &mut out).map_err(fail)?;
    }
    if format == Format::OpenMetrics && !ended {
        let reason = "the text does not end with `# EOF`".to_owned();
        return Err(ExpositionError { line: line_number, column: 1, reason });
    }
    Ok(out)
}

fn parse_line(line: &str, format: Format, out: &mut Exposition) -> Result<(), Bad> {
    let mut cursor = Cursor::new(line);
    cursor.skip_blanks();
    match cursor.peek() {
        None => Ok(()),
        Some(b'#') => comment(&mut cursor, out),
        Some(_) => {
            let sample = sample(&mut cursor, format)?;
            out.samples.push(sample);
            Ok(())
        }
    }
}

fn comment(cursor: &mut Cursor<'_>, out: &mut Exposition) -> Result<(), Bad> {
    cursor.expect(b'#')?;
    cursor.skip_blanks();
    let keyword = cursor.word();
    if !matches!(keyword, "HELP" | "TYPE" | "UNIT") {
        return Ok(());
    }
    cursor.skip_blanks();
    let name = if cursor.peek() == Some(b'"') {
        cursor.quoted()?
    } else {
        let name = cursor.name(true);
        if name.is_empty() {
            return Err(cursor.bad(&format!("{keyword} needs a metric name, {}", cursor.found())));
        }
        name.to_owned()
    };
    if cursor.peek().is_some_and(|b| b != b' ' && b != b'\t') {
        return Err(cursor.bad(&format!("a blank must follow the metric name, {}", cursor.found())));
    }
    cursor.skip_blanks();
    let family = out.families.entry(name).or_default();
    match keyword {
        "HELP" => family.help = unescape_help(cursor.rest()),
        "UNIT" => cursor.rest().trim_end().clone_into(&mut family.unit),
        _ => {
            let kind = cursor.rest().trim_end();
            family.kind =
                Kind::parse(kind).ok_or_else(|| cursor.bad(&format!("unknown type `{kind}`")))?;
        }
    }
    Ok(())
}

fn unescape_help(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, if c == '\\' { chars.next() } else { None }) {
            ('\\', Some('n')) => out.push('\n'),
            ('\\', Some(c @ ('\\' | '"'))) => out.push(c),
            ('\\', Some(other)) => out.extend(['\\', other]),
            (c, _) => out.push(c),
        }
    }
    out
}

fn sample(cursor: &mut Cursor<'_>, format: Format) -> Result<ExposedSample, Bad> {
    let mut labels: Vec<Label> = Vec::new();
    let name = cursor.name(true);
    if !name.is_empty() {
        labels.push(label(METRIC_NAME, name));
    }
    let named = !name.is_empty();
    cursor.skip_blanks();
    if cursor.peek() == Some(b'{') {
        label_list(cursor, &mut labels, named)?;
    } else if !named {
        return Err(cursor.bad(&format!("expected a metric name, {}", cursor.found())));
    }
    cursor.skip_blanks();
    let value = number(cursor, "value")?;
    cursor.skip_blanks();
    let mut t_ms = None;
    if cursor.peek().is_some_and(|b| b != b'#') {
        t_ms = Some(timestamp(cursor, format)?);
        cursor.skip_blanks();
    }
    let mut exemplar = None;
    if format == Format::OpenMetrics && cursor.accept(b'#') {
        exemplar = Some(read_exemplar(cursor)?);
        cursor.skip_blanks();
    }
    if cursor.peek().is_some() {
        return Err(cursor.bad(&format!("expected the end of the line, {}", cursor.found())));
    }
    Ok(ExposedSample { labels: finish(labels), value, t_ms, exemplar })
}

fn read_exemplar(cursor: &mut Cursor<'_>) -> Result<Exemplar, Bad> {
    cursor.skip_blanks();
    let mut labels = Vec::new();
    label_list(cursor, &mut labels, true)?;
    cursor.skip_blanks();
    let value = number(cursor, "exemplar value")?;
    cursor.skip_blanks();
    let t_ms = match cursor.peek() {
        Some(_) => Some(timestamp(cursor, Format::OpenMetrics)?),
        None => None,
    };
    Ok(Exemplar { labels: labels.into_iter().collect(), value, t_ms })
}

/// `{a="b", "c.d"="e"}`; a lone quoted text is the metric name (UTF-8 names).
fn label_list(cursor: &mut Cursor<'_>, labels: &mut Vec<Label>, named: bool) -> Result<(), Bad> {
    let mut named = named;
    cursor.expect(b'{')?;
    loop {
        cursor.skip_blanks();
        if cursor.accept(b'}') {
            break;
        }
        let at = cursor.at();
        let quoted = cursor.peek() == Some(b'"');
        let name = if quoted { cursor.quoted()? } else { cursor.name(false).to_owned() };
        cursor.skip_blanks();
        if quoted && !named && matches!(cursor.peek(), Some(b',' | b'}')) {
            labels.push(label(METRIC_NAME, &name));
            named = true;
        } else {
            if name.is_empty() {
                return Err(cursor.bad(&format!("expected a label name, {}", cursor.found())));
            }
            cursor.expect(b'=')?;
            cursor.skip_blanks();
            let value = cursor.quoted()?;
            if labels.iter().any(|l| *l.name == *name) {
                return Err((at, format!("label `{name}` appears twice")));
            }
            labels.push(label(&name, &value));
        }
        if labels.len() > LABELS_MAX {
            return Err((at, format!("more than {LABELS_MAX} labels")));
        }
        cursor.skip_blanks();
        if !cursor.accept(b',') {
            cursor.expect(b'}')?;
            break;
        }
    }
    if named { Ok(()) } else { Err(cursor.bad("the sample has no metric name")) }
}

fn label(name: &str, value: &str) -> Label {
    Label { name: Arc::from(name), value: Arc::from(value) }
}

/// Bucket bounds and quantiles are brought to one spelling (`1` and `1.0` are one series), as
/// Prometheus 3 does.
fn finish(mut labels: Vec<Label>) -> Labels {
    let is =
        |suffix: &str| labels.iter().any(|l| &*l.name == METRIC_NAME && l.value.ends_with(suffix));
    let bucket = is("_bucket");
    for label in &mut labels {
        if ((bucket && &*label.name == BUCKET_LABEL) || &*label.name == "quantile")
            && let Some(value) = parse_float(&label.value)
        {
            label.value = Arc::from(format_bound(value));
        }
    }
    labels.into_iter().collect()
}

fn number(cursor: &mut Cursor<'_>, what: &str) -> Result<f64, Bad> {
    let at = cursor.at();
    let word = cursor.word();
    if word.is_empty() {
        return Err((at, format!("expected a {what}, {}", cursor.found())));
    }
    parse_float(word).ok_or_else(|| (at, format!("`{word}` is not a {what}")))
}

fn timestamp(cursor: &mut Cursor<'_>, format: Format) -> Result<i64, Bad> {
    let at = cursor.at();
    let word = cursor.word();
    let bad = || (at, format!("`{word}` is not a timestamp"));
    match format {
        Format::Text => word.parse::<i64>().map_err(|_| bad()),
        Format::OpenMetrics => {
            let seconds = parse_float(word).ok_or_else(bad)?;
            let ms = (seconds * 1000.0).round();
            // Beyond this, milliseconds are not exact any more (and far outside of any calendar).
            if ms.is_finite() && ms.abs() < 9.0e15 { Ok(ms as i64) } else { Err(bad()) }
        }
    }
}
