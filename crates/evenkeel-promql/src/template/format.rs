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
        Data::Record(fields) => {
            let items: Vec<String> = fields.iter().map(|(_, v)| print(v)).collect();
            format!("{{{}}}", items.join(" "))
        }
    }
}

/// As `%v` of an operand, where nil has another name.
pub(super) fn operand(value: &Data) -> String {
    if matches!(value, Data::Nil) { "<nil>".to_owned() } else { print(value) }
}

/// As `fmt.Sprint`: a blank between two operands when neither is a text.
pub(super) fn sprint(args: &[Data]) -> String {
    let mut out = String::new();
    let mut after_text = true;
    for arg in args {
        let is_text = matches!(arg, Data::Text(_));
        if !after_text && !is_text {
            out.push(' ');
        }
        out.push_str(&operand(arg));
        after_text = is_text;
    }
    out
}

/// The type as Go names it.
pub(super) fn type_name(value: &Data) -> &'static str {
    match value {
        Data::Nil => "<nil>",
        Data::Bool(_) => "bool",
        Data::Int(_) => "int",
        Data::Float(_) => "float64",
        Data::Text(_) => "string",
        Data::Map(_) => "map[string]string",
        Data::List(_) => "template.queryResult",
        Data::Record(_) => "*template.sample",
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
    zero: bool,
    /// What stands before a number that is not negative.
    sign: Option<char>,
    width: usize,
    precision: Option<usize>,
}

type Chars<'f> = std::iter::Peekable<std::str::Chars<'f>>;

fn digits(chars: &mut Chars<'_>) -> usize {
    let mut n: usize = 0;
    while let Some(digit) = chars.next_if(char::is_ascii_digit) {
        n = (n * 10 + digit.to_digit(10).unwrap_or_default() as usize).min(WIDTH_MAX);
    }
    n
}

/// The arguments of a `printf`, with the one that is next.
struct Args<'a> {
    all: &'a [Data],
    next: usize,
    /// Whether one was taken by its number: then left ones are not an error.
    reordered: bool,
}

impl<'a> Args<'a> {
    fn take(&mut self) -> Option<&'a Data> {
        self.next += 1;
        self.all.get(self.next - 1)
    }

    /// `[2]` in front of a verb or a star.
    fn number(&mut self, chars: &mut Chars<'_>) {
        if chars.next_if_eq(&'[').is_some() {
            self.next = digits(chars).saturating_sub(1);
            self.reordered = true;
            chars.next_if_eq(&']');
        }
    }

    /// A width or precision: digits, or a star that stands for an argument.
    fn size(&mut self, chars: &mut Chars<'_>) -> usize {
        if chars.next_if_eq(&'*').is_none() {
            return digits(chars);
        }
        match self.take() {
            Some(Data::Int(n)) => usize::try_from(*n).unwrap_or_default().min(WIDTH_MAX),
            _ => 0,
        }
    }
}

/// As `fmt.Sprintf`.
pub(super) fn printf(format: &str, args: &[Data]) -> String {
    let mut out = String::new();
    let mut args = Args { all: args, next: 0, reordered: false };
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
                '+' => d.sign = Some('+'),
                ' ' => d.sign = d.sign.or(Some(' ')),
                '0' => d.zero = true,
                _ => {}
            }
        }
        args.number(&mut chars);
        d.width = args.size(&mut chars);
        if chars.next_if_eq(&'.').is_some() {
            args.number(&mut chars);
            d.precision = Some(args.size(&mut chars));
        }
        args.number(&mut chars);
        match chars.next() {
            None => out.push_str("%!(NOVERB)"),
            Some('%') => out.push('%'),
            Some(verb) => match args.take() {
                None if args.reordered => {
                    out.extend(["%!", verb.to_string().as_str(), "(BADINDEX)"]);
                }
                None => out.extend(["%!", verb.to_string().as_str(), "(MISSING)"]),
                Some(arg) => out.push_str(&directive(&d, verb, arg)),
            },
        }
    }
    let left = args.all.get(args.next..).unwrap_or_default();
    if !args.reordered && !left.is_empty() {
        let left: Vec<String> = left.iter().map(typed).collect();
        out.extend(["%!(EXTRA ", left.join(", ").as_str(), ")"]);
    }
    out
}

