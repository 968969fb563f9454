//! Parameters of a request: query string and form, times and durations as people write them.

use bytes::Bytes;
use evenkeel_promql::{
    matcher::Matcher,
    number::{parse_duration_ms, parse_float},
    parser::parse_selector,
    storage::TimeRange,
};
use http::{Request, header};
use jiff::Timestamp;

use super::ApiError;

/// Parameters one request may have.
const PARAMS_MAX: usize = 1_000;
/// Milliseconds that are exact as a float and inside of any calendar.
const MS_MAX: f64 = 9.0e15;

/// All parameters, the form's before those of the URL.
pub(super) struct Params {
    pairs: Vec<(String, String)>,
    now_ms: i64,
}

impl Params {
    pub(super) fn of(request: &Request<Bytes>, now: Timestamp) -> Result<Self, ApiError> {
        let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        let is_form =
            kind.is_some_and(|kind| kind.starts_with("application/x-www-form-urlencoded"));
        let body = if is_form { request.body().as_ref() } else { &[] };
        let url = request.uri().query().unwrap_or_default().as_bytes();
        let mut pairs = Vec::new();
        for text in [body, url] {
            for pair in text.split(|b| *b == b'&').filter(|pair| !pair.is_empty()) {
                if pairs.len() >= PARAMS_MAX {
                    let text = format!("more than {PARAMS_MAX} parameters");
                    return Err(ApiError::BadData(text));
                }
                let at = pair.iter().position(|b| *b == b'=').unwrap_or(pair.len());
                let (name, value) = pair.split_at(at);
                pairs.push((decode(name)?, decode(value.get(1..).unwrap_or_default())?));
            }
        }
        Ok(Self { pairs, now_ms: now.as_millisecond() })
    }

    /// The first value; empty if there is none.
    pub(super) fn get(&self, name: &str) -> &str {
        let found = self.pairs.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str()).unwrap_or_default()
    }

    pub(super) fn all(&self, name: &'static str) -> impl Iterator<Item = &str> {
        self.pairs.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// A time in milliseconds; now if it is not given.
    pub(super) fn time(&self, name: &str) -> Result<i64, ApiError> {
        match self.get(name) {
            "" => Ok(self.now_ms),
            text => parse_time(name, text),
        }
    }

    /// A time that must be given.
    pub(super) fn required_time(&self, name: &str) -> Result<i64, ApiError> {
        parse_time(name, self.get(name))
    }

    /// A duration in milliseconds that must be given.
    pub(super) fn duration(&self, name: &str) -> Result<i64, ApiError> {
        let text = self.get(name);
        if let Some(seconds) = parse_float(text) {
            return milliseconds(seconds).ok_or_else(|| {
                let text = format!("cannot parse {text:?} to a valid duration. It overflows int64");
                ApiError::parameter(name, text)
            });
        }
        parse_duration_ms(text).ok_or_else(|| {
            ApiError::parameter(name, format!("cannot parse {text:?} to a valid duration"))
        })
    }

    /// The same, `None` if it is not given.
    pub(super) fn optional_duration(&self, name: &str) -> Result<Option<i64>, ApiError> {
        if self.get(name).is_empty() { Ok(None) } else { self.duration(name).map(Some) }
    }

    /// Results to return at most; `None` for all.
    pub(super) fn limit(&self) -> Result<Option<usize>, ApiError> {
        self.number("limit")
    }

    /// A count; `None` if it is not given or 0.
    pub(super) fn number(&self, name: &str) -> Result<Option<usize>, ApiError> {
        match self.get(name) {
            "" | "0" => Ok(None),
            text => text.parse().map(Some).map_err(|_| {
                ApiError::parameter(name, format!("{text:?} is not a number from 0 on"))
            }),
        }
    }

    /// Whether a switch is on.
    pub(super) fn flag(&self, name: &str) -> Result<bool, ApiError> {
        match self.get(name) {
            "" | "0" | "false" => Ok(false),
            "1" | "true" => Ok(true),
            other => Err(ApiError::parameter(name, format!("{other:?} is not true or false"))),
        }
    }

    /// `start` and `end`; all of time if they are not given.
    pub(super) fn range(&self) -> Result<TimeRange, ApiError> {
        let bound = |name, default| match self.get(name) {
            "" => Ok(default),
            text => parse_time(name, text),
        };
        let range =
            TimeRange { start_ms: bound("start", i64::MIN)?, end_ms: bound("end", i64::MAX)? };
        if range.end_ms < range.start_ms {
            return Err(ApiError::parameter("end", "end timestamp must not be before start time"));
        }
        Ok(range)
    }

    /// The selectors in `match[]`.
    pub(super) fn matchers(&self) -> Result<Vec<Vec<Matcher>>, ApiError> {
        let bad = |problem: String| ApiError::parameter("match[]", problem);
        self.all("match[]")
            .map(|text| {
                let matchers = parse_selector(text).map_err(|error| bad(error.to_string()))?;
                if matchers.iter().all(|matcher| matcher.matches("")) {
                    let text = "match[] must contain at least one non-empty matcher";
                    return Err(bad(text.to_owned()));
                }
                Ok(matchers)
            })
            .collect()
    }
}

fn parse_time(name: &str, text: &str) -> Result<i64, ApiError> {
    let parsed = match parse_float(text) {
        Some(seconds) => milliseconds(seconds),
        None => text.parse::<Timestamp>().ok().map(Timestamp::as_millisecond),
    };
    parsed.ok_or_else(|| {
        ApiError::parameter(name, format!("cannot parse {text:?} to a valid timestamp"))
    })
}

#[expect(clippy::cast_possible_truncation, reason = "checked to be far below 2^53")]
fn milliseconds(seconds: f64) -> Option<i64> {
    let ms = (seconds * 1000.0).round();
    (ms.is_finite() && ms.abs() < MS_MAX).then_some(ms as i64)
}

/// Undoes the encoding of forms.
fn decode(text: &[u8]) -> Result<String, ApiError> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'+' => out.push(b' '),
            b'%' => {
                let mut digit = || bytes.next().and_then(|b| char::from(*b).to_digit(16));
                let (high, low) = (digit(), digit());
                let code = high.zip(low).and_then(|(high, low)| u8::try_from(high * 16 + low).ok());
                let bad = || ApiError::BadData("invalid URL escape in a parameter".to_owned());
                out.push(code.ok_or_else(bad)?);
            }
            other => out.push(*other),
        }
    }
    String::from_utf8(out)
        .map_err(|_| ApiError::BadData("a parameter is not valid UTF-8".to_owned()))
}
