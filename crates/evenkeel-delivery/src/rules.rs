//! A Canary's spec, checked and with its defaults, so that deciding needs no parsing.

use std::time::Duration;

use evenkeel_api::canary::{
    Canary, CanaryAnalysis, CanaryMetric, CanaryWebhook, TemplateRef, ThresholdRange,
};
use evenkeel_base::{format_duration, parse_duration};
use evenkeel_control::redact;

use crate::{builtin::Source, fill, router::Router, spec_error::SpecError, supported};

/// The largest share in percent of a plain Service whose primary has all its pods, but for 100.
pub(crate) const PCT_MAX: i32 = 50;

/// Flagger's lower bound of the interval: shorter ones measure noise.
const INTERVAL_MIN: Duration = Duration::from_secs(10);
/// Longest interval: with more a release would not end in the lifetime of a version, and the text is
/// likely to have a digit or a unit too much.
const INTERVAL_MAX: Duration = Duration::from_hours(7 * 24);
/// Longest window of a metric: as long as that of a budget may be.
const WINDOW_MAX: Duration = Duration::from_hours(90 * 24);
/// Longest timeout of a webhook: as long as an approval is waited for.
const HOOK_TIMEOUT_MAX: Duration = Duration::from_hours(24);
/// Default of `spec.analysis.interval` and of a metric's.
const INTERVAL_DEFAULT: Duration = Duration::from_mins(1);
/// Default of a webhook's timeout.
const HOOK_TIMEOUT: Duration = Duration::from_secs(10);
/// Default of `spec.progressDeadlineSeconds`.
const DEADLINE: Duration = Duration::from_mins(10);

/// What the spec says, checked.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Rules {
    pub(crate) interval: Duration,
    pub(crate) threshold: i32,
    pub(crate) ramp: Ramp,
    /// Checks without traffic of a blue/green release; 0 is a canary release.
    pub(crate) iterations: i32,
    /// Percent given back per tick of the promotion; 0 is all at once.
    pub(crate) promotion_step: i32,
    pub(crate) primary_ready_pct: i32,
    pub(crate) canary_ready_pct: i32,
    pub(crate) deadline: Duration,
    pub(crate) metrics: Vec<MetricRule>,
    pub(crate) hooks: Vec<HookRule>,
    pub(crate) source: Source,
}

/// The weights a new version goes through.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Ramp(Vec<i32>);

/// One measure, checked.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct MetricRule {
    pub(crate) name: String,
    pub(crate) window: Duration,
    pub(crate) bounds: ThresholdRange,
    pub(crate) kind: MetricKind,
}

/// What is measured.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum MetricKind {
    /// Percent of answers that are not 5xx.
    SuccessRate,
    /// 99th percentile in milliseconds.
    Duration,
    /// `PromQL` with `{{ ... }}` in it.
    Query(String),
    /// The query of a `MetricTemplate`.
    Template(TemplateRef, Vec<(String, String)>),
}

/// When a webhook is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HookKind {
    ConfirmRollout,
    PreRollout,
    Rollout,
    ConfirmTrafficIncrease,
    ConfirmPromotion,
    PostRollout,
    Rollback,
    Event,
}

impl HookKind {
    const ALL: [(&'static str, Self); 8] = [
        ("confirm-rollout", Self::ConfirmRollout),
        ("pre-rollout", Self::PreRollout),
        ("rollout", Self::Rollout),
        ("confirm-traffic-increase", Self::ConfirmTrafficIncrease),
        ("confirm-promotion", Self::ConfirmPromotion),
        ("post-rollout", Self::PostRollout),
        ("rollback", Self::Rollback),
        ("event", Self::Event),
    ];

    pub(crate) fn as_str(self) -> &'static str {
        Self::ALL.iter().find(|(_, kind)| *kind == self).map_or("rollout", |(name, _)| name)
    }
}

