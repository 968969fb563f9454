//! Answers queries from standard input: one JSON object a line with series in the notation of test
//! scripts and queries over them; one line of JSON comes back per query. `bench/promql` holds it
//! against Prometheus itself.

use evenkeel_promql::engine::{Options, QueryError, Steps, instant, range};
use evenkeel_promql::parser::parse;
use evenkeel_promql::series::SeriesStore;
use evenkeel_promql::testscript::notation::series_line;
use serde::Deserialize;
use serde_json::{Value as Json, json};
use std::io::{BufRead, Write, stdin, stdout};

#[derive(Deserialize)]
struct Job {
    interval_ms: i64,
    /// Whether metric names are removed at the end of a query instead of in each function.
    #[serde(default)]
    delayed_name_removal: bool,
    series: Vec<String>,
    queries: Vec<Query>,
}

#[derive(Deserialize)]
struct Query {
    expr: String,
    /// Of an instant query; else the other three.
    time: Option<i64>,
    #[serde(default)]
    start: i64,
    #[serde(default)]
    end: i64,
    #[serde(default)]
    step: i64,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut out = stdout().lock();
    for line in stdin().lock().lines() {
        let job: Job = serde_json::from_str(&line?)?;
        let store = store(&job)?;
        let options = Options {
            samples_max: 5_000_000,
            delayed_name_removal: job.delayed_name_removal,
            ..Options::default()
        };
        for query in &job.queries {
            writeln!(out, "{}", answer(&store, query, &options))?;
        }
        out.flush()?;
    }
    Ok(())
}

fn store(job: &Job) -> Result<SeriesStore, Box<dyn std::error::Error>> {
    let mut store = SeriesStore::new();
    for text in &job.series {
        let line = series_line(text)?;
        for (i, noted) in (0_i64..).zip(line.points) {
            if let Some(value) = noted.value {
                store.append_value(&line.labels, job.interval_ms * i, value, 0)?;
            }
        }
    }
    Ok(store)
}

fn answer(store: &SeriesStore, query: &Query, options: &Options) -> Json {
    let asked = parse(&query.expr).map_err(QueryError::from);
    let steps = Steps { start_ms: query.start, end_ms: query.end, step_ms: query.step };
    let result = asked.and_then(|asked| {
        if let Some(time) = query.time {
            instant(store, &asked, time, options)
        } else {
            range(store, &asked, steps, options)
        }
    });
    match result {
        Ok(result) => {
            let mut answer = result.to_json();
            answer["warnings"] = json!(result.warnings());
            answer["infos"] = json!(result.infos());
            answer
        }
        Err(error) => json!({"error": error.to_string()}),
    }
}
