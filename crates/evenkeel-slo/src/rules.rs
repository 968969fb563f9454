//! From one SLO to its rule groups, rule for rule as Sloth generates them.

use serde::Serialize;

use crate::duration::PromDuration;
use crate::model::{Labels, Slo, SpecKind, label_matcher, merge};
use crate::number::{go_f, go_g};
use crate::plugin::{ExhaustedAlert, RemoveLabels, SloPlugin};
use crate::template::Template;
use crate::windows::{AlertWindows, BurnPair};

/// One recording or alerting rule.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Rule {
    /// What it makes.
    #[serde(flatten)]
    pub output: RuleOutput,
    /// The `PromQL` expression.
    pub expr: String,
    /// How long an alert's condition must last. `None`: fires at once.
    #[serde(rename = "for", skip_serializing_if = "Option::is_none")]
    pub hold: Option<PromDuration>,
    /// Labels added to the result.
    #[serde(skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// Annotations of an alert.
    #[serde(skip_serializing_if = "Labels::is_empty")]
    pub annotations: Labels,
}

/// The name a rule's result gets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RuleOutput {
    /// A series of this name.
    Record(String),
    /// An alert of this name.
    Alert(String),
}

/// Rules that are evaluated one after the other.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct RuleGroup {
    /// Unique name.
    pub name: String,
    /// Evaluation interval. `None`: the server's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<PromDuration>,
    /// In order of evaluation.
    pub rules: Vec<Rule>,
}

/// The groups of one SLO.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct SloRules {
    /// Error ratio per window.
    pub sli: RuleGroup,
    /// Objective, budget, burn rates, description.
    pub metadata: RuleGroup,
    /// Page and ticket.
    pub alerts: RuleGroup,
    /// Groups of plugins and extensions.
    pub extra: Vec<RuleGroup>,
}

/// What ends up in the labels of `sloth_slo_info`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Info {
    /// Version label.
    pub version: String,
    /// Mode label, `cli-gen-prom` and so on.
    pub mode: String,
    /// The notation.
    pub spec: SpecKind,
}

/// Everything a step may look at.
struct Context<'a> {
    slo: &'a Slo,
    windows: &'a AlertWindows,
    info: &'a Info,
    filter: String,
    id_labels: Labels,
    labels: Labels,
}

/// Runs the chain over one SLO. The error is Sloth's message for the step that refused.
pub(crate) fn build(
    slo: &Slo,
    windows: &AlertWindows,
    info: &Info,
    chain: &[SloPlugin],
) -> Result<SloRules, String> {
    let id_labels = slo.id_labels();
    let context = Context {
        slo,
        windows,
        info,
        filter: slo.filter(),
        labels: merge(&[&id_labels, &slo.labels]),
        id_labels,
    };
    let group = |kind: &str| RuleGroup {
        name: format!("sloth-slo-{kind}-{}", slo.id),
        ..RuleGroup::default()
    };
    let mut out = SloRules {
        sli: group("sli-recordings"),
        metadata: group("meta-recordings"),
        alerts: group("alerts"),
        extra: Vec::new(),
    };
    for step in chain {
        context.step(step, &mut out)?;
    }
    Ok(out)
}

impl SloRules {
    /// The groups that have rules, in Sloth's order.
    pub(crate) fn into_groups(self) -> Vec<RuleGroup> {
        let mut out = vec![self.sli, self.metadata, self.alerts];
        out.extend(self.extra);
        out.retain(|g| !g.rules.is_empty());
        out
    }
}

/// Name of the series of one window.
pub fn sli_metric(window: PromDuration) -> String {
    format!("slo:sli_error:ratio_rate{window}")
}

fn record(name: impl Into<String>, expr: String, labels: Labels) -> Rule {
    Rule {
        output: RuleOutput::Record(name.into()),
        expr,
        hold: None,
        labels,
        annotations: Labels::new(),
    }
}

