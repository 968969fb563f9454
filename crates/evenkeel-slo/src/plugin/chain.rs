//! SLO plugins: the steps that make and change rules, in Sloth's order.

use serde_json::Value;

use super::PluginError;
use crate::duration::PromDuration;
use crate::model::{Labels, PluginChain, PluginRef};
use crate::query::Dialect;

/// One step of rule generation.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum SloPlugin {
    /// Checks the SLO.
    Validate(Dialect),
    /// Records the error ratio of every window.
    SliRules {
        /// The period is an average of the shortest window instead of the full query.
        optimized: bool,
    },
    /// Records objective, budget and burn rates.
    MetadataRules,
    /// Page and ticket alert.
    AlertRules,
    /// Does nothing.
    Noop,
    /// Sets the evaluation interval of the groups.
    Intervals(Intervals),
    /// Adds labels to one metadata rule.
    InfoLabels {
        /// Labels to add.
        labels: Labels,
        /// The rule, by the metric it records.
        metric: String,
    },
    /// Takes labels off the recorded series.
    RemoveLabels(RemoveLabels),
    /// An alert when the budget is gone.
    ExhaustedAlert(ExhaustedAlert),
    /// Weighs each window by its traffic.
    DenominatorCorrected {
        /// As for [`SloPlugin::SliRules`].
        optimized: bool,
    },
    /// Records the number of events of every window.
    TotalAmount,
}

/// Intervals of the three groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Intervals {
    /// SLI recordings.
    pub sli: PromDuration,
    /// Metadata recordings.
    pub metadata: PromDuration,
    /// Alerts.
    pub alert: PromDuration,
}

/// What the plugin `remove_labels` keeps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RemoveLabels {
    /// Labels that stay.
    pub preserve: Vec<String>,
    /// Metrics whose labels all stay.
    pub skip_metrics: Vec<String>,
}

/// Configuration of the plugin `error_budget_exhausted_alert`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ExhaustedAlert {
    /// Remaining ratio at which it fires.
    pub threshold: f64,
    /// How long it must last.
    pub hold: PromDuration,
    /// Name of the alert.
    pub name: String,
    /// Its annotations.
    pub annotations: Labels,
    /// Its labels.
    pub labels: Labels,
    /// More matchers for the series.
    pub selector: Labels,
}

/// The ids this build knows.
pub const SLO_PLUGIN_IDS: &[&str] = &[
    "sloth.dev/contrib/denominator_corrected_rules/v1",
    "sloth.dev/contrib/error_budget_exhausted_alert/v1",
    "sloth.dev/contrib/info_labels/v1",
    "sloth.dev/contrib/remove_labels/v1",
    "sloth.dev/contrib/rule_intervals/v1",
    "sloth.dev/contrib/sli_total_amount/v1",
    "sloth.dev/contrib/validate_victoria_metrics/v1",
    "sloth.dev/core/alert_rules/v1",
    "sloth.dev/core/debug/v1",
    "sloth.dev/core/metadata_rules/v1",
    "sloth.dev/core/noop/v1",
    "sloth.dev/core/sli_rules/v1",
    "sloth.dev/core/validate/v1",
    // The one Sloth's own tests use; it does what info_labels does.
    "integration-tests/plugin1",
];

/// Puts the chain of one SLO in order: below priority 0, the defaults, then the others.
///
/// The error comes with the index of the plugin in the SLO's own chain, if it is there.
pub(crate) fn resolve_chain(
    defaults: &[SloPlugin],
    application: &[PluginRef],
    own: &PluginChain,
) -> Result<Vec<SloPlugin>, (Option<usize>, PluginError)> {
    let mut steps: Vec<(i64, SloPlugin)> = Vec::new();
    if !own.override_previous {
        for plugin in application {
            steps.push((plugin.priority, make(plugin).map_err(|e| (None, e))?));
        }
    }
    for (index, plugin) in own.plugins.iter().enumerate() {
        steps.push((plugin.priority, make(plugin).map_err(|e| (Some(index), e))?));
    }
    steps.sort_by_key(|(priority, _)| *priority);
    let late = steps.iter().position(|(p, _)| *p >= 0).unwrap_or(steps.len());
    let tail = steps.split_off(late);
    let mut out: Vec<_> = steps.into_iter().map(|(_, s)| s).collect();
    if !own.override_previous {
        out.extend_from_slice(defaults);
    }
    out.extend(tail.into_iter().map(|(_, s)| s));
    Ok(out)
}

