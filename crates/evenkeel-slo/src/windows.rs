//! Catalogues of alert windows: which burn rates page, for which SLO period.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use crate::duration::PromDuration;

/// One burn-rate condition over a short and a long window.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BurnWindow {
    /// Share of the whole budget that may burn in the long window. Unit: percent.
    pub error_budget_percent: f64,
    /// Ends the alert soon after the errors end.
    pub short_window: PromDuration,
    /// Proves that the burn is not a blip.
    pub long_window: PromDuration,
}

/// A quick and a slow condition; either of them raises the alert.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct BurnPair {
    /// High burn, short time.
    pub quick: BurnWindow,
    /// Low burn, long time.
    pub slow: BurnWindow,
}

/// The alert windows of one SLO period (kind `AlertWindows`).
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AlertWindows {
    /// SLO period they are made for.
    pub slo_period: PromDuration,
    /// Wakes a person up.
    pub page: BurnPair,
    /// Opens a ticket.
    pub ticket: BurnPair,
}

/// Alert windows by SLO period.
#[derive(Clone, Debug, PartialEq)]
pub struct Catalogue {
    by_period: BTreeMap<PromDuration, AlertWindows>,
}

const MINUTE: u64 = 60_000;
const HOUR: u64 = 3_600_000;
const DAY: u64 = 86_400_000;

impl BurnWindow {
    const fn of(percent: f64, short_ms: u64, long_ms: u64) -> Self {
        Self {
            error_budget_percent: percent,
            short_window: PromDuration::from_ms(short_ms),
            long_window: PromDuration::from_ms(long_ms),
        }
    }

    /// Burn rate at which the share is used up within the long window.
    ///
    /// Source: Sloth multiplies and divides in exactly this order, which its rules show in the
    /// last digits.
    pub fn factor(&self, period: PromDuration) -> f64 {
        (self.error_budget_percent * period.hours() / 100.0) / self.long_window.hours()
    }
}

impl AlertWindows {
    /// The rows of the Google SRE workbook, which Sloth uses for 28 and 30 days.
    const fn workbook(days: u64) -> Self {
        Self {
            slo_period: PromDuration::from_days(days),
            page: BurnPair {
                quick: BurnWindow::of(2.0, 5 * MINUTE, HOUR),
                slow: BurnWindow::of(5.0, 30 * MINUTE, 6 * HOUR),
            },
            ticket: BurnPair {
                quick: BurnWindow::of(10.0, 2 * HOUR, DAY),
                slow: BurnWindow::of(10.0, 6 * HOUR, 3 * DAY),
            },
        }
    }

    /// All windows, shortest first, each once.
    pub fn durations(&self) -> Vec<PromDuration> {
        let pairs = [self.page.quick, self.page.slow, self.ticket.quick, self.ticket.slow];
        let mut out: Vec<_> = pairs.iter().flat_map(|w| [w.short_window, w.long_window]).collect();
        out.sort_unstable();
        out.dedup();
        out
    }

    /// Reads the `spec` of an `AlertWindows` document; the error names the field.
    pub fn from_value(document: &Value) -> Result<Self, String> {
        let spec = document.get("spec").ok_or("spec is required")?;
        let slo_period = duration(spec, "spec", "sloPeriod")?;
        let pair = |name: &str| -> Result<BurnPair, String> {
            let at = format!("spec.{name}");
            let node = spec.get(name).ok_or_else(|| format!("{at} is required"))?;
            Ok(BurnPair { quick: window(node, &at, "quick")?, slow: window(node, &at, "slow")? })
        };
        Ok(Self { slo_period, page: pair("page")?, ticket: pair("ticket")? })
    }
}

impl Default for Catalogue {
    /// What Sloth has built in: 28 and 30 days.
    fn default() -> Self {
        Self::from_list([AlertWindows::workbook(28), AlertWindows::workbook(30)])
    }
}

impl Catalogue {
    /// A catalogue of exactly these; a later entry for one period wins.
    pub fn from_list(list: impl IntoIterator<Item = AlertWindows>) -> Self {
        Self { by_period: list.into_iter().map(|w| (w.slo_period, w)).collect() }
    }

    /// Adds or replaces the windows of one period.
    pub fn insert(&mut self, windows: AlertWindows) {
        self.by_period.insert(windows.slo_period, windows);
    }

    /// The windows for a period, if it is in the catalogue.
    pub fn get(&self, period: PromDuration) -> Option<&AlertWindows> {
        self.by_period.get(&period)
    }

    /// The periods it knows, for messages.
    pub fn periods(&self) -> String {
        self.by_period.keys().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    }
}

fn window(node: &Value, at: &str, name: &str) -> Result<BurnWindow, String> {
    let at = format!("{at}.{name}");
    let node = node.get(name).ok_or_else(|| format!("{at} is required"))?;
    let percent = node.get("errorBudgetPercent").and_then(Value::as_f64).unwrap_or(0.0);
    if !(percent > 0.0 && percent.is_finite()) {
        return Err(format!("{at}.errorBudgetPercent must be a number above 0"));
    }
    Ok(BurnWindow {
        error_budget_percent: percent,
        short_window: duration(node, &at, "shortWindow")?,
        long_window: duration(node, &at, "longWindow")?,
    })
}

fn duration(node: &Value, at: &str, name: &str) -> Result<PromDuration, String> {
    let text = node.get(name).and_then(Value::as_str).unwrap_or("");
    match PromDuration::parse(text) {
        Ok(value) if !value.is_zero() => Ok(value),
        Ok(_) => Err(format!("{at}.{name} must not be zero")),
        Err(_) if text.is_empty() => Err(format!("{at}.{name} is required")),
        Err(error) => Err(format!("{at}.{name}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::number::go_g;

    #[test]
    fn factors_have_the_digits_that_sloth_prints() {
        let factors = |days| {
            let w = AlertWindows::workbook(days);
            [w.page.quick, w.page.slow, w.ticket.quick, w.ticket.slow]
                .map(|b| go_g(b.factor(w.slo_period)))
                .join(" ")
        };
        assert_eq!(factors(30), "14.4 6 3 1");
        assert_eq!(factors(28), "13.44 5.6000000000000005 2.8000000000000003 0.9333333333333333");
    }

    #[test]
    fn a_missing_field_is_named() {
        let document = serde_json::json!({ "spec": { "sloPeriod": "7d", "page": {
            "quick": { "errorBudgetPercent": 8, "shortWindow": "5m", "longWindow": "0" } } } });
        assert_eq!(
            AlertWindows::from_value(&document).unwrap_err(),
            "spec.page.quick.longWindow must not be zero"
        );
    }
}