impl Context<'_> {
    fn step(&self, step: &SloPlugin, out: &mut SloRules) -> Result<(), String> {
        match step {
            SloPlugin::Validate(_) | SloPlugin::Noop => {}
            SloPlugin::SliRules { optimized } => out.sli.rules = self.sli_rules(*optimized)?,
            SloPlugin::MetadataRules => out.metadata.rules = self.metadata_rules(),
            SloPlugin::AlertRules => out.alerts.rules = self.alert_rules(),
            SloPlugin::Intervals(intervals) => {
                out.sli.interval = Some(intervals.sli);
                out.metadata.interval = Some(intervals.metadata);
                out.alerts.interval = Some(intervals.alert);
            }
            SloPlugin::InfoLabels { labels, metric } => {
                let wanted = RuleOutput::Record(metric.clone());
                if let Some(rule) = out.metadata.rules.iter_mut().find(|r| r.output == wanted) {
                    rule.labels.extend(labels.iter().map(|(k, v)| (k.clone(), v.clone())));
                }
            }
            SloPlugin::RemoveLabels(config) => self.remove_labels(config, out),
            SloPlugin::ExhaustedAlert(config) => {
                out.alerts.rules.push(self.exhausted_alert(config));
            }
            SloPlugin::DenominatorCorrected { optimized } => {
                self.denominator_corrected(*optimized, out)?;
            }
            SloPlugin::TotalAmount => out.extra.push(self.total_amount()?),
        }
        Ok(())
    }

    /// Alert windows, then the period (again, should it be among them).
    fn all_windows(&self) -> Vec<PromDuration> {
        let mut out = self.windows.durations();
        out.push(self.slo.window);
        out
    }

    fn sli_rules(&self, optimized: bool) -> Result<Vec<Rule>, String> {
        let text = match (&self.slo.sli.events, &self.slo.sli.raw) {
            (Some(e), _) => format!("({})\n/\n({})\n", e.error_query, e.total_query),
            (None, Some(raw)) => format!("({raw})"),
            (None, None) => return Err("invalid SLI type".to_owned()),
        };
        let template = Template::parse(&text).map_err(|e| e.to_string())?;
        let rule = |window: PromDuration| {
            let expr = if optimized && window == self.slo.window {
                self.optimized_sli(window)?
            } else {
                template.render(&window.to_string())
            };
            Ok(self.sli_rule(window, expr))
        };
        self.all_windows().into_iter().map(rule).collect()
    }

    fn sli_rule(&self, window: PromDuration, expr: String) -> Rule {
        let mut labels = self.id_labels.clone();
        labels.insert("sloth_window".to_owned(), window.to_string());
        labels.extend(self.slo.labels.iter().map(|(k, v)| (k.clone(), v.clone())));
        record(sli_metric(window), expr, labels)
    }

    /// The average of the shortest window: cheap, not weighted by requests.
    fn optimized_sli(&self, window: PromDuration) -> Result<String, String> {
        let short = self.windows.page.quick.short_window;
        if window == short {
            let message = "can't optimize using the same shortwindow as the window to optimize";
            return Err(message.to_owned());
        }
        let series = format!("{}{}[{window}]", sli_metric(short), self.filter);
        Ok(format!(
            "sum_over_time({series})\n/ ignoring (sloth_window)\ncount_over_time({series})\n"
        ))
    }

    fn metadata_rules(&self) -> Vec<Rule> {
        let f = &self.filter;
        let ratio = go_g(self.slo.objective / 100.0);
        let burn = |window| {
            let on = "/ on(sloth_id, sloth_slo, sloth_service) group_left";
            format!("{}{f}\n{on}\nslo:error_budget:ratio{f}\n", sli_metric(window))
        };
        let mut info = self.labels.clone();
        for (key, value) in [
            ("sloth_version", self.info.version.clone()),
            ("sloth_mode", self.info.mode.clone()),
            ("sloth_spec", self.info.spec.spec_label().to_owned()),
            ("sloth_objective", go_f(self.slo.objective)),
        ] {
            info.insert(key.to_owned(), value);
        }
        let rule = |name: &str, expr| record(name, expr, self.labels.clone());
        let days = go_g(self.slo.window.hours() / 24.0);
        vec![
            rule("slo:objective:ratio", format!("vector({ratio})")),
            rule("slo:error_budget:ratio", format!("vector(1-{ratio})")),
            rule("slo:time_period:days", format!("vector({days})")),
            rule("slo:current_burn_rate:ratio", burn(self.windows.page.quick.short_window)),
            rule("slo:period_burn_rate:ratio", burn(self.slo.window)),
            rule(
                "slo:period_error_budget_remaining:ratio",
                format!("1 - slo:period_burn_rate:ratio{f}"),
            ),
            record("sloth_slo_info", "vector(1)".to_owned(), info),
        ]
    }

    fn alert_rules(&self) -> Vec<Rule> {
        let one = |severity: &str, alert: &crate::model::Alert, pair: &BurnPair| {
            let mut labels = Labels::from([("sloth_severity".to_owned(), severity.to_owned())]);
            labels.extend(alert.labels.clone());
            let subject =
                "{{$labels.sloth_service}} {{$labels.sloth_slo}} SLO error budget burn rate is";
            let mut annotations = Labels::from([
                ("title".to_owned(), format!("({severity}) {subject} too fast.")),
                ("summary".to_owned(), format!("{subject} over expected.")),
            ]);
            annotations.extend(alert.annotations.clone());
            Rule {
                output: RuleOutput::Alert(alert.name.clone()),
                expr: self.alert_expr(pair),
                hold: None,
                labels,
                annotations,
            }
        };
        let page = self.slo.page_alert.as_ref().map(|a| one("page", a, &self.windows.page));
        let ticket = self.slo.ticket_alert.as_ref().map(|a| one("ticket", a, &self.windows.ticket));
        page.into_iter().chain(ticket).collect()
    }

    fn alert_expr(&self, pair: &BurnPair) -> String {
        let budget = go_g(self.slo.budget_ratio());
        let mut out = String::with_capacity(1024);
        for (index, window) in [pair.quick, pair.slow].iter().enumerate() {
            let factor = go_g(window.factor(self.windows.slo_period));
            let above = |w| {
                let series = format!("{}{}", sli_metric(w), self.filter);
                format!("    max({series} > ({factor} * {budget})) without (sloth_window)\n")
            };
            out.push_str(if index == 0 { "(\n" } else { "or\n(\n" });
            out.push_str(&above(window.short_window));
            out.push_str("    and\n");
            out.push_str(&above(window.long_window));
            out.push_str(")\n");
        }
        out
    }

    fn remove_labels(&self, config: &RemoveLabels, out: &mut SloRules) {
        let keeps = |key: &String, window: bool| {
            self.id_labels.contains_key(key)
                || config.preserve.contains(key)
                || (window && key == "sloth_window")
        };
        for (group, window) in [(&mut out.sli, true), (&mut out.metadata, false)] {
            for rule in &mut group.rules {
                let RuleOutput::Record(name) = &rule.output else { continue };
                if name != "sloth_slo_info" && !config.skip_metrics.contains(name) {
                    rule.labels.retain(|key, _| keeps(key, window));
                }
            }
        }
    }

    fn exhausted_alert(&self, config: &ExhaustedAlert) -> Rule {
        let matcher = label_matcher(&merge(&[&self.labels, &config.selector]));
        let threshold = go_g(config.threshold);
        Rule {
            output: RuleOutput::Alert(config.name.clone()),
            expr: format!("slo:period_error_budget_remaining:ratio{matcher} <= {threshold}"),
            hold: Some(config.hold),
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
        }
    }

    fn denominator_corrected(&self, optimized: bool, out: &mut SloRules) -> Result<(), String> {
        let Some(events) = &self.slo.sli.events else {
            return Err("denominator corrected SLI requires SLI event type".to_owned());
        };
        let parse = |text: &str| Template::parse(text).map_err(|e| e.to_string());
        let (error, total) = (parse(&events.error_query)?, parse(&events.total_query)?);
        let correction = "slo:numerator_correction:ratio";
        let mut rules = Vec::new();
        for window in self.all_windows() {
            let w = window.to_string();
            let (bad, all) = (error.render(&w), total.render(&w));
            let expr = match (window == self.slo.window, optimized) {
                (true, true) => self.optimized_sli(window)?,
                (true, false) => format!("({bad})\n/\n({all})\n"),
                (false, _) => {
                    format!("(\n{correction}{w}{}\n* on()\n({bad})\n)\n/\n({all})\n", self.filter)
                }
            };
            rules.push(self.sli_rule(window, expr));
        }
        out.sli.rules = rules;
        let period = total.render(&self.slo.window.to_string());
        for window in self.windows.durations() {
            let w = window.to_string();
            let expr = format!("({})/({period})", total.render(&w));
            let name = format!("{correction}{w}");
            out.metadata.rules.push(record(name, expr, self.labels.clone()));
        }
        Ok(())
    }

    fn total_amount(&self) -> Result<RuleGroup, String> {
        let Some(events) = &self.slo.sli.events else {
            return Err("SLI event type with TotalQuery required".to_owned());
        };
        let total = Template::parse(&events.total_query).map_err(|e| e.to_string())?;
        let rule = |window: PromDuration| {
            let w = window.to_string();
            record(format!("slo:sli_total:amount{w}"), total.render(&w), self.labels.clone())
        };
        Ok(RuleGroup {
            name: format!("sloth-slo-sli-total-amount-{}", self.slo.id),
            interval: None,
            rules: self.all_windows().into_iter().map(rule).collect(),
        })
    }
}