/// One webhook, checked.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct HookRule {
    pub(crate) name: String,
    pub(crate) kind: HookKind,
    pub(crate) url: String,
    pub(crate) timeout: Duration,
    pub(crate) retries: u32,
    pub(crate) metadata: std::collections::BTreeMap<String, String>,
    /// No alert is sent while it withholds its approval.
    pub(crate) muted: bool,
}

impl Default for Rules {
    /// For a Canary whose spec says nothing: enough to end a run and to let go of its target.
    fn default() -> Self {
        Self {
            interval: INTERVAL_DEFAULT,
            threshold: 1,
            ramp: Ramp::default(),
            iterations: 0,
            promotion_step: 0,
            primary_ready_pct: 100,
            canary_ready_pct: 100,
            deadline: DEADLINE,
            metrics: Vec::new(),
            hooks: Vec::new(),
            source: Source::Mesh,
        }
    }
}

impl Rules {
    /// Checks a spec.
    pub(crate) fn of(canary: &Canary) -> Result<Self, SpecError> {
        let spec = &canary.spec;
        let analysis = &spec.analysis;
        let source = source(spec.provider.as_deref())?;
        let router = Router::of(spec.provider.as_deref());
        supported::check(canary, router)?;
        let interval =
            duration("spec.analysis.interval", analysis.interval.as_deref(), INTERVAL_MAX)?;
        let deadline = spec
            .progress_deadline_seconds
            .map(|seconds| Duration::from_secs(u64::try_from(seconds).unwrap_or_default()));
        let metrics = analysis.metrics.iter().enumerate().map(|(i, m)| MetricRule::of(i, m));
        let ramp = Ramp::of(analysis, spec.skip_analysis)?;
        let iterations = analysis.iterations.unwrap_or_default().max(0);
        if router == Router::Service && iterations == 0 {
            ramp.check_pods(analysis)?;
        }
        let hooks = analysis.webhooks.iter().enumerate().map(|(i, hook)| HookRule::of(i, hook));
        Ok(Self {
            interval: interval.unwrap_or(INTERVAL_DEFAULT).max(INTERVAL_MIN),
            threshold: analysis.threshold.max(1),
            ramp,
            iterations,
            promotion_step: analysis.step_weight_promotion.unwrap_or_default().clamp(0, 100),
            primary_ready_pct: analysis.primary_ready_threshold.unwrap_or(100).clamp(0, 100),
            canary_ready_pct: analysis.canary_ready_threshold.unwrap_or(100).clamp(0, 100),
            deadline: deadline.unwrap_or(DEADLINE),
            metrics: metrics.collect::<Result<_, _>>()?,
            hooks: hooks.collect::<Result<_, _>>()?,
            source,
        })
    }

    /// The webhooks of one kind, in the order written.
    pub(crate) fn hooks(&self, kind: HookKind) -> impl Iterator<Item = &HookRule> {
        self.hooks.iter().filter(move |hook| hook.kind == kind)
    }
}

impl Rules {
    /// Whether people are alerted while this webhook withholds its approval.
    pub(crate) fn alerts_about(&self, hook: &str) -> bool {
        !self.hooks.iter().any(|rule| rule.name == hook && rule.muted)
    }
}

impl Ramp {
    fn of(analysis: &CanaryAnalysis, skip: bool) -> Result<Self, SpecError> {
        let bad = |field: &str, problem: String| {
            Err(SpecError { field: format!("spec.analysis.{field}"), problem })
        };
        if !analysis.step_weights.is_empty() {
            let mut last = 0;
            for weight in &analysis.step_weights {
                if *weight <= last || *weight > 100 {
                    let problem = format!("{weight} after {last}: write rising percents up to 100");
                    return bad("stepWeights", problem);
                }
                last = *weight;
            }
            return Ok(Self(analysis.step_weights.clone()));
        }
        if analysis.iterations.unwrap_or_default() > 0 || skip {
            return Ok(Self::default());
        }
        let max = analysis.max_weight.filter(|max| *max > 0).unwrap_or(100);
        if max > 100 {
            return bad("maxWeight", format!("{max} is more than 100 percent"));
        }
        let Some(step) = analysis.step_weight.filter(|step| *step > 0) else {
            let problem = "is missing: write a percent, or stepWeights, or iterations".to_owned();
            return bad("stepWeight", problem);
        };
        let mut weights: Vec<i32> = (1..=100).map(|n| n * step).take_while(|w| *w < max).collect();
        // The last step is cut to the maximum, never beyond it.
        weights.push(max);
        Ok(Self(weights))
    }

