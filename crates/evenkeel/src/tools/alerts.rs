//! `evenkeel alerts`: what is pending or firing.

use std::{cmp::Reverse, process::ExitCode};

use anyhow::Context as _;
use evenkeel_telemetry::shell::PrometheusClient;
use serde_json::{Value, json};

use crate::{
    cli::{AlertsArgs, Output},
    io, paths,
};

/// Runs `evenkeel alerts`; exit 1 when an alert fires. An error is another exit code.
pub(crate) fn run(args: &AlertsArgs) -> anyhow::Result<ExitCode> {
    let url = match &args.prometheus {
        Some(url) => url.clone(),
        None => paths::console_of_running_up(args.data_dir.as_deref())?,
    };
    let client = PrometheusClient::new(&url).context("--prometheus")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let alerts = runtime.block_on(client.alerts());
    let mut alerts = alerts.with_context(|| format!("ask {url} for its alerts"))?;
    // Firing alerts come first, then the oldest.
    alerts.sort_by_key(|alert| (Reverse(is_firing(alert)), text(alert, "/activeAt")));
    match args.output {
        Output::Table => io::print(&table(&alerts)),
        Output::Json => io::print(&format!("{:#}\n", json!({"alerts": alerts}))),
        Output::Yaml => io::print(&serde_saphyr::to_string(&json!({"alerts": alerts}))?),
    }
    let fires = alerts.iter().any(is_firing);
    Ok(if fires { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn is_firing(alert: &Value) -> bool {
    alert.get("state").is_some_and(|state| state == "firing")
}

fn text(alert: &Value, path: &str) -> String {
    alert.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn table(alerts: &[Value]) -> String {
    if alerts.is_empty() {
        return "no alert is pending or firing\n".to_owned();
    }
    let row = |alert: &Value| {
        let labels = alert.get("labels").and_then(Value::as_object).into_iter().flatten();
        let labels = labels.filter(|(name, _)| *name != "alertname" && *name != "severity");
        let labels =
            labels.map(|(name, value)| format!("{name}={}", value.as_str().unwrap_or_default()));
        let summary = text(alert, "/annotations/summary");
        vec![
            text(alert, "/state"),
            text(alert, "/labels/severity"),
            text(alert, "/labels/alertname"),
            text(alert, "/activeAt"),
            labels.collect::<Vec<_>>().join(" "),
            summary,
        ]
    };
    let head = ["STATE", "SEVERITY", "ALERT", "SINCE", "LABELS", "SUMMARY"];
    io::table(&head, &alerts.iter().map(row).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_says_what_fires_since_when_and_where() {
        let alert = json!({"state": "firing", "activeAt": "2026-01-01T00:00:00Z", "value": "1",
            "labels": {"alertname": "Down", "severity": "page", "job": "api"},
            "annotations": {"summary": "api is down"}});
        insta::assert_snapshot!(table(&[alert]), @r"
        STATE   SEVERITY  ALERT  SINCE                 LABELS   SUMMARY
        firing  page      Down   2026-01-01T00:00:00Z  job=api  api is down
        ");
        assert_eq!(table(&[]), "no alert is pending or firing\n");
    }
}
