//! The manifests of the demo: the article's cluster and Canary, and the service they are about.

use std::time::Duration;

use evenkeel_base::format_duration;

use super::script::{POST_MS, Pace, REPLICAS, Release};

/// The article's cluster as written: three zones, nine nodes.
pub const CLUSTER: &str = include_str!("cluster.yaml");
/// The article's Canary as written.
pub const CANARY: &str = include_str!("canary.yaml");
/// The article's SLO as written.
pub const SLO: &str = include_str!("slo.yaml");
/// What automation may do with its budget: evenkeel's answers where nothing else is said.
pub const POLICY: &str = "apiVersion: evenkeel.dev/v1alpha1
kind: ErrorBudgetPolicy
metadata:
  name: api
spec:
  selector:
    services: [api]
";

/// What differs between the demo's runs.
#[derive(Debug, Clone)]
pub struct Options<'a> {
    /// How fast it goes.
    pub pace: Pace,
    /// File that the workload records executed POSTs in.
    pub ledger: &'a str,
    /// Whether pods wait to be emptied before they are stopped.
    pub drain: bool,
}

/// The Canary at the demo's pace; at the article's pace it is the article's text.
pub fn canary(pace: &Pace) -> String {
    if *pace == Pace::ARTICLE {
        return CANARY.to_owned();
    }
    let interval = format_duration(pace.interval);
    CANARY
        .replace("interval: 1m", &format!("interval: {interval}"))
        .replace("threshold: 10", &format!("threshold: {}", pace.threshold))
        .replace("stepWeight: 10", &format!("stepWeight: {}", pace.step_pct))
        .replace("hey -z 1m", &format!("hey -z {interval}"))
}

/// The series that the SLO counts, from what clients saw at the gateway: an attempt that was
/// repeated in time hurt nobody. (The pods' own series say `service="api-service"`.)
pub fn client_series(pace: &Pace) -> String {
    let interval = format_duration(pace.scrape);
    format!(
        r#"apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: what-clients-see
spec:
  groups:
    - name: what-clients-see
      interval: {interval}
      rules:
        - record: app_request_duration_seconds_count
          labels: {{service: api}}
          expr: >-
            label_replace(sum by (code) (evenkeel_gateway_requests_total{{namespace="default",
            service="api-service"}}), "status", "$1", "code", "(.*)")
"#
    )
}

/// Longest time a pod may take to empty and stop.
const GRACE: Duration = Duration::from_mins(1);

/// The service: three replicas, spread over zones, probed, scraped.
pub fn deployment(options: &Options<'_>, release: Option<&Release>) -> String {
    let gate = if options.drain { "evenkeel.dev/termination-gate: gateway" } else { "" };
    let version = release.map_or("v1", |release| release.version);
    let (errors, slow, slow_ms) =
        release.map_or((0.0, 0.0, 0), |r| (r.error_rate, r.slow_rate, r.slow_ms));
    let (ledger, grace) = (options.ledger, GRACE.as_secs());
    format!(
        r#"apiVersion: apps/v1
kind: Deployment
metadata:
  name: api-service
  namespace: default
spec:
  replicas: {REPLICAS}
  selector:
    matchLabels: {{app: api-service}}
  template:
    metadata:
      labels: {{app: api-service}}
      annotations:
        prometheus.io/scrape: "true"
        prometheus.io/port: "8080"
        {gate}
    spec:
      terminationGracePeriodSeconds: {grace}
      nodeSelector: {{role: application}}
      topologySpreadConstraints:
        - maxSkew: 1
          topologyKey: topology.kubernetes.io/zone
          whenUnsatisfiable: DoNotSchedule
          labelSelector:
            matchLabels: {{app: api-service}}
      containers:
        - name: api
          image: evenkeel/demo:{version}
          env:
            - {{name: SERVICE, value: api-service}}
            - {{name: VERSION, value: "{version}"}}
            - {{name: LATENCY_MS, value: "4"}}
            - {{name: POST_MS, value: "{POST_MS}"}}
            - {{name: ERROR_RATE, value: "{errors}"}}
            - {{name: SLOW_RATE, value: "{slow}"}}
            - {{name: SLOW_MS, value: "{slow_ms}"}}
            - {{name: LEDGER, value: "{ledger}"}}
          ports:
            - {{name: http, containerPort: 8080}}
          resources:
            requests: {{cpu: 100m, memory: 64Mi}}
          startupProbe:
            httpGet: {{path: /health, port: 8080}}
            periodSeconds: 1
            failureThreshold: 30
          readinessProbe:
            httpGet: {{path: /ready, port: 8080}}
            periodSeconds: 5
          livenessProbe:
            httpGet: {{path: /health, port: 8080}}
            periodSeconds: 5
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_article_s_canary_is_unchanged_at_the_article_s_pace() {
        assert_eq!(canary(&Pace::ARTICLE), CANARY);
        let fast = canary(&Pace::REAL);
        assert!(fast.contains("interval: 10s\n    threshold: 3\n"), "{fast}");
        assert!(!fast.contains("1m"), "{fast}");
        let short = canary(&Pace::SHORT);
        assert!(short.contains("threshold: 2\n    maxWeight: 50\n    stepWeight: 25\n"), "{short}");
    }
}
