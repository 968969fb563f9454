use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, bail};
use evenkeel_promql::{
    engine::{Options, QueryError, Steps, instant, range},
    exposition::{Format, parse},
    number::format_float,
    parser,
    result::{QueryResult, QueryValue},
    sample::Value,
    series::SeriesStore,
    test_rules, testscript,
};

use crate::{
    cli::{PromqlCommand, QueryArgs, QueryOutput},
    io::{complain, print, table},
    tools::rule_files,
};

/// Runs `evenkeel promql ...`.
pub(crate) fn run(command: &PromqlCommand) -> anyhow::Result<ExitCode> {
    match command {
        PromqlCommand::Test { files } => all(files, |_, text| {
            let report = testscript::run(text, &testscript::test_options());
            let failures = report.failures.iter().map(|failure| {
                format!("line {}: {}: {}", failure.line, failure.query, failure.reason)
            });
            Ok((report.passed, failures.collect()))
        }),
        PromqlCommand::TestRules { files } => all(files, |file, text| {
            let folder = file.parent().unwrap_or(Path::new("."));
            let mut read = |pattern: &str| rule_files::read(folder, pattern);
            let report = test_rules::run(text, &mut read, &Options::default())?;
            Ok((report.passed, report.failures.iter().map(ToString::to_string).collect()))
        }),
        PromqlCommand::Query(args) => query(args),
    }
}

type Outcome = (usize, Vec<String>);

/// Runs every file and prints a line for each; what failed goes to the error stream.
fn all(
    files: &[PathBuf],
    test: impl Fn(&Path, &str) -> Result<Outcome, String>,
) -> anyhow::Result<ExitCode> {
    let mut code = ExitCode::SUCCESS;
    for file in files {
        let name = file.display();
        let text = std::fs::read_to_string(file).with_context(|| format!("read {name}"))?;
        match test(file, &text) {
            Ok((passed, failures)) => {
                for failure in &failures {
                    complain(&format!("{name}: {failure}"));
                }
                print(&format!("{name}: passed {passed}, failed {}\n", failures.len()));
                if !failures.is_empty() {
                    code = ExitCode::FAILURE;
                }
            }
            Err(problem) => {
                complain(&format!("{name}: {problem}"));
                print(&format!("{name}: passed 0, failed 1\n"));
                code = ExitCode::FAILURE;
            }
        }
    }
    Ok(code)
}

fn query(args: &QueryArgs) -> anyhow::Result<ExitCode> {
    let (store, newest_ms) = load(&args.file)?;
    let options = Options::default();
    let outcome = parser::parse(&args.expr).map_err(QueryError::from).and_then(|query| {
        let bad = |error: anyhow::Error| QueryError::BadRange(format!("{error:#}"));
        if let (Some(start), Some(end)) = (&args.start, &args.end) {
            let steps = Steps {
                start_ms: time_ms(start).map_err(bad)?,
                end_ms: time_ms(end).map_err(bad)?,
                step_ms: step_ms(&args.step).map_err(bad)?,
            };
            range(&store, &query, steps, &options)
        } else {
            let at = args.time.as_deref().map(time_ms).transpose().map_err(bad)?;
            instant(&store, &query, at.unwrap_or(newest_ms), &options)
        }
    });
    Ok(match outcome {
        Ok(result) => {
            show(&result, args.output);
            ExitCode::SUCCESS
        }
        Err(error) => {
            if args.output == QueryOutput::Json {
                let body = serde_json::json!({"status": "error", "errorType": error.kind(),
                    "error": error.to_string()});
                print(&body.to_string());
            } else {
                complain(&error.to_string());
            }
            ExitCode::FAILURE
        }
    })
}

/// Reads an exposition file; samples need timestamps. Also returns the newest one.
fn load(file: &Path) -> anyhow::Result<(SeriesStore, i64)> {
    let name = file.display();
    let text = std::fs::read_to_string(file).with_context(|| format!("read {name}"))?;
    let format =
        if text.trim_end().ends_with("# EOF") { Format::OpenMetrics } else { Format::Text };
    let parsed = parse(&text, format).map_err(|error| anyhow::anyhow!("{name}: {error}"))?;
    let mut store = SeriesStore::new();
    let mut samples = parsed.samples;
    // Files often list one series after the other; the store needs increasing times.
    samples.sort_by_key(|sample| sample.t_ms);
    let mut newest = 0;
    for sample in &samples {
        let Some(t_ms) = sample.t_ms else {
            bail!("{name}: {} has no timestamp: write one after the value", sample.labels);
        };
        store
            .append(&sample.labels, t_ms, sample.value)
            .with_context(|| format!("{name}: {}", sample.labels))?;
        newest = newest.max(t_ms);
    }
    Ok((store, newest))
}

