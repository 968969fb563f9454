//! The current state: `targets`, `status/buildinfo`.

use evenkeel_base::format_duration;
use serde_json::{Value, json};

use super::{ApiError, Params, Reply};
use crate::{TargetStatus, Telemetry};

/// Upstream's API level this follows; clients such as Grafana choose features by it.
const API_VERSION: &str = "3.5.0";
/// How an instant that never was is written.
pub(super) const NEVER: &str = "0001-01-01T00:00:00Z";

pub(super) fn targets(telemetry: &Telemetry, params: &Params) -> Result<Reply, ApiError> {
    let active = match params.get("state").to_lowercase().as_str() {
        "" | "any" | "active" => true,
        "dropped" => false,
        other => {
            let text = format!("{other:?} is not active, dropped or any");
            return Err(ApiError::parameter("state", text));
        }
    };
    let pool = params.get("scrapePool");
    let all = if active { telemetry.targets() } else { Vec::new() };
    let wanted = all.iter().filter(|status| pool.is_empty() || status.target.job == pool);
    let active: Vec<Value> = wanted.map(target).collect();
    Ok(json!({"activeTargets": active, "droppedTargets": [], "droppedTargetCounts": {}}).into())
}

fn target(status: &TargetStatus) -> Value {
    let target = &status.target;
    // A source in this process has no address; the API still wants a text.
    let url =
        if target.url.is_empty() { format!("inprocess:{}", target.id) } else { target.url.clone() };
    json!({
        "discoveredLabels": target.discovered,
        "labels": target.labels,
        "scrapePool": target.job,
        "scrapeUrl": url,
        "globalUrl": url,
        "lastError": status.last_error,
        "lastScrape": status.last_scrape.map_or_else(|| NEVER.to_owned(), |at| at.to_string()),
        "lastScrapeDuration": status.took.as_secs_f64(),
        "health": status.health.as_str(),
        "scrapeInterval": format_duration(status.interval),
        "scrapeTimeout": format_duration(status.timeout),
    })
}

pub(super) fn build_info() -> Reply {
    json!({
        "version": API_VERSION,
        "revision": concat!("evenkeel-", env!("CARGO_PKG_VERSION")),
        "branch": "",
        "buildUser": "",
        "buildDate": "",
        "goVersion": "",
    })
    .into()
}
