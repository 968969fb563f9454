//! Numbers as Go and Prometheus write and read them: floats, durations, the stale marker.

use std::fmt::Write;

/// The bit pattern that marks the end of a series.
pub const STALE_BITS: u64 = 0x7ff0_0000_0000_0002;

/// The value that marks the end of a series.
pub fn stale() -> f64 {
    f64::from_bits(STALE_BITS)
}

/// Whether a value is the marker (an ordinary NaN is not).
pub fn is_stale(value: f64) -> bool {
    value.to_bits() == STALE_BITS
}

/// Text of a float in the HTTP API: shortest round trip, exponent only below 1e-6 and from 1e21 on.
pub fn format_float(value: f64) -> String {
    let abs = value.abs();
    if abs != 0.0 && !(1e-6..1e21).contains(&abs) && value.is_finite() {
        return exponent(value);
    }
    format_plain(value)
}

/// Text of a bucket bound or quantile in a label: whole numbers end in `.0`, so that each has one
/// spelling.
pub fn format_bound(value: f64) -> String {
    let text = format_general(value);
    let whole = text.bytes().all(|b| b.is_ascii_digit() || b == b'-');
    if whole { format!("{text}.0") } else { text }
}

/// Text of a float without exponent (Go's `'f', -1`), `+Inf`, `-Inf`, `NaN`.
pub fn format_plain(value: f64) -> String {
    match special(value) {
        Some(text) => text.to_owned(),
        None => value.to_string(),
    }
}

/// Text of a float as Go's `%v` and `%g` print it: exponent below 1e-4 and from 1e6 on
/// (what has to be an exponent is decided with a precision of 6, although all digits are printed).
pub fn format_general(value: f64) -> String {
    if let Some(text) = special(value) {
        return text.to_owned();
    }
    if value == 0.0 {
        return if value.is_sign_negative() { "-0".to_owned() } else { "0".to_owned() };
    }
    let text = format!("{value:e}");
    let exp = text.rsplit('e').next().and_then(|e| e.parse::<i32>().ok()).unwrap_or_default();
    if (-4..6).contains(&exp) { value.to_string() } else { exponent(value) }
}

fn special(value: f64) -> Option<&'static str> {
    if value.is_nan() {
        Some("NaN")
    } else if value == f64::INFINITY {
        Some("+Inf")
    } else if value == f64::NEG_INFINITY {
        Some("-Inf")
    } else {
        None
    }
}

/// Go's exponent form: sign always, at least two digits.
fn exponent(value: f64) -> String {
    let text = format!("{value:e}");
    let Some((mantissa, exp)) = text.split_once('e') else { return text };
    let (sign, digits) = match exp.strip_prefix('-') {
        Some(digits) => ('-', digits),
        None => ('+', exp),
    };
    format!("{mantissa}e{sign}{digits:0>2}")
}

/// Reads a float as Go's `strconv.ParseFloat` does (inf and nan in any case, hex, no surrounding
/// space).
pub fn parse_float(text: &str) -> Option<f64> {
    let (negative, body) = match text.as_bytes().first()? {
        b'+' => (false, text.get(1..)?),
        b'-' => (true, text.get(1..)?),
        _ => (false, text),
    };
    let value = if body.eq_ignore_ascii_case("inf") || body.eq_ignore_ascii_case("infinity") {
        f64::INFINITY
    } else if body.eq_ignore_ascii_case("nan") {
        return Some(f64::NAN);
    } else if let Some(hex) = body.strip_prefix("0x").or_else(|| body.strip_prefix("0X")) {
        u64::from_str_radix(hex, 16).ok()? as f64
    } else if body.bytes().all(|b| b.is_ascii_digit() || b".eE+-".contains(&b)) {
        if body.starts_with(['+', '-']) {
            return None;
        }
        body.parse::<f64>().ok()?
    } else {
        return None;
    };
    Some(if negative { -value } else { value })
}

