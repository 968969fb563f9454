//! Values to text as Go's `fmt` prints them.

use super::Data;
use crate::number::format_general;

/// Digits a precision or width may ask for.
const WIDTH_MAX: usize = 1_000;

/// As `%v`.
pub(super) fn print(value: &Data) -> String {
    match value {
        Data::Nil => "<no value>".to_owned(),
        Data::Bool(b) => b.to_string(),
        Data::Int(n) => n.to_string(),
        Data::Float(v) => format_general(*v),
        Data::Text(text) => text.clone(),
        Data::List(list) => {
            let items: Vec<String> = list.iter().map(print).collect();
            format!("[{}]", items.join(" "))
        }
        Data::Map(map) => {
            let items: Vec<String> = map.iter().map(|(k, v)| format!("{k}:{}", print(v))).collect();
            format!("map[{}]", items.join(" "))
        }
    }
}

/// As `%.Ng`.
pub(super) fn significant(v: f64, digits: usize) -> String {
    if !v.is_finite() {
        return format_general(v);
    }
    if v == 0.0 {
        return "0".to_owned();
    }
    let digits = digits.clamp(1, WIDTH_MAX);
    let text = format!("{v:.*e}", digits - 1);
    let (mantissa, exp) = text.split_once('e').unwrap_or((&text, "0"));
    let exp: i32 = exp.parse().unwrap_or_default();
    if exp < -4 || exp >= digits as i32 {
        let sign = if exp < 0 { '-' } else { '+' };
        return format!("{}e{sign}{:02}", trim_zeros(mantissa), exp.abs());
    }
    let decimals = (digits as i32 - 1 - exp).max(0) as usize;
    trim_zeros(&format!("{v:.decimals$}")).to_owned()
}

fn trim_zeros(text: &str) -> &str {
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { text }
}

/// One directive such as `%-8.2f`.
#[derive(Default)]
struct Directive {
    left: bool,
    plus: bool,
    zero: bool,
    width: usize,
    precision: Option<usize>,
}

/// As `fmt.Sprintf`.
pub(super) fn printf(format: &str, args: &[Data]) -> String {
    let mut out = String::new();
    let mut args = args.iter();
    let mut chars = format.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut d = Directive::default();
        while let Some(flag) = chars.next_if(|c| "-+ 0#".contains(*c)) {
            match flag {
                '-' => d.left = true,
                '+' => d.plus = true,
                '0' => d.zero = true,
                _ => {}
            }
        }
        let number = |chars: &mut std::iter::Peekable<std::str::Chars<'_>>| {
            let mut n: usize = 0;
            while let Some(digit) = chars.next_if(char::is_ascii_digit) {
                n = (n * 10 + digit.to_digit(10).unwrap_or_default() as usize).min(WIDTH_MAX);
            }
            n
        };
        d.width = number(&mut chars);
        if chars.next_if_eq(&'.').is_some() {
            d.precision = Some(number(&mut chars));
        }
        match chars.next() {
            None => out.push_str("%!(NOVERB)"),
            Some('%') => out.push('%'),
            Some(verb) => match args.next() {
                None => {
                    out.extend(["%!", verb.to_string().as_str(), "(MISSING)"]);
                }
                Some(arg) => out.push_str(&directive(&d, verb, arg)),
            },
        }
    }
    out
}

fn directive(d: &Directive, verb: char, arg: &Data) -> String {
    let mut body = match (verb, arg) {
        ('v', _) | ('s', Data::Text(_) | Data::List(_) | Data::Map(_)) | ('t', Data::Bool(_)) => {
            let text = print(arg);
            match (verb, d.precision) {
                ('s', Some(p)) => text.chars().take(p).collect(),
                _ => text,
            }
        }
        ('q', Data::Text(text)) => crate::labels::quote(text),
        ('d', Data::Int(n)) => n.to_string(),
        ('x', Data::Int(n)) => format!("{n:x}"),
        ('X', Data::Int(n)) => format!("{n:X}"),
        ('o', Data::Int(n)) => format!("{n:o}"),
        ('b', Data::Int(n)) => format!("{n:b}"),
        ('f' | 'F', Data::Float(v)) if v.is_finite() => {
            format!("{v:.*}", d.precision.unwrap_or(6))
        }
        ('e', Data::Float(v)) if v.is_finite() => {
            let text = format!("{v:.*e}", d.precision.unwrap_or(6));
            let (mantissa, exp) = text.split_once('e').unwrap_or((&text, "0"));
            let exp: i32 = exp.parse().unwrap_or_default();
            format!("{mantissa}e{}{:02}", if exp < 0 { '-' } else { '+' }, exp.abs())
        }
        ('g', Data::Float(v)) => match d.precision {
            Some(p) => significant(*v, p),
            None => format_general(*v),
        },
        (_, Data::Float(v)) if matches!(verb, 'f' | 'F' | 'e') => format_general(*v),
        (_, other) => {
            let kind = match other {
                Data::Nil => "<nil>".to_owned(),
                Data::Bool(_) => format!("bool={}", print(other)),
                Data::Int(_) => format!("int={}", print(other)),
                Data::Float(_) => format!("float64={}", print(other)),
                _ => format!("string={}", print(other)),
            };
            return format!("%!{verb}({kind})");
        }
    };
    if d.plus && matches!(arg, Data::Int(_) | Data::Float(_)) && !body.starts_with(['-', '+']) {
        body.insert(0, '+');
    }
    let missing = d.width.saturating_sub(body.chars().count());
    if d.left {
        body.push_str(&" ".repeat(missing));
    } else if d.zero && matches!(arg, Data::Int(_) | Data::Float(_)) {
        let sign = usize::from(body.starts_with(['-', '+']));
        body.insert_str(sign, &"0".repeat(missing));
    } else {
        body.insert_str(0, &" ".repeat(missing));
    }
    body
}