    /// Refuses weights that a plain Service cannot give.
    fn check_pods(&self, analysis: &CanaryAnalysis) -> Result<(), SpecError> {
        let (most, all) = (PCT_MAX, 100);
        let Some(weight) = self.0.iter().find(|weight| (most + 1..all).contains(*weight)) else {
            return Ok(());
        };
        let field = if analysis.step_weights.is_empty() { "maxWeight" } else { "stepWeights" };
        let problem = format!(
            "{weight} % is not supported with provider kubernetes: the primary keeps all its pods, \
             so at most half of all pods are the canary's; write weights up to {most}, and 100 as \
             the last one if you like"
        );
        Err(SpecError { field: format!("spec.analysis.{field}"), problem })
    }

    /// The weight after `weight`; `None` when the last one is reached.
    pub(crate) fn next(&self, weight: i32) -> Option<i32> {
        self.0.iter().copied().find(|step| *step > weight)
    }
}

impl MetricRule {
    fn of(index: usize, metric: &CanaryMetric) -> Result<Self, SpecError> {
        let field = |name: &str| format!("spec.analysis.metrics[{index}].{name}");
        let window = duration(&field("interval"), metric.interval.as_deref(), WINDOW_MAX)?;
        let kind = match (&metric.template_ref, &metric.query, metric.name.as_str()) {
            (Some(template), _, _) => {
                let variables = metric.template_variables.clone().into_iter().collect();
                MetricKind::Template(template.clone(), variables)
            }
            (None, Some(query), _) if !query.trim().is_empty() => {
                if let Some(problem) = fill::query_problem(query, &[]) {
                    return Err(SpecError { field: field("query"), problem });
                }
                MetricKind::Query(query.clone())
            }
            (None, _, "request-success-rate") => MetricKind::SuccessRate,
            (None, _, "request-duration") => MetricKind::Duration,
            (None, _, name) => {
                let name = redact::quote(name);
                let problem = format!(
                    "{name} is not built in: write request-success-rate or request-duration, or \
                     add a query or a templateRef"
                );
                return Err(SpecError { field: field("name"), problem });
            }
        };
        let bounds = match (metric.threshold_range, metric.threshold) {
            (Some(range), _) => range,
            (None, Some(limit)) if kind == MetricKind::SuccessRate => {
                ThresholdRange { min: Some(limit), max: None }
            }
            (None, limit) => ThresholdRange { min: None, max: limit },
        };
        if bounds.min.is_none() && bounds.max.is_none() {
            let problem = "has neither min nor max: every value would pass".to_owned();
            return Err(SpecError { field: field("thresholdRange"), problem });
        }
        if let (Some(min), Some(max)) = (bounds.min, bounds.max)
            && min > max
        {
            let problem = format!("min {min} is more than max {max}: no value would pass");
            return Err(SpecError { field: field("thresholdRange"), problem });
        }
        let window = window.unwrap_or(INTERVAL_DEFAULT);
        Ok(Self { name: metric.name.clone(), window, bounds, kind })
    }
}