/// The series `slo_error_budget_remaining_ratio{service, slo_name}` of one SLO.
///
/// Weighted by requests over the whole period, and absent (not 0, not 1) when there is no
/// traffic. `None` when the objective leaves no budget or the query cannot be rendered.
pub fn budget_series(slo: &Slo) -> Option<RuleGroup> {
    let budget = crate::budget::Objective::new(slo.objective)?.budget_text()?;
    let w = slo.window.to_string();
    let render = |text: &str| Template::parse(text).ok().map(|t| t.render(&w));
    let ratio = match (&slo.sli.events, &slo.sli.raw) {
        (Some(e), _) => {
            format!("({})\n/\n(({}) > 0)", render(&e.error_query)?, render(&e.total_query)?)
        }
        (None, Some(raw)) => format!("({})", render(raw)?),
        (None, None) => return None,
    };
    let mut labels = slo.labels.clone();
    labels.insert("service".to_owned(), slo.service.clone());
    labels.insert("slo_name".to_owned(), slo.name.clone());
    let expr = format!("1 - (\n{ratio}\n)\n/ {budget}\n");
    Some(RuleGroup {
        name: format!("evenkeel-slo-budget-{}", slo.id),
        interval: None,
        rules: vec![record("slo_error_budget_remaining_ratio", expr, labels)],
    })
}
