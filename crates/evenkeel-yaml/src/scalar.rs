//! What a scalar without quotes stands for.
//!
//! **Source**: resolve.go of go.yaml.in/yaml/v2, which sigs.k8s.io/yaml reads with.

use serde_json::{Number, Value};

/// The value of a scalar.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Resolved {
    Null,
    Bool(bool),
    Int(i64),
    /// More than an `i64` holds.
    Large(u64),
    Float(f64),
    Text,
}

/// Resolves a scalar without quotes and tag.
pub(crate) fn resolve(text: &str) -> Resolved {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Resolved::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
            return Resolved::Bool(true);
        }
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            return Resolved::Bool(false);
        }
        ".nan" | ".NaN" | ".NAN" => return Resolved::Float(f64::NAN),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => {
            return Resolved::Float(f64::INFINITY);
        }
        "-.inf" | "-.Inf" | "-.INF" => return Resolved::Float(f64::NEG_INFINITY),
        _ => {}
    }
    if !text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.')) {
        return Resolved::Text;
    }
    let digits = text.replace('_', "");
    whole(&digits).or_else(|| float(&digits)).unwrap_or(Resolved::Text)
}

/// As Go's `strconv.ParseInt(text, 0, 64)`: `0x`, `0o`, `0b`, and `0` for octal.
fn whole(text: &str) -> Option<Resolved> {
    let (negative, digits) = match text.as_bytes().first() {
        Some(b'-') => (true, text.get(1..)?),
        Some(b'+') => (false, text.get(1..)?),
        _ => (false, text),
    };
    let prefix = digits.get(..2).unwrap_or_default();
    let (radix, digits) = match prefix {
        "0x" | "0X" => (16, digits.get(2..)?),
        "0o" | "0O" => (8, digits.get(2..)?),
        "0b" | "0B" => (2, digits.get(2..)?),
        _ if digits.len() > 1 && digits.starts_with('0') => (8, digits.get(1..)?),
        _ => (10, digits),
    };
    // Rust would take a second sign.
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return None;
    }
    let size = u64::from_str_radix(digits, radix).ok()?;
    match (i64::try_from(size), negative) {
        (Ok(size), false) => Some(Resolved::Int(size)),
        (_, true) => 0_i64.checked_sub_unsigned(size).map(Resolved::Int),
        (Err(_), false) => Some(Resolved::Large(size)),
    }
}

fn float(text: &str) -> Option<Resolved> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let (mantissa, exponent) = match unsigned.find(['e', 'E']) {
        Some(at) => (unsigned.get(..at)?, Some(unsigned.get(at + 1..)?)),
        None => (unsigned, None),
    };
    let all_digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    let (before, after) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let is_mantissa =
        all_digits(before) && all_digits(after) && !(before.is_empty() && after.is_empty());
    let is_exponent = exponent.is_none_or(|text| {
        let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
        !digits.is_empty() && all_digits(digits)
    });
    if !is_mantissa || !is_exponent {
        return None;
    }
    // Out of range is text for Go.
    text.parse().ok().filter(|value: &f64| value.is_finite()).map(Resolved::Float)
}

/// A finite float as Go writes it into JSON: without a fraction when it has none.
pub(crate) fn json_number(value: f64) -> Option<Value> {
    /// From here on Go writes an exponent.
    const WHOLE_MAX: f64 = 9.0e15;
    if value.fract() == 0.0 && value.abs() < WHOLE_MAX {
        #[expect(clippy::cast_possible_truncation, reason = "checked to be whole and small")]
        let whole = value as i64;
        return Some(whole.into());
    }
    Number::from_f64(value).map(Value::Number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scalars_are_what_go_takes_them_for() {
        use Resolved::{Bool, Float, Int, Large, Null, Text};
        for (text, value) in [
            ("", Null),
            ("~", Null),
            ("y", Bool(true)),
            ("On", Bool(true)),
            ("n", Bool(false)),
            ("oN", Text),
            ("017", Int(15)),
            ("0o17", Int(15)),
            ("0x1F", Int(31)),
            ("0b101", Int(5)),
            ("-0b101", Int(-5)),
            ("08", Float(8.0)),
            ("1_000", Int(1000)),
            ("+5", Int(5)),
            ("--5", Text),
            ("-9223372036854775808", Int(i64::MIN)),
            ("18446744073709551615", Large(u64::MAX)),
            ("18446744073709551616", Float(18_446_744_073_709_551_616.0)),
            ("1.10", Float(1.1)),
            (".5", Float(0.5)),
            ("1.", Float(1.0)),
            ("1e3", Float(1000.0)),
            ("1e999", Text),
            ("e3", Text),
            (".", Text),
            ("-", Text),
            ("1.2.3", Text),
            ("12:30:45", Text),
            ("2020-01-01", Text),
            ("1m", Text),
            ("0x", Text),
            ("-.inf", Float(f64::NEG_INFINITY)),
        ] {
            assert_eq!(resolve(text), value, "{text:?}");
        }
        assert!(matches!(resolve(".NaN"), Float(v) if v.is_nan()));
    }
}
