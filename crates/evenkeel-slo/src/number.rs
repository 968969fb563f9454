//! Numbers as Go prints them, because they are part of the generated expressions.

/// A float as Go's `%g` and `%v` print it: shortest digits, exponent form outside `1e-4..1e6`.
///
/// Source: Go `strconv.FormatFloat(x, 'g', -1, 64)`, which takes six digits as the limit when
/// the precision is the shortest possible.
pub(crate) fn go_g(x: f64) -> String {
    let Some((digits, exponent)) = shortest(x) else {
        return special(x);
    };
    let sign = if x.is_sign_negative() { "-" } else { "" };
    if (-4..6).contains(&exponent) {
        return format!("{sign}{}", plain(&digits, exponent));
    }
    let (head, tail) = digits.split_at(1);
    let point = if tail.is_empty() { "" } else { "." };
    let mark = if exponent < 0 { '-' } else { '+' };
    format!("{sign}{head}{point}{tail}e{mark}{:02}", exponent.abs())
}

/// A float as Go's `strconv.FormatFloat(x, 'f', -1, 64)`: never an exponent.
pub(crate) fn go_f(x: f64) -> String {
    let Some((digits, exponent)) = shortest(x) else {
        return special(x);
    };
    let sign = if x.is_sign_negative() { "-" } else { "" };
    format!("{sign}{}", plain(&digits, exponent))
}

/// A string as Go's `%q` prints it, for the label matchers of generated expressions.
pub(crate) fn go_quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => {
                out.push_str("\\x");
                out.extend(
                    [c as u32 / 16, c as u32 % 16].iter().filter_map(|n| char::from_digit(*n, 16)),
                );
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

fn special(x: f64) -> String {
    if x.is_nan() {
        "NaN".to_owned()
    } else if x.is_infinite() {
        if x > 0.0 { "+Inf".to_owned() } else { "-Inf".to_owned() }
    } else {
        "0".to_owned()
    }
}

/// Shortest round-trip digits without a point, and the decimal exponent of the first one.
fn shortest(x: f64) -> Option<(String, i32)> {
    if x == 0.0 || !x.is_finite() {
        return None;
    }
    let text = format!("{:e}", x.abs());
    let (mantissa, exponent) = text.split_once('e')?;
    Some((mantissa.replace('.', ""), exponent.parse().ok()?))
}

fn plain(digits: &str, exponent: i32) -> String {
    let count = i32::try_from(digits.len()).unwrap_or(i32::MAX);
    if exponent < 0 {
        let zeros = usize::try_from(-exponent - 1).unwrap_or(0);
        format!("0.{}{digits}", "0".repeat(zeros))
    } else if count <= exponent + 1 {
        let zeros = usize::try_from(exponent + 1 - count).unwrap_or(0);
        format!("{digits}{}", "0".repeat(zeros))
    } else {
        let point = usize::try_from(exponent + 1).unwrap_or(0);
        let (whole, fraction) = digits.split_at(point);
        format!("{whole}.{fraction}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_print_as_go_prints_them() {
        for (value, want) in [
            (99.9_f64 / 100.0, "0.9990000000000001"),
            ((100.0_f64 - 99.9) / 100.0, "0.0009999999999999432"),
            ((100.0_f64 - 99.999) / 100.0, "1.0000000000047748e-05"),
            (14.4, "14.4"),
            (30.0, "30"),
            (0.0, "0"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (100_000.0, "100000"),
            (1_000_000.0, "1e+06"),
            (1_234_567.0, "1.234567e+06"),
            (-2.5, "-2.5"),
        ] {
            assert_eq!(go_g(value), want);
        }
        assert_eq!(go_f(1_234_567.0), "1234567");
        assert_eq!(go_f(0.000_012), "0.000012");
        assert_eq!(go_quote("a\"b\\c\n"), r#""a\"b\\c\n""#);
    }
}