const UNITS: [(&str, i64, u8); 7] = [
    ("y", 365 * 86_400_000, 1),
    ("w", 7 * 86_400_000, 2),
    ("d", 86_400_000, 3),
    ("h", 3_600_000, 4),
    ("m", 60_000, 5),
    ("s", 1_000, 6),
    ("ms", 1, 7),
];

/// Reads `1d2h`, `5m`, `100ms`, `0`; milliseconds. `None` when it is not a Prometheus duration or
/// overflows.
pub fn parse_duration_ms(text: &str) -> Option<i64> {
    if text == "0" {
        return Some(0);
    }
    let mut rest = text;
    let mut total: i64 = 0;
    let mut rank = 0;
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, tail) = rest.split_at_checked(digits)?;
        let letters = tail.len() - tail.trim_start_matches(|c: char| c.is_ascii_lowercase()).len();
        let (unit, tail) = tail.split_at_checked(letters)?;
        let (_, ms, unit_rank) = UNITS.iter().find(|(name, _, _)| *name == unit)?;
        if *unit_rank <= rank {
            return None;
        }
        rank = *unit_rank;
        let number: i64 = number.parse().ok()?;
        // Go durations are nanoseconds in 64 bits.
        total = total.checked_add(number.checked_mul(*ms)?)?;
        total.checked_mul(1_000_000)?;
        rest = tail;
    }
    (!text.is_empty()).then_some(total)
}

/// Writes a duration as Prometheus does: years and weeks only if they divide it, then greedy.
pub fn format_duration_ms(ms: i64) -> String {
    if ms == 0 {
        return "0s".to_owned();
    }
    let mut out = String::new();
    let mut rest = ms.unsigned_abs();
    if ms < 0 {
        out.push('-');
    }
    for (unit, size, rank) in UNITS {
        let size = size.unsigned_abs();
        if rank <= 2 && !rest.is_multiple_of(size) {
            continue;
        }
        let count = rest / size;
        if count > 0 {
            write!(out, "{count}{unit}").unwrap_or_default();
            rest -= count * size;
        }
    }
    out
}

/// Kahan-Neumaier summation step: adds `inc` to `sum` with compensation `c`.
pub fn kahan_add(inc: f64, sum: f64, c: f64) -> (f64, f64) {
    let t = sum + inc;
    if t.is_infinite() {
        return (t, 0.0);
    }
    let lost = if sum.abs() >= inc.abs() { (sum - t) + inc } else { (inc - t) + sum };
    (t, c + lost)
}

#[cfg(test)]
mod tests {
    use super::*;
    use insta::assert_snapshot;

    #[test]
    fn floats_print_as_prometheus_prints_them() {
        let row = |v: f64| format!("{} {}", format_float(v), format_general(v));
        assert_snapshot!(row(0.1), @"0.1 0.1");
        assert_snapshot!(row(1e-7), @"1e-07 1e-07");
        assert_snapshot!(row(0.00001), @"0.00001 1e-05");
        assert_snapshot!(row(1e21), @"1e+21 1e+21");
        assert_snapshot!(row(123_456_789.0), @"123456789 1.23456789e+08");
        assert_snapshot!(row(f64::NEG_INFINITY), @"-Inf -Inf");
        assert_snapshot!(row(-0.0), @"-0 -0");
    }

    #[test]
    fn durations_round_trip_and_reject_disorder() {
        let row = |t: &str| match parse_duration_ms(t) {
            Some(ms) => format!("{ms} {}", format_duration_ms(ms)),
            None => "none".to_owned(),
        };
        assert_snapshot!(row("1h30m"), @"5400000 1h30m");
        assert_snapshot!(row("7d"), @"604800000 1w");
        assert_snapshot!(row("30d"), @"2592000000 30d");
        assert_snapshot!(row("1m1h"), @"none");
        assert_snapshot!(row("10000000000y"), @"none");
        assert_snapshot!(row("100ms"), @"100 100ms");
    }

    #[test]
    fn only_the_marker_is_stale() {
        assert!(is_stale(stale()) && !is_stale(f64::NAN));
    }
}
