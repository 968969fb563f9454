//! `query`, `query_range`, `format_query`.

use evenkeel_promql::{
    engine::{Options, QueryError, Steps},
    parser::parse,
    result::{QueryResult, QueryValue},
};
use serde_json::json;

use super::{ApiError, Params, Reply};
use crate::Telemetry;

const TRUNCATED: &str = "results truncated due to limit";

pub(super) fn instant(telemetry: &Telemetry, params: &Params) -> Result<Reply, ApiError> {
    let limit = params.limit()?;
    let at_ms = params.time("time")?;
    params.optional_duration("timeout")?;
    let options = options(telemetry, params)?;
    let result =
        telemetry.instant_with(params.get("query"), at_ms, &options).map_err(query_error)?;
    Ok(reply(result, limit, params))
}

pub(super) fn range(telemetry: &Telemetry, params: &Params) -> Result<Reply, ApiError> {
    let limit = params.limit()?;
    let start_ms = params.required_time("start")?;
    let end_ms = params.required_time("end")?;
    if end_ms < start_ms {
        return Err(ApiError::parameter("end", "end timestamp must not be before start time"));
    }
    let step_ms = params.duration("step")?;
    if step_ms <= 0 {
        let text = "zero or negative query resolution step widths are not accepted. \
                    Try a positive integer";
        return Err(ApiError::parameter("step", text));
    }
    params.optional_duration("timeout")?;
    let steps = Steps { start_ms, end_ms, step_ms };
    let options = options(telemetry, params)?;
    let result = telemetry.range_with(params.get("query"), steps, &options).map_err(query_error)?;
    Ok(reply(result, limit, params))
}

pub(super) fn format(params: &Params) -> Result<Reply, ApiError> {
    let query = parse(params.get("query")).map_err(|error| query_error(error.into()))?;
    Ok(json!(query.expr.to_string()).into())
}

fn options(telemetry: &Telemetry, params: &Params) -> Result<Options, ApiError> {
    let mut options = telemetry.options();
    if let Some(lookback_ms) = params.optional_duration("lookback_delta")?.filter(|ms| *ms > 0) {
        options.lookback_ms = lookback_ms;
    }
    Ok(options)
}

fn query_error(error: QueryError) -> ApiError {
    match error {
        QueryError::Parse(error) => ApiError::parameter("query", error),
        QueryError::BadRange(text) if text.starts_with("invalid expression type") => {
            ApiError::parameter("query", text)
        }
        QueryError::BadRange(text) => ApiError::BadData(text),
        QueryError::TooMuchWork(_) => ApiError::Timeout(error.to_string()),
        QueryError::Storage(error) => ApiError::Internal(error.to_string()),
        other => ApiError::Execution(other.to_string()),
    }
}

fn reply(mut result: QueryResult, limit: Option<usize>, params: &Params) -> Reply {
    let limit = limit.unwrap_or(usize::MAX);
    let cut = match &mut result.value {
        QueryValue::Vector(samples) => cut(samples, limit),
        QueryValue::Matrix(series) => cut(series, limit),
        QueryValue::Scalar { .. } | QueryValue::Text { .. } => false,
    };
    let mut data = result.to_json();
    if params.get("stats") == "all" {
        let samples = json!({"totalQueryableSamples": result.samples_read,
            "peakSamples": result.samples_read});
        data["stats"] = json!({"timings": {}, "samples": samples});
    }
    let (mut warnings, mut infos) = (result.warnings(), result.infos());
    if cut {
        warnings.push(TRUNCATED.to_owned());
    }
    for (what, texts) in [("warnings", &mut warnings), ("infos", &mut infos)] {
        if texts.len() > super::REMARKS_MAX {
            let more = texts.len() - super::REMARKS_MAX;
            texts.truncate(super::REMARKS_MAX);
            texts.push(format!("{more} more {what} omitted"));
        }
    }
    Reply { data, warnings, infos }
}

fn cut<T>(items: &mut Vec<T>, limit: usize) -> bool {
    let over = items.len() > limit;
    items.truncate(limit);
    over
}

/// Cuts a list to the asked length, with the warning that says so.
pub(super) fn limited<T>(items: &mut Vec<T>, limit: Option<usize>) -> Option<String> {
    cut(items, limit.unwrap_or(usize::MAX)).then(|| TRUNCATED.to_owned())
}