fn make(plugin: &PluginRef) -> Result<SloPlugin, PluginError> {
    let config = Config(&plugin.config);
    let made = match plugin.id.as_str() {
        "sloth.dev/core/validate/v1" => Ok(SloPlugin::Validate(Dialect::PromQl)),
        "sloth.dev/contrib/validate_victoria_metrics/v1" => {
            Ok(SloPlugin::Validate(Dialect::MetricsQl))
        }
        "sloth.dev/core/sli_rules/v1" => {
            Ok(SloPlugin::SliRules { optimized: !config.flag("disableOptimized") })
        }
        "sloth.dev/core/metadata_rules/v1" => Ok(SloPlugin::MetadataRules),
        "sloth.dev/core/alert_rules/v1" => Ok(SloPlugin::AlertRules),
        "sloth.dev/core/debug/v1" | "sloth.dev/core/noop/v1" => Ok(SloPlugin::Noop),
        "sloth.dev/contrib/rule_intervals/v1" => config.intervals(),
        "sloth.dev/contrib/info_labels/v1" | "integration-tests/plugin1" => config.info_labels(),
        "sloth.dev/contrib/remove_labels/v1" => Ok(SloPlugin::RemoveLabels(RemoveLabels {
            preserve: config.list("preserveLabels"),
            skip_metrics: config.list("skipMetrics"),
        })),
        "sloth.dev/contrib/error_budget_exhausted_alert/v1" => config.exhausted(),
        "sloth.dev/contrib/denominator_corrected_rules/v1" => {
            Ok(SloPlugin::DenominatorCorrected { optimized: !config.flag("disableOptimized") })
        }
        "sloth.dev/contrib/sli_total_amount/v1" => Ok(SloPlugin::TotalAmount),
        id => {
            return Err(PluginError::Unknown { id: id.to_owned(), known: SLO_PLUGIN_IDS });
        }
    };
    made.map_err(|message| PluginError::Refused { id: plugin.id.clone(), message })
}

struct Config<'a>(&'a Value);

impl Config<'_> {
    fn flag(&self, key: &str) -> bool {
        self.0.get(key).and_then(Value::as_bool).unwrap_or(false)
    }

    fn text(&self, key: &str) -> &str {
        self.0.get(key).and_then(Value::as_str).unwrap_or("")
    }

    fn list(&self, key: &str) -> Vec<String> {
        let items = self.0.get(key).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        items.iter().filter_map(|v| v.as_str().map(str::to_owned)).collect()
    }

    fn labels(&self, key: &str) -> Result<Labels, String> {
        let Some(map) = self.0.get(key).and_then(Value::as_object) else {
            return Ok(Labels::new());
        };
        map.iter()
            .map(|(k, v)| match v.as_str() {
                Some(text) => Ok((k.clone(), text.to_owned())),
                None => Err(format!("invalid config: {key}.{k} must be a string")),
            })
            .collect()
    }

    fn intervals(&self) -> Result<SloPlugin, String> {
        let part = |key: &str| -> Result<Option<PromDuration>, String> {
            let text = self.0.get("interval").and_then(|i| i.get(key)).and_then(Value::as_str);
            let parsed = text.map(PromDuration::parse).transpose();
            let parsed = parsed.map_err(|e| format!("invalid config: interval.{key}: {e}"))?;
            Ok(parsed.filter(|d| !d.is_zero()))
        };
        let default = part("default")?.ok_or("at least default interval is required")?;
        Ok(SloPlugin::Intervals(Intervals {
            sli: part("sliError")?.unwrap_or(default),
            metadata: part("metadata")?.unwrap_or(default),
            alert: part("alert")?.unwrap_or(default),
        }))
    }

    fn info_labels(&self) -> Result<SloPlugin, String> {
        let labels = self.labels("labels")?;
        if labels.is_empty() {
            return Err("at least one label is required".to_owned());
        }
        let metric = self.text("metricName");
        let metric = if metric.is_empty() { "sloth_slo_info" } else { metric };
        Ok(SloPlugin::InfoLabels { labels, metric: metric.to_owned() })
    }

    fn exhausted(&self) -> Result<SloPlugin, String> {
        let hold = match self.text("for") {
            "" => PromDuration::default(),
            text => PromDuration::parse(text).map_err(|e| format!("invalid plugin config: {e}"))?,
        };
        let hold = if hold.is_zero() { PromDuration::from_ms(300_000) } else { hold };
        let name = self.text("alert_name");
        Ok(SloPlugin::ExhaustedAlert(ExhaustedAlert {
            threshold: self.0.get("threshold").and_then(Value::as_f64).unwrap_or(0.0),
            hold,
            name: if name.is_empty() { "ErrorBudgetExhausted" } else { name }.to_owned(),
            annotations: self.labels("annotations")?,
            labels: self.labels("alert_labels")?,
            selector: self.labels("selector_labels")?,
        }))
    }
}