impl HookRule {
    fn of(index: usize, hook: &CanaryWebhook) -> Result<Self, SpecError> {
        let field = |name: &str| format!("spec.analysis.webhooks[{index}].{name}");
        let kind = hook.kind.as_deref().filter(|kind| !kind.is_empty()).unwrap_or("rollout");
        let Some((_, kind)) = HookKind::ALL.iter().find(|(name, _)| *name == kind) else {
            let known: Vec<_> = HookKind::ALL.iter().map(|(name, _)| *name).collect();
            let kind = redact::quote(kind);
            let problem = format!("{kind} is unknown; known are {}", known.join(", "));
            return Err(SpecError { field: field("type"), problem });
        };
        if !hook.url.starts_with("http://") && !hook.url.starts_with("https://") {
            let url = redact::quote(&redact::url(&hook.url));
            let problem = format!("{url} is not an http:// or https:// URL");
            return Err(SpecError { field: field("url"), problem });
        }
        let timeout = duration(&field("timeout"), hook.timeout.as_deref(), HOOK_TIMEOUT_MAX)?;
        Ok(Self {
            name: hook.name.clone(),
            kind: *kind,
            url: hook.url.clone(),
            timeout: timeout.unwrap_or(HOOK_TIMEOUT),
            retries: hook.retries.unwrap_or_default(),
            metadata: hook.metadata.clone(),
            muted: hook.other.get("muteAlert").is_some_and(supported::says_something),
        })
    }
}

/// Who counts requests, by `spec.provider`; who splits traffic says [`Router::of`].
const PROVIDERS: [(&str, Source); 7] = [
    ("", Source::Mesh),
    ("gatewayapi:v1", Source::MeshOrPods),
    ("gatewayapi:v1beta1", Source::MeshOrPods),
    ("istio", Source::Mesh),
    ("kubernetes", Source::Pods),
    ("linkerd", Source::Linkerd),
    ("traefik", Source::Traefik),
];

/// Where the built-in metrics come from, by `spec.provider`.
fn source(provider: Option<&str>) -> Result<Source, SpecError> {
    let provider = provider.unwrap_or_default();
    let found = PROVIDERS.iter().find(|(name, _)| *name == provider);
    let known = || {
        let names: Vec<_> = PROVIDERS.iter().map(|(name, _)| *name).collect();
        names[1..].join(", ")
    };
    found.map(|(_, source)| *source).ok_or_else(|| SpecError {
        field: "spec.provider".to_owned(),
        problem: format!(
            "{} is not served by evenkeel; known are {}; without one evenkeel's gateway routes",
            redact::quote(provider),
            known()
        ),
    })
}