/// `int=5`, as in messages about a wrong verb.
fn typed(value: &Data) -> String {
    match value {
        Data::Nil => "<nil>".to_owned(),
        other => format!("{}={}", type_name(other), print(other)),
    }
}

fn directive(d: &Directive, verb: char, arg: &Data) -> String {
    let Some(mut body) = converted(d, verb, arg) else {
        return format!("%!{verb}({})", typed(arg));
    };
    let is_number =
        matches!(arg, Data::Int(_) | Data::Float(_)) && !matches!(verb, 'T' | 'c' | 'U');
    if let Some(sign) = d.sign.filter(|_| is_number && !body.starts_with(['-', '+'])) {
        body.insert(0, sign);
    }
    let missing = d.width.saturating_sub(body.chars().count());
    if d.left {
        body.push_str(&" ".repeat(missing));
    } else if d.zero && is_number {
        let sign = usize::from(body.starts_with(['-', '+', ' ']));
        body.insert_str(sign, &"0".repeat(missing));
    } else {
        body.insert_str(0, &" ".repeat(missing));
    }
    body
}

/// The argument as the verb writes it; `None` if the verb is not for it.
fn converted(d: &Directive, verb: char, arg: &Data) -> Option<String> {
    let cut = |text: &str| match d.precision {
        Some(most) => text.chars().take(most).collect(),
        None => text.to_owned(),
    };
    Some(match (verb, arg) {
        ('T', _) => type_name(arg).to_owned(),
        ('v' | 'g' | 'G', Data::Float(v)) => {
            let text = match d.precision {
                Some(digits) => significant(*v, digits),
                None => format_general(*v),
            };
            if verb == 'G' { text.replace('e', "E") } else { text }
        }
        ('v' | 's', Data::Text(text)) => cut(text),
        ('v', _) | ('s', Data::List(_) | Data::Map(_)) | ('t', Data::Bool(_)) => operand(arg),
        ('q', Data::Text(text)) => crate::labels::quote(&cut(text)),
        ('x', Data::Text(text)) => hex(&cut(text)),
        ('X', Data::Text(text)) => hex(&cut(text)).to_uppercase(),
        ('d', Data::Int(n)) => n.to_string(),
        ('x', Data::Int(n)) => signed(*n, &format!("{:x}", n.unsigned_abs())),
        ('X', Data::Int(n)) => signed(*n, &format!("{:X}", n.unsigned_abs())),
        ('o', Data::Int(n)) => signed(*n, &format!("{:o}", n.unsigned_abs())),
        ('b', Data::Int(n)) => signed(*n, &format!("{:b}", n.unsigned_abs())),
        ('c', Data::Int(n)) => {
            let code = u32::try_from(*n).ok().and_then(char::from_u32);
            code.unwrap_or(char::REPLACEMENT_CHARACTER).to_string()
        }
        ('U', Data::Int(n)) => format!("U+{n:04X}"),
        ('f' | 'F' | 'e', Data::Float(v)) if !v.is_finite() => format_general(*v),
        ('f' | 'F', Data::Float(v)) => format!("{v:.*}", d.precision.unwrap_or(6)),
        ('e', Data::Float(v)) => {
            let text = format!("{v:.*e}", d.precision.unwrap_or(6));
            let (mantissa, exp) = text.split_once('e').unwrap_or((&text, "0"));
            let exp: i32 = exp.parse().unwrap_or_default();
            format!("{mantissa}e{}{:02}", if exp < 0 { '-' } else { '+' }, exp.abs())
        }
        _ => return None,
    })
}

fn hex(text: &str) -> String {
    let digit = |value: u8| char::from_digit(u32::from(value), 16).unwrap_or_default();
    text.bytes().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

fn signed(n: i64, digits: &str) -> String {
    if n < 0 { format!("-{digits}") } else { digits.to_owned() }
}
