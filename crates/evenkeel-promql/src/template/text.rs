//! Texts that the functions make: human units, times, hosts, escapes.

use super::format::significant;

pub(super) fn humanize(v: f64, base: f64) -> String {
    let mut v = v;
    if v == 0.0 || !v.is_finite() {
        return significant(v, 4);
    }
    let binary = base > 1000.0;
    let up: [&str; 8] = if binary {
        ["ki", "Mi", "Gi", "Ti", "Pi", "Ei", "Zi", "Yi"]
    } else {
        ["k", "M", "G", "T", "P", "E", "Z", "Y"]
    };
    let mut prefix = "";
    if v.abs() >= 1.0 || binary {
        for p in up {
            if v.abs() < base {
                break;
            }
            prefix = p;
            v /= base;
        }
    } else {
        for p in ["m", "u", "n", "p", "f", "a", "z", "y"] {
            if v.abs() >= 1.0 {
                break;
            }
            prefix = p;
            v *= base;
        }
    }
    format!("{}{prefix}", significant(v, 4))
}

pub(super) fn humanize_duration(v: f64) -> String {
    if !v.is_finite() {
        return significant(v, 4);
    }
    if v.abs() < 1.0 {
        return if v == 0.0 { "0s".to_owned() } else { format!("{}s", humanize(v, 1000.0)) };
    }
    let sign = if v < 0.0 { "-" } else { "" };
    let v = v.abs();
    let whole = v as i64;
    let (seconds, minutes) = (whole % 60, whole / 60 % 60);
    let (hours, days) = (whole / 3600 % 24, whole / 86_400);
    if days != 0 {
        format!("{sign}{days}d {hours}h {minutes}m {seconds}s")
    } else if hours != 0 {
        format!("{sign}{hours}h {minutes}m {seconds}s")
    } else if minutes != 0 {
        format!("{sign}{minutes}m {seconds}s")
    } else {
        format!("{sign}{}s", significant(v, 4))
    }
}

pub(super) fn humanize_timestamp(v: f64) -> String {
    // As upstream: by way of nanoseconds, then cut to milliseconds.
    let nanos = v * 1e9;
    if !nanos.is_finite() || nanos.abs() > i64::MAX as f64 {
        return significant(v, 4);
    }
    match jiff::Timestamp::from_millisecond(nanos as i64 / 1_000_000) {
        Ok(time) => {
            let text = time.to_string();
            let text = text.trim_end_matches('Z').replace('T', " ");
            format!("{text} +0000 UTC")
        }
        Err(_) => significant(v, 4),
    }
}

pub(super) fn title(text: &str) -> String {
    let mut start = true;
    text.chars()
        .map(|c| {
            let is_first = start && c.is_alphabetic();
            let in_word = c.is_alphanumeric() || c == '_' || c == '\'';
            start = !in_word || (start && !c.is_alphabetic());
            if is_first { c.to_uppercase().next().unwrap_or(c) } else { c }
        })
        .collect()
}

/// As Go prints a `time.Duration`: `1h30m0s`, `12.5s`, `1.5ms`, `0s`.
pub(super) fn go_duration(nanos: i64) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let all = nanos.unsigned_abs();
    let seconds = all as f64 / 1e9;
    match all {
        0 => "0s".to_owned(),
        1..1_000 => format!("{sign}{all}ns"),
        1_000..1_000_000 => format!("{sign}{}\u{b5}s", all as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{sign}{}ms", all as f64 / 1e6),
        1_000_000_000..60_000_000_000 => format!("{sign}{seconds}s"),
        _ => {
            let (minutes, rest) = (all / 60_000_000_000, (all % 60_000_000_000) as f64 / 1e9);
            let hours = if minutes >= 60 { format!("{}h", minutes / 60) } else { String::new() };
            format!("{sign}{hours}{}m{rest}s", minutes % 60)
        }
    }
}

pub(super) fn escape_html(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '\'' => out.push_str("&#39;"),
            '"' => out.push_str("&#34;"),
            '\0' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

pub(super) fn escape(text: &str) -> String {
    let mut out = String::new();
    for b in text.bytes() {
        match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                out.push(char::from(b));
            }
            b' ' => out.push('+'),
            b => out.extend(["%".to_owned(), format!("{b:02X}")]),
        }
    }
    out
}

/// As Go's `net.SplitHostPort`; `None` where that fails.
pub(super) fn split_host_port(text: &str) -> Option<(&str, &str)> {
    let (host, port) = text.rsplit_once(':')?;
    match host.strip_prefix('[') {
        Some(inner) => {
            let host = inner.strip_suffix(']')?;
            (!host.contains(['[', ']'])).then_some((host, port))
        }
        None => {
            (!host.contains([':', '[', ']']) && !port.contains(['[', ']'])).then_some((host, port))
        }
    }
}

/// The host without its port.
pub(super) fn strip_port(text: &str) -> &str {
    split_host_port(text).map_or(text, |(host, _)| host)
}

/// The first part of the host's name, with the port. Addresses stay as they are.
pub(super) fn strip_domain(text: &str) -> String {
    let (host, port) = split_host_port(text).unwrap_or((text, ""));
    if host.parse::<std::net::IpAddr>().is_ok() {
        return text.to_owned();
    }
    let first = host.split('.').next().unwrap_or_default();
    match port {
        "" => first.to_owned(),
        port if first.contains(':') => format!("[{first}]:{port}"),
        port => format!("{first}:{port}"),
    }
}

/// As Go's `template.JSEscaper`.
pub(super) fn escape_js(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        let is_markup = matches!(c, '<' | '>' | '&' | '=');
        match c {
            '\\' | '\'' | '"' => out.extend(['\\', c]),
            c if is_markup || c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') => {
                out.extend(["\\u".to_owned(), format!("{:04X}", u32::from(c))]);
            }
            c => out.push(c),
        }
    }
    out
}