fn duration(field: &str, text: Option<&str>, max: Duration) -> Result<Option<Duration>, SpecError> {
    let Some(text) = text else { return Ok(None) };
    match parse_duration(text) {
        Ok(duration) if duration.is_zero() => Err(SpecError {
            field: field.to_owned(),
            problem: format!("{} must be longer than 0, for example 1m", redact::quote(text)),
        }),
        Ok(duration) if duration > max => Err(SpecError {
            field: field.to_owned(),
            problem: format!(
                "{} must not be longer than {}, for example 1m",
                redact::quote(text),
                format_duration(max)
            ),
        }),
        Ok(duration) => Ok(Some(duration)),
        Err(error) => Err(SpecError { field: field.to_owned(), problem: error.to_string() }),
    }
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;
    use serde_json::{Value, json};

    use super::*;

    fn ramp(analysis: &Value) -> String {
        let analysis: CanaryAnalysis = serde_json::from_value(analysis.clone()).unwrap();
        match Ramp::of(&analysis, false) {
            Ok(ramp) => {
                let mut weights = vec![0];
                while let Some(next) = ramp.next(weights[weights.len() - 1]) {
                    weights.push(next);
                }
                format!("{weights:?}")
            }
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn a_ramp_ends_at_its_maximum() {
        assert_snapshot!(ramp(&json!({"stepWeight": 10, "maxWeight": 50})), @"[0, 10, 20, 30, 40, 50]");
        assert_snapshot!(ramp(&json!({"stepWeight": 20, "maxWeight": 50})), @"[0, 20, 40, 50]");
        assert_snapshot!(ramp(&json!({"stepWeight": 60})), @"[0, 60, 100]");
        assert_snapshot!(ramp(&json!({"stepWeight": 90, "maxWeight": 5})), @"[0, 5]");
        assert_snapshot!(ramp(&json!({"stepWeights": [1, 2, 10, 80]})), @"[0, 1, 2, 10, 80]");
        assert_snapshot!(ramp(&json!({"iterations": 5})), @"[0]");
        assert_snapshot!(ramp(&json!({"stepWeights": [5, 5]})), @"spec.analysis.stepWeights: 5 after 5: write rising percents up to 100");
        assert_snapshot!(ramp(&json!({"maxWeight": 50})), @"spec.analysis.stepWeight: is missing: write a percent, or stepWeights, or iterations");
        assert_snapshot!(ramp(&json!({"stepWeight": 5, "maxWeight": 101})), @"spec.analysis.maxWeight: 101 is more than 100 percent");
    }

    fn problem(change: impl FnOnce(&mut Value)) -> String {
        let mut canary = json!({"spec": {
            "targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "api"},
            "service": {"port": 80},
            "analysis": {"interval": "1m", "threshold": 5, "stepWeight": 10,
                "metrics": [{"name": "request-duration", "thresholdRange": {"max": 500}}],
                "webhooks": [{"name": "load", "url": "http://x/"}]}}});
        change(&mut canary["spec"]);
        let canary: Canary = serde_json::from_value(canary).unwrap();
        Rules::of(&canary).map_or_else(|error| error.to_string(), |rules| format!("{rules:?}"))
    }

    #[test]
    fn a_wrong_field_is_named_with_what_to_write() {
        assert_snapshot!(problem(|s| s["analysis"]["interval"] = "soon".into()), @r#"spec.analysis.interval: "soon" is not a duration: a number is missing (write it like 30s, 5m or 1h30m)"#);
        assert_snapshot!(problem(|s| s["provider"] = "nginx".into()), @r#"spec.provider: "nginx" is not served by evenkeel; known are gatewayapi:v1, gatewayapi:v1beta1, istio, kubernetes, linkerd, traefik; without one evenkeel's gateway routes"#);
        assert_snapshot!(problem(|s| s["targetRef"]["kind"] = "DaemonSet".into()), @"spec.targetRef.kind: only Deployment is supported so far");
        assert_snapshot!(problem(|s| s["service"]["port"] = 0.into()), @"spec.service.port: is not a port: write the Services' port, such as 80");
        assert_snapshot!(problem(|s| s["analysis"]["metrics"][0]["name"] = "latency".into()), @r#"spec.analysis.metrics[0].name: "latency" is not built in: write request-success-rate or request-duration, or add a query or a templateRef"#);
        assert_snapshot!(problem(|s| s["analysis"]["metrics"][0]["thresholdRange"] = json!({})), @"spec.analysis.metrics[0].thresholdRange: has neither min nor max: every value would pass");
        assert_snapshot!(problem(|s| s["analysis"]["webhooks"][0]["type"] = "later".into()), @r#"spec.analysis.webhooks[0].type: "later" is unknown; known are confirm-rollout, pre-rollout, rollout, confirm-traffic-increase, confirm-promotion, post-rollout, rollback, event"#);
        assert_snapshot!(problem(|s| s["analysis"]["webhooks"][0]["url"] = "x".into()), @r#"spec.analysis.webhooks[0].url: "x" is not an http:// or https:// URL"#);
    }

    #[test]
    fn what_is_not_acted_on_is_refused_by_name() {
        let mut problems = Vec::new();
        for (path, value) in [
            ("/service/headless", json!(true)),
            ("/service/corsPolicy", json!({"allowOrigins": [{"exact": "*"}]})),
            ("/service/retries", json!({"attempts": 3})),
            ("/service/mirror", json!([{"backendRef": {"name": "x"}}])),
            ("/service/trafficPolicy", json!({"tls": {"mode": "DISABLE"}})),
            ("/ingressRef", json!({"kind": "Ingress", "name": "x"})),
            ("/autoscalerRef", json!({"kind": "HorizontalPodAutoscaler", "name": "x"})),
            ("/analysis/sessionAffinity", json!({"cookieName": "x"})),
            ("/analysis/mirror", json!(true)),
            ("/analysis/webhooks/0/disableTLS", json!(true)),
        ] {
            problems.push(problem(|spec| {
                let (parent, field) = path.rsplit_once('/').unwrap();
                spec.pointer_mut(parent).unwrap()[field] = value;
            }));
        }
        assert_snapshot!(problems.join("\n"), @r"
        spec.service.headless: is not supported: the gateway routes by the Services' cluster addresses; remove it
        spec.service.corsPolicy: is not supported: answer CORS requests in the service; remove it
        spec.service.retries: is not supported: the gateway retries by its own rules; remove it
        spec.service.mirror: is not supported: requests are not copied; remove it
        spec.service.trafficPolicy: is not supported: no DestinationRule is made; remove it
        spec.ingressRef: is not supported: traffic is split by an HTTPRoute; remove it
        spec.autoscalerRef: is not supported: the primary would not be scaled; remove it and set replicas
        spec.analysis.sessionAffinity: is not supported: remove it
        spec.analysis.mirror: is not supported: requests are not copied; use stepWeight
        spec.analysis.webhooks[0].disableTLS: is not supported: certificates are always checked; remove it
        ");
        let of = |provider: &str, path: &str, value: Value| {
            problem(|spec| {
                spec["provider"] = provider.into();
                let (parent, field) = path.rsplit_once('/').unwrap();
                spec.pointer_mut(parent).unwrap()[field] = value;
            })
        };
        let gateway = json!([{"name": "public"}]);
        assert_snapshot!(of("istio", "/service/gatewayRefs", gateway), @"spec.service.gatewayRefs: is not supported: traffic is split by a VirtualService; name Istio's gateways in service.gateways");
        assert_snapshot!(of("istio", "/service/backendTimeout", "5s".into()), @"spec.service.backendTimeout: is not supported: traffic is split by a VirtualService; remove it, or write provider gatewayapi:v1");
        assert_snapshot!(of("kubernetes", "/service/timeout", "5s".into()), @"spec.service.timeout: is not supported: traffic is split by the selector of a Service; remove it, or write provider gatewayapi:v1 or istio");
        assert_snapshot!(of("kubernetes", "/analysis/threshold", 5.into()), @"spec.analysis.maxWeight: 60 % is not supported with provider kubernetes: the primary keeps all its pods, so at most half of all pods are the canary's; write weights up to 50, and 100 as the last one if you like");
        assert_snapshot!(of("kubernetes", "/analysis/stepWeight", Value::Null), @"spec.analysis.iterations: is missing: write how many checks a version must pass, or stepWeight and maxWeight");
        for (path, value) in [
            ("/service/corsPolicy", json!({"allowOrigins": [{"exact": "*"}]})),
            ("/service/retries", json!({"attempts": 3})),
            ("/service/trafficPolicy", json!({"tls": {"mode": "DISABLE"}})),
            ("/service/delegation", json!(true)),
            ("/service/match", json!([{"sourceLabels": {"app": "x"}}])),
        ] {
            assert!(of("istio", path, value).starts_with("Rules"), "{path}");
        }
        assert!(of("kubernetes", "/analysis/iterations", 3.into()).starts_with("Rules"));
        let quiet = problem(|spec| {
            spec["service"]["headless"] = false.into();
            spec["service"]["retries"] = json!({});
            spec["analysis"]["match"] = json!([]);
        });
        assert!(quiet.starts_with("Rules"), "{quiet}");
    }

    #[test]
    fn the_interval_has_flaggers_floor() {
        let rules = problem(|s| s["analysis"]["interval"] = "1s".into());
        assert!(rules.contains("interval: 10s"), "{rules}");
    }
}