#[expect(clippy::cast_possible_truncation, reason = "checked to be within a million years")]
fn time_ms(text: &str) -> anyhow::Result<i64> {
    if let Ok(seconds) = text.parse::<f64>() {
        if !seconds.is_finite() || seconds.abs() > 3e13 {
            bail!("time {text:?} is out of range");
        }
        return Ok((seconds * 1e3).round() as i64);
    }
    let time: jiff::Timestamp = text
        .parse()
        .with_context(|| format!("time {text:?} is neither Unix seconds nor RFC 3339"))?;
    Ok(time.as_millisecond())
}

fn step_ms(text: &str) -> anyhow::Result<i64> {
    let step = match text.parse::<f64>() {
        Ok(seconds) => std::time::Duration::try_from_secs_f64(seconds)
            .with_context(|| format!("--step {text:?}"))?,
        Err(_) => evenkeel_base::parse_duration(text).context("--step")?,
    };
    let millis = i64::try_from(step.as_millis())?;
    if millis == 0 {
        bail!("--step {text:?} must be at least a millisecond");
    }
    Ok(millis)
}

fn show(result: &QueryResult, output: QueryOutput) {
    if output == QueryOutput::Json {
        print(&result.to_response().to_string());
        return;
    }
    for text in result.warnings().iter().chain(&result.infos()) {
        complain(text);
    }
    match (&result.value, output) {
        (QueryValue::Matrix(series), QueryOutput::Chart) => {
            for one in series {
                let values: Vec<f64> = one.points.iter().filter_map(|p| number(&p.value)).collect();
                print(&format!("{}\n{}\n", one.labels, chart(&values)));
            }
        }
        (QueryValue::Matrix(series), _) => {
            let rows = series.iter().flat_map(|one| {
                one.points.iter().map(move |point| {
                    vec![one.labels.to_string(), seconds(point.t_ms), text(&point.value)]
                })
            });
            print(&table(&["SERIES", "TIME", "VALUE"], &rows.collect::<Vec<_>>()));
        }
        (QueryValue::Vector(samples), _) => {
            let rows = samples.iter().map(|one| vec![one.labels.to_string(), text(&one.value)]);
            print(&table(&["SERIES", "VALUE"], &rows.collect::<Vec<_>>()));
        }
        (QueryValue::Scalar { value, .. }, _) => print(&format_float(*value)),
        (QueryValue::Text { text, .. }, _) => print(text),
    }
}

fn seconds(t_ms: i64) -> String {
    jiff::Timestamp::from_millisecond(t_ms).map_or_else(|_| t_ms.to_string(), |t| t.to_string())
}

fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Float(value) => Some(*value),
        Value::Histogram(_) => None,
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::Float(value) => format_float(*value),
        Value::Histogram(histogram) => histogram.to_text(),
    }
}

/// A line of eighth-blocks, with the range it spans.
fn chart(values: &[f64]) -> String {
    const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let finite = || values.iter().copied().filter(|value| value.is_finite());
    let (low, high) =
        (finite().fold(f64::INFINITY, f64::min), finite().fold(f64::NEG_INFINITY, f64::max));
    if low > high {
        return "no numbers".to_owned();
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of 0 to 1 times 7"
    )]
    let block = |value: f64| {
        let share = if high > low { (value - low) / (high - low) } else { 0.5 };
        if value.is_finite() { BLOCKS[(share * 7.0).round() as usize] } else { ' ' }
    };
    let line: String = values.iter().map(|value| block(*value)).collect();
    format!("{line}  {} .. {}", format_float(low), format_float(high))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_steps_are_read_as_prometheus_reads_them() {
        assert_eq!(time_ms("1.5").unwrap(), 1_500);
        assert_eq!(time_ms("1970-01-01T00:01:00Z").unwrap(), 60_000);
        assert!(time_ms("yesterday").is_err() && time_ms("1e99").is_err());
        assert_eq!((step_ms("30").unwrap(), step_ms("1m").unwrap()), (30_000, 60_000));
        assert!(step_ms("0").is_err() && step_ms("-1").is_err());
    }

    #[test]
    fn a_chart_shows_the_shape() {
        assert_eq!(chart(&[0.0, 7.0, f64::NAN, 3.5]), "▁█ ▅  0 .. 7");
        assert_eq!(chart(&[f64::NAN]), "no numbers");
    }
}
