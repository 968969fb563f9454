//! Cuts sample lines without understanding them, so that a known series costs one look-up.

use evenkeel_promql::{exposition::Format, number::parse_float};

/// A sample line cut into its parts.
#[derive(Debug, PartialEq)]
pub(crate) struct RawSample<'a> {
    /// Name and labels exactly as written.
    pub(crate) series: &'a str,
    /// The value.
    pub(crate) value: f64,
    /// Explicit time in milliseconds, if written.
    pub(crate) t_ms: Option<i64>,
}

/// Cuts a line; `None` when it is anything but `series value [timestamp]`, with or without an
/// exemplar. The series text is not checked: the caller trusts only texts that the real parser
/// has accepted before.
pub(crate) fn cut(line: &str, format: Format) -> Option<RawSample<'_>> {
    let line = line.trim_start_matches([' ', '\t']);
    let (series, rest) = line.split_at_checked(series_end(line.as_bytes())?)?;
    let mut words = rest.split([' ', '\t']).filter(|word| !word.is_empty());
    let value = parse_float(words.next()?)?;
    let exemplar = |word: Option<&str>| word == Some("#") && format == Format::OpenMetrics;
    let next = words.next();
    let t_ms = match next {
        None => return Some(RawSample { series, value, t_ms: None }),
        Some(_) if exemplar(next) => return Some(RawSample { series, value, t_ms: None }),
        Some(word) => milliseconds(word, format)?,
    };
    let last = words.next();
    let whole = last.is_none() || exemplar(last);
    whole.then_some(RawSample { series, value, t_ms: Some(t_ms) })
}

#[expect(clippy::cast_possible_truncation, reason = "checked to be far below 2^53")]
fn milliseconds(word: &str, format: Format) -> Option<i64> {
    if format == Format::Text {
        return word.parse().ok();
    }
    let ms = (parse_float(word)? * 1000.0).round();
    (ms.is_finite() && ms.abs() < 9.0e15).then_some(ms as i64)
}

/// Where name and labels end. A value that touches the name (`up+1`, which Prometheus reads as
/// `up 1`) is left to the real parser.
fn series_end(line: &[u8]) -> Option<usize> {
    let name = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b':');
    let open = line.iter().position(|b| !name(b))?;
    match line.get(open)? {
        b' ' | b'\t' => return Some(open),
        b'{' => {}
        _ => return None,
    }
    let mut quoted = false;
    let mut escaped = false;
    for (at, byte) in line.iter().enumerate().skip(open + 1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'}' if !quoted => return Some(at + 1),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut_text(line: &str) -> String {
        cut(line, Format::Text).map_or_else(
            || "-".to_owned(),
            |raw| format!("{} | {} | {:?}", raw.series, raw.value, raw.t_ms),
        )
    }

    #[test]
    fn lines_are_cut_at_the_end_of_their_labels() {
        insta::assert_snapshot!(cut_text("up 1"), @"up | 1 | None");
        insta::assert_snapshot!(cut_text(" up\t1  7 "), @"up | 1 | Some(7)");
        insta::assert_snapshot!(cut_text(r#"a{b="} \" {",c="d"} NaN"#), @r#"a{b="} \" {",c="d"} | NaN | None"#);
        insta::assert_snapshot!(cut_text(r#"{"a.b",c="d"} +Inf"#), @r#"{"a.b",c="d"} | inf | None"#);
        insta::assert_snapshot!(cut_text(r#"a{b="c 1"#), @"-");
        insta::assert_snapshot!(cut_text("a 1 2 3"), @"-");
        insta::assert_snapshot!(cut_text("a x"), @"-");
        insta::assert_snapshot!(cut_text("e+0 0"), @"-");
        let open = cut("a 1 2.5 # {id=\"7\"} 1", Format::OpenMetrics);
        assert_eq!(open, Some(RawSample { series: "a", value: 1.0, t_ms: Some(2500) }));
    }

    proptest::proptest! {
        /// Whatever the real parser accepts is cut to the same numbers, or not at all.
        #[test]
        fn cutting_agrees_with_parsing(
            name in "[a-z:_]{1,3}|",
            labels in "(\\{([a-c]=\"[ -~]{0,4}\",?){0,2} ?\\})?",
            value in " {0,2}([0-9.e+-]{1,5}|NaN|\\+Inf|0x1f)",
            rest in "( [0-9.]{1,4})?( # \\{[a-b]=\"x\"\\} 1)? ?",
        ) {
            let line = format!("{name}{labels} {value}{rest}");
            for (format, text) in
                [(Format::Text, line.clone()), (Format::OpenMetrics, format!("{line}\n# EOF"))]
            {
                let parsed = evenkeel_promql::exposition::parse(&text, format);
                let Some((Ok(parsed), raw)) = cut(&line, format).map(|raw| (parsed, raw)) else {
                    continue;
                };
                let sample = &parsed.samples[0];
                proptest::prop_assert_eq!(sample.value.to_bits(), raw.value.to_bits());
                proptest::prop_assert_eq!(sample.t_ms, raw.t_ms);
                // The text stands for the series: it parses to the same labels by itself.
                let alone = format!("{} 1", raw.series);
                let alone = evenkeel_promql::exposition::parse(&alone, Format::Text);
                proptest::prop_assert_eq!(&alone.map(|e| e.samples[0].labels.clone()), &Ok(sample.labels.clone()));
            }
        }
    }
}
